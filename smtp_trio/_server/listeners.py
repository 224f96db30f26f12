"""Listeners, and who is at the other end of a stream."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Literal, cast, final

import trio
from attrs import frozen

from .._types import Peer

#: A port of 0 is chosen for the first address; it may be taken on the next one, so a few are tried.
TRIES = 10
#: The kernel makes of it what its administrator allows.
BACKLOG = 65535
#: Connections that are accepted before others get their turn.
BURST = 64
#: systemd's SD_LISTEN_FDS_START.
FIRST_FD = 3


async def open_listeners(
    port: int, host: str | None = None, *, reuse_port: bool = False, backlog: int | None = None
) -> list[trio.SocketListener]:
    """Listen on every address of ``host`` (None: all interfaces), for `Server.serve_listeners`. Port 0: the same for all of them.

    ``reuse_port``: others of this user that say so as well may listen on the same port, in this process or in another, and the kernel
    deals out the connections among them (SO_REUSEPORT). ``backlog`` is how many connections may wait to be accepted; None for as many
    as the system allows. Raises OSError when an address cannot be had; then none of them is.
    """
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for attempt in range(1, TRIES + 1):
        try:
            return _listen_on(addresses, reuse_port, BACKLOG if backlog is None else backlog)
        except OSError as exc:
            if port or exc.errno != errno.EADDRINUSE or attempt == TRIES:
                raise
    raise AssertionError("unreachable")


def _listen_on(addresses: Sequence[Any], reuse_port: bool, backlog: int) -> list[trio.SocketListener]:
    """All of them, on the port that the first one gets; those of a family that the kernel does not know are left out."""
    port = 0
    unknown: OSError | None = None
    with ExitStack() as undo:
        listeners = []
        for family, kind, protocol, _, (host, wanted, *scope) in addresses:
            try:
                sock = undo.enter_context(socket.socket(family, kind, protocol))
            except OSError as exc:
                if exc.errno != errno.EAFNOSUPPORT:
                    raise
                unknown = exc
                continue
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, wanted or port, *scope))
            sock.listen(backlog)
            port = port or sock.getsockname()[1]
            listeners.append(listener(sock))
        if unknown is not None and not listeners:
            raise unknown
        undo.pop_all()
    return listeners


def listener(sock: socket.socket) -> trio.SocketListener:
    """A socket that listens already, as Trio has it."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


Handler = Callable[[Any], Awaitable[object]]


async def accept_all(handler: Handler, listeners: Sequence[trio.abc.Listener[Any]], nursery: trio.Nursery) -> None:
    """Start a task in the nursery for every connection, until cancelled. ``handler`` must see to it that its stream is closed."""
    quick = [_Door(it) if isinstance(it, trio.SocketListener) and os.name == "posix" else it for it in listeners]
    await trio.serve_listeners(handler, quick, handler_nursery=cast("trio.Nursery", _Spawner(nursery)))


@final
class _Door(trio.abc.Listener[trio.SocketStream]):
    """A socket's listener that takes all connections that wait, in one go. Trio's own goes through the scheduler for each."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        # Another object for the same descriptor, which knows how to accept without Trio. It is never closed, but detached.
        self._socket = socket.socket(fileno=listener.socket.fileno())
        self._socket.setblocking(False)
        self._burst = 0

    async def accept(self) -> trio.SocketStream:
        """The next connection. A checkpoint when it has to wait, and once in `BURST`."""
        self._burst += 1
        if self._burst > BURST:
            self._burst = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                self._burst = 0
                await trio.lowlevel.wait_readable(self._listener.socket)
            except OSError:  # Trio knows which of them are a client's misfortune, and which are ours
                return await self._listener.accept()
            else:
                return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def aclose(self) -> None:
        """Close the listener."""
        self._socket.detach()
        await self._listener.aclose()


@frozen
class _Spawner:
    """Starts handlers in this nursery, without the wrapper of `trio.serve_listeners`, which would close each stream once more."""

    nursery: trio.Nursery

    def start_soon(self, _: object, stream: trio.abc.Stream, handler: Handler) -> None:
        """Called for each connection, with Trio's wrapper of the handler."""
        self.nursery.start_soon(handler, stream)


def inherited(fd: int) -> socket.socket:
    """The socket that this process was started with, as its file descriptor ``fd``. Raises OSError for what does not listen."""
    sock = socket.socket(fileno=fd)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()  # whatever it is, it is not ours to close
        raise OSError(errno.EINVAL, "it is no socket that listens")
    return sock


def handed_over() -> list[int]:
    """The file descriptors that systemd says are for this process (sd_listen_fds(3)). They are taken: whom we start sees none."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return list(range(FIRST_FD, FIRST_FD + int(count)))


def spelled(sock: socket.socket | trio.socket.SocketType) -> str:
    """Where a socket listens, for the log."""
    name = sock.getsockname()
    return f"unix:{os.fsdecode(name)}" if sock.family == socket.AF_UNIX else str(Peer(name[0], name[1], "tcp"))


def endpoints(stream: trio.abc.Stream) -> tuple[Peer, Peer]:
    """The peer's end of a stream, and ours. A stream that is no socket may have an attribute that tells them, ``endpoints``."""
    transport: Any = stream
    while isinstance(transport, trio.SSLStream):
        transport = transport.transport_stream
    if not isinstance(transport, trio.SocketStream):
        ends: tuple[Peer, Peer] | None = getattr(transport, "endpoints", None)
        return ends or (Peer("", None, "memory"), Peer("", None, "memory"))
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


@lru_cache(1024)
def network(host: str) -> str | None:
    """What `Limits.per_peer` counts by: an IPv4 address, or an IPv6 network of 64 bits. None for who is not counted."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_loopback:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))
