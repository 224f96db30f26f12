"""The files of the Maildir store: their directories, names and contents, and reading them."""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from email.parser import BytesParser
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
from helpers import NAME, connected

from smtp_trio import Server
from smtp_trio.stores import Maildir, Stored, StoreError, maildir, read
from smtp_trio.stores._disk import PART
from smtp_trio.stores.maildir import MaildirSpool

from .sessions import between_transactions, body, envelope, large, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from trio.testing import MockClock

FORGED = (
    b"Return-Path: <forged@evil.test>\r\nEnvelope-To: <forged@evil.test>\r\nSubject: hello\r\n\r\n..leading dot\r\n"
)


async def put(store: Maildir, *chunks: bytes, sender: str = "me@client.test", to: tuple[str, ...] = ()) -> str:
    return await store.put(transaction(sender, *to), body(*chunks))


async def test_message_and_its_envelope(tmp_path: Path) -> None:
    store = Maildir(tmp_path / "box")
    session = transaction("Me@Client.TEST", "a@mx.test", "hidden+bcc@mx.test", "Postmaster")
    name = await store.put(session, body(FORGED[:40], FORGED[40:]))

    assert envelope(session).context["smtp_trio.store_id"] == name
    assert (tmp_path / "box/new" / name).read_bytes() == (
        b"Return-Path: <Me@Client.TEST>\r\n"
        b"Envelope-To: <a@mx.test>\r\n"
        b"Envelope-To: <hidden+bcc@mx.test>\r\n"
        b"Envelope-To: <Postmaster>\r\n"
    ) + session.received() + FORGED
    assert read(tmp_path / "box/new" / name) == Stored(
        id=name,
        received=session.server.now().replace(microsecond=0),
        sender="Me@Client.TEST",
        recipients=("a@mx.test", "hidden+bcc@mx.test", "Postmaster"),
        size=len(FORGED),
        subject="hello",
        message=FORGED,
    )


@pytest.mark.parametrize(
    ("sender", "recipient"),
    [
        ("", "you@mx.test"),
        ("jürgen@bücher.test", "用户@例子.test"),
        ('"a b;c>"@client.test', '"; Sun, 22 Nov 2026 09:23:26 +0000"@[IPv6:::1]'),
    ],
)
async def test_envelopes(tmp_path: Path, sender: str, recipient: str) -> None:
    name = await put(Maildir(tmp_path), b"hello\r\n", sender=sender, to=(recipient,))

    stored = read(tmp_path / "new" / name)
    assert (stored.sender, stored.recipients, stored.message) == (sender, (recipient,), b"hello\r\n")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\n",
        b"\r\n\r\nno header\r\n",
        b" not a continuation\r\n",
        b"\tfor <forged@client.test>\r\nSubject: x\r\n",
        b"From me@client.test Mon Jan  1 00:00:00 2024\r\nSubject: x\r\n",
        b"\xef\xbb\xbfSubject: x\r\n",
        b": x\r\n",
        b"\x00\xff\r\r\n\n",
        b"no end",
        b"noend",
        b"Subject: x\r\n\r\nx\r\n",
    ],
)
@pytest.mark.parametrize("newline", ["crlf", "lf"])
async def test_messages(tmp_path: Path, message: bytes, newline: str) -> None:
    store = Maildir(tmp_path, newline=newline)  # type: ignore[arg-type]
    name = await put(store, *(message[n : n + 1] for n in range(len(message))))

    expected = message if newline == "crlf" else message.replace(b"\r\n", b"\n")
    assert read(tmp_path / "new" / name).message == expected
    parsed = BytesParser().parsebytes((tmp_path / "new" / name).read_bytes())
    assert parsed.keys() == ["Return-Path", "Envelope-To", "Received"] + ["Subject"] * message.startswith(b"Subject: x")
    assert "forged" not in parsed["Received"]


async def test_message_of_a_session_without_a_header(tmp_path: Path) -> None:
    """The session and the store do not both add an empty line."""
    store = Maildir(tmp_path)
    async with connected(Server(store, name=NAME)) as client:
        for message in (b" forged\r\n", b"\r\nx\r\n", b"Subject: x\r\n\r\nx\r\n"):
            if not client.replies:
                await client.hello()
            await client.deliver(message)
            (path,) = (tmp_path / "new").iterdir()
            assert read(path).message == message
            path.unlink()


async def test_lf_files_have_no_crlf_however_the_message_is_chunked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp_trio.stores._spool.Spool.memory", 7)
    monkeypatch.setattr("smtp_trio.stores._spool.Spool.part", 5)
    message = b"a\r\n\r\nbc\r\ndefg\r\n\r" + b"\nx\ry\r\n" * 5
    store = Maildir(tmp_path, newline="lf")
    for size in range(1, 20):
        name = await put(store, *(message[n : n + size] for n in range(0, len(message), size)))
        content = (tmp_path / "new" / name).read_bytes()
        assert read(tmp_path / "new" / name).message == message.replace(b"\r\n", b"\n")
        assert b"\r\n" not in content
        assert name.endswith(f",S={len(content)}")


