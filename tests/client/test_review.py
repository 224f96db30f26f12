"""What must hold when something goes wrong in the middle: of a batch, of several transactions, of a verb."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from helpers import PoolOf
from scripted import (
    CHUNKED,
    CLOSE,
    ENVELOPE,
    GO_AHEAD,
    GREETING,
    ME,
    MESSAGE,
    NO_REPLY,
    OK,
    READ_BODY,
    UNPIPELINED,
    YOU,
    ReadOctets,
    Script,
    Step,
    chunk,
    ehlo_reply,
    hello,
    scripted,
)
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import (
    Accepted,
    AllRecipientsRejectedError,
    Client,
    ConnectionLostError,
    DeliveryUnknownError,
    Rejected,
    Result,
    Unknown,
)
from smtp_trio._client.pool import QUIT_TIMEOUT
from smtp_trio.protocol import LocalProtocolError

BOTH = hello("PIPELINING", "CHUNKING")
PIPELINING = hello("PIPELINING")
#: What leaves before it is known whether anybody wants it.
ENVELOPE_AND_CHUNK: tuple[Step, ...] = CHUNKED[:-1]
GROUP: tuple[Step, ...] = (*ENVELOPE, "DATA")
SENT: tuple[Step, ...] = (*GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK)
BYE = b"421 4.3.2 bye\r\n"
ONE = (ME, [YOU], MESSAGE)


def kinds(results: tuple[Result, ...] | list[Result]) -> list[list[type]]:
    return [[type(outcome) for outcome in result.outcomes] for result in results]


# --- a 421 in the middle of a batch (RFC 5321 3.8) --------------------------------------------------------------------


async def test_a_421_leaves_no_message_without_a_word_chunks(autojump_clock: MockClock) -> None:
    steps = (*CHUNKED, *ENVELOPE_AND_CHUNK, "RSET", *ENVELOPE_AND_CHUNK, OK * 2 + BYE)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        with pytest.raises(ConnectionLostError):
            await client.send_many([ONE] * 3)
        assert kinds(client.last_results) == [[Accepted], [Rejected], []]
        assert not client.last_results[2].complete


async def test_a_421_leaves_no_message_without_a_word_lines(autojump_clock: MockClock) -> None:
    async with (
        scripted(*PIPELINING, *GROUP, OK * 2 + GO_AHEAD, READ_BODY, *GROUP, BYE) as script,
        script.client() as client,
    ):
        with pytest.raises(ConnectionLostError):
            await client.send_many([ONE] * 2)
        assert kinds(client.last_results) == [[Rejected], []]


async def test_a_421_to_an_envelope_is_no_fault_of_ours(autojump_clock: MockClock) -> None:
    async with scripted(*PIPELINING, *GROUP, OK + BYE) as script, script.client() as client:
        with pytest.raises(ConnectionLostError):
            await client.send_many([ONE] * 2)
        assert kinds(client.last_results) == [[Rejected], []]


# --- others in the middle of a batch ----------------------------------------------------------------------------------


async def test_what_was_whole_stays_whole_when_the_next_one_cannot_be_written(autojump_clock: MockClock) -> None:
    """RFC 1047: it may have been taken."""
    gone = trio.Event()

    async def close(script: Script) -> None:
        await trio.aclose_forcefully(script.stream)
        gone.set()

    async def source() -> AsyncIterator[tuple[str, list[str], bytes]]:
        yield ONE
        yield ONE
        await gone.wait()
        yield ONE

    async with scripted(*BOTH, *CHUNKED, *ENVELOPE_AND_CHUNK, close) as script, script.client() as client:
        with pytest.raises(DeliveryUnknownError):
            await client.send_many(source())
        assert kinds(client.last_results) == [[Accepted], [Unknown], []]


@pytest.mark.parametrize("refusal", [b"554 5.5.1 no valid recipients\r\n", b"503 5.5.1 need RCPT\r\n"])
async def test_a_refused_message_does_not_leave_its_transaction_to_the_next(
    autojump_clock: MockClock, refusal: bytes
) -> None:
    """Postfix keeps MAIL when it refuses DATA for want of recipients; the next MAIL is nested then, unless RSET is said."""
    steps = (*GROUP, OK + b"550 no\r\n" + refusal, "RSET", OK, *SENT)
    async with scripted(*PIPELINING, *steps) as script, script.client() as client:
        assert kinds(await client.send_many([ONE] * 2)) == [[Rejected], [Accepted]]
    assert script.bodies == [MESSAGE]


async def test_a_refused_data_is_behind_rset_too(autojump_clock: MockClock) -> None:
    steps = (*GROUP, OK * 2 + b"451 later\r\n", "RSET", OK, *SENT)
    async with scripted(*PIPELINING, *steps) as script, script.client() as client:
        assert kinds(await client.send_many([ONE] * 2)) == [[Rejected], [Accepted]]


@pytest.mark.parametrize(("opening", "first"), [(PIPELINING, SENT), (BOTH, CHUNKED)])
async def test_a_bad_message_does_not_take_the_one_ahead_with_it(
    autojump_clock: MockClock, opening: tuple[Step, ...], first: tuple[Step, ...]
) -> None:
    async with scripted(*opening, *first, *first) as script, script.client() as client:
        with pytest.raises(ValueError, match="not an address"):
            await client.send_many([ONE, ONE, (ME, ["nobody"], MESSAGE), ONE])
        assert kinds(client.last_results) == [[Accepted], [Accepted]]
        assert client.usable


async def test_a_message_that_is_too_large_is_no_error_in_a_batch(autojump_clock: MockClock) -> None:
    opening = hello("PIPELINING", "CHUNKING", "SIZE 100")
    async with scripted(*opening, *CHUNKED, *CHUNKED) as script, script.client() as client:
        results = await client.send_many([ONE, (ME, [YOU], b"x" * 101), ONE])
    assert kinds(results) == [[Accepted], [Rejected], [Accepted]]


@pytest.mark.parametrize(("opening", "first"), [(PIPELINING, SENT[:-1]), (BOTH, CHUNKED[:-1])])
async def test_a_message_leaves_before_the_next_is_there(
    autojump_clock: MockClock, opening: tuple[Step, ...], first: tuple[Step, ...]
) -> None:
    """A source may have nothing to give for hours."""
    taken = trio.Event()

    async def take(script: Script) -> None:
        taken.set()

    async def source() -> AsyncIterator[tuple[str, list[str], bytes]]:
        yield ONE
        await taken.wait()
        yield ONE

    answers = OK if opening is PIPELINING else OK * 3
    second = SENT if opening is PIPELINING else CHUNKED
    async with scripted(*opening, *first, take, answers, *second) as script, script.client() as client:
        with trio.fail_after(60):
            assert kinds(await client.send_many(source())) == [[Accepted], [Accepted]]


# --- several transactions for one message -----------------------------------------------------------------------------


async def test_recipients_of_whom_nothing_is_known_are_an_error(autojump_clock: MockClock) -> None:
    """RFC 9422: the server takes two at a time, and leaves behind the first two."""
    names = [f"{name}@mx.test" for name in "abcd"]
    steps = ("MAIL.*", "RCPT.*", "RCPT.*", *chunk(len(MESSAGE)), OK * 4 + BYE)
    async with scripted(*hello("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=2"), *steps) as script:
        async with script.client() as client:
            with pytest.raises(ConnectionLostError):
                await client.send(ME, names, MESSAGE)
            assert kinds(client.last_results) == [[Accepted, Accepted]]


async def test_a_verdict_before_the_end_is_for_all_recipients_of_lmtp(autojump_clock: MockClock) -> None:
    spoken = trio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"Subject: hi\r\n"
        await spoken.wait()
        for _ in range(3):
            yield b"hello\r\n"

    async def speak(script: Script) -> None:
        await script.send(b"552 5.3.4 too much\r\n")
        await script.do(CLOSE)
        spoken.set()

    steps = ("LHLO.*", ehlo_reply(), "MAIL.*", OK, "RCPT.*", OK, "RCPT.*", OK, "DATA", GO_AHEAD, ReadOctets(13), speak)
    async with scripted(GREETING, *steps) as script, script.client(lmtp=True) as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU, "b@mx.test"], source())
        assert kinds([caught.value.result]) == [[Rejected, Rejected]]


# --- a pool ---------------------------------------------------------------------------------------------------------


async def test_old_connections_to_nobody_do_not_hold_up_the_next_message(autojump_clock: MockClock) -> None:
    """A router that has forgotten them takes QUIT, and nothing comes back."""
    waiting = [(*hello(), *UNPIPELINED, NO_REPLY)] * 4 + [(*hello(), *UNPIPELINED)]

    async def dial() -> Client:
        client_stream, far = memory_stream_pair()
        script = Script(far, client_stream, waiting.pop(0))
        nursery.start_soon(script.run)
        return await script.client().__aenter__()

    async with trio.open_nursery() as nursery, PoolOf(dial, size=4) as pool:
        async with trio.open_nursery() as tasks:
            for _ in range(4):
                tasks.start_soon(pool.send, *ONE)
        await trio.sleep(60)
        start = trio.current_time()
        await pool.send(*ONE)
        assert trio.current_time() - start <= QUIT_TIMEOUT
        assert pool.statistics().open == 1


# --- arguments --------------------------------------------------------------------------------------------------------


def test_of_nobody_is_not_of_all() -> None:
    assert not Result(ME, (YOU,), ()).complete


async def test_starttls_without_a_host_says_nothing(autojump_clock: MockClock) -> None:
    async with scripted(*hello("STARTTLS")) as script, script.client() as client:
        with pytest.raises(ValueError, match="host"):
            await client.starttls()
        assert client.usable


async def test_bdat_last_is_not_for_lmtp(autojump_clock: MockClock) -> None:
    steps = ("LHLO.*", ehlo_reply("CHUNKING"), "MAIL.*", OK, "RCPT.*", OK)
    async with scripted(GREETING, *steps) as script, script.client(lmtp=True) as client:
        await client.mail(ME)
        await client.rcpt(YOU)
        with pytest.raises(LocalProtocolError, match="each recipient"):
            await client.bdat(MESSAGE, last=True)
        assert client.usable


@pytest.mark.parametrize(("sender", "recipients"), [(None, [YOU]), (ME, [None]), (ME, b"you@mx.test")])
async def test_an_address_is_a_str(autojump_clock: MockClock, sender: object, recipients: object) -> None:
    async with scripted(*hello()) as script, script.client() as client:
        with pytest.raises(TypeError, match="must be a str"):
            await client.send(sender, recipients, MESSAGE)  # type: ignore[arg-type]
