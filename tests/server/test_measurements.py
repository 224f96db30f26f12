"""What a server measures while it is observed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import trio
from attrs import evolve
from helpers import MESSAGE, NAME, connect_tcp, connected, listening
from trio.testing import MockClock

from smtp_trio import Body, Hooks, Limits, Reply, Server, Session
from smtp_trio._server.measurements import HOOK_BOUNDS, Histogram, TimedHook
from smtp_trio._server.snapshot import Snapshot, WorkerState, empty_snapshot, observe
from smtp_trio._types import Statistics
from smtp_trio.policies import Layer
from smtp_trio.protocol import Rcpt
from smtp_trio.stores import Memory, SQLite


class Slow(Hooks):
    """Hooks that take half a second for a recipient and two for a message."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> None:
        await trio.sleep(0.5)

    async def data(self, session: Session, body: Body) -> None:
        await body.discard()
        await trio.sleep(2)


def durations(snapshot: Snapshot) -> dict[str, tuple[int, float]]:
    """Return how often each hook was called, and for how many seconds."""
    return {name: (sum(each.counts), round(each.sum, 3)) for name, each in snapshot.hooks.items()}


def test_durations_are_counted_in_the_bucket_of_their_upper_bound() -> None:
    histogram = Histogram((1.0, 5.0))
    for seconds in (0.5, 1.0, 1.1, 5.0, 6.0):
        histogram.add(seconds)
    assert histogram.distribution().counts == [2, 2, 1]
    assert histogram.distribution().sum == pytest.approx(13.6)


async def test_hooks_are_not_wrapped_before_the_server_is_observed() -> None:
    server = Server(Slow(), name=NAME)
    assert not any(isinstance(hook, TimedHook) for hook in server._state.hooks.values())
    observe(server, Memory()._group)
    observe(server, Memory()._group)
    hooks = server._state.hooks
    assert isinstance(hooks["rcpt"], TimedHook)
    assert not isinstance(hooks["rcpt"]._hook, TimedHook)


async def test_the_time_for_which_a_data_hook_waits_for_the_client_does_not_count(autojump_clock: MockClock) -> None:
    server = Server(Slow(), name=NAME)
    snapshot = observe(server, Memory()._group)
    async with connected(server) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@example.net>", "250")
        await client.command("RCPT TO:<you@example.org>", "250")
        await client.command("DATA", "354")
        await client.send(b"Subject: x\r\n")
        await trio.sleep(100)
        await client.send(b"\r\nx\r\n.\r\n")
        await client.expect("250")
        await client.quit()
    assert durations(snapshot()) == {"rcpt": (1, 0.5), "data": (1, 2.0)}
    sessions = snapshot().sessions
    assert (sum(sessions.counts), round(sessions.sum, 1)) == (1, 102.5)


async def test_a_session_that_began_before_is_measured_from_the_next_hook(autojump_clock: MockClock) -> None:
    server = Server(Slow(), name=NAME)
    async with connected(server) as client:
        await client.open()
        snapshot = observe(server, Memory()._group)
        await client.command("RCPT TO:<you@example.org>", "250")
        await client.quit()
    assert durations(snapshot()) == {"rcpt": (1, 0.5), "data": (0, 0.0)}


async def test_a_hook_that_raises_counts(autojump_clock: MockClock) -> None:
    class Failing(Hooks):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> None:
            await trio.sleep(0.25)
            raise RuntimeError("bug")

    server = Server(Failing(), name=NAME)
    snapshot = observe(server, Memory()._group)
    async with connected(server) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@example.net>", "250")
        await client.command("RCPT TO:<you@example.org>", "451")
    assert durations(snapshot()) == {"rcpt": (1, 0.25)}
    statistics = snapshot().statistics
    assert (statistics.exceptions, statistics.errors) == (1, 1)


async def test_hooks_of_a_port_and_those_of_on_are_measured() -> None:
    class Port(Layer):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            return Reply(550, "No")

    async def vrfy(session: Session, command: object) -> Reply:
        return Reply(252, "Perhaps")

    server = Server(name=NAME)
    snapshot = observe(server, Memory()._group)
    server.on(vrfy=vrfy)
    async with connected(server) as client:
        await client.hello()
        await client.command("VRFY you", "252")
    async with listening(server, hooks=Port(server.hooks)) as port, connect_tcp(port) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@example.net>", "250")
        await client.command("RCPT TO:<you@example.org>", "550")
    assert {name: count for name, (count, _) in durations(snapshot()).items()} == {"vrfy": 1, "rcpt": 1}


async def test_commits_of_a_store_are_measured(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        await store.add(MESSAGE, "me@example.net", ["you@example.org"])
        snapshot = observe(None, store._group)
        assert sum(snapshot().commits.counts) == 0
        await store.add(MESSAGE, "me@example.net", ["you@example.org"])
        assert sum(snapshot().commits.counts) == 1
        assert snapshot().commits.sum > 0


async def test_refusals_and_handshakes_are_counted_by_kind() -> None:
    server = Server(Memory(), name=NAME, limits=Limits(sessions=1))
    async with connected(server) as client:
        await client.hello()
        async with connected(server) as second:
            await second.expect("421")
        await client.command("MAIL FROM:<>", "250")
        await client.command("MAIL FROM:<me@example.net>", "503")
        await client.command("DATA", "503")
        await client.command("RSET", "250")
        await client.deliver(b"bare\nnewline\r\n", "550")
    statistics = server.statistics()
    assert set(statistics.refusals) == {"connect 421", "mail 503", "data 503", "message 550"}
    assert statistics.refused == 3


def test_snapshots_are_summed() -> None:
    histogram = Histogram(HOOK_BOUNDS)
    histogram.add(0.01)
    one = evolve(
        empty_snapshot(),
        statistics=Statistics(messages=1, sessions_open=2, refusals=Counter({"rcpt 550": 1})),
        hooks={"rcpt": histogram.distribution()},
        memory_limit=100,
        sessions_limit=None,
    )
    sent = json.loads(json.dumps(one.to_json()))
    assert Snapshot.from_json(sent) == one
    both = one + one.ended() + empty_snapshot()
    assert (both.statistics.messages, both.statistics.sessions_open) == (2, 2)
    assert both.statistics.refusals == {"rcpt 550": 2}
    assert sum(both.hooks["rcpt"].counts) == 2
    assert both.hooks["rcpt"].sum == 0.02
    assert both.memory_limit == 100
    assert both.sessions_limit is None


def test_what_only_the_parent_knows_is_not_sent_by_workers() -> None:
    state = WorkerState(number=1, pid=1, restarts=0, responds=True, sessions_open=0, messages=0, memory=0)
    snapshot = evolve(empty_snapshot(), workers=(state,))
    assert Snapshot.from_json(json.loads(json.dumps(snapshot.to_json()))).workers == ()
