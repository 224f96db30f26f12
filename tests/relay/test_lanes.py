"""Domains whose servers do not answer, or are slow, in a relay that delivers by domain."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from smtp_trio import Body, Session
from smtp_trio.relay import Relay
from smtp_trio.routing import DomainPool
from smtp_trio.stores import Memory
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
RECORDS: Any = {f"{name}.example": {"A": [address]} for name, address in [("good", "192.0.2.1"), ("bad", "192.0.2.2")]}


class Silent(Inbox):
    """A server whose greeting does not come before the client gives up."""

    connections = 0

    async def connect(self, session: Session) -> None:
        self.connections += 1
        await trio.sleep_forever()


class Slow(Inbox):
    """A server that takes longer for each message than the relay waits before it goes on with another one."""

    async def data(self, session: Session, body: Body) -> None:
        await super().data(session, body)
        await trio.sleep(15)


async def test_domain_that_does_not_answer_delays_no_other(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    good, bad, store = Inbox(), Silent(), Memory()
    for _ in range(100):
        await store.add(MESSAGE, "", ["bo@bad.example"])
    await store.add(MESSAGE, "", ["bo@bad.example", "cy@good.example"])
    await store.add(MESSAGE, "", ["cy@good.example"])
    pool = DomainPool(resolver=MemoryResolver(RECORDS))
    async with memory_network({"192.0.2.1": good, "192.0.2.2": bad}, raise_hook_errors=False), pool:
        relay = Relay(store, pool, name="relay.test")
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            await trio.sleep(25)
            assert [mail.recipients for mail in good] == [("cy@good.example",)] * 2
            assert 0 < bad.connections <= 8
            assert "451 4.4.1 The domain does not answer: other messages wait for it" in caplog.text
            assert (await store.groups())["relay"].dead == 0
            await relay.stop(0)
    assert await store.count() == 101  # none was given up


async def test_domain_that_is_slow_gets_its_mail(autojump_clock: MockClock) -> None:
    slow, store = Slow(), Memory()
    for _ in range(50):
        await store.add(MESSAGE, "", ["bo@bad.example"])
    pool = DomainPool(resolver=MemoryResolver(RECORDS))
    async with memory_network({"192.0.2.2": slow}), pool:
        relay = Relay(store, pool, name="relay.test")
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            await trio.sleep(1000)
            assert len(slow) == 50
            assert await store.count() == 0
            await relay.stop()
