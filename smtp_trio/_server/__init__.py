"""The server: settings, listeners, sessions and hooks."""
