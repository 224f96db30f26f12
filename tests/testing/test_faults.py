"""Fault scripts: what a server decides and how late it is, to the second; its state is what it said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

import smtp_trio.testing
from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    DeliveryUnknownError,
    MessageState,
    ReplyError,
    Server,
    TimedOutError,
    standard,
)
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import (
    Advertise,
    Answer,
    Close,
    Coalesce,
    Delay,
    Early,
    Extra,
    Faults,
    Garbage,
    Hang,
    Ignore,
    Omit,
    Replace,
    Reset,
    Rule,
    Sometimes,
    Throttle,
    Trickle,
    bounded_stream_pair,
    deterministic,
)

from .played import MANY, ME, SLOWLY, YOU, Guarded, Watched, played, said, segments, send

# --- data -------------------------------------------------------------------------------------------------------------

RULES: list[Rule | Sometimes] = [
    Answer("RCPT", 450, "later", nth=3),
    Answer(".", 451, status="4.3.0", times=0),
    Delay("DATA", 100),
    Close("body", after=4096),
    Reset(".", after=1, by="client"),
    Coalesce(),
    Coalesce(3, within=2),
    Trickle(),
    Trickle(2, 0.5, "EHLO", times=1),
    Throttle(300),
    Omit("STARTTLS"),
    Advertise("SIZE", 10),
    Hang("CONNECT"),
    Replace("RCPT", b"\xff\r\n"),
    Extra("MAIL", b"250 what\r\n", nth=2),
    Garbage("MAIL", 3),
    Early("DATA"),
    Ignore("RCPT", times=0),
    Sometimes(Answer("RCPT", 450, times=0), 0.25),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_rule_is_python(rule: Rule | Sometimes) -> None:
    """What prints can be pasted into a test."""
    names = vars(smtp_trio.testing)
    assert eval(repr(rule), dict(names)) == rule
    script = Faults(rule, Omit("X"), seed=3)
    assert eval(repr(script), dict(names)) == script
    assert hash(script) == hash(script.again())
    assert Faults(rule) != Faults(rule, seed=3)


def test_a_rule_is_short() -> None:
    assert repr(Answer("rcpt", 450, nth=3)) == "Answer('RCPT', 450, nth=3)"
    assert repr(Close("body", after=4096, by="client")) == "Close('body', by='client', after=4096)"
    assert repr(Faults()) == "Faults()"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Answer("RCPT", 250),
        lambda: Answer("RCPT", 354),
        lambda: Answer("NOOP", 450),
        lambda: Answer("*", 450),
        lambda: Answer("RCPT", 450, nth=0),
        lambda: Answer("RCPT", 450, times=-1),
        lambda: Delay("RCPT", -1),
        lambda: Trickle(0),
        lambda: Throttle(0),
        lambda: Close("body", after=-1),
        lambda: Sometimes(Omit("SIZE"), 1.5),
    ],
)
def test_invalid_rules_are_rejected(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must be|is not a refusal"):
        wrong()


# --- what a server decides -----------------------------------------------------------------------------------------------


async def test_the_third_recipient_once(autojump_clock: MockClock) -> None:
    inbox, _, result = await send(Answer("RCPT", 450, "later", nth=3))
    assert [each.recipient for each in result.rejected] == [MANY[2]]
    # The session knows what it said: that recipient has no mail from it.
    assert list(inbox[0].recipients) == MANY[:2] + MANY[3:]


async def test_a_refused_sender_opens_no_transaction(autojump_clock: MockClock) -> None:
    inbox, transcript, result = await send(Answer("MAIL", 451), *SLOWLY)
    assert isinstance(result, ReplyError)
    assert len(inbox) == 0
    assert b"RCPT" not in said(transcript, "C")


@pytest.mark.parametrize("chunking", [True, False])
async def test_an_answer_to_the_message_is_given_to_nobody(autojump_clock: MockClock, chunking: bool) -> None:
    """The message is read, refused, and not kept: whoever sends it again does not send it twice."""
    inbox, _, result = await send(Answer(".", 452), *(() if chunking else SLOWLY))
    assert isinstance(result, AllRecipientsRejectedError)
    assert result.reply.code == 452
    assert len(inbox) == 0
    assert inbox.states == [MessageState.NOT_TAKEN]


@pytest.mark.parametrize("at", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
async def test_421_ends_the_session(autojump_clock: MockClock, at: str) -> None:
    inbox, transcript, _ = await send(Answer(at, 421), *SLOWLY)
    assert len(inbox) == 0
    assert segments(transcript, "S")[-1].startswith(b"421")


async def test_auth_is_refused_twice(autojump_clock: MockClock) -> None:
    """… over three connections: what a script has done it has done to whoever comes."""
    faults, hooks = Faults(Answer("AUTH", 535, times=2)), Guarded()
    server = Server(hooks, name="mx.test", extensions=standard(Auth(cleartext=True)), **deterministic())
    codes: list[int] = []
    for _ in range(3):
        async with played(faults, server, auth=("fred", "secret"), tls="never", allow_cleartext=True) as client:
            try:
                async with client:
                    assert client.user == "fred"
            except ReplyError as exc:
                codes.append(exc.reply.code)
    assert codes == [535, 535]


async def test_a_server_of_ones_own_is_as_it_was(autojump_clock: MockClock) -> None:
    """Rules decide in the sessions that they were meant for, and in no others."""
    server = Server(Watched(), name="mx.test", **deterministic())
    rules = Faults(Answer("MAIL", 451, times=0))
    async with played(rules, server) as client, client:
        with pytest.raises(ReplyError):
            await client.mail(ME)
    for faults in (Faults(), Faults(Answer("NOOP", 421))):
        async with played(faults, server) as client, client:
            await client.mail(ME)


async def test_hooks_alone_are_enough(autojump_clock: MockClock) -> None:
    """A server with these hooks has all the faults, on its octets too."""
    faults = Faults(Omit("CHUNKING"), Answer("RCPT", 450), Advertise("SIZE", 7))
    near, far = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(faults.hooks(Watched()), name="mx.test").serve_stream, far)
        async with Client(near, name="client.test") as client:
            assert "CHUNKING" not in client.capabilities
            assert client.capabilities["SIZE"] == ("7",)
            await client.mail(ME)
            with pytest.raises(ReplyError, match="450"):
                await client.rcpt(YOU)


async def test_what_the_hooks_offer_is_offered() -> None:
    """A layer brings no AUTH, and takes none away."""
    assert not {"auth", "expn", "secret"} & set(Server(Faults().hooks(Watched()))._state.hooks)
    assert "auth" in Server(Faults().hooks(Guarded()))._state.hooks


async def test_anothers_server(autojump_clock: MockClock) -> None:
    """Where no hook of ours decides, the rules are played on the octets."""
    near, far = bounded_stream_pair()
    stream = Faults(Answer("RCPT", 450, "later"), Delay("MAIL", 60)).wrap(far, side="server")

    async def server() -> None:
        await stream.send_all(b"220 mx\r\n")
        while line := await stream.receive_some():
            await stream.send_all(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 ok\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        async with Client(near, name="client.test") as client:
            await client.mail(ME)
            assert trio.current_time() == 60
            with pytest.raises(ReplyError, match="450"):
                await client.rcpt(YOU)
            await client.rcpt(YOU)


# --- time ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "seconds"), [("CONNECT", 299), ("EHLO", 299), ("MAIL", 299), ("RCPT", 299), ("DATA", 119), (".", 599)]
)
async def test_delays(autojump_clock: MockClock, at: str, seconds: float) -> None:
    """Just within the client's patience: a hook may be cut off sooner, a fault is not."""
    inbox, _, result = await send(Delay(at, seconds), *SLOWLY)
    assert result.complete
    assert len(inbox) == 1
    assert trio.current_time() == seconds
    assert inbox.states == [MessageState.ACKNOWLEDGED]


