"""Where tasks stand, in a form to be read: without the frames of Trio and of those who look."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from types import FrameType

import trio
from attrs import frozen

#: Nobody looks for a mistake in these: Trio, and those of this folder through which every octet passes, or which look on.
OURS = "_sweeps _transcripts/recording.py _transcripts/transcript.py _servers/pair.py _streams.py"
UNSEEN = (
    str(Path(trio.__file__).parent),
    *(str(Path(__file__).parents[1] / name) for name in OURS.split()),
)


@frozen
class Stand:
    """Where one task stood: file, line and function of each call, the outermost first."""

    task: str
    calls: tuple[tuple[str, int, str], ...]

    @classmethod
    def of(cls, task: trio.lowlevel.Task) -> Stand:
        """A task that waits."""
        frames: list[tuple[FrameType, int]] = []
        with suppress(
            AttributeError, TypeError
        ):  # of a task that has ended, and of awaitables that Trio cannot look into
            for each in task.iter_await_frames():
                frames.append(each)  # noqa: PERF402  # what there was stays
        return cls(task.name, _calls(frames))

    @classmethod
    def here(cls) -> Stand:
        """The task that runs, down to whoever asks."""
        frames = takewhile(
            lambda each: each[0].f_code.co_name != "unrolled_run", traceback.walk_stack(sys._getframe(1))
        )
        return cls(trio.lowlevel.current_task().name, _calls(reversed(list(frames))))

    @property
    def place(self) -> str:
        """The function it stood in."""
        return self.calls[-1][2] if self.calls else "?"

    def __str__(self) -> str:
        lines = "".join(traceback.StackSummary.from_list([(*call, None) for call in self.calls]).format())
        return f"{self.task}\n{lines or '  (not begun)'}".rstrip()


def _calls(frames: Iterable[tuple[FrameType, int]]) -> tuple[tuple[str, int, str], ...]:
    calls = ((frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in frames)
    return tuple(call for call in calls if not call[0].startswith(UNSEEN))


def tasks_below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """A task, and all that run in its nurseries, and in theirs; in the order in which they began."""
    yield task
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=_age):
            yield from tasks_below(child)


def _age(task: trio.lowlevel.Task) -> int:
    return getattr(task, "_counter", 0)
