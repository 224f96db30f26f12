"""The two connections of `SQLite` with its database: `Writer` changes it, and `Reader` reads."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ._disk import Directory, ProcessMark, check_free, check_no_link, check_writable, free_octets, make_directory
from ._errors import StoreError, UnusableStoreError, primary_code
from ._sqlite_database import BUSY_TIMEOUT, NewerVersionError, begin, busy_timeout, file_id, prepare
from ._sqlite_reading import connect_to_read
from ._sqlite_spool import left_behind, remove_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._spool import T

# A database that is moved while it is in use
# -------------------------------------------
#
# After COMMIT the writer checks that its path still names the file that it has open. If the database was removed or
# replaced meanwhile, the commit went into a file that disappears with its last descriptor, and it fails.
#
# Otherwise the connection is kept open after a failed commit. When a flush has failed, the log may contain the complete refused
# transaction. Another connection would recover it as committed, while this one overwrites it with its next transaction.

#: What to do about a file that cannot be opened as a database, by the code of the error.
REMEDIES = {
    sqlite3.SQLITE_CORRUPT: "move it away, and recover its messages with the command .recover of the program sqlite3",
    sqlite3.SQLITE_NOTADB: "move the file away, or store mail elsewhere",
}


#: Errors for a user who may read the database and not write in its directory: SQLite makes its log there to read it, too.
NO_RIGHT = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
AS_OWNER = "run this as the user who owns the database, or with the right to write in its directory"
#: The number of pages in the log after which SQLite copies it into the database (sqlite.org/pragma.html#pragma_wal_autocheckpoint).
LOG_PAGES = 1000


class Writer:
    """The connection that changes the database, which is made when it is needed. One thread at a time may use it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.db: sqlite3.Connection | None = None
        self.mark = ProcessMark(random.SystemRandom().getrandbits(62))
        self.abandoned: deque[str] = deque()
        """The uids of messages that are not stored, whose pieces have to be removed."""
        self._file_id: tuple[int, int] | None = None

    def connect(self, *, create: bool) -> sqlite3.Connection:
        """Return the connection. Without ``create`` the database must exist."""
        if self.db is None:
            parent = os.path.dirname(self.path)
            if create:
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
                self.mark.hold(f"{self.path}-wal")
                self._file_id = file_id(self.path)
                self.abandoned.extend(left_behind(db, self.mark))
                busy_timeout(db, 0.001)
            except BaseException as error:
                db.close()
                self.mark.release()
                if isinstance(error, sqlite3.Error) and (remedy := REMEDIES.get(primary_code(error))):
                    raise UnusableStoreError(f"{error}; {remedy}") from error
                raise
            self.db = db
        return self.db

    @contextmanager
    def transaction(self, *, create: bool, durable: bool) -> Iterator[sqlite3.Connection]:
        """Begin a write transaction, and commit it at the end of the block. It is flushed if it is to be ``durable``."""
        db = self.connect(create=create)
        try:
            if not durable:
                db.execute("PRAGMA synchronous = NORMAL")
            begin(db)
            yield db
            self.commit(db)
        except BaseException:
            self.recover()
            raise
        finally:
            if not durable:
                with suppress(sqlite3.Error):  # it is closed
                    db.execute("PRAGMA synchronous = FULL")

    def check_free(self, db: sqlite3.Connection, octets: int) -> None:
        """Raise OSError if the disk has less free space, and the database has not so much in it either.

        Neither the database nor its log becomes smaller when messages are removed, but their space is used again: the pages of
        the database, and the log from its beginning when it has `LOG_PAGES`.
        """
        parent = os.path.dirname(self.path)
        if (free := free_octets(parent)) >= octets:
            return
        (page_octets,), (pages,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "freelist_count"))
        log = os.stat(f"{self.path}-wal").st_size
        if pages * page_octets < octets or free + log < LOG_PAGES * page_octets:
            check_free(parent, octets)

    def commit(self, db: sqlite3.Connection) -> None:
        """Commit the transaction. Raises FileNotFoundError if the database was moved."""
        db.execute("COMMIT")
        if file_id(self.path) != self._file_id:
            raise FileNotFoundError(errno.ENOENT, "the database was moved or removed while in use", self.path)

    def recover(self) -> None:
        """Roll back after a failed commit. Close the connection only if the database was moved or removed."""
        with suppress(OSError, sqlite3.Error):
            if self.db is None:
                return
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            if file_id(self.path) == self._file_id:
                return
            # SQLite finds a log by its name. This one belongs to the file that was moved, and must not be applied to a
            # new database at this path.
            busy_timeout(self.db, BUSY_TIMEOUT)
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.close()

    def remove_some(self) -> bool:
        """Remove a few pieces of abandoned messages, and return whether there are more that can be removed now.

        Errors do not matter: the pieces are invisible, and are removed later.
        """
        try:
            if self.db is not None and self.abandoned and remove_pieces(self.db, self.abandoned[0]):
                self.abandoned.popleft()
        except sqlite3.Error:
            self.recover()
            return False
        return self.db is not None and bool(self.abandoned)

    def close(self) -> None:
        """Close the connection."""
        if self.db is not None:
            db, self.db = self.db, None
            with suppress(sqlite3.Error):
                db.close()
            self.mark.release()


class Reader:
    """The connection that reads, which is made when it is needed. One thread at a time may use it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.db: sqlite3.Connection | None = None
        self._file_id: tuple[int, int] | None = None

    def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call a function with the connection, in a transaction, and return its result."""
        file = file_id(self.path)
        if self.db is None or file != self._file_id:
            self.close()
            self.db, self._file_id = self.connect(), file
        self.db.execute("BEGIN")
        try:
            return work(self.db)
        finally:
            self.db.execute("ROLLBACK")

    def connect(self) -> sqlite3.Connection:
        """Return a new connection. Raises `StoreError` for a database of another kind or of a later version."""
        try:
            return connect_to_read(self.path)
        except ValueError as error:  # a database without tables may be one that a server is creating
            kind = UnusableStoreError if isinstance(error, NewerVersionError) else StoreError
            raise kind(str(error)) from error
        except sqlite3.Error as error:
            if primary_code(error) in NO_RIGHT:
                raise StoreError(f"{error}; {AS_OWNER}") from error
            raise

    def close(self) -> None:
        """Close the connection."""
        if self.db is not None:
            db, self.db = self.db, None
            db.close()
