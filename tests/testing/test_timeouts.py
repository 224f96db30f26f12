"""Tests of timeouts: those of RFC 5321 4.5.3.2, tarpits, greylists and retries, in virtual time.

Each runs against a real client and a real server, under a clock of its own, and to the second.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    ClientTimeouts,
    DeliveryUnknownError,
    Limits,
    Peer,
    Reply,
    ReplyError,
    Result,
    Server,
    Session,
    SMTPError,
    TimedOutError,
    Timeouts,
)
from smtp_trio.protocol import Rcpt
from smtp_trio.testing import (
    Answer,
    Close,
    ConnectionsPerPeer,
    Delay,
    Faults,
    Greylist,
    Hang,
    Inbox,
    MessageRate,
    MessagesPerConnection,
    Omit,
    Tarpit,
    Throttle,
    Trickle,
    deterministic,
    memory_pair,
)

ME, YOU = "me@client.test", "you@mx.test"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ONE_BY_ONE = (Omit("CHUNKING"), Omit("PIPELINING"))
EVER = ClientTimeouts.all(0)


async def send(client: Client) -> Result:
    """Send one message over a connection of its own."""
    try:
        async with client:
            return await client.send(ME, [YOU], MESSAGE)
    finally:
        await client.aclose()


async def send_ungrouped(hooks: Inbox | Server, *rules: Any, **settings: Any) -> Result:
    """Send one message from a client of its own. Exceptions are not grouped."""
    return await send_once(hooks, Faults(*ONE_BY_ONE, *rules), **settings)


async def send_once(hooks: Any, faults: Faults | None = None, **settings: Any) -> Result:
    outcome: list[Result | SMTPError] = []
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, hooks, faults=faults, **settings)
        try:
            outcome.append(await send(client))
        except SMTPError as exc:
            outcome.append(exc)
    if isinstance(outcome[0], SMTPError):
        raise outcome[0]
    return outcome[0]


class RecordsTimeouts(Inbox):
    """An inbox that records when each session ended."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[float] = []

    async def timeout(self, session: Session) -> None:
        self.lost.append(trio.current_time())


# --- the client's (RFC 5321 4.5.3.2.1 to .6) -----------------------------------------------------------------------------

CLIENTS = [
    ("CONNECT", "CONNECT", 300),
    ("EHLO", "EHLO", 300),
    ("MAIL", "MAIL", 300),
    ("RCPT", "RCPT", 300),
    ("DATA", "DATA", 120),
    (".", "end of data", 600),
]


@pytest.mark.parametrize(("at", "verb", "seconds"), CLIENTS)
async def test_client_timeout(autojump_clock: MockClock, at: str, verb: str, seconds: float) -> None:
    """The client closes the connection exactly at its timeout."""
    with pytest.raises((TimedOutError, DeliveryUnknownError)) as caught:
        await send_ungrouped(Inbox(), Hang(at))
    assert trio.current_time() == seconds
    assert isinstance(caught.value, TimedOutError | DeliveryUnknownError)
    assert caught.value.command.verb == verb


@pytest.mark.parametrize(("at", "verb", "seconds"), CLIENTS)
async def test_client_accepts_a_reply_before_its_timeout(
    autojump_clock: MockClock, at: str, verb: str, seconds: float
) -> None:
    """A reply one second before the timeout is accepted."""
    assert (await send_ungrouped(Inbox(), Delay(at, seconds - 1))).complete
    assert trio.current_time() == seconds - 1


async def test_each_reply_just_before_the_timeout(autojump_clock: MockClock) -> None:
    rules = [Delay(at, seconds - 1) for at, _, seconds in CLIENTS]
    assert (await send_ungrouped(Inbox(), *rules)).complete
    assert trio.current_time() == sum(seconds - 1 for _, _, seconds in CLIENTS)


