"""The messages in the JSON API: list, search, read, mark and delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from attrs import fields
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..stores import Entry, MessageNotFoundError, Query, Stored
from ..stores._entry import json_fields
from ._context import Context
from ._measuring import indexed
from ._message import MAX_PARTS, MessagePart, parse, read_part, safe_filename
from ._operation import ApiError, Json, Operation, Parameter, arguments, json_body
from ._schemas import ID, INDEXED, MESSAGE_ID, NOT_FOUND, QUERY, array, described, optional, record, ref

#: The default and the maximum number of messages in a list.
PAGE_SIZE, MAX_PAGE_SIZE = 50, 500
#: The maximum number of terms of a query. Each of them may require reading every message.
MAX_TERMS = 32
#: The number of messages that are removed by one call of a store.
BATCH = 500
#: The number of octets of a response that are sent at a time.
CHUNK = 1 << 17
PART_FIELDS = [field.name for field in fields(MessagePart) if field.name != "source"]


class Octets(Response):
    """A response with untrusted octets. Browsers save them, and never display or run them."""

    def __init__(self, octets: bytes, media_type: str, filename: str) -> None:
        ascii_name = filename.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
        super().__init__(
            headers={
                "content-type": media_type,
                "content-length": str(len(octets)),
                # RFC 6266: the second form is for names with other characters.
                "content-disposition": f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(filename, safe='')}",
                "content-security-policy": "default-src 'none'; sandbox",
                "x-content-type-options": "nosniff",
            }
        )
        self._octets = octets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        view = memoryview(self._octets if scope["method"] != "HEAD" else b"")
        for start in range(0, len(view), CHUNK):  # in pieces, since each is copied several times
            await send({"type": "http.response.body", "body": bytes(view[start : start + CHUNK]), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def query_of(values: Mapping[str, Any]) -> Query:
    """Parse the query in the parameters of a request. Raises `ApiError` if it is invalid."""
    try:
        query = Query.parse(values.get("query", ""))
    except ValueError as error:
        raise ApiError(400, f"query: {error}") from None
    if len(query.terms) > MAX_TERMS:
        raise ApiError(400, f"query: must have at most {MAX_TERMS} parts, got {len(query.terms)}")
    return query


def describe(context: Context, entry: Entry) -> dict[str, object]:
    """Return the JSON of a message in a list."""
    return json_fields(entry) | {"read": entry.id in context.read}


async def describe_message(context: Context, stored: Stored) -> dict[str, object]:
    """Return the JSON of a message with its content."""
    parsed = await parse(stored)
    return describe(context, stored) | {
        "header": parsed.header,
        "text": parsed.text,
        "html": parsed.html,
        "parts": [{name: getattr(part, name) for name in PART_FIELDS} for part in parsed.parts],
        "truncated": parsed.truncated,
    }


async def stored_of(context: Context, request: Request) -> Stored:
    """Return the message that a request names. Raises `MessageNotFoundError`."""
    name = arguments(request)["id"]
    if "\0" in name:  # some stores cannot compare it
        raise MessageNotFoundError
    return await context.store.get(name)


async def list_messages(context: Context, request: Request) -> Response:
    """Return the messages that fulfil a query, the newest first."""
    values = arguments(request)
    query, limit, before_id = query_of(values), values["limit"], values.get("before_id")
    try:
        async with aclosing(context.store.search(query, after=before_id, limit=limit + 1)) as entries:
            found = [entry async for entry in entries]
    except MessageNotFoundError:
        raise ApiError(404, "before_id: the store has no message with this id") from None
    page = found[:limit]
    return Json(
        {
            "messages": [describe(context, entry) for entry in page],
            "next": page[-1].id if len(found) > limit else None,
            "indexed": await indexed(context.store) if query.terms else None,
        }
    )


async def get_message(context: Context, request: Request) -> Response:
    """Return a message with its content."""
    return Json(await describe_message(context, await stored_of(context, request)))


async def get_raw(context: Context, request: Request) -> Response:
    """Return the octets of a message."""
    stored = await stored_of(context, request)
    return Octets(stored.message, "message/rfc822", safe_filename(stored.id, "message") + ".eml")


async def get_part(context: Context, request: Request) -> Response:
    """Return the octets of a part of a message."""
    number = arguments(request)["number"]
    found = await read_part(await stored_of(context, request), number)
    if found is None:
        raise ApiError(404, f"number: the message has no part {number}")
    part, octets = found
    return Octets(octets, part.type, part.safe_filename)


async def mark_message(context: Context, request: Request) -> Response:
    """Mark a message as read or unread."""
    body = await json_body(request)
    if not isinstance(body, dict) or set(body) != {"read"} or not isinstance(body["read"], bool):
        raise ApiError(400, 'read: the body must be {"read": true} or {"read": false}')
    stored = await stored_of(context, request)
    context.read.mark([stored.id], read=body["read"])
    return Json({"read": body["read"]})


async def delete_message(context: Context, request: Request) -> Response:
    """Remove a message."""
    stored = await stored_of(context, request)
    if not await context.store.remove([stored.id]):
        raise MessageNotFoundError
    return Response(status_code=204)


async def delete_messages(context: Context, request: Request) -> Response:
    """Remove the messages that fulfil a query, or all."""
    values = arguments(request)
    query = query_of(values)
    if bool(query.terms) == values["all"]:
        raise ApiError(400, "query, all: give either a query that is not empty, or all=true")
    async with aclosing(context.store.search(query)) as entries:
        ids = [entry.id async for entry in entries]
    return Json({"removed": await remove_all(context, ids)})


async def remove_all(context: Context, ids: Sequence[str]) -> int:
    """Remove messages, a few at a time, and return how many of them the store had."""
    batches = (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
    return sum([await context.store.remove(batch) for batch in batches])


OPERATIONS = (
    Operation(
        id="listMessages",
        method="GET",
        path="/api/messages",
        handler=list_messages,
        summary="List and search messages, the newest first",
        description=(
            "``next`` is null on the last page. Otherwise it is the ``before_id`` of the next one. A search is complete in "
            "any case; while ``indexed`` is less than 1, it can take long. Without a query ``indexed`` is null."
        ),
        parameters=(
            QUERY,
            Parameter(
                name="limit",
                description="The maximum number of messages",
                schema={"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": PAGE_SIZE},
            ),
            Parameter(
                name="before_id",
                description="List messages that are older than the one with this id",
                schema=MESSAGE_ID,
            ),
        ),
        responses={
            200: (
                "The messages",
                record(
                    {
                        "messages": array(ref("Entry")),
                        "next": described(optional({"type": "string"}), "The ``before_id`` of the next page"),
                        "indexed": INDEXED,
                    }
                ),
            ),
            404: ("The store has no message with the id ``before_id``", ref("Error")),
        },
    ),
    Operation(
        id="getMessage",
        method="GET",
        path="/api/messages/{id}",
        handler=get_message,
        summary="Return a message with its content",
        description="The message is not marked as read.",
        parameters=(ID,),
        responses={200: ("The message", ref("Message")), 404: NOT_FOUND},
    ),
    Operation(
        id="getRawMessage",
        method="GET",
        path="/api/messages/{id}/raw",
        handler=get_raw,
        summary="Return the octets of a message, unchanged",
        parameters=(ID,),
        responses={200: ("The message", "message/rfc822"), 404: NOT_FOUND},
    ),
    Operation(
        id="getPart",
        method="GET",
        path="/api/messages/{id}/parts/{number}",
        handler=get_part,
        summary="Return the octets of a part, without its transfer encoding",
        parameters=(
            ID,
            Parameter(
                name="number",
                place="path",
                description="The number of the part",
                schema={"type": "integer", "minimum": 1, "maximum": MAX_PARTS},
                required=True,
            ),
        ),
        responses={
            200: ("The part, with its content type", "*/*"),
            404: ("The store has no such message, or the message has no such part", ref("Error")),
        },
    ),
    Operation(
        id="markMessage",
        method="PUT",
        path="/api/messages/{id}/read",
        handler=mark_message,
        summary="Mark a message as read or unread",
        description="Marks are kept until the process ends.",
        parameters=(ID,),
        body=record({"read": {"type": "boolean"}}),
        responses={200: ("The mark", record({"read": {"type": "boolean"}})), 404: NOT_FOUND},
    ),
    Operation(
        id="deleteMessage",
        method="DELETE",
        path="/api/messages/{id}",
        handler=delete_message,
        summary="Delete a message",
        parameters=(ID,),
        responses={204: ("It is deleted", None), 404: NOT_FOUND},
    ),
    Operation(
        id="deleteMessages",
        method="DELETE",
        path="/api/messages",
        handler=delete_messages,
        summary="Delete the messages that fulfil a query, or all",
        description="Messages that arrive meanwhile may be deleted or not.",
        parameters=(
            QUERY,
            Parameter(
                name="all",
                description="Delete all messages; cannot be combined with a query",
                schema={"type": "boolean", "default": False},
            ),
        ),
        responses={200: ("How many were deleted", record({"removed": {"type": "integer", "minimum": 0}}))},
    ),
)
