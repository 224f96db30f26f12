"""The state table of SMTP: which commands are allowed in which phase, and which phase a reply leads to.

The table is shared by the server and the client.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import Factory, field, frozen

from .commands import Command, Connect, Data, Ehlo, EndOfData, Expn, Helo, Help, Mail, Noop, Quit, Rcpt, Rset, Vrfy
from .errors import LocalProtocolError
from .replies import Reply
from .values import Value

# How the table works
# -------------------
#
# Each SMTP command has one reply, in order, and both sides see every command and every reply. The phase of a session
# can therefore be computed from that sequence alone, by the same rules on both sides. So there is one table and one
# class, `Dialogue`, which the server and the client both use. A test runs the two against each other and checks that
# they agree on the phase after every reply; two hand-written state machines would differ sooner or later.
#
# Two replies do not answer a command on the wire: the greeting, and the final reply to a message. The table has
# commands for them, `Connect` and `EndOfData`. With these, "the server rejected the connection" and "the server
# accepted the message" need no rules of their own.
#
# The phase moves when a command is *answered*, not when it is received or sent. A MAIL that is refused does not begin a
# transaction, so a phase that moved on the command would have to be moved back. The new phase depends on the command,
# the present phase and the first digit of the reply, and on nothing else (RFC 5321 4.3.2: clients and servers should
# decide by the first digit). Hence the three parts of a table: accepted (2yz), proceed (3yz), refused (4yz, 5yz).
#
# A command is allowed in a phase if a positive reply to it has a row there. A reply without a row changes nothing: a
# refused RCPT, for example.
#
# A client that pipelines (RFC 2920) sends commands before their replies arrive. It has to check the order of commands
# against the phase that will be reached if everything so far is accepted. That is `Dialogue.expected_phase`.
#
# Extensions add rows, with phases of their own if they need any, and the tables are merged once, when the server or
# client is set up. Conditions that are not part of the command sequence (TLS is active, the client is authenticated)
# are not phases: they would multiply the number of phases. They are kept in `SessionState`, and extensions check them.


class PhaseEnum(enum.Enum):
    """Base class of phases. Members hash by identity, because they are dictionary keys on the path of every command."""

    if TYPE_CHECKING:  # an attribute that is not a method would make the class unhashable to some type checkers

        def __hash__(self) -> int:
            """Return the hash of the identity."""
            ...

    else:
        __hash__ = object.__hash__


class Phase(PhaseEnum):
    """The phases of a session. An extension may add further phases as members of another `PhaseEnum`."""

    CONNECTED = "before the greeting"
    REJECTED = "after a rejecting greeting"
    GREETED = "before EHLO"
    READY = "outside a mail transaction"
    SENDER = "after MAIL"
    RECIPIENT = "after RCPT"
    MESSAGE = "during a message"
    CLOSED = "on a closed connection"


CONNECTED, REJECTED, GREETED, READY, SENDER, RECIPIENT, MESSAGE, CLOSED = Phase
#: The phases in which a client may send commands that do not depend on a transaction (RFC 5321 4.1.4).
OPEN = (GREETED, READY, SENDER, RECIPIENT)

Rows = Mapping[type[Command], Mapping[enum.Enum, enum.Enum]]


def unchanged(*phases: enum.Enum) -> dict[enum.Enum, enum.Enum]:
    """Return the row of a command that is allowed in ``phases`` and changes none of them."""
    return {phase: phase for phase in phases}


def _expected(table: Table) -> Rows:
    commands = {*table.accepted, *table.proceed}
    return {command: {**table.accepted.get(command, {}), **table.proceed.get(command, {})} for command in commands}


def _allowed(table: Table) -> dict[type[Command], frozenset[enum.Enum]]:
    return {command: frozenset(row) for command, row in table.expected.items()}


def _by_digit(table: Table) -> Sequence[Rows]:
    return ({}, {}, table.accepted, table.proceed, table.refused, table.refused)


@frozen(eq=False, repr=False)
class Table(Value):
    """Rows of the dialogue: for each command, the phases in which it is allowed and the phase that a reply leads to.

    ``accepted`` holds the rows for 2yz replies, ``proceed`` those for 3yz, ``refused`` those for 4yz and 5yz. A reply
    without a row leaves the phase unchanged.
    """

    accepted: Rows
    proceed: Rows = field(factory=dict)
    refused: Rows = field(factory=dict)
    #: The phases that the first positive replies lead to, 2yz or 3yz.
    expected: Rows = field(init=False, default=Factory(_expected, takes_self=True))
    #: The phases in which each command is allowed.
    allowed: Mapping[type[Command], frozenset[enum.Enum]] = field(
        init=False, default=Factory(_allowed, takes_self=True)
    )
    #: The rows by the first digit of the reply.
    by_digit: Sequence[Rows] = field(init=False, default=Factory(_by_digit, takes_self=True))

    def merge(self, others: Iterable[Table]) -> Table:
        """Return this table with the rows of ``others`` added.

        Raises ValueError if two tables lead from one phase to different phases for one command and reply.
        """
        tables = (self, *others)
        parts = ("accepted", "proceed", "refused")
        return Table(*(_merge([getattr(table, part) for table in tables]) for part in parts))


def _merge(parts: Iterable[Rows]) -> dict[type[Command], dict[enum.Enum, enum.Enum]]:
    merged: dict[type[Command], dict[enum.Enum, enum.Enum]] = {}
    for rows in parts:
        for command, targets in rows.items():
            row = merged.setdefault(command, {})
            for phase, target in targets.items():
                if row.setdefault(phase, target) is not target:
                    raise ValueError(f"conflicting rows for {command.__name__} in phase {phase.name}")
    return merged


#: The table of RFC 5321 itself: the order of commands (4.1.4) and the mail transaction (3.3).
BASE = Table(
    accepted={
        Connect: {CONNECTED: GREETED},
        # RFC 5321 4.1.4: "An EHLO command MAY be issued by a client later in the session." It then clears the
        # transaction as RSET does.
        Ehlo: {GREETED: READY, READY: READY, SENDER: READY, RECIPIENT: READY},
        Helo: {GREETED: READY, READY: READY, SENDER: READY, RECIPIENT: READY},
        Mail: {READY: SENDER},
        Rcpt: {SENDER: RECIPIENT, RECIPIENT: RECIPIENT},
        EndOfData: {MESSAGE: READY},
        # RFC 5321 4.1.1.5: RSET clears the transaction and keeps the EHLO. It is also allowed before EHLO (4.1.4).
        Rset: {GREETED: GREETED, READY: READY, SENDER: READY, RECIPIENT: READY},
        Noop: unchanged(*OPEN),
        Vrfy: unchanged(*OPEN),
        Expn: unchanged(*OPEN),
        Help: unchanged(*OPEN),
        # RFC 5321 3.1: after a 554 greeting the server waits for QUIT and answers everything else with 503.
        Quit: dict.fromkeys((REJECTED, *OPEN), CLOSED),
    },
    proceed={
        Data: {RECIPIENT: MESSAGE},
    },
    refused={
        Connect: {CONNECTED: REJECTED},
        # RFC 5321 4.1.1.4: a failed DATA clears the buffers, whether it fails instead of the 354 or at the end of data.
        Data: {RECIPIENT: READY},
        EndOfData: {MESSAGE: READY},
    },
)

#: The row of a command whose reply changes nothing.
NO_ROW: Mapping[enum.Enum, enum.Enum] = {}
#: `Dialogue._ahead` when it has to be computed again. No list of unanswered commands has this length.
STALE = (-1, CLOSED)


class Dialogue:
    """The phase of one session, and its unanswered commands.

    ``phase`` is the phase after all replies so far, ``unanswered`` the commands without a reply, oldest first. A server
    has at most one of those at a time, a client that pipelines has several.
    """

    __slots__ = ("_ahead", "_allowed", "_by_digit", "_table", "phase", "unanswered")

    def __init__(self, table: Table = BASE) -> None:
        self.phase: enum.Enum = CONNECTED
        self.unanswered: list[Command] = []
        # The expected phase, with the number of unanswered commands that it was computed for. Without it, sending a
        # group of n commands would go through the list n times.
        self._ahead: tuple[int, enum.Enum] = STALE
        self._table = table
        self._allowed = table.allowed
        self._by_digit = table.by_digit

    @property
    def expected_phase(self) -> enum.Enum:
        """The phase that is reached if all unanswered commands are accepted (RFC 2920 3.1)."""
        count, phase = self._ahead
        if count != len(self.unanswered):
            phase = self.phase
            for command in self.unanswered:
                phase = self._phase_after(phase, command)
        return phase

    def _phase_after(self, phase: enum.Enum, command: Command) -> enum.Enum:
        """Return the phase that ``command`` leads to from ``phase`` if it is accepted."""
        return self._table.expected.get(type(command), {}).get(phase, phase)

    def allows(self, command: type[Command]) -> bool:
        """Return whether the command is allowed in the expected phase."""
        phase = self.expected_phase if self.unanswered else self.phase
        return phase in self._allowed.get(command, ())

    def add_command(self, command: Command) -> None:
        """Record a command that was sent (client) or received (server).

        Raises LocalProtocolError, and records nothing, if the command is not allowed in the expected phase.
        """
        count, phase = self._ahead
        if not self.unanswered:
            phase = self.phase
        elif count != len(self.unanswered):
            phase = self.expected_phase
        row = self._table.expected.get(type(command), {})
        if phase not in row:
            raise LocalProtocolError(f"{command.verb} is not allowed {phase.value}")
        self.unanswered.append(command)
        self._ahead = len(self.unanswered), row[phase]

    def add_reply(self, reply: Reply) -> Command:
        """Record the reply to the oldest unanswered command, move to the phase it leads to, and return the command.

        Raises LocalProtocolError if all commands have been answered.
        """
        try:
            command = self.unanswered.pop(0)
        except IndexError:
            raise LocalProtocolError(f"no command is waiting for a reply, got {reply.code}") from None
        self._ahead = STALE
        row = self._by_digit[reply.code // 100].get(type(command), NO_ROW)
        self.phase = row.get(self.phase, self.phase)
        return command

    def enter(self, phase: enum.Enum) -> None:
        """Move to a phase that no reply leads to, and drop all unanswered commands.

        Used after a TLS handshake (RFC 3207 4.2) and when the connection cannot be used any more.
        """
        self.phase = phase
        self.unanswered.clear()
