"""`Client.xclient` and `Client.xforward`, against the server of this package and a scripted one."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from helpers import NAME, RecordingHooks, client_tls, listening, server_tls
from trio.testing import memory_stream_pair

import smtp_trio
from smtp_trio import Client, NotOfferedError, Peer, ReplyError, Server


async def test_xclient() -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, xclient_from=["127.0.0.1"], tls=server_tls())
    options: dict[str, Any] = {"ssl_context": client_tls(), "server_hostname": NAME}
    async with listening(server) as port, smtp_trio.connect("127.0.0.1", port, **options) as client:
        reply = await client.xclient(
            name="a.test", addr="2001:db8::1", port=4242, proto="ESMTP", helo="b.test", login="fr\u00e9d", destport=None
        )
        assert (reply.code, client.user) == (220, None)
        assert "SIZE" in client.offered
        assert "XCLIENT" not in client.offered
        await client.send("a@b.test", ["c@mx.test"], b"x\r\n")
        session = hooks.sessions[-1]
        assert session.peer == Peer("2001:db8::1", 4242, "tcp", "a.test")
        assert session.hello is not None
        assert (session.hello.domain, session.user, session.local.port) == ("b.test", "fr\u00e9d", None)
        assert session.tls is not None


async def test_xforward() -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, xforward_from=["127.0.0.1"])
    async with listening(server) as port, smtp_trio.connect("127.0.0.1", port) as client:
        reply = await client.xforward(name=None, addr="192.0.2.9", source="LOCAL")
        assert reply.code == 250
        await client.mail("a@b.test")
        assert dict(hooks.sessions[0].xforward) == {"NAME": None, "ADDR": "192.0.2.9", "SOURCE": "LOCAL"}


async def test_long_attributes_take_several_commands() -> None:
    """RFC 5321 4.5.3.1.4: a line has at most 512 octets. ADDR comes last, since the client may send no XCLIENT after it."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, xclient_from=["127.0.0.1"], xforward_from=["127.0.0.1"])
    async with listening(server) as port, smtp_trio.connect("127.0.0.1", port) as client:
        await client.xforward(helo="h" * 255, ident="i" * 255)
        assert dict(hooks.sessions[0].xforward) == {"HELO": "h" * 255, "IDENT": "i" * 255}
        await client.xclient(addr="192.0.2.9", helo="h" * 255, login="l" * 255, port=4242)
        assert len(hooks.sessions) == 3
        session = hooks.sessions[0]
        assert session.xclient == {"HELO": "h" * 255, "LOGIN": "l" * 255, "ADDR": "192.0.2.9", "PORT": "4242"}
        assert (session.peer, session.user) == (Peer("192.0.2.9", 4242, "tcp"), "l" * 255)


@pytest.mark.parametrize("method", ["xclient", "xforward"])
async def test_not_offered(method: str) -> None:
    async with listening(Server(RecordingHooks(), name=NAME)) as port, smtp_trio.connect("127.0.0.1", port) as client:
        with pytest.raises(NotOfferedError, match=f"the server does not offer {method.upper()}"):
            await getattr(client, method)(addr="192.0.2.9")
        assert client.usable


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({}, TypeError, "XCLIENT needs at least one attribute"),
        (
            {"ident": "x"},
            TypeError,
            "unknown attribute 'ident' of XCLIENT, expected one of name, addr, port, proto, helo, login",
        ),
        ({"addr": "mx.test"}, ValueError, "invalid value for the attribute ADDR of XCLIENT: addr='mx.test'"),
        ({"port": 65536}, ValueError, "port=65536"),
        ({"login": "a\r\nb"}, ValueError, "login="),
        ({"login": ""}, ValueError, "login=''"),
        ({"login": "[UNAVAILABLE]"}, ValueError, "login="),
        ({"login": "a b"}, NotOfferedError, "the server does not offer the attribute LOGIN of XCLIENT"),
    ],
)
async def test_invalid_attributes(attributes: dict[str, Any], error: type[Exception], message: str) -> None:
    """Nothing is sent."""
    stream, server = memory_stream_pair()
    client = Client(stream, name="x.test")
    await server.send_all(b"220 mx.test\r\n250-mx.test\r\n250 XCLIENT ADDR PORT\r\n")
    async with client:
        with pytest.raises(error) as caught:
            await client.xclient(**attributes)
        assert message in str(caught.value)
        assert client.usable
        assert bytes(await server.receive_some()) == b"EHLO x.test\r\n"
        await client.aclose()


async def test_server_that_refuses() -> None:
    stream, server = memory_stream_pair()
    client = Client(stream, name="x.test")
    await server.send_all(b"220 mx.test\r\n250-mx.test\r\n250 XCLIENT ADDR\r\n")
    async with client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, server, b"550 5.7.0 no\r\n")
            with pytest.raises(ReplyError, match=r"XCLIENT was refused: 550 5\.7\.0 no"):
                await client.xclient(addr="192.0.2.9")
        await client.aclose()


async def answer(server: trio.abc.Stream, reply: bytes) -> None:
    received = b""
    while b"XCLIENT ADDR=192.0.2.9\r\n" not in received:
        received += await server.receive_some()
    await server.send_all(reply)
