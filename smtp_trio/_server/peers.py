"""The two ends of a stream, and the network by which connections of one peer are counted."""

from __future__ import annotations

import ipaddress
import select
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import trio

from .._types import Peer, unmap
from .._wire import AcceptedSocket

#: The peer of a connection that was closed before its address was read. It is not in any network.
GONE = Peer("0.0.0.0", 0, "tcp")  # noqa: S104  # nothing is bound
#: Each end of a unix socket.
UNIX = Peer("", None, "unix")


def endpoints(stream: trio.abc.Stream | AcceptedSocket, accepted: Peer | None = None) -> tuple[Peer, Peer]:
    """Return the remote and the local end of a stream.

    ``accepted`` is the remote end of a socket if accept() has returned it: when the peer has reset the connection, it can
    no longer be asked for.

    A stream that is not a socket may provide both as an attribute named ``endpoints``; otherwise they are unnamed
    ``memory`` peers.
    """
    if accepted is not None and isinstance(stream, AcceptedSocket):
        return accepted, _tcp_endpoint(stream.getsockname) if accepted.kind == "tcp" else UNIX
    transport: Any = stream
    while isinstance(transport, trio.SSLStream):
        transport = transport.transport_stream
    if not isinstance(transport, trio.SocketStream):
        ends: tuple[Peer, Peer] | None = getattr(transport, "endpoints", None)
        return ends or (Peer("", None, "memory"), Peer("", None, "memory"))
    return accepted or _endpoint(transport, "getpeername"), _endpoint(transport, "getsockname")


def _endpoint(stream: trio.SocketStream, which: Literal["getpeername", "getsockname"]) -> Peer:
    if stream.socket.family not in (socket.AF_INET, socket.AF_INET6):
        return UNIX
    return _tcp_endpoint(getattr(stream.socket, which))


def _tcp_endpoint(ask: Callable[[], tuple[Any, ...]]) -> Peer:
    try:
        return tcp_peer(ask())
    except OSError:  # the peer disconnected before the address was read
        return GONE


def tcp_peer(address: tuple[Any, ...]) -> Peer:
    """Return the end of a TCP connection that has this socket address."""
    # Hooks, logs and Received fields need an IPv4 client's own address.
    return Peer(unmap(address[0]), address[1], "tcp")


# Whether a client has left can be seen without reading from it: the kernel knows whether the other side has closed its
# end. A client that has only ended its input still waits for the replies, and cannot be distinguished from one that has closed the
# connection. So this is a reason for a temporary refusal at most, of what has had to wait.


def has_left(stream: trio.abc.Stream) -> bool:
    """Return whether the peer of a socket has closed its end. Return False if that is not known."""
    transport: Any = stream
    while isinstance(transport, trio.SSLStream):
        transport = transport.transport_stream
    if not isinstance(transport, trio.SocketStream) or not hasattr(select, "POLLRDHUP"):
        return False
    descriptor = transport.socket.fileno()
    if descriptor < 0:  # a hook has closed it
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))


# The limit prevents one client from using up all sessions. For IPv6 a limit for each address would be useless: the
# smallest network that a customer gets is a /64 (RFC 6177), which has 2**64 addresses. Loopback addresses are not
# counted, since all connections through a local proxy, and those of tests, come from one. The result is cached because
# parsing an address takes longer than anything else at the start of a session.


@lru_cache(1024)
def network(host: str) -> str | None:
    """Return the network by which `Limits.per_peer` counts ``host``: the address for IPv4, the /64 for IPv6.

    Return None for a loopback address, which is not counted, and ``host`` itself if it is not an address: the
    `endpoints` of a stream may be those that a proxy or a test has chosen.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.is_loopback:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def counted_as(peer: Peer, *, local: bool) -> str | None:
    """Return the name under which a client is counted, or None if it is not.

    :param local: whether clients on this host are (`Limits.count_local`).
    """
    if peer.kind == "tcp":
        return network(peer.host) or (peer.host if local else None)
    return "unix" if peer.kind == "unix" and local else None
