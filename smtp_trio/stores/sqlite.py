"""SQLite: one row for each message.

The schema has ``user_version`` 2. ``uid`` is the id of the envelope, as the log and the session's ``Received:`` have
it. ``body`` has the octets that the client sent, without any added field. ``received_at`` is ISO 8601 in UTC.
``sender`` and ``address`` are the mailboxes as the client sent them, "" being the null reverse-path; ``mail_params``
and ``params`` are the ESMTP parameters of MAIL and RCPT. ``n`` numbers the recipients from 0.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections import deque
from contextlib import closing, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from .._server.spool import check_path
from ._disk import Directory, ProcessMark, check_no_link, check_writable, make_directory
from ._entry import Stored, read_header
from ._errors import MessageTooBigError, StoreError, primary_code
from ._spool import Spool
from ._sqlite_database import BUSY_TIMEOUT, VERSION, begin, busy_timeout, prepare, schema_of
from ._store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._entry import Entry
    from ._spool import T

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
# Within the transaction each message is stored or not independently of the others: the messages are inserted by one
# ``executemany``, which is fast. When it fails, the transaction is rolled back, and every message is inserted again with
# a savepoint of its own. A savepoint for each message from the start would make SQLite copy every page that changes.
# SQLite itself rolls the whole transaction back after errors such as a full disk (sqlite.org/lang_transaction.html).
# Then the whole group fails.
#
# Large messages
# --------------
#
# SQLite has one writer at a time, so a transaction with 30 MiB would delay all messages until it is on the disk. A large
# message is therefore written while it is received, in pieces of an eighth of a mebibyte, each in a transaction of its own
# (`SQLiteSpool.write`). Groups of messages are committed between two pieces. The pieces are rows of ``pieces``, and do
# not belong to a message until the group has inserted a row with their ``uid`` into ``message_rows``, together with the
# octets that were left in memory. That is the commit of the message: before it, no query of ``messages`` finds anything,
# and after it everything is there. ``messages`` is a view that joins the pieces; it has the columns of the table that it
# was in version 1.
#
# A message that is not stored leaves pieces. They are invisible, and are removed a few at a time
# (`SQLite._remove_abandoned`): by its session if the disk responds, and otherwise by the next large message or when the
# store is closed. A process that is killed cannot remove them. ``unpublished`` has the uids of all pieces without a
# message, with a random number of the store that wrote them. Each open store holds a lock with its number (`ProcessMark`),
# which the kernel releases when the process ends. A store that is opened removes the pieces of those that do not hold
# theirs, and not those of other servers that use the same database.
#
# The connection is kept open after a failed commit. When a flush has failed, the log may contain the complete refused
# transaction. Another connection would recover it as committed, while this one overwrites it with its next transaction.
#
# After COMMIT the store checks that its path still names the file that it has open. If the database was removed or
# replaced meanwhile, the commit went into a file that disappears with its last descriptor, and the group fails.

# Less than SQLite's limit of 1,000,000,000 octets for a row (sqlite.org/limits.html), because of the other columns.
MAX_MESSAGE = 999_000_000

#: Octets of a large message that are written in one transaction.
PIECE = 1 << 17

#: What to do about a file that cannot be opened as a database, by the code of the error.
REMEDIES = {
    sqlite3.SQLITE_CORRUPT: "move it away, and recover its messages with the command .recover of the program sqlite3",
    sqlite3.SQLITE_NOTADB: "move the file away, or store mail elsewhere",
}


class SQLite(Store["SQLiteSpool"]):
    """A store that keeps every message in one SQLite database.

    ``path`` is the file of the database; it is created if it does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path: str = os.path.abspath(check_path(path, "path"))
        self.url = f"sqlite:{self.path}"
        self._db: sqlite3.Connection | None = None
        self._file_id: tuple[int, int] | None = None
        self._mark = ProcessMark(random.SystemRandom().getrandbits(62))
        self._abandoned: deque[str] = deque()  # uids of messages that are not stored, whose pieces have to be removed

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of ``sqlite:PATH``."""
        return cls(os.path.expanduser(url.partition(":")[2]))

    def __repr__(self) -> str:
        return f"SQLite({self.path!r})"

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> SQLiteSpool:
        return SQLiteSpool(entry, self)

    def _commit(self, messages: Sequence[SQLiteSpool]) -> dict[SQLiteSpool, Exception]:
        errors: dict[SQLiteSpool, Exception] = {}
        try:
            db = self._connect()
            begin(db)
            for message in messages:
                if message.pieces and not publish(db, message):
                    errors[message] = StoreError("the database was replaced while the message was received")
            complete = [message for message in messages if message not in errors]
            try:
                insert(db, complete)
            except Exception:
                if not db.in_transaction:  # SQLite has rolled back the transaction
                    raise
                db.execute("ROLLBACK")
                begin(db)
                for message in complete:
                    db.execute("SAVEPOINT message")
                    try:
                        if message.pieces:
                            publish(db, message)
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
            errors.clear()  # their tracebacks refer to this frame
            self._recover()
            raise
        return errors

    def write_piece(self, uid: str, n: int, data: bytearray) -> None:
        """Write a piece of a message that is being received, in a transaction of its own."""
        try:
            db = self._connect()
            begin(db)
            if n == 0:
                db.execute("INSERT INTO unpublished VALUES (?, ?)", [uid, self._mark.number])
            db.execute("INSERT INTO pieces VALUES (?, ?, ?)", [uid, n, data])
            db.execute("COMMIT")
        except BaseException:
            self._recover()
            raise
        if (n + 1) % PIECES_COPIED == 0:
            with suppress(sqlite3.Error):  # the piece is in the log, and is copied later
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def abandon(self, uid: str) -> None:
        """Note that the pieces of a message have to be removed."""
        self._abandoned.append(uid)

    def remove_some(self) -> bool:
        """Remove a few pieces of abandoned messages, and return whether there are more that can be removed now.

        Errors do not matter: the pieces are invisible, and are removed later.
        """
        try:
            if self._db is not None and self._abandoned and remove_pieces(self._db, self._abandoned[0]):
                self._abandoned.popleft()
        except sqlite3.Error:
            self._recover()
            return False
        return self._db is not None and bool(self._abandoned)

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
            busy_timeout(self._db, BUSY_TIMEOUT)
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._disconnect()

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            parent = os.path.dirname(self.path)
            if self.create:
                make_directory(parent, follow=True)
            else:
                os.stat(self.path)
            for path in filter(os.path.lexists, (self.path, f"{self.path}-wal", f"{self.path}-shm")):
                check_no_link(path)
            for path in filter(os.path.exists, (parent, self.path)):
                check_writable(path)
            # Created here because mail is private: SQLite would use the umask. Its log gets the mode of the database.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            # The group's limiter makes sure that only one thread at a time uses the connection, though not always the
            # same one.
            db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            try:
                prepare(db)
                Directory(parent, follow=True).sync()  # SQLite does this for its log, and not for a new database
                self._mark.hold(f"{self.path}-wal")
                self._file_id = file_id(self.path)
                self._abandoned.extend(left_behind(db, self._mark))
                busy_timeout(db, 0.001)
            except BaseException as error:
                db.close()
                self._mark.release()
                if isinstance(error, sqlite3.Error) and (remedy := REMEDIES.get(primary_code(error))):
                    raise StoreError(f"{error}; {remedy}") from error
                raise
            self._db = db
        return self._db

    def _open(self) -> None:
        if not self.create:
            os.stat(self.path)
            try:
                connect_to_read(self.path).close()
            except ValueError as error:
                raise StoreError(str(error)) from error
            return
        self._connect()
        while self.remove_some():
            pass

    def _close(self) -> None:
        while self.remove_some():
            pass
        self._disconnect()

    def _disconnect(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            with suppress(sqlite3.Error):
                db.close()
            self._mark.release()


class SQLiteSpool(Spool):
    """A message before it is published: the last octets in memory, the others in pieces."""

    part = PIECE

    def __init__(self, entry: Entry, store: SQLite) -> None:
        super().__init__(entry.id)
        self.pieces: int = 0
        """The number of pieces that were written."""
        self._store = store
        # Computed now: the commit runs in a thread, and its session may have gone on after a timeout.
        self._columns = (
            entry.id,
            entry.received_at,
            entry.sender,
            entry.peer,
            entry.helo,
            entry.protocol,
            entry.tls,
            entry.auth,
            entry.mail_params,
        )
        self.recipients: list[tuple[int, str, str]] = [
            (n, address, params)
            for n, (address, params) in enumerate(zip(entry.recipients, entry.rcpt_params, strict=True))
        ]

    async def in_thread(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call a function in the thread that uses the connection, between two groups."""
        return await self._store._group.run(work, abandon_on_cancel=abandon_on_cancel)

    def write(self, data: bytearray) -> None:
        """Write a piece."""
        self._check_size(len(data))
        self._store.write_piece(self.name, self.pieces, data)
        self.pieces += 1

    def _check_size(self, more: int) -> None:
        if self.size + more > MAX_MESSAGE:
            raise MessageTooBigError(f"{self.size + more} octets are more than SQLite can return in a row")

    def finish(self) -> None:
        """Check the size of the whole message."""
        self._check_size(self.buffered)

    def discard(self) -> bool:
        """Remove a few pieces, of this message or of others."""
        return self._store.remove_some()

    async def discard_in_thread(self) -> None:
        """Note that the pieces have to be removed, and do so if the disk responds."""
        if self.pieces:
            self._store.abandon(self.name)
            await super().discard_in_thread()

    def values(self, message_id: int) -> tuple[object, ...]:
        """Return the row of ``message_rows``. The octets stay in memory: the insert may be repeated."""
        return message_id, *self._columns, self.size + self.buffered, self._buffer


