"""`Settlement`: what follows from the outcomes of an attempt: a report, and the end of the message or another attempt."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, evolve, field, frozen

from .._client.results import Accepted, Result
from .._server.log_events import (
    DEFERRED,
    GIVEN_UP,
    NOT_REPORTED,
    RELAYED,
    REPORTED,
    UNDELIVERED,
    Address,
    ClientText,
    Value,
)
from ..dsn import RecipientStatus, Report, build_report, report_statuses
from ..dsn._status import hosts_of
from ..protocol.extensions.deliverby import BY
from ..stores import Store, StoreError
from ..stores._params import format_params
from ._forward import describe
from ._message import is_final, outcomes_of, text_of

if TYPE_CHECKING:
    from ._backoff import Backoff
    from ._forward import Destination
    from ._message import QueuedMessage
    from ._schedule import Schedule
    from ._state import State

#: Seconds for a report to be stored, and until the next attempt if it was not.
REPORT_TIMEOUT, REPORT_RETRY = 30.0, 60.0
#: The number of recipients from which on a report is built in a thread.
MANY_RECIPIENTS = 100
#: What a Message-ID must not have.
NOT_AN_ID = re.compile(r"[^A-Za-z0-9.+_-]")


@define
class Counts:
    """The numbers of `RelayStatistics`."""

    relayed: int = 0
    undelivered: int = 0
    deferred: int = 0
    reports: int = 0


@frozen(kw_only=True)
class Settlement:
    """The settlement of messages after an attempt. The attributes are as in `Relay`."""

    store: Store[Any]
    destination: Destination
    name: str
    schedule: Schedule
    backoff: Backoff
    random: Random
    report_from: str | None
    counts: Counts = field(factory=Counts)

    def now(self) -> datetime:
        """Return the present time by the clock of the store."""
        return datetime.fromtimestamp(self.store.clock(), UTC)

    def age(self, begin: datetime) -> float:
        """Return the seconds since ``begin``."""
        return (self.now() - begin).total_seconds()

    def delay_is_due(self, state: State, begin: datetime) -> bool:
        """Return whether the delay of a message is to be reported."""
        after = self.schedule.delay_after
        return bool(after) and not state.delayed and self.age(begin) >= after

    def is_overdue(self, state: State, begin: datetime) -> bool:
        """Return whether something is to be reported of a message that was not delivered."""
        expired = self.age(begin) >= self.schedule.max_age
        return expired or bool(state.owed) or self.delay_is_due(state, begin)

    async def conclude(
        self, message: QueuedMessage, state: State, result: Result, *, unusable: bool, released: bool
    ) -> None:
        """Decide what follows from a result, report it, and settle the message."""
        schedule, age = self.schedule, self.age(message.begin)
        give_up = age >= schedule.max_age and not released
        waiting = [name for name, each in outcomes_of(result).items() if not is_final(each)]
        state = evolve(
            state,
            attempts=state.attempts + (not (unusable or released)),
            done=state.done
            | {number for number, name in enumerate(message.recipients) if name in result.recipients}
            - (frozenset() if give_up else message.numbers(waiting)),
        )
        statuses = report_statuses(
            result,
            give_up=give_up,
            remote_mta=self.destination.remote_mta,
            last_attempt=self.now(),
            will_retry_until=message.begin + timedelta(seconds=schedule.max_age),
        )
        tell_delay = self.delay_is_due(state, message.begin) and not released
        due = tuple(
            each
            for each in statuses
            if each.action in ("failed", "relayed") or (each.action == "delayed" and tell_delay)
        )
        state = evolve(state, delayed=state.delayed or (tell_delay and bool(waiting)))
        after = 0.0
        if not give_up and waiting:
            after = self._next_attempt(message, state, age, result, unusable=unusable, released=released)
        self._log(message, state, result, age, after, give_up=give_up)
        await self.report(message, state, result, due, after=after)

    def _next_attempt(
        self, message: QueuedMessage, state: State, age: float, result: Result, *, unusable: bool, released: bool
    ) -> float:
        """Return the seconds until the next attempt: not after the message expires, so that it is returned in time."""
        schedule = self.schedule
        if unusable:
            after = self.backoff.remaining
        elif released and not result.unknown:
            return 0
        else:
            after = schedule.interval(max(state.attempts, 1), self.random)
        limits = [schedule.max_age - age]
        if (by := message.original.mail_params.get(BY)) is not None and by.mode == "R":  # RFC 2852 4.1.3
            limits.append(by.seconds - self.age(message.delivery.stored.received) + 1)
        return max(0.0, min([after, *(each for each in limits if each > 0)]))

    async def report(
        self,
        message: QueuedMessage,
        state: State,
        result: Result,
        due: tuple[RecipientStatus, ...],
        *,
        after: float = 0,
    ) -> None:
        """Store the report of these statuses and of those that are owed, and settle the message."""
        due = (*state.owed, *due)
        reported: tuple[RecipientStatus, ...] = ()
        if due:
            try:
                with trio.fail_after(REPORT_TIMEOUT):
                    reported = await self._store_report(message, state, due)
            except (StoreError, trio.TooSlowError) as error:
                NOT_REPORTED.log(id=message.delivery.id, error=describe(error))
                state = evolve(state, owed=due)
                await message.delivery.retry(after=min(after or REPORT_RETRY, REPORT_RETRY), state=state.format())
                return
            state = evolve(state, owed=(), reports=state.reports + bool(reported))
        names = {each.recipient for each in reported if each.action == "failed"}
        lost = [each for each in due if each.action == "failed" and each.recipient not in names]
        if lost:
            texts = tuple(f"{each.recipient}: {each.diagnostic or each.status}" for each in lost)
            numbers = message.numbers(each.recipient for each in lost)
            state = evolve(state, lost=(*state.lost, *texts), lost_numbers=state.lost_numbers | numbers)
        if state.pending(message.recipients):
            reason = "; ".join(
                f"{name}: {text_of(each)}" for name, each in outcomes_of(result).items() if not is_final(each)
            )
            await message.delivery.retry(after=after, reason=reason[:1000], state=state.format())
        elif state.lost:
            reason = "; ".join(state.lost)[:1000]
            GIVEN_UP.log(
                id=message.delivery.id, sender=Address(message.delivery.stored.sender), reason=ClientText(reason)
            )
            await message.delivery.fail(reason, state=state.dead().format())
        else:
            await message.delivery.ack()

    async def _store_report(
        self, message: QueuedMessage, state: State, due: tuple[RecipientStatus, ...]
    ) -> tuple[RecipientStatus, ...]:
        """Store a report, and return the statuses that it has: those that the sender wants to know."""

        def build() -> Report | None:
            return build_report(
                message.original,
                due,
                reporting_mta=self.name,
                from_address=self.report_from,
                now=self.now(),
                message_id=f"<report-{state.reports + 1}-{NOT_AN_ID.sub('.', message.delivery.id)[:200]}@{self.name}>"
                if not self.name.startswith("[")
                else None,
            )

        report = await trio.to_thread.run_sync(build) if len(due) >= MANY_RECIPIENTS else build()
        if report is None:
            return ()
        stored = await self.store.add(
            report.message, "", [report.recipient], mail_params=format_params(report.mail_params)
        )
        self.counts.reports += 1
        actions = list(dict.fromkeys(each.action for each in report.statuses))
        REPORTED.log(id=message.delivery.id, report=stored, actions=actions)
        statuses: tuple[RecipientStatus, ...] = report.statuses
        return statuses

    def _log(
        self,
        message: QueuedMessage,
        state: State,
        result: Result,
        age: float,
        after: float,
        *,
        give_up: bool,
    ) -> None:
        """Write a record of the outcome of each recipient."""
        hosts = hosts_of(result)
        for name, outcome in outcomes_of(result).items():
            fields: dict[str, Value] = {
                "id": message.delivery.id,
                "sender": Address(message.delivery.stored.sender),
                "to": Address(name),
                "attempt": state.attempts,
                "age": int(age),
                "host": hosts.get(name, str(self.destination)),
            }
            text = ClientText(text_of(outcome))
            if isinstance(outcome, Accepted):
                self.counts.relayed += 1
                RELAYED.log(fields, reply=text)
            elif is_final(outcome) or give_up:
                self.counts.undelivered += 1
                UNDELIVERED.log(fields, reason=text)
            elif outcome is not None:
                self.counts.deferred += 1
                DEFERRED.log(fields, retry_in=int(after), reason=text)
