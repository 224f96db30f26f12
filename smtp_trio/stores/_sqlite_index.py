"""The search index of `SQLite`: a second database with the searchable texts of messages."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from ._sqlite_database import file_id
from ._sqlite_plan import TEXTS, Source
from ._sqlite_reading import connect_to_read, find_message
from ._sqlite_texts import add, clear, prepare, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._spool import T
    from ._sqlite_plan import Plan

# The search index
# ----------------
#
# Without an index a search reads every message, which takes a minute for 100,000 messages. The index stores the texts that
# `Query` compares, folded in the same way, in full-text tables (`_sqlite_texts.py`), and what the other terms compare. So it
# gives the same results as `Query`, in every language.
#
# The index is a separate file, so that storing a message does not involve it: it is written by searches and by
# `SQLite.maintain`, on another connection, and no transaction of the store waits for it. It can be deleted at any time, and
# is then rebuilt. It has only derived data, so it is not flushed.
#
# Messages are added in the order of their ``id``, up to ``high``. A search uses the index for these, and reads the messages
# above as it would without an index. So the result of a search depends neither on the progress of the index nor on whether
# it can be read.
#
# An ``id`` can be reused if the messages with the largest ids are removed. So each text is stored with the ``uid`` of its
# message. As long as a message is in the store, no smaller id is reused. So the texts are up to date from the largest id
# downwards whose ``uid`` in the index is that of the message (`height`).
#
# Removed messages are not found, since every result is joined with the table of messages. Their texts are removed a few at a
# time (`Index.step`), or when another message with the same id is added.

SUFFIX = "-search"
#: The maximum numbers of messages, and of their octets, that one transaction adds, of ids that it checks, and of texts that it
#: removes.
ADDED, ADDED_OCTETS, CHECKED, REMOVED = 32, 1 << 20, 2000, 32

#: The number of messages up to which those that match a part of a query are compared one by one with the other parts.
FEW = 500
#: The size of the page cache of the index, in octets.
CACHE = 1 << 24
#: Seconds between two checks for messages that another process has removed.
CHECK_INTERVAL = 600
NO_LIMIT = -1
PRESENT = "EXISTS (SELECT 1 FROM message_rows WHERE message_rows.id = texts.id)"
GONE = f"""
SELECT id FROM found.texts WHERE id > ? AND id <= ? AND NOT {PRESENT} ORDER BY id LIMIT ?
"""  # noqa: S608 -- no values
ENDS = "SELECT (SELECT min(id) FROM message_rows), (SELECT max(id) FROM message_rows)"
HEIGHT = """
SELECT message_rows.id FROM message_rows JOIN found.texts ON texts.id = message_rows.id AND texts.uid = message_rows.uid
WHERE message_rows.id <= (SELECT high FROM found.progress) ORDER BY message_rows.id DESC LIMIT 1
"""


class Index:
    """The index of a database. All methods block, and must be called in one thread at a time."""

    def __init__(self, path: str) -> None:
        self._database = path
        self.path: str = path + SUFFIX
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._broken = False
        self._checked: int | None = 0
        self._next_check = 0.0

    def open(self) -> sqlite3.Connection | None:
        """Return the connection, or None if an index cannot be created."""
        if (file := file_id(self._database)) != self._file:  # the database was moved or removed
            self.close()
            self._file = file
        if self._db is None and not self._broken:
            try:
                self._db = self._connect()
            except (OSError, sqlite3.Error, ValueError):  # FTS5 is missing, or the directory is read-only
                self._broken = True
        return self._db

    def _connect(self) -> sqlite3.Connection:
        db = connect_to_read(self._database)
        try:
            with suppress(FileExistsError):  # like the database: mail is private, and links are not followed
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            if os.path.islink(self.path):
                raise OSError(f"{self.path} is a symbolic link")
            db.execute("ATTACH ? AS found", [self.path])
            db.execute("PRAGMA found.journal_mode = WAL")
            db.execute("PRAGMA found.synchronous = NORMAL")
            db.execute("PRAGMA found.secure_delete = FAST")
            db.execute(f"PRAGMA found.cache_size = {-CACHE >> 10}")
            prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the connection. The next use opens it again."""
        self._broken = False
        if self._db is not None:
            db, self._db = self._db, None
            db.close()

    def discard(self) -> None:
        """Delete a damaged index. It is rebuilt after the store is opened again."""
        self.close()
        self._broken = True
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(self.path + suffix)

    def step(self) -> bool:
        """Add some messages, or remove the texts of some removed messages. Return whether more remain."""
        db = self.open()
        if db is None:
            return False
        try:
            db.execute("BEGIN")
            more = self._add(db) or self._check(db)
            db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.OperationalError):
                self.discard()
            return False  # another process writes, the disk is full, or the task was cancelled
        return more

    def _add(self, db: sqlite3.Connection) -> bool:
        current = height(db)
        (high,) = db.execute("SELECT high FROM found.progress").fetchone()
        if high > current == 0:  # all were removed; one by one would take long
            clear(db)
        octets = 0
        rows = db.execute(
            "SELECT id, uid FROM message_rows WHERE id > ? ORDER BY id LIMIT ?", [current, ADDED]
        ).fetchall()
        for message, uid in rows:
            stored = find_message(db, uid)
            assert stored is not None  # this is one transaction
            add(db, message, stored)
            current = message
            octets += stored.size
            if octets > ADDED_OCTETS:
                break
        if high != current:
            db.execute("UPDATE found.progress SET high = ?", [current])
        return bool(rows)

    def _check(self, db: sqlite3.Connection) -> bool:
        """Check the next ids for removed messages, if any may have been removed."""
        if self._checked is None:
            if time.monotonic() < self._next_check:
                return False
            self._checked = 0
        ids = ids_of(
            db.execute("SELECT id FROM found.texts WHERE id > ? ORDER BY id LIMIT ?", [self._checked, CHECKED])
        )
        if not ids:
            self._checked = None
            self._next_check = time.monotonic() + CHECK_INTERVAL
            return False
        gone = ids_of(db.execute(GONE, [self._checked, ids[-1], REMOVED]))
        remove(db, gone)
        self._checked = gone[-1] if len(gone) == REMOVED else ids[-1]
        return True

    def note_removal(self) -> None:
        """Make the next steps check for removed messages."""
        self._next_check = 0.0

    def height(self) -> int | None:
        """Return the ``id`` up to which the index has all messages, or None without an index."""
        return self._ask(height)

    def share(self) -> float | None:
        """Return the share of the messages that the index has, from 0 to 1, or None without an index."""

        def work(db: sqlite3.Connection) -> float:
            # By the ids: counting the messages takes a hundred times as long.
            first, last = db.execute(ENDS).fetchone()
            return 1.0 if first is None else max(0.0, (height(db) - first + 1) / (last - first + 1))

        return self._ask(work)

    def find(self, plan: Plan, low: int, high: int, *, reverse: bool, most: int) -> list[tuple[int, bool]] | None:
        """Return the ids between ``low`` and ``high``, both excluded, of messages that may match a query.

        The second item of each pair is true if the message is known to match. Return None if the index cannot be read.
        """
        order: Literal["ASC", "DESC"] = "DESC" if reverse else "ASC"

        def work(db: sqlite3.Connection) -> list[tuple[int, bool]]:
            found = []
            incomplete = Source(TEXTS, "texts.id", f"complete = 0 AND {plan.where[0]}", plan.where[1])
            for source, sure in ((choose(db, plan, low, high), plan.exact), (incomplete, False)):
                found += [(message, sure) for message in ids_of(select(db, source, low, high, order, most))]
            return sorted(found, reverse=reverse)[:most]

        return self._ask(work)

    def count(self, plan: Plan, high: int, limit: int | None) -> int | None:
        """Return the number of messages below ``high`` that match a query, at most ``limit``, or None if it is not known."""

        def work(db: sqlite3.Connection) -> int | None:
            if not plan.exact or db.execute("SELECT 1 FROM found.texts WHERE complete = 0").fetchone():
                return None
            rows = select(db, choose(db, plan, 0, high), 0, high, "ASC", NO_LIMIT if limit is None else limit)
            return sum(1 for _ in rows)

        return self._ask(work)

    def _ask(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Call ``work`` with the connection and return its result.

        Return None if the index is missing or cannot be read, or the task that waits was cancelled.
        """
        db = self.open()
        if db is None:
            return None
        try:
            db.execute("BEGIN")
            return work(db)
        except sqlite3.DatabaseError as error:
            if not isinstance(error, sqlite3.OperationalError):
                self.discard()
            return None
        finally:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")


def choose(db: sqlite3.Connection, plan: Plan, low: int, high: int) -> Source:
    """Return the source of the messages that match a query, between two ids."""
    for probe in plan.probes():
        ids = ids_of(select(db, probe, low, high, "DESC", FEW + 1))  # the newest messages are searched for most often
        if len(ids) <= FEW:
            return plan.among(ids)
    return plan.source()


def select(
    db: sqlite3.Connection, source: Source, low: int, high: int, order: Literal["ASC", "DESC"], most: int
) -> Iterable[tuple[int]]:
    """Iterate over the ids between two others of the messages that a source finds and the store has."""
    return db.execute(
        f"SELECT {source.key} {source.tables} WHERE {source.condition} AND {PRESENT} "
        f"AND {source.key} > ? AND {source.key} < ? ORDER BY {source.key} {order} LIMIT ?",
        [*source.values, low, high, most],
    )


def ids_of(rows: Iterable[tuple[int]]) -> list[int]:
    """Return the ids in rows with one column."""
    return [value for (value,) in rows]


def height(db: sqlite3.Connection) -> int:
    """Return the ``id`` up to which all messages are in the index."""
    row = db.execute(HEIGHT).fetchone()
    return 0 if row is None else int(row[0])
