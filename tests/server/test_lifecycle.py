"""Listening, starting, draining and stopping a server."""

from __future__ import annotations

import errno
import gc
import select
import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import trio
from descriptors import few_descriptors
from helpers import (
    MESSAGE,
    NAME,
    START,
    Client,
    Event,
    MemoryListener,
    RecordingHooks,
    connect_tcp,
    connected,
    serve,
    serve_memory_listener,
    server_tls,
    sockets,
    spies,
    unbuffered,
)
from ports import free_port
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import (
    Drained,
    Limits,
    Peer,
    Reply,
    Server,
    Session,
    Timeouts,
    open_listeners,
    standard,
)
from smtp_trio._server import listeners as listeners_module, server as server_module
from smtp_trio.protocol import Rcpt
from smtp_trio.protocol.extensions import Auth

DOWN = f"421 4.3.2 {NAME} Server is shutting down"
CLEARTEXT = standard(Auth(cleartext=True))


@pytest.fixture(autouse=True)
def nothing_is_left_to_the_garbage_collector() -> Iterator[None]:
    """Collect garbage after each test, so that a ResourceWarning for an open socket fails the test that left it open."""
    gc.freeze()  # the collection then only examines the objects of the test, which takes a tenth of the time
    yield
    gc.collect()
    gc.unfreeze()


# --- listening --------------------------------------------------------------------------------------------------------


async def test_address_of_a_server_that_listens_on_all() -> None:
    """`Session.local` is the address to which the client has connected."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(server.serve, 0, "0.0.0.0")
        port = listener.socket.getsockname()[1]
        async with connect_tcp(port) as client:
            await client.hello()
            await client.quit()
        assert hooks.sessions[0].local == Peer("127.0.0.1", port, "tcp")
        await server.stop()


async def test_serve_returns_its_listeners_and_ends_after_stop() -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(server.serve, 0, "127.0.0.1")
        (listener,) = listeners
        host, port = listener.socket.getsockname()
        assert (host, listener.socket.family) == ("127.0.0.1", socket.AF_INET)
        async with connect_tcp(port) as client:
            await client.hello()
            await client.deliver()
            await client.quit()
        assert hooks.sessions[0].local == Peer("127.0.0.1", port, "tcp")
        assert hooks.sessions[0].peer.kind == "tcp"
        await server.stop()
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)
    assert hooks.messages == [MESSAGE]


async def test_all_addresses_have_the_same_port() -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(server.serve, 0)
        assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
        for listener in listeners:
            six = listener.socket.family == socket.AF_INET6
            port = listener.socket.getsockname()[1]
            client = Client(await trio.open_tcp_stream("::1" if six else "127.0.0.1", port))
            await client.hello()
            await client.quit()
            await client.stream.aclose()
            assert hooks.sessions[-1].peer.host == ("::1" if six else "127.0.0.1")
        await server.stop()


@pytest.mark.parametrize("wildcard", ["::", "::ffff:0.0.0.0"])
async def test_ipv4_client_of_an_ipv6_socket(wildcard: str) -> None:
    """``session.peer`` and ``session.local`` have the IPv4 addresses."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no dual stack here")
    sock = trio.socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    await sock.bind((wildcard, 0))
    sock.listen()
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [trio.SocketListener(sock)])
        async with connect_tcp(sock.getsockname()[1]) as client:
            await client.hello()
        await server.stop()
    assert hooks.sessions[0].peer.host == hooks.sessions[0].local.host == "127.0.0.1"


async def test_bind_error_is_not_in_a_group() -> None:
    events: list[Event] = []
    server = Server(name=NAME)
    server.on(**spies(events))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            await server.serve(port, "127.0.0.1")
        assert caught.value.errno == errno.EADDRINUSE
        async with trio.open_nursery() as nursery:
            with pytest.raises(OSError, match="in use") as caught:
                await nursery.start(server.serve, port, "127.0.0.1")
        assert caught.value.errno == errno.EADDRINUSE
    assert events == []


async def test_unix_sockets(short_path: Path) -> None:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(str(short_path / "smtp"))
    sock.listen()
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, limits=Limits(per_peer=1))
    clients: list[Client] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [trio.SocketListener(sock)])
        for _ in range(2):
            client = Client(await trio.open_unix_socket(short_path / "smtp"))
            clients.append(client)
            await client.hello()
            await client.deliver()
        await server.stop()
        for client in clients:
            await client.stream.aclose()
    assert [session.peer for session in hooks.sessions] == [Peer("", None, "unix")] * 2


