"""Group commit: which session commits, and what a cancellation or a stalled disk does to the sessions that wait."""

from __future__ import annotations

import functools
import operator
import signal
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio.stores._group import GroupCommit
from smtp_trio.stores._spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Message(Spool):
    """A message that records whether it was discarded."""

    discarded = False

    async def discard_in_thread(self) -> None:
        self.discarded = True


@define
class Disk:
    """A commit function that records the groups.

    With ``stall`` the first commit waits for ``proceed``. The commit raises ``error``, if there is one, and cannot
    store the messages named in ``invalid``.
    """

    groups: list[list[str]] = Factory(list)
    invalid: set[str] = Factory(set)
    error: Exception | None = None
    stall: bool = False
    entered: threading.Event = Factory(threading.Event)
    proceed: threading.Event = Factory(threading.Event)

    def commit(self, messages: Sequence[Message]) -> dict[Message, Exception]:
        self.entered.set()
        if self.stall and not self.groups:
            assert self.proceed.wait(240)
        self.groups.append([message.name for message in messages])
        if self.error is not None:
            raise self.error
        return {message: OSError(message.name) for message in messages if message.name in self.invalid}


async def submit(group: GroupCommit[Message], message: Message | str, results: dict[str, Exception | None]) -> None:
    """Submit a message, and put its result into ``results``."""
    message = message if isinstance(message, Message) else Message(message)
    results[message.name] = await group.submit(message)


async def test_single_message_is_committed_at_once() -> None:
    disk = Disk()
    group = GroupCommit(disk.commit)

    assert await group.submit(Message("a")) is None
    assert await group.submit(Message("b")) is None
    assert disk.groups == [["a"], ["b"]]


async def test_messages_that_come_during_a_commit_share_the_next_one() -> None:
    disk, results = Disk(stall=True), dict[str, Exception | None]()
    group = GroupCommit(disk.commit)
    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(submit, group, str(n), results)
        await wait_all_tasks_blocked()
        disk.proceed.set()

    assert results == {str(n): None for n in range(100)}
    assert [len(names) for names in disk.groups] == [1, 99]


async def test_second_group_begins_when_it_has_as_many_messages_as_the_first() -> None:
    """Its errors are its own. A third group waits for the end of one of the two."""
    first, second = Disk(stall=True), Disk(stall=True, error=OSError("gone"))
    group, results = GroupCommit(first.commit, second=second.commit, max_size=2), dict[str, Exception | None]()
    group._occupy(group._lanes[0], 1)  # so that the first group has two messages
    group._occupy(group._lanes[1], 1)
    async with trio.open_nursery() as nursery:

        async def add(*names: str) -> None:
            for name in names:
                nursery.start_soon(submit, group, name, results)
                await wait_all_tasks_blocked()

        await add("a", "b")
        group._occupy(group._lanes[0], 0)
        group._wake_first()
        await trio.to_thread.run_sync(first.entered.wait)
        group._occupy(group._lanes[1], 0)
        await add("c")
        assert not second.entered.is_set()
        await add("d")
        await trio.to_thread.run_sync(second.entered.wait)
        await add("e", "f")
        assert group.waiting == 2
        second.proceed.set()
        while len(results) < 4:
            await wait_all_tasks_blocked(0.01)
        assert second.groups == [["c", "d"], ["e", "f"]]
        first.proceed.set()

    assert first.groups == [["a", "b"]]
    assert [name for name, error in results.items() if error is None] == ["a", "b"]
    assert {error for error in results.values() if error is not None} == {second.error}


async def test_max_size() -> None:
    disk, results = Disk(stall=True), dict[str, Exception | None]()
    group = GroupCommit(disk.commit, max_size=10)
    async with trio.open_nursery() as nursery:
        for n in range(26):
            nursery.start_soon(submit, group, str(n), results)
        await wait_all_tasks_blocked()
        disk.proceed.set()

    assert [len(names) for names in disk.groups] == [1, 10, 10, 5]
    assert len(results) == 26


async def test_error_of_one_message_does_not_affect_the_others() -> None:
    disk, results = Disk(stall=True, invalid={"b"}), dict[str, Exception | None]()
    group = GroupCommit(disk.commit)
    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(submit, group, name, results)
        await wait_all_tasks_blocked()
        disk.proceed.set()

    assert results["a"] is results["c"] is None
    assert isinstance(results["b"], OSError)


