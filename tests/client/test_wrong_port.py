"""Errors that name a wrong port or a wrong ``tls``, within seconds."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
import trio
from helpers import NAME, RecordingHooks, client_tls, listening, server_tls
from scripted import CLOSE, NO_REPLY, hello, scripted
from trio.testing import MockClock, memory_stream_pair

import smtp_trio
from smtp_trio import (
    Client,
    ClientTimeouts,
    ConnectionLostError,
    RemoteProtocolError,
    Server,
    TimedOutError,
    TlsHandshakeError,
)
from smtp_trio._client import connect as connect_module
from smtp_trio._client.connect import GREETING_ON_465

HOST = "127.0.0.1"


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that is open and sends nothing."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


@asynccontextmanager
async def port_that_sends(octets: bytes) -> AsyncGenerator[int]:
    """A port that sends these octets, and closes when the client has sent something or has closed."""

    async def handler(stream: trio.SocketStream) -> None:
        if octets:
            await stream.send_all(octets)
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host=HOST))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def open_and_close(port: int, **settings: Any) -> None:
    async with smtp_trio.connect(HOST, port, **settings):
        raise AssertionError("unreachable")


@pytest.mark.parametrize("tls", [None, "opportunistic", "required", "never"])
async def test_port_465_without_implicit_tls(
    tls: Any, monkeypatch: pytest.MonkeyPatch, socket_clock: MockClock
) -> None:
    """The error names the setting, after a short wait."""
    start = trio.current_time()
    with silent_port() as port:
        monkeypatch.setattr(connect_module, "IMPLICIT_TLS_PORT", port)
        with pytest.raises(TimedOutError, match=r'no reply within 10 s; .* port 465, needs tls="implicit"'):
            await open_and_close(port, tls=tls)
    assert trio.current_time() == start + GREETING_ON_465


async def test_port_465_of_a_server_that_waits_for_tls(
    monkeypatch: pytest.MonkeyPatch, socket_clock: MockClock
) -> None:
    async with listening(Server(RecordingHooks(), name=NAME, tls=server_tls()), implicit_tls=True) as port:
        monkeypatch.setattr(connect_module, "IMPLICIT_TLS_PORT", port)
        with pytest.raises(TimedOutError, match='tls="implicit"'):
            await open_and_close(port)


@pytest.mark.parametrize(("limit", "seconds"), [(3, 3), (60, 10), (0, 10)])
async def test_timeouts_on_port_465(
    limit: float, seconds: float, monkeypatch: pytest.MonkeyPatch, socket_clock: MockClock
) -> None:
    with silent_port() as port:
        monkeypatch.setattr(connect_module, "IMPLICIT_TLS_PORT", port)
        for timeout in (limit, ClientTimeouts(greeting=limit)):
            start = trio.current_time()
            with pytest.raises(TimedOutError):
                await open_and_close(port, timeout=timeout)
            assert trio.current_time() == start + seconds


async def test_no_greeting_on_another_port(socket_clock: MockClock) -> None:
    """The whole timeout is used, and the error names the setting too."""
    start = trio.current_time()
    with silent_port() as port, pytest.raises(TimedOutError, match=r'within 300 s; .* needs tls="implicit"'):
        await open_and_close(port)
    assert trio.current_time() == start + 300


async def test_greeting_on_port_465(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that greets without TLS is used, for example at the end of a tunnel."""
    async with listening(Server(RecordingHooks(), name=NAME)) as port:
        monkeypatch.setattr(connect_module, "IMPLICIT_TLS_PORT", port)
        async with smtp_trio.connect(HOST, port, tls="never") as client:
            assert (await client.noop()).code == 250


async def test_no_greeting_after_tls(autojump_clock: MockClock) -> None:
    """TLS is in use, so the hint would be wrong."""
    client_end, server_end = memory_stream_pair()
    server_stream = trio.SSLStream(server_end, server_tls(), server_side=True)
    client_stream = trio.SSLStream(client_end, client_tls(), server_hostname=NAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server_stream.do_handshake)
        await client_stream.do_handshake()
    with pytest.raises(TimedOutError) as caught:
        async with Client(client_stream, tls="never"):
            raise AssertionError("unreachable")
    assert str(caught.value) == "CONNECT: no reply within 300 s"


