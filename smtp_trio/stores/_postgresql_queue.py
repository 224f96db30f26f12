"""Consumers of `PostgreSQL`: claims, their results, dead letters, and notifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import trio

from .._server.threads import run_in_thread
from ._consumer import GroupCounts

if TYPE_CHECKING:
    from datetime import datetime

    from ._consumer import Outcome
    from ._postgresql_connection import Link
    from ._postgresql_schema import Connection

# How a group learns of its messages
# ----------------------------------
#
# Each message has a row in ``queue`` for each group, which is inserted by the transaction that publishes the message, and
# deleted when the group has settled it. A group that remembered the last ``id`` it has seen instead would miss messages:
# numbers are taken from a sequence before the transaction commits, so a transaction with a lower number can commit later.
#
# A new group gets all messages. `create_group` inserts its row while it locks ``groups`` exclusively. A publishing
# transaction reads ``groups``, and holds its lock of it until its end. So all those that did not see the new group have
# committed, and those that wait for the lock take their numbers later. The highest number at that moment, ``first``, divides
# the messages exactly: those above it have a row from their publication, and those up to it get one from `fill_group`, a
# few thousand with each claim. ``filled`` is the number of the last of these. Neither holds the lock while it works.
#
# A claim is an update of one row, which others skip while it is locked (``SKIP LOCKED``). ``due`` is the time from which it
# can be claimed: for a row that is claimed, the end of the lease. ``token`` identifies the claim. Rows with a ``reason`` are
# dead letters. Times are those of the server's clock, which all consumers share.
#
# A claim is committed without waiting for the disk. If the server crashes and loses it, the message is delivered again, as
# after the end of the lease; its result waits for the disk, and with it for the claim.
#
# Notifications
# -------------
#
# NOTIFY in the publishing transaction would be sent exactly with its commit. But a transaction that notifies holds a lock of
# the whole server from before its flush until its end (`PreCommit_Notify` in src/backend/commands/async.c), so that several
# intakes would flush, and wait for standbys, one after the other. So the store notifies after the commit, if there are
# groups, in a transaction of its own that does not wait for the disk. If it dies in between, consumers find the message when
# they look the next time, a second later.

#: The number of earlier messages that a claim adds to the queue of a new group.
FILLED_AT_ONCE = 5000
#: The channel of the notifications, before the name of the schema.
CHANNEL = "smtp_trio."

CREATE_GROUP = """
INSERT INTO groups SELECT %s, coalesce(max(id), 0), 0 FROM message_rows ON CONFLICT DO NOTHING
"""
FILL_GROUP = """
WITH grp AS MATERIALIZED (
    SELECT name, first, filled FROM groups WHERE name = %(group)s AND filled < first FOR UPDATE
), found AS MATERIALIZED (
    SELECT id, least(received_at, now()) AS due FROM grp, message_rows
    WHERE id > filled AND id <= first ORDER BY id LIMIT %(count)s
), filled AS (
    INSERT INTO queue (grp, message, due) SELECT grp.name, found.id, coalesce(%(now)s::timestamptz, found.due) FROM grp, found
)
UPDATE groups SET filled = coalesce((SELECT max(id) FROM found), grp.first) FROM grp WHERE groups.name = grp.name
"""
CLAIM = """
WITH next AS MATERIALIZED (
    SELECT grp, message FROM queue
    WHERE grp = %(group)s AND reason IS NULL AND due <= coalesce(%(now)s::timestamptz, now())
    ORDER BY due, message LIMIT 1 FOR UPDATE SKIP LOCKED
), settings AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) FROM next)
UPDATE queue SET
    due = coalesce(%(now)s::timestamptz, now()) + make_interval(secs => %(lease)s),
    attempts = CASE WHEN attempts < %(max)s THEN attempts + 1 ELSE attempts END,
    reason = CASE WHEN attempts < %(max)s THEN NULL ELSE 'the lease of the last attempt has expired' END,
    token = %(token)s,
    consumer = %(name)s
FROM next, settings WHERE queue.grp = next.grp AND queue.message = next.message
RETURNING reason IS NOT NULL, queue.message, attempts, state, (SELECT filled < first FROM groups WHERE name = %(group)s)
"""
DONE = "DELETE FROM queue WHERE grp = %(group)s AND message = %(message)s AND token = %(token)s"
DONE_REMOVE = f"""
WITH done AS ({DONE} RETURNING message)
DELETE FROM message_rows USING done WHERE message_rows.id = done.message
"""  # noqa: S608 -- no values
RETRY = """
UPDATE queue SET due = coalesce(%(now)s::timestamptz, now()) + make_interval(secs => %(after)s),
    attempts = attempts - %(uncounted)s, state = %(state)s, token = NULL, consumer = NULL
