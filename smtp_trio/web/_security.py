"""`Guard`: the checks that each request passes before a handler is called. Handlers have no access checks of their own.

`Access` describes the access control, and `_login.py` checks credentials. `_http.py` has the limits for slow clients.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import trio
from attrs import define, field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from .._groups import collapse_group
from .._server import log_events
from .._server.fair_threads import Turns, turn_of
from .._server.listeners import format_address
from .._server.log_events import ClientText, cut
from ._login import Login, peer_of
from ._operation import ApiError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..credentials import UsersFile

# The listener usually runs on the user's own machine, without a token. A web site that the user visits can then send requests
# to it through the browser. The headers that browsers set are the only protection from that:
#
# - DNS rebinding: a site points its own name at 127.0.0.1, so that the browser treats this server as a part of the site. The
#   Host header then has the site's name (RFC 9110 7.2). So only `localhost`, IP addresses and configured names are
#   accepted; a site cannot have an IP address as its name.
# - CSRF: a site cannot read the responses, since none of them allows it (CORS), but it can send whatever a form can send. So
#   a request that changes something needs a method other than POST, a content type that forms do not have, or a custom
#   header. A password does not replace this, because browsers add a known one to the requests of other sites. In
#   addition, requests that the browser marks as made by another site are refused (Fetch metadata, Origin).
# - Other sites may link to a page, but not embed it or load parts of it.
#
# Cookies are not used. HTTP Basic is the only kind of credentials that a browser sends by itself.

#: The policy of pages: everything comes from this server, nothing is inline, and no other site can frame it.
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: The default headers of responses.
HEADERS: Final = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # A browser that resolves the hosts of links in advance would reveal to the sender that a message was read.
    "x-dns-prefetch-control": "off",
    "cache-control": "no-store",
}
#: The maximum number of octets of a path with its query, and of a request body.
MAX_URL, MAX_BODY = 8 * 1024, 8 * 1024 * 1024
#: The maximum number of digits of a Content-Length. Python raises ValueError for numbers with thousands of digits.
MAX_DIGITS = 18
#: The time limit for receiving a body, in seconds.
BODY_TIMEOUT = 30.0
#: The maximum number of requests that are handled at the same time. Others wait, so that SMTP sessions get their share of the
#: processor and few messages are in memory. The clients take turns, and a request whose client disconnects stops waiting.
#: Requests that mostly wait are not counted.
MAX_WORKING = 4
#: The maximum number of bodies larger than SMALL_BODY octets that are received at the same time, since each is in memory.
MAX_BODIES, SMALL_BODY = 16, 64 * 1024
#: The seconds after which a GET request is cancelled when its client has left, so that a search does not go on. A client that
#: has only ended its input looks the same, and gets a response within this time. Other requests are completed.
LEAVING_TIME = 1.0
WAITING_PATHS = frozenset({"/api/events", "/api/wait"})
#: Health checks for supervisors. They need no credentials and never wait for other requests; their responses contain no mail.
HEALTH_PATHS = frozenset({"/livez", "/readyz"})
SAFE_METHODS = frozenset({"GET", "HEAD"})
#: The destinations (Fetch metadata) of requests that a document of this server may make, besides those for static files.
#: Images are those of messages. Other content of a message is never loaded as a script or style sheet, and cannot occupy the
#: connections of a browser.
DESTINATIONS = frozenset({None, "", "document", "empty", "iframe"})
IMAGES, STATIC = "/api/v1/message/", "/static/"
#: The content types that a form of another site can POST; "" is a body without a type (the Fetch standard, section 2.2.2).
FORM_TYPES = frozenset({"", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
#: A header that forms cannot send. Its value does not matter.
CUSTOM_HEADER = "x-requested-with"
#: A host name or an IP address, with or without a port (RFC 9110 7.2).
HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{0,5}))?")


def is_address(host: str) -> bool:
    """Return whether a host is an IPv4 address, or an IPv6 address in brackets."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_exposed(listener: trio.SocketListener) -> bool:
    """Return whether other hosts can reach a listener."""
    host: str = listener.socket.getsockname()[0]
    return not ipaddress.ip_address(host.partition("%")[0]).is_loopback


def check_names(names: Iterable[str], parameter: str) -> None:
    """Raise ValueError for a name that cannot be in a Host header. ``parameter`` is what the error calls them."""
    for name in names:
        if not HOST.fullmatch(name):
            raise ValueError(f"{parameter}: invalid host name: {name!a}")


