"""`Arrivals`: the ids of messages that arrive, for event streams and for requests that wait for a message."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import trio
from attrs import define, field

from ..stores import NotSupportedError, StoreError

if TYPE_CHECKING:
    from ..stores import Store

# A store object reports the messages that it has stored itself (`Store.watch`). Other processes, such as the workers of
# ``serve --workers``, may use the same store. Their messages are found by reading the newest messages of the store once a
# second, while there are subscriptions.
#
# The subscribers read the store themselves, in turns, when they have waited long enough. A task for it would have to be
# started and stopped, which an application in another ASGI server could not do.

#: The minimum number of seconds between two polls of the store.
INTERVAL = 1.0
#: The pause after a poll is at least this many times as long as the poll took, so polling takes less than 5 % of the time.
PAUSE_FACTOR = 20
#: The number of newest messages that a poll reads, and the maximum if all of them are new.
PAGE, MAX_NEW = 100, 1000
#: The maximum number of published ids that are remembered, and of ids that are queued for one subscriber.
MAX_KNOWN, MAX_QUEUED = 5000, 1000
NEVER = datetime.min.replace(tzinfo=UTC)


@define(eq=False)
class Subscription:
    """An iterator over the ids of messages that are stored after the subscription, in their order."""

    _arrivals: Arrivals
    #: The number of ids that were dropped because the queue was full.
    lost: int = field(default=0, init=False)
    _ids: deque[str] = field(factory=deque, init=False)
    _wakes: trio.Event = field(factory=trio.Event, init=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._ids:
            self._wakes = trio.Event()
            with trio.move_on_at(self._arrivals.next_look):
                await self._wakes.wait()
                continue
            await self._arrivals.look()
        return self._ids.popleft()

    def take(self) -> list[str]:
        """Return the queued ids without waiting."""
        ids = list(self._ids)
        self._ids.clear()
        return ids

    def add(self, id: str) -> None:
        """Add an id, and drop the oldest one if the queue is full."""
        if len(self._ids) == MAX_QUEUED:
            self._ids.popleft()
            self.lost += 1
        self._ids.append(id)
        self._wakes.set()


class Arrivals:
    """The ids of the messages that this process or another one stores in a store."""

    def __init__(self, store: Store[Any]) -> None:
        self._store = store
        self._subscriptions: set[Subscription] = set()
        self._watch = ExitStack()
        #: The ids that were published, in the order in which they were found.
        self._known: OrderedDict[str, None] = OrderedDict()
        #: Messages received at this time or before are not new. They get among the newest ones when others are removed.
        #: None until the first poll after the first subscription.
        self._oldest: datetime | None = None
        #: The time of the next poll, by `trio.current_time`.
        self.next_look: float = 0.0
        self._lock = trio.Lock()

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscription]:
        """Iterate over the ids of messages that are stored from now on, in the body of an ``async with`` statement."""
        subscription = Subscription(self)
        self._subscriptions.add(subscription)
        try:
            if len(self._subscriptions) == 1:
                self._known.clear()
                self._oldest = None
                self._watch.enter_context(self._store.watch(self._publish))
            await self.look(first=True)
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if not self._subscriptions:
                self._watch.close()

    def _publish(self, id: str) -> None:
        """Pass an id to all subscribers, unless it was published before."""
        if id in self._known:
            return
        self._know(id)
        for subscription in self._subscriptions:
            subscription.add(id)

    def _know(self, id: str) -> None:
        self._known[id] = None
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def look(self, *, first: bool = False) -> None:
        """Publish the messages that other processes have stored since the last poll. The first poll publishes nothing."""
        async with self._lock:
            started = trio.current_time()
            if (first and self._oldest is not None) or (not first and started < self.next_look):
                return  # another subscriber has polled
            found = []
            try:
                found = await self._read_new()
            except NotSupportedError:
                self.next_look = math.inf
            except StoreError:
                pass  # logged by the store
            duration = trio.current_time() - started
            self.next_look = max(self.next_look, trio.current_time() + max(INTERVAL, PAUSE_FACTOR * duration))
            for each in reversed(found):
                self._publish(each)

    async def _read_new(self) -> list[str]:
        """Return the ids of new messages, the newest first."""
        baseline = self._oldest
        new: list[str] = []
        count = 0
        last: datetime | None = None
        async with aclosing(self._store.entries(reverse=True)) as entries:
            async for entry in entries:
                count += 1
                last = entry.received
                if entry.id not in self._known and (baseline is None or entry.received > baseline):
                    new.append(entry.id)
                if count >= MAX_NEW or (count >= PAGE and len(new) < count):
                    break
        self._oldest = max(baseline or NEVER, last) if last is not None and count >= PAGE else baseline or NEVER
        if baseline is None:
            for each in reversed(new):
                self._know(each)
            return []
        return new
