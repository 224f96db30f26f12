"""`StoreHealth`: whether a store is reachable."""

from __future__ import annotations

import math
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from ..stores import NotSupportedError, StoreError

if TYPE_CHECKING:
    from ..stores import Store

# A store is reachable if its newest message can be read, or if it says that it has none. One look serves all requests of
# MAX_AGE seconds, so that many of them cost nothing. A thread that reads from a dead disk cannot be interrupted, so the request
# that looks may hang with it, which its supervisor takes for a failure; all others are answered meanwhile.

#: Seconds for which the result of a look is valid, and that it may take.
MAX_AGE, MAX_SECONDS = 1.0, 2.0


@define(eq=False)
class StoreHealth:
    """Whether a store is reachable."""

    _store: Store[Any]
    _reachable: bool = field(default=False, init=False)
    #: When the last look ended, and when the one in progress began, by `trio.current_time`.
    _ended: float = field(default=-math.inf, init=False)
    _began: float | None = field(default=None, init=False)

    async def is_reachable(self) -> bool:
        """Return whether the store can be read now."""
        now = trio.current_time()
        if self._began is not None:
            return self._reachable and now - self._began < MAX_SECONDS
        if now - self._ended < MAX_AGE:
            return self._reachable
        self._began = now
        try:
            self._reachable = await self._look()
        finally:
            self._began, self._ended = None, trio.current_time()
        return self._reachable

    async def _look(self) -> bool:
        with trio.move_on_after(MAX_SECONDS):
            try:
                async with aclosing(self._store.entries(reverse=True, limit=1)) as entries:
                    async for _ in entries:
                        break
            except NotSupportedError:
                pass  # it can only be written
            except (StoreError, OSError):
                return False
            return True
        return False