async def test_failed_commit_affects_its_own_group_only() -> None:
    disk = Disk(error=OSError("gone"))
    group = GroupCommit(disk.commit)

    assert await group.submit(Message("a")) is disk.error
    disk.error = None
    assert await group.submit(Message("b")) is None


@pytest.mark.parametrize("cancelled", ["first", "second"])
async def test_cancelled_session_waits_for_its_result(cancelled: str) -> None:
    """The first session commits, and the second one waits for it. Neither returns early or affects the others."""
    disk, results = Disk(stall=True), dict[str, Exception | None]()
    group = GroupCommit(disk.commit)
    scope = trio.CancelScope()

    async def session(name: str) -> None:
        if name == cancelled:
            with scope:
                await submit(group, name, results)
                await trio.lowlevel.checkpoint()
        else:
            await submit(group, name, results)

    async with trio.open_nursery() as nursery:
        for name in ("first", "second", "third"):
            nursery.start_soon(session, name)
            await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert not results
        disk.proceed.set()

    assert results == {"first": None, "second": None, "third": None}
    assert disk.groups == [["first"], ["second", "third"]]
    assert scope.cancelled_caught


async def test_timeout_of_a_session_that_waits(mock_clock: MockClock) -> None:
    """A message that is not being committed is discarded at the timeout; the session that commits has no timeout."""
    disk, results = Disk(stall=True), dict[str, Exception | None]()
    group = GroupCommit(disk.commit, timeout=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, group, "committing", results)
        await wait_all_tasks_blocked()
        waiting = Message("waiting")
        async with trio.open_nursery() as inner:
            inner.start_soon(submit, group, waiting, results)
            await wait_all_tasks_blocked()
            mock_clock.jump(31)
        assert isinstance(results["waiting"], trio.TooSlowError)
        assert waiting.discarded
        assert "committing" not in results
        disk.proceed.set()

    assert results["committing"] is None
    assert disk.groups == [["committing"]]
    assert await group.submit(Message("next")) is None


async def test_next_session_times_out_before_its_turn(mock_clock: MockClock) -> None:
    disk, results = Disk(stall=True), dict[str, Exception | None]()
    group = GroupCommit(disk.commit, timeout=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, group, "committing", results)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as inner:
            inner.start_soon(submit, group, "early", results)
            await wait_all_tasks_blocked()
            mock_clock.jump(20)
            nursery.start_soon(submit, group, "late", results)
            await wait_all_tasks_blocked()
            mock_clock.jump(11)
        disk.proceed.set()

    assert isinstance(results.pop("early"), trio.TooSlowError)
    assert results == {"committing": None, "late": None}
    assert disk.groups == [["committing"], ["late"]]


async def test_each_session_has_its_own_deadline(mock_clock: MockClock) -> None:
    """Also those whose message has not waited longest, and those that come when others have timed out."""
    disk, results = Disk(stall=True), dict[str, Exception | None]()
    group = GroupCommit(disk.commit, timeout=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, group, "committing", results)
        await wait_all_tasks_blocked()
        for name in "abc":
            nursery.start_soon(submit, group, name, results)
            await wait_all_tasks_blocked()
            mock_clock.jump(10)
        nursery.start_soon(submit, group, "d", results)
        for names in ("a", "ab", "abc", "abcd"):
            await wait_all_tasks_blocked()
            assert "".join(results) == names
            mock_clock.jump(10)
        nursery.start_soon(submit, group, "e", results)
        await wait_all_tasks_blocked()
        disk.proceed.set()

    assert [name for name in results if results[name] is None] == ["committing", "e"]
    assert disk.groups == [["committing"], ["e"]]