async def test_listener_in_memory(autojump_clock: MockClock) -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        clients = [await listener.connect() for _ in range(3)]
        for client in clients:
            await client.hello()
            await client.deliver()
            await client.quit()
        assert await server.stop() == Drained()
    assert [session.peer for session in hooks.sessions] == [Peer("", None, "memory")] * 3
    assert len({session.id for session in hooks.sessions}) == 3


async def test_all_listeners_are_closed_when_closing_one_fails(autojump_clock: MockClock) -> None:
    class Fails(MemoryListener):
        async def aclose(self) -> None:
            self.closed = True
            raise ValueError("cannot close")

    listeners = [MemoryListener(), Fails(), MemoryListener(), Fails(), MemoryListener()]
    server = Server(RecordingHooks(), name=NAME)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def serve_all() -> None:
            with pytest.raises(ValueError, match="cannot close"):
                await server.serve_listeners(listeners)

        await wait_all_tasks_blocked()
        await server.stop()
    assert all(listener.closed for listener in listeners)


async def test_several_serve_calls_at_once(autojump_clock: MockClock) -> None:
    """`start` is called once before the first session, `stop` once after the last; `Server.stop` ends all of them."""
    events: list[Event] = []
    go = trio.Event()
    server = Server(name=NAME)
    server.on(**spies(events, "start", "connect", "stop"))
    start = server._state.hooks["start"]

    async def slow_start(server: Server) -> None:
        await go.wait()
        await start(server)

    server.on(start=slow_start)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, server, (pair := memory_stream_pair())[1])
        await wait_all_tasks_blocked()
        listeners: list[MemoryListener] = []

        @nursery.start_soon
        async def second() -> None:
            listeners.append(await nursery.start(serve_memory_listener, server))

        client = Client(pair[0])
        await wait_all_tasks_blocked()
        assert events == []
        assert client.buffer == b""
        assert listeners == []
        go.set()
        await client.hello()
        await wait_all_tasks_blocked()
        other = await listeners[0].connect()
        await other.hello()
        await client.quit()
        await wait_all_tasks_blocked()
        assert [name for name, *_ in events] == ["start", "connect", "connect"]
        assert await server.stop() == Drained(idle=1)
        assert events[-1] == ("stop",)
    assert [name for name, *_ in events].count("stop") == 1


