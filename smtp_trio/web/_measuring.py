"""What the HTTP listener measures: the numbers of a server in this process, and those of the store."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from .._server.snapshot import Snapshot, StoreNumbers, observe
from ..stores import Memory, NotSupportedError, StoreError

if TYPE_CHECKING:
    from .._server.server import Server
    from ..stores import Store

#: Counting the messages of a store can read all of it. So the number is used again for ``COUNT_INTERVAL`` seconds, and for
#: ``COUNT_FRACTION`` times as long as counting has taken if that is more: 1 % of the time is spent on it at most.
COUNT_INTERVAL, COUNT_FRACTION = 10.0, 100.0
#: Seconds that counting may take. The number is unknown then.
COUNT_TIME = 2.0


def measure_alone(server: Server | None, store: Store[Any]) -> Callable[[], Awaitable[Snapshot]]:
    """Measure a server of this process from now on. Return a function that returns its numbers."""
    snapshot = observe(server, store._group)

    async def measure() -> Snapshot:
        return snapshot()

    return measure


class StoreGauge:
    """Reads the numbers of a store."""

    def __init__(self, store: Store[Any]) -> None:
        self._store = store
        self._messages: int | None = None
        self._next = -math.inf  # when it is counted again, by `trio.current_time`

    async def read(self) -> StoreNumbers:
        """Return the numbers of the store. The number of messages may be some seconds old."""
        store = self._store
        if isinstance(store, Memory):
            return StoreNumbers(
                messages=await store.count(),
                octets=store.octets_used,
                dropped=store.dropped,
                dropped_octets=store.dropped_octets,
            )
        if (began := trio.current_time()) >= self._next:
            self._next = began + COUNT_INTERVAL  # before it is counted, so that two requests do not both do it
            self._messages = await self._count()
            self._next = began + max(COUNT_INTERVAL, COUNT_FRACTION * (trio.current_time() - began))
        return StoreNumbers(messages=self._messages)

    async def _count(self) -> int | None:
        try:
            with trio.move_on_after(COUNT_TIME):
                return await self._store.count()
        except (NotSupportedError, StoreError):
            pass
        return None
