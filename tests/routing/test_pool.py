"""`DomainPool`: connections are kept by exchanger, and used again only where the same TLS is required."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import Accepted, Body, DeliveryRecord, Hooks, Rcpt, Rejected, Reply, Server, Session
from smtp_trio.routing import Dane, DomainPool, Exchanger, MtaSts, Opportunistic, StsPolicy, TlsaRecord
from smtp_trio.routing._exchanger_pools import connection_key
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

ME, MESSAGE = "me@example.net", b"Subject: hi\r\n\r\nhello\r\n"
RECORDS: dict[str, Any] = {
    "one.example": {"MX": [(10, "mx.shared.example"), (20, "b.example")]},
    "two.example": {"MX": [(10, "mx.shared.example")]},
    "three.example": {"A": ["192.0.2.3"]},
    "mx.shared.example": {"A": ["192.0.2.1"]},
    "b.example": {"A": ["192.0.2.2"]},
}


def pool(**settings: Any) -> DomainPool:
    return DomainPool(resolver=MemoryResolver(RECORDS), **settings)


async def deliver(to: DomainPool, *recipients: str) -> list[bool]:
    result = await to.send(MESSAGE, sender=ME, recipients=recipients)
    return [isinstance(outcome, Accepted) for outcome in result.outcomes]


def sessions(server: Server) -> int:
    return server.statistics().sessions_total


async def test_domains_with_the_same_exchanger_share_a_connection() -> None:
    inbox = Inbox()
    server = Server(inbox)
    async with memory_network({"192.0.2.1": server}), pool(size=1) as domains:
        for _ in range(3):
            assert await deliver(domains, "a@one.example", "b@two.example") == [True, True]
        assert sessions(server) == 1
        statistics = domains.statistics()
        assert (statistics.open, statistics.idle, statistics.messages) == (1, 1, 6)
    assert len(inbox) == 6
    statistics = domains.statistics()
    assert (statistics.open, statistics.idle, statistics.messages) == (0, 0, 6)


async def test_attempts_of_kept_connections() -> None:
    """They have the address and no session, since a TLS report counts handshakes (RFC 8460 4.3)."""
    async with memory_network({"192.0.2.1": Inbox()}), pool() as domains:
        for _ in range(2):
            result = await domains.send(MESSAGE, sender=ME, recipients=["a@two.example"])
    (attempt,) = result.domains[0].attempts
    assert (attempt.exchanger.name, attempt.address, attempt.error) == ("mx.shared.example", "192.0.2.1", None)
    assert result.domains[0].sessions == ()


class Closing(Inbox):
    """Closes each connection after its first message, with 421 in front of the next command."""

    async def mail(self, session: Session, mail: object) -> Reply | None:
        if session.context.setdefault("used", False):
            return Reply(421, "closing")
        session.context["used"] = True
        return None


async def test_connection_that_the_server_has_closed() -> None:
    """The same exchanger is tried again over a new connection, and not the next one."""
    hooks, other = Closing(), Inbox()
    server = Server(hooks)
    async with memory_network({"192.0.2.1": server, "192.0.2.2": other}), pool() as domains:
        for _ in range(3):
            assert await deliver(domains, "a@one.example") == [True]
    assert (len(hooks), len(other), sessions(server)) == (3, 0, 3)


async def test_idle_connection_that_is_too_old(autojump_clock: MockClock) -> None:
    """It is closed when the pool is used the next time, also for another exchanger."""
    inbox = Inbox()
    server = Server(inbox)
    async with memory_network({"192.0.2.1": server, "192.0.2.3": Inbox()}), pool(max_idle=30) as domains:
        assert await deliver(domains, "a@one.example") == [True]
        await trio.sleep(31)
        assert await deliver(domains, "a@three.example") == [True]
        assert domains.statistics().open == 1
        assert await deliver(domains, "a@one.example") == [True]
    assert sessions(server) == 2
    assert len(inbox) == 2


class Later(Inbox):
    """Refuses recipients for the moment."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(450, "later") if rcpt.recipient.local == "later" else None


