"""`Relay`: takes messages from a store, forwards them, and settles them."""

from __future__ import annotations

import socket
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn

import trio
from attrs import evolve, frozen

from .._client.pool import Pool
from .._client.results import Result
from .._server.log_events import (
    CONSUMER_LATE,
    GIVEN_UP,
    RELAY_FAILED,
    Address,
)
from ..protocol import Reply
from ..protocol.arguments import check_number, check_type
from ..protocol.hosts import check_hello_name
from ..routing import DomainPool
from ..stores import Store, StoreError
from ._backoff import Backoff
from ._forward import Attempt, Parcel, describe, destination_of, rejected
from ._lanes import Lanes
from ._message import QueuedMessage
from ._schedule import Schedule
from ._settlement import Settlement
from ._state import State
from ._trace import find_loop, received_field

if TYPE_CHECKING:
    from ..stores import Consumer, Delivery

#: More attempts than any schedule has: the age of a message decides when it is given up.
MAX_ATTEMPTS = 1_000_000
#: Seconds by which an attempt ends before its lease does, for the report and the result.
LEASE_MARGIN = 60.0
#: The part of a pause in which messages may be taken from the queue without an attempt, and the seconds after which a server
#: must have been unusable for that.
SWEEP_SHARE, FIRST_SWEEP = 0.1, 300.0
SILENT = Reply(451, "The domain does not answer: other messages wait for it", "4.4.1")


@frozen
class RelayStatistics:
    """Counts of recipients since a relay was created; ``reports`` counts messages.

    ``relayed`` are those for which the next server has accepted a message, ``undelivered`` those for which it was given up,
    and ``deferred`` the attempts after which a recipient has to be tried again. ``in_flight`` is the number of messages that
    are being sent.
    """

    relayed: int
    undelivered: int
    deferred: int
    reports: int
    in_flight: int