async def test_large_message_is_spooled_in_a_file(tmp_path: Path) -> None:
    chunks = tuple(large())
    name = await put(Maildir(tmp_path), *chunks)

    assert read(tmp_path / "new" / name).message == b"".join(chunks)
    assert os.listdir(tmp_path / "tmp") == []


async def test_large_message_is_flushed_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the flush of another message does not have to wait for all of it."""
    sizes = []

    def flush(fd: int) -> None:
        sizes.append(os.fstat(fd).st_size)

    monkeypatch.setattr(maildir, "flush_octets", flush)
    store = Maildir(tmp_path)
    await put(store, b"x" * (PART - 1), b"\r\n" * 100)
    assert sizes == []
    name = await put(store, *large())
    size = (tmp_path / "new" / name).stat().st_size
    assert all(later - before <= PART for before, later in pairwise([0, *sizes, size]))
    assert sizes[-1] == size


async def test_parts_of_a_large_message_are_not_written_during_a_commit(tmp_path: Path) -> None:
    """One is written between two commits, if there is always another one."""
    store = Maildir(tmp_path)
    await store.open()
    spool = MaildirSpool(store, "large", b"", lf=False)
    store.no_commit.clear()
    written = threading.Event()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def write() -> None:
            await spool.in_thread(partial(spool.write, bytearray(b"x" * PART)))
            written.set()

        assert not await trio.to_thread.run_sync(written.wait, 0.1)
        assert (tmp_path / "tmp/large").stat().st_size == 0
        await put(store, b"small\r\n")
    assert (tmp_path / "tmp/large").stat().st_size == PART
    spool.remove()


async def test_file_that_no_thread_could_remove_is_removed_with_the_next_message(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """All threads wait for a busy disk when the session gives up its message."""
    store = Maildir(tmp_path)
    held: list[object] = []

    async def failing() -> AsyncGenerator[bytes]:
        for chunk in large():
            yield chunk
        for _ in range(int(store.writers.total_tokens)):
            held.append(object())
            await store.writers.acquire_on_behalf_of(held[-1])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.put(transaction(), failing())
    assert len(os.listdir(tmp_path / "tmp")) == 1
    for borrower in held:
        store.writers.release_on_behalf_of(borrower)
    name = await put(store, b"Subject: small\r\n")
    assert os.listdir(tmp_path / "tmp") == []
    assert os.listdir(tmp_path / "new") == [name]


async def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir, "HOST", maildir.escape_host("host/name:1"))
    store = Maildir(tmp_path)
    names = [await put(store, b"hello\r\n") for _ in range(3)]

    assert len(set(names)) == 3
    for name in names:
        size = (tmp_path / "new" / name).stat().st_size
        assert re.fullmatch(rf"1795339406\.M4711P{os.getpid()}Q\d+\.host\\057name\\0721,S={size}", name)


async def test_maildir_is_created_and_private(tmp_path: Path) -> None:
    name = await put(Maildir(tmp_path / "far/off/box"), b"hello\r\n")

    assert sorted(os.listdir(tmp_path / "far/off/box")) == ["cur", "new", "tmp"]
    assert stat.S_IMODE((tmp_path / "far/off/box").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "far/off/box/new" / name).stat().st_mode) == 0o600


async def test_files_in_tmp_are_removed_after_36_hours(tmp_path: Path) -> None:
    for directory in ("tmp", "new", "cur", "tmp/directory"):
        (tmp_path / directory).mkdir()
    old = time.time() - 36 * 3600 - 60
    for name in ("tmp/old", "new/old", "cur/old", "tmp/recent"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (old, old if name != "tmp/recent" else old + 120))
    os.utime(tmp_path / "tmp/directory", (old, old))
    await Maildir(tmp_path).open()

    assert sorted(os.listdir(tmp_path / "tmp")) == ["directory", "recent"]
    assert os.listdir(tmp_path / "new") == os.listdir(tmp_path / "cur") == ["old"]


async def test_delivery_does_not_overwrite_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir, "unique_name", lambda now: "same")
    store = Maildir(tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/same").write_bytes(b"another's")
    with pytest.raises(StoreError):
        await put(store, b"hello\r\n")
    with pytest.raises(StoreError):
        await put(store, *large())

    assert (tmp_path / "tmp/same").read_bytes() == b"another's"
    assert os.listdir(tmp_path / "new") == []


async def test_put_outside_a_transaction(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not receiving a message"):
        await Maildir(tmp_path).put(between_transactions(), body())


def test_invalid_newline(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='"crlf" or "lf"'):
        Maildir(tmp_path, newline="\n")  # type: ignore[arg-type]


def test_reading_a_file_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"Subject: hello\r\n\r\n")
    with pytest.raises(ValueError, match="not written by a Maildir store"):
        read(tmp_path / "file")
