"""`StoreHealth`: a cached check whether a store is reachable."""

from __future__ import annotations

import math
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from ..stores import NotSupportedError, StoreError

if TYPE_CHECKING:
    from ..stores import Store

# A store is reachable if its newest message can be read, or if it is found to be empty. The result of one check is used for
# MAX_AGE seconds, so that frequent requests cost nothing. A thread that reads from a dead disk cannot be interrupted, so the
# request that runs the check may hang, which supervisors treat as a failure. Other requests are answered meanwhile.

#: The seconds for which the result of a check is valid, and the time limit of a check.
MAX_AGE, MAX_SECONDS = 1.0, 2.0


@define(eq=False)
class StoreHealth:
    """A check whether a store is reachable, whose result is cached."""

    _store: Store[Any]
    _reachable: bool = field(default=False, init=False)
    #: The times when the last check ended, and when the one in progress began, by `trio.current_time`.
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
                pass  # the store is write-only
            except (StoreError, OSError):
                return False
            return True
        return False
