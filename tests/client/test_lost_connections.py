"""A message that the server has stored is never reported as not sent, wherever and however the connection is lost."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from blocks import PYTHON
from helpers import PoolOf, client_tls, server_tls
from hypothesis import given, settings
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

import smtp_trio
from smtp_trio import (
    Accepted,
    Client,
    ConnectionLostError,
    DeliveryRecord,
    DeliveryUnknownError,
    Pool,
    Rejected,
    Server,
    SMTPError,
    TimedOutError,
    Unknown,
)
from smtp_trio._wire import fails_short
from smtp_trio.testing import (
    Close,
    Extra,
    Faults,
    Garbage,
    Hang,
    Inbox,
    MemoryStream,
    Omit,
    Replace,
    Reset,
    Rule,
    Transcript,
    bounded_stream_pair,
    memory_network,
    memory_pair,
    open_test_server,
)
from smtp_trio.testing._sweeps.failing_stream import FailingStream
from smtp_trio.testing.strategies import fault_scripts

ME, YOU, MESSAGE = "me@client.test", "you@mx.test", b"Subject: x\r\n\r\nhello\r\n"
MODES = [*itertools.product(["", "CHUNKING"], ["", "PIPELINING"])]


class Tunnel(trio.abc.Stream):
    """A stream whose n-th write passes on a part of its octets, or all, and raises; then both directions are lost."""

    def __init__(self, stream: trio.abc.Stream, write: int, part: Callable[[int], int]) -> None:
        self.stream, self.left, self.part = stream, write, part
        self.lost = False

    def _check(self) -> None:
        if self.lost:
            raise trio.BrokenResourceError("the tunnel has collapsed")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check()
        self.left -= 1
        self.lost = self.left == 0
        await self.stream.send_all(bytes(data)[: self.part(len(data))] if self.lost else data)
        self._check()

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._check()
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


#: How much of its last write a stream has sent when it raises.
PARTS: dict[str, Callable[[int], int]] = {
    "nothing": lambda size: 0,
    "half": lambda size: size // 2,
    "all but one octet": lambda size: size - 1,
    "everything": lambda size: size,
}


async def outcome_of(client: Client) -> str:
    """Send a message; return "sent", "refused", "unknown" or "not sent", as the client reports it."""
    record, error = DeliveryRecord(), None
    try:
        async with client:
            await client.send(ME, [YOU], MESSAGE, record=record)
    except SMTPError as exc:
        error = exc
    result = record.result
    assert error is None or error.result in (None, result)
    match () if result is None else result.outcomes:
        case [Accepted()]:
            return "sent"
        case [Rejected()]:
            return "refused"
        case [Unknown()]:
            assert error is not None
            return "unknown"
    assert error is not None
    return "not sent"


def agrees(outcome: str, inbox: Inbox) -> bool:
    """Return whether an outcome is true for what the server has stored."""
    return len(inbox) in {"sent": (1,), "unknown": (0, 1)}.get(outcome, (0,))


@pytest.mark.parametrize("by", ["client", "server"])
@pytest.mark.parametrize("omitted", MODES, ids=" ".join)
def test_each_octet(omitted: tuple[str, str], by: Any) -> None:
    """With faults of either side at each octet of each command, reply and part of the message."""
    seen = set[tuple[str, int]]()

    async def main(rule: Rule) -> None:
        inbox = Inbox()
        faults = Faults(*map(Omit, filter(None, omitted)), rule)
        async with trio.open_nursery() as nursery:
            outcome = await outcome_of(await memory_pair(nursery, inbox, faults=faults))
        assert agrees(outcome, inbox), (outcome, faults)
        if by == "client":  # the connection is lost before any reply to the message
            assert (outcome == "unknown") == (len(inbox) == 1) or outcome == "sent", faults
        seen.add((outcome, len(inbox)))

    sizes = {"MAIL": 38, "RCPT": 24, "DATA" if omitted[0] else "BDAT": 14, "body": 22}
    sizes["."] = 45 if by == "server" else 4
    for at, octets in sizes.items():
        for after in range(octets):
            trio.run(main, Close(at, after, by=by), clock=MockClock(autojump_threshold=0))
    for after in range(5):
        trio.run(main, Reset(".", after, by=by), clock=MockClock(autojump_threshold=0))
    assert ("unknown", 1) in seen


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("by", ["client", "server"])
@pytest.mark.parametrize("tls", ["never", "required", "implicit"])
@pytest.mark.parametrize("omitted", MODES, ids=" ".join)
def test_each_write(omitted: tuple[str, str], tls: Any, by: str, part: str) -> None:
    """With a stream of another package at one side, which raises when it has sent a part of the octets, or all."""
    seen = list[tuple[str, int]]()

    async def main(write: int) -> bool:
        inbox = Inbox()
        near, far = bounded_stream_pair()
        ends: dict[str, trio.abc.Stream] = {"client": near, "server": far}
        ends[by] = tunnel = Tunnel(ends[by], write, PARTS[part])
        server = Server(Faults(*map(Omit, filter(None, omitted))).hooks(inbox), name="mx.test", tls=server_tls())
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                await server.serve_stream(ends["server"], implicit_tls=tls == "implicit")

            nursery.start_soon(serve)
            context = None if tls == "never" else client_tls()
            outcome = await outcome_of(Client(ends["client"], host="mx.test", tls=tls, ssl_context=context))
        assert agrees(outcome, inbox), (outcome, write)
        seen.append((outcome, len(inbox)))
        return tunnel.lost

    for write in itertools.count(1):
        if not trio.run(main, write, clock=MockClock(autojump_threshold=0)):
            break
    assert ("not sent", 0) in seen
    if (by, part) in (("client", "everything"), ("server", "nothing")):
        assert ("unknown", 1) in seen


async def test_tunnel_over_tcp() -> None:
    """The writes hold EHLO, the message and QUIT."""
    outcomes: list[str] = []
    async with open_test_server() as server:
        for write in (1, 2, 3):
            stream = Tunnel(await trio.open_tcp_stream(server.host, server.port), write, PARTS["everything"])
            outcomes.append(await outcome_of(Client(stream, host="mx.test", tls="never")))
        await server.inbox.wait_for(2)
    assert outcomes == ["not sent", "unknown", "sent"]
    assert len(server.inbox) == 2


@pytest.mark.parametrize("omitted", MODES, ids=" ".join)
@pytest.mark.parametrize("part", PARTS)
def test_each_write_of_many_messages(omitted: tuple[str, str], part: str) -> None:
    """A write may hold the end of one message and the beginning of the next one."""

    async def main(write: int, tunnels: bool) -> bool:
        inbox = Inbox()
        near, far = bounded_stream_pair()
        stream = Tunnel(near, write, PARTS[part])
        if not tunnels:
            stream = Partial(near, write, PARTS[part])
        server = Server(Faults(*map(Omit, filter(None, omitted))).hooks(inbox), name="mx.test")
        record = DeliveryRecord()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, far)
            try:
                async with Client(stream, host="mx.test", tls="never") as client:
                    await client.send_many(
                        [(ME, [YOU], b"Subject: %d\r\n\r\nhello\r\n" % n) for n in range(4)], record=record
                    )
            except SMTPError:
                pass
        stored = {mail.subject for mail in inbox}
        for number, result in enumerate(record.results):
            if str(number) in stored:
                assert result.accepted or result.unknown, (write, number)
            else:
                assert not result.accepted, (write, number)
        return stream.lost

    for tunnels in (True, False):
        for write in itertools.count(1):
            if not trio.run(main, write, tunnels, clock=MockClock(autojump_threshold=0)):
                break


class Partial(Tunnel):
    """A tunnel that is known to raise only if the last octet was not sent."""

    sends_to = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        part, self.part = self.part, lambda size: min(part(size), size - 1)
        try:
            await super().send_all(data)
        finally:
            self.part = part


async def test_streams_that_raise_only_if_the_last_octet_was_not_sent() -> None:
    class Below(MemoryStream):
        pass

    memory, _ = bounded_stream_pair()
    tunnel = Tunnel(memory, 0, PARTS["nothing"])

    def tls(stream: trio.abc.Stream) -> trio.abc.Stream:
        return trio.SSLStream(stream, client_tls(), server_hostname="mx.test")

    with trio.socket.socket() as socket:
        known = [trio.SocketStream(socket), memory, memory_stream_pair()[0], lockstep_stream_pair()[0]]
        for stream in known:
            assert fails_short(stream)
            assert fails_short(tls(stream))
            assert fails_short(Faults().wrap(tls(stream), side="client"))
            assert fails_short(Transcript().record(stream, side="C"))
    unknown: list[trio.abc.Stream] = [
        tunnel,
        Below(memory._outgoing, memory._incoming),
        FailingStream(memory, lambda: False),
    ]
    for each in unknown:
        assert not fails_short(each)
        assert not fails_short(tls(each))
        assert not fails_short(trio.StapledStream(each, memory))
        assert not fails_short(Faults().wrap(each, side="client"))
        assert not fails_short(Transcript().record(tls(each), side="C"))


@pytest.mark.parametrize("by", ["client", "server"])
@pytest.mark.parametrize("chunked", [True, False])
async def test_single_commands(autojump_clock: MockClock, chunked: bool, by: Any) -> None:
    """`Client.data` and `Client.bdat` do not report a stored message as not sent, either."""
    seen = set[tuple[type, int]]()
    for after in range(2 if chunked else 4):
        for rule in (Close(".", after, by=by), Hang(".", by=by), Close("body", 3, by=by)):
            inbox = Inbox()
            async with trio.open_nursery() as nursery:
                with pytest.raises((ConnectionLostError, TimedOutError, DeliveryUnknownError)) as caught:
                    async with await memory_pair(nursery, inbox, faults=Faults(rule)) as client:
                        await client.mail(ME)
                        await client.rcpt(YOU)
                        await (client.bdat(MESSAGE, last=True) if chunked else client.data(MESSAGE))
            if inbox.mails:
                assert isinstance(caught.value, DeliveryUnknownError)
                assert caught.value.result == smtp_trio.Result("", (), ())
                assert not caught.value.temporary
            seen.add((type(caught.value), len(inbox)))
    assert (DeliveryUnknownError, 1) in seen


# --- the outbox of the documentation ---------------------------------------------------------------------------------

#: Faults of a server that replies something else than it has done. A 421 in place of a 250, for one, means that the
#: message was not accepted.
LIES = [Replace, Extra, Garbage]


def outbox() -> dict[str, Any]:
    (block,) = [block for block in PYTHON if block.page == "client" and "class Entry" in block.source]
    return block.run()


async def empty(names: dict[str, Any], pool: Pool, inbox: Inbox) -> None:
    """Deliver an entry until it is not in the queue any more, and check that it arrived at most once."""
    entry = names["Entry"](ME, [YOU], MESSAGE)
    for _ in range(6):
        if entry.state[YOU] == "queued":
            await names["deliver"](pool, entry)
            assert entry.state[YOU] != "queued" or len(inbox) == 0
    assert len(inbox) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("by", ["client", "server"])
def test_outbox_with_faults(by: Any) -> None:
    names = outbox()

    @settings(max_examples=150)
    @given(fault_scripts(by, exclude=LIES))
    def run(faults: Faults) -> None:
        async def main() -> None:
            inbox = Inbox()
            async with memory_network({"mx.test": inbox}, faults=faults), Pool("mx.test") as pool:
                await empty(names, pool, inbox)

        trio.run(main, clock=MockClock(autojump_threshold=0))

    run()


@pytest.mark.parametrize("omitted", MODES, ids=" ".join)
@pytest.mark.parametrize("part", PARTS)
def test_outbox_over_tunnels(omitted: tuple[str, str], part: str) -> None:
    """Its first message opens a connection and its second one uses it again; one write of the connection fails."""
    names = outbox()

    async def main(write: int) -> bool:
        inbox, tunnels = Inbox(), list[Tunnel]()
        server = Server(Faults(*map(Omit, filter(None, omitted))).hooks(inbox), name="mx.test")

        @asynccontextmanager
        async def pool() -> AsyncGenerator[Pool]:
            async with trio.open_nursery() as nursery:

                async def open_client() -> Client:
                    near, far = bounded_stream_pair()
                    tunnels.append(Tunnel(near, write if not tunnels else -1, PARTS[part]))
                    nursery.start_soon(server.serve_stream, far)
                    client = Client(tunnels[-1], host="mx.test", tls="never")
                    return await client.__aenter__()

                async with PoolOf(open_client) as pool:
                    yield pool

        async with pool() as opened:
            for _ in range(2):
                await empty(names, opened, inbox)
                inbox.clear()
        return tunnels[0].lost

    for write in itertools.count(1):
        if not trio.run(main, write, clock=MockClock(autojump_threshold=0)):
            break


async def test_stale_connection_is_replaced(autojump_clock: MockClock) -> None:
    """The connection of a stream that is known to raise before the last octet was sent."""
    inbox = Inbox()
    async with memory_network({"mx.test": inbox}, faults=Faults(Close("MAIL", 0, nth=2, by="client"))):
        async with Pool("mx.test", probe_after=100) as pool:
            for _ in range(2):
                assert (await pool.send(ME, [YOU], MESSAGE)).complete
    assert len(inbox) == 2


@pytest.mark.parametrize("octets", [1, 3])
async def test_error_after_an_incomplete_message(autojump_clock: MockClock, octets: int) -> None:
    faults = Faults(Omit("CHUNKING"), Close("body", octets, by="client"))
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectionLostError) as caught:
            async with await memory_pair(nursery, Inbox(), faults=faults) as client:
                await client.send(ME, [YOU], MESSAGE)
    assert caught.value.temporary
    assert caught.value.result.outcomes == ()
