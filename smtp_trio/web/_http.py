"""An ASGI server for HTTP/1.1 under Trio, with limits for slow and for many clients. h11 parses and writes the messages.

`serve_http` accepts connections and gives each a `Connection`, which passes its requests to the application one by one.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote

import h11
import trio
from attrs import define, field

from .._server import log_events
from .._server.listeners import accept_all, accept_sockets
from .._server.peers import endpoints, network, tcp_peer
from .._wire import AcceptedSocket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.types import ASGIApp, Message

    from .._types import Peer

# General ASGI servers rely on a proxy for protection from slow clients. Under Trio, Hypercorn 0.18 does not limit the number of
# connections, the time for receiving a request body, or the time in which a client reads a response. It sends responses
# shielded from cancellation, so one client that does not read can block the shutdown for ever, and it lets clients switch
# to HTTP/2 and WebSocket. The listener of a mail server needs limits for all of these. The remaining code is small, since
# h11 implements the protocol: it checks the framing of messages, the size of headers, and that the responses of the
# application are valid.
#
# Each wait for a client has a deadline:
#
# - IDLE_TIMEOUT for the first octet of a request, and HEAD_TIMEOUT from there for its whole head;
# - the body is read when the application asks for it, which has its own deadline (`_security.py`);
# - SEND_TIMEOUT for each PIECE of a response;
# - LINGER_TIMEOUT for the rest of a request after an error.
#
# At most MAX_CONNECTIONS are open at a time, and MAX_PER_PEER of one client. A new connection beyond that replaces the one that
# has waited longest for a request, so that unused connections do not keep other clients out.

IDLE_TIMEOUT, HEAD_TIMEOUT, SEND_TIMEOUT, LINGER_TIMEOUT = 15.0, 10.0, 10.0, 2.0
#: The maximum number of octets of the first line and the header of a request.
MAX_HEAD = 16 * 1024
#: A target in absolute form, as clients send it to a proxy. Servers have to accept it too (RFC 9112 3.2.2).
ABSOLUTE = re.compile(rb"http://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)
#: The maximum number of octets of one write or read.
PIECE = 64 * 1024
MAX_CONNECTIONS, MAX_PER_PEER = 512, 64
#: The maximum number of octets of large responses that clients have not read. Further requests get 503.
MAX_WAITING, LARGE = 256 * 1024 * 1024, 1024 * 1024
#: Statuses without a body (RFC 9110 15.3.5, 15.4.5).
BODILESS = (204, 304)
#: The fields that delimit a body. A request must not have both (RFC 9112 6.1).
FRAMINGS = {b"content-length", b"transfer-encoding"}
#: The field of the last response of a connection (RFC 9112 9.6).
CLOSE = (b"connection", b"close")


def max_connections() -> int:
    """Return the lesser of MAX_CONNECTIONS and a quarter of the file descriptors that the process may have."""
    try:
        import resource
    except ImportError:  # on systems other than POSIX
        return MAX_CONNECTIONS
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if limit == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, limit // 4))


def head_octets(request: h11.Request) -> int:
    """Return the number of octets of the first line and the header of a request, as they are usually written."""
    line = len(request.method) + len(request.target) + len("  HTTP/1.1\r\n")
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in request.headers) + len("\r\n")


@define(eq=False)
class Connections:
    """The open connections of a listener."""

    app: ASGIApp
    #: The maximum number of connections.
    limit: int = field(factory=max_connections)
    #: The number of octets of large responses that clients have not read.
    waiting: int = 0
    #: The number of connections.
    count: int = 0
    by_peer: Counter[str] = field(factory=Counter)
    #: The cancel scopes of connections that wait for a request, from the longest wait to the shortest.
    idle: OrderedDict[trio.CancelScope, None] = field(factory=OrderedDict)

    async def handle(
        self, accepted: trio.SocketStream | AcceptedSocket, peer: Peer | None, _: Peer | None = None
    ) -> None:
        """Serve a connection, and close it."""
        client, server = endpoints(accepted, peer)
        stream = accepted.stream if isinstance(accepted, AcceptedSocket) else accepted
        key = network(client.host)  # None for local clients, of which many may come through one proxy
        self.count += 1
        if key is not None:
            self.by_peer[key] += 1
        try:
            if self._has_room(key):
                await Connection(self, stream, (server.host, server.port or 0), (client.host, client.port or 0)).run()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has closed the connection
        except Exception as error:  # it must not end other connections or the mail server
            log_events.HTTP_FAILED.log(request="connection", error=repr(error), exc_info=error)
        finally:
            self.count -= 1
            if key is not None:
                self.by_peer[key] -= 1
                if not self.by_peer[key]:
                    del self.by_peer[key]
            await trio.aclose_forcefully(stream)

    def _has_room(self, key: str | None) -> bool:
        """Return whether a connection that was counted is within the limits, after closing an idle one if necessary."""
        if key is not None and self.by_peer[key] > MAX_PER_PEER:
            return False
        if self.count > self.limit:
            if not self.idle:
                return False
            self.idle.popitem(last=False)[0].cancel()
        return True


@define(eq=False)
class Connection:
    """One connection, whose requests are answered in sequence."""

    _all: Connections
    _stream: trio.SocketStream
    _server: tuple[str, int]
    _client: tuple[str, int]
    _protocol: h11.Connection = field(
        factory=partial(h11.Connection, h11.SERVER, max_incomplete_event_size=MAX_HEAD), init=False
    )
    #: The client has closed the connection or was too slow, so nothing more is sent or received.
    _gone: bool = field(default=False, init=False)
    _method: bytes = field(default=b"", init=False)
    #: The response has no body.
    _bodiless: bool = field(default=False, init=False)
    #: The status and headers from the application, which are sent with the first octets of the body.
    _head: Message | None = field(default=None, init=False)

    async def run(self) -> None:
        """Answer requests until one side ends the connection."""
        while (request := await self._read_head()) is not None:
            await self._answer(request)
            if self._gone or self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
                break
            self._protocol.start_next_cycle()
        await self._linger()

    # --- receiving:

    async def _receive(self) -> None:
        self._protocol.receive_data(await self._stream.receive_some(PIECE))

    async def _read_head(self) -> h11.Request | None:
        """Return the next request, or None if the connection ended, or the request is invalid or too slow."""
        with trio.CancelScope(deadline=trio.current_time() + IDLE_TIMEOUT) as scope:
            self._all.idle[scope] = None
            begun = False
            try:
                while not isinstance(event := self._protocol.next_event(), h11.Request):
                    if event is not h11.NEED_DATA:
                        return None
                    await self._receive()
                    if not begun:
                        begun, scope.deadline = True, trio.current_time() + HEAD_TIMEOUT
                if not event.http_version.startswith(b"1."):
                    status = 505  # for example the preface of HTTP/2 (RFC 9113 3.4)
                elif {name for name, _ in event.headers} >= FRAMINGS:
                    status = 400  # a proxy may delimit the body in another way (RFC 9112 6.1)
                elif head_octets(event) > MAX_HEAD:
                    status = 431  # h11 checks only a head that arrives in several pieces
                else:
                    return event
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
            finally:
                self._all.idle.pop(scope, None)
        if scope.cancelled_caught:
            self._gone = True
        else:
            await self._send_error(status)
        return None

    async def _receive_body(self) -> Message:
        """Return the next part of the request body; after its end, wait until the client disconnects (the ASGI callable)."""
        try:
            while not self._gone and self._protocol.our_state is not h11.DONE:
                if self._protocol.their_state is h11.ERROR:
                    break
                if self._protocol.their_state is not h11.SEND_BODY:
                    await self._wait_until_gone()
                    break
                if self._protocol.they_are_waiting_for_100_continue:
                    await self._write(self._protocol.send(h11.InformationalResponse(status_code=100, headers=[])))
                event = self._protocol.next_event()
                if isinstance(event, h11.Data):
                    return {"type": "http.request", "body": bytes(event.data), "more_body": True}
                if isinstance(event, h11.EndOfMessage):
                    return {"type": "http.request", "body": b"", "more_body": False}
                await self._receive()
        except h11.RemoteProtocolError:
            pass  # a malformed body, whose end is unknown: the response is still sent, and ends the connection
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._gone = True
        return {"type": "http.disconnect"}

    async def _wait_until_gone(self) -> None:
        while len(self._protocol.trailing_data[0]) < PIECE:
            data = await self._stream.receive_some(PIECE)
            if not data:
                return  # it may have ended its input only, and still read the response
            self._protocol.receive_data(data)  # the beginning of the next request
        await trio.sleep_forever()  # pipelined requests are read after this one is answered

    async def _linger(self) -> None:
        """Discard the rest of a request, since closing with unread octets would reset the connection and lose the response."""
        if self._gone or self._protocol.their_state is h11.CLOSED:
            return
        with trio.move_on_after(LINGER_TIMEOUT):
            await self._stream.send_eof()
            while await self._stream.receive_some(PIECE):
                pass

    # --- answering:

    async def _answer(self, request: h11.Request) -> None:
        target, headers = request.target, list(request.headers)
        if absolute := ABSOLUTE.fullmatch(target):  # its host replaces the Host header (RFC 9112 3.2.2)
            host, target = absolute.groups()
            headers = [(b"host", host), *(each for each in headers if each[0] != b"host")]
            target = target if target.startswith(b"/") else b"/" + target
        path, _, query = target.partition(b"?")
        self._method, self._head = request.method, None
        await self._all.app(
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": request.http_version.decode(),
                "method": request.method.decode(),
                "scheme": "http",
                "path": unquote(path.decode("ascii")),
                "raw_path": path,
                "query_string": query,
                "root_path": "",
                "headers": headers,
                "client": self._client,
                "server": self._server,
            },
            self._receive_body,
            self._send,
        )
        if self._protocol.our_state is h11.SEND_RESPONSE and not self._gone:
            raise RuntimeError("the application has not sent a response")

    async def _send(self, message: Message) -> None:
        """Send a part of the response (the ASGI callable). Do nothing after the client has disconnected."""
        if self._gone or self._protocol.our_state not in (h11.SEND_RESPONSE, h11.SEND_BODY):
            await trio.lowlevel.checkpoint()
        elif message["type"] == "http.response.start":
            self._head = message
        else:
            await self._send_body(message.get("body", b""), last=not message.get("more_body", False))

    async def _send_body(self, body: bytes, *, last: bool) -> None:
        """Send a part of the body, preceded by the head if it is the first part."""
        octets = b""
        large = len(body) if len(body) > LARGE else 0
        if self._head is not None:
            head, self._head = self._head, None
            if self._all.waiting and self._all.waiting + large > MAX_WAITING:
                await self._send_error(503)
                return
            octets = self._start(head["status"], head["headers"])
        if self._bodiless:
            body = b""
        self._all.waiting += large
        try:
            view = memoryview(body)
            for at in range(0, len(body), PIECE):
                await self._write(octets + self._protocol.send(h11.Data(data=bytes(view[at : at + PIECE]))))
                octets = b""
                if self._gone:
                    return
        finally:
            self._all.waiting -= large
        if last:
            octets += self._protocol.send(h11.EndOfMessage())
        if octets:
            await self._write(octets)

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the head of a response, and drop received octets of the request that were not read."""
        with suppress(h11.RemoteProtocolError):
            while self._protocol.their_state is h11.SEND_BODY and self._protocol.next_event() is not h11.NEED_DATA:
                pass
        self._bodiless = self._method == b"HEAD" or status in BODILESS
        headers = [*headers, (b"date", formatdate(usegmt=True).encode())]
        if self._protocol.their_state is not h11.DONE and CLOSE not in headers:
            headers.append(CLOSE)
        reason = HTTPStatus(status).phrase.encode()
        return self._protocol.send(h11.Response(status_code=status, headers=headers, reason=reason)) or b""

    async def _send_error(self, status: int) -> None:
        """Send the last response: to a request that is not passed to the application, or whose response is not sent."""
        head = self._start(status, [(b"content-length", b"0"), CLOSE])
        await self._write(head + (self._protocol.send(h11.EndOfMessage()) or b""))

    async def _write(self, octets: bytes) -> None:
        """Send octets, in time."""
        with trio.CancelScope(deadline=trio.current_time() + SEND_TIMEOUT):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(octets)
                return
        self._gone = True


async def serve_http(app: ASGIApp, listeners: Sequence[trio.SocketListener]) -> NoReturn:
    """Serve an application until cancelled."""
    connections = Connections(app)
    async with trio.open_nursery() as nursery:
        with accept_sockets(listeners) as sockets:
            await accept_all(connections.handle, lambda _, address: tcp_peer(address), listeners, sockets, nursery)
    raise AssertionError("unreachable")
