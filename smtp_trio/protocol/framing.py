"""How octets become lines, dotted bodies and counted bodies. The rest of the core never sees a segment's edge.

All three readers take from one `ReceiveBuffer`. What they have in common: the same octets give the same results however they were split,
and nothing is held that has no bound.
"""

from __future__ import annotations

from .errors import BadCommandError
from .replies import BAD_LINE, LONG_LINE, Reply

CRLF = b"\r\n"


class ReceiveBuffer:
    """Octets received and not yet taken. ``data[at:]`` is what is there; taking moves ``at``, so that nothing is copied for it."""

    __slots__ = ("at", "data")

    def __init__(self) -> None:
        self.data: bytes = b""
        self.at: int = 0

    def __len__(self) -> int:
        return len(self.data) - self.at

    def add(self, data: bytes) -> None:
        """Put new octets behind those that are there."""
        self.data = data if self.at == len(self.data) else self.data[self.at :] + data
        self.at = 0

    def take(self, count: int | None = None) -> bytes:
        """Take so many octets, or all that there are."""
        start, end = self.at, len(self.data) if count is None else min(self.at + count, len(self.data))
        self.at = end
        return self.data if start == 0 and end == len(self.data) else self.data[start:end]

    def clear(self) -> None:
        """Throw away what is there."""
        self.data, self.at = b"", 0


class LineReader:
    """Command lines. They end in CRLF, and in nothing else (RFC 5321 2.3.8)."""

    __slots__ = ("_buffer", "_owed", "skipping")

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer
        self.skipping: bool = False  # everything up to the next CRLF is the rest of a line that was refused
        self._owed: Reply | None = None  # … and this is its answer, when that had to wait for the line's end

    def pull(self, limit: int, too_long: Reply = LONG_LINE) -> bytes | None:
        """The next line without its CRLF, or None when there is none yet. ``limit`` is in octets, CRLF among them.

        To be called at the beginning of a line only: see `resume`.

        Raises `BadCommandError` for a line with a bare CR or LF as soon as that is seen, and for one that is too long when it ends:
        once for the line, the rest of which is thrown away (RFC 5321 4.5.3.1.4 and its 500).
        """
        data, start = self._buffer.data, self._buffer.at
        lf = data.find(b"\n", start)
        cr = data.find(b"\r", start, lf if lf >= 0 else len(data))
        ends = cr >= 0 and cr == lf - 1
        if ends and lf - start < limit:
            self._buffer.at = lf + 1
            return data[start:cr]
        # The first octet that matters decides which defect a line has, so that it does not depend on how much has come so far.
        first = cr if cr >= 0 else lf if lf >= 0 else len(data)
        if ends or first - start >= limit:
            self.skipping, self._owed = True, too_long
            self.resume()
            return None
        if first == len(data) or cr == len(data) - 1:
            return None
        self.skipping = True
        self._buffer.at = first + 1
        raise BadCommandError(BAD_LINE)

    def resume(self) -> bool:
        """Whether we stand at the beginning of a line, after throwing away what is left of one that was refused.

        Raises `BadCommandError` when the refusal had to wait for the end of the line.
        """
        if not self.skipping:
            return True
        buffer = self._buffer
        end = buffer.data.find(CRLF, buffer.at)
        if end < 0:
            # A CR at the very end may be the first half of it.
            buffer.at = len(buffer.data) - buffer.data.endswith(b"\r", buffer.at)
            return False
        buffer.at = end + 2
        self.skipping = False
        if self._owed is not None:
            reply, self._owed = self._owed, None
            raise BadCommandError(reply)
        return True


class DotTerminatedReader:
    """A body that ends at CRLF "." CRLF, and at nothing else (RFC 5321 4.1.1.4), without the dots that its sender added (4.5.2).

    It never gives out a CR before it knows what follows, so a CRLF is never torn apart.
    """

    __slots__ = ("_buffer", "_line_start", "ended")

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer
        self._line_start = True  # all before was given out, CRLF included: the DATA command's own counts (4.1.1.4)
        self.ended: bool = False

    def pull(self) -> bytes:
        """The octets that are certain, b"" when there are none (yet)."""
        buffer = self._buffer
        data, at = buffer.data, buffer.at
        pieces = []
        # ``dot`` is where a line begins with one; the CRLF before it is found with it, but for that of the line we stand at.
        dot = at if self._line_start and data.startswith(b".", at) else -1
        # To search for one octet is forty times as fast as for three, and base64 has no dots at all.
        dots = b"." in data
        while True:
            if dot < 0:
                found = data.find(b"\r\n.", at) if dots else -1
                if found < 0:
                    break
                dot = found + 2
                pieces.append(data[at:dot])
            tail = data[dot + 1 : dot + 3]
            if tail == CRLF:
                self.ended = True
                buffer.at = dot + 3
                return b"".join(pieces)
            if CRLF.startswith(tail):  # ".", ".\r": the next octets decide
                buffer.at = dot
                self._line_start = True
                return b"".join(pieces)
            at, dot = dot + 1, -1  # the dot was doubled, or should have been: gone either way (4.5.2)
        end = len(data) - data.endswith(b"\r", at)
        if end > at:
            self._line_start = data.endswith(CRLF, at, end)
            pieces.append(data[at:end] if at or end < len(data) else data)
        buffer.at = end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class CountedReader:
    """A body, or a part of one, of so many octets (RFC 3030 2)."""

    __slots__ = ("_buffer", "left")

    def __init__(self, buffer: ReceiveBuffer, size: int) -> None:
        self._buffer = buffer
        self.left: int = size

    @property
    def ended(self) -> bool:
        """All octets were given out."""
        return not self.left

    def pull(self) -> bytes:
        """The octets that are there, b"" when there are none (yet)."""
        data = self._buffer.take(self.left)
        self.left -= len(data)
        return data
