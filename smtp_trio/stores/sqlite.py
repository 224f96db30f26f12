"""SQLite: one row a message, safe when its 250 is said.

Write-ahead log and ``synchronous=FULL``: COMMIT returns when the log has been flushed
(sqlite.org/pragma.html#pragma_synchronous), and a group of messages is one transaction, so that it costs one flush. A
killed process leaves a log whose last transaction has no end; the next one to open the database drops it. Other
programs may read, and with short transactions write, while the server runs.

The schema, ``user_version`` 1. ``uid`` is the envelope's id, as the log and the ``Received:`` of the session have it;
``body`` holds the octets as they were sent, without any added field; ``received_at`` is ISO 8601 in UTC; ``sender``
and ``address`` are as they were sent, "" being the null sender; ``mail_params`` and ``params`` are the ESMTP
parameters as MAIL and RCPT had them. ``n`` counts from 0.
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

from ._disk import check_writable, flush_directory, make_directory
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

# Under SQLite's bound for a row, 1,000,000,000 octets (sqlite.org/limits.html), with room for the other columns.
LARGEST = 999_000_000

# How long to wait for another program's transaction. Who comes just after a group has begun waits for two: five
# seconds at most.
BUSY = 2.4


class SQLite(Store["Row"]):
    """Hooks that store every message in one SQLite database, which is made if need be."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path: str = os.path.abspath(path)
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"SQLite({self.path!r})"

    def _spool(self, session: Session, envelope: Envelope) -> Row:
        return Row(session, envelope, os.path.dirname(self.path))

    def _commit(self, messages: Sequence[Row]) -> dict[Row, Exception]:
        refused: dict[Row, Exception] = {}
        try:
            db = self._connect()
            begin(db)
            collapse_group = [row for row in messages if row.fd is not None]
            try:  # without a savepoint, for which SQLite would copy every page that changes
                insert(db, [row for row in messages if row.fd is None])
            except Exception:
                if not db.in_transaction:  # SQLite itself has undone all of it (sqlite.org/lang_transaction.html)
                    raise
                db.execute("ROLLBACK")
                begin(db)
                collapse_group = list(messages)  # one bad message does not harm the others
            for row in collapse_group:
                db.execute("SAVEPOINT message")
                try:
                    insert(db, [row])
                except Exception as error:
                    if not db.in_transaction:
                        raise
                    db.execute("ROLLBACK TO message")
                    refused[row] = error
                db.execute("RELEASE message")
            db.execute("COMMIT")
            # A file that was removed while open goes on taking what is written to it, and is gone when it is closed.
            if identity(self.path) != self._file:
                raise FileNotFoundError(errno.ENOENT, "the database was moved or removed while in use", self.path)
        except BaseException:
            self._undo()
            raise
        finally:
            for row in messages:
                row.discard()
        return refused

    def _undo(self) -> None:
        """Take back what a fault has left. The connection stays, unless it is past use.

        After a flush that failed the log may hold the refused messages to their end. Another connection would take
        them for committed, while the next transaction of this one is written over them.
        """
        with suppress(OSError, sqlite3.Error):
            if self._db is None:
                return
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if identity(self.path) == self._file:
                return
            # The log is found by its name. What it holds belongs to the file that was moved, and not to the next one.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._close()

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            folder = os.path.dirname(self.path)
            make_directory(folder)
            for path in filter(os.path.exists, (folder, self.path)):
                check_writable(path)
            # One thread at a time, though not always the same one: the group's limiter sees to that.
            # Mail is private. SQLite gives its log the mode that the database has.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            db = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            try:
                prepare(db)
                flush_directory(folder)  # SQLite does so for its log, not for a new database
                self._file = identity(self.path)
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