async def test_no_file_descriptor_is_left_for_a_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The server tries again, logs one line a minute for all listeners, and serves when there is a descriptor."""
    server = Server(RecordingHooks(), name=NAME)
    async with trio.open_nursery() as nursery:
        listeners = [*await open_listeners(0, "127.0.0.1"), *await open_listeners(0, "127.0.0.1")]
        await nursery.start(server.serve_listeners, listeners)
        with trio.socket.socket() as first, trio.socket.socket() as second:
            with few_descriptors(0):
                for sock, listener in zip((first, second), listeners, strict=True):
                    await sock.connect(listener.socket.getsockname())
                    select.select([listener.socket.fileno()], [], [])  # the clock does not wait until it has arrived
                await trio.sleep(150)
            for sock in (first, second):
                await Client(trio.SocketStream(sock)).hello()
        await server.stop()
    lines = [record.getMessage() for record in caplog.records if "cannot accept" in record.getMessage()]
    assert lines == ['cannot accept connections: "Too many open files"; trying again every 0.1 s'] * 3


async def test_sessions_begin_at_once_when_the_next_connection_finds_no_descriptor(socket_clock: MockClock) -> None:
    """What was accepted before the error does not wait until the server tries again."""
    begun: list[float] = []

    class Recorder(RecordingHooks):
        async def connect(self, session: Session) -> Reply | None:
            begun.append(trio.current_time())
            return None

    server = Server(Recorder(), name=NAME)
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners(0, "127.0.0.1")
        clients = [trio.socket.socket() for _ in range(10)]
        for sock in clients:
            await sock.connect(listeners[0].socket.getsockname())
        await nursery.start(server.serve_listeners, listeners)
        began = trio.current_time()
        with few_descriptors(len(clients) - 1):
            for sock in clients[:-1]:
                await Client(trio.SocketStream(sock)).hello()
        assert begun == [began] * (len(clients) - 1)
        await Client(trio.SocketStream(clients[-1])).hello()
        await server.stop()
        for sock in clients:
            sock.close()


# --- start and stop ---------------------------------------------------------------------------------------------------


async def test_exception_in_the_start_hook_is_not_in_a_group(autojump_clock: MockClock) -> None:
    error = RuntimeError("no database")

    class Broken(RecordingHooks):
        async def start(self, server: Server) -> None:
            raise error

        async def stop(self, server: Server) -> None:
            self.errors.append(RuntimeError("stopped, and never started"))

    hooks = Broken()
    server = Server(hooks, name=NAME)
    with pytest.raises(RuntimeError) as caught:
        await server.serve(0)
    assert caught.value is error
    client_end, server_end = memory_stream_pair()
    with pytest.raises(RuntimeError) as caught:
        await server.serve_stream(server_end)
    assert caught.value is error
    assert await client_end.receive_some() == b""
    assert hooks.errors == []
    assert hooks.sessions == []
    assert await server.stop() == Drained()


@pytest.mark.parametrize("how", ["cancel", "stop"])
async def test_end_during_start(how: str) -> None:
    """Every listener is closed, although nothing was accepted."""
    began = trio.Event()

    class Slow(RecordingHooks):
        async def start(self, server: Server) -> None:
            began.set()
            if how == "cancel":
                await trio.sleep_forever()
            await wait_all_tasks_blocked()

    server = Server(Slow(), name=NAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, 0)
        await began.wait()
        if how == "cancel":
            nursery.cancel_scope.cancel()
        else:
            assert await server.stop() == Drained()


@pytest.mark.parametrize("raising", [False, True])
async def test_stop_hook_runs_after_a_cancellation(raising: bool, autojump_clock: MockClock) -> None:
    """It is shielded for five seconds."""
    done = []

    class Slow(RecordingHooks):
        async def disconnect(self, session: Session) -> None:
            await trio.sleep(4)
            done.append("disconnect")

        async def stop(self, server: Server) -> None:
            await trio.sleep(4)
            done.append("stop")
            await trio.sleep(4)
            done.append("too late")

    server = Server(Slow(), name=NAME)
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        client = await listener.connect()
        await client.hello()
        nursery.cancel_scope.cancel()
    assert done == ["disconnect", "stop"]
    assert trio.current_time() == 4 + 5


async def test_disconnect_follows_a_late_reset(autojump_clock: MockClock) -> None:
    """A `reset` hook that does not return uses up half of the time that it has together with `disconnect`."""

    class Slow(RecordingHooks):
        async def reset(self, session: Session) -> None:
            await trio.sleep_forever()

        async def disconnect(self, session: Session) -> None:
            await trio.sleep(2)
            await super().disconnect(session)

    hooks = Slow()
    async with connected(Server(hooks, name=NAME)) as client:
        await client.open()
    assert hooks.ended == hooks.sessions
    assert trio.current_time() == 2.5 + 2


async def test_one_stream_after_another(autojump_clock: MockClock) -> None:
    """`stop` also waits for a session that began after all earlier ones had ended."""
    server = Server(RecordingHooks(), name=NAME)
    async with connected(server) as client:
        await client.hello()
    async with connected(server) as client:
        await client.open()
        await client.command("DATA", "354")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def stop() -> None:
                assert await server.stop() == Drained(finished=1)
                assert server.statistics().messages == 1

            await wait_all_tasks_blocked()
            await client.send(b".\r\n")
            await client.expect("250 2.0.0", DOWN)


class OrderedHooks(RecordingHooks):
    """Hooks with checkpoints, which fail when a session is open without a `start` before it, or during `stop`."""

    def __init__(self) -> None:
        super().__init__()
        self.started = 0
        self.open: set[Session] = set()

    async def start(self, server: Server) -> None:
        assert not self.open
        await trio.lowlevel.checkpoint()
        self.started += 1
        assert self.started == 1

    async def stop(self, server: Server) -> None:
        assert not self.open
        assert server.statistics().sessions_open == 0
        await trio.lowlevel.checkpoint()
        self.started -= 1
        assert self.started == 0
        assert not self.open

    async def connect(self, session: Session) -> Reply | None:
        assert self.started == 1
        self.open.add(session)
        return await super().connect(session)

    async def disconnect(self, session: Session) -> None:
        assert self.started == 1
        self.open.remove(session)


async def test_session_that_begins_as_the_last_one_ends(autojump_clock: MockClock) -> None:
    """It begins before `Hooks.stop` is called, which then waits for it, or after it, with a `Hooks.start` of its own.

    The order of tasks is random, so each step is tried several times.
    """
    for steps in [*range(12)] * 20:
        hooks = OrderedHooks()
        server = Server(hooks, name=NAME)
        async with connected(server) as first:
            await first.hello()
            await trio.aclose_forcefully(first.stream)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            async with connected(server) as second:
                await second.hello()
                await second.deliver()
        assert hooks.errors == []
        assert hooks.started == 0


async def test_server_that_is_stopped_while_a_session_waits_for_the_stop_hook(autojump_clock: MockClock) -> None:
    """`stop` waits for the session, which begins with another `Hooks.start`, and gets 421."""
    calls: list[str] = []

    async def start(server: Server) -> None:
        calls.append("start")

    async def stop(server: Server) -> None:
        calls.append("stop")
        await trio.sleep(1)

    server = Server(RecordingHooks(), name=NAME)
    server.on(start=start, stop=stop)
    async with trio.open_nursery() as nursery:
        client_end, server_end = memory_stream_pair()
        nursery.start_soon(serve, server, server_end)
        await trio.aclose_forcefully(client_end)
        await trio.sleep(0.5)
        assert calls == ["start", "stop"]
        async with connected(server) as client:
            await wait_all_tasks_blocked()
            assert await server.stop() == Drained(finished=1)
            await client.expect(f"220 {NAME}", DOWN)
            await client.expect_end()
    assert calls == ["start", "stop", "start", "stop"]


async def test_stopped_server_does_not_serve_again(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME)
    assert await server.stop() == Drained()
    for late in (
        server.serve(0),
        server.serve_stream(memory_stream_pair()[1]),
        server.serve_listeners([MemoryListener()]),
    ):
        with pytest.raises(trio.ClosedResourceError):
            await late
    assert await server.stop() == Drained()


async def test_stop_while_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that was bound after `stop` is closed again."""
    server = Server(RecordingHooks(), name=NAME)
    bind = listeners_module.open_listeners

    async def late(*args: Any) -> list[trio.SocketListener]:
        listeners = await bind(*args)
        await server.stop()
        return listeners

    monkeypatch.setattr(server_module, "open_listeners", late)
    with pytest.raises(trio.ClosedResourceError):
        await server.serve(0)


