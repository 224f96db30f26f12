"""CLI-15: a client that is cancelled leaves nothing behind, and is never out of step. Tried at every step that the tasks take."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, field
from helpers import NAME, Pair, PoolOf, Taker, client_tls, quick_or_slow, serve, server_tls, sockets, unbuffered
from trio.testing import memory_stream_pair

from smtp_trio import Body, Client, Reply, Result, Server, Session, standard
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import Attempt, cancel_everywhere

ME, YOU = "me@client.test", "you@mx.test"
SLOW = ("PIPELINING", "CHUNKING")
GROUPS = ("CHUNKING",)


class Named(Taker):
    """Answers each message with its subject."""

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
    """What a client was told of its messages, by their names."""

    accepted: set[str] = field(factory=set)
    unknown: set[str] = field(factory=set)

    def note(self, names: list[str], results: tuple[Result, ...]) -> None:
        """Each answer is the message's own, and nobody was refused."""
        for name, result in zip(names, results, strict=False):
            assert not result.rejected
            for outcome in result.accepted:
                assert outcome.reply.text == f"Taken: {name}"
                self.accepted.add(name)
            if result.unknown:
                self.unknown.add(name)

    async def send(self, client: Client, name: str, message: Any = None) -> None:
        try:
            await client.send(ME, [YOU, "too@mx.test"], message or letter(name))
        finally:
            self.note([name], client.last_results)

    async def send_many(self, client: Client, *names: str) -> None:
        try:
            await client.send_many([(ME, [YOU], letter(name)) for name in names])
        finally:
            self.note(list(names), client.last_results)


def letter(name: str) -> bytes:
    return f"Subject: {name}\r\n\r\n.hello\r\n".encode()


async def pieces(name: str) -> AsyncGenerator[bytes]:
    """Too long for one chunk, when those are short."""
    yield letter(name)
    for _ in range(4):
        await trio.lowlevel.checkpoint()
        yield b"x" * 70 + b"\r\n"


Script = Callable[[Client, Log], Awaitable[None]]


@define
class Scenario:
    """What a client does, with a server that offers all but some extensions, over which streams."""

    script: Script
    without: tuple[str, ...] = ()
    pair: Callable[[], Pair] = memory_stream_pair
    settings: Callable[[], dict[str, Any]] = lambda: {"tls": "never"}
    points: range = range(1, 4000)

    def server(self, hooks: Named) -> Server:
        extensions = [each for each in standard(Auth()) if each.keyword not in self.without]
        return Server(hooks, name=NAME, tls=server_tls(), extensions=extensions)

    def client(self, stream: trio.abc.Stream) -> Client:
        return Client(stream, host=NAME, name="client.test", **self.settings())


async def two(client: Client, log: Log) -> None:
    for n in range(2):
        await log.send(client, str(n))


async def many(client: Client, log: Log) -> None:
    await log.send_many(client, *map(str, range(4)))
    await log.send_many(client, *map(str, range(4, 6)))


async def long(client: Client, log: Log) -> None:
    await log.send(client, "long", pieces("long"))
    await log.send(client, "short")


async def by_hand(client: Client, log: Log) -> None:
    await client.noop()
    await client.mail(ME)
    await client.rcpt(YOU)
    await client.rset()
    await client.mail(ME)
    await client.rcpt(YOU)
    assert (await client.data(letter("hand"))).text == "Taken: hand"
    log.accepted.add("hand")


def secure() -> dict[str, Any]:
    return {"tls": "required", "ssl_context": client_tls(), "auth": ("fred", "secret")}


SCENARIOS = {
    "data": Scenario(two, SLOW),
    "data-sockets": Scenario(two, SLOW, sockets),
    "data-long": Scenario(long, SLOW),
    "groups": Scenario(two, GROUPS),
    "groups-sockets": Scenario(two, GROUPS, sockets),
    "groups-unbuffered": Scenario(two, GROUPS, unbuffered),
    "chunks": Scenario(two),
    "chunks-sockets": Scenario(two, pair=sockets),
    "chunks-unbuffered": Scenario(two, pair=unbuffered),
    "chunks-long": Scenario(long),
    "chunks-alone": Scenario(two, ("PIPELINING",)),
    "many": Scenario(many),
    "many-sockets": Scenario(many, pair=sockets),
    "many-groups": Scenario(many, GROUPS),
    "starttls-auth": Scenario(two, settings=secure),
    "starttls-auth-sockets": Scenario(two, pair=sockets, settings=secure, points=range(1, 4000, 3)),
}
#: The scenarios that take less than about a second; the others are marked as slow.
QUICK = ("data-sockets", "groups-sockets", "chunks-sockets", "chunks-unbuffered")
BY_HAND: dict[str, Scenario] = {"by-hand": Scenario(by_hand, SLOW), "by-hand-sockets": Scenario(by_hand, SLOW, sockets)}


