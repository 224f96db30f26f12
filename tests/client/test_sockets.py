"""`connect` and `send` over real sockets."""

from __future__ import annotations

import email.message
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from helpers import MESSAGE, NAME, RecordingHooks, authority, client_tls, listening, serve, server_tls, sockets
from scripted import GO_AHEAD, ME, OK, UNPIPELINED, YOU, hello, scripted

import smtp_trio
from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    ConnectionLostError,
    GreetingError,
    NotOfferedError,
    Server,
    TimedOutError,
    TlsHandshakeError,
)
from smtp_trio._client.handshake import address_literal
from smtp_trio.protocol.syntax import is_address_literal

HOST = "127.0.0.1"


@asynccontextmanager
async def plain_listener(*parts: bytes) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """Listen without real TLS: send one of ``parts`` to each connection, and record what is received from it."""
    received: list[bytes] = []
    greetings = list(parts)

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(greetings.pop(0))
        session = b""
        try:
            async for data in stream:
                session += data
                if data.startswith(b"EHLO"):
                    await stream.send_all(b"250-x\r\n250 STARTTLS\r\n")
                elif data.startswith(b"STARTTLS"):
                    await stream.send_all(b"220 go\r\n")
                elif data.startswith(b"QUIT"):
                    await stream.send_all(b"221 bye\r\n")
                else:
                    break
        except trio.BrokenResourceError:
            pass
        received.append(session)
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HOST))
        yield listeners[0].socket.getsockname()[1], received
        nursery.cancel_scope.cancel()


async def test_send_in_one_call() -> None:
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME)) as port:
        result = await smtp_trio.send(MESSAGE, HOST, port, sender=ME, recipients=[YOU, "two@mx.test"])
    assert result.complete
    assert hooks.messages == [MESSAGE]
    assert result.tls is None


async def test_send_an_email_message_in_one_call() -> None:
    given = email.message.EmailMessage()
    given["From"], given["To"] = ME, YOU
    given.set_content("hello\n")
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME)) as port:
        assert (await smtp_trio.send(given, HOST, port)).accepted[0].recipient == YOU
    assert b"hello\r\n" in hooks.messages[0]


async def test_send_needs_an_envelope() -> None:
    with pytest.raises(ValueError, match="sender and recipients"):
        await smtp_trio.send(MESSAGE, HOST, 1)


async def test_connection_refused() -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
        with pytest.raises(ConnectionLostError, match=f"cannot connect to {HOST} port {port}") as caught:
            async with smtp_trio.connect(HOST, port):
                raise AssertionError("unreachable")
    assert isinstance(caught.value.__cause__, OSError)


async def test_missing_unix_socket(short_path: Path) -> None:
    with pytest.raises(ConnectionLostError, match="nothing"):
        async with smtp_trio.connect(short_path / "nothing"):
            raise AssertionError("unreachable")


async def test_unix_socket(short_path: Path) -> None:
    path, hooks = short_path / "smtp", RecordingHooks()
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Server(hooks, name=NAME).serve_listeners, [trio.SocketListener(listener)])
            async with smtp_trio.connect(path) as client:
                await client.send(ME, [YOU], MESSAGE)
            nursery.cancel_scope.cancel()
    assert hooks.messages == [MESSAGE]


async def test_ipv6() -> None:
    hooks = RecordingHooks()
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("IPv6 is not available")
    async with trio.open_nursery() as nursery:
        server = Server(hooks, name=NAME)
        listeners: list[trio.SocketListener] = await nursery.start(server.serve, 0, "::1")
        async with smtp_trio.connect("::1", listeners[0].socket.getsockname()[1]) as client:
            await client.send(ME, [YOU], MESSAGE)
        await server.stop()
    assert hooks.sessions[0].hello is not None
    assert hooks.sessions[0].hello.domain == "[IPv6:::1]"


async def test_local_address() -> None:
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME)) as port:
        async with smtp_trio.connect(HOST, port, local_address="127.0.0.9"):
            pass
    assert hooks.sessions[0].peer.host == "127.0.0.9"


async def test_quit_after_a_refusing_greeting() -> None:
    async with plain_listener(b"554 no\r\n") as (port, received):
        with pytest.raises(GreetingError):
            async with smtp_trio.connect(HOST, port):
                raise AssertionError("unreachable")
        while not received:
            await trio.lowlevel.checkpoint()
    assert received == [b"QUIT\r\n"]


async def test_local_address_of_an_ipv6_socket_for_ipv4() -> None:
    """The system reports it as ::ffff:127.0.0.1, which is not the address that the server sees."""
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME)) as port:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        await stream.socket.connect((f"::ffff:{HOST}", port))
        async with Client(stream, tls="never"):
            pass
    assert hooks.sessions[0].hello is not None
    assert hooks.sessions[0].hello.domain == f"[{HOST}]"


