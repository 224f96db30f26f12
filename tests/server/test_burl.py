"""BURL (RFC 4468) in a server: the hook that fetches, and what happens when it fails."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from smtp_trio import Body, Client, Credentials, Hooks, Reply, ReplyError, Server, Session, connect, standard
from smtp_trio.protocol.extensions import Auth, BurlExtension
from smtp_trio.protocol.extensions.burl import CANNOT_FETCH, Burl

URL = "imap://x.test/outbox"
MESSAGE = b"Subject: hi\r\n\r\n" + b"0123456789012345678901234567890123456789\r\n" * 5000


class Submission(Hooks):
    """Fetches from `contents`, in pieces or at once."""

    def __init__(self) -> None:
        self.contents: dict[str, Any] = {URL: MESSAGE}
        self.messages: list[bytes] = []
        self.errors: list[Exception] = []
        self.fetched: list[str] = []
        self.closed: list[str] = []

    async def burl(self, session: Session, burl: Burl) -> Reply | None:
        self.fetched.append(burl.url)
        if burl.url not in self.contents:
            return CANNOT_FETCH
        if burl.url.startswith("pieces:"):
            session.provide(self._pieces(burl.url))
        elif burl.url != "none:x":
            session.provide(self.contents[burl.url])
        return None

    async def _pieces(self, url: str) -> AsyncIterator[bytes]:
        try:
            for piece in self.contents[url]:
                if isinstance(piece, Exception):
                    raise piece
                await trio.sleep(piece if isinstance(piece, int) else 0)
                if not isinstance(piece, int):
                    yield piece
        finally:
            self.closed.append(url)

    async def data(self, session: Session, body: Body) -> None:
        self.messages.append(await body.read())

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)


@asynccontextmanager
async def session(hooks: Hooks, **settings: Any) -> AsyncGenerator[Client]:
    """Return a client with an open transaction, of a server in memory."""
    server = Server(hooks, extensions=standard(BurlExtension(authenticated=False)), **settings)
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        async with Client(near, tls="never") as client:
            await begin(client)
            yield client


async def begin(client: Client) -> None:
    await client.mail("me@x.test")
    await client.rcpt("you@x.test")


async def test_message_is_fetched() -> None:
    hooks = Submission()
    async with session(hooks) as client:
        reply = await client.burl(URL, last=True)
        assert (reply.code, reply.status) == (250, "2.0.0")
        await begin(client)
    assert hooks.messages == [MESSAGE]
    assert hooks.errors == []


async def test_over_sockets_after_auth() -> None:
    class WithAuth(Submission):
        async def auth(self, session: Session, credentials: Credentials) -> None:
            return None

    hooks = WithAuth()
    server = Server(hooks, extensions=standard(Auth(cleartext=True), BurlExtension()))
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(server.serve, 0, "127.0.0.1")
        port = listener.socket.getsockname()[1]
        async with connect("127.0.0.1", port, tls="never", auth=("u", "p"), allow_cleartext=True) as client:
            await begin(client)
            await client.burl(URL)
            await client.bdat(b"end\r\n")
            await client.burl(URL, last=True)
        await server.stop()
    assert hooks.messages == [MESSAGE + b"end\r\n" + MESSAGE]


async def test_pieces_and_chunks_are_one_message() -> None:
    hooks = Submission()
    hooks.contents |= {"pieces:1": [b"Subject: hi\r\n", b"", b"\r\na\r", b"\n"], "pieces:2": []}
    async with session(hooks) as client:
        assert (await client.burl("pieces:1")).status == "2.5.0"
        await client.bdat(b"b\r\n")
        await client.burl("pieces:2")
        await client.burl("pieces:1", last=True)
    assert hooks.messages == [b"Subject: hi\r\n\r\na\r\nb\r\nSubject: hi\r\n\r\na\r\n"]
    assert hooks.closed == ["pieces:1", "pieces:2", "pieces:1"]


async def test_refusal_of_the_hook_is_the_reply_to_the_message() -> None:
    hooks = Submission()
    async with session(hooks) as client:
        with pytest.raises(ReplyError, match=r"554 5\.6\.6"):
            await client.burl("imap://elsewhere.test/1", last=True)
        await begin(client)
        with pytest.raises(ReplyError, match=r"554 5\.6\.6"):
            await client.burl("imap://elsewhere.test/1")
        await client.rset()
    assert hooks.messages == []
    assert hooks.errors == []


@pytest.mark.parametrize(
    ("url", "content", "expected", "error"),
    [
        ("pieces:x", [b"a\r\n", OSError("gone")], "451 4.3.0", OSError),
        ("pieces:x", [b"a\r\n", "text"], "451 4.3.0", TypeError),
        ("none:x", b"", "451 4.3.0", RuntimeError),
        ("text:x", "text", "451 4.3.0", TypeError),
    ],
)
async def test_failure_of_the_hook_is_reported(url: str, content: Any, expected: str, error: type[Exception]) -> None:
    hooks = Submission()
    hooks.contents[url] = content
    async with session(hooks) as client:
        with pytest.raises(ReplyError, match=expected):
            await client.burl(url, last=True)
        await begin(client)
        await client.burl(URL, last=True)
    assert hooks.messages == [MESSAGE]
    assert [type(each) for each in hooks.errors] == [error]


async def test_slow_source(autojump_clock: MockClock) -> None:
    hooks = Submission()
    hooks.contents |= {"pieces:slow": [100, b"a\r\n", 100, b"b\r\n"], "pieces:late": [b"a\r\n", 200, b"b\r\n"]}
    async with session(hooks) as client:
        await client.burl("pieces:slow", last=True)  # longer than a hook may take, but each piece arrives in time
        await begin(client)
        with pytest.raises(ReplyError, match=r"451 4\.4\.1"):
            await client.burl("pieces:late", last=True)
    assert hooks.messages == [b"a\r\nb\r\n"]
    assert hooks.closed == ["pieces:slow", "pieces:late"]
    assert hooks.errors == []


async def test_message_that_cannot_be_accepted_is_not_fetched_to_its_end() -> None:
    hooks = Submission()
    endless = [b"x" * 1000] * 1000
    hooks.contents["pieces:big"] = [*endless, OSError("never reached")]
    async with session(hooks, size=5000) as client:
        with pytest.raises(ReplyError, match=r"552 5\.3\.4"):
            await client.burl("pieces:big", last=True)
    assert hooks.closed == ["pieces:big"]
    assert hooks.errors == []


async def test_message_that_the_data_hook_refuses_is_not_fetched() -> None:
    class Refusing(Submission):
        async def data(self, session: Session, body: Body) -> Any:
            return Reply(550, "Not today")

    hooks = Refusing()
    async with session(hooks) as client:
        with pytest.raises(ReplyError, match="550"):
            await client.burl(URL, last=True)
        await client.noop()
    assert hooks.fetched == []


async def test_other_hooks_cannot_provide_octets() -> None:
    class Wrong(Submission):
        async def vrfy(self, session: Session, command: object) -> None:
            session.provide(b"")

    hooks = Wrong()
    async with session(hooks) as client:
        with pytest.raises(ReplyError, match="451"):
            await client.vrfy("x")
    assert [type(each) for each in hooks.errors] == [RuntimeError]


async def test_client_checks_the_url() -> None:
    async with session(Submission()) as client:
        with pytest.raises(ValueError, match="absolute URI"):
            await client.burl("outbox")
