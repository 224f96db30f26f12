"""`Turns`: the sessions of one peer share the time of the event loop as one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import trio

# Trio runs all tasks that can run in rounds, one step of each. A session takes a step for everything that it has received,
# so a peer with fifty connections would have fifty steps in each round, and a client that waits for each reply needs a
# dozen rounds for a message. So the sessions of a peer are allowed TURN seconds in a round, all together:
#
# * Each adds the time that it takes from `begin`, after it has received something, to `pause`, before it waits for more.
#   In between, `used_up` is asked after each of several commands that came at once.
# * Between `pause` and `begin` there is a checkpoint, so a round has passed. A session that has paused in this turn starts
#   the next one. This is free, and is the rule.
# * When the turn is used up before, the session that notices it makes a checkpoint of its own. Others that notice it
#   meanwhile wait in a queue. The one that starts a turn wakes as many of them, for the next turn, as have shared the
#   last one: one if it was a flood, many if each had a single command.
#
# Thus a session never waits for another one that waits for something else, such as a hook: while the queue is not empty,
# a session is making its checkpoint, or has been woken (``_coming``).
#
# The time, not a number of commands, is what others have to wait for. It accounts for errors and log records, and for a
# body that is expensive to inspect. It is not exact, and need not be: while a session waits in a hook, others of its peer
# may begin, and some time is counted twice. That ends a turn early, which costs a checkpoint.
#
# A session does not wait for a turn before its greeting: while it did, further connections would be accepted, and without
# limits their number could grow without end. The time for the greeting counts.
#
# A peer that floods, that is, opens more connections than it may, has one turn in REST seconds instead of one in a round.
# Otherwise its sessions and the refusals of its connections keep the event loop and the threads of the store busy, and
# the commit of another client's message, which needs the interpreter about ten times, waits each time: beside eight
# sessions that send large messages and 20,000 connections in a second it took three times as long. What such a peer sends
# waits in the kernel, and counts neither as silence nor as a low data rate.
#
# A session that is the only one of its peer has no `Turns`: `SessionTask.yield_turn` counts its commands.

#: Seconds that all sessions of a peer together may take in one round.
TURN = 0.0003
#: Seconds between two turns of a peer that floods: its sessions have 1 % of the event loop.
REST = 0.03
#: Octets that such a session reads at a time. To inspect a block of a message may take a millisecond for each 20,000.
READ_SIZE = 16384


class _Waiter:
    """A session in the queue, and the number of the turn that it has been woken for."""

    __slots__ = ("number", "task")

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.number = 0


class Turns:
    """The turns that the sessions of one peer share."""

    __slots__ = ("_clock", "_coming", "_floods", "_number", "_ran", "_since", "_used", "_waiting")

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, *, floods: Callable[[], bool] = lambda: False
    ) -> None:
        """``floods`` returns whether the peer has to rest after each turn."""
        self._clock = clock
        self._floods = floods
        self._since = clock()  # when the session that is running began, or was asked last
        self._used = 0.0  # seconds of this turn
        self._ran = 0  # sessions that have begun in this turn
        self._number = 0  # of this turn
        self._coming = 0  # sessions that were woken, or make a checkpoint, to have the next turn
        self._waiting: deque[_Waiter] = deque()

    def pause(self) -> int:
        """Add the time of a session that is going to wait; return the number of this turn, for `begin`."""
        self._used += self._clock() - self._since
        return self._number

    def used_up(self) -> bool:
        """Add the time of a session that goes on; return whether the turn is over."""
        now = self._clock()
        self._used += now - self._since
        self._since = now
        return self._used >= TURN

    def begin(self, paused: int = -1) -> bool:
        """Begin to count the time of a session; return whether the turn is over.

        :param paused: what `pause` returned before this session made a checkpoint.
        """
        if paused == self._number and not self._coming and not self._floods():
            self._start(paused + 1)
        elif self._used >= TURN:
            return True
        self._since = self._clock()
        self._ran += 1
        return False

    async def next(self) -> None:
        """Wait for the next turn of the peer. If this is cancelled, the session has none."""
        while self._coming:
            number = await self._wait()
            if await self._come(number, woken=True):
                return
        self._coming += 1
        await self._come(self._number + 1, woken=False)

    async def _come(self, number: int, *, woken: bool) -> bool:
        """Let a session have the turn ``number`` when its time has come; return whether there is time left in it."""
        try:
            if self._floods():
                await trio.sleep(REST)
            elif not woken:
                await trio.lowlevel.checkpoint()
        finally:  # others may wait for this one to wake them
            arrived = self._arrive(number)
        return arrived

    async def _wait(self) -> int:
        """Wait until this session is woken to have the next turn; return its number."""
        waiter = _Waiter(trio.lowlevel.current_task())
        self._waiting.append(waiter)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(waiter)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return waiter.number

    def _arrive(self, number: int) -> bool:
        """Let a session have the turn ``number``, if there is time left in it; return whether that is so."""
        self._coming -= 1
        if number > self._number:
            self._start(number)
        elif self._used >= TURN:
            return False
        self._since = self._clock()
        self._ran += 1
        return True

    def _start(self, number: int) -> None:
        """Start the turn ``number``, and wake the sessions that have the next one."""
        self._number, self._used, ran, self._ran = number, 0.0, self._ran, 0
        for _ in range(min(len(self._waiting), max(1, ran))):
            self._coming += 1
            waiter = self._waiting.popleft()
            waiter.number = number + 1
            trio.lowlevel.reschedule(waiter.task)
