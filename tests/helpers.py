"""Helpers for the tests of the server: a raw client, sessions over streams in memory, hooks that record what they get."""

from __future__ import annotations

import base64
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest
import trio
import trustme
from trio.testing import lockstep_stream_pair, memory_stream_pair

import smtp_trio
from smtp_trio import Body, Hooks, Pool, Reply, Server, Session

NAME = "mx.test"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
START = b"MAIL FROM:<me@client.test>\r\nRCPT TO:<you@mx.test>\r\n"
SECRET = base64.b64encode(b"\0fred\0secret").decode()

LINE = re.compile(rb"([2-5][0-5][0-9])([ -])([\t -~\x80-\xff]*)\r\n")
STATUS = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3} ")


def quick_or_slow(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Return parameters for a test; those that are not in ``quick`` have the marker `slow`."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


class Client:
    """Sends raw octets and reads whole replies. Each reply must be well-formed (RFC 5321 4.2, RFC 2034 4)."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""
        self.replies: list[str] = []

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            data = await self.stream.receive_some()
            if not data:
                assert self.buffer == b"", "the connection ended in the middle of a reply"
                raise EOFError
            self.buffer += bytes(data)
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line + b"\r\n"

    async def reply(self) -> str:
        """Return the next reply, its lines joined by a line feed. Raises EOFError at the end of the connection."""
        lines: list[str] = []
        code, status = b"", None
        while True:
            line = await self._line()
            assert len(line) <= 512
            match = LINE.fullmatch(line)
            assert match is not None, line
            text = match[3].decode()
            enhanced = STATUS.match(text)
            if lines:
                assert (match[1], enhanced and enhanced[0]) == (code, status)
            code, status = match[1], enhanced and enhanced[0]
            greeting = not self.replies or code[:1] == b"3"
            assert not (greeting and status), "RFC 2034 4: this reply must not have an enhanced status code"
            assert status is None or status[0] == chr(code[0])
            lines.append(line[:-2].decode())
            if match[2] == b" ":
                break
        self.replies.append("\n".join(lines))
        return self.replies[-1]

    async def expect(self, *starts: str) -> str:
        """Read replies that begin with ``starts``, in this order; return the last one."""
        reply = ""
        for start in starts:
            reply = await self.reply()
            assert reply.startswith(start), (start, reply)
        return reply

    async def command(self, line: str | bytes, *starts: str) -> str:
        """Send a line and read replies that begin with ``starts``; return the last one."""
        await self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.expect(*starts)

    async def hello(self) -> str:
        """Read the greeting, if it was not read yet, and send EHLO; return the reply."""
        if not self.replies:
            await self.expect(f"220 {NAME} ESMTP")
        reply = await self.command("EHLO client.test", f"250-{NAME}")
        assert not any(STATUS.match(line[4:]) for line in reply.split("\n"))
        return reply

    async def open(self) -> None:
        """Send EHLO, MAIL and RCPT."""
        await self.hello()
        await self.send(START)
        await self.expect("250 2.1.0", "250 2.1.5")

    async def deliver(self, message: bytes = MESSAGE, *starts: str) -> str:
        """Send a message, from MAIL on; read replies that begin with ``starts``, by default one that accepts it."""
        await self.send(START)
        await self.expect("250 2.1.0", "250 2.1.5")
        await self.command("DATA", "354")
        await self.send(message + b".\r\n")
        return await self.expect(*(starts or ("250 2.0.0 Ok: queued as ",)))

    async def expect_end(self) -> None:
        """Wait for the end of the connection, and fail if there is a reply before it."""
        try:
            reply = await self.reply()
        except EOFError:
            return
        raise AssertionError(reply)

    async def quit(self) -> None:
        """Send QUIT, and check that no reply is left after its own."""
        await self.command("QUIT", f"221 2.0.0 {NAME}")
        await self.expect_end()

    async def starttls(self) -> None:
        """Send STARTTLS and do the handshake."""
        await self.command("STARTTLS", "220 2.0.0")
        await self.handshake()

    async def handshake(self) -> None:
        stream = trio.SSLStream(self.stream, client_tls(), server_hostname=NAME)
        await stream.do_handshake()
        self.stream = stream


class RecordingHooks(Hooks):
    """Hooks that accept everything, and record sessions, messages and errors."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.sessions: list[Session] = []
        self.ended: list[Session] = []
        self.errors: list[Exception] = []

    async def connect(self, session: Session) -> Reply | None:
        self.sessions.append(session)
        return None

    async def disconnect(self, session: Session) -> None:
        self.ended.append(session)

    async def data(self, session: Session, body: Body) -> Reply | None:
        self.messages.append(await body.read())
        return None

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)


