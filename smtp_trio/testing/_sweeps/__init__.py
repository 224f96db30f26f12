"""Sweeps: a scenario is run once for each of its points, and is cancelled, or loses a connection, at that point."""
