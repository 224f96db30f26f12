"""Transcripts: recording a session, its text, comparison and replay."""
