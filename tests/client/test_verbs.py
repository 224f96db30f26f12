"""The methods for single verbs, use by one task at a time, and results after a cancellation."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Awaitable, Callable
from typing import Any

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
    ehlo_reply,
    hello,
    scripted,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import (
    Client,
    ConnectionLostError,
    LocalProtocolError,
    NotOfferedError,
    ReplyError,
    TimedOutError,
    Unknown,
)

ENVELOPE: tuple[Step, ...] = ("MAIL .*", OK, "RCPT .*", OK)


async def test_each_verb(autojump_clock: MockClock) -> None:
    steps: tuple[Step, ...] = (
        *("NOOP", OK, "VRFY you", b"252 maybe\r\n", "EXPN list", b"250-a\r\n250 b\r\n"),
        *("HELP", b"214 what\r\n", "HELP MAIL", b"214 that\r\n", "EHLO other.test", ehlo_reply("SIZE 10")),
        *("MAIL FROM:<me@client.test> SIZE=5", OK, "RCPT TO:<you@mx.test>", b"251 on\r\n", "RSET", OK),
        *("MAIL FROM:<>", OK, "RCPT TO:<you@mx.test>", OK, "DATA", GO_AHEAD, READ_BODY, b"250 taken\r\n"),
        *("HELO other.test", OK, "QUIT", b"221 bye\r\n"),
    )
    async with scripted(*hello("SIZE"), *steps, EXPECT_CLOSE) as script, script.client() as client:
        assert (await client.noop()).code == 250
        assert (await client.vrfy("you")).code == 252
        assert (await client.expn("list")).text == "a\nb"
        assert [(await client.help()).text, (await client.help("MAIL")).text] == ["what", "that"]
        await client.ehlo("other.test")
        assert client.capabilities == {"SIZE": ("10",)}
        await client.mail(ME, size=5)
        assert (await client.rcpt(YOU)).code == 251
        await client.rset()
        await client.mail("")
        await client.rcpt(YOU)
        assert (await client.data(b".dot\n")).text == "taken"
        await client.helo("other.test")
        assert client.capabilities == {}
        await client.quit()
    assert script.bodies == [b"..dot\r\n"]


async def test_header_of_data_is_utf8_only_if_mail_said_so(autojump_clock: MockClock) -> None:
    utf8 = "Subject: \u00e9\r\n\r\nx\r\n".encode()
    parsed = email.message_from_bytes(utf8, policy=email.policy.default)
    data = ("RCPT .*", OK, "DATA", GO_AHEAD, READ_BODY, OK)
    steps = ("MAIL FROM:<[^ ]*>", OK, *data, "MAIL FROM:<[^ ]*> SMTPUTF8", OK, *data)
    async with scripted(*hello("8BITMIME", "SMTPUTF8"), *steps) as script, script.client() as client:
        await client.mail(ME)
        await client.rcpt(YOU)
        with pytest.raises(LocalProtocolError, match="without it"):
            await client.data(utf8)
        await client.data(parsed)
        await client.mail(ME, smtputf8=True)
        await client.rcpt(YOU)
        await client.data(utf8)
    assert script.bodies == [b"Subject: =?utf-8?b?w6k=?=\r\n\r\nx\r\n", utf8]


async def test_bdat_sends_octets_unchanged(autojump_clock: MockClock) -> None:
    steps = (*ENVELOPE, "BDAT 3", ReadOctets(3), OK, "BDAT 0 LAST", b"250 taken\r\n")
    async with scripted(*hello("CHUNKING"), *steps) as script, script.client() as client:
        await client.mail(ME)
        await client.rcpt(YOU)
        await client.bdat(b"a\nb")
        assert (await client.bdat(b"", last=True)).text == "taken"
    assert script.bodies == [b"a\nb"]


async def test_bdat_with_nul_needs_binarymime(autojump_clock: MockClock) -> None:
    envelope = ("MAIL .*", OK, "RCPT .*", OK)
    steps = (*envelope, "RSET", OK, *envelope, "BDAT 3 LAST", ReadOctets(3), OK, *envelope)
    async with scripted(*hello("CHUNKING", "8BITMIME", "BINARYMIME"), *steps) as script, script.client() as client:
        for body in ("8BITMIME", "BINARYMIME", "7BIT"):
            await client.mail(ME, body=body)
            await client.rcpt(YOU)
            if body == "BINARYMIME":
                await client.bdat(b"a\0.", last=True)
                continue
            with pytest.raises(LocalProtocolError, match="NUL"):
                await client.bdat(b"a\0.", last=True)
            if body == "8BITMIME":
                await client.rset()
    assert script.bodies == [b"a\0."]


@pytest.mark.parametrize("code", [450, 550])
async def test_each_verb_raises_reply_error(autojump_clock: MockClock, code: int) -> None:
    refusal = b"%d refusal\r\n" % code
    verbs: tuple[Step, ...] = (
        "NOOP",
        refusal,
        "VRFY .*",
        refusal,
        "EXPN .*",
        refusal,
        "HELP",
        refusal,
        "RSET",
        refusal,
        "EHLO .*",
        refusal,
        "HELO .*",
        refusal,
    )
    message: tuple[Step, ...] = ("MAIL .*", refusal, "MAIL .*", OK, "RCPT .*", refusal, "RCPT .*", OK, "DATA", refusal)
    async with scripted(*hello(), *verbs, *message) as script, script.client() as client:
        calls: list[Callable[[], Awaitable[Any]]] = [
            client.noop,
            lambda: client.vrfy("a"),
            lambda: client.expn("a"),
            client.help,
            client.rset,
            client.ehlo,
            client.helo,
        ]
        calls.append(lambda: client.mail(ME))
        for call in calls:
            with pytest.raises(ReplyError) as caught:
                await call()
            assert caught.value.reply.temporary is (code < 500)
        await client.mail(ME)
        with pytest.raises(ReplyError):
            await client.rcpt(YOU)
        await client.rcpt(YOU)
        with pytest.raises(ReplyError):
            await client.data(MESSAGE)
        assert client.usable


async def test_data_raises_if_the_message_is_refused(autojump_clock: MockClock) -> None:
    async with (
        scripted(*hello(), *ENVELOPE, "DATA", GO_AHEAD, READ_BODY, b"554 refusal\r\n") as script,
        script.client() as client,
    ):
        await client.mail(ME)
        await client.rcpt(YOU)
        with pytest.raises(ReplyError) as caught:
            await client.data(MESSAGE)
        assert caught.value.command.verb == "end of data"
        assert client.usable


async def test_command_out_of_order_is_not_sent(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "NOOP", OK) as script, script.client() as client:
        with pytest.raises(LocalProtocolError):
            await client.rcpt(YOU)
        with pytest.raises(LocalProtocolError):
            await client.data(MESSAGE)
        with pytest.raises(NotOfferedError):
            await client.bdat(MESSAGE)
        await client.noop()


async def test_connection_lost_during_a_command(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "NOOP", CLOSE) as script, script.client() as client:
        with pytest.raises(ConnectionLostError) as caught:
            await client.noop()
        assert caught.value.command.verb == "NOOP"
        with pytest.raises(trio.ClosedResourceError):
            await client.noop()


async def test_send_ends_a_transaction_begun_by_mail(autojump_clock: MockClock) -> None:
    """RSET ends the open transaction first."""
    async with scripted(*hello(), "MAIL .*", OK, "RSET", OK, *UNPIPELINED) as script, script.client() as client:
        await client.mail("other@client.test")
        assert (await client.send(ME, [YOU], MESSAGE)).complete


# --- one task at a time -----------------------------------------------------------------------------------------------


async def test_second_task_gets_busy_resource_error(autojump_clock: MockClock) -> None:
    go = trio.Event()

    async def wait(_: object) -> None:
        await go.wait()

    async with scripted(*hello(), "MAIL .*", wait, *UNPIPELINED[1:]) as script, script.client() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, ME, [YOU], MESSAGE)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await client.send(ME, ["other@mx.test"], MESSAGE)
            with pytest.raises(trio.BusyResourceError):
                await client.noop()
            with pytest.raises(trio.BusyResourceError):
                await client.send_many([(ME, [YOU], MESSAGE)])
            go.set()
        assert client.last_result is not None
        assert client.last_result.complete
    assert script.bodies == [MESSAGE]


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "unknown"),
    [
        (("MAIL .*",), False),
        (("MAIL .*", OK, "RCPT .*"), False),
        ((*ENVELOPE, "DATA"), False),
        ((*ENVELOPE, "DATA", GO_AHEAD, READ_BODY), True),
    ],
)
async def test_last_result_after_cancellation(
    autojump_clock: MockClock, steps: tuple[Step, ...], unknown: bool
) -> None:
    async with scripted(*hello(), *steps, EXPECT_CLOSE) as script, script.client() as client:
        with trio.move_on_after(1) as scope:
            await client.send(ME, [YOU], MESSAGE)
        assert scope.cancelled_caught
        assert client.last_result is not None
        assert [type(each) for each in client.last_result.outcomes] == [Unknown] * unknown
        assert not client.usable
        with pytest.raises(trio.ClosedResourceError):
            await client.noop()


async def test_last_results_after_cancelled_send_many(autojump_clock: MockClock) -> None:
    one: tuple[Step, ...] = ("MAIL .*", "RCPT .*", f"BDAT {len(MESSAGE)} LAST", ReadOctets(len(MESSAGE)))
    async with scripted(*hello("PIPELINING", "CHUNKING"), *one, OK * 3, *one, "RSET", *one, NO_REPLY) as script:
        client: Client = script.client()
        async with client:
            with trio.move_on_after(1):
                await client.send_many([(ME, [YOU], MESSAGE)] * 5)
            assert [[type(each).__name__ for each in result.outcomes] for result in client.last_results] == [
                ["Accepted"],
                ["Unknown"],
                ["Unknown"],
            ]


# --- errors of each verb ----------------------------------------------------------------------------------------------

VERBS = ["ehlo", "helo", "mail", "noop", "rset", "vrfy", "help"]


async def call_verb(client: Client, verb: str) -> None:
    await getattr(client, verb)(*{"mail": [ME], "vrfy": [YOU]}.get(verb, []))


@pytest.mark.parametrize("verb", VERBS)
async def test_each_verb_raises_if_the_connection_is_lost(autojump_clock: MockClock, verb: str) -> None:
    async with scripted(*hello(), f"{verb.upper()}.*", CLOSE) as script, script.client() as client:
        with pytest.raises(ConnectionLostError):
            await call_verb(client, verb)
        assert not client.usable


@pytest.mark.parametrize("verb", VERBS)
async def test_each_verb_times_out(autojump_clock: MockClock, verb: str) -> None:
    async with scripted(*hello(), f"{verb.upper()}.*", b"25", NO_REPLY) as script, script.client() as client:
        with pytest.raises(TimedOutError):
            await call_verb(client, verb)
        assert not client.usable
