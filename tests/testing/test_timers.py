"""Minutes and hours of patience in less than two seconds: the timers of RFC 5321 4.5.3.2, tarpits, greylists and retries.

Each runs against a real client and a real server, under a clock of its own, and to the second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    ClientTimeouts,
    DeliveryUnknownError,
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
SLOWLY = (Omit("CHUNKING"), Omit("PIPELINING"))
EVER = ClientTimeouts.all(0)
#: Seconds of processor time for all tests of this file.
BOUND = 2.0


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """All of these together take less than two seconds of the processor's time, and nothing in them waits in real time."""
    began, looked = time.process_time(), time.perf_counter()
    yield
    spent, passed = time.process_time() - began, time.perf_counter() - looked
    print(f"\nall timers: {spent:.2f} s of processor time, {passed:.2f} s in all")
    if sys.gettrace() is None and "coverage" not in sys.modules:  # they make everything slow
        assert spent < BOUND


async def send(client: Client) -> Result:
    """One message over a connection of its own."""
    try:
        async with client:
            return await client.send(ME, [YOU], MESSAGE)
    finally:
        await client.aclose()


async def collapse_group(hooks: Inbox | Server, *rules: Any, **settings: Any) -> Result:
    """One message from a client of its own; what comes of it is raised alone."""
    return await over(hooks, Faults(*SLOWLY, *rules), **settings)


async def over(hooks: Any, faults: Faults | None = None, **settings: Any) -> Result:
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


class Timed(Inbox):
    """Notes when it lost its patience."""

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
async def test_client_waits_so_long(autojump_clock: MockClock, at: str, verb: str, seconds: float) -> None:
    """… and a server that never answers is left on the second."""
    with pytest.raises((TimedOutError, DeliveryUnknownError)) as caught:
        await collapse_group(Inbox(), Hang(at))
    assert trio.current_time() == seconds
    assert isinstance(caught.value, TimedOutError | DeliveryUnknownError)
    assert caught.value.command.verb == verb


@pytest.mark.parametrize(("at", "verb", "seconds"), CLIENTS)
async def test_client_waits_no_less(autojump_clock: MockClock, at: str, verb: str, seconds: float) -> None:
    """A second before, the answer comes in time."""
    assert (await collapse_group(Inbox(), Delay(at, seconds - 1))).complete
    assert trio.current_time() == seconds - 1


async def test_every_answer_at_the_last_moment(autojump_clock: MockClock) -> None:
    rules = [Delay(at, seconds - 1) for at, _, seconds in CLIENTS]
    assert (await collapse_group(Inbox(), *rules)).complete
    assert trio.current_time() == sum(seconds - 1 for _, _, seconds in CLIENTS)


async def test_an_answer_that_trickles_is_none(autojump_clock: MockClock) -> None:
    """A server that says an octet every 30 seconds has not answered after five minutes."""
    with pytest.raises(TimedOutError) as caught:
        await collapse_group(Inbox(), Trickle(1, 30, at="MAIL"))
    assert caught.value.command.verb == "MAIL"
    assert trio.current_time() == 300


# --- the server's (RFC 5321 4.5.3.2.7) -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "seconds"), [("EHLO", 300), ("MAIL", 300), ("RCPT", 300), ("DATA", 300), ("body", 180), (".", 180)]
)
async def test_server_waits_so_long(autojump_clock: MockClock, at: str, seconds: float) -> None:
    """Five minutes for a command, three for a piece of the message."""
    inbox = Inbox()
    with pytest.raises(SMTPError):
        await collapse_group(inbox, Hang(at, by="client"), timeout=EVER)
    assert trio.current_time() == seconds
    assert len(inbox) == 0


@pytest.mark.parametrize(("at", "seconds"), [("EHLO", 300), ("MAIL", 300), ("DATA", 300), ("body", 180), (".", 180)])
async def test_server_waits_no_less(autojump_clock: MockClock, at: str, seconds: float) -> None:
    assert (await collapse_group(Inbox(), Delay(at, seconds - 1, by="client"), timeout=EVER)).complete
    assert trio.current_time() == seconds - 1


async def test_two_minutes_of_ones_own(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    server = Server(inbox, name="mx.test", timeout=Timeouts(command=120, block=60), **deterministic())
    with pytest.raises(SMTPError):
        await collapse_group(server, Hang("RCPT", by="client"), timeout=EVER)
    assert trio.current_time() == 120


async def test_a_slow_line_is_no_silence(autojump_clock: MockClock) -> None:
    """An octet every ten seconds for hours: each piece of a message wins time, and a command that is whole in time is."""
    inbox = Inbox()
    assert (await collapse_group(inbox, Trickle(1, 170, at="body", by="client"), timeout=EVER)).complete
    assert inbox[0].raw == MESSAGE
    assert trio.current_time() == pytest.approx(170 * len(MESSAGE))


async def test_a_command_that_is_not_whole_in_time(autojump_clock: MockClock) -> None:
    """CON-6: octets without an end of line win nobody time."""
    inbox = Timed()
    with pytest.raises(SMTPError):
        await collapse_group(inbox, Trickle(1, 60, at="MAIL", by="client"), timeout=EVER)
    assert inbox.lost == [300]


async def test_pace_of_a_modem(autojump_clock: MockClock) -> None:
    """Thirty octets a second, both ways."""
    inbox = Inbox()
    big = MESSAGE + b"0123456789abc\r\n" * 2000
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, inbox, faults=Faults(Throttle(30)), max_octets=4096, timeout=EVER)
        async with client:
            await client.send(ME, [YOU], big)
    assert inbox[0].raw == big
    assert len(big) / 30 < trio.current_time() < len(big) / 30 + 60