async def test_deadlines_while_a_session_commits_that_comes_as_another_commit_ends(mock_clock: MockClock) -> None:
    """It does not commit a group in which its own message has no room: then nothing would watch over the deadlines."""
    for _ in range(20):  # Trio schedules the tasks in random order
        disk, results = Disk(stall=True), dict[str, Exception | None]()
        group = GroupCommit(disk.commit, max_size=1, timeout=30)
        group._occupy(group._lanes[0], 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit, group, "first", results)
            await wait_all_tasks_blocked()
            group._occupy(group._lanes[0], 0)
            for name in "abc":
                nursery.start_soon(submit, group, name, results)
            group._wake_first()
            await trio.to_thread.run_sync(disk.entered.wait)
            await wait_all_tasks_blocked()
            mock_clock.jump(30)
            await wait_all_tasks_blocked()
            timed_out = sorted(results)
            disk.proceed.set()

        assert timed_out == ["a", "b", "c"]
        assert disk.groups == [["first"]]
        assert results.pop("first") is None
        assert all(isinstance(each, trio.TooSlowError) for each in results.values())


class Steps(trio.abc.Instrument):
    """An instrument that counts the steps of each task."""

    def __init__(self) -> None:
        self.count: Counter[trio.lowlevel.Task] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count[task] += 1


async def test_sessions_are_woken_only_when_needed() -> None:
    """A session runs when it submits, when it has waited longest, when it is its turn to commit, and when that has ended."""
    disk, steps, tasks = Disk(stall=True), Steps(), set[trio.lowlevel.Task]()
    group = GroupCommit(disk.commit, max_size=1)

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
    assert max(steps.count[task] for task in tasks) <= 5  # one more for the thread's limiter


@pytest.mark.parametrize("stored", [True, False])
async def test_no_timeout_once_the_commit_has_begun(mock_clock: MockClock, stored: bool) -> None:
    """The reply follows the result of the commit, however long that takes: a refused message must not be stored."""
    first, slow = Disk(stall=True), Disk(stall=True, invalid=set() if stored else {"one", "other"})
    group = GroupCommit(lambda messages: (slow if first.groups else first).commit(messages), timeout=30)
    messages = [Message("one"), Message("other")]
    results: dict[str, Exception | None] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, group, "first", results)
        await wait_all_tasks_blocked()
        for message in messages:
            nursery.start_soon(submit, group, message, results)
        await wait_all_tasks_blocked()
        mock_clock.jump(29)
        first.proceed.set()
        await trio.to_thread.run_sync(slow.entered.wait)
        mock_clock.jump(3600)
        await wait_all_tasks_blocked()
        assert results == {"first": None}
        slow.proceed.set()

    assert sorted(slow.groups[0]) == ["one", "other"]
    assert [results[message.name] is None for message in messages] == [stored, stored]
    assert [message.discarded for message in messages] == [not stored, not stored]


async def test_message_whose_time_is_over_is_not_committed(mock_clock: MockClock) -> None:
    """Its deadline passes at the moment when the next commit takes the queue."""
    for _ in range(20):  # Trio schedules the tasks in random order
        disk, results = Disk(), dict[str, Exception | None]()
        group = GroupCommit(disk.commit, timeout=30)
        group._occupy(group._lanes[0], 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit, group, "late", results)
            await wait_all_tasks_blocked()
            mock_clock.jump(10)
            nursery.start_soon(submit, group, "next", results)
            await wait_all_tasks_blocked()
            mock_clock.jump(20)
            group._occupy(group._lanes[0], 0)
            nursery.start_soon(submit, group, "last", results)

        assert isinstance(results.pop("late"), trio.TooSlowError)
        assert results == {"next": None, "last": None}
        assert "late" not in functools.reduce(operator.iadd, disk.groups, [])


def of_size(name: str, octets: int) -> Message:
    message = Message(name)
    message._buffer += bytes(octets)
    return message


async def test_groups_are_limited_in_octets() -> None:
    """The message that has waited longest is first, then those of at most 64 KiB, then the others while they fit."""
    disk, results = Disk(stall=True), dict[str, Exception | None]()
    group = GroupCommit(disk.commit, max_octets=1_000_000)
    sizes = {"a": 900_000, "b": 900_000, "c": 10, "d": 100_000, "e": 60_000, "f": 900_000, "g": 1_100_000, "h": 1}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, group, "first", results)
        await wait_all_tasks_blocked()
        for name, octets in sizes.items():
            nursery.start_soon(submit, group, of_size(name, octets), results)
            await wait_all_tasks_blocked()
        disk.proceed.set()

    assert disk.groups == [["first"], ["a", "c", "e", "h"], ["b", "d"], ["f"], ["g"]]
    assert set(results.values()) == {None}


