"""Preparation of a message for sending: lines are made to end in CRLF, and dots at line starts are doubled.

`NewlineNormalizer` and `DotStuffer` take the message in pieces. The result does not depend on where it was cut, and a
piece that needs no change is returned as it is, without a copy.
"""

from __future__ import annotations

import re
from io import IncrementalNewlineDecoder

from .lazy import lazy_pattern

# A program that opens a file with CRLF in text mode and writes CRLF again makes CR CR LF of each line end. Taken as two
# line ends it would add an empty line after the first field, so that the rest of the header became text. Hence a run of
# CRs before an LF is one line end. Whether an LF follows may only be known with the next piece, so the CRs at the end of
# a piece are held back, at most MAX_CRS of them: of a longer run, the first ones are line ends of their own.

MAX_CRS = 998
CR_RUN = lazy_pattern(rb"\r\r+\n?")


def _collapse(run: re.Match[bytes]) -> bytes:
    crs = run[0]
    return b"\r" * (len(crs) - 1 - MAX_CRS) + b"\r\n" if crs.endswith(b"\n") else crs


def count_held_crs(data: bytes) -> int:
    """Return how many CRs at the end of a piece must wait for the next piece before they are normalized."""
    return min(len(data) - len(data.rstrip(b"\r")), MAX_CRS) if data.endswith(b"\r") else 0


def normalize_newlines(data: bytes) -> bytes:
    """Return ``data`` with every CR, LF, CRLF, and run of CRs before an LF, replaced with CRLF.

    ``data`` itself is returned if nothing changes.
    """
    # The decoder that text files use to detect their newlines is the fastest way to find out whether data has any bare
    # CR or LF, whatever the data.
    decoder = IncrementalNewlineDecoder(None, translate=False)
    decoder.decode(data.decode("latin-1"), final=True)
    if decoder.newlines is None or decoder.newlines == "\r\n":
        return data
    if b"\r\r\n" in data:
        data = CR_RUN.sub(_collapse, data)
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def normalize_message(data: bytes) -> bytes:
    """Return a whole message with all lines, the last one too, ending in CRLF."""
    text = normalize_newlines(data)
    return text if text.endswith(b"\n") or not text else text + b"\r\n"


class NewlineNormalizer:
    """Makes every line of a message end in CRLF: a client MUST NOT send a bare CR or LF (RFC 5321 2.3.8).

    The last line is completed too. DATA requires that (RFC 5321 4.1.1.4) and BDAT does not; doing it for both keeps the
    message the same whichever is used.
    """

    __slots__ = ("_crs", "_line_open")

    def __init__(self) -> None:
        self._crs = 0  # CRs at the end of the last piece, which are held back until the next octet is known
        self._line_open = False  # the last line has no CRLF yet

    def feed(self, data: bytes) -> bytes:
        """Take the next piece and return what can be sent."""
        if self._crs:
            data = b"\r" * self._crs + data
        self._crs = count_held_crs(data)
        if data:
            self._line_open = not data.endswith(b"\n")
        return normalize_newlines(data[: -self._crs] if self._crs else data)

    def end(self) -> bytes:
        """Return the CRs that were held back, as CRLF, or the CRLF that completes the last line."""
        return b"\r\n" * self._crs or (b"\r\n" if self._line_open else b"")


class DotStuffer:
    """Doubles the dots at the beginning of lines (RFC 5321 4.5.2), so that no line looks like the end of the message.

    The lines of the message must end in CRLF; see `NewlineNormalizer`.
    """

    __slots__ = ("_at_line_start",)

    def __init__(self) -> None:
        self._at_line_start = True  # the CRLF of the DATA command counts (RFC 5321 4.1.1.4)

    def feed(self, data: bytes) -> bytes:
        """Take the next piece and return what is to be sent."""
        if not data:
            return data
        # Every LF is the end of a CRLF here, so it suffices to look for LF, even if a CRLF was cut in two.
        stuffed = data.replace(b"\n.", b"\n..")
        if self._at_line_start and data.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = data.endswith(b"\n")
        return stuffed

    def end(self) -> bytes:
        """Return the end marker. It begins with CRLF only if the message does not end in one (RFC 5321 4.1.1.4)."""
        return b".\r\n" if self._at_line_start else b"\r\n.\r\n"