#: The names of all hooks.
HOOKS = tuple(name for name in vars(Hooks) if not name.startswith("_"))
Event = tuple[Any, ...]


def spies(events: list[Event], *names: str) -> dict[str, Callable[..., Awaitable[Any]]]:
    """Return functions for `Server.on` that record each call with its arguments, except the first. `data` reads the message."""

    def spy(name: str) -> Callable[..., Awaitable[Any]]:
        async def hook(_: Session | Server, *args: Any) -> Reply | None:
            events.append((name, *args))
            if name == "data":
                await args[0].read()
            if name == "connect":
                return None
            return Reply(235) if name == "auth" else None

        return hook

    return {name: spy(name) for name in names or HOOKS}


Pair = tuple[trio.abc.Stream, trio.abc.Stream]


@asynccontextmanager
async def connected(
    server: Server, *, pair: Callable[[], Pair] = memory_stream_pair, implicit_tls: bool = False
) -> AsyncGenerator[Client]:
    """Run a session in memory, with a `Client`. The client disconnects at the end, after which the session must end."""
    client_end, server_end = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, server, server_end, implicit_tls)
        client = Client(client_end)
        yield client
        await trio.aclose_forcefully(client.stream)


async def serve(server: Server, stream: trio.abc.Stream, implicit_tls: bool = False) -> None:
    """Run `Server.serve_stream`, which must close the stream."""
    await server.serve_stream(stream, implicit_tls=implicit_tls)
    try:
        await stream.receive_some(1)
    except trio.ClosedResourceError:
        return
    raise AssertionError("the stream was left open")


def unbuffered() -> Pair:
    """Return streams without a buffer: a write waits until the peer has read."""
    return lockstep_stream_pair()


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener in memory."""

    def __init__(self) -> None:
        self.streams, self._incoming = trio.open_memory_channel[trio.abc.Stream](0)
        self.closed = False

    async def accept(self) -> trio.abc.Stream:
        try:
            return await self._incoming.receive()
        except trio.EndOfChannel:
            await trio.sleep_forever()
            raise

    async def aclose(self) -> None:
        self.closed = True
        self._incoming.close()
        await trio.lowlevel.checkpoint()

    async def connect(self) -> Client:
        client_end, server_end = memory_stream_pair()
        await self.streams.send(server_end)
        return Client(client_end)


async def serve_memory_listener(server: Server, task_status: trio.TaskStatus[Any]) -> None:
    """`Server.serve_listeners` over a `MemoryListener`, for `nursery.start`."""
    listener = MemoryListener()
    await server.serve_listeners([listener], task_status=_StartedWith(task_status, listener))
    assert listener.closed


class _StartedWith(trio.TaskStatus[Any]):
    """A task status that replaces the value that it is started with."""

    def __init__(self, task_status: trio.TaskStatus[Any], value: object) -> None:
        self._task_status, self._value = task_status, value

    def started(self, value: object = None) -> None:
        self._task_status.started(self._value)


def sockets() -> Pair:
    """Return connected sockets. They work with a MockClock, as the peer can read at once what was written."""
    client_end, server_end = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    return client_end, server_end


@asynccontextmanager
async def listening(server: Server, **options: Any) -> AsyncGenerator[int]:
    """Serve on 127.0.0.1; yield the port, and stop the server at the end."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(_serve_tcp, server, options)
        yield listeners[0].socket.getsockname()[1]
        await server.stop(0)


async def _serve_tcp(
    server: Server, options: dict[str, Any], task_status: trio.TaskStatus[list[trio.SocketListener]]
) -> None:
    await server.serve(0, "127.0.0.1", task_status=task_status, **options)


@asynccontextmanager
async def connect_tcp(port: int) -> AsyncGenerator[Client]:
    """Connect a `Client` to a port of 127.0.0.1."""
    client = Client(await trio.open_tcp_stream("127.0.0.1", port))
    try:
        yield client
    finally:
        await trio.aclose_forcefully(client.stream)


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(NAME).configure_cert(context)
    return context


@cache
def client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


class PoolOf(Pool):
    """A pool whose connections are opened by a function."""

    def __init__(self, open_client: Callable[[], Awaitable[smtp_trio.Client]], **options: Any) -> None:
        super().__init__(NAME, **options)
        self.opened = 0
        self._function = open_client

    async def _open_client(self) -> smtp_trio.Client:
        self.opened += 1
        return await self._function()