async def test_temporary_refusal_over_a_kept_connection() -> None:
    """The next exchanger is tried, and not the same one again."""
    first, second = Later(), Inbox()
    server = Server(first)
    async with memory_network({"192.0.2.1": server, "192.0.2.2": second}), pool() as domains:
        assert await deliver(domains, "a@one.example") == [True]
        assert await deliver(domains, "later@one.example") == [True]
    assert (len(first), len(second), sessions(server)) == (1, 1, 1)


class Slow(Hooks):
    """Takes a while for each message, and counts how many arrive at the same time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def data(self, session: Session, body: Body) -> None:
        await body.read()
        self.now += 1
        self.most = max(self.most, self.now)
        await trio.sleep(10)
        self.now -= 1


async def test_limits_of_connections(autojump_clock: MockClock) -> None:
    """To one exchanger, and in all. Those that wait for one exchanger do not keep others waiting."""
    shared, other = Slow(), Slow()
    async with (
        memory_network({"192.0.2.1": shared, "192.0.2.3": other}),
        pool(size=2, max_connections=3) as domains,
        trio.open_nursery() as nursery,
    ):
        for number in range(6):
            nursery.start_soon(deliver, domains, f"{number}@two.example")
        nursery.start_soon(deliver, domains, "x@three.example")
        await trio.sleep(5)
        assert (shared.now, other.now) == (2, 1)
        assert domains.statistics().waiting == 4
    assert shared.most == 2
    assert trio.current_time() < 40


async def test_longest_idle_connection_makes_room() -> None:
    servers = {f"192.0.2.{number}": Server(Inbox()) for number in (1, 3)}
    async with memory_network(servers), pool(max_connections=1) as domains:
        for name in ("a@two.example", "a@three.example", "a@two.example"):
            assert await deliver(domains, name) == [True]
            assert domains.statistics().open == 1
    assert [sessions(server) for server in servers.values()] == [2, 1]


async def test_total_with_several_deliveries_at_once(autojump_clock: MockClock) -> None:
    """The limit also holds while connections are being opened."""
    slow = {f"192.0.2.{number}": Slow() for number in (1, 2, 3)}
    records = {f"{number}.example": {"A": [f"192.0.2.{number}"]} for number in (1, 2, 3)}
    most = 0
    async with memory_network(slow), DomainPool(resolver=MemoryResolver(records), max_connections=2) as domains:
        assert await deliver(domains, "x@1.example") == [True]
        async with trio.open_nursery() as nursery:
            for name in ("x@2.example", "x@3.example", "x@2.example", "x@3.example"):
                nursery.start_soon(deliver, domains, name)
            for _ in range(200):
                most = max(most, domains.statistics().open)
                await trio.sleep(0.1)
        assert domains.statistics().messages == 5
    assert most == 2


async def test_slot_that_is_not_free_in_time(autojump_clock: MockClock) -> None:
    """The delivery fails for the moment, and the other domains of the message are not affected."""
    async with (
        memory_network({"192.0.2.1": Slow(), "192.0.2.3": Inbox()}),
        pool(size=1, max_messages=1, domain_timeout=5) as domains,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(deliver, domains, "first@two.example")
        await trio.sleep(1)
        result = await domains.send(MESSAGE, sender=ME, recipients=["a@two.example", "b@three.example"])
    late, accepted = result.outcomes
    assert isinstance(late, Rejected)
    assert late.temporary
    assert isinstance(accepted, Accepted)


async def test_unknown_over_a_kept_connection_is_final(autojump_clock: MockClock) -> None:
    """A message whose reply is missing is not sent again."""

    class Stuck(Inbox):
        async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
            if self.mails:
                await body.read()
                await session.stream.aclose()  # before the reply
                return None
            return await super().data(session, body)

    first, second = Stuck(), Inbox()
    server = Server(first)
    async with memory_network({"192.0.2.1": server, "192.0.2.2": second}), pool() as domains:
        assert await deliver(domains, "a@one.example") == [True]
        result = await domains.send(MESSAGE, sender=ME, recipients=["a@one.example"])
    assert [type(outcome).__name__ for outcome in result.outcomes] == ["Unknown"]
    assert (len(second), sessions(server)) == (0, 1)


async def test_cancelled_delivery_leaves_nothing_open(autojump_clock: MockClock) -> None:
    record = DeliveryRecord()
    async with memory_network({"192.0.2.1": Slow()}), pool() as domains:
        with trio.move_on_after(5) as scope:
            await domains.send(MESSAGE, sender=ME, recipients=["a@two.example"], record=record)
        assert scope.cancelled_caught
        assert domains.statistics().open == 0
        assert record.result is not None
        assert [each.recipient for each in record.result.unknown] == ["a@two.example"]
        assert await deliver(domains, "a@two.example") == [True]


async def test_pool_that_is_closed(autojump_clock: MockClock) -> None:
    """A delivery in progress ends, and its connection is not kept; others raise."""
    server = Server(Slow())
    async with memory_network({"192.0.2.1": server}), trio.open_nursery() as nursery:
        domains = pool()
        nursery.start_soon(deliver, domains, "a@two.example")
        await wait_all_tasks_blocked()
        await domains.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await deliver(domains, "a@two.example")
    assert domains.statistics().open == 0
    assert server.statistics().messages == 1


EE = TlsaRecord(3, 1, 1, bytes(32))
TA = TlsaRecord(2, 1, 1, bytes(32))
ENFORCE, TESTING = StsPolicy("enforce", 86400, ("*.example",)), StsPolicy("testing", 86400, ("*.example",))
PLAIN = Exchanger("mx.example", 10, ("192.0.2.1",), Opportunistic())


def with_tls(tls: Any) -> Exchanger:
    return evolve(PLAIN, tls=tls)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (PLAIN, evolve(PLAIN, preference=20, addresses=("192.0.2.2",)), True),
        (PLAIN, evolve(PLAIN, name="mx2.example"), False),
        (with_tls(Dane((EE,), ("mx.example", "a.example"))), with_tls(Dane((EE,), ("mx.example", "b.example"))), True),
        (with_tls(Dane((EE,), ("mx.example",))), with_tls(Dane((EE,), ("mx.example",), secure_route=False)), True),
        (with_tls(Dane((TA,), ("mx.example", "a.example"))), with_tls(Dane((TA,), ("mx.example", "b.example"))), False),
        (with_tls(Dane((EE,), ("mx.example",))), with_tls(Dane((EE, TA), ("mx.example",))), False),
        (with_tls(Dane((EE, TA), ("mx.example",))), with_tls(Dane((TA, EE), ("mx.example",))), True),
        (with_tls(Dane((EE,), ("mx.example",))), PLAIN, False),
        (with_tls(MtaSts(ENFORCE)), with_tls(MtaSts(evolve(ENFORCE, max_age=1))), True),
        (with_tls(MtaSts(ENFORCE)), with_tls(MtaSts(TESTING)), False),
        (with_tls(MtaSts(ENFORCE)), PLAIN, False),
        (with_tls(MtaSts(TESTING)), PLAIN, False),
        (with_tls(MtaSts(TESTING)), with_tls(MtaSts(TESTING, allowed=False)), False),
    ],
)
def test_what_has_to_be_the_same(one: Exchanger, other: Exchanger, same: bool) -> None:
    assert (connection_key(one) == connection_key(other)) is same


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"size": 0}, ValueError), ({"max_connections": 0}, ValueError), ({"max_connections": 1.5}, TypeError),
        ({"max_age": 0}, ValueError), ({"max_domains": 0}, ValueError), ({"port": 0}, ValueError), ({"tls": "never"}, TypeError),
        ({"max_idle": -1}, ValueError), ({"max_addresses": 0}, ValueError),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else value.__name__,
)  # fmt: skip
def test_invalid_arguments(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        DomainPool(**settings)
