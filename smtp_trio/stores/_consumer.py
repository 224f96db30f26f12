"""Consumers: messages of a store that are handled at least once, by one consumer of a group at a time.

A store records what becomes of its messages in each group (`Queue`); `Consumer` iterates over them, and `Delivery` is one
of them.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol, Self

import trio
from attrs import frozen

from .._server.log_events import CONSUMER_FAILED, CONSUMER_INTERRUPTED, CONSUMER_LATE, CONSUMER_RESUMED
from ..protocol.arguments import check_number, check_type
from ._errors import LeaseExpiredError, NotSupportedError, StoreError

if TYPE_CHECKING:
    from types import TracebackType

    from ._entry import Entry, Stored

# How a message gets to a consumer
# --------------------------------
#
# A consumer claims one message at a time, and only when the program asks for the next one. A message that was claimed in
# advance would use up its lease while it waits.
#
# A claim takes effect in the store before the program sees the delivery. So the claim is shielded from cancellation: what it
# returns is either yielded, or released again. If the process dies instead, the lease expires, and another consumer of the
# group gets the message. The number of attempts is counted by the claim and not by its result, so that a message that kills
# its consumer becomes a dead letter as well.
#
# `Delivery.ack` and the others are shielded, too. After they have begun, a cancelled consumer could not know whether the
# message was settled. Their wait has a deadline, since an engine may not respond; the lease decides then.
#
# An engine that does not respond does not end the iteration. The consumer logs that once, and tries again until it does.

#: Seconds that a consumer waits for a claim, or for the result of a delivery to be recorded, although it is cancelled.
SETTLE_TIMEOUT = 30.0
#: Seconds after which a consumer looks for messages that no notification has announced, such as those whose time has come.
POLL_INTERVAL = 1.0
#: Seconds before the next attempt when the store has failed: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
#: Seconds before a message is delivered again: the first, and the longest. The time doubles with each attempt.
FIRST_RETRY, LONGEST_RETRY = 1.0, 3600.0
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@frozen(kw_only=True)
class Claim:
    """A message that a consumer has claimed, and the number of the attempt."""

    stored: Stored
    group: str
    token: str
    """Identifies this claim: another claim of the message has another one."""
    attempt: int
    """1 for the first attempt."""
    state: str
    """The text of the last `Delivery.retry`, or ""."""


@frozen(kw_only=True)
class Outcome:
    """The result of a claim.

    "done": the message is settled, and removed from the store with ``remove``. "retry": it is delivered again after ``after``
    seconds, with ``state``; with ``uncounted`` this attempt does not count. "dead": it becomes a dead letter.
    """

    kind: Literal["done", "retry", "dead"]
    remove: bool = False
    after: float = 0
    reason: str = ""
    state: str = ""
    uncounted: bool = False


@frozen(kw_only=True)
class DeadLetter:
    """A message that a group has given up."""

    entry: Entry
    group: str
    reason: str
    """Why: the reason of `Delivery.fail`, the last error, or that the lease has expired."""
    attempts: int
    state: str = ""


@frozen(kw_only=True)
class GroupCounts:
    """The numbers of messages that a group of consumers has not settled."""

    waiting: int | None
    """Messages that wait for a consumer, also those that wait for their next attempt; None if the store cannot tell now."""
    in_flight: int
    """Messages that a consumer has, and whose lease has not expired."""
    dead: int
    """Dead letters."""


class Queue(Protocol):
    """The methods of a store that a consumer calls. `Store` describes them."""

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None: ...

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool: ...

    async def _wait_for_message(self, group: str, longest: float) -> None: ...


class Delivery:
    """A message that a consumer has to handle.

    Settle it with `ack`, `retry` or `fail`, once. Or use it in an ``async with`` statement: the end of the block is `ack`, an
    exception in it is logged and is `retry`, and cancellation gives the message to another consumer.
    """

    def __init__(self, consumer: Consumer, claim: Claim, expiry: float) -> None:
        self._consumer = consumer
        self._claim = claim
        self._expiry = expiry
        self._settled = False

    def __repr__(self) -> str:
        return f"<Delivery {self.id!r} to group {self._claim.group!r}, attempt {self.attempt}>"

    @property
    def id(self) -> str:
        """The store's id of the message. It is the same whenever the message is delivered."""
        return self._claim.stored.id

    @property
    def stored(self) -> Stored:
        """The message and its envelope."""
        return self._claim.stored

    @property
    def attempt(self) -> int:
        """1 when the message is delivered to the group for the first time."""
        return self._claim.attempt

    @property
    def state(self) -> str:
        """The text that the last `retry` has left, or ""."""
        return self._claim.state

    @property
    def expiry(self) -> float:
        """The time, on Trio's clock, after which the message can be delivered to another consumer."""
        return self._expiry

    async def ack(self) -> None:
        """Record that the message was handled. It is not delivered to the group again.

        Raises `LeaseExpiredError` if another consumer has it by now, and `StoreError` if the store fails; the message is
        delivered again then.
        """
        await self._settle(Outcome(kind="done", remove=self._consumer.remove))

    async def retry(self, *, after: float | None = None, reason: str = "", state: str | None = None) -> None:
        """Have the message delivered again after ``after`` seconds; by default after 1 s, and twice as long each time.

        It becomes a dead letter instead if this was the last attempt; ``reason`` is for that case. ``state`` is a text for
        the next attempt, such as which recipients are done; by default it stays as it is. Raises the errors of `ack`.
        """
        if after is None:
            after = min(FIRST_RETRY * 2.0 ** min(self.attempt - 1, 30), LONGEST_RETRY)
        check_number(after, "after")
        check_type(reason, "reason", str)
        check_type(state, "state", str, optional=True)
        kind: Literal["retry", "dead"] = "dead" if self.attempt >= self._consumer.max_attempts else "retry"
        await self._settle(Outcome(kind=kind, after=after, reason=reason, state=self.state if state is None else state))

    async def fail(self, reason: str, *, state: str | None = None) -> None:
        """Make the message a dead letter. ``state`` is as in `retry`. Raises the errors of `ack`."""
        check_type(reason, "reason", str)
        check_type(state, "state", str, optional=True)
        await self._settle(Outcome(kind="dead", reason=reason, state=self.state if state is None else state))

    async def _settle(self, outcome: Outcome) -> None:
        if self._settled:
            raise RuntimeError("the delivery was already settled: call only one of ack(), retry() and fail(), once")
        await self._consumer.settle(self, self._claim, outcome)
        self._settled = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._settled:
            return False
        try:
            if error is None:
                await self.ack()
            elif isinstance(error, Exception):
                reason = describe(error)
                CONSUMER_FAILED.log(
                    group=self._claim.group, id=self.id, attempt=self.attempt, error=reason, exc_info=error
                )
                await self.retry(reason=reason)
            else:
                await self._settle(Outcome(kind="retry", state=self.state, uncounted=True))
        except StoreError as failure:
            CONSUMER_LATE.log(group=self._claim.group, id=self.id, error=str(failure))
        return isinstance(error, Exception)