@pytest.mark.parametrize(
    ("host", "literal"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("::ffff:192.0.2.1", "[192.0.2.1]"),
        ("::ffff:192.0.2.1%2", "[192.0.2.1]"),
        ("::FFFF:c000:201", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
        ("::1", "[IPv6:::1]"),
        ("::192.0.2.1", "[IPv6:::192.0.2.1]"),
    ],
)
def test_address_literal(host: str, literal: str) -> None:
    """RFC 5321 4.1.3. The server accepts it in EHLO."""
    assert address_literal(host) == literal
    assert is_address_literal(literal)


async def test_invalid_name_closes_the_socket() -> None:
    async with plain_listener(b"220 hi\r\n") as (port, _):
        with pytest.raises(ValueError, match="name"):
            async with smtp_trio.connect(HOST, port, name="a b"):
                raise AssertionError("unreachable")


# --- TLS --------------------------------------------------------------------------------------------------------------


async def test_server_hostname() -> None:
    async with listening(Server(RecordingHooks(), name=NAME, tls=server_tls())) as port:
        settings: Any = {"ssl_context": client_tls(), "tls": "required"}
        async with smtp_trio.connect(HOST, port, server_hostname=NAME, **settings) as client:
            assert client.tls is not None
            assert client.tls.verified
        with pytest.raises(TlsHandshakeError):
            async with smtp_trio.connect(HOST, port, **settings):
                raise AssertionError("unreachable")


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `ssl.create_default_context` trust the authority of the tests."""
    authority().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


async def test_opportunistic_with_a_valid_certificate(trusted: None) -> None:
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME, tls=server_tls())) as port:
        async with smtp_trio.connect(HOST, port, server_hostname=NAME) as client:
            assert client.tls is not None
            assert (client.tls.verified, client.tls.problem) == (True, None)
    assert len(hooks.sessions) == 1


@pytest.mark.parametrize("name", ["other.test", NAME], ids=["host", "authority"])
async def test_opportunistic_with_an_invalid_certificate_connects_again(
    name: str, request: pytest.FixtureRequest
) -> None:
    """RFC 7435. The problem is reported."""
    if name != NAME:
        request.getfixturevalue("trusted")
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME, tls=server_tls())) as port:
        async with smtp_trio.connect(HOST, port, server_hostname=name) as client:
            assert client.tls is not None
            assert not client.tls.verified
            assert client.tls.problem is not None
            assert "certificate" in client.tls.problem
            assert (await client.send(ME, [YOU], MESSAGE)).tls == client.tls
    assert len(hooks.sessions) == 2


async def test_opportunistic_without_tls_after_a_failed_handshake() -> None:
    async with plain_listener(b"220 first\r\n", b"220 second\r\n") as (port, received):
        async with smtp_trio.connect(HOST, port) as client:
            assert client.tls is None
            assert client.greeting is not None
            assert client.greeting.text == "second"
        while len(received) < 2:
            await trio.lowlevel.checkpoint()
    assert received[0].split(b"\r\n")[1] == b"STARTTLS"
    assert b"STARTTLS" not in received[1]


async def test_opportunistic_without_tls_after_two_failed_handshakes() -> None:
    """The first handshake fails because of the certificate, and the second one although it is not checked."""
    server = Server(RecordingHooks(), name=NAME, tls=server_tls())
    async with plain_listener(b"220 second\r\n", b"220 third\r\n") as (plain_port, received):
        connections = 0

        async def relay(stream: trio.SocketStream) -> None:
            nonlocal connections
            connections += 1
            if connections == 1:
                await serve(server, stream)
                return
            async with await trio.open_tcp_stream(HOST, plain_port) as plain, trio.open_nursery() as nursery:

                async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        async for data in source:
                            await sink.send_all(data)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(copy, stream, plain)
                nursery.start_soon(copy, plain, stream)

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, relay, 0, host=HOST))
            port = listeners[0].socket.getsockname()[1]
            async with smtp_trio.connect(HOST, port, server_hostname="other.test") as client:
                assert client.tls is None
                assert client.greeting is not None
                assert client.greeting.text == "third"
            nursery.cancel_scope.cancel()
    assert b"STARTTLS" in received[0]
    assert connections == 3


def wrong_authority() -> ssl.SSLContext:
    context = ssl.create_default_context()
    trustme.CA().configure_trust(context)
    return context


def unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.mark.parametrize("mode", [None, "opportunistic", "required"])
@pytest.mark.parametrize(("context", "name"), [(client_tls, "other.test"), (wrong_authority, NAME)])
async def test_given_context_is_enforced(context: Callable[[], ssl.SSLContext], name: str, mode: Any) -> None:
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME, tls=server_tls())) as port:
        with pytest.raises(TlsHandshakeError, match="certificate"):
            await smtp_trio.send(
                MESSAGE, HOST, port, sender=ME, recipients=[YOU], tls=mode, ssl_context=context(), server_hostname=name
            )
    assert (len(hooks.sessions), hooks.messages) == (1, [])


@pytest.mark.parametrize("context", [client_tls, unchecked])
async def test_server_without_starttls_receives_nothing_with_a_given_context(
    context: Callable[[], ssl.SSLContext],
) -> None:
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME)) as port:
        with pytest.raises(NotOfferedError, match="STARTTLS"):
            await smtp_trio.send(MESSAGE, HOST, port, sender=ME, recipients=[YOU], ssl_context=context())
        async with smtp_trio.connect(HOST, port, tls="opportunistic", ssl_context=context()) as client:
            assert client.tls is None
    assert hooks.messages == []


@pytest.mark.parametrize("mode", [None, "opportunistic", "required"])
async def test_versions_of_a_given_context_are_enforced(mode: Any) -> None:
    hooks = RecordingHooks()
    old, modern = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), unchecked()
    authority().issue_cert(NAME).configure_cert(old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    modern.minimum_version = ssl.TLSVersion.TLSv1_3
    async with listening(Server(hooks, name=NAME, tls=old)) as port:
        with pytest.raises(TlsHandshakeError):
            await smtp_trio.send(
                MESSAGE, HOST, port, sender=ME, recipients=[YOU], tls=mode, ssl_context=modern, server_hostname=NAME
            )
    assert (len(hooks.sessions), hooks.messages) == (1, [])


@pytest.mark.parametrize("mode", [None, "opportunistic", "required", "implicit"])
async def test_given_context_is_the_one_that_is_used(mode: Any) -> None:
    """Its client certificate and its versions hold where it does not check the server's certificate too."""
    demanding = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(NAME).configure_cert(demanding)
    authority().configure_trust(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    context = unchecked()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority().issue_cert("client.test").configure_cert(context)
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME, tls=demanding), implicit_tls=mode == "implicit") as port:
        async with smtp_trio.connect(HOST, port, tls=mode, ssl_context=context, server_hostname="any.test") as client:
            assert client.tls is not None
            assert (client.tls.version, client.tls.verified) == ("TLSv1.2", False)
            assert client.tls.problem == "the certificate was not checked"
            await client.send(ME, [YOU], MESSAGE)
    assert len(hooks.messages) == 1


