"""What the tests of the server share: a client that says what it is told to, sessions in memory, hooks that take notes."""

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
from smtp_trio._server.hooks import NAMES

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
    """Says what it is told to, and reads whole replies. Each must be well-formed (RFC 5321 4.2, RFC 2034 4)."""

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
                assert self.buffer == b"", "a reply was torn off"
                raise EOFError
            self.buffer += bytes(data)
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line + b"\r\n"

    async def reply(self) -> str:
        """The next reply, its lines joined by a line feed. Raises EOFError when there will be none."""
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
            assert not (greeting and status), "RFC 2034 4: no enhanced code here"
            assert status is None or status[0] == chr(code[0])
            lines.append(line[:-2].decode())
            if match[2] == b" ":
                break
        self.replies.append("\n".join(lines))
        return self.replies[-1]

    async def expect(self, *starts: str) -> str:
        """The next replies begin with these; returns the last."""
        reply = ""
        for start in starts:
            reply = await self.reply()
            assert reply.startswith(start), (start, reply)
        return reply

    async def say(self, line: str | bytes, *starts: str) -> str:
        """A line, and what it is told."""
        await self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.expect(*starts)

    async def hello(self) -> str:
        """Greeting and EHLO."""
        if not self.replies:
            await self.expect(f"220 {NAME} ESMTP")
        reply = await self.say("EHLO client.test", f"250-{NAME}")
        assert not any(STATUS.match(line[4:]) for line in reply.split("\n"))
        return reply

    async def open(self) -> None:
        """All up to DATA."""
        await self.hello()
        await self.send(START)
        await self.expect("250 2.1.0", "250 2.1.5")

    async def deliver(self, message: bytes = MESSAGE, *starts: str) -> str:
        """One message, from MAIL to its answer, over a session that has said hello."""
        await self.send(START)
        await self.expect("250 2.1.0", "250 2.1.5")
        await self.say("DATA", "354")
        await self.send(message + b".\r\n")
        return await self.expect(*(starts or ("250 2.0.0 Ok: queued as ",)))

    async def end(self) -> None:
        """Nothing more is heard."""
        try:
            reply = await self.reply()
        except EOFError:
            return
        raise AssertionError(reply)

    async def quit(self) -> None:
        """Goodbye. Nothing is heard behind it: there was one reply for each command."""
        await self.say("QUIT", f"221 2.0.0 {NAME}")
        await self.end()

    async def starttls(self) -> None:
        """STARTTLS, up to the handshake."""
        await self.say("STARTTLS", "220 2.0.0")
        await self.handshake()

    async def handshake(self) -> None:
        stream = trio.SSLStream(self.stream, client_tls(), server_hostname=NAME)
        await stream.do_handshake()
        self.stream = stream


class Taker(Hooks):
    """Takes every message, and remembers the sessions and the messages."""

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


Event = tuple[Any, ...]


def spies(events: list[Event], *names: str) -> dict[str, Callable[..., Awaitable[Any]]]:
    """Functions for `Server.on` that note each call with its arguments less the first; `data` reads the message."""

    def spy(name: str) -> Callable[..., Awaitable[Any]]:
        async def hook(_: Session | Server, *args: Any) -> Reply | None:
            events.append((name, *args))
            if name == "data":
                await args[0].read()
            if name == "connect":
                return None
            return Reply(235) if name == "auth" else None

        return hook

    return {name: spy(name) for name in names or NAMES}


Pair = tuple[trio.abc.Stream, trio.abc.Stream]


@asynccontextmanager
async def talk(
    server: Server, *, pair: Callable[[], Pair] = memory_stream_pair, implicit_tls: bool = False
) -> AsyncGenerator[Client]:
    """A session of this server, in memory; the client hangs up at the end, and the session must end of itself."""
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, server, theirs, implicit_tls)
        client = Client(ours)
        yield client
        await trio.aclose_forcefully(client.stream)


async def serve(server: Server, stream: trio.abc.Stream, implicit_tls: bool = False) -> None:
    """`Server.serve_stream`, which must leave the stream closed."""
    await server.serve_stream(stream, implicit_tls=implicit_tls)
    try:
        await stream.receive_some(1)
    except trio.ClosedResourceError:
        return
    raise AssertionError("the stream was left open")


def unbuffered() -> Pair:
    """Streams of which each writer waits for its reader: a peer that does not read is felt at once."""
    return lockstep_stream_pair()


class Door(trio.abc.Listener[trio.abc.Stream]):
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
        ours, theirs = memory_stream_pair()
        await self.streams.send(theirs)
        return Client(ours)


async def serve_door(server: Server, task_status: trio.TaskStatus[Any]) -> None:
    """`Server.serve_listeners` over a `Door`, for `nursery.start`."""
    door = Door()
    await server.serve_listeners([door], task_status=_Instead(task_status, door))
    assert door.closed


class _Instead(trio.TaskStatus[Any]):
    """Says that it has started with something else."""

    def __init__(self, task_status: trio.TaskStatus[Any], value: object) -> None:
        self._task_status, self._value = task_status, value

    def started(self, value: object = None) -> None:
        self._task_status.started(self._value)


def sockets() -> Pair:
    """Real sockets, which a clock of our own gets on with all the same: what one writes the other can read at once."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    return ours, theirs


@asynccontextmanager
async def listening(server: Server, **options: Any) -> AsyncGenerator[int]:
    """The server on loopback; gives the port, and stops it at the end."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(_serve_tcp, server, options)
        yield listeners[0].socket.getsockname()[1]
        await server.stop(0)


async def _serve_tcp(
    server: Server, options: dict[str, Any], task_status: trio.TaskStatus[list[trio.SocketListener]]
) -> None:
    await server.serve(0, "127.0.0.1", task_status=task_status, **options)


@asynccontextmanager
async def call(port: int) -> AsyncGenerator[Client]:
    """A client over TCP."""
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
