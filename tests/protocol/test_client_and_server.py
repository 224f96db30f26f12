"""The two cores, wired back to back: client and server agree on where they are after everything that can be said and answered.

One step is a command and the kind of its answer: yes, no, "go on" where there is such a thing, or 421. What a step does depends on
what `Pair.state` holds and on nothing else that a path has left behind, so to take every step from every state once is to try all
sequences: those of six commands, and all that are longer, until a server has enough of errors (`Limits`). The claim about `state`
is checked as well: each state is tried again behind every other state that leads to it, and must behave in the same way.
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
    Answer,
    BadCommandError,
    ClientProtocol,
    Command,
    Connect,
    CountedCommand,
    Data,
    Ehlo,
    EndOfBody,
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
    Ehlo("x"), Helo("x"), Mail(A), Rcpt(A), Data(), EndOfBody(), Bdat(len(BODY_OCTETS)), BdatLast(len(BODY_OCTETS)), Rset(),
    Noop(), Vrfy("x"), Expn("x"), Help(), StartTlsCommand(), AuthCommand("PLAIN"), AuthResponse("Zg=="), Quit(),
)  # fmt: skip

YES, NO, GO_ON, BYE = "yes", "no", "go on", "bye"
KINDS = {NO: Reply(450, "No"), GO_ON: Reply(334, ""), BYE: Reply(421, "Bye")}

#: A command, and the kind of answer that it gets.
Step = tuple[Command, str]
#: Commands of the longest group.
LONGEST = 4
#: The same for all that is said before anything is heard.
Group = tuple[Step, ...]

CLIENT = Grammar(KNOWN)
SERVERS: dict[str, dict[str, Any]] = {
    "all there is": {"extensions": Grammar(standard(Auth(cleartext=True))), "tls": True, "hooks": {"auth", "expn"}},
    "nothing": {"extensions": Grammar(()), "hooks": {"expn"}},
}  # fmt: skip


@frozen
class State:
    """All that the next step may depend on, but for what a server counts."""

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


class Pair:
    """A client and a server, behind the greeting and the steps of a path."""

    def __init__(self, settings: str, path: Sequence[Group] = (), *, greeting: str = YES) -> None:
        self.client = ClientProtocol(CLIENT)
        self.server = ServerProtocol("mx.test", **SERVERS[settings])
        assert isinstance(self.server.next_event(), Connect)
        self.server.send(self.reply(Connect(), greeting))
        self.hear([None])
        for group in path:
            self.take(group)

    @property
    def phase(self) -> enum.Enum:
        """Where both of them are."""
        assert self.client.dialogue.phase is self.server.dialogue.phase, (self.client.dialogue, self.server.dialogue)
        return self.client.dialogue.phase

    @property
    def state(self) -> State:
        """What the next step may depend on."""
        state = self.server.state
        assert self.client.in_sync or self.phase in (MESSAGE_PHASE, CLOSED)
        assert self.client.offered.keys() == state.offered or self.server.closed
        hello = None if state.hello is None else type(state.hello)
        body = self.server.body is not None
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
        return KINDS[kind] if kind != YES else self.server.default_reply(command)

    def take(self, group: Group) -> None:
        """All commands of a group in one segment, then all answers in another. Raises LocalProtocolError as the client does."""
        for command, _ in group:
            if isinstance(command, EndOfBody):
                if self.client.dialogue.phase is MESSAGE_PHASE:
                    self.client.send_body(BODY_OCTETS)
                self.client.end_body()
            else:
                self.client.send_command(command)
                if isinstance(command, CountedCommand):
                    self.client.send_body(BODY_OCTETS)
        self.server.receive_data(self.client.data_to_send())
        phases: list[enum.Enum] = []
        hopes = True  # all was accepted so far
        for said, kind in group:
            if self.server.closed:
                break
            hopes = self.answer(said, kind, in_order=hopes) and hopes
            phases.append(self.server.dialogue.phase)
        self.hear(phases)

    def answer(self, said: Command, kind: str, *, in_order: bool) -> bool:
        """The server hears a command, and answers it. ``in_order``: it has no reason to refuse it by itself. Returns whether it was
        accepted.
        """
        try:
            command = self.event()
        except BadCommandError as bad:
            if in_order:
                raise
            self.server.send(bad.reply)
            return False
        assert type(command) is type(said)
        if isinstance(command, AuthCommand | AuthResponse) and kind == YES:
            self.server.authenticated("fred")
        reply = self.reply(command, kind)
        self.server.send(reply)
        return not reply.refused

    def event(self) -> Command:
        """The next command, whose octets of the message were taken if it has any."""
        taken = b""
        while isinstance(event := self.server.next_event(), bytes | CountedCommand):
            taken += event if isinstance(event, bytes) else b""
        assert taken == (BODY_OCTETS if event in (END_OF_BODY, END_OF_CHUNK) else b"")
        command = self.server.pending
        assert isinstance(command, Command), event
        return command

    def hear(self, phases: Sequence[enum.Enum | None]) -> None:
        """The client hears the answers. ``phases`` are those of the server behind each of them; None: not known."""
        self.client.receive_data(self.server.data_to_send())
        for phase in phases:
            assert isinstance(self.client.next_event(), Answer)
            assert phase is None or self.client.dialogue.phase is phase
        assert self.client.next_event() is (CONNECTION_LOST if self.client.closed else NEED_DATA)
        if self.phase is HANDSHAKE:
            self.client.secured()
            self.server.secured()

    def refuses(self, command: Command) -> bool:
        """Whether the server refuses a command that this client would not send."""
        line = command.encode().encode() + b"\r\n" + (BODY_OCTETS if isinstance(command, CountedCommand) else b"")
        self.server.receive_data(line)
        try:
            event = self.server.next_event()
        except BadCommandError as bad:
            return bad.reply.permanent
        if self.server.closed:
            return event is CONNECTION_LOST
        # In the middle of a message or of an exchange it is no command at all, whatever it looks like.
        return isinstance(event, bytes | AuthResponse)


def steps() -> Iterator[Step]:
    """Every command with every kind of answer that it can get."""
    for command in ALPHABET:
        yield from ((command, kind) for kind in (YES, NO, BYE))
        if isinstance(command, AuthCommand | AuthResponse):
            yield command, GO_ON


Make = Callable[[Sequence[Group]], Pair]


def behaviour(make: Make, path: Sequence[Group]) -> dict[Step, State | None]:
    """What every step leads to behind this path. A step that the client does not take is one that the server refuses as well."""
    leads: dict[Step, State | None] = {}
    for step in steps():
        pair = make(path)
        before = pair.state
        try:
            pair.take((step,))
            leads[step] = pair.state
        except LocalProtocolError:
            leads[step] = None
        if leads[step] is None:
            assert pair.state == before
            assert pair.refuses(step[0]), (path, step)
    return leads


@functools.cache
def explore(settings: str, greeting: str) -> dict[State, tuple[Group, ...]]:
    """Every state that there is, and a path to it, as short as can be."""

    def make(path: Sequence[Group]) -> Pair:
        return Pair(settings, path, greeting=greeting)

    paths: dict[State, tuple[Group, ...]] = {make(()).state: ()}
    known: dict[State, dict[Step, State | None]] = {}
    tried: set[tuple[State | None, State]] = set()
    queue: list[tuple[State | None, State, tuple[Group, ...]]] = [(None, start, path) for start, path in paths.items()]
    for origin, state, path in queue:
        if (origin, state) in tried:
            continue
        tried.add((origin, state))
        leads = behaviour(make, path)
        assert known.setdefault(state, leads) == leads, f"{path} leads to a state that behaves in more than one way"
        for step, target in leads.items():
            if target is not None and target != state:
                further = (*path, (step,))
                paths.setdefault(target, further)
                queue.append((state, target, further))
    return paths


def test_the_alphabet_is_the_tables() -> None:
    commands = {type(command) for command in ALPHABET}
    for settings in SERVERS.values():
        assert {*ServerProtocol(**settings).grammar.table.allowed} <= {Connect, *commands}


@pytest.mark.slow
def test_the_two_agree_whatever_is_said() -> None:
    phases = {state.phase for state in explore("all there is", YES)}
    # CONNECTED was left by the greeting, and HANDSHAKE is left before the next command can be said.
    assert phases == {*OPEN, *ChunkPhase, EXCHANGE, MESSAGE_PHASE, CLOSED}


def test_the_two_agree_without_extensions() -> None:
    assert {state.phase for state in explore("nothing", YES)} == {*OPEN, MESSAGE_PHASE, CLOSED}


@pytest.mark.parametrize("settings", SERVERS)
def test_the_two_agree_where_nobody_is_welcome(settings: str) -> None:
    """RFC 5321 3.1: what is left is QUIT."""
    assert {state.phase for state in explore(settings, NO)} == {REJECTED, CLOSED}


def groups(path: Sequence[Group], said: tuple[Command, ...] = ()) -> Iterator[tuple[Command, ...]]:
    """Everything that the client says in one go, from two commands to `LONGEST`."""
    for command in ALPHABET:
        if isinstance(command, EndOfBody):
            continue
        client = Pair("all there is", path).client
        for each in said:
            client.send_command(each)
            client.send_body(BODY_OCTETS if isinstance(each, CountedCommand) else b"")
        try:
            client.send_command(command)
        except LocalProtocolError:
            continue
        group = (*said, command)
        if said:
            yield group
        if len(group) < LONGEST and command.groupable:
            yield from groups(path, group)


@pytest.mark.slow
def test_the_two_agree_on_groups() -> None:
    """RFC 2920: the client goes by what it hopes for, the server by what it said."""
    paths = explore("all there is", YES)
    starts = {state.phase: path for state, path in reversed(paths.items()) if "PIPELINING" in state.offered}
    tried = 0
    for phase, path in starts.items():
        if phase in (MESSAGE_PHASE, CLOSED, EXCHANGE):  # where there is one thing to say, or nothing
            continue
        for group in groups(path):
            for kinds in itertools.product((YES, NO), repeat=len(group)):
                pair = Pair("all there is", path)
                pair.take(tuple(zip(group, kinds, strict=True)))
                assert pair.state in paths, (path, group, kinds)  # nothing that could not have been said one by one
                tried += 1
            for last in range(1, len(group) + 1):  # RFC 5321 3.8: the server leaves in the middle
                kinds = (*[YES] * (last - 1), BYE, *[NO] * (len(group) - last))
                pair = Pair("all there is", path)
                pair.take(tuple(zip(group, kinds, strict=True)))
                assert pair.phase is CLOSED
    assert tried > 1000
