"""The client: connecting, sending, results and the pool."""
