"""PostgreSQL: one row for each message, in a database that several servers and consumers share."""

from __future__ import annotations

import os
import random
import re
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

import psycopg
import trio

from .._server.log_events import STORE_OPENED
from .._server.threads import run_in_thread
from ..protocol.arguments import check_items, check_number, check_type
from ._consumer import Claim, DeadLetter
from ._entry import HEADER_OCTETS, Entry, Stored, read_header
from ._errors import MessageNotFoundError, StoreError, UnusableStoreError
from ._group import GroupCommit
from ._outage import Outage
from ._postgresql_connection import Bodies, Link, Watchdog, store_error
from ._postgresql_queue import CHANNEL, NOTIFY, REQUEUE, Listener, claim, plain, read_counts, settle
from ._postgresql_reading import read_dead_letters, read_message, read_page
from ._postgresql_schema import LOCK_STORE, check_tables, guarantee, prepare_tables, settings_of, weakness
from ._postgresql_url import parse_seconds, parse_url
from ._query import Query, as_query
from ._spool import Spool
from ._store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from ._consumer import GroupCounts, Outcome
    from ._postgresql_schema import Connection
    from ._store import Selected

T = TypeVar("T")

# Why a committed message is durable
# ----------------------------------
#
# A group of messages is one statement, and so one transaction and one wait: `STORE` inserts all rows from arrays. When the
# server reports the end of the transaction, it is on the disk, and on the standbys of ``synchronous_standby_names``. What
# that means is up to the settings of the server; they are read with each new connection, and logged when they change. With
# ``fsync`` or ``synchronous_commit`` off, a 250 would mean little, so that is an error unless ``durability="memory"`` accepts
# it.
#
# If the connection is lost before that report, the transaction may have been committed. The group then fails, and is not
# committed again: a message that is found after a crash of the primary has not necessarily reached a standby. So a message
# with a 451 may be in the store, and the client sends it again. See `_postgresql_connection.py` for deadlines.
#
# If the server refuses the statement because of one message, each message is committed on its own.
#
# Two groups are committed at the same time, on two connections (see `_group.py`). A message of the later one may thus become
# visible first, as with two servers that share the database. While one of the connections cannot be opened, such as at a limit
# of their number, the groups take turns on the other.
#
# Large messages
# --------------
#
# As in `SQLite`, a large message is written while it is received, in pieces with transactions of their own, which do not
# belong to a message until a row of ``message_rows`` has their ``uid``. These transactions do not wait for the disk. The
# commit of the message does, and what it flushes includes all that was written before. If the server has crashed and lost
# pieces in between, `PUBLISH` finds too few of them, and the message is refused.
#
# Pieces of a process that was killed are removed by the next store that is opened. ``unpublished`` has their uids with
# the number of their store, and each open store holds an advisory lock with its number, which the server releases with the
# connections of the groups. A store that lost both can thus lose the pieces of a message that is being received; that message
# is refused. Removing and publishing both delete the row of ``unpublished`` first, so that only one of them happens, and
# writing another piece locks it.

#: Octets of a large message that are written in one transaction.
PIECE = 1 << 18
#: Kinds of errors that another message would not have: its values are at fault, and not the server or the connection.
FAULTS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded, UnicodeError)