@pytest.mark.parametrize(("at", "verb", "seconds"), [("MAIL", "MAIL", 300), ("DATA", "DATA", 120)])
async def test_a_delay_that_is_too_long(autojump_clock: MockClock, at: str, verb: str, seconds: float) -> None:
    inbox, _, result = await send(Delay(at, seconds + 1), *SLOWLY)
    assert isinstance(result, TimedOutError)
    assert result.command.verb == verb
    assert len(inbox) == 0


async def test_hanging_with_the_message(autojump_clock: MockClock) -> None:
    """RFC 1047: the server has it, and the client will never know."""
    inbox, _, result = await send(Hang("."), *SLOWLY)
    assert isinstance(result, DeliveryUnknownError)
    assert trio.current_time() == 600
    assert len(inbox) == 1
    assert inbox.states == [MessageState.UNACKNOWLEDGED]


async def test_a_client_that_hangs(autojump_clock: MockClock) -> None:
    """The server waits for three minutes, as RFC 5321 4.5.3.2.5 has it, and keeps nothing."""
    inbox, _, _ = await send(Hang("body", by="client"), *SLOWLY, timeout=0)
    assert trio.current_time() == 180
    assert len(inbox) == 0
    assert len(inbox.torn) == 1


async def test_pace(autojump_clock: MockClock) -> None:
    """A slow server reads slowly, too."""
    inbox, transcript, result = await send(Throttle(10), *SLOWLY)
    assert result.complete
    octets = len(said(transcript, "C")) + len(said(transcript, "S"))
    assert trio.current_time() == pytest.approx(octets / 10, abs=2)
    assert len(inbox) == 1