class Resolver(trio.abc.HostnameResolver):
    """A resolver that returns the same addresses for every name."""

    def __init__(self, *found: tuple[int, int, tuple[Any, ...]]) -> None:
        self.found = found

    async def getaddrinfo(  # type: ignore[override]
        self, host: bytes | None, port: bytes | str | int | None, family: int = 0, *args: int
    ) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        await trio.lowlevel.checkpoint()
        return [
            (family, socket.SOCK_STREAM, protocol, "", (address, port, *rest))
            for family, protocol, (address, *rest) in self.found
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


V4 = (socket.AF_INET, socket.IPPROTO_TCP, ("127.0.0.1",))
OTHER_V4 = (socket.AF_INET, socket.IPPROTO_TCP, ("127.0.0.2",))
V6 = (socket.AF_INET6, socket.IPPROTO_TCP, ("::1", 0, 0))


@pytest.mark.parametrize(
    ("found", "addresses"),
    [
        ([V4, V4], ["127.0.0.1"]),
        ([V4, (socket.AF_INET, 0, ("127.0.0.1",)), V4], ["127.0.0.1"]),  # once for each protocol
        ([V6, V4, V6, V4], ["::1", "127.0.0.1"]),
        ([V4, OTHER_V4, V4], ["127.0.0.1", "127.0.0.2"]),
        ([V4, V6, V6], ["127.0.0.1", "::1"]),
    ],
)
@pytest.mark.parametrize("reuse_port", [False, True])
async def test_address_that_is_found_twice_is_bound_once(
    found: list[Any], addresses: list[str], reuse_port: bool
) -> None:
    port = free_port()
    old = trio.socket.set_custom_hostname_resolver(Resolver(*found))
    try:
        for wanted in (0, port):
            listeners = await open_listeners(wanted, "localhost", reuse_port=reuse_port)
            bound = [each.socket.getsockname()[:2] for each in listeners]
            for each in listeners:
                await each.aclose()
            assert [address for address, _ in bound] == addresses
            assert len({port for _, port in bound}) == 1
    finally:
        trio.socket.set_custom_hostname_resolver(old)


# --- draining ---------------------------------------------------------------------------------------------------------


async def in_auth(client: Client) -> None:
    await client.hello()
    await client.command("AUTH LOGIN", "334")


@pytest.mark.parametrize("state", [Client.hello, Client.open, in_auth], ids=["ready", "transaction", "auth"])
async def test_idle_sessions_get_421_at_once(
    state: Callable[[Client], Awaitable[Any]], autojump_clock: MockClock
) -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, extensions=CLEARTEXT)
    server.on(auth=hooks.error)
    async with connected(server) as client:
        await state(client)
        assert await server.stop() == Drained(idle=1)
        assert await client.reply() == DOWN
        await client.expect_end()
    assert hooks.ended == hooks.sessions
    assert trio.current_time() == 0


