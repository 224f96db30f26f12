"""Cancellation of clients and pools at each checkpoint: nothing stays open, and no reply is taken for another one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, field
from helpers import (
    NAME,
    Pair,
    PoolOf,
    RecordingHooks,
    client_tls,
    quick_or_slow,
    serve,
    server_tls,
    sockets,
    unbuffered,
)
from trio.testing import memory_stream_pair

from smtp_trio import Body, Client, Reply, Result, Server, Session, standard
from smtp_trio._client.reply_timer import ReplyTimer
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import Attempt, cancel_everywhere

ME, YOU = "me@client.test", "you@mx.test"
WITHOUT_GROUPS = ("PIPELINING", "CHUNKING")
WITHOUT_CHUNKS = ("CHUNKING",)


class ReplyWithSubject(RecordingHooks):
    """Replies to each message with its subject."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    async def auth(self, session: Session, credentials: object) -> None:
        await trio.lowlevel.checkpoint()

    async def data(self, session: Session, body: Body) -> Reply:
        message = await body.read()
        name = message.split(b"\r\n")[0].partition(b": ")[2].decode()
        await trio.sleep(1)
        self.names.append(name)
        return Reply(250, f"Taken: {name}", "2.0.0")


@define
class Log:
    """The outcomes of a client's messages, by their subjects."""

    accepted: set[str] = field(factory=set)
    unknown: set[str] = field(factory=set)

    def note(self, names: list[str], results: tuple[Result, ...]) -> None:
        """Record the results, and check that each reply is that of the message."""
        for name, result in zip(names, results, strict=False):
            assert not result.rejected
            for outcome in result.accepted:
                assert outcome.reply.text == f"Taken: {name}"
                self.accepted.add(name)
            if result.unknown:
                self.unknown.add(name)

    async def send(self, client: Client, name: str, message: Any = None) -> None:
        try:
            await client.send(ME, [YOU, "too@mx.test"], message or message_named(name))
        finally:
            self.note([name], client.last_results)

    async def send_many(self, client: Client, *names: str) -> None:
        try:
            await client.send_many([(ME, [YOU], message_named(name)) for name in names])
        finally:
            self.note(list(names), client.last_results)


def message_named(name: str) -> bytes:
    return f"Subject: {name}\r\n\r\n.hello\r\n".encode()


async def pieces(name: str) -> AsyncGenerator[bytes]:
    """Yield a message of more than one chunk, if chunks are short."""
    yield message_named(name)
    for _ in range(4):
        await trio.lowlevel.checkpoint()
        yield b"x" * 70 + b"\r\n"


Actions = Callable[[Client, Log], Awaitable[None]]


@define
class Scenario:
    """The actions of a client, the extensions that the server does not offer, and the kind of stream."""

    actions: Actions
    without: tuple[str, ...] = ()
    pair: Callable[[], Pair] = memory_stream_pair
    settings: Callable[[], dict[str, Any]] = lambda: {"tls": "never"}
    points: range = range(1, 4000)

    def server(self, hooks: ReplyWithSubject) -> Server:
        extensions = [each for each in standard(Auth()) if each.keyword not in self.without]
        return Server(hooks, name=NAME, tls=server_tls(), extensions=extensions)

    def client(self, stream: trio.abc.Stream) -> Client:
        return Client(stream, host=NAME, name="client.test", **self.settings())


async def send_two(client: Client, log: Log) -> None:
    for n in range(2):
        await log.send(client, str(n))


async def send_with_send_many(client: Client, log: Log) -> None:
    await log.send_many(client, *map(str, range(4)))
    await log.send_many(client, *map(str, range(4, 6)))


async def send_long(client: Client, log: Log) -> None:
    await log.send(client, "large", pieces("large"))
    await log.send(client, "short")


async def use_verbs(client: Client, log: Log) -> None:
    await client.noop()
    await client.mail(ME)
    await client.rcpt(YOU)
    await client.rset()
    await client.mail(ME)
    await client.rcpt(YOU)
    assert (await client.data(message_named("verbs"))).text == "Taken: verbs"
    log.accepted.add("verbs")


