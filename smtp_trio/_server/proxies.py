"""The PROXY headers of connections from load balancers: which peers must send one, and receiving it."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import trio
from attrs import define

from .._types import Counts, Peer, unmap
from .._wire import BROKEN
from ..protocol import Extension
from ..protocol.arguments import check_type
from .log_events import NO_PROXY_HEADER
from .peers import GONE

if TYPE_CHECKING:
    from ..protocol.proxy_header import Address, ProxyHeader

# `proxy_header` and the two extensions are imported for servers that have networks of proxies: that would be a twentieth of
# the time that importing the server takes.

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
#: What `Server` takes for a network: an address, a network, or "unix" for all unix sockets.
NetworkLike: TypeAlias = str | Network

#: Connections that may wait for their header at a time. A balancer sends it at once, so they are those of a round trip.
MAX_WAITING = 1000
#: Seconds between two records about headers that are missing for the same reason.
LOG_INTERVAL = 60
#: The length of the prefix of IPv4-mapped IPv6 addresses (RFC 4291 2.5.5.2).
MAPPED_BITS = 96
#: The attributes of XCLIENT for the server's end of the connection.
DEST = ("DESTADDR", "DESTPORT")
NOTHING_SENT, LOST = "closed before it sent anything", "the connection was lost"


class PeerNetworks:
    """A set of networks. A `Peer` is in it if its address is in one of them."""

    def __init__(self, networks: Iterable[NetworkLike], what: str) -> None:
        if isinstance(networks, str) or not isinstance(networks, Iterable):
            raise TypeError(f"{what} must be an iterable of networks, got {networks!r}")
        given = tuple(networks)
        for each in given:
            check_type(each, f"each item of {what}", (str, ipaddress.IPv4Network, ipaddress.IPv6Network))
        self._unix = "unix" in given
        self._networks = tuple(_network(each, what) for each in given if each != "unix")

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, peer: Peer) -> bool:
        if peer.kind == "unix":
            return self._unix
        if peer == GONE:
            return False
        try:
            address = ipaddress.ip_address(unmap(peer.host.partition("%")[0]))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class TrustedNetworks:
    """The networks whose clients may use XCLIENT and XFORWARD."""

    def __init__(self, xclient_from: Iterable[NetworkLike], xforward_from: Iterable[NetworkLike]) -> None:
        self._xclient = PeerNetworks(xclient_from, "xclient_from")
        xforward = PeerNetworks(xforward_from, "xforward_from")
        self._networks: list[tuple[Extension, PeerNetworks]] = []
        if self._xclient:
            from ..protocol.extensions.xclient import Xclient

            self._networks.append((Xclient(), self._xclient))
        if xforward:
            from ..protocol.extensions.xforward import Xforward

            self._networks.append((Xforward(), xforward))
        #: The extensions that a server offers to them.
        self.extensions: tuple[Extension, ...] = tuple(extension for extension, _ in self._networks)

    def keywords(self, peer: Peer) -> frozenset[str]:
        """Return the keywords of the extensions that this peer may use."""
        return frozenset(extension.keyword for extension, networks in self._networks if peer in networks)

    def sends_xclient(self, peer: Peer) -> bool:
        """Return whether this peer may use XCLIENT."""
        return bool(self._xclient) and peer in self._xclient


def _network(value: NetworkLike, what: str) -> Network:
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    # A peer has its IPv4 address even if the socket is one of IPv6.
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < MAPPED_BITS:
        return network
    return ipaddress.ip_network((mapped, network.prefixlen - MAPPED_BITS))


@define(eq=False, repr=False)
class Connection:
    """The ends of a connection as the hooks see them, and the peer of the socket; they differ after a PROXY header."""

    peer: Peer
    local: Peer
    connection_peer: Peer
    header: ProxyHeader | None = None
    #: The header names no client, or the balancer itself: a health check. The limits for one client do not apply to it.
    health_check: bool = False

    @property
    def unnamed(self) -> bool:
        """True if it is for a client that the balancer cannot name (UNKNOWN or UNSPEC), so its address is unknown."""
        return self.header is not None and self.header.source is None and not self.header.local

    @classmethod
    def direct(cls, ends: tuple[Peer, Peer]) -> Connection:
        """Return a connection with the two ends of a stream."""
        return cls(*ends, ends[0])

    def through_proxy(self, header: ProxyHeader) -> Connection:
        """Return the connection that a balancer has accepted, and for which it has sent ``header``."""
        if header.source is None or header.destination is None:
            return Connection(self.peer, self.local, self.connection_peer, header, True)
        # In version 1, which has no LOCAL, HAProxy sends the addresses of its own connection.
        peer = _peer(header.source)
        return Connection(peer, _peer(header.destination), self.connection_peer, header, peer == self.connection_peer)


def peer_of_xclient(peer: Peer, attributes: Mapping[str, str | None]) -> Peer:
    """Return ``peer`` as the attributes ADDR, PORT and NAME of an XCLIENT change it.

    Another address has another port and another name.
    """
    from ..protocol.attributes import TEMPORARY

    host, port, kind, name = peer.host, peer.port, peer.kind, peer.name
    if "ADDR" in attributes:
        host, port, name = unmap(attributes["ADDR"] or ""), None, None
        kind = "tcp" if host else "unknown"
    if "PORT" in attributes and kind == "tcp":
        port = _number(attributes["PORT"])
    if "NAME" in attributes:
        name = None if attributes["NAME"] == TEMPORARY else attributes["NAME"]
    return Peer(host, port, kind, name)


def local_of_xclient(local: Peer, attributes: Mapping[str, str | None]) -> Peer:
    """Return ``local`` as the attributes DESTADDR and DESTPORT of an XCLIENT change it."""
    return peer_of_xclient(local, {name.removeprefix("DEST"): attributes[name] for name in DEST if name in attributes})


def _number(port: str | None) -> int | None:
    return None if port is None else int(port)


def _peer(address: Address) -> Peer:
    host, port = address
    return Peer("", None, "unix") if port is None else Peer(unmap(host), port, "tcp")


# A balancer opens a connection for each of its clients, so what arrives before the header must not cost more than a
# connection that is refused: it has no session yet, at most MAX_WAITING connections wait at a time, for `Timeouts.proxy`
# seconds each, and a header has at most 4,112 octets. The limits for clients are applied after it.
#
# A connection without a valid header is closed without a reply (the specification forbids guessing), and there is one
# record about each reason in a minute. Some health checks only open a connection and close it, so those are debugging
# records.


@define(eq=False, repr=False)
class _Reason:
    """The log records about headers that are missing for one reason."""

    next_log: float = -math.inf
    count: int = 0


class ProxyHeaders:
    """The receiver of the PROXY headers of connections from certain networks."""

    def __init__(self, networks: PeerNetworks, seconds: float, counts: Counts) -> None:
        if networks:
            from ..protocol import proxy_header  # noqa: F401  # before a connection needs it

        self._networks = networks
        self._seconds = seconds
        self._counts = counts
        self._waiting: set[trio.CancelScope] = set()
        self._reasons: dict[str, _Reason] = {}
        self._stopped = False

    def __bool__(self) -> bool:
        return bool(self._networks)

    def requires(self, peer: Peer) -> bool:
        """Return whether the peer of a socket has to send a header. Also true for `GONE`, whose address is not known."""
        return peer in self._networks or peer == GONE

    def admits(self, peer: Peer) -> bool:
        """Return whether another connection may wait for its header. If not, it has to be closed, and is counted."""
        problem = LOST if peer == GONE else None
        if len(self._waiting) >= MAX_WAITING:
            problem = f"{MAX_WAITING} other connections wait for theirs"
        if problem is not None:
            self._refuse(peer, problem)
        return problem is None

    def stop(self) -> None:
        """End all waits."""
        self._stopped = True
        for scope in self._waiting:
            scope.cancel()

    async def receive(self, stream: trio.abc.Stream, connection: Connection) -> Connection | None:
        """Receive a header, and no octet after it. Return ``connection`` with its addresses, or None to close it."""
        from ..protocol.proxy_header import ProxyHeaderError

        problem = f"not received within {self._seconds:g} seconds"
        with trio.move_on_after(self._seconds) as scope:
            self._waiting.add(scope)
            if self._stopped:
                scope.cancel()
            try:
                return connection.through_proxy(await read_header(stream))
            except ProxyHeaderError as error:
                problem = str(error)
            except BROKEN:
                problem = LOST
            finally:
                self._waiting.discard(scope)
        if not self._stopped:
            self._refuse(connection.peer, problem)
        return None

    def _refuse(self, peer: Peer, problem: str) -> None:
        self._counts.connections_refused += 1
        level = logging.DEBUG if problem in (NOTHING_SENT, LOST) else None
        reason = self._reasons.setdefault(problem, _Reason())
        if (now := trio.current_time()) >= reason.next_log:
            NO_PROXY_HEADER.log(peer=str(peer), error=problem, count=reason.count, as_level=level)
            reason.next_log, reason.count = now + LOG_INTERVAL, 0
        else:
            reason.count += 1


async def read_header(stream: trio.abc.Stream) -> ProxyHeader:
    """Read a header from a stream, and no octet after it. Raises `ProxyHeaderError`."""
    from ..protocol.proxy_header import V2_OCTETS, V2_START, ProxyHeaderError, ProxyHeaderReader

    reader = ProxyHeaderReader()
    # A stream in general is only asked for octets that belong to the header. For version 1 that is one after another, so
    # with a socket the octets are looked at first: those that belong to the header are removed afterwards.
    sock = stream.socket if isinstance(stream, trio.SocketStream) else None
    while reader.header is None:
        try:
            if sock is None:
                data = bytes(await stream.receive_some(reader.wanted))
                reader.receive_data(data)
            elif data := await sock.recv(V2_START + V2_OCTETS, trio.socket.MSG_PEEK):
                await sock.recv(reader.receive_data(data))
        except OSError:
            raise trio.BrokenResourceError from None
        if not data:
            raise ProxyHeaderError("incomplete" if reader.began else NOTHING_SENT)
    return reader.header
