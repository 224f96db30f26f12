"""Lists of messages in Mailpit's API v1: list, search, mark as read, and delete."""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ..stores import MessageNotFoundError
from ._api import remove_all
from ._mailpit_body import flag_in, ids_in, read_object, text_in
from ._mailpit_json import summary
from ._mailpit_query import MailboxQuery
from ._mailpit_schemas import FLAG, MESSAGES, NUMBER, OK, QUERY, ZONE, mailpit_operation
from ._message import parse
from ._operation import ApiError, Json, Parameter, arguments
from ._schemas import STRING, array

if TYPE_CHECKING:
    from ..stores import Entry
    from ._context import Context

PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000
#: The number of read marks up to which the messages with one are compared with a search, and not its results with the marks.
FEW_MARKS = 50
START = Parameter(name="start", schema={**NUMBER, "default": 0}, description="The number of messages to skip")
LIMIT = Parameter(
    name="limit",
    schema={**NUMBER, "default": PAGE_SIZE},
    description=f"The number of messages to list, at most {MAX_PAGE_SIZE}",
)


def query_in(request: Request) -> MailboxQuery:
    """Return the query of a search. Raises `ApiError` if it is empty or invalid."""
    values = arguments(request)
    text = values["query"].strip()
    if not text:
        raise ApiError(400, "query: must not be empty")
    return MailboxQuery.parse(text, values.get("tz", ""))


def page_in(request: Request) -> tuple[int, int]:
    """Return the number of messages to skip, and the number to list."""
    values = arguments(request)
    return values["start"], min(values["limit"], MAX_PAGE_SIZE)


async def totals(context: Context) -> tuple[int, int]:
    """Return the number of messages in the store, and of unread messages."""
    marked = list(context.read)
    present = await context.store.present(marked)
    context.read.mark((each for each in marked if each not in present), read=False)  # removed elsewhere, or dropped
    total = await context.store.count()
    return total, max(total - len(present), 0)


async def summaries(context: Context, entries: list[Entry]) -> list[dict[str, Any]]:
    """Return the summaries of messages, except for those that were removed meanwhile."""
    found = []
    for entry in entries:
        with suppress(MessageNotFoundError):
            stored = await context.store.get(entry.id)
            found.append(summary(stored, await parse(stored), read=entry.id in context.read))
    return found


async def list_messages(context: Context, request: Request) -> Response:
    """Return a page of all messages."""
    total, unread = await totals(context)
    start, limit = page_in(request)
    page = [entry async for entry in context.store.entries(reverse=True, offset=start, limit=limit)]
    return await answer_page(context, page, start, total=total, unread=unread, count=total, unread_count=unread)


async def search(context: Context, request: Request) -> Response:
    """Return a page of the messages that match a query, and their total number."""
    query = query_in(request)
    total, unread = await totals(context)
    start, limit = page_in(request)
    page: list[Entry] = []
    passed = 0
    async with aclosing(query.search(context)) as entries:
        async for entry in entries:
            if passed >= start + limit:
                break
            if passed >= start:
                page.append(entry)
            passed += 1
    count, unread_count = await counts(context, query)
    return await answer_page(context, page, start, total=total, unread=unread, count=count, unread_count=unread_count)


async def counts(context: Context, query: MailboxQuery) -> tuple[int, int]:
    """Return the number of messages that a search finds, and of the unread ones among them."""
    marked = list(context.read)
    if query.ignores_marks and len(marked) <= FEW_MARKS:  # a store with an index counts without reading the messages
        count, read = await context.store.count(query.query), 0
        for each in marked:
            with suppress(MessageNotFoundError):
                read += await context.recent.match(each, query.query)
        return count, max(count - read, 0)
    count = unread = 0
    async with aclosing(query.search(context)) as entries:
        async for entry in entries:
            count += 1
            unread += entry.id not in context.read
    return count, unread


async def answer_page(
    context: Context, page: list[Entry], start: int, *, total: int, unread: int, count: int, unread_count: int
) -> Response:
    """Return the response with a page of messages."""
    messages = await summaries(context, page)
    return Json(
        {
            "total": total,
            "unread": unread,
            "count": len(messages),
            "messages_count": count,
            "messages_unread": unread_count,
            "start": start,
            "tags": [],
            "messages": messages,
        }
    )


async def mark_messages(context: Context, request: Request) -> Response:
    """Mark messages as read or as unread: those with some ids, those that fulfil a query, or all."""
    fields = await read_object(request)
    ids, text, read = ids_in(fields), text_in(fields, "Search").strip(), flag_in(fields, "Read")
    if ids and text:
        raise ApiError(400, "IDs and Search exclude each other")
    if not ids:
        query = MailboxQuery.parse(text, arguments(request).get("tz", ""))
        async with aclosing(query.search(context)) as entries:
            ids = [entry.id async for entry in entries]
    else:  # marks of unknown ids would be kept for ever
        ids = list(await context.store.present(ids))
    context.read.mark(ids, read=read)
    return PlainTextResponse("ok")


async def delete_messages(context: Context, request: Request) -> Response:
    """Delete the messages with some ids, or all."""
    ids = ids_in(await read_object(request)) or [entry.id async for entry in context.store.entries()]
    return await delete(context, ids)


async def delete_search(context: Context, request: Request) -> Response:
    """Delete the messages that fulfil a query."""
    async with aclosing(query_in(request).search(context)) as entries:
        ids = [entry.id async for entry in entries]
    return await delete(context, ids)


async def delete(context: Context, ids: list[str]) -> Response:
    """Delete messages. As in Mailpit, unknown ids are ignored."""
    await remove_all(context, ids)
    context.read.mark(ids, read=False)
    return PlainTextResponse("ok")


OPERATIONS = (
    mailpit_operation(
        id="mailpitListMessages",
        method="GET",
        path="/api/v1/messages",
        handler=list_messages,
        summary="Mailpit: list messages, the newest first",
        parameters=(START, LIMIT),
        responses=MESSAGES,
    ),
    mailpit_operation(
        id="mailpitMarkMessages",
        method="PUT",
        path="/api/v1/messages",
        handler=mark_messages,
        summary="Mailpit: mark messages as read or unread; all of them without IDs and Search",
        parameters=(ZONE,),
        body={"type": "object", "properties": {"IDs": array(STRING), "Search": STRING, "Read": FLAG}},
        responses=OK,
    ),
    mailpit_operation(
        id="mailpitDeleteMessages",
        method="DELETE",
        path="/api/v1/messages",
        handler=delete_messages,
        summary="Mailpit: delete messages; all of them without IDs",
        body={"type": "object", "properties": {"IDs": array(STRING)}},
        responses=OK,
    ),
    mailpit_operation(
        id="mailpitSearch",
        method="GET",
        path="/api/v1/search",
        handler=search,
        summary="Mailpit: search messages",
        parameters=(QUERY, START, LIMIT, ZONE),
        responses=MESSAGES,
    ),
    mailpit_operation(
        id="mailpitDeleteSearch",
        method="DELETE",
        path="/api/v1/search",
        handler=delete_search,
        summary="Mailpit: delete the messages that a search finds",
        parameters=(QUERY, ZONE),
        responses=OK,
    ),
)
