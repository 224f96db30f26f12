"""Connections from load balancers, which begin with a PROXY header."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from helpers import NAME, Client, RecordingHooks, client_tls, connect_tcp, listening, server_tls
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Hooks, Limits, Peer, Reply, Server, Session, Timeouts
from smtp_trio._server import proxies
from smtp_trio._server.peers import GONE
from smtp_trio.protocol.proxy_header import ProxyHeader, ProxyTls

BALANCER = "10.0.0.1"
CLIENT, SERVER = ("192.0.2.9", 4242), ("192.0.2.1", 25)
V1 = ProxyHeader(CLIENT, SERVER, version=1).encode()
V2 = ProxyHeader(CLIENT, SERVER, tls=ProxyTls(1, 0, "TLSv1.3"), checksum=True).encode()
LOCAL = ProxyHeader(local=True).encode()
UNKNOWN = ProxyHeader(version=1).encode()


def make_server(hooks: Hooks | None = None, **options: Any) -> Server:
    return Server(hooks or RecordingHooks(), name=NAME, proxy_from=["10.0.0.0/8"], **options)


@asynccontextmanager
async def connected_from(server: Server, host: str = BALANCER, *, implicit_tls: bool = False) -> AsyncGenerator[Client]:
    """Run a session over a stream in memory whose peer has this address."""
    client_end, server_end = memory_stream_pair()
    server_end.endpoints = Peer(host, 5000, "tcp"), Peer("10.0.0.2", 25, "tcp")  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.serve_stream(server_end, implicit_tls=implicit_tls))
        client = Client(client_end)
        yield client
        await trio.aclose_forcefully(client.stream)


def records(log: pytest.LogCaptureFixture, *events: str) -> list[tuple[Any, ...]]:
    """Return the values of the records of these events."""
    found = [record.__dict__ for record in log.records if getattr(record, "event", None) in events]
    return [(each["levelname"], *each["fields"].values()) for each in found]


async def test_session_has_the_addresses_of_the_header(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks)) as client:
        await client.send(V2)
        await client.hello()
        await client.deliver()
        (session,) = hooks.sessions
        assert session.peer == Peer(*CLIENT, "tcp")
        assert session.local == Peer(*SERVER, "tcp")
        assert session.connection_peer == Peer(BALANCER, 5000, "tcp")
        assert session.proxy_header is not None
        assert session.proxy_header.tls == ProxyTls(1, 0, "TLSv1.3")
        assert b"from client.test (unknown [192.0.2.9])" in session.received()
        await client.quit()
    assert records(caplog, "client_address") == [
        ("INFO", session.id, "192.0.2.9:4242", "10.0.0.1:5000", "PROXY header"),
    ]
    (accepted,) = records(caplog, "accepted")
    assert "192.0.2.9:4242" in accepted


@pytest.mark.parametrize("header", [UNKNOWN, LOCAL, ProxyHeader().encode()])
async def test_header_without_addresses(header: bytes) -> None:
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks)) as client:
        await client.send(header)
        await client.hello()
        (session,) = hooks.sessions
        assert session.peer == session.connection_peer == Peer(BALANCER, 5000, "tcp")
        assert session.local == Peer("10.0.0.2", 25, "tcp")


@pytest.mark.parametrize(
    ("ends", "peer"),
    [
        ((("::ffff:192.0.2.9", 4242), ("::1", 25)), Peer("192.0.2.9", 4242, "tcp")),
        ((("2001:db8::9", 4242), ("::1", 25)), Peer("2001:db8::9", 4242, "tcp")),
        ((("/run/client", None), ("/run/server", None)), Peer("", None, "unix")),
    ],
)
async def test_peer_of_other_families(ends: Any, peer: Peer) -> None:
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks)) as client:
        await client.send(ProxyHeader(*ends).encode())
        await client.hello()
        assert hooks.sessions[0].peer == peer


async def test_connection_from_elsewhere_needs_no_header() -> None:
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks), "192.0.2.7") as client:
        await client.hello()
        (session,) = hooks.sessions
        assert session.peer == session.connection_peer == Peer("192.0.2.7", 5000, "tcp")
        assert session.proxy_header is None


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("header", [V1, V2, LOCAL])
@pytest.mark.parametrize("server", [make_server(), Server(RecordingHooks(), name=NAME)])
async def test_header_from_elsewhere_is_not_believed(
    server: Server, header: bytes, early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends the session without a reply: a balancer that is not configured, or a client that pretends to be one."""
    caplog.set_level(logging.INFO, "smtp_trio")
    async with connected_from(server, "192.0.2.7") as client:
        if early:
            await client.send(header + b"EHLO client.test\r\n")
        await client.expect("220")
        if not early:
            await client.send(header)
        await client.expect_end()
    ((level, _, peer),) = records(caplog, "client_address", "unexpected_proxy_header")
    assert (level, peer) == ("INFO", "192.0.2.7:5000")