COLUMNS = (
    ("uid", "text"),
    ("received_at", "timestamptz"),
    ("sender", "text"),
    ("mail_params", "text"),
    ("peer", "text"),
    ("helo", "text"),
    ("protocol", "text"),
    ("tls", "text"),
    ("auth", "text"),
    ("size", "int8"),
    ("subject", "text"),
    ("date", "text"),
    ("pieces", "int4"),
    ("body", "bytea"),
)
NAMES = ", ".join(name for name, _ in COLUMNS)
# The numbers are in the order of the group.
STORE = f"""
WITH stored AS (
    INSERT INTO message_rows ({NAMES})
    SELECT {NAMES} FROM unnest({", ".join(f"%b::{kind}[]" for _, kind in COLUMNS)})
        WITH ORDINALITY AS given ({NAMES}, position)
    ORDER BY position
    RETURNING id, uid
), addressed AS (
    INSERT INTO recipients
    SELECT id, n, address, params
    FROM unnest(%b::text[], %b::int4[], %b::text[], %b::text[]) AS given (uid, n, address, params) JOIN stored USING (uid)
), queued AS (
    INSERT INTO queue (grp, message, due)
    SELECT name, id, coalesce(%b::timestamptz, now()) FROM groups, stored RETURNING 1
)
SELECT count(*) FROM queued
"""  # noqa: S608 -- no values
PUBLISH = """
WITH mine AS (DELETE FROM unpublished WHERE uid = ANY(%s) RETURNING uid)
SELECT uid, (SELECT count(*) FROM pieces WHERE pieces.uid = mine.uid) FROM mine
"""
LEFT_BEHIND = """
SELECT uid FROM unpublished WHERE store NOT IN (
    SELECT objid::bigint::integer FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND classid = %s AND datname = current_database() AND granted
)
"""
WRITE_PIECE = """
WITH settings AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO pieces SELECT uid, %b::int4, %b::bytea FROM settings, unpublished WHERE uid = %b FOR KEY SHARE OF unpublished
"""


