"""STARTTLS (RFC 3207) and implicit TLS (RFC 8314), over streams in memory and over sockets."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from helpers import (
    MESSAGE,
    NAME,
    SECRET,
    START,
    Client,
    RecordingHooks,
    connect_tcp,
    connected,
    listening,
    server_tls,
    sockets,
)
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import Body, Drained, Hooks, Limits, MessageState, Reply, Server, Session, TlsInfo, standard
from smtp_trio.protocol.extensions import Auth, StartTls
from smtp_trio.protocol.sasl import Credentials

DOWN = f"421 4.3.2 {NAME} Server is shutting down"


class TlsRecorder(RecordingHooks):
    """Records the TLS state at each hook."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    async def connect(self, session: Session) -> Reply | None:
        self.seen.append(("connect", session.tls is not None))
        return await super().connect(session)

    async def secured(self, session: Session) -> None:
        assert isinstance(session.stream, trio.SSLStream)
        self.seen.append(("secured", session.tls is not None))

    async def auth(self, session: Session, credentials: object) -> None:
        assert session.tls is not None


def secure(hooks: Hooks | None = None, **settings: Any) -> Server:
    return Server(hooks or TlsRecorder(), name=NAME, tls=server_tls(), **settings)


@pytest.fixture(params=[memory_stream_pair, sockets])
def pair(request: pytest.FixtureRequest) -> Any:
    return request.param


# --- handshakes -------------------------------------------------------------------------------------------------------


async def test_starttls(pair: Any, autojump_clock: MockClock) -> None:
    """STARTTLS is offered until TLS is on. After it the session begins anew."""
    hooks = TlsRecorder()
    async with connected(secure(hooks), pair=pair) as client:
        offer = (await client.hello()).split("\n")
        assert "250-STARTTLS" in offer
        assert not any("AUTH" in line for line in offer)
        await client.starttls()
        await client.command("MAIL FROM:<>", "503 5.5.1")
        offer = (await client.hello()).split("\n")
        assert "250-AUTH PLAIN LOGIN" in offer
        assert not any("STARTTLS" in line for line in offer)
        await client.command("STARTTLS", "503 5.5.1")
        await client.command(f"AUTH PLAIN {SECRET}", "235 2.7.0")
        await client.deliver()
        await client.deliver(MESSAGE * 9999)
        await client.quit()
    assert hooks.seen == [("connect", False), ("secured", True)]
    assert hooks.messages == [MESSAGE, MESSAGE * 9999]
    (session,) = hooks.sessions
    assert isinstance(session.tls, TlsInfo)
    assert session.tls.version == "TLSv1.3"
    assert session.tls.bits >= 128
    assert session.tls.cipher.startswith("TLS_")


async def test_implicit_tls(pair: Any, autojump_clock: MockClock) -> None:
    """The greeting is sent after the handshake."""
    hooks = TlsRecorder()
    async with connected(secure(hooks), pair=pair, implicit_tls=True) as client:
        await client.handshake()
        offer = await client.hello()
        assert "STARTTLS" not in offer
        assert "250-AUTH PLAIN LOGIN" in offer.split("\n")
        await client.deliver()
        await client.quit()
    assert hooks.seen == [("connect", True), ("secured", True)]


async def test_stream_that_is_tls_already(autojump_clock: MockClock) -> None:
    """The application has done the handshake, and the session recognizes that."""
    hooks = TlsRecorder()
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        client = Client(client_end)

        @nursery.start_soon
        async def serve() -> None:
            stream = trio.SSLStream(server_end, server_tls(), server_side=True)
            await stream.do_handshake()
            await Server(hooks, name=NAME).serve_stream(stream)

        await client.handshake()
        assert "STARTTLS" not in await client.hello()
        await client.quit()
    assert hooks.sessions[0].tls is not None
    assert hooks.sessions[0].peer.kind == "memory"


async def test_starttls_and_implicit_tls_over_sockets() -> None:
    """One server listens on two ports, and one `stop` ends both."""
    hooks = TlsRecorder()
    server = secure(hooks)
    async with listening(server) as plain, trio.open_nursery() as nursery:
        listeners = await nursery.start(_serve_implicit, server)
        async with connect_tcp(plain) as client:
            await client.hello()
            await client.starttls()
            await client.hello()
            await client.deliver(MESSAGE * 99999)
            await client.quit()
        async with connect_tcp(listeners[0].socket.getsockname()[1]) as client:
            await client.handshake()
            await client.hello()
            await client.deliver()
            assert (await server.stop()).cancelled == 0
            await client.expect("421 4.3.2")
            await client.expect_end()
    assert hooks.messages == [MESSAGE * 99999, MESSAGE]


