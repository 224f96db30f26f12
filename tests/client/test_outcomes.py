"""The outcome for each recipient, and the exceptions: refusals, too many recipients, lost connections."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from scripted import (
    CLOSE,
    EXPECT_CLOSE,
    GO_AHEAD,
    ME,
    MESSAGE,
    NO_REPLY,
    OK,
    READ_BODY,
    UNPIPELINED,
    YOU,
    ReadOctets,
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
    Rejected,
    RemoteProtocolError,
    ReplyError,
    Result,
    TimedOutError,
    Unknown,
)

MAIL, RCPT = f"MAIL FROM:<{ME}>", "RCPT TO:<.*>"
GROUP: tuple[Step, ...] = (MAIL, RCPT, "DATA")


# --- 421 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        (MAIL, b"421 bye\r\n"),
        (MAIL, OK, RCPT, b"421 bye\r\n"),
        (MAIL, OK, RCPT, OK, "DATA", b"421 bye\r\n"),
        (MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, READ_BODY, b"421 bye\r\n"),
    ],
)
async def test_421_is_a_temporary_failure_and_closes(autojump_clock: MockClock, steps: tuple[Step, ...]) -> None:
    async with scripted(*hello(), *steps, EXPECT_CLOSE) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.reply.code == 421
        assert [each.temporary for each in caught.value.result.rejected] == [True]
        assert not client.usable
        with pytest.raises(trio.ClosedResourceError):
            await client.send(ME, [YOU], MESSAGE)


@pytest.mark.parametrize(
    ("steps", "command"),
    [
        ((MAIL, b"221 bye\r\n"), "MAIL"),
        ((MAIL, OK, RCPT, b"221 bye\r\n"), "RCPT"),
        ((MAIL, OK, RCPT, OK, "DATA", b"221-so long\r\n221 bye\r\n"), "DATA"),
    ],
)
async def test_221_without_quit_ends_the_session(
    autojump_clock: MockClock, steps: tuple[Step, ...], command: str
) -> None:
    """RFC 5321 4.2.3. It does not accept the command, although it is a 2yz reply."""
    async with scripted(*hello(), *steps, EXPECT_CLOSE) as script, script.client() as client:
        with pytest.raises(ConnectionLostError, match=f"{command}: the server closed the connection: 221") as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.reply is not None
        assert caught.value.reply.code == 221
        assert client.last_result is not None
        assert client.last_result.outcomes == ()
        assert not client.usable


async def test_221_to_the_message_is_unknown(autojump_clock: MockClock) -> None:
    steps = (MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, READ_BODY, b"221 bye\r\n")
    async with scripted(*hello(), *steps, EXPECT_CLOSE) as script, script.client() as client:
        with pytest.raises(DeliveryUnknownError, match="221 bye"):
            await client.send(ME, [YOU], MESSAGE)


@pytest.mark.parametrize("replies", [b"221 bye\r\n", OK + b"221 bye\r\n"])
async def test_221_to_the_envelope_of_a_group_with_the_message(autojump_clock: MockClock, replies: bytes) -> None:
    """The message was sent with the envelope, and was not accepted."""
    steps = (MAIL, RCPT, *chunk(len(MESSAGE)), replies, EXPECT_CLOSE)
    async with scripted(*hello("PIPELINING", "CHUNKING"), *steps) as script, script.client() as client:
        with pytest.raises(ConnectionLostError, match="221 bye"):
            await client.send(ME, [YOU], MESSAGE)
        assert client.last_result is not None
        assert client.last_result.outcomes == ()


@pytest.mark.parametrize(
    ("keywords", "steps", "code"),
    [
        (["PIPELINING"], (*GROUP, b"451 later\r\n"), 451),
        (["PIPELINING"], (*GROUP, b"550 no\r\n" * 2), 550),
        (["PIPELINING"], (*GROUP, OK + b"550 no\r\n"), 550),
        ([], (MAIL, OK, RCPT, b"550 no\r\n", "RSET"), 550),
        ([], (MAIL, OK, RCPT, b"550 no\r\n", "RSET", b"221 bye\r\n"), 550),
        ([], (MAIL, OK, RCPT, b"550 no\r\n", "RSET", b"421 bye\r\n"), 550),
        ([], (MAIL, OK, RCPT, b"550 no\r\n", "RSET", b"nonsense\r\n"), 550),
    ],
)
async def test_lost_connection_after_the_outcome_is_known(
    autojump_clock: MockClock, keywords: list[str], steps: tuple[Step, ...], code: int
) -> None:
    """The refusal is raised: it is the reason, and tells whether to try again."""
    async with scripted(*hello(*keywords), *steps, CLOSE) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.reply.code == code
        assert not client.usable


@pytest.mark.parametrize(
    ("reply", "error"),
    [(b"421 bye\r\n", ConnectionLostError), (b"221 bye\r\n", ConnectionLostError), (b"502 no\r\n", ReplyError)],
)
@pytest.mark.parametrize("many", [False, True])
async def test_rset_before_a_message_is_refused(
    autojump_clock: MockClock, reply: bytes, error: type[Exception], many: bool
) -> None:
    async with scripted(*hello(), MAIL, OK, "RSET", reply) as script, script.client() as client:
        await client.mail(ME)
        with pytest.raises(error, match=reply[:3].decode()):
            await (client.send_many([(ME, [YOU], MESSAGE)]) if many else client.send(ME, [YOU], MESSAGE))


@pytest.mark.parametrize("goodbye", [b"221 2.0.0 idle too long\r\n"])
async def test_unsolicited_221(autojump_clock: MockClock, goodbye: bytes) -> None:
    async with scripted(*hello(), goodbye, CLOSE) as script, script.client() as client:
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionLostError, match=r"MAIL: the server closed the connection: 221 2\.0\.0"):
            await client.send(ME, [YOU], MESSAGE)
        assert not client.usable


async def test_unsolicited_421(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), b"421 4.3.2 idle too long\r\n", CLOSE) as script, script.client() as client:
        await wait_all_tasks_blocked()
        with pytest.raises((ConnectionLostError, AllRecipientsRejectedError), match=r"421 4\.3\.2|closed"):
            await client.send(ME, [YOU], MESSAGE)
        assert not client.usable


async def test_421_after_some_recipients(autojump_clock: MockClock) -> None:
    """The recipients that were refused before it keep their outcome."""
    replies = (MAIL, OK, RCPT, b"550 no\r\n", RCPT, b"421 bye\r\n")
    async with scripted(*hello(), *replies, EXPECT_CLOSE) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, ["a@x.test", "b@x.test", "c@x.test"], MESSAGE)
        assert [(each.reply.code, each.temporary) for each in caught.value.result.rejected] == [
            (550, False),
            (421, True),
            (421, True),
        ]


# --- outcomes ---------------------------------------------------------------------------------------------------------

MIXED = (b"250 ok\r\n", b"550 5.1.1 no\r\n", b"450 4.2.1 later\r\n", b"251 will forward\r\n")


@pytest.mark.parametrize("pipelining", [False, True])
async def test_outcome_for_each_recipient(autojump_clock: MockClock, pipelining: bool) -> None:
    names = ["a@x.test", "b@x.test", "c@x.test", "d@x.test"]
    if pipelining:
        steps: tuple[Step, ...] = (MAIL, RCPT, RCPT, RCPT, RCPT, "DATA", OK + b"".join(MIXED) + GO_AHEAD, READ_BODY, OK)
    else:
        steps = (
            MAIL,
            *MIXED[:1],
            *(step for answer in MIXED for step in (RCPT, answer)),
            "DATA",
            GO_AHEAD,
            READ_BODY,
            OK,
        )
    async with scripted(*hello(*(["PIPELINING"] if pipelining else [])), *steps) as script, script.client() as client:
        result = await client.send(ME, names, MESSAGE)
    assert [type(each) for each in result.outcomes] == [Accepted, Rejected, Rejected, Accepted]
    assert [each.recipient for each in result.outcomes] == names
    assert [(each.reply.code, each.reply.status, each.permanent, each.command.verb) for each in result.rejected] == [
        (550, "5.1.1", True, "RCPT"),
        (450, "4.2.1", False, "RCPT"),
    ]
    assert not result.complete
    assert client.last_result == result
    assert script.bodies == [MESSAGE]


async def test_all_recipients_refused(autojump_clock: MockClock) -> None:
    steps = (MAIL, OK, RCPT, b"550 no\r\n", RCPT, b"450 later\r\n", "RSET", OK)
    async with scripted(*hello(), *steps, *UNPIPELINED) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, ["a@x.test", "b@x.test"], MESSAGE)
        assert isinstance(caught.value, ReplyError)
        assert (caught.value.command.verb, caught.value.reply.code) == ("RCPT", 550)
        assert [each.temporary for each in caught.value.result.rejected] == [False, True]
        assert (await client.send(ME, [YOU], MESSAGE)).complete  # the connection is in step


async def test_mail_refused(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), MAIL, b"452 full\r\n", *UNPIPELINED) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.command.verb == "MAIL"
        await client.send(ME, [YOU], MESSAGE)


@pytest.mark.parametrize(("code", "temporary"), [(299, None), (466, True), (599, False)])
async def test_unknown_code_is_interpreted_by_its_first_digit(
    autojump_clock: MockClock, code: int, temporary: bool | None
) -> None:
    steps = (MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, READ_BODY, b"%d huh\r\n" % code)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        if temporary is None:
            assert (await client.send(ME, [YOU], MESSAGE)).complete
            return
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.result.rejected[0].temporary is temporary


# --- too many recipients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [552, 452])
@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")])
async def test_too_many_recipients_need_further_transactions(
    autojump_clock: MockClock, code: int, extensions: tuple[str, ...]
) -> None:
    names = [f"u{at}@x.test" for at in range(5)]
    full = b"%d too many\r\n" % code
    transactions = [[OK, OK, OK, full, full], [OK, OK]]
    steps: list[Step] = []
    for replies in transactions:
        if "CHUNKING" in extensions:
            steps += [
                MAIL,
                *[RCPT] * len(replies),
                r"BDAT \d+ LAST",
                ReadOctets(len(MESSAGE)),
                OK + b"".join(replies) + OK,
            ]
        elif extensions:
            steps += [MAIL, *[RCPT] * len(replies), "DATA", OK + b"".join(replies) + GO_AHEAD, READ_BODY, OK]
        else:
            steps += [
                MAIL,
                OK,
                *(step for answer in replies for step in (RCPT, answer)),
                "DATA",
                GO_AHEAD,
                READ_BODY,
                OK,
            ]
    async with scripted(*hello(*extensions), *steps) as script, script.client() as client:
        result = await client.send(ME, names, MESSAGE)
    assert result.complete
    assert [each.recipient for each in result.outcomes] == names
    assert script.bodies == [MESSAGE] * 2
    assert script.lines.count(f"RCPT TO:<{names[4]}>") == 2


async def test_452_to_the_first_recipient_is_not_retried(autojump_clock: MockClock) -> None:
    """No recipient was accepted, so another transaction would be refused too."""
    steps = (MAIL, OK, RCPT, b"452 no\r\n", "RSET", OK)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
    assert caught.value.result.rejected[0].temporary


async def test_iterable_is_not_sent_in_a_second_transaction(autojump_clock: MockClock) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield MESSAGE

    steps = (MAIL, OK, RCPT, OK, RCPT, b"552 too many\r\n", "DATA", GO_AHEAD, READ_BODY, OK)
    async with scripted(*hello("LIMITS RCPTMAX=1"), *steps) as script, script.client() as client:
        result = await client.send(ME, ["a@x.test", "b@x.test"], pieces())
    assert [type(each) for each in result.outcomes] == [Accepted, Rejected]
    assert result.rejected[0].temporary  # RFC 5321 4.5.3.1.10


async def test_rcptmax_limits_each_transaction(autojump_clock: MockClock) -> None:
    names = [f"u{at}@x.test" for at in range(5)]
    two: tuple[Step, ...] = (MAIL, RCPT, RCPT, "DATA", OK * 3 + GO_AHEAD, READ_BODY, OK)
    one: tuple[Step, ...] = (*GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK)
    async with scripted(*hello("PIPELINING", "LIMITS RCPTMAX=2"), *two, *two, *one) as script:
        async with script.client() as client:
            result = await client.send(ME, names, MESSAGE)
    assert result.complete
    assert [line for line in script.lines if line.startswith("RCPT")] == [f"RCPT TO:<{name}>" for name in names]
    assert len(script.bodies) == 3


# --- lost connections -------------------------------------------------------------------------------------------------


async def test_connection_lost_before_mail(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), CLOSE) as script, script.client() as client:
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionLostError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.command.verb == "MAIL"
        assert isinstance(caught.value, trio.BrokenResourceError)
        assert not client.usable


async def test_connection_lost_before_data(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), MAIL, OK, RCPT, CLOSE) as script, script.client() as client:
        with pytest.raises(ConnectionLostError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.command.verb == "RCPT"
        assert client.last_result is not None
        assert client.last_result.outcomes == ()


class Pieces:
    """A long message whose iterator waits after the first piece until the server has closed the connection."""

    def __init__(self, closed: trio.Event, rest: bytes = b"more\r\n") -> None:
        self.closed = closed
        self.rest = rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"Subject: hi\r\n\r\n"
        await self.closed.wait()
        while True:
            yield self.rest


async def test_connection_lost_during_the_message(autojump_clock: MockClock) -> None:
    closed = trio.Event()

    async def set_closed(_: object) -> None:
        closed.set()

    steps = (MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, "Subject: hi", "", CLOSE, set_closed)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        with pytest.raises(ConnectionLostError):
            await client.send(ME, [YOU], Pieces(closed))
        assert client.last_result is not None
        assert client.last_result.unknown == ()


@pytest.mark.parametrize("chunking", [False, True])
async def test_connection_lost_after_the_message_is_unknown(autojump_clock: MockClock, chunking: bool) -> None:
    """RFC 1047."""
    if chunking:
        steps: tuple[Step, ...] = (
            MAIL,
            RCPT,
            RCPT,
            "BDAT .*",
            ReadOctets(len(MESSAGE)),
            OK + b"550 no\r\n" + OK,
            CLOSE,
        )
    else:
        steps = (MAIL, RCPT, RCPT, "DATA", OK + b"550 no\r\n" + OK + GO_AHEAD, READ_BODY, CLOSE)
    extensions = ["PIPELINING", "CHUNKING"] if chunking else ["PIPELINING"]
    async with scripted(*hello(*extensions), *steps) as script, script.client() as client:
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(ME, ["no@x.test", YOU], MESSAGE)
        assert isinstance(caught.value.__cause__, ConnectionLostError)
        result = caught.value.result
        assert [type(each) for each in result.outcomes] == [Rejected, Unknown]
        assert not result.unknown[0].temporary
        assert result.unknown[0].recipient == YOU
        assert client.last_result == result
        assert not client.usable


async def test_reply_before_the_end_of_the_message(autojump_clock: MockClock) -> None:
    closed = trio.Event()

    async def set_closed(_: object) -> None:
        closed.set()

    steps = (MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, "Subject: hi", "", b"552 5.3.4 too big\r\n", CLOSE, set_closed)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], Pieces(closed))
        assert (caught.value.command.verb, caught.value.reply.code) == ("end of data", 552)
        assert caught.value.result.rejected[0].permanent
        assert not client.usable


# --- 354 --------------------------------------------------------------------------------------------------------------


async def test_250_in_reply_to_data_is_a_protocol_error(autojump_clock: MockClock) -> None:
    """RFC 5321 3.3: only 354 asks for the message."""
    async with scripted(*hello(), MAIL, OK, RCPT, OK, "DATA", OK, EXPECT_CLOSE) as script, script.client() as client:
        with pytest.raises(RemoteProtocolError):
            await client.send(ME, [YOU], MESSAGE)
        assert not client.usable


async def test_no_reply_to_the_message_is_unknown(autojump_clock: MockClock) -> None:
    steps = (MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, READ_BODY, NO_REPLY)
    async with scripted(*hello(), *steps) as script, script.client(timeout=9) as client:
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert isinstance(caught.value.__cause__, TimedOutError)


# --- refused messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [550, 554, 451])
async def test_refused_message_is_not_sent_again(autojump_clock: MockClock, code: int) -> None:
    refusal = b"%d no\r\n" % code
    async with (
        scripted(*hello(), MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, READ_BODY, refusal) as script,
        script.client() as client,
    ):
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
    assert caught.value.command.verb == "end of data"
    assert caught.value.result.rejected[0].permanent is (code >= 500)
    assert len(script.bodies) == 1


async def test_data_refused(autojump_clock: MockClock) -> None:
    steps = (MAIL, OK, RCPT, OK, "DATA", b"554 no\r\n", "RSET", OK, *UNPIPELINED)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert caught.value.command.verb == "DATA"
        await client.send(ME, [YOU], MESSAGE)


async def test_connection_lost_between_two_transactions(autojump_clock: MockClock) -> None:
    """RFC 9422: the server accepts two recipients in a transaction, and closes after the first one."""
    names = [f"{name}@mx.test" for name in "abcd"]
    steps = ("MAIL.*", "RCPT.*", "RCPT.*", *chunk(len(MESSAGE)), OK * 4 + b"421 4.3.2 bye\r\n")
    async with scripted(*hello("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=2"), *steps) as script:
        async with script.client() as client:
            with pytest.raises(ConnectionLostError):
                await client.send(ME, names, MESSAGE)
            assert client.last_result is not None
            assert [type(outcome) for outcome in client.last_result.outcomes] == [Accepted, Accepted]


def test_result_without_outcomes_is_not_complete() -> None:
    assert not Result(ME, (YOU,), ()).complete
