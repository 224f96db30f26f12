"""``/metrics``: the numbers of a server in the text format of Prometheus."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Literal

import trio
from attrs import frozen
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from .._server.measurements import COMMIT_BOUNDS, HOOK_BOUNDS, SESSION_BOUNDS, Distribution
from .._server.snapshot import Snapshot
from ._context import Context
from ._operation import Operation
from ._statistics_api import numbers

# A request for the metrics takes a `Snapshot` and reads all values from it. The table METRICS has one row for each metric, and
# so has docs/metrics.rst (a test compares them).
#
# The values of labels are defined by the program: stages, reply codes, and names of hooks, limits and TLS versions; and by
# those that consume the messages: names of groups. Clients cannot choose any of them, so the number of time series is bounded.

Value = float | Distribution
#: The values of a metric by the values of its labels. Unknown values are left out.
Values = Mapping[tuple[str, ...], Value]


@frozen(kw_only=True)
class Metric:
    """A metric: its name, type and help text, and a function that reads its values from a `Snapshot`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    read: Callable[[Snapshot], Values]
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    def family(self, snapshot: Snapshot) -> Family:
        """Return the metric with its present values."""
        name = f"smtp_trio_{self.name}"
        values = self.read(snapshot).items()
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(name, self.text, labels=self.labels)
            bounds = [*map(str, self.bounds), "+Inf"]
            for labels, value in values:
                assert isinstance(value, Distribution)
                histogram.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.sum)
            return histogram
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(name, self.text, labels=self.labels)
        for labels, value in values:
            assert not isinstance(value, Distribution)
            family.add_metric(labels, value)
        return family


def count(name: str) -> Callable[[Snapshot], Values]:
    """Return a function that reads a number of `Statistics`."""
    return lambda snapshot: {(): getattr(snapshot.statistics, name)}


def by_name(counts: Mapping[str, float]) -> Values:
    """Return values with one label."""
    return {(name,): number for name, number in counts.items()}


def optional(number: float | None) -> Values:
    """Return the values of a metric without labels; no value for None."""
    return {} if number is None else {(): number}


def stored(name: str) -> Callable[[Snapshot], Values]:
    """Return a function that reads a number of `StoreNumbers`."""
    return lambda snapshot: optional(getattr(snapshot.store, name, None))


def unsettled(snapshot: Snapshot) -> Values:
    """Return the numbers of messages that groups of consumers have not settled, without those that are unknown."""
    groups = (snapshot.store and snapshot.store.groups) or {}
    return {
        (group, state): number
        for group, counts in groups.items()
        for state, number in counts.items()
        if number is not None
    }


def relayed(name: str) -> Callable[[Snapshot], Values]:
    """Return a function that reads a number of the relay."""
    return lambda snapshot: optional((snapshot.relay or {}).get(name))


