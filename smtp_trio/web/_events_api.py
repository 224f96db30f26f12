"""The event stream of the JSON API: server-sent events about messages that arrive."""

from __future__ import annotations

import json
from functools import lru_cache

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ._context import Context
from ._operation import ApiError, Operation
from ._schemas import ref

#: The maximum number of open event streams. Each one keeps a connection.
MAX_STREAMS = 64
#: Seconds without an event after which a comment is sent. It keeps intermediaries from closing the connection, and detects
#: clients that have disconnected.
PING_INTERVAL = 15.0
#: The minimum number of seconds between two writes to one stream. Under load each write has several events, so that many
#: streams do not slow down SMTP sessions.
MIN_INTERVAL = 0.25
PING = b": no event\n\n"


def event(name: str, value: object) -> bytes:
    """Encode an event with a JSON value (the WHATWG HTML standard, section 9.2)."""
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


@lru_cache(1024)
def arrival(id: str) -> bytes:
    """Encode the event of a message, once for all streams."""
    return event("message", {"id": id})


class EventStream(Response):
    """A response with an event for each message that arrives, until the client disconnects."""

    media_type = "text/event-stream"

    def __init__(self, context: Context) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._context.event_streams += 1
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_events, send)
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._context.event_streams -= 1

    async def _send_events(self, send: Send) -> None:
        """Send the events, each preceded by a ``lost`` event if some were dropped."""
        lost = 0
        async with self._context.arrivals.subscribe() as ids:
            # Messages from now on are reported, so the client can read the list without missing any.
            await send({"type": "http.response.body", "body": event("ready", {}), "more_body": True})
            while True:
                body = PING
                with trio.move_on_after(PING_INTERVAL):
                    new = [await anext(ids), *ids.take()]
                    body = b"".join(map(arrival, new))
                if ids.lost > lost:
                    lost = ids.lost
                    body = event("lost", {"count": lost}) + body
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await trio.sleep(MIN_INTERVAL)


async def stream_events(context: Context, request: Request) -> Response:
    """Return the stream of events."""
    if context.event_streams >= MAX_STREAMS:
        raise ApiError(503, f"too many event streams, at most {MAX_STREAMS} can be open")
    return EventStream(context)


OPERATIONS = (
    Operation(
        id="streamEvents",
        method="GET",
        path="/api/events",
        handler=stream_events,
        summary="Report messages as they arrive",
        responses={
            200: (
                "Server-sent events: ``ready`` when messages from now on are reported, ``message`` with the id of each, "
                "and ``lost`` when events are missing because they were not read in time",
                "text/event-stream",
            ),
            503: ("Too many event streams are open", ref("Error")),
        },
    ),
)
