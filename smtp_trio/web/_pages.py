"""The page: the list of messages, one message, and the routes of the other views."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from .._server.threads import run_in_thread
from ..stores import MessageNotFoundError, NotSupportedError, Stored, StoreError
from ..testing._faults.grammar import GRAMMAR, RULE_MODIFIERS, SCOPE_MODIFIERS
from ._api import query_of
from ._context import Context
from ._html import content_policy, has_remote_images, is_cut, sanitised
from ._measuring import indexed
from ._message import ParsedMessage, parse
from ._operation import ApiError, PathRoute
from ._plot import Plot
from ._recorder import RecordedSession
from ._statistics_api import describe
from ._templates import environment, render

#: The number of messages on one page of the list.
PAGE_SIZE = 50
#: The number up to which the results of a search are counted.
MAX_COUNT = 1000
#: The seconds after which a search ends, and the page has the messages that it has found; and those after which a search is slow,
#: so that the page mentions the search index if it is not complete.
SEARCH_TIME, SLOW = 5.0, 0.5
#: The maximum number of parts and of recipients that are listed for a message.
MAX_SHOWN = 200
#: The maximum number of sessions in the status view.
MAX_SESSIONS = 30
#: The maximum number of characters of the text, and of octets of the source, on the page. The rest can be downloaded.
MAX_TEXT, MAX_SOURCE = 256 << 10, 256 << 10
#: The rules that the page offers as buttons.
PRESETS = (
    "answer RCPT 450 once",
    "answer RCPT 550 always",
    "answer DOT 554 once",
    "delay DATA 5s always",
    "hang at DOT once",
    "close at body after 4k octets once",
    "omit STARTTLS",
    "throttle 300",
    "greylist 1m",
    "message-rate 10 per 1m",
)
TABS = {"html": "HTML", "text": "Text", "headers": "Headers", "parts": "Parts", "raw": "Source"}


class Static(StaticFiles):
    """Static files, which browsers cache and revalidate before each use."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


Handler = Callable[[Context, Request], Awaitable[Response]]


def page(template: str, request: Request, status: int = 200, **values: Any) -> Response:
    """Return the response with a rendered template."""
    return HTMLResponse(render(template, root=request.scope.get("root_path", ""), **values), status)


