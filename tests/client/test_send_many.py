"""`Client.send_many`: overlapping messages, their results, and errors between them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from scripted import (
    CHUNKED,
    ENVELOPE,
    GO_AHEAD,
    ME,
    MESSAGE,
    OK,
    READ_BODY,
    UNPIPELINED,
    YOU,
    Script,
    Step,
    chunk,
    hello,
    record_reads,
    record_writes,
    scripted,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import (
    Accepted,
    ConnectionLostError,
    DeliveryUnknownError,
    NotOfferedError,
    Rejected,
    Result,
    Unknown,
)

BOTH = hello("PIPELINING", "CHUNKING")
PIPELINING = hello("PIPELINING")
#: The group that is sent before it is known whether a recipient is accepted.
ENVELOPE_AND_CHUNK: tuple[Step, ...] = CHUNKED[:-1]
GROUP: tuple[Step, ...] = (*ENVELOPE, "DATA")
GROUPED: tuple[Step, ...] = (*GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK)
CLOSING = b"421 4.3.2 bye\r\n"
ITEM = (ME, [YOU], MESSAGE)
#: The group of a message that overlaps the previous one.
OVERLAPPING: tuple[Step, ...] = ("RSET", *ENVELOPE_AND_CHUNK)
ENVELOPE_LINES = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\n" % (ME.encode(), YOU.encode())
CHUNK_LINES = b"BDAT %d LAST\r\n%s" % (len(MESSAGE), MESSAGE)


def kinds(results: tuple[Result, ...] | list[Result]) -> list[list[type]]:
    return [[type(outcome) for outcome in result.outcomes] for result in results]


# --- overlapping messages ---------------------------------------------------------------------------------------------


async def test_send_many_needs_fewer_reads(autojump_clock: MockClock) -> None:
    """The server reads everything that has arrived, and replies to it in one write."""

    async def serve(script: Script) -> None:
        done = 0
        while done < 1000:
            await wait_all_tasks_blocked()
            await script.more()
            replies = b""
            while script.buffered:
                for step in CHUNKED[:-1] if done < 2 else OVERLAPPING:
                    await script.do(step)
                replies += OK * (3 if done < 2 else 4)
                done += 1
            await script.send(replies)

    async with scripted(*BOTH, serve) as script, script.client() as client:
        reads, writes = record_reads(script), record_writes(script)
        results = await client.send_many(ITEM for _ in range(1000))
        assert len(results) == 1000
        assert all(result.complete for result in results)
        assert len(writes) == 1000
        assert len(reads) <= 501
        assert client.usable
    assert len(script.bodies) == 1000


async def test_send_many_overlaps_after_the_first_bdat(autojump_clock: MockClock) -> None:
    async with scripted(*BOTH, *CHUNKED, *CHUNKED[:-1], *OVERLAPPING, OK * 7) as script, script.client() as client:
        await client.send_many([ITEM] * 3)
    assert script.groups[1] == ENVELOPE_LINES + CHUNK_LINES
    # RFC 3030 2: if the previous BDAT were refused, the next one would belong to its transaction without RSET.
    assert b"".join(script.groups[2:4]).startswith(
        ENVELOPE_LINES + CHUNK_LINES + b"RSET\r\n" + ENVELOPE_LINES + CHUNK_LINES
    )


@pytest.mark.parametrize("second", [OK, b"554 no\r\n"])
async def test_503_to_an_overlapping_mail_is_sent_again_once(autojump_clock: MockClock, second: bytes) -> None:
    """Some servers do not accept MAIL in the same group after BDAT LAST."""
    steps = (*CHUNKED, *CHUNKED[:-1], *OVERLAPPING, OK * 2 + second + OK, b"503 not now\r\n" * 3, "RSET", OK, *CHUNKED)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        results = await client.send_many([ITEM] * 3)
        assert kinds(results) == [[Accepted], [Accepted if second == OK else Rejected], [Accepted]]
        assert client.last_results == tuple(results)
    assert len(script.bodies) == 4


async def test_second_503_is_final(autojump_clock: MockClock) -> None:
    again = (*CHUNKED[:-1], b"503 not now\r\n" * 3, "RSET", OK)
    steps = (*CHUNKED, *CHUNKED[:-1], *OVERLAPPING, OK * 4, b"503 not now\r\n" * 3, "RSET", OK, *again)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        results = await client.send_many([ITEM] * 3)
    assert kinds(results) == [[Accepted], [Accepted], [Rejected]]


async def test_send_many_continues_after_refusals(autojump_clock: MockClock) -> None:
    refused = (*CHUNKED[:-1], OK + b"550 no\r\n" + b"554 no recipients\r\n")
    reset: tuple[Step, ...] = ("RSET", OK)
    async with scripted(*BOTH, *refused, *reset, *CHUNKED) as script, script.client() as client:
        results = await client.send_many([ITEM] * 2)
    assert kinds(results) == [[Rejected], [Accepted]]


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("CHUNKING",)])
async def test_send_many_without_overlapping(autojump_clock: MockClock, extensions: tuple[str, ...]) -> None:
    one: tuple[Step, ...] = UNPIPELINED
    if "PIPELINING" in extensions:
        one = (*GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK)
    elif extensions:
        one = (ENVELOPE[0], OK, ENVELOPE[1], OK, *chunk(len(MESSAGE)), OK)
    async with scripted(*hello(*extensions), *one * 3) as script, script.client() as client:
        results = await client.send_many([ITEM] * 3)
    assert kinds(results) == [[Accepted]] * 3


async def test_send_many_from_an_async_iterable(autojump_clock: MockClock) -> None:
    async def source() -> AsyncIterator[tuple[str, list[str], bytes]]:
        for _ in range(2):
            yield ME, [YOU], MESSAGE

    async with scripted(*BOTH, *CHUNKED * 2) as script, script.client() as client:
        assert len(await client.send_many(source())) == 2


# --- 421 (RFC 5321 3.8) -----------------------------------------------------------------------------------------------


async def test_421_with_chunks_leaves_the_next_message_without_outcome(autojump_clock: MockClock) -> None:
    steps = (*CHUNKED, *ENVELOPE_AND_CHUNK, "RSET", *ENVELOPE_AND_CHUNK, OK * 2 + CLOSING)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        with pytest.raises(ConnectionLostError):
            await client.send_many([ITEM] * 3)
        assert kinds(client.last_results) == [[Accepted], [Rejected], []]
        assert not client.last_results[2].complete


async def test_421_with_data_leaves_the_next_message_without_outcome(autojump_clock: MockClock) -> None:
    async with (
        scripted(*PIPELINING, *GROUP, OK * 2 + GO_AHEAD, READ_BODY, *GROUP, CLOSING) as script,
        script.client() as client,
    ):
        with pytest.raises(ConnectionLostError):
            await client.send_many([ITEM] * 2)
        assert kinds(client.last_results) == [[Rejected], []]


async def test_421_to_an_envelope_raises_connection_lost_error(autojump_clock: MockClock) -> None:
    async with scripted(*PIPELINING, *GROUP, OK + CLOSING) as script, script.client() as client:
        with pytest.raises(ConnectionLostError):
            await client.send_many([ITEM] * 2)
        assert kinds(client.last_results) == [[Rejected], []]


# --- other errors -----------------------------------------------------------------------------------------------------


async def test_sent_message_is_unknown_if_the_next_one_cannot_be_written(autojump_clock: MockClock) -> None:
    """RFC 1047."""
    closed = trio.Event()

    async def close(script: Script) -> None:
        await trio.aclose_forcefully(script.stream)
        closed.set()

    async def source() -> AsyncIterator[tuple[str, list[str], bytes]]:
        yield ITEM
        yield ITEM
        await closed.wait()
        yield ITEM

    async with scripted(*BOTH, *CHUNKED, *ENVELOPE_AND_CHUNK, close) as script, script.client() as client:
        with pytest.raises(DeliveryUnknownError):
            await client.send_many(source())
        assert kinds(client.last_results) == [[Accepted], [Unknown], []]


@pytest.mark.parametrize("refusal", [b"554 5.5.1 no valid recipients\r\n", b"503 5.5.1 need RCPT\r\n"])
async def test_rset_after_data_refused_without_recipients(autojump_clock: MockClock, refusal: bytes) -> None:
    """Postfix keeps the transaction if it refuses DATA because no recipient was accepted."""
    steps = (*GROUP, OK + b"550 no\r\n" + refusal, "RSET", OK, *GROUPED)
    async with scripted(*PIPELINING, *steps) as script, script.client() as client:
        assert kinds(await client.send_many([ITEM] * 2)) == [[Rejected], [Accepted]]
    assert script.bodies == [MESSAGE]


async def test_rset_after_refused_data(autojump_clock: MockClock) -> None:
    steps = (*GROUP, OK * 2 + b"451 later\r\n", "RSET", OK, *GROUPED)
    async with scripted(*PIPELINING, *steps) as script, script.client() as client:
        assert kinds(await client.send_many([ITEM] * 2)) == [[Rejected], [Accepted]]


@pytest.mark.parametrize(("session", "first"), [(PIPELINING, GROUPED), (BOTH, CHUNKED)])
async def test_invalid_message_does_not_affect_the_previous_one(
    autojump_clock: MockClock, session: tuple[Step, ...], first: tuple[Step, ...]
) -> None:
    async with scripted(*session, *first, *first) as script, script.client() as client:
        with pytest.raises(ValueError, match="not an address"):
            await client.send_many([ITEM, ITEM, (ME, ["nobody"], MESSAGE), ITEM])
        assert kinds(client.last_results) == [[Accepted], [Accepted]]
        assert client.usable


async def test_error_has_the_result_of_its_message(autojump_clock: MockClock) -> None:
    """Not that of the message before it, which was accepted."""
    async with scripted(*PIPELINING, *GROUPED) as script, script.client() as client:
        with pytest.raises(NotOfferedError) as caught:
            await client.send_many([ITEM, (ME, ["\u00fcser@example.org"], MESSAGE), ITEM])
        assert caught.value.result.recipients == ("\u00fcser@example.org",)
        assert caught.value.result.outcomes == ()
        assert kinds(client.last_results) == [[Accepted]]


async def test_message_above_the_size_limit_is_rejected_without_error(autojump_clock: MockClock) -> None:
    session = hello("PIPELINING", "CHUNKING", "SIZE 100")
    async with scripted(*session, *CHUNKED, *CHUNKED) as script, script.client() as client:
        results = await client.send_many([ITEM, (ME, [YOU], b"x" * 101), ITEM])
    assert kinds(results) == [[Accepted], [Rejected], [Accepted]]


@pytest.mark.parametrize(("session", "first"), [(PIPELINING, GROUPED[:-1]), (BOTH, CHUNKED[:-1])])
async def test_message_is_sent_before_the_source_yields_the_next(
    autojump_clock: MockClock, session: tuple[Step, ...], first: tuple[Step, ...]
) -> None:
    """An asynchronous source may not yield for hours."""
    received = trio.Event()

    async def set_received(script: Script) -> None:
        received.set()

    async def source() -> AsyncIterator[tuple[str, list[str], bytes]]:
        yield ITEM
        await received.wait()
        yield ITEM

    replies = OK if session is PIPELINING else OK * 3
    second = GROUPED if session is PIPELINING else CHUNKED
    async with scripted(*session, *first, set_received, replies, *second) as script, script.client() as client:
        with trio.fail_after(100):
            assert kinds(await client.send_many(source())) == [[Accepted], [Accepted]]
