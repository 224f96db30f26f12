"""BURL (RFC 4468) in a server: the hook that fetches, and what happens when it fails."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from helpers import NAME, connected
from trio.testing import MockClock

from smtp_trio import (
    Body,
    Client,
    Credentials,
    DeliveryUnknownError,
    Hooks,
    Limits,
    Reply,
    ReplyError,
    Server,
    Session,
    connect,
    standard,
)
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
        self.resets = 0

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

    async def reset(self, session: Session) -> None:
        self.resets += 1

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)


@asynccontextmanager
async def session(hooks: Hooks, server: Server | None = None, **settings: Any) -> AsyncGenerator[Client]:
    """Return a client with an open transaction, of a server in memory."""
    server = server or serving(hooks, **settings)
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        async with Client(near, tls="never", timeout=5000) as client:
            await begin(client)
            yield client


def serving(hooks: Hooks, **settings: Any) -> Server:
    return Server(hooks, name=NAME, extensions=standard(BurlExtension(authenticated=False)), **settings)


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
    async with session(hooks, limits=Limits(data_rate=0)) as client:
        await client.burl("pieces:slow", last=True)  # longer than a hook may take, but each piece arrives in time
        await begin(client)
        with pytest.raises(ReplyError, match=r"451 4\.4\.1"):
            await client.burl("pieces:late", last=True)
    assert hooks.messages == [b"a\r\nb\r\n"]
    assert hooks.closed == ["pieces:slow", "pieces:late"]
    assert hooks.errors == []


@pytest.mark.parametrize(
    ("limits", "content", "reached"),
    [
        (Limits(data_rate=100), [100, b"a\r\n", 100, b"b\r\n"], "data_rate"),
        (Limits(data_rate=100), [100, b"a" * 990 + b"\r\n"] * 5, "data_rate"),
        (Limits(data_rate=100), [100, b"\r\n" * 7500, 50, b"\r\n"] * 5, None),
        (Limits(data_rate=0, message_time=250), [100, b"a\r\n", 100, b"b\r\n", 100, b"c\r\n"], "message_time"),
        (Limits(data_rate=0, message_time=350), [100, b"a\r\n", 100, b"b\r\n", 100, b"c\r\n"], None),
    ],
    ids=["rate", "rate with longer lines", "fast enough", "too long", "in time"],
)
@pytest.mark.parametrize("parts", [1, 2])
async def test_limits_of_time(
    limits: Limits, content: list[Any], reached: str | None, parts: int, autojump_clock: MockClock
) -> None:
    """They are those of a client that sends the message, and they hold for all parts of it together."""
    hooks = Submission()
    middle = len(content) // 4 * 2
    hooks.contents |= {"pieces:1": content[:middle], "pieces:2": content[middle:], "pieces:all": content}
    server = serving(hooks, limits=limits)
    async with session(hooks, server) as client:
        urls = ["pieces:all"] if parts == 1 else ["pieces:1", "pieces:2"]
        if reached is None:
            for url in urls:
                await client.burl(url, last=url == urls[-1])
        else:
            with pytest.raises(ReplyError, match=r"451 4\.4\.1"):
                for url in urls:
                    await client.burl(url, last=url == urls[-1])
            await client.rset()
        await begin(client)
        await client.burl(URL, last=True)
    assert len(hooks.messages) == 1 + (reached is None)
    assert hooks.errors == []
    assert dict(server.statistics().limits_reached) == ({reached: 1} if reached else {})


@pytest.mark.parametrize("url", ["pieces:x", "whole:x"])
async def test_memory(url: str, autojump_clock: MockClock) -> None:
    """What the hook has provided counts, also before it is read, and until it was."""
    hooks, octets = Submission(), b"x" * 998 + b"\r\n"
    hooks.contents |= {"pieces:x": [octets * 1000] * 2, "whole:x": octets * 2000, "small:x": octets}
    server = serving(hooks)
    async with session(hooks, server) as client:
        memory = server._state.memory
        before = memory.used
        memory.limit = before + 900_000
        with pytest.raises(ReplyError, match=r"452 4\.3\.1"):
            await client.burl(url, last=True)
        assert memory.used <= before
        await begin(client)
        await client.burl("small:x", last=True)
        memory.limit = before + 10_000_000
        await begin(client)
        await client.burl(url, last=True)
        assert memory.used <= before
    assert hooks.messages == [octets, octets * 2000]
    assert hooks.errors == []


async def test_cancelled_read_does_not_lose_octets(autojump_clock: MockClock) -> None:
    """A data hook may have a timeout of its own for a read. Of a generator that was cancelled, the rest is missing."""

    class Impatient(Submission):
        async def data(self, session: Session, body: Body) -> None:
            pieces = []
            while not body.complete:
                with trio.move_on_after(1):
                    pieces.append(await anext(body, b""))
            self.messages.append(b"".join(pieces))

    hooks = Impatient()
    hooks.contents |= {"pieces:slow": [b"a\r\n", 5, b"b\r\n"], "pieces:fast": [b"a\r\n", 0, b"b\r\n"]}
    async with session(hooks) as client:
        with pytest.raises(ReplyError, match=r"451 4\.4\.1"):
            await client.burl("pieces:slow", last=True)
        await begin(client)
        await client.burl("pieces:fast", last=True)
    assert hooks.messages == [b"a\r\nb\r\n"]
    assert hooks.errors == []


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_octets_that_were_provided_at_once_survive_a_cancelled_read(
    cancelled: int, autojump_clock: MockClock
) -> None:
    class Repeating(Submission):
        async def data(self, session: Session, body: Body) -> None:
            pieces = [await anext(body) for _ in range(cancelled)]
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(body)
            self.messages.append(b"".join(pieces) + await body.read())

    hooks = Repeating()
    async with session(hooks) as client:
        await client.burl(URL, last=True)
    assert hooks.messages == [MESSAGE]


async def test_session_that_is_cancelled_ends_the_fetch(autojump_clock: MockClock) -> None:
    hooks = Submission()
    hooks.contents["pieces:slow"] = [b"a\r\n", 150, b"b\r\n"]
    server = serving(hooks, limits=Limits(data_rate=0))
    async with session(hooks, server) as client, trio.open_nursery() as nursery:

        async def stop() -> None:
            await trio.sleep(10)
            await server.stop(1)

        nursery.start_soon(stop)
        with pytest.raises(DeliveryUnknownError):
            await client.burl("pieces:slow", last=True)
    assert hooks.closed == ["pieces:slow"]
    assert hooks.messages == []


@pytest.mark.parametrize("behaviour", ["raises", "waits"])
async def test_source_that_cannot_be_closed(behaviour: str, autojump_clock: MockClock) -> None:
    """It is closed when the rest of the message is dropped, which takes a limited time."""

    class Source(Submission):
        async def burl(self, session: Session, burl: Burl) -> None:
            if burl.url == URL:
                session.provide(b"x\r\n" * 2000)
            else:
                session.provide(self._bad())

        async def _bad(self) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 1000
            finally:
                if behaviour == "raises":
                    raise OSError("cannot be closed")
                await trio.sleep_forever()

    hooks = Source()
    async with session(hooks, size=5000) as client:
        with pytest.raises(ReplyError, match=r"552 5\.3\.4"):
            await client.burl("x:y", last=True)
        await begin(client)
        with pytest.raises(ReplyError, match=r"552 5\.3\.4"):
            await client.burl(URL, last=True)
    assert [type(each) for each in hooks.errors] == ([OSError] if behaviour == "raises" else [])


async def test_invalid_part_ends_the_message(autojump_clock: MockClock) -> None:
    """The data hook must not get a message of which a part is missing."""
    hooks = Submission()
    async with connected(serving(hooks)) as client:
        await client.expect("220")
        for line in ("EHLO client.test", "MAIL FROM:<me@x.test>", "RCPT TO:<you@x.test>", "BDAT 0"):
            await client.command(line, "250")
        await client.command("BURL imap", "501 5.5.4")
        await client.command(f"BURL {URL} LAST", "503 5.5.1")
        await client.command("BDAT 0 LAST", "503 5.5.1")
        await client.command("RSET", "250")
        for line in ("MAIL FROM:<me@x.test>", "RCPT TO:<you@x.test>", "BDAT 0", f"BURL {URL} LAST"):
            await client.command(line, "250")
        await client.quit()
    assert hooks.messages == [MESSAGE]
    assert hooks.resets == 1
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