def tls_settings() -> dict[str, Any]:
    return {"tls": "required", "ssl_context": client_tls(), "auth": ("fred", "secret")}


SCENARIOS = {
    "data": Scenario(send_two, WITHOUT_GROUPS),
    "data-sockets": Scenario(send_two, WITHOUT_GROUPS, sockets),
    "data-large": Scenario(send_long, WITHOUT_GROUPS),
    "groups": Scenario(send_two, WITHOUT_CHUNKS),
    "groups-sockets": Scenario(send_two, WITHOUT_CHUNKS, sockets),
    "groups-unbuffered": Scenario(send_two, WITHOUT_CHUNKS, unbuffered),
    "chunks": Scenario(send_two),
    "chunks-sockets": Scenario(send_two, pair=sockets),
    "chunks-unbuffered": Scenario(send_two, pair=unbuffered),
    "chunks-large": Scenario(send_long),
    "chunks-without-pipelining": Scenario(send_two, ("PIPELINING",)),
    "send-many": Scenario(send_with_send_many),
    "send-many-sockets": Scenario(send_with_send_many, pair=sockets),
    "send-many-groups": Scenario(send_with_send_many, WITHOUT_CHUNKS),
    "starttls-auth": Scenario(send_two, settings=tls_settings),
    "starttls-auth-sockets": Scenario(send_two, pair=sockets, settings=tls_settings, points=range(1, 4000, 3)),
}
#: The scenarios that are tried in every run; the others are marked as slow.
QUICK = ("chunks-sockets",)
VERBS: dict[str, Scenario] = {
    "verbs": Scenario(use_verbs, WITHOUT_GROUPS),
    "verbs-sockets": Scenario(use_verbs, WITHOUT_GROUPS, sockets),
}


