"""`Extension`: one ESMTP extension (RFC 5321 2.2)."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from .commands import Command
from .dialogue import Table
from .params import Param
from .replies import Reply
from .session_state import SessionState

Commands = Sequence[type[Command]]
#: The parameters that an extension adds, by command.
CommandParams = Mapping[type[Command], Sequence[Param[Any]]]


# An extension declares everything that it adds to the protocol in one class: its line in the reply to EHLO, its
# parameters, its verbs, its rows of the state table and its checks. So a server cannot advertise what it does not
# implement, and a parameter that was not advertised in this session is refused with 555 (RFC 5321 4.1.1.11).
#
# Two checks run at different times. `check_verb` runs before the argument is parsed, because RFC 3207 4 and RFC 4954 6
# require 530 for a command that is not allowed yet, whatever its argument. `check_command` runs on a command that is
# well-formed and in sequence.


class Extension:
    """Base class of ESMTP extensions. Every member has a default; an extension overrides what it needs."""

    #: The EHLO keyword.
    keyword: ClassVar[str] = ""
    #: The number of the RFC, for documentation; 0 without an RFC.
    rfc: ClassVar[int] = 0
    #: The parameters that it adds, by command.
    params: ClassVar[CommandParams] = {}
    #: The commands that it adds.
    verbs: ClassVar[Commands] = ()
    #: The commands of RFC 5321 that a server with it does not have.
    replaces: ClassVar[Commands] = ()
    #: The rows that it adds to the state table.
    table: ClassVar[Table] = Table({})
    #: Phases in which the next line is not a command but continues an exchange, with the class that the line becomes.
    continuations: ClassVar[Mapping[enum.Enum, type[Command]]] = {}
    #: Keywords of other extensions that must be present.
    requires: ClassVar[Sequence[str]] = ()
    #: What `check_command` is called for: all commands of a class, or the commands with a certain parameter.
    checks: ClassVar[Sequence[type[Command] | Param[Any]]] = ()
    #: Verbs whose lines may be longer than other command lines, with the limit in octets.
    line_limits: ClassVar[Mapping[str, int]] = {}
    #: Whether `advertise` depends on anything but the `SessionState`, such as the time. That of an extension outside of
    #: this package may always do.
    offer_varies: ClassVar[bool] = False

    def advertise(self, state: SessionState) -> str | None:
        """Server: return the line for the reply to EHLO, or None to offer nothing in this state.

        Without a line, the extension's parameters are not recognized either. The default is the keyword, or None if one
        of the verbs needs a hook that the server does not have.
        """
        return self.keyword if all(verb.is_implemented(state.hooks) for verb in self.verbs) else None

    def parse_offer(self, words: Sequence[str]) -> Self:
        """Client: return this extension with the parameters that the server's EHLO line has after the keyword."""
        return self

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        """Server: return a reply that refuses the verb before its argument is parsed (530, for example), or None.

        It is called for every command, and may depend on anything. A server with such an extension parses commands
        more slowly, because it cannot cache the verbs that are allowed.
        """
        return None

    def accepted(self, command: Command, state: SessionState) -> None:
        """Server: change the state after a positive reply to one of the commands in ``verbs``.

        It is called before the reply is sent. What EHLO offers and which verbs are allowed is found anew afterwards.
        """

    def check_command(self, command: Command, state: SessionState) -> Reply | Command | None:
        """Server: return a reply that refuses one of the commands in ``checks``, or None to accept it.

        It may also return a command of the same class to use in its place, with another value of a parameter. It is
        called for commands that are well-formed and in sequence, before any hook.
        """
        return None

    def check_request(self, command: Command, *, verified: bool) -> None:
        """Client: raise an exception if the server, which offers the extension, would not accept a command's parameters.

        It is called for commands with parameters. ``verified`` is true with TLS and a verified server name. Raises
        `LocalProtocolError`, or `NotOfferedError` if another server might accept them.
        """
