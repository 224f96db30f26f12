"""Sweeps over every cancellation and connection-loss point."""
