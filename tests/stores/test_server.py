"""Stores as the hooks of a server: messages sent over SMTP are stored unchanged, and the replies are true."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

import smtp_trio
from smtp_trio.stores import Maildir, SQLite, Stored, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Store = Maildir | SQLite


class Client:
    """An SMTP client that sends commands one by one over a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.received = bytearray()

    async def reply(self) -> str:
        """Wait for the last line of a reply, and return it."""
        while (end := re.search(rb"^\d{3} .*\r\n", self.received, re.MULTILINE)) is None:
            data = await self.stream.receive_some()
            assert data, f"closed after {self.received!r}"
            self.received += data
        reply = self.received[: end.end()].decode()
        del self.received[: end.end()]
        return reply

    async def command(self, command: str, expect: str) -> str:
        """Send a command, and return its reply, which has to begin with ``expect``."""
        await self.stream.send_all(command.encode() + b"\r\n")
        reply = await self.reply()
        assert reply.startswith(expect), f"expected {expect} to {command!r}, got {reply!r}"
        return reply

    async def send(self, sender: str, recipients: list[str], message: bytes, expect: str = "250") -> str:
        """Send one message, and return the reply to it, which has to begin with ``expect``."""
        await self.command(f"MAIL FROM:{sender}", "250")
        for recipient in recipients:
            await self.command(f"RCPT TO:<{recipient}>", "250")
        await self.command("DATA", "354")
        stuffed = message.replace(b"\r\n.", b"\r\n..")
        await self.stream.send_all(b"." * message.startswith(b".") + stuffed + b".\r\n")
        reply = await self.reply()
        assert reply.startswith(expect)
        return reply


@asynccontextmanager
async def connected(server: smtp_trio.Server) -> AsyncIterator[Client]:
    """Serve one connection, and yield a client that has sent EHLO."""
    client_stream, server_stream = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, server_stream)
        client = Client(client_stream)
        await client.reply()
        await client.command("EHLO client.test", "250")
        yield client
        await client_stream.aclose()


@pytest.fixture(params=[Maildir, SQLite])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    store: Store = request.param(tmp_path / "directory" / "store")
    return store


def messages_in(store: Store) -> list[Stored]:
    """Return all messages in a store, in any order."""
    if isinstance(store, Maildir):
        assert os.listdir(store.tmp) == []
        return [read(os.path.join(store.new, name)) for name in os.listdir(store.new)]
    with closing(sqlite3.connect(store.path)) as db:
        return [read(store.path, uid) for (uid,) in db.execute("SELECT uid FROM messages").fetchall()]


async def test_message_for_three_recipients(store: Store) -> None:
    message = (
        b"Envelope-To: <forged@evil.test>\r\nReturn-Path: <forged@evil.test>\r\nTo: a@mx.test, b@mx.test\r\n"
        b"Subject: hello\r\n\r\n.\r\n..\r\n.leading dots\r\n\xff\x00\t\r\n"
    )
    server = smtp_trio.Server(store, name="mx.test", newlines="preserve")
    async with connected(server) as client:
        reply = await client.send("<me@client.test>", ["A@mx.test", "b@mx.test", "blind@mx.test"], message)

    (stored,) = messages_in(store)
    assert (stored.sender, stored.recipients) == ("me@client.test", ("A@mx.test", "b@mx.test", "blind@mx.test"))
    assert stored.message == message
    queued = reply.rpartition(" ")[2].strip()
    if isinstance(store, SQLite):
        assert read(store.path, queued) == stored
    else:
        (path,) = await trio.Path(store.new).iterdir()
        assert f" id {queued};\r\n".encode() in await path.read_bytes()


async def test_parameters_and_addresses_that_are_not_ascii(store: Store) -> None:
    async with connected(smtp_trio.Server(store, name="mx.test")) as client:
        await client.send(
            "<jürgen@bücher.test> SMTPUTF8 BODY=8BITMIME", ["用户@例子.test"], b"Subject: \xc3\xbc\r\n\r\n"
        )
        await client.send("<>", ["Postmaster"], b"")

    envelopes = {(stored.sender, stored.recipients) for stored in messages_in(store)}
    assert envelopes == {("jürgen@bücher.test", ("用户@例子.test",)), ("", ("Postmaster",))}
    if isinstance(store, SQLite):
        with closing(sqlite3.connect(store.path)) as db:
            rows = db.execute("SELECT mail_params, helo, protocol, peer FROM messages ORDER BY id").fetchall()
        assert rows[0] == ("SMTPUTF8 BODY=8BITMIME", "client.test", "UTF8SMTP", "memory")


