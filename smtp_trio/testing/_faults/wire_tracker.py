"""Which octets of a session are what: every command, every reply, the body and its dot, from either end of a connection.

Faults break things on purpose, so the cores, which refuse what is broken, cannot tell this. It believes both sides as long as it
can, holds back no more than an unfinished line, and what it does not understand it passes on without a name.
"""

from __future__ import annotations

import enum
from collections import deque

from attrs import frozen

#: Names of pieces that are no verbs.
GREETING, BODY, DOT, UNKNOWN, TLS = "CONNECT", "body", ".", "", "tls"
#: A line that is longer than this is no line.
LINE = 8192
END = b"\r\n.\r\n"


@frozen
class Piece:
    """Octets that belong to one thing: a whole command, a whole reply, the dot, or a part of the body.

    ``at`` is the command's verb, also of a reply to it; "." for the end of a message and for the reply to that, "body" for the
    message, "CONNECT" for the greeting. ``start`` counts the octets of the body before this piece; ``number`` the
    commands before this one, and a reply has that of its command.
    """

    at: str
    octets: bytes
    start: int = 0
    number: int = 0


class Mode(enum.Enum):
    """What the client's next octets are."""

    LINES = "commands"
    RESPONSE = "an answer in an AUTH exchange (RFC 4954 4)"
    CHUNK = "octets that BDAT has announced (RFC 3030 2)"
    MESSAGE = "a message, up to its dot (RFC 5321 4.5.2)"
    SECRET = "TLS, which nobody can look into"


#: What begins behind a command. Should the server refuse it, its reply ends that again.
BEHIND = {"DATA": Mode.MESSAGE, "AUTH": Mode.RESPONSE, "STARTTLS": Mode.SECRET}


class WireTracker:
    """Follows one session by what both sides have said. ``greeted``: its greeting was before our time."""

    def __init__(self, *, greeted: bool = False) -> None:
        self._mode = Mode.LINES
        #: The replies that are due, oldest first.
        self._due: deque[str] = deque(() if greeted else (GREETING,))
        #: What was asked before them.
        self._answered = 0
        self._rest = {"client": b"", "server": b""}
        self._left = 0  # of a chunk
        self._start = 0  # octets of the body that went by
        self._tail = b""  # the last two of them
        self._last = False  # the chunk that ends the message

    def said(self, side: str, data: bytes) -> list[Piece]:
        """What one side has said, in pieces; an unfinished line is kept for later."""
        self._rest[side] += data
        take = self._command if side == "client" else self._reply
        pieces: list[Piece] = []
        while self._rest[side] and (found := take(self._rest[side])):
            pieces += found
            self._rest[side] = self._rest[side][sum(len(piece.octets) for piece in found) :]
        return pieces

    def left_over(self, side: str) -> bytes:
        """What is not whole, and never will be: this side says no more."""
        rest, self._rest[side] = self._rest[side], b""
        return rest

    def _reply(self, data: bytes) -> list[Piece]:
        if self._mode is Mode.SECRET and "STARTTLS" not in self._due:
            return [Piece(TLS, data)]
        end = 0
        while True:
            line, found, _ = data[end:].partition(b"\n")
            if not found:
                return [Piece(UNKNOWN, data)] if len(data) > LINE else []
            end += len(line) + 1
            if line[3:4] != b"-":
                break
        at, number = self._due.popleft() if self._due else UNKNOWN, self._answered
        self._answered += at != UNKNOWN
        # RFC 5321 4.3.2, RFC 4954 4, RFC 3207 4: what lets the client go on with more of the same.
        goes_on = line.startswith({"DATA": b"354", "AUTH": b"334", "STARTTLS": b"220"}.get(at, b""))
        if not goes_on and self._mode is BEHIND.get(at):
            self._mode = Mode.LINES
        return [Piece(at, data[:end], number=number)]

    def _command(self, data: bytes) -> list[Piece]:
        if self._mode is Mode.SECRET:
            return [Piece(TLS, data)]
        if self._mode is Mode.CHUNK:
            return self._chunk(data)
        if self._mode is Mode.MESSAGE:
            return self._message(data)
        line, found, _ = data.partition(b"\n")
        if not found:
            return [Piece(UNKNOWN, data)] if len(data) > LINE else []
        line += b"\n"
        words = line.decode(errors="replace").upper().split() or [UNKNOWN]
        verb = "AUTH" if self._mode is Mode.RESPONSE else words[0]
        self._due.append(verb)
        self._mode = BEHIND.get(verb, self._mode)
        if verb == "BDAT" and len(words) > 1 and words[1].isdecimal():
            self._left, self._last = int(words[1]), words[-1] == "LAST"
            self._mode = Mode.CHUNK if self._left else Mode.LINES
            if self._last:
                self._due[-1] = DOT  # its reply is the message's (RFC 3030 2)
        elif verb in ("MAIL", "DATA"):
            self._start, self._tail = 0, b"\r\n"
        return [Piece(verb, line, number=self._last_asked())]

    def _last_asked(self) -> int:
        return self._answered + len(self._due) - 1

    def _chunk(self, data: bytes) -> list[Piece]:
        piece = Piece(BODY, data[: self._left], self._start)
        self._start += len(piece.octets)
        self._left -= len(piece.octets)
        if not self._left:
            self._mode = Mode.LINES
        return [piece]

    def _message(self, data: bytes) -> list[Piece]:
        whole = self._tail + data
        end = whole.find(END)
        if end >= 0:
            upto = end + 2
        elif whole.endswith((END[:3], END[:4])):  # a dot that may be the last one
            upto = whole.rfind(b".")
        else:
            upto = len(whole)
        octets = whole[len(self._tail) : upto]
        pieces = [Piece(BODY, octets, self._start)] if octets or (end >= 0 and not self._start) else []
        self._start += len(octets)
        self._tail = whole[:upto][-2:]
        if end >= 0:
            self._due.append(DOT)
            pieces.append(Piece(DOT, END[2:], number=self._last_asked()))
            self._mode = Mode.LINES
        return pieces
