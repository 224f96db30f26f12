"""The parts of Mailpit's API v1 that tests use: list, search, read, mark and delete messages."""

from __future__ import annotations

import json
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..stores import MessageNotFoundError
from ._mailpit_message import Mail
from ._operation import ApiError, Operation

if TYPE_CHECKING:
    from ..stores import Entry, Stored
    from ._context import Context

PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000
OK = "ok"


def number(request: Request, name: str, default: int) -> int:
    """Return a parameter that is a number. Mailpit ignores an invalid one."""
    value = request.query_params.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 10 else default


async def listing(context: Context, request: Request, query: str) -> Response:
    """Return the page of the messages that fulfil a query, and how many there are."""
    start, limit = number(request, "start", 0), min(number(request, "limit", PAGE_SIZE), MAX_PAGE_SIZE)
    total = count = unread = matching_unread = 0
    page: list[Entry] = []
    async with aclosing(context.store.search(query)) as entries:
        async for entry in entries:
            if start <= count < start + limit:
                page.append(entry)
            count += 1
            matching_unread += entry.id not in context.read
    total, unread = count, matching_unread
    messages = [await mail(context, entry.id) for entry in page]
    return JSONResponse(
        {
            "total": total,
            "unread": unread,
            "count": len(messages),
            "messages_count": count,
            "messages_unread": matching_unread,
            "start": start,
            "tags": [],
            "messages": [each.summary() for each in messages],
        }
    )


async def mail(context: Context, id: str) -> Mail:
    stored: Stored = await context.store.get(id)
    return await trio.to_thread.run_sync(partial(Mail, stored, read=id in context.read))


async def list_messages(context: Context, request: Request) -> Response:
    """Return messages, the newest first."""
    return await listing(context, request, "")


async def search(context: Context, request: Request) -> Response:
    """Return the messages that fulfil a query, the newest first."""
    return await listing(context, request, request.query_params.get("query", ""))


async def get_message(context: Context, request: Request) -> Response:
    """Return a message, and mark it as read."""
    name = request.path_params["id"]
    if name == "latest":
        async with aclosing(context.store.entries(reverse=True)) as entries:
            async for entry in entries:
                name = entry.id
                break
    try:
        found = await mail(context, name)
    except MessageNotFoundError:
        raise ApiError(404, "there is no such message") from None
    context.read.mark([name])
    found.read = True
    return JSONResponse(found.whole())


async def delete_messages(context: Context, request: Request) -> Response:
    """Delete messages by their ids, or all."""
    body: Any = json.loads(await request.body() or b"{}")
    ids = body.get("IDs") or [entry.id async for entry in context.store.entries()]
    await context.store.remove(ids)
    return PlainTextResponse(OK)


OPERATIONS = (
    Operation(
        id="mailpitListMessages",
        method="GET",
        path="/api/v1/messages",
        handler=list_messages,
        summary="List messages, the newest first",
        strict=False,
        responses={200: ("The messages", {"type": "object"})},
    ),
    Operation(
        id="mailpitDeleteMessages",
        method="DELETE",
        path="/api/v1/messages",
        handler=delete_messages,
        summary="Delete messages by their ids, or all",
        strict=False,
        responses={200: ("They are deleted", "text/plain")},
    ),
    Operation(
        id="mailpitSearch",
        method="GET",
        path="/api/v1/search",
        handler=search,
        summary="Search messages",
        strict=False,
        responses={200: ("The messages", {"type": "object"})},
    ),
    Operation(
        id="mailpitGetMessage",
        method="GET",
        path="/api/v1/message/{id}",
        handler=get_message,
        summary="Return a message, and mark it as read",
        strict=False,
        responses={200: ("The message", {"type": "object"})},
    ),
)
