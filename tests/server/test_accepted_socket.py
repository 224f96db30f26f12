"""Accepted connections, whose streams are made only when they are needed."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
import trio
import trio.testing

from smtp_trio import Body, Hooks, Peer, Reply, Server, Session
from smtp_trio._wire import AcceptedSocket, Wire, inherit_options

pytestmark = pytest.mark.skipif(os.name != "posix", reason="only POSIX has direct access to the descriptor")


@pytest.fixture
def ends() -> Iterator[tuple[AcceptedSocket, socket.socket]]:
    """An accepted connection and its client."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        inherit_options(listening)
        with socket.create_connection(listening.getsockname()) as client, listening.accept()[0] as sock:
            made_as = (sock.family, sock.type, sock.proto)
            with closing(AcceptedSocket(sock.detach(), made_as)) as accepted:
                yield accepted, client


def test_options_of_a_stream_are_inherited_from_the_listening_socket(
    ends: tuple[AcceptedSocket, socket.socket],
) -> None:
    accepted, client = ends
    with socket.socket(fileno=os.dup(accepted.fileno())) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if (option := getattr(trio.socket, "TCP_NOTSENT_LOWAT", None)) is not None:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
            assert sock.getsockopt(socket.IPPROTO_TCP, option) == stream.getsockopt(socket.IPPROTO_TCP, option)
    assert not os.get_blocking(accepted.fileno())


async def test_stream_has_the_descriptor_from_then_on(ends: tuple[AcceptedSocket, socket.socket]) -> None:
    accepted, client = ends
    descriptor = accepted.fileno()
    assert accepted.getsockname() == client.getpeername()
    assert accepted.stream is accepted.stream
    assert accepted.fileno() == accepted.stream.socket.fileno() == descriptor
    assert accepted.getsockname() == client.getpeername()
    await accepted.stream.send_all(b"x")
    assert client.recv(1) == b"x"
    accepted.close()
    assert accepted.fileno() == -1
    assert client.recv(1) == b""


def test_descriptor_is_closed_once(ends: tuple[AcceptedSocket, socket.socket]) -> None:
    import fcntl  # which is missing where this test is skipped

    accepted, client = ends
    descriptor = accepted.fileno()
    accepted.close()
    assert client.recv(1) == b""
    reused = fcntl.fcntl(client.fileno(), fcntl.F_DUPFD, descriptor)  # the first one from there on that is free
    try:
        assert reused == descriptor
        accepted.close()
        os.fstat(reused)
    finally:
        os.close(reused)
    with pytest.raises(trio.ClosedResourceError, match="the connection was closed"):
        _ = accepted.stream


