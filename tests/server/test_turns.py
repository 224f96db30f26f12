"""The sessions of one peer take one turn together in each round of the scheduler."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import pytest
import trio
from helpers import NAME, START, Client, RecordingHooks, server_tls
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import Limits, Peer, Server
from smtp_trio._server import turns as turns_module
from smtp_trio._server.admission import MINUTE
from smtp_trio._server.turns import REST, TURN, Turns

ROUNDS = 200


class Time:
    """A clock that the tasks of a test move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def share(
    costs: list[float], rounds: int = ROUNDS, cancel: int | None = None, floods: bool = False, seconds: float = 0
) -> Counter[int]:
    """Run one task for each cost, which takes this part of a turn at a time, and always has more to do.

    Return how often each one ran. ``cancel`` is a task that is cancelled in each round and begins again. ``seconds`` pass
    in each round.
    """
    clock = Time()
    turns = Turns(clock, floods=lambda: floods)
    ran: Counter[int] = Counter()
    scopes: dict[int, trio.CancelScope] = {}

    async def session(number: int, cost: float) -> None:
        if turns.begin():
            await turns.next()
        while ran.total() < 100 * rounds:
            ran[number] += 1
            clock.now += cost * TURN
            if turns.used_up():
                await turns.next()
            else:
                paused = turns.pause()
                await trio.lowlevel.checkpoint()
                if turns.begin(paused):
                    await turns.next()

    async def again(number: int, cost: float) -> None:
        while True:
            with trio.CancelScope() as scopes[number]:
                await session(number, cost)

    async with trio.open_nursery() as nursery:
        for number, cost in enumerate(costs):
            nursery.start_soon(again, number, cost)
        for _ in range(rounds):
            await trio.sleep(seconds)
            if cancel is not None and cancel in scopes:
                scopes[cancel].cancel()
        nursery.cancel_scope.cancel()
    return ran


@pytest.mark.parametrize("count", [1, 2, 20])
async def test_flooding_sessions_take_one_turn_in_each_round(count: int) -> None:
    ran = await share([1.01] * count)
    assert ROUNDS * 0.9 <= ran.total() <= ROUNDS + count
    assert max(ran.values()) - min(ran.values()) <= ROUNDS / count / 4 + 2, "each has the same part"


async def test_sessions_that_take_little_time_do_not_wait() -> None:
    ran = await share([0.01] * 20)
    assert ran.total() >= 20 * ROUNDS * 0.9


async def test_more_sessions_than_fit_into_a_turn() -> None:
    """Those that did not fit have the next turn, as many as there is time for."""
    ran = await share([0.1] * 30)
    assert ran.total() >= 10 * ROUNDS * 0.5
    assert ran.total() <= 11 * ROUNDS + 30
    assert min(ran.values()) >= max(ran.values()) / 4


async def test_flood_beside_a_session_of_the_same_peer() -> None:
    ran = await share([1.01] * 9 + [0.01])
    assert ran[9] >= ran[0]
    assert ran.total() <= 2 * ROUNDS + 10


@pytest.mark.parametrize("count", [1, 2, 10])
async def test_cancelled_session_holds_up_no_other(count: int) -> None:
    """Cancelled while it waits in the queue, or during the checkpoint that the others wait for."""
    ran = await share([1.01] * count, cancel=0)
    assert count - 1 <= len(ran) <= count
    assert ran.total() >= ROUNDS / 3


@pytest.mark.parametrize("cost", [1.01, 0.501])
@pytest.mark.parametrize("count", [1, 2, 20])
async def test_peer_that_floods_rests_after_each_turn(count: int, cost: float, autojump_clock: MockClock) -> None:
    """Also if its sessions do not use up a turn in one round."""
    ran = await share([cost] * count, rounds=100, floods=True, seconds=REST)
    each = 1 if cost > 1 else 2
    assert 90 * each <= ran.total() <= 101 * each + count
    assert min(ran.values()) >= max(ran.values()) / 2, "each has the same part"


async def test_flood_of_sessions_that_are_cancelled_while_they_rest(autojump_clock: MockClock) -> None:
    ran = await share([1.01] * 3, cancel=0, floods=True, seconds=REST / 2)
    assert ran[1] + ran[2] >= ROUNDS / 4


# --- in a server ------------------------------------------------------------------------------------------------------


