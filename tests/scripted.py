"""What the tests of the client share: a server that keeps to its script, over streams in memory, whatever the RFCs say."""

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
START = b"354 Go ahead\r\n"
ME, YOU = "me@client.test", "you@mx.test"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"


class Do(enum.Enum):
    """Steps that need no words."""

    BODY = "read a message up to its dot"
    CLOSE = "close the connection"
    GONE = "nothing more is said: the client has closed"
    SILENCE = "take whatever comes, and say nothing, until the client closes"
    DEAF = "take nothing, and say nothing"


BODY, CLOSE, GONE, SILENCE, DEAF = Do


@frozen
class Octets:
    """Read so many octets of a message."""

    count: int


class Script:
    """Plays the server. A step is bytes to send, a str (the line that must come, a pattern), or one of the above.

    When its steps are over, the client may say QUIT, which is answered, and must close.
    """

    def __init__(self, stream: trio.abc.Stream, near: trio.abc.Stream, steps: tuple[Step, ...]) -> None:
        #: The client's end.
        self.near = near
        self.stream = stream
        #: Whole commands, bodies, and what arrived between two things that we said.
        self.lines: list[str] = []
        self.bodies: list[bytes] = []
        self.flights: list[bytes] = []
        self.deaf = False
        self._steps = steps
        self._buffer = b""
        self._in_flight = False

    def client(self, **settings: Any) -> Client:
        """A client that talks to us."""
        return Client(self.near, **{"name": "client.test", "tls": "never", **settings})

    async def run(self) -> None:
        try:
            for step in self._steps:
                await self.do(step)
            await self._end()
        finally:
            await trio.aclose_forcefully(self.stream)

    async def do(self, step: Step) -> None:
        if isinstance(step, bytes):
            await self.send(step)
        elif isinstance(step, str):
            line = await self.line()
            assert re.fullmatch(step, line), f"expected {step!r}, got {line!r}"
        elif isinstance(step, Octets):
            self.bodies.append(await self._take(step.count))
        elif step is BODY:
            await self._until(b"\r\n.\r\n")
        elif step is CLOSE:
            await trio.aclose_forcefully(self.stream)
        elif step is GONE:
            assert await self.rest() == b""
        elif step is SILENCE:
            await self.rest()
        elif step is DEAF:
            self.deaf = True
            await trio.sleep_forever()
        else:
            assert callable(step)
            await step(self)

    @property
    def buffered(self) -> bool:
        """Something has come that no step has taken yet."""
        return bool(self._buffer)

    async def send(self, data: bytes) -> None:
        self._in_flight = False
        await self.stream.send_all(data)

    async def more(self) -> None:
        """What comes next. Raises EOFError when the client has closed."""
        try:
            data = await self.stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            raise EOFError("the client has closed")
        if not self._in_flight:
            self.flights.append(b"")
        self._in_flight = True
        self.flights[-1] += data
        self._buffer += data

    async def line(self) -> str:
        while b"\r\n" not in self._buffer:
            await self.more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        self.lines.append(line.decode())
        return self.lines[-1]

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self.more()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def _until(self, end: bytes) -> None:
        while end not in b"\r\n" + self._buffer:
            await self.more()
        body, _, self._buffer = (b"\r\n" + self._buffer).partition(end)
        self.bodies.append(body[2:] + b"\r\n" if body else b"")

    async def rest(self) -> bytes:
        """All until the client closes."""
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
        await self.do(GONE)


Step = bytes | str | Do | Octets | Callable[[Script], Awaitable[None]]


@asynccontextmanager
async def scripted(*steps: Step, pair: Callable[[], Pair] = memory_stream_pair) -> AsyncGenerator[Script]:
    """A server with this script. Whoever leaves must have closed the connection."""
    near, far = pair()
    script = Script(far, near, steps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script.run)
        yield script
        if script.deaf:
            nursery.cancel_scope.cancel()


def offer(*keywords: str) -> bytes:
    """An answer to EHLO."""
    lines = ["mx.test", *keywords]
    return b"".join(
        b"250%s%s\r\n" % (b"-" if at < len(lines) else b" ", line.encode()) for at, line in enumerate(lines, 1)
    )


def hello(*keywords: str) -> tuple[Step, ...]:
    """All up to a session that offers this."""
    return GREETING, "EHLO client.test", offer(*keywords)


def chunk(size: int, *, last: bool = True) -> tuple[Step, ...]:
    """One chunk of a message."""
    return f"BDAT {size}" + (" LAST" if last else ""), Octets(size)


#: One message, one command at a time, and in groups.
SLOWLY: tuple[Step, ...] = ("MAIL FROM:<.*>.*", OK, "RCPT TO:<.*>.*", OK, "DATA", START, BODY, OK)
ENVELOPE: tuple[Step, ...] = ("MAIL FROM:<.*>.*", "RCPT TO:<.*>.*")
CHUNKED: tuple[Step, ...] = (*ENVELOPE, *chunk(len(MESSAGE)), OK * 3)


def secure(context: ssl.SSLContext | None = None, *, fails: bool = False) -> Step:
    """The server's half of a TLS handshake, and of all that follows. ``fails``: the client does not want it."""

    async def shake(script: Script) -> None:
        assert not script.buffered, "the client did not wait"
        stream = trio.SSLStream(script.stream, context or server_tls(), server_side=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            assert fails
            return
        script.stream = stream
        if fails:  # TLS 1.3: the client says so when we are through with it
            try:
                await script.more()
            except EOFError:
                return
            raise AssertionError(script.flights[-1])

    return shake