@asynccontextmanager
async def nothing_left() -> AsyncGenerator[trio.Nursery]:
    """A nursery for servers. They must all end by themselves, and with them all that runs."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            yield nursery
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def assert_closed(stream: trio.abc.Stream) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some(1)


def check(hooks: Named, log: Log) -> None:
    """What the server took the client knows of, or knows that it may have been taken; and once each."""
    assert len(set(hooks.names)) == len(hooks.names)
    assert log.accepted <= set(hooks.names) <= log.accepted | log.unknown


# --- a client ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio._client.transaction.CHUNK", 100)


@pytest.mark.parametrize("name", quick_or_slow(SCENARIOS, QUICK))
def test_cli_15_client(name: str) -> None:
    """Cancelled between its greeting and its QUIT: no stream is open, nothing runs, and what is known is true."""
    scenario = SCENARIOS[name]

    async def once(attempt: Attempt) -> None:
        hooks, log = Named(), Log()
        ours, theirs = scenario.pair()
        async with nothing_left() as nursery:
            nursery.start_soon(serve, scenario.server(hooks), theirs)
            with attempt.here():
                async with scenario.client(ours) as client:
                    await scenario.script(client, log)
            await assert_closed(ours)
        check(hooks, log)

    assert cancel_everywhere(once).points >= 10


@pytest.mark.parametrize("name", quick_or_slow([*SCENARIOS, *BY_HAND], QUICK))
def test_cli_15_send(name: str) -> None:
    """Cancelled in the middle of it: the client is in step, and gets its next message its own answer, or it is closed."""
    scenario = {**SCENARIOS, **BY_HAND}[name]
    usable: set[bool] = set()

    async def once(attempt: Attempt) -> None:
        hooks, log = Named(), Log()
        ours, theirs = scenario.pair()
        async with nothing_left() as nursery:
            nursery.start_soon(serve, scenario.server(hooks), theirs)
            async with scenario.client(ours) as client:
                with attempt.here():
                    await scenario.script(client, log)
                usable.add(client.usable)
                if client.usable:
                    await log.send(client, "after")
                else:
                    await assert_closed(ours)
            await assert_closed(ours)
        if name not in BY_HAND:  # there nobody keeps a record
            check(hooks, log)

    assert cancel_everywhere(once).points >= 6
    assert usable == {True, False}


# --- a pool -----------------------------------------------------------------------------------------------------------

POOLS = {name: SCENARIOS[name] for name in ("groups-sockets", "chunks", "starttls-auth-sockets")}


@asynccontextmanager
async def pool_of(
    scenario: Scenario, server: Server, nursery: trio.Nursery, streams: list[trio.abc.Stream]
) -> AsyncGenerator[PoolOf]:
    async def dial() -> Client:
        ours, theirs = scenario.pair()
        streams.append(ours)
        nursery.start_soon(serve, server, theirs)
        return await scenario.client(ours).__aenter__()

    async with PoolOf(dial, size=2, max_messages=3, probe_after=2) as pool:
        yield pool


async def named(pool: PoolOf, name: str) -> None:
    result = await pool.send(ME, [YOU], letter(name))
    assert [outcome.reply.text for outcome in result.accepted] == [f"Taken: {name}"]


async def crowd(pool: PoolOf) -> None:
    """Three tasks, and two connections. One is left idle for as long as it takes to be asked before it is used again."""
    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(named, pool, str(n))
    await trio.sleep(3)
    async with pool.client() as client:
        assert (await client.send(ME, [YOU], letter("borrowed"))).accepted[0].reply.text == "Taken: borrowed"
        await client.mail(ME)
    await named(pool, "last")


@pytest.mark.parametrize("name", quick_or_slow(POOLS, QUICK))
def test_cli_15_pool(name: str) -> None:
    """Those who use it are cancelled: what it hands out afterwards is in step."""
    scenario = POOLS[name]

    async def once(attempt: Attempt) -> None:
        hooks = Named()
        streams: list[trio.abc.Stream] = []
        async with nothing_left() as nursery:
            async with pool_of(scenario, scenario.server(hooks), nursery, streams) as pool:
                with attempt.here():
                    await crowd(pool)
                state = pool.statistics()
                assert state.open == state.idle <= 2
                async with trio.open_nursery() as users:
                    for n in range(3):
                        users.start_soon(named, pool, f"after {n}")
                assert pool.statistics().waiting == 0
            for stream in streams:
                await assert_closed(stream)
        assert len(set(hooks.names)) == len(hooks.names)
        assert pool.statistics().open == 0

    assert cancel_everywhere(once, points=scenario.points).points >= 20


@pytest.mark.parametrize("name", quick_or_slow(POOLS, QUICK))
def test_cli_15_one_user_of_a_pool(name: str) -> None:
    """One of many is cancelled: the others do not notice."""
    scenario = POOLS[name]

    async def once(attempt: Attempt) -> None:
        hooks = Named()
        streams: list[trio.abc.Stream] = []

        async def unlucky() -> None:
            with attempt.here():
                await named(pool, "unlucky")

        async with nothing_left() as nursery:
            async with pool_of(scenario, scenario.server(hooks), nursery, streams) as pool:
                async with trio.open_nursery() as users:
                    users.start_soon(named, pool, "0")
                    users.start_soon(unlucky)
                    for n in range(1, 4):
                        users.start_soon(named, pool, str(n))
            for stream in streams:
                await assert_closed(stream)
        assert set(hooks.names) >= {str(n) for n in range(4)}
        assert len(set(hooks.names)) == len(hooks.names)

    assert cancel_everywhere(once, points=scenario.points).points >= 20


@pytest.mark.parametrize("name", quick_or_slow(POOLS, QUICK))
def test_cli_15_around_a_pool(name: str) -> None:
    """The pool itself is cancelled: nothing is open."""
    scenario = POOLS[name]

    async def once(attempt: Attempt) -> None:
        streams: list[trio.abc.Stream] = []
        async with nothing_left() as nursery:
            with attempt.here():
                async with pool_of(scenario, scenario.server(Named()), nursery, streams) as pool:
                    await crowd(pool)
            for stream in streams:
                await assert_closed(stream)
        assert pool.statistics().open == 0

    assert cancel_everywhere(once, points=scenario.points).points >= 20
