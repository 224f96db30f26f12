"""What may be said when, and where it leads: the one table, for servers and clients alike.

SMTP is questions and answers, and both sides see every question and every answer. So one machine does for both: it is *asked* a
command and moves when that command is *answered*, by the first digit of the reply and nothing else (RFC 5321 4.3.2).

A row says: in this phase the command may be given, and this is the phase that such an answer leads to. Extensions bring rows of
their own, with phases of their own if need be. Whether the channel is secure or the client has logged in is no phase: those are
facts (`extension.SessionState`), and whoever minds them asks there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from attrs import Factory, field, frozen

from .commands import Command, Connect, Data, Ehlo, EndOfBody, Expn, Helo, Help, Mail, Noop, Quit, Rcpt, Rset, Vrfy
from .errors import LocalProtocolError
from .replies import Reply


class PhaseEnum(enum.Enum):
    """An enum whose members are looked up in tables all the time: they hash by identity, which `enum` itself does not do."""

    __hash__: ClassVar[Callable[[Any], int]] = object.__hash__


class Phase(PhaseEnum):
    """Where a session stands. An extension may bring further phases as members of an enum of its own."""

    CONNECTED = "connected, not greeted"
    REJECTED = "turned away by the greeting"
    GREETED = "greeted, no EHLO yet"
    READY = "ready for a transaction"
    SENDER = "has a sender"
    RECIPIENT = "has a recipient"
    MESSAGE = "message under way"
    CLOSED = "over"


CONNECTED, REJECTED, GREETED, READY, SENDER, RECIPIENT, MESSAGE, CLOSED = Phase
#: RFC 5321 4.1.4: in these a client may give commands that have nothing to do with a transaction.
OPEN = (GREETED, READY, SENDER, RECIPIENT)

Rows = Mapping[type[Command], Mapping[enum.Enum, enum.Enum]]


def unchanged(*phases: enum.Enum) -> dict[enum.Enum, enum.Enum]:
    """Rows for a command that may be given in these phases and changes none of them."""
    return {phase: phase for phase in phases}


def _legal(table: Table) -> dict[type[Command], frozenset[enum.Enum]]:
    commands = {*table.accepted, *table.proceed}
    return {
        command: frozenset({*table.accepted.get(command, {}), *table.proceed.get(command, {})}) for command in commands
    }


def _by_digit(table: Table) -> Sequence[Rows]:
    return ({}, {}, table.accepted, table.proceed, table.refused, table.refused)


@frozen
class Table:
    """The rows, by kind of answer. An answer without a row leaves the phase as it was."""

    accepted: Rows  # 2yz
    proceed: Rows  # 3yz: the server waits for more
    refused: Rows  # 4yz and 5yz
    #: In which phases each command may be given: those that it has a row for.
    legal: Mapping[type[Command], frozenset[enum.Enum]] = field(init=False, default=Factory(_legal, takes_self=True))
    #: The rows by the first digit of a reply, which decides alone (RFC 5321 4.3.2).
    by_digit: Sequence[Rows] = field(init=False, default=Factory(_by_digit, takes_self=True))

    def merge(self, others: Iterable[Table]) -> Table:
        """This table with the rows of others added. Raises ValueError where two of them disagree."""
        tables = (self, *others)
        kinds = ("accepted", "proceed", "refused")
        return Table(*(_merge([getattr(table, kind) for table in tables]) for kind in kinds))


def _merge(rows: Iterable[Rows]) -> dict[type[Command], dict[enum.Enum, enum.Enum]]:
    merged: dict[type[Command], dict[enum.Enum, enum.Enum]] = {}
    for some in rows:
        for command, leads in some.items():
            row = merged.setdefault(command, {})
            for phase, target in leads.items():
                if row.setdefault(phase, target) is not target:
                    raise ValueError(f"two rows for {command.__name__} in {phase.name}")
    return merged


#: RFC 5321 4.1.4, the order of commands, and 3.3, the mail transaction.
BASE = Table(
    accepted={
        Connect: {CONNECTED: GREETED},
        # "An EHLO command MAY be issued by a client later in the session": it clears the transaction as RSET does.
        Ehlo: {GREETED: READY, READY: READY, SENDER: READY, RECIPIENT: READY},
        Helo: {GREETED: READY, READY: READY, SENDER: READY, RECIPIENT: READY},
        Mail: {READY: SENDER},
        Rcpt: {SENDER: RECIPIENT, RECIPIENT: RECIPIENT},
        EndOfBody: {MESSAGE: READY},
        # 4.1.1.5: RSET undoes MAIL and RCPT, never EHLO; before EHLO it is fine as well (4.1.4).
        Rset: {GREETED: GREETED, READY: READY, SENDER: READY, RECIPIENT: READY},
        Noop: unchanged(*OPEN),
        Vrfy: unchanged(*OPEN),
        Expn: unchanged(*OPEN),
        Help: unchanged(*OPEN),
        # 3.1: a client that was turned away can do nothing but QUIT.
        Quit: dict.fromkeys((REJECTED, *OPEN), CLOSED),
    },
    proceed={
        Data: {RECIPIENT: MESSAGE},
    },
    refused={
        Connect: {CONNECTED: REJECTED},
        # A refusal in place of the 354 is the verdict on the message, as one at its end is: both clear the buffers (4.1.1.4).
        Data: {RECIPIENT: READY},
        EndOfBody: {MESSAGE: READY},
    },
)


STALE = (-1, CLOSED)


class Dialogue:
    """One session's place in the table.

    ``phase`` is where it is; ``expected_phase`` is where it will be when all that was asked is accepted, which is what a client that sends
    ahead must go by (RFC 2920 3.1). A server has at most one question open, so for it the two differ only while it thinks.
    """

    __slots__ = ("_ahead", "_legal", "_table", "phase", "unanswered")

    def __init__(self, table: Table = BASE) -> None:
        self.phase: enum.Enum = CONNECTED
        self.unanswered: list[Command] = []
        self._ahead: tuple[int, enum.Enum] = STALE  # ``expected_phase``, while so many are asked
        self._table = table
        self._legal = table.legal

    @property
    def expected_phase(self) -> enum.Enum:
        """The phase after everything that was asked is answered with yes."""
        count, phase = self._ahead
        if count != len(self.unanswered):  # something was answered since
            phase = self.phase
            for command in self.unanswered:
                phase = self._yes(phase, command)
        return phase

    def _yes(self, phase: enum.Enum, command: Command) -> enum.Enum:
        """Where this command leads to from there when it is accepted."""
        kind, table = type(command), self._table
        rows = table.proceed if phase in table.proceed.get(kind, ()) else table.accepted
        return rows.get(kind, {}).get(phase, phase)

    def allows(self, command: type[Command]) -> bool:
        """Whether the command is in order now."""
        phase = self.expected_phase if self.unanswered else self.phase
        return phase in self._legal.get(command, ())

    def add_command(self, command: Command) -> None:
        """A question goes out (client) or came in (server). Raises LocalProtocolError when it is out of order."""
        phase = self.expected_phase if self.unanswered else self.phase
        if phase not in self._legal.get(type(command), ()):
            raise LocalProtocolError(f"{command.verb} is out of order: {phase.value}")
        self.unanswered.append(command)
        self._ahead = (
            len(self.unanswered),
            self._yes(phase, command),
        )  # a group of a hundred is not gone through a hundred times

    def add_reply(self, reply: Reply) -> Command:
        """The oldest question is answered, and gives way: returns it. Raises LocalProtocolError when there is none."""
        if not self.unanswered:
            raise LocalProtocolError(f"nothing was asked that {reply.code} could answer")
        command = self.unanswered.pop(0)
        self._ahead = STALE
        row = self._table.by_digit[reply.code // 100].get(type(command))
        if row is not None:
            self.phase = row.get(self.phase, self.phase)
        return command

    def enter(self, phase: enum.Enum) -> None:
        """Go to a phase that no reply leads to: a TLS handshake is done (RFC 3207 4.2), or the connection is lost."""
        self.phase = phase
        self.unanswered.clear()