#: The number of pieces of a message after which the write-ahead log is copied into the database. A group of messages waits
#: for a piece, and for this copy, too. SQLite itself would copy after a thousand pages, which takes ten times as long as a
#: piece. That number is better for small messages, which change the same pages again and again.
PIECES_COPIED = 2
INSERT = """
INSERT INTO message_rows (id, uid, received_at, sender, peer, helo, protocol, tls, auth, mail_params, size, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
#: Pieces that are removed in one transaction.
REMOVED_AT_ONCE = 16


def insert(db: sqlite3.Connection, messages: Sequence[SQLiteSpool]) -> None:
    """Insert messages and their recipients in the current transaction.

    One ``executemany`` inserts all rows of a table, because each statement has a fixed cost.
    """
    (last_id,) = db.execute("SELECT coalesce(max(id), 0) FROM message_rows").fetchone()
    numbered = list(enumerate(messages, last_id + 1))
    db.executemany(INSERT, [message.values(message_id) for message_id, message in numbered])
    recipients = [(message_id, *recipient) for message_id, message in numbered for recipient in message.recipients]
    db.executemany("INSERT INTO recipients VALUES (?, ?, ?, ?)", recipients)


def publish(db: sqlite3.Connection, message: SQLiteSpool) -> bool:
    """Note in the current transaction that the pieces of a message belong to it. Return False if some are missing."""
    (found,) = db.execute("SELECT count(*) FROM pieces WHERE uid = ?", [message.name]).fetchone()
    return found == message.pieces and db.execute("DELETE FROM unpublished WHERE uid = ?", [message.name]).rowcount == 1


def left_behind(db: sqlite3.Connection, mark: ProcessMark) -> list[str]:
    """Return the uids of messages that were being received by a process that has ended."""
    rows = db.execute("SELECT uid, server FROM unpublished").fetchall()
    ended = {server for server in {server for _, server in rows} if not mark.is_held(server)}
    return [uid for uid, server in rows if server in ended]


def remove_pieces(db: sqlite3.Connection, uid: str) -> bool:
    """Remove the last pieces of a message that is not stored, and return whether none are left."""
    begin(db)
    (count,) = db.execute("SELECT coalesce(max(n) + 1, 0) FROM pieces WHERE uid = ?", [uid]).fetchone()
    # They may belong to a message after all: without locks, a server that still runs can be taken for ended.
    done: bool = db.execute("SELECT 1 FROM message_rows WHERE uid = ?", [uid]).fetchone() is not None
    if not done:
        done = count <= REMOVED_AT_ONCE
        db.execute("DELETE FROM pieces WHERE uid = ? AND n >= ?", [uid, count - REMOVED_AT_ONCE])
    if done:
        db.execute("DELETE FROM unpublished WHERE uid = ?", [uid])
    db.execute("COMMIT")
    return done


def file_id(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file that a path names, or None when it does not exist."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def connect_to_read(path: str | os.PathLike[str]) -> sqlite3.Connection:
    """Return a connection that cannot change the database. Raises `sqlite3.Error`, and ValueError if it is not a store's."""
    db = sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)
    try:
        version, tables = schema_of(db)
        if not 1 <= version <= VERSION or "messages" not in tables:
            raise ValueError(f"{os.fspath(path)}: not a database of an SQLite store with user_version 1 to {VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def read_row(path: str | os.PathLike[str], uid: str) -> Stored:
    """Return the message that `SQLite` stored as ``uid``, and its envelope.

    Raises LookupError when the database does not have it, and ValueError when the database is not a store's.
    """
    with closing(connect_to_read(path)) as db:
        row = db.execute(SELECT, [uid]).fetchone()
        if row is None:
            raise LookupError(f"{os.fspath(path)}: no message {uid!r}")
        message, body, *columns = row
        rcpts = db.execute("SELECT address, params FROM recipients WHERE message = ? ORDER BY n", [message]).fetchall()
        subject, date = read_header(body)
        return Stored(
            recipients=tuple(address for address, _ in rcpts),
            rcpt_params=tuple(params for _, params in rcpts),
            message=body,
            subject=subject,
            date=date,
            **entry_fields(columns),
        )


#: Columns of ``messages`` that are fields of an `Entry`.
COLUMNS = ("uid", "received_at", "sender", "mail_params", "peer", "helo", "protocol", "tls", "auth", "size")
SELECT = f"SELECT id, body, {', '.join(COLUMNS)} FROM messages WHERE uid = ?"  # noqa: S608 -- no values


def entry_fields(columns: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of an `Entry` that are in these `COLUMNS`."""
    fields = dict(zip(COLUMNS, columns, strict=True))
    return {"id": fields.pop("uid"), "received": datetime.fromisoformat(fields.pop("received_at")), **fields}
