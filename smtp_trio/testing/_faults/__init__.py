"""Fault scripts and receiver personalities."""
