"""A relay whose smarthost cannot be used, and one that is stopped or cancelled."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import Body, PasswordCredentials, Pool, Rcpt, Reply, Server, Session, standard
from smtp_trio.protocol.extensions import Auth, Chunking
from smtp_trio.relay import Relay, Schedule
from smtp_trio.testing import Attempt as SweepAttempt, Close, Faults, cancel_everywhere, memory_network

from .memory_store import MemoryStore
from .test_relay import ADA, BO, HOST, HOUR, MESSAGE, NextHop, days, fields_of, relaying

SHORT = Schedule(longest=2 * HOUR, max_age=6 * HOUR, jitter=0)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event for record in caplog.records if hasattr(record, "event")]


class Refusing(NextHop):
    """A smarthost that refuses connections while ``down``, and counts them."""

    def __init__(self, *, down: bool = True) -> None:
        super().__init__()
        self.down = down
        self.connections = 0

    async def connect(self, session: Session) -> Reply | None:
        self.connections += 1
        return Reply(554, "Going down", "5.3.2") if self.down else await super().connect(session)


async def test_messages_wait_while_the_smarthost_cannot_be_used(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """They are neither tried one after the other, nor do they wait for times of their own when it is back."""
    caplog.set_level(logging.INFO, "smtp_trio.relay")
    hop = Refusing()
    async with relaying(hop) as (store, relay):
        for _ in range(40):
            await store.add(MESSAGE, ADA, [BO])
        await trio.sleep(HOUR)
        assert hop.connections < 25
        assert not hop.mails
        hop.down = False
        await trio.sleep(301)
        assert len(hop) == 40
    assert (events(caplog).count("destination_down"), events(caplog).count("destination_up")) == (1, 1)
    assert relay.statistics().reports == 0


async def test_delays_and_failures_are_reported_during_an_outage(autojump_clock: MockClock) -> None:
    hop = Refusing()
    schedule = Schedule(delay_after=HOUR, max_age=5 * HOUR)
    async with relaying(hop, schedule=schedule) as (store, relay):
        for number in range(10):
            await store.add(MESSAGE, f"{number}@example.net", [BO])
            await trio.sleep(60)
        await trio.sleep(1.2 * HOUR)
        assert relay.statistics().reports == 10  # the delays
        await trio.sleep(4 * HOUR)
        assert relay.statistics().reports == 20
        assert [each.stored.sender for each in store.queue] == [""] * 20
        hop.down = False
        await trio.sleep(301)
    reports = [(mail.recipients[0], fields_of(mail.message)) for mail in hop]
    expected = [(f"{number}@example.net", action) for number in range(10) for action in ("delayed", "failed")]
    assert sorted((name, each["action"]) for name, each in reports) == expected
    assert {each["status"] for _, each in reports} == {"4.4.1"}


async def test_login_that_is_refused_does_not_return_mail(autojump_clock: MockClock) -> None:
    class Login(NextHop):
        passwords = ("other",)

        async def auth(self, session: Session, credentials: Any) -> Reply | None:
            return None if credentials.password in self.passwords else Reply(535, "Wrong password", "5.7.8")

    hop, store = Login(), MemoryStore()
    server = Server(hop, name=HOST, extensions=[Auth(cleartext=True)])
    async with memory_network({HOST: server}):
        credentials = PasswordCredentials("relay", "secret")
        async with Pool(HOST, name="relay.test", tls="never", auth=credentials, allow_cleartext=True) as pool:
            relay = Relay(store, pool, name="relay.test")
            async with trio.open_nursery() as nursery:
                await nursery.start(relay.run)
                await store.add(MESSAGE, ADA, [BO])
                await trio.sleep(HOUR)
                hop.passwords = ("secret",)
                await trio.sleep(301)
                assert [mail.recipients for mail in hop] == [(BO,)]
                nursery.cancel_scope.cancel()


async def test_message_without_a_reply_is_sent_again(autojump_clock: MockClock) -> None:
    """The message is sent again (RFC 1047), because it may not have been accepted."""
    hop, store = NextHop(), MemoryStore()
    faults = Faults(Close("."))
    async with memory_network({HOST: hop}, faults=faults), Pool(HOST, name="relay.test", tls="never") as pool:
        relay = Relay(store, pool, name="relay.test")
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            await store.add(MESSAGE, ADA, [BO])
            await days(1)
            nursery.cancel_scope.cancel()
    first, second = hop
    assert second.time - first.time == pytest.approx(300, abs=31)


class Slow(NextHop):
    """A smarthost that takes this time before a message and after it."""

    def __init__(self, *, before: float = 0, after: float = 0) -> None:
        super().__init__()
        self.before, self.after = before, after

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        await trio.sleep(self.before)
        return await super().rcpt(session, rcpt)

    async def data(self, session: Session, body: Body) -> Any:
        reply = await super().data(session, body)
        await trio.sleep(self.after)
        return reply

    def server(self) -> Server:
        """Return a server to which a message is not sent before the reply to RCPT."""
        return Server(self, name=HOST, extensions=standard(without=(Chunking,)))


async def test_stop_waits_for_messages_that_are_being_sent(autojump_clock: MockClock) -> None:
    hop = Slow(before=20)
    async with relaying(hop) as (store, relay):
        for _ in range(6):
            await store.add(MESSAGE, ADA, [BO])
        await trio.sleep(1)
        assert relay.statistics().in_flight == 4
        await relay.stop()
        assert len(hop) == len(store.done) == 4
        assert [each.due for each in store.queue] == [0, 0]


async def test_stop_releases_messages_after_the_grace_period(autojump_clock: MockClock) -> None:
    hop = Slow(before=90)
    async with relaying(hop.server()) as (store, relay):
        await store.add(MESSAGE, ADA, [BO])
        await trio.sleep(1)
        await relay.stop(grace=10)
        assert trio.current_time() == pytest.approx(11)
        assert len(hop) == 0
        [queued] = store.queue
        assert queued.due == trio.current_time()


async def test_cancelled_relay_waits_for_the_reply_to_a_message(autojump_clock: MockClock) -> None:
    """A message that was sent completely would be sent twice otherwise."""
    hop = Slow(after=5)
    store = MemoryStore()
    async with memory_network({HOST: hop}), Pool(HOST, name="relay.test", tls="never") as pool:
        relay = Relay(store, pool, name="relay.test")
        with trio.move_on_after(1):
            await store.add(MESSAGE, ADA, [BO])
            await relay.run()
        assert trio.current_time() == pytest.approx(5)
        assert store.done == ["m1"]
        with pytest.raises(RuntimeError, match="only once"):
            await relay.run()


async def test_another_relay_goes_on_where_one_was_cancelled(autojump_clock: MockClock) -> None:
    hop = NextHop(bo=Reply(451, "Later", "4.2.0"))
    store = MemoryStore()
    async with memory_network({HOST: hop}):
        for _ in range(30):
            async with Pool(HOST, name="relay.test", tls="never") as pool:
                if not store.queue and not store.done:
                    await store.add(MESSAGE, ADA, [BO])
                with trio.move_on_after(HOUR):
                    await Relay(store, pool, name="relay.test", schedule=SHORT).run()
    assert [fields_of(report)["action"] for report in hop.reports()] == ["delayed", "failed"]
    assert [name for name, _ in hop.attempts].count("bo") == 6 + 2


async def test_attempt_ends_before_the_lease(autojump_clock: MockClock) -> None:
    hop = Slow(before=90)
    async with relaying(hop.server(), lease=130) as (store, _):
        await store.add(MESSAGE, ADA, [BO])
        await trio.sleep(71)
        [queued] = store.queue
        assert queued.attempts == 1
        assert queued.due == pytest.approx(70 + 300, abs=31)


@pytest.mark.slow
def test_no_message_is_lost_or_sent_twice_wherever_a_relay_is_cancelled() -> None:
    async def scenario(attempt: SweepAttempt) -> None:
        hop, store = NextHop(), MemoryStore()
        attempt.context.update(hop=hop, store=store)
        async with memory_network({HOST: hop}), Pool(HOST, name="relay.test", tls="never") as pool:
            await store.add(MESSAGE, ADA, [BO])
            relay = Relay(store, pool, name="relay.test")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay.run)
                await hop.wait_for(1)
                await wait_all_tasks_blocked()
                await relay.stop()

    def check(attempt: SweepAttempt) -> None:
        hop, store = attempt.context["hop"], attempt.context["store"]
        assert len(hop) == len(store.done)
        assert len(store.queue) + len(store.done) <= 1

    cancel_everywhere(scenario, check=check)
