"""A client and a server core that are connected to each other agree on the phase after every possible step.

A step is a command and the kind of its reply: accepted, refused, 3yz where it is possible, or 421. What a step does depends
on nothing but `ConnectedPair.state`. So taking every step once from every state covers all sequences of commands, up to
the number at which the server closes the connection because of errors (`Limits`). The claim about the state is checked
too: each state is reached on different paths and must behave in the same way.
"""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from attrs import frozen

from smtp_trio.protocol import (
    CONNECTION_LOST,
    END_OF_BODY,
    END_OF_CHUNK,
    NEED_DATA,
    AnsweredCommand,
    BadCommandError,
    ClientProtocol,
    Command,
    Connect,
    CountedCommand,
    Data,
    Ehlo,
    EndOfData,
    Expn,
    Helo,
    Help,
    LocalProtocolError,
    Mail,
    Path,
    Quit,
    Rcpt,
    Reply,
    Rset,
    ServerProtocol,
    Vrfy,
    standard,
)
from smtp_trio.protocol.commands import Noop
from smtp_trio.protocol.dialogue import CLOSED, MESSAGE as MESSAGE_PHASE, OPEN, REJECTED
from smtp_trio.protocol.extensions import KNOWN, Auth
from smtp_trio.protocol.extensions.auth import EXCHANGE, AuthCommand, AuthResponse
from smtp_trio.protocol.extensions.chunking import Bdat, BdatLast, ChunkPhase
from smtp_trio.protocol.extensions.starttls import HANDSHAKE, StartTlsCommand
from smtp_trio.protocol.grammar import Grammar

A = Path("a@b", "a", "b")
BODY_OCTETS = b".dot\r\n"

ALPHABET: tuple[Command, ...] = (
    Ehlo("x"), Helo("x"), Mail(A), Rcpt(A), Data(), EndOfData(), Bdat(len(BODY_OCTETS)), BdatLast(len(BODY_OCTETS)), Rset(),
    Noop(), Vrfy("x"), Expn("x"), Help(), StartTlsCommand(), AuthCommand("PLAIN"), AuthResponse("Zg=="), Quit(),
)  # fmt: skip

ACCEPT, REFUSE, CONTINUE, CLOSE = "accept", "refuse", "continue", "close"
KINDS = {REFUSE: Reply(450, "No"), CONTINUE: Reply(334, ""), CLOSE: Reply(421, "Bye")}

#: A command and the kind of its reply.
Step = tuple[Command, str]
#: The largest number of commands in a group.
MAX_GROUP = 4
#: The steps whose commands are sent before the first reply is received.
Group = tuple[Step, ...]

CLIENT = Grammar(KNOWN)
SERVERS: dict[str, dict[str, Any]] = {
    "all extensions": {"extensions": Grammar(standard(Auth(cleartext=True))), "tls": True, "hooks": {"auth", "expn"}},
    "no extensions": {"extensions": Grammar(()), "hooks": {"expn"}},
}  # fmt: skip


@frozen
class State:
    """Everything that the next step depends on, except what the server counts."""

    phase: enum.Enum
    offered: frozenset[str]
    pending: object
    body: bool
    secure: bool
    user: str | None
    hello: type[Command] | None
    mail: Mail | None
    rcpts: bool
    rejected_rcpts: bool