async def test_trickled_reply_does_not_extend_the_timeout(autojump_clock: MockClock) -> None:
    """A server that sends an octet every 30 seconds has not replied after five minutes."""
    with pytest.raises(TimedOutError) as caught:
        await send_ungrouped(Inbox(), Trickle(1, 30, at="MAIL"))
    assert caught.value.command.verb == "MAIL"
    assert trio.current_time() == 300


# --- the server's (RFC 5321 4.5.3.2.7) -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "seconds"), [("EHLO", 300), ("MAIL", 300), ("RCPT", 300), ("DATA", 300), ("body", 180), (".", 180)]
)
async def test_server_timeout(autojump_clock: MockClock, at: str, seconds: float) -> None:
    """Five minutes for a command, three for a part of the message."""
    inbox = Inbox()
    with pytest.raises(SMTPError):
        await send_ungrouped(inbox, Hang(at, by="client"), timeout=EVER)
    assert trio.current_time() == seconds
    assert len(inbox) == 0


@pytest.mark.parametrize(("at", "seconds"), [("EHLO", 300), ("MAIL", 300), ("DATA", 300), ("body", 180), (".", 180)])
async def test_server_accepts_a_command_before_its_timeout(autojump_clock: MockClock, at: str, seconds: float) -> None:
    assert (await send_ungrouped(Inbox(), Delay(at, seconds - 1, by="client"), timeout=EVER)).complete
    assert trio.current_time() == seconds - 1


async def test_configured_timeout(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    server = Server(inbox, name="mx.test", timeout=Timeouts(command=120, block=60), **deterministic())
    with pytest.raises(SMTPError):
        await send_ungrouped(server, Hang("RCPT", by="client"), timeout=EVER)
    assert trio.current_time() == 120


async def test_slow_message_extends_the_timeout(autojump_clock: MockClock) -> None:
    """An octet every ten seconds for hours: each part of a message restarts the timeout."""
    inbox = Inbox()
    server = Server(inbox, name="mx.test", limits=Limits(data_rate=0), **deterministic())
    assert (await send_ungrouped(server, Trickle(1, 170, at="body", by="client"), timeout=EVER)).complete
    assert inbox[0].raw == MESSAGE
    assert trio.current_time() == pytest.approx(170 * len(MESSAGE))


async def test_incomplete_command_does_not_extend_the_timeout(autojump_clock: MockClock) -> None:
    """Octets without an end of line do not restart the timeout."""
    inbox = RecordsTimeouts()
    with pytest.raises(SMTPError):
        await send_ungrouped(inbox, Trickle(1, 60, at="MAIL", by="client"), timeout=EVER)
    assert inbox.lost == [300]


async def test_slow_line(autojump_clock: MockClock) -> None:
    """Thirty octets a second in both directions."""
    inbox = Inbox()
    big = MESSAGE + b"0123456789abc\r\n" * 2000
    server = Server(inbox, name="mx.test", limits=Limits(data_rate=0), **deterministic())
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, server, faults=Faults(Throttle(30)), max_octets=4096, timeout=EVER)
        async with client:
            await client.send(ME, [YOU], big)
    assert inbox[0].raw == big
    assert len(big) / 30 < trio.current_time() < len(big) / 30 + 60


# --- retries ---------------------------------------------------------------------------------------------------------------


async def send_with_retries(hooks: Any, every: float, **settings: Any) -> list[float]:
    """Send a message again at intervals until it is accepted or the time is over; return the times of the attempts."""
    times: list[float] = []
    server = hooks if isinstance(hooks, Server) else Server(hooks, name="mx.test", **deterministic())
    while True:
        times.append(trio.current_time())
        try:
            await send_once(server, **settings)
        except ReplyError as exc:
            if not exc.reply.temporary:
                raise
            await trio.sleep(every)
        else:
            return times


