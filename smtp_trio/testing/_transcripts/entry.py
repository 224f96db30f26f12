"""One thing that happened in a session, and where in a session the secrets are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from attrs import Factory, define, frozen

Side = Literal["C", "S"]
#: What can happen besides octets.
What = Literal["", "closes", "resets", "begins TLS"]

#: What stands in the place of a secret.
MASK = b"***"
#: The questions of AUTH LOGIN, which tell nothing: "Username:" and "Password:", and as old clients know them.
PROMPTS = frozenset({b"", b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6", b"VXNlciBOYW1lAA==", b"UGFzc3dvcmQA"})
#: One word that may be base64: behind an AUTH it is taken for a password that came too early or too late,
WORD = re.compile(rb"[A-Za-z0-9+/=*]+")
#: … but not one of these.
VERBS = frozenset(b"AUTH BDAT DATA EHLO EXPN HELO HELP LHLO MAIL NOOP QUIT RCPT RSET STARTTLS VRFY".split())
#: AUTH and perhaps a response behind it (RFC 4954 4), wherever in a line it stands: something else may have got in front of it.
AUTH = re.compile(rb"AUTH\s+\S+(?:\s+(\S.*))?", re.DOTALL | re.IGNORECASE)
#: Commands after which there are no recipients: a chunk without any is refused (RFC 3030 2), and no message.
FORGETTING = frozenset(b"AUTH EHLO HELO LHLO MAIL RSET STARTTLS".split())


def other(side: Side) -> Side:
    """The one at the other end."""
    return "S" if side == "C" else "C"


@frozen
class Entry:
    """Octets that one side sent in one piece, or, with an ``event``, something else that it did.

    ``side`` is "C" for the client and "S" for the server, ``time`` seconds since the transcript began, by Trio's clock. ``session``
    names the connection. ``event`` is "closes", "resets" or "begins TLS", or "" for octets.
    """

    time: float
    side: Side
    data: bytes = b""
    event: What = ""
    session: str = "1"

    def __repr__(self) -> str:  # what the octets are may be a secret
        what = self.event or f"{len(self.data)} octets"
        return f"<Entry {self.session}: {self.side} {what} at {self.time:g} s>"


#: A part of what one side said, as offsets of its octets.
Span = tuple[int, int]


@define
class _Listener:
    """Follows a session from line to line to tell commands from bodies and passwords (RFC 4954 4, RFC 5321 4.1.1.4, RFC 3030 2)."""

    found: dict[Side, list[Span]] = Factory(lambda: {"C": [], "S": []})
    _lines: dict[Side, bytes] = Factory(lambda: {"C": b"", "S": b""})
    _heard: dict[Side, int] = Factory(lambda: {"C": 0, "S": 0})  # offset of what is in `_lines`
    _asked: int = 0  # challenges less responses
    _auth: bool = False  # the last command was AUTH
    _data: bool = False  # the last command was DATA
    _body: bool = False
    _rcpt: bool = False  # there was a RCPT in this transaction
    _chunk: int = 0

    def hear(self, side: Side, data: bytes) -> None:
        rest = self._lines[side] + data
        while rest:
            if side == "C" and self._chunk:
                size = min(self._chunk, len(rest))
                self._chunk -= size
            else:
                end = rest.find(b"\r\n")
                if end < 0:
                    break
                self._line(side, rest[:end])
                size = end + 2
            self._heard[side] += size
            rest = rest[size:]
        self._lines[side] = rest

    def end(self) -> None:
        """No more will come: what has no end of line is one all the same."""
        for side, line in self._lines.items():
            self._line(side, line)

    def _line(self, side: Side, line: bytes) -> None:
        secret = self._command(line) if side == "C" else self._reply(line)
        if secret is not None and secret < len(line):
            at = self._heard[side]
            self.found[side].append((at + secret, at + len(line)))

    def _reply(self, line: bytes) -> int | None:
        """Where in a line of the server's a secret begins."""
        if line[:4] == b"334 ":
            self._asked += 1
            return None if line[4:] in PROMPTS else 4
        if line[:1] in (b"4", b"5"):
            self._chunk = 0  # refused before it was there: what comes may be commands
        # Only what was asked for: behind a 354 to anything else comes no message, but perhaps a password.
        self._body = self._body or (self._data and line[:4] == b"354 ")
        return None

    def _command(self, line: bytes) -> int | None:
        """Where in a line of the client's a secret begins."""
        if self._body:
            self._body = self._data = line != b"."
            return None
        if self._asked > 0:
            self._asked -= 1
            return None if line == b"*" else 0
        words = line.split()
        verb = words[0].upper() if words else b""
        auth = AUTH.search(line)
        if verb in VERBS or auth is not None:
            self._auth = verb == b"AUTH" or auth is not None
            self._data = verb == b"DATA"
            self._rcpt = verb == b"RCPT" or (self._rcpt and verb not in FORGETTING)
            if verb == b"BDAT" and self._rcpt and len(words) > 1 and words[1].isdigit():
                self._chunk = int(words[1])
            if self._auth:
                self._asked = 0
                return auth.start(1) if auth is not None and auth[1] not in (None, b"=") else None
        elif self._auth and WORD.fullmatch(line):
            self._asked -= 1  # it was said before it was asked for
            return 0
        return None


def secrets(entries: Iterable[Entry]) -> dict[Side, list[Span]]:
    """Where in the octets of each side there are passwords, tokens, and what they could be found from."""
    listener = _Listener()
    for entry in entries:
        listener.hear(entry.side, entry.data)
    listener.end()
    return listener.found


def masked(data: bytes, at: int, spans: Iterable[Span]) -> Iterator[tuple[bytes, bool]]:
    """What begins at offset ``at``, in pieces, and whether each is secret."""
    done = 0
    for begin, end in spans:
        first, last = max(begin - at, done), min(end - at, len(data))
        if first < last:
            if first > done:
                yield data[done:first], False
            yield data[first:last], True
            done = last
    if done < len(data):
        yield data[done:], False
