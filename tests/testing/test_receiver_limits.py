"""Tests of the layers that behave as large receivers do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    ConnectionLostError,
    GreetingError,
    Hooks,
    Peer,
    Reply,
    ReplyError,
    Server,
    Session,
    Timeouts,
)
from smtp_trio.protocol import Rcpt
from smtp_trio.testing import (
    Answer,
    ConnectionsPerPeer,
    Delay,
    Faults,
    Greylist,
    Inbox,
    Layer,
    MessageRate,
    MessagesPerConnection,
    RecipientsPerMessage,
    Tarpit,
    bounded_stream_pair,
    deterministic,
    memory_pair,
    open_memory_server,
)

ME, YOU = "me@client.test", "you@mx.test"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
HOST = Peer("192.0.2.1", 4000, "tcp")
OTHER = Peer("192.0.2.2", 4000, "tcp")


class RejectingInbox(Inbox):
    """Hooks of an application, which refuse one recipient."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "Who?", "5.1.1") if rcpt.recipient.local == "nobody" else None


def server(hooks: Hooks) -> Server:
    return Server(hooks, name="mx.test", **deterministic())


@asynccontextmanager
async def calling(called: Server, peer: Peer = HOST, faults: Faults | None = None) -> AsyncGenerator[Client]:
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, called, peer=peer, faults=faults) as client:
            yield client


async def sent(called: Server, to: str = YOU, sender: str = ME, peer: Peer = HOST) -> int:
    """Send one message over a connection of its own; return the last reply code."""
    async with calling(called, peer) as client:
        try:
            return (await client.send(sender, [to], MESSAGE)).accepted[0].reply.code
        except AllRecipientsRejectedError as exc:
            return exc.reply.code


async def test_greylisting(autojump_clock: MockClock) -> None:
    """A retry after five minutes is accepted, an earlier one is not; an accepted triple is remembered."""
    inbox = RejectingInbox()
    called = server(Greylist(inbox))
    assert await sent(called) == 450
    await trio.sleep(299)
    assert await sent(called) == 450
    await trio.sleep(1)
    assert await sent(called) == 250
    assert await sent(called) == 250
    # Each part of the triple counts.
    for other in ({"peer": OTHER}, {"sender": "it@client.test"}, {"to": "they@mx.test"}):
        assert await sent(called, **other) == 450
    # The hooks below decide on commands that the layer accepts.
    assert await sent(called, to="nobody@mx.test") == 450
    await trio.sleep(300)
    assert await sent(called, to="nobody@mx.test") == 550
    assert len(inbox) == 2


async def test_greylisting_entries_expire(autojump_clock: MockClock) -> None:
    called = server(Greylist(Inbox(), 60, forget=3600))
    assert await sent(called) == 450
    await trio.sleep(3600)
    assert await sent(called) == 450
    await trio.sleep(60)
    assert await sent(called) == 250


