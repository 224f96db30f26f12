"""`Context`: the state that the handlers of all paths share."""

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

#: The maximum number of requests that read the messages that they waited for at the same time.
MAX_READING = 2


@define(kw_only=True, eq=False)
class Context:
    """The server and the store of the HTTP listener, and the state of the listener."""

    #: The server in this process; None if worker processes serve.
    server: Server | None
    #: The store of the messages. It is open.
    store: Store[Any]
    #: The recorder of sessions (`Recorder`), or None if no sessions are recorded.
    recorder: Recorder | None = None
    #: The list of fault rules, or None if faults cannot be set.
    faults: FaultRules | None = None
    #: The rules that implement the triggers of Mailpit's API.
    chaos: Chaos = Factory(Chaos)
    #: A function that returns why the workers do not accept mail, or None if they do; None if ``server`` serves.
    problem: Callable[[], str | None] | None = None
    #: The check whether the store is reachable.
    store_health: StoreHealth = Factory(lambda self: StoreHealth(self.store), takes_self=True)
    #: The ids of messages that have been read.
    read: ReadMarks = Factory(ReadMarks)
    #: The subscriptions to messages that arrive.
    arrivals: Arrivals = Factory(lambda self: Arrivals(self.store), takes_self=True)
    #: The number of event streams that are open.
    event_streams: int = 0
    #: A semaphore for reading the messages that requests waited for, so that few are in memory.
    reading: trio.Semaphore = Factory(lambda: trio.Semaphore(MAX_READING))
    #: The number of requests that wait for a message, and the last messages that arrived.
    waiting: int = 0
    recent: Recent = Factory(lambda self: Recent(self.store), takes_self=True)
    #: A function that returns the numbers of all processes that serve.
    measure: Callable[[], Awaitable[Snapshot]] = Factory(
        lambda self: measure_alone(self.server, self.store), takes_self=True
    )
    #: The relay of the store in this process, or None.
    relay: Relay | None = None
    #: The reader of the numbers of the store.
    store_gauge: StoreGauge = Factory(lambda self: StoreGauge(self.store), takes_self=True)
    #: The counters of the last hour, by minute.
    history: History = Factory(lambda self: History(self.measure), takes_self=True)
    #: The time at which the listener was created, by `time.monotonic`.
    began: float = Factory(time.monotonic)
