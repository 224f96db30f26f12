"""What an ESMTP extension is (RFC 5321 2.2)."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from .commands import Command
from .dialogue import Table
from .params import Param
from .replies import Reply
from .session_state import SessionState

#: Commands, by class.
Commands = Sequence[type[Command]]
#: The parameters that extensions give to commands.
CommandParams = Mapping[type[Command], Sequence[Param[Any]]]


class Extension:
    """An ESMTP extension. Every member has a default; an extension fills in what it needs."""

    #: Its name in the answer to EHLO.
    keyword: ClassVar[str] = ""
    #: Parameters that it adds, by command.
    params: ClassVar[CommandParams] = {}
    #: Verbs that it adds.
    verbs: ClassVar[Commands] = ()
    #: Rows that it adds to the dialogue.
    table: ClassVar[Table] = Table({}, {}, {})
    #: Phases in which a line is no command but the text of this question.
    continuations: ClassVar[Mapping[enum.Enum, type[Command]]] = {}
    #: Keywords of extensions that must be there too.
    requires: ClassVar[Sequence[str]] = ()
    #: The commands that it wants to `review`: all of a kind, or those with a certain parameter.
    checks: ClassVar[Sequence[type[Command] | Param[Any]]] = ()
    #: Lines that may be longer than the rest: octets by verb.
    line_limits: ClassVar[Mapping[str, int]] = {}

    def advertise(self, state: SessionState) -> str | None:
        """Server: its line in the answer to EHLO, or None to say nothing now (its parameters are unknown then, too).

        The default is the keyword, or None when a hook is missing without which one of its verbs is not served.
        """
        return self.keyword if all(verb.is_implemented(state.hooks) for verb in self.verbs) else None

    def parse_offer(self, words: Sequence[str]) -> Self:
        """Client: what the server says of it, as words behind the keyword."""
        return self

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        """Server: refuse a verb before its argument is looked at (530: TLS or AUTH first), or None.

        It is asked once, and again when the client has said hello, logged in or turned on TLS: it may look at no other facts.
        """
        return None

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Server: refuse one of its ``reviews`` that is well-formed and in order, before any hook sees it, or None."""
        return None
