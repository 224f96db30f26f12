"""Who wants to see every session and client that is made: a sweep of `smtp_trio.testing`, and as a rule nobody."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

#: Called with a `Session` or `Client` before its first octet, in the tasks of whoever set it.
watcher: ContextVar[Callable[[Any], None] | None] = ContextVar("smtp_trio watcher", default=None)


def announce(made: object) -> None:
    """Here is a new one."""
    if (watch := watcher.get()) is not None:
        watch(made)
