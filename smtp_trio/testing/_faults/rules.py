"""The fault rules: one class for each kind of fault of a server or client."""

from __future__ import annotations

import math
from functools import lru_cache
from random import Random

from attrs import field, frozen

from ...protocol import Command, Connect, Reply
from ...protocol.arguments import argument, check_number
from ...protocol.commands import COMMON_CODES, EndOfData
from ...protocol.extensions import STANDARD
from ...protocol.extensions.lmtp import Lhlo
from ...protocol.grammar import Grammar
from .._wire_tracker import BODY, DOT, GREETING, Piece, Role
from .rule import (
    ANYWHERE,
    MAX_GARBAGE,
    MAX_NUMBER,
    Ending,
    FakeReply,
    Hold,
    Rule,
    Step,
    Wait,
    extension,
    not_negative,
    octet_string,
    parameter,
    place,
    positive,
    positive_whole,
    whole,
)

# --- decisions of a server ---------------------------------------------------------------------------------------------


@lru_cache
def _kinds() -> dict[str, type[Command]]:
    return {**Grammar(STANDARD).verbs, "LHLO": Lhlo, GREETING: Connect, DOT: EndOfData}


def _refusals(at: str) -> list[int]:
    """Return the codes with which a command may be refused (RFC 5321 4.3.2)."""
    codes = _kinds()[at].codes if at in _kinds() else frozenset()
    return sorted(code for code in codes | COMMON_CODES if code >= 400)


@frozen(repr=False)
class Answer(Rule):
    """The server refuses with reply ``code`` (4yz or 5yz), ``text`` and enhanced ``status``.

    With `Faults.hooks` the session itself refuses, so its state is consistent with the reply. At "." the message is read
    to its end and discarded. A client that uses BDAT never sends "DATA"; the client of this package uses it if the
    server offers CHUNKING. Raises ValueError for a code that this command may not have (RFC 5321 4.3.2). Use `Replace`
    to send such a code.
    """

    priority = 0
    at: str = field(converter=place)
    code: int
    text: str = "Refused by a fault script"
    status: str | None = None
    by: Role = field(default="server", init=False)

    def __attrs_post_init__(self) -> None:
        refusals = _refusals(self.at)
        self.reply  # noqa: B018  (raises for an invalid text or status)
        if self.code not in refusals:
            known = (
                ", ".join(map(str, refusals)) if len(refusals) < 20 else "400 to 559"
            )  # the greeting can have any of them
            raise ValueError(
                f"{self.code} cannot refuse {self.at}, for which {known} are possible; use Replace to send it"
            )

    @property
    def reply(self) -> Reply:
        """The reply."""
        return Reply(self.code, self.text, "" if self.at == GREETING and self.status is None else self.status)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [self.reply.encode()]


# --- time --------------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class Delay(Rule):
    """The octets at this place are sent ``seconds`` late.

    The delay does not count towards the hook timeout of the server, but towards the timeouts of a client.
    """

    at: str = field(converter=place)
    seconds: float = field(validator=not_negative)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [Wait(self.seconds), *steps] if not piece.start else steps


@frozen(repr=False)
class Hang(Rule):
    """The octets at this place are never sent, and neither is anything after them.

    Received octets are discarded until the peer closes the connection.
    """

    at: str = field(converter=place)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [Ending.SILENCE, *steps]


@frozen(repr=False)
class Trickle(Rule):
    """The octets are sent in segments of ``octets`` octets, ``seconds`` apart.

    ``max_segments`` limits the number of segments of a command, reply or part of a message; the segments are enlarged if
    necessary, since a long message in segments of one octet takes minutes of real time. 0 means no limit.
    """

    priority = 2
    octets: int = field(default=1, validator=positive_whole)
    seconds: float = field(default=0.001, validator=not_negative)
    at: str = field(default=ANYWHERE, converter=place)
    max_segments: int = field(default=0, kw_only=True, validator=whole)
    times: int = field(default=0, kw_only=True, validator=whole)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return _in_segments(steps, max(self.octets, _least(piece, self.max_segments)), self.seconds)


