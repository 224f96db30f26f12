"""Tests of fault scripts on octets: lost connections, replaced text, ignored replies and chance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from helpers import NAME, client_tls, server_tls
from trio.testing import MockClock

from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    ConnectionLostError,
    DeliveryUnknownError,
    MessageState,
    RemoteProtocolError,
    ReplyError,
    Server,
    Session,
    SMTPError,
)
from smtp_trio.testing import (
    Advertise,
    Answer,
    Close,
    Delay,
    Early,
    Extra,
    Faults,
    Garbage,
    Ignore,
    Omit,
    Replace,
    Reset,
    Rule,
    Sometimes,
    Throttle,
    Transcript,
    Trickle,
    bounded_stream_pair,
    deterministic,
    open_memory_server,
)
from smtp_trio.testing._faults.faulty_stream import FaultyStream

from .fault_helpers import MANY, ME, MESSAGE, ONE_BY_ONE, YOU, RecordingInbox, connected, send, sent

# --- the connection -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 20, len(MESSAGE)])
@pytest.mark.parametrize("rule", [Close, Reset])
async def test_client_closes_within_the_body(autojump_clock: MockClock, rule: type[Close], after: int) -> None:
    inbox, transcript, result = await send(rule("body", after=after, by="client"), *ONE_BY_ONE)
    assert isinstance(result, ConnectionLostError)
    assert sent(transcript, "C").partition(b"DATA\r\n")[2] == MESSAGE[:after]
    assert len(inbox) == 0
    assert len(inbox.body_errors) == 1
    assert inbox.states == [MessageState.NOT_TAKEN]


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_client_resets_within_the_final_dot(autojump_clock: MockClock, after: int) -> None:
    """Between the dot and its CRLF the message has not ended."""
    inbox, transcript, _ = await send(Reset(".", after=after, by="client"), *ONE_BY_ONE)
    assert sent(transcript, "C").endswith(MESSAGE + b".\r\n"[:after])
    assert (len(inbox), len(inbox.body_errors)) == (0, 1)


async def test_client_closes_after_the_final_dot(autojump_clock: MockClock) -> None:
    inbox, _, _ = await send(Close(".", after=3, by="client"), *ONE_BY_ONE)
    assert (len(inbox), len(inbox.body_errors)) == (1, 0)


async def test_close_within_a_chunk(autojump_clock: MockClock) -> None:
    inbox, transcript, _ = await send(Close("body", after=30, by="client"))
    assert sent(transcript, "C").endswith(b"LAST\r\n" + MESSAGE[:30])
    assert (len(inbox), len(inbox.body_errors)) == (0, 1)


@pytest.mark.parametrize("after", [0, 30])
async def test_server_closes_within_the_body(autojump_clock: MockClock, after: int) -> None:
    inbox, _, result = await send(Close("body", after=after), *ONE_BY_ONE)
    assert isinstance(result, SMTPError)
    assert (len(inbox), len(inbox.body_errors)) == (0, 1)


async def test_server_resets_before_its_last_reply(autojump_clock: MockClock) -> None:
    """RFC 1047: the message was accepted, and the reply is lost."""
    inbox, _, result = await send(Reset(".", after=5), *ONE_BY_ONE)
    assert isinstance(result, DeliveryUnknownError)
    assert len(inbox) == 1
    assert inbox.states == [MessageState.UNACKNOWLEDGED]


async def test_reset_raises_broken_resource_error() -> None:
    """In memory, and over a socket."""
    near, far = bounded_stream_pair()
    with pytest.raises(trio.BrokenResourceError, match="a fault"):
        await Faults(Reset("CONNECT", after=3)).wrap(far, side="server").send_all(b"220 mx\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await near.receive_some()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client_end = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        server_end = await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await Faults(Reset("CONNECT", after=3)).wrap(server_end, side="server").send_all(b"220 mx\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while await client_end.receive_some():
                pass
        await client_end.aclose()


# --- text ----------------------------------------------------------------------------------------------------------------


async def test_invalid_replies(autojump_clock: MockClock) -> None:
    for rule in (Replace("MAIL", b"354 go on\r\n"), Garbage("MAIL"), Replace("MAIL", b"250-half\r\n220 other\r\n")):
        _, _, result = await send(rule, *ONE_BY_ONE)
        assert isinstance(result, RemoteProtocolError), rule


async def test_unsolicited_reply(autojump_clock: MockClock) -> None:
    """An unsolicited reply is not taken for the reply to the next command."""
    inbox, _, result = await send(Extra("MAIL", b"250 what\r\n"), *ONE_BY_ONE)
    assert isinstance(result, ConnectionLostError | RemoteProtocolError)
    assert len(inbox) == 0


async def test_garbage_depends_on_the_seed() -> None:
    async def garbage(seed: int) -> bytes:
        near, far = bounded_stream_pair()
        await Faults(Garbage("CONNECT"), seed=seed).wrap(far, side="server").send_all(b"220 mx\r\n")
        return await near.receive_some()

    assert await garbage(1) == await garbage(1) != await garbage(2)
    assert (await garbage(1)).endswith(b"\r\n")


async def test_advertise_and_omit(autojump_clock: MockClock) -> None:
    async with (
        connected(Faults(Advertise("SIZE", 10), Advertise("X-NEW"), Omit("help")), RecordingInbox()) as client,
        client,
    ):
        assert client.capabilities["SIZE"] == ("10",)
        assert "X-NEW" in client.capabilities
        assert "HELP" not in client.capabilities
        with pytest.raises(ReplyError, match="the server accepts 10"):
            await client.send(ME, [YOU], MESSAGE)


@pytest.mark.parametrize("rule", [Omit("CHUNKING"), Advertise("SIZE", 10)], ids=repr)
@pytest.mark.parametrize("octets", [b"", b"hello\r\n", b"250-half\r\n", b"250 ok\r\n", b"550 no\r\n"])
@pytest.mark.parametrize("kind", [Replace, Extra])
async def test_replaced_and_additional_replies_are_not_changed_by_offers(
    kind: type[Replace | Extra], octets: bytes, rule: Rule
) -> None:
    """The order of the rules in the script does not matter."""
    reply = b"250-mx.test\r\n250-SIZE 99\r\n250 CHUNKING\r\n"
    changed = reply.replace(b"250-SIZE 99\r\n250 CHUNKING", b"250 SIZE 99")
    if isinstance(rule, Advertise):
        changed = b"250-mx.test\r\n250-CHUNKING\r\n250 SIZE 10\r\n"
    for rules in ([kind("EHLO", octets), rule], [rule, kind("EHLO", octets)]):
        near, far = bounded_stream_pair()
        server_end = Faults(*rules).wrap(far, side="server")
        await near.send_all(b"EHLO me\r\n")
        await server_end.receive_some()
        await server_end.send_all(b"220 mx.test\r\n")
        await server_end.send_all(reply)
        await server_end.aclose()
        assert b"".join([piece async for piece in near]) == b"220 mx.test\r\n" + (
            octets if kind is Replace else changed + octets
        )


# --- a client that ignores replies ---------------------------------------------------------------------------------------------


async def test_refusal_is_ignored(autojump_clock: MockClock) -> None:
    """The server does not accept a message after it has refused DATA."""
    inbox, transcript, _ = await send(Answer("DATA", 451), Ignore("DATA"), *ONE_BY_ONE)
    assert b"\r\n.\r\n" in sent(transcript, "C")
    assert len(inbox) == 0


async def test_ignore_does_nothing_to_positive_replies(autojump_clock: MockClock) -> None:
    inbox, _, result = await send(Ignore("*", times=0), *ONE_BY_ONE)
    assert result.complete
    assert len(inbox) == 1


async def test_early(autojump_clock: MockClock) -> None:
    """The body is sent before the 354, and EHLO before the greeting."""
    inbox, transcript, result = await send(Early("CONNECT"), Early("DATA"), Omit("CHUNKING"), Delay("DATA", 9))
    assert result.complete
    assert len(inbox) == 1
    octets = [(entry.side, entry.data) for entry in transcript.entries if entry.data]
    assert octets[0] == ("C", b"EHLO client.test\r\n")
    texts = [data for _, data in octets]
    start = next(at for at, data in enumerate(texts) if data.startswith(b"354"))
    assert any(data.endswith(b".\r\n") for data in texts[:start])


# --- chance -----------------------------------------------------------------------------------------------------------------------


async def test_chance_depends_on_the_seed(autojump_clock: MockClock) -> None:
    async def refused(seed: int) -> list[str]:
        faults = Faults(Sometimes(Answer("RCPT", 450, times=0)), seed=seed)
        async with connected(faults, RecordingInbox()) as client, client:
            try:
                return [each.recipient for each in (await client.send(ME, MANY, MESSAGE)).rejected]
            except AllRecipientsRejectedError:
                return MANY

    runs = [await refused(seed) for seed in range(6)]
    assert [await refused(seed) for seed in range(6)] == runs
    assert len({tuple(run) for run in runs}) > 2


async def test_chance_of_zero_and_one(autojump_clock: MockClock) -> None:
    for chance, count in ((0, 5), (1, 0)):
        inbox, _, _ = await send(Sometimes(Answer("RCPT", 450, times=0), chance))
        assert (len(inbox[0].recipients) if count else len(inbox)) == count


async def test_runs_are_repeatable(autojump_clock: MockClock) -> None:
    """The same script gives the same octets at the same times."""
    rules = (Sometimes(Answer("RCPT", 450, times=0)), Garbage("RSET"), Trickle(5, at="."), Throttle(700), Delay(".", 3))
    transcripts = set()
    for _ in range(20):
        began = trio.current_time()
        _, transcript, _ = await send(*rules)
        transcripts.add(tuple((e.side, e.data, round(e.time, 6)) for e in transcript.entries))
        assert trio.current_time() > began
    assert len(transcripts) == 1


# --- the stream --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["server", "client"])
async def test_stream_without_rules(side: Any) -> None:
    async def make() -> tuple[FaultyStream, FaultyStream]:
        near, far = bounded_stream_pair()
        faults = Faults()
        return faults.wrap(near, side=side), faults.wrap(far, side=side)

    await trio.testing.check_half_closeable_stream(make, None)


async def test_unfinished_lines_are_sent_at_the_end() -> None:
    near, far = bounded_stream_pair()
    stream = Faults(Delay("NOOP", 1, by="client")).wrap(near, side="client")
    await stream.send_all(b"NOOP\r\nhalf")
    assert await far.receive_some() == b"NOOP\r\n"
    await stream.send_eof()
    assert await far.receive_some() == b"half"
    await far.send_all(b"220 half a gree")
    await far.aclose()
    assert await stream.receive_some() == b"220 half a gree"
    assert await stream.receive_some() == b""
    await stream.aclose()


async def test_inside_tls(autojump_clock: MockClock) -> None:
    """Rules of a server act inside TLS, once; its hooks can use the attributes of the stream below."""

    class Secured(RecordingInbox):
        async def secured(self, session: Session) -> None:
            versions.append(session.stream.version())  # type: ignore[attr-defined]

    versions: list[str] = []
    faults = Faults(Answer("MAIL", 451), Trickle(4, at="EHLO"), Omit("CHUNKING"), Close("body", after=9))
    server = Server(faults.hooks(Secured()), name=NAME, tls=server_tls(), **deterministic())
    near, far = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        settings: dict[str, Any] = {"host": NAME, "ssl_context": client_tls(), "tls": "required"}
        client = Client(near, name="client.test", **settings)
        async with client:
            assert "CHUNKING" not in client.capabilities
            with pytest.raises(ReplyError, match="451"):
                await client.mail(ME)
            with pytest.raises(DeliveryUnknownError):
                await client.send(ME, [YOU], MESSAGE)
    assert versions == ["TLSv1.3"]


# --- the end of a message after BDAT LAST -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "swallowed"),
    [
        ([Early(".")], True),
        ([Early("*", nth=9)], True),
        ([Early(".", times=0), Delay(".", 30)], True),
        ([Early(".", nth=2)], False),
        ([Early("BDAT")], False),
        ([Early("BDAT", times=0), Early("MAIL"), Early("RCPT", nth=3)], False),
    ],
)
@pytest.mark.parametrize("one_by_one", [(), (Omit("PIPELINING"),)])
async def test_early_with_chunking(
    autojump_clock: MockClock, rules: list[Rule], swallowed: bool, one_by_one: tuple[Rule, ...]
) -> None:
    """The client gets one reply to the message: a fake one if the rule is for the end of the message."""
    inbox, transcript, result = await send(*rules, *one_by_one)
    assert b"BDAT" in sent(transcript, "C")
    assert result.complete
    assert (result.accepted[0].reply.text == "Ok") is swallowed
    assert len(inbox) == 1


async def test_early_with_several_chunks(autojump_clock: MockClock) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield b"Subject: hi\r\n" * 40_000

    inbox = RecordingInbox()
    transcript = Transcript()
    async with connected(Faults(Early("BDAT", times=0), Early(".")), inbox, transcript) as client, client:
        result = await client.send(ME, MANY, chunks())
        assert result.complete
        assert (await client.noop()).code == 250
    assert sent(transcript, "C").count(b"BDAT ") > 1
    assert len(inbox) == 1


@pytest.mark.parametrize("rule", [Close, Reset])
async def test_client_closes_before_the_last_octet(autojump_clock: MockClock, rule: type[Close]) -> None:
    inbox, transcript, result = await send(rule(".", by="client"))
    assert sent(transcript, "C").endswith(MESSAGE[:-1])
    assert isinstance(result, ConnectionLostError)
    assert len(inbox) == 0


@pytest.mark.parametrize("rule", [Close, Reset])
@pytest.mark.parametrize(("after", "rules"), [(1, ()), (3, ONE_BY_ONE)])
async def test_client_closes_after_the_last_octet(
    autojump_clock: MockClock, rule: type[Close], after: int, rules: tuple[Rule, ...]
) -> None:
    """All octets were sent, so the client does not know whether the message was accepted."""
    inbox, _, result = await send(rule(".", after=after, by="client"), *rules)
    assert isinstance(result, DeliveryUnknownError)
    assert len(result.result.unknown) == len(MANY)
    assert len(inbox) == 1


@pytest.mark.parametrize("rule", [Close, Reset])
async def test_write_of_all_octets_succeeds(autojump_clock: MockClock, rule: type[Close]) -> None:
    """As with a socket, only a write of which some octets were not sent fails; after it everything does."""
    for written, after, whole in ((b"NOOP\r\n", 6, True), (b"NOOP\r\n", 5, False), (b"NOOP\r\nRS", 6, False)):
        near, far = bounded_stream_pair()
        stream = Faults(rule("NOOP", after, by="client")).wrap(near, side="client")
        if whole:
            await stream.send_all(written)
        else:
            with pytest.raises(trio.BrokenResourceError, match="a fault"):
                await stream.send_all(written)
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="a fault"):
                await stream.send_all(b"QUIT\r\n")
            with pytest.raises(trio.BrokenResourceError, match="a fault"):
                await stream.receive_some()
        if rule is Close:
            assert await far.receive_some() == written[:after]


async def test_end_of_a_chunked_message_is_delayed(autojump_clock: MockClock) -> None:
    inbox, _, result = await send(Delay(".", 50, by="client"))
    assert result.complete
    assert inbox[0].time == pytest.approx(50)


@pytest.mark.parametrize("message", [b"", b"x"])
async def test_early_with_a_very_short_message(autojump_clock: MockClock, message: bytes) -> None:
    inbox = RecordingInbox()
    async with connected(Faults(Early(".")), inbox) as client, client:
        await client.mail(ME)
        await client.rcpt(MANY[0])
        assert (await client.data(message)).text == "Ok"
        assert (await client.noop()).code == 250
    assert len(inbox) == 1


@pytest.mark.parametrize("place", ["*", "STARTTLS", "EHLO"])
async def test_early_does_not_act_inside_tls(place: str) -> None:
    """Octets of TLS are no command, and no reply to them is made up."""
    faults = Faults(Early(place, nth=3, times=0))  # from STARTTLS on
    async with open_memory_server(tls=True, faults=faults) as server, server.client() as client:
        assert client.tls is not None
        await client.send(ME, MANY, MESSAGE)
    assert len(server.inbox) == 1


@pytest.mark.parametrize("rule", [Garbage(".", 0, by="client"), Replace(".", b"x", by="client")])
async def test_text_of_a_chunk_is_not_replaced(autojump_clock: MockClock, rule: Rule) -> None:
    inbox, _, result = await send(rule)
    assert result.complete
    assert inbox[0].raw == MESSAGE


# --- segments ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "octets", "lengths", "seconds"),
    [
        (Trickle(1, max_segments=4, by="client"), 10, [3, 3, 3, 1], 0.004),
        (Trickle(1, max_segments=100, by="client"), 10, [1] * 10, 0.01),
        (Trickle(5, 2, max_segments=4, by="client"), 10, [5, 5], 4),
        (Trickle(1, by="client"), 10, [1] * 10, 0.01),
        (Throttle(2, max_segments=2, by="client"), 10, [5, 5], 5),
        (Throttle(2, by="client"), 10, [2] * 5, 5),
        (Throttle(0.5, max_segments=3, by="client"), 10, [4, 4, 2], 20),
        (Trickle(1, max_segments=100, by="client"), 1_000_000, [10_000] * 100, 0.1),
    ],
)
async def test_number_of_segments_is_limited(
    autojump_clock: MockClock, rule: Rule, octets: int, lengths: list[int], seconds: float
) -> None:
    client_end, server_end = bounded_stream_pair(2_000_000)
    began = trio.current_time()
    async with Faults(rule).wrap(client_end, side="client") as stream:
        await stream.send_all(b"x" * (octets - 2) + b"\r\n")
    assert trio.current_time() - began == pytest.approx(seconds, rel=0.5 if isinstance(rule, Trickle) else 0.01)
    received = [len(segment) async for segment in server_end]
    assert received == lengths
