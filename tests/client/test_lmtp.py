"""LMTP (RFC 2033): the server replies to the message once for each accepted recipient, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from scripted import (
    CLOSE,
    GO_AHEAD,
    GREETING,
    ME,
    MESSAGE,
    OK,
    READ_BODY,
    YOU,
    ReadOctets,
    Script,
    Step,
    chunk,
    ehlo_reply,
    scripted,
)
from trio.testing import MockClock

from smtp_trio import Accepted, AllRecipientsRejectedError, DeliveryUnknownError, LocalProtocolError, Rejected, Unknown

NAMES = ["a@x.test", "b@x.test", "c@x.test", "d@x.test"]
ENVELOPE: tuple[Step, ...] = ("MAIL .*", *["RCPT .*"] * 4)
# The second of four recipients is refused, so that there are three replies to the message.
ENVELOPE_REPLIES = OK + OK + b"550 no\r\n" + OK + OK
REPLIES = (b"250-a\r\n250 taken\r\n", b"452 c is full\r\n", b"550 d does not accept it\r\n")


def start(kind: str) -> tuple[Step, ...]:
    """Return the steps up to the replies to the message."""
    hello = (GREETING, "LHLO client.test", ehlo_reply("PIPELINING", *(["CHUNKING"] if kind == "BDAT" else [])))
    if kind == "BDAT":
        return *hello, *ENVELOPE, ENVELOPE_REPLIES, *chunk(len(MESSAGE))
    return *hello, *ENVELOPE, "DATA", ENVELOPE_REPLIES + GO_AHEAD, READ_BODY


def end(kind: str) -> tuple[Step, ...]:
    """Return the steps after a BDAT that was refused for the last recipient."""
    return ("RSET", OK) if kind == "BDAT" else ()


@pytest.mark.parametrize("kind", ["DATA", "BDAT"])
@pytest.mark.parametrize("in_one_write", [True, False])
async def test_one_reply_for_each_recipient(autojump_clock: MockClock, kind: str, in_one_write: bool) -> None:
    replies = (b"".join(REPLIES),) if in_one_write else REPLIES
    async with scripted(*start(kind), *replies, *end(kind)) as script, script.client(lmtp=True) as client:
        result = await client.send(ME, NAMES, MESSAGE)
        assert client.usable
    assert [type(each) for each in result.outcomes] == [Accepted, Rejected, Rejected, Rejected]
    assert [each.reply.code for each in result.rejected] == [550, 452, 550]
    assert result.rejected[0].command.verb == "RCPT"
    assert script.bodies == [MESSAGE]


@pytest.mark.parametrize("kind", ["DATA", "BDAT"])
@pytest.mark.parametrize("count", [0, 1, 2])
async def test_connection_lost_after_some_replies(autojump_clock: MockClock, kind: str, count: int) -> None:
    """RFC 2033 5: the replies received count; the message must be sent again for the other recipients."""
    async with scripted(*start(kind), *REPLIES[:count], CLOSE) as script, script.client(lmtp=True) as client:
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(ME, NAMES, MESSAGE)
        result = caught.value.result
        types = [Accepted, Rejected, Rejected, Rejected]
        replied = [NAMES[1], *[NAMES[0], NAMES[2], NAMES[3]][:count]]
        assert [type(each) for each in result.outcomes] == [
            kind if name in replied else Unknown for name, kind in zip(NAMES, types, strict=True)
        ]
        assert not any(each.temporary or each.permanent for each in result.unknown)
        assert client.last_result == result


@pytest.mark.parametrize("kind", ["DATA", "BDAT"])
async def test_421_after_the_first_reply(autojump_clock: MockClock, kind: str) -> None:
    async with scripted(*start(kind), REPLIES[0], b"421 bye\r\n") as script, script.client(lmtp=True) as client:
        result = await client.send(ME, NAMES, MESSAGE)
        assert [type(each) for each in result.outcomes] == [Accepted, Rejected, Rejected, Rejected]
        assert [(each.reply.code, each.temporary) for each in result.rejected][1:] == [(421, True)] * 2
        assert not client.usable


@pytest.mark.parametrize("kind", ["DATA", "BDAT"])
async def test_message_refused_for_all_recipients(autojump_clock: MockClock, kind: str) -> None:
    async with scripted(*start(kind), b"554 no\r\n" * 3, *end(kind)) as script, script.client(lmtp=True) as client:
        with pytest.raises(AllRecipientsRejectedError):
            await client.send(ME, NAMES, MESSAGE)
        assert client.usable


async def test_data_refused_because_no_recipient_was_accepted(autojump_clock: MockClock) -> None:
    """RFC 2033 4.2: DATA must be refused then."""
    envelope = OK + b"550 no\r\n" * 4 + b"503 no recipients\r\n"
    hello = (GREETING, "LHLO client.test", ehlo_reply("PIPELINING"))
    async with scripted(*hello, *ENVELOPE, "DATA", envelope, "RSET", OK) as script:
        async with script.client(lmtp=True) as client:
            with pytest.raises(AllRecipientsRejectedError):
                await client.send(ME, NAMES, MESSAGE)


async def test_large_message_in_chunks(autojump_clock: MockClock) -> None:
    hello = (GREETING, "LHLO client.test", ehlo_reply("PIPELINING", "CHUNKING"))
    size = 300_000
    steps = (*ENVELOPE, ENVELOPE_REPLIES, f"BDAT {size} LAST", ReadOctets(size), b"".join(REPLIES), *end("BDAT"))
    async with scripted(*hello, *steps) as script, script.client(lmtp=True) as client:
        result = await client.send(ME, NAMES, b"x" * (size - 2) + b"\r\n")
        assert len(result.accepted) == 1
        assert client.usable


async def test_no_helo_after_refused_lhlo(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, "LHLO .*", b"500 SMTP here\r\n") as script:
        with pytest.raises(Exception, match="LHLO was refused: 500"):
            async with script.client(lmtp=True):
                raise AssertionError("unreachable")


async def test_data_method_is_not_available(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, "LHLO .*", ehlo_reply(), "LHLO again", ehlo_reply()) as script:
        async with script.client(lmtp=True) as client:
            with pytest.raises(LocalProtocolError, match="LMTP"):
                await client.data(MESSAGE)
            await client.ehlo("again")


async def test_reply_before_the_end_of_the_message_is_for_all_recipients(autojump_clock: MockClock) -> None:
    replied = trio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"Subject: hi\r\n"
        await replied.wait()
        for _ in range(3):
            yield b"hello\r\n"

    async def reply_and_close(script: Script) -> None:
        await script.send(b"552 5.3.4 too much\r\n")
        await script.do(CLOSE)
        replied.set()

    steps = (
        "LHLO.*",
        ehlo_reply(),
        "MAIL.*",
        OK,
        "RCPT.*",
        OK,
        "RCPT.*",
        OK,
        "DATA",
        GO_AHEAD,
        ReadOctets(13),
        reply_and_close,
    )
    async with scripted(GREETING, *steps) as script, script.client(lmtp=True) as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU, "b@mx.test"], source())
        assert [type(outcome) for outcome in caught.value.result.outcomes] == [Rejected, Rejected]


async def test_last_chunk_by_bdat_method_is_not_available(autojump_clock: MockClock) -> None:
    steps = ("LHLO.*", ehlo_reply("CHUNKING"), "MAIL.*", OK, "RCPT.*", OK)
    async with scripted(GREETING, *steps) as script, script.client(lmtp=True) as client:
        await client.mail(ME)
        await client.rcpt(YOU)
        with pytest.raises(LocalProtocolError, match="each recipient"):
            await client.bdat(MESSAGE, last=True)
        assert client.usable
