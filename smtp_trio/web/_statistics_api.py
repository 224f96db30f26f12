"""The statistics in the JSON API: the numbers of `/metrics`, and the last hour, for the page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import asdict, evolve
from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from .._server.snapshot import Snapshot, StoreNumbers
from ._context import Context
from ._operation import Json, Operation, Schema
from ._schemas import INDEXED, STRING, TIME, array, described, optional, record, ref

NUMBER: Schema = {"type": "integer", "minimum": 0}


async def numbers(context: Context) -> Snapshot:
    """Return the numbers of all processes that serve, of the store and of its relay."""
    relay = None if context.relay is None else asdict(context.relay.statistics())
    return evolve(await context.measure(), store=await context.store_gauge.read(), relay=relay)


async def describe(context: Context) -> dict[str, Any]:
    """Return the JSON of the statistics."""
    snapshot = await numbers(context)
    statistics = snapshot.statistics
    counts = asdict(statistics, filter=lambda attribute, value: isinstance(value, int))
    counts["octets"] = counts.pop("bytes")
    return {
        "time": utc(datetime.now(UTC)),
        "version": __version__,
        "uptime": round(time.monotonic() - context.began, 3),
        "counts": counts,
        "refusals": [
            {"stage": stage, "code": int(code), "count": count}
            for (stage, code), count in sorted((tuple(key.split()), n) for key, n in statistics.refusals.items())
        ],
        "tls": dict(statistics.tls_versions),
        "limits": limits(snapshot),
        "store": {
            "url": context.store.url,
            **asdict(snapshot.store or StoreNumbers()),
            "waiting": snapshot.waiting,
        },
        "relay": snapshot.relay,
        "workers": [asdict(worker) for worker in snapshot.workers],
        "history": [
            {**asdict(minute), "time": utc(minute.time), "refusals": dict(minute.refusals)}
            for minute in context.history.minutes(statistics)
        ],
    }


def limits(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the limits with a current value, and those that were reached."""
    statistics = snapshot.statistics
    known = {
        "sessions": (snapshot.sessions_limit, statistics.sessions_open),
        "memory": (snapshot.memory_limit, statistics.memory),
    }
    return [
        {"name": name, "limit": limit, "used": used, "reached": statistics.limits_reached[name]}
        for name in sorted({*known, *statistics.limits_reached})
        for limit, used in [known.get(name, (None, None))]
    ]


def utc(moment: datetime) -> str:
    """Return a time in the format of RFC 3339."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def show_statistics(context: Context, request: Request) -> Response:
    """Return the statistics."""
    return Json(await describe(context))


COUNTS: Mapping[str, str] = {
    "sessions_open": "Sessions that are open",
    "sessions_total": "Sessions that began",
    "messages": "Messages that were accepted",
    "octets": "Octets of these messages",
    "refused": "Refusals of messages and of MAIL, RCPT, DATA, BDAT and BURL",
    "incomplete": "Messages whose end was not received",
    "commands": "Commands",
    "errors": "Invalid commands, and exceptions in hooks and sessions",
    "exceptions": "Exceptions in hooks and sessions, and hooks that took too long",
    "connections_refused": "Connections that a limit or the connect hook refused",
    "auth_failures": "Logins that failed",
    "timeouts": "Clients that were silent for too long",
    "tls_failures": "TLS handshakes that failed",
    "memory": "Octets that the open sessions hold",
}
BY_NAME: Schema = {"type": "object", "additionalProperties": NUMBER}
STATISTICS: Schema = record(
    {
        "time": described(TIME, "The time at which the numbers were read"),
        "version": described(STRING, "The version of smtp_trio"),
        "uptime": described({"type": "number", "minimum": 0}, "The seconds since the listener started"),
        "counts": record({name: described(NUMBER, text) for name, text in COUNTS.items()}),
        "refusals": described(
            array(record({"stage": STRING, "code": NUMBER, "count": NUMBER})), "Refusals by stage and reply code"
        ),
        "tls": described(BY_NAME, "TLS handshakes by version"),
        "limits": described(
            array(record({"name": STRING, "limit": optional(NUMBER), "used": optional(NUMBER), "reached": NUMBER})),
            "Limits, their current use, and how often they have taken effect",
        ),
        "store": record(
            {
                "url": described(STRING, "The URL of the store, without a password"),
                "messages": described(optional(NUMBER), "The messages in it"),
                "octets": described(optional(NUMBER), "Their octets"),
                "dropped": described(optional(NUMBER), "Messages that were dropped to make room"),
                "dropped_octets": described(optional(NUMBER), "Their octets"),
                "indexed": INDEXED,
                "groups": {
                    "type": ["object", "null"],
                    "additionalProperties": record(
                        {
                            "waiting": described(optional(NUMBER), "Those that wait for a consumer; null if unknown"),
                            "in_flight": described(NUMBER, "Those that a consumer has"),
                            "dead": described(NUMBER, "Dead letters"),
                        }
                    ),
                    "description": "The messages that each group of consumers has not settled; null if the store cannot "
                    "count them",
                },
                "waiting": described(NUMBER, "Messages that wait for their commit"),
            }
        ),
        "relay": {
            **record(dict.fromkeys(("relayed", "undelivered", "deferred", "reports", "in_flight"), NUMBER)),
            "type": ["object", "null"],
            "description": "The recipients that the relay of the store has handled, its reports, and the messages that it "
            "is sending; null without a relay",
        },
        "workers": described(
            array(
                record(
                    {
                        "number": NUMBER,
                        "pid": optional(NUMBER),
                        "restarts": NUMBER,
                        "responds": {"type": "boolean"},
                        "sessions_open": NUMBER,
                        "messages": NUMBER,
                        "memory": NUMBER,
                    }
                )
            ),
            "The worker processes; empty if one process serves alone",
        ),
        "history": described(
            array(record({"time": TIME, "messages": NUMBER, "sessions": NUMBER, "refusals": BY_NAME})),
            "The last sixty minutes, the oldest first; the last one is the current minute",
        ),
    }
)
SCHEMAS: Mapping[str, Schema] = {"Statistics": STATISTICS}
OPERATIONS = (
    Operation(
        id="statistics",
        method="GET",
        path="/api/statistics",
        handler=show_statistics,
        summary="Return the counters of the server, its limits, its workers, and its last hour",
        responses={200: ("The statistics", ref("Statistics"))},
    ),
)
