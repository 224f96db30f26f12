"""Group commit: many sessions share one flush of the disk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio
from attrs import define

from .._server.measurements import Histogram
from .._server.threads import run_in_thread
from ._errors import StoreError
from ._spool import Spool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

SpoolT = TypeVar("SpoolT", bound=Spool)
T = TypeVar("T")

# How a group is committed
# ------------------------
#
# A flush of the disk takes as long for a hundred messages as for one, and takes most of the time of a delivery. So all
# messages that wait are committed together. Messages that arrive while a commit runs wait for its end; the first commit
# of a busy server has one message, and the following ones as many as came meanwhile. A commit never waits for more
# messages.
#
# A group is also limited in octets, since the time of a commit grows with them, and every message that arrives meanwhile
# waits for it. Most of a large message was written before (see `_spool.py`); what is left of it, 256 KiB at most, is in
# memory. A group has the message that has waited longest, so that none waits for ever; then small messages, and last
# what else fits. A small message thus waits for one commit at most, however many large ones wait.
#
# No background task does this. It would need a nursery that outlives every session, and its errors would have to be
# passed to the sessions. Instead, `submit` puts the session's message into a queue; when no commit is running, the
# session at the head of the queue takes a group from it and commits it in a thread. The other sessions wait.
# When a commit has ended, its sessions are woken because they have a result, and the session at the head of the queue
# is woken because it commits next. No other session is woken.
#
# A store whose engine is a server on the network has an asynchronous commit. The session awaits it instead of a thread; all
# else is the same.
#
# An engine may also commit two groups at the same time, on two connections. That pays when a commit mostly waits, such as for
# the flush of a standby: with one group, the messages that come during a commit wait for the whole of the next. A second group
# begins when as many messages wait as the first one has, so that neither is small while the other is large; with a hundred
# busy clients, each has a third of them. PostgreSQL stores 1.3 times as many messages with a standby, and 1.1 times as many
# without one; with three groups it was the same.
#
# Other work that must not run during a commit, such as writing a piece of a large message into a database, uses the same
# thread (`run`). At most one such call waits for the thread at a time, so that a group waits for one piece and not for
# those of all sessions, and pieces are written in turn.
#
# A session can be cancelled until the body has been read (`Spool.fill`), and not after `submit` was called. From that
# point a cancelled session could no longer know whether its message is on the disk: a message that is kept without a
# 250 is sent again and delivered twice. `submit` therefore waits in a shielded scope, and the server's hook can send
# the reply for the message even while it is being stopped.
#
# The wait has a deadline, so that a disk that has stalled does not hold all sessions for ever. It ends when a commit
# takes the message from the queue. A message that is still there when the deadline passes is removed and refused. After
# that only the result of the commit decides, and the session waits for it without a limit: a 451 for a message that is
# stored later would make the client send it again, and a 250 for one that is not would lose it.
#
# A cancel scope costs more than everything else that a session does here. So only the session whose message has waited
# longest has one with its deadline: the deadlines of the others are later. When its message is taken or refused, the next
# one is woken and enters a scope. The others wait in a way that cannot be cancelled. This is also why no other session
# commits: one that came to the head of the queue during its own commit could not watch its deadline, nor wake the next.
#
# Nor does a KeyboardInterrupt end the wait of one session, which the others would then wait for: Trio raises it in the main
# task instead. A commit that raises SystemExit or the like gives the others of its group an error before it ends the program.
#
# A 250 means that `commit` has returned without an error for this message: the store has flushed it to the disk. It
# does not depend on the other messages of the group; a store commits those that it can and returns the errors of the
# rest.
#
# Nothing keeps a message after it was refused: otherwise a failing disk would fill the memory until the garbage collector
# runs. The traceback of an error refers to the frames of the commit, and each frame to the one that has called it. So no
# variable of these frames may contain the error when they have ended. `commit` returns a mapping, which is emptied, and
# puts the errors into no other one. See also `_server/threads.py`.

#: Octets in memory above which a message goes into a group after the small ones.
SMALL = 1 << 16


def shielded(_: object) -> trio.lowlevel.Abort:
    """Go on with a wait that is cancelled."""
    return trio.lowlevel.Abort.FAILED


@define(eq=False)
class _Pending(Generic[SpoolT]):
    """A message that was submitted and has no result yet."""

    message: SpoolT
    deadline: float
    """The time at which the wait for a commit ends; `math.inf` when one has taken the message."""
    done: bool = False
    error: Exception | None = None
    task: trio.lowlevel.Task | None = None
    """The task of its session while that waits for the result, for its turn to commit, or for its deadline."""

    async def wait(self, abort: Callable[[object], trio.lowlevel.Abort] = shielded) -> None:
        """Wait until `wake` is called. It can be cancelled if ``abort`` allows it, by default not."""
        self.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """End a wait that is cancelled."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Let the session run, if it waits."""
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait_until_deadline(self) -> None:
        """Wait until `wake` is called, or until the deadline has passed."""
        with trio.CancelScope(deadline=self.deadline, shield=True):
            await self.wait(self.abort)