async def test_group_is_committed_between_two_pieces() -> None:
    """A message waits for the piece that is being written, and not for those of all sessions."""
    order: list[str] = []
    entered, proceed = threading.Event(), threading.Event()

    def commit(messages: Sequence[Message]) -> dict[Message, Exception]:
        order.extend(message.name for message in messages)
        return {}

    def write(piece: str) -> None:
        entered.set()
        assert proceed.wait(240)
        order.append(piece)

    group = GroupCommit(commit)

    async def write_pieces(name: str) -> None:
        for n in range(3):
            await group.run(functools.partial(write, f"{name}{n}"))

    async with trio.open_nursery() as nursery:
        for name in ("x", "y", "z"):
            nursery.start_soon(write_pieces, name)
            await wait_all_tasks_blocked()
        nursery.start_soon(submit, group, "message", {})
        await trio.to_thread.run_sync(entered.wait)
        await wait_all_tasks_blocked()
        proceed.set()

    assert order.index("message") == 1
    order.remove("message")
    assert order == [f"{name}{n}" for n in range(3) for name in ("x", "y", "z")]


def test_group_can_be_used_in_several_runs() -> None:
    disk = Disk()
    group = GroupCommit(disk.commit)

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


async def test_timeout_at_the_moment_of_the_turn_to_commit(mock_clock: MockClock) -> None:
    """A session that is woken to commit and times out at the same moment wakes the next one instead."""
    for _ in range(20):  # Trio schedules the two tasks in random order
        disk, results = Disk(), dict[str, Exception | None]()
        group = GroupCommit(disk.commit, timeout=30)

        async def commit_until(time: float, group: GroupCommit[Message] = group) -> None:
            group._occupy(group._lanes[0], 1)
            await trio.sleep_until(time)
            group._occupy(group._lanes[0], 0)
            group._wake_first()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit_until, trio.current_time() + 30)
            await wait_all_tasks_blocked()
            nursery.start_soon(submit, group, "early", results)
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
            nursery.start_soon(submit, group, "late", results)
            await wait_all_tasks_blocked()
            with trio.fail_after(40):  # of the mock clock
                mock_clock.jump(29)
                while "late" not in results:
                    await wait_all_tasks_blocked(0.01)
                    mock_clock.jump(1)

        assert isinstance(results.pop("early"), trio.TooSlowError)
        assert results == {"late": None}
        assert disk.groups == [["late"]]


class GroupOnNetwork:
    """An asynchronous commit, whose second call waits for ``proceed`` and then calls ``interrupt``."""

    def __init__(self, interrupt: Callable[[], object]) -> None:
        self.interrupt = interrupt
        self.proceed = trio.Event()
        self.groups: list[list[str]] = []
        self.group: GroupCommit[Message] = GroupCommit(Disk().commit, commit_in_task=self.commit)

    async def commit(self, messages: Sequence[Message]) -> dict[Message, Exception]:
        self.groups.append([message.name for message in messages])
        if len(self.groups) == 1:
            await self.proceed.wait()
        else:
            self.interrupt()
            await trio.lowlevel.checkpoint()
        return {}

    async def run(self, results: dict[str, Exception | None]) -> None:
        """Submit a message, and then two that share a group."""
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(submit, self.group, name, results)
            await wait_all_tasks_blocked()
            self.proceed.set()


def test_keyboard_interrupt_during_a_commit_ends_the_program_after_the_commit() -> None:
    results = dict[str, Exception | None]()

    async def main() -> None:
        await GroupOnNetwork(lambda: signal.raise_signal(signal.SIGINT)).run(results)

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert caught.value.subgroup(KeyboardInterrupt)
    assert results == dict.fromkeys("abc")


def test_commit_that_ends_the_program_leaves_no_session_waiting() -> None:
    results = dict[str, Exception | None]()

    async def main() -> None:
        await GroupOnNetwork(sys.exit).run(results)

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert caught.value.subgroup(SystemExit)
    # The third one is the session that has called the commit.
    assert sorted(map(str, results.values())) == ["None", "the commit was interrupted"]
