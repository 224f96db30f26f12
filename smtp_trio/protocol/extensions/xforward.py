"""XFORWARD of Postfix (https://www.postfix.org/XFORWARD_README.html): a filter passes on where a message came from.

Adds the verb XFORWARD and the EHLO line ``XFORWARD`` with the names of the attributes. Only clients that the server trusts
may use it (`SessionState.trusted`); to others it is neither offered nor allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from attrs import frozen

from ..attributes import AttributeCommand
from ..commands import Command
from ..dialogue import READY, Table
from ..extension import Commands, Extension
from ..replies import OK, Reply
from ..session_state import SessionState
from ..values import Value

NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
NOT_AUTHORIZED = Reply(550, "Not authorized to use XFORWARD", "5.7.0")

# Unlike XCLIENT it changes nothing but the log, and the attributes are those of one message: they are dropped with its
# transaction, or when that is not begun because MAIL is refused or RSET or EHLO is sent instead.


@frozen(eq=False, repr=False)
class XforwardCommand(AttributeCommand):
    """XFORWARD attribute=value ..."""

    verb = "XFORWARD"
    usage = "XFORWARD attribute=value..."
    names: ClassVar[tuple[str, ...]] = NAMES
    choices: ClassVar[Mapping[str, frozenset[str]]] = {"SOURCE": frozenset({"LOCAL", "REMOTE"})}
    work = 0
    codes: ClassVar[frozenset[int]] = frozenset({250, 450, 550})
    default_reply: ClassVar[Reply] = OK


@frozen(eq=False, repr=False)
class Xforward(Extension, Value):
    """The origin of a message, for logs (Postfix).

    ``attributes`` are the names of those that a server accepts. A server offers it to the networks of its ``xforward_from``.
    """

    attributes: tuple[str, ...] = NAMES

    keyword = "XFORWARD"
    verbs: ClassVar[Commands] = (XforwardCommand,)
    table: ClassVar[Table] = Table(accepted={XforwardCommand: {READY: READY}})

    def advertise(self, state: SessionState) -> str | None:
        """Return the EHLO line, or None for a client that is not trusted."""
        return " ".join([self.keyword, *self.attributes]) if self.keyword in state.trusted else None

    def parse_offer(self, words: Sequence[str]) -> Xforward:
        """Return an extension with the attributes that the server accepts."""
        return Xforward(tuple(word.upper() for word in words))

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        """Refuse XFORWARD of a client that is not trusted."""
        return NOT_AUTHORIZED if verb == self.keyword and self.keyword not in state.trusted else None

    def accepted(self, command: Command, state: SessionState) -> None:
        """Add the attributes to those of the next message."""
        assert isinstance(command, XforwardCommand)
        state.forwarded = {**state.forwarded, **command.attributes}