async def _serve_implicit(server: Server, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
    await server.serve(0, "127.0.0.1", implicit_tls=True, task_status=task_status)


# --- when STARTTLS is valid -------------------------------------------------------------------------------------------


async def test_without_a_certificate(autojump_clock: MockClock) -> None:
    async with connected(Server(name=NAME)) as client:
        assert "STARTTLS" not in await client.hello()
        await client.command("STARTTLS", "502 5.5.1")
        await client.quit()


async def test_starttls_out_of_order(autojump_clock: MockClock) -> None:
    async with connected(secure()) as client:
        await client.expect("220")
        await client.command("STARTTLS", "503 5.5.1")
        await client.hello()
        await client.command("STARTTLS now", "501 5.5.4")
        await client.send(START)
        await client.expect("250", "250")
        await client.command("STARTTLS", "503 5.5.1")
        await client.command("DATA", "354")
        await client.send(b".\r\n")
        await client.expect("250")
        await client.quit()


async def test_required(autojump_clock: MockClock) -> None:
    """RFC 3207 4 lists the commands that are valid before TLS; HELO and RSET are not among them."""
    server = secure(extensions=standard(StartTls(required=True)))
    async with connected(server) as client:
        await client.expect("220")
        await client.command("HELO a.test", "530 Must")  # RFC 2034 4: no enhanced status code in the reply to HELO
        for line in ("RSET", "VRFY a", "HELP", "MAIL FROM:<>", "RCPT TO:<a@b.test>", "DATA", f"AUTH PLAIN {SECRET}"):
            await client.command(line, "530 5.7.0")
        await client.command("NOOP", "250")
        await client.hello()
        await client.command("MAIL FROM:<>", "530 5.7.0")
        await client.starttls()
        await client.hello()
        await client.deliver()
        await client.quit()


async def test_auth_needs_tls(autojump_clock: MockClock) -> None:
    async with connected(secure(extensions=standard(Auth(required=True)))) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {SECRET}", "538 5.7.11")
        await client.command("MAIL FROM:<>", "530 5.7.0")
        await client.starttls()
        await client.hello()
        await client.command("MAIL FROM:<>", "530 5.7.0")
        await client.command(f"AUTH PLAIN {SECRET}", "235")
        await client.deliver()
        await client.quit()


def test_contradictory_settings() -> None:
    with pytest.raises(ValueError, match="tls"):
        Server(extensions=standard(StartTls(required=True)))


async def test_implicit_tls_without_a_certificate(autojump_clock: MockClock) -> None:
    server = Server(TlsRecorder(), name=NAME)
    for attempt in (
        server.serve(0, implicit_tls=True),
        server.serve_listeners([], implicit_tls=True),
        server.serve_stream(memory_stream_pair()[0], implicit_tls=True),
    ):
        with pytest.raises(ValueError, match="tls"):
            await attempt


# --- attacks and failures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("injected", [b"RSET\r\nMAIL FROM:<x@y.test>\r\n", b"N", b"\r\n"])
async def test_injection(injected: bytes, pair: Any, autojump_clock: MockClock) -> None:
    """Commands after STARTTLS in the clear are not executed, and end the session before the 220."""
    events: list[str] = []
    hooks = TlsRecorder()
    server = secure(hooks)

    async def message(session: Session, command: Any) -> None:
        events.append(command.verb)

    server.on(message=message)
    async with connected(server, pair=pair) as client:
        await client.hello()
        await client.send(b"STARTTLS\r\n" + injected)
        await client.expect("554 5.5.0")
        await client.expect_end()
    assert events == ["EHLO"]
    assert hooks.seen == [("connect", False)]


async def test_injection_that_comes_after_the_220(autojump_clock: MockClock) -> None:
    """It is read as a handshake, which fails."""
    hooks = TlsRecorder()
    async with connected(secure(hooks)) as client:
        await client.hello()
        await client.command("STARTTLS", "220")
        await client.send(b"MAIL FROM:<x@y.test>\r\n")
        data = await client.stream.receive_some()
        assert not data.startswith(b"2")
    assert hooks.seen == [("connect", False)]
    assert hooks.ended == hooks.sessions


async def send_invalid_octets(client: Client) -> None:
    await client.send(b"This is not a ClientHello, but it is long enough to be one.\r\n" * 10)


async def close_without_handshake(client: Client) -> None:
    await trio.aclose_forcefully(client.stream)


async def end_of_file(client: Client) -> None:
    if isinstance(client.stream, trio.SocketStream | trio.StapledStream):
        await client.stream.send_eof()


async def reject_certificate(client: Client) -> None:
    stream = trio.SSLStream(client.stream, ssl.create_default_context(), server_hostname=NAME)
    with pytest.raises(trio.BrokenResourceError):
        await stream.do_handshake()
        await stream.receive_some()


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("failure", [send_invalid_octets, close_without_handshake, end_of_file, reject_certificate])
async def test_handshake_that_fails(
    failure: Callable[[Client], Awaitable[None]], implicit: bool, pair: Any, autojump_clock: MockClock
) -> None:
    """The connection is closed, `disconnect` is called, and no error is reported."""
    hooks = TlsRecorder()
    server = secure(hooks)
    async with connected(server, pair=pair) as neighbour:
        await neighbour.hello()
        async with connected(server, pair=pair, implicit_tls=implicit) as client:
            if not implicit:
                await client.hello()
                await client.command("STARTTLS", "220")
            await failure(client)
        await neighbour.deliver()
        await neighbour.quit()
    assert len(hooks.sessions) == len(hooks.ended) == 1 + (not implicit)
    assert hooks.errors == []
    assert trio.current_time() == 0


async def test_stop_during_a_handshake(autojump_clock: MockClock) -> None:
    """A session in a handshake is idle. It cannot send 421 in the clear."""
    replies: list[int] = []

    async def response(session: Session | None, reply: Reply) -> None:
        replies.append(reply.code)

    hooks = TlsRecorder()
    server = secure(hooks)
    server.on(response=response)
    async with connected(server) as client, connected(server, implicit_tls=True) as implicit:
        await client.hello()
        await client.command("STARTTLS", "220")
        await client.send(b"\x16\x03")
        await wait_all_tasks_blocked()
        replies.clear()
        assert await server.stop() == Drained(idle=2)
        await client.expect_end()
        await implicit.expect_end()
    assert trio.current_time() == 0
    assert hooks.ended == hooks.sessions
    assert len(hooks.ended) == 1
    assert replies == [421]  # of the session that had a `connect`


@pytest.mark.parametrize("implicit", [False, True])
async def test_stop_at_each_step_of_a_handshake(implicit: bool, autojump_clock: MockClock) -> None:
    """The `secured` hook is not called, or runs to its end. The order of tasks is random, so each step is tried several times."""

    class Counting(TlsRecorder):
        begun = finished = 0

        async def secured(self, session: Session) -> None:
            self.begun += 1
            await trio.sleep(1)
            self.finished += 1

    async def stop(server: Server, steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        assert (await server.stop(10)).cancelled == 0

    begun = set()
    for steps in [*range(24)] * 8:
        hooks = Counting()
        server = secure(hooks)
        async with connected(server, implicit_tls=implicit) as client:
            if not implicit:
                await client.hello()
                await client.command("STARTTLS", "220")
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop, server, steps)
                with suppress(trio.BrokenResourceError):
                    await client.handshake()
                    reply = await client.reply()
                    if reply == f"220 {NAME} ESMTP":
                        reply = await client.reply()
                    assert reply in (DOWN, DOWN.replace("4.3.2 ", ""))  # RFC 2034 3: no status code in a greeting
                    await client.expect_end()
        assert hooks.begun == hooks.finished
        assert hooks.errors == []
        begun.add(hooks.begun)
    assert begun == {0, 1}


async def test_stop_before_a_handshake(autojump_clock: MockClock) -> None:
    """A handshake that would begin after `stop` does not delay it."""
    stopped = trio.Event()

    async def helo(session: Session, hello: object) -> None:
        await stopped.wait()

    server = secure()
    server.on(helo=helo)
    async with connected(server) as client, trio.open_nursery() as nursery:
        await client.expect("220")
        await client.send(b"EHLO a\r\nSTARTTLS\r\n")
        await wait_all_tasks_blocked()
        nursery.start_soon(server.stop)
        await wait_all_tasks_blocked()
        stopped.set()
        await client.expect("250")
        await client.expect("421 4.3.2")
        await client.expect_end()
    assert trio.current_time() == 0


async def test_close_notify_in_a_message(pair: Any, autojump_clock: MockClock) -> None:
    """The end of TLS is the end of the session: octets in the clear after it are not read."""
    hooks = TlsRecorder()
    async with connected(secure(hooks), pair=pair) as client:
        await client.hello()
        transport = client.stream
        await client.starttls()
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"half a mess")
        assert isinstance(client.stream, trio.SSLStream)
        assert await client.stream.unwrap() == (transport, b"")  # the server answered the close_notify with its own
        with suppress(trio.BrokenResourceError):
            await transport.send_all(b"age\r\n.\r\nNOOP\r\n")
            assert await transport.receive_some() == b""
        await trio.aclose_forcefully(transport)
    assert hooks.messages == []
    assert hooks.errors == []
    assert hooks.sessions[0].last_message is MessageState.NOT_TAKEN
    assert hooks.ended == hooks.sessions


