"""Readers that split the received octets into lines, dot-terminated bodies and counted bodies."""

from __future__ import annotations

import re

from .errors import BadCommandError
from .lazy import lazy_pattern
from .replies import BAD_LINE, LONG_LINE, Reply

# How framing works
# -----------------
#
# TCP splits the octets anywhere, and a client that pipelines (RFC 2920) sends commands, a message and further commands
# in one piece. All readers therefore take from one `ReceiveBuffer`, and which of them reads next depends on the state
# of the protocol, never on where a segment ended. The same octets give the same results however they were split; the
# tests cut every session at every place.
#
# Nothing is stored without a bound:
#
# - `LineReader` stores at most one line of the permitted length. A longer line is refused once, and the rest of it is
#   dropped as it arrives (RFC 5321 4.5.3.1.4: 500, "Line too long"). The refusal is reported when the line ends, with
#   CRLF or with LF alone, not when it becomes too long: replies must be in the order of the lines, and the client must
#   not receive a reply to a line that it is still sending.
# - A line with a bare CR or LF cannot become valid, so it is refused at once and the rest dropped up to CRLF. Each
#   further LF in it is refused once more: a client that ends all its lines with LF must get a reply to each, or it waits
#   until its timeout, and is disconnected after some errors. What comes after the last LF gets no reply. Only CRLF
#   ends a line. A server that also accepts a bare LF can be made to see commands where the previous server saw text of
#   a message ("SMTP smuggling"; RFC 5321 2.3.8 and 4.1.1.4).
# - The readers of bodies return what has arrived. At most two octets stay in the buffer: a CR, or a dot and a CR at the
#   beginning of a line, whose meaning depends on the next octet.
#
# Octets are searched where they are. A read moves an index instead of copying the rest of the buffer, so that a segment
# with a hundred small commands is not copied a hundred times.

CRLF = b"\r\n"
#: The first octets of each version of a PROXY header (see `proxy_header`).
PROXY_V1, PROXY_V2 = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
#: The beginning of a line that is meant to be one of these commands, whatever is wrong with the rest of it.
#: `LineReader` keeps the beginning of a line for it: the octets before the verb do not matter, and few after it do.
MESSAGE_VERB = lazy_pattern(rb"[^!-~]*(DATA|BDAT|BURL|MAIL|RCPT)(?![A-Z0-9])", re.IGNORECASE)

NOT_GRAPHIC = bytes({*range(256)} - {*range(0x21, 0x7F)})
HEAD_OCTETS = len(b"BDAT ")


def refuse_line(reply: Reply, line: bytes, *, verb: str = "") -> BadCommandError:
    """Return the refusal of a malformed line. ``verb`` is its verb, if that is known.

    A malformed DATA or BDAT may be followed by a message, whose lines must not be executed. The number of octets after
    such a BDAT is not known, so the connection is closed (RFC 3030 2). For DATA see `ServerProtocol.checked_reply`.
    Without a malformed BURL, a message would be accepted of which a part is missing (`CommandLines.refuse_part`).
    MAIL and RCPT are recognized for logs, since their refusal prevents a message too.
    """
    match = MESSAGE_VERB.match(line)
    verb = verb if match is None else match[1].decode().upper()
    return BadCommandError(reply, verb=verb, close=verb == "BDAT")


class ReceiveBuffer:
    """Octets that have been received and not been read yet: ``data[at:]``."""

    __slots__ = ("at", "data")

    def __init__(self) -> None:
        self.data: bytes = b""
        self.at: int = 0

    def __len__(self) -> int:
        return len(self.data) - self.at

    def add(self, data: bytes) -> None:
        """Append received octets."""
        self.data = data if self.at == len(self.data) else self.data[self.at :] + data
        self.at = 0

    def take(self, count: int) -> bytes:
        """Remove and return up to ``count`` octets."""
        start, end = self.at, min(self.at + count, len(self.data))
        self.at = end
        return self.data if start == 0 and end == len(self.data) else self.data[start:end]

    def compact(self) -> None:
        """Free the octets that were read. Called before each wait: a block of many sessions would be a lot of memory."""
        if self.at:
            self.data, self.at = self.data[self.at :], 0

    def clear(self) -> None:
        """Drop all octets."""
        self.data, self.at = b"", 0


