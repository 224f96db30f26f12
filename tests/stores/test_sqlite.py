"""The SQLite store's rows, and what it makes of a database that is not as it should be."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from smtp_trio.stores import MessageTooBigError, SQLite, Stored, StoreError, read, sqlite

from .sessions import body, envelope, large, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLite]:
    store = SQLite(tmp_path / "mail.db")
    yield store
    await store.aclose()


def query(path: str | Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql, values).fetchall()


def content(store: SQLite, new: bytes | None = None) -> bytes:
    """The database as a file, after ``new`` was put in its place."""
    path = Path(store.path)
    if new is not None:
        path.write_bytes(new)
    return path.read_bytes()


async def test_a_message_and_its_envelope(store: SQLite) -> None:
    session = transaction("Me@Client.TEST", "a@mx.test", "hidden+bcc@mx.test", "Postmaster")
    message = b"Envelope-To: <forged@evil.test>\r\n\r\n..leading dot\r\n"
    uid = await store.put(session, body(message))

    assert uid == envelope(session).id == envelope(session).context["smtp_trio.store_id"]
    recipients = ("a@mx.test", "hidden+bcc@mx.test", "Postmaster")
    assert read(store.path, uid) == Stored("Me@Client.TEST", recipients, message, session.server.now())
    when = "2026-11-22T09:23:26.004711+00:00"
    row = (1, uid, when, "Me@Client.TEST", len(message), "192.0.2.1", "client.test", "ESMTP", None, None, "", message)
    assert query(store.path, "SELECT * FROM messages") == [row]
    assert query(store.path, "SELECT * FROM recipients") == [(1, n, r, "") for n, r in enumerate(recipients)]


async def test_mail_is_private(store: SQLite) -> None:
    await store.put(transaction("a@b.test", "c@d.test"), body(b"x\r\n"))

    files = sorted(Path(store.path).parent.iterdir())
    assert [file.name for file in files] == ["mail.db", "mail.db-shm", "mail.db-wal"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.parametrize(("sender", "recipient"), [("", "you@mx.test"), ("jürgen@bücher.test", "用户@例子.test")])
@pytest.mark.parametrize("message", [b"", b"\x00\xff\r\r\n\n"])
async def test_messages_of_every_kind(store: SQLite, sender: str, recipient: str, message: bytes) -> None:
    uid = await store.put(transaction(sender, recipient), body(message))

    stored = read(store.path, uid)
    assert (stored.sender, stored.recipients, stored.message) == (sender, (recipient,), message)


async def test_a_large_message_goes_through_a_file_without_a_name(store: SQLite) -> None:
    chunks = tuple(large())
    uid = await store.put(transaction(), body(*chunks))
    await store.aclose()

    assert os.listdir(os.path.dirname(store.path)) == ["mail.db"]
    assert read(store.path, uid).message == b"".join(chunks)


async def test_a_message_that_no_row_can_hold(store: SQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LARGEST", 2_400_000)
    for size in (5 << 19, 5 << 20):  # one is found out at its end, the other on the way
        with pytest.raises(MessageTooBigError) as refused:
            await store.put(transaction(), body(*large(size)))
        assert str(refused.value.reply).startswith("552 5.3.4")
    assert query(store.path, "SELECT count(*) FROM messages") == [(0,)]


async def test_two_messages_of_one_name_do_not_harm_a_third(store: SQLite) -> None:
    """SQLite undoes the statement that fails and no more, so the rest of the group is kept."""
    sessions = [transaction() for _ in range(3)]
    rows = [store._spool(session, envelope(session)) for session in sessions]
    rows[1]._columns = rows[0]._columns
    refused = store._commit(rows)

    assert [type(refused.get(row)) for row in rows] == [type(None), sqlite3.IntegrityError, type(None)]
    assert query(store.path, "SELECT uid FROM messages") == [(rows[0].name,), (rows[2].name,)]
    assert query(store.path, "SELECT message, n FROM recipients") == [(1, 0), (2, 0)]


async def test_large_messages_and_small_ones_of_one_name(store: SQLite) -> None:
    """One in memory spoils those in memory, one in a file nobody else: each that can be kept is kept whole."""
    octets = list(large(3 << 20))
    contents = [[b"small\r\n"], octets, [b"twin\r\n"], octets, [b"last\r\n"]]
    rows = []
    for chunks in contents:
        session = transaction()
        rows.append(store._spool(session, envelope(session)))
        await rows[-1].fill(body(*chunks))
    assert [row.fd is None for row in rows] == [True, False, True, False, True]
    rows[2]._columns = rows[0]._columns
    rows[3]._columns = rows[1]._columns
    refused = store._commit(rows)

    assert refused.keys() == {rows[2], rows[3]}
    for number in (0, 1, 4):
        assert read(store.path, rows[number].name).message == b"".join(contents[number])
    assert query(store.path, "SELECT count(*) FROM recipients") == [(3,)]


async def test_a_group_that_sqlite_has_undone_is_refused(store: SQLite) -> None:
    """Some faults make SQLite undo the whole transaction; this trigger does as they do."""
    await store.open()
    assert store._db is not None
    store._db.execute(
        "CREATE TRIGGER fault BEFORE INSERT ON messages WHEN NEW.sender = 'bad@client.test' "
        "BEGIN SELECT RAISE(ROLLBACK, 'undone'); END"
    )
    sessions = [transaction(sender) for sender in ("good@client.test", "bad@client.test", "good@client.test")]
    with pytest.raises(sqlite3.IntegrityError, match="undone"):
        store._commit([store._spool(session, envelope(session)) for session in sessions])
    await store.put(transaction("good@client.test"), body(b"hello\r\n"))

    assert query(store.path, "SELECT count(*) FROM messages") == [(1,)]


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_database_that_was_moved_while_in_use(store: SQLite, tmp_path: Path, replaced: bool) -> None:
    """All that had its 250 is in the file that was moved. The next message is not mixed with what is left of it."""
    await store.put(transaction(), body(b"before\r\n"))
    os.rename(store.path, tmp_path / "moved.db")
    if replaced:
        other = SQLite(tmp_path / "other.db")
        await other.put(transaction(), body(b"of the other\r\n"))
        await other.aclose()
        os.rename(other.path, store.path)
    with pytest.raises(StoreError, match="was moved"):
        await store.put(transaction(), body(b"refused\r\n"))
    await store.put(transaction(), body(b"after\r\n"))
    await store.aclose()

    assert (b"before\r\n",) in query(tmp_path / "moved.db", "SELECT body FROM messages")
    expected = [(b"of the other\r\n",)] * replaced + [(b"after\r\n",)]
    assert query(store.path, "SELECT body FROM messages") == expected
    for path in (store.path, tmp_path / "moved.db"):
        assert query(path, "PRAGMA integrity_check") == [("ok",)]


async def test_the_database_is_safe_and_open_to_other_readers(store: SQLite) -> None:
    await store.put(transaction(), body(b"one\r\n"))
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        await store.put(transaction(), body(b"two\r\n"))
        assert other.execute("SELECT count(*) FROM messages").fetchone() == (1,)

    assert store._db is not None
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert query(store.path, "PRAGMA user_version") == [(1,)]


async def test_it_is_closed_and_opened_again(store: SQLite) -> None:
    await store.open()
    for _ in range(3):
        await store.put(transaction(), body(b"hello\r\n"))
        await store.aclose()
        await store.aclose()

    assert query(store.path, "SELECT count(*) FROM messages") == [(3,)]


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("PRAGMA user_version = 2", "newer smtp_trio"),
        ("PRAGMA user_version = 1", "some other program's"),
        ("CREATE TABLE t (x)", "some other program's"),
        ("CREATE TABLE messages (x)", "some other program's"),
    ],
)
async def test_a_foreign_database_is_left_as_it_is(store: SQLite, sql: str, why: str) -> None:
    query(store.path, sql)
    before = content(store)
    with pytest.raises(StoreError, match=why):
        await store.open()
    with pytest.raises(StoreError, match=why) as refused:
        await store.put(transaction(), body(b"hello\r\n"))

    assert str(refused.value.reply).startswith("451 4.3.0")
    assert why not in str(refused.value.reply)
    assert content(store) == before


async def test_a_file_that_is_no_database(store: SQLite) -> None:
    content(store, b"Subject: hello\n\n" * 100)
    with pytest.raises(StoreError, match="not a database"):
        await store.open()


async def test_reading_what_is_not_there(store: SQLite) -> None:
    with pytest.raises(sqlite3.OperationalError):
        read(store.path, "T1")
    query(store.path, "CREATE TABLE t (x)")
    with pytest.raises(ValueError, match="not the database"):
        read(store.path, "T1")
    os.unlink(store.path)
    await store.open()
    with pytest.raises(LookupError, match="T1"):
        read(store.path, "T1")


async def test_a_path_with_characters_of_an_uri(tmp_path: Path) -> None:
    store = SQLite(tmp_path / "100% mail?#.db")
    uid = await store.put(transaction(), body(b"hello\r\n"))
    assert read(store.path, uid).message == b"hello\r\n"
    await store.aclose()


TURNS = """
import sys, time
from smtp_trio.stores.sqlite import SQLite, begin
db, longest = SQLite(sys.argv[1])._connect(), 0.0
for _ in range(250):
    since = time.monotonic()
    begin(db)
    longest = max(longest, time.monotonic() - since)
    db.execute("UPDATE turns SET n = n + 1")
    db.execute("COMMIT")
print(longest)
"""


async def test_servers_that_keep_one_another_busy_take_turns(store: SQLite) -> None:
    """Where each does with SQLite's own wait, some wait for seconds, and some in vain."""
    await store.open()
    query(store.path, "CREATE TABLE turns (n)")
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("INSERT INTO turns VALUES (0)")
    command = [sys.executable, "-c", TURNS, store.path]
    waits: list[float] = []

    async def work() -> None:
        done = await trio.run_process(command, capture_stdout=True)
        waits.append(float(done.stdout))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(work)
    assert query(store.path, "SELECT n FROM turns") == [(1000,)]
    assert max(waits) < 2
