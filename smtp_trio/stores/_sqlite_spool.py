"""`SQLiteSpool`: a message before it is in the database of `SQLite`; and the statements that write and remove messages.

The comment at the beginning of `sqlite.py` has the strategy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ._entry import HEADER_OCTETS, read_header
from ._errors import MessageTooBigError
from ._spool import Spool
from ._sqlite_database import begin
from ._sqlite_reading import header_row

if TYPE_CHECKING:
    import sqlite3
    from collections import deque
    from collections.abc import Callable, Sequence

    from ._disk import ProcessMark
    from ._entry import Entry
    from ._spool import T
    from ._sqlite_reading import Header

#: Less than SQLite's limit of 1,000,000,000 octets for a row (sqlite.org/limits.html), because of the other columns.
MAX_MESSAGE = 999_000_000
#: Octets of a large message that are written in one transaction.
PIECE = 1 << 17
INSERT = """
INSERT INTO message_rows (id, uid, received_at, sender, peer, helo, protocol, tls, auth, mail_params, size, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
#: The last id that was used. The one of a message that a consumer has removed is not used again: see `_sqlite_queue.py`.
LAST_ID = """
SELECT max(
    coalesce((SELECT max(id) FROM message_rows), 0), coalesce((SELECT max(last) FROM consumer_groups), 0)
)
"""
#: Messages that are removed in one transaction, and octets after which no other one is.
REMOVED_MESSAGES, REMOVED_OCTETS = 256, 1 << 23
#: Pieces that are removed in one transaction.
REMOVED_AT_ONCE = 16


class PieceStore(Protocol):
    """The part of `SQLite` that a spool uses."""

    removing: bool

    def write_piece(self, uid: str, n: int, data: bytearray) -> None: ...
    def read_start(self, uid: str) -> bytes: ...
    def abandon(self, uid: str) -> None: ...
    def has_abandoned(self) -> bool: ...
    def remove_some(self) -> bool: ...
    async def in_turn(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T: ...


class SQLiteSpool(Spool):
    """A message before it is published: the last octets in memory, the others in pieces."""

    part = PIECE

    def __init__(self, entry: Entry, store: PieceStore) -> None:
        super().__init__(entry.id)
        self.pieces: int = 0
        """The number of pieces that were written."""
        self._store = store
        self._header: Header | None = None
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
        return await self._store.in_turn(work, abandon_on_cancel=abandon_on_cancel)

    def write(self, data: bytearray) -> None:
        """Write a piece."""
        self._check_size(len(data))
        self._store.write_piece(self.name, self.pieces, data)
        self.pieces += 1

    def _check_size(self, more: int) -> None:
        if self.size + more > MAX_MESSAGE:
            raise MessageTooBigError(f"{self.size + more} octets are more than SQLite can return in a row")

    def finish(self) -> None:
        """Check the size of the whole message, and find its subject and date. Its beginning is in the database."""
        self._check_size(self.buffered)
        self._header = read_header(self._store.read_start(self.name) + self._buffer[:HEADER_OCTETS])

    def discard(self) -> bool:
        """Remove a few pieces, of this message or of others. Return False after an error."""
        return self._store.remove_some() or not self.to_discard

    @property
    def to_discard(self) -> bool:
        """True if there are pieces of this message or of others."""
        return self._store.has_abandoned()

    async def discard_in_thread(self) -> None:
        """Note that the pieces have to be removed, and do so if the disk responds and no other session does."""
        if self.pieces:
            self._store.abandon(self.name)
            if not self._store.removing:
                self._store.removing = True
                try:
                    await super().discard_in_thread()
                finally:
                    self._store.removing = False

    def header(self, message_id: int) -> tuple[int, str | None, str | None]:
        """Return the row of ``headers``."""
        return header_row(message_id, *(self._header or read_header(self._buffer)))

    def values(self, message_id: int) -> tuple[object, ...]:
        """Return the row of ``message_rows``. The octets stay in memory: the insert may be repeated."""
        return message_id, *self._columns, self.size + self.buffered, self._buffer


def insert(db: sqlite3.Connection, messages: Sequence[SQLiteSpool]) -> None:
    """Insert messages and their recipients in the current transaction.

    One ``executemany`` inserts all rows of a table, because each statement has a fixed cost.
    """
    (last_id,) = db.execute(LAST_ID).fetchone()
    numbered = list(enumerate(messages, last_id + 1))
    db.executemany(INSERT, [message.values(message_id) for message_id, message in numbered])
    db.executemany(
        "INSERT INTO headers VALUES (?, ?, ?)", [message.header(message_id) for message_id, message in numbered]
    )
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


def remove_messages(db: sqlite3.Connection, uids: deque[str]) -> int:
    """Remove some of the messages in the current transaction, and return how many there were."""
    count = octets = 0
    for _ in range(min(len(uids), REMOVED_MESSAGES)):
        found = db.execute("SELECT id, size FROM message_rows WHERE uid = ?", [uids.popleft()]).fetchone()
        if found is not None:
            db.execute("DELETE FROM message_rows WHERE id = ?", found[:1])
            count += 1
            octets += found[1]
            if octets > REMOVED_OCTETS:
                break
    return count
