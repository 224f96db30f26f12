"""What a client writes before it waits: groups where the server pipelines, whole messages where it takes chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
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
    Script,
    Step,
    chunk,
    hello,
    scripted,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import (
    Accepted,
    AllRecipientsRejectedError,
    ConnectionLostError,
    DeliveryUnknownError,
    NotOfferedError,
    Rejected,
    RemoteProtocolError,
    Result,
)

BOTH = hello("PIPELINING", "CHUNKING")
GROUP: tuple[Step, ...] = (*ENVELOPE, "DATA")
SENT = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\n" % (ME.encode(), YOU.encode())
BEHIND: tuple[Step, ...] = ("RSET", *CHUNKED[:-1])
AS_CHUNK = b"BDAT %d LAST\r\n%s" % (len(MESSAGE), MESSAGE)


# --- PIPELINING -------------------------------------------------------------------------------------------------------


async def test_pip_c3_data_ends_a_group(autojump_clock: MockClock) -> None:
    async with scripted(*hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            await client.send(ME, [YOU], MESSAGE)
    assert script.groups[1:] == [SENT + b"DATA\r\n", MESSAGE + b".\r\n", b"QUIT\r\n"]


async def test_pip_c4_never_unless_it_is_offered(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), *UNPIPELINED) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE)
    assert all(group.count(b"\r\n") == 1 for group in script.groups if group != MESSAGE + b".\r\n")


async def test_pip_c1_answers_belong_by_their_count(autojump_clock: MockClock) -> None:
    """Whatever they say: the words are about others, and the codes are all alike."""
    answers = b"250 RCPT <c@x.test> ok\r\n550 <a@x.test> no\r\n250 sender ok\r\n550 DATA no\r\n354 go\r\n"
    steps: tuple[Step, ...] = ("MAIL .*", *["RCPT .*"] * 3, "DATA", answers, READ_BODY, OK)
    async with scripted(*hello("PIPELINING"), *steps) as script, script.client() as client:
        result = await client.send(ME, ["a@x.test", "b@x.test", "c@x.test"], MESSAGE)
    assert [type(each) for each in result.outcomes] == [Rejected, Accepted, Rejected]


async def test_pip_c1_every_status_is_looked_at(autojump_clock: MockClock) -> None:
    """MAIL is refused and all the rest is taken: what follows is a message from nobody."""
    steps: tuple[Step, ...] = (*GROUP, b"550 no\r\n" + b"503 no MAIL\r\n" * 2, "RSET", OK)
    async with scripted(*hello("PIPELINING"), *steps, *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            with pytest.raises(AllRecipientsRejectedError) as caught:
                await client.send(ME, [YOU], MESSAGE)
            assert (caught.value.command.verb, caught.value.reply.code) == ("MAIL", 550)
            assert (await client.send(ME, [YOU], MESSAGE)).complete


@pytest.mark.parametrize("verdict", [OK, b"554 no recipients\r\n"])
async def test_pip_c2_354_and_nobody_to_send_it_to(autojump_clock: MockClock, verdict: bytes) -> None:
    """RFC 2920 3.1: a lone dot, and whatever is said to it, nobody got anything."""
    steps = (*GROUP, OK + b"550 no\r\n" + GO_AHEAD, READ_BODY, verdict)
    async with scripted(*hello("PIPELINING"), *steps, *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            with pytest.raises(AllRecipientsRejectedError) as caught:
                await client.send(ME, [YOU], MESSAGE)
            assert (caught.value.command.verb, caught.value.reply.code) == ("RCPT", 550)
            assert script.groups[2] == b".\r\n"
            await client.send(ME, [YOU], MESSAGE)
    assert script.bodies == [b"", MESSAGE]


async def test_pip_c2_no_354_and_nobody_to_send_it_to(autojump_clock: MockClock) -> None:
    steps = (*GROUP, OK + b"550 no\r\n" + b"554 no valid recipients\r\n", "RSET", OK)
    async with scripted(*hello("PIPELINING"), *steps, *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            with pytest.raises(AllRecipientsRejectedError):
                await client.send(ME, [YOU], MESSAGE)
            await client.send(ME, [YOU], MESSAGE)


async def test_pip_c5_replies_of_many_lines_and_in_many_pieces(autojump_clock: MockClock) -> None:
    answers = b"250-a\r\n250-b\r\n250 c\r\n550-x\r\n550 y\r\n250-RCPT\r\n250 ok\r\n354-now\r\n354 go\r\n"
    pieces = [answers[at : at + 1] for at in range(len(answers))]
    steps: tuple[Step, ...] = ("MAIL .*", *["RCPT .*"] * 2, "DATA", *pieces, READ_BODY, OK)
    async with scripted(*hello("PIPELINING"), *steps) as script, script.client() as client:
        result = await client.send(ME, ["a@x.test", "b@x.test"], MESSAGE)
    assert [type(each) for each in result.outcomes] == [Rejected, Accepted]
    assert result.rejected[0].reply.text == "x\ny"


async def test_groups_are_bounded(autojump_clock: MockClock) -> None:
    """As many commands as there are recipients could fill the buffers of both directions: then both sides wait for ever."""
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
async def test_one_answer_too_many(autojump_clock: MockClock, more: bytes) -> None:
    """An answer that nobody asked for: the next ones could be taken for one another, so there is no next one."""
    async with scripted(*BOTH, *CHUNKED[:-1], OK * 3 + more, EXPECT_CLOSE) as script, script.client() as client:
        assert (await client.send(ME, [YOU], MESSAGE)).complete
        assert not client.usable
        with pytest.raises((RemoteProtocolError, ConnectionLostError)):
            await client.send(ME, [YOU], MESSAGE)


async def test_an_answer_of_the_wrong_kind(autojump_clock: MockClock) -> None:
    """There is no telling what the answers behind it are about, nor what became of a message that is aboard."""
    async with scripted(*hello("PIPELINING"), *GROUP, OK + GO_AHEAD, EXPECT_CLOSE) as script, script.client() as client:
        with pytest.raises(RemoteProtocolError):
            await client.send(ME, [YOU], MESSAGE)
    async with scripted(*BOTH, *CHUNKED[:-1], OK + GO_AHEAD, EXPECT_CLOSE) as script, script.client() as client:
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(ME, [YOU], MESSAGE)
    assert isinstance(caught.value.__cause__, RemoteProtocolError)


# --- CHUNKING ---------------------------------------------------------------------------------------------------------


def count_waits(script: Script) -> list[int]:
    """The length of this list is how often the client turned to the network for answers, and found none."""
    waits: list[int] = []

    async def note() -> None:
        waits.append(len(script.groups))

    stream = script.client_stream
    assert isinstance(stream, trio.StapledStream)
    stream.receive_stream.receive_some_hook = note
    return waits


def count_writes(script: Script) -> list[int]:
    """The length of this list is how often the client wrote."""
    writes: list[int] = []
    stream = script.client_stream
    assert isinstance(stream, trio.StapledStream)
    deliver = stream.send_stream.send_all_hook

    async def note() -> None:
        writes.append(len(script.groups))
        await deliver()

    stream.send_stream.send_all_hook = note
    return writes


async def test_a_message_is_one_write_and_one_wait(autojump_clock: MockClock) -> None:
    async with scripted(*BOTH, *CHUNKED) as script, script.client() as client:
        waits, writes = count_waits(script), count_writes(script)
        assert (await client.send(ME, [YOU], MESSAGE)).complete
        assert (len(writes), len(waits)) == (1, 1)
    assert script.groups[1] == SENT + AS_CHUNK


async def test_a_thousand_messages_are_a_thousand_waits(autojump_clock: MockClock) -> None:
    async with scripted(*BOTH, *CHUNKED * 1000) as script, script.client() as client:
        waits, writes = count_waits(script), count_writes(script)
        for _ in range(1000):
            assert (await client.send(ME, [YOU], MESSAGE)).complete
        assert (len(writes), len(waits)) == (1000, 1000)
    assert script.groups[1:-1] == [SENT + AS_CHUNK] * 1000


async def test_send_many_waits_less(autojump_clock: MockClock) -> None:
    """The server answers when nobody else has anything to do; what has come until then it answers in one go."""

    async def serve(script: Script) -> None:
        done = 0
        while done < 1000:
            await wait_all_tasks_blocked()
            await script.more()
            answers = b""
            while script.buffered:
                for step in CHUNKED[:-1] if done < 2 else BEHIND:
                    await script.do(step)
                answers += OK * (3 if done < 2 else 4)
                done += 1
            await script.send(answers)

    async with scripted(*BOTH, serve) as script, script.client() as client:
        waits, writes = count_waits(script), count_writes(script)
        results = await client.send_many((ME, [YOU], MESSAGE) for _ in range(1000))
        assert len(results) == 1000
        assert all(result.complete for result in results)
        assert len(writes) == 1000
        assert len(waits) <= 501
        assert client.usable
    assert len(script.bodies) == 1000


async def test_send_many_learns_first_whether_the_server_goes_on(autojump_clock: MockClock) -> None:
    async with scripted(*BOTH, *CHUNKED, *CHUNKED[:-1], *BEHIND, OK * 7) as script, script.client() as client:
        await client.send_many([(ME, [YOU], MESSAGE)] * 3)
    assert script.groups[1] == SENT + AS_CHUNK
    # RFC 3030 2: had the one ahead of it been refused, the next would be taken for a part of it but for the RSET.
    assert b"".join(script.groups[2:4]).startswith(SENT + AS_CHUNK + b"RSET\r\n" + SENT + AS_CHUNK)


def kinds(results: list[Result]) -> list[list[str]]:
    return [[type(outcome).__name__ for outcome in result.outcomes] for result in results]


@pytest.mark.parametrize("second", [OK, b"554 no\r\n"])
async def test_a_503_to_the_overlapped_mail_is_tried_again_once(autojump_clock: MockClock, second: bytes) -> None:
    """Some servers are not ready for a MAIL behind a BDAT LAST."""
    steps = (*CHUNKED, *CHUNKED[:-1], *BEHIND, OK * 2 + second + OK, b"503 not now\r\n" * 3, "RSET", OK, *CHUNKED)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        results = await client.send_many([(ME, [YOU], MESSAGE)] * 3)
        assert kinds(results) == [["Accepted"], ["Accepted" if second == OK else "Rejected"], ["Accepted"]]
        assert client.last_results == tuple(results)
    assert len(script.bodies) == 4


async def test_a_503_to_the_overlapped_mail_is_not_tried_for_ever(autojump_clock: MockClock) -> None:
    again = (*CHUNKED[:-1], b"503 not now\r\n" * 3, "RSET", OK)
    steps = (*CHUNKED, *CHUNKED[:-1], *BEHIND, OK * 4, b"503 not now\r\n" * 3, "RSET", OK, *again)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        results = await client.send_many([(ME, [YOU], MESSAGE)] * 3)
    assert kinds(results) == [["Accepted"], ["Accepted"], ["Rejected"]]


async def test_send_many_goes_on_behind_refusals(autojump_clock: MockClock) -> None:
    refused = (*CHUNKED[:-1], OK + b"550 no\r\n" + b"554 no recipients\r\n")
    reset: tuple[Step, ...] = ("RSET", OK)
    async with scripted(*BOTH, *refused, *reset, *CHUNKED) as script, script.client() as client:
        results = await client.send_many([(ME, [YOU], MESSAGE)] * 2)
    assert kinds(results) == [["Rejected"], ["Accepted"]]


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("CHUNKING",)])
async def test_send_many_without_overlap(autojump_clock: MockClock, extensions: tuple[str, ...]) -> None:
    one: tuple[Step, ...] = UNPIPELINED
    if "PIPELINING" in extensions:
        one = (*GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK)
    elif extensions:
        one = (ENVELOPE[0], OK, ENVELOPE[1], OK, *chunk(len(MESSAGE)), OK)
    async with scripted(*hello(*extensions), *one * 3) as script, script.client() as client:
        results = await client.send_many([(ME, [YOU], MESSAGE)] * 3)
    assert kinds(results) == [["Accepted"]] * 3


async def test_send_many_from_an_asynchronous_source(autojump_clock: MockClock) -> None:
    async def source() -> AsyncIterator[tuple[str, list[str], bytes]]:
        for _ in range(2):
            yield ME, [YOU], MESSAGE

    async with scripted(*BOTH, *CHUNKED * 2) as script, script.client() as client:
        assert len(await client.send_many(source())) == 2


# --- BDT-C1 -----------------------------------------------------------------------------------------------------------


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield b"x" * 998 + b"\r\n"


async def test_bdt_c1_falls_back_to_data(autojump_clock: MockClock) -> None:
    async with (
        scripted(*hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK) as script,
        script.client() as client,
    ):
        await client.send(ME, [YOU], b".dot\n.\nlone\rcr")
    assert script.bodies == [b"..dot\r\n..\r\nlone\r\ncr\r\n"]


async def test_bdt_c1_counts_what_it_sends(autojump_clock: MockClock) -> None:
    """Line ends are put right, dots are left alone."""
    wanted = b".dot\r\n.\r\nlast\r\n"
    async with scripted(*BOTH, *ENVELOPE, *chunk(len(wanted)), OK * 3) as script, script.client() as client:
        await client.send(ME, [YOU], b".dot\n.\nlast")
    assert script.bodies == [wanted]


async def test_bdt_c1_an_iterable_goes_in_chunks(autojump_clock: MockClock) -> None:
    size = 1 << 20
    steps = (*ENVELOPE, OK * 2, *chunk(size, last=False), *chunk(size, last=False), OK * 2, *chunk(902_848), OK)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        assert (await client.send(ME, [YOU], pieces(3_000_000))).complete
    assert [len(body) for body in script.bodies] == [size, size, 902_848]


@pytest.mark.parametrize("code", [452, 554])
async def test_bdt_c1_stops_behind_a_refused_chunk(autojump_clock: MockClock, code: int) -> None:
    """RFC 3030 2: no more of it, and RSET."""
    size = 1 << 20
    one = (ENVELOPE[0], OK, ENVELOPE[1], OK)
    steps = (*one, *chunk(size, last=False), b"%d no\r\n" % code, "RSET", OK, *one, *chunk(len(MESSAGE)), OK)
    async with scripted(*hello("CHUNKING"), *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], pieces(3_000_000))
        assert (caught.value.command.verb, caught.value.reply.code) == ("BDAT", code)
        assert (await client.send(ME, [YOU], MESSAGE)).complete
    assert [len(body) for body in script.bodies] == [size, len(MESSAGE)]


async def test_bdt_c1_nobody_wants_a_message_that_is_aboard(autojump_clock: MockClock) -> None:
    """It has gone out already; the refusal of BDAT is what had to come."""
    steps = (*CHUNKED[:-1], OK + b"550 no\r\n" + b"503 no recipients\r\n", "RSET", OK, *CHUNKED)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.command.verb == "RCPT"
        assert (await client.send(ME, [YOU], MESSAGE)).complete


async def test_bdt_c1_a_large_message_waits_for_its_recipients(autojump_clock: MockClock) -> None:
    steps = (*ENVELOPE, OK + b"550 no\r\n", "RSET", OK)
    async with scripted(*BOTH, *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError):
            await client.send(ME, [YOU], b"x" * 300_000)
    assert script.bodies == []


async def test_bdt_c1_binarymime_only_where_it_is_offered(autojump_clock: MockClock) -> None:
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
