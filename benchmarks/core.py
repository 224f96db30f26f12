"""The protocol without any I/O: octets in, octets out, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import cycle, islice

from smtp_trio.protocol import (
    END_OF_BODY,
    NEED_DATA,
    Answer,
    ClientProtocol,
    Command,
    Ehlo,
    Limits,
    Mail,
    Path,
    Rcpt,
    ServerProtocol,
)
from smtp_trio.protocol.body_inspector import Newlines
from smtp_trio.protocol.replies import OK

from .case import Case, Clock, Contender, Ground, Measure, Sample, cores, pinned
from .servers import HOST, module

MIB = 1 << 20
PIECE = (b"x" * 62 + b"\r\n") * 1024  # 64 KiB, as a receive brings them
FIRST = b"Subject: a benchmark\r\n\r\n" + PIECE[24:]
LINES = (b"MAIL FROM:<a@example.org>\r\n", b"RCPT TO:<b@example.org>\r\n", b"NOOP\r\n", b"RSET\r\n")


def collapse_group(work: Callable[[int], Sample]) -> Contender:
    """It runs in this process, on the core of servers."""

    def measure(count: int) -> Sample:
        with pinned(cores()[0]):
            return work(count)

    return lambda ground: measure


def greeted(newlines: Newlines = "reject") -> ServerProtocol:
    """A server's half behind its EHLO."""
    protocol = ServerProtocol("bench.example.org", size=0, newlines=newlines, limits=Limits(junk=1 << 30))
    answer(protocol)  # the greeting
    protocol.receive_data(b"EHLO client.example.org\r\n")
    answer(protocol)
    return protocol


def answer(protocol: ServerProtocol) -> int:
    """Answer all that there is in the usual way; gives how many octets of a message came."""
    size = 0
    while (event := protocol.next_event()) is not NEED_DATA:
        if isinstance(event, bytes):
            size += len(event)
        elif event is END_OF_BODY:
            protocol.send(OK)
        elif isinstance(event, Command) and not event.counted:
            protocol.send(protocol.default_reply(event))
    protocol.data_to_send()
    return size


def commands(count: int) -> Sample:
    """One line, one answer, as a client that does not pipeline has them."""
    protocol = greeted()
    lines = list(islice(cycle(LINES), count))
    clock = Clock()
    for line in lines:
        protocol.receive_data(line)
        answer(protocol)
    return clock.stop(count)


