"""SQLite: one row for each message.

The schema has ``user_version`` 3. ``uid`` is the id of the envelope, as the log and the session's ``Received:`` have
it. ``body`` has the octets that the client sent, without any added field. ``received_at`` is ISO 8601 in UTC.
``sender`` and ``address`` are the mailboxes as the client sent them, "" being the null reverse-path; ``mail_params``
and ``params`` are the ESMTP parameters of MAIL and RCPT. ``n`` numbers the recipients from 0.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections import deque
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

import trio

from .._server.spool import check_path
from .._server.threads import run_in_thread
from ..protocol.arguments import check_items, check_number, check_type
from ._consumer import Claim, Outcome, check_name
from ._errors import MessageNotFoundError, StoreError
from ._query import Query, as_query
from ._sqlite_connection import Reader, Writer
from ._sqlite_database import begin
from ._sqlite_index import Index
from ._sqlite_plan import Plan
from ._sqlite_queue import claim, is_due, read_counts, requeue, settle
from ._sqlite_reading import (
    COMPARISONS,
    PAGE,
    add_headers,
    condition_of,
    count_messages,
    find_id,
    find_message,
    find_uids,
    read_dead_letters,
    read_entries,
    read_page,
    start_of,
)
from ._sqlite_spool import SQLiteSpool, insert, publish, remove_messages
from ._store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from ._consumer import DeadLetter, GroupCounts
    from ._entry import Entry, Stored
    from ._spool import T
    from ._sqlite_queue import Claimed
    from ._sqlite_reading import Condition
    from ._store import Selected

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
# (`SQLite.remove_some`): by its session if the disk responds, and otherwise with the next commits or when the
# store is closed. One session does this for all: when each of a thousand took its turn to remove some, they waited longer
# than they may, and pieces were left until there was another commit. A process that is killed cannot remove them.
# ``unpublished`` has the uids of all pieces without a message, with a random number of the store that wrote them. Each open
# store holds a lock with its number (`ProcessMark`), which the kernel releases when the process ends. A store that is
# opened removes the pieces of those that do not hold theirs, and not those of other servers that use the same database.
#
# To remove pieces takes some space: in the log, and in the database, into which the log is copied before it is used again.
# Without space, pieces of refused messages would fill the disk until the server is started again: 120 peers with messages of
# 40 MiB left a gigabyte of them. So no piece is written when less than twice RESERVE is left, and no message is committed
# when less than RESERVE is left.
#
# Reading, and consumers
# ----------------------
#
# Messages are read through a connection of its own, in a thread of its own, so that a reader of large messages does not delay
# a commit. Its transactions are short: a list is read in pages, and each page continues after the last ``id`` of the one
# before.
#
# What consumers change is written between two commits, in the thread of the commits (`GroupCommit.run`), since SQLite has
# one writer at a time. `_sqlite_queue.py` has the statements. A result is flushed like a message; a claim is not, because one
# that is lost in a power cut only makes its message available again. (The next flush covers it, as there is one log.)
# Before a claim begins a transaction, it looks whether there is anything to claim. So a consumer that waits can look every
# second, which is how it finds messages that other processes have stored.
#
# In the same process it is woken at once. Every change that can make a message due increments ``_changes`` in the thread
# of the commits. A claim that finds nothing has read this number before it looked, so the consumer waits only if the number
# is still the same; no change between the claim and the wait is missed.

#: The number of pieces, of all messages, after which the write-ahead log is copied into the database. A group of messages waits
#: for a piece, and for this copy, too. SQLite itself would copy after a thousand pages, which takes ten times as long as a
#: piece. That number is better for small messages, which change the same pages again and again. When the pieces of each message
#: were counted, eight messages that began at the same time had up to nine pieces in the log, and of the small messages between
#: them, the slowest hundredth waited for about 25 ms and not 20.
PIECES_COPIED = 2
#: Octets that are left free on the disk, so that what is not stored can be removed.
RESERVE = 1 << 21
#: The number of entries that an iteration reads first. Most pages of lists are no longer.
FIRST_PAGE = 64
#: How many times a search adds messages to the index; and the seconds after a search in which `SQLite.maintain` does so without
#: a pause. At other times the pause is as long as the work, or so many times longer if messages were stored meanwhile.
INDEX_STEPS, INDEX_TIME, INDEX_SLOWLY = 2, 600, 20
#: Seconds until it is looked again for messages that are not in the index.
INDEX_PAUSE = 1.0


class SQLite(Store["SQLiteSpool"]):
    """A store that keeps every message in one SQLite database.

    ``path`` is the file of the database; it is created if it does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path: str = os.path.abspath(check_path(path, "path"))
        self.url: str = f"sqlite:{self.path}"
        self._writer = Writer(self.path)
        self.removing: bool = False
        """True while a session removes the pieces of messages that are not stored."""
        self._uncopied = 0  # pieces in the log
        self._reader = Reader(self.path)
        self._reading = trio.CapacityLimiter(1)
        self._index = Index(self.path)
        self._indexing = trio.CapacityLimiter(1)
        self._searched = -math.inf
        """The time of the last search, on Trio's clock."""
        self._changes = 0
        self._looked: dict[str, int] = {}
        """For each group, `_changes` when its last claim that has found nothing looked."""
        self._wake: set[Callable[[], object]] = set()
        """Functions that wake consumers, and that can be called in any thread."""

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
            self._writer.check_free(db, RESERVE)
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
            self._writer.commit(db)
        except BaseException:
            errors.clear()  # their tracebacks refer to this frame
            self._writer.recover()
            raise
        self._announce()
        self.remove_some()
        return errors

    def write_piece(self, uid: str, n: int, data: bytearray) -> None:
        """Write a piece of a message that is being received, in a transaction of its own."""
        try:
            db = self._connect()
            self._writer.check_free(db, 2 * RESERVE)
            begin(db)
            if n == 0:
                db.execute("INSERT INTO unpublished VALUES (?, ?)", [uid, self._writer.mark.number])
            db.execute("INSERT INTO pieces VALUES (?, ?, ?)", [uid, n, data])
            db.execute("COMMIT")
        except BaseException:
            self._writer.recover()
            raise
        self._uncopied += 1
        if self._uncopied >= PIECES_COPIED:
            self._uncopied = 0
            with suppress(sqlite3.Error):  # the pieces are in the log, and are copied later
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def read_start(self, uid: str) -> bytes:
        """Return the beginning of a message that is being received."""
        return start_of(self._connect(), uid)

    def abandon(self, uid: str) -> None:
        """Note that the pieces of a message have to be removed."""
        self._writer.abandoned.append(uid)

    def has_abandoned(self) -> bool:
        """Return whether pieces have to be removed."""
        return bool(self._writer.abandoned)

    def remove_some(self) -> bool:
        """Remove a few pieces of abandoned messages, and return whether there are more that can be removed now."""
        return self._writer.remove_some()

    async def in_turn(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call a function in the thread that uses the connection, between two groups."""
        return await self._group.run(work, abandon_on_cancel=abandon_on_cancel)

    def _connect(self) -> sqlite3.Connection:
        return self._writer.connect(create=self.create)

    def _open(self) -> None:
        if not self.create:
            os.stat(self.path)
            self._reader.connect().close()
            return
        self._connect()
        while self.remove_some():
            pass

    def _close(self) -> None:
        while self.remove_some():
            pass
        self._writer.close()

    async def aclose(self) -> None:
        """Close the store. It is opened again when it is used again."""
        # No step can be interrupted once its thread has begun. A cancellation between two would leave connections open.
        with trio.CancelScope(shield=True):
            if self._reader.db is not None:
                await run_in_thread(self._reader.close, limiter=self._reading)
            await self._in_index(self._index.close)
            await super().aclose()

    # --- reading and removing:

    async def _select(self, query: Query, *, reverse: bool, after: str | None, offset: int) -> AsyncGenerator[Selected]:
        last = None if after is None else await self._read(partial(find_id, uid=after))
        if after is not None and last is None:
            raise MessageNotFoundError(f"{self!r}: no message {after!r}")
        where, plan = condition_of(query), Plan.of(query)
        high = None if plan is None else await self._prepare_index()
        parts = [self._scan(where, last, reverse=reverse, offset=offset)]
        if plan is not None and high is not None:
            above = f"{where[0]} AND id > ?", (*where[1], high)
            parts = [
                self._scan(above, last, reverse=reverse),
                self._look_up(plan, high, last, reverse=reverse),
            ]
        for part in parts if reverse else reversed(parts):
            async with aclosing(part):
                async for each in part:
                    yield each

    async def _scan(
        self, where: Condition, last: int | None, *, reverse: bool, offset: int = 0
    ) -> AsyncGenerator[Selected]:
        """Iterate over the messages that fulfil a condition."""
        size = FIRST_PAGE
        while page := await self._read(
            partial(read_page, last=last, reverse=reverse, where=where, offset=offset, size=size)
        ):
            if self.create and (new := [row for row in page if not row[2]]):
                with suppress(StoreError):  # they are found in the messages the next time, too
                    await self._write(partial(add_headers, rows=new), durable=False)
            for last, entry, _ in page:  # noqa: B007 -- used for the next page
                yield entry, False
            offset, size = 0, PAGE

    async def _look_up(self, plan: Plan, high: int, last: int | None, *, reverse: bool) -> AsyncGenerator[Selected]:
        """Iterate over the messages up to ``high`` that the index finds."""
        low, above = 0, high + 1
        size = FIRST_PAGE
        while True:
            if last is not None:
                low, above = (low, min(above, last)) if reverse else (last, above)
            find = partial(self._index.find, plan, low, above, reverse=reverse, most=size)
            found = await self._in_index(find)
            if found is None:  # the index cannot be read any more
                left = f"{plan.where[0]} AND id > ? AND id < ?", (*plan.where[1], low, above)
                async with aclosing(self._scan(left, None, reverse=reverse)) as rest:
                    async for each in rest:
                        yield each
                return
            if not found:
                return
            ids = json.dumps([message for message, _ in found])
            rows = await self._read(
                partial(read_entries, condition="id IN (SELECT value FROM json_each(?))", values=[ids])
            )
            entries = {message: entry for message, entry, _ in rows}
            for message, sure in found:
                if message in entries:
                    yield entries[message], sure
            last, size = found[-1][0], PAGE

    async def _prepare_index(self) -> int | None:
        """Add some messages to the index; return the ``id`` up to which it has all of them, or None without an index."""
        if not await self._has_index():
            return None
        self._searched = trio.current_time()
        for _ in range(INDEX_STEPS):
            if not await self._in_index(self._index.step):
                break
        return await self._in_index(self._index.height)

    async def _has_index(self) -> bool:
        """Return whether the store may have an index, after opening the database, which may have to be created or upgraded."""
        if self.create and self._writer.db is None:
            await self._read(count_messages)
        return self.create

    async def indexed(self) -> float | None:
        """Return the share of the messages that the search index has, from 0 to 1, or None without an index."""
        return await self._in_index(self._index.share) if await self._has_index() else None

    async def _in_index(self, work: Callable[[], T]) -> T:
        return await run_in_thread(work, limiter=self._indexing)

    async def maintain(self) -> None:
        """Keep the search index complete, until it is cancelled: fast after a search, and slowly while messages arrive."""
        if not self.create:
            await trio.sleep_forever()
        while True:
            commits, started = self._changes, trio.current_time()
            more = await self._in_index(self._index.step)
            took = trio.current_time() - started
            if not more:
                pause = INDEX_PAUSE
            elif started - self._searched < INDEX_TIME:
                pause = 0.0
            else:
                pause = took * (INDEX_SLOWLY if self._changes > commits else 1)
            await trio.sleep(pause)

    async def count(self, query: Query | str = "", *, limit: int | None = None) -> int:
        """Return the number of messages that fulfil a query, by default of all messages; ``limit`` if there are more."""
        check_number(limit, "limit", integer=True, optional=True)
        query = as_query(query)
        most = math.inf if limit is None else limit
        if not query.terms:
            return int(min(await self._read(count_messages), most))
        where, plan = condition_of(query), Plan.of(query)
        if plan is not None and (high := await self._prepare_index()) is not None:
            count = await self._in_index(partial(self._index.count, plan, high + 1, limit))
            if count is not None:
                new = self._scan((f"{where[0]} AND id > ?", (*where[1], high)), None, reverse=True)
                left = None if limit is None else limit - count
                return count + sum([1 async for _ in self._found(query, new, 0, left)])
        if all(term.name in COMPARISONS for term in query.terms):
            return int(min(await self._read(partial(count_messages, where=where)), most))
        return await super().count(query, limit=limit)

    async def present(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids whose messages are in the store."""
        return await self._read(partial(find_uids, uids=check_items(ids, "ids", str)))

    async def get(self, id: str) -> Stored:
        """Return a message. Raises `MessageNotFoundError` if the store does not have it."""
        check_type(id, "id", str)
        stored = await self._read(partial(find_message, uid=id))
        if stored is None:
            raise MessageNotFoundError(f"{self!r}: no message {id!r}")
        return stored

    async def remove(self, ids: Iterable[str]) -> int:
        """Remove messages, and return how many of them the store had."""
        uids = deque(check_items(ids, "ids", str))
        removed = 0
        while uids:
            removed += await self._write(partial(remove_messages, uids=uids))
        self._index.note_removal()
        return removed

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call a function with the connection for reading, in a transaction, and return its result."""
        try:
            if self._writer.db is None and self.create:
                await self._group.run(self._connect)
            return await run_in_thread(partial(self._reader.call, work), limiter=self._reading)
        except (OSError, sqlite3.Error, StoreError) as error:
            await trio.lowlevel.checkpoint_if_cancelled()  # it was interrupted because of that
            raise self._store_error(error) from error

    async def _write(
        self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True, announce: bool = False
    ) -> T:
        """Call a function with the connection for writing, in a transaction between two commits; return its result.

        With ``announce``, consumers are woken afterwards.
        """

        def write() -> T:
            with self._writer.transaction(create=self.create, durable=durable) as db:
                result = work(db)
            if announce:
                self._announce()
            return result

        try:
            return await self._group.run(write)
        except (OSError, sqlite3.Error, StoreError) as error:
            raise self._store_error(error) from error

    # --- consuming:

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        while True:
            try:
                claimed = await self._group.run(
                    partial(self._claim_now, group, name, lease=lease, max_attempts=max_attempts)
                )
            except (OSError, sqlite3.Error, StoreError) as error:
                raise self._store_error(error) from error
            if claimed is None:
                return None
            try:
                stored = await self.get(claimed.uid)
            except MessageNotFoundError:  # it was removed after it was claimed
                continue
            except StoreError as error:
                # Counted as an attempt: a message that cannot be read must not keep others from being delivered.
                kind: Literal["dead", "retry"] = "dead" if claimed.attempt >= max_attempts else "retry"
                outcome = Outcome(kind=kind, after=2.0**claimed.attempt, reason=str(error), state=claimed.state)
                with suppress(StoreError):
                    await self._record(group, claimed.uid, claimed.token, outcome)
                raise
            return Claim(stored=stored, group=group, token=claimed.token, attempt=claimed.attempt, state=claimed.state)

    def _claim_now(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claimed | None:
        changes, now = self._changes, self.clock()
        claimed = None
        if is_due(self._connect(), group, now):
            with self._writer.transaction(create=self.create, durable=False) as db:
                claimed = claim(db, group, name, lease=lease, max_attempts=max_attempts, now=now)
        if claimed is None:
            self._looked[group] = changes
        return claimed

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        return await self._record(claim.group, claim.stored.id, claim.token, outcome)

    async def _record(self, group: str, uid: str, token: str, outcome: Outcome) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            return settle(db, group, uid, token, outcome, self.clock())

        return await self._write(work, announce=outcome.kind == "retry")

    async def _wait_for_message(self, group: str, longest: float) -> None:
        event = trio.Event()
        wake = partial(trio.lowlevel.current_trio_token().run_sync_soon, event.set)
        self._wake.add(wake)
        try:
            if self._looked.get(group) != self._changes:
                await trio.lowlevel.checkpoint()
                return
            with trio.move_on_after(longest):
                await event.wait()
        finally:
            self._wake.discard(wake)

    def _announce(self) -> None:
        """Wake the consumers that wait in this process: a message may be due. Called in the thread of the commits."""
        self._changes += 1
        for wake in tuple(self._wake):
            wake()

    async def dead_letters(self, group: str = "default") -> AsyncGenerator[DeadLetter]:
        """Iterate over the messages that a group has given up, from the oldest to the newest."""
        check_name(group, "group")
        last = 0
        while page := await self._read(partial(read_dead_letters, group=group, last=last)):
            for last, letter in page:  # noqa: B007 -- used for the next page
                yield letter

    async def requeue(self, group: str, ids: Iterable[str]) -> int:
        """Deliver dead letters of a group again, with no attempts counted, and return how many of them there were."""
        check_name(group, "group")
        return await self._write(partial(requeue, group=group, uids=check_items(ids, "ids", str)), announce=True)

    async def groups(self) -> dict[str, GroupCounts]:
        """Return how many messages each group of consumers has not settled, by its name."""
        return await self._read(partial(read_counts, now=self.clock()))
