"""A server for tests of the client that follows a script, over streams in memory, whether or not the RFCs allow it."""

from __future__ import annotations

import enum
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import frozen
from helpers import Pair, server_tls
from trio.testing import memory_stream_pair

from smtp_trio import Client

OK = b"250 2.0.0 Ok\r\n"
GREETING = b"220 mx.test ESMTP\r\n"
GO_AHEAD = b"354 Go ahead\r\n"
ME, YOU = "me@client.test", "you@mx.test"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"


class Do(enum.Enum):
    """Steps without a text."""

    READ_BODY = "read a message up to its final dot"
    CLOSE = "close the connection"
    EXPECT_CLOSE = "expect that the client closes the connection without sending anything else"
    NO_REPLY = "read until the client closes the connection, and do not reply"
    STOP_READING = "neither read nor write any more"


READ_BODY, CLOSE, EXPECT_CLOSE, NO_REPLY, STOP_READING = Do


@frozen
class ReadOctets:
    """A step that reads a number of octets of a message."""

    count: int


class Script:
    """The server. A step is bytes to send, a str (a pattern for the next line), a `Do`, a `ReadOctets`, or an async function.

    After the last step the client may send QUIT, which gets a reply, and must close the connection.
    """

    def __init__(self, stream: trio.abc.Stream, client_stream: trio.abc.Stream, steps: tuple[Step, ...]) -> None:
        self.client_stream = client_stream
        self.stream = stream
        #: The commands and bodies received so far, and everything received between two sends.
        self.lines: list[str] = []
        self.bodies: list[bytes] = []
        self.groups: list[bytes] = []
        self.stopped_reading = False
        self._steps = steps
        self._buffer = b""
        self._in_group = False

    def client(self, **settings: Any) -> Client:
        """Return a client of this server that is not opened yet."""
        return Client(self.client_stream, **{"name": "client.test", "tls": "never", **settings})

    async def run(self) -> None:
        """Run all steps."""
        try:
            for step in self._steps:
                await self.do(step)
            await self._end()
        finally:
            await trio.aclose_forcefully(self.stream)

    async def do(self, step: Step) -> None:
        """Run one step."""
        if isinstance(step, bytes):
            await self.send(step)
        elif isinstance(step, str):
            line = await self.line()
            assert re.fullmatch(step, line), f"expected {step!r}, got {line!r}"
        elif isinstance(step, ReadOctets):
            self.bodies.append(await self._read(step.count))
        elif step is READ_BODY:
            await self._read_until(b"\r\n.\r\n")
        elif step is CLOSE:
            await trio.aclose_forcefully(self.stream)
        elif step is EXPECT_CLOSE:
            assert await self.rest() == b""
        elif step is NO_REPLY:
            await self.rest()
        elif step is STOP_READING:
            self.stopped_reading = True
            await trio.sleep_forever()
        else:
            assert callable(step)
            await step(self)

    @property
    def buffered(self) -> bool:
        """True if octets were received that no step has read yet."""
        return bool(self._buffer)

    async def send(self, data: bytes) -> None:
        """Send octets to the client."""
        self._in_group = False
        await self.stream.send_all(data)

    async def more(self) -> None:
        """Receive octets into the buffer. Raise EOFError if the client has closed the connection."""
        try:
            data = await self.stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            raise EOFError("the client has closed the connection")
        if not self._in_group:
            self.groups.append(b"")
        self._in_group = True
        self.groups[-1] += data
        self._buffer += data

    async def line(self) -> str:
        """Read one line."""
        while b"\r\n" not in self._buffer:
            await self.more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        self.lines.append(line.decode())
        return self.lines[-1]

    async def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self.more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    async def _read_until(self, end: bytes) -> None:
        while end not in b"\r\n" + self._buffer:
            await self.more()
        body, _, self._buffer = (b"\r\n" + self._buffer).partition(end)
        self.bodies.append(body[2:] + b"\r\n" if body else b"")

    async def rest(self) -> bytes:
        """Read until the client closes the connection."""
        try:
            while True:
                await self.more()
        except EOFError:
            rest, self._buffer = self._buffer, b""
            return rest

    async def _end(self) -> None:
        if not self._buffer:
            try:
                await self.more()
            except EOFError:
                return
        await self.do("QUIT")
        await self.send(b"221 2.0.0 Bye\r\n")
        await self.do(EXPECT_CLOSE)


Step = bytes | str | Do | ReadOctets | Callable[[Script], Awaitable[None]]


@asynccontextmanager
async def scripted(*steps: Step, pair: Callable[[], Pair] = memory_stream_pair) -> AsyncGenerator[Script]:
    """Run a server with this script. The connection must be closed at the end of the block."""
    client_stream, server_stream = pair()
    script = Script(server_stream, client_stream, steps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script.run)
        yield script
        if script.stopped_reading:
            nursery.cancel_scope.cancel()


def ehlo_reply(*keywords: str) -> bytes:
    """Return a reply to EHLO with these keywords."""
    lines = ["mx.test", *keywords]
    return b"".join(
        b"250%s%s\r\n" % (b"-" if at < len(lines) else b" ", line.encode()) for at, line in enumerate(lines, 1)
    )


def hello(*keywords: str) -> tuple[Step, ...]:
    """Return the steps that open a session with these keywords."""
    return GREETING, "EHLO client.test", ehlo_reply(*keywords)


def chunk(size: int, *, last: bool = True) -> tuple[Step, ...]:
    """Return the steps that read one chunk of a message."""
    return f"BDAT {size}" + (" LAST" if last else ""), ReadOctets(size)


#: One message without PIPELINING, the envelope of one with it, and one by BDAT in a single group.
UNPIPELINED: tuple[Step, ...] = ("MAIL FROM:<.*>.*", OK, "RCPT TO:<.*>.*", OK, "DATA", GO_AHEAD, READ_BODY, OK)
ENVELOPE: tuple[Step, ...] = ("MAIL FROM:<.*>.*", "RCPT TO:<.*>.*")
CHUNKED: tuple[Step, ...] = (*ENVELOPE, *chunk(len(MESSAGE)), OK * 3)


def tls_handshake(context: ssl.SSLContext | None = None, *, fails: bool = False) -> Step:
    """Return a step that does the server's part of a TLS handshake. ``fails``: the client is expected to abort it."""

    async def handshake(script: Script) -> None:
        assert not script.buffered, "the client did not wait"
        stream = trio.SSLStream(script.stream, context or server_tls(), server_side=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            assert fails
            return
        script.stream = stream
        if fails:  # with TLS 1.3 the server finishes its handshake before the client's alert arrives
            try:
                await script.more()
            except EOFError:
                return
            raise AssertionError(script.groups[-1])

    return handshake


def record_reads(script: Script) -> list[int]:
    """Return a list that gets an item whenever the client waits for octets."""
    reads: list[int] = []

    async def note() -> None:
        reads.append(len(script.groups))

    stream = script.client_stream
    assert isinstance(stream, trio.StapledStream)
    stream.receive_stream.receive_some_hook = note
    return reads


def record_writes(script: Script) -> list[int]:
    """Return a list that gets an item whenever the client writes."""
    writes: list[int] = []
    stream = script.client_stream
    assert isinstance(stream, trio.StapledStream)
    deliver = stream.send_stream.send_all_hook

    async def note() -> None:
        writes.append(len(script.groups))
        await deliver()

    stream.send_stream.send_all_hook = note
    return writes