async def test_message_is_finished_during_stop(autojump_clock: MockClock) -> None:
    """The message gets its reply; commands after it are not read."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with connected(server) as client, trio.open_nursery() as nursery:
        await client.open()
        await client.command("DATA", "354")
        drained: list[Drained] = []

        @nursery.start_soon
        async def stop() -> None:
            drained.append(await server.stop())

        await trio.sleep(29)
        assert drained == []
        await client.send(MESSAGE + b".\r\n")
        await client.expect("250 2.0.0", DOWN)
        await client.expect_end()
    assert drained == [Drained(finished=1)]
    assert hooks.messages == [MESSAGE]


async def test_chunked_message_is_finished_during_stop(autojump_clock: MockClock) -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with connected(server) as client, trio.open_nursery() as nursery:
        await client.open()
        await client.send(b"BDAT 5\r\nhello")
        await client.expect("250 2.0.0")
        nursery.start_soon(server.stop)
        await trio.sleep(10)
        await client.send(b"BDAT 2 LAST\r\n\r\n")
        await client.expect("250 2.0.0 Ok: queued", DOWN)
    assert hooks.messages == [b"hello\r\n"]


async def test_hook_is_finished_during_stop(autojump_clock: MockClock) -> None:
    """A session that runs a hook or sends a reply is not idle."""

    class Slow(RecordingHooks):
        async def mail(self, session: Session, mail: object) -> None:
            await trio.sleep(20)

    server = Server(Slow(), name=NAME)
    async with connected(server) as one, connected(server, pair=unbuffered) as two:
        await one.hello()
        await two.hello()
        await one.send(b"MAIL FROM:<>\r\n")
        await two.send(b"NOOP\r\n")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def stop() -> None:
                assert await server.stop() == Drained(finished=2)

            await one.expect("250 2.1.0", DOWN)
            assert trio.current_time() == 20
            await two.expect("250 2.0.0", DOWN)


@pytest.mark.parametrize("pair", [memory_stream_pair, sockets])
async def test_commands_received_are_answered_first(pair: Any, autojump_clock: MockClock) -> None:
    class Slow(RecordingHooks):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> None:
            await trio.sleep(1)

    hooks = Slow()
    server = Server(hooks, name=NAME)
    async with connected(server, pair=pair) as client:
        await client.hello()
        await client.send(START + b"DATA\r\n" + MESSAGE + b".\r\n" + START + b"RSET\r\nNO")
        await wait_all_tasks_blocked(0.001)
        assert await server.stop() == Drained(finished=1)
        await client.expect("250", "250", "354", "250 2.0.0 Ok: queued", "250", "250", "250 2.0.0", DOWN)
        await client.expect_end()
    assert hooks.messages == [MESSAGE]


async def test_grace(autojump_clock: MockClock) -> None:
    """Sessions that are left after the grace period are cancelled."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    async with connected(server) as client:
        await client.open()
        await client.command("DATA", "354")
        assert await server.stop(grace=7) == Drained(cancelled=1)
        assert trio.current_time() == 7
    assert hooks.ended == hooks.sessions
    assert hooks.messages == []
    assert hooks.errors == []


async def test_421_of_a_cancelled_session(autojump_clock: MockClock) -> None:
    """A cancelled session sends 421 if the kernel takes it without waiting."""
    server = Server(RecordingHooks(), name=NAME)
    async with connected(server, pair=sockets) as client:
        await client.open()
        await client.command("DATA", "354")
        assert await server.stop(grace=7) == Drained(cancelled=1)
        assert await client.reply() == DOWN
        await client.expect_end()


