"""PIPELINING (RFC 2920) and CHUNKING (RFC 3030): the groups that the client writes, and the replies to them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from scripted import (
    CHUNKED,
    ENVELOPE,
    EXPECT_CLOSE,
    GO_AHEAD,
    ME,
    MESSAGE,
    OK,
    READ_BODY,
    UNPIPELINED,
    YOU,
    ReadOctets,
    Step,
    chunk,
    hello,
    record_reads,
    record_writes,
    scripted,
)
from trio.testing import MockClock

from smtp_trio import (
    Accepted,
    AllRecipientsRejectedError,
    ConnectionLostError,
    DeliveryUnknownError,
    NotOfferedError,
    Rejected,
    RemoteProtocolError,
)

CHUNKING_SESSION = hello("PIPELINING", "CHUNKING")
GROUP: tuple[Step, ...] = (*ENVELOPE, "DATA")
ENVELOPE_LINES = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\n" % (ME.encode(), YOU.encode())
OVERLAPPING: tuple[Step, ...] = ("RSET", *CHUNKED[:-1])
CHUNK_LINES = b"BDAT %d LAST\r\n%s" % (len(MESSAGE), MESSAGE)


# --- PIPELINING -------------------------------------------------------------------------------------------------------


async def test_data_is_the_last_command_of_a_group(autojump_clock: MockClock) -> None:
    async with scripted(*hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            await client.send(ME, [YOU], MESSAGE)
    assert script.groups[1:] == [ENVELOPE_LINES + b"DATA\r\n", MESSAGE + b".\r\n", b"QUIT\r\n"]


async def test_no_groups_without_pipelining(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), *UNPIPELINED) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE)
    assert all(group.count(b"\r\n") == 1 for group in script.groups if group != MESSAGE + b".\r\n")


async def test_replies_are_matched_by_their_order(autojump_clock: MockClock) -> None:
    """Neither their texts nor their codes matter."""
    replies = b"250 RCPT <c@x.test> ok\r\n550 <a@x.test> no\r\n250 sender ok\r\n550 DATA no\r\n354 go\r\n"
    steps: tuple[Step, ...] = ("MAIL .*", *["RCPT .*"] * 3, "DATA", replies, READ_BODY, OK)
    async with scripted(*hello("PIPELINING"), *steps) as script, script.client() as client:
        result = await client.send(ME, ["a@x.test", "b@x.test", "c@x.test"], MESSAGE)
    assert [type(each) for each in result.outcomes] == [Rejected, Accepted, Rejected]


async def test_refused_mail_in_a_group(autojump_clock: MockClock) -> None:
    """The transaction is ended before the next message."""
    steps: tuple[Step, ...] = (*GROUP, b"550 no\r\n" + b"503 no MAIL\r\n" * 2, "RSET", OK)
    async with scripted(*hello("PIPELINING"), *steps, *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            with pytest.raises(AllRecipientsRejectedError) as caught:
                await client.send(ME, [YOU], MESSAGE)
            assert (caught.value.command.verb, caught.value.reply.code) == ("MAIL", 550)
            assert (await client.send(ME, [YOU], MESSAGE)).complete


@pytest.mark.parametrize("reply", [OK, b"554 no recipients\r\n"])
async def test_354_without_accepted_recipients(autojump_clock: MockClock, reply: bytes) -> None:
    """RFC 2920 3.1: the client sends a single dot; the reply to it does not matter."""
    steps = (*GROUP, OK + b"550 no\r\n" + GO_AHEAD, READ_BODY, reply)
    async with scripted(*hello("PIPELINING"), *steps, *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            with pytest.raises(AllRecipientsRejectedError) as caught:
                await client.send(ME, [YOU], MESSAGE)
            assert (caught.value.command.verb, caught.value.reply.code) == ("RCPT", 550)
            assert script.groups[2] == b".\r\n"
            await client.send(ME, [YOU], MESSAGE)
    assert script.bodies == [b"", MESSAGE]


async def test_data_refused_without_accepted_recipients(autojump_clock: MockClock) -> None:
    steps = (*GROUP, OK + b"550 no\r\n" + b"554 no valid recipients\r\n", "RSET", OK)
    async with scripted(*hello("PIPELINING"), *steps, *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            with pytest.raises(AllRecipientsRejectedError):
                await client.send(ME, [YOU], MESSAGE)
            await client.send(ME, [YOU], MESSAGE)


async def test_multiline_replies_in_single_octets(autojump_clock: MockClock) -> None:
    replies = b"250-a\r\n250-b\r\n250 c\r\n550-x\r\n550 y\r\n250-RCPT\r\n250 ok\r\n354-now\r\n354 go\r\n"
    pieces = [replies[at : at + 1] for at in range(len(replies))]
    steps: tuple[Step, ...] = ("MAIL .*", *["RCPT .*"] * 2, "DATA", *pieces, READ_BODY, OK)
    async with scripted(*hello("PIPELINING"), *steps) as script, script.client() as client:
        result = await client.send(ME, ["a@x.test", "b@x.test"], MESSAGE)
    assert [type(each) for each in result.outcomes] == [Rejected, Accepted]
    assert result.rejected[0].reply.text == "x\ny"


async def test_group_has_at_most_100_commands(autojump_clock: MockClock) -> None:
    """More could fill the buffers of both directions, and both sides would wait forever."""
    names = [f"u{at}@x.test" for at in range(250)]
    steps: tuple[Step, ...] = (
        "MAIL .*",
        *["RCPT .*"] * 99,
        OK * 100,
        *["RCPT .*"] * 100,
        OK * 100,
        *["RCPT .*"] * 51,
        "DATA",
    )
    async with scripted(*hello("PIPELINING"), *steps, OK * 51 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            assert (await client.send(ME, names, MESSAGE)).complete
    assert max(group.count(b"\r\n") for group in script.groups) == 100


@pytest.mark.parametrize("more", [OK, b"421 bye\r\n"])
async def test_unsolicited_reply_makes_the_client_unusable(autojump_clock: MockClock, more: bytes) -> None:
    """The next reply could be taken for the reply to another command."""
    async with (
        scripted(*CHUNKING_SESSION, *CHUNKED[:-1], OK * 3 + more, EXPECT_CLOSE) as script,
        script.client() as client,
    ):
        assert (await client.send(ME, [YOU], MESSAGE)).complete
        assert not client.usable
        with pytest.raises((RemoteProtocolError, ConnectionLostError)):
            await client.send(ME, [YOU], MESSAGE)


async def test_reply_of_the_wrong_kind(autojump_clock: MockClock) -> None:
    """The replies after it cannot be assigned, and a message in the group may have been accepted."""
    async with scripted(*hello("PIPELINING"), *GROUP, OK + GO_AHEAD, EXPECT_CLOSE) as script, script.client() as client:
        with pytest.raises(RemoteProtocolError):
            await client.send(ME, [YOU], MESSAGE)
    async with (
        scripted(*CHUNKING_SESSION, *CHUNKED[:-1], OK + GO_AHEAD, EXPECT_CLOSE) as script,
        script.client() as client,
    ):
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(ME, [YOU], MESSAGE)
    assert isinstance(caught.value.__cause__, RemoteProtocolError)


# --- CHUNKING ---------------------------------------------------------------------------------------------------------


async def test_message_needs_one_write_and_one_read(autojump_clock: MockClock) -> None:
    async with scripted(*CHUNKING_SESSION, *CHUNKED) as script, script.client() as client:
        reads, writes = record_reads(script), record_writes(script)
        assert (await client.send(ME, [YOU], MESSAGE)).complete
        assert (len(writes), len(reads)) == (1, 1)
    assert script.groups[1] == ENVELOPE_LINES + CHUNK_LINES


async def test_thousand_messages_need_a_thousand_reads(autojump_clock: MockClock) -> None:
    async with scripted(*CHUNKING_SESSION, *CHUNKED * 1000) as script, script.client() as client:
        reads, writes = record_reads(script), record_writes(script)
        for _ in range(1000):
            assert (await client.send(ME, [YOU], MESSAGE)).complete
        assert (len(writes), len(reads)) == (1000, 1000)
    assert script.groups[1:-1] == [ENVELOPE_LINES + CHUNK_LINES] * 1000


# --- BDAT -------------------------------------------------------------------------------------------------------------


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield b"x" * 998 + b"\r\n"


async def test_data_without_chunking(autojump_clock: MockClock) -> None:
    async with (
        scripted(*hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script,
        script.client() as client,
    ):
        await client.send(ME, [YOU], b".dot\n.\nlone\rcr")
    assert script.bodies == [b"..dot\r\n..\r\nlone\r\ncr\r\n"]


async def test_chunk_size_is_that_of_the_normalized_message(autojump_clock: MockClock) -> None:
    """Line ends are normalized, dots are not stuffed."""
    wanted = b".dot\r\n.\r\nlast\r\n"
    async with scripted(*CHUNKING_SESSION, *ENVELOPE, *chunk(len(wanted)), OK * 3) as script, script.client() as client:
        await client.send(ME, [YOU], b".dot\n.\nlast")
    assert script.bodies == [wanted]


async def test_iterable_is_sent_in_chunks(autojump_clock: MockClock) -> None:
    size = 1 << 20
    steps = (*ENVELOPE, OK * 2, *chunk(size, last=False), *chunk(size, last=False), OK * 2, *chunk(902_848), OK)
    async with scripted(*CHUNKING_SESSION, *steps) as script, script.client() as client:
        assert (await client.send(ME, [YOU], pieces(3_000_000))).complete
    assert [len(body) for body in script.bodies] == [size, size, 902_848]


@pytest.mark.parametrize("code", [452, 554])
async def test_no_more_chunks_after_a_refused_one(autojump_clock: MockClock, code: int) -> None:
    """RFC 3030 2."""
    size = 1 << 20
    one = (ENVELOPE[0], OK, ENVELOPE[1], OK)
    steps = (*one, *chunk(size, last=False), b"%d no\r\n" % code, "RSET", OK, *one, *chunk(len(MESSAGE)), OK)
    async with scripted(*hello("CHUNKING"), *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], pieces(3_000_000))
        assert (caught.value.command.verb, caught.value.reply.code) == ("BDAT", code)
        assert (await client.send(ME, [YOU], MESSAGE)).complete
    assert [len(body) for body in script.bodies] == [size, len(MESSAGE)]


async def test_message_in_the_group_without_accepted_recipients(autojump_clock: MockClock) -> None:
    """The message was sent already, and BDAT is refused."""
    steps = (*CHUNKED[:-1], OK + b"550 no\r\n" + b"503 no recipients\r\n", "RSET", OK, *CHUNKED)
    async with scripted(*CHUNKING_SESSION, *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.command.verb == "RCPT"
        assert (await client.send(ME, [YOU], MESSAGE)).complete


async def test_large_message_is_not_sent_without_accepted_recipients(autojump_clock: MockClock) -> None:
    steps = (*ENVELOPE, OK + b"550 no\r\n", "RSET", OK)
    async with scripted(*CHUNKING_SESSION, *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError):
            await client.send(ME, [YOU], b"x" * 300_000)
    assert script.bodies == []


async def test_binarymime(autojump_clock: MockClock) -> None:
    octets = b"Subject: hi\r\n\r\n\0\n\r"
    steps = ("MAIL FROM:<.*> BODY=BINARYMIME", "RCPT .*", f"BDAT {len(octets)} LAST", ReadOctets(len(octets)), OK * 3)
    offered = hello("PIPELINING", "CHUNKING", "8BITMIME", "BINARYMIME")
    async with scripted(*offered, *steps) as script, script.client() as client:
        await client.send(ME, [YOU], octets, body="BINARYMIME")
    assert script.bodies == [octets]
    async with scripted(*hello("PIPELINING", "CHUNKING", "8BITMIME")) as script, script.client() as client:
        with pytest.raises(NotOfferedError, match="BINARYMIME"):
            await client.send(ME, [YOU], octets, body="BINARYMIME")
    assert script.groups[1:] == [b"QUIT\r\n"]