def pieces(mebibytes: int) -> list[bytes]:
    """So large a message, which begins with a header."""
    return [FIRST, *[PIECE] * (mebibytes * MIB // len(PIECE) - 1)]


def body(mebibytes: int, *, counted: bool, newlines: Newlines = "reject") -> Sample:
    """One message, in pieces of 64 KiB."""
    protocol = greeted(newlines)
    begin = b"BDAT %d LAST\r\n" % (mebibytes * MIB) if counted else b"DATA\r\n"
    protocol.receive_data(LINES[0] + LINES[1] + begin)
    answer(protocol)
    size = 0
    clock = Clock()
    for piece in pieces(mebibytes):
        protocol.receive_data(piece)
        size += answer(protocol)
    protocol.receive_data(b"" if counted else b".\r\n")
    sample = clock.stop(mebibytes)
    assert size == mebibytes * MIB
    return sample


# --- aiosmtpd, which knows no protocol without an event loop: over a transport that is none ---------------------------


class Nowhere(asyncio.Transport):
    """Counts the lines that are said, and wakes who waits for so many."""

    def __init__(self) -> None:
        super().__init__({"peername": (HOST, 0)})
        self._due = 0
        self._closed = False
        self._said = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._due -= bytes(data).count(b"\r\n")
        if self._due <= 0:
            self._said.set()

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    async def exchange(self, protocol: asyncio.Protocol, octets: bytes, replies: int) -> None:
        """Let the protocol have octets, and wait for as many lines as it should say to them."""
        self._due += replies
        self._said.clear()
        protocol.data_received(octets)
        await self._said.wait()


def aiosmtpd(talk: Callable[[Nowhere, asyncio.Protocol, int], Awaitable[Sample]]) -> Contender:
    """It in this process, behind its EHLO."""

    async def main(count: int) -> Sample:
        from aiosmtpd.smtp import SMTP, Envelope, Session

        class Sink:
            async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
                return "250 Ok"

        loop = asyncio.get_running_loop()
        protocol = SMTP(Sink(), hostname="bench.example.org", data_size_limit=None, loop=loop)
        transport = Nowhere()
        protocol.connection_made(transport)
        await transport.exchange(protocol, b"EHLO client.example.org\r\n", 4)
        try:
            return await talk(transport, protocol, count)
        finally:
            transport.close()
            protocol.connection_lost(None)

    def ready(ground: Ground) -> Measure:
        module("aiosmtpd")
        return collapse_group(lambda count: asyncio.run(main(count)))(ground)

    return ready


async def aiosmtpd_commands(transport: Nowhere, protocol: asyncio.Protocol, count: int) -> Sample:
    """Many lines at a time, to its advantage: it need not go through its loop for each."""
    batch = b"".join(islice(cycle(LINES), 100))
    clock = Clock()
    for _ in range(count // 100):
        await transport.exchange(protocol, batch, 100)
    return clock.stop(count // 100 * 100)


async def aiosmtpd_body(transport: Nowhere, protocol: asyncio.Protocol, mebibytes: int) -> Sample:
    """One message, in pieces of 64 KiB."""
    await transport.exchange(protocol, LINES[0] + LINES[1] + b"DATA\r\n", 3)
    clock = Clock()
    for piece in pieces(mebibytes):
        protocol.data_received(piece)
        await asyncio.sleep(0)
    await transport.exchange(protocol, b".\r\n", 1)
    return clock.stop(mebibytes)


# --- the client's half, beside smtpproto, which has no server's ------------------------------------------------------


def recipients(count: int) -> Sample:
    """RCPT, and its answer."""
    protocol = ClientProtocol()
    sender, recipient = Path.parse("a@example.org"), Path.parse("b@example.org")
    assert sender is not None
    assert recipient is not None
    protocol.receive_data(b"220 mx.example.org ESMTP\r\n")
    protocol.next_event()
    for command, reply in ((Ehlo("client.example.org"), b"250 mx.example.org\r\n"), (Mail(sender), b"250 Ok\r\n")):
        protocol.send_command(command)
        protocol.receive_data(reply)
        protocol.next_event()
    protocol.data_to_send()
    rcpt = Rcpt(recipient)
    clock = Clock()
    for _ in range(count):
        protocol.send_command(rcpt)
        protocol.data_to_send()
        protocol.receive_data(b"250 2.1.5 Recipient ok\r\n")
        event = protocol.next_event()
    sample = clock.stop(count)
    assert isinstance(event, Answer)
    return sample


def smtpproto(ground: Ground) -> Measure:
    """The same, said to it."""
    module("smtpproto")
    from smtpproto.protocol import SMTPClientProtocol

    def work(count: int) -> Sample:
        protocol = SMTPClientProtocol()
        protocol.feed_bytes(b"220 mx.example.org ESMTP\r\n")
        protocol.send_greeting("client.example.org")
        protocol.feed_bytes(b"250 mx.example.org\r\n")
        protocol.mail("a@example.org", smtputf8=False)
        protocol.feed_bytes(b"250 Ok\r\n")
        protocol.get_outgoing_data()
        clock = Clock()
        for _ in range(count):
            protocol.recipient("b@example.org")
            protocol.get_outgoing_data()
            response = protocol.feed_bytes(b"250 2.1.5 Recipient ok\r\n")
        sample = clock.stop(count)
        assert response is not None
        return sample

    return collapse_group(work)(ground)


CASES = [
    Case(
        name="commands of a server's session",
        contenders={"smtp_trio": collapse_group(commands), "aiosmtpd, in batches": aiosmtpd(aiosmtpd_commands)},
        amount=100_000,
        short=1_000,
        unit="\N{MICRO SIGN}s of CPU a command",
        rate="commands/s",
    ),
    Case(
        name="a message's octets",
        contenders={
            "smtp_trio, dotted": collapse_group(partial(body, counted=False)),
            "smtp_trio, dotted, newlines preserved": collapse_group(partial(body, counted=False, newlines="preserve")),
            "smtp_trio, counted": collapse_group(partial(body, counted=True)),
            "smtp_trio, counted, newlines preserved": collapse_group(partial(body, counted=True, newlines="preserve")),
            "aiosmtpd, dotted": aiosmtpd(aiosmtpd_body),
        },
        amount=32,
        short=1,
        unit="\N{MICRO SIGN}s of CPU a MiB",
        rate="MiB/s",
    ),
    Case(
        name="a client's RCPT and its answer",
        contenders={"smtp_trio": collapse_group(recipients), "smtpproto": smtpproto},
        amount=50_000,
        short=500,
        unit="\N{MICRO SIGN}s of CPU a command",
        rate="commands/s",
    ),
]
