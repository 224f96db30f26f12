"""The iteration of a consumer and the results of its deliveries, for any store: time is virtual, and the queue is a list."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attrs import define, field

from smtp_trio.stores import Consumer, LeaseExpiredError, NotSupportedError, Stored, StoreError
from smtp_trio.stores._consumer import Claim, Outcome

if TYPE_CHECKING:
    from trio.testing import MockClock


@define
class List:
    """A queue whose messages are delivered once. ``errors`` are raised first; ``late`` claims cannot be settled."""

    waiting: list[str]
    errors: list[Exception] = field(factory=list)
    late: bool = False
    reading: float = 0  # seconds that a claim takes
    hangs: bool = False
    outcomes: list[tuple[str, Outcome]] = field(factory=list)
    calls: Counter[str] = field(factory=Counter)

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        self.calls["claim"] += 1
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        if self.hangs:
            await trio.sleep_forever()
        if not self.waiting:
            return None
        uid = self.waiting.pop(0)
        await trio.sleep(self.reading)
        message = Stored(id=uid, received=datetime.now(UTC), sender="", recipients=("you@mx.test",), message=b"")
        return Claim(stored=message, group=group, token=uid, attempt=3, state="before")

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        if self.hangs:
            await trio.sleep_forever()
        if not self.late:
            self.outcomes.append((claim.token, outcome))
        return not self.late

    async def _wait_for_message(self, group: str, longest: float) -> None:
        self.calls["wait"] += 1
        await trio.sleep(longest)


def consumer(queue: List, **options: Any) -> Consumer:
    defaults: dict[str, Any] = {"max_in_flight": 1, "lease": 60, "max_attempts": 10, "remove": False}
    return Consumer(queue, "group", "name", **{**defaults, **options})


async def test_slot_of_an_expired_delivery_is_free(autojump_clock: MockClock) -> None:
    """Its message may be with another consumer by then."""
    consuming = consumer(List(["1", "2", "3"]), max_in_flight=2)
    start = trio.current_time()
    first = await anext(consuming)
    await trio.sleep(10)
    second = await anext(consuming)
    third = await anext(consuming)
    assert trio.current_time() - start == pytest.approx(60)
    assert [each.expiry - start for each in (first, second, third)] == pytest.approx([60, 70, 120])


async def test_pauses_become_longer_while_the_store_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One error is logged for each outage."""
    queue = List(["1"], errors=[StoreError("x") for _ in range(8)])
    consuming = consumer(queue)
    start = trio.current_time()
    with caplog.at_level(logging.INFO):
        await (await anext(consuming)).ack()
        assert trio.current_time() - start == pytest.approx(0.5 + 1 + 2 + 4 + 8 + 10 + 10 + 10)
        assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.INFO]
        queue.waiting, queue.errors = ["2"], [StoreError("x")]
        await (await anext(consuming)).ack()
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.INFO] * 2


async def test_store_that_does_not_respond(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A claim and a result are waited for 30 s, although the consumer is cancelled."""
    queue = List(["1"])
    consuming = consumer(queue)
    delivery = await anext(consuming)
    queue.hangs = True
    start = trio.current_time()
    with trio.move_on_after(1) as scope, pytest.raises(StoreError, match="does not respond"):
        await delivery.ack()
    assert trio.current_time() - start == pytest.approx(30)
    queue.hangs = False
    await delivery.ack()  # it was not settled

    queue.hangs = True
    with trio.move_on_after(1) as scope:
        await anext(consuming)
    assert scope.cancelled_caught
    assert trio.current_time() - start == pytest.approx(60)
    assert "does not respond" in caplog.text


async def test_kind_of_store_without_consumers(autojump_clock: MockClock) -> None:
    with pytest.raises(NotSupportedError):
        await anext(consumer(List([], errors=[NotSupportedError("x")])))


async def test_claim_is_released_when_its_consumer_was_cancelled(autojump_clock: MockClock) -> None:
    queue = List(["1"])
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(consumer(queue))
    assert scope.cancelled_caught
    assert queue.outcomes == [("1", Outcome(kind="retry", state="before", uncounted=True))]


@pytest.mark.parametrize(("late", "errors"), [(True, []), (False, [StoreError("unreachable")])])
async def test_result_of_a_block_that_cannot_be_recorded_is_logged(
    late: bool, errors: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The iteration goes on: the message is delivered again."""
    queue = List(["1", "2"])
    consuming = consumer(queue, max_in_flight=2)
    async with await anext(consuming):
        queue.late, queue.errors = late, list(errors)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 group=group result not recorded" in record.getMessage()
    queue.late = False
    async with await anext(consuming) as delivery:
        assert delivery.id == "2"


async def test_late_result(autojump_clock: MockClock) -> None:
    delivery = await anext(consumer(List(["1"], late=True)))
    with pytest.raises(LeaseExpiredError, match="the lease of message 1 has expired"):
        await delivery.ack()


async def test_lease_includes_the_time_of_reading_the_message(autojump_clock: MockClock) -> None:
    delivery = await anext(consumer(List(["1"], reading=7), lease=60))
    assert delivery.expiry == pytest.approx(trio.current_time() + 53)


async def test_late_result_frees_its_slot(autojump_clock: MockClock) -> None:
    """The next message does not wait until the lease has ended on this side, too."""
    iterator = consumer(List(["1", "2"], late=True), lease=1000)
    delivery = await anext(iterator)
    with pytest.raises(LeaseExpiredError):
        await delivery.ack()
    started = trio.current_time()
    assert (await anext(iterator)).id == "2"
    assert trio.current_time() == started


async def test_default_times_of_retries(autojump_clock: MockClock) -> None:
    """They double with each attempt: 1 s after the first."""
    queue = List(["1", "2", "3"])
    consuming = consumer(queue)
    await (await anext(consuming)).retry()
    await (await anext(consuming)).retry(after=0, reason="r", state="after")
    await (await anext(consumer(queue, max_attempts=3))).retry(reason="last")
    assert queue.outcomes == [
        ("1", Outcome(kind="retry", after=4, state="before")),
        ("2", Outcome(kind="retry", after=0, reason="r", state="after")),
        ("3", Outcome(kind="dead", after=4, reason="last", state="before")),
    ]


async def test_group_of_exceptions_with_a_cancellation(autojump_clock: MockClock) -> None:
    """It is raised, and the attempt is not counted."""
    queue = List(["1"])
    with pytest.RaisesGroup(LookupError), trio.CancelScope() as scope:
        async with await anext(consumer(queue)), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            raise LookupError
    assert [outcome.uncounted for _, outcome in queue.outcomes] == [True]


async def test_waiting_for_messages(autojump_clock: MockClock) -> None:
    """Every second at the latest, a consumer looks whether the time of a message has come."""
    queue = List([])
    with trio.move_on_after(9.5):
        await anext(consumer(queue))
    assert queue.calls == {"claim": 10, "wait": 10}


@pytest.mark.parametrize(
    ("options", "error"),
    [({"max_in_flight": 0}, "max_in_flight"), ({"lease": 0}, "lease"), ({"max_attempts": 0}, "max_attempts")],
    ids=["max_in_flight", "lease", "max_attempts"],
)
def test_invalid_options(options: dict[str, int], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        consumer(List([]), **options)
