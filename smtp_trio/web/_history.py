"""`History`: the counters of a server for each of the last sixty minutes."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import trio
from attrs import frozen

from .._server.snapshot import Snapshot
from .._types import Statistics

MINUTES = 60
#: Seconds.
MINUTE = 60
#: Seconds to wait after the end of a minute, since the system clock may be slightly slower than that of Trio.
MARGIN = 0.05


@frozen
class Minute:
    """The counts of one minute, beginning at ``time``. ``refusals`` are by stage and reply code."""

    time: datetime
    messages: int
    sessions: int
    refusals: Counter[str]


class History:
    """The differences of the counters from minute to minute."""

    def __init__(self, measure: Callable[[], Awaitable[Snapshot]], now: Callable[[], float] = time.time) -> None:
        self._measure = measure
        self._now = now
        self._minutes: deque[Minute] = deque(maxlen=MINUTES - 1)
        self._before = Statistics()  # the counters at the beginning of this minute
        self._began = now()

    async def run(self) -> None:
        """Record the counters at the end of each minute until cancelled."""
        while True:
            await trio.sleep(MINUTE - self._now() % MINUTE + MARGIN)
            await self.end_minute()

    async def end_minute(self) -> None:
        """Record the counters of the minute that has ended, and begin the next one."""
        statistics = (await self._measure()).statistics
        self._minutes.append(self._minute(statistics))
        self._before, self._began = statistics, self._now()

    def minutes(self, statistics: Statistics) -> list[Minute]:
        """Return the minutes from the oldest to the current one, given the current counters."""
        return [*self._minutes, self._minute(statistics)]

    def _minute(self, statistics: Statistics) -> Minute:
        before = self._before
        return Minute(
            datetime.fromtimestamp(math.floor(self._began / MINUTE) * MINUTE, UTC),
            statistics.messages - before.messages,
            statistics.sessions_total - before.sessions_total,
            statistics.refusals - before.refusals,
        )