@define(eq=False)
class Access:
    """The credentials that requests need, and the host names that they may use."""

    #: The accepted credentials; None if none are required.
    login: Login | None = None
    #: The accepted host names besides `localhost` and IP addresses, in lower case, with or without a port.
    names: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, token: str | None, users: UsersFile | None, names: Iterable[str]) -> Access:
        """Return the access that the parameters of `app` describe. Raises ValueError if one is invalid."""
        names = frozenset(name.lower() for name in names)
        check_names(names, "names")
        return cls(None if token is None and users is None else Login(token, users), names)

    def check_exposure(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Raise ValueError if other hosts can reach a listener and no credentials are required."""
        for each in listeners:
            if self.login is None and is_exposed(each):
                raise ValueError(
                    f"{format_address(each.socket)} is not a loopback address: a token or a file of users is required"
                )

    def check_host(self, host: str) -> None:
        """Raise `ApiError` if a Host header has a name that is not accepted."""
        match = HOST.fullmatch(host)
        if match is None:
            raise ApiError(400, "invalid Host header")
        name = match[1].lower().removesuffix(".")
        if name == "localhost" or name.endswith(".localhost") or is_address(name):
            return
        if name not in self.names and host.lower() not in self.names:
            raise ApiError(403, f"{cut(name, 100)} is not a name of this server: add it with --http-name or names=")


def check_site(scope: Scope, headers: Headers) -> None:
    """Raise `ApiError` for a request that another site may have made through the browser of a user."""
    method: str = scope["method"]
    # Browsers set these two headers, and scripts cannot (the Fetch standard, and W3C Fetch Metadata).
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site in ("cross-site", "same-site"):
        linked = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if not linked or headers.get("sec-fetch-dest") not in ("document", None):
            raise ApiError(403, "requests of other sites are refused")
    elif site is None and origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise ApiError(403, "requests of other sites are refused")
    destination = headers.get("sec-fetch-dest")
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if destination not in DESTINATIONS and not path.startswith((STATIC, IMAGES) if destination == "image" else STATIC):
        raise ApiError(403, "this path cannot be loaded as a part of a document")
    if method == "POST":
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        bearer = headers.get("authorization", "")[:7].lower() == "bearer "
        if kind in FORM_TYPES and CUSTOM_HEADER not in headers and not bearer:
            raise ApiError(
                415 if kind else 403,
                "a form could send this request from another site: send Content-Type: application/json, or a header "
                "X-Requested-With with any value",
            )


@define(eq=False)
class Guard:
    """An ASGI middleware that refuses requests which are not allowed."""

    _app: ASGIApp
    access: Access
    _working: Turns = field(factory=lambda: Turns(MAX_WORKING), init=False)
    _receiving: trio.Semaphore = field(factory=lambda: trio.Semaphore(MAX_BODIES), init=False)

    def check_exposure(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Raise ValueError if other hosts can reach a listener and no credentials are required."""
        self.access.check_exposure(listeners)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http":
            await Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)