class Lines:
    """A protocol that keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        self.received.append(data)

    def data_to_send(self) -> bytes:
        return b""


async def test_read_in_another_task_ends_when_the_connection_is_closed(
    ends: tuple[AcceptedSocket, socket.socket],
) -> None:
    import fcntl  # which is missing where this test is skipped

    accepted, client = ends
    descriptor, protocol = accepted.fileno(), Lines()
    wire = Wire(accepted, protocol, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.receive)
        await trio.testing.wait_all_tasks_blocked()
        await wire.close()
        # The next connection gets the same descriptor, and must be able to wait for it.
        reused = fcntl.fcntl(client.fileno(), fcntl.F_DUPFD, descriptor)
        try:
            assert reused == descriptor
            await trio.lowlevel.wait_readable(reused)
        finally:
            os.close(reused)
    assert protocol.received == [b""]


@pytest.mark.skipif(
    not hasattr(select, "POLLRDHUP"), reason="this system does not tell the end of the input from octets"
)
@pytest.mark.parametrize("unread", [b"", b"NOOP\r\n"])
def test_last_octets_and_the_end_arrive_together(ends: tuple[AcceptedSocket, socket.socket], unread: bytes) -> None:
    """Also if there is input that was not read, in which case the kernel sends a reset as soon as the socket is closed."""
    accepted, client = ends
    client.sendall(unread)
    poll = select.poll()
    poll.register(client, select.POLLIN | select.POLLRDHUP)
    assert not accepted.send_last(b"221 Bye\r\n")
    accepted.close()
    [(_, events)] = poll.poll()
    assert events & select.POLLIN
    assert events & select.POLLRDHUP
    assert client.recv(100) == b"221 Bye\r\n"


def test_last_octets_after_a_reset(ends: tuple[AcceptedSocket, socket.socket]) -> None:
    accepted, client = ends
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert not accepted.send_last(b"221 Bye\r\n")
    accepted.close()
    assert not accepted.send_last(b"221 Bye\r\n")


@pytest.mark.parametrize("timeout", [None, 0.01])
def test_last_octets_that_the_kernel_does_not_take(
    ends: tuple[AcceptedSocket, socket.socket], timeout: float | None
) -> None:
    """They are not waited for, whatever timeout the application has set for its own sockets."""
    accepted, client = ends
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(accepted.fileno(), bytes(65536))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        assert accepted.send_last(b"221 Bye\r\n") == b"221 Bye\r\n"
    finally:
        socket.setdefaulttimeout(before)
    while filled:
        filled -= len(client.recv(filled))
    assert not accepted.send_last(b"221 Bye\r\n")
    assert client.makefile("rb").read() == b"221 Bye\r\n"


class Curious(Hooks):
    """Hooks that ask for the stream of a session at the end of a message."""

    def __init__(self) -> None:
        self.made: list[bool] = []
        self.locals: list[Peer] = []
        self.streams: list[trio.abc.Stream] = []

    async def data(self, session: Session, body: Body) -> Reply | None:
        await body.discard()
        self.made.append(session._wire._stream is not None)
        self.locals.append(session.local)
        self.streams.append(session.stream)
        return None


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_session_makes_a_stream_if_it_is_asked_for(host: str) -> None:
    hooks = Curious()
    server = Server(hooks, name="mx.example.org")
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(server.serve, 0, host)
        client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        async with client:
            received = b""
            for line in (b"", b"HELO c.example.org", b"MAIL FROM:<>", b"RCPT TO:<a@example.org>", b"DATA", b"."):
                await client.send_all(line + b"\r\n" if line else b"")
                received += await client.receive_some()
            address = client.socket.getpeername()
            await client.send_all(b"QUIT\r\n")
            received += b"".join([octets async for octets in client])
        await server.stop()
    assert [line[:3] for line in received.split(b"\r\n")[:-1]] == [b"220", *[b"250"] * 3, b"354", b"250", b"221"]
    assert hooks.made == [False]
    assert hooks.locals == [Peer(address[0], address[1], "tcp")]
    assert [type(stream) for stream in hooks.streams] == [trio.SocketStream]
    with pytest.raises(trio.ClosedResourceError):
        await hooks.streams[0].send_all(b"x")


class Leaving(Hooks):
    """Hooks with one that is called between the reply to QUIT and the end of the connection."""

    async def disconnect(self, session: Session) -> None: ...


@pytest.mark.parametrize(("hooks", "together"), [(Hooks(), True), (Leaving(), False)])
async def test_reply_to_quit_is_sent_with_the_end_of_the_connection_unless_a_hook_is_called_before(
    hooks: Hooks, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    last: list[bytes] = []
    send = AcceptedSocket.send_last

    def recorded(accepted: AcceptedSocket, data: bytes) -> bytes | memoryview:
        last.append(data)
        return send(accepted, data)

    monkeypatch.setattr(AcceptedSocket, "send_last", recorded)
    server = Server(hooks, name="mx.example.org")
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(server.serve, 0, "127.0.0.1")
        async with await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1]) as client:
            await client.receive_some()
            await client.send_all(b"QUIT\r\n")
            received = b"".join([octets async for octets in client])
        await server.stop()
    assert received[:3] == b"221"
    assert last == ([received] if together else [])