# How a message is relayed
#
# The queue is in the store: a message that was not settled is there, with the `State` of its last attempt and the time of the
# next one. The relay keeps nothing in memory but the messages that it is sending. So it can be stopped, killed or started
# again at any time, and several can share a store.
#
# One attempt takes these steps:
#
# 1. The message is claimed, with a lease that is longer than the attempt may take.
# 2. It is sent to the recipients that are pending. Afterwards each of them was accepted, refused, or is not known.
# 3. If something is to be reported to the sender, the report is stored, as a new message with the null reverse-path.
# 4. The message is settled: it is done, has another attempt with its new state, or becomes a dead letter.
#
# The process may die between two steps. The claim of step 1 expires then, and the steps are taken again: a recipient may get
# the message twice if the process has died between 2 and 4, and the sender a report twice between 3 and 4. The other order
# would lose a report, which is worse. Both reports have the same Message-ID, by which a mail program can drop the second.
#
# A failed report of a full store does not undo step 2: what was not reported is kept in the state, and is reported later.
#
# When the server cannot be used
# ------------------------------
#
# Ten thousand messages that all fail because one server is down would each wait for their own time, up to hours after the
# server is back. So they stay in the queue. One at a time is tried, with pauses of up to five minutes, and does not count as
# an attempt. Time goes on for the others, though: those that are to be reported as delayed, or to be returned, must
# be found among them. So in each pause, after some minutes, messages are taken from the queue without an attempt (`_sweep`),
# and those that can wait are put back until its end. That takes a tenth of the pause at most.
class Relay:
    """Forwards the messages of a store until each is delivered, or was returned to its sender.

    :param store: where messages are taken from. Several relays can share it, if it supports that, also in other processes.
    :param pool: the connections by which they are sent: a `smtp_trio.Pool` to one server, or a
        `smtp_trio.routing.DomainPool` to the exchangers of their recipients' domains. It is not closed by the relay.
    :param name: the name of this host, for ``Received:`` fields and reports; by default that of the system.
    :param group: the group of consumers of the store.
    :param concurrency: how many messages are sent at the same time, and are kept in memory. More than the size of
        the pool is not useful. With a `~smtp_trio.routing.DomainPool`, four times as many can be in memory: a message that
        takes longer than ten seconds is not counted.
    :param schedule: the times of the attempts.
    :param remove: whether a message is removed from the store when it is done. Otherwise it is only settled for the group.
    :param lease: seconds that an attempt may take. If the process is killed, messages that were being sent wait so long.
    :param max_hops: the most ``Received:`` fields of a message, which otherwise goes round in a circle (RFC 5321 6.3).
    :param report_from: the author of reports; by default ``MAILER-DAEMON`` at ``name``.
    :param random: the source of randomness of the schedule.

    Raises TypeError or ValueError for an invalid argument, and `smtp_trio.stores.NotSupportedError` for a store whose
    messages cannot be consumed.
    """

    def __init__(
        self,
        store: Store[Any],
        pool: Pool | DomainPool,
        *,
        name: str | None = None,
        group: str = "relay",
        concurrency: int = 4,
        schedule: Schedule | None = None,
        remove: bool = True,
        lease: float = 900,
        max_hops: int = 50,
        report_from: str | None = None,
        random: Random | None = None,
    ) -> None:
        check_type(store, "store", Store)
        check_type(name, "name", str, optional=True)
        check_type(schedule, "schedule", Schedule, optional=True)
        check_number(concurrency, "concurrency", 1, integer=True)
        check_number(lease, "lease", 2 * LEASE_MARGIN)
        check_number(max_hops, "max_hops", 1, integer=True)
        check_type(report_from, "report_from", str, optional=True)
        check_type(random, "random", Random, optional=True)
        if type(store)._claim is Store._claim:
            raise store._not_supported("be consumed")
        self.name: str = check_hello_name(name or socket.gethostname(), "name")
        self.store: Store[Any] = store
        self._destination = destination_of(pool)
        self._schedule = schedule or Schedule()
        self._max_hops = max_hops
        self._random = random or Random()  # noqa: S311  # spreads load, hides nothing
        self._backoff = Backoff(str(self._destination))
        self._lanes = Lanes(concurrency, by_domain=isinstance(pool, DomainPool))
        self._consumer: Consumer = store.consume(
            group, max_in_flight=self._lanes.in_flight, lease=lease, max_attempts=MAX_ATTEMPTS, remove=remove
        )
        self._attempts: set[Attempt] = set()
        ages = (FIRST_SWEEP, self._schedule.max_age, self._schedule.delay_after or FIRST_SWEEP)
        self._first_sweep = min(ages)
        self._settlement = Settlement(
            store=store,
            destination=self._destination,
            name=self.name,
            schedule=self._schedule,
            backoff=self._backoff,
            random=self._random,
            report_from=report_from,
        )
        self._taking: trio.CancelScope | None = None
        self._released = False
        self._ended = trio.Event()

    def __repr__(self) -> str:
        return f"<Relay from {self.store.url} to {self._destination}>"

    @property
    def destination(self) -> str:
        """The destination of messages, in readable form."""
        return str(self._destination)

    def statistics(self) -> RelayStatistics:
        """Return the present numbers."""
        counts = self._settlement.counts
        return RelayStatistics(counts.relayed, counts.undelivered, counts.deferred, counts.reports, len(self._attempts))

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward messages until `stop` is called, in a task: ``await nursery.start(relay.run)``. The store must be open.

        When it is cancelled, messages that are being sent are released, and others send them later. One that was sent
        completely has up to ten seconds for its reply, because it would be sent twice otherwise.

        A failure of the store or of the server is logged, and does not end it. Raises RuntimeError if it is called again.
        """
        if self._taking is not None:
            raise RuntimeError("a relay can run only once: create another one")
        self._taking = trio.CancelScope()
        try:
            async with trio.open_nursery() as watching:
                watching.start_soon(self._release_when_cancelled)
                async with trio.open_nursery() as nursery:
                    with self._taking:
                        task_status.started()
                        await self._take_messages(nursery)
                watching.cancel_scope.cancel()
        finally:
            self._ended.set()

    async def stop(self, grace: float = 30) -> None:
        """End `run`: take no further message, and wait until those that are being sent have a result.

        After ``grace`` seconds they are released, as when `run` is cancelled.
        """
        check_number(grace, "grace")
        if self._taking is None:
            return
        self._taking.cancel()
        with trio.move_on_after(grace):
            await self._ended.wait()
        self._release()
        await self._ended.wait()

    async def _release_when_cancelled(self) -> NoReturn:
        try:
            await trio.sleep_forever()
        finally:
            self._release()

    def _release(self) -> None:
        self._released = True
        for attempt in self._attempts:
            attempt.release()

    async def _take_messages(self, nursery: trio.Nursery) -> None:
        while True:
            if self._backoff.error is None:
                nursery.start_soon(self._handle, await self._next_delivery())
                continue
            await self._backoff.wait()
            await self._handle(await self._next_delivery())
            if self._backoff.error is not None and self._backoff.duration >= self._first_sweep:
                await self._sweep()

    async def _next_delivery(self) -> Delivery:
        """Take a message from the queue when a slot is free, and occupy that; `_handle` frees it."""
        await self._lanes.wait()
        delivery = await anext(self._consumer)
        self._lanes.enter(delivery)
        return delivery

    async def _sweep(self) -> None:
        """Handle messages of which something is to be reported, without an attempt; see above."""
        with trio.move_on_after(self._backoff.remaining * SWEEP_SHARE):
            while self._backoff.error is not None:
                await self._handle(await self._next_delivery(), send=False)

    # --- one message ------------------------------------------------------------------------------------------------

    async def _handle(self, delivery: Delivery, *, send: bool = True) -> None:
        """Attempt to send a message, and settle it. Without ``send``, only do what is to be done if the server is unusable.

        It is not cancelled from outside. `_release` ends it.
        """
        with trio.CancelScope(shield=True):
            try:
                await self._process(delivery, send=send)
            except StoreError as error:  # its lease expires, and it is handled again
                CONSUMER_LATE.log(group=self._consumer.group, id=delivery.id, error=str(error))
            except Exception as error:
                with suppress(StoreError):
                    await self._handle_error(delivery, error)
            finally:
                self._lanes.leave(delivery)

    async def _handle_error(self, delivery: Delivery, error: Exception) -> None:
        """Settle a message that cannot be handled, because of an error in the program or in what was stored."""
        reason = f"{type(error).__name__}: {describe(error)}"
        if self._settlement.age(delivery.stored.received) >= self._schedule.max_age:
            GIVEN_UP.log(id=delivery.id, sender=Address(delivery.stored.sender), reason=reason)
            await delivery.fail(reason)
            return
        after = self._schedule.interval(delivery.attempt, self._random)
        RELAY_FAILED.log(id=delivery.id, retry_in=int(after), error=reason, exc_info=error)
        await delivery.retry(after=after, reason=reason)

    async def _process(self, delivery: Delivery, *, send: bool) -> None:
        state = State.parse(delivery.state)
        message = QueuedMessage.of(delivery)
        begin = message.begin
        hold = -self._settlement.age(begin)
        if hold > 0 and begin != delivery.stored.received:  # RFC 4865: it is not to be sent yet
            await delivery.retry(after=hold, state=delivery.state)
            return
        pending = state.pending(message.recipients)
        if self._released or not (send or self._settlement.is_overdue(state, begin)):
            await delivery.retry(after=0 if self._released else self._backoff.remaining, state=delivery.state)
            return
        if not pending:  # only the report is missing
            await self._settlement.report(message, state, Result(delivery.stored.sender, (), ()), ())
            return
        result, unusable, released = await self._attempt(delivery, message, pending, send=send)
        await self._settlement.conclude(message, state, result, unusable=unusable, released=released)

    async def _attempt(
        self, delivery: Delivery, message: QueuedMessage, pending: list[str], *, send: bool
    ) -> tuple[Result, bool, bool]:
        """Send a message. Return an outcome for each recipient, whether the server cannot be used, and whether it was released."""
        stored = delivery.stored

        def refused(reply: Reply) -> Result:
            return Result(stored.sender, tuple(pending), rejected(pending, reply))

        if (loop := find_loop(stored.message, self.name, self._max_hops)) is not None:
            await trio.lowlevel.checkpoint()
            return refused(loop), False, False
        if not send:
            text = f"{self._destination} cannot be used: {self._backoff.error}"
            await trio.lowlevel.checkpoint()
            return refused(Reply(451, text, "4.4.1")), True, False
        silent = self._lanes.silent(pending)
        names = [name for name in pending if name not in silent]
        if not names:
            await trio.lowlevel.checkpoint()
            return refused(SILENT), False, False
        parcel = Parcel(
            stored.sender,
            names,
            received_field(stored, self.name) + stored.message,
            message.original.mail_params,
            message.original.rcpt_params,
            stored.received,
            self._settlement.now,
        )
        attempt = Attempt(delivery.expiry - LEASE_MARGIN)
        self._attempts.add(attempt)
        try:
            with self._lanes.sending(delivery, lambda: attempt.unfinished(names)):
                result, unusable = await attempt.run(self._destination, parcel)
        finally:
            self._attempts.discard(attempt)
        self._lanes.note_answers(result.outcomes)
        if silent:
            outcomes = (*result.outcomes, *rejected(silent, SILENT))
            result = evolve(result, recipients=tuple(pending), outcomes=outcomes)
        if unusable is not None:
            self._backoff.failed(unusable)
        elif result.accepted or result.rejected:
            self._backoff.succeeded()
        return result, unusable is not None, attempt.released
