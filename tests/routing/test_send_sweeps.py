"""Messages to many domains that are cancelled or lose a connection at any step (RFC 5321 5.1, RFC 1047)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock

from smtp_trio import Accepted, Body, ClientTimeouts, DeliveryRecord, Hooks, Rejected, Reply, Server, Session, Unknown
from smtp_trio.protocol import Mail, Rcpt
from smtp_trio.routing import DomainsResult, send
from smtp_trio.testing import Attempt, Inbox, MemoryResolver, cancel_everywhere, fail_everywhere, memory_network

ME, MESSAGE = "me@example.net", b"Subject: hi\r\n\r\nhello\r\n"


class Slow(Inbox):
    """Takes 50 s for each message."""

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        await trio.sleep(50)
        return await super().data(session, body)


class Choosy(Inbox):
    """Refuses every second recipient."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "unknown", "5.1.1") if int(rcpt.recipient.local[1:]) // 100 % 2 else None


class Silent(Hooks):
    """Accepts the connection, and sends no greeting."""

    async def connect(self, session: Session) -> None:
        await trio.sleep_forever()


class Busy(Hooks):
    """Refuses with its greeting."""

    async def connect(self, session: Session) -> Reply:
        return Reply(450, "busy", "")


class Closing(Hooks):
    """Refuses MAIL with 421, after which the server closes the connection."""

    async def mail(self, session: Session, mail: Mail) -> Reply:
        return Reply(421, "closing")


class Forgetful(Inbox):
    """Never replies to the message that it has stored."""

    async def data(self, session: Session, body: Body) -> Reply | None:
        await super().data(session, body)
        await trio.sleep_forever()
        return None


#: The exchangers of a domain, by its kind: None is one that cannot be connected to.
KINDS: dict[str, tuple[type[Hooks] | None, ...]] = {
    "good": (Inbox,),
    "slow": (Slow,),
    "choosy": (Choosy,),
    "dead": (None, None),
    "busy": (Busy, Busy),
    "silent": (Silent,),
    "backup": (None, Inbox),
    "closing": (Closing, Slow),
    "forgetful": (Forgetful, Inbox),
    "lost": (),
}


@define
class World:
    """Domains of each kind in turn, and recipients in each domain in turn."""

    domains: int
    recipients: int
    exchangers: Mapping[str, tuple[type[Hooks] | None, ...]] = field(default=KINDS)
    kinds: dict[str, str] = field(factory=dict)
    servers: dict[str, Hooks] = field(factory=dict)
    names: list[str] = field(factory=list)
    resolver: MemoryResolver = field(init=False)

    def __attrs_post_init__(self) -> None:
        records: dict[str, Any] = {}
        delays: Any = {}
        for number in range(self.domains):
            domain, kind = f"d{number}.example", [*self.exchangers][number % len(self.exchangers)]
            self.kinds[domain] = kind
            hosts = [f"mx{index}.{domain}" for index, _ in enumerate(self.exchangers[kind])]
            records[domain] = {"MX": [(index, host) for index, host in enumerate(hosts)]}
            for index, (host, make) in enumerate(zip(hosts, self.exchangers[kind], strict=True)):
                address = f"198.51.{index}.{number}"
                records[host] = {"A": [address]}
                if make is not None:
                    self.servers[address] = make()
            if not hosts:
                delays[domain] = 1000
        self.names = [f"r{number}@d{number % self.domains}.example" for number in range(self.recipients)]
        self.resolver = MemoryResolver(records, delays=delays)

    def network(self, **settings: Any) -> AbstractAsyncContextManager[object]:
        """Return the network of the exchangers, with ``settings`` for each server."""
        return memory_network({address: Server(hooks, **settings) for address, hooks in self.servers.items()})

    async def send(self, record: DeliveryRecord) -> DomainsResult:
        return await send(
            MESSAGE,
            sender=ME,
            recipients=self.names,
            resolver=self.resolver,
            record=record,
            timeout=ClientTimeouts(greeting=60, end=60),
        )

    def received(self) -> Counter[str]:
        """Return how often each recipient has received the message."""
        inboxes = (server for server in self.servers.values() if isinstance(server, Inbox))
        return Counter(name for inbox in inboxes for mail in inbox for name in mail.recipients)

    def check(self, record: DeliveryRecord) -> dict[str, int]:
        """Check that what the record says of each recipient is true; return how many there are of each outcome."""
        result, received = record.result, self.received()
        assert isinstance(result, DomainsResult)
        assert result.recipients == tuple(self.names)
        found = {
            "accepted": _names(result.accepted),
            "rejected": _names(result.rejected),
            "unknown": _names(result.unknown),
            "not sent": [*result.not_sent],
        }
        # Each recipient is in exactly one of the four, and those that have received the message are in the right one.
        assert Counter(name for names in found.values() for name in names) == Counter(self.names)
        assert max(received.values(), default=0) <= 1
        assert all(received[name] == 1 for name in found["accepted"])
        assert not any(received[name] for name in (*found["rejected"], *found["not sent"]))
        return {kind: len(names) for kind, names in found.items()}