def connect(server: Server, nursery: trio.Nursery, host: str, *, implicit_tls: bool = False) -> Client:
    """Open a session over streams in memory, from this address."""
    client_end, server_end = memory_stream_pair()
    server_end.endpoints = Peer(host, 4000, "tcp"), Peer("192.0.2.25", 25, "tcp")  # type: ignore[attr-defined]
    nursery.start_soon(partial(server.serve_stream, server_end, implicit_tls=implicit_tls))
    return Client(client_end)


@pytest.mark.parametrize("turn", [0, 0.0003, math.inf])
async def test_commands_and_messages_of_two_sessions(
    turn: float, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The replies are the same, whether a turn is over after each command or never."""
    monkeypatch.setattr(turns_module, "TURN", turn)
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    message = b"Subject: x\r\n\r\n" + b"y" * 70 + b"\r\n"
    group = START + b"BDAT %d LAST\r\n" % len(message) + message + START + b"DATA\r\n"
    async with trio.open_nursery() as nursery:
        clients = [connect(server, nursery, "192.0.2.1") for _ in range(3)]
        for client in clients:
            await client.hello()
        for client in clients:
            await client.send(group)
            for _ in range(2):
                await client.send(message + b".\r\n" + START + b"DATA\r\n")
        for client in clients:
            await client.expect("250 2.1.0", "250 2.1.5", "250 2.0.0")
            for _ in range(2):
                await client.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
        await server.stop(0)
    assert hooks.messages == [message] * 9


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the scheduler."""

    number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


@pytest.mark.parametrize("implicit_tls", [False, True])
async def test_handshakes_of_one_peer_take_turns(implicit_tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if all clients send their first octets at the same time. Those are in a step that costs much."""
    monkeypatch.setattr(turns_module, "TURN", 0)
    rounds, hellos = Rounds(), []
    trio.lowlevel.add_instrument(rounds)
    context = server_tls()
    context.sni_callback = lambda *_: hellos.append(rounds.number)
    server = Server(RecordingHooks(), name=NAME, tls=context)
    async with trio.open_nursery() as nursery:
        clients = [connect(server, nursery, "192.0.2.1", implicit_tls=implicit_tls) for _ in range(10)]
        for client in clients:
            if not implicit_tls:
                await client.hello()
                await client.command("STARTTLS", "220")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as handshakes:
            for client in clients:
                handshakes.start_soon(client.handshake)
        for client in clients:
            await client.hello()
            await client.deliver()
        await server.stop(0)
    trio.lowlevel.remove_instrument(rounds)
    assert len(set(hellos)) == 10


async def test_messages_of_a_peer_that_floods_wait_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The time for which the server does not read is not one for which the client sends too slowly.

    The peer is slowed down to the end of the minute, whether or not anybody connects after that.
    """
    monkeypatch.setattr(turns_module, "TURN", 0)
    monkeypatch.setattr(turns_module, "REST", 10)
    hooks = RecordingHooks()
    limits = Limits(connections_per_minute=2, data_rate=1 << 20, message_time=60)
    server = Server(hooks, name=NAME, limits=limits)
    message = b"Subject: x\r\n\r\n" + 8000 * (b"y" * 70 + b"\r\n")
    async with trio.open_nursery() as nursery:
        senders = [connect(server, nursery, "192.0.2.1") for _ in range(2)]
        for sender in senders:
            await sender.hello()
            await sender.send(START + b"DATA\r\n" + message + b".\r\n")
        await connect(server, nursery, "192.0.2.1").expect("421")
        other = connect(server, nursery, "192.0.2.2")
        before = trio.current_time()
        await other.hello()
        await other.deliver()
        assert trio.current_time() == before
        assert len(hooks.messages) == 1
        for sender in senders:
            await sender.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
        assert before + MINUTE <= trio.current_time() < before + MINUTE + turns_module.REST
        await server.stop(0)
    assert hooks.messages[1:] == [message] * 2


async def test_session_that_is_alone_shares_no_turns(autojump_clock: MockClock) -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, limits=Limits(count_local=True))
    async with trio.open_nursery() as nursery:
        for host in ("192.0.2.1", "192.0.2.2", "::1", "127.0.0.1"):
            await connect(server, nursery, host).hello()
        assert {task.turns for task in server._sessions} == {None}
        await connect(server, nursery, "127.0.0.1").hello()
        shared = [task.turns for task in server._sessions if task.session.peer.host == "127.0.0.1"]
        assert shared[0] is shared[1] is not None
        await server.stop(0)
