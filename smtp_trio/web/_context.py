"""`Context`: what the handlers of all paths share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio
from attrs import Factory, define

from .._server.snapshot import Snapshot
from ._arrivals import Arrivals
from ._chaos import Chaos
from ._health import StoreHealth
from ._history import History
from ._measuring import StoreGauge, measure_alone
from ._read_marks import ReadMarks
from ._recent import Recent
from ._recorder import Recorder

if TYPE_CHECKING:
    from .._server.server import Server
    from ..relay import Relay
    from ..stores import Store
    from ..testing import FaultRules

#: The number of requests that read what they have waited for at a time.
MAX_READING = 2


@define(kw_only=True, eq=False)
class Context:
    """The server and the store that the HTTP listener shows, and what it keeps about them."""

    #: The server in this process; None if worker processes serve.
    server: Server | None
    #: The store of the messages. It is open.
    store: Store[Any]
    #: The recorder of sessions (`Recorder`), or None if no sessions are recorded.
    recorder: Recorder | None = None
    #: The list of fault rules, or None if faults cannot be set.
    faults: FaultRules | None = None
    #: Which of the rules are the triggers of Mailpit's API.
    chaos: Chaos = Factory(Chaos)
    #: Returns why the processes that serve do not accept mail, or None if they do; None if ``server`` serves.
    problem: Callable[[], str | None] | None = None
    #: Whether the store is reachable.
    store_health: StoreHealth = Factory(lambda self: StoreHealth(self.store), takes_self=True)
    #: Which messages have been read.
    read: ReadMarks = Factory(ReadMarks)
    #: The ids of messages as they arrive.
    arrivals: Arrivals = Factory(lambda self: Arrivals(self.store), takes_self=True)
    #: The number of event streams that are open.
    event_streams: int = 0
    #: Requests that have waited take turns to read their messages, so that few are in memory.
    reading: trio.Semaphore = Factory(lambda: trio.Semaphore(MAX_READING))
    #: The number of requests that wait for a message, and the messages that have arrived last.
    waiting: int = 0
    recent: Recent = Factory(lambda self: Recent(self.store), takes_self=True)
    #: Returns the numbers of all processes that serve.
    measure: Callable[[], Awaitable[Snapshot]] = Factory(
        lambda self: measure_alone(self.server, self.store), takes_self=True
    )
    #: The relay of the store in this process, or None.
    relay: Relay | None = None
    #: Reads the numbers of the store.
    store_gauge: StoreGauge = Factory(lambda self: StoreGauge(self.store), takes_self=True)
    #: The last hour.
    history: History = Factory(lambda self: History(self.measure), takes_self=True)
    #: When the listener was made, by `time.monotonic`.
    began: float = Factory(time.monotonic)