@define(eq=False)
class Exchange:
    """One request and its response."""

    _guard: Guard
    _scope: Scope
    _receive: Receive
    _send: Send
    _started: bool = field(default=False, init=False)
    _works: bool = field(default=False, init=False)
    _works_after_body: bool = field(default=False, init=False)
    _receives: bool = field(default=False, init=False)
    _body_octets: int = field(default=0, init=False)
    _body_deadline: float | None = field(default=None, init=False)
    _body_ended: bool = field(default=False, init=False)
    #: The message that says that a request has no body, if it was received while the request waited for its turn.
    _end_of_body: Message | None = field(default=None, init=False)
    #: Set when the client has left; None while no task waits for that.
    _left: trio.Event | None = field(default=None, init=False)

    async def run(self) -> None:
        """Check the request and call the application; send an error response if it is not allowed or an exception occurs."""
        response: Response | None = None
        try:
            await self._check()
            await self._pass_on()
        except ApiError as error:
            response = error.response()
        except HTTPException as error:
            response = JSONResponse({"error": error.detail}, error.status_code, error.headers)
        except ClientDisconnect:
            # Most clients that have left do not receive it. One whose body is malformed does.
            response = JSONResponse({"error": "the request is incomplete, or its body is malformed"}, 400)
        except Exception as error:
            if self._started:
                raise  # the response is incomplete, so the HTTP server has to close the connection
            request = f"{self._scope['method']} {self._scope['path']}"
            log_events.HTTP_FAILED.log(request=ClientText(request), error=repr(error), exc_info=error)
            response = JSONResponse({"error": "internal error; the log has the reason"}, 500)
        finally:
            self._stop_working()
            if self._receives:
                self._guard._receiving.release()
        if response is not None and not self._started:
            await response(self._scope, self._receive, self._add_headers)

    @property
    def _path(self) -> str:
        """The path as it was sent, with percent-encoded characters."""
        return (self._scope.get("raw_path") or quote(self._scope["path"]).encode()).decode("latin-1")

    async def _check(self) -> None:
        scope = self._scope
        headers = Headers(scope=scope)
        path = self._path
        if len(path) + len(scope["query_string"]) > MAX_URL:
            raise ApiError(414, f"the URL is longer than {MAX_URL} octets")
        if not path.startswith("/"):
            raise ApiError(400, "the path must begin with a slash")
        if (host := headers.get("host")) is not None:  # optional in HTTP/1.0, which some supervisors use
            self._guard.access.check_host(host)
        if path in HEALTH_PATHS:
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > MAX_DIGITS or int(length) > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY} octets")
        check_site(scope, headers)
        if (login := self._guard.access.login) is not None:
            await login.check(headers.get("authorization", ""), scope.get("client"))

    async def _pass_on(self) -> None:
        path = "/" + self._path.lstrip("/")  # the routes treat both in the same way
        if path not in HEALTH_PATHS and path not in WAITING_PATHS:
            await self._work()
        if path in HEALTH_PATHS or self._has_body or self._scope["method"] not in SAFE_METHODS:
            await self._guard._app(self._scope, self._receive_body, self._add_headers)
        else:
            await self._pass_on_for_client()

    async def _pass_on_for_client(self) -> None:
        """Call the application, and cancel it if the client leaves. Raises ClientDisconnect then."""
        self._left = trio.Event()
        completed = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_left, self._left, nursery.cancel_scope)
                await self._guard._app(self._scope, self._receive_body, self._add_headers)
                completed = True
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise collapse_group(group) from None
        if not completed:
            raise ClientDisconnect

    async def _cancel_when_left(self, left: trio.Event, scope: trio.CancelScope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        left.set()
        await trio.sleep(LEAVING_TIME)
        scope.cancel()

    @property
    def _has_body(self) -> bool:
        headers = Headers(scope=self._scope)
        return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

    async def _work(self) -> None:
        if not self._guard._working.take():
            await self._wait_for_turn()
        self._works = True

    async def _wait_for_turn(self) -> None:
        """Wait for the turn of the client among the requests that are worked on. Raises ClientDisconnect if it leaves."""
        # A client that has ended its input is taken for one that has left: the two look the same. While a body is still to be
        # read, its end cannot be seen. The handler notices then that the client has left, when it reads the body.
        try:
            async with trio.open_nursery() as nursery:
                if self._body_ended or not self._has_body:
                    nursery.start_soon(self._cancel_without_client, nursery.cancel_scope)
                await self._guard._working.wait(turn_of(peer_of(self._scope.get("client"))))
                self._works = True
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise collapse_group(group) from None
        if not self._works:
            raise ClientDisconnect

    async def _cancel_without_client(self, scope: trio.CancelScope) -> None:
        """Cancel a scope when the client has left. The end of the body, which comes before that, is kept for the handler."""
        while (message := await self._receive())["type"] != "http.disconnect":
            self._end_of_body = message
        scope.cancel()

    def _stop_working(self) -> None:
        if self._works:
            self._works = False
            self._guard._working.release()

    async def _receive_body(self) -> Message:
        """Return the next part of the body, within the limits of size and time (the ASGI callable)."""
        message: Message | None
        if self._end_of_body is not None:
            message, self._end_of_body, self._body_ended = self._end_of_body, None, True
            return message
        if self._left is not None and not self._body_ended:
            self._body_ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._left is not None:
            await self._left.wait()
            return {"type": "http.disconnect"}
        if self._body_ended:
            return await self._receive()
        if self._body_deadline is None:
            self._body_deadline = trio.current_time() + BODY_TIMEOUT
            # A client that sends its body slowly must not block others.
            self._works_after_body = self._works
            self._stop_working()
        message = None
        with trio.CancelScope(deadline=self._body_deadline):
            if self._body_octets > SMALL_BODY and not self._receives:
                await self._guard._receiving.acquire()
                self._receives = True
            message = await self._receive()
        if message is None:
            raise ApiError(408, f"the body was not sent within {BODY_TIMEOUT:.0f} seconds")
        self._body_octets += len(message.get("body", b""))
        if self._body_octets > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY} octets")
        self._body_ended = not message.get("more_body", False)
        if self._body_ended and self._works_after_body:
            await self._work()
        return message

    async def _add_headers(self, message: Message) -> None:
        """Send a part of the response, with the default headers (the ASGI callable)."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        else:
            self._started = True
            self._stop_working()  # from here on it waits for the client
        await self._send(message)
