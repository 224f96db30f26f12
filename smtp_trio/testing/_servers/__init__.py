"""Servers and clients for tests: in memory, on a port, and in a thread."""