@pytest.mark.parametrize("settings", [{"tls": "required"}, {"auth": ("fred", "secret")}, {"ssl_context": client_tls()}])
async def test_required_tls_is_tried_once(settings: dict[str, Any]) -> None:
    async with plain_listener(b"220 first\r\n", b"220 second\r\n") as (port, received):
        with pytest.raises(TlsHandshakeError):
            async with smtp_trio.connect(HOST, port, **settings):
                raise AssertionError("unreachable")
        while not received:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(received) == 1


async def test_implicit_tls() -> None:
    async with listening(Server(RecordingHooks(), name=NAME, tls=server_tls()), implicit_tls=True) as port:
        settings: Any = {"ssl_context": client_tls(), "server_hostname": NAME}
        async with smtp_trio.connect(HOST, port, tls="implicit", **settings) as client:
            assert client.tls is not None
            assert client.tls.verified
            await client.noop()


# --- the path for plain sockets through the client --------------------------------------------------------------------


async def test_unsolicited_421_is_read_before_the_next_command() -> None:
    """It arrives before the next command is sent."""
    steps = (*hello(), "NOOP", OK, b"421 4.3.2 idle too long\r\n")
    async with scripted(*steps, pair=sockets) as script, script.client() as client:
        await client.noop()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ConnectionLostError, match=r"421 4\.3\.2"):
            await client.send(ME, [YOU], MESSAGE)
        assert not client.usable
    assert script.lines[-1] == "NOOP"


async def test_reply_before_the_end_of_the_message() -> None:
    steps = ("MAIL .*", OK, "RCPT .*", OK, "DATA", GO_AHEAD, "x+", b"552 too big\r\n")

    async def endless() -> AsyncGenerator[bytes]:
        while True:
            yield b"x" * 998 + b"\r\n"
            await trio.lowlevel.checkpoint()

    async def take(script: Any) -> None:
        await script.rest()

    async with scripted(*hello(), *steps, take, pair=sockets) as script, script.client() as client:
        with trio.fail_after(100), pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], endless())
        assert caught.value.reply.code == 552
        assert not client.usable


async def test_send_many_over_sockets() -> None:
    async with scripted(*hello(), *UNPIPELINED * 3, pair=sockets) as script, script.client() as client:
        assert all(result.complete for result in await client.send_many([(ME, [YOU], MESSAGE)] * 3))


async def test_connect_timeout() -> None:
    """A listener whose queue is full drops connection attempts."""
    with socket.socket() as busy:
        busy.bind((HOST, 0))
        busy.listen(0)
        port = busy.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        try:
            for each in fillers:
                each.setblocking(False)
                each.connect_ex((HOST, port))
            with pytest.raises(TimedOutError) as caught:
                async with smtp_trio.connect(HOST, port, timeout=0.2):
                    raise AssertionError("unreachable")
            assert caught.value.command.verb == "CONNECT"
        finally:
            for each in fillers:
                each.close()