async def test_a_slow_client(autojump_clock: MockClock) -> None:
    inbox, transcript, result = await send(Throttle(10, by="client"), *SLOWLY)
    assert result.complete
    assert len(inbox) == 1
    assert max(map(len, segments(transcript, "C"))) == 10


async def test_trickle(autojump_clock: MockClock) -> None:
    """A reply an octet at a time."""
    _, transcript, result = await send(Trickle(at="EHLO"), Trickle(3, by="client", at="body"), *SLOWLY)
    assert result.complete
    assert [len(each) for each in segments(transcript, "S")].count(1) > 50
    assert max(len(each) for each in segments(transcript, "C") if b"hel" in each) <= 3


async def test_two_replies_in_one_segment(autojump_clock: MockClock) -> None:
    """A client that does not wait gets its replies by twos."""
    rules = (Coalesce(2), Omit("CHUNKING"), Omit("PIPELINING"), Early("*", times=0))
    _, transcript, _ = await send(*rules)
    assert segments(transcript, "S") == []  # it had left before anything was said
    near, far = bounded_stream_pair()
    stream = Faults(Coalesce(2, within=5)).wrap(far, side="server")
    await stream.send_all(b"220 mx\r\n")
    with trio.move_on_after(1):
        await stream.receive_some()
    await stream.send_all(b"421 bye\r\n")
    assert await near.receive_some() == b"220 mx\r\n421 bye\r\n"
    # … and one that nobody joins leaves when it has waited for long enough.
    await stream.send_all(b"250 a\r\n")
    with trio.move_on_after(6):
        await stream.receive_some()
    assert await near.receive_some() == b"250 a\r\n"
    await stream.send_all(b"250 b\r\n")
    await stream.aclose()
    assert await near.receive_some() == b"250 b\r\n"


async def test_a_server_that_serves_already(autojump_clock: MockClock) -> None:
    """Rules that decide do so in the sessions to come, though one without them is open."""

    class Plain(smtp_trio.Hooks):
        async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> None:
            await body.read()

    server = Server(Plain(), name="mx.test")
    async with trio.open_nursery() as nursery:
        async with await smtp_trio.testing.memory_pair(nursery, server) as first:
            await first.send("me@client.test", ["you@mx.test"], b"Subject: hi\r\n\r\n")
            faults = Faults(Answer("MAIL", 450, "later"))
            async with await smtp_trio.testing.memory_pair(nursery, server, faults=faults) as second:
                with pytest.raises(ReplyError, match="450"):
                    await second.send("me@client.test", ["you@mx.test"], b"Subject: hi\r\n\r\n")
            await first.send("me@client.test", ["you@mx.test"], b"Subject: hi\r\n\r\n")