async def test_no_tls_handshake_after_connecting(socket_clock: MockClock) -> None:
    with silent_port() as port, pytest.raises(TimedOutError) as caught:
        await open_and_close(port, tls="implicit")
    assert str(caught.value) == "CONNECT: no reply within 300 s"


async def test_timeout_after_the_greeting_has_no_hint(autojump_clock: MockClock) -> None:
    async with scripted(*hello()[:2], NO_REPLY) as script:
        with pytest.raises(TimedOutError) as caught:
            async with script.client():
                raise AssertionError("unreachable")
    assert str(caught.value) == "EHLO: no reply within 300 s"


async def test_closed_without_a_greeting() -> None:
    async with scripted(CLOSE) as script:
        with pytest.raises(ConnectionLostError, match=r"no greeting and closed; .* needs tls=\"implicit\""):
            async with script.client():
                raise AssertionError("unreachable")


@pytest.mark.parametrize(
    "greeting", [b"220 mx.test ESMTP\r\n", b"220-mx.test\r\n220 ESMTP\r\n", b"554 no\r\n", b"421 x\r\n"]
)
async def test_implicit_tls_to_a_port_without(greeting: bytes) -> None:
    async with port_that_sends(greeting) as port:
        with pytest.raises(
            TlsHandshakeError, match=r'does not begin with TLS on this port: use tls="required"'
        ) as caught:
            await open_and_close(port, tls="implicit")
    assert caught.value.unverified is None


async def test_implicit_tls_to_a_server_for_starttls() -> None:
    async with listening(Server(RecordingHooks(), name=NAME, tls=server_tls())) as port:
        with pytest.raises(TlsHandshakeError, match="STARTTLS"):
            await open_and_close(port, tls="implicit", ssl_context=client_tls(), server_hostname=NAME)


async def test_implicit_tls_to_http() -> None:
    async with port_that_sends(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") as port:
        with pytest.raises(TlsHandshakeError, match="does not begin with TLS"):
            await open_and_close(port, tls="implicit")


async def test_other_errors_of_implicit_tls_have_no_hint() -> None:
    """The certificate is not valid, and the server closes."""
    async with listening(Server(RecordingHooks(), name=NAME, tls=server_tls()), implicit_tls=True) as port:
        with pytest.raises(TlsHandshakeError) as caught:
            await open_and_close(port, tls="implicit", server_hostname=NAME)
    assert "STARTTLS" not in str(caught.value)
    async with port_that_sends(b"") as port:
        with pytest.raises(TlsHandshakeError) as caught:
            await open_and_close(port, tls="implicit")
    assert "STARTTLS" not in str(caught.value)


async def test_failed_starttls_has_no_hint() -> None:
    async with (
        port_that_sends(b"220 x\r\n") as port,
        scripted(*hello("STARTTLS"), "STARTTLS", b"220 go\r\n", b"this is not TLS\r\n", NO_REPLY) as script,
    ):
        assert port
        with pytest.raises(TlsHandshakeError) as caught:
            async with script.client(tls="required", host=NAME):
                raise AssertionError("unreachable")
    assert "does not begin" not in str(caught.value)


@pytest.mark.parametrize(
    ("octets", "service"),
    [
        (b"HTTP/1.0 408 Request Time-out\r\n\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH"),
        (b"+OK Dovecot ready.\r\n", "POP3"),
        (b"* OK [CAPABILITY IMAP4rev1] ready\r\n", "IMAP"),
    ],
)
async def test_greeting_of_another_service(octets: bytes, service: str) -> None:
    async with scripted(octets) as script:
        with pytest.raises(RemoteProtocolError, match=rf"the server speaks {service} on this port, not SMTP: invalid"):
            async with script.client():
                raise AssertionError("unreachable")


async def test_greeting_that_is_not_known() -> None:
    async with scripted(b"\xff\xfd\x18hello\r\n") as script:
        with pytest.raises(RemoteProtocolError, match=r"^invalid SMTP reply: b'\\xff"):
            async with script.client():
                raise AssertionError("unreachable")
