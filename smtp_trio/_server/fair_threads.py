"""`FairThreads`: slow computations for clients, in a few threads for which the clients take turns (`Turns`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import TypeVar

import trio

from .._timeouts import clock_jumps
from .._types import Peer
from .client_memory import group_of
from .peers import counted_as
from .threads import run_in_thread

ResultT = TypeVar("ResultT")

# A login costs the server far more than its client: the hash of a password takes a tenth of a second or more of a
# processor. With one queue for all, a client that opens fifty connections and sends a wrong password on each of them
# makes every other login wait for fifty hashes. So there is a queue for each client, and the clients take turns: each
# gets one computation, and then goes to the end of the line. A login waits for one computation of each other client at
# most, however many its connections are.
#
# Addresses are cheap, above all with IPv6, where anyone can have 65536 networks of size /64. So there are turns on two
# levels: first the groups of clients take turns (`client_memory.group_of`), then the clients within the group whose turn
# it is.
#
# A computation that is no longer wanted when its turn comes is skipped. So what has been queued by a client that has
# left, or that was locked out meanwhile, costs nothing.
#
# A computation takes a slice of some milliseconds of the processor before the scheduler of the system lets the event loop
# or a commit continue, however low its nice value is. Each message waits for this about ten times. So the keys for those
# who have made errors before are derived by a process of idle priority, which gives way at once (`IdleProcess`). Others
# must not wait for such a computation, which takes as long as the machine is busy, so these have an object of their own.
#
# Under a clock that jumps whenever all tasks are blocked (a `trio.testing.MockClock`), a task that waits for a thread
# counts as blocked. The computation is done in the task then, as otherwise all timeouts would expire meanwhile.


class _Queue(OrderedDict[Hashable, "_Queue"]):
    """Those that wait, from the oldest to the newest: events, or a queue for each group or client."""

    def add(self, path: tuple[Hashable, ...], turn: trio.Event) -> None:
        if path:
            self.setdefault(path[0], _Queue()).add(path[1:], turn)
        else:
            self[turn] = _Queue()

    def discard(self, path: tuple[Hashable, ...], turn: trio.Event) -> None:
        if path:
            self[path[0]].discard(path[1:], turn)
            if not self[path[0]]:
                del self[path[0]]
        else:
            del self[turn]

    def take(self) -> trio.Event:
        """Remove the event whose turn it is, and move the queues that it was in to the end."""
        key, queue = self.popitem(last=False)
        if isinstance(key, trio.Event):
            return key
        turn = queue.take()
        if queue:
            self[key] = queue
        return turn


class Turns:
    """A semaphore for which the clients take turns.

    :param free: how many may hold it at a time.
    """

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting = _Queue()

    def take(self) -> bool:
        """Acquire a slot if one is free. Return True if it was acquired."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self, client: tuple[Hashable, ...]) -> None:
        """Acquire it when it is the turn of the client, for which `take` has returned False.

        :param client: the group of the client, and the client; see `turn_of`.
        """
        turn = trio.Event()
        self._waiting.add(client, turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # in the same iteration of the scheduler
                self.release()
            else:
                self._waiting.discard(client, turn)
            raise

    def release(self) -> None:
        """Give it to the next one who waits."""
        if self._waiting:
            self._waiting.take().set()
        else:
            self._free += 1


class FairThreads:
    """At most ``threads`` threads, for computations that block.

    :param threads: how many computations run at a time.
    :param idle: derive keys only when the processor has nothing else to do (`key_derivation`).
    """

    def __init__(self, threads: int, *, idle: bool = False) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._idle = idle
        self._turns = Turns(threads)

    async def run(
        self, client: tuple[Hashable, ...], function: Callable[[], ResultT], wanted: Callable[[], bool] | None = None
    ) -> ResultT | None:
        """Call ``function()`` in a thread when it is the turn of ``client``, and return its result.

        A cancellation waits for the thread once ``function`` has been called, unless it computes at idle priority, which can
        take as long as the processor is busy. The thread is then still counted until it ends.

        :param client: the group of the client, and the client; see `turn_of`.
        :param wanted: called when the computation had to wait and its turn has come. If it returns False, ``function`` is
            not called, and the result is None.
        """
        if waited := not self._turns.take():
            await self._turns.wait(client)
        try:
            if waited and wanted is not None and not wanted():
                return None
            if clock_jumps():
                await trio.lowlevel.checkpoint()
                return function()
            work = partial(self._compute, function)
            return await run_in_thread(work, limiter=self._limiter, abandon_on_cancel=self._idle)
        finally:
            self._turns.release()

    def _compute(self, function: Callable[[], ResultT]) -> ResultT:
        if self._idle:
            from .idle_process import use_idle_process  # of no use to other servers

            use_idle_process()
        return function()


def turn_of(peer: Peer) -> tuple[Hashable, ...]:
    """Return the group of a client, and the client: those that take turns."""
    return group_of(peer), counted_as(peer, local=True)
