"""The database of `SQLite`: its tables and their versions, its settings, and the beginning of a transaction."""

from __future__ import annotations

import os
import sqlite3
import time

from ._errors import StoreError, UnusableStoreError, primary_code

#: The statements that make a database of each version from one of the version before. Version 0 is an empty database.
UPGRADES = (
    (
        """
        CREATE TABLE messages (
            id INTEGER PRIMARY KEY,
            uid TEXT NOT NULL UNIQUE,
            received_at TEXT NOT NULL,
            sender TEXT NOT NULL,
            size INTEGER NOT NULL,
            peer TEXT NOT NULL,
            helo TEXT,
            protocol TEXT NOT NULL,
            tls TEXT,
            auth TEXT,
            mail_params TEXT NOT NULL,
            body BLOB NOT NULL
        )
        """,
        """
        CREATE TABLE recipients (
            message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
            n INTEGER NOT NULL,
            address TEXT NOT NULL,
            params TEXT NOT NULL,
            PRIMARY KEY (message, n)
        ) WITHOUT ROWID
        """,
    ),
    (
        "ALTER TABLE messages RENAME TO message_rows",
        "CREATE TABLE pieces (uid TEXT NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (uid, n))",
        "CREATE TABLE unpublished (uid TEXT PRIMARY KEY, server INTEGER NOT NULL) WITHOUT ROWID",
        # `group_concat` and `||` make a text of blobs without changing an octet, and the cast makes a blob of it.
        """
        CREATE VIEW messages AS
        SELECT id, uid, received_at, sender, size, peer, helo, protocol, tls, auth, mail_params,
            CASE WHEN length(body) = size THEN body ELSE CAST((
                SELECT group_concat(data, '') FROM (SELECT data FROM pieces WHERE uid = message_rows.uid ORDER BY n)
            ) || body AS BLOB) END AS body
        FROM message_rows
        """,
        """
        CREATE TRIGGER delete_message INSTEAD OF DELETE ON messages
        BEGIN DELETE FROM message_rows WHERE id = OLD.id; END
        """,
        """
        CREATE TRIGGER delete_pieces AFTER DELETE ON message_rows
        BEGIN DELETE FROM pieces WHERE uid = OLD.uid; DELETE FROM recipients WHERE message = OLD.id; END
        """,
    ),
    (
        # Not columns of ``message_rows``: they would follow the body, and could be read only through all of its pages;
        # and to set them in old rows would copy the bodies. A message of an earlier version has no row until it is read.
        "CREATE TABLE headers (message INTEGER PRIMARY KEY, subject TEXT, date TEXT)",
        "CREATE TABLE consumer_groups (name TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID",
        """
        CREATE TABLE deliveries (
            message INTEGER NOT NULL,
            consumer_group TEXT NOT NULL,
            due REAL,
            attempts INTEGER NOT NULL,
            token TEXT,
            consumer TEXT NOT NULL,
            state TEXT NOT NULL,
            reason TEXT,
            PRIMARY KEY (message, consumer_group)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX deliveries_due ON deliveries (consumer_group, due)",
        "DROP VIEW messages",
        """
        CREATE VIEW messages AS
        SELECT id, uid, received_at, sender, size, peer, helo, protocol, tls, auth, mail_params,
            CASE WHEN length(body) = size THEN body ELSE CAST((
                SELECT group_concat(data, '') FROM (SELECT data FROM pieces WHERE uid = message_rows.uid ORDER BY n)
            ) || body AS BLOB) END AS body,
            subject, date
        FROM message_rows LEFT JOIN headers ON headers.message = id
        """,
        """
        CREATE TRIGGER delete_message INSTEAD OF DELETE ON messages
        BEGIN DELETE FROM message_rows WHERE id = OLD.id; END
        """,
        """
        CREATE TRIGGER delete_headers AFTER DELETE ON message_rows
        BEGIN DELETE FROM headers WHERE message = OLD.id; DELETE FROM deliveries WHERE message = OLD.id; END
        """,
    ),
)
VERSION = len(UPGRADES)

# Seconds to wait for another program's transaction. A message that comes just after a group has begun waits for two
# groups. With 2.4 s for each, its client has a reply within 5 s when another program blocks the database.
BUSY_TIMEOUT = 2.4


def prepare(db: sqlite3.Connection) -> None:
    """Set the mode of a database, create the tables in an empty one, and upgrade one of an earlier version.

    Raises `StoreError` for another program's database.
    """
    version, tables = schema_of(db)
    if version > VERSION:
        raise UnusableStoreError(newer_version(version))
    if (version or tables) and not (version and {"messages", "recipients"} <= tables):
        raise UnusableStoreError("the database was created by another program")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"SQLite cannot use a write-ahead log here; journal_mode is {mode}")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA journal_size_limit = 67108864")  # the log shrinks again after a long read
    # Only pieces of refused messages are deleted here; to overwrite them would take as long as to write them.
    db.execute("PRAGMA secure_delete = FAST")
    if version < VERSION:
        begin(db)
        version, _ = schema_of(db)  # another process may have done it meanwhile
        for statement in (statement for upgrade in UPGRADES[version:] for statement in upgrade):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")


class NewerVersionError(ValueError):
    """The database is one of a later version."""


def newer_version(version: int) -> str:
    """Return the text of the error for a database of a later version."""
    return f"user_version {version} was written by a newer smtp_trio; this one supports {VERSION}"


def schema_of(db: sqlite3.Connection) -> tuple[int, set[str]]:
    """Return the version of a database, and the names of its tables and views."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return version, {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}


def busy_timeout(db: sqlite3.Connection, seconds: float) -> None:
    """Set how long a statement waits for another program's lock."""
    db.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")


def begin(db: sqlite3.Connection) -> None:
    """Begin a write transaction, waiting for other writers up to ``BUSY_TIMEOUT``.

    SQLite's own wait soon asks only every 0.1 s. When several servers write one after the other, the gaps between their
    transactions are much shorter, so a server could miss them for seconds. This asks every millisecond (`busy_timeout`).
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise


def file_id(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file that a path names, or None when it does not exist."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
