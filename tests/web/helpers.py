"""What the tests of the HTTP listener share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import trio
from attrs import define, field

from smtp_trio import web
from smtp_trio.stores import Store


@asynccontextmanager
async def client(app: Any, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client of an ASGI application, without a socket. A response is complete before it is returned.

    Its requests have the header without which a POST with no JSON is refused.
    """
    headers = settings.pop("headers", {"X-Requested-With": "test"})
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://localhost:8025", headers=headers, **settings
    ) as http:
        yield http


@asynccontextmanager
async def serving(server: Any, store: Store[Any], **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """Run `web.serve` on a free port, and return a client of it, for whatever depends on real sockets."""

    async def serve(*, task_status: trio.TaskStatus[str]) -> None:
        await web.serve(server, store, 0, task_status=task_status, **settings)

    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve)
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=100) as http:
            yield http
        nursery.cancel_scope.cancel()


@define
class RawConnection:
    """A connection to the listener of a client, on which a test sends and receives octets."""

    stream: trio.SocketStream
    received: bytearray = field(factory=bytearray, init=False)

    async def read_until(self, end: bytes) -> bytes:
        """Receive up to ``end`` and return all of it. Without it, return what came before the connection was closed."""
        while end not in self.received:
            data = await self.stream.receive_some()
            if not data:
                break
            self.received += data
        at = self.received.find(end) + len(end) if end in self.received else len(self.received)
        found, self.received = bytes(self.received[:at]), self.received[at:]
        return found

    async def request(self, text: bytes, *headers: bytes) -> bytes:
        """Send a request, given by its first line without the version, and return the head of the response."""
        await self.stream.send_all(b"\r\n".join([text + b" HTTP/1.1", b"Host: localhost", *headers, b"", b""]))
        return await self.read_until(b"\r\n\r\n")


@asynccontextmanager
async def connection(http: httpx2.AsyncClient) -> AsyncIterator[RawConnection]:
    """Connect to the listener that a client of `serving` uses."""
    async with await trio.open_tcp_stream(http.base_url.host, http.base_url.port or 80) as stream:
        yield RawConnection(stream)
