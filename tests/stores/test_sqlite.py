"""The rows of the SQLite store, and databases that were moved, replaced or created by other programs."""

from __future__ import annotations

import fcntl
import itertools
import os
import sqlite3
import struct
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest
import trio

from smtp_trio.stores import (
    Entry,
    MessageTooBigError,
    SQLite,
    Stored,
    StoreError,
    _sqlite_connection,
    _sqlite_database,
    _sqlite_spool,
    read,
)
from smtp_trio.stores._disk import ProcessMark
from smtp_trio.stores._sqlite_database import begin
from smtp_trio.stores._sqlite_spool import PIECE, SQLiteSpool

from .sessions import body, envelope, large, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TESTS = Path(__file__).parents[1]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLite]:
    store = SQLite(tmp_path / "mail.db")
    yield store
    await store.aclose()


def query(path: str | Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db, db:
        return db.execute(sql, values).fetchall()


def file_content(store: SQLite, new: bytes | None = None) -> bytes:
    """Return the octets of the database's file, after replacing them with ``new``."""
    path = Path(store.path)
    if new is not None:
        path.write_bytes(new)
    return path.read_bytes()


def spool_of(store: SQLite, session: Any) -> SQLiteSpool:
    return store._spool(Entry.of(session, envelope(session)), session.received)


async def test_message_and_its_envelope(store: SQLite) -> None:
    session = transaction("Me@Client.TEST", "a@mx.test", "hidden+bcc@mx.test", "Postmaster")
    message = b"Envelope-To: <forged@evil.test>\r\n\r\n..leading dot\r\n"
    uid = await store.put(session, body(message))

    assert uid == envelope(session).id == envelope(session).context["smtp_trio.store_id"]
    recipients = ("a@mx.test", "hidden+bcc@mx.test", "Postmaster")
    assert read(store.path, uid) == Stored(
        id=uid,
        received=session.server.now(),
        sender="Me@Client.TEST",
        recipients=recipients,
        size=len(message),
        peer="192.0.2.1",
        helo="client.test",
        protocol="ESMTP",
        message=message,
    )
    when = "2026-11-22T09:23:26.004711+00:00"
    row = (1, uid, when, "Me@Client.TEST", len(message), "192.0.2.1", "client.test", "ESMTP", None, None, "", message)
    assert query(store.path, "SELECT * FROM messages") == [(*row, None, None)]
    assert query(store.path, "SELECT * FROM recipients") == [(1, n, r, "") for n, r in enumerate(recipients)]


async def test_files_are_private(store: SQLite) -> None:
    await store.put(transaction("a@b.test", "c@d.test"), body(b"x\r\n"))

    files = sorted(Path(store.path).parent.iterdir())
    assert [file.name for file in files] == ["mail.db", "mail.db-shm", "mail.db-wal"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.parametrize(("sender", "recipient"), [("", "you@mx.test"), ("jürgen@bücher.test", "用户@例子.test")])
@pytest.mark.parametrize("message", [b"", b"\x00\xff\r\r\n\n"])
async def test_envelopes_and_messages(store: SQLite, sender: str, recipient: str, message: bytes) -> None:
    uid = await store.put(transaction(sender, recipient), body(message))

    stored = read(store.path, uid)
    assert (stored.sender, stored.recipients, stored.message) == (sender, (recipient,), message)


UNPUBLISHED = "SELECT uid FROM unpublished"
ORPHANS = "SELECT DISTINCT uid FROM pieces WHERE uid NOT IN (SELECT uid FROM message_rows)"


async def test_large_message_is_written_in_pieces(store: SQLite) -> None:
    """They are invisible to readers while it is received, and its row has all its octets after it was stored."""
    session, chunks, seen = transaction(), tuple(large()), []

    def observed_chunks() -> Iterator[bytes]:
        for chunk in chunks:
            seen.append(query(store.path, "SELECT count(*) FROM messages"))
            yield chunk
        assert query(store.path, "SELECT count(*), sum(length(data)) >= 2 << 20 FROM pieces") == [(15, 1)]

    await store.open()
    uid = await store.put(session, body(chunks=observed_chunks()))

    assert seen == [[(0,)]] * len(chunks)
    assert read(store.path, uid).message == b"".join(chunks)
    size = sum(map(len, chunks))
    assert query(store.path, "SELECT size, length(body), typeof(body) FROM messages") == [(size, size, "blob")]
    assert query(store.path, UNPUBLISHED) == []


async def test_pieces_are_copied_into_the_database_a_few_at_a_time(store: SQLite) -> None:
    """A group of messages waits until that is done, so it must not be all that the log can have."""
    sizes = []

    def observed_chunks() -> Iterator[bytes]:
        for chunk in large(8 << 20):
            sizes.append(os.stat(f"{store.path}-wal").st_size)
            yield chunk

    await store.open()
    await store.put(transaction(), body(chunks=observed_chunks()))
    assert max(sizes) < 8 * PIECE


async def test_pieces_of_different_messages_are_copied_into_the_database_together(store: SQLite) -> None:
    """Otherwise the first pieces of many messages would wait in the log, and be copied at once."""
    async with store:
        for uid in ("one", "another"):
            await store.in_turn(partial(store.write_piece, uid, 0, bytearray(PIECE)))
        assert os.stat(store.path).st_size > 2 * PIECE


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 13, 14, 15, 700])
async def test_body_in_pieces_has_every_octet(store: SQLite, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that no text contains, and wherever the pieces divide the message."""
    monkeypatch.setattr("smtp_trio.stores._spool.Spool.memory", 7)
    message = (bytes(range(256)) * 3)[:size]
    for chunk in (1, 5, 7, 700):
        uid = await store.put(transaction(), body(*(message[n : n + chunk] for n in range(0, size, chunk))))
        assert read(store.path, uid).message == message
    assert query(store.path, "SELECT count(*) FROM pieces") == [(0,)] or size >= 7


async def test_many_pieces_of_a_message_that_is_not_stored_are_removed(
    store: SQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp_trio.stores._spool.Spool.memory", 7)
    kept = await store.put(transaction(), body(*[b"kept in pieces\r\n"] * 30))
    with pytest.raises(LookupError):
        await store.put(transaction(), body(*[b"not to be stored\r\n"] * 30, error=LookupError()))

    assert query(store.path, UNPUBLISHED) == query(store.path, ORPHANS) == []
    assert read(store.path, kept).message == b"kept in pieces\r\n" * 30


@pytest.mark.parametrize("foreign_keys", [False, True])
async def test_deleting_messages(store: SQLite, foreign_keys: bool) -> None:
    """As from a table. The recipients and the pieces are deleted with them."""
    kept = await store.put(transaction(), body(*large()))
    await store.put(transaction(), body(*large()))
    await store.put(transaction(), body(b"small\r\n"))
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(f"PRAGMA foreign_keys = {foreign_keys:d}")
        db.execute("DELETE FROM messages WHERE uid <> ?", [kept])

    assert query(store.path, "SELECT uid FROM messages") == [(kept,)]
    assert query(store.path, "SELECT count(*) FROM recipients") == [(1,)]
    assert query(store.path, "SELECT DISTINCT uid FROM pieces") == [(kept,)]
    assert query(store.path, "PRAGMA foreign_key_check") == []


RECEIVE = """
import os, sys, trio
from stores.sessions import body, large, transaction
from smtp_trio.stores import SQLite

async def main():
    store = SQLite(sys.argv[1])
    def chunks():
        yield from large()
        print("waiting", flush=True)
        sys.stdin.read()
    await store.put(transaction(), body(chunks=chunks()))

trio.run(main)
"""


async def test_pieces_of_a_killed_process_are_removed_by_the_next_start(store: SQLite) -> None:
    """And those of a process that is still receiving a message are not."""
    command = [sys.executable, "-c", RECEIVE, store.path]
    # Another user who may list the directory can lock it.
    directory = os.open(os.path.dirname(store.path), os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    if hasattr(fcntl, "F_OFD_SETLK"):
        whole = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(directory, fcntl.F_OFD_SETLK, whole)
    async with trio.open_nursery() as nursery:
        processes: list[trio.Process] = []
        for _ in range(2):
            process = await nursery.start(
                partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, check=False, cwd=TESTS)
            )
            assert (await process.stdout.receive_some()).startswith(b"waiting")
            for table in ("unpublished", "pieces"):  # the two processes use the same ids
                query(store.path, f"UPDATE {table} SET uid = ? WHERE uid LIKE 'T%'", f"of process {len(processes)}")
            processes.append(process)
        killed, alive = processes
        killed.kill()
        await killed.wait()
        assert len(query(store.path, UNPUBLISHED)) == 2
        await store.open()
        [uid] = query(store.path, UNPUBLISHED)
        assert query(store.path, ORPHANS) == [uid]
        assert query(store.path, "SELECT count(*) FROM messages") == [(0,)]
        alive.kill()
    await store.aclose()
    await store.open()
    assert query(store.path, UNPUBLISHED) == query(store.path, ORPHANS) == []
    os.close(directory)


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="the system has no locks of open files")
def test_marks(tmp_path: Path) -> None:
    """Two of one process see each other, as long as they hold their numbers."""
    path = tmp_path / "log"
    path.touch()
    first, second = ProcessMark(5), ProcessMark(2**62 - 1)
    for mark in (first, second):
        mark.hold(str(path))
        mark.hold(str(path))
    assert first.is_held(2**62 - 1)
    assert second.is_held(5)
    assert not first.is_held(6)
    assert not first.is_held(5)  # its own
    first.release()
    first.release()
    assert not second.is_held(5)
    second.release()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic link"):
        first.hold(str(tmp_path / "link"))


async def test_message_whose_pieces_are_missing_is_refused(store: SQLite) -> None:
    """The database was replaced by another one, say, while it was received."""

    def chunks() -> Iterator[bytes]:
        yield from large()
        query(store.path, "DELETE FROM pieces WHERE n = 0")

    with pytest.raises(StoreError, match="was replaced") as refused:
        await store.put(transaction(), body(chunks=chunks()))
    assert str(refused.value.reply).startswith("451 4.3.0")
    assert query(store.path, UNPUBLISHED) == query(store.path, ORPHANS) == []
    assert query(store.path, "SELECT count(*) FROM messages") == [(0,)]


async def test_database_of_version_1_is_upgraded(store: SQLite) -> None:
    """Its messages, and an index of the user's, are kept; a message is read before and after the upgrade."""
    with closing(sqlite3.connect(store.path)) as db, db:
        for statement in _sqlite_database.UPGRADES[0]:
            db.execute(statement)
        row = (
            7,
            "T7",
            "2026-11-22T09:23:26+00:00",
            "a@b.test",
            6,
            "192.0.2.1",
            None,
            "SMTP",
            None,
            None,
            "",
            b"old\0\r\n",
        )
        db.execute(f"INSERT INTO messages VALUES ({', '.join('?' * 12)})", row)
        db.execute("INSERT INTO recipients VALUES (7, 0, 'c@d.test', '')")
        db.execute("CREATE INDEX by_sender ON messages (sender)")
        db.execute("PRAGMA user_version = 1")
    before = read(store.path, "T7")
    await store.open()
    uid = await store.put(transaction(), body(*large()))

    assert read(store.path, "T7") == before
    assert (before.sender, before.recipients, before.message) == ("a@b.test", ("c@d.test",), b"old\0\r\n")
    assert query(store.path, "SELECT * FROM messages WHERE id = 7") == [(*row, None, None)]
    assert query(store.path, "SELECT id FROM messages WHERE uid = ?", uid) == [(8,)]
    assert (
        query(store.path, "PRAGMA foreign_key_check")
        == query(store.path, "SELECT * FROM messages WHERE uid = 'T8'")
        == []
    )
    assert query(store.path, "SELECT tbl_name FROM sqlite_master WHERE name = 'by_sender'") == [("message_rows",)]


async def test_upgrade_that_fails_changes_nothing(store: SQLite) -> None:
    with closing(sqlite3.connect(store.path)) as db, db:
        for statement in (*_sqlite_database.UPGRADES[0], "PRAGMA user_version = 1", "CREATE TABLE pieces (x)"):
            db.execute(statement)
    with pytest.raises(StoreError, match="pieces"):
        await store.open()

    assert query(store.path, "PRAGMA user_version") == [(1,)]
    assert query(store.path, "SELECT type FROM sqlite_master WHERE name = 'messages'") == [("table",)]


async def test_closing_in_a_cancelled_scope_closes_all_connections(tmp_path: Path) -> None:
    store = SQLite(tmp_path / "mail.db")
    await store.add(b"Subject: x\r\n\r\n", "a@b.test", ["c@d.test"])
    assert len([each async for each in store.search("subject:x")]) == 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.aclose()
    assert (store._writer.db, store._reader.db, store._index._db) == (None, None, None)


async def test_message_that_is_too_large_for_a_row(store: SQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_spool, "MAX_MESSAGE", 2_400_000)
    for size in (5 << 19, 5 << 20):  # the first one exceeds the limit in the commit, the other while it is received
        with pytest.raises(MessageTooBigError) as refused:
            await store.put(transaction(), body(*large(size)))
        assert str(refused.value.reply).startswith("552 5.3.4")
    assert query(store.path, "SELECT count(*) FROM messages") == [(0,)]


async def test_duplicate_id_does_not_affect_the_other_messages(store: SQLite) -> None:
    sessions = [transaction() for _ in range(3)]
    spools = [spool_of(store, session) for session in sessions]
    spools[1]._columns = spools[0]._columns
    errors = store._commit(spools)

    assert [type(errors.get(spool)) for spool in spools] == [type(None), sqlite3.IntegrityError, type(None)]
    assert query(store.path, "SELECT uid FROM messages") == [(spools[0].name,), (spools[2].name,)]
    assert query(store.path, "SELECT message, n FROM recipients") == [(1, 0), (2, 0)]


async def test_duplicate_ids_of_small_and_large_messages(store: SQLite) -> None:
    """Small messages are inserted together, and inserted again one by one after an error; large ones always singly."""
    octets = list(large(3 << 20))
    contents = [[b"small\r\n"], octets, [b"duplicate\r\n"], octets, [b"last\r\n"]]
    spools = []
    for chunks in contents:
        session = transaction()
        spools.append(spool_of(store, session))
        await spools[-1].fill(body(*chunks))
    assert [spool.pieces for spool in spools] == [0, 18, 0, 18, 0]
    spools[2]._columns = spools[0]._columns
    spools[3]._columns = spools[1]._columns
    errors = store._commit(spools)

    assert errors.keys() == {spools[2], spools[3]}
    for number in (0, 1, 4):
        assert read(store.path, spools[number].name).message == b"".join(contents[number])
    assert query(store.path, "SELECT count(*) FROM recipients") == [(3,)]


async def test_commits_remove_pieces_that_a_session_could_not_remove(store: SQLite) -> None:
    """A few with each commit, so that none takes long."""
    spool = spool_of(store, transaction())
    await spool.fill(body(*large(5 << 20)))
    assert query(store.path, "SELECT count(*) FROM pieces") == [(29,)]
    store.abandon(spool.name)  # as `discard_in_thread` does, which has a time limit
    left = []
    for _ in range(4):
        await store.put(transaction(), body(b"small\r\n"))
        left += query(store.path, "SELECT count(*) FROM pieces")
    assert left == [(13,), (0,), (0,), (0,)]
    assert query(store.path, "SELECT count(*) FROM unpublished") == [(0,)]


async def test_one_session_removes_the_pieces_of_all(store: SQLite) -> None:
    """If each took its turn, they would wait for each other longer than they may."""
    spools = [spool_of(store, transaction()) for _ in range(3)]
    for spool in spools:
        await spool.fill(body(*large(3 << 20)))
    remove, calls = store.remove_some, 0

    def remove_some() -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:  # two others are refused while the first is being removed
            for spool in spools[1:]:
                trio.from_thread.run(spool.discard_in_thread)
        return remove()

    store.remove_some = remove_some  # type: ignore[method-assign]
    await spools[0].discard_in_thread()
    assert query(store.path, UNPUBLISHED) == query(store.path, ORPHANS) == []
    assert not store.removing


async def test_removal_ends_with_an_error(store: SQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next commits continue with it."""
    spool = spool_of(store, transaction())
    await spool.fill(body(*large()))
    monkeypatch.setattr(store, "remove_some", lambda: False)
    await spool.discard_in_thread()
    assert store.has_abandoned()
    assert not store.removing
    monkeypatch.undo()
    await store.put(transaction(), body(b"small\r\n"))
    assert query(store.path, UNPUBLISHED) == query(store.path, ORPHANS) == []


async def test_group_fails_when_sqlite_rolls_it_back(store: SQLite) -> None:
    """Some errors make SQLite roll back the whole transaction. The trigger has the same effect."""
    await store.open()
    assert store._writer.db is not None
    store._writer.db.execute(
        "CREATE TRIGGER failure BEFORE INSERT ON message_rows WHEN NEW.sender = 'bad@client.test' "
        "BEGIN SELECT RAISE(ROLLBACK, 'rolled back'); END"
    )
    sessions = [transaction(sender) for sender in ("good@client.test", "bad@client.test", "good@client.test")]
    with pytest.raises(sqlite3.IntegrityError, match="rolled back"):
        store._commit([spool_of(store, session) for session in sessions])
    await store.put(transaction("good@client.test"), body(b"hello\r\n"))

    assert query(store.path, "SELECT count(*) FROM messages") == [(1,)]


@pytest.mark.parametrize("replaced", [False, True])
async def test_database_that_was_moved_while_in_use(store: SQLite, tmp_path: Path, replaced: bool) -> None:
    """Messages accepted before are in the file that was moved. Its log is not applied to the new file."""
    await store.put(transaction(), body(b"before\r\n"))
    os.rename(store.path, tmp_path / "moved.db")
    if replaced:
        other = SQLite(tmp_path / "other.db")
        await other.put(transaction(), body(b"in the other\r\n"))
        await other.aclose()
        os.rename(other.path, store.path)
    with pytest.raises(StoreError, match="was moved"):
        await store.put(transaction(), body(b"refused\r\n"))
    await store.put(transaction(), body(b"after\r\n"))
    await store.aclose()

    assert (b"before\r\n",) in query(tmp_path / "moved.db", "SELECT body FROM messages")
    expected = [(b"in the other\r\n",)] * replaced + [(b"after\r\n",)]
    assert query(store.path, "SELECT body FROM messages") == expected
    for path in (store.path, tmp_path / "moved.db"):
        assert query(path, "PRAGMA integrity_check") == [("ok",)]


async def test_journal_mode_and_concurrent_readers(store: SQLite) -> None:
    await store.put(transaction(), body(b"one\r\n"))
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        await store.put(transaction(), body(b"two\r\n"))
        assert other.execute("SELECT count(*) FROM messages").fetchone() == (1,)

    assert store._writer.db is not None
    assert store._writer.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert query(store.path, "PRAGMA user_version") == [(3,)]


async def test_closed_store_is_opened_again(store: SQLite) -> None:
    await store.open()
    for _ in range(3):
        await store.put(transaction(), body(b"hello\r\n"))
        await store.aclose()
        await store.aclose()

    assert query(store.path, "SELECT count(*) FROM messages") == [(3,)]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("PRAGMA user_version = 4", "user_version 4 was written by a newer smtp_trio; this one supports 3"),
        ("PRAGMA user_version = 3", "created by another program"),
        ("PRAGMA user_version = 2", "created by another program"),
        ("PRAGMA user_version = 1", "created by another program"),
        ("CREATE TABLE t (x)", "created by another program"),
        ("CREATE TABLE messages (x)", "created by another program"),
    ],
)
async def test_database_of_another_program_is_not_changed(store: SQLite, sql: str, error: str) -> None:
    query(store.path, sql)
    before = file_content(store)
    with pytest.raises(StoreError, match=error):
        await store.open()
    with pytest.raises(StoreError, match=error) as refused:
        await store.put(transaction(), body(b"hello\r\n"))

    assert str(refused.value.reply).startswith("451 4.3.0")
    assert error not in str(refused.value.reply)
    assert file_content(store) == before


async def test_file_that_is_not_a_database(store: SQLite) -> None:
    file_content(store, b"Subject: hello\n\n" * 100)
    with pytest.raises(StoreError, match="not a database"):
        await store.open()


@pytest.mark.parametrize(
    ("written", "read"),
    [("2026-11-29 18:30:00", datetime(2026, 11, 29, 18, 30, tzinfo=UTC)), ("x", datetime(1970, 1, 1, tzinfo=UTC))],
)
async def test_time_that_another_program_has_written(store: SQLite, written: str, read: datetime) -> None:
    async with store:
        uid = await store.add(b"Subject: hi\r\n\r\n", "", ["you@mx.test"])
        query(store.path, f"UPDATE message_rows SET received_at = '{written}'")
        assert [entry.received async for entry in store] == [read]
        assert [entry.id async for entry in store.search("subject:hi")] == [uid]
        delivery = await anext(store.consume("group"))
        assert delivery.stored.received == read
        await delivery.ack()


async def test_user_who_may_only_read_learns_what_is_needed(store: SQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite writes its log to read a database, too. (Root could write in any case, so the error is raised here.)"""

    def connect(path: str) -> sqlite3.Connection:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise error

    await store.open()
    await store.aclose()
    monkeypatch.setattr(_sqlite_connection, "connect_to_read", connect)
    store.create = False
    with pytest.raises(StoreError, match="readonly database; run this as the user who owns the database, or"):
        await store.open()


async def test_reading_a_missing_database_or_message(store: SQLite) -> None:
    with pytest.raises(sqlite3.OperationalError):
        read(store.path, "T1")
    query(store.path, "CREATE TABLE t (x)")
    with pytest.raises(ValueError, match="not a database of"):
        read(store.path, "T1")
    os.unlink(store.path)
    await store.open()
    with pytest.raises(LookupError, match="T1"):
        read(store.path, "T1")


async def test_path_with_characters_of_an_uri(tmp_path: Path) -> None:
    store = SQLite(tmp_path / "100% mail?#.db")
    uid = await store.put(transaction(), body(b"hello\r\n"))
    assert read(store.path, uid).message == b"hello\r\n"
    await store.aclose()


async def test_writer_asks_often_while_another_writes(store: SQLite) -> None:
    """SQLite's own way of waiting soon asks only every 0.1 s, and misses the short gaps between the others' transactions."""
    await store.open()
    times: list[float] = []
    with closing(store._connect()) as db, closing(sqlite3.connect(store.path, isolation_level=None)) as other:

        def trace(statement: str) -> None:
            if statement == "BEGIN IMMEDIATE":
                times.append(time.monotonic())
                if len(times) == 20:
                    other.execute("ROLLBACK")

        other.execute("BEGIN IMMEDIATE")
        db.set_trace_callback(trace)
        begin(db)
        db.set_trace_callback(None)
        db.execute("ROLLBACK")
    assert min(after - before for before, after in itertools.pairwise(times)) < 0.05


INCREMENT = """
import sys
import time
from smtp_trio.stores import _sqlite_database
from smtp_trio.stores.sqlite import SQLite
db = SQLite(sys.argv[1])._connect()
_sqlite_database.BUSY_TIMEOUT = 100
for _ in range(250):
    _sqlite_database.begin(db)
    db.execute("UPDATE counter SET n = n + 1")
    db.execute("COMMIT")
    time.sleep(0.001)
"""


@pytest.mark.slow
async def test_several_processes_write_in_turn(store: SQLite) -> None:
    """`begin` fails if a process waits longer than ``BUSY_TIMEOUT``."""
    await store.open()
    query(store.path, "CREATE TABLE counter (n)")
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("INSERT INTO counter VALUES (0)")
    command = [sys.executable, "-c", INCREMENT, store.path]
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(trio.run_process, command)
    assert query(store.path, "SELECT n FROM counter") == [(1000,)]