async def test_second_header_ends_the_session() -> None:
    async with connected_from(make_server()) as client:
        await client.send(V1 + V1)
        await client.expect("220")
        await client.expect_end()


async def test_untrusted_header_has_no_response(caplog: pytest.LogCaptureFixture) -> None:
    replies: list[int] = []

    class Recorder(RecordingHooks):
        async def response(self, session: Session, reply: Reply) -> None:
            replies.append(reply.code)

    async with connected_from(make_server(Recorder()), "192.0.2.7") as client:
        await client.expect("220")
        await client.send(V1)
        await client.expect_end()
    assert replies == [220]


@pytest.mark.parametrize("header", [V1, V2])
async def test_octets_after_the_header_are_kept(header: bytes) -> None:
    """A client that does not wait for the greeting is tolerated."""
    async with connected_from(make_server()) as client:
        await client.send(header + b"EHLO client.test\r\nNOOP\r\n")
        await client.expect("220", "250-", "250 2.0.0 Ok")


@pytest.mark.parametrize("header", [V1, V2, LOCAL])
async def test_header_comes_before_implicit_tls(header: bytes) -> None:
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks, tls=server_tls()), implicit_tls=True) as client:
        await client.send(header)
        await client.handshake()
        await client.hello()
        assert hooks.sessions[0].tls is not None
        assert hooks.sessions[0].proxy_header is not None


@pytest.mark.parametrize("host", [BALANCER, "192.0.2.7"])
async def test_header_after_the_handshake_of_implicit_tls(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is the second one of a balancer, or that of a client that pretends to be one."""
    caplog.set_level(logging.INFO, "smtp_trio")
    async with connected_from(make_server(tls=server_tls()), host, implicit_tls=True) as client:
        if host == BALANCER:
            await client.send(LOCAL)
        await client.handshake()
        await client.expect("220")
        await client.send(V2)
        await client.expect_end()
    assert [values[2] for values in records(caplog, "unexpected_proxy_header")] == [f"{host}:5000"]
    assert records(caplog, "client_address") == []


async def test_untrusted_header_before_implicit_tls() -> None:
    """No octets of SMTP are sent, only perhaps an alert."""
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks, tls=server_tls()), "192.0.2.7", implicit_tls=True) as client:
        await client.send(V1 + b"EHLO client.test\r\n")
        received = b""
        while data := await client.stream.receive_some():
            received += data
    assert b"220" not in received
    assert hooks.sessions == []


async def test_header_inside_of_tls() -> None:
    """A stream that is encrypted already begins with the header, as any other one does."""
    client_end, server_end = memory_stream_pair()
    server_end.endpoints = Peer(BALANCER, 5000, "tcp"), Peer("10.0.0.2", 25, "tcp")  # type: ignore[attr-defined]
    hooks = RecordingHooks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make_server(hooks).serve_stream, trio.SSLStream(server_end, server_tls(), server_side=True))
        client = Client(trio.SSLStream(client_end, client_tls(), server_hostname=NAME))
        await client.send(V2)
        await client.hello()
        assert hooks.sessions[0].peer.host == "192.0.2.9"
        await trio.aclose_forcefully(client.stream)


@pytest.mark.parametrize("header", [V1, V2])
async def test_header_over_tcp(header: bytes) -> None:
    """In any two pieces, with the next octets in the segment of the second one."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, proxy_from=["127.0.0.1"])
    async with listening(server) as port:
        for cut in range(len(header)):
            async with connect_tcp(port) as client:
                await client.send(header[:cut])
                await client.send(header[cut:] + b"EHLO client.test\r\n")
                await client.expect("220", "250-")
    assert [session.peer for session in hooks.sessions] == [Peer(*CLIENT, "tcp")] * len(header)


async def test_header_over_tcp_before_implicit_tls() -> None:
    """The ClientHello is in the same segment as the header."""
    server = Server(RecordingHooks(), name=NAME, proxy_from=["127.0.0.1"], tls=server_tls())
    async with listening(server, implicit_tls=True) as port, connect_tcp(port) as client:
        plain = client.stream
        assert isinstance(plain, trio.SocketStream)
        own, other = memory_stream_pair()
        client.stream = trio.SSLStream(trio.StapledStream(own.send_stream, plain), client_tls(), server_hostname=NAME)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stream.do_handshake)
            await plain.send_all(V2 + await other.receive_some())
            nursery.start_soon(_copy, other, plain)
            await client.hello()
            nursery.cancel_scope.cancel()


