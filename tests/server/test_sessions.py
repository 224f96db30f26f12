"""Sessions of one server: limits, statistics, and the isolation of failures."""

from __future__ import annotations

import gc
import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import trio
from helpers import (
    MESSAGE,
    NAME,
    SECRET,
    START,
    Client,
    MemoryListener,
    RecordingHooks,
    connect_tcp,
    connected,
    listening,
    serve_memory_listener,
    server_tls,
    sockets,
    unbuffered,
)
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import (
    Body,
    Hooks,
    Limits,
    Peer,
    Reply,
    Server,
    Session,
    Statistics,
    Timeouts,
    standard,
)
from smtp_trio._server import server as server_module
from smtp_trio._server.memory import SESSION
from smtp_trio.protocol.extensions import Auth

CLEARTEXT = standard(Auth(cleartext=True))


@pytest.fixture(autouse=True)
def nothing_is_left_to_the_garbage_collector() -> Iterator[None]:
    """Collect garbage after each test, so that a ResourceWarning for an open socket fails the test that left it open."""
    gc.freeze()  # the collection then only examines the objects of the test, which takes a tenth of the time
    yield
    gc.collect()
    gc.unfreeze()


# --- failures ---------------------------------------------------------------------------------------------------------


class BrokenStream(trio.abc.Stream):
    """A stream with an error in one of its methods."""

    def __init__(self, stream: trio.abc.Stream, broken: str) -> None:
        self._stream, self._broken, self._count = stream, broken, 0

    def _bug(self, method: str) -> None:
        self._count += method == self._broken
        if method == self._broken and self._count > 1:
            raise RuntimeError(f"the secret is that {method} is broken")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._bug("receive_some")
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._bug("send_all")
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self._count += self._broken == "aclose"
        await self._stream.aclose()
        self._bug("aclose")


@pytest.mark.parametrize("broken", ["send_all", "aclose"])
async def test_session_that_fails(broken: str, autojump_clock: MockClock) -> None:
    """The `error` hook gets the exception, the client gets 421 if possible, and the next session is not affected."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        neighbour = await listener.connect()
        await neighbour.hello()
        client_end, server_end = memory_stream_pair()
        await listener.streams.send(BrokenStream(server_end, broken))
        victim = Client(client_end)
        await victim.expect("220")
        await victim.send(b"EHLO a.test\r\nQUIT\r\n")
        if broken != "send_all":
            await victim.expect(f"250-{NAME}", "221 2.0.0")
        await victim.expect_end()
        await neighbour.deliver()
        await neighbour.quit()
        await server.stop()
    assert set(hooks.ended) == set(hooks.sessions)
    assert len(hooks.ended) == 2
    assert [str(error) for error in hooks.errors] == [f"the secret is that {broken} is broken"]


class OddStream(BrokenStream):
    """A stream that provides odd addresses, or raises an exception when it is asked for them."""

    def __init__(self, stream: trio.abc.Stream, ends: object, broken: str = "") -> None:
        super().__init__(stream, broken)
        self._count += 1  # the first call already fails
        self._ends = ends

    @property
    def endpoints(self) -> Any:
        if isinstance(self._ends, Exception):
            raise self._ends
        return self._ends


ODD_ENDS: dict[str, object] = {
    "raises": RuntimeError("the secret"),
    "one end": (Peer("192.0.2.1", 4711, "tcp"),),
    "text": "192.0.2.1",
    "no host": (Peer(None, 4711, "tcp"), None),  # type: ignore[arg-type]
}
ODD_TOKENS: dict[str, Any] = {
    "token that raises": lambda size: 1 / 0,
    "token that is a str": lambda size: "x" * size,
}


@pytest.mark.parametrize("implicit_tls", [False, True])
@pytest.mark.parametrize("what", [*ODD_ENDS, *ODD_TOKENS])
async def test_exception_before_there_is_a_session(what: str, implicit_tls: bool, autojump_clock: MockClock) -> None:
    """It is reported, the client gets 421, except under implicit TLS, and other sessions go on."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, tls=server_tls() if implicit_tls else None)
    async with trio.open_nursery() as nursery:
        listener = MemoryListener()
        nursery.start_soon(partial(server.serve_listeners, [listener], implicit_tls=implicit_tls))
        neighbour = await listener.connect()
        if implicit_tls:
            await neighbour.handshake()
        await neighbour.hello()
        client_end, server_end = memory_stream_pair()
        token, server.token = server.token, ODD_TOKENS.get(what, server.token)
        await listener.streams.send(OddStream(server_end, ODD_ENDS[what]) if what in ODD_ENDS else server_end)
        victim = Client(client_end)
        if not implicit_tls:
            assert await victim.reply() == f"421 {NAME} Local error; closing the connection"
        await victim.expect_end()
        server.token = token
        await neighbour.deliver()
        next_one = await listener.connect()
        if implicit_tls:
            await next_one.handshake()
        await next_one.hello()
        await server.stop()
    assert len(hooks.errors) == 1
    assert len(hooks.ended) == 2
    assert server.statistics().sessions_total == 2


