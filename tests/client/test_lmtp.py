"""LMTP, RFC 2033: the message has an answer for each recipient that was accepted, in order."""

from __future__ import annotations

import pytest
from scripted import (
    CLOSE,
    GO_AHEAD,
    GREETING,
    ME,
    MESSAGE,
    OK,
    READ_BODY,
    ReadOctets,
    Step,
    chunk,
    ehlo_reply,
    scripted,
)
from trio.testing import MockClock

from smtp_trio import Accepted, AllRecipientsRejectedError, DeliveryUnknownError, LocalProtocolError, Rejected, Unknown

NAMES = ["a@x.test", "b@x.test", "c@x.test", "d@x.test"]
ENVELOPE: tuple[Step, ...] = ("MAIL .*", *["RCPT .*"] * 4)
# Of four recipients the second is refused before the message, which has three answers then.
ENVELOPE_ANSWERS = OK + OK + b"550 no\r\n" + OK + OK
ANSWERS = (b"250-a\r\n250 taken\r\n", b"452 c is full\r\n", b"550 d will not have it\r\n")


def start(kind: str) -> tuple[Step, ...]:
    """All up to the answers to the message."""
    hello = (GREETING, "LHLO client.test", ehlo_reply("PIPELINING", *(["CHUNKING"] if kind == "BDAT" else [])))
    if kind == "BDAT":
        return *hello, *ENVELOPE, *chunk(len(MESSAGE)), ENVELOPE_ANSWERS
    return *hello, *ENVELOPE, "DATA", ENVELOPE_ANSWERS + GO_AHEAD, READ_BODY


def end(kind: str) -> tuple[Step, ...]:
    """What follows a BDAT that was refused for the last of them."""
    return ("RSET", OK) if kind == "BDAT" else ()


@pytest.mark.parametrize("kind", ["DATA", "BDAT"])
@pytest.mark.parametrize("together", [True, False])
async def test_an_answer_for_each(autojump_clock: MockClock, kind: str, together: bool) -> None:
    answers = (b"".join(ANSWERS),) if together else ANSWERS
    async with scripted(*start(kind), *answers, *end(kind)) as script, script.client(lmtp=True) as client:
        result = await client.send(ME, NAMES, MESSAGE)
        assert client.usable
    assert [type(each) for each in result.outcomes] == [Accepted, Rejected, Rejected, Rejected]
    assert [each.reply.code for each in result.rejected] == [550, 452, 550]
    assert result.rejected[0].command.verb == "RCPT"
    assert script.bodies == [MESSAGE]


@pytest.mark.parametrize("kind", ["DATA", "BDAT"])
@pytest.mark.parametrize("count", [0, 1, 2])
async def test_lmt_7_the_connection_dies_behind_some_answers(autojump_clock: MockClock, kind: str, count: int) -> None:
    """RFC 2033 5: those that were answered count, for the others it must be tried again."""
    async with scripted(*start(kind), *ANSWERS[:count], CLOSE) as script, script.client(lmtp=True) as client:
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(ME, NAMES, MESSAGE)
        result = caught.value.result
        types = [Accepted, Rejected, Rejected, Rejected]
        answered = [NAMES[1], *[NAMES[0], NAMES[2], NAMES[3]][:count]]
        assert [type(each) for each in result.outcomes] == [
            kind if name in answered else Unknown for name, kind in zip(NAMES, types, strict=True)
        ]
        assert all(each.temporary for each in result.unknown)
        assert client.last_result == result


@pytest.mark.parametrize("kind", ["DATA", "BDAT"])
async def test_421_behind_the_first_answer(autojump_clock: MockClock, kind: str) -> None:
    async with scripted(*start(kind), ANSWERS[0], b"421 bye\r\n") as script, script.client(lmtp=True) as client:
        result = await client.send(ME, NAMES, MESSAGE)
        assert [type(each) for each in result.outcomes] == [Accepted, Rejected, Rejected, Rejected]
        assert [(each.reply.code, each.temporary) for each in result.rejected][1:] == [(421, True)] * 2
        assert not client.usable


@pytest.mark.parametrize("kind", ["DATA", "BDAT"])
async def test_nobody_will_have_it(autojump_clock: MockClock, kind: str) -> None:
    async with scripted(*start(kind), b"554 no\r\n" * 3, *end(kind)) as script, script.client(lmtp=True) as client:
        with pytest.raises(AllRecipientsRejectedError):
            await client.send(ME, NAMES, MESSAGE)
        assert client.usable


async def test_lmt_4_nobody_was_accepted(autojump_clock: MockClock) -> None:
    """RFC 2033 4.2: then DATA is refused."""
    envelope = OK + b"550 no\r\n" * 4 + b"503 no recipients\r\n"
    hello = (GREETING, "LHLO client.test", ehlo_reply("PIPELINING"))
    async with scripted(*hello, *ENVELOPE, "DATA", envelope, "RSET", OK) as script:
        async with script.client(lmtp=True) as client:
            with pytest.raises(AllRecipientsRejectedError):
                await client.send(ME, NAMES, MESSAGE)


async def test_chunks_of_a_long_message(autojump_clock: MockClock) -> None:
    hello = (GREETING, "LHLO client.test", ehlo_reply("PIPELINING", "CHUNKING"))
    size = 300_000
    steps = (*ENVELOPE, ENVELOPE_ANSWERS, f"BDAT {size} LAST", ReadOctets(size), b"".join(ANSWERS), *end("BDAT"))
    async with scripted(*hello, *steps) as script, script.client(lmtp=True) as client:
        result = await client.send(ME, NAMES, b"x" * (size - 2) + b"\r\n")
        assert len(result.accepted) == 1
        assert client.usable


async def test_no_helo_in_lmtp(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, "LHLO .*", b"500 SMTP here\r\n") as script:
        with pytest.raises(Exception, match="LHLO was refused: 500"):
            async with script.client(lmtp=True):
                raise AssertionError("let in")


async def test_by_hand_there_is_no_data(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, "LHLO .*", ehlo_reply(), "LHLO again", ehlo_reply()) as script:
        async with script.client(lmtp=True) as client:
            with pytest.raises(LocalProtocolError, match="LMTP"):
                await client.data(MESSAGE)
            await client.ehlo("again")