async def _copy(source: trio.abc.ReceiveStream, target: trio.abc.SendStream) -> None:
    async for data in source:
        await target.send_all(data)


async def test_unix_socket(short_path: Any) -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, proxy_from=["unix"])
    path = str(short_path / "socket")
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    listener = trio.SocketListener(sock)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve_listeners([listener], task_status=task_status))
        client = Client(await trio.open_unix_socket(path))
        await client.send(V1)
        await client.hello()
        assert hooks.sessions[0].peer.host == "192.0.2.9"
        assert hooks.sessions[0].connection_peer.kind == "unix"
        await client.quit()
        await client.stream.aclose()
        await server.stop()


# --- no valid header ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit_tls", [True, False])
@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (b"EHLO client.test\r\n", "no PROXY header"),
        (b"\x16\x03\x01\x02", "no PROXY header"),
        (b"PROXY TCP4 192.0.2.9 192.0.2.1 99999 25\r\n", "version 1: malformed line"),
        (b"PROXY UNKNOWN ".ljust(107, b"1"), "no CRLF within 107 octets"),
        (b"PROXY UNKNOWN ".ljust(106, b"1"), "not received within 5 seconds"),
        (b"PROXY TCP4 192.0.2.9 192.0.2.1 4242 25\n", "version 1: malformed line"),
        (V2.replace(b"TLSv1.3", b"TLSv1.2"), "version 2: wrong checksum"),
        (V2[:12] + b"\x21\x11\0\0", "version 2: too short for its addresses"),
        (V2[:12] + b"\x21\x21\0\x0c" + bytes(12), "version 2: too short for its addresses"),
        (V2[:12] + b"\x21\x11\xff\xff", "version 2: more than 4096 octets announced"),
        (V2[:12] + b"\x20\0\x10\x01", "version 2: more than 4096 octets announced"),
        (V2[:12] + b"\x21\x11\0\x0f" + bytes(12) + b"\x30\xff\xff", "version 2: incomplete value"),
        (V2[:12] + b"\x20\0\x10\0" + bytes(4095), "not received within 5 seconds"),
        (b"PROXY TCP4", "not received within 5 seconds"),
        (V2[:-1], "not received within 5 seconds"),
        (b"", "not received within 5 seconds"),
    ],
)
async def test_connection_without_a_valid_header_is_closed_without_a_reply(
    octets: bytes, problem: str, implicit_tls: bool, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    hooks = RecordingHooks()
    server = make_server(hooks, tls=server_tls())
    start = trio.current_time()
    async with connected_from(server, implicit_tls=implicit_tls) as client:
        if octets:
            await client.send(octets)
        await client.expect_end()
    assert trio.current_time() - start == (5 if "5 seconds" in problem else 0)
    assert records(caplog, "no_proxy_header") == [("INFO", "10.0.0.1:5000", problem, 0)]
    assert (hooks.sessions, hooks.errors) == ([], [])
    assert (server.statistics().connections_refused, server.statistics().sessions_total) == (1, 0)


async def test_time_for_the_header(autojump_clock: MockClock) -> None:
    server = make_server(timeout=Timeouts(proxy=2))
    start = trio.current_time()
    async with connected_from(server) as client:
        for octet in V1[:10]:
            await client.send(bytes([octet]))
            await trio.sleep(0.19)
        await client.expect_end()
    assert trio.current_time() - start == 2


@pytest.mark.parametrize(
    ("octets", "level", "problem"),
    [(b"", "DEBUG", "closed before it sent anything"), (V2[:20], "INFO", "incomplete")],
)
async def test_client_that_leaves_before_the_header(
    octets: bytes, level: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Some balancers check a server by opening a connection and closing it."""
    caplog.set_level(logging.DEBUG, "smtp_trio")
    client_end, server_end = memory_stream_pair()
    server_end.endpoints = Peer(BALANCER, 5000, "tcp"), Peer("10.0.0.2", 25, "tcp")  # type: ignore[attr-defined]
    await client_end.send_all(octets)
    await client_end.aclose()
    await make_server().serve_stream(server_end)
    assert records(caplog, "no_proxy_header") == [(level, "10.0.0.1:5000", problem, 0)]


async def test_records_about_headers_are_few(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    server = make_server()

    async def attempt(octets: bytes) -> None:
        async with connected_from(server) as client:
            await client.send(octets)
            await client.expect_end()

    for _ in range(5):
        await attempt(b"EHLO")
        await attempt(b"PROXY X\r\n")
    await trio.sleep(60)
    await attempt(b"EHLO")
    assert [values[2:] for values in records(caplog, "no_proxy_header")] == [
        ("no PROXY header", 0),
        ("version 1: malformed line", 0),
        ("no PROXY header", 4),
    ]
    assert server.statistics().connections_refused == 11


async def test_connections_that_wait_for_a_header_are_limited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(proxies, "MAX_WAITING", 2)
    caplog.set_level(logging.INFO, "smtp_trio")
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, proxy_from=["127.0.0.1"])
    async with listening(server) as port, connect_tcp(port) as first, connect_tcp(port) as second:
        while len(server._proxies._waiting) < 2:
            await trio.lowlevel.checkpoint()
        async with connect_tcp(port) as third:
            await third.expect_end()
        await first.send(V1)
        await first.hello()
        async with connect_tcp(port) as fourth:
            await fourth.send(V1)
            await fourth.hello()
        await second.send(V1)
        await second.hello()
    assert [values[2] for values in records(caplog, "no_proxy_header")] == ["2 other connections wait for theirs"]


async def test_stream_that_fails(autojump_clock: MockClock) -> None:
    """An exception that no Trio stream raises is reported."""
    hooks = RecordingHooks()

    async def fail() -> None:
        raise RuntimeError("disk on fire")

    client_end, server_end = memory_stream_pair()
    server_end.endpoints = Peer(BALANCER, 5000, "tcp"), Peer("10.0.0.2", 25, "tcp")  # type: ignore[attr-defined]
    server_end.receive_stream.receive_some_hook = fail
    await make_server(hooks).serve_stream(server_end)
    assert list(map(str, hooks.errors)) == ["disk on fire"]
    assert await client_end.receive_some() == b""


@pytest.mark.parametrize("waits", [True, False])
async def test_connection_that_is_reset(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Some health checks end so, perhaps before the server has read the address of the peer. There is no session."""
    caplog.set_level(logging.DEBUG, "smtp_trio")
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, proxy_from=["127.0.0.1"])
    async with listening(server) as port:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.send(b"PROXY")
            if waits:
                await trio.testing.wait_all_tasks_blocked(0.01)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        while not records(caplog, "no_proxy_header"):
            await trio.lowlevel.checkpoint()
    assert [(values[0], values[2]) for values in records(caplog, "no_proxy_header")] == [
        ("DEBUG", "the connection was lost")
    ]
    assert hooks.sessions == []


def reset(sock: socket.socket) -> None:
    """Close the connection with RST, so that the server can no longer ask for the address of the peer."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


@pytest.mark.parametrize("trusted", [True, False])
async def test_header_of_a_peer_that_resets_the_connection_at_once(
    trusted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The address that accept() has returned decides."""
    caplog.set_level(logging.DEBUG, "smtp_trio")
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, proxy_from=["127.0.0.1" if trusted else "10.0.0.1"])
    async with listening(server) as port:
        sock = socket.create_connection(("127.0.0.1", port))
        host, number = sock.getsockname()
        sock.send(V1 + b"EHLO client.test\r\n")
        reset(sock)
        while not records(caplog, "no_proxy_header", "disconnected"):
            await trio.lowlevel.checkpoint()
    assert all(session.proxy_header is None or trusted for session in hooks.sessions)
    assert all(session.connection_peer == Peer(host, number, "tcp") for session in hooks.sessions)
    assert bool(records(caplog, "no_proxy_header")) is (trusted and not hooks.sessions)


