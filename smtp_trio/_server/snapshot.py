"""`Snapshot`: the numbers of a server at one time, which can be added to those of other processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from attrs import asdict, evolve, frozen

from .._types import Statistics
from .measurements import COMMIT_BOUNDS, SESSION_BOUNDS, Distribution, Histogram, Measurements
from .server import Server

# Several processes can serve one port, and each has only its own numbers. So a `Snapshot` can be sent as JSON and added to
# others.

#: A JSON value without the types that a `Snapshot` does not need.
Json: TypeAlias = dict[str, "Json"] | list["Json"] | float | None


def empty_snapshot() -> Snapshot:
    """Return a snapshot whose numbers are all 0."""
    return Snapshot(
        statistics=Statistics(),
        cpu_seconds=0.0,
        resident_bytes=0,
        hooks={},
        sessions=Histogram(SESSION_BOUNDS).distribution(),
        commits=Histogram(COMMIT_BOUNDS).distribution(),
        sessions_limit=0,
        memory_limit=0,
    )


def resident_bytes() -> int:
    """Return the resident memory of this process, or 0 if the system does not provide it."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class MeasuredGroup(Protocol):
    """The measured attributes of the group commit of a store."""

    seconds: Histogram | None

    @property
    def waiting(self) -> int: ...


@frozen(kw_only=True)
class WorkerState:
    """A worker process: its number, its number of restarts, and its last answer."""

    number: int
    pid: int | None
    restarts: int
    #: Whether it has answered in time.
    responds: bool
    sessions_open: int
    messages: int
    memory: int


@frozen(kw_only=True)
class StoreNumbers:
    """The numbers of stored and of dropped messages, and of their octets. Those that are expensive to determine are None.

    ``indexed`` is the share of the messages that the search index has, from 0 to 1, or None without an index. ``groups`` has the
    messages that each group of consumers has not settled: its ``waiting`` (None if unknown), ``in_flight`` and ``dead``.
    """

    messages: int | None = None
    octets: int | None = None
    dropped: int | None = None
    dropped_octets: int | None = None
    indexed: float | None = None
    groups: Mapping[str, Mapping[str, int | None]] | None = None


@frozen(kw_only=True)
class Snapshot:
    """The numbers of one process that serves, or the sums of several.

    ``cpu_seconds`` and ``resident_bytes`` are the CPU time and the resident memory of the processes. ``hooks`` has the
    durations of each hook. ``waiting`` is the number of messages that wait for a commit. Absent limits are None.
    ``workers`` is empty for a process that serves alone. Only the process with the HTTP listener has ``store`` and
    ``relay``, the numbers of `smtp_trio.relay.RelayStatistics`, which is None without a relay.
    """

    statistics: Statistics
    cpu_seconds: float
    resident_bytes: int
    hooks: Mapping[str, Distribution]
    sessions: Distribution
    commits: Distribution
    waiting: int = 0
    sessions_limit: int | None = None
    memory_limit: int | None = None
    workers: tuple[WorkerState, ...] = ()
    store: StoreNumbers | None = None
    relay: Mapping[str, int] | None = None

    def to_json(self) -> Json:
        """Return the values as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Snapshot:
        """Return the snapshot for a result of `to_json`, without ``workers``, ``store`` and ``relay``."""
        made = {
            "statistics": statistics_from_json(values["statistics"]),
            "hooks": {name: Distribution(**each) for name, each in values["hooks"].items()},
            "sessions": Distribution(**values["sessions"]),
            "commits": Distribution(**values["commits"]),
        }
        return cls(**{**values, **made, "workers": (), "store": None, "relay": None})

    def ended(self) -> Snapshot:
        """Return the values after the end of the process: the same counters, with the current values set to 0."""
        return evolve(
            self,
            statistics=evolve(self.statistics, sessions_open=0, memory=0),
            resident_bytes=0,
            waiting=0,
            sessions_limit=0,
            memory_limit=0,
        )

    def __add__(self, other: Snapshot) -> Snapshot:
        values = total(self.to_json(), other.to_json())
        assert isinstance(values, dict)
        return Snapshot.from_json(values)


def statistics_from_json(values: Mapping[str, Any]) -> Statistics:
    """Return the statistics for a JSON object, whose mappings are nested objects."""
    read: dict[str, Any] = {name: Counter(each) if isinstance(each, dict) else each for name, each in values.items()}
    return Statistics(**read)


def total(one: Json, other: Json) -> Json:
    """Add the numbers in two JSON values. A sum with null, which stands for an absent limit, is null."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {name: total(one[name], each) if name in one else each for name, each in other.items()}
    if isinstance(one, list) and isinstance(other, list):
        return [total(*each) for each in zip(one, other, strict=True)]
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return None


def observe(server: Server | None, group: MeasuredGroup) -> Callable[[], Snapshot]:
    """Measure the hooks and sessions of a server, and the commits of its store, from now on.

    Return a function that returns the numbers so far. Without a server, they are those of the store.
    """
    measurements = Measurements() if server is None else server._state.observe()
    if group.seconds is None:
        group.seconds = Histogram(COMMIT_BOUNDS)
    commits = group.seconds

    def snapshot() -> Snapshot:
        return Snapshot(
            statistics=Statistics() if server is None else server.statistics(),
            cpu_seconds=time.process_time(),
            resident_bytes=resident_bytes(),
            hooks={name: histogram.distribution() for name, histogram in measurements.hooks.items()},
            sessions=measurements.sessions.distribution(),
            commits=commits.distribution(),
            waiting=group.waiting,
            sessions_limit=None if server is None else server.limits.sessions,
            memory_limit=None if server is None else server.limits.memory,
        )

    return snapshot