class ConnectedPair:
    """A client and a server, after the greeting and the steps of a path."""

    def __init__(self, settings: str, path: Sequence[Group] = (), *, greeting: str = ACCEPT) -> None:
        self.client = ClientProtocol(CLIENT)
        self.server = ServerProtocol("mx.test", **SERVERS[settings])
        assert isinstance(self.server.next_event(), Connect)
        self.server.send_reply(self.reply(Connect(), greeting))
        self.deliver_replies([None])
        for group in path:
            self.run_group(group)

    @property
    def phase(self) -> enum.Enum:
        """The phase of both."""
        assert self.client.dialogue.phase is self.server.dialogue.phase, (self.client.dialogue, self.server.dialogue)
        return self.client.dialogue.phase

    @property
    def state(self) -> State:
        """Everything that the next step depends on."""
        state = self.server.state
        assert self.client.in_sync or self.phase in (MESSAGE_PHASE, CLOSED)
        assert self.client.offered.keys() == state.offered or self.server.closed
        hello = None if state.hello is None else type(state.hello)
        body = self.server.inspector is not None
        rcpts, rejected_rcpts = bool(state.rcpts), bool(state.rejected_rcpts)
        return State(
            self.phase,
            state.offered,
            self.server.pending,
            body,
            state.secure,
            state.user,
            hello,
            state.mail,
            rcpts,
            rejected_rcpts,
        )

    def reply(self, command: Command, kind: str) -> Reply:
        return KINDS[kind] if kind != ACCEPT else self.server.default_reply(command)

    def run_group(self, group: Group) -> None:
        """Send the commands of a group in one segment, then the replies in another.

        Raises LocalProtocolError if the client does not send a command.
        """
        for command, _ in group:
            if isinstance(command, EndOfData):
                if self.client.dialogue.phase is MESSAGE_PHASE:
                    self.client.send_body(BODY_OCTETS)
                self.client.end_body()
            else:
                self.client.send_command(command)
                if isinstance(command, CountedCommand):
                    self.client.send_body(BODY_OCTETS)
        self.server.receive_data(self.client.data_to_send())
        phases: list[enum.Enum] = []
        all_accepted = True  # so far
        for sent, kind in group:
            if self.server.closed:
                break
            all_accepted = self.answer(sent, kind, in_order=all_accepted) and all_accepted
            phases.append(self.server.dialogue.phase)
        self.deliver_replies(phases)

    def answer(self, sent: Command, kind: str, *, in_order: bool) -> bool:
        """Answer the command that the server received, and return whether it was accepted.

        ``in_order`` is false if the server may refuse the command because an earlier one was refused.
        """
        try:
            command = self.event()
        except BadCommandError as bad:
            if in_order:
                raise
            self.server.send_reply(bad.reply)
            return False
        assert type(command) is type(sent)
        if isinstance(command, AuthCommand | AuthResponse) and kind == ACCEPT:
            self.server.set_authenticated("fred")
        reply = self.reply(command, kind)
        self.server.send_reply(reply)
        return not reply.refused

    def event(self) -> Command:
        """Return the next command, after reading its octets of the message."""
        taken = b""
        while isinstance(event := self.server.next_event(), bytes | CountedCommand):
            taken += event if isinstance(event, bytes) else b""
        assert taken == (BODY_OCTETS if event in (END_OF_BODY, END_OF_CHUNK) else b"")
        command = self.server.pending
        assert isinstance(command, Command), event
        return command

    def deliver_replies(self, phases: Sequence[enum.Enum | None]) -> None:
        """Deliver the replies to the client. ``phases`` are the server's phases after each, None if unknown."""
        self.client.receive_data(self.server.data_to_send())
        for phase in phases:
            assert isinstance(self.client.next_event(), AnsweredCommand)
            assert phase is None or self.client.dialogue.phase is phase
        assert self.client.next_event() is (CONNECTION_LOST if self.client.closed else NEED_DATA)
        if self.phase is HANDSHAKE:
            self.client.tls_started()
            self.server.tls_started()

    def server_refuses(self, command: Command) -> bool:
        """Return whether the server refuses a command that the client did not send."""
        line = command.encode().encode() + b"\r\n" + (BODY_OCTETS if isinstance(command, CountedCommand) else b"")
        self.server.receive_data(line)
        try:
            event = self.server.next_event()
        except BadCommandError as bad:
            return bad.reply.permanent
        if self.server.closed:
            return event is CONNECTION_LOST
        # During a message or an AUTH exchange, the line is not a command.
        return isinstance(event, bytes | AuthResponse)


def steps() -> Iterator[Step]:
    """Yield every command with every kind of reply that it can get."""
    for command in ALPHABET:
        yield from ((command, kind) for kind in (ACCEPT, REFUSE, CLOSE))
        if isinstance(command, AuthCommand | AuthResponse):
            yield command, CONTINUE


Make = Callable[[Sequence[Group]], ConnectedPair]


def transitions(make: Make, path: Sequence[Group]) -> dict[Step, State | None]:
    """Return the state after each step from the end of a path, None for a step that the client does not take.

    The server must refuse such a step.
    """
    targets: dict[Step, State | None] = {}
    for step in steps():
        pair = make(path)
        before = pair.state
        try:
            pair.run_group((step,))
            targets[step] = pair.state
        except LocalProtocolError:
            targets[step] = None
        if targets[step] is None:
            assert pair.state == before
            assert pair.server_refuses(step[0]), (path, step)
    return targets


