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

#: Seconds for which the number of messages in a store is not asked again: counting can read a whole index.
COUNT_INTERVAL = 10.0
#: Seconds that counting may take.
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
        self._counted = -math.inf

    async def read(self) -> StoreNumbers:
        """Return the numbers of the store. The number of messages may be some seconds old."""
        store = self._store
        if isinstance(store, Memory):
            return StoreNumbers(
                messages=await self._count(),
                octets=store.octets_used,
                dropped=store.dropped,
                dropped_octets=store.dropped_octets,
            )
        if trio.current_time() - self._counted >= COUNT_INTERVAL:
            self._counted = trio.current_time()  # before it is counted, so that two requests do not both do it
            self._messages = await self._count()
        return StoreNumbers(messages=self._messages)

    async def _count(self) -> int | None:
        try:
            with trio.move_on_after(COUNT_TIME):
                count: Callable[[], Awaitable[int]] = self._store.count  # type: ignore[attr-defined]
                return await count()
        except (AttributeError, NotSupportedError, StoreError):
            pass
        return None
