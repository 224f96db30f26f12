"""Transcripts: recording, text form and replay."""
