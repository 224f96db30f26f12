"""Peers that the kernel ignores: real sockets, whose clients have different addresses of the loopback network."""

from __future__ import annotations

import ipaddress
import logging
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import Limits, Server
from smtp_trio._server import screening, syn_filter
from smtp_trio._server.syn_filter import MAX_PEERS, SynFilter, attach, detach, program

NAME = "mx.test"


@contextmanager
def listening(host: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, 0))
        sock.listen()
        yield sock


@contextmanager
def connecting(source: str, port: int, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A client that has sent the first packet. The kernel has handled it when `connect_ex` returns."""
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as sock:
        sock.setblocking(False)
        sock.bind((source, 0))
        sock.connect_ex((host, port))
        yield sock


def is_connected(sock: socket.socket) -> bool:
    _, writable, _ = select.select([], [sock], [], 0)
    return bool(writable)


def connects(source: str, port: int, host: str = "127.0.0.1") -> bool:
    with connecting(source, port, host) as sock:
        return is_connected(sock)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::"])
def test_connections_of_an_ipv4_address_are_ignored(host: str) -> None:
    addresses = [ipaddress.ip_address(each) for each in ("2001:db8::1", "192.0.2.1", "127.0.0.2", "198.51.100.1")]
    try:
        with listening(host) as sock:
            port = sock.getsockname()[1]
            with connecting("127.0.0.2", port) as client, closing(sock.accept()[0]) as before:
                assert attach(sock, program(addresses))
                assert not connects("127.0.0.2", port)
                assert connects("127.0.0.1", port)
                assert connects("127.0.0.3", port)
                client.send(b"what is sent on an open connection arrives")
                assert before.recv(100) == b"what is sent on an open connection arrives"
            assert detach(sock)
            assert not detach(sock)
            assert connects("127.0.0.2", port)
    except OSError as error:
        if host != "::":
            raise
        pytest.skip(f"no IPv6 here: {error}")


def test_connections_of_an_ipv6_network_are_ignored() -> None:
    try:
        with listening("::1") as sock:
            port = sock.getsockname()[1]
            assert attach(sock, program([ipaddress.ip_address("2001:db8::"), ipaddress.ip_address("127.0.0.1")]))
            assert connects("::1", port, "::1")
            assert attach(sock, program([ipaddress.ip_address("2001:db8::"), ipaddress.ip_address("::2:0:0:0")]))
            assert not connects("::1", port, "::1")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_connections_of_many_peers_are_ignored() -> None:
    with listening("127.0.0.1") as sock:
        addresses = [ipaddress.ip_address(f"127.0.1.{number}") for number in range(MAX_PEERS)]
        addresses += [ipaddress.ip_address(f"2001:db8:{number}::1") for number in range(MAX_PEERS)]
        assert attach(sock, program(addresses))
        for source, expected in (("127.0.1.0", False), (f"127.0.1.{MAX_PEERS - 1}", False), ("127.0.2.1", True)):
            assert connects(source, sock.getsockname()[1]) == expected


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, int]]:
    server = Server(name=NAME, limits=Limits(per_peer=1, count_local=True))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(server.serve, 0, "127.0.0.1")
        yield server, listeners[0].socket.getsockname()[1]
        await server.stop(0)


async def greeting(source: str, port: int) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=source)
    async with stream:
        return bytes(await stream.receive_some())


@pytest.fixture
def three_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer is ignored after its third refusal in a minute."""
    monkeypatch.setattr(screening, "MAX_REFUSED", 3)


@pytest.mark.usefixtures("three_refusals")
async def test_peer_that_goes_on_connecting_is_ignored_until_the_end_of_the_minute(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    async with serving() as (server, port):
        first = await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2")
        assert (await first.receive_some()).startswith(b"220 ")
        for _ in range(3):
            assert (await greeting("127.0.0.2", port)).startswith(b"421 ")
        with connecting("127.0.0.2", port) as client:
            assert (await greeting("127.0.0.3", port)).startswith(b"220 ")
            assert not is_connected(client)
        await first.send_all(b"NOOP\r\n")
        assert (await first.receive_some()).startswith(b"250 ")
        await first.aclose()
        mock_clock.jump(60)
        await wait_all_tasks_blocked()
        assert (await greeting("127.0.0.2", port)).startswith(b"220 ")
    ignored = [
        record.__dict__["fields"] for record in caplog.records if record.__dict__["event"] == "connections_ignored"
    ]
    assert [fields["peer"].partition(":")[0] for fields in ignored] == ["127.0.0.2"]
    assert server.statistics().connections_refused == 3


@pytest.mark.usefixtures("three_refusals")
async def test_without_permission_for_a_filter_connections_are_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    monkeypatch.setattr(syn_filter, "SO_ATTACH_FILTER", 0x7FFF)
    async with serving() as (server, port), await trio.open_tcp_stream("127.0.0.1", port) as first:
        assert (await first.receive_some()).startswith(b"220 ")
        for _ in range(6):
            assert (await greeting("127.0.0.1", port)).startswith(b"421 ")
    assert server.statistics().connections_refused == 6
    assert "connections_ignored" not in [record.__dict__["event"] for record in caplog.records]


@pytest.mark.usefixtures("three_refusals")
async def test_socket_that_outlives_the_server_has_no_filter() -> None:
    """Nor has one that a process that was killed has left with a filter."""
    with listening("127.0.0.1") as sock:
        port = sock.getsockname()[1]
        attach(sock, program([ipaddress.ip_address("127.0.0.2")]))
        sock.setblocking(False)
        server = Server(name=NAME, limits=Limits(per_peer=1, count_local=True))
        async with trio.open_nursery() as nursery:
            await nursery.start(
                server.serve_listeners, [trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup()))]
            )
            await wait_all_tasks_blocked()
            assert (await greeting("127.0.0.2", port)).startswith(b"220 ")
            async with await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.3") as first:
                assert (await first.receive_some()).startswith(b"220 ")
                for _ in range(3):
                    assert (await greeting("127.0.0.3", port)).startswith(b"421 ")
                assert not connects("127.0.0.3", port)
            await server.stop(0)
        assert connects("127.0.0.3", port)


async def test_number_of_ignored_peers_is_limited(mock_clock: MockClock) -> None:
    found = SynFilter()
    with listening("127.0.0.1") as sock:
        async with found.on([sock]):
            for number in range(MAX_PEERS):
                assert found.discard(f"192.0.2.{number}", 60)
                assert not found.discard(f"192.0.2.{number}", 60)
            assert not found.discard("198.51.100.1", 60)
            await wait_all_tasks_blocked()
            mock_clock.jump(61)
            await wait_all_tasks_blocked()
            assert found.discard("fe80::1%lo", 120)
