"""Sweeps: a scenario is run once for each of its points, and is interrupted at that point: it is cancelled, loses a connection, or
something else is started beside it."""