@pytest.mark.parametrize("broken", ["send_all", "aclose"])
async def test_exception_in_a_refusal(broken: str, autojump_clock: MockClock) -> None:
    """Exceptions of the stream, while a connection is refused, are reported, and the stream is closed."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, limits=Limits(sessions=1))
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        neighbour = await listener.connect()
        await neighbour.hello()
        client_end, server_end = memory_stream_pair()
        await listener.streams.send(OddStream(server_end, None, broken))
        victim = Client(client_end)
        if broken == "aclose":
            await victim.expect(f"421 {NAME} Too many connections")
        await victim.expect_end()
        await neighbour.quit()
        await server.stop()
    assert {str(error) for error in hooks.errors} == {f"the secret is that {broken} is broken"}


class Endless(trio.abc.Stream):
    """A stream on which each operation waits for ever."""

    closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("ends", [None, "no addresses"], ids=["too many", "no session"])
@pytest.mark.parametrize("during", ["error", "send_all"])
async def test_refused_stream_is_closed_after_a_cancellation(
    ends: str | None, during: str, autojump_clock: MockClock
) -> None:
    """Also while the `error` hook is running."""

    class Slow(RecordingHooks):
        async def error(self, server: Server, error: Exception) -> None:
            if during == "error":
                await trio.sleep_forever()

    server = Server(Slow(), name=NAME, limits=Limits(sessions=0))
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        stream = Endless()
        if ends is not None:
            stream.endpoints = ends  # type: ignore[attr-defined]
        await listener.streams.send(stream)
        await wait_all_tasks_blocked()
        assert not stream.closed
        nursery.cancel_scope.cancel()
    assert stream.closed


async def test_exception_in_the_code_of_the_session(autojump_clock: MockClock) -> None:
    """The client gets 421 4.3.0, and the connection is closed."""
    hooks = RecordingHooks()
    seen: list[int] = []

    async def response(session: Session, reply: Reply) -> None:
        seen.append(reply.code)

    server = Server(hooks, name=NAME)
    server.on(response=response)
    async with trio.open_nursery() as nursery:
        client_end, server_end = memory_stream_pair()
        nursery.start_soon(server.serve_stream, BrokenStream(server_end, "receive_some"))
        client = Client(client_end)
        await client.hello()
        assert await client.reply() == f"421 4.3.0 {NAME} Local error; closing the connection"
        await client.expect_end()
    assert [str(error) for error in hooks.errors] == ["the secret is that receive_some is broken"]
    assert hooks.ended == hooks.sessions
    assert seen == [220, 250, 421]


async def test_one_session_fails_and_99_finish(autojump_clock: MockClock) -> None:

    class Crash(RecordingHooks):
        async def mail(self, session: Session, mail: object) -> None:
            if session is self.sessions[0]:
                raise RuntimeError("the secret")

    hooks = Crash()
    server = Server(hooks, name=NAME)
    finished: list[Client] = []

    async def converse(client: Client) -> None:
        await client.hello()
        if client is clients[0]:
            await client.command("MAIL FROM:<>", "451 4.3.0")
        else:
            await client.deliver()
        await client.quit()
        finished.append(client)

    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        clients = [await listener.connect() for _ in range(100)]
        async with trio.open_nursery() as talks:
            for client in clients:
                await wait_all_tasks_blocked()
                talks.start_soon(converse, client)
        await server.stop()
    assert len(finished) == 100
    assert len(hooks.messages) == 99
    assert len(hooks.errors) == 1
    assert sorted(session.id for session in hooks.ended) == sorted(session.id for session in hooks.sessions)


@pytest.mark.parametrize("grouped", [False, True])
async def test_keyboard_interrupt_propagates_alone(grouped: bool, autojump_clock: MockClock) -> None:
    """An exception that is not an `Exception` leaves the session, without the others of its group."""
    bug = ValueError("bug")

    class Interrupted(RecordingHooks):
        async def vrfy(self, session: Session, command: object) -> None:
            async def fail() -> None:
                raise bug

            if not grouped:
                raise KeyboardInterrupt
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                raise KeyboardInterrupt

    hooks = Interrupted()
    server = Server(hooks, name=NAME)
    client_end, server_end = memory_stream_pair()
    other, elsewhere = memory_stream_pair()
    listener = MemoryListener()

    async def client() -> None:
        await listener.streams.send(server_end)
        await listener.streams.send(elsewhere)
        one, two = Client(client_end), Client(other)
        await two.hello()
        await one.hello()
        await one.send(b"VRFY a\r\n")
        await one.expect_end() if not grouped else None
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        with pytest.raises(KeyboardInterrupt):
            await server.serve_listeners([listener])
        nursery.cancel_scope.cancel()
    assert len(hooks.ended) == 2
    assert [error.exceptions if isinstance(error, ExceptionGroup) else error for error in hooks.errors] in (
        [],
        [(bug,)],
    )
    assert bool(hooks.errors) == grouped


async def test_cancelled_propagates_alone(autojump_clock: MockClock) -> None:
    """Cancelling a ``serve`` method raises no exception group, however many sessions there were."""
    bug = ValueError("bug")

    class Nursery(RecordingHooks):
        async def vrfy(self, session: Session, command: object) -> None:
            async def fail() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise bug

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(trio.sleep_forever)

    hooks = Nursery()
    server = Server(hooks, name=NAME)
    listener = MemoryListener()
    caught: list[BaseException] = []

    async def serve_it() -> None:
        try:
            await server.serve_listeners([listener])
        except BaseException as exc:
            caught.append(exc)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_it)
        for _ in range(3):
            client = await listener.connect()
            await client.hello()
            await client.send(b"VRFY a\r\n")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [type(exc) for exc in caught] == [trio.Cancelled]
    assert [leaf for error in hooks.errors for leaf in getattr(error, "exceptions", [error])] == [bug] * 3
    assert len(hooks.ended) == 3


# --- limits and statistics --------------------------------------------------------------------------------------------


async def test_statistics(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME)
    assert server.statistics() == Statistics()
    refusals = Counter({"message 550": 1, "other 500": 1})
    async with connected(server) as client:
        await client.hello()
        await client.deliver()
        await client.deliver(b"bare\nnewline\r\n", "550")
        await client.command("NONSENSE", "500")
        before = server.statistics()
        assert before == Statistics(
            sessions_open=1,
            sessions_total=1,
            messages=1,
            bytes=len(MESSAGE),
            refused=1,
            commands=8,
            errors=1,
            memory=SESSION,
            refusals=refusals,
        )
        await client.quit()
    assert server.statistics() == Statistics(1, 1, len(MESSAGE), 1, 9, 1, refusals=refusals)
    assert before.sessions_open == 1


async def test_session_limit(autojump_clock: MockClock) -> None:
    """421 replaces the greeting, without an enhanced code. Open sessions go on, and one more may begin when one has ended."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, limits=Limits(sessions=2))
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        one, two, three = [await listener.connect() for _ in range(3)]
        await one.hello()
        await two.hello()
        assert await three.reply() == f"421 {NAME} Too many connections; try again later"
        await three.expect_end()
        await one.quit()
        four = await listener.connect()
        await four.hello()
        await two.deliver()
        assert server.statistics().sessions_total == 3
        await server.stop()
    assert len(hooks.sessions) == len(hooks.ended) == 3


