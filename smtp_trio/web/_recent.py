"""`Recent`: the last messages that arrived, for requests that wait for messages."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from .._server.threads import run_in_thread
from ..stores._query import Content

if TYPE_CHECKING:
    from ..stores import Query, Store, Stored

#: The maximum number of messages that are kept, and of octets of each.
MAX_MESSAGES, MAX_SIZE = 16, 1 << 20
#: The size in octets from which on a message is compared with a query in a thread.
LARGE = 1 << 14


@define(eq=False)
class Candidate:
    """A message that has arrived, and the lock that is held while it is read."""

    lock: trio.Lock = field(factory=trio.Lock)
    stored: Stored | None = None
    content: Content | None = None


@define(eq=False)
class Recent:
    """A cache of messages that have just arrived. Each is read once, and compared with the queries of many requests."""

    store: Store[Any]
    _candidates: OrderedDict[str, Candidate] = field(factory=OrderedDict, init=False)

    async def match(self, id: str, query: Query) -> bool:
        """Return whether a message matches a query. Raises `MessageNotFoundError` if the store does not have it."""
        candidate = self._candidates.setdefault(id, Candidate())
        if len(self._candidates) > MAX_MESSAGES:
            self._candidates.popitem(last=False)
        async with candidate.lock:
            stored = candidate.stored or await self.store.get(id)
            content = candidate.content or Content(stored.message, complete=True)
            if stored.size <= MAX_SIZE:
                candidate.stored, candidate.content = stored, content
            decide = partial(query.decide, stored, content)
            return bool(decide() if stored.size <= LARGE else await run_in_thread(decide))
