"""What an ESMTP extension is (RFC 5321 2.2), and how several make one grammar.

An extension is one object in one file. It says what it adds: parameters, verbs, rows of the dialogue, a line in the answer to EHLO,
checks. Nothing else knows that it exists, so what a server advertises is what it implements.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, final

from attrs import define, field, frozen

from .commands import VERBS, Command, Hello, Mail, Rcpt
from .dialogue import BASE, GREETED, READY, Table
from .params import Param
from .replies import Reply

#: Commands, by class.
Commands = Sequence[type[Command]]
#: The parameters that extensions give to commands.
CommandParams = Mapping[type[Command], Sequence[Param[Any]]]

#: Where no transaction is open.
BETWEEN = frozenset({GREETED, READY})


@define(eq=False)
class SessionState:
    """What is true of a session and is no phase: what extensions may look at.

    The first few are settings of the server, the rest is what the client has achieved. STARTTLS forgets the latter but for
    ``secure`` itself (RFC 3207 4.2).
    """

    name: str = "localhost"
    size: int = 0  # octets; 0: no limit
    tls: bool = False  # TLS could be started: there is a certificate
    logins: bool = False  # somebody is there to judge credentials
    verifies: frozenset[str] = frozenset()  # VRFY, EXPN, HELP: those that the application answers
    secrets: bool = False  # somebody knows the users' secrets

    secure: bool = False
    user: str | None = None
    hello: Hello | None = None
    offered: frozenset[str] = frozenset()  # keywords that the last EHLO was told

    # The transaction under way, as far as it was accepted (RFC 5321 3.3).
    mail: Mail | None = None
    rcpts: list[Rcpt] = field(factory=list)
    turned_down: int = 0  # recipients refused in it

    @property
    def extended(self) -> bool:
        """The client said EHLO, so extensions are in force (RFC 5321 2.2.1)."""
        return self.hello is not None and self.hello.extended

    @property
    def key(self) -> tuple[object, ...]:
        """All that decides what a client is offered, and which verbs are open to it."""
        settings = (self.name, self.size, self.tls, self.logins, self.verifies, self.secrets)
        return (*settings, self.secure, self.user is None, self.extended)

    def clear(self) -> None:
        """Forget the transaction (RFC 5321 4.1.1.5: "any stored sender, recipients, and mail data")."""
        self.mail, self.rcpts, self.turned_down = None, [], 0

    def settle(self, command: Command, reply: Reply, phase: enum.Enum) -> None:
        """A command was answered, and led to this phase: keep what it said, or drop what is over."""
        if phase in BETWEEN and self.mail is not None:
            self.clear()  # RSET, EHLO, or the answer to the message: there is no transaction any more
        if type(command) is Rcpt:
            if reply.accepted:
                self.rcpts.append(command)
            else:
                self.turned_down += 1
        elif reply.accepted:
            if type(command) is Mail:
                self.mail = command
            elif isinstance(command, Hello):
                self.hello = command

    def forget(self) -> None:
        """Forget all that the client said (RFC 3207 4.2, on STARTTLS)."""
        self.clear()
        self.user, self.hello, self.offered = None, None, frozenset()


class Step(enum.Enum):
    """What a dialogue inside a verb may ask for besides sending a reply."""

    UPGRADE = "start TLS"


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
    raw: ClassVar[Mapping[enum.Enum, type[Command]]] = {}
    #: Keywords of extensions that must be there too.
    needs: ClassVar[Sequence[str]] = ()
    #: The commands that it wants to `review`: all of a kind, or those with a certain parameter.
    reviews: ClassVar[Sequence[type[Command] | Param[Any]]] = ()
    #: Lines that may be longer than the rest: octets by verb.
    lines: ClassVar[Mapping[str, int]] = {}

    def advertise(self, state: SessionState) -> str | None:
        """Server: its line in the answer to EHLO, or None to say nothing now (its parameters are unknown then, too)."""
        return self.keyword

    def understand(self, words: Sequence[str]) -> Self:
        """Client: what the server says of it, as words behind the keyword."""
        return self

    def gate(self, verb: str, state: SessionState) -> Reply | None:
        """Server: refuse a verb before its argument is looked at (530: TLS or AUTH first), or None.

        It is asked once, and again when the client has said hello, logged in or turned on TLS: it may look at no other facts.
        """
        return None

    def review(self, command: Command, state: SessionState) -> Reply | None:
        """Server: refuse one of its ``reviews`` that is well-formed and in order, before any hook sees it, or None."""
        return None


@frozen
class Offer:
    """What a client with given facts is offered: the answer to its EHLO, and the parameters by command."""

    reply: Reply
    keywords: frozenset[str]
    grammar: Mapping[type[Command], Mapping[str, Param[Any]]]


NOTHING = Offer(Reply(250), frozenset(), {})


@final
class Grammar:
    """Extensions merged: one table, one set of verbs, one line limit. Made once, shared by all sessions.

    Raises ValueError when two of them own one verb or keyword, or one lacks another that it needs.
    """

    def __init__(self, extensions: Iterable[Extension], *, line: int = 512) -> None:
        self.extensions: tuple[Extension, ...] = tuple(extensions)
        self.table: Table = BASE.merge(extension.table for extension in self.extensions)
        keywords = [extension.keyword for extension in self.extensions]
        self.verbs: dict[str, type[Command]] = dict(VERBS)
        for extension in self.extensions:
            if keywords.count(extension.keyword) > 1:
                raise ValueError(f"{extension.keyword} is there twice")
            if missing := set(extension.needs) - set(keywords):
                raise ValueError(f"{extension.keyword} needs {', '.join(sorted(missing))} too")
            for verb in extension.verbs:
                if self.verbs.setdefault(verb.verb, verb) is not verb:
                    raise ValueError(f"{extension.keyword} claims {verb.verb}, which is taken")
        _check_owners(self._all_params())
        #: RFC 5321 4.5.3.1.4: 512 octets, and what every extension adds; never less than what the server grants anyway.
        self.line: int = max(line, 512 + sum({param: param.room for _, param in self._all_params()}.values()))
        self.long_lines: dict[str, int] = {}
        self.raw: dict[enum.Enum, type[Command]] = {}
        for extension in self.extensions:
            self.long_lines.update(extension.lines)
            self.raw.update(extension.raw)
        self.gates: tuple[Extension, ...] = tuple(e for e in self.extensions if type(e).gate is not Extension.gate)
        self.reviews: dict[type[Command] | Param[Any], tuple[Extension, ...]] = {
            subject: tuple(e for e in self.extensions if subject in e.reviews)
            for extension in self.extensions
            for subject in extension.reviews
        }
        self._offers: dict[tuple[object, ...], Offer] = {}
        #: What `CommandParser` has found to be in order, for clients with the same facts; all sessions share it.
        self.found: dict[tuple[object, ...], dict[enum.Enum, dict[str, Any]]] = {}

    def has(self, keyword: str) -> bool:
        """Whether an extension of that keyword is among these."""
        return any(extension.keyword == keyword for extension in self.extensions)

    def params(self, command: type[Command]) -> tuple[Param[Any], ...]:
        """The parameters that any of these extensions gives to this command."""
        return tuple(dict.fromkeys(param for kind, param in self._all_params() if kind is command))

    def offer(self, state: SessionState) -> Offer:
        """What a client with these facts is offered. Made once for each combination of facts that differs."""
        key = state.key
        offer = self._offers.get(key)
        if offer is None:
            offer = self._offers[key] = self._make_offer(state)
        return offer

    def _make_offer(self, state: SessionState) -> Offer:
        lines, keywords = [], set()
        grammar: dict[type[Command], dict[str, Param[Any]]] = {}
        for extension in self.extensions:
            line = extension.advertise(state)
            if line is None:
                continue
            lines.append(line)
            keywords.add(extension.keyword)
            for command, params in extension.params.items():
                grammar.setdefault(command, {}).update({param.keyword: param for param in params})
        # RFC 5321 4.1.1.1: the server's domain stands in the first line, an extension in each of the others.
        return Offer(Reply(250, "\n".join([state.name, *lines]), ""), frozenset(keywords), grammar)

    def _all_params(self) -> Iterator[tuple[type[Command], Param[Any]]]:
        for extension in self.extensions:
            for command, params in extension.params.items():
                yield from ((command, param) for param in params)


def _check_owners(params: Iterable[tuple[type[Command], Param[Any]]]) -> None:
    """Two extensions may share one parameter object (BODY, say), but not one keyword."""
    owners: dict[tuple[type[Command], str], Param[Any]] = {}
    for command, param in params:
        if owners.setdefault((command, param.keyword), param) is not param:
            raise ValueError(f"{param.keyword} of {command.verb} is defined twice")
