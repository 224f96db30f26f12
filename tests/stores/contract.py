"""The kinds of stores to which the tests of the contract apply (`test_contract.py`).

To add a store, define a `Kind` in a module of its own and append it to `KINDS`, with the marker ``interop`` if a program
has to be started: ``pytest.param(RedisKind(), id="redis", marks=pytest.mark.interop)``.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from smtp_trio import stores

from .postgresql import open_server
from .redis_servers import redis_server
from .sessions import body, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from smtp_trio.protocol.params import Params
    from smtp_trio.stores import DeadLetter, Delivery, Store, Stored
    from smtp_trio.stores._consumer import Claim

MESSAGE = b"Subject: hello\r\nDate: Sun, 22 Nov 2026 10:23:26 +0100\r\n\r\nhello\r\n"


class Kind:
    """A kind of store, and what its tests need. The defaults are those of a store of one file or directory."""

    scheme: str = ""
    readable: bool = True
    """True if the store has `entries`, `get` and `remove`."""
    consumers: int = 2
    """The number of consumers at a time: 2 for any number, 1, or 0 if the store cannot be consumed."""
    dead_letters: bool = True
    """True if the store has dead letters that can be read and delivered again."""
    counts: bool = True
    """True if the store has `groups`."""

    @contextmanager
    def program(self, directory: Path) -> Iterator[str]:
        """Run the engine for the tests of a module, and yield what `open` needs to know of it.

        It runs outside of Trio, once for each module of tests: start a process with `subprocess`, and stop it. Skip when the
        program is missing (`skip_without`).
        """
        yield str(directory)

    @asynccontextmanager
    async def open(self, program: str, number: int) -> AsyncIterator[Store[Any]]:
        """Open an empty store. ``number`` is another one for each test."""
        async with stores.open(f"{self.scheme}:{program}/{number}") as store:
            yield store

    async def pass_time(self, store: Store[Any], seconds: float) -> None:
        """Let time pass for the leases and the retries of a store.

        A store that uses the clock of its engine changes its records instead, such as the ends of the leases.
        """
        now = store.clock()
        store.clock = lambda: now + seconds

    async def messages(self, store: Store[Any]) -> list[Stored]:
        """Return the messages that were stored, from the oldest to the newest."""
        return [await store.get(entry.id) async for entry in store.entries()]


class SQLiteKind(Kind):
    scheme = "sqlite"


class MaildirKind(Kind):
    scheme = "maildir"
    consumers = 1
    counts = False


class RecipientMaildirsKind(Kind):
    consumers = 0
    counts = False

    @asynccontextmanager
    async def open(self, program: str, number: int) -> AsyncIterator[Store[Any]]:
        """Open an empty store."""
        async with stores.open(f"maildir:{program}/{number}/{{domain}}/{{local}}") as store:
            yield store


class MemoryKind(Kind):
    @asynccontextmanager
    async def open(self, program: str, number: int) -> AsyncIterator[Store[Any]]:
        async with stores.open("memory:") as store:
            yield store


class PostgreSQLKind(Kind):
    @contextmanager
    def program(self, directory: Path) -> Iterator[str]:
        with open_server() as server:
            yield server.url()

    @asynccontextmanager
    async def open(self, program: str, number: int) -> AsyncIterator[Store[Any]]:
        async with stores.open(f"{program}&schema=contract_{number}") as store:
            yield store


class RedisKind(Kind):
    @contextmanager
    def program(self, directory: Path) -> Iterator[str]:
        with redis_server(directory) as server:
            yield server.url

    @asynccontextmanager
    async def open(self, program: str, number: int) -> AsyncIterator[Store[Any]]:
        async with stores.open(f"{program}?stream=mail{number}") as store:
            yield store


KINDS = [
    pytest.param(SQLiteKind(), id="sqlite"),
    pytest.param(MaildirKind(), id="maildir"),
    pytest.param(MemoryKind(), id="memory"),
    pytest.param(RedisKind(), id="redis", marks=pytest.mark.interop),
    pytest.param(RecipientMaildirsKind(), id="maildirs"),
    pytest.param(PostgreSQLKind(), id="postgresql", marks=pytest.mark.interop),
]


async def put(
    store: Store[Any],
    *chunks: bytes,
    sender: str = "me@client.test",
    recipients: tuple[str, ...] = (),
    **params: Params,
) -> str:
    """Store a message that a session receives, and return its id. ``params`` and ``rcpt_params`` are those of `transaction`."""
    return await store.put(transaction(sender, *recipients, **params), body(*(chunks or (MESSAGE,))))


async def claim(store: Store[Any], group: str = "default", **changes: Any) -> Claim | None:
    """Claim a message, or return None if none is due now."""
    return await store._claim(group, "tests", **{"lease": 300.0, "max_attempts": 10, **changes})


async def receive(store: Store[Any], group: str = "default", **options: Any) -> Delivery:
    """Return the next delivery for a new consumer of the group."""
    with trio.fail_after(100):
        return await anext(store.consume(group, **options))


async def dead(store: Store[Any], group: str = "default") -> list[DeadLetter]:
    """Return the dead letters of a group."""
    return [each async for each in store.dead_letters(group)]
