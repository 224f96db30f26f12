"""A case of the benchmarks, its contenders, and how they are measured."""

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


class UnavailableError(Exception):
    """A contender cannot run on this machine. The message names the reason."""


@frozen
class Sample:
    """The result of one measurement.

    ``cost`` is the cost of a unit of work, in the case's ``unit``; ``rate`` the number of units per second. ``load`` is
    the cost of a unit for the load generator, in microseconds of CPU, if it is of interest.
    """

    cost: float
    rate: float | None = None
    load: float | None = None


@frozen
class Spread:
    """The median, minimum and maximum of several values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@define(slots=False)
class Environment:
    """The running servers, each started when it is first needed, and a directory for files."""

    stack: ExitStack
    short: bool = False
    rounds: int | None = None
    processes: dict[tuple[str, ...], Process] = Factory(dict)

    @cached_property
    def directory(self) -> Path:
        """A directory on a disk, not in memory, because stores write into it."""
        return Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="smtp-trio-bench-", dir="/var/tmp")))


#: Does this number of units of work, and returns the measurement.
Measure = Callable[[int], Sample]
#: Prepares a measurement. Raises `UnavailableError`.
Contender = Callable[[Environment], Measure]


@frozen(kw_only=True)
class Case:
    """A case. The results of all contenders are compared with the first one, which is smtp_trio."""

    name: str
    contenders: Mapping[str, Contender]
    amount: int
    """Units of work for each contender in each round."""
    short: int
    """The same in the short form."""
    unit: str = "\N{MICRO SIGN}s of CPU per message"
    """The unit of `Sample.cost`."""
    rate: str = "messages/s"
    """The unit of `Sample.rate`."""
    by: Literal["cost", "rate"] = "cost"
    """The value that ratios are computed from."""
    rounds: int = 5
    compared: Mapping[str, str] = field(factory=dict)
    """For each contender the one that it is compared with. If it is empty, that is the first one for all."""


@frozen
class Figures:
    """The results of one contender."""

    cost: Spread | None = None
    rate: Spread | None = None
    ratio: Spread | None = None
    """The value of the contender that it is compared with divided by this one's, round by round."""
    load: Spread | None = None
    missing: str = ""
    """The reason why the contender was not measured."""


@frozen
class Outcome:
    """The results of a case."""

    theme: str
    name: str
    unit: str
    rate: str
    by: str
    figures: dict[str, Figures] = field(factory=dict)
    reference: str = "first"
    """What the ratio's column calls the contender that the others are compared with."""


def run(theme: str, case: Case, env: Environment) -> Outcome:
    """Measure all contenders in turn, round by round, so that disturbances on the machine affect all of them."""
    figures: dict[str, Figures] = {}
    ready: dict[str, Measure] = {}
    for name, contender in case.contenders.items():
        try:
            ready[name] = contender(env)
        except UnavailableError as exc:
            figures[name] = Figures(missing=str(exc))
    samples: dict[str, list[Sample]] = {name: [] for name in ready}
    rounds = 1 if env.short else case.rounds
    for _ in range(env.rounds if env.rounds and rounds > 1 else rounds):
        for name, measure in ready.items():
            samples[name].append(measure(case.short if env.short else case.amount))
    first = next(iter(case.contenders))
    for name, values in samples.items():
        compared = case.compared.get(name, name) if case.compared else first
        # Without the other contender there is nothing to compare with.
        reference = samples.get(compared, [])
        ratios = [value(one, case.by) / value(own, case.by) for one, own in zip(reference, values, strict=False)]
        rates = [sample.rate for sample in values if sample.rate is not None]
        loads = [sample.load for sample in values if sample.load is not None]
        figures[name] = Figures(
            cost=Spread.of([sample.cost for sample in values]),
            rate=Spread.of(rates) if rates else None,
            ratio=Spread.of(ratios) if ratios and name != compared else None,
            load=Spread.of(loads) if loads else None,
        )
    ordered = {name: figures[name] for name in case.contenders}
    reference_name = "smtp_trio's" if case.compared else "first"
    return Outcome(theme, case.name, case.unit, case.rate, case.by, ordered, reference_name)


def value(sample: Sample, by: Literal["cost", "rate"]) -> float:
    """Return the value that is compared."""
    number = sample.cost if by == "cost" else sample.rate
    assert number is not None
    return number


class Clock:
    """Measures wall time and the CPU time of a process (0: this one) from its creation on."""

    def __init__(self, pid: int = 0) -> None:
        self._pid = pid
        self._start = time.perf_counter(), cpu(pid)

    def stop(self, units: int) -> Sample:
        """Return microseconds of CPU per unit, and units per second."""
        wall, spent = time.perf_counter() - self._start[0], cpu(self._pid) - self._start[1]
        return Sample(1e6 * spent / units, units / wall)


def cpu(pid: int = 0) -> float:
    """Return the CPU time of all threads of a process in seconds, from the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime(~pid << 3 | 2)


@cache
def cores() -> tuple[int, int]:
    """Return the core for servers and the core for load generators and clients (the same one if there is only one)."""
    usable = os.sched_getaffinity(0)
    return min(usable), max(usable)


@contextmanager
def pinned(*on: int) -> Iterator[None]:
    """Keep this process, and those that it starts, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def today() -> str:
    """Return the date in UTC."""
    return datetime.now(UTC).date().isoformat()