class LineReader:
    """Reads command lines. A line ends in CRLF and in nothing else (RFC 5321 2.3.8)."""

    __slots__ = ("_buffer", "_head", "_refusal", "line", "skipping")

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer
        #: The last line that was read or refused, for logs. Of a refused one, what precedes the reason.
        self.line: bytes = b""
        #: A line was refused, and the octets up to the next CRLF are the rest of it.
        self.skipping: bool = False
        self._refusal: BadCommandError | None = None  # of the line that is skipped, to be raised when it ends
        self._head = b""  # the beginning of what has been dropped since the last line end, for `refuse_line`

    def read_line(self, limit: int, too_long: Reply = LONG_LINE) -> bytes | None:
        """Return the next line without its CRLF, or None if it is incomplete.

        ``limit`` is the maximum length in octets, including the CRLF. Must not be called while a refused line is being
        skipped; see `finish_skipping`.

        Raises `BadCommandError` as soon as a bare CR or LF is found, and with ``too_long`` at the end of a line that is
        longer than ``limit``.
        """
        buffer = self._buffer
        data, start = buffer.data, buffer.at
        cr = data.find(b"\r", start)
        if 0 <= cr < start + limit - 1 and data.find(b"\n", start) == cr + 1:  # nearly every line
            buffer.at = cr + 2
            self.line = line = data[start:cr]
            return line
        lf = data.find(b"\n", start)
        cr = data.find(b"\r", start, lf if lf >= 0 else len(data))
        complete = cr >= 0 and cr == lf - 1
        # The first CR or LF decides whether the line is too long or has a bare CR or LF, so that the reply does not
        # depend on how much has been received.
        first = cr if cr >= 0 else lf if lf >= 0 else len(data)
        if not complete and first - start < limit and (first == len(data) or cr == len(data) - 1):
            return None
        self.line = data[start : min(first, start + limit)]
        if complete or first - start >= limit:
            self.skipping, self._refusal = True, refuse_line(too_long, self.line)
            self.finish_skipping()
            return None
        self.skipping = True
        self._buffer.at = first + 1
        raise refuse_line(BAD_LINE, self.line)

    def has_further_line(self) -> bool:
        """Return whether any octets of another line have been received; the rest of a refused line does not count."""
        data, at = self._buffer.data, self._buffer.at
        if self.skipping:
            end = data.find(CRLF, at)
            at = len(data) if end < 0 else end + len(CRLF)
        return at < len(data)

    def finish_skipping(self) -> bool:
        """Drop the rest of a refused line. Return whether the next octet begins a line.

        Raises `BadCommandError` at the end of a line that was too long, and at each further bare LF.
        """
        if not self.skipping:
            return True
        buffer = self._buffer
        start, lf = buffer.at, buffer.data.find(b"\n", buffer.at)
        if lf == start or (lf > start and buffer.data[lf - 1 : lf] != b"\r"):
            line, self._head = self._head + buffer.data[start:lf], b""
            if self._refusal is None:
                self.line = line
            buffer.at = lf + 1
            try:
                raise self._refusal or refuse_line(BAD_LINE, line)
            finally:
                self._refusal = None  # its traceback refers to this frame: a cycle
        if lf < 0:
            # Keep a CR at the very end: the LF may follow.
            buffer.at = len(buffer.data) - (1 if buffer.data.endswith(b"\r", start) else 0)
            self._head = (self._head + buffer.data[start : buffer.at]).lstrip(NOT_GRAPHIC)[:HEAD_OCTETS]
            return False
        buffer.at = lf + 1
        self.skipping, self._head = False, b""
        if self._refusal is not None:
            try:
                raise self._refusal
            finally:
                self._refusal = None
        return True


class DotTerminatedReader:
    """Reads a message that was sent after DATA, and removes the dots added by the client (RFC 5321 4.5.2).

    The message ends at CRLF "." CRLF and at nothing else (RFC 5321 4.1.1.4). A CR is not returned before the next octet
    is known, so no piece ends between the two octets of a CRLF.
    """

    __slots__ = ("_at_line_start", "_buffer", "ended")

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer
        # All octets so far were returned, and they ended in CRLF. The CRLF of the DATA command counts (RFC 5321
        # 4.1.1.4), so a message can consist of the end marker alone.
        self._at_line_start = True
        self.ended: bool = False

    def read(self) -> bytes:
        """Return the octets of the message that are available, which may be b""."""
        buffer = self._buffer
        data, at = buffer.data, buffer.at
        pieces = []
        # ``dot`` is the index of a dot at the beginning of a line, or -1. Further dots are found together with the CRLF
        # before them.
        dot = at if self._at_line_start and data.startswith(b".", at) else -1
        # A search for one octet is forty times faster than one for three, and base64 has no dots at all.
        has_dots = b"." in data
        while True:
            if dot < 0:
                found = data.find(b"\r\n.", at) if has_dots else -1
                if found < 0:
                    break
                dot = found + 2
                pieces.append(data[at:dot])
            tail = data[dot + 1 : dot + 3]
            if tail == CRLF:
                self.ended = True
                buffer.at = dot + 3
                return b"".join(pieces)
            if CRLF.startswith(tail):  # "." or ".\r": the next octets decide
                buffer.at = dot
                self._at_line_start = True
                return b"".join(pieces)
            # RFC 5321 4.5.2: the first dot of a line is removed whatever follows it, doubled or not.
            at, dot = dot + 1, -1
        end = len(data) - 1 if data.endswith(b"\r", at) else len(data)
        if end > at:
            self._at_line_start = data.endswith(CRLF, at, end)
            pieces.append(data[at:end] if at or end < len(data) else data)
        buffer.at = end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class CountedReader:
    """Reads the octets that follow a BDAT command, ``size`` in all (RFC 3030 2)."""

    __slots__ = ("_buffer", "remaining")

    def __init__(self, buffer: ReceiveBuffer, size: int) -> None:
        self._buffer = buffer
        self.remaining: int = size

    @property
    def ended(self) -> bool:
        """True if all octets have been read."""
        return not self.remaining

    def read(self) -> bytes:
        """Return the octets that are available, which may be b""."""
        data = self._buffer.take(self.remaining)
        self.remaining -= len(data)
        return data
