"""The operation that waits for messages, so that tests need not poll."""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import Any

import trio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from .._groups import collapse_group
from ..stores import MessageNotFoundError, Query
from ..stores._query import Term
from ._api import describe, describe_message, query_of
from ._context import Context
from ._operation import ApiError, Json, Operation, Parameter, arguments
from ._schemas import MESSAGE_ID, QUERY, array, record, ref

# A request subscribes to arrivals before it searches the store, so it misses no message and has to search only once. After
# that it checks only the messages that arrive. Many requests can wait for different messages at the same time, so a message
# that has just arrived is read once for all of them (`Recent`).

#: The maximum number of requests that wait at the same time. Each one keeps a connection.
MAX_WAITS = 256
#: The maximum number of messages to wait for, the default and the maximum timeout in seconds, and the number of messages that
#: an error lists.
MAX_COUNT, TIMEOUT, MAX_TIMEOUT, MAX_LISTED = 20, 10.0, 300.0, 10
#: The maximum number of characters of the texts and the HTML in a response. Those of two messages always fit.
MAX_CHARACTERS = 1 << 21


@frozen(kw_only=True)
class Wanted:
    """The query and the number of messages that a request waits for."""

    query: Query
    count: int
    after_id: str | None

    @classmethod
    def of(cls, request: Request) -> Wanted:
        """Parse the parameters of a request."""
        values = arguments(request)
        names = {"to": "rcpt", "from": "from", "subject": "subject"}
        terms = [Term(term, values[name]) for name, term in names.items() if name in values]
        return cls(
            query=Query((*terms, *query_of(values).terms)), count=values["count"], after_id=values.get("after_id")
        )


async def wait_for_messages(context: Context, request: Request) -> Response:
    """Return messages as soon as the store has enough of them."""
    if context.waiting >= MAX_WAITS:
        raise ApiError(429, f"too many waiting requests, at most {MAX_WAITS} are allowed", {"retry-after": "1"})
    wanted = Wanted.of(request)
    seconds = arguments(request)["timeout"]
    messages: list[dict[str, object]] = []
    context.waiting += 1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_without_client, request, nursery.cancel_scope)
            with trio.move_on_after(seconds):
                messages = await find(context, wanted)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise collapse_group(group) from None
    finally:
        context.waiting -= 1
    if messages:
        return Json({"messages": messages})
    raise await missing(context, wanted, seconds)


async def cancel_without_client(request: Request, scope: trio.CancelScope) -> None:
    """Cancel a scope when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def find(context: Context, wanted: Wanted) -> list[dict[str, object]]:
    """Wait until the store has enough matching messages, and return them."""
    async with context.arrivals.subscribe() as ids:
        lost = ids.lost
        found = await present(context, wanted)
        while True:
            if len(found) >= wanted.count:
                messages = await read(context, found)
                if len(messages) >= wanted.count:
                    return messages
            new = await anext(ids)
            if ids.lost > lost:  # ids were dropped, so the store has to be searched again
                lost = ids.lost
                found = await present(context, wanted)
            elif new not in found:
                try:
                    if await context.recent.match(new, wanted.query):
                        found.insert(0, new)
                except MessageNotFoundError:  # removed meanwhile
                    continue


async def present(context: Context, wanted: Wanted) -> list[str]:
    """Return the ids of the newest matching messages in the store, at most as many as are waited for."""
    after = wanted.after_id
    if after is None:
        async with aclosing(context.store.search(wanted.query, limit=wanted.count)) as entries:
            return [entry.id async for entry in entries]
    # Those after an id are read from the oldest on, so that messages before it are not read.
    found: deque[str] = deque(maxlen=wanted.count)
    try:
        async with aclosing(context.store.search(wanted.query, reverse=False, after=after)) as entries:
            async for entry in entries:
                found.appendleft(entry.id)
    except MessageNotFoundError:
        raise ApiError(404, "after_id: the store has no message with this id") from None
    return list(found)


async def read(context: Context, ids: list[str]) -> list[dict[str, Any]]:
    """Return the JSON of messages, and drop the ids of messages that were removed meanwhile from ``ids``."""
    messages = []
    room = MAX_CHARACTERS
    async with context.reading:
        for each in list(ids):
            try:
                message = await describe_message(context, await context.store.get(each))
            except MessageNotFoundError:
                ids.remove(each)
                continue
            room -= shorten(message, room)
            messages.append(message)
    return messages


def shorten(message: dict[str, Any], room: int) -> int:
    """Remove the text or the HTML of a message if they exceed ``room`` characters; return the number that remains."""
    length = 0
    for name in ("text", "html"):
        if length + len(message[name]) > room:
            message[name] = ""
            message["truncated"] = (*(each for each in message["truncated"] if each != name), name)
        length += len(message[name])
    return length


async def missing(context: Context, wanted: Wanted, seconds: float) -> ApiError:
    """Return the error for a timeout. It lists the newest messages, which helps to find a misspelt address."""
    async with aclosing(context.store.entries(reverse=True, limit=MAX_LISTED)) as entries:
        found = [describe(context, entry) async for entry in entries]
    what = "no message" if wanted.count == 1 else f"fewer than {wanted.count} messages"
    which = f" for {wanted.query}" if wanted.query.terms else ""
    text = f"{what}{which} within {seconds:g} s; 'newest' lists the newest messages of the store"
    return ApiError(404, text, newest=found)


OPERATIONS = (
    Operation(
        id="waitForMessages",
        method="GET",
        path="/api/wait",
        handler=wait_for_messages,
        summary="Wait for messages and return them",
        description=(
            "Messages that are already in the store count, unless ``after_id`` excludes them. All conditions have to "
            "match. The response has ``count`` messages, the newest first. After a timeout the status is 404, "
            "and ``newest`` lists the newest messages. "
            "If the texts are too large for one response, some are left out and named in ``truncated``."
        ),
        parameters=(
            Parameter(
                name="to",
                description="The complete address of a recipient of the envelope (``rcpt:`` in a query)",
                schema={"type": "string", "minLength": 1},
            ),
            Parameter(
                name="from",
                description="A text in the sender of the envelope, or in ``From`` or ``Sender``",
                schema={"type": "string", "minLength": 1},
            ),
            Parameter(name="subject", description="A text in the subject", schema={"type": "string", "minLength": 1}),
            QUERY,
            Parameter(
                name="count",
                description="The number of messages to wait for",
                schema={"type": "integer", "minimum": 1, "maximum": MAX_COUNT, "default": 1},
            ),
            Parameter(
                name="timeout",
                description="Seconds to wait",
                schema={"type": "number", "minimum": 0, "maximum": MAX_TIMEOUT, "default": TIMEOUT},
            ),
            Parameter(
                name="after_id",
                description="Only messages that were stored after the one with this id",
                schema=MESSAGE_ID,
            ),
        ),
        responses={
            200: ("The messages", record({"messages": array(ref("Message"))})),
            404: (
                "The timeout has expired, or the store has no message with the id ``after_id``",
                {
                    "type": "object",
                    "properties": {"error": {"type": "string"}, "newest": array(ref("Entry"))},
                    "required": ["error"],
                },
            ),
            429: ("Too many requests are waiting", ref("Error")),
        },
    ),
)
