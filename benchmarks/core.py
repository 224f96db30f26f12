"""The protocol core without I/O, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import cycle, islice

from smtp_trio.protocol import (
    END_OF_BODY,
    NEED_DATA,
    AnsweredCommand,
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

from .case import Case, Clock, Contender, Environment, Measure, Sample, cores, pinned
from .servers import HOST, require_module

MIB = 1 << 20
PIECE = (b"x" * 62 + b"\r\n") * 1024  # 64 KiB, as one read from a socket
FIRST = b"Subject: a benchmark\r\n\r\n" + PIECE[24:]
LINES = (b"MAIL FROM:<a@example.org>\r\n", b"RCPT TO:<b@example.org>\r\n", b"NOOP\r\n", b"RSET\r\n")


def in_process(work: Callable[[int], Sample]) -> Contender:
    """Return a contender that runs in this process, on the core for servers."""

    def measure(count: int) -> Sample:
        with pinned(cores()[0]):
            return work(count)

    return lambda env: measure


def protocol_after_ehlo(newlines: Newlines = "reject") -> ServerProtocol:
    """Return a server's protocol after EHLO."""
    protocol = ServerProtocol("bench.example.org", size=0, newlines=newlines, limits=Limits(work=0))
    answer_all(protocol)  # the greeting
    protocol.receive_data(b"EHLO client.example.org\r\n")
    answer_all(protocol)
    return protocol


def answer_all(protocol: ServerProtocol) -> int:
    """Send the default reply to every event, and return the number of octets of a message."""
    size = 0
    while (event := protocol.next_event()) is not NEED_DATA:
        if isinstance(event, bytes):
            size += len(event)
        elif event is END_OF_BODY:
            protocol.send_reply(OK)
        elif isinstance(event, Command) and not event.counted:
            protocol.send_reply(protocol.default_reply(event))
    protocol.data_to_send()
    return size


def commands(count: int) -> Sample:
    """Parse and answer commands one by one, as without pipelining."""
    protocol = protocol_after_ehlo()
    lines = list(islice(cycle(LINES), count))
    clock = Clock()
    for line in lines:
        protocol.receive_data(line)
        answer_all(protocol)
    return clock.stop(count)


def pieces(mebibytes: int) -> list[bytes]:
    """Return a message of this size, with a header."""
    return [FIRST, *[PIECE] * (mebibytes * MIB // len(PIECE) - 1)]


def body(mebibytes: int, *, counted: bool, newlines: Newlines = "reject") -> Sample:
    """Receive one message in pieces of 64 KiB."""
    protocol = protocol_after_ehlo(newlines)
    begin = b"BDAT %d LAST\r\n" % (mebibytes * MIB) if counted else b"DATA\r\n"
    protocol.receive_data(LINES[0] + LINES[1] + begin)
    answer_all(protocol)
    size = 0
    clock = Clock()
    for piece in pieces(mebibytes):
        protocol.receive_data(piece)
        size += answer_all(protocol)
    protocol.receive_data(b"" if counted else b".\r\n")
    sample = clock.stop(mebibytes)
    assert size == mebibytes * MIB
    return sample


# --- aiosmtpd, whose protocol needs an event loop: over a dummy transport ---------------------------------------------


class DummyTransport(asyncio.Transport):
    """A transport that counts the lines written to it, and lets `exchange` wait for them."""

    def __init__(self) -> None:
        super().__init__({"peername": (HOST, 0)})
        self._expected = 0
        self._closed = False
        self._complete = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._expected -= bytes(data).count(b"\r\n")
        if self._expected <= 0:
            self._complete.set()

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    async def exchange(self, protocol: asyncio.Protocol, octets: bytes, replies: int) -> None:
        """Pass octets to the protocol, and wait until it has written this number of lines."""
        self._expected += replies
        self._complete.clear()
        protocol.data_received(octets)
        await self._complete.wait()


def aiosmtpd(work: Callable[[DummyTransport, asyncio.Protocol, int], Awaitable[Sample]]) -> Contender:
    """Return a contender that runs aiosmtpd in this process, after EHLO."""

    async def main(count: int) -> Sample:
        from aiosmtpd.smtp import SMTP, Envelope, Session

        class Sink:
            async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
                return "250 Ok"

        loop = asyncio.get_running_loop()
        protocol = SMTP(Sink(), hostname="bench.example.org", data_size_limit=None, loop=loop)
        transport = DummyTransport()
        protocol.connection_made(transport)
        await transport.exchange(protocol, b"EHLO client.example.org\r\n", 4)
        try:
            return await work(transport, protocol, count)
        finally:
            transport.close()
            protocol.connection_lost(None)

    def ready(env: Environment) -> Measure:
        require_module("aiosmtpd")
        return in_process(lambda count: asyncio.run(main(count)))(env)

    return ready


async def aiosmtpd_commands(transport: DummyTransport, protocol: asyncio.Protocol, count: int) -> Sample:
    """Send many lines at a time, which is faster because aiosmtpd needs fewer iterations of its event loop."""
    batch = b"".join(islice(cycle(LINES), 100))
    clock = Clock()
    for _ in range(count // 100):
        await transport.exchange(protocol, batch, 100)
    return clock.stop(count // 100 * 100)


async def aiosmtpd_body(transport: DummyTransport, protocol: asyncio.Protocol, mebibytes: int) -> Sample:
    """Receive one message in pieces of 64 KiB."""
    await transport.exchange(protocol, LINES[0] + LINES[1] + b"DATA\r\n", 3)
    clock = Clock()
    for piece in pieces(mebibytes):
        protocol.data_received(piece)
        await asyncio.sleep(0)
    await transport.exchange(protocol, b".\r\n", 1)
    return clock.stop(mebibytes)


# --- the client, beside smtpproto, which has no server ----------------------------------------------------------


def recipients(count: int) -> Sample:
    """Send RCPT and parse its reply."""
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
    assert isinstance(event, AnsweredCommand)
    return sample


def smtpproto(env: Environment) -> Measure:
    """Do the same with smtpproto."""
    require_module("smtpproto")
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

    return in_process(work)(env)


CASES = [
    Case(
        name="commands in a server's session",
        contenders={"smtp_trio": in_process(commands), "aiosmtpd, in batches": aiosmtpd(aiosmtpd_commands)},
        amount=100_000,
        short=1_000,
        unit="\N{MICRO SIGN}s of CPU per command",
        rate="commands/s",
    ),
    Case(
        name="body of a message",
        contenders={
            "smtp_trio, DATA": in_process(partial(body, counted=False)),
            "smtp_trio, DATA, newlines preserved": in_process(partial(body, counted=False, newlines="preserve")),
            "smtp_trio, BDAT": in_process(partial(body, counted=True)),
            "smtp_trio, BDAT, newlines preserved": in_process(partial(body, counted=True, newlines="preserve")),
            "aiosmtpd, DATA": aiosmtpd(aiosmtpd_body),
        },
        amount=32,
        short=1,
        unit="\N{MICRO SIGN}s of CPU per MiB",
        rate="MiB/s",
    ),
    Case(
        name="a client's RCPT and its reply",
        contenders={"smtp_trio": in_process(recipients), "smtpproto": smtpproto},
        amount=50_000,
        short=500,
        unit="\N{MICRO SIGN}s of CPU per command",
        rate="commands/s",
    ),
]
