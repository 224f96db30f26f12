"""The messages in the JSON API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ._context import Context
from ._operation import Operation

#: The number of messages that a list has at most, unless a request asks for another one.
PAGE_SIZE = 50


async def list_messages(context: Context, request: Request) -> Response:
    """Return the newest messages."""
    found = []
    async for entry in context.store.entries(reverse=True):
        found.append({"id": entry.id, "sender": entry.sender, "recipients": list(entry.recipients)})
        if len(found) == PAGE_SIZE:
            break
    return JSONResponse({"messages": found})


OPERATIONS = (
    Operation(
        id="listMessages",
        method="GET",
        path="/api/messages",
        handler=list_messages,
        summary="List messages, the newest first",
        responses={200: ("The messages", {"type": "object"})},
    ),
)
