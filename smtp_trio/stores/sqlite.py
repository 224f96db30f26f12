"""SQLite: one row for each message.

The schema has ``user_version`` 1. ``uid`` is the id of the envelope, as the log and the session's ``Received:`` have
it. ``body`` has the octets that the client sent, without any added field. ``received_at`` is ISO 8601 in UTC.
``sender`` and ``address`` are the mailboxes as the client sent them, "" being the null reverse-path; ``mail_params``
and ``params`` are the ESMTP parameters of MAIL and RCPT. ``n`` numbers the recipients from 0.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from .._server.spool import check_path
from ._disk import check_writable, make_directory, sync_directory
from ._spool import MEMORY, Spool
from ._store import MessageTooBigError, Store, Stored, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._server.session import Session
    from .._types import Envelope

VERSION = 1
SCHEMA = """
BEGIN IMMEDIATE;
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
);
CREATE TABLE recipients (
    message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    n INTEGER NOT NULL,
    address TEXT NOT NULL,
    params TEXT NOT NULL,
    PRIMARY KEY (message, n)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""

# Why a committed message is durable
# ----------------------------------
#
# The database uses a write-ahead log (``journal_mode=WAL``) with ``synchronous=FULL``. With these settings COMMIT
# returns after the log was flushed (sqlite.org/pragma.html#pragma_synchronous); with NORMAL, which is often recommended
# for WAL, a power cut would lose the last transactions. A group of messages is one transaction, so it costs one flush.
# The flushes of a rollback journal would be two or three, and readers would block writers.
#
# A process that is killed leaves a log whose last transaction is incomplete; the next process that opens the database
# ignores it. Other programs may read, and write in short transactions, while the server runs.
#
# Within the transaction each message is stored or not independently of the others:
#
# - Messages in memory are inserted by one ``executemany``, which is fast. When it fails, the transaction is rolled
#   back, and every message is inserted again with a savepoint of its own. A savepoint for each message from the start
#   would make SQLite copy every page that changes.
# - Messages in files have a savepoint from the start, because a blob that is copied piece by piece can fail half-way.
# - SQLite itself rolls the whole transaction back after errors such as a full disk (sqlite.org/lang_transaction.html).
#   Then the whole group fails.
#
# The connection is kept open after a failed commit. When a flush has failed, the log may contain the complete refused
# transaction. Another connection would recover it as committed, while this one overwrites it with its next transaction.
#
# After COMMIT the store checks that its path still names the file that it has open. If the database was removed or
# replaced meanwhile, the commit went into a file that disappears with its last descriptor, and the group fails.

# Less than SQLite's limit of 1,000,000,000 octets for a row (sqlite.org/limits.html), because of the other columns.
MAX_MESSAGE = 999_000_000

# Seconds to wait for another program's transaction. A message that comes just after a group has begun waits for two
# groups. With 2.4 s for each, its client has a reply within 5 s when another program blocks the database.
BUSY_TIMEOUT = 2.4


class SQLite(Store["SQLiteSpool"]):
    """A store that keeps every message in one SQLite database.

    ``path`` is the file of the database; it is created if it does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path: str = os.path.abspath(check_path(path, "path"))
        self._db: sqlite3.Connection | None = None
        self._file_id: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"SQLite({self.path!r})"

    def _spool(self, session: Session, envelope: Envelope) -> SQLiteSpool:
        return SQLiteSpool(session, envelope, os.path.dirname(self.path))

    def _commit(self, messages: Sequence[SQLiteSpool]) -> dict[SQLiteSpool, Exception]:
        errors: dict[SQLiteSpool, Exception] = {}
        try:
            db = self._connect()
            begin(db)
            one_by_one = [message for message in messages if message.fd is not None]
            try:
                insert(db, [message for message in messages if message.fd is None])
            except Exception:
                if not db.in_transaction:  # SQLite has rolled back the transaction
                    raise
                db.execute("ROLLBACK")
                begin(db)
                one_by_one = list(messages)
            for message in one_by_one:
                db.execute("SAVEPOINT message")
                try:
                    insert(db, [message])
                except Exception as error:
                    if not db.in_transaction:
                        raise
                    db.execute("ROLLBACK TO message")
                    errors[message] = error
                db.execute("RELEASE message")
            db.execute("COMMIT")
            if file_id(self.path) != self._file_id:
                raise FileNotFoundError(errno.ENOENT, "the database was moved or removed while in use", self.path)
        except BaseException:
            self._recover()
            raise
        finally:
            for message in messages:
                message.discard()
        return errors

    def _recover(self) -> None:
        """Roll back after a failed commit. Close the connection only if the database was moved or removed."""
        with suppress(OSError, sqlite3.Error):
            if self._db is None:
                return
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if file_id(self.path) == self._file_id:
                return
            # SQLite finds a log by its name. This one belongs to the file that was moved, and must not be applied to a
            # new database at this path.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._close()

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            directory = os.path.dirname(self.path)
            make_directory(directory)
            for path in filter(os.path.exists, (directory, self.path)):
                check_writable(path)
            # Created here because mail is private: SQLite would use the umask. Its log gets the mode of the database.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            # The group's limiter makes sure that only one thread at a time uses the connection, though not always the
            # same one.
            db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            try:
                prepare(db)
                sync_directory(directory)  # SQLite does this for its log, and not for a new database
                self._file_id = file_id(self.path)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _open(self) -> None:
        self._connect()

    def _close(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            with suppress(sqlite3.Error):
                db.close()


class SQLiteSpool(Spool):
    """A message before it is in the database: in memory, or in an unnamed file in the same directory."""

    def __init__(self, session: Session, envelope: Envelope, directory: str) -> None:
        super().__init__(envelope.id)
        self._directory = directory
        # Computed now: the commit runs in a thread, and its session may have gone on after a timeout.
        self._columns = (
            envelope.id,
            session.server.now().astimezone(UTC).isoformat(timespec="microseconds"),
            envelope.sender.raw,
            session.peer.host or session.peer.kind,
            session.hello.domain if session.hello else None,
            session.protocol_name,
            f"{session.tls.version} {session.tls.cipher}" if session.tls else None,
            session.user,
            envelope.mail.params.encode(),
        )
        self.recipients: list[tuple[int, str, str]] = [
            (n, rcpt.recipient.raw, rcpt.params.encode()) for n, rcpt in enumerate(envelope.rcpts)
        ]

    def create_file(self) -> int:
        """Create the unnamed file, on the file system of the database."""
        make_directory(self._directory)
        with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
            return os.dup(file.fileno())

    def flush(self, *, last: bool = False) -> None:
        """Write the octets in memory to the file. Raises `MessageTooBigError` when they are too many for a row."""
        super().flush(last=last)
        if self.size > MAX_MESSAGE:
            raise MessageTooBigError(f"{self.size} octets are more than SQLite can store in a row")

    def values(self, message_id: int) -> tuple[object, ...]:
        """Return the row of ``messages`` for a message in memory. It stays in memory: the insert may be repeated."""
        return message_id, *self._columns, len(self._buffer), self._buffer

    def copy(self, db: sqlite3.Connection, message_id: int) -> None:
        """Insert the row of ``messages`` for a message in a file."""
        assert self.fd is not None
        self.flush(last=True)
        db.execute(INSERT_ZEROBLOB, (message_id, *self._columns, self.size, self.size))
        # Copied piece by piece: SQLite writes pages that do not fit in its cache to the log, so that the message is
        # never in memory as a whole.
        os.lseek(self.fd, 0, os.SEEK_SET)
        with db.blobopen("messages", "body", message_id) as blob:
            while piece := os.read(self.fd, MEMORY):
                blob.write(piece)


INSERT = """
INSERT INTO messages (id, uid, received_at, sender, peer, helo, protocol, tls, auth, mail_params, size, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_ZEROBLOB = INSERT.replace("?)", "zeroblob(?))")


def insert(db: sqlite3.Connection, messages: Sequence[SQLiteSpool]) -> None:
    """Insert messages and their recipients in the current transaction.

    One ``executemany`` inserts all rows of a table, because each statement has a fixed cost.
    """
    (last_id,) = db.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
    numbered = list(enumerate(messages, last_id + 1))
    db.executemany(INSERT, [message.values(message_id) for message_id, message in numbered if message.fd is None])
    for message_id, message in numbered:
        if message.fd is not None:
            message.copy(db, message_id)
    recipients = [(message_id, *recipient) for message_id, message in numbered for recipient in message.recipients]
    db.executemany("INSERT INTO recipients VALUES (?, ?, ?, ?)", recipients)


def prepare(db: sqlite3.Connection) -> None:
    """Set the mode of a database, and create the tables in an empty one.

    Raises `StoreError` for another program's database.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version > VERSION:
        raise StoreError(f"user_version {version} was written by a newer smtp_trio; this one supports {VERSION}")
    if (version or tables) and not (version == VERSION and {"messages", "recipients"} <= tables):
        raise StoreError("the database was created by another program")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"SQLite cannot use a write-ahead log here; journal_mode is {mode}")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA journal_size_limit = 67108864")  # the log shrinks again after a large message
    if not tables:
        db.executescript(SCHEMA)


def begin(db: sqlite3.Connection) -> None:
    """Begin a write transaction, waiting for other writers up to ``BUSY_TIMEOUT``.

    SQLite's own wait soon asks only every 0.1 s. When several servers write one after the other, the gaps between their
    transactions are much shorter, so a server could miss them for seconds. This asks every millisecond.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    db.execute("PRAGMA busy_timeout = 1")
    try:
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
    finally:
        db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}")


def file_id(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file that a path names, or None when it does not exist."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def read_row(path: str | os.PathLike[str], uid: str) -> Stored:
    """Return the message that `SQLite` stored as ``uid``, and its envelope.

    Raises LookupError when the database does not have it, and ValueError when the database is not a store's.
    """
    with closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)) as db:
        if db.execute("PRAGMA user_version").fetchone() != (VERSION,):
            raise ValueError(f"{os.fspath(path)}: not a database of an SQLite store with user_version {VERSION}")
        row = db.execute("SELECT id, received_at, sender, body FROM messages WHERE uid = ?", [uid]).fetchone()
        if row is None:
            raise LookupError(f"{os.fspath(path)}: no message {uid!r}")
        message, received_at, sender, body = row
        addresses = db.execute("SELECT address FROM recipients WHERE message = ? ORDER BY n", [message])
        return Stored(sender, tuple(address for (address,) in addresses), body, datetime.fromisoformat(received_at))
