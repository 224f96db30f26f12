"""The groups of consumers of `SQLite`: statements that claim messages, and record what has become of them."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from attrs import frozen

from ._consumer import GroupCounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._consumer import Outcome

# Which messages wait for a group
# -------------------------------
#
# A row for each message and group would make every commit more expensive, and the first claim of a group would have to
# write one for each stored message. Instead, `consumer_groups.last` is the largest ``id`` of a message that the group has
# claimed. All messages with a larger one wait, and those with a smaller one are settled unless they have a row in
# ``deliveries``. So a group costs nothing until it claims a message, and then as many rows as it has unsettled messages.
#
# That needs an order in which messages become visible, and an ``id`` that is not used again. Both are so: SQLite has one
# writer at a time, and `insert` in `sqlite.py` chooses ids above those of all messages and above every ``last``. A message
# that is removed takes its deliveries with it, by a trigger.
#
# ``due`` is the time from which a delivery can be claimed: the end of the lease, or the time of the retry. It is NULL for a
# dead letter. ``token`` identifies the last claim. An expired lease therefore needs no work at all: the row becomes due,
# and the next claim replaces the token, so that the consumer that is late cannot settle the message any more.


@frozen
class Claimed:
    """A message that was claimed: what `Claim` has, without the message itself."""

    uid: str
    token: str
    attempt: int
    state: str


DUE = """
SELECT EXISTS (SELECT 1 FROM deliveries WHERE consumer_group = :group AND due <= :now)
    OR EXISTS (
        SELECT 1 FROM message_rows
        WHERE id > coalesce((SELECT last FROM consumer_groups WHERE name = :group), 0)
    )
"""
NEXT_DELIVERY = """
SELECT message, uid, attempts, state, token IS NOT NULL
FROM deliveries JOIN message_rows ON message_rows.id = message
WHERE consumer_group = ? AND due <= ? ORDER BY due, message LIMIT 1
"""
NEXT_MESSAGE = """
SELECT id, uid FROM message_rows
WHERE id > coalesce((SELECT last FROM consumer_groups WHERE name = ?), 0) ORDER BY id LIMIT 1
"""
ADVANCE = "INSERT INTO consumer_groups VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET last = excluded.last"
CLAIM = """
INSERT INTO deliveries (message, consumer_group, due, attempts, token, consumer, state) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    due = excluded.due, attempts = excluded.attempts, token = excluded.token, consumer = excluded.consumer
"""
BURY = "UPDATE deliveries SET due = NULL, token = NULL, reason = ? WHERE message = ? AND consumer_group = ?"
DONE = "DELETE FROM deliveries WHERE message = ? AND consumer_group = ? AND token = ?"
RETRY = """
UPDATE deliveries SET due = ?, attempts = attempts - ?, token = NULL, state = ?
WHERE message = ? AND consumer_group = ? AND token = ?
"""
DEAD = """
UPDATE deliveries SET due = NULL, token = NULL, state = ?, reason = ?
WHERE message = ? AND consumer_group = ? AND token = ?
"""
REQUEUE = """
UPDATE deliveries SET due = 0, attempts = 0, reason = NULL
WHERE message = (SELECT id FROM message_rows WHERE uid = ?) AND consumer_group = ? AND due IS NULL
"""
# The unary plus makes SQLite count in the index of ``uid``, which has all ids on few pages; those of the table also have bodies.
COUNTS = """
SELECT name, coalesce(unsettled - in_flight - dead, 0) + (SELECT count(*) FROM message_rows WHERE +id > last),
    coalesce(in_flight, 0), coalesce(dead, 0)
FROM consumer_groups LEFT JOIN (
    SELECT consumer_group, count(*) AS unsettled, sum(token IS NOT NULL AND due > ?) AS in_flight, sum(due IS NULL) AS dead
    FROM deliveries GROUP BY consumer_group
) ON consumer_group = name
"""


def is_due(db: sqlite3.Connection, group: str, now: float) -> bool:
    """Return whether a message waits for a group. This needs no transaction."""
    (due,) = db.execute(DUE, {"group": group, "now": now}).fetchone()
    return bool(due)


def claim(
    db: sqlite3.Connection, group: str, name: str, *, lease: float, max_attempts: int, now: float
) -> Claimed | None:
    """Claim a message in the current transaction: the delivery that is due first, otherwise the oldest new message."""
    while delivery := db.execute(NEXT_DELIVERY, [group, now]).fetchone():
        message, uid, attempts, state, expired = delivery
        if attempts < max_attempts:
            break
        reason = f"the lease of attempt {attempts} has expired" if expired else f"{attempts} attempts"
        db.execute(BURY, [reason, message, group])
    else:
        new = db.execute(NEXT_MESSAGE, [group]).fetchone()
        if new is None:
            return None
        message, uid = new
        attempts, state = 0, ""
        db.execute(ADVANCE, [group, message])
    token = f"{message}.{os.urandom(8).hex()}"
    db.execute(CLAIM, [message, group, now + lease, attempts + 1, token, name, state])
    return Claimed(uid, token, attempts + 1, state)


def settle(db: sqlite3.Connection, group: str, uid: str, token: str, outcome: Outcome, now: float) -> bool:
    """Record in the current transaction what has become of a claim. Return False if its lease was given to another.

    A message that was removed meanwhile has no deliveries, and can be settled.
    """
    message = int(token.partition(".")[0])
    key = [message, group, token]
    if outcome.kind == "done":
        settled = db.execute(DONE, key).rowcount == 1
        if settled and outcome.remove:
            db.execute("DELETE FROM message_rows WHERE id = ?", [message])
    elif outcome.kind == "retry":
        due = 0 if outcome.uncounted else now + outcome.after
        settled = db.execute(RETRY, [due, outcome.uncounted, outcome.state, *key]).rowcount == 1
    else:
        settled = db.execute(DEAD, [outcome.state, outcome.reason, *key]).rowcount == 1
    return settled or db.execute("SELECT 1 FROM message_rows WHERE uid = ?", [uid]).fetchone() is None


def read_counts(db: sqlite3.Connection, now: float) -> dict[str, GroupCounts]:
    """Return the numbers of messages that each group has not settled."""
    rows = db.execute(COUNTS, [now]).fetchall()
    return {
        name: GroupCounts(waiting=waiting, in_flight=in_flight, dead=dead) for name, waiting, in_flight, dead in rows
    }


def requeue(db: sqlite3.Connection, group: str, uids: Iterable[str]) -> int:
    """Make dead letters due in the current transaction, and return how many there were."""
    return sum(db.execute(REQUEUE, [uid, group]).rowcount for uid in uids)