class Consumer:
    """An asynchronous iterator over the messages of a group, which `Store.consume` returns."""

    def __init__(
        self,
        queue: Queue,
        group: str,
        name: str | None,
        *,
        max_in_flight: int,
        lease: float,
        max_attempts: int,
        remove: bool,
    ) -> None:
        check_name(group, "group")
        if name is not None:
            check_name(name, "name")
        check_number(max_in_flight, "max_in_flight", 1, integer=True)
        check_number(lease, "lease", 1)
        check_number(max_attempts, "max_attempts", 1, integer=True)
        check_type(remove, "remove", bool)
        self.group: str = group
        self.name: str = unique_name() if name is None else name
        self.max_in_flight: int = max_in_flight
        self.lease: float = lease
        self.max_attempts: int = max_attempts
        self.remove: bool = remove
        self._queue = queue
        self._in_flight: set[Delivery] = set()
        self._settled = trio.lowlevel.ParkingLot()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        await self._wait_for_slot()
        pause = 0.0
        while True:
            try:
                # Before the claim, which includes reading the message: the lease must not end before this time.
                expiry = trio.current_time() + self.lease
                claim = await self._claim()
                if pause:
                    CONSUMER_RESUMED.log(group=self.group)
                    pause = 0.0
                if claim is not None:
                    break
                await self._queue._wait_for_message(self.group, POLL_INTERVAL)
            except NotSupportedError:
                raise
            except StoreError as error:
                if not pause:
                    CONSUMER_INTERRUPTED.log(group=self.group, error=str(error), exc_info=error.__cause__)
                pause = min(pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
                await trio.sleep(pause)
        delivery = Delivery(self, claim, expiry)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            with suppress(StoreError):  # its lease expires
                await self._record(claim, Outcome(kind="retry", state=claim.state, uncounted=True))
            raise
        self._in_flight.add(delivery)
        return delivery

    async def settle(self, delivery: Delivery, claim: Claim, outcome: Outcome) -> None:
        """Record what has become of a delivery of this consumer. Raises `StoreError`."""
        settled = await self._record(claim, outcome)
        self._in_flight.discard(delivery)
        self._settled.unpark_all()
        if not settled:
            raise LeaseExpiredError(f"the lease of message {claim.stored.id} has expired; it is delivered again")

    async def _claim(self) -> Claim | None:
        with trio.move_on_after(SETTLE_TIMEOUT, shield=True):
            return await self._queue._claim(self.group, self.name, lease=self.lease, max_attempts=self.max_attempts)
        raise StoreError("the store does not respond")

    async def _record(self, claim: Claim, outcome: Outcome) -> bool:
        with trio.move_on_after(SETTLE_TIMEOUT, shield=True):
            return await self._queue._settle(claim, outcome)
        raise StoreError("the store does not respond")

    async def _wait_for_slot(self) -> None:
        """Wait until fewer deliveries than allowed are neither settled nor expired."""
        while True:
            now = trio.current_time()
            self._in_flight = {each for each in self._in_flight if each.expiry > now}
            if len(self._in_flight) < self.max_in_flight:
                return
            with trio.move_on_at(min(each.expiry for each in self._in_flight)):
                await self._settled.park()


def check_name(name: object, what: str) -> None:
    """Raise ValueError unless ``name`` can be the name of a group or consumer: letters, digits, ".", "_" and "-"."""
    check_type(name, what, str)
    if not NAME.fullmatch(str(name)):
        raise ValueError(f'{what} must be 1 to 100 letters, digits, ".", "_" or "-", got {name!r}')


def unique_name() -> str:
    """Return a name for a consumer that no other one uses."""
    return f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"


def describe(error: BaseException) -> str:
    """Return the type of an exception and its first line, for a log or a dead letter."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
