"""Measurements of an observed server besides its counters: the durations of hooks, sessions and commits."""

from __future__ import annotations

from bisect import bisect_left
from functools import update_wrapper
from typing import Any

import trio
from attrs import frozen

from .hook_runner import Hook

# How measurements are taken
# --------------------------
#
# The counters of `Counts` change at rare events, such as a refusal, or cost one addition for each command, so they are always
# counted. Measuring the duration of each hook would cost more. So `observe`, which the HTTP listener calls, replaces the
# hooks in the tables of the server by `TimedHook`, and a server that is not observed executes no additional instruction.
# Sessions and commits are rare enough to check each time whether a histogram exists.

#: The upper bounds of the buckets of a histogram, in seconds.
HOOK_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
SESSION_BOUNDS = (0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0)
COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
#: The hooks that are not measured, because they are called once.
UNTIMED = frozenset({"start", "stop"})


class Histogram:
    """The counts of durations by buckets."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)  # the last bucket has no upper bound
        self.sum: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def distribution(self) -> Distribution:
        """Return the current values."""
        return Distribution(self.counts.copy(), self.sum)


@frozen
class Distribution:
    """The values of a `Histogram`: the number of durations in each bucket, and their sum."""

    counts: list[int]
    sum: float


class TimedHook:
    """A hook whose duration is measured, without the time that a data hook waits for the client."""

    def __init__(self, name: str, hook: Hook, histogram: Histogram) -> None:
        update_wrapper(self, hook)
        self._hook = hook
        self._histogram = histogram
        self._reads = name == "data"

    async def __call__(self, session: object, *args: Any) -> object:
        """Call the hook."""
        began = trio.current_time()
        try:
            return await self._hook(session, *args)
        finally:
            waited = args[0]._reader.waited if self._reads else 0.0
            self._histogram.add(trio.current_time() - began - waited)


class Measurements:
    """The histograms of one server."""

    def __init__(self) -> None:
        self.hooks: dict[str, Histogram] = {}
        self.sessions: Histogram = Histogram(SESSION_BOUNDS)

    def timed(self, name: str, hook: Hook) -> Hook:
        """Return a hook that calls another one and measures its duration."""
        if isinstance(hook, TimedHook) or name in UNTIMED:
            return hook
        return TimedHook(name, hook, self.hooks.setdefault(name, Histogram(HOOK_BOUNDS)))
