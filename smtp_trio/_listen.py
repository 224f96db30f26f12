"""Listeners, and who is at the other end of a stream."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any, Literal

import trio

from ._values import Peer

#: A port of 0 is chosen for the first address; it may be taken on the next one, so a few are tried.
TRIES = 10


async def open_listeners(port: int, host: str | None) -> list[trio.SocketListener]:
    """Listen on every address of ``host`` (None: all interfaces). With port 0 they all get one and the same. Raises OSError."""
    if port:
        return await trio.open_tcp_listeners(port, host=host)
    for attempt in range(TRIES):
        listeners = await trio.open_tcp_listeners(0, host=host)
        if len(listeners) == 1:
            return listeners
        port = listeners[0].socket.getsockname()[1]
        for listener in listeners:
            await listener.aclose()
        try:
            return await trio.open_tcp_listeners(port, host=host)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or attempt == TRIES - 1:
                raise
    raise AssertionError("unreachable")


def endpoints(stream: trio.abc.Stream) -> tuple[Peer, Peer]:
    """The peer's end of a stream, and ours."""
    transport: Any = stream
    while isinstance(transport, trio.SSLStream):
        transport = transport.transport_stream
    if not isinstance(transport, trio.SocketStream):
        return Peer("", None, "memory"), Peer("", None, "memory")
    return _endpoint(transport, "getpeername"), _endpoint(transport, "getsockname")


def _endpoint(stream: trio.SocketStream, which: Literal["getpeername", "getsockname"]) -> Peer:
    family = stream.socket.family
    if family not in (socket.AF_INET, socket.AF_INET6):
        return Peer("", None, "unix")
    try:
        host, port = getattr(stream.socket, which)()[:2]
    except OSError:  # the peer was gone before we looked
        return Peer("0.0.0.0", 0, "tcp")
    if family == socket.AF_INET6:
        # Linux shows IPv4 clients of an IPv6 socket as ::ffff:192.0.2.1; to everybody else they are 192.0.2.1.
        mapped = ipaddress.IPv6Address(host.partition("%")[0]).ipv4_mapped
        host = str(mapped) if mapped is not None else host
    return Peer(host, port, "tcp")
