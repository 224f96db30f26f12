"""`Memory`: the bounds of the store in memory. What all stores have in common is in `test_contract.py`."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

import smtp_trio
from smtp_trio import stores
from smtp_trio._server.log_events import Entry
from smtp_trio.stores import Memory, MessageTooBigError, StoreError
from smtp_trio.testing import open_memory_server

from .contract import MESSAGE, claim, put, receive
from .sessions import body, transaction


async def subjects(store: Memory) -> list[str | None]:
    return [entry.subject async for entry in store.entries()]


def numbered(n: int, octets: int = 0) -> bytes:
    """Return a message whose subject is ``n``, with so many octets."""
    start = b"Subject: %d\r\n\r\n" % n
    return start.ljust(octets, b"x")


async def test_the_oldest_messages_are_dropped_when_there_are_too_many() -> None:
    store = Memory(messages=3)
    for n in range(5):
        await put(store, numbered(n))
    assert await subjects(store) == ["2", "3", "4"]
    assert (store.dropped, store.dropped_octets) == (2, 2 * store.octets_used // 3)


async def test_the_oldest_messages_are_dropped_when_they_are_too_large() -> None:
    store = Memory(octets=10_000)
    for n in range(20):
        await put(store, numbered(n, 2000))
        assert store.octets_used <= 10_000
    assert await subjects(store) == ["16", "17", "18", "19"]  # a fifth one has no room beside its envelopes
    await put(store, numbered(20, 9000))
    assert await subjects(store) == ["20"]
    assert store.dropped == 20


async def test_removed_messages_are_not_counted_as_dropped() -> None:
    store = Memory(messages=3)
    ids = [await put(store, numbered(n)) for n in range(3)]
    await store.remove(ids[:2])
    async with await receive(store, remove=True):
        pass
    assert (store.octets_used, store.dropped, store.dropped_octets) == (0, 0, 0)


async def test_recipients_count_as_octets() -> None:
    """Otherwise a client could fill the memory with small messages for a thousand recipients each."""
    store = Memory(octets=1 << 20)
    recipients = [f"{'x' * 60}.{n}@example.org" for n in range(1000)]
    for _ in range(20):
        await store.add(MESSAGE, "", recipients)
    assert store.dropped > 0
    assert store.octets_used <= 1 << 20


async def test_message_that_is_larger_than_the_store_gets_552_and_drops_nothing() -> None:
    store = Memory(octets=10_000)
    async with open_memory_server(store) as server, server.client() as client:
        await client.send("me@client.test", ["you@mx.test"], numbered(1))
        with pytest.raises(smtp_trio.ReplyError) as caught:
            await client.send("me@client.test", ["you@mx.test"], numbered(2, 10_000))
        await client.send("me@client.test", ["you@mx.test"], numbered(3))
    assert (caught.value.reply.code, caught.value.reply.status) == (552, "5.3.4")
    assert await subjects(store) == ["1", "3"]
    assert store.dropped == 0


async def test_message_that_is_too_large_is_refused_before_it_was_received() -> None:
    def endless() -> Any:
        while True:
            yield b"x" * 998 + b"\r\n"

    store = Memory(octets=10_000)
    with pytest.raises(MessageTooBigError, match="more than the 10000 octets"):
        await store.put(transaction(), body(chunks=endless()))


async def test_dropped_messages_are_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    caplog.set_level(logging.INFO, "smtp_trio.stores")
    async with Memory(messages=1) as store:
        for n in range(10):
            await put(store, numbered(n))
        now += 61
        for n in range(10, 13):
            await put(store, numbered(n))
    counts = [record.msg.fields["messages"] for record in caplog.records if isinstance(record.msg, Entry)]
    assert counts == [1, 9, 2]  # the last one when it is closed


async def test_message_that_is_dropped_while_a_consumer_has_it() -> None:
    """The consumer can settle it, and gets the next message that is there."""
    store = Memory(messages=2)
    await put(store, numbered(0))
    delivery = await receive(store)
    for n in range(1, 5):
        await put(store, numbered(n))
    await delivery.retry()
    consumer = store.consume()
    found = []
    for _ in range(2):
        async with await anext(consumer) as delivery:
            found.append(delivery.stored.subject)
    assert found == ["3", "4"]
    assert await claim(store) is None


async def test_iteration_goes_on_while_messages_are_dropped() -> None:
    store = Memory(messages=3)
    for n in range(3):
        await put(store, numbered(n))
    entries = store.entries()
    found = [(await anext(entries)).subject]
    for n in range(3, 5):
        await put(store, numbered(n))
    found += [entry.subject async for entry in entries]
    assert found == ["0", "2"]


async def test_messages_stay_when_the_store_is_closed() -> None:
    async with Memory() as store:
        await put(store, numbered(1))
    assert await subjects(store) == ["1"]


def test_urls() -> None:
    for url, bounds in (
        ("memory:", (1000, 100 << 20)),
        ("memory:?messages=5", (5, 100 << 20)),
        ("memory:?messages=5&octets=10M", (5, 10 << 20)),
        ("memory:?octets=500", (1000, 500)),
    ):
        store = stores.open(url)
        assert isinstance(store, Memory)
        assert (store.messages, store.octets) == bounds
        again = stores.open(store.url)
        assert isinstance(again, Memory)
        assert (again.messages, again.octets) == bounds


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("memory:/path", "must be memory: or memory:"),
        ("memory:?size=5", "must be messages or octets, got 'size'"),
        ("memory:?messages=many", "messages in the URL: .*'many'"),
        ("memory:?messages=0", "messages must be"),
        ("memory:?octets=10X", "octets in the URL: must be a number of octets"),
    ],
)
def test_invalid_urls(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        stores.open(url)


async def test_store_that_has_to_exist_cannot_be_in_memory() -> None:
    store = stores.open("memory:", create=False)
    with pytest.raises(StoreError, match="only by the process that stores it"):
        await store.__aenter__()
    with pytest.raises(StoreError, match="only by the process that stores it"):
        await store.add(MESSAGE, "", ["you@mx.test"])
