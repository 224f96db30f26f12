"""Lets `smtp_trio.testing` observe every server, session and client that is created, for example in a sweep."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

#: Called with each new `Server`, and with each `SessionTask` and `Client` before its first octet, in the tasks that inherit
#: this context variable.
observer: ContextVar[Callable[[Any], None] | None] = ContextVar("smtp_trio observer", default=None)


def announce(created: object) -> None:
    """Pass a new server, session or client to the observer, if there is one."""
    if (observe := observer.get()) is not None:
        observe(created)