@pytest.mark.parametrize("when", ["idle", "message"])
async def test_no_close_notify(when: str, pair: Any, autojump_clock: MockClock) -> None:
    """A client that closes the connection ends the session; it is not an error."""
    hooks = TlsRecorder()
    async with connected(secure(hooks), pair=pair, implicit_tls=True) as client:
        transport = client.stream
        await client.handshake()
        await client.open()
        if when == "message":
            await client.command("DATA", "354")
        await trio.aclose_forcefully(transport)
    assert hooks.errors == []
    assert hooks.ended == hooks.sessions


async def test_no_close_notify_at_quit(pair: Any, autojump_clock: MockClock) -> None:
    """The server sends it, and does not wait for that of the client."""
    hooks = TlsRecorder()
    async with connected(secure(hooks), pair=pair, implicit_tls=True) as client:
        await client.handshake()
        await client.hello()
        await client.command("QUIT", "221")
        # `receive_some` of an end without close_notify would raise.
        assert await client.stream.receive_some() == b""
        assert hooks.ended == hooks.sessions
    assert trio.current_time() == 0
    assert hooks.errors == []


async def test_idle_timeout_and_cancellation_inside_tls(autojump_clock: MockClock) -> None:
    server = secure()
    async with connected(server, implicit_tls=True) as idle, connected(server, implicit_tls=True) as busy:
        for client in (idle, busy):
            await client.handshake()
            await client.open()
        await busy.command("DATA", "354")
        assert await server.stop(5) == Drained(idle=1, cancelled=1)
        await idle.expect("421 4.3.2")
        await idle.expect_end()


