"""The base class of fault rules, and the steps that rules consist of.

A rule is a frozen value that describes a fault, its place, its side and its number of occurrences. It does no I/O. A
`FaultyStream` passes it a piece of the octets that one side sends (or receives) and the steps that are planned for the
piece, at first only to pass on its octets. The rule returns the steps that replace them, which are passed to the next
rule. So rules can be combined without knowledge of each other.

Rules are applied in the order of their `priority`: first those that change the extensions of a server (-1), then those that
replace text (0), those that delay or cut it (1), and finally those that divide it into segments (2). So a reply that was
replaced can, for example, also be cut and sent octet by octet. Rules with the same priority are applied in the order in
which the script lists them.
"""

from __future__ import annotations

import enum
from math import inf
from random import Random
from typing import ClassVar, get_args

from attrs import NOTHING, field, fields, frozen

from ...protocol.arguments import argument, check_choice, check_number, check_type
from .._wire_tracker import BODY, Piece, Role

#: The place of a rule that acts at every place.
ANYWHERE = "*"
#: The maximum time in the text of a rule, in seconds.
MAX_SECONDS = 10**9
#: The maximum of octets and other numbers. Times and sizes may be computed from them.
MAX_NUMBER = 10**18
#: The maximum number of random octets.
MAX_GARBAGE = 2**24


@frozen
class Wait:
    """A step: wait ``seconds``. With 0, the following octets are sent as a separate segment."""

    seconds: float


@frozen
class Hold:
    """A step: hold octets until ``count`` pieces are held, or for ``within`` seconds, and send them in one segment."""

    octets: bytes
    count: int
    within: float


@frozen
class FakeReply:
    """A step: the client receives the octets as the reply to command ``number``, after the replies to earlier
    commands.
    """

    octets: bytes
    number: int


class Ending(enum.Enum):
    """A step that ends the connection. Octets after it are not sent; if none follow, all were sent."""

    CLOSE = "the connection is closed"
    RESET = "the connection is reset"
    SILENCE = "nothing more is sent, and what is received is discarded until the peer closes the connection"


#: A step of the handling of a piece. Octets are passed on.
Step = bytes | Wait | Hold | FakeReply | Ending


def place(at: str) -> str:
    """Return a place in its canonical form: "body", or a verb or other place in capitals."""
    check_word(at, "at")
    return at if at == BODY else at.upper()


def extension(keyword: str) -> str:
    """Return the keyword of an extension in capitals."""
    check_word(keyword, "keyword")
    if not (keyword.isascii() and keyword.isprintable()):
        raise ValueError(f"keyword must be printable ASCII, got {keyword!r}")
    return keyword.upper()


def check_parameter(value: object, what: str) -> None:
    """Raise TypeError or ValueError if ``value`` cannot be a parameter of an extension, for example because of a line break."""
    check_type(value, what, (str, int))
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{what} must be printable, got {value!r}")


def check_word(value: str, what: str) -> None:
    """Raise TypeError if ``value`` is not a str, and ValueError if it is not one word, which no command could match."""
    check_type(value, what, str)
    if value.split() != [value]:
        raise ValueError(f"{what} must be one word, got {value!r}")


#: Validators of the attributes of rules.
not_negative = argument(check_number)
positive = argument(check_number, above=True)
whole = argument(check_number, integer=True, maximum=MAX_NUMBER)
positive_whole = argument(check_number, 1, integer=True, maximum=MAX_NUMBER)
octet_string = argument(check_type, bytes)
parameter = argument(check_parameter)
side = argument(check_choice, get_args(Role))


@frozen(kw_only=True, repr=False)
class Rule:
    """Base class of all rules. A rule acts on ``times`` occasions from the ``nth`` on; with ``times=0``, on all of
    them.

    ``by`` is the side with the fault. ``at``, which most rules have, is a place in the octets of this side: for a client
    the command with this verb, for a server the reply to it. Other places are "CONNECT", the greeting; ".", the end of
    the message and the reply to it; "body", the message, for either side; and "*", any place.
    """

    #: The order among the rules for a piece; lower is earlier.
    priority: ClassVar[int] = 1
    #: Whether the rule acts on both the sent and the received octets of its side, with separate counts.
    both_ways: ClassVar[bool] = False

    nth: int = field(default=1, validator=positive_whole)
    times: int = field(default=1, validator=whole)
    by: Role = field(default="server", validator=side)

    def acts_on(self, piece: Piece, *, incoming: bool) -> bool:
        """Return whether the rule can act on the piece; ``incoming`` is true if the peer of ``by`` sent it."""
        at: str = getattr(self, "at", ANYWHERE)
        if incoming:  # the faults of a server in the body act while it receives one
            return piece.at == at == BODY
        return at in (piece.at, ANYWHERE)

    def change(self, piece: Piece, steps: list[Step], random: Random, *, incoming: bool) -> list[Step]:
        """Return the steps for a piece, given the steps that the previous rules have returned."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the Python expression that makes this rule, without default values."""
        given = [repr(getattr(self, each.name)) for each in fields(type(self)) if each.default is NOTHING]
        for each in fields(type(self)):
            value = getattr(self, each.name)
            if each.init and each.default is not NOTHING and value != each.default:
                given.append(f"{each.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"


@frozen
class Sometimes:
    """A rule that acts on each occasion with probability ``chance``, from 0 to 1.

    The result depends only on the seed of `Faults`.
    """

    rule: Rule
    chance: float = field(default=0.5)

    def __attrs_post_init__(self) -> None:
        check_type(self.rule, "rule", Rule)
        check_number(self.chance, "chance", -inf)
        if not 0 <= self.chance <= 1:
            raise ValueError(f"Sometimes: chance must be from 0 to 1, got {self.chance}")

    def __repr__(self) -> str:
        return f"Sometimes({self.rule!r}, {self.chance!r})"
