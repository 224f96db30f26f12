"""`Relay` with a store and a smarthost in memory, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from smtp_trio import Pool, Rcpt, Reply, Server, Session, standard
from smtp_trio.dsn import RecipientStatus
from smtp_trio.protocol.extensions import Dsn
from smtp_trio.relay import Relay, Schedule
from smtp_trio.relay._state import State
from smtp_trio.routing import DomainPool
from smtp_trio.stores import NotSupportedError, Store, StoreFullError
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

from .memory_store import EPOCH, MemoryStore

MESSAGE = b"From: ada@example.net\r\nSubject: hi\r\n\r\nhello\r\n"
ADA, BO, CY = "ada@example.net", "bo@example.org", "cy@example.org"
HOST = "smarthost.test"
HOUR, DAY = 3600.0, 86400.0
UNKNOWN = Reply(550, "No such user here", "5.1.1")
LATER = Reply(451, "Try again later", "4.3.0")


class NextHop(Inbox):
    """A smarthost that gives each recipient its reply, and counts the attempts, with their times in hours."""

    def __init__(self, **replies: Reply | Callable[[], Reply | None]) -> None:
        super().__init__()
        self.replies = replies
        self.attempts: list[tuple[str, float]] = []

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        self.attempts.append((rcpt.recipient.local, trio.current_time() / HOUR))
        reply = self.replies.get(rcpt.recipient.local)
        return reply() if callable(reply) else reply

    def reports(self) -> list[EmailMessage]:
        return [mail.message for mail in self if mail.sender == ""]


@asynccontextmanager
async def relaying(hop: NextHop | Server | None, **options: Any) -> AsyncGenerator[tuple[MemoryStore, Relay]]:
    """Run a relay to a smarthost, which does not exist if it is None."""
    store = MemoryStore()
    async with memory_network({"other.test": Inbox()} if hop is None else {HOST: hop}):
        async with Pool(HOST, name="relay.test", tls="never") as pool:
            relay = Relay(store, pool, name="relay.test", random=Random(1), **options)
            async with trio.open_nursery() as nursery:
                await nursery.start(relay.run)
                yield store, relay
                nursery.cancel_scope.cancel()


def fields_of(report: EmailMessage) -> dict[str, str]:
    """Return the fields of a report about its first recipient, and its actions."""
    parts = list(report.iter_parts())
    groups: Any = parts[1].get_payload()
    return {name.lower(): str(value) for group in groups for name, value in group.items()}


async def days(number: float) -> None:
    await trio.sleep(number * DAY)


async def test_message_is_relayed_with_a_received_field_and_removed(autojump_clock: MockClock) -> None:
    hop = NextHop()
    async with relaying(hop) as (store, relay):
        await store.add(MESSAGE, ADA, [BO], mail_params="BODY=8BITMIME SIZE=3")
        with trio.fail_after(100):
            [mail] = await hop.wait_for(1)
        await trio.sleep(1)

        assert (mail.sender, mail.recipients) == (ADA, (BO,))
        trace, _, rest = mail.raw.partition(b"From: ")
        assert rest == MESSAGE.removeprefix(b"From: ")
        assert trace.decode() == (
            "Received: from client.test ([192.0.2.7])\r\n\tby relay.test with ESMTPS id m1\r\n"
            f"\tfor <{BO}>;\r\n\tSun, 22 Nov 2026 09:00:00 +0000\r\n"
        )
        assert store.done == ["m1"]
        assert (relay.statistics().relayed, relay.statistics().in_flight) == (1, 0)


async def test_attempts_follow_the_schedule_until_the_message_expires(autojump_clock: MockClock) -> None:
    hop = NextHop(bo=LATER)
    async with relaying(hop, schedule=Schedule(max_age=2 * DAY, jitter=0)) as (store, relay):
        await store.add(MESSAGE, ADA, [BO])
        await days(3)

    times = [time for name, time in hop.attempts if name == "bo"]
    intervals = [round((after - before) * 60) for before, after in pairwise(times)]
    assert intervals[:7] == [5, 10, 20, 40, 80, 160, 240]
    assert set(intervals[7:-1]) == {240}
    assert times[-1] == pytest.approx(2 * 24)
    delay, failure = hop.reports()
    assert fields_of(delay)["action"] == "delayed"
    assert fields_of(delay)["will-retry-until"] == "Tue, 24 Nov 2026 09:00:00 +0000"
    assert fields_of(failure)["action"] == "failed"
    assert fields_of(failure)["status"] == "4.3.0"
    assert sorted(store.done) == ["m1", "m2", "m3"]
    assert relay.statistics().reports == 2


async def test_intervals_are_spread_within_the_jitter() -> None:
    schedule, random = Schedule(first=100, longest=1000, jitter=0.1), Random(1)
    found = [schedule.interval(1, random) for _ in range(100)]
    assert min(found) >= 90
    assert max(found) <= 110
    assert max(found) - min(found) > 15
    assert 900 <= schedule.interval(10**6, random) <= 1100


async def test_only_recipients_that_are_pending_are_sent_again(autojump_clock: MockClock) -> None:
    replies = iter([LATER, LATER, None])
    hop = NextHop(cy=lambda: next(replies), nemo=UNKNOWN)
    async with relaying(hop) as (store, _):
        await store.add(MESSAGE, ADA, [BO, CY, "nemo@example.org"])
        await days(1)

    assert [mail.recipients for mail in hop if mail.sender] == [(BO,), (CY,)]
    [report] = hop.reports()
    assert report["To"] == ADA
    assert report["Message-ID"] == "<report-1-m1@relay.test>"
    found = fields_of(report)
    assert found["final-recipient"] == "rfc822; nemo@example.org"
    assert (found["action"], found["status"], found["remote-mta"]) == ("failed", "5.1.1", f"dns; {HOST}")
    assert [name for name, _ in hop.attempts].count("nemo") == 1
    assert sorted(store.done) == ["m1", "m2"]


async def test_requests_of_the_sender_decide_about_reports(autojump_clock: MockClock) -> None:
    hop = NextHop(nemo=UNKNOWN, bo=LATER)
    async with relaying(hop, schedule=Schedule(max_age=DAY)) as (store, _):
        await store.add(
            MESSAGE,
            ADA,
            ["nemo@example.org"],
            mail_params="RET=HDRS ENVID=abc",
            rcpt_params=["NOTIFY=FAILURE ORCPT=rfc822;Nemo@example.com"],
        )
        await store.add(MESSAGE, ADA, ["nemo@example.org"], rcpt_params=["NOTIFY=NEVER"])
        await store.add(MESSAGE, ADA, [BO], rcpt_params=["NOTIFY=FAILURE"])
        await days(0.5)
        [report] = hop.reports()  # and none of the delay
        found = fields_of(report)
        assert (found["original-envelope-id"], found["original-recipient"]) == ("abc", "rfc822; Nemo@example.com")
        assert [part.get_content_type() for part in report.iter_parts()][2] == "text/rfc822-headers"
        await days(1)
        assert len(hop.reports()) == 2
    [dead] = store.dead
    assert (dead.entry.id, dead.reason) == ("m2", "nemo@example.org: 550 5.1.1 No such user here")


@pytest.mark.parametrize("offered", [True, False])
async def test_relay_reports_success_if_the_next_server_will_not(autojump_clock: MockClock, offered: bool) -> None:
    hop = NextHop()
    server = Server(hop, name=HOST, extensions=standard() if offered else standard(without=(Dsn,)))
    async with relaying(server) as (store, _):
        await store.add(MESSAGE, ADA, [BO], rcpt_params=["NOTIFY=SUCCESS"])
        await days(1)
    assert [fields_of(report)["action"] for report in hop.reports()] == ([] if offered else ["relayed"])


async def test_null_sender_gets_no_report_but_a_dead_letter(autojump_clock: MockClock) -> None:
    hop = NextHop(nemo=UNKNOWN)
    async with relaying(hop) as (store, _):
        await store.add(MESSAGE, "", [BO, "nemo@example.org"])
        await days(1)
    assert [mail.recipients for mail in hop] == [(BO,)]
    [dead] = store.dead
    assert dead.reason == "nemo@example.org: 550 5.1.1 No such user here"
    assert '"done":[0]' in dead.state  # delivered again, it is sent to the other recipient only


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"Received: from a by b;\r\n x\r\n" * 51, "Too many hops"),
        (b"Received: from a (x)\r\n\tby relay.test with SMTP;\r\n x\r\n" * 6, "Mail loop"),
    ],
    ids=["hops", "own"],
)
async def test_loop_is_returned(autojump_clock: MockClock, header: bytes, text: str) -> None:
    hop = NextHop()
    async with relaying(hop) as (store, _):
        await store.add(header + MESSAGE, ADA, [BO])
        await store.add(
            header.replace(b"relay.test", b"mail.relay.test").partition(b"\r\n x")[0] + b"\r\n" + MESSAGE, ADA, [CY]
        )
        await days(1)
    [report] = hop.reports()
    assert fields_of(report)["status"] == "5.4.6"
    assert text in fields_of(report)["diagnostic-code"]
    assert [mail.recipients for mail in hop if mail.sender] == [(CY,)]


async def test_message_that_the_next_server_cannot_get_is_returned(autojump_clock: MockClock) -> None:
    hop = NextHop()
    server = Server(hop, name=HOST, size=5000)
    async with relaying(server) as (store, _):
        await store.add(
            MESSAGE + b"x" * 70 + b"\r\n" * 5000, ADA, [BO], rcpt_params=["ORCPT=rfc822;1"], mail_params="RET=HDRS"
        )
        await store.add(MESSAGE, ADA, [BO], rcpt_params=["ORCPT=rfc822;2"], mail_params="REQUIRETLS")
        await store.add(MESSAGE, ADA, [BO], rcpt_params=["ORCPT=rfc822;3"], mail_params="BY=60;R")
        await store.add(MESSAGE, ADA, ["b\u00f6@example.org"], rcpt_params=["ORCPT=rfc822;4"])
        await days(1)
    found = {each["original-recipient"][-1]: each["status"] for each in map(fields_of, hop.reports())}
    assert found == {"1": "5.3.4", "2": "5.7.10", "3": "5.6.3"}


async def test_message_for_later_release_is_held(autojump_clock: MockClock) -> None:
    hop = NextHop(bo=LATER)
    async with relaying(hop, schedule=Schedule(max_age=DAY, delay_after=0)) as (store, _):
        await store.add(MESSAGE, ADA, [CY], mail_params="HOLDFOR=7200")
        await store.add(MESSAGE, ADA, [BO], mail_params="HOLDUNTIL=2026-12-22T09:00:00Z")
        await days(29)
        assert [(name, round(time, 3)) for name, time in hop.attempts] == [("cy", 2)]
        await days(3)
    assert hop.attempts[1][1] == pytest.approx(30 * 24)
    [report] = hop.reports()  # a day after the release
    assert report["Date"] == "Wed, 23 Dec 2026 09:00:00 +0000"


async def test_report_that_cannot_be_stored_is_stored_later(autojump_clock: MockClock) -> None:
    hop = NextHop(nemo=UNKNOWN)
    async with relaying(hop) as (store, _):
        await store.add(MESSAGE, ADA, [BO, "nemo@example.org"])
        store.problem = StoreFullError("full")
        await trio.sleep(HOUR)
        assert [mail.recipients for mail in hop] == [(BO,)]
        store.problem = None
        await trio.sleep(HOUR)
    assert [mail.recipients for mail in hop] == [(BO,), (ADA,)]
    assert fields_of(hop[1].message)["diagnostic-code"] == "smtp; 550 5.1.1 No such user here"
    assert not store.queue


async def test_result_that_was_lost_repeats_the_attempt_and_its_report(autojump_clock: MockClock) -> None:
    """As after a crash: when the lease has expired. Both reports have the same Message-ID."""
    hop = NextHop(nemo=UNKNOWN)
    async with relaying(hop) as (store, _):
        store.unsettled = 1
        await store.add(MESSAGE, ADA, [BO, "nemo@example.org"])
        await trio.sleep(899)
        assert [name for name, _ in hop.attempts] == ["bo", "nemo", "ada"]
        await trio.sleep(2)
    assert [mail.recipients for mail in hop] == [(BO,), (ADA,), (BO,), (ADA,)]
    assert [report["Message-ID"] for report in hop.reports()] == ["<report-1-m1@relay.test>"] * 2
    assert not store.queue


async def test_message_that_cannot_be_handled_is_given_up_when_it_expires(autojump_clock: MockClock) -> None:
    hop = NextHop()
    async with relaying(hop) as (store, _):
        await store.add(MESSAGE, ADA, [BO])
        store.queue[0].state = "{"
        await days(6)
    [dead] = store.dead
    assert dead.reason.startswith("JSONDecodeError: ")
    assert 30 < dead.attempts < 60


async def test_state_of_another_program_is_an_error() -> None:
    for text in ("[]", "{}", '{"done":1,"attempts":1,"delayed":0,"reports":0}'):
        with pytest.raises(ValueError, match="not the state of a relay"):
            State.parse(text)


def test_state_is_restored_from_its_text() -> None:
    status = RecipientStatus(BO, "failed", "5.1.1", "550 x", "mx.test", last_attempt=EPOCH)
    state = State(
        done=frozenset({2, 0}),
        attempts=3,
        delayed=True,
        reports=1,
        owed=(status,),
        lost=("a: b",),
        lost_numbers=frozenset({2}),
    )
    assert State.parse(state.format()) == state
    assert State.parse("") == State()


async def test_relay_by_domain(autojump_clock: MockClock) -> None:
    records: Any = {
        "example.org": {"MX": [(10, "mx.example.org")]},
        "mx.example.org": {"A": ["192.0.2.1"]},
        "down.example": {"A": ["192.0.2.2"]},
    }
    hop, store = NextHop(nemo=UNKNOWN), MemoryStore()
    resolver = MemoryResolver(records)
    async with memory_network({"192.0.2.1": hop}), DomainPool(resolver=resolver) as pool:
        relay = Relay(store, pool, name="relay.test")
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            await store.add(
                MESSAGE, "a@example.org", [BO, "nemo@example.org", "x@down.example", "y@no.example", "Postmaster"]
            )
            await days(1)
            resolver.records["down.example"] = {"A": ["192.0.2.1"]}
            await days(1)
            nursery.cancel_scope.cancel()
    assert [mail.recipients for mail in hop if mail.sender] == [(BO,), ("x@down.example",)]
    failure, delay = hop.reports()
    parts: Any = list(failure.iter_parts())[1].get_payload()
    found = {group["final-recipient"]: (group["status"], group["remote-mta"]) for group in parts[1:]}
    assert found == {
        "rfc822; nemo@example.org": ("5.1.1", "dns; mx.example.org"),
        "rfc822; y@no.example": ("5.1.2", None),
        "rfc822; Postmaster": ("5.1.3", None),
    }
    assert fields_of(delay)["final-recipient"] == "rfc822; x@down.example"


def test_wrong_arguments(tmp_path: Any) -> None:
    class Unreadable(MemoryStore):
        _claim = Store._claim

    pool = Pool(HOST)
    with pytest.raises(NotSupportedError, match="cannot be consumed"):
        Relay(Unreadable(), pool)
    for arguments in ({"concurrency": 0}, {"lease": 10}, {"max_hops": 0}, {"name": "a b"}, {"group": "a b"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Relay(MemoryStore(), pool, **arguments)
    with pytest.raises(TypeError, match="pool must be Pool or DomainPool"):
        Relay(MemoryStore(), "smarthost")  # type: ignore[arg-type]
    for numbers in ({"first": 0}, {"longest": 10}, {"jitter": 1}, {"max_age": -1}):
        with pytest.raises(ValueError, match=next(iter(numbers))):
            Schedule(**numbers)