# --- retries ---------------------------------------------------------------------------------------------------------------


async def retried(hooks: Any, every: float, **settings: Any) -> list[float]:
    """A queue that tries again after so many seconds, as long as it is told to; when it tried."""
    tries: list[float] = []
    server = hooks if isinstance(hooks, Server) else Server(hooks, name="mx.test", **deterministic())
    while True:
        tries.append(trio.current_time())
        try:
            await over(server, **settings)
        except ReplyError as exc:
            if not exc.reply.temporary:
                raise
            await trio.sleep(every)
        else:
            return tries


async def test_greylisting_opens_after_five_minutes(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    assert await retried(Greylist(inbox), 120) == [0, 120, 240, 360]
    assert len(inbox) == 1


async def test_four_days_of_retries(autojump_clock: MockClock) -> None:
    """RFC 5321 4.5.4.1: every half hour, for four or five days."""
    inbox = Inbox()
    tries = await retried(inbox, 1800, faults=Faults(Answer("RCPT", 450, times=4 * 48)))
    assert len(tries) == 4 * 48 + 1
    assert tries[-1] == 4 * 24 * 3600
    assert len(inbox) == 1


async def test_421_and_another_connection(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    tries = await retried(inbox, 60, faults=Faults(Answer("CONNECT", 421, times=2), Answer("MAIL", 421, times=2)))
    assert tries == [0, 60, 120, 180, 240]


async def test_a_message_a_connection(autojump_clock: MockClock) -> None:
    """421 after each message, and the next one over another connection."""
    inbox = Inbox()
    server = Server(MessagesPerConnection(inbox, 1), name="mx.test", **deterministic())
    for count in range(1, 4):
        await over(server)
        assert len(inbox) == count


async def test_an_hour_for_the_hundredth(autojump_clock: MockClock) -> None:
    """A rate of four an hour: the fifth gets through when the first is an hour old."""
    inbox = Inbox()
    server = Server(MessageRate(inbox, 4), name="mx.test", **deterministic())
    tries = [await retried(server, 600, peer=Peer("192.0.2.1", 25, "tcp")) for _ in range(5)]
    assert [len(each) for each in tries] == [1, 1, 1, 1, 7]
    assert tries[-1][-1] == 3600


async def test_a_place_at_the_door(autojump_clock: MockClock) -> None:
    """One connection at a time: who comes second tries again when the first has gone."""
    inbox = Inbox()
    server = Server(ConnectionsPerPeer(inbox, 1), name="mx.test", **deterministic())
    async with trio.open_nursery() as nursery:
        first = await memory_pair(nursery, server)
        async with first:
            nursery.start_soon(retried, server, 30)
            await trio.sleep(100)
            assert len(inbox) == 0
    assert trio.current_time() == 120
    assert len(inbox) == 1


async def test_unknown_is_tried_again(autojump_clock: MockClock) -> None:
    """RFC 1047: a server that goes before its last word has the message twice."""
    inbox = Inbox()
    faults = Faults(*SLOWLY, Close("."))
    with pytest.raises(DeliveryUnknownError):
        await over(inbox, faults)
    await trio.sleep(1800)
    assert (await over(inbox, faults)).complete
    assert len(inbox) == 2


# --- tarpits -----------------------------------------------------------------------------------------------------------------


class Choosy(Inbox):
    """Knows one recipient."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return None if rcpt.recipient.raw == YOU else Reply(550, "Who?", "5.1.1")


async def test_a_harvest_of_addresses(autojump_clock: MockClock) -> None:
    """Fifty guesses take most of an hour, and the one that is right is no quicker."""
    inbox = Choosy()
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, Tarpit(inbox, 5, most=60), faults=Faults(*SLOWLY))
        async with client:
            names = [f"guess{number}@mx.test" for number in range(50)]
            result = await client.send(ME, [*names, YOU], MESSAGE)
    assert len(result.rejected) == 50
    assert trio.current_time() > 0.7 * 3600


async def test_a_tarpit_harms_nobody_else(autojump_clock: MockClock) -> None:
    inbox = Choosy()
    layers = Tarpit(inbox, 60)
    server = Server(layers, name="mx.test", **deterministic())
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, server, faults=Faults(*SLOWLY), timeout=EVER)
        async with client:
            for _ in range(3):
                with pytest.raises(AllRecipientsRejectedError):
                    await client.send(ME, ["who@mx.test"], MESSAGE)
            slow = trio.current_time()
    assert slow >= 60
    began = trio.current_time()
    await over(server)
    assert trio.current_time() == began