async def answer(handler: Handler, context: Context, request: Request) -> Response:
    """Return the response of a view, or an error page."""
    if request.method not in ("GET", "HEAD"):
        return Response("This path allows only GET and HEAD", 405, {"Allow": "GET, HEAD"}, "text/plain")
    try:
        return await handler(context, request)
    except MessageNotFoundError:
        return page("error.html", request, 404, text="The store does not have this message. It may have been deleted.")
    except NotSupportedError as error:
        return page("error.html", request, 501, text=str(error))
    except StoreError as error:
        return page("error.html", request, 503, text=str(error))


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request for a path that no route has (the ASGI callable)."""
    response = page("error.html", Request(scope), 404, text="There is no view at this address.")
    await response(scope, receive, send)


async def show_inbox(context: Context, request: Request) -> Response:
    """Show the list of messages without a selected message."""
    listing = await list_messages(context, request)
    return page("inbox.html", request, listing=listing, message=None, selected=request.query_params.get("selected", ""))


async def show_message(context: Context, request: Request) -> Response:
    """Show a message beside the list, and mark it as read."""
    stored = await context.store.get(request.path_params["id"])
    context.read.mark([stored.id])
    parsed = await parse(stored)
    tabs = {key: name for key, name in TABS.items() if key != "html" or parsed.html}
    view = request.query_params.get("view", "")
    view = view if view in tabs else next(iter(tabs))
    return page(
        "inbox.html",
        request,
        listing=await list_messages(context, request),
        message=message_values(context, stored, parsed),
        selected=stored.id,
        tabs=tabs,
        view=view,
        remote="remote" in request.query_params,
        source=stored.message[:MAX_SOURCE].decode("utf-8", "replace") if view == "raw" else "",
        source_truncated=len(stored.message) > MAX_SOURCE,
    )


async def list_messages(context: Context, request: Request) -> dict[str, Any]:
    """Return the values of the list: the newest messages that match a query."""
    text = request.query_params.get("q", "").strip()
    start = int(number) if (number := request.query_params.get("start", "")).isdecimal() and len(number) < 9 else 0
    error, entries, total, share = "", [], 0, None
    complete, began = False, trio.current_time()
    try:
        query = query_of({"query": text})
        with trio.move_on_after(SEARCH_TIME):
            async with aclosing(context.store.search(query, offset=start, limit=PAGE_SIZE + 1)) as found:
                async for entry in found:
                    entries.append(entry)
                    total = start + len(entries)
            if len(entries) > PAGE_SIZE:
                total = await context.store.count(query, limit=MAX_COUNT)
            complete = True
        if trio.current_time() - began > SLOW:
            share = await indexed(context.store)
    except ApiError as problem:
        error = problem.message.removeprefix("query: ")
    return {
        "query": text,
        "entries": entries[:PAGE_SIZE],
        "total": total,
        "is_more": total == MAX_COUNT or not (complete or error),
        "seconds": None if complete or error else SEARCH_TIME,
        "indexed": None if share is None or share == 1 else share,
        "older": start + PAGE_SIZE if len(entries) > PAGE_SIZE else None,
        "newer": max(0, start - PAGE_SIZE) if start else None,
        "unread": {entry.id for entry in entries[:PAGE_SIZE] if entry.id not in context.read},
        "error": error,
    }


def message_values(context: Context, stored: Stored, parsed: ParsedMessage) -> dict[str, Any]:
    """Return the values of a message for the template."""
    session = context.recorder.session_of(stored.id) if context.recorder is not None else None
    return {
        "stored": stored,
        "parsed": parsed,
        "subject": stored.subject or parsed.get("Subject"),
        "attachments": [part for part in parsed.parts if part.role in ("attachment", "inline")],
        "text": parsed.text[:MAX_TEXT],
        "text_truncated": len(parsed.text) > MAX_TEXT or "text" in parsed.truncated,
        "has_remote_images": has_remote_images(parsed.html),
        "html_truncated": is_cut(parsed.html) or "html" in parsed.truncated,
        "session": session,
        "max_shown": MAX_SHOWN,
    }


async def show_status(context: Context, request: Request) -> Response:
    """Show the state of the server and its last hour."""
    statistics = await describe(context)
    history = statistics["history"]
    return page(
        "status.html",
        request,
        statistics=statistics,
        messages=Plot.of(history, [{"messages": minute["messages"]} for minute in history]),
        refusals=Plot.of(history, [minute["refusals"] for minute in history]),
        sessions=None if context.recorder is None else recent(context.recorder.sessions()),
    )


def recent(sessions: Sequence[RecordedSession]) -> list[RecordedSession]:
    """Return the open sessions, followed by the newest others."""
    return sorted(sessions, key=lambda session: session.seconds is not None)[:MAX_SESSIONS]


async def show_session(context: Context, request: Request) -> Response:
    """Show the transcript of a session."""
    session = context.recorder.session(request.path_params["id"]) if context.recorder is not None else None
    if session is None:
        return page("error.html", request, 404, text="This session is not among those that are kept.")
    return page("session.html", request, session=session)


async def show_faults(context: Context, request: Request) -> Response:
    """Show the fault rules."""
    faults = None if context.faults is None else list(islice(context.faults, MAX_SHOWN))
    kinds = [(row.usage, row.description) for row in GRAMMAR if row.in_server]
    modifiers = [row for row in (*RULE_MODIFIERS, *SCOPE_MODIFIERS) if row[0] != "by client"]
    return page("faults.html", request, faults=faults, presets=PRESETS, kinds=[*kinds, *modifiers])


async def show_html(context: Context, request: Request) -> Response:
    """Return the sanitised HTML of a message, which the page shows in a frame."""
    stored = await context.store.get(request.path_params["id"])
    parsed = await parse(stored)
    remote = "remote" in request.query_params
    safe = await run_in_thread(partial(sanitised, parsed.html, parsed.parts, remote=remote))
    headers = {
        "Content-Security-Policy": content_policy(remote=remote),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "SAMEORIGIN",
    }
    return HTMLResponse(safe, headers=headers)


def routes(context: Context) -> list[BaseRoute]:
    """Return the routes of the page."""
    environment()
    handlers: dict[str, Handler] = {
        "/": show_inbox,
        "/messages/{id}": show_message,
        "/messages/{id}/html": show_html,
        "/status": show_status,
        "/sessions/{id}": show_session,
        "/faults": show_faults,
    }
    return [
        *(PathRoute(path, partial(answer, handler, context)) for path, handler in handlers.items()),
        Mount("/static", Static(directory=Path(__file__).parent / "static")),
    ]
