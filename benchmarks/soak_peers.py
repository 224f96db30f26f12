"""The clients of `benchmarks.soak`: some deliver messages, and others misbehave.

    python -m benchmarks.soak_peers PORT FIRST COUNT HONEST BAD

delivers COUNT messages over HONEST connections at a time, beside BAD connections of misbehaving peers, and prints what
became of all messages, as JSON. Messages have numbers from FIRST on.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache, partial
from itertools import count

import trio
from attrs import Factory, define

HOST = "127.0.0.1"
#: The largest message that the server accepts.
MAX_SIZE = 4 << 20
#: One in so many messages is large enough to be written to the disk before it is committed.
LARGE, LARGE_SIZE = 400, 1_500_000
#: Messages of a connection. A connection with TLS, which costs the server more, has four times as many.
MESSAGES_PER_CONNECTION = 25
#: One in so many connections uses STARTTLS.
TLS_EVERY = 8
#: One in so many messages must be refused.
REFUSED_EVERY = 50
#: Seconds that a peer stalls, at most. The server waits less, and ends some of these sessions.
MAX_STALL = 30
#: Seconds that a misbehaving peer waits before it connects again, at most.
PAUSE = 0.5
#: More ``Received`` fields than the server accepts.
LOOP = b"Received: from a by b; Sat, 28 Nov 2026 12:00:00 +0000\r\n" * 101
#: What makes a message large that is not sent to its end.
LARGE_PART = (b"y" * 998 + b"\r\n") * (LARGE_SIZE // 1000)
ENVELOPE = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n"
HELLO = b"EHLO soak.example.net\r\n"


def message(number: int) -> bytes:
    """Return the message with this number. Its size depends on the number, too, and lines begin with a dot."""
    size = LARGE_SIZE if number % LARGE == LARGE - 1 else 100 + number * 7919 % 6000
    line = b".%09d 0123456789 abcdefghijklmnopqrstuvwxyz .\r\n" % number
    return b"Subject: %d\r\nX-Lines: %d\r\n\r\n" % (number, size // len(line)) + line * (size // len(line))


def stuffed(octets: bytes) -> bytes:
    """Return a message as DATA sends it, without its end (RFC 5321 4.5.2)."""
    return octets.replace(b"\r\n.", b"\r\n..")


@cache
def tls_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class EndedError(Exception):
    """The server has ended the session: with a 421, or without."""


class Connection:
    """A connection to the server."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.plain = stream
        self.stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        self._buffer = bytearray()

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect, and read the greeting."""
        connection = cls(await trio.open_tcp_stream(HOST, port))
        try:
            await connection.replies(220)
        except BaseException:
            connection.close()
            raise
        return connection

    async def send(self, octets: bytes) -> None:
        await self.stream.send_all(octets)

    async def reply(self) -> int:
        """Return the code of the next reply."""
        while True:
            while (end := self._buffer.find(b"\n")) < 0:
                more = await self.stream.receive_some(16384)
                if not more:
                    raise EndedError("end of the connection")
                self._buffer += more
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if line[3:4] != b"-":
                if line.startswith(b"421"):
                    raise EndedError(line.decode())
                return int(line[:3])

    async def replies(self, *codes: int) -> None:
        """Read replies, which must have these codes."""
        for code in codes:
            if (found := await self.reply()) != code:
                raise AssertionError(f"expected {code}, got {found}")

    async def command(self, octets: bytes, *codes: int) -> None:
        """Send commands, and read their replies."""
        await self.send(octets)
        await self.replies(*codes)

    async def start_tls(self) -> None:
        """Encrypt the connection."""
        await self.command(b"STARTTLS\r\n", 220)
        self.stream = trio.SSLStream(self.plain, tls_context(), https_compatible=True)
        await self.stream.do_handshake()
        await self.command(HELLO, 250)

    async def read_to_end(self) -> None:
        """Wait until the server closes the connection."""
        with suppress(*LOST):
            while await self.plain.receive_some(65536):
                pass

    def close(self, *, reset: bool = False) -> None:
        """Close the connection, with an RST if wanted."""
        if reset:
            self.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.plain.socket.close()


LOST = (EndedError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@define(eq=False)
class Peers:
    """The peers of this process, and what became of their messages."""

    port: int
    numbers: count[int]
    left: int
    random: random.Random
    accepted: list[int] = Factory(list)
    outstanding: set[int] = Factory(set)
    """Messages whose end may have been received, and that have no reply."""
    refused: int = 0
    outcomes: Counter[str] = Factory(Counter)
    """What the misbehaving peers have done, and how sessions of the others were lost."""

    # --- peers that deliver

    async def deliver_all(self) -> None:
        """Deliver messages until there are enough."""
        while self.left > 0:
            connection = None
            try:
                connection = await Connection.open(self.port)
                await connection.command(HELLO, 250)
                messages = MESSAGES_PER_CONNECTION
                if self.random.randrange(TLS_EVERY) == 0:
                    await connection.start_tls()
                    messages *= 4
                for _ in range(messages):
                    if self.left <= 0:
                        break
                    await self.deliver(connection)
                await connection.command(b"QUIT\r\n", 221)
            except LOST as error:
                self.outcomes[f"lost: {type(error).__name__} {error}"] += 1
                await trio.sleep(0.1)
            finally:
                if connection is not None:
                    connection.close()

    async def deliver(self, connection: Connection) -> None:
        """Deliver a message in one of several ways, or one that the server must refuse."""
        number = next(self.numbers)
        if self.random.randrange(REFUSED_EVERY) == 0:
            await self.random.choice(REFUSALS)(connection, message(number))
            self.refused += 1
            return
        octets = message(number)
        way = self.random.randrange(4)
        if way == 0:  # one command after another
            for line in ENVELOPE.splitlines(keepends=True):
                await connection.command(line, 250)
            await connection.command(b"DATA\r\n", 354)
            last = stuffed(octets) + b".\r\n"
        elif way == 1:  # in chunks
            half = len(octets) // 2
            await connection.command(b"%bBDAT %d\r\n%b" % (ENVELOPE, half, octets[:half]), 250, 250, 250)
            last = b"BDAT %d LAST\r\n%b" % (len(octets) - half, octets[half:])
        else:
            await connection.command(ENVELOPE + b"DATA\r\n", 250, 250, 354)
            last = stuffed(octets) + b".\r\n"
        self.outstanding.add(number)
        await connection.send(last)
        code = await connection.reply()
        self.outstanding.discard(number)
        if code == 250:
            self.accepted.append(number)
            self.left -= 1
        else:
            self.outcomes[f"not accepted: {code}"] += 1

    # --- peers that misbehave

    async def misbehave_always(self) -> None:
        """Misbehave in one way after another, on a new connection each."""
        kinds, weights = list(KINDS), [1 if "stall" in kind else 4 for kind in KINDS]
        while True:
            (kind,) = self.random.choices(kinds, weights)
            connection = None
            try:
                connection = await Connection.open(self.port)
                await KINDS[kind](self, connection)
                self.outcomes[kind] += 1
            except LOST:
                self.outcomes[kind] += 1
            finally:
                if connection is not None:
                    connection.close()
            await trio.sleep(self.random.random() * PAUSE)

    async def stop_within(self, connection: Connection, octets: bytes, end: str, skip: int = 0) -> None:
        """Send a part of these octets, after the first ``skip``, and then cut or reset the connection, or send no more."""
        await connection.send(octets[: self.random.randrange(skip, len(octets))])
        if end == "stall":
            with trio.move_on_after(self.random.random() * MAX_STALL):
                await connection.read_to_end()
        connection.close(reset=end == "reset")

    def own_message(self) -> tuple[int, bytes]:
        """Return a message, and its number. One in four is large."""
        number = next(self.numbers)
        octets = message(number)
        return number, octets if self.random.randrange(4) else octets + LARGE_PART

    async def stop_in_commands(self, connection: Connection, end: str) -> None:
        await self.stop_within(connection, HELLO + ENVELOPE + b"DATA\r\n", end)

    async def stop_in_data(self, connection: Connection, end: str) -> None:
        await connection.command(HELLO + ENVELOPE + b"DATA\r\n", 250, 250, 250, 354)
        await self.stop_within(connection, stuffed(self.own_message()[1]), end)

    async def stop_in_bdat(self, connection: Connection, end: str) -> None:
        octets = self.own_message()[1]
        last = self.random.choice((b"", b" LAST"))
        await connection.command(HELLO + ENVELOPE, 250, 250, 250)
        await self.stop_within(connection, b"BDAT %d%b\r\n%b" % (len(octets), last, octets), end)

    async def stop_between_chunks(self, connection: Connection, end: str) -> None:
        octets = self.own_message()[1]
        await connection.command(HELLO + ENVELOPE, 250, 250, 250)
        await connection.command(b"BDAT %d\r\n%b" % (len(octets), octets), 250)
        await self.stop_within(connection, b"BDAT 5 LAST\r\n", end)

    async def stop_before_reply(self, connection: Connection, end: str) -> None:
        """Do not wait for the reply to a message, which the server may store or not."""
        number = next(self.numbers)
        await connection.command(HELLO + ENVELOPE + b"DATA\r\n", 250, 250, 250, 354)
        self.outstanding.add(number)
        await connection.send(stuffed(message(number)) + b".\r\n")
        connection.close(reset=end == "reset")

    async def stop_in_handshake(self, connection: Connection, end: str) -> None:
        """Send a part of a ClientHello, and with "garbage" octets that are not TLS."""
        await connection.command(HELLO, 250)
        await connection.command(b"STARTTLS\r\n", 220)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with suppress(ssl.SSLWantReadError):
            tls_context().wrap_bio(incoming, outgoing).do_handshake()
        hello = outgoing.read()
        if end == "garbage":
            await connection.send(self.random.randbytes(2000))
            await connection.read_to_end()
        else:
            await self.stop_within(connection, hello, end)

    async def garbage_within_tls(self, connection: Connection) -> None:
        """Send octets that are not TLS on an encrypted connection, in the middle of a message."""
        await connection.command(HELLO, 250)
        await connection.start_tls()
        await connection.command(ENVELOPE + b"DATA\r\n", 250, 250, 354)
        await connection.send(stuffed(self.own_message()[1]))
        await connection.plain.send_all(self.random.randbytes(2000))
        await connection.read_to_end()

    async def tls_without_starttls(self, connection: Connection) -> None:
        """Send a TLS handshake where a command is expected."""
        await connection.send(
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self.random.randbytes(500) + b"\r\n" * 50
        )
        await connection.read_to_end()

    async def flood(self, connection: Connection, octets: bytes, *, reading: bool) -> None:
        """Repeat a command until the server ends the session; without reading, until it does not read either."""
        await connection.command(HELLO + ENVELOPE.splitlines(keepends=True)[0], 250, 250)
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:
                if reading:
                    nursery.start_soon(connection.read_to_end)
                with suppress(*LOST):
                    while True:
                        await connection.send(octets * 100)
                nursery.cancel_scope.cancel()


async def refused_recipient(connection: Connection, octets: bytes) -> None:
    """Send a message without an accepted recipient."""
    await connection.command(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n", 250, 550, 554)
    await connection.command(b"RSET\r\n", 250)


async def refused_loop(connection: Connection, octets: bytes) -> None:
    """Send a message with too many Received fields."""
    await connection.command(ENVELOPE + b"DATA\r\n", 250, 250, 354)
    await connection.command(LOOP + stuffed(octets) + b".\r\n", 554)


async def refused_size(connection: Connection, octets: bytes) -> None:
    """Announce a message that is too large."""
    await connection.command(b"MAIL FROM:<a@example.net> SIZE=%d\r\n" % (MAX_SIZE + 1), 552)


async def refused_chunk(connection: Connection, octets: bytes) -> None:
    """Send a chunk that makes the message too large, and the rest of the message."""
    await connection.command(ENVELOPE + b"BDAT %d\r\n%b" % (len(octets), octets), 250, 250, 250)
    chunk = b"BDAT %d LAST\r\n" % (MAX_SIZE + 1)
    await connection.command(chunk + b"x" * (MAX_SIZE + 1), 552)
    await connection.command(b"RSET\r\n", 250)


async def withdrawn(connection: Connection, octets: bytes) -> None:
    """Send a message without its last chunk, and RSET."""
    await connection.command(ENVELOPE + b"BDAT %d\r\n%b" % (len(octets), octets), 250, 250, 250)
    await connection.command(b"RSET\r\n", 250)


REFUSALS = (refused_recipient, refused_loop, refused_size, refused_chunk, withdrawn)
FLOODS = {
    "EHLO": HELLO,
    "malformed MAIL": b"MAIL FROM:<a@" + b"a." * 200 + b">\r\n",
    "RCPT": b"RCPT TO:<x@example.com>\r\n",
    "long lines": b"x" * 10_000 + b"\r\n",
}
Misbehaviour = Callable[[Peers, Connection], Awaitable[None]]
Stop = Callable[[Peers, Connection, str], Awaitable[None]]


def stopping(stop: Stop, end: str) -> Misbehaviour:
    """Return a function that stops at a place in one of the ways to do so."""
    return lambda peers, connection: stop(peers, connection, end)


#: Where a peer stops, and how it misbehaves altogether.
PLACES: dict[str, Stop] = {
    "in commands": Peers.stop_in_commands,
    "in DATA": Peers.stop_in_data,
    "in BDAT": Peers.stop_in_bdat,
    "between chunks": Peers.stop_between_chunks,
    "in a handshake": Peers.stop_in_handshake,
}
KINDS: dict[str, Misbehaviour] = {
    **{f"{end} {place}": stopping(stop, end) for place, stop in PLACES.items() for end in ("cut", "reset", "stall")},
    **{f"{end} before the reply": partial(Peers.stop_before_reply, end=end) for end in ("cut", "reset")},
    **{f"flood of {name}": partial(Peers.flood, octets=each, reading=True) for name, each in FLOODS.items()},
    "flood without reading": partial(Peers.flood, octets=HELLO, reading=False),
    "garbage instead of a handshake": partial(Peers.stop_in_handshake, end="garbage"),
    "garbage within TLS": Peers.garbage_within_tls,
    "TLS without STARTTLS": Peers.tls_without_starttls,
}  # fmt: skip


async def run(peers: Peers, honest: int, bad: int) -> None:
    """Deliver all messages, beside peers that misbehave."""
    async with trio.open_nursery() as misbehaving:
        for _ in range(bad):
            misbehaving.start_soon(peers.misbehave_always)
        async with trio.open_nursery() as delivering:
            for _ in range(honest):
                delivering.start_soon(peers.deliver_all)
        misbehaving.cancel_scope.cancel()


def main(port: str, first: str, amount: str, honest: str, bad: str) -> None:
    """Run the peers, and print what became of the messages."""
    peers = Peers(int(port), count(int(first)), int(amount), random.Random(int(first)))
    trio.run(run, peers, int(honest), int(bad))
    result = {
        "accepted": peers.accepted,
        "outstanding": sorted(peers.outstanding),
        "refused": peers.refused,
        "outcomes": peers.outcomes,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
