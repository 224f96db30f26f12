"""Sweeps over this package: eight scenarios, in each of which something happens at each of hundreds of points.

They are cancelled, a connection is cut, the server is stopped, or another client connects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
import trio
from helpers import NAME, PoolOf, client_tls, server_tls

from smtp_trio import Body, Client, Hooks, MessageState, Reply, Result, Server, Session, SMTPError, standard
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import (
    Attempt,
    cancel_everywhere,
    connect_client,
    deterministic,
    fail_everywhere,
    memory_pair,
    start_everywhere,
    stop_server,
)

ME, YOU = "me@client.test", "you@mx.test"


class Store(Hooks):
    """Hooks with a checkpoint in each; the reply to a message contains its subject."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.open: set[Session] = set()

    async def connect(self, session: Session) -> None:
        await trio.lowlevel.checkpoint()
        self.open.add(session)

    async def auth(self, session: Session, credentials: object) -> None:
        await trio.sleep(1)

    async def rcpt(self, session: Session, rcpt: object) -> None:
        await trio.lowlevel.checkpoint()

    async def data(self, session: Session, body: Body) -> Reply:
        message = await body.read()
        name = message.split(b"\r\n")[0].partition(b": ")[2].decode()
        await trio.sleep(1)
        self.names.append(name)
        return Reply(250, f"Accepted: {name}", "2.0.0")

    async def reset(self, session: Session) -> None:
        await trio.lowlevel.checkpoint()

    async def disconnect(self, session: Session) -> None:
        await trio.lowlevel.checkpoint()
        self.open.discard(session)


def message_of(name: str, lines: int = 1) -> bytes:
    return f"Subject: {name}\r\n\r\n".encode() + b".hello\r\n" * lines


class Setup:
    """A server without some extensions, and the results that its clients have."""

    def __init__(self, attempt: Attempt, nursery: trio.Nursery, without: tuple[str, ...]) -> None:
        self.store = attempt.context["store"] = Store()
        self.known: dict[str, Result] = attempt.context.setdefault("known", {})
        self.nursery = nursery
        extensions = [each for each in standard(Auth()) if each.keyword not in without]
        self.server = Server(self.store, name=NAME, tls=server_tls(), extensions=extensions, **deterministic())

    async def client(self, **settings: Any) -> Client:
        return await memory_pair(self.nursery, self.server, **{"host": NAME, "tls": "never", **settings})

    async def send(self, client: Client, *names: str, lines: int = 1) -> None:
        try:
            await client.send_many([(ME, [YOU], message_of(name, lines)) for name in names])
        finally:
            self.known.update(zip(names, client.last_results, strict=False))


def check_results(attempt: Attempt) -> None:
    """Check that each message was accepted at most once, and that results agree, or are unknown."""
    store: Store = attempt.context["store"]
    known: dict[str, Result] = attempt.context["known"]
    accepted = {name for name, result in known.items() if result.accepted}
    assert all(known[name].accepted[0].reply.text == f"Accepted: {name}" for name in accepted)
    assert len(set(store.names)) == len(store.names)
    assert accepted <= set(store.names) <= accepted | {name for name, result in known.items() if result.unknown}
    assert not store.open


Script = Callable[[Setup], Awaitable[None]]


async def plain(setup: Setup) -> None:
    """One command at a time."""
    async with await setup.client() as client:
        for name in "abcd":
            await setup.send(client, name)
            await client.mail(ME)
            await client.rcpt(YOU)
            await client.rset()
            await client.noop()


async def pipelined(setup: Setup) -> None:
    async with await setup.client() as client:
        for n in range(4):
            await setup.send(client, *(f"{n}{m}" for m in range(4)))


async def chunks(setup: Setup) -> None:
    async with await setup.client() as client:
        for name in "abcd":
            await client.mail(ME)
            await client.rcpt(YOU)
            await client.bdat(b"x")
            await client.bdat(b"y")
            await client.noop()
            await client.rset()
            await setup.send(client, name)


