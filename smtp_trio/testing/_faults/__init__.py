"""Fault scripts and the behaviour of large receivers."""
