"""What a benchmark is: a question, and contenders that take turns answering it."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import Factory, define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .servers import Process


class Missing(Exception):
    """A contender cannot take part here, and this is why."""


@frozen
class Sample:
    """What a run has shown: what one unit of work cost, in the case's ``unit``, and how many of them were done a second.

    ``load`` is what the unit cost whoever made the work, in microseconds of CPU, where that is of interest.
    """

    cost: float
    rate: float | None = None
    load: float | None = None


@frozen
class Spread:
    """A median, and how far the values lay apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@define(slots=False)
class Ground:
    """Where contenders stand: the servers that run, which are started when they are first asked for, and a folder."""

    stack: ExitStack
    short: bool = False
    processes: dict[tuple[str, ...], Process] = Factory(dict)

    @cached_property
    def folder(self) -> Path:
        """On a disk, not in memory: stores write here."""
        return Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="smtp-trio-bench-", dir="/var/tmp")))


#: Does so many units of work, and says what that took.
Measure = Callable[[int], Sample]
#: Makes ready; raises `Missing` when it cannot.
Contender = Callable[[Ground], Measure]


@frozen(kw_only=True)
class Case:
    """One question. All are measured against the first contender, which is ours."""

    name: str
    contenders: Mapping[str, Contender]
    amount: int
    """Units of work that each does in each round."""
    short: int
    """… in the short form."""
    unit: str = "\N{MICRO SIGN}s of CPU a message"
    """Of `Sample.cost`."""
    rate: str = "messages/s"
    """Of `Sample.rate`."""
    by: Literal["cost", "rate"] = "cost"
    """What the ratio is made of."""
    rounds: int = 5


@frozen
class Figures:
    """What was found out about one contender."""

    cost: Spread | None = None
    rate: Spread | None = None
    ratio: Spread | None = None
    """The first contender's value divided by this one's, round by round."""
    load: Spread | None = None
    missing: str = ""
    """Why there is nothing."""


@frozen
class Outcome:
    """What a case has shown."""

    theme: str
    name: str
    unit: str
    rate: str
    by: str
    figures: dict[str, Figures] = field(factory=dict)


def run(theme: str, case: Case, ground: Ground) -> Outcome:
    """Let the contenders take turns, round by round, so that a noisy machine troubles all alike."""
    figures: dict[str, Figures] = {}
    ready: dict[str, Measure] = {}
    for name, contender in case.contenders.items():
        try:
            ready[name] = contender(ground)
        except Missing as exc:
            figures[name] = Figures(missing=str(exc))
    samples: dict[str, list[Sample]] = {name: [] for name in ready}
    for _ in range(1 if ground.short else case.rounds):
        for name, measure in ready.items():
            samples[name].append(measure(case.short if ground.short else case.amount))
    ours = samples[next(iter(case.contenders))]
    for name, values in samples.items():
        ratios = [value(mine, case.by) / value(theirs, case.by) for mine, theirs in zip(ours, values, strict=True)]
        rates = [sample.rate for sample in values if sample.rate is not None]
        loads = [sample.load for sample in values if sample.load is not None]
        figures[name] = Figures(
            cost=Spread.of([sample.cost for sample in values]),
            rate=Spread.of(rates) if rates else None,
            ratio=Spread.of(ratios) if name != next(iter(case.contenders)) else None,
            load=Spread.of(loads) if loads else None,
        )
    return Outcome(theme, case.name, case.unit, case.rate, case.by, {name: figures[name] for name in case.contenders})


def value(sample: Sample, by: Literal["cost", "rate"]) -> float:
    """What is compared."""
    number = sample.cost if by == "cost" else sample.rate
    assert number is not None
    return number


class Clock:
    """Runs from its making on, for the wall and for a process: this one, or that with an id."""

    def __init__(self, pid: int = 0) -> None:
        self._pid = pid
        self._start = time.perf_counter(), cpu(pid)

    def stop(self, units: int) -> Sample:
        """Microseconds of CPU a unit, units a second."""
        wall, spent = time.perf_counter() - self._start[0], cpu(self._pid) - self._start[1]
        return Sample(1e6 * spent / units, units / wall)


def cpu(pid: int = 0) -> float:
    """CPU that all threads of a process have used, in seconds: what clock_getcpuclockid(3) makes of its id, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)


@cache
def cores() -> tuple[int, int]:
    """The core of servers, and that of those who keep them busy; the same one where there is no other."""
    usable = os.sched_getaffinity(0)
    return min(usable), max(usable)


@contextmanager
def pinned(*on: int) -> Iterator[None]:
    """This process, and those that it starts, stay on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def today() -> str:
    """The day, in UTC."""
    return datetime.now(UTC).date().isoformat()