def _names(outcomes: Iterable[Accepted | Rejected | Unknown]) -> list[str]:
    return [outcome.recipient for outcome in outcomes]


async def sent_at_once(world: World) -> None:
    record = DeliveryRecord()
    async with world.network():
        result = await world.send(record)
    assert record.result == result
    world.check(record)
    by_kind = {world.kinds[domain_of(each)]: each for each in result.outcomes[: world.domains]}
    assert {kind: "unknown" if isinstance(each, Unknown) else each.reply.code for kind, each in by_kind.items()} == {
        "good": 250,
        "slow": 250,
        "choosy": 250,
        "dead": 451,
        "busy": 450,
        "silent": 451,
        "backup": 250,
        "closing": 250,
        "forgetful": "unknown",
        "lost": 451,
    }


async def test_time_is_that_of_the_slowest_domain(autojump_clock: MockClock) -> None:
    """1,000 recipients in 100 domains: the sum of their times is 2,600 s."""
    await sent_at_once(World(100, 1000))
    assert trio.current_time() == pytest.approx(60, abs=3)


async def cancelled(attempt: Attempt, world: World) -> None:
    record = DeliveryRecord()
    async with world.network():
        with attempt.here():
            await world.send(record)
    found = world.check(record)
    if not attempt.interrupted:
        assert not found["not sent"]


async def cancelled_with_60_recipients(attempt: Attempt) -> None:
    await cancelled(attempt, World(10, 60))


async def cancelled_with_1000_recipients(attempt: Attempt) -> None:
    await cancelled(attempt, World(100, 1000))


def test_cancelled_at_some_steps() -> None:
    assert cancel_everywhere(cancelled_with_60_recipients, points=range(1, 10_000, 20)).points >= 15


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 7))
def test_cancelled_at_every_step(first: int) -> None:
    """A recipient has an outcome, or did not get the message. The steps are divided, for the time limit of a test."""
    report = cancel_everywhere(cancelled_with_60_recipients, points=range(first, 10_000, 6))
    assert report.points >= 50
    assert {"Connector.find", "Connector.connect", "Client.send", "Client.__aexit__"} <= report.functions.keys()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_many_recipients_cancelled_at_some_steps() -> None:
    report = cancel_everywhere(cancelled_with_1000_recipients, points=range(1, 100_000, 150))
    assert report.points >= 20


#: Domains with two exchangers that accept everything, and two kinds of others.
PAIRS: dict[str, tuple[type[Hooks] | None, ...]] = {
    "pair": (Inbox, Inbox),
    "choosy pair": (Choosy, Choosy),
    "single": (Inbox,),
}


async def cut(attempt: Attempt) -> None:
    await cut_with_extensions(attempt)


async def cut_without_extensions(attempt: Attempt) -> None:
    await cut_with_extensions(attempt, extensions=[])


async def cut_with_extensions(attempt: Attempt, **settings: Any) -> None:
    world = World(3, 9, PAIRS)
    record = DeliveryRecord()
    async with world.network(**settings):
        result = await world.send(record)
    assert record.result == result
    found = world.check(record)
    assert not found["not sent"]
    # A lost connection leads to the next exchanger, unless the message may have been accepted.
    assert all(world.kinds[domain_of(each)] != "pair" for each in result.rejected)


def domain_of(outcome: Accepted | Rejected | Unknown) -> str:
    return outcome.recipient.partition("@")[2]


def test_connection_lost_at_every_step() -> None:
    """Of each exchanger: every recipient has an outcome, and none gets the message twice."""
    assert fail_everywhere(cut).points >= 60


@pytest.mark.slow
def test_connection_lost_at_every_step_without_extensions() -> None:
    """Each command has a reply of its own."""
    assert fail_everywhere(cut_without_extensions).points >= 100
