"""Tests of Inbox: waiting for messages, and its error messages."""

from __future__ import annotations

import re
import traceback
from contextlib import suppress

import pytest
import trio

from smtp_trio import AllRecipientsRejectedError, Peer, Reply, Server, Session
from smtp_trio.protocol import Rcpt
from smtp_trio.testing import Inbox, deterministic, memory_pair


def message(subject: str) -> bytes:
    return f"From: me@client.test\r\nSubject: {subject}\r\n\r\nhello\r\n".encode()


async def send(inbox: Inbox, subject: str = "hi", to: str = "you@mx.test", *, after: float = 0) -> None:
    await trio.sleep(after)
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, inbox, peer=Peer("192.0.2.1", 50000, "tcp")) as client:
            with suppress(AllRecipientsRejectedError):
                await client.send("me@client.test", [to], message(subject))


async def test_wait_for_returns_a_message(autojump_clock: object) -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: send(inbox, after=120))
        [mail] = await inbox.wait_for(to="you@mx.test")
        assert trio.current_time() == 120
    assert (mail.sender, mail.recipients, mail.subject) == ("me@client.test", ("you@mx.test",), "hi")
    assert mail.message.get_content() == "hello\n"
    assert mail.message is mail.message
    assert mail.raw == message("hi")
    assert (mail.time, mail.peer.host, mail.tls, mail.user) == (120, "192.0.2.1", None, None)
    assert str(mail.transcript).startswith("S: 220 mx.test ESMTP\nC: EHLO client.test\n")
    assert "hello" not in repr(mail)


async def test_wait_for_returns_the_oldest_messages(autojump_clock: object) -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        for after in (30, 10, 20, 40):
            nursery.start_soon(lambda after=after: send(inbox, f"{after}", after=after))  # type: ignore[misc]
        mails = await inbox.wait_for(3)
        assert trio.current_time() == 30
    assert [mail.subject for mail in mails] == ["10", "20", "30"]
    assert [mail.subject for mail in inbox] == ["10", "20", "30", "40"]
    assert (len(inbox), inbox[-1].subject, [mail.subject for mail in inbox[:2]]) == (4, "40", ["10", "20"])
    assert await inbox.wait_for(2) == mails[:2]
    assert await inbox.wait_for(0) == []


async def test_wait_for_is_a_checkpoint(autojump_clock: object) -> None:
    """It is one even if the message is there, so a loop around it can be cancelled."""
    inbox = Inbox()
    await send(inbox)
    with trio.move_on_after(1) as scope:
        while True:
            await inbox.wait_for()
            await trio.sleep(0.1)
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await inbox.wait_for()
    assert scope.cancelled_caught


async def test_criteria_select_messages(autojump_clock: object) -> None:
    inbox = Inbox()
    for subject, to in (("one", "a@mx.test"), ("two", "b@mx.test"), ("=?utf-8?q?drei=C3=9Fig?=", "c@MX.test")):
        await send(inbox, subject, to)

    def subjects(**wanted: object) -> list[str]:
        return [mail.subject for mail in inbox.matching(**wanted)]  # type: ignore[arg-type]

    assert subjects() == subjects(sender="me@client.test") == ["one", "two", "dreißig"]
    assert subjects(to="b@MX.TEST") == ["two"]
    assert subjects(to="B@mx.test") == subjects(subject="on") == subjects(sender="") == []
    assert subjects(subject=re.compile("^(one|dreißig)$")) == ["one", "dreißig"]
    assert subjects(to=re.compile("^[ab]@")) == ["one", "two"]
    assert subjects(match=lambda mail: mail.recipients == ("c@MX.test",)) == ["dreißig"]
    assert subjects(subject="one", to="b@mx.test") == []
    assert await inbox.wait_for(subject="two", to="b@mx.test") == [inbox[1]]
    inbox.clear()
    assert (len(inbox), inbox.transcripts) == (0, [])


async def test_timeout_names_the_expected_message(autojump_clock: object) -> None:
    inbox = Inbox()
    await send(inbox, "hi")
    with pytest.raises(trio.TooSlowError) as info:
        with trio.fail_after(300):
            await inbox.wait_for(2, to="you@mx.test", subject=re.compile("^h"))
    text = "".join(traceback.format_exception(info.value))
    assert "waited for 2 messages with to='you@mx.test', subject='^h'; received 1 message\n" in text
    assert "\n  1. 'hi' from <me@client.test> to <you@mx.test>, 44 octets, at 0 s\n" in text
    assert "\n--- session 1 of 1\nS: 220 mx.test ESMTP\n" in text
    assert trio.current_time() == 300


async def test_timeout_names_the_expected_message_through_a_nursery(autojump_clock: object) -> None:
    with pytest.raises(trio.TooSlowError) as info:
        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Inbox().wait_for)
                nursery.start_soon(trio.sleep_forever)
    text = "".join(traceback.format_exception(info.value))
    assert "waited for 1 message; received nothing\n" in text
    assert "no client has connected\n" in text


async def test_wait_for_can_be_cancelled_without_an_error(autojump_clock: object) -> None:
    with trio.move_on_after(60) as scope:
        await Inbox().wait_for()
    assert scope.cancelled_caught


async def test_cancellation_adds_the_note(autojump_clock: object) -> None:
    notes: list[str] = []

    async def wait() -> None:
        try:
            await Inbox().wait_for()
        except trio.Cancelled as cancelled:
            notes.extend(cancelled.__notes__)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert notes == ["waited for 1 message; received nothing\nno client has connected"]


async def test_failed_assertion_shows_the_session(autojump_clock: object) -> None:
    class Strict(Inbox):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            return Reply(550, "No such user here", "5.1.1") if rcpt.recipient.local == "nobody" else None

    inbox = Strict()
    inbox.assert_empty()
    await send(inbox, to="nobody@mx.test")
    with pytest.raises(AssertionError) as info:
        inbox.assert_delivered(to="nobody@mx.test")
    assert str(info.value).startswith("expected 1 message with to='nobody@mx.test', got 0; received nothing\n")
    assert "C: RCPT TO:<nobody@mx.test>\n" in str(info.value)
    assert "S: 550 5.1.1 No such user here\n" in str(info.value)

    await send(inbox)
    assert inbox.assert_delivered() == inbox.assert_delivered(1, subject="hi") == list(inbox)
    assert inbox.assert_delivered(0, to="nobody@mx.test") == []
    with pytest.raises(AssertionError, match="expected no message; received 1 message"):
        inbox.assert_empty()


async def test_failed_assertion_shows_the_last_lines_of_a_long_session(autojump_clock: object) -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, inbox) as client:
            for _ in range(100):
                await client.noop()
            with pytest.raises(AssertionError) as info:
                inbox.assert_delivered()
            inbox.clear()
            assert len(inbox.transcripts) == 1, "the session has not ended"
    lines = str(info.value).splitlines()
    assert lines[1:3] == ["--- session 1 of 1 (last lines)", "C: NOOP"]
    assert len(lines) == 62


async def test_data_hook_of_an_inbox_in_another_server(autojump_clock: object) -> None:
    inbox = Inbox()
    server = Server(name="mx.test", **deterministic())
    server.on(data=inbox.data)
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, server) as client:
            await client.send("", ["you@mx.test"], message("hi"))
    assert inbox[0].transcript is None
    assert (inbox[0].sender, repr(inbox)) == ("", "<Inbox with 1 message>")
