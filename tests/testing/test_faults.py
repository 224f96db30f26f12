"""Tests of fault scripts: rules as values, refusals, delays and segments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

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
    SMTPError,
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

from .fault_helpers import MANY, ME, MESSAGE, ONE_BY_ONE, YOU, FredOnly, RecordingInbox, connected, segments, send, sent

# --- values -------------------------------------------------------------------------------------------------------------

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
def test_repr_of_a_rule_is_python(rule: Rule | Sometimes) -> None:
    """The repr can be pasted into a test."""
    names = vars(smtp_trio.testing)
    assert eval(repr(rule), dict(names)) == rule
    script = Faults(rule, Omit("X"), seed=3)
    assert eval(repr(script), dict(names)) == script
    assert hash(script) == hash(script.again())
    assert Faults(rule) != Faults(rule, seed=3)


def test_repr_omits_default_values() -> None:
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
    with pytest.raises(ValueError, match=r"must be|cannot refuse"):
        wrong()


# --- refusals -----------------------------------------------------------------------------------------------


async def test_third_recipient_is_refused_once(autojump_clock: MockClock) -> None:
    inbox, _, result = await send(Answer("RCPT", 450, "later", nth=3))
    assert [each.recipient for each in result.rejected] == [MANY[2]]
    # The state of the session agrees: that recipient is not in the envelope.
    assert list(inbox[0].recipients) == MANY[:2] + MANY[3:]


async def test_refused_mail_begins_no_transaction(autojump_clock: MockClock) -> None:
    inbox, transcript, result = await send(Answer("MAIL", 451), *ONE_BY_ONE)
    assert isinstance(result, ReplyError)
    assert len(inbox) == 0
    assert b"RCPT" not in sent(transcript, "C")


@pytest.mark.parametrize("chunking", [True, False])
async def test_refused_message_is_discarded(autojump_clock: MockClock, chunking: bool) -> None:
    """The message is read and refused, but not stored, so a second attempt does not duplicate it."""
    inbox, _, result = await send(Answer(".", 452), *(() if chunking else ONE_BY_ONE))
    assert isinstance(result, AllRecipientsRejectedError)
    assert result.reply.code == 452
    assert len(inbox) == 0
    assert inbox.states == [MessageState.NOT_TAKEN]


@pytest.mark.parametrize("at", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
async def test_421_ends_the_session(autojump_clock: MockClock, at: str) -> None:
    inbox, transcript, _ = await send(Answer(at, 421), *ONE_BY_ONE)
    assert len(inbox) == 0
    assert segments(transcript, "S")[-1].startswith(b"421")


async def test_times_counts_over_all_connections(autojump_clock: MockClock) -> None:
    """AUTH is refused twice over three connections: a script counts over all sessions."""
    faults, hooks = Faults(Answer("AUTH", 535, times=2)), FredOnly()
    server = Server(hooks, name="mx.test", extensions=standard(Auth(cleartext=True)), **deterministic())
    codes: list[int] = []
    for _ in range(3):
        async with connected(faults, server, auth=("fred", "secret"), tls="never", allow_cleartext=True) as client:
            try:
                async with client:
                    assert client.user == "fred"
            except ReplyError as exc:
                codes.append(exc.reply.code)
    assert codes == [535, 535]


async def test_installed_rules_act_only_on_wrapped_streams(autojump_clock: MockClock) -> None:
    """Other sessions of the server are not affected."""
    server = Server(RecordingInbox(), name="mx.test", **deterministic())
    rules = Faults(Answer("MAIL", 451, times=0))
    async with connected(rules, server) as client, client:
        with pytest.raises(ReplyError):
            await client.mail(ME)
    for faults in (Faults(), Faults(Answer("NOOP", 421))):
        async with connected(faults, server) as client, client:
            await client.mail(ME)


async def test_hooks_also_wrap_the_stream(autojump_clock: MockClock) -> None:
    """A server with these hooks has all faults, including those of its octets."""
    faults = Faults(Omit("CHUNKING"), Answer("RCPT", 450), Advertise("SIZE", 7))
    near, far = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(faults.hooks(RecordingInbox()), name="mx.test").serve_stream, far)
        async with Client(near, name="client.test") as client:
            assert "CHUNKING" not in client.capabilities
            assert client.capabilities["SIZE"] == ("7",)
            await client.mail(ME)
            with pytest.raises(ReplyError, match="450"):
                await client.rcpt(YOU)


async def test_offered_extensions_do_not_change() -> None:
    """A layer neither adds nor removes AUTH or EXPN."""
    for hooks, offered in ((RecordingInbox(), set[str]()), (FredOnly(), {"AUTH"})):
        faults = Faults()
        server = Server(faults.hooks(hooks), extensions=standard(Auth(cleartext=True)))
        async with connected(faults, server, tls="never") as client, client:
            assert {"AUTH", "EXPN"} & client.capabilities.keys() == offered


async def test_server_of_another_package(autojump_clock: MockClock) -> None:
    """Without hooks, rules that refuse act on the octets."""
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
async def test_delay(autojump_clock: MockClock, at: str, seconds: float) -> None:
    """A delay just below the client's timeout exceeds the server's hook timeout, which does not apply."""
    inbox, _, result = await send(Delay(at, seconds), *ONE_BY_ONE)
    assert result.complete
    assert len(inbox) == 1
    assert trio.current_time() == seconds
    assert inbox.states == [MessageState.ACKNOWLEDGED]


@pytest.mark.parametrize(("at", "verb", "seconds"), [("MAIL", "MAIL", 300), ("DATA", "DATA", 120)])
async def test_delay_beyond_the_clients_timeout(autojump_clock: MockClock, at: str, verb: str, seconds: float) -> None:
    inbox, _, result = await send(Delay(at, seconds + 1), *ONE_BY_ONE)
    assert isinstance(result, TimedOutError)
    assert result.command.verb == verb
    assert len(inbox) == 0


async def test_hang_after_the_message(autojump_clock: MockClock) -> None:
    """RFC 1047: the server has the message, and the client cannot know that."""
    inbox, _, result = await send(Hang("."), *ONE_BY_ONE)
    assert isinstance(result, DeliveryUnknownError)
    assert trio.current_time() == 600
    assert len(inbox) == 1
    assert inbox.states == [MessageState.UNACKNOWLEDGED]


async def test_client_hangs(autojump_clock: MockClock) -> None:
    """The server waits for three minutes (RFC 5321 4.5.3.2.5) and stores nothing."""
    inbox, _, _ = await send(Hang("body", by="client"), *ONE_BY_ONE, timeout=0)
    assert trio.current_time() == 180
    assert len(inbox) == 0
    assert len(inbox.body_errors) == 1


async def test_throttle(autojump_clock: MockClock) -> None:
    """A slow server also receives slowly."""
    inbox, transcript, result = await send(Throttle(10), *ONE_BY_ONE)
    assert result.complete
    octets = len(sent(transcript, "C")) + len(sent(transcript, "S"))
    assert trio.current_time() == pytest.approx(octets / 10, abs=2)
    assert len(inbox) == 1


async def test_slow_client(autojump_clock: MockClock) -> None:
    inbox, transcript, result = await send(Throttle(10, by="client"), *ONE_BY_ONE)
    assert result.complete
    assert len(inbox) == 1
    assert max(map(len, segments(transcript, "C"))) == 10


async def test_trickle(autojump_clock: MockClock) -> None:
    """A reply is sent octet by octet."""
    _, transcript, result = await send(Trickle(at="EHLO"), Trickle(3, by="client", at="body"), *ONE_BY_ONE)
    assert result.complete
    assert [len(each) for each in segments(transcript, "S")].count(1) > 50
    assert max(len(each) for each in segments(transcript, "C") if b"hel" in each) <= 3


async def test_coalesce_sends_two_replies_in_one_segment(autojump_clock: MockClock) -> None:
    """A client that does not wait gets its replies in pairs."""
    rules = (Coalesce(2), Omit("CHUNKING"), Omit("PIPELINING"), Early("*", times=0))
    _, transcript, _ = await send(*rules)
    assert segments(transcript, "S") == []  # the client closed the connection before
    near, far = bounded_stream_pair()
    stream = Faults(Coalesce(2, within=5)).wrap(far, side="server")
    await stream.send_all(b"220 mx\r\n")
    with trio.move_on_after(1):
        await stream.receive_some()
    await stream.send_all(b"421 bye\r\n")
    assert await near.receive_some() == b"220 mx\r\n421 bye\r\n"
    # A single reply is sent after the time limit.
    await stream.send_all(b"250 a\r\n")
    with trio.move_on_after(6):
        await stream.receive_some()
    assert await near.receive_some() == b"250 a\r\n"
    await stream.send_all(b"250 b\r\n")
    await stream.aclose()
    assert await near.receive_some() == b"250 b\r\n"


async def test_install_in_a_server_with_open_sessions(autojump_clock: MockClock) -> None:
    """Rules act in later sessions, although one without them is open."""

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


async def test_unused_rules(autojump_clock: MockClock) -> None:
    data, commands, dot = Answer("DATA", 451), Answer("RCPT", 450), Close(".", 1000)
    sometimes, omit = Sometimes(Close("RSET"), 0.5), Omit("NOTHING")
    faults = Faults(data, commands, dot, sometimes, omit)
    assert list(faults.unused) == [data, commands, dot, omit]
    async with connected(faults, RecordingInbox()) as client, client:
        await client.send(ME, MANY, MESSAGE)
    assert list(faults.unused) == [data, dot, omit]  # BDAT was sent; the reply is shorter; there is no such extension
    assert list(faults.again().unused) == [data, commands, dot, omit]


@pytest.mark.parametrize(
    "rule",
    [
        Answer("MAIL", 451),
        Delay("RCPT", 1),
        Hang("MAIL"),
        Trickle(1),
        Throttle(100),
        Coalesce(2),
        Close("body", 5),
        Reset(".", 1, by="client"),
        Replace("RCPT", b"250 x\r\n"),
        Extra("MAIL", b"250 x\r\n"),
        Garbage("MAIL"),
        Omit("CHUNKING"),
        Advertise("SIZE", 10),
        Early("MAIL"),
    ],
    ids=repr,
)
async def test_rule_that_acts_is_used(autojump_clock: MockClock, rule: Rule) -> None:
    for faults in (Faults(rule), Faults(rule, Ignore("MAIL"))):
        async with connected(faults, RecordingInbox()) as client:
            with suppress(SMTPError):
                async with client:
                    await client.send(ME, MANY, MESSAGE)
        assert rule not in faults.unused
