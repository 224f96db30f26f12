"""A client that sends many commands at once does not delay other tasks."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from functools import partial

import pytest
import trio
from helpers import NAME, START, RecordingHooks, connected
from trio.testing import MockClock

from smtp_trio import Limits, Server, Session, open_listeners
from smtp_trio._server import listeners

COMMANDS = 800


async def turns(server: Server, flood: bytes, replies: int) -> int:
    """Return how often another task ran while the server replied to commands that it had received in one segment."""
    async with connected(server) as client:
        await client.open()
        count = 0
        done = trio.Event()

        async def other() -> None:
            nonlocal count
            while not done.is_set():
                count += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await client.send(flood)
            for _ in range(replies):
                assert (await client.reply()).startswith("250")
            done.set()
        return count


@pytest.mark.parametrize("command", [b"RCPT TO:<you@mx.test>\r\n", b"BDAT 1\r\nx"])
async def test_many_commands_in_one_segment(command: bytes) -> None:
    """Commands, and chunks that are as small as commands."""
    server = Server(RecordingHooks(), name=NAME, limits=Limits(recipients=COMMANDS + 1))
    flood = command * COMMANDS
    assert len(flood) < 65536, "it must come in one read"
    assert await turns(server, flood, COMMANDS) >= COMMANDS // 16


async def test_small_group_is_answered_without_a_checkpoint() -> None:
    """A group of ordinary size is answered in one write (RFC 2920 3.1)."""
    server = Server(RecordingHooks(), name=NAME)
    writes: list[bytes] = []

    async with connected(server) as client:
        await client.hello()
        receive = client.stream.receive_some

        async def noted(max_bytes: int | None = None) -> bytes:
            writes.append(bytes(await receive(max_bytes)))
            return writes[-1]

        client.stream.receive_some = noted  # type: ignore[method-assign]
        await client.send(START)
        await client.expect("250 2.1.0", "250 2.1.5")
    assert len(writes) == 1


# --- the order in which accepted connections become sessions ----------------------------------------------------------


class Greeted(RecordingHooks):
    """Records the hosts of the clients, in the order in which their sessions begin."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: list[str] = []

    async def connect(self, session: Session) -> None:
        self.hosts.append(session.peer.host)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more than one loopback address by default")