@asynccontextmanager
async def expect_no_tasks_left() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery for servers, and check that all tasks end without being cancelled."""
    ReplyTimer.current()  # its task belongs to the run
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            yield nursery
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def assert_closed(stream: trio.abc.Stream) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some(1)


def check_results(hooks: ReplyWithSubject, log: Log) -> None:
    """Check that each message that the server accepted was accepted once, and is accepted or unknown for the client."""
    assert len(set(hooks.names)) == len(hooks.names)
    assert log.accepted <= set(hooks.names) <= log.accepted | log.unknown


# --- clients ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio._client.transaction.CHUNK", 100)


@pytest.mark.parametrize("name", quick_or_slow(SCENARIOS, QUICK))
def test_cancelled_session_leaves_nothing_open(name: str) -> None:
    """It is cancelled between the greeting and QUIT."""
    scenario = SCENARIOS[name]

    async def once(attempt: Attempt) -> None:
        hooks, log = ReplyWithSubject(), Log()
        client_stream, server_stream = scenario.pair()
        async with expect_no_tasks_left() as nursery:
            nursery.start_soon(serve, scenario.server(hooks), server_stream)
            with attempt.here():
                async with scenario.client(client_stream) as client:
                    await scenario.actions(client, log)
            await assert_closed(client_stream)
        check_results(hooks, log)

    assert cancel_everywhere(once).points >= 10


@pytest.mark.parametrize("name", quick_or_slow([*SCENARIOS, *VERBS], QUICK))
def test_cancelled_send_leaves_the_client_in_step_or_closed(name: str) -> None:
    """If it is in step, the next message gets its own reply."""
    scenario = {**SCENARIOS, **VERBS}[name]
    usable: set[bool] = set()

    async def once(attempt: Attempt) -> None:
        hooks, log = ReplyWithSubject(), Log()
        client_stream, server_stream = scenario.pair()
        async with expect_no_tasks_left() as nursery:
            nursery.start_soon(serve, scenario.server(hooks), server_stream)
            async with scenario.client(client_stream) as client:
                with attempt.here():
                    await scenario.actions(client, log)
                usable.add(client.usable)
                if client.usable:
                    await log.send(client, "after")
                else:
                    await assert_closed(client_stream)
            await assert_closed(client_stream)
        if name not in VERBS:  # the verbs record no results
            check_results(hooks, log)

    assert cancel_everywhere(once).points >= 6
    assert usable == {True, False}


# --- pools ------------------------------------------------------------------------------------------------------------

POOLS = {name: SCENARIOS[name] for name in ("groups-sockets", "chunks", "starttls-auth-sockets")}


@asynccontextmanager
async def pool_of(
    scenario: Scenario, server: Server, nursery: trio.Nursery, streams: list[trio.abc.Stream]
) -> AsyncGenerator[PoolOf]:
    async def open_client() -> Client:
        client_stream, server_stream = scenario.pair()
        streams.append(client_stream)
        nursery.start_soon(serve, server, server_stream)
        return await scenario.client(client_stream).__aenter__()

    async with PoolOf(open_client, size=2, max_messages=3, probe_after=2) as pool:
        yield pool


async def send_named(pool: PoolOf, name: str) -> None:
    result = await pool.send(ME, [YOU], message_named(name))
    assert [outcome.reply.text for outcome in result.accepted] == [f"Taken: {name}"]


async def use_pool(pool: PoolOf) -> None:
    """Use two connections from three tasks; leave one of them idle until it has to be probed."""
    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(send_named, pool, str(n))
    await trio.sleep(3)
    async with pool.client() as client:
        assert (await client.send(ME, [YOU], message_named("borrowed"))).accepted[0].reply.text == "Taken: borrowed"
        await client.mail(ME)
    await send_named(pool, "last")


@pytest.mark.parametrize("name", quick_or_slow(POOLS, QUICK))
def test_pool_is_in_step_after_its_users_are_cancelled(name: str) -> None:
    scenario = POOLS[name]

    async def once(attempt: Attempt) -> None:
        hooks = ReplyWithSubject()
        streams: list[trio.abc.Stream] = []
        async with expect_no_tasks_left() as nursery:
            async with pool_of(scenario, scenario.server(hooks), nursery, streams) as pool:
                with attempt.here():
                    await use_pool(pool)
                state = pool.statistics()
                assert state.open == state.idle <= 2
                async with trio.open_nursery() as users:
                    for n in range(3):
                        users.start_soon(send_named, pool, f"after {n}")
                assert pool.statistics().waiting == 0
            for stream in streams:
                await assert_closed(stream)
        assert len(set(hooks.names)) == len(hooks.names)
        assert pool.statistics().open == 0

    assert cancel_everywhere(once, points=scenario.points).points >= 20


@pytest.mark.parametrize("name", quick_or_slow(POOLS, QUICK))
def test_other_users_of_a_pool_are_not_affected(name: str) -> None:
    scenario = POOLS[name]

    async def once(attempt: Attempt) -> None:
        hooks = ReplyWithSubject()
        streams: list[trio.abc.Stream] = []

        async def send_cancelled() -> None:
            with attempt.here():
                await send_named(pool, "send_cancelled")

        async with expect_no_tasks_left() as nursery:
            async with pool_of(scenario, scenario.server(hooks), nursery, streams) as pool:
                async with trio.open_nursery() as users:
                    users.start_soon(send_named, pool, "0")
                    users.start_soon(send_cancelled)
                    for n in range(1, 4):
                        users.start_soon(send_named, pool, str(n))
            for stream in streams:
                await assert_closed(stream)
        assert set(hooks.names) >= {str(n) for n in range(4)}
        assert len(set(hooks.names)) == len(hooks.names)

    assert cancel_everywhere(once, points=scenario.points).points >= 20


@pytest.mark.parametrize("name", quick_or_slow(POOLS, QUICK))
def test_cancelled_pool_leaves_nothing_open(name: str) -> None:
    scenario = POOLS[name]

    async def once(attempt: Attempt) -> None:
        streams: list[trio.abc.Stream] = []
        async with expect_no_tasks_left() as nursery:
            with attempt.here():
                async with pool_of(scenario, scenario.server(ReplyWithSubject()), nursery, streams) as pool:
                    await use_pool(pool)
            for stream in streams:
                await assert_closed(stream)
        assert pool.statistics().open == 0

    assert cancel_everywhere(once, points=scenario.points).points >= 20
