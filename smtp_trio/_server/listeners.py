"""Listening sockets: opening them, taking over inherited ones, and accepting their connections."""

from __future__ import annotations

import errno
import math
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, NoReturn

import trio
from attrs import define

from .._types import Peer
from .._wire import AcceptedSocket, inherit_options
from ..protocol.arguments import check_number, check_type
from ..protocol.hosts import check_host, check_port
from .log_events import ACCEPT_FAILED
from .peers import network, tcp_peer

#: Addresses of listening sockets that do not tell to which address a client has connected.
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  # nothing is bound
#: How often to choose a port for port 0: a port that is free on the first address may be in use on the next.
PORT_ATTEMPTS = 10
#: Connections that may wait to be accepted. In a flood the queue is full, and others wait after it. To refuse a connection
#: takes about 40 µs (see admission.py), so they wait for about 0.2 s. When the queue is full, a client tries again
#: after a second. The kernel reduces this number to its own maximum (net.core.somaxconn on Linux).
BACKLOG = 4096
#: Connections accepted in a row before other tasks are scheduled, and how many sessions begin then: to begin one takes ten
#: times as long as to refuse a connection.
BURST, SESSIONS = 64, 4
#: After a connection that came alone, others are accepted one by one, until after so many of them the queue is looked through
#: again. An accept() that finds none takes about 8 µs, 3 % of the time of a session that receives one message. While refused
#: connections wait to be closed, whole bursts are accepted: with a pause after each connection, a flood would fill the queue.
SINGLES = 8
#: Accepted connections that may wait for their session to begin: more than `Limits.connections_per_minute` of one peer.
MAX_WAITING = 512
#: Refused connections that may wait to be closed, and how many are closed before other tasks are scheduled.
MAX_REFUSED, CLOSED = 2048, 8
#: Seconds until the next ones are closed, and the queue is looked at again.
PAUSE = 0.001
#: The part of the descriptors of the process that they may have.
SHARE_REFUSED = 8
#: systemd's SD_LISTEN_FDS_START (sd_listen_fds(3)).
FIRST_FD = 3
#: Errors of accept() that mean that the process or the system has run out of descriptors or memory.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds to wait after such an error before the next accept(), and between two log entries about it.
BACK_OFF, LOG_INTERVAL = 0.1, 60


# Trio's `open_tcp_listeners` lacks three things that a server needs: one port for all addresses when the port is 0,
# SO_REUSEPORT, and no listener at all if one of them fails. IPV6_V6ONLY is set so that "::" and "0.0.0.0" can both be
# bound, whatever the default of the system is. SO_REUSEADDR lets a server start again while connections of the previous
# one are in TIME-WAIT; on POSIX it does not allow two servers on one port.


async def open_listeners(
    port: int, host: str | None = None, *, reuse_port: bool = False, backlog: int | None = None
) -> list[trio.SocketListener]:
    """Listen on every address of ``host``; return the listeners, for `Server.serve_listeners`.

    :param port: the TCP port; 0 chooses a free one, the same for all addresses.
    :param host: a host name or address; None for all interfaces, IPv4 and IPv6.
    :param reuse_port: set SO_REUSEPORT: several sockets of one user, in one or several processes, may listen on the
        same port, and the kernel distributes the connections among them.
    :param backlog: how many connections may wait to be accepted; by default 4096, or the maximum of the
        system if that is less.
    :raises OSError: an address cannot be bound. No listener stays open then.
    :raises ValueError: ``host`` is not a name or an address, or ``port`` is not from 0 to 65535.
    """
    check_port(port, "port", minimum=0)
    check_type(reuse_port, "reuse_port", bool)
    check_number(backlog, "backlog", integer=True, optional=True)
    host = None if host is None else check_host(host, "host")
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A resolver may return an address twice: for two lines of /etc/hosts, or once for TCP and once for another protocol.
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for attempt in range(1, PORT_ATTEMPTS + 1):
        try:
            return _listen_on(addresses, reuse_port, BACKLOG if backlog is None else backlog)
        except OSError as exc:
            if port or exc.errno != errno.EADDRINUSE or attempt == PORT_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _listen_on(addresses: Iterable[Any], reuse_port: bool, backlog: int) -> list[trio.SocketListener]:
    """Listen on all addresses, with the port that the first one gets.

    Address families that the kernel does not support are skipped.
    """
    port = 0
    unsupported: OSError | None = None
    with ExitStack() as undo:
        listeners = []
        for family, (host, wanted, *scope) in addresses:
            try:
                sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            except OSError as exc:
                if exc.errno != errno.EAFNOSUPPORT:
                    raise
                unsupported = exc
                continue
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, wanted or port, *scope))
            sock.listen(backlog)
            port = port or sock.getsockname()[1]
            listeners.append(to_listener(sock))
        if unsupported is not None and not listeners:
            raise unsupported
        undo.pop_all()
    return listeners