METRICS: tuple[Metric, ...] = (
    Metric(
        name="build_info",
        kind="gauge",
        text="The versions of smtp_trio, Trio and Python; the value is 1.",
        labels=("version", "trio", "python"),
        read=lambda snapshot: {(__version__, trio.__version__, platform.python_version()): 1},
    ),
    Metric(name="sessions", kind="counter", text="Sessions that began.", read=count("sessions_total")),
    Metric(name="sessions_open", kind="gauge", text="Sessions that are open.", read=count("sessions_open")),
    Metric(
        name="sessions_limit",
        kind="gauge",
        text="Sessions that may be open; absent without a limit.",
        read=lambda snapshot: optional(snapshot.sessions_limit),
    ),
    Metric(
        name="connections_refused",
        kind="counter",
        text="Connections that a limit or the connect hook refused.",
        read=count("connections_refused"),
    ),
    Metric(name="commands", kind="counter", text="Commands.", read=count("commands")),
    Metric(name="messages", kind="counter", text="Messages that were accepted.", read=count("messages")),
    Metric(
        name="message_bytes", kind="counter", text="Octets of the messages that were accepted.", read=count("bytes")
    ),
    Metric(
        name="messages_incomplete",
        kind="counter",
        text="Messages whose end was not received.",
        read=count("incomplete"),
    ),
    Metric(
        name="refusals",
        kind="counter",
        text="Refusals by stage and reply code.",
        labels=("stage", "code"),
        read=lambda snapshot: {tuple(name.split()): n for name, n in snapshot.statistics.refusals.items()},
    ),
    Metric(
        name="errors",
        kind="counter",
        text="Commands that were invalid, and exceptions in hooks and sessions.",
        read=count("errors"),
    ),
    Metric(
        name="exceptions",
        kind="counter",
        text="Exceptions in hooks and sessions, and hooks that took too long.",
        read=count("exceptions"),
    ),
    Metric(name="auth_failures", kind="counter", text="Logins that failed.", read=count("auth_failures")),
    Metric(
        name="tls_handshakes",
        kind="counter",
        text="TLS handshakes that succeeded, by version.",
        labels=("version",),
        read=lambda snapshot: by_name(snapshot.statistics.tls_versions),
    ),
    Metric(name="tls_failures", kind="counter", text="TLS handshakes that failed.", read=count("tls_failures")),
    Metric(name="timeouts", kind="counter", text="Clients that were silent for too long.", read=count("timeouts")),
    Metric(
        name="limits_reached",
        kind="counter",
        text="How often each limit has taken effect.",
        labels=("limit",),
        read=lambda snapshot: by_name(snapshot.statistics.limits_reached),
    ),
    Metric(name="memory_bytes", kind="gauge", text="Octets that the open sessions hold.", read=count("memory")),
    Metric(
        name="memory_limit_bytes",
        kind="gauge",
        text="Octets that they may hold; absent without a limit.",
        read=lambda snapshot: optional(snapshot.memory_limit),
    ),
    Metric(
        name="session_seconds",
        kind="histogram",
        text="Duration of sessions that have ended.",
        bounds=SESSION_BOUNDS,
        read=lambda snapshot: {(): snapshot.sessions},
    ),
    Metric(
        name="hook_seconds",
        kind="histogram",
        text="Duration of hooks, without the time that the data hook waits for the client.",
        labels=("hook",),
        bounds=HOOK_BOUNDS,
        read=lambda snapshot: {(name,): each for name, each in snapshot.hooks.items() if any(each.counts)},
    ),
    Metric(
        name="commit_seconds",
        kind="histogram",
        text="Duration of commits of the store, each of which stores a group of messages.",
        bounds=COMMIT_BOUNDS,
        read=lambda snapshot: {(): snapshot.commits},
    ),
    Metric(
        name="commit_waiting",
        kind="gauge",
        text="Messages that wait for their commit to begin.",
        read=lambda snapshot: {(): snapshot.waiting},
    ),
    Metric(
        name="store_messages",
        kind="gauge",
        text="Messages in the store; absent if it cannot count them.",
        read=stored("messages"),
    ),
    Metric(
        name="store_bytes",
        kind="gauge",
        text="Octets of the messages in the store; only of a store in memory.",
        read=stored("octets"),
    ),
    Metric(
        name="store_dropped",
        kind="counter",
        text="Messages that a store in memory has dropped to make room.",
        read=stored("dropped"),
    ),
    Metric(
        name="store_indexed_ratio",
        kind="gauge",
        text="The share of the messages that the search index has, from 0 to 1; only of a store with an index.",
        read=stored("indexed"),
    ),
    Metric(
        name="store_group_messages",
        kind="gauge",
        text="Messages that a group of consumers has not settled: waiting, in_flight or dead.",
        labels=("group", "state"),
        read=unsettled,
    ),
    Metric(
        name="relay_relayed",
        kind="counter",
        text="Recipients whose message the next server has accepted; only with a relay.",
        read=relayed("relayed"),
    ),
    Metric(
        name="relay_deferred",
        kind="counter",
        text="Attempts after which a recipient has to be tried again.",
        read=relayed("deferred"),
    ),
    Metric(
        name="relay_undelivered",
        kind="counter",
        text="Recipients that the relay has given up.",
        read=relayed("undelivered"),
    ),
    Metric(
        name="relay_reports",
        kind="counter",
        text="Delivery reports to senders.",
        read=relayed("reports"),
    ),
    Metric(
        name="relay_in_flight",
        kind="gauge",
        text="Messages that the relay is sending.",
        read=relayed("in_flight"),
    ),
    Metric(
        name="cpu_seconds",
        kind="counter",
        text="CPU time of the processes that serve.",
        read=lambda snapshot: {(): snapshot.cpu_seconds},
    ),
    Metric(
        name="resident_memory_bytes",
        kind="gauge",
        text="Resident memory of the processes that serve.",
        read=lambda snapshot: {(): snapshot.resident_bytes},
    ),
    Metric(
        name="workers",
        kind="gauge",
        text="Worker processes; 0 if one process serves alone.",
        read=lambda snapshot: {(): len(snapshot.workers)},
    ),
    Metric(
        name="workers_responding",
        kind="gauge",
        text="Worker processes that have answered in time.",
        read=lambda snapshot: {(): sum(worker.responds for worker in snapshot.workers)},
    ),
    Metric(
        name="worker_restarts",
        kind="counter",
        text="Worker processes that ended and were replaced.",
        read=lambda snapshot: {(): sum(worker.restarts for worker in snapshot.workers)},
    ),
)


@frozen(eq=False)  # a registry uses it as a key
class ServerCollector(Collector):
    """A collector of the metrics of a snapshot, for a registry of `prometheus_client`."""

    snapshot: Snapshot

    def collect(self) -> Iterator[Family]:
        """Yield the metrics."""
        for metric in METRICS:
            yield metric.family(self.snapshot)


async def show_metrics(context: Context, request: Request) -> Response:
    """Return the metrics."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(await numbers(context)))
    ProcessCollector(registry=registry)
    encoder, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encoder(registry), media_type=None, headers={"content-type": content_type})


OPERATIONS = (
    Operation(
        id="metrics",
        method="GET",
        path="/metrics",
        handler=show_metrics,
        summary="Return the metrics in the text format of Prometheus",
        responses={200: ("The metrics", "text/plain")},
        strict=False,
    ),
)
