"""The client against the server of this package, over TCP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import define, field
from helpers import MESSAGE
from scripted import ME, YOU

from smtp_trio import Body, Client, Hooks, LocalProtocolError, Mail, Rcpt, Reply, ReplyError, Server, Session, connect
from smtp_trio.protocol.extensions.size import SIZE

HOST = "127.0.0.1"
NOBODY = "nobody@mx.test"


@define
class MessageRecorder(Hooks):
    """Keeps the messages; rejects one recipient, and the messages that contain "refuse"."""

    messages: list[bytes] = field(factory=list)
    sizes: list[int | None] = field(factory=list)

    async def mail(self, session: Session, mail: Mail) -> None:
        self.sizes.append(mail.params.get(SIZE))

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such user here", "5.1.1") if rcpt.recipient.user == "nobody" else None

    async def data(self, session: Session, body: Body) -> Reply | None:
        message = await body.read()
        if b"refuse" in message:
            return Reply(554, "Not this one", "5.6.0")
        self.messages.append(message)
        return None


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[Client, MessageRecorder]]:
    """Run a server and connect a client to it."""
    hooks = MessageRecorder()
    async with trio.open_nursery() as nursery:
        server = Server(hooks, name="mx.test")
        (listener,) = await nursery.start(server.serve, 0, HOST)
        async with connect(HOST, listener.socket.getsockname()[1]) as client:
            yield client, hooks
        await server.stop()


async def test_each_verb() -> None:
    async with connected() as (client, hooks):
        assert client.greeting is not None
        assert client.greeting.code == 220
        assert (await client.helo("client.test")).code == 250
        assert (await client.ehlo("client.test")).code == 250
        assert (await client.mail(ME, size=len(MESSAGE))).code == 250
        assert (await client.rcpt(YOU)).code == 250
        assert (await client.rset()).code == 250
        await client.mail(ME)
        await client.rcpt(YOU)
        assert (await client.data(MESSAGE)).code == 250
        assert (await client.send(ME, [YOU], MESSAGE)).complete
        await client.quit()
        assert not client.usable
    assert hooks.messages == [MESSAGE, MESSAGE]
    assert hooks.sizes[0] == len(MESSAGE)


async def test_line_ends_are_normalized_and_dots_stuffed() -> None:
    async with connected() as (client, hooks):
        await client.mail(ME)
        await client.rcpt(YOU)
        await client.data(b".\n..\nend")
    assert hooks.messages == [b".\r\n..\r\nend\r\n"]


@pytest.mark.parametrize("message", [b".\r\n", b"..\r\n.x\r\n\r\n.\r\n", b"x\r\n.\r\nQUIT\r\n"])
async def test_lines_that_begin_with_a_dot(message: bytes) -> None:
    async with connected() as (client, hooks):
        del client._exchange.protocol.offered["CHUNKING"]  # BDAT needs no dot-stuffing
        await client.send(ME, [YOU], message)
        await client.mail(ME)
        await client.rcpt(YOU)
        await client.data(message)
    assert hooks.messages == [message, message]


async def test_client_is_usable_after_errors() -> None:
    async with connected() as (client, _):
        with pytest.raises(LocalProtocolError, match="is not allowed"):
            await client.rcpt(YOU)
        await client.mail(ME)
        with pytest.raises(ReplyError, match="550"):
            await client.rcpt(NOBODY)
        assert (await client.noop()).code == 250


async def test_failed_messages_do_not_affect_the_next_one() -> None:
    async with connected() as (client, hooks):
        with pytest.raises(ReplyError, match="554"):
            await client.send(ME, [YOU], MESSAGE + b"refuse\r\n")
        with pytest.raises(ReplyError, match="550"):
            await client.send(ME, [NOBODY], MESSAGE)
        assert (await client.send(ME, [YOU], MESSAGE)).complete
    assert hooks.messages == [MESSAGE]
