"""`Observed` calls its observer before each wait, and changes nothing else about what it awaits."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio._server.observed import Observed


class Recorder:
    """Records the time of each wait."""

    def __init__(self, waits: list[float], *, observing: bool = True) -> None:
        self.waits = waits
        self.observing = observing

    def before_wait(self) -> None:
        self.waits.append(trio.current_time())


async def wait(times: int) -> int:
    for _ in range(times):
        await trio.sleep(1)
    return times


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_observer_is_called_before_each_wait(times: int, autojump_clock: MockClock) -> None:
    waits: list[float] = []
    assert await Observed(wait(times), Recorder(waits)) == times
    assert waits == list(range(times))


async def test_observer_is_not_called_while_it_is_not_observing(autojump_clock: MockClock) -> None:
    waits: list[float] = []
    recorder = Recorder(waits, observing=False)

    async def wait_twice() -> None:
        await trio.sleep(1)
        recorder.observing = True
        await trio.sleep(1)

    await Observed(wait_twice(), recorder)
    assert waits == [1]


async def test_awaitable_that_is_not_a_coroutine(autojump_clock: MockClock) -> None:
    class Later(Awaitable[int]):
        def __await__(self) -> Generator[Any, Any, int]:
            return wait(2).__await__()

    waits: list[float] = []
    assert await Observed(Later(), Recorder(waits)) == 2
    assert len(waits) == 2


async def test_exceptions_and_cancellation_pass_through(autojump_clock: MockClock) -> None:
    async def fail() -> None:
        await trio.sleep(1)
        raise KeyError("x")

    ended = []

    async def cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    with pytest.raises(KeyError):
        await Observed(fail(), Recorder([]))
    with trio.move_on_after(5):
        await Observed(cancelled(), Recorder([]))
    assert ended == [6]


async def test_stack_of_the_task_includes_the_coroutine(autojump_clock: MockClock) -> None:
    async def outer() -> None:
        await Observed(wait(1), Recorder([]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outer)
        await wait_all_tasks_blocked()
        (task,) = nursery.child_tasks
        names = [frame.f_code.co_name for frame, _ in task.iter_await_frames()]
    assert names[:3] == ["outer", "wait", "sleep"]
