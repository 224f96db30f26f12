"""Reading and removing the messages of a Maildir that other programs use, too."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtp_trio import stores
from smtp_trio.stores import Entry, Maildir, MessageNotFoundError, StoreError, _maildir_file

from .sessions import body, transaction

MESSAGE = b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nDate: Sun, 22 Nov 2026 09:00:00 +0100\r\n\r\nhello\r\n"


async def put(store: Maildir, message: bytes = MESSAGE, to: tuple[str, ...] = ("you@mx.test",)) -> str:
    return await store.put(transaction("me@client.test", *to), body(message))


async def ids(store: Maildir) -> list[str]:
    return [entry.id async for entry in store]


async def test_entry_has_the_envelope_the_subject_and_the_date(tmp_path: Path) -> None:
    store = Maildir(tmp_path)
    uid = await put(store, to=("a@mx.test", "b@mx.test"))
    assert [entry async for entry in store.entries()] == [
        Entry(
            id=uid,
            received=datetime(2026, 11, 22, 9, 23, 26, tzinfo=UTC),
            sender="me@client.test",
            recipients=("a@mx.test", "b@mx.test"),
            size=len(MESSAGE),
            subject="grüße",
            date=datetime(2026, 11, 22, 9, tzinfo=UTC) - timedelta(hours=1),
        )
    ]


async def test_entry_is_read_from_the_beginning_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the envelope is longer than what is read at first, or the header has no end."""
    monkeypatch.setattr(_maildir_file, "START_OCTETS", 64)
    store = Maildir(tmp_path)
    many = tuple(f"user{n:06}@mx.test" for n in range(1000))
    large = await put(store, MESSAGE + b"x" * 200_000, many)
    endless = await put(store, b"X: y\r\n" * 50_000)
    first, second = [entry async for entry in store]
    assert (first.id, first.recipients, first.subject, first.size) == (large, many, "grüße", len(MESSAGE) + 200_000)
    assert (second.id, second.subject, second.size) == (endless, None, 300_000)


async def test_messages_are_in_the_order_of_their_arrival_wherever_they_are(tmp_path: Path) -> None:
    store = Maildir(tmp_path)
    expected = [await put(store) for _ in range(12)]
    for uid in expected[::3]:
        (tmp_path / "new" / uid).rename(tmp_path / "cur" / f"{uid}:2,RS")
    assert await ids(store) == expected
    assert [entry.id async for entry in store.entries(reverse=True)] == expected[::-1]
    assert (await store.get(expected[0])).message == (await store.get(expected[1])).message == MESSAGE


async def test_removing(tmp_path: Path) -> None:
    store = Maildir(tmp_path)
    first, second, third = [await put(store) for _ in range(3)]
    (tmp_path / "new" / first).rename(tmp_path / "cur" / f"{first}:2,S")
    assert await store.remove([first, second, second, "unknown"]) == 2
    assert await ids(store) == [third]
    with pytest.raises(MessageNotFoundError):
        await store.get(first)
    assert await store.remove([first]) == 0


@pytest.mark.parametrize("id", ["", ".", "..", "../new/x", "x:2,S", "/etc/passwd", "\0"])
async def test_id_that_is_not_one(tmp_path: Path, id: str) -> None:
    store = Maildir(tmp_path)
    (tmp_path / "outside").write_bytes(b"x")
    await put(store)
    with pytest.raises(MessageNotFoundError):
        await store.get(id)
    assert await store.remove([id]) == 0


async def test_file_that_a_mail_reader_renames_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Maildir(tmp_path)
    moved, kept, gone = [await put(store) for _ in range(3)]
    found = store._list()

    def outdated(*, reverse: bool) -> object:
        (tmp_path / "new" / moved).rename(tmp_path / "cur" / f"{moved}:2,S")
        (tmp_path / "new" / gone).unlink()
        return found

    monkeypatch.setattr(store, "_list", outdated)
    assert await ids(store) == [moved, kept]


FOREIGN = b"Subject: theirs\r\nFrom: x@y.test\r\n\r\nbody\r\n"
FOREIGN_FILES = [
    (FOREIGN, "", ()),
    (b"Return-Path: <a@b.test>\nX-Original-To: c@d.test\nDelivered-To: c@d.test\nReceived: x\n", "a@b.test", ("c@d.test",)),
    (b"Return-path: <>\nEnvelope-to: c@d.test,\n e@d.test\nDelivery-date: x\n", "", ("c@d.test", "e@d.test")),
    (b"Return-Path: <a\xff@b.test>\r\nEnvelope-To: <c@d.test>\r\nReceived: x; Sun, 22 Nov 2026 09:23:26 +0000\r\n",
     "a\ufffd@b.test", ("c@d.test",)),
    (b"Return-Path: <a@b.test>\r\nEnvelope-To: <c@d.test>\r\nReceived: x; Sun, 99 Nov 2026 09:23:26 +0000\r\n",
     "a@b.test", ("c@d.test",)),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "sender", "recipients"), FOREIGN_FILES)