def to_listener(sock: socket.socket) -> trio.SocketListener:
    """Return a Trio listener for a socket that is listening already."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


# --- accepting connections ---------------------------------------------------------------------------------------
#
# We do not use `trio.serve_listeners`, for three reasons:
#
# - `trio.SocketListener.accept` passes through the scheduler once for every connection, which is a fifth of the cost of
#   a session that sends one message.
# - It runs every handler in a function that closes the stream when the handler has ended. A session closes its stream
#   itself, so this would add one more checkpoint to every connection.
# - When the process is out of descriptors, it logs an error with a traceback ten times a second.
#
# So one task per listener waits until its socket is readable and then accepts what is in the queue of the kernel, up to
# BURST connections, before it waits again. If that was a single one, it accepts the next ones one by one (SINGLES), and does
# not ask each time whether there is another. Waiting is a checkpoint even when the socket is readable, so other tasks run
# and cancellation is noticed after each burst.
#
# The queue of the kernel is first in, first out, so a client waits for all that others have put into it before. So the
# queue is emptied as fast as possible, and what takes longer is done afterwards, a little in each burst. Those that may
# become sessions wait in `Arrivals`, where the peers take turns. Those that are refused wait in `Refused`: to close a
# connection takes 15 µs, three times as long as to accept it, since the kernel informs the peer.
#
# When the queue is empty and nothing but refused connections is left, the task sleeps for PAUSE seconds. Without the pause
# the event loop would never wait in a flood, and a thread that commits a message, which needs the interpreter about ten
# times, would wait each time until the loop gives way. When a client opened 2,000 connections in each second, the slowest
# hundredth of the commits took 14 to 34 ms, and take 2 ms with it (one core, a store in memory, and a scheduler that does not
# interrupt the loop). The queue has room for all that arrive in a pause. At 20,000 connections in a second the server uses
# half as much of the processor, and another client waits a millisecond longer for its greeting.
#
# Trio offers no accept() that does not wait, and a second `socket.socket` object on the listener's own descriptor would
# continue to use the number after Trio has closed it, when it may belong to another file. `accept_sockets` therefore
# duplicates the descriptor. A port is only closed when both are, so `Server.stop`, which promises that connections are
# refused from the moment it is called, closes the duplicates, too.
#
# Some errors of accept() concern one connection only: ECONNABORTED, and a dozen others that Linux passes on from the
# network. Trio has the list of them. After an error other than BlockingIOError (the queue is empty), the loop therefore
# calls Trio's own accept(), which ignores the errors in its list and raises the others as OSError. When `Server.stop`
# has closed the socket, it also has cancelled this task, so that call raises Cancelled.
#
# After an error in EXHAUSTED the loop tries again every BACK_OFF seconds, since descriptors are free again when
# sessions end. All other errors end the server.

#: Serves a stream, or an `AcceptedSocket`. The second argument is what the `Screen` has returned, or None without a `Screen`,
#: and the third is the server's end of the connection, or None if the socket has to be asked for it.
Handler = Callable[[Any, Peer | None, Peer | None], Awaitable[object]]
#: Returns the peer of an accepted socket, given by its descriptor and its address, if it may become a stream. If not, the
#: caller closes the descriptor.
Screen = Callable[[int, Any], Peer | None]


@contextmanager
def accept_sockets(
    listeners: Iterable[trio.abc.Listener[Any]],
) -> Iterator[dict[trio.abc.Listener[Any], socket.socket]]:
    """Duplicate the descriptors of those listeners that are POSIX sockets, as non-blocking sockets by listener."""
    with ExitStack() as stack:
        sockets: dict[trio.abc.Listener[Any], socket.socket] = {}
        for each in listeners:
            if isinstance(each, trio.SocketListener) and os.name == "posix":
                duplicate = socket.fromfd(each.socket.fileno(), each.socket.family, each.socket.type)
                sockets[each] = stack.enter_context(duplicate)
                duplicate.setblocking(False)
        yield sockets


async def accept_all(
    handler: Handler,
    screen: Screen,
    listeners: Iterable[trio.abc.Listener[Any]],
    sockets: dict[trio.abc.Listener[Any], socket.socket],
    nursery: trio.Nursery,
) -> NoReturn:
    """Start ``handler(stream, peer, local)`` in the nursery for every connection, until cancelled.

    The handler must close its stream.

    :param screen: called for each connection of these sockets before a stream is made.
    :param sockets: what `accept_sockets` returned for these listeners.
    :raises OSError: accept() failed for a reason that does not concern a single connection and will not pass.
    """
    failures = AcceptFailures()
    async with trio.open_nursery() as accepting:
        for each in listeners:
            accepting.start_soon(_accept_from, handler, screen, each, sockets.get(each), nursery, failures)
        await trio.sleep_forever()
    raise AssertionError("unreachable")


@define(eq=False, repr=False)
class AcceptFailures:
    """The log entries about accept() of one server: one in `LOG_INTERVAL` seconds for all its listeners."""

    next_log: float = -math.inf

    def log(self, error: OSError) -> None:
        """Log an error, unless another one was logged a short time ago."""
        if (now := trio.current_time()) >= self.next_log:
            self.next_log = now + LOG_INTERVAL
            ACCEPT_FAILED.log(error=error.strerror)


class Arrivals:
    """The accepted connections whose session has not begun. Each peer has one turn in a round."""

    def __init__(self, begin: Callable[[AcceptedSocket, Peer], None]) -> None:
        self._begin = begin
        self._by_peer: dict[str, deque[tuple[AcceptedSocket, Peer]]] = {}  # in the order of their turns
        self.count = 0

    def add(self, accepted: AcceptedSocket, peer: Peer) -> None:
        """Add a connection of a peer."""
        self._by_peer.setdefault(network(peer.host) or peer.host, deque()).append((accepted, peer))
        self.count += 1

    def begin(self) -> None:
        """Begin one session for each peer, up to SESSIONS."""
        for peer in list(islice(self._by_peer, SESSIONS)):
            connections = self._by_peer.pop(peer)
            self._begin(*connections.popleft())
            self.count -= 1
            if connections:
                self._by_peer[peer] = connections  # after all others


class Refused:
    """The descriptors of refused connections, which are to be closed."""

    def __init__(self) -> None:
        self._descriptors: deque[int] = deque()
        limit = os.sysconf("SC_OPEN_MAX") if os.name == "posix" else 0
        self._most = MAX_REFUSED if limit < 0 else min(MAX_REFUSED, limit // SHARE_REFUSED)

    def __len__(self) -> int:
        return len(self._descriptors)

    def add(self, descriptor: int) -> None:
        """Close a descriptor later, or, if there are too many, another one now."""
        self._descriptors.append(descriptor)
        if len(self._descriptors) > self._most:
            self.close(1)

    def close(self, count: int) -> None:
        """Close up to ``count`` descriptors."""
        for _ in range(min(count, len(self._descriptors))):
            socket.close(self._descriptors.popleft())  # as in `AcceptedSocket.close`


async def _accept_from(
    handler: Handler,
    screen: Screen,
    listener: trio.abc.Listener[Any],
    sock: socket.socket | None,
    nursery: trio.Nursery,
    failures: AcceptFailures,
) -> NoReturn:
    local = None
    if sock is not None:
        local = _local_end(sock)
        inherit_options(sock)
    arrivals = Arrivals(lambda accepted, peer: nursery.start_soon(handler, accepted, peer, local))
    refused = Refused()
    accepted = alone = 0
    # To ask a socket for them makes two members of enumerations, which takes as long as accept().
    made_as = (socket.AF_INET, socket.SOCK_STREAM, 0) if sock is None else (sock.family, sock.type, sock.proto)
    try:
        while True:
            try:
                if sock is not None and isinstance(listener, trio.SocketListener):
                    # `Server.stop` may have closed the socket before this task ran for the first time.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    if arrivals.count or accepted == BURST:
                        await trio.lowlevel.checkpoint()
                    elif refused:
                        await trio.sleep(PAUSE)
                    else:
                        # Wait on the listener's own socket, so that closing it wakes this task; accept on the duplicate.
                        await trio.lowlevel.wait_readable(listener.socket)
                    most = 1 if alone and not refused else BURST
                    accepted = _accept_burst(arrivals, refused, screen, sock, made_as, most)
                    alone = 0 if accepted > 1 else (alone + 1) % SINGLES
                    if accepted >= 0:
                        continue
                # Not a POSIX socket, or accept() failed with an error that Trio has to classify. It may wait then, for another
                # connection or for BACK_OFF seconds, and those that were accepted before the error do not wait with it.
                while arrivals.count:
                    arrivals.begin()
                nursery.start_soon(handler, await listener.accept(), None, None)
            except OSError as exc:
                if exc.errno not in EXHAUSTED:
                    raise
                failures.log(exc)
                await trio.sleep(BACK_OFF)
    finally:
        refused.close(len(refused))
        while arrivals.count:
            arrivals.begin()  # a session that is cancelled, or of a server that stops, closes its stream


def _local_end(sock: socket.socket) -> Peer | None:
    """Return the server's end of all connections to a listening socket, if that is the same for all.

    To ask each connection for it takes 8 µs, 3 % of the time of a session that receives one message: a call of the kernel
    also slows down what Python does after it.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.fileno() < 0:  # closed by `Server.stop`
        return None
    local = tcp_peer(sock.getsockname())
    return None if local.host in WILDCARDS else local