class Hanging(RecordingHooks):
    """Hooks of which those with the names given do not return. It records when each of them was cancelled."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self.calls: list[str] = []
        self.cancelled: dict[str, float] = {}

    async def hang(self, name: str) -> None:
        self.calls.append(name)
        if name in self.names:
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled[name] = trio.current_time()

    async def response(self, session: Session, reply: Reply) -> None:
        if "queued" in reply.text:
            await self.hang("response")

    async def reset(self, session: Session) -> None:
        await self.hang("reset")

    async def disconnect(self, session: Session) -> None:
        await self.hang("disconnect")
        await super().disconnect(session)

    async def stop(self, server: Server) -> None:
        await self.hang("stop")


LAST_HOOKS = ("response", "reset", "disconnect", "stop")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("limit", [5.0, 1.0])
@pytest.mark.parametrize("grace", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("names", [LAST_HOOKS, *combinations(LAST_HOOKS, 2), *((name,) for name in LAST_HOOKS), ()])
async def test_stop_has_one_deadline_for_all_last_hooks(
    names: tuple[str, ...],
    grace: float,
    limit: float,
    tls: bool,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It returns at most ``disconnect`` seconds after the grace period, and each hook is called; `stop` has half of that time."""
    hooks = Hanging(*names)
    server = Server(
        hooks, name=NAME, timeout=Timeouts(disconnect=limit), tls=server_tls() if tls else None, extensions=CLEARTEXT
    )
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        clients = [await listener.connect() for _ in range(3)]
        for client in clients:
            await client.hello()
            if tls:
                await client.starttls()
                await client.hello()
        for client in clients[1:]:
            await client.send(START)
            await client.expect("250 2.1.0", "250 2.1.5")
            await client.command("DATA", "354")
        # One session has an accepted message and an open transaction, one is in a message, and one is idle.
        await clients[1].send(MESSAGE + b".\r\n" + START)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await server.stop(grace)
        assert trio.current_time() - began <= grace + limit
    assert len(hooks.ended) + ("disconnect" in names) * 3 == 3
    assert hooks.calls.count("disconnect") == 3
    assert hooks.calls.count("stop") == 1
    if "stop" in names:
        assert hooks.cancelled["stop"] - max(hooks.cancelled.get("disconnect", 0), began) >= limit / 2
    # The response hook has no entry in the log here: it may hang for 300 s, and is only cancelled because of the reply.
    late = {name for name in ("reset", "disconnect", "stop") if f"{name} hook did not end in time" in caplog.text}
    assert late == hooks.cancelled.keys() - {"response"}


async def test_stop_shortens_the_time_of_a_last_hook_that_is_running(autojump_clock: MockClock) -> None:
    """So there is some left for `Hooks.stop`."""
    hooks = Hanging("disconnect", "stop")
    server = Server(hooks, name=NAME)
    async with connected(server) as client:
        await client.hello()
        await trio.aclose_forcefully(client.stream)
        await trio.sleep(1)
        await server.stop(0)
    assert hooks.cancelled == {"disconnect": 1 + 2.5, "stop": 1 + 5}


async def test_second_call_shortens_the_time_of_the_last_hooks(autojump_clock: MockClock) -> None:
    hooks = Hanging("disconnect", "stop")
    server = Server(hooks, name=NAME)
    async with connected(server) as client, trio.open_nursery() as nursery:
        await client.hello()
        nursery.start_soon(server.stop, 100)
        await trio.sleep(1)
        await server.stop(0)
    assert hooks.cancelled == {"disconnect": 1 + 2.5, "stop": 1 + 5}


@pytest.mark.parametrize("grace", [0.0, 1.0, 30.0])
async def test_stop_during_a_start_hook_that_hangs(grace: float, autojump_clock: MockClock) -> None:
    """It is cancelled after the grace period, and each ``serve`` that waits for it raises ClosedResourceError."""

    class Hangs(Hanging):
        async def start(self, server: Server) -> None:
            await self.hang("start")

    hooks = Hangs("start")
    server = Server(hooks, name=NAME)
    listener = MemoryListener()
    stream = memory_stream_pair()[1]

    async def refused(serve: Callable[[Any], Awaitable[None]], argument: object) -> None:
        with pytest.raises(trio.ClosedResourceError, match="stopped"):
            await serve(argument)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, server.serve_listeners, [listener])
        nursery.start_soon(refused, server.serve_stream, stream)
        await trio.sleep(5)
        assert await server.stop(grace) == Drained()
    assert hooks.cancelled == {"start": 5 + grace}
    assert hooks.calls == ["start"]
    assert listener.closed
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some(1)


@pytest.mark.parametrize("hook", ["start", "stop", "error"])
@pytest.mark.parametrize("child", [False, True])
async def test_stop_inside_a_hook_of_the_server_raises(hook: str, child: bool, autojump_clock: MockClock) -> None:
    """Otherwise it would wait for itself, in `start` until the grace period has ended."""
    server = Server(RecordingHooks(), name=NAME)
    seen: list[BaseException] = []

    async def stop(*_: object) -> None:
        try:
            if child:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.stop)
            else:
                await server.stop()
        except* RuntimeError as group:
            seen.extend(group.exceptions)

    async def fails(server: Server) -> None:
        raise ValueError("bug")

    server.on(**({"error": stop, "stop": fails} if hook == "error" else {hook: stop}))
    async with connected(server) as client:
        await client.hello()
        await client.deliver()
        await client.quit()
    assert len(seen) == 1
    assert "would wait for the hook" in str(seen[0])
    assert trio.current_time() == 0
    assert await server.stop() == Drained()


