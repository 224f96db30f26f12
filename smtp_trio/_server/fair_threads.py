"""Slow computations for clients, in a few threads for which the clients take turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

import trio

from .._timeouts import clock_jumps

ResultT = TypeVar("ResultT")

# A login costs the server far more than its client: the hash of a password takes a tenth of a second or more of a
# processor. With one queue for all, a client that opens fifty connections and sends a wrong password on each of them
# makes every other login wait for fifty hashes. So there is a queue for each network, and the networks take turns: each
# gets one computation, and then goes to the end of the line. A login waits for one computation of each other network at
# most, however many its connections are.
#
# A computation that is no longer wanted when its turn comes is skipped. So what has been queued by a client that has
# left, or that was locked out meanwhile, costs nothing.
#
# Under a clock that jumps whenever all tasks are blocked (a `trio.testing.MockClock`), a task that waits for a thread
# counts as blocked. The computation is done in the task then, as otherwise all timeouts would expire meanwhile.


class FairThreads:
    """At most ``threads`` threads, for computations that block.

    :param threads: how many computations run at a time.
    """

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._free = threads
        #: Those that wait, from the oldest to the newest, by network. The first network is the next one.
        self._waiting: OrderedDict[Hashable, OrderedDict[trio.Event, None]] = OrderedDict()

    async def run(
        self, network: Hashable, function: Callable[[], ResultT], wanted: Callable[[], bool] | None = None
    ) -> ResultT | None:
        """Call ``function()`` in a thread when it is the turn of ``network``, and return its result.

        A cancellation waits for the thread once ``function`` has been called.

        :param network: who the computation is for, such as an address. None counts as a network, too.
        :param wanted: called when the computation had to wait and its turn has come. If it returns False, ``function`` is
            not called, and the result is None.
        """
        waited = await self._wait_turn(network)
        try:
            if waited and wanted is not None and not wanted():
                return None
            if clock_jumps():
                await trio.lowlevel.checkpoint()
                return function()
            return await trio.to_thread.run_sync(function, limiter=self._limiter)
        finally:
            self._pass_on()

    async def _wait_turn(self, network: Hashable) -> bool:
        """Wait until a thread is free for the network. Return False if one was free already."""
        if self._free:
            self._free -= 1
            return False
        turn = trio.Event()
        queue = self._waiting.setdefault(network, OrderedDict())
        queue[turn] = None
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # in the same iteration of the scheduler
                self._pass_on()
            else:
                del queue[turn]
                if not queue:
                    del self._waiting[network]
            raise
        return True

    def _pass_on(self) -> None:
        """Give the thread that has become free to the next network."""
        if not self._waiting:
            self._free += 1
            return
        network, queue = self._waiting.popitem(last=False)
        turn, _ = queue.popitem(last=False)
        if queue:
            self._waiting[network] = queue
        turn.set()