async def test_refused_client_that_does_not_read(autojump_clock: MockClock) -> None:
    """It delays no other client, and its connection is closed soon."""
    server = Server(RecordingHooks(), name=NAME, limits=Limits(sessions=0))
    client_end, server_end = unbuffered()
    await server.serve_stream(server_end)
    assert trio.current_time() == 5
    with pytest.raises(trio.BrokenResourceError):
        await client_end.send_all(b"x")


@pytest.mark.parametrize(
    ("hosts", "served"),
    [
        (["192.0.2.1", "192.0.2.1", "192.0.2.2"], [True, False, True]),
        (["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"], [True, False, True]),
        (["fe80::1%eth0", "fe80::2%eth0"], [True, False]),
        (["127.0.0.1", "127.0.0.1", "::1", "::1"], [True] * 4),
        (["mail.example", "mail.example", "", "mail.example"], [True, False, True, False]),
    ],
)
async def test_limit_by_peer(
    hosts: list[str], served: list[bool], monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """IPv6 addresses are counted by /64, loopback addresses not at all, and other hosts by their name."""
    peers = iter(Peer(host, 4711, "tcp") for host in hosts)
    monkeypatch.setattr(
        server_module, "endpoints", lambda stream, accepted: (next(peers), Peer("192.0.2.9", 25, "tcp"))
    )
    server = Server(RecordingHooks(), name=NAME, limits=Limits(per_peer=1))
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        clients = [await listener.connect() for _ in hosts]
        for client, welcome in zip(clients, served, strict=True):
            await client.expect(f"220 {NAME}" if welcome else f"421 {NAME}")
        await server.stop()
    assert not server._admission._open


async def test_too_many_errors(autojump_clock: MockClock) -> None:
    """The connection is closed, but never after the first error."""
    async with connected(Server(RecordingHooks(), name=NAME)) as client:
        await client.hello()
        for _ in range(19):
            await client.command("NONSENSE", "500 5.5.1")
        await client.command("NONSENSE", "421 4.7.0")
        await client.expect_end()


async def test_accepted_message_resets_the_error_count(autojump_clock: MockClock) -> None:
    async with connected(Server(RecordingHooks(), name=NAME)) as client:
        await client.hello()
        for _ in range(3):
            for _ in range(19):
                await client.command("NONSENSE", "500 5.5.1")
            for _ in range(99):
                await client.command("NOOP", "250")
            await client.deliver()
        await client.quit()


async def test_too_much_work(autojump_clock: MockClock) -> None:
    async with connected(Server(RecordingHooks(), name=NAME, limits=Limits(work=60, errors=2))) as client:
        await client.hello()
        for _ in range(6):
            await client.command("NOOP", "250")
        await client.command("RSET", "421 4.7.0")
        await client.expect_end()


async def test_too_many_failed_logins(autojump_clock: MockClock) -> None:
    """The session is usable until the limit, which applies to all failures of a session together."""

    async def auth(session: Session, credentials: object) -> Reply:
        return Reply(535, "No")

    server = Server(RecordingHooks(), name=NAME, extensions=CLEARTEXT)
    server.on(auth=auth)
    async with connected(server) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {SECRET}", "535 5.7.8")
        await client.deliver()
        await client.command("AUTH LOGIN", "334")
        await client.command("ZnJlZA==", "334")
        await client.command("c2VjcmV0", "535 5.7.8")
        await client.command("AUTH PLAIN", "334")
        await client.command("*", "421 4.7.0")
        await client.expect_end()


async def test_too_many_recipients(autojump_clock: MockClock) -> None:
    found: list[int] = []

    class RcptCounter(RecordingHooks):
        async def data(self, session: Session, body: Body) -> None:
            found.append(len(body.envelope.recipients))
            await body.read()

    async with connected(Server(RcptCounter(), name=NAME, limits=Limits(recipients=100))) as client:
        await client.hello()
        await client.send(b"MAIL FROM:<>\r\n" + b"RCPT TO:<a@b.test>\r\n" * 101 + b"DATA\r\n")
        await client.expect(*["250"] * 101, "452 4.5.3", "354")
        await client.send(b".\r\n")
        await client.expect("250")
    assert found == [100]


def test_invalid_settings() -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"size": -1},
        {"newlines": "sloppy"},
        {"name": "a b"},
        {"name": "a\r\nb"},
        {"name": "x" * 256},
        {"timeout": -1},
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"."):
            Server(Hooks(), **wrong)
    assert Server().name == socket.gethostname()
    assert Server(name="bücher.example").name == "xn--bcher-kva.example"
    assert Server(timeout=9).timeouts == Timeouts(command=9, block=9)


