"""ATRN (RFC 2645) on sockets: a provider sends the mail of a customer over the customer's own connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from smtp_trio import Client, Credentials, Hooks, Reply, ReplyError, Server, Session, connect, standard
from smtp_trio.protocol.extensions import AtrnExtension, Auth
from smtp_trio.protocol.extensions.atrn import Atrn
from smtp_trio.testing import Inbox

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
EXTENSIONS = standard(Auth(cleartext=True), AtrnExtension())


class Provider(Hooks):
    """Holds one message for example.org."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.errors: list[Exception] = []

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        return None

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)

    async def atrn(self, session: Session, atrn: Atrn) -> Reply:
        if "example.com" in atrn.domains:
            return Reply(450, "Not your domain")
        if self.sent:
            return Reply(453, "You have no mail")
        session.take_over(self._deliver)
        return Reply(250, "OK now reversing the connection")

    async def _deliver(self, stream: trio.abc.Stream) -> None:
        async with Client(stream, tls="never", name="provider.test") as client:
            result = await client.send("me@example.net", ["you@example.org"], MESSAGE)
            self.sent += [str(outcome.recipient) for outcome in result.accepted]


@asynccontextmanager
async def serving(hooks: Hooks, **settings: Any) -> AsyncGenerator[int]:
    server = Server(hooks, name="provider.test", extensions=EXTENSIONS, **settings)
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(server.serve, 0, "127.0.0.1")
        yield listener.socket.getsockname()[1]
        await server.stop()


def customer(port: int) -> Any:
    return connect("127.0.0.1", port, tls="never", auth=("example.org", "secret"), allow_cleartext=True)


async def test_customer_gets_its_mail_over_its_own_connection() -> None:
    provider, inbox = Provider(), Inbox()
    async with serving(provider) as port:
        async with customer(port) as client:
            reply = await client.command(Atrn(("example.org",)))
            assert str(reply) == "250 2.0.0 OK now reversing the connection"
            await Server(inbox, name="example.org").serve_stream(client.stream)
        async with customer(port) as client:
            with pytest.raises(ReplyError, match="453"):
                await client.command(Atrn())
            with pytest.raises(ReplyError, match="450"):
                await client.command(Atrn(("example.com",)))
            await client.noop()
    assert provider.sent == ["you@example.org"]
    assert [mail.raw for mail in inbox.mails] == [MESSAGE]
    assert provider.errors == []


async def test_session_ends_with_the_function() -> None:
    ended = []

    class Ending(Provider):
        async def disconnect(self, session: Session) -> None:
            ended.append(list(self.sent))

    async with serving(provider := Ending()) as port:
        async with customer(port) as client:
            await client.command(Atrn())
            await Server(Inbox(), name="example.org").serve_stream(client.stream)
    assert ended == [provider.sent] == [["you@example.org"]]


async def test_failure_of_the_function_is_reported() -> None:
    class Failing(Provider):
        async def _deliver(self, stream: trio.abc.Stream) -> None:
            raise OSError("the queue cannot be read")

    async with serving(provider := Failing()) as port:
        async with customer(port) as client:
            await client.command(Atrn())
            assert await client.stream.receive_some() == b""
    assert [str(error) for error in provider.errors] == ["the queue cannot be read"]


async def test_acceptance_without_a_function_is_an_error_of_the_hook() -> None:
    class Forgetful(Provider):
        async def atrn(self, session: Session, atrn: Atrn) -> Reply:
            return Reply(250, "OK")

    async with serving(provider := Forgetful()) as port, customer(port) as client:
        with pytest.raises(ReplyError, match="451"):
            await client.command(Atrn())
        await client.noop()
    assert [type(error) for error in provider.errors] == [RuntimeError]


async def test_octets_after_atrn_end_the_session() -> None:
    async with serving(provider := Provider()) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            received = b""
            await stream.send_all(b"EHLO x\r\nAUTH PLAIN AGEAYQ==\r\n")
            while b"235 " not in received:
                received += await stream.receive_some()
            await stream.send_all(b"ATRN\r\n220 early\r\n")
            received = b""
            while octets := await stream.receive_some():
                received += octets
    assert received == b"554 5.5.0 Data received after ATRN; closing the connection\r\n"
    assert provider.sent == []


async def test_other_hooks_cannot_take_over() -> None:
    class Eager(Provider):
        async def vrfy(self, session: Session, command: object) -> None:
            session.take_over(self._deliver)

        async def atrn(self, session: Session, atrn: Atrn) -> Reply:
            session.take_over("x")  # type: ignore[arg-type]
            return Reply(250)

    async with serving(provider := Eager()) as port, customer(port) as client:
        with pytest.raises(ReplyError, match="451"):
            await client.vrfy("x")
        with pytest.raises(ReplyError, match="451"):
            await client.command(Atrn())
    assert [type(error) for error in provider.errors] == [RuntimeError, TypeError]
