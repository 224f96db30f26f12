"""Servers in memory that are connected to by name: for tests of programs that call `connect`, `send` or use a `Pool`."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import count
from typing import TypeVar, overload

import trio
from attrs import asdict

from ..._client.connect import IMPLICIT_TLS_PORT
from ..._instrument import network_opener
from ..._server.server import Server
from ..._types import Peer
from ...protocol.arguments import check_type
from ...protocol.hosts import check_host, check_port
from .._faults.faults import Faults
from .._streams import bounded_stream_pair
from .memory import MemoryServer
from .server_setup import NAME, HooksOrServer, ServerSetup, set_up, stopping

#: A host name or IP address, with all of its ports or with one.
AddressT = TypeVar("AddressT", bound=str | tuple[str, int])

#: The first of the ports that clients with a ``local_address`` have.
FIRST_CLIENT_PORT = 49152


class _Network:
    """The servers of one network, by `lookup_name` of the host, and port; a port of None stands for all others."""

    def __init__(self, nursery: trio.Nursery, faults: Faults | None) -> None:
        self.servers: dict[tuple[str, int | None], Server] = {}
        self._nursery = nursery
        self._faults = faults
        self._client_ports = count(FIRST_CLIENT_PORT)

    async def open_stream(self, host: str, port: int, local_address: str | None) -> trio.abc.Stream:
        """Start a session of the server at this address, and return the client's end.

        Raises OSError as `trio.open_tcp_stream` does if the host is unknown, or if no server listens there.
        """
        await trio.lowlevel.checkpoint()
        name = lookup_name(host)
        server = self.servers.get((name, port)) or self.servers.get((name, None))
        if server is None and name not in {each for each, _ in self.servers}:
            raise socket.gaierror(socket.EAI_NONAME, "not a host of memory_network")
        if server is None or server._state.stopping:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        near, far = bounded_stream_pair()
        if local_address is not None:
            if not _is_ip_address(local_address):
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            far.endpoints = Peer(local_address, next(self._client_ports), "tcp"), far.endpoints[1]
        client_end: trio.abc.Stream = near
        server_end: trio.abc.Stream = far
        if self._faults is not None:
            self._faults.install(server)
            client_end = self._faults.wrap(near, side="client")
            server_end = self._faults.wrap(far, side="server")
        # RFC 8314 3.3: on port 465 the session begins with TLS.
        implicit_tls = port == IMPLICIT_TLS_PORT and server.tls is not None
        self._nursery.start_soon(_serve, server, server_end, implicit_tls)
        return client_end


async def _serve(server: Server, stream: trio.abc.Stream, implicit_tls: bool) -> None:
    with suppress(trio.ClosedResourceError):  # the server has been stopped meanwhile
        await server.serve_stream(stream, implicit_tls=implicit_tls)


def lookup_name(host: str) -> str:
    """Return the form of a host in which it is looked up, as the resolver of a system does.

    Names are in lower case and without the dot at the end of an absolute name, which answers of the DNS have (RFC 1034
    3.1); IP addresses are in their shortest form (RFC 5952).
    """
    return str(ipaddress.ip_address(host)) if _is_ip_address(host) else host.lower().removesuffix(".")


def _key(address: str | tuple[str, int]) -> tuple[str, int | None]:
    if not isinstance(address, str) and not (isinstance(address, tuple) and len(address) == 2):
        raise TypeError(f"each key of servers must be a host, or a tuple of host and port, got {address!r}")
    host, port = (address, None) if isinstance(address, str) else address
    return lookup_name(check_host(host, "host")), None if port is None else check_port(port, "port", minimum=1)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@overload
def memory_network(
    servers: Mapping[str | tuple[str, int], HooksOrServer],
    *,
    faults: Faults | None = None,
    raise_hook_errors: bool = True,
) -> AbstractAsyncContextManager[dict[str | tuple[str, int], MemoryServer]]: ...
@overload
def memory_network(
    servers: Mapping[AddressT, HooksOrServer], *, faults: Faults | None = None, raise_hook_errors: bool = True
) -> AbstractAsyncContextManager[dict[AddressT, MemoryServer]]: ...
@asynccontextmanager
async def memory_network(
    servers: Mapping[AddressT, HooksOrServer],
    *,
    faults: Faults | None = None,
    raise_hook_errors: bool = True,
) -> AsyncGenerator[dict[AddressT, MemoryServer]]:
    """Let `connect`, `send` and `Pool` connect to servers in memory, by host name, for ``async with``.

    ``servers`` are the servers, or their hooks as for `open_memory_server`, by host, or by host and port:
    ``memory_network({"mx.example.org": inbox, ("desk.example", 587): Server(Desk())})``. Servers that are made for
    hooks have the host name as their name. A server with TLS begins sessions with it on port 465. One server, or one object
    with hooks, may have several addresses. Yields a `MemoryServer` for each address.

    All tasks of this `trio.run` are affected, and other hosts cannot be connected to: that raises
    `ConnectionLostError`, as does a port without a server, or one whose server was stopped. Paths of Unix sockets are
    left alone. A client's ``local_address`` is its address as the server sees it. ``faults`` act on all connections,
    and on those of `MemoryServer.client`. Time may be virtual. The servers stop at the end of the block, which raises
    what `open_memory_server` raises.
    """
    check_type(servers, "servers", Mapping)
    check_type(faults, "faults", Faults, optional=True)
    check_type(raise_hook_errors, "raise_hook_errors", bool)
    if not servers:
        raise ValueError("servers is empty: memory_network needs at least one server")
    keys = {address: _key(address) for address in servers}
    setups: dict[int, ServerSetup] = {}
    for address, hooks in servers.items():
        if id(hooks) not in setups:
            host = keys[address][0]
            name = NAME if _is_ip_address(host) else host
            setups[id(hooks)] = set_up(hooks, {"raise_hook_errors": raise_hook_errors}, name=name)
    async with stopping(*setups.values()) as nursery:
        network = _Network(nursery, faults)
        made: dict[AddressT, MemoryServer] = {}
        for address, hooks in servers.items():
            setup = setups[id(hooks)]
            network.servers[keys[address]] = setup.server
            made[address] = MemoryServer(**asdict(setup, recurse=False), faults=faults, nursery=nursery)
        token = network_opener.set(network.open_stream)
        try:
            yield made
        finally:
            network_opener.reset(token)