async def test_server_over_tcp_with_many_clients() -> None:
    """A hundred clients at once, over real sockets."""
    hooks = RecordingHooks()

    async def deliver(port: int) -> None:
        async with connect_tcp(port) as client:
            await client.hello()
            await client.deliver()
            await client.send(START + b"DATA\r\n")
            await client.expect("250", "250", "354")
            await client.send(MESSAGE + b".\r\nQUIT\r\n")
            await client.expect("250", "221")
            await client.expect_end()

    async with listening(Server(hooks, name=NAME)) as port, trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(deliver, port)
    assert hooks.messages == [MESSAGE] * 200


async def test_reset_by_the_peer() -> None:
    """The session ends without a reply, and no error is reported."""
    hooks = RecordingHooks()
    async with listening(Server(hooks, name=NAME)) as port:
        for lines in (
            b"",
            b"EHLO a.test\r\n",
            b"EHLO a.test\r\n" + START,
            b"EHLO a.test\r\n" + START + b"DATA\r\nhalf a",
        ):
            async with connect_tcp(port) as client:
                assert isinstance(client.stream, trio.SocketStream)
                await client.send(lines)
                await client.expect("220")
                client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        async with connect_tcp(port) as client:
            await client.hello()
            await client.deliver()
            await client.quit()
    assert hooks.messages == [MESSAGE]
    assert hooks.errors == []
    assert len(hooks.sessions) == len(hooks.ended) == 5