def _accept_burst(
    arrivals: Arrivals,
    refused: Refused,
    screen: Screen,
    sock: socket.socket,
    made_as: tuple[int, int, int],
    most: int = BURST,
) -> int:
    """Accept the connections that are waiting, up to ``most``; begin up to SESSIONS sessions, and close up to CLOSED others.

    Return how many were accepted, or -1 after an error that Trio has to classify.

    :param made_as: the family, the type and the protocol of ``sock``.
    """
    # `socket.accept` takes twice as long as the call of the kernel, since it makes an object, also for a connection that is
    # refused. With it, a client can connect faster than it is refused, and others wait in the queue after it.
    listening: Any = sock
    accept = listening._accept  # private, but in each version and implementation of Python 3
    accepted = 0
    try:
        for _ in range(min(most, MAX_WAITING - arrivals.count)):
            descriptor, address = accept()
            accepted += 1
            if peer := screen(descriptor, address):
                arrivals.add(AcceptedSocket(descriptor, made_as), peer)
            else:
                refused.add(descriptor)
    except BlockingIOError:
        pass
    except OSError:
        refused.close(len(refused))  # there may be no descriptor left
        return -1
    finally:
        arrivals.begin()
        refused.close(CLOSED)
    return accepted


# --- inherited sockets -------------------------------------------------------------------------------------------


def socket_from_fd(fd: int) -> socket.socket:
    """Return the listening socket that this process was started with as file descriptor ``fd``.

    Raises OSError for a descriptor that is not a listening stream socket; it stays open then.
    """
    sock = socket.socket(fileno=fd)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise OSError(errno.EINVAL, "not a listening stream socket")
    return sock


def systemd_fds() -> list[int]:
    """Return the file descriptors that systemd passed to this process (sd_listen_fds(3)), and remove them from the
    environment.

    Child processes inherit the environment, and must not use these descriptors.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return list(range(FIRST_FD, FIRST_FD + int(count)))


def tcp_ports(listeners: Iterable[trio.abc.Listener[Any]]) -> list[int]:
    """Return the ports of those listeners that are TCP sockets."""
    socks = [each.socket for each in listeners if isinstance(each, trio.SocketListener)]
    return [sock.getsockname()[1] for sock in socks if sock.family in (socket.AF_INET, socket.AF_INET6)]


def format_address(sock: socket.socket | trio.socket.SocketType) -> str:
    """Return the address that a socket listens on, for the log."""
    name = sock.getsockname()
    return f"unix:{os.fsdecode(name)}" if sock.family == socket.AF_UNIX else str(Peer(name[0], name[1], "tcp"))