class Row(Spool):
    """A message on its way into the database: in memory, or in a file beside it that has no name."""

    def __init__(self, session: Session, envelope: Envelope, directory: str) -> None:
        super().__init__(envelope.id)
        self._directory = directory
        # Taken now: the commit runs in a thread, and a session that it keeps waiting too long goes on without it.
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

    def create(self) -> int:
        make_directory(self._directory)
        with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
            return os.dup(file.fileno())

    def flush(self, *, last: bool = False) -> None:
        super().flush(last=last)
        if self.size > LARGEST:
            raise MessageTooBigError(f"{self.size} octets are more than SQLite can hold in a row")

    def values(self, message: int) -> tuple[object, ...]:
        """What memory holds of it, as a row of ``messages``. It goes on holding it: a row may be tried twice."""
        return message, *self._columns, len(self._held), self._held

    def copy(self, db: sqlite3.Connection, message: int) -> None:
        """A row of ``messages`` out of the file."""
        assert self.fd is not None
        self.flush(last=True)
        db.execute(INSERT_ROOM, (message, *self._columns, self.size, self.size))
        # Piece by piece: SQLite writes what its cache does not hold to the log, so it never stands in memory.
        os.lseek(self.fd, 0, os.SEEK_SET)
        with db.blobopen("messages", "body", message) as blob:
            while piece := os.read(self.fd, MEMORY):
                blob.write(piece)


INSERT = """
INSERT INTO messages (id, uid, received_at, sender, peer, helo, protocol, tls, auth, mail_params, size, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_ROOM = INSERT.replace("?)", "zeroblob(?))")


def insert(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Into the two tables, in the transaction that is open.

    All rows of a table by one ``executemany``: what a statement costs beside its work is paid once.
    """
    (last,) = db.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
    numbered = list(enumerate(rows, last + 1))
    db.executemany(INSERT, [row.values(message) for message, row in numbered if row.fd is None])
    for message, row in numbered:
        if row.fd is not None:
            row.copy(db, message)
    recipients = [(message, *recipient) for message, row in numbered for recipient in row.recipients]
    db.executemany("INSERT INTO recipients VALUES (?, ?, ?, ?)", recipients)


def prepare(db: sqlite3.Connection) -> None:
    """Make a database ready, and its tables where there are none. One that is not ours is left as it is."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version > VERSION:
        raise StoreError(f"its user_version is {version}, from a newer smtp_trio; this one knows {VERSION}")
    if (version or tables) and not (version == VERSION and {"messages", "recipients"} <= tables):
        raise StoreError("it is some other program's database")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"SQLite cannot keep a write-ahead log here; its journal_mode is {mode}")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA journal_size_limit = 67108864")  # one huge message does not leave a huge log behind
    if not tables:
        db.executescript(SCHEMA)


def begin(db: sqlite3.Connection) -> None:
    """Begin to write, as soon as nobody else does.

    SQLite's own wait asks once in a tenth of a second before long. Two servers that keep one another busy leave gaps far shorter
    than that, so one of them would be passed over for seconds.
    """
    patience = time.monotonic() + BUSY
    db.execute("PRAGMA busy_timeout = 1")
    try:
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                    raise
    finally:
        db.execute(f"PRAGMA busy_timeout = {BUSY * 1000:.0f}")


def identity(path: str) -> tuple[int, int] | None:
    """Which file a path means now, if any."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def read_row(path: str | os.PathLike[str], uid: str) -> Stored:
    """The message that ``SQLite`` stored as ``uid``, and its envelope."""
    with closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)) as db:
        if db.execute("PRAGMA user_version").fetchone() != (VERSION,):
            raise ValueError(f"{os.fspath(path)}: not the database of an SQLite store of version {VERSION}")
        row = db.execute("SELECT id, received_at, sender, body FROM messages WHERE uid = ?", [uid]).fetchone()
        if row is None:
            raise LookupError(f"{os.fspath(path)}: no message {uid!r}")
        message, received_at, sender, body = row
        addresses = db.execute("SELECT address FROM recipients WHERE message = ? ORDER BY n", [message])
        return Stored(sender, tuple(address for (address,) in addresses), body, datetime.fromisoformat(received_at))
