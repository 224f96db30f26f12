"""Lets `smtp_trio.testing` observe every server, session and client that is created, and open a client's connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import trio

#: Called with each new `Server`, and with each `SessionTask` and `Client` before its first octet, in the tasks that inherit
#: this context variable.
observer: ContextVar[Callable[[Any], None] | None] = ContextVar("smtp_trio observer", default=None)

#: Opens the connections of clients in this `trio.run`, given a host, a port and the local address, instead of
#: `trio.open_tcp_stream`. Raises OSError as that does.
network_opener: trio.lowlevel.RunVar[Callable[[str, int, str | None], Awaitable[trio.abc.Stream]] | None] = (
    trio.lowlevel.RunVar("smtp_trio network_opener")
)


def announce(created: object) -> None:
    """Pass a new server, session or client to the observer, if there is one."""
    if (observe := observer.get()) is not None:
        observe(created)
