"""A message on its way out: every line made to end in CRLF, and every line that begins with a dot given a second one.

Both take the message piece by piece, and the result is the same however it was cut. A piece that is right already is handed on as
it is, not copied.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder


def normalize_newlines(data: bytes) -> bytes:
    """The same text with CRLF at the end of every line, which ended in CRLF, CR or LF. ``data`` itself when that is so already."""
    # What text files use to learn how their lines end is the fastest look at CRs and LFs that there is, whatever stands in them.
    ends = IncrementalNewlineDecoder(None, translate=False)
    ends.decode(data.decode("latin-1"), final=True)
    if ends.newlines is None or ends.newlines == "\r\n":
        return data
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def normalize_message(data: bytes) -> bytes:
    """A whole message, `canonical`, its last line too."""
    text = normalize_newlines(data)
    return text if text.endswith(b"\n") or not text else text + b"\r\n"


class NewlineNormalizer:
    """Makes every line end in CRLF: a client MUST NOT send a CR or LF by itself (RFC 5321 2.3.8).

    The last line too, so that a message is the same text whether it goes by DATA, which needs that, or by BDAT, which does not.
    """

    __slots__ = ("_cr", "_open")

    def __init__(self) -> None:
        self._cr = False  # a CR at the end of the last piece is held, until we see what follows
        self._open = False  # the last line has no end yet

    def feed(self, data: bytes) -> bytes:
        """Take the next piece, give out what is certain: ``data`` itself when nothing was wrong with it."""
        if self._cr:
            data = b"\r" + data
        self._cr = data.endswith(b"\r")
        if data:
            self._open = not data.endswith(b"\n")
        return normalize_newlines(data[:-1] if self._cr else data)

    def end(self) -> bytes:
        """The end of the last line, when there is no more, if it has none yet."""
        return b"\r\n" if self._open else b""


class DotStuffer:
    """Doubles the dots at the beginning of lines (RFC 5321 4.5.2), so that no line of the message looks like its end.

    What comes in must be canonical, as `NewlineNormalizer` makes it.
    """

    __slots__ = ("_line_start",)

    def __init__(self) -> None:
        self._line_start = True  # the DATA command's own CRLF counts (RFC 5321 4.1.1.4)

    def feed(self, data: bytes) -> bytes:
        """Take the next piece, give out what goes on the wire: ``data`` itself when no line of it begins with a dot."""
        if not data:
            return data
        # In canonical text every LF ends a line, so a CRLF may be cut in two as well.
        stuffed = data.replace(b"\n.", b"\n..")
        if self._line_start and data.startswith(b"."):
            stuffed = b"." + stuffed
        self._line_start = data.endswith(b"\n")
        return stuffed

    def end(self) -> bytes:
        """The end marker. A CRLF is added only if the message did not end in one (RFC 5321 4.1.1.4)."""
        return b".\r\n" if self._line_start else b"\r\n.\r\n"
