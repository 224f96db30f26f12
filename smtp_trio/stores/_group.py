"""Group commit: many sessions, one flush of the disk.

Flushing costs the same for one message as for a hundred, so what waits is flushed together. There is no task for it:
of the sessions that wait, one commits for all of them in a thread, and meanwhile the next group gathers. A lone
session never waits for company.

A session that has handed over its message cannot be cancelled until it knows the verdict: a message that is on the
disk and a peer that was not told is how mail gets doubled. The wait is bounded, but for the one that commits, which
stays as long as the disk takes: its thread has other people's messages in hand and cannot be abandoned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio
from attrs import Factory, define

from ._spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SpoolT = TypeVar("SpoolT", bound=Spool)


@define(eq=False)
class _Entry(Generic[SpoolT]):
    """One message on its way through a group."""

    message: SpoolT
    decided: bool = False
    error: Exception | None = None
    session: trio.lowlevel.ParkingLot = Factory(trio.lowlevel.ParkingLot)
    """Who waits for the verdict, or for its turn to commit."""


@final
class Group(Generic[SpoolT]):
    """Commits messages together, each once.

    ``commit(messages)`` runs in a thread, never twice at a time. It returns those that it had to refuse, each with
    the reason; if it raises, it has refused them all. Either way it leaves nothing behind of a message that it
    refused.

    ``writer`` is that thread's limiter; whatever else must not run beside a commit runs under it too. It is not one
    of Trio's forty, so no hook that hogs those keeps a message from being made safe.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[SpoolT]], Mapping[SpoolT, Exception]],
        *,
        size: int = 256,
        patience: float = 30,
    ) -> None:
        # Nothing here belongs to one run of Trio, and each run leaves it as it found it: a store may serve one run
        # after another.
        self.writer = trio.CapacityLimiter(1)
        self._commit = commit
        self._size = size
        self._patience = patience
        self._waiting: list[_Entry[SpoolT]] = []
        self._committing = False

    async def submit(self, message: SpoolT) -> Exception | None:
        """Hand over a message and wait for the verdict: None when it is safe, otherwise why it is not.

        From the call on no cancellation is felt. When the disk does not answer in time the verdict is a
        ``TooSlowError``. If a commit is at work on the message by then, it may yet succeed: a message refused but kept
        comes twice (RFC 1047), while one accepted and lost would not come at all.
        """
        entry = _Entry(message)
        self._waiting.append(entry)
        with trio.move_on_after(self._patience, shield=True):
            while not entry.decided:
                if self._committing:
                    await entry.session.park()
                else:
                    await self._commit_waiting()
        if entry.decided:
            return entry.error
        if entry in self._waiting:
            self._waiting.remove(entry)
            if not self._committing:
                self._call_first()  # it may be that the last commit has called us, who heed no call any more
            await message.dispose()
        return trio.TooSlowError("the disk does not answer")

    async def _commit_waiting(self) -> None:
        """Decide on what waits now. Then it is the turn of who is first in line; nobody else is woken in vain."""
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        refused: Mapping[SpoolT, Exception] = {}
        try:
            self._committing = True
            with trio.CancelScope(shield=True):  # not the deadline's either: nobody else would bring the verdict home
                refused = await trio.to_thread.run_sync(
                    self._commit, [entry.message for entry in batch], limiter=self.writer
                )
        except Exception as error:
            refused = {entry.message: error for entry in batch}
        finally:
            self._committing = False
            self._call_first()
        for entry in batch:
            entry.error = refused.get(entry.message)
            entry.decided = True
            entry.session.unpark_all()

    def _call_first(self) -> None:
        """It is the turn of who is first in line."""
        for entry in self._waiting[:1]:
            entry.session.unpark_all()