async def test_limits() -> None:
    limits = Limits(sessions=1, recipients=100, errors=3, line=600)
    server = Server(RecordingHooks(), name=NAME, size=100, limits=limits)
    async with listening(server) as port, connect_tcp(port) as client:
        assert "250-SIZE 100" in (await client.hello()).split("\n")
        async with connect_tcp(port) as other:
            await other.expect(f"421 {NAME}")
            await other.expect_end()
        await client.command("MAIL FROM:<a@b> SIZE=101", "552 5.3.4")
        await client.command("NOOP ".ljust(2000, "x"), "500 5.5.2")
        await client.command("FOO", "421 4.7.0")
        await client.expect_end()


# --- octets that arrive before DATA is refused ----------------------------------------------------------------------

FORGED = START + b"DATA\r\n" + MESSAGE + b".\r\n"


class SlowToRefuse(RecordingHooks):
    """Hooks that refuse DATA in place of the 354, when ``decide`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.decide = trio.Event()

    async def data(self, session: Session, body: Body) -> Reply | None:
        await self.decide.wait()
        return Reply(451, "Not now", "4.3.0")


@pytest.mark.parametrize("pair", [sockets, memory_stream_pair], ids=["socket", "memory"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
@pytest.mark.parametrize("later", [FORGED, b"M"], ids=["message", "octet"])
async def test_octets_sent_before_a_hook_refuses_data_are_not_executed(pair: Any, tls: bool, later: bytes) -> None:
    hooks = SlowToRefuse()
    async with connected(Server(hooks, name=NAME, tls=server_tls()), pair=pair) as client:
        await client.hello()
        if tls:
            await client.starttls()
        await client.open()
        await client.send(b"DATA\r\n")
        await wait_all_tasks_blocked()
        await client.send(later)
        hooks.decide.set()
        await client.expect("554 5.5.0")
        await client.expect_end()
    assert not hooks.errors


class SlowResponse(SlowToRefuse):
    """Hooks that refuse DATA at once, and whose ``response`` hook then waits until ``decide`` is set."""

    async def data(self, session: Session, body: Body) -> Reply | None:
        return Reply(451, "Not now", "4.3.0")

    async def response(self, session: Session, reply: Reply) -> None:
        await super().response(session, reply)
        if reply.code in (451, 501):
            await self.decide.wait()


@pytest.mark.parametrize("pair", [sockets, memory_stream_pair], ids=["socket", "memory"])
@pytest.mark.parametrize("line", [b"DATA\r\n", b"DATA now\r\n"], ids=["hook", "core"])
async def test_octets_sent_while_the_response_hook_runs_are_not_executed(pair: Any, line: bytes) -> None:
    hooks = SlowResponse()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        await client.send(line)
        await wait_all_tasks_blocked()
        await client.send(FORGED)
        hooks.decide.set()
        await client.expect("554 5.5.0")
        await client.expect_end()
    assert not hooks.messages


@pytest.mark.parametrize("pair", [sockets, memory_stream_pair], ids=["socket", "memory"])
async def test_session_goes_on_after_a_hook_refused_data(pair: Any) -> None:
    hooks = SlowToRefuse()
    hooks.decide.set()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        await client.command("DATA", "451 4.3.0")
        await client.open()
        await client.command("DATA now", "501 5.5.4")
        await client.quit()


@pytest.mark.parametrize("pair", [sockets, memory_stream_pair], ids=["socket", "memory"])
async def test_message_after_data_without_recipients_is_not_executed(
    pair: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = RecordingHooks()
    caplog.set_level("INFO", "smtp_trio.message")
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.hello()
        await client.send(b"MAIL FROM:<me@client.test>\r\nRCPT TO:<@>\r\nDATA\r\n" + FORGED)
        await client.expect("250", "501", "554 5.5.0")
        await client.expect_end()
    assert not hooks.messages
    assert "554" in caplog.messages[-1]
