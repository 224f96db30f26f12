"""The group commit by itself: who commits, for whom, and what a cancellation or a stalled disk does to those who wait."""

from __future__ import annotations

import functools
import operator
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio.stores._group import Group
from smtp_trio.stores._spool import Spool

if TYPE_CHECKING:
    from collections.abc import Sequence


class Message(Spool):
    """A message that tells when it was thrown away."""

    discarded = False

    async def dispose(self) -> None:
        self.discarded = True


@define
class Disk:
    """Commits into a list of groups, and may be held up at the first."""

    groups: list[list[str]] = Factory(list)
    bad: set[str] = Factory(set)
    broken: Exception | None = None
    stall: bool = False
    entered: threading.Event = Factory(threading.Event)
    proceed: threading.Event = Factory(threading.Event)

    def commit(self, messages: Sequence[Message]) -> dict[Message, Exception]:
        self.entered.set()
        if self.stall and not self.groups:
            assert self.proceed.wait(60)
        self.groups.append([message.name for message in messages])
        if self.broken is not None:
            raise self.broken
        return {message: OSError(message.name) for message in messages if message.name in self.bad}


async def submit(group: Group[Message], message: Message | str, verdicts: dict[str, Exception | None]) -> None:
    message = message if isinstance(message, Message) else Message(message)
    verdicts[message.name] = await group.submit(message)


async def test_one_alone_does_not_wait_for_company() -> None:
    disk = Disk()
    group = Group(disk.commit)

    assert await group.submit(Message("a")) is None
    assert await group.submit(Message("b")) is None
    assert disk.groups == [["a"], ["b"]]


async def test_those_who_come_during_a_commit_share_the_next() -> None:
    disk, verdicts = Disk(stall=True), dict[str, Exception | None]()
    group = Group(disk.commit)
    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(submit, group, str(n), verdicts)
        await wait_all_tasks_blocked()
        disk.proceed.set()

    assert verdicts == {str(n): None for n in range(100)}
    assert [len(names) for names in disk.groups] == [1, 99]


async def test_a_group_has_a_largest_size() -> None:
    disk, verdicts = Disk(stall=True), dict[str, Exception | None]()
    group = Group(disk.commit, size=10)
    async with trio.open_nursery() as nursery:
        for n in range(26):
            nursery.start_soon(submit, group, str(n), verdicts)
        await wait_all_tasks_blocked()
        disk.proceed.set()

    assert [len(names) for names in disk.groups] == [1, 10, 10, 5]
    assert len(verdicts) == 26


async def test_one_bad_message_does_not_harm_the_others() -> None:
    disk, verdicts = Disk(stall=True, bad={"b"}), dict[str, Exception | None]()
    group = Group(disk.commit)
    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(submit, group, name, verdicts)
        await wait_all_tasks_blocked()
        disk.proceed.set()

    assert verdicts["a"] is verdicts["c"] is None
    assert isinstance(verdicts["b"], OSError)


async def test_a_commit_that_fails_refuses_its_group_and_no_other() -> None:
    disk = Disk(broken=OSError("gone"))
    group = Group(disk.commit)

    assert await group.submit(Message("a")) is disk.broken
    disk.broken = None
    assert await group.submit(Message("b")) is None


@pytest.mark.parametrize("cancelled", ["first", "second"])
async def test_a_cancelled_session_waits_for_its_verdict(cancelled: str) -> None:
    """The first commits, the second waits for it: neither leaves early, and the others notice nothing."""
    disk, verdicts = Disk(stall=True), dict[str, Exception | None]()
    group = Group(disk.commit)
    scope = trio.CancelScope()

    async def session(name: str) -> None:
        if name == cancelled:
            with scope:
                await submit(group, name, verdicts)
                await trio.lowlevel.checkpoint()
        else:
            await submit(group, name, verdicts)

    async with trio.open_nursery() as nursery:
        for name in ("first", "second", "third"):
            nursery.start_soon(session, name)
            await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert not verdicts
        disk.proceed.set()

    assert verdicts == {"first": None, "second": None, "third": None}
    assert disk.groups == [["first"], ["second", "third"]]
    assert scope.cancelled_caught


async def test_a_disk_that_does_not_answer(mock_clock: MockClock) -> None:
    """Who is not yet in the thread's hands leaves in time and leaves nothing; the one that commits stays with it."""
    disk, verdicts = Disk(stall=True), dict[str, Exception | None]()
    group = Group(disk.commit, patience=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, group, "committing", verdicts)
        await wait_all_tasks_blocked()
        waiting = Message("waiting")
        async with trio.open_nursery() as hasty:
            hasty.start_soon(submit, group, waiting, verdicts)
            await wait_all_tasks_blocked()
            mock_clock.jump(31)
        assert isinstance(verdicts["waiting"], trio.TooSlowError)
        assert waiting.discarded
        assert "committing" not in verdicts
        disk.proceed.set()

    assert verdicts["committing"] is None
    assert disk.groups == [["committing"]]
    assert await group.submit(Message("next")) is None