async def test_large_messages_by_data_and_by_bdat(store: Store) -> None:
    message = b"".join(b"%06d %s\r\n" % (n, b"x" * 60) for n in range(50_000))
    server = smtp_trio.Server(store, name="mx.test")
    async with connected(server) as client:
        await client.send("<me@client.test>", ["you@mx.test"], message)
        await client.command("MAIL FROM:<me@client.test>", "250")
        await client.command("RCPT TO:<you@mx.test>", "250")
        cut = (1 << 21) - 1
        for command, chunk in ((f"BDAT {cut}", message[:cut]), (f"BDAT {len(message) - cut} LAST", message[cut:])):
            await client.stream.send_all(command.encode() + b"\r\n" + chunk)
            assert (await client.reply()).startswith("250")

    assert [stored.message == message for stored in messages_in(store)] == [True, True]


async def test_sessions_share_commits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    commit: Any = store._group._lanes[0].commit

    def commit_and_count(messages: list[Any]) -> object:
        sizes.append(len(messages))
        return commit(messages)

    monkeypatch.setattr(store._group._lanes[0], "commit", commit_and_count)
    server = smtp_trio.Server(store, name="mx.test")

    async def send(n: int) -> None:
        async with connected(server) as client:
            for m in range(3):
                await client.send("<me@client.test>", ["you@mx.test"], b"%d %d\r\n" % (n, m))

    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(send, n)

    assert sorted(stored.message for stored in messages_in(store)) == sorted(
        b"%d %d\r\n" % (n, m) for n in range(100) for m in range(3)
    )
    assert sum(sizes) == 300
    assert len(sizes) < 100


async def test_path_of_an_error_is_logged_and_not_in_the_reply(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    server = smtp_trio.Server(store, name="mx.test")
    async with connected(server) as client:
        shutil.rmtree(os.path.dirname(store.path))
        await trio.Path(os.path.dirname(store.path)).write_bytes(b"a file")
        with caplog.at_level(logging.ERROR, "smtp_trio.stores"):
            reply = await client.send("<me@client.test>", ["you@mx.test"], b"refused\r\n", "451 4.3.0")
        assert store.path not in reply
        (record,) = caplog.records
        assert record.exc_info is not None
        assert store.path in caplog.text
        await trio.Path(os.path.dirname(store.path)).unlink()
        await client.send("<me@client.test>", ["you@mx.test"], b"accepted\r\n")

    assert [stored.message for stored in messages_in(store)] == [b"accepted\r\n"]


async def test_server_does_not_start_when_its_store_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for store in (Maildir(tmp_path / "file" / "box"), SQLite(tmp_path / "file" / "mail.db")):
        client_stream, server_stream = memory_stream_pair()
        with pytest.raises(smtp_trio.stores.StoreError):
            await smtp_trio.Server(store).serve_stream(server_stream)
        await client_stream.aclose()
        await server_stream.aclose()


async def test_message_is_removed_when_the_connection_is_lost(store: Store) -> None:
    async with connected(smtp_trio.Server(store, name="mx.test")) as client:
        await client.command("MAIL FROM:<me@client.test>", "250")
        await client.command("RCPT TO:<you@mx.test>", "250")
        await client.command("DATA", "354")
        await client.stream.send_all(b"x" * 70 + b"\r\n" + b"half of a line and no more" * 100_000)
        await wait_all_tasks_blocked()

    assert messages_in(store) == []


async def test_reply_is_sent_when_the_server_is_cancelled_during_a_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = trio.CancelScope()
    commit: Any = store._group._lanes[0].commit

    def commit_and_cancel(messages: list[Any]) -> object:
        trio.from_thread.run_sync(scope.cancel)
        return commit(messages)

    monkeypatch.setattr(store._group._lanes[0], "commit", commit_and_cancel)
    client_stream, server_stream = memory_stream_pair()
    client = Client(client_stream)
    server = smtp_trio.Server(store, name="mx.test")
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            with scope:
                await server.serve_stream(server_stream)

        nursery.start_soon(serve)
        await client.reply()
        await client.command("EHLO client.test", "250")
        await client.send("<me@client.test>", ["you@mx.test"], b"hello\r\n", "250")
        assert await client_stream.receive_some() == b""
        await client_stream.aclose()

    assert [stored.message for stored in messages_in(store)] == [b"hello\r\n"]


async def test_put_called_in_a_data_hook(store: Store) -> None:
    ids = []

    class PutHooks(smtp_trio.Hooks):
        async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> smtp_trio.Reply | None:
            ids.append(await store.put(session, body))
            return smtp_trio.Reply(250, "Kept", "2.0.0")

    async with connected(smtp_trio.Server(PutHooks(), name="mx.test")) as client:
        assert await client.send("<me@client.test>", ["you@mx.test"], b"hello\r\n") == "250 2.0.0 Kept\r\n"
    await store.aclose()

    (stored,) = messages_in(store)
    assert stored.message == b"hello\r\n"
    if isinstance(store, Maildir):
        assert os.listdir(store.new) == ids