async def test_file_of_another_program(tmp_path: Path, fields: bytes, sender: str, recipients: tuple[str, ...]) -> None:
    """The entry has what can be read, and the message is the whole file."""
    store = Maildir(tmp_path)
    own = await put(store)
    (tmp_path / "cur/1700000000.P1.other:2,S").write_bytes(fields + FOREIGN)
    (tmp_path / "cur/.hidden").write_bytes(fields)
    foreign, entry = [entry async for entry in store]
    assert entry.id == own
    assert foreign == Entry(
        id="1700000000.P1.other",
        received=datetime.fromtimestamp(1700000000, UTC),
        sender=sender,
        recipients=recipients,
        size=len(fields + FOREIGN),
        subject="theirs",
    )
    assert (await store.get("1700000000.P1.other")).message == fields + FOREIGN


async def test_time_of_a_file_without_one_in_its_name(tmp_path: Path) -> None:
    store = Maildir(tmp_path)
    await store.open()
    (tmp_path / "cur/saved").write_bytes(FOREIGN)
    os.utime(tmp_path / "cur/saved", (10**9, 10**9))
    assert [entry.received.timestamp() async for entry in store] == [10**9]


async def test_file_that_cannot_be_read_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Maildir(tmp_path)
    uid = await put(store)
    (tmp_path / "new/1.link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "new/2.pipe")
    (tmp_path / "new/3.directory").mkdir()
    (tmp_path / "new/4.theirs").write_bytes(FOREIGN)
    real = os.open

    def refuse(path: str, *args: int) -> int:
        if str(path).endswith("theirs"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args)

    monkeypatch.setattr(os, "open", refuse)
    assert await ids(store) == [uid]
    assert sorted(record.getMessage() for record in caplog.records) == [
        f'{tmp_path}/new/1.link skipped: "Too many levels of symbolic links"',
        f'{tmp_path}/new/4.theirs skipped: "Permission denied"',
    ]


def test_pattern_of_the_envelope_fails_in_linear_time() -> None:
    lines = b"\r\n x" * 50_000
    assert not _maildir_file.FIELDS.match(b"Return-Path: <a>\r\nX-Envelope-Parameters: x" + lines)
    assert not _maildir_file.FIELDS.match(b"Return-Path: <a>\r\nEnvelope-To: <a>\r\nReceived: x" + lines)
    assert not _maildir_file.FIELDS.match(b"Return-Path: <a>\r\n" + b"Envelope-To: <a>\r\n" * 50_000)


@pytest.mark.parametrize(
    ("url", "path", "newline"),
    [
        ("maildir:box", "box", "crlf"),
        ("maildir:box?newline=lf", "box", "lf"),
        ("maildir:box?newline=crlf", "box", "crlf"),
        ("maildir:a?b=c", "a?b=c", "crlf"),
        ("maildir:a?", "a?", "crlf"),
        ("maildir:a?newline=x?newline=lf", "a?newline=x", "lf"),
        ("maildir:a?newline=lf?newline=crlf", "a?newline=lf", "crlf"),
    ],
)
def test_url(url: str, path: str, newline: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    store = stores.open(url)
    assert isinstance(store, Maildir)
    assert (store.path, store.newline) == (str(tmp_path / path), newline)
    again = stores.open(store.url)
    assert isinstance(again, Maildir)
    assert (again.path, again.newline) == (store.path, store.newline)


@pytest.mark.parametrize("url", ["maildir:box?newline=LF", "maildir:box?newline=", "maildir:?newline=lf", "maildir:"])
def test_invalid_url(url: str) -> None:
    with pytest.raises(ValueError, match=r'newline must be "crlf" or "lf"|must be maildir:PATH'):
        stores.open(url)


async def test_maildir_that_cannot_be_read(tmp_path: Path) -> None:
    store = Maildir(tmp_path / "box")
    await store.open()
    (tmp_path / "box/cur").rmdir()
    (tmp_path / "box/cur").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        await ids(store)
