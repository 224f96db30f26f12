"""A tracker that divides the octets of one session into commands, replies and message, from outside of both parties.

The two protocols of the core cannot be used for that. They each know one end of a session, reject what is invalid, and
are ahead of the octets on the wire. Fault scripts need the opposite: a label for each octet in both directions, in
sessions that are broken on purpose. Transcripts need to know which octets are secret, in sessions of any client with
any server.

Approach: the tracker keeps one mode for the client's direction (lines, chunk, message or TLS) and a queue of the
replies that are due. A line of the client is a command, or a response in an AUTH exchange; it is labelled with its verb
and appends one due reply. A reply is labelled with the oldest due one. Some commands change the mode:

* BDAT announces a number of octets (RFC 3030 2); they are the message, and lines follow them. The last octet of the last
  chunk is labelled as the dot after DATA is: it ends the message, and the due reply is that to the message. The command
  BDAT LAST has no reply of its own. After BDAT 0 LAST, the piece with that label is empty.
* DATA begins a message that ends with a dot on a line of its own (RFC 5321 4.5.2). The dot gets a label and a due reply
  of its own.
* STARTTLS begins TLS (RFC 3207 4), in which nothing can be labelled any more.
* AUTH begins an exchange (RFC 4954 4): each reply 334 is a challenge, and the next line of the client a response.

Where the parties disagree about the mode, a tracker has to take a side, and its two users need opposite ones. By
default, for fault scripts, a command changes the mode at once, because a client may go on before the reply, and a
refusal changes it back. A *cautious* tracker, for transcripts, must never take a command for a part of a message,
because the command might be an AUTH with a password in it. For it, DATA begins a message only after the reply 354;
octets after BDAT are a chunk only if the transaction has a recipient, and only until any command is refused; TLS
changes nothing, since what transcripts have of it is decrypted; and lines end with CRLF only, whatever their length, so
that a secret is never divided.

Invariants: the octets of all pieces, joined, are the octets that were fed; the tracker holds back no more than an
unfinished line or what may be the final dot. Octets that it cannot classify get the label `UNKNOWN`.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from typing import Literal

from attrs import frozen

Role = Literal["client", "server"]

#: Labels of pieces that are not verbs.
GREETING, BODY, DOT, UNKNOWN, TLS = "CONNECT", "body", ".", "", "tls"
#: The end of a message, with the end of the line before it.
END_OF_MESSAGE = b"\r\n.\r\n"
#: Octets without an end of line beyond which a tracker that is not cautious stops to wait for one.
MAX_LINE = 8192

VERBS = frozenset([
    "AUTH", "BDAT", "DATA", "EHLO", "EXPN", "HELO", "HELP", "LHLO", "MAIL", "NOOP", "QUIT", "RCPT", "RSET", "STARTTLS",
    "VRFY",
])  # fmt: skip
#: Commands after which a transaction has no recipient.
CLEARING = frozenset(["AUTH", "EHLO", "HELO", "LHLO", "MAIL", "RSET", "STARTTLS"])
#: AUTH, a mechanism and perhaps an initial response (RFC 4954 4), wherever in a line: other octets may have got in
#: front of it.
AUTH = re.compile(rb"AUTH\s+\S+(?:\s+(\S.*))?", re.DOTALL | re.IGNORECASE)
#: A line that may be a response without a challenge: after AUTH, a client may send its password too early or too late.
BASE64 = re.compile(rb"[A-Za-z0-9+/=*]+")
#: Challenges of AUTH LOGIN, which are public: "Username:" and "Password:", and "User Name" and "Password" as old
#: servers send them.
PROMPTS = frozenset({b"", b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6", b"VXNlciBOYW1lAA==", b"UGFzc3dvcmQA"})


@frozen
class Piece:
    """Octets that belong together: a whole command, a whole reply, the final dot, or a part of the message.

    ``at`` is the command's verb, also for a reply to it; "." for the end of a message and the reply to it, "body" for
    the message, "CONNECT" for the greeting. ``start`` is the number of octets of the message before this piece.
    ``number`` counts the pieces of a client to which a reply is due, from 0; a reply has the number of what it replies
    to. It is None for pieces without a reply, and for a reply to nothing. Octets from ``secret`` to the end of the line
    are secret; without a secret it is None. ``chunked``: the octet ends a message after BDAT, and is a part of it.
    """

    at: str
    octets: bytes
    start: int = 0
    number: int | None = None
    secret: int | None = None
    chunked: bool = False


class Mode(enum.Enum):
    """The kind of octets that the client sends next."""

    LINES = "commands and responses"
    CHUNK = "octets announced by BDAT"
    MESSAGE = "a message up to its dot"
    TLS = "encrypted octets"


#: Modes that a command begins and, unless the tracker is cautious, its refusal ends.
BEGINS = {"DATA": Mode.MESSAGE, "STARTTLS": Mode.TLS}


class WireTracker:
    """Tracks one session. ``greeted``: the greeting was sent before. ``cautious``: see the module's docstring."""

    def __init__(self, *, greeted: bool = False, cautious: bool = False) -> None:
        self._cautious = cautious
        self._eol = b"\r\n" if cautious else b"\n"
        self._mode = Mode.LINES
        self._due: deque[str] = deque(() if greeted else (GREETING,))
        self._answered = 0
        self._rest: dict[Role, bytes] = {"client": b"", "server": b""}
        #: What the last known command was, and whether its transaction has a recipient.
        self._auth = self._data = self._recipients = False
        #: Challenges less responses.
        self._challenges = 0
        #: Octets left of a chunk, and whether the chunk ends the message.
        self._left = 0
        self._last = False
        #: Octets of the message so far, and the last two of them.
        self._start = 0
        self._tail = b""

    def feed(self, role: Role, data: bytes) -> list[Piece]:
        """Return the pieces of what one party has sent. An unfinished line is kept until the rest of it is fed."""
        self._rest[role] += data
        take = self._take_client if role == "client" else self._take_server
        pieces: list[Piece] = []
        while self._rest[role] and (found := take(self._rest[role])):
            pieces += found
            self._rest[role] = self._rest[role][sum(len(piece.octets) for piece in found) :]
        return pieces

    def kept(self, role: Role) -> int:
        """Return the number of octets of an unfinished line, which are in no piece yet."""
        return len(self._rest[role])

    def finish(self, role: Role) -> list[Piece]:
        """Return what was kept, when this party sends no more."""
        rest, self._rest[role] = self._rest[role], b""
        if not rest:
            return []
        if role == "server":
            return [self._reply(rest, rest.rpartition(self._eol)[2])]
        return self._line(rest) if self._mode is Mode.LINES else [Piece(BODY, rest, self._start)]

    # --- the server -----------------------------------------------------------------------------------------------------

    def _take_server(self, data: bytes) -> list[Piece]:
        if self._mode is Mode.TLS and "STARTTLS" not in self._due:
            return [Piece(TLS, data)]
        end = 0
        while True:
            line, found, _ = data[end:].partition(self._eol)
            if not found:
                self._end_refused_chunk(data[:end])  # the rest of the reply may never be sent
                return self._unfinished(data)
            end += len(line) + len(found)
            if line[3:4] != b"-":  # RFC 5321 4.2.1: the last line of a reply
                return [self._reply(data[:end], line)]

    def _reply(self, octets: bytes, line: bytes) -> Piece:
        """Return the piece of a reply, whose last line this is."""
        number = self._answered if self._due else None
        at = self._due.popleft() if self._due else UNKNOWN
        self._answered += number is not None
        secret = None
        self._end_refused_chunk(octets)
        if line.startswith(b"334 ") and (self._cautious or at == "AUTH"):
            self._challenges += 1
            if line[4:].rstrip() not in PROMPTS:
                secret = octets.rfind(line) + 4
        elif self._cautious:
            if line.startswith(b"354 ") and self._data:
                self._mode = Mode.MESSAGE
        else:
            # RFC 5321 4.3.2, RFC 3207 4: the replies after which the client goes on in the mode that its command has
            # begun.
            positive = {"DATA": b"354", "STARTTLS": b"220"}.get(at)
            if positive is not None and not line.startswith(positive) and self._mode is BEGINS[at]:
                self._mode = Mode.LINES
            if at == "AUTH":
                self._auth, self._challenges = False, 0
        return Piece(at, octets, number=number, secret=secret)

    def _end_refused_chunk(self, reply: bytes) -> None:
        """End a chunk after a refusal, if commands must not be taken for the rest of it."""
        refused = any(line.startswith((b"4", b"5")) for line in reply.split(self._eol))
        if self._cautious and self._mode is Mode.CHUNK and refused:
            self._mode = Mode.LINES

    # --- the client -----------------------------------------------------------------------------------------------------

    def _take_client(self, data: bytes) -> list[Piece]:
        if self._mode is Mode.TLS:
            return [Piece(TLS, data)]
        if self._mode is Mode.CHUNK:
            return self._chunk(data)
        if self._mode is Mode.MESSAGE:
            return self._message(data)
        line, found, _ = data.partition(self._eol)
        return self._line(line + found) if found else self._unfinished(data)

    def _unfinished(self, data: bytes) -> list[Piece]:
        return [Piece(UNKNOWN, data)] if len(data) > MAX_LINE and not self._cautious else []

    def _line(self, octets: bytes) -> list[Piece]:
        """Return the piece of a line, which is a command or a response, and the end of the message after BDAT 0 LAST."""
        line = octets.removesuffix(b"\n").removesuffix(b"\r")
        words = line.decode(errors="replace").upper().split() or [UNKNOWN]
        verb = words[0]
        auth = AUTH.search(line)
        known = verb in VERBS or auth is not None
        if self._challenges > 0 or (self._auth and not known and BASE64.fullmatch(line)):
            self._challenges -= 1
            self._due.append("AUTH")
            return [Piece("AUTH", octets, number=self._last_number(), secret=None if line == b"*" else 0)]
        self._due.append(verb)
        secret = None
        if known:
            self._auth, self._data = verb == "AUTH" or auth is not None, verb == "DATA"
            self._recipients = verb == "RCPT" or (self._recipients and verb not in CLEARING)
        if known and self._auth:
            self._challenges = 0
            if auth is not None and auth[1] not in (None, b"="):
                secret = auth.start(1)
        if verb in ("MAIL", "DATA"):
            self._start, self._tail = 0, b"\r\n"
        if verb == "BDAT" and self._begin_chunk(words):
            return [Piece(verb, octets), *([] if self._left else self._chunk(b""))]
        if verb != "BDAT" and not self._cautious:
            self._mode = BEGINS.get(verb, self._mode)
        return [Piece(verb, octets, number=self._last_number(), secret=secret)]

    def _last_number(self) -> int:
        return self._answered + len(self._due) - 1

    def _begin_chunk(self, words: list[str]) -> bool:
        """Begin the chunk of a BDAT command; return whether the command has LAST."""
        if len(words) < 2 or not (words[1].isascii() and words[1].isdecimal()):
            return False
        if self._cautious and not self._recipients:
            return False
        self._left, self._last = int(words[1]), words[-1] == "LAST"
        self._mode = Mode.CHUNK if self._left else Mode.LINES
        if self._last:
            self._due[-1] = DOT  # RFC 3030 2: the reply to the last chunk is the reply to the message
        return self._last

    def _chunk(self, data: bytes) -> list[Piece]:
        octets = data[: self._left]
        self._left -= len(octets)
        if self._left:
            return self._body(octets)
        self._mode = Mode.LINES
        if not self._last:
            return self._body(octets)
        return [*self._body(octets[:-1]), Piece(DOT, octets[-1:], number=self._last_number(), chunked=True)]

    def _body(self, octets: bytes) -> list[Piece]:
        piece = Piece(BODY, octets, self._start)
        self._start += len(octets)
        return [piece] if octets else []

    def _message(self, data: bytes) -> list[Piece]:
        whole = self._tail + data
        end = whole.find(END_OF_MESSAGE)
        if end >= 0:
            upto = end + 2
        elif whole.endswith((END_OF_MESSAGE[:3], END_OF_MESSAGE[:4])):  # this may be the final dot
            upto = whole.rfind(b".")
        else:
            upto = len(whole)
        octets = whole[len(self._tail) : upto]
        pieces = [Piece(BODY, octets, self._start)] if octets or (end >= 0 and not self._start) else []
        self._start += len(octets)
        self._tail = whole[:upto][-2:]
        if end >= 0:
            self._due.append(DOT)
            pieces.append(Piece(DOT, END_OF_MESSAGE[2:], number=self._last_number()))
            self._mode, self._data = Mode.LINES, False
        return pieces