@frozen(repr=False)
class Throttle(Rule):
    """A slow line: ``rate`` octets a second in both directions, so that the peer has to wait as well.

    The octets of each second are one segment; ``max_segments`` is as in `Trickle`, and does not change the rate.
    """

    priority = 2
    both_ways = True
    rate: float = field(validator=argument(check_number, above=True, maximum=MAX_NUMBER))
    max_segments: int = field(default=0, kw_only=True, validator=whole)
    times: int = field(default=0, kw_only=True, validator=whole)

    def acts_on(self, piece: Piece, *, incoming: bool) -> bool:
        return True

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        octets = max(1, round(self.rate), _least(piece, self.max_segments))
        return _in_segments(steps, octets, octets / self.rate)


def _least(piece: Piece, max_segments: int) -> int:
    """Return the minimum number of octets of each segment of a piece."""
    return math.ceil(len(piece.octets) / max_segments) if max_segments else 0


def _in_segments(steps: list[Step], octets: int, seconds: float) -> list[Step]:
    """Divide octets into segments, with a wait after each: ``seconds``, or a part of it after a shorter one."""
    cut: list[Step] = []
    for step in steps:
        if isinstance(step, bytes):
            for start in range(0, len(step), octets):
                piece = step[start : start + octets]
                cut += [piece, Wait(seconds * len(piece) / octets)]
        else:
            cut.append(step)
    return cut


@frozen(repr=False)
class Coalesce(Rule):
    """Replies (or commands) are sent together in one segment:

    ``count`` of them, or those of the last ``within`` seconds.
    """

    priority = 2
    count: int = field(default=2, validator=positive_whole)
    within: float = field(default=0.1, validator=positive)
    at: str = field(default=ANYWHERE, converter=place)
    times: int = field(default=0, kw_only=True, validator=whole)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [Hold(step, self.count, self.within) if isinstance(step, bytes) and step else step for step in steps]


# --- the connection ------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class _Cut(Rule):
    """The connection ends after a number of octets of the piece."""

    at: str = field(converter=place)
    after: int = field(default=0, validator=whole)

    def _end(self) -> Ending:
        raise NotImplementedError

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        left = self.after - piece.start
        if not 0 <= left <= len(piece.octets):
            return steps
        # Octets that other rules add at the end are not a part of this piece.
        rest = [piece.octets[left:]] if left < len(piece.octets) else []
        cut: list[Step] = []
        for step in steps:
            if isinstance(step, bytes):
                if len(step) >= left:
                    return [*cut, step[:left], self._end(), *rest]
                left -= len(step)
            cut.append(step)
        return [*cut, self._end(), *rest]


@frozen(repr=False)
class Close(_Cut):
    """The connection is closed after ``after`` octets of this place: ``Close("body", after=4096)``.

    The rule ignores commands, replies and bodies that are shorter. A write whose octets were all sent succeeds, and the
    next operation fails, as with a socket.
    """

    def _end(self) -> Ending:
        return Ending.CLOSE


@frozen(repr=False)
class Reset(_Cut):
    """The connection is reset, and the peer gets an error: ``Reset(".", after=1, by="client")`` is between dot and
    CRLF after DATA. After BDAT LAST it is after the last octet, when the message is complete.

    Otherwise it is like `Close`.
    """

    def _end(self) -> Ending:
        return Ending.RESET


# --- text ---------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class Replace(Rule):
    """Other ``octets`` are sent instead: for example a wrong code, garbage, or nothing.

    The state of the side with the fault does not change. At "." a client replaces the dot after DATA; after BDAT LAST the
    rule does nothing, since it would replace a part of the message.
    """

    priority = 0
    at: str = field(converter=place)
    octets: bytes = field(validator=octet_string)

    def acts_on(self, piece: Piece, *, incoming: bool) -> bool:
        return not piece.chunked and super().acts_on(piece, incoming=incoming)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [self.octets] if not piece.start else []


@frozen(repr=False)
class Extra(Rule):
    """``octets`` are sent afterwards: for example an unsolicited reply, or a premature command."""

    priority = 0
    at: str = field(converter=place)
    octets: bytes = field(validator=octet_string)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [*steps, self.octets] if not piece.start else steps


