"""What several tables send."""

from __future__ import annotations

from .._steps import Ask

TEXT = b"From: <{from}>\r\nSubject: smtp-trio conform\r\n\r\n"
"""The beginning of a message; one line follows at least, and the end of data."""
END = b"Text.\r\n."
OUT_OF_ORDER = "503|554"
REFUSED = "5.."

MAIL = Ask(b"MAIL FROM:<{from}>", "250")
RCPT = Ask(b"RCPT TO:<{to}>", "250|251")
DATA = Ask(b"DATA", "354")
MESSAGE = Ask(TEXT + END, "250", "the message is taken")
NOOP = Ask(b"NOOP", "250", "the session goes on")
RSET = Ask(b"RSET", "250")