async def test_the_first_in_line_leaves_before_its_turn(mock_clock: MockClock) -> None:
    disk, verdicts = Disk(stall=True), dict[str, Exception | None]()
    group = Group(disk.commit, patience=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, group, "committing", verdicts)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as hasty:
            hasty.start_soon(submit, group, "hasty", verdicts)
            await wait_all_tasks_blocked()
            mock_clock.jump(20)
            nursery.start_soon(submit, group, "patient", verdicts)
            await wait_all_tasks_blocked()
            mock_clock.jump(11)
        disk.proceed.set()

    assert isinstance(verdicts.pop("hasty"), trio.TooSlowError)
    assert verdicts == {"committing": None, "patient": None}
    assert disk.groups == [["committing"], ["patient"]]


class Steps(trio.abc.Instrument):
    """Counts how often each task runs."""

    def __init__(self) -> None:
        self.of: Counter[trio.lowlevel.Task] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.of[task] += 1


async def test_nobody_is_woken_in_vain() -> None:
    """A session runs when it submits, when it is its turn, and when its commit is done: however many others there are."""
    disk, steps, tasks = Disk(stall=True), Steps(), set[trio.lowlevel.Task]()
    group = Group(disk.commit, size=1)

    async def session(name: str) -> None:
        tasks.add(trio.lowlevel.current_task())
        await group.submit(Message(name))

    trio.lowlevel.add_instrument(steps)
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(session, str(n))
        await wait_all_tasks_blocked()
        disk.proceed.set()
    trio.lowlevel.remove_instrument(steps)

    assert len(disk.groups) == len(tasks) == 20
    assert max(steps.of[task] for task in tasks) <= 4  # one more for the thread's limiter


async def test_a_disk_that_answers_too_late(mock_clock: MockClock) -> None:
    """A message that the thread has in hand is not torn from it, though its session has left."""
    disk, verdicts = Disk(stall=True), dict[str, Exception | None]()
    slow = Disk(stall=True)
    group = Group(lambda messages: (slow if disk.groups else disk).commit(messages), patience=30)
    messages = [Message("one"), Message("other")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, group, "first", verdicts)
        await wait_all_tasks_blocked()
        for message in messages:
            nursery.start_soon(submit, group, message, verdicts)
        await wait_all_tasks_blocked()
        disk.proceed.set()
        await trio.to_thread.run_sync(slow.entered.wait)
        mock_clock.jump(31)
        await wait_all_tasks_blocked()
        (hasty,) = verdicts.keys() - {"first"}  # either of them may be the one that commits for both
        slow.proceed.set()

    assert isinstance(verdicts.pop(hasty), trio.TooSlowError)
    assert list(verdicts.values()) == [None, None]
    assert sorted(slow.groups[0]) == ["one", "other"]
    assert not any(message.discarded for message in messages)


def test_one_run_after_another() -> None:
    disk = Disk()
    group = Group(disk.commit)

    async def cancelled() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            assert await group.submit(Message("a")) is None
            await trio.lowlevel.checkpoint()

    async def failing() -> None:
        async with trio.open_nursery() as nursery:
            for name in "bcd":
                nursery.start_soon(submit, group, name, {})
            await trio.lowlevel.checkpoint()
            raise LookupError

    trio.run(cancelled)
    with pytest.raises(ExceptionGroup):
        trio.run(failing)
    trio.run(group.submit, Message("e"))

    assert sorted(functools.reduce(operator.iadd, disk.groups, [])) == ["a", "b", "c", "d", "e"]


async def test_the_first_in_line_leaves_as_it_is_called(mock_clock: MockClock) -> None:
    """A commit ends in the very moment in which the patience of who is called next does: then it is the next one's turn."""
    for _ in range(20):  # which of the two tasks runs first is Trio's dice
        disk, verdicts = Disk(), dict[str, Exception | None]()
        group = Group(disk.commit, patience=30)

        async def commit_until(time: float, group: Group[Message] = group) -> None:
            group._committing = True
            await trio.sleep_until(time)
            group._committing = False
            group._call_first()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit_until, trio.current_time() + 30)
            await wait_all_tasks_blocked()
            nursery.start_soon(submit, group, "hasty", verdicts)
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
            nursery.start_soon(submit, group, "patient", verdicts)
            await wait_all_tasks_blocked()
            with trio.fail_after(40):
                mock_clock.jump(29)
                while "patient" not in verdicts:
                    await wait_all_tasks_blocked(0.01)
                    mock_clock.jump(1)

        assert isinstance(verdicts.pop("hasty"), trio.TooSlowError)
        assert verdicts == {"patient": None}
        assert disk.groups == [["patient"]]