async def test_greylisting_accepts_after_five_minutes(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    assert await send_with_retries(Greylist(inbox), 120) == [0, 120, 240, 360]
    assert len(inbox) == 1


async def test_four_days_of_retries(autojump_clock: MockClock) -> None:
    """RFC 5321 4.5.4.1: every half hour for four or five days."""
    inbox = Inbox()
    times = await send_with_retries(inbox, 1800, faults=Faults(Answer("RCPT", 450, times=4 * 48)))
    assert len(times) == 4 * 48 + 1
    assert times[-1] == 4 * 24 * 3600
    assert len(inbox) == 1


async def test_421_and_another_connection(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    times = await send_with_retries(
        inbox, 60, faults=Faults(Answer("CONNECT", 421, times=2), Answer("MAIL", 421, times=2))
    )
    assert times == [0, 60, 120, 180, 240]


async def test_one_message_per_connection(autojump_clock: MockClock) -> None:
    """421 after each message, and the next one over another connection."""
    inbox = Inbox()
    server = Server(MessagesPerConnection(inbox, 1), name="mx.test", **deterministic())
    for count in range(1, 4):
        await send_once(server)
        assert len(inbox) == count


async def test_message_rate(autojump_clock: MockClock) -> None:
    """At four an hour, the fifth message is accepted an hour after the first."""
    inbox = Inbox()
    server = Server(MessageRate(inbox, 4), name="mx.test", **deterministic())
    times = [await send_with_retries(server, 600, peer=Peer("192.0.2.1", 25, "tcp")) for _ in range(5)]
    assert [len(each) for each in times] == [1, 1, 1, 1, 7]
    assert times[-1][-1] == 3600


async def test_one_connection_per_peer(autojump_clock: MockClock) -> None:
    """The second client is accepted after the first has closed its connection."""
    inbox = Inbox()
    server = Server(ConnectionsPerPeer(inbox, 1), name="mx.test", **deterministic())
    async with trio.open_nursery() as nursery:
        first = await memory_pair(nursery, server)
        async with first:
            nursery.start_soon(send_with_retries, server, 30)
            await trio.sleep(100)
            assert len(inbox) == 0
    assert trio.current_time() == 120
    assert len(inbox) == 1


async def test_retry_after_an_unknown_delivery(autojump_clock: MockClock) -> None:
    """RFC 1047: a server that closes before its last reply receives the message twice."""
    inbox = Inbox()
    faults = Faults(*ONE_BY_ONE, Close("."))
    with pytest.raises(DeliveryUnknownError):
        await send_once(inbox, faults)
    await trio.sleep(1800)
    assert (await send_once(inbox, faults)).complete
    assert len(inbox) == 2


# --- tarpits -----------------------------------------------------------------------------------------------------------------


class OneRecipient(Inbox):
    """An inbox that accepts one recipient."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return None if rcpt.recipient.raw == YOU else Reply(550, "Who?", "5.1.1")


async def test_tarpit_delays_address_harvesting(autojump_clock: MockClock) -> None:
    """Fifty guesses take most of an hour, the correct one included."""
    inbox = OneRecipient()
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, Tarpit(inbox, 5, limit=60), faults=Faults(*ONE_BY_ONE))
        async with client:
            names = [f"guess{number}@mx.test" for number in range(50)]
            result = await client.send(ME, [*names, YOU], MESSAGE)
    assert len(result.rejected) == 50
    assert trio.current_time() > 0.7 * 3600


async def test_tarpit_does_not_delay_other_clients(autojump_clock: MockClock) -> None:
    inbox = OneRecipient()
    layers = Tarpit(inbox, 60)
    server = Server(layers, name="mx.test", **deterministic())
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, server, faults=Faults(*ONE_BY_ONE), timeout=EVER)
        async with client:
            for _ in range(3):
                with pytest.raises(AllRecipientsRejectedError):
                    await client.send(ME, ["who@mx.test"], MESSAGE)
            slow = trio.current_time()
    assert slow >= 60
    began = trio.current_time()
    await send_once(server)
    assert trio.current_time() == began
