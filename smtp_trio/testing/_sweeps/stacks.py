"""Stacks of tasks in readable form, without the frames of Trio and of this package's test streams."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import trio
from attrs import frozen

#: Files whose frames are left out: Trio, and the modules of this package that every octet passes or that only observe.
HIDDEN = (
    str(Path(trio.__file__).parent),
    *(
        str(Path(__file__).parents[1] / name)
        for name in (
            "_sweeps",
            "_transcripts/recording.py",
            "_transcripts/transcript.py",
            "_servers/pair.py",
            "_streams.py",
        )
    ),
)


@frozen(order=True)
class Place:
    """A line of a function. ``function`` is its qualified name in ``module``, such as "Store.data".

    Both are "?" for a task without a call outside of Trio, such as that of ``nursery.start_soon(trio.sleep, 1)``.
    """

    module: str
    function: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}.{self.function}, line {self.line}"


@frozen
class Call:
    """One call of a stack: its place, and the file."""

    file: str
    place: Place


@frozen
class TaskStack:
    """The stack of one task, the outermost call first."""

    task: str
    calls: tuple[Call, ...]

    @classmethod
    def of(cls, task: trio.lowlevel.Task) -> TaskStack:
        """Return the stack of a task that is waiting."""
        frames: list[tuple[FrameType, int]] = []
        # A task that has ended has no frames, and Trio cannot look into every awaitable. Frames found before that are
        # kept.
        with suppress(AttributeError, TypeError):
            for each in task.iter_await_frames():
                frames.append(each)  # noqa: PERF402
        return cls(task.name, _visible(frames))

    @classmethod
    def of_current_task(cls) -> TaskStack:
        """Return the stack of the running task, down to the caller."""
        task = trio.lowlevel.current_task()
        outermost = getattr(task.coro, "cr_frame", None)
        frames: list[tuple[FrameType, int]] = []
        for each in traceback.walk_stack(sys._getframe(1)):
            frames.append(each)
            if each[0] is outermost:
                break
        return cls(task.name, _visible(reversed(frames)))

    @property
    def place(self) -> Place:
        """The place of the innermost call."""
        return self.calls[-1].place if self.calls else Place("?", "?", 0)

    def __str__(self) -> str:
        # As in a traceback, without the names of the class and of the functions around it.
        calls = [(call.file, call.place.line, call.place.function.rpartition(".")[2], None) for call in self.calls]
        lines = "".join(traceback.StackSummary.from_list(calls).format())
        return f"{self.task}\n{lines or '  (not started)'}".rstrip()


def _visible(frames: Iterable[tuple[FrameType, int]]) -> tuple[Call, ...]:
    calls = (
        Call(frame.f_code.co_filename, Place(frame.f_globals.get("__name__", "?"), frame.f_code.co_qualname, line))
        for frame, line in frames
    )
    return tuple(call for call in calls if not call.file.startswith(HIDDEN))


def tasks_below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Return the task and all tasks in its nurseries, recursively."""
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from tasks_below(child)