async def starttls(setup: Setup) -> None:
    for name in "ab":
        async with await setup.client(tls="required", ssl_context=client_tls()) as client:
            await setup.send(client, name)
            await client.noop()
            await setup.send(client, name + name, lines=5000)


async def login(setup: Setup) -> None:
    for name in "abc":
        async with await setup.client(tls="required", ssl_context=client_tls(), auth=("fred", "secret")) as client:
            await setup.send(client, name)


async def drain(setup: Setup) -> None:
    """The server stops while three clients are sending."""

    async def one(name: str, pause: float) -> None:
        with suppress(SMTPError, trio.ClosedResourceError):  # the server sends 421 and closes
            async with await setup.client() as client:
                for n in count():
                    await setup.send(client, f"{name}{n}")
                    await trio.sleep(pause)

    async with trio.open_nursery() as nursery:
        for pause, name in enumerate("abc"):
            nursery.start_soon(one, name, pause)
        await trio.sleep(7.5)
        assert (await setup.server.stop(3)).cancelled == 0


async def sending(setup: Setup) -> None:
    """An iterable message for three recipients, sent by DATA."""

    async def pieces(name: str) -> AsyncGenerator[bytes]:
        yield message_of(name)
        for _ in range(10):
            await trio.sleep(1)
            yield b"x" * 70 + b"\r\n"

    async with await setup.client() as client:
        for name in "abc":
            try:
                await client.send(ME, [YOU, "too@mx.test", "three@mx.test"], pieces(name))
            finally:
                setup.known.update(zip(name, client.last_results, strict=False))


async def pool(setup: Setup) -> None:
    """Four tasks with two connections, which are replaced after three messages."""

    async def dial() -> Client:
        return await (await setup.client()).__aenter__()

    async def one(pool: PoolOf, name: str) -> None:
        async with pool.client() as client:
            await setup.send(client, name)

    async with PoolOf(dial, size=2, max_messages=3, probe_after=2) as pool:
        for round_ in range(2):
            async with trio.open_nursery() as nursery:
                for n in range(4):
                    nursery.start_soon(one, pool, f"{round_}{n}")
            await trio.sleep(3)


SCRIPTS: dict[str, tuple[Script, tuple[str, ...]]] = {
    "plain": (plain, ("PIPELINING", "CHUNKING")),
    "pipelined": (pipelined, ("CHUNKING",)),
    "bdat": (chunks, ()),
    "starttls": (starttls, ()),
    "auth": (login, ()),
    "drain": (drain, ()),
    "send": (sending, ("CHUNKING",)),
    "pool": (pool, ("CHUNKING",)),
}


def scenario(name: str) -> Callable[[Attempt], Awaitable[None]]:
    script, without = SCRIPTS[name]

    async def run(attempt: Attempt) -> None:
        async with trio.open_nursery() as nursery:
            await script(Setup(attempt, nursery, without))

    return run


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SCRIPTS)
def test_cancel_everywhere(name: str) -> None:
    report = cancel_everywhere(scenario(name), check=check_results)
    assert report.points >= 200
    assert report.states >= {None, MessageState.NOT_TAKEN, MessageState.ACKNOWLEDGED}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SCRIPTS)
def test_fail_everywhere(name: str) -> None:
    report = fail_everywhere(scenario(name), check=check_results)
    assert report.points >= 40
    assert report.states >= {MessageState.UNACKNOWLEDGED, MessageState.ACKNOWLEDGED}


@pytest.mark.exhaustive
@pytest.mark.parametrize("action", [stop_server, connect_client])
@pytest.mark.parametrize("name", SCRIPTS)
def test_start_everywhere(name: str, action: Callable[[Attempt], Awaitable[None]]) -> None:
    report = start_everywhere(scenario(name), action, check=check_results, points=range(1, 10_000, 2))
    assert report.points >= 100
    assert report.states >= {None, MessageState.ACKNOWLEDGED}