async def test_connections_of_one_peer_do_not_delay_the_session_of_another() -> None:
    """The queue of the kernel is first in, first out. A session takes long to begin, and those of one peer have turns."""
    [listener] = await open_listeners(0, "127.0.0.1")
    address = listener.socket.getsockname()
    hooks = Greeted()
    server = Server(hooks, name=NAME)
    with ExitStack() as stack:

        def connect(host: str) -> socket.socket:
            return stack.enter_context(socket.create_connection(address, source_address=(host, 0)))

        for _ in range(100):
            connect("127.0.0.2")
        for host in ("127.0.0.3", "127.0.0.4"):
            connect(host)
        last = trio.socket.from_stdlib_socket(connect("127.0.0.2"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_listeners, [listener])
            assert (await last.recv(1000)).startswith(b"220 ")
            nursery.cancel_scope.cancel()
    assert len(hooks.hosts) == 103
    assert {"127.0.0.3", "127.0.0.4"} <= set(hooks.hosts[:30])


async def test_connections_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are served, also those that were in the queue of the kernel when as many waited as may."""
    monkeypatch.setattr(listeners, "MAX_WAITING", 8)
    [listener] = await open_listeners(0, "127.0.0.1")
    address = listener.socket.getsockname()
    async with trio.open_nursery() as nursery:

        async def greeted() -> None:
            async with await trio.open_tcp_stream(*address) as stream:
                assert (await stream.receive_some()).startswith(b"220 ")

        with trio.fail_after(100):
            async with trio.open_nursery() as clients:
                for _ in range(50):
                    clients.start_soon(greeted)
                nursery.start_soon(Server(RecordingHooks(), name=NAME).serve_listeners, [listener])
        nursery.cancel_scope.cancel()


async def test_connections_that_wait_when_the_server_stops_get_a_reply() -> None:
    """They are accepted, so they are told that the server stops (RFC 5321 3.8)."""
    [listener] = await open_listeners(0, "127.0.0.1")
    address = listener.socket.getsockname()
    started = trio.Event()

    class Stopping(Greeted):
        async def connect(self, session: Session) -> None:
            await super().connect(session)
            started.set()

    replies = []
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(listeners.BURST)]
        server = Server(Stopping(), name=NAME)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_listeners, [listener])
            await started.wait()
            await server.stop()
        for client in clients:
            client.settimeout(100)
            replies.append(b"".join(iter(partial(client.recv, 1000), b"")))
    assert len(replies) == listeners.BURST
    assert all(b"421 " in reply for reply in replies)


async def test_many_connections_after_single_ones() -> None:
    """A server that accepts connections one by one, since each came alone, begins all sessions of a crowd."""
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(Server(RecordingHooks(), name=NAME).serve, 0, "127.0.0.1")
        address = listener.socket.getsockname()
        for number in (1, 1, 3 * listeners.SINGLES):
            clients = [await trio.open_tcp_stream(*address) for _ in range(number)]
            for client in clients:
                assert (await client.receive_some(1000)).startswith(b"220 ")
                await client.aclose()
        nursery.cancel_scope.cancel()


# --- connections that are refused ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more than one loopback address by default")
async def test_refused_connections_do_not_delay_the_session_of_another_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """To close a connection takes longer than to accept it, so all that wait are accepted before the refused are closed."""
    monkeypatch.setattr(listeners, "CLOSED", 0)
    [listener] = await open_listeners(0, "127.0.0.1")
    address = listener.socket.getsockname()
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=1, count_local=True))
    with ExitStack() as stack:

        def connect(host: str) -> socket.socket:
            return stack.enter_context(socket.create_connection(address, source_address=(host, 0)))

        first, *refused = [connect("127.0.0.2") for _ in range(200)]
        other = trio.socket.from_stdlib_socket(connect("127.0.0.3"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_listeners, [listener])
            assert (await other.recv(1000)).startswith(b"220 ")
            assert [is_open(each) for each in (first, *refused)] == [True] * 200
            nursery.cancel_scope.cancel()
        while any(map(is_open, refused)):  # until the kernel has delivered the ends
            await trio.lowlevel.checkpoint()
    assert server.statistics().connections_refused == 199


def is_open(sock: socket.socket) -> bool:
    """Read what a connection has received, and return whether the server has not closed it."""
    sock.setblocking(False)
    try:
        while sock.recv(1000):
            pass
    except BlockingIOError:
        return True
    return False


async def test_refused_connections_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "CLOSED", 0)
    monkeypatch.setattr(listeners, "MAX_REFUSED", 8)
    [listener] = await open_listeners(0, "127.0.0.1")
    address = listener.socket.getsockname()
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=1, count_local=True))
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(50)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_listeners, [listener])
            while server.statistics().connections_refused < 49:
                await trio.lowlevel.checkpoint()
            while sum(map(is_open, clients)) > 9:  # until the kernel has delivered the ends
                await trio.lowlevel.checkpoint()
            assert sum(map(is_open, clients)) == 9
            nursery.cancel_scope.cancel()


async def test_event_loop_waits_between_refused_connections(
    monkeypatch: pytest.MonkeyPatch, socket_clock: MockClock
) -> None:
    """Threads that commit messages run while it waits. Before that, all connections in the queue are accepted."""
    monkeypatch.setattr(listeners, "BURST", 4)
    monkeypatch.setattr(listeners, "CLOSED", 1)
    monkeypatch.setattr(listeners, "PAUSE", 10)
    [listener] = await open_listeners(0, "127.0.0.1")
    address = listener.socket.getsockname()
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=1, count_local=True))
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(10)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_listeners, [listener])
            await trio.sleep(5)
            assert server.statistics().connections_refused == 9
            open_then = sum(map(is_open, clients))
            await trio.sleep(10)
            assert sum(map(is_open, clients)) == open_then - 1
            nursery.cancel_scope.cancel()
    assert open_then > 2


async def test_all_connections_are_accepted_after_each_pause(
    monkeypatch: pytest.MonkeyPatch, socket_clock: MockClock
) -> None:
    """Also when the flood began with single ones."""
    monkeypatch.setattr(listeners, "CLOSED", 0)
    monkeypatch.setattr(listeners, "PAUSE", 10)
    [listener] = await open_listeners(0, "127.0.0.1")
    address = listener.socket.getsockname()
    server = Server(RecordingHooks(), name=NAME, limits=Limits(connections_per_minute=1, count_local=True))
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_listeners, [listener])
            for number in (1, 1, 20):
                for _ in range(number):
                    stack.enter_context(socket.create_connection(address))
                await trio.sleep(1)
            assert server.statistics().connections_refused == 1
            await trio.sleep(10)
            assert server.statistics().connections_refused == 21
            nursery.cancel_scope.cancel()


async def test_refused_connections_are_closed_when_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "CLOSED", 0)
    refused = listeners.Refused()
    ends = socket.socketpair()
    with ends[1]:
        refused.add(ends[0].detach())
        with socket.socket() as not_listening:
            arrivals = listeners.Arrivals(lambda stream, peer: None)
            made_as = not_listening.family, not_listening.type, not_listening.proto
            assert listeners._accept_burst(arrivals, refused, lambda *_: None, not_listening, made_as) < 0
        assert not is_open(ends[1])