@pytest.mark.parametrize("hook", ["start", "stop"])
async def test_stop_in_a_child_of_the_task_that_runs_a_hook(hook: str, autojump_clock: MockClock) -> None:
    """A task in the nursery around ``serve`` may stop the server, as one that waits for signals does."""
    running = trio.Event()
    server = Server(RecordingHooks(), name=NAME)
    calls: list[str] = []

    async def slow(server: Server) -> None:
        calls.append(hook)
        running.set()
        await trio.sleep(1)

    async def stop() -> None:
        await running.wait()
        await server.stop(5)
        calls.append("stopped")

    server.on(**{hook: slow})
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        await trio.aclose_forcefully(client_end)
        await server.serve_stream(server_end)
    assert calls == [hook, "stopped"]


async def test_second_call_may_shorten_the_grace(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME)
    ends: list[tuple[float, Drained]] = []
    async with connected(server) as client, trio.open_nursery() as nursery:
        await client.open()
        await client.command("DATA", "354")

        async def stop(after: float, grace: float) -> None:
            await trio.sleep(after)
            ends.append((trio.current_time(), await server.stop(grace)))
            assert trio.current_time() == 3

        nursery.start_soon(stop, 0, 30)
        nursery.start_soon(stop, 1, 100)
        nursery.start_soon(stop, 2, 1)
    assert sorted(when for when, _ in ends) == [0, 1, 2]
    assert {drained for _, drained in ends} == {Drained(cancelled=1)}
    assert await server.stop() == Drained(cancelled=1)


async def test_cancelling_stop_changes_nothing(autojump_clock: MockClock) -> None:
    """`stop` does all its work before its first checkpoint, also if the caller is cancelled already."""
    server = Server(RecordingHooks(), name=NAME)
    async with connected(server) as idle, connected(server) as busy:
        await idle.hello()
        await busy.open()
        await busy.command("DATA", "354")
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.stop(grace=10)
        assert scope.cancelled_caught
        await idle.expect("421 4.3.2")
        await busy.expect_end()
        assert trio.current_time() == 10
        assert await server.stop() == Drained(idle=1, cancelled=1)


async def test_stop_inside_a_session_raises(autojump_clock: MockClock) -> None:
    async def child(server: Server) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stop)

    class StopsItsServer(RecordingHooks):
        async def vrfy(self, session: Session, command: object) -> None:
            await session.server.stop()

        async def expn(self, session: Session, command: object) -> None:
            await child(session.server)

    hooks = StopsItsServer()
    server = Server(hooks, name=NAME)
    async with connected(server) as client:
        await client.hello()
        await client.command("VRFY a", "451 4.3.0")
        await client.command("EXPN a", "451 4.3.0")
        await client.quit()
    assert isinstance(hooks.errors[0], RuntimeError)
    assert isinstance(hooks.errors[1], ExceptionGroup)
    assert not server._state.stopping


async def test_session_may_start_a_task_that_stops_its_server(autojump_clock: MockClock) -> None:
    """The task is not part of the session, so the session does not wait for itself."""
    async with trio.open_nursery() as nursery:

        class StopsItsServer(RecordingHooks):
            async def vrfy(self, session: Session, command: object) -> None:
                nursery.start_soon(session.server.stop)

        hooks = StopsItsServer()
        server = Server(hooks, name=NAME)
        listener = await nursery.start(serve_memory_listener, server)
        client = await listener.connect()
        await client.hello()
        await client.send(b"VRFY a\r\n")
        await client.expect("252", DOWN)
    assert hooks.errors == []


async def test_session_may_stop_another_server(autojump_clock: MockClock) -> None:
    other = Server(RecordingHooks(), name=NAME)

    class Stopper(RecordingHooks):
        async def vrfy(self, session: Session, command: object) -> None:
            await other.stop()

    async with connected(Server(Stopper(), name=NAME)) as client, connected(other) as victim:
        await client.hello()
        await victim.hello()
        await client.command("VRFY a", "252")
        await victim.expect("421 4.3.2")


