"""Databases of earlier versions: they are upgraded in a moment, and the fields of their messages are found when they are read."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smtp_trio import stores
from smtp_trio.stores import SQLite, _sqlite_database, read

from .contract import MESSAGE, put, receive
from .test_sqlite import query

if TYPE_CHECKING:
    from smtp_trio.stores import Entry, Stored

LARGE = b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n\r\n" + b"x" * 2_000_000
WITHOUT = b"text\r\n"
SUBJECTS = {1: [("T1", "hello"), ("T2", None)], 2: [("T1", "hello"), ("T2", None), ("T3", "grüße")]}
COLUMNS = "'2026-11-22T09:23:26+00:00', 'a@b.test', ?, '192.0.2.1', NULL, 'SMTP', NULL, NULL, '', ?"
VERSIONS = pytest.mark.parametrize("version", [1, 2])


def old_database(path: Path, version: int) -> None:
    """Create a database as that version of the store did, with a message in pieces if it had them."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in (statement for upgrade in _sqlite_database.UPGRADES[:version] for statement in upgrade):
            db.execute(statement)
        messages = [MESSAGE, WITHOUT] + [LARGE] * (version > 1)
        table = "messages" if version == 1 else "message_rows"
        for n, message in enumerate(messages, 1):
            start = len(message) // 131072 * 131072
            for piece in range(0, start, 131072):
                db.execute("INSERT INTO pieces VALUES (?, ?, ?)", [f"T{n}", piece, message[piece : piece + 131072]])
            db.execute(f"INSERT INTO {table} VALUES (?, ?, {COLUMNS})", [n, f"T{n}", len(message), message[start:]])
            db.execute("INSERT INTO recipients VALUES (?, 0, 'c@d.test', 'NOTIFY=NEVER')", [n])
        db.execute(f"PRAGMA user_version = {version}")


def subjects(entries: list[Entry] | list[Stored]) -> list[tuple[str, str | None]]:
    return [(each.id, each.subject) for each in entries]


@VERSIONS
async def test_fields_of_old_messages_are_filled_in_when_they_are_listed(tmp_path: Path, version: int) -> None:
    path = tmp_path / "db"
    old_database(path, version)
    before = [read(path, uid) for uid, _ in SUBJECTS[version]]
    size = os.stat(path).st_size
    async with SQLite(path) as store:
        assert query(path, "PRAGMA user_version") == [(3,)]
        assert query(path, "SELECT uid, subject FROM messages ORDER BY id") == [
            (uid, None) for uid, _ in SUBJECTS[version]
        ]
        assert query(path, "SELECT * FROM headers") == []
        new = await put(store)
        for _ in range(2):
            entries = [each async for each in store.entries()]
            assert subjects(entries) == [*SUBJECTS[version], (new, "hello")]
            assert query(path, "SELECT uid, subject FROM messages ORDER BY id") == [*SUBJECTS[version], (new, "hello")]
        dates = query(path, "SELECT date FROM messages WHERE date IS NOT NULL")
        assert dates == [("2026-11-22T09:23:26+00:00",)] * 2
        assert [await store.get(each.id) for each in entries[:-1]] == before
    assert os.stat(path).st_size < size + 100_000  # the bodies were not copied


@VERSIONS
@pytest.mark.parametrize("create", [True, False])
async def test_old_messages_are_consumed_and_removed(tmp_path: Path, version: int, create: bool) -> None:
    old_database(tmp_path / "db", version)
    async with stores.open(f"sqlite:{tmp_path}/db", create=create) as store:
        for uid, subject in SUBJECTS[version]:
            async with await receive(store, remove=True) as delivery:
                assert (delivery.id, delivery.stored.subject) == (uid, subject)
        for table in ("message_rows", "recipients", "pieces", "headers", "deliveries"):
            assert query(tmp_path / "db", f"SELECT count(*) FROM {table}") == [(0,)]


@VERSIONS
async def test_reading_does_not_upgrade_a_database(tmp_path: Path, version: int) -> None:
    path = tmp_path / "db"
    old_database(path, version)
    content = path.read_bytes()
    async with stores.open(f"sqlite:{path}", create=False) as store:
        assert subjects([each async for each in store.entries()]) == SUBJECTS[version]
        assert subjects([await store.get(uid) for uid, _ in SUBJECTS[version]]) == SUBJECTS[version]
        assert [each async for each in store.dead_letters()] == []
        assert await store.groups() == {}
    assert path.read_bytes() == content

    async with stores.open(f"sqlite:{path}", create=False) as store:
        assert await store.remove(["T1", "T2"]) == 2
    assert query(path, "PRAGMA user_version") == [(3,)]


async def test_server_of_the_earlier_version_that_still_runs(tmp_path: Path) -> None:
    """Messages that are stored after the upgrade are listed and delivered."""
    path = tmp_path / "db"
    old_database(path, 2)
    with closing(sqlite3.connect(path)) as db:
        db.execute("SELECT * FROM messages").fetchall()
        async with SQLite(path) as store:
            with db:
                db.execute(f"INSERT INTO message_rows VALUES (4, 'T4', {COLUMNS})", [2, b"\r\n"])
            assert [each.id async for each in store] == ["T1", "T2", "T3", "T4"]
            found = [(await receive(store)).id for _ in range(4)]
            assert found == ["T1", "T2", "T3", "T4"]


async def test_newer_version(tmp_path: Path) -> None:
    """The error names it, also if the database is only read."""
    path = tmp_path / "db"
    async with SQLite(path):
        pass
    query(path, "PRAGMA user_version = 4")
    for create in (True, False):
        with pytest.raises(
            stores.StoreError, match=r"user_version 4 was written by a newer smtp_trio; this one supports 3"
        ):
            await stores.open(f"sqlite:{path}", create=create).open()
