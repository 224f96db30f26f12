"""Measurements for the HTTP listener: the numbers of a server in this process, and those of the store."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio
from attrs import asdict

from .._server.snapshot import Snapshot, StoreNumbers, observe
from ..stores import Memory, NotSupportedError, StoreError

if TYPE_CHECKING:
    from .._server.server import Server
    from ..stores import Store

#: Counting the messages may require reading the whole store. So the number is cached for ``COUNT_INTERVAL`` seconds, or for
#: ``COUNT_FRACTION`` times as long as counting took, if that is more. Counting takes at most 1 % of the time.
COUNT_INTERVAL, COUNT_FRACTION = 10.0, 100.0
#: The time limit for counting, in seconds. After it the number is unknown.
COUNT_TIME = 2.0


def measure_alone(server: Server | None, store: Store[Any]) -> Callable[[], Awaitable[Snapshot]]:
    """Start to measure a server of this process, and return a function that returns its numbers."""
    snapshot = observe(server, store._group)

    async def measure() -> Snapshot:
        return snapshot()

    return measure


async def indexed(store: Store[Any]) -> float | None:
    """Return the share of the messages that the search index of a store has, or None if it has none or cannot be read."""
    try:
        return await store.indexed()
    except StoreError:
        return None


async def group_counts(store: Store[Any]) -> dict[str, dict[str, int | None]] | None:
    """Return the numbers of messages that wait in each group of consumers, or None if the store cannot count them."""
    try:
        with trio.move_on_after(COUNT_TIME):
            return {name: asdict(counts) for name, counts in (await store.groups()).items()}
    except (NotSupportedError, StoreError):
        pass
    return None


class StoreGauge:
    """A reader of the numbers of a store, which caches those that take time."""

    def __init__(self, store: Store[Any]) -> None:
        self._store = store
        self._messages: int | None = None
        self._indexed: float | None = None
        self._groups: dict[str, dict[str, int | None]] | None = None
        self._next = -math.inf  # the time of the next count, by `trio.current_time`

    async def read(self) -> StoreNumbers:
        """Return the numbers of the store. Those that are cached may be some seconds old."""
        store = self._store
        if isinstance(store, Memory):
            return StoreNumbers(
                messages=await store.count(),
                octets=store.octets_used,
                dropped=store.dropped,
                dropped_octets=store.dropped_octets,
                groups=await group_counts(store),
            )
        if (began := trio.current_time()) >= self._next:
            self._next = began + COUNT_INTERVAL  # set before counting, so that concurrent requests do not count as well
            self._messages, self._indexed = await self._count(), await indexed(store)
            # One that has not answered in its time is not asked again: the request for these numbers waits meanwhile.
            self._groups = None if self._messages is None else await group_counts(store)
            self._next = began + max(COUNT_INTERVAL, COUNT_FRACTION * (trio.current_time() - began))
        return StoreNumbers(messages=self._messages, indexed=self._indexed, groups=self._groups)

    async def _count(self) -> int | None:
        try:
            with trio.move_on_after(COUNT_TIME):
                return await self._store.count()
        except (NotSupportedError, StoreError):
            pass
        return None
