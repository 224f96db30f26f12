"""Sessions are recorded with their replies, without secrets, and in bounded memory."""

from __future__ import annotations

import base64
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from smtp_trio import Hooks, Reply, Server, web
from smtp_trio.protocol import Rcpt
from smtp_trio.protocol.extensions import Auth, standard
from smtp_trio.stores import Memory, SQLite
from smtp_trio.web import _recorder

from .helpers import client

PASSWORD = base64.b64encode(b"\0wilma\0secret word")


class Picky(SQLite):
    """Refuses one recipient, and accepts any password."""

    async def rcpt(self, session: Any, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such mailbox", "5.1.1") if rcpt.recipient.raw.startswith("nobody") else None

    async def auth(self, session: Any, credentials: Any) -> None:
        """Accept."""


@asynccontextmanager
async def session(server: Server, *steps: bytes) -> AsyncIterator[bytes]:
    """Have a session, in which each step is sent when the server has replied to the one before; return what it sent."""
    near, far = memory_stream_pair()
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        for step in (b"", *steps):
            if step:
                await near.send_all(step)
            received += await near.receive_some()
        yield bytes(received)
        await near.aclose()


def message(recipients: int = 1, body: bytes = b"Subject: x\r\n\r\nx\r\n") -> tuple[bytes, ...]:
    rcpts = [b"RCPT TO:<user%d@example.org>\r\n" % number for number in range(recipients)]
    return b"MAIL FROM:<a@example.org>\r\n", *rcpts, b"DATA\r\n", body + b".\r\n"


async def test_a_session_has_its_lines_and_the_replies_to_its_recipients(tmp_path: Path) -> None:
    recorder = web.Recorder()
    async with Picky(tmp_path / "mail.db") as store:
        server = Server(recorder.hooks(store))
        steps = message()
        async with session(
            server, b"EHLO me.test\r\n", steps[0], b"RCPT TO:<nobody@example.org>\r\n", *steps[1:], b"QUIT\r\n"
        ):
            (live,) = recorder.sessions()
            assert live.helo == "me.test"
        (recorded,) = recorder.sessions()
        assert recorded.seconds is not None
        (sent,) = recorded.messages
        assert sent.sender == "<a@example.org>"
        assert sent.reply is not None
        assert sent.reply.startswith("250 2.0.0")
        assert [(each.address, (each.reply or "")[:9]) for each in sent.recipients] == [
            ("<nobody@example.org>", "550 5.1.1"),
            ("<user0@example.org>", "250 2.1.5"),
        ]
        entries = [entry async for entry in store]
        assert [sent.id] == [entry.id for entry in entries]
        assert recorder.session_of(entries[0].id) is recorded
        lines = [(line.side, line.text) for line in recorded.lines()]
        assert ("C", "EHLO me.test") in lines
        assert ("C", "Subject: x") in lines
        assert ("C", "QUIT") in lines
        assert [line.time for line in recorded.lines()] == sorted(line.time for line in recorded.lines())


async def test_passwords_are_not_kept(tmp_path: Path) -> None:
    recorder = web.Recorder()
    async with Picky(tmp_path / "mail.db") as store:
        server = Server(recorder.hooks(store), extensions=standard(Auth(cleartext=True)))
        async with session(
            server, b"EHLO me.test\r\n", b"AUTH PLAIN " + PASSWORD + b"\r\n", b"NOOP\r\n"
        ), session(server, b"EHLO me.test\r\n", b"AUTH PLAIN\r\n", PASSWORD + b"\r\n", b"NOOP\r\n"):  # fmt: skip
            pass
    for recorded in recorder.sessions():
        text = recorded.transcript.text() + "".join(line.text for line in recorded.lines())
        assert PASSWORD.decode() not in text
        assert "***" in text
        assert recorded.user == "wilma"
        kept = b"".join(entry.data for entry in recorded._entries)
        assert PASSWORD not in kept
        assert not recorded._tracker.kept("client")


async def test_a_long_message_is_cut_with_a_note(tmp_path: Path) -> None:
    recorder = web.Recorder()
    body = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 5000
    async with Picky(tmp_path / "mail.db") as store:
        async with session(Server(recorder.hooks(store)), b"EHLO me.test\r\n", *message(body=body), b"NOOP\r\n"):
            pass
    (recorded,) = recorder.sessions()
    texts = [line.text for line in recorded.lines()]
    elided = len(body) - _recorder.MESSAGE_OCTETS
    assert f"{elided} more octets of the message are not kept" in texts
    assert texts[texts.index(f"{elided} more octets of the message are not kept") + 1] == "."
    assert "NOOP" in texts
    assert sum(len(entry.data) for entry in recorded._entries) < 4096


@pytest.mark.parametrize("last", [b"BDAT 5 LAST\r\ny\r\n\r\n", b"BDAT 0 LAST\r\n"])
async def test_chunks_of_a_message_are_cut_too(tmp_path: Path, last: bytes) -> None:
    recorder = web.Recorder()
    chunk = b"Subject: x\r\n\r\n" + b"x\r\n" * 1000
    async with Picky(tmp_path / "mail.db") as store:
        async with session(
            Server(recorder.hooks(store)), b"EHLO me.test\r\n", *message()[:2], b"BDAT %d\r\n" % len(chunk) + chunk, last, b"NOOP\r\n"
        ):  # fmt: skip
            pass
        entries = [entry async for entry in store]
    (recorded,) = recorder.sessions()
    assert recorded.messages[0].id == entries[0].id
    assert any(line.text.endswith("octets of the message are not kept") for line in recorded.lines())
    assert "NOOP" in [line.text for line in recorded.lines()]


async def test_memory_for_sessions_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recorder, "SESSION_OCTETS", 5000)
    recorder = web.Recorder(sessions=2)
    server = Server(recorder.hooks(Hooks()))
    for _ in range(3):
        async with session(server, b"EHLO me.test\r\n", *[b"NOOP\r\n"] * 50):
            pass
    assert len(recorder.sessions()) == 2
    for recorded in recorder.sessions():
        assert recorded._kept <= 5000
        assert recorded.lines()[0].text == f"{recorded.dropped_octets} octets before this are not kept"
        assert recorded.received_octets == 14 + 6 * 50