async def test_hook_that_does_not_read_inside_tls(autojump_clock: MockClock) -> None:
    """The server receives no more than one read ahead of the hook."""
    pulled = 0

    async def data(session: Session, body: Body) -> None:
        nonlocal pulled
        async for piece in body:
            pulled += len(piece)
            await trio.sleep(1)

    server = secure()
    server.on(data=data)
    async with connected(server, implicit_tls=True) as client:
        await client.handshake()
        await client.hello()
        await client.deliver(MESSAGE * 9999)
    assert pulled == len(MESSAGE) * 9999


async def test_connection_refused_under_implicit_tls(autojump_clock: MockClock) -> None:
    """The client could not read a 421 in the clear, so the connection is closed without one."""
    async with connected(secure(limits=Limits(sessions=0)), implicit_tls=True) as client:
        await client.expect_end()


class Authenticating(Hooks):
    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        return None if credentials.password == "secret" else Reply(535, "No", "5.7.8")

    async def data(self, session: Session, body: Body) -> Reply | None:
        await body.read()
        return None


async def test_auth_after_starttls() -> None:
    async with connected(Server(Authenticating(), name=NAME, tls=server_tls())) as client:
        assert "250-STARTTLS" in (await client.hello()).split("\n")
        await client.starttls()
        assert "250-AUTH PLAIN LOGIN" in (await client.hello()).split("\n")
        await client.command(f"AUTH PLAIN {SECRET}", "235 2.7.0")
        await client.deliver()
