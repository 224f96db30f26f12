"""One message in Mailpit's API v1: parsed, its header, its octets, its parts, and its text or HTML alone."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from ._api import Octets, stored_of
from ._mailpit_json import header, whole
from ._mailpit_query import MailboxQuery
from ._mailpit_schemas import ID, LATEST_OF, NOT_FOUND, PART, ZONE, mailpit_operation
from ._message import ParsedMessage, parse, read_message, read_part, safe_filename
from ._operation import ApiError, Json, arguments
from ._schemas import STRING, array, ref

if TYPE_CHECKING:
    from ..stores import Stored
    from ._context import Context

LATEST = "latest"
NUMBER = re.compile("[0-9]{1,6}")
CID = re.compile(r"""(?i)(=\s*["']?|url\(\s*["']?)cid:([^"'\s<>)]+)""")
# Tests compare the HTML with what was sent, so it is not sanitised. The policy prevents scripts, forms, and all requests except
# for images of this server. No policy prevents a browser from connecting to the server of a ``<link>``, so these elements
# are renamed. The document has the origin of this server, because otherwise its images would be requests of another site;
# without scripts it cannot make use of that.
LINK = re.compile(r"<link\b", re.IGNORECASE)
VIEW_POLICY = (
    "sandbox allow-same-origin; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


async def find(context: Context, request: Request) -> Stored:
    """Return the message that a path names. Raises `ApiError` or `MessageNotFoundError` if it does not exist."""
    values = arguments(request)
    if values["id"] != LATEST:
        return await stored_of(context, request)
    query = MailboxQuery.parse(values.get("query", ""), values.get("tz", ""))
    async with aclosing(query.search(context)) as entries:
        async for entry in entries:
            stored: Stored = await context.store.get(entry.id)
            return stored
    raise ApiError(404, "no message fulfils the query")


async def get_message(context: Context, request: Request) -> Response:
    """Return a message, and mark it as read."""
    stored = await find(context, request)
    context.read.mark([stored.id])
    return await read_message(stored, lambda: Json(whole(stored, ParsedMessage.of(stored))))


async def get_header(context: Context, request: Request) -> Response:
    """Return the header of a message."""
    return Json(header((await find(context, request)).message))


async def get_raw(context: Context, request: Request) -> Response:
    """Return the octets of a message."""
    stored = await find(context, request)
    return Octets(stored.message, "text/plain; charset=utf-8", safe_filename(stored.id, "message") + ".eml")


async def get_part(context: Context, request: Request) -> Response:
    """Return the octets of a part."""
    number = arguments(request)["part"]
    stored = await find(context, request)
    found = await read_part(stored, int(number)) if NUMBER.fullmatch(number) else None
    if found is None:
        raise ApiError(404, "the message has no such part")
    part, octets = found
    return Octets(octets, part.type, part.safe_filename)


def linked(stored: Stored, parsed: ParsedMessage) -> str:
    """Return the HTML of a message with ``cid:`` URLs (RFC 2392) replaced by the URLs of the parts."""
    numbers = {part.content_id: part.number for part in parsed.parts if part.content_id}

    def link(found: re.Match[str]) -> str:
        number = numbers.get(unquote(found[2]))
        return found[0] if number is None else f"{found[1]}/api/v1/message/{quote(stored.id, safe='')}/part/{number}"

    return LINK.sub("<x-link", CID.sub(link, parsed.html))


async def view_html(context: Context, request: Request) -> Response:
    """Return the HTML of a message, and mark it as read."""
    stored = await find(context, request)
    html = await read_message(stored, lambda: linked(stored, ParsedMessage.of(stored)))
    if not html:
        raise ApiError(404, "the message has no HTML")
    context.read.mark([stored.id])
    return HTMLResponse(html.encode("utf-8", "replace"), headers={"Content-Security-Policy": VIEW_POLICY})


async def view_text(context: Context, request: Request) -> Response:
    """Return the text of a message, and mark it as read."""
    stored = await find(context, request)
    parsed = await parse(stored)
    context.read.mark([stored.id])
    return PlainTextResponse(parsed.text.encode("utf-8", "replace"))


async def view(context: Context, request: Request) -> Response:
    """Redirect to the page of a message."""
    stored = await find(context, request)
    return RedirectResponse(f"/messages/{quote(stored.id, safe='')}", status_code=302)


PATH = "/api/v1/message/{id}"
PARAMETERS = (ID, LATEST_OF, ZONE)
OPERATIONS = (
    mailpit_operation(
        id="mailpitGetMessage",
        method="GET",
        path=PATH,
        handler=get_message,
        summary="Mailpit: return a message, and mark it as read",
        parameters=PARAMETERS,
        responses={200: ("The message", ref("MailpitMessage")), **NOT_FOUND},
    ),
    mailpit_operation(
        id="mailpitGetHeaders",
        method="GET",
        path=f"{PATH}/headers",
        handler=get_header,
        summary="Mailpit: return the header of a message",
        parameters=PARAMETERS,
        responses={
            200: ("The values of each field", {"type": "object", "additionalProperties": array(STRING)}),
            **NOT_FOUND,
        },
    ),
    mailpit_operation(
        id="mailpitGetRaw",
        method="GET",
        path=f"{PATH}/raw",
        handler=get_raw,
        summary="Mailpit: return the octets of a message",
        parameters=PARAMETERS,
        responses={200: ("The message", "text/plain"), **NOT_FOUND},
    ),
    mailpit_operation(
        id="mailpitGetPart",
        method="GET",
        path=f"{PATH}/part/{{part}}",
        handler=get_part,
        summary="Mailpit: return the octets of a part, without its transfer encoding",
        parameters=(ID, PART, LATEST_OF, ZONE),
        responses={200: ("The part, with its content type", "*/*"), **NOT_FOUND},
    ),
    mailpit_operation(
        id="mailpitViewHtml",
        method="GET",
        path="/view/{id}.html",
        handler=view_html,
        summary="Mailpit: return the HTML of a message, and mark it as read",
        parameters=PARAMETERS,
        responses={200: ("The HTML", "text/html"), **NOT_FOUND},
    ),
    mailpit_operation(
        id="mailpitViewText",
        method="GET",
        path="/view/{id}.txt",
        handler=view_text,
        summary="Mailpit: return the text of a message, and mark it as read",
        parameters=PARAMETERS,
        responses={200: ("The text", "text/plain"), **NOT_FOUND},
    ),
    mailpit_operation(
        id="mailpitView",
        method="GET",
        path="/view/{id}",
        handler=view,
        summary="Mailpit: redirect to the page of a message",
        parameters=PARAMETERS,
        responses={302: ("The page", None), **NOT_FOUND},
    ),
)
