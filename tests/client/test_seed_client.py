"""The client's rows of mbr-smtp, name by name, and the defects of its client that must not come back, by their numbers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import (
    Body,
    Client,
    ConnectionLostError,
    Hooks,
    LocalProtocolError,
    Reply,
    ReplyError,
    Server,
    Session,
    TimedOutError,
    connect,
)
from smtp_trio.protocol import Mail, Rcpt
from smtp_trio.protocol.extensions.size import SIZE

HOST = "127.0.0.1"
ME, YOU = "me@example.net", "you@example.org"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"


@define
class Intake(Hooks):
    """Keeps messages, and refuses one of them for good."""

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
async def talking() -> AsyncIterator[tuple[Client, Intake]]:
    hooks = Intake()
    async with trio.open_nursery() as nursery:
        server = Server(hooks, name="mx.example.org")
        (listener,) = await nursery.start(server.serve, 0, HOST)
        async with connect(HOST, listener.socket.getsockname()[1]) as client:
            yield client, hooks
        await server.stop()


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[Client]:
    """A client whose server says this, one piece for each piece that it hears; b"" hangs up."""
    ours, theirs = memory_stream_pair()

    async def serve() -> None:
        for answer in answers:
            if not answer:
                await theirs.aclose()
                return
            for at in range(len(answer)):  # an octet at a time: pieces mean nothing
                await theirs.send_all(answer[at : at + 1])
            await theirs.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        client = Client(ours, host="mx.test", tls="never")
        try:
            yield client
        finally:
            await client.aclose()
            nursery.cancel_scope.cancel()


# --- connect, helo, ehlo, mail, rcpt, data, rset, quit, prepare -------------------------------------------------------


async def test_every_verb() -> None:
    async with talking() as (client, hooks):
        assert client.greeting is not None
        assert client.greeting.code == 220
        assert (await client.helo("me.example.net")).code == 250
        assert (await client.ehlo("me.example.net")).code == 250
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


async def test_nothing_needs_to_be_prepared() -> None:
    async with talking() as (client, hooks):
        await client.mail(ME)
        await client.rcpt(YOU)
        await client.data(b".\n..\nend")
    assert hooks.messages == [b".\r\n..\r\nend\r\n"]


# --- defects ----------------------------------------------------------------------------------------------------------


async def test_seed_defect_11_an_error_settles_every_command() -> None:
    async with talking() as (client, _):
        with pytest.raises(LocalProtocolError, match="is not allowed"):
            await client.rcpt(YOU)
        await client.mail(ME)
        with pytest.raises(ReplyError, match="550"):
            await client.rcpt("nobody@example.org")
        assert (await client.noop()).code == 250


async def test_seed_defect_11_a_connect_that_fails_fails() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionLostError, match=f"port {port}"):
        async with connect(HOST, port):
            pass


VERBS = ["ehlo", "helo", "mail", "noop", "rset", "vrfy", "help"]


@pytest.mark.parametrize("verb", VERBS)
async def test_seed_defect_11_a_lost_connection_settles_every_command(verb: str) -> None:
    async with scripted(b"220 mx\r\n", b"250 mx\r\n", b"") as client:
        await client.__aenter__()
        with pytest.raises(ConnectionLostError):
            await getattr(client, verb)(*{"mail": [ME], "vrfy": [YOU]}.get(verb, []))
        assert not client.usable


@pytest.mark.parametrize("verb", VERBS)
def test_seed_defect_11_silence_settles_every_command(verb: str) -> None:
    async def main() -> None:
        async with scripted(b"220 mx\r\n", b"250 mx\r\n", b"25") as client:
            await client.__aenter__()
            with pytest.raises(TimedOutError):
                await getattr(client, verb)(*{"mail": [ME], "vrfy": [YOU]}.get(verb, []))
            assert not client.usable

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_seed_defect_12_a_segment_is_not_a_reply() -> None:
    """Here each octet is one; and many replies may be in one, too."""
    async with scripted(
        b"220-mx\r\n220 at your service\r\n", b"250-mx\r\n250-SIZE 100\r\n250 PIPELINING\r\n"
    ) as client:
        await client.__aenter__()
        assert client.greeting is not None
        assert client.greeting.text.split() == ["mx", "at", "your", "service"]
        assert set(client.offered) == {"SIZE", "PIPELINING"}


async def test_seed_defect_13_nothing_is_left_of_a_message_that_failed() -> None:
    async with talking() as (client, hooks):
        with pytest.raises(ReplyError, match="554"):
            await client.send(ME, [YOU], MESSAGE + b"refuse\r\n")
        with pytest.raises(ReplyError, match="550"):
            await client.send(ME, ["nobody@example.org"], MESSAGE)
        assert (await client.send(ME, [YOU], MESSAGE)).complete
    assert hooks.messages == [MESSAGE]


@pytest.mark.parametrize("message", [b".\r\n", b"..\r\n.x\r\n\r\n.\r\n", b"x\r\n.\r\nQUIT\r\n"])
async def test_seed_defect_14_dots_are_always_doubled(message: bytes) -> None:
    async with talking() as (client, hooks):
        del client._exchange.protocol.offered["CHUNKING"]  # chunks need no dots
        await client.send(ME, [YOU], message)
        await client.mail(ME)
        await client.rcpt(YOU)
        await client.data(message)
    assert hooks.messages == [message, message]
