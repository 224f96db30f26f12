"""Group commit: many sessions share one flush of the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio
from attrs import Factory, define

from ._spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SpoolT = TypeVar("SpoolT", bound=Spool)

# How a group is committed
# ------------------------
#
# A flush of the disk takes as long for a hundred messages as for one, and takes most of the time of a delivery. So all
# messages that wait are committed together. Messages that arrive while a commit runs wait for its end; the first commit
# of a busy server has one message, and the following ones as many as came meanwhile. A commit never waits for more
# messages.
#
# No background task does this. It would need a nursery that outlives every session, and its errors would have to be
# passed to the sessions. Instead, `submit` puts the session's message into a queue; when no commit is running, the
# session takes up to ``max_size`` messages from the queue and commits them in a thread. The other sessions are parked.
# When a commit has ended, its sessions are woken because they have a result, and the session at the head of the queue
# is woken because it commits next. No other session is woken.
#
# A session can be cancelled until the body has been read (`Spool.fill`), and not after `submit` was called. From that
# point a cancelled session could no longer know whether its message is on the disk: a message that is kept without a
# 250 is sent again and delivered twice. `submit` therefore waits in a shielded scope, and the server's hook can send
# the reply for the message even while it is being stopped.
#
# The wait has a deadline, so that a disk that has stalled does not hold the session for ever. A message that is still
# in the queue when it expires is removed and refused; a message that a thread is committing is refused as well,
# although it may still be stored. A possible duplicate (RFC 1047) is preferred to a 250 for a message that may not be
# durable. The session that started the thread has no deadline, because only it can collect the results for the others, and the
# thread cannot be interrupted.
#
# A 250 means that `commit` has returned without an error for this message: the store has flushed it to the disk. It
# does not depend on the other messages of the group; a store commits those that it can and returns the errors of the
# rest.


@define(eq=False)
class _Pending(Generic[SpoolT]):
    """A message that was submitted and has no result yet."""

    message: SpoolT
    done: bool = False
    error: Exception | None = None
    wakeup: trio.lowlevel.ParkingLot = Factory(trio.lowlevel.ParkingLot)
    """Where its session waits for the result, or to commit next."""


@final
class GroupCommit(Generic[SpoolT]):
    """Commits messages in groups of up to ``max_size``.

    ``commit(messages)`` runs in a thread, and never concurrently. It returns the messages that it could not store, each with
    its error; if it raises, it has stored none of them. It must leave nothing on the disk of a message that it did not
    store.

    ``timeout`` is the time in seconds that `submit` waits, except in the session that commits.

    ``limiter`` is the limiter of that thread; a store uses it for everything that must not run during a commit. It is
    not Trio's default limiter: if hooks used all of its threads, no message could be committed.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[SpoolT]], Mapping[SpoolT, Exception]],
        *,
        max_size: int = 256,
        timeout: float = 30,
    ) -> None:
        # No state refers to a Trio run, so a store can be used in several runs.
        self.limiter = trio.CapacityLimiter(1)
        self._commit = commit
        self._max_size = max_size
        self._timeout = timeout
        self._waiting: list[_Pending[SpoolT]] = []
        self._committing = False

    async def submit(self, message: SpoolT) -> Exception | None:
        """Commit a message, in a group. Return None when it is stored, otherwise the reason.

        This cannot be cancelled. When the disk takes longer than the timeout the reason is `trio.TooSlowError`; the
        message may then be stored nevertheless, if its commit had begun.
        """
        pending = _Pending(message)
        self._waiting.append(pending)
        with trio.move_on_after(self._timeout, shield=True):
            while not pending.done:
                if self._committing:
                    await pending.wakeup.park()
                else:
                    await self._commit_waiting()
        if pending.done:
            return pending.error
        if pending in self._waiting:
            self._waiting.remove(pending)
            if not self._committing:
                # The last commit may have woken this session, at the moment its deadline expired, to commit next.
                self._wake_first()
            await message.discard_in_thread()
        return trio.TooSlowError("the disk does not respond")

    async def _commit_waiting(self) -> None:
        """Commit the messages that wait, wake their sessions, and wake the session that commits next."""
        batch, self._waiting = self._waiting[: self._max_size], self._waiting[self._max_size :]
        errors: Mapping[SpoolT, Exception] = {}
        try:
            self._committing = True
            # Also shielded from the deadline of `submit`: only this session can give the others their results.
            with trio.CancelScope(shield=True):
                errors = await trio.to_thread.run_sync(
                    self._commit, [pending.message for pending in batch], limiter=self.limiter
                )
        except Exception as error:
            errors = {pending.message: error for pending in batch}
        finally:
            self._committing = False
            self._wake_first()
        for pending in batch:
            pending.error = errors.get(pending.message)
            pending.done = True
            pending.wakeup.unpark_all()

    def _wake_first(self) -> None:
        """Wake the session whose message has waited longest, to commit next."""
        for pending in self._waiting[:1]:
            pending.wakeup.unpark_all()