@frozen(repr=False)
class Garbage(Rule):
    """``octets`` random octets, which depend on the seed, and an end of line are sent instead.

    Like `Replace`, it does nothing at "." after BDAT LAST.
    """

    priority = 0
    at: str = field(converter=place)
    octets: int = field(default=16, validator=argument(check_number, integer=True, maximum=MAX_GARBAGE))

    def acts_on(self, piece: Piece, *, incoming: bool) -> bool:
        return not piece.chunked and super().acts_on(piece, incoming=incoming)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [random.randbytes(self.octets) + b"\r\n"] if not piece.start else []


@frozen(repr=False)
class Omit(Rule):
    """The reply to EHLO does not offer this extension, although the server has it."""

    priority = -1
    keyword: str = field(converter=extension)
    times: int = field(default=0, kw_only=True, validator=whole)
    by: Role = field(default="server", init=False)

    def acts_on(self, piece: Piece, *, incoming: bool) -> bool:
        return _is_hello(piece, incoming=incoming)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [_offer(step, self.keyword, None) if isinstance(step, bytes) else step for step in steps]


@frozen(repr=False)
class Advertise(Rule):
    """The reply to EHLO offers this extension with this parameter, even if the server does not support it:

    ``Advertise("SIZE", 10)``.
    """

    priority = -1
    keyword: str = field(converter=extension)
    value: str | int = field(default="", validator=parameter)
    times: int = field(default=0, kw_only=True, validator=whole)
    by: Role = field(default="server", init=False)

    def acts_on(self, piece: Piece, *, incoming: bool) -> bool:
        return _is_hello(piece, incoming=incoming)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        line = f"{self.keyword} {self.value}".rstrip()
        return [_offer(step, self.keyword, line) if isinstance(step, bytes) else step for step in steps]


def _is_hello(piece: Piece, *, incoming: bool) -> bool:
    return not incoming and piece.at in ("EHLO", "LHLO") and piece.octets.startswith(b"250")


def _offer(reply: bytes, keyword: str, line: str | None) -> bytes:
    """Replace or remove the line for this keyword in a reply to EHLO, and return the new reply (RFC 5321 4.1.1.1)."""
    domain, *offers = (line.decode(errors="replace")[4:] for line in reply.splitlines())
    kept = [each for each in offers if each.upper().split()[:1] != [keyword]]
    *lines, last = [domain, *kept, *([] if line is None else [line])]
    return b"".join(f"250-{each}\r\n".encode() for each in lines) + f"250 {last}\r\n".encode()


# --- a client that ignores replies -----------------------------------------------------------------------------------------

#: Positive replies for a client that ignores the real ones; 250 for commands that are not listed.
POSITIVE = {
    GREETING: b"220 Ok\r\n",
    "DATA": b"354 Ok\r\n",
    "AUTH": b"235 Ok\r\n",
    "STARTTLS": b"220 Ok\r\n",
    "QUIT": b"221 Ok\r\n",
}


@frozen(repr=False)
class Ignore(Rule):
    """The client treats a refusal as a positive reply, and continues."""

    at: str = field(converter=place)
    by: Role = field(default="client", init=False)

    def acts_on(self, piece: Piece, *, incoming: bool) -> bool:
        return incoming and self.at in (piece.at, ANYWHERE) and piece.octets[:1] in b"45"

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        return [POSITIVE.get(piece.at, b"250 Ok\r\n")]


@frozen(repr=False)
class Early(Rule):
    """The client does not wait for the reply. It continues as after a positive one, and discards the real reply when it
    arrives.

    The reply to BDAT LAST is the reply to the message, at ".", and not one at "BDAT" (RFC 3030 2).
    """

    at: str = field(converter=place)
    by: Role = field(default="client", init=False)

    def acts_on(self, piece: Piece, *, incoming: bool) -> bool:
        return piece.number is not None and self.at in (piece.at, ANYWHERE)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        if incoming or piece.number is None:
            return []
        return [*steps, FakeReply(POSITIVE.get(piece.at, b"250 Ok\r\n"), piece.number)]


def decides(rule: Rule) -> bool:
    """Return whether the rule acts through hooks, in the session of a server, where that is possible."""
    return isinstance(rule, Answer) or (isinstance(rule, Delay | Hang) and rule.by == "server" and rule.at != BODY)
