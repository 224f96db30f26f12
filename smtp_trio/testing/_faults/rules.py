"""The fault rules: what a server or a client can do wrong, one class for each."""

from __future__ import annotations

from random import Random

from attrs import field, frozen

from ...protocol import Command, Connect, Reply
from ...protocol.commands import COMMON_CODES, EndOfBody
from ...protocol.extensions import STANDARD
from ...protocol.extensions.lmtp import Lhlo
from ...protocol.grammar import Grammar
from .rule import ANYWHERE, End, Hear, Hold, Rule, Side, Step, Wait, not_negative, place, positive
from .wire_tracker import BODY, DOT, GREETING, Piece

# --- what a server decides ---------------------------------------------------------------------------------------------


def _may_answer(at: str, code: int) -> bool:
    """Whether the command may be answered so (RFC 5321 4.3.2)."""
    kinds: dict[str, type[Command]] = {**Grammar(STANDARD).verbs, "LHLO": Lhlo, GREETING: Connect, DOT: EndOfBody}
    return code in COMMON_CODES or (at in kinds and code in kinds[at].codes)


@frozen(repr=False)
class Answer(Rule):
    """A refusal: 4yz or 5yz. Where it goes through `Faults.hooks` the session knows of it, and its state is what was said.

    At "." the message is read to its end and given to nobody. Raises ValueError for a code that this command may not have (RFC 5321
    4.3.2): `Instead` says that all the same.
    """

    turn = 0
    at: str = field(converter=place)
    code: int
    text: str = "It was planned so"
    status: str | None = None
    by: Side = field(default="server", init=False)

    def __attrs_post_init__(self) -> None:
        if not self.reply.refused or not _may_answer(self.at, self.code):
            raise ValueError(
                f"{self.code} is no refusal that {self.at} may be answered with; Instead says it all the same"
            )

    @property
    def reply(self) -> Reply:
        """What is said."""
        return Reply(self.code, self.text, "" if self.at == GREETING and self.status is None else self.status)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [self.reply.encode()]


# --- time --------------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class Delay(Rule):
    """It comes so many seconds late. The hooks' clock stands still, but a client's own patience (``timeouts.block``) does not."""

    at: str = field(converter=place)
    seconds: float = field(validator=not_negative)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [Wait(self.seconds), *steps] if not piece.start else steps


@frozen(repr=False)
class Hang(Rule):
    """It never comes: from here on this side says nothing, and swallows what it is told, until the peer has left."""

    at: str = field(converter=place)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [End.SILENCE]


@frozen(repr=False)
class Trickle(Rule):
    """So many octets at a time, each time in a segment of their own, and ``seconds`` apart."""

    turn = 2
    octets: int = field(default=1, validator=positive)
    seconds: float = field(default=0.001, validator=not_negative)
    at: str = field(default=ANYWHERE, converter=place)
    times: int = field(default=0, kw_only=True, validator=not_negative)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return _in_pieces(steps, self.octets, self.seconds)


@frozen(repr=False)
class Pace(Rule):
    """So many octets a second, in both directions: a slow line, which makes the peer wait as well."""

    turn = 2
    rate: float = field(validator=positive)
    times: int = field(default=0, kw_only=True, validator=not_negative)

    def acts_on(self, piece: Piece, *, heard: bool) -> bool:
        return True

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        octets = max(1, round(self.rate))
        return _in_pieces(steps, octets, octets / self.rate)


def _in_pieces(steps: list[Step], octets: int, seconds: float) -> list[Step]:
    """Octets in pieces, with a wait behind each: ``seconds`` for a whole one, and less for what is left over."""
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
class Together(Rule):
    """Replies (or commands) wait for each other: ``count`` of them leave in one segment, or those that came in ``within`` seconds."""

    turn = 2
    count: int = field(default=2, validator=positive)
    within: float = field(default=0.1, validator=positive)
    at: str = field(default=ANYWHERE, converter=place)
    times: int = field(default=0, kw_only=True, validator=not_negative)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [Hold(step, self.count, self.within) if isinstance(step, bytes) else step for step in steps]


# --- the connection ------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class _Cut(Rule):
    """The connection ends when so many octets have passed."""

    at: str = field(converter=place)
    after: int = field(default=0, validator=not_negative)

    def _end(self) -> End:
        raise NotImplementedError

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        room = self.after - piece.start
        if not 0 <= room <= len(piece.octets):
            return steps
        cut: list[Step] = []
        for step in steps:
            if isinstance(step, bytes):
                if len(step) >= room:
                    return [*cut, step[:room], self._end()]
                room -= len(step)
            cut.append(step)
        return [*cut, self._end()]


