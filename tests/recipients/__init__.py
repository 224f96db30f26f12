"""The recipients of a server: sources, aliases and the store."""