async def test_a_dropped_session_is_not_kept_for_its_messages() -> None:
    recorder = web.Recorder(sessions=1)
    async with Memory() as store:
        server = Server(recorder.hooks(store))
        async with session(server, b"EHLO me.test\r\n", *message()):
            pass
        (recorded,) = recorder.sessions()
        (stored,) = [entry.id async for entry in store.entries()]
        assert recorder.session_of(stored) is recorded
        dropped = weakref.ref(recorded)
        async with session(server, b"EHLO me.test\r\n"):
            pass
    del recorded
    gc.collect()
    assert recorder.session_of(stored) is None
    assert dropped() is None


async def test_pipelined_transactions_keep_their_messages_apart(tmp_path: Path) -> None:
    recorder = web.Recorder()
    async with Picky(tmp_path / "mail.db") as store:
        one = b"MAIL FROM:<%b@example.org>\r\nRCPT TO:<%b@example.org>\r\nBDAT 3 LAST\r\n%b\r\n"
        async with session(Server(recorder.hooks(store)), b"EHLO me.test\r\n") as _:
            pass
        near, far = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Server(recorder.hooks(store)).serve_stream, far)
            await near.send_all(b"EHLO me.test\r\n" + b"".join(one % (name, name, name) for name in (b"a", b"b", b"c")))
            received = b""
            while received.count(b"\r\n250 2.0.0") < 3:
                received += await near.receive_some()
            await near.aclose()
        stored = {entry.id: entry.sender async for entry in store}
    recorded = recorder.sessions()[0]
    assert {sent.id: sent.sender.strip("<>") for sent in recorded.messages} == stored


async def test_recipients_of_lmtp_have_a_final_reply_each(tmp_path: Path) -> None:
    class Second(SQLite):
        async def data(self, session: Any, body: Any) -> list[Reply | None]:
            await super().data(session, body)
            return [None, Reply(452, "Mailbox full", "4.2.2")]

    recorder = web.Recorder()
    async with Second(tmp_path / "mail.db") as store:
        async with session(Server(recorder.hooks(store), lmtp=True), b"LHLO me.test\r\n", *message(2), b"QUIT\r\n"):
            pass
    (sent,) = recorder.sessions()[0].messages
    assert [(each.final_reply or "")[:3] for each in sent.recipients] == ["250", "452"]


async def test_a_line_without_an_end_ends_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recorder, "MAX_LINE", 100)
    recorder = web.Recorder()
    async with session(
        Server(recorder.hooks(Hooks())), b"EHLO me.test\r\n", b"NOOP\r\n" + b"x" * 200 + b"\r\nNOOP\r\n"
    ):
        pass
    assert recorder.sessions()[0].received_octets > 200


async def test_api_shows_sessions(tmp_path: Path) -> None:
    recorder = web.Recorder()
    async with Picky(tmp_path / "mail.db") as store:
        server = Server(recorder.hooks(store))
        async with client(web.app(server, store, recorder=recorder)) as http:
            async with session(server, b"EHLO me.test\r\n", *message(), b"NOOP\r\n"):
                (listed,) = (await http.get("/api/sessions")).json()["sessions"]
                assert listed["seconds"] is None
            (listed,) = (await http.get("/api/sessions")).json()["sessions"]
            message_id = listed["messages"][0]["id"]
            for path in (f"/api/sessions/{listed['id']}", f"/api/messages/{message_id}/session"):
                shown = (await http.get(path)).json()
                assert ("C", "EHLO me.test") in [(line["side"], line["text"]) for line in shown["transcript"]]
            assert (await http.get("/api/sessions/none")).status_code == 404
            assert (await http.get("/api/messages/none/session")).status_code == 404
        async with client(web.app(server, store)) as http:
            response = await http.get("/api/sessions")
            assert response.status_code == 404
            assert "--http-transcripts" in response.json()["error"]