@frozen(repr=False)
class Close(_Cut):
    """The connection is closed when ``after`` octets of it have passed: ``Close("body", after=4096)``.

    A command, a reply or a body that is shorter is left alone.
    """

    def _end(self) -> End:
        return End.CLOSE


@frozen(repr=False)
class Reset(_Cut):
    """As `Close`, but the peer gets an error instead of an end: ``Reset(".", after=1, by="client")`` is between dot and CRLF."""

    def _end(self) -> End:
        return End.RESET


# --- other words ---------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class Instead(Rule):
    """These octets, whatever they are: wrong codes, nonsense, nothing. What the side itself believes to have said is not changed."""

    turn = 0
    at: str = field(converter=place)
    octets: bytes

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [self.octets] if not piece.start else []


@frozen(repr=False)
class Extra(Rule):
    """These octets too, behind it: a reply that nobody asked for, a command that did not wait."""

    turn = 0
    at: str = field(converter=place)
    octets: bytes

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [*steps, self.octets] if not piece.start else steps


@frozen(repr=False)
class Garbage(Rule):
    """So many octets by chance, which the seed decides, and an end of line."""

    turn = 0
    at: str = field(converter=place)
    octets: int = field(default=16, validator=not_negative)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [chance.randbytes(self.octets) + b"\r\n"] if not piece.start else []


@frozen(repr=False)
class Drop(Rule):
    """The answer to EHLO does not offer this, though the server has it."""

    turn = 0
    keyword: str = field(converter=place)
    times: int = field(default=0, kw_only=True, validator=not_negative)
    by: Side = field(default="server", init=False)

    def acts_on(self, piece: Piece, *, heard: bool) -> bool:
        return _is_hello(piece, heard=heard)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [_offer(step, self.keyword, None) if isinstance(step, bytes) else step for step in steps]


@frozen(repr=False)
class Lie(Rule):
    """The answer to EHLO offers this with this parameter, whatever the server has: ``Lie("SIZE", 10)``, ``Lie("CHUNKING")``."""

    turn = 0
    keyword: str = field(converter=place)
    value: str | int = ""
    times: int = field(default=0, kw_only=True, validator=not_negative)
    by: Side = field(default="server", init=False)

    def acts_on(self, piece: Piece, *, heard: bool) -> bool:
        return _is_hello(piece, heard=heard)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        line = f"{self.keyword} {self.value}".rstrip()
        return [_offer(step, self.keyword, line) if isinstance(step, bytes) else step for step in steps]


def _is_hello(piece: Piece, *, heard: bool) -> bool:
    return not heard and piece.at in ("EHLO", "LHLO") and piece.octets.startswith(b"250")


def _offer(reply: bytes, keyword: str, line: str | None) -> bytes:
    """An answer to EHLO with another line for this keyword, or with none (RFC 5321 4.1.1.1)."""
    domain, *offers = (line.decode(errors="replace")[4:] for line in reply.splitlines())
    kept = [each for each in offers if each.upper().split()[:1] != [keyword]]
    lines = [domain, *kept, *([] if line is None else [line])]
    return b"".join(f"250{' ' if each is lines[-1] else '-'}{each}\r\n".encode() for each in lines)


# --- a client that does not listen -----------------------------------------------------------------------------------------

#: What a client hears that takes everything for a yes; 250 for all others.
YES = {
    GREETING: b"220 yes\r\n",
    "DATA": b"354 yes\r\n",
    "AUTH": b"235 yes\r\n",
    "STARTTLS": b"220 yes\r\n",
    "QUIT": b"221 yes\r\n",
}


@frozen(repr=False)
class Ignore(Rule):
    """A refusal is taken for a yes, and the client goes on."""

    at: str = field(converter=place)
    by: Side = field(default="client", init=False)

    def acts_on(self, piece: Piece, *, heard: bool) -> bool:
        return heard and self.at in (piece.at, ANYWHERE) and piece.octets[:1] in b"45"

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [YES.get(piece.at, b"250 yes\r\n")]


@frozen(repr=False)
class Early(Rule):
    """The client does not wait for the reply: it goes on at once as if that were a yes, and swallows the true one when it comes."""

    at: str = field(converter=place)
    by: Side = field(default="client", init=False)

    def acts_on(self, piece: Piece, *, heard: bool) -> bool:
        return piece.at != BODY and self.at in (piece.at, ANYWHERE)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        return [] if heard else [*steps, Hear(YES.get(piece.at, b"250 yes\r\n"), piece.number)]


def decides(rule: Rule) -> bool:
    """Whether the rule acts inside a server's session, by hooks, if it can."""
    return isinstance(rule, Answer) or (isinstance(rule, Delay | Hang) and rule.by == "server" and rule.at != BODY)