WHERE grp = %(group)s AND message = %(message)s AND token = %(token)s
"""
DEAD = """
UPDATE queue SET reason = %(reason)s, state = %(state)s, token = NULL, consumer = NULL
WHERE grp = %(group)s AND message = %(message)s AND token = %(token)s
"""
DEAD_LETTERS = """
SELECT message, reason, attempts, state FROM queue
WHERE grp = %s AND reason IS NOT NULL AND message > %s ORDER BY message LIMIT %s
"""
REQUEUE = """
UPDATE queue SET reason = NULL, attempts = 0, due = coalesce(%s::timestamptz, now())
FROM message_rows WHERE grp = %s AND reason IS NOT NULL AND message = message_rows.id AND uid = ANY(%s)
"""
# The earlier messages that a new group does not have in its queue yet are counted by their first recipients: with their bodies,
# the rows of messages are on many more pages.
COUNTS = """
SELECT name,
    coalesce(unsettled - in_flight - dead, 0)
        + (SELECT count(*) FROM recipients WHERE message > filled AND message <= first AND n = 0),
    coalesce(in_flight, 0),
    coalesce(dead, 0)
FROM groups LEFT JOIN (
    SELECT grp,
        count(*) AS unsettled,
        count(*) FILTER (
            WHERE reason IS NULL AND token IS NOT NULL AND due > coalesce(%s::timestamptz, now())
        ) AS in_flight,
        count(reason) AS dead
    FROM queue GROUP BY grp
) AS counts ON grp = name
"""
NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, '')"


def create_group(db: Connection, group: str) -> None:
    """Add a group, unless it exists."""
    with db.transaction():
        db.execute("LOCK TABLE groups IN ACCESS EXCLUSIVE MODE")
        db.execute(CREATE_GROUP, [group])


def claim(db: Connection, values: dict[str, Any]) -> tuple[int, int, str] | None:
    """Claim a message of a group. Return its number, the attempt and the state, or None if none is due."""
    filled = db.execute("SELECT filled = first FROM groups WHERE name = %s", [values["group"]]).fetchone()
    if filled is None:
        create_group(db, values["group"])
    if filled != (True,):
        db.execute(FILL_GROUP, {"count": FILLED_AT_ONCE, **values})
    while (row := db.execute(CLAIM, values).fetchone()) is not None:
        dead, message, attempt, state = row[:4]
        if not dead:
            return message, attempt, state
    return None


def settle(db: Connection, outcome: Outcome, values: dict[str, Any]) -> bool:
    """Record the result of a claim, and return whether the claim still held. A message that was removed can be settled."""
    values = {
        **values,
        "after": outcome.after,
        "uncounted": int(outcome.uncounted),
        "reason": plain(outcome.reason),
        "state": plain(outcome.state),
    }
    done = DONE_REMOVE if outcome.remove else DONE
    query = {"done": done, "retry": RETRY, "dead": DEAD}[outcome.kind]
    if db.execute(query, values).rowcount == 1:
        return True
    return db.execute("SELECT 1 FROM message_rows WHERE id = %s", [values["message"]]).fetchone() is None


def read_counts(db: Connection, now: datetime | None) -> dict[str, GroupCounts]:
    """Return the numbers of messages that each group has not settled. ``now`` is None for the time of the server."""
    with db.transaction():
        db.execute("SET LOCAL jit = off")  # it takes longer to compile the statement than to execute it
        rows = db.execute(COUNTS, [now]).fetchall()
    return {
        name: GroupCounts(waiting=waiting, in_flight=in_flight, dead=dead) for name, waiting, in_flight, dead in rows
    }


def plain(text: str) -> str:
    """Return a text without what PostgreSQL cannot store in one: NUL, and what is not a character of Unicode."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


@final
class Listener:
    """Waits for notifications on a connection of its own."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._limiter = trio.CapacityLimiter(1)
        self._waiting = False
        self._notified = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        """Return when a notification has come, or earlier. Raises `StoreError`.

        One task waits for the socket; the others return when it does, or when it is cancelled.
        """
        if self._waiting:
            await self._notified.park()
            return
        self._waiting = True
        try:
            socket, notified = await run_in_thread(lambda: self._link.call(drain), limiter=self._limiter)
            if not notified:
                await trio.lowlevel.wait_readable(socket)
                await run_in_thread(lambda: self._link.call(drain), limiter=self._limiter)
        except trio.ClosedResourceError:  # the store was closed
            await trio.lowlevel.checkpoint()
        finally:
            self._waiting = False
            self._notified.unpark_all()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._link.connection is not None and not self._link.connection.closed:
            trio.lowlevel.notify_closing(self._link.connection.fileno())
        await run_in_thread(self._link.close, limiter=self._limiter)


def drain(db: Connection) -> tuple[int, bool]:
    """Read the notifications that have come. Return the socket, and whether there were any.

    Unlike ``psycopg.Connection.notifies``, this finds those that libpq has already read from the socket.
    """
    db.pgconn.consume_input()
    notified = False
    while db.pgconn.notifies():
        notified = True
    return db.fileno(), notified