@define(eq=False)
class _Lane(Generic[SpoolT]):
    """A place for one group that is being committed."""

    commit: Callable[[Sequence[SpoolT]], dict[SpoolT, Exception]]
    limiter: trio.CapacityLimiter
    size: int = 0
    """The number of messages of the group; 0 if there is none."""


@final
class GroupCommit(Generic[SpoolT]):
    """Commits messages in groups of up to ``max_size`` messages and ``max_octets`` octets in memory.

    ``commit(messages)`` runs in a thread, and never concurrently with itself. It returns the messages that it could not
    store, each with its error; if it raises, it has stored none of them. What it has left on the disk of a message that it
    did not store must be invisible to readers, and is removed by `Spool.discard_in_thread`. Instead, a store can have an
    asynchronous function ``commit_in_task(messages)``, which is called in the task of one of the sessions and is not
    cancelled.

    ``second`` is a function like ``commit``, with a thread and a limiter (``second_limiter``) of its own. With it, two groups
    are committed at the same time.

    ``timeout`` is the time in seconds that a message waits for its commit to begin.

    ``limiter`` is the limiter of that thread; a store uses it for everything that must not run during a commit. It is
    not Trio's default limiter: if hooks used all of its threads, no message could be committed.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[SpoolT]], dict[SpoolT, Exception]],
        *,
        commit_in_task: Callable[[Sequence[SpoolT]], Awaitable[dict[SpoolT, Exception]]] | None = None,
        second: Callable[[Sequence[SpoolT]], dict[SpoolT, Exception]] | None = None,
        max_size: int = 256,
        max_octets: int = 1 << 20,
        timeout: float = 30,
    ) -> None:
        # No state refers to a Trio run, so a store can be used in several runs.
        self.limiter = trio.CapacityLimiter(1)
        self.second_limiter = trio.CapacityLimiter(1)
        #: How long commits take; None while nothing observes them.
        self.seconds: Histogram | None = None
        self._turn = trio.Lock()
        self._lanes = [_Lane(commit, self.limiter)]
        if second is not None:
            self._lanes.append(_Lane(second, self.second_limiter))
        self._commit_in_task = commit_in_task
        self._max_size = max_size
        self._max_octets = max_octets
        self._timeout = timeout
        self._waiting: list[_Pending[SpoolT]] = []
        # The number of messages that have to wait before a commit begins; infinity while all lanes have a group.
        self._enough: float = 0

    @property
    def waiting(self) -> int:
        """The number of messages that wait until their commit begins."""
        return len(self._waiting)

    @trio.lowlevel.enable_ki_protection
    async def submit(self, message: SpoolT) -> Exception | None:
        """Commit a message, in a group. Return None when it is stored, otherwise the reason; then it was discarded.

        This cannot be cancelled. When the message has waited for the disk too long, and its commit has not begun, the
        reason is `trio.TooSlowError`.
        """
        pending = _Pending(message, trio.current_time() + self._timeout)
        self._waiting.append(pending)
        if len(self._waiting) == self._enough:
            self._wake_first()  # to commit them beside the group that is being committed
        while not pending.done:
            if pending.deadline <= trio.current_time():
                self._waiting.remove(pending)
                pending.error = trio.TooSlowError("the store does not respond")
                # The next one has to watch over its deadline now. If the last commit has woken this session to commit next,
                # it has to do that.
                self._wake_first()
                break
            if not self._waiting or self._waiting[0] is not pending:
                await pending.wait()
            elif len(self._waiting) < self._enough:
                await pending.wait_until_deadline()
            else:
                await self._commit_waiting()
        error, pending.error = pending.error, None
        if error is not None:
            await message.discard_in_thread()
        return error

    async def run(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call a function in the thread of the commits, between two of them, and return its result.

        Calls are made in turn, and a group that waits is committed between two of them.
        """
        async with self._turn:
            return await run_in_thread(work, limiter=self.limiter, abandon_on_cancel=abandon_on_cancel)

    async def _commit_waiting(self) -> None:
        """Commit the messages that wait, wake their sessions, and wake the session that commits next."""
        batch = self._take_group()
        if not batch:  # the deadline of this session has passed meanwhile, and nothing else waits
            return
        began = 0.0 if self.seconds is None else trio.current_time()
        lane = next(lane for lane in self._lanes if not lane.size)
        try:
            self._occupy(lane, len(batch))
            # Only this session can give the others their results.
            with trio.CancelScope(shield=True):
                if self._commit_in_task is None:
                    await trio.to_thread.run_sync(self._commit_in_thread, lane.commit, batch, limiter=lane.limiter)
                else:
                    await self._await_commit(self._commit_in_task, batch)
        except BaseException:
            for pending in batch:
                pending.error = StoreError("the commit was interrupted")
            raise
        finally:
            self._occupy(lane, 0)
            self._wake_first()
            for pending in batch:
                pending.done = True
                pending.wake()
        if self.seconds is not None:
            self.seconds.add(trio.current_time() - began)

    def _occupy(self, lane: _Lane[SpoolT], size: int) -> None:
        """Note the size of the group that is committed in a lane, 0 at its end."""
        lane.size = size
        sizes = [each.size for each in self._lanes if each.size]
        self._enough = min(sizes, default=0) if len(sizes) < len(self._lanes) else math.inf

    def _commit_in_thread(
        self, commit: Callable[[Sequence[SpoolT]], dict[SpoolT, Exception]], batch: Sequence[_Pending[SpoolT]]
    ) -> None:
        """Commit the messages of a group, and record the errors of those that are not stored."""
        messages = [pending.message for pending in batch]
        try:
            errors = commit(messages)
        except Exception as error:
            errors = dict.fromkeys(messages, error)
        for pending in batch:
            pending.error = errors.pop(pending.message, None)

    async def _await_commit(
        self,
        commit: Callable[[Sequence[SpoolT]], Awaitable[dict[SpoolT, Exception]]],
        batch: Sequence[_Pending[SpoolT]],
    ) -> None:
        """Do the same with an asynchronous function."""
        messages = [pending.message for pending in batch]
        try:
            errors = await commit(messages)
        except Exception as error:
            errors = dict.fromkeys(messages, error)
        for pending in batch:
            pending.error = errors.pop(pending.message, None)

    def _take_group(self) -> list[_Pending[SpoolT]]:
        """Remove the next group from the queue, and return it. From now on its messages have no deadline."""
        batch: list[_Pending[SpoolT]] = []
        octets = 0
        by_size = [*self._waiting[:1], *sorted(self._waiting[1:], key=lambda each: each.message.buffered > SMALL)]
        now = trio.current_time()
        for pending in by_size:
            if pending.deadline <= now:
                continue
            octets += pending.message.buffered
            if batch and (len(batch) == self._max_size or octets > self._max_octets):
                break
            pending.deadline = math.inf
            batch.append(pending)
        taken = set(batch)
        self._waiting = [pending for pending in self._waiting if pending not in taken]
        self._wake_first()  # to watch over its deadline
        return batch

    def _wake_first(self) -> None:
        """Wake the session whose message has waited longest, to commit next or to watch over its deadline."""
        for pending in self._waiting[:1]:
            pending.wake()
