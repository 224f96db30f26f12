"""What every fault rule is: a frozen value, which says what goes wrong, where, whose doing it is, and how often.

A rule is given a piece of what a side says and the steps that would be taken for it, and gives other steps. So rules compose, and
none of them waits, reads or writes by itself. Those that choose the words come first, then those that cut and delay them, and at
last those that take them apart; rules of a kind in the order in which they are written.
"""

from __future__ import annotations

import enum
from random import Random
from typing import ClassVar, Literal

from attrs import NOTHING, field, fields, frozen

from .wire_tracker import BODY, Piece

Side = Literal["client", "server"]

#: Where a rule is at home that is at home everywhere.
ANYWHERE = "*"


@frozen
class Wait:
    """A step: so many seconds pass. 0: what comes next is a segment of its own."""

    seconds: float


@frozen
class Hold:
    """A step: these octets wait for company, until ``count`` pieces are there, or so many seconds have passed."""

    octets: bytes
    count: int
    within: float


@frozen
class Hear:
    """A step: these octets are heard in the place of a reply, behind those to what was asked before, though nobody has said them."""

    octets: bytes
    number: int


class End(enum.Enum):
    """A step after which there is no other."""

    CLOSE = "the connection is closed"
    RESET = "the connection is reset, as a network does that lost it"
    SILENCE = "nothing more is said, and all that comes is swallowed until the peer has left"


#: What is done about a piece: octets are passed on, the others see to it that something is wrong.
Step = bytes | Wait | Hold | Hear | End


def place(at: str) -> str:
    """A verb in capitals, or one of the places that are no verbs."""
    return at if at == BODY else at.upper()


def not_negative(rule: Rule, attribute: object, value: float) -> None:
    """A validator. Raises ValueError."""
    if value < 0:
        raise ValueError(f"{type(rule).__name__}: {value} is less than nothing")


def positive(rule: Rule, attribute: object, value: float) -> None:
    """A validator. Raises ValueError."""
    if value <= 0:
        raise ValueError(f"{type(rule).__name__}: {value} is not more than nothing")


@frozen(kw_only=True, repr=False)
class Rule:
    """What all rules have: the ``nth`` time that it could act it does, and ``times`` times from there on; 0 is every time.

    ``by`` is whose doing it is. Where a rule has an ``at``: for a client that is its command of this verb; for a server, the reply to
    it. "CONNECT" is the greeting, "." the end of the message and the reply to that, "body" the message (for either side), "*" any.
    """

    #: When its turn is, among the rules for one piece.
    turn: ClassVar[int] = 1

    nth: int = field(default=1, validator=positive)
    times: int = field(default=1, validator=not_negative)
    by: Side = "server"

    def acts_on(self, piece: Piece, *, heard: bool) -> bool:
        """Whether this is a place for it. ``heard``: it was the peer who said this."""
        at: str = getattr(self, "at", ANYWHERE)
        if heard:  # only a server, and only while a message comes
            return piece.at == at == BODY
        return at in (piece.at, ANYWHERE)

    def change(self, piece: Piece, steps: list[Step], chance: Random, *, heard: bool) -> list[Step]:
        """What is done about a piece instead of these steps."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Python that makes this rule: what is as usual is left out."""
        given = [repr(getattr(self, each.name)) for each in fields(type(self)) if each.default is NOTHING]
        for each in fields(type(self)):
            value = getattr(self, each.name)
            if each.init and each.default is not NOTHING and value != each.default:
                given.append(f"{each.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"


@frozen
class Sometimes:
    """A rule that acts with this ``chance``, 0 to 1, each time that it could. The seed of the `Faults` decides, and nothing else."""

    rule: Rule
    chance: float = field(default=0.5)

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.chance <= 1:
            raise ValueError(f"a chance is between 0 and 1, and not {self.chance}")

    def __repr__(self) -> str:
        return f"Sometimes({self.rule!r}, {self.chance!r})"