@functools.cache
def explore(settings: str, greeting: str) -> dict[State, tuple[Group, ...]]:
    """Return all states that can be reached, with a shortest path to each."""

    def make(path: Sequence[Group]) -> ConnectedPair:
        return ConnectedPair(settings, path, greeting=greeting)

    paths: dict[State, tuple[Group, ...]] = {make(()).state: ()}
    known: dict[State, dict[Step, State | None]] = {}
    tried: set[tuple[State | None, State]] = set()
    queue: list[tuple[State | None, State, tuple[Group, ...]]] = [(None, start, path) for start, path in paths.items()]
    for origin, state, path in queue:
        if (origin, state) in tried:
            continue
        tried.add((origin, state))
        targets = transitions(make, path)
        assert known.setdefault(state, targets) == targets, f"the state after {path} behaves in more than one way"
        for step, target in targets.items():
            if target is not None and target != state:
                further = (*path, (step,))
                paths.setdefault(target, further)
                queue.append((state, target, further))
    return paths


def test_all_commands_of_the_table_are_tried() -> None:
    commands = {type(command) for command in ALPHABET}
    for settings in SERVERS.values():
        assert {*ServerProtocol(**settings).grammar.table.allowed} <= {Connect, *commands}


@pytest.mark.exhaustive
def test_phases_agree_with_all_extensions() -> None:
    phases = {state.phase for state in explore("all extensions", ACCEPT)}
    # CONNECTED is left by the greeting, and HANDSHAKE before the next command.
    assert phases == {*OPEN, *ChunkPhase, EXCHANGE, MESSAGE_PHASE, CLOSED}


def test_phases_agree_without_extensions() -> None:
    assert {state.phase for state in explore("no extensions", ACCEPT)} == {*OPEN, MESSAGE_PHASE, CLOSED}


@pytest.mark.parametrize("settings", SERVERS)
def test_phases_agree_after_a_rejecting_greeting(settings: str) -> None:
    """RFC 5321 3.1."""
    assert {state.phase for state in explore(settings, REFUSE)} == {REJECTED, CLOSED}


def groups(path: Sequence[Group], sent: tuple[Command, ...] = ()) -> Iterator[tuple[Command, ...]]:
    """Yield all groups of 2 to `MAX_GROUP` commands that the client sends at once."""
    for command in ALPHABET:
        if isinstance(command, EndOfData):
            continue
        client = ConnectedPair("all extensions", path).client
        for each in sent:
            client.send_command(each)
            client.send_body(BODY_OCTETS if isinstance(each, CountedCommand) else b"")
        try:
            client.send_command(command)
        except LocalProtocolError:
            continue
        group = (*sent, command)
        if sent:
            yield group
        if len(group) < MAX_GROUP and command.groupable:
            yield from groups(path, group)


@pytest.mark.exhaustive
def test_phases_agree_after_groups() -> None:
    """RFC 2920: the client uses the expected phase, the server the phase after each reply."""
    paths = explore("all extensions", ACCEPT)
    starts = {state.phase: path for state, path in reversed(paths.items()) if "PIPELINING" in state.offered}
    tried = 0
    for phase, path in starts.items():
        if phase in (MESSAGE_PHASE, CLOSED, EXCHANGE):  # at most one command is possible
            continue
        for group in groups(path):
            for kinds in itertools.product((ACCEPT, REFUSE), repeat=len(group)):
                pair = ConnectedPair("all extensions", path)
                pair.run_group(tuple(zip(group, kinds, strict=True)))
                assert pair.state in paths, (path, group, kinds)  # no state that single commands do not reach
                tried += 1
            for last in range(1, len(group) + 1):  # RFC 5321 3.8: the server closes within the group
                kinds = (*[ACCEPT] * (last - 1), CLOSE, *[REFUSE] * (len(group) - last))
                pair = ConnectedPair("all extensions", path)
                pair.run_group(tuple(zip(group, kinds, strict=True)))
                assert pair.phase is CLOSED
    assert tried > 1000
