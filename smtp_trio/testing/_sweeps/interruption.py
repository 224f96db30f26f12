"""Points of a run, and the interruption of a run at one of them.

A sweep has to reach every point of a scenario, and a failure at one of them has to be repeatable. So it needs names for
points that mean the same in every run. The number of a step within the whole run is such a name only while Trio runs
tasks in the same order each time. A `Point` therefore names its task, and counts within that task: how often a task was
resumed before it reached some line depends on that task, and hardly on the order in which others ran.

The uninterrupted run lists all points. Each later run is given one of them as its target and counts in the same way.
Three kinds of points exist:

* "cancel": a task is about to take a step. The cancel scopes around the scenario (or around the `Attempt.here` blocks
  that are open) are cancelled, and the task meets `trio.Cancelled` at the next checkpoint that it comes to.
* "start": a task is about to take a step. The scenario is left alone, and the action of the sweep is started beside it.
* "cut": a stream is about to receive or send, or has just sent. Its connection is lost, for both ends, and the operation
  raises: so a send raises before anything was sent, or afterwards. Trio's contract allows both.

Points count only while a region (the scenario or an `Attempt.here` block) is open, so that what precedes and follows it
is left alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

import trio
from attrs import frozen

from ..._client.reply_timer import TASK_NAME
from .failing_stream import FailingStream

Kind = Literal["cancel", "cut", "start"]


@frozen
class Point:
    """A step, or a stream operation, of one task.

    ``task`` is the task's name and ``ordinal`` its place among tasks of that name, in the order in which they were
    started. ``number`` counts the steps or operations of this task. All count from 1.
    """

    task: str
    ordinal: int
    number: int


class Interruption:
    """The interruption of one run at its ``target``; with None the run is left alone, and its points are listed."""

    def __init__(
        self, kind: Kind, target: Point | None, on_reached: Callable[[trio.lowlevel.Task], None], *, whole: bool
    ) -> None:
        self.kind: Kind = kind
        #: The whole scenario is interrupted, and not only the blocks of `Attempt.here`.
        self.whole: bool = whole
        #: Trio's clock at the interruption; infinite before it.
        self.time: float = math.inf
        #: Points that were passed before the interruption.
        self.passed: list[Point] = []
        self._target = target
        #: Called with the task at the target, before anything is interrupted. It starts the action of a sweep.
        self._on_reached = on_reached
        self._regions: list[trio.CancelScope] = []
        self._tasks: dict[trio.lowlevel.Task, tuple[str, int]] = {}
        self._names: Counter[str] = Counter()
        self._numbers: Counter[trio.lowlevel.Task] = Counter()

    @property
    def done(self) -> bool:
        """True if the run was interrupted."""
        return self.time < math.inf

    def add_task(self, task: trio.lowlevel.Task) -> None:
        """Give a task that was started its ordinal."""
        if task not in self._tasks:
            self._names[task.name] += 1
            self._tasks[task] = task.name, self._names[task.name]

    @contextmanager
    def region(self) -> Generator[None]:
        """Interrupt what is done in the block."""
        with trio.CancelScope() as scope:
            self._regions.append(scope)
            try:
                yield
            finally:
                if scope in self._regions:
                    self._regions.remove(scope)

    def narrow(self) -> None:
        """Interrupt only the regions that are opened from now on, and not the whole scenario."""
        if self.whole:
            self.whole = False
            self._regions.clear()
            self.passed.clear()

    def wrap(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """Return ``stream`` with its receives and sends as points, where these are what is counted."""
        return FailingStream(stream, self._before_operation) if self.kind == "cut" else stream

    def _before_operation(self) -> bool:
        return self._reached(trio.lowlevel.current_task())

    def before_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step that ``task`` is about to take. If it is the target, cancel the regions, where that is the kind."""
        if self.kind != "cut" and self._reached(task) and self.kind == "cancel":
            for scope in self._regions:
                scope.cancel()

    def _reached(self, task: trio.lowlevel.Task) -> bool:
        """Count a point of ``task``; return True if it is the target."""
        if self.done or task.name == TASK_NAME:  # that task is not a part of the scenario
            return False
        self.add_task(task)
        self._numbers[task] += 1
        if not self._regions:
            return False
        point = Point(*self._tasks[task], self._numbers[task])
        if point == self._target:
            self.time = trio.current_time()
            self._on_reached(task)
            return True
        self.passed.append(point)
        return False
