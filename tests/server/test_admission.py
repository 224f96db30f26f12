"""Limits on connections: how many a client may open in a minute, which clients are counted, and what a refusal costs."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import NAME, Client, RecordingHooks, listening, server_tls
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Limits, Peer, Server
from smtp_trio._server import admission, screening

REFUSAL = f"421 {NAME} Too many connections; try again later"


def records(log: pytest.LogCaptureFixture) -> list[tuple[str, Any, Any]]:
    """Return the records about refused connections."""
    return [
        (record.__dict__["event"], record.__dict__["fields"]["peer"], record.__dict__["fields"].get("count"))
        for record in log.records
        if "connections" in getattr(record, "event", "")
    ]


async def connects(server: Server, host: str) -> bool:
    """Open a connection from this address, and close it. Return whether it was accepted."""
    client_end, server_end = memory_stream_pair()
    server_end.endpoints = Peer(host, 4000, "tcp"), Peer("192.0.2.25", 25, "tcp")  # type: ignore[attr-defined]
    client = Client(client_end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, server_end)
        greeting = await client.reply()
        await client_end.aclose()
    assert greeting in (REFUSAL, f"220 {NAME} ESMTP")
    return greeting != REFUSAL


async def test_connections_in_a_minute(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=3))
    assert [await connects(server, "192.0.2.1") for _ in range(5)] == [True] * 3 + [False] * 2
    assert await connects(server, "192.0.2.2")
    assert [await connects(server, f"2001:db8::{n}") for n in range(1, 5)] == [True] * 3 + [False]
    await trio.sleep(59)
    assert not await connects(server, "192.0.2.1")
    assert records(caplog) == [
        ("too_many_connections", "192.0.2.1:4000", None),
        ("too_many_connections", "[2001:db8::4]:4000", None),
    ]
    await trio.sleep(1)
    assert [await connects(server, "192.0.2.1") for _ in range(4)] == [True] * 3 + [False]
    assert records(caplog)[2:] == [
        ("connections_omitted", "192.0.2.1", 2),
        ("too_many_connections", "192.0.2.1:4000", None),
    ]
    assert server.statistics().connections_refused == 5


async def test_clients_on_this_host_are_not_counted(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=1))
    assert [await connects(server, "127.0.0.1") for _ in range(3)] == [True] * 3


async def test_clients_on_this_host_are_counted_if_configured(autojump_clock: MockClock) -> None:
    """Each loopback address is a client of its own."""
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=1, count_local=True))
    assert [await connects(server, host) for host in ("127.0.0.1", "127.0.0.1", "::1", "127.0.0.2")] == [
        True, False, True, True,
    ]  # fmt: skip


async def test_tables_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Clients beyond the size of a table are not limited in this minute, or have one record together."""
    monkeypatch.setattr(admission, "MAX_PEERS", 2)
    monkeypatch.setattr(admission, "MAX_LOGGED", 1)
    caplog.set_level(logging.INFO, "smtp_trio")
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=1))
    for served in (True, False, False):
        for host in ("192.0.2.1", "192.0.2.2"):
            assert await connects(server, host) == served
    for _ in range(2):
        assert await connects(server, "192.0.2.3")
    await trio.sleep(60)
    assert await connects(server, "192.0.2.3")
    assert records(caplog) == [
        ("too_many_connections", "192.0.2.1:4000", None),
        ("too_many_connections", "192.0.2.2:4000", None),
        ("connections_omitted", "192.0.2.1", 1),
        ("connections_omitted", None, 1),
    ]


# --- sockets ----------------------------------------------------------------------------------------------------------


def greeting(address: Any, family: socket.AddressFamily = socket.AF_INET) -> bytes:
    """Connect, and return what the server sends until it closes the connection, or its first line."""
    with socket.socket(family) as sock:
        sock.connect(address)
        received = b""
        while not received.startswith(b"220 ") and (more := sock.recv(1000)):
            received += more
        return received


async def test_refusal_of_a_socket(caplog: pytest.LogCaptureFixture) -> None:
    """No session is made for it, and the connection is closed."""
    caplog.set_level(logging.INFO, "smtp_trio")
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, limits=Limits(connections_per_minute=2, count_local=True))
    async with listening(server) as port:
        found = [await trio.to_thread.run_sync(greeting, ("127.0.0.1", port)) for _ in range(4)]
        assert found == [f"220 {NAME} ESMTP\r\n".encode()] * 2 + [f"{REFUSAL}\r\n".encode()] * 2
        assert server.statistics().connections_refused == 2
        await server.stop(0)
    assert len(hooks.sessions) == 2
    assert [(event, count) for event, _, count in records(caplog)] == [
        ("too_many_connections", None),
        ("connections_omitted", 1),
    ], "the second is written at the latest when the server stops"


async def test_only_the_first_refusals_in_a_minute_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "MAX_ANSWERED", 2)
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=0, count_local=True))
    async with listening(server) as port:
        found = [await trio.to_thread.run_sync(greeting, ("127.0.0.1", port)) for _ in range(4)]
    assert found == [f"{REFUSAL}\r\n".encode()] * 2 + [b""] * 2


async def test_refusal_with_implicit_tls_is_a_close() -> None:
    """A handshake, only to send the 421, would cost more than a session."""
    server = Server(
        RecordingHooks(), name=NAME, tls=server_tls(), limits=Limits(connections_per_minute=0, count_local=True)
    )
    async with listening(server, implicit_tls=True) as port:
        assert await trio.to_thread.run_sync(greeting, ("127.0.0.1", port)) == b""


async def test_unix_socket_is_counted_if_configured(short_path: Path) -> None:
    sock = trio.socket.socket(socket.AF_UNIX)
    path = str(short_path / "smtp")
    await sock.bind(path)
    sock.listen()
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=1, count_local=True))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [trio.SocketListener(sock)])
        found = [await trio.to_thread.run_sync(greeting, path, socket.AF_UNIX) for _ in range(2)]
        assert found == [f"220 {NAME} ESMTP\r\n".encode(), f"{REFUSAL}\r\n".encode()]
        await server.stop(0)


async def test_sockets_accepted_at_once_are_counted_before_they_become_sessions() -> None:
    """Several connections are accepted in a row before the first of them is a session."""
    server = Server(RecordingHooks(), name=NAME, limits=Limits(per_peer=2, count_local=True))
    async with trio.open_nursery() as nursery:
        listener = socket.create_server(("127.0.0.1", 0))
        clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        wrapped = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        await nursery.start(server.serve_listeners, [wrapped])
        found = [(await trio.to_thread.run_sync(client.recv, 100))[:3] for client in clients]
        assert sorted(found) == [b"220"] * 2 + [b"421"] * 3
        await server.stop(0)
        for client in clients:
            client.close()