class PostgreSQL(Store["PostgreSQLSpool"]):
    """A store that keeps every message in a PostgreSQL database.

    ``url`` is ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``, with the parameters of libpq and several hosts if needed
    (postgresql.org/docs/current/libpq-connect.html). Without a password there, libpq uses PGPASSWORD or its password file.

    ``schema`` has the tables of the store, and is created if it does not exist. ``durability="memory"`` accepts a server with
    ``fsync`` or ``synchronous_commit`` off, which can lose messages after their 250. ``call_timeout`` is the time in seconds
    after which a call of the server has failed. The three can also be parameters of the URL.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        durability: str | None = None,
        call_timeout: float | None = None,
    ) -> None:
        super().__init__()
        self.url: str
        self.url, params, options = parse_url(url)
        self.schema: str = options.get("schema", "smtp_trio") if schema is None else schema
        self.durability: str = options.get("durability", "disk") if durability is None else durability
        self.call_timeout: float = (
            parse_seconds(options.get("call_timeout", "20")) if call_timeout is None else call_timeout
        )
        check_type(self.schema, "schema", str)
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", self.schema):
            raise ValueError(f'schema must be 1 to 41 lower-case letters, digits and "_", got {self.schema!r}')
        if self.durability not in ("disk", "memory"):
            raise ValueError(f'durability must be "disk" or "memory", got {self.durability!r}')
        check_number(self.call_timeout, "call_timeout", 0.1)
        watchdog = Watchdog(self.call_timeout)
        link = partial(Link, params, self.schema, watchdog)
        # The log has outages of the writer. Consumers log their own, and programs that read get an error.
        outage = Outage(lambda: self.url)
        self._writer = link(outage=outage, prepare=self._prepare)
        self._second = link(outage=outage, prepare=self._prepare)
        self._group = GroupCommit(self._commit, second=partial(self._commit, second=True))
        self._reader, self._claimer = link(), link()
        self._listener = Listener(link(prepare=self._listen))
        self._reading, self._claiming = trio.CapacityLimiter(1), trio.CapacityLimiter(1)
        self._number = random.SystemRandom().getrandbits(31)
        self._settings: dict[str, str] = {}

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of ``postgresql://…``."""
        return cls(url)

    def __repr__(self) -> str:
        return f"PostgreSQL({self.url!r})"

    # --- connections

    def _prepare(self, db: Connection) -> None:
        """Prepare a new connection of the writer: check the server and the tables, and remove what others have left."""
        settings = settings_of(db)
        weak = weakness(settings)
        if weak and self.durability != "memory":
            raise UnusableStoreError(
                f"the server can lose messages after their 250: {weak}; turn it on, or accept that with ?durability=memory"
            )
        prepare_tables(db, self.schema)
        db.execute("SELECT pg_advisory_lock_shared(%s, %s)", [LOCK_STORE, self._number])
        remove_pieces(db, [uid for (uid,) in db.execute(LEFT_BEHIND, [LOCK_STORE]).fetchall()])
        if settings != self._settings:
            self._settings = settings
            STORE_OPENED.log(store=self.url, guarantee=guarantee(settings))

    def _listen(self, db: Connection) -> None:
        db.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(CHANNEL + self.schema)))

    def _open(self) -> None:
        try:
            if self.create:
                self._writer.attempt(lambda db: None)
            else:
                self._reader.attempt(lambda db: check_tables(db, self.schema))
        except psycopg.Error as error:
            raise store_error(error) from error

    async def open(self) -> None:
        """Open the store now, not with its first message. Raises `StoreError` when it cannot be used."""
        await super().open()
        if self.create:
            try:
                # A limit of connections is noticed now, and not when the first messages come at the same time.
                await run_in_thread(lambda: self._second.call(lambda db: None), limiter=self._group.second_limiter)
            except StoreError as error:
                with trio.CancelScope(shield=True):
                    await self.aclose()
                raise self._store_error(error) from error

    def _close(self) -> None:
        self._writer.close()
        self._settings = {}

    async def aclose(self) -> None:
        """Close the store. It is opened again when it is used again."""
        await self._listener.aclose()
        await run_in_thread(self._reader.close, limiter=self._reading)
        await run_in_thread(self._claimer.close, limiter=self._claiming)
        await run_in_thread(self._second.close, limiter=self._group.second_limiter)
        await super().aclose()

    # --- writing

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> PostgreSQLSpool:
        return PostgreSQLSpool(entry, self)

    def _commit(self, messages: Sequence[PostgreSQLSpool], *, second: bool = False) -> dict[PostgreSQLSpool, Exception]:
        """Store a group, on one of the two connections that groups have."""
        writer, other = (self._second, self._writer) if second else (self._writer, self._second)
        if other.connection is not None and not writer.ready():
            writer = other
        errors: dict[PostgreSQLSpool, Exception] = {}
        try:
            try:
                self._store_group(writer, messages, errors)
            except StoreError as error:
                if len(messages) == 1 or not isinstance(error.__cause__, FAULTS):
                    raise
                errors.clear()
                for message in messages:
                    try:
                        self._store_group(writer, [message], errors)
                    except StoreError as failure:
                        errors[message] = failure
        except BaseException:
            errors.clear()  # their tracebacks refer to this frame
            raise
        return errors

    def _store_group(
        self, writer: Link, messages: Sequence[PostgreSQLSpool], errors: dict[PostgreSQLSpool, Exception]
    ) -> None:
        """Store messages in one transaction. Add errors of messages whose pieces are lost."""
        queued = writer.call(lambda db: self._insert(db, messages, errors))
        if queued:
            with suppress(StoreError):
                writer.call(lambda db: db.execute(NOTIFY, [CHANNEL + self.schema]))

    def _insert(
        self, db: Connection, messages: Sequence[PostgreSQLSpool], errors: dict[PostgreSQLSpool, Exception]
    ) -> int:
        large = {message.name: message.pieces for message in messages if message.pieces}
        with db.transaction() if large else nullcontext():
            if large:
                found: dict[str, int] = dict(db.execute(PUBLISH, [list(large)]).fetchall())
                lost = {message for message in messages if message.pieces and found.get(message.name) != message.pieces}
                errors.update((message, lost_part()) for message in lost)
                if lost:  # `PUBLISH` has removed their rows, without which nothing would find the pieces that are left
                    db.execute("DELETE FROM pieces WHERE uid = ANY(%s)", [[message.name for message in lost]])
                messages = [message for message in messages if message not in lost]
            if not messages:
                return 0
            [(queued,)] = db.execute(STORE, [*values(messages), self._moment()]).fetchall()
            return int(queued)

    def _moment(self) -> datetime | None:
        """Return the time if a test has set `clock`, otherwise None: the server's clock is used."""
        return None if self.clock is Store.clock else datetime.fromtimestamp(self.clock(), UTC)

    def write_piece(self, uid: str, n: int, data: bytearray) -> None:
        """Write a piece of a message that is being received, in a transaction of its own."""

        def write(db: Connection) -> None:
            with db.transaction() if n == 0 else nullcontext():
                if n == 0:
                    db.execute("INSERT INTO unpublished VALUES (%s, %s)", [uid, self._number])
                if db.execute(WRITE_PIECE, [n, data, uid]).rowcount != 1:
                    raise lost_part()

        self._writer.call(write)

    def abandon(self, uid: str) -> None:
        """Remove the pieces of a message that is not stored. Errors do not matter: they are invisible, and removed later."""
        with suppress(StoreError):
            self._writer.call(lambda db: remove_pieces(db, [uid]))

    # --- reading

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await run_in_thread(lambda: self._reader.call(work), limiter=self._reading)

    async def _select(self, query: Query, *, reverse: bool, after: str | None, offset: int) -> AsyncGenerator[Selected]:
        last: int | None = None
        if after is not None:
            row = await self._read(
                lambda db: db.execute("SELECT id FROM message_rows WHERE uid = %s", [plain(after)]).fetchone()
            )
            if row is None:
                raise MessageNotFoundError(f"{self!r}: no message {after!r}")
            last = row[0]
        while page := await self._read(partial(read_page, last=last, reverse=reverse, offset=offset)):
            for _, entry in page:
                yield entry, False
            last, _ = page[-1]
            offset = 0

    async def count(self, query: Query | str = "", *, limit: int | None = None) -> int:
        """Return the number of messages that fulfil a query, by default of all messages; ``limit`` if there are more."""
        if as_query(query).terms or limit is not None:
            return await super().count(query, limit=limit)
        rows = await self._read(lambda db: db.execute("SELECT count(*) FROM message_rows").fetchall())
        return int(rows[0][0])

    async def present(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids whose messages are in the store."""
        uids = [plain(uid) for uid in check_items(ids, "ids", str)]
        rows = await self._read(
            lambda db: db.execute("SELECT uid FROM message_rows WHERE uid = ANY(%s)", [uids]).fetchall()
        )
        return {uid for (uid,) in rows}

    async def get(self, id: str) -> Stored:
        """Return a message. Raises `MessageNotFoundError` if the store does not have it."""
        check_type(id, "id", str)
        stored = await self._read(lambda db: read_message(db, "uid = %s", plain(id)))
        if stored is None:
            raise MessageNotFoundError(f"{self!r}: no message {id!r}")
        return stored

    async def remove(self, ids: Iterable[str]) -> int:
        """Remove messages, and return how many of them the store had."""
        uids = [plain(uid) for uid in ids]
        return await self._read(lambda db: db.execute("DELETE FROM message_rows WHERE uid = ANY(%s)", [uids]).rowcount)

    # --- consuming

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        token = os.urandom(8).hex()
        options = {"group": group, "name": name, "lease": lease, "max": max_attempts, "token": token}
        options["now"] = self._moment()

        def work(db: Connection) -> Claim | None:
            while (claimed := claim(db, options)) is not None:
                message, attempt, state = claimed
                stored = read_message(db, "id = %s", message)
                if stored is not None:  # it was not removed meanwhile
                    return Claim(stored=stored, group=group, token=f"{token} {message}", attempt=attempt, state=state)
            return None

        return await run_in_thread(lambda: self._claimer.call(work), limiter=self._claiming)

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        token, _, message = claim.token.partition(" ")
        options = {"group": claim.group, "token": token, "message": int(message), "now": self._moment()}
        return await run_in_thread(
            lambda: self._claimer.call(lambda db: settle(db, outcome, options)), limiter=self._claiming
        )

    async def _wait_for_message(self, group: str, longest: float) -> None:
        with trio.move_on_after(longest):
            await self._listener.wait()

    async def dead_letters(self, group: str = "default") -> AsyncGenerator[DeadLetter]:
        """Iterate over the messages that a group has given up, from the oldest to the newest."""
        last = 0
        while page := await self._read(partial(read_dead_letters, group=group, last=last)):
            for _, letter in page:
                if letter is not None:
                    yield letter
            last, _ = page[-1]

    async def requeue(self, group: str, ids: Iterable[str]) -> int:
        """Deliver dead letters of a group again, with no attempts counted, and return how many of them there were."""
        options = [self._moment(), group, [plain(uid) for uid in ids]]
        number = await self._read(lambda db: db.execute(REQUEUE, options).rowcount)
        if number:
            await self._read(lambda db: db.execute(NOTIFY, [CHANNEL + self.schema]))
        return number

    async def groups(self) -> dict[str, GroupCounts]:
        """Return how many messages each group of consumers has not settled, by its name."""
        return await self._read(partial(read_counts, now=self._moment()))


class PostgreSQLSpool(Spool):
    """A message before it is published: the last octets in memory, the others in pieces."""

    part = PIECE

    def __init__(self, entry: Entry, store: PostgreSQL) -> None:
        super().__init__(entry.id)
        self.pieces: int = 0
        """The number of pieces that were written."""
        self.recipients: list[tuple[str, str]] = [*zip(entry.recipients, entry.rcpt_params, strict=True)]
        self._entry = entry
        self._store = store
        self._first = b""

    async def in_thread(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call a function in the thread that uses the connection, between two groups."""
        return await self._store._group.run(work, abandon_on_cancel=abandon_on_cancel)

    def write(self, data: bytearray) -> None:
        """Write a piece."""
        if not self.pieces:
            self._first = bytes(data[:HEADER_OCTETS])
        self._store.write_piece(self.name, self.pieces, data)
        self.pieces += 1

    def discard(self) -> bool:
        """Remove the pieces."""
        self._store.abandon(self.name)
        return False

    def values(self) -> tuple[object, ...]:
        """Return the values of `COLUMNS` but the last, which is `body`."""
        entry = self._entry
        subject, date = read_header(self._first or self._buffer)
        return (
            entry.id,
            entry.received,
            entry.sender,
            entry.mail_params,
            entry.peer,
            entry.helo,
            entry.protocol,
            entry.tls,
            entry.auth,
            self.size + self.buffered,
            None if subject is None else plain(subject),
            None if date is None else date.isoformat(),
            self.pieces,
        )

    @property
    def body(self) -> bytearray:
        """The octets after the pieces. They stay in memory: the insert may be repeated."""
        return self._buffer


def lost_part() -> StoreError:
    """Return the error of a message whose pieces were lost, in a crash of the server or of the connection."""
    return StoreError("the server has lost a part of the message")


def remove_pieces(db: Connection, uids: list[str]) -> None:
    """Remove the pieces of messages that are not stored.

    A piece that is being written meanwhile locks the row of ``unpublished``. So the second statement, which begins after
    that row was deleted, finds it.
    """
    if uids:
        with db.transaction():
            rows = db.execute("DELETE FROM unpublished WHERE uid = ANY(%s) RETURNING uid", [uids]).fetchall()
            db.execute("DELETE FROM pieces WHERE uid = ANY(%s)", [[uid for (uid,) in rows]])


def values(messages: Sequence[PostgreSQLSpool]) -> list[list[object] | Bodies]:
    """Return the arrays of `STORE`: one for each column."""
    recipients = [
        (message.name, n, *recipient) for message in messages for n, recipient in enumerate(message.recipients)
    ]
    columns = zip(*(message.values() for message in messages), strict=True)
    bodies = Bodies([message.body for message in messages])
    return [*map(list, columns), bodies, *map(list, zip(*recipients, strict=True))]