async def test_stream_whose_peer_is_not_known(caplog: pytest.LogCaptureFixture) -> None:
    """The application has accepted the connection, so that the address cannot be read."""
    caplog.set_level(logging.DEBUG, "smtp_trio")
    hooks = RecordingHooks()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        sock.send(V1 + b"EHLO client.test\r\n")
        reset(sock)
        accepted, _ = listener.accept()
        await make_server(hooks).serve_stream(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
    assert hooks.sessions == []
    assert records(caplog, "no_proxy_header") == [("DEBUG", "0.0.0.0:0", "the connection was lost", 0)]


async def test_stop_does_not_wait_for_headers(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    server = make_server()
    async with connected_from(server) as client:
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        await server.stop()
        assert trio.current_time() == start
        await client.expect_end()
    assert records(caplog, "no_proxy_header") == []


async def test_cancellation_closes_the_stream() -> None:
    client_end, server_end = memory_stream_pair()
    server_end.endpoints = Peer(BALANCER, 5000, "tcp"), Peer("10.0.0.2", 25, "tcp")  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make_server().serve_stream, server_end)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await client_end.receive_some() == b""


# --- limits and health checks -------------------------------------------------------------------------------------


def header_of(host: str) -> bytes:
    return ProxyHeader((host, 4242), SERVER).encode()


async def greeting(server: Server, header: bytes) -> str:
    async with connected_from(server) as client:
        await client.send(header)
        return await client.reply()


async def test_connections_in_a_minute_are_those_of_the_client(autojump_clock: MockClock) -> None:
    server = make_server(limits=Limits(connections_per_minute=2))
    hosts = ["192.0.2.1"] * 3 + ["192.0.2.2"]
    replies = [await greeting(server, header_of(host)) for host in hosts]
    assert [reply[:3] for reply in replies] == ["220", "220", "421", "220"]
    assert (await greeting(server, LOCAL)).startswith("220")


async def test_open_sessions_are_those_of_the_client() -> None:
    server = make_server(limits=Limits(per_peer=1))
    async with connected_from(server) as client:
        await client.send(header_of("192.0.2.1"))
        await client.hello()
        assert (await greeting(server, header_of("192.0.2.1"))).startswith("421")
        assert (await greeting(server, header_of("192.0.2.2"))).startswith("220")
    assert (await greeting(server, header_of("192.0.2.1"))).startswith("220")


async def test_many_refused_connections_of_a_client_are_only_closed(autojump_clock: MockClock) -> None:
    server = make_server(limits=Limits(per_peer=0))
    replies = 0
    for _ in range(103):
        async with connected_from(server) as client:
            await client.send(V1)
            try:
                await client.expect("421")
                replies += 1
            except EOFError:
                pass
    assert replies == 100


async def test_failed_logins_are_those_of_the_client(autojump_clock: MockClock) -> None:
    class Accounts(RecordingHooks):
        async def auth(self, session: Session, credentials: Any) -> Reply:
            return Reply(535, "no")

    limits = Limits(auth_failures_per_peer=1)
    server = make_server(Accounts(), limits=limits, tls=server_tls())

    async def log_in(host: str) -> str:
        async with connected_from(server, implicit_tls=True) as client:
            await client.send(header_of(host))
            await client.handshake()
            await client.hello()
            return await client.command("AUTH PLAIN AGEAYg==", "")

    assert [(await log_in(host))[:3] for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2")] == ["535", "421", "535"]


@pytest.mark.parametrize("ends", [pytest.param(False, id="left open"), pytest.param(True, id="closed")])
@pytest.mark.parametrize(
    "header", [LOCAL, UNKNOWN, ProxyHeader((BALANCER, 5000), ("10.0.0.2", 25), version=1).encode()]
)
async def test_health_checks(
    header: bytes, ends: bool, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """They are served whatever the limits for a client are, and there are no records about them."""
    caplog.set_level(logging.INFO, "smtp_trio")
    server = make_server(limits=Limits(sessions=2, per_peer=1, connections_per_minute=1), timeout=60)
    async with connected_from(server) as client:
        await client.send(V1)
        await client.hello()
        for _ in range(3):
            async with connected_from(server) as check:
                await check.send(header)
                await check.hello()
                if ends:
                    await check.quit()
        await client.quit()
    assert {record.__dict__["event"] for record in caplog.records} == {"client_address", "no_message"}
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "header", [V1, LOCAL, UNKNOWN, ProxyHeader().encode(), ProxyHeader((BALANCER, 5000), ("10.0.0.2", 25)).encode()]
)
@pytest.mark.parametrize("limit", ["sessions", "memory"])
async def test_limits_of_the_server_apply_to_all_headers(header: bytes, limit: str) -> None:
    """Otherwise the clients that a balancer cannot name would not be limited by anything."""
    server = make_server(limits=Limits(sessions=1) if limit == "sessions" else Limits(memory=1048576))
    async with connected_from(server) as client:
        await client.send(header_of("192.0.2.1"))
        await client.hello()
        if limit == "memory":
            server._state.memory.used += 1048576
        assert (await greeting(server, header)).startswith("421")
        if limit == "memory":
            server._state.memory.used -= 1048576
    assert (await greeting(server, header)).startswith("220")
    assert server.statistics().limits_reached == {limit: 1}


@pytest.mark.parametrize(
    ("header", "offered"),
    [
        (V1, False),
        (LOCAL, True),
        (ProxyHeader((BALANCER, 5000), ("10.0.0.2", 25), version=1).encode(), True),
        (header_of("10.0.0.7"), True),
        (UNKNOWN, False),
        (ProxyHeader().encode(), False),
    ],
)
async def test_xclient_after_a_header(header: bytes, offered: bool) -> None:
    """A client that the balancer cannot name is not the balancer, although its session has that address."""
    async with connected_from(make_server(xclient_from=["10.0.0.0/8"], xforward_from=["10.0.0.0/8"])) as client:
        await client.send(header)
        reply = await client.hello()
        assert ("XCLIENT" in reply, "XFORWARD" in reply) == (offered, offered)
        if offered:
            client.replies.clear()
        await client.command("XCLIENT ADDR=192.0.2.9", f"220 {NAME}" if offered else "550 5.7.0 ")


async def test_health_check_of_a_port_with_implicit_tls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    async with connected_from(make_server(tls=server_tls()), implicit_tls=True) as check:
        await check.send(LOCAL)
    assert caplog.records == []


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("networks", "error", "message"),
    [
        ("10.0.0.0/8", TypeError, "proxy_from must be an iterable of networks, got '10.0.0.0/8'"),
        (8, TypeError, "proxy_from must be an iterable of networks, got 8"),
        ([10], TypeError, "each item of proxy_from must be str, IPv4Network or IPv6Network, got 10"),
        (["mx.test"], ValueError, "proxy_from: 'mx.test' does not appear to be an IPv4 or IPv6 network"),
        (["10.0.0.1/8"], ValueError, "proxy_from: 10.0.0.1/8 has host bits set"),
    ],
)
def test_invalid_networks(networks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Server(proxy_from=networks)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("host", "kind", "contained"),
    [
        ("10.1.2.3", "tcp", True),
        ("11.1.2.3", "tcp", False),
        ("2001:db8::7", "tcp", True),
        ("2001:db8::7%eth0", "tcp", True),
        ("2001:db9::7", "tcp", False),
        ("192.0.2.1", "tcp", True),
        ("not an address", "tcp", False),
        ("", "unix", False),
        ("", "memory", False),
        ("::ffff:10.1.2.3", "tcp", True),
        ("::ffff:11.1.2.3", "tcp", False),
        ("198.51.100.7", "tcp", True),
        ("198.51.101.7", "tcp", False),
    ],
)
def test_networks(host: str, kind: Any, contained: bool) -> None:
    given = ["10.0.0.0/8", ipaddress.ip_network("2001:db8::/32"), "192.0.2.1", "::ffff:198.51.100.0/120"]
    networks = proxies.PeerNetworks(given, "proxy_from")
    assert networks
    assert (Peer(host, 25, kind) in networks) is contained


def test_peer_that_has_gone_is_in_no_network() -> None:
    networks = proxies.PeerNetworks(["0.0.0.0/0", "::/0"], "proxy_from")
    assert GONE not in networks
    assert Peer("192.0.2.1", 25, "tcp") in networks


def test_no_networks() -> None:
    assert not proxies.PeerNetworks([], "proxy_from")