async def test_messages_of_a_connection(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    called = server(MessagesPerConnection(inbox, 3))
    async with calling(called) as client:
        for _ in range(3):
            await client.send(ME, [YOU], MESSAGE)
        with pytest.raises((ReplyError, ConnectionLostError), match="421"):
            await client.send(ME, [YOU], MESSAGE)
        assert not client.usable
    assert await sent(called) == 250
    assert len(inbox) == 4


async def test_recipients_of_a_message(autojump_clock: MockClock) -> None:
    """RFC 5321 4.5.3.1.10: a client sends the message again to the other recipients."""
    inbox = RejectingInbox()
    names = ["nobody@mx.test", *(f"r{number}@mx.test" for number in range(5))]
    async with calling(server(RecipientsPerMessage(inbox, 3))) as client:
        result = await client.send(ME, names, MESSAGE)
        assert [each.reply.code for each in result.rejected] == [550]
    assert [len(mail.recipients) for mail in inbox] == [3, 2]


async def test_connections_of_a_peer(autojump_clock: MockClock) -> None:
    called = server(ConnectionsPerPeer(Inbox(), 2))
    async with calling(called), calling(called):
        with pytest.raises(ExceptionGroup) as caught:
            async with calling(called):
                raise AssertionError("let in")
        assert caught.group_contains(GreetingError, match="421 .*Too many connections")
        async with calling(called, OTHER):
            pass
    async with calling(called):
        pass


async def test_disconnect_follows_connect_below_a_refusing_layer(autojump_clock: MockClock) -> None:
    """If a layer refuses a connection, neither connect nor disconnect is called below it."""
    calls: list[str] = []

    class Listening(Inbox):
        async def connect(self, session: Session) -> Reply | None:
            calls.append("connect")
            return await super().connect(session)

        async def disconnect(self, session: Session) -> None:
            calls.append("disconnect")
            await super().disconnect(session)

    called = server(Faults(Answer("CONNECT", 421)).hooks(ConnectionsPerPeer(Listening(), 1)))
    with pytest.raises(ExceptionGroup):
        async with calling(called):
            raise AssertionError("let in")
    assert calls == []
    async with calling(called):
        with pytest.raises(ExceptionGroup) as caught:
            async with calling(called):
                raise AssertionError("let in")
        assert caught.group_contains(GreetingError, match="421 .*Too many connections")
    assert calls == ["connect", "disconnect"]


async def test_inbox_below_a_layer(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    async with open_memory_server(Greylist(ConnectionsPerPeer(MessageRate(inbox)))) as called:
        assert called.inbox is inbox


async def test_each_mail_counts(autojump_clock: MockClock) -> None:
    for hooks in (MessagesPerConnection(Inbox(), 2), MessageRate(Inbox(), 2)):
        async with calling(server(hooks)) as client:
            for _ in range(2):
                await client.mail(ME)
                await client.rset()
            with pytest.raises((ReplyError, ConnectionLostError), match="421"):
                await client.mail(ME)


async def test_message_rate(autojump_clock: MockClock) -> None:
    """The window slides: an hour after the first message another one is accepted."""
    called = server(MessageRate(Inbox(), 3, 3600))
    for _ in range(3):
        assert await sent(called) == 250
        await trio.sleep(600)
    assert await sent(called) == 421
    assert await sent(called, peer=OTHER) == 250
    await trio.sleep(1800)
    assert await sent(called) == 250
    assert await sent(called) == 421


async def test_tarpit(autojump_clock: MockClock) -> None:
    """Each error delays later replies more, up to a minute, without use of the hook timeout."""
    waited: list[float] = []
    async with calling(server(Tarpit(RejectingInbox(), 20, limit=50))) as client:
        await client.mail(ME)
        for _ in range(5):
            began = trio.current_time()
            with pytest.raises(ReplyError):
                await client.rcpt("nobody@mx.test")
            waited.append(trio.current_time() - began)
    assert waited == [0, 20, 40, 50, 50]
    async with calling(server(Tarpit(RejectingInbox(), 400, limit=1000))) as client:
        client._exchange.timeouts = type(client._exchange.timeouts).all(0)
        for _ in range(2):
            await client.mail(ME)
            with pytest.raises(ReplyError):
                await client.rcpt("nobody@mx.test")
            await client.rset()
        began = trio.current_time()
        await client.noop()
        assert trio.current_time() - began == 800


async def test_tarpit_for_invalid_commands(autojump_clock: MockClock) -> None:
    """Delays may exceed the timeouts for hooks and commands. An unsolicited 421 is not delayed."""
    waited: list[float] = []
    client_end, server_end = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        called = Server(Tarpit(Inbox(), 400, limit=1000), name="mx.test", timeout=Timeouts(command=300, hook=100))
        nursery.start_soon(called.serve_stream, server_end)
        await client_end.receive_some()
        for line in (b"FOO bar", b"RCPT TO:<you@mx.test>", b"FOO bar", b"FOO bar", b"NOOP"):
            began = trio.current_time()
            await client_end.send_all(line + b"\r\n")
            assert (await client_end.receive_some()).startswith(b"250 " if line == b"NOOP" else b"5")
            waited.append(trio.current_time() - began)
        began = trio.current_time()
        assert (await client_end.receive_some()).startswith(b"421 4.4.2")
        assert trio.current_time() - began == 300
    assert waited == [0, 400, 800, 1000, 1000]


async def test_layers_compose(autojump_clock: MockClock) -> None:
    """They compose with each other, with other hooks, and with fault rules."""
    inbox = RejectingInbox()
    layers = Greylist(MessagesPerConnection(RecipientsPerMessage(Tarpit(inbox, 1), 2), 1), 60)
    called = server(layers)
    names = [f"r{number}@mx.test" for number in range(3)]
    async with calling(called) as client:
        with pytest.raises(AllRecipientsRejectedError, match="450"):
            await client.send(ME, names, MESSAGE)
    await trio.sleep(60)
    faults = Faults(Answer("RCPT", 451), Delay("DATA", 30))
    async with calling(called, faults=faults) as client:
        result = await client.send(ME, names, MESSAGE)
        assert [each.reply.code for each in result.rejected] == [451]
        with pytest.raises((ReplyError, ConnectionLostError), match="421"):
            await client.send(ME, names, MESSAGE)
    assert [mail.recipients for mail in inbox] == [tuple(names[1:])]


async def test_layer_adds_no_hooks() -> None:
    """A hook that a layer does not override is that of the hooks below."""

    class Mine(Layer):
        async def mail(self, session: Session, mail: Any) -> Reply | None:
            return await self.under.mail(session, mail)

    assert set(server(Mine())._state.hooks) == {"mail"}
    assert set(server(Mine(RejectingInbox()))._state.hooks) == {"mail"} | set(server(RejectingInbox())._state.hooks)