async def test_stop_in_the_task_that_runs_serve_stream(autojump_clock: MockClock) -> None:
    """A task that existed before the session is not part of it."""
    server = Server(RecordingHooks(), name=NAME)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def stop() -> None:
            await trio.sleep(1)
            assert await server.stop() == Drained(idle=1)

        await server.serve_stream(memory_stream_pair()[0])


async def test_drained_counts_each_session_once(autojump_clock: MockClock) -> None:
    """Each session is counted once, by how it ended."""

    class Slow(RecordingHooks):
        async def mail(self, session: Session, mail: object) -> None:
            await trio.sleep(10)

        async def rcpt(self, session: Session, rcpt: object) -> None:
            await trio.sleep(100)

    server = Server(Slow(), name=NAME)
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        clients = [await listener.connect() for _ in range(12)]
        for client in clients:
            await client.hello()
        for client in clients[:2]:
            await client.send(START)
        for client in clients[2:5]:
            await client.send(b"MAIL FROM:<>\r\n")
        # This one is idle, and does not read the 421.
        client_end, server_end = unbuffered()
        await listener.streams.send(server_end)
        await Client(client_end).hello()
        await clients[-1].quit()
        await wait_all_tasks_blocked()
        assert await server.stop(20) == Drained(finished=3, idle=6, cancelled=3)


async def test_cancelled_from_outside_while_draining(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME)
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            listener = await nursery.start(serve_memory_listener, server)
            client = await listener.connect()
            await client.open()
            await client.command("DATA", "354")

            @outer.start_soon
            async def stop() -> None:
                assert await server.stop() == Drained(cancelled=1)
                assert trio.current_time() == 3

            await trio.sleep(3)
            nursery.cancel_scope.cancel()


async def test_connection_that_is_accepted_during_stop(autojump_clock: MockClock) -> None:
    """It was accepted before `stop`, and its session begins after it: it gets 421 and is counted."""
    server = Server(RecordingHooks(), name=NAME)
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve_memory_listener, server)
        client_end, server_end = memory_stream_pair()
        await wait_all_tasks_blocked()
        listener.streams.send_nowait(server_end)
        assert await server.stop() in (Drained(), Drained(finished=1))
        client = Client(client_end)
        replies = []
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            while True:
                replies.append(await client.reply())
        assert replies in ([], [f"220 {NAME} ESMTP", DOWN])


class Stepwise:
    """Awaits ``work``, and calls ``then`` when it waits for the first time."""

    def __init__(self, work: Coroutine[Any, Any, Any], then: Callable[[], None]) -> None:
        self.work, self.then = work, then

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self.work.__await__()
        try:
            trap = next(steps)
            self.then()
            while True:
                trap = steps.send((yield trap))
        except StopIteration as done:
            return done.value


async def test_stop_does_its_work_before_its_first_checkpoint() -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    seen: list[tuple[int, list[bool]]] = []
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(server.serve, 0, "127.0.0.1")
        async with connect_tcp(listeners[0].socket.getsockname()[1]) as client:
            await client.hello()
            await wait_all_tasks_blocked(0.01)
            await Stepwise(
                server.stop(),
                lambda: seen.append((listeners[0].socket.fileno(), [session.woken for session in server._sessions])),
            )
            await client.expect(DOWN)
    assert seen == [(-1, [True])]


async def test_stop_before_the_first_connection_is_awaited() -> None:
    """The order of tasks is random, so it is tried several times."""
    for _ in range(20):
        server = Server(RecordingHooks(), name=NAME)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, 0, "127.0.0.1")
            assert await server.stop() == Drained()


async def test_connections_are_refused_as_soon_as_stop_is_called() -> None:
    server = Server(RecordingHooks(), name=NAME)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(server.serve, 0, "127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with connect_tcp(port) as client:
            await client.open()
            await client.command("DATA", "354")
            nursery.start_soon(server.stop)
            await wait_all_tasks_blocked()
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", port)
            await client.send(b".\r\n")
            await client.expect("250", DOWN)


async def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("IPv6 is not supported")
    server = Server(RecordingHooks(), name=NAME)
    async with trio.open_nursery() as nursery:
        try:
            listeners = await nursery.start(lambda task_status: server.serve(0, "::1", task_status=task_status))
        except OSError:
            pytest.skip("::1 is not configured")
        async with await trio.open_tcp_stream("::1", listeners[0].socket.getsockname()[1]) as stream:
            client = Client(stream)
            await client.hello()
            await client.deliver()
            await client.quit()
        await server.stop(0)
