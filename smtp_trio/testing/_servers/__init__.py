"""Servers and clients for tests: in memory, on a port, in a thread."""
