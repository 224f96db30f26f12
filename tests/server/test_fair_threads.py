"""The threads for slow computations: clients take turns, and what is no longer wanted is skipped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio._server.fair_threads import FairThreads, turn_of
from smtp_trio._types import Peer


class Work:
    """Computations that wait in their threads until they are let go, one by one."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = FairThreads(threads)
        self.begun: list[str] = []
        self._go = threading.Semaphore(0)

    async def run(self, name: str, wanted: Callable[[], bool] | None = None) -> str | None:
        """Compute something for a client: a group, which is the first letter of ``name``, and the rest but the last one."""

        def compute() -> str:
            self.begun.append(name)
            assert self._go.acquire(timeout=240)
            return name

        return await self.threads.run((name[0], name[1:-1]), compute, wanted)

    def finish(self, number: int) -> None:
        self._go.release(number)


@pytest.mark.parametrize(
    ("arrived", "begun"),
    [
        pytest.param("a1 a2 a3 a4 b1 c1 b2", "a1 a2 b1 c1 a3 b2 a4", id="groups"),
        # A client with many addresses of one network is no better off than with one.
        pytest.param(
            "x1 a(1)1 a(1)2 a(2)1 a(3)1 a(2)2 b1 b2 b3",
            "x1 a(1)1 b1 a(2)1 b2 a(3)1 b3 a(1)2 a(2)2",
            id="clients of a group when it is the turn of the group",
        ),
    ],
)
async def test_turns(arrived: str, begun: str) -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        for name in arrived.split():
            nursery.start_soon(work.run, name)
            await wait_all_tasks_blocked()
        work.finish(len(arrived.split()))
    assert work.begun == begun.split()


async def test_network_that_comes_later_waits_for_one_computation_of_each_other() -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        for number in range(48):
            nursery.start_soon(work.run, f"a{number:02}")
        await wait_all_tasks_blocked()
        nursery.start_soon(work.run, "b1")
        await wait_all_tasks_blocked()
        work.finish(49)
    assert work.begun.index("b1") <= 2


async def test_threads_are_limited_and_the_result_is_returned() -> None:
    work, results = Work(threads=2), []

    async def run(name: str) -> None:
        results.append(await work.run(name))

    async with trio.open_nursery() as nursery:
        for name in ("a1", "b1", "c1"):
            nursery.start_soon(run, name)
        while len(work.begun) < 2:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked(0.05)
        assert len(work.begun) == 2
        work.finish(3)
    assert sorted(map(str, results)) == ["a1", "b1", "c1"]


async def test_computation_that_is_not_wanted_any_more_is_skipped() -> None:
    work, results = Work(), []

    async def run(name: str, wanted: bool) -> None:
        results.append((name, await work.run(name, lambda: wanted)))

    async with trio.open_nursery() as nursery:
        for name, wanted in (("a1", False), ("b1", False), ("b2", True), ("c1", False)):
            nursery.start_soon(run, name, wanted)
            await wait_all_tasks_blocked()
        work.finish(2)
    assert work.begun == ["a1", "b2"]  # the first had not to wait
    assert sorted(results) == [("a1", "a1"), ("b1", None), ("b2", "b2"), ("c1", None)]


async def test_cancelled_computation_gives_up_its_place() -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.run, "a1")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as cancelled:
            for name in ("b1", "b2", "c1"):
                cancelled.start_soon(work.run, name)
            await wait_all_tasks_blocked()
            cancelled.cancel_scope.cancel()
        nursery.start_soon(work.run, "d1")
        await wait_all_tasks_blocked()
        work.finish(2)
    assert work.begun == ["a1", "d1"]
    work.finish(1)
    assert await work.run("e1") == "e1"  # the thread is free again


async def test_turn_of_a_cancelled_computation_is_passed_on(autojump_clock: MockClock) -> None:
    """Its turn comes in the same iteration of the scheduler in which it is cancelled."""
    threads, begun, gate, scope = FairThreads(1), [], trio.Event(), trio.CancelScope()

    async def hold() -> None:
        assert threads._turns.take()
        await gate.wait()
        scope.cancel()
        threads._turns.release()

    async def cancelled() -> None:
        with scope:
            await threads.run(("b",), lambda: begun.append("b"))

    async with trio.open_nursery() as nursery:
        for function in (hold, cancelled, partial(threads.run, ("c",), lambda: begun.append("c"))):
            nursery.start_soon(function)
            await wait_all_tasks_blocked()
        gate.set()
    assert begun[-1] == "c"
    await threads.run(("d",), lambda: begun.append("d"))
    assert begun[-1] == "d"


async def test_exception_of_the_function_is_raised_and_frees_the_thread() -> None:
    threads = FairThreads(1)

    def fail() -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await threads.run(("a",), fail)
    assert await threads.run(("a",), lambda: 1) == 1


async def test_function_runs_in_a_thread_unless_the_clock_jumps() -> None:
    assert await FairThreads(1).run(("a",), threading.get_ident) != threading.get_ident()


async def test_function_runs_in_the_task_if_the_clock_jumps(autojump_clock: MockClock) -> None:
    assert await FairThreads(1).run(("a",), threading.get_ident) == threading.get_ident()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", "client"),
        ("192.0.2.1", "192.0.2.200", "group"),
        ("192.0.2.1", "192.0.3.1", ""),
        ("2001:db8::1", "2001:db8::2", "client"),
        ("2001:db8::1", "2001:db8:1:2::1", "group"),
        ("2001:db8::1", "2001:db9::1", ""),
        ("127.0.0.1", "127.0.0.2", "group"),
    ],
)
def test_groups_and_clients(one: str, other: str, same: str) -> None:
    (group, client), (other_group, other_client) = turn_of(Peer(one, 1, "tcp")), turn_of(Peer(other, 2, "tcp"))
    assert (group == other_group) == (same != "")
    assert (client == other_client) == (same == "client")
