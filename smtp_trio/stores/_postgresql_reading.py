"""Reading from the database of `PostgreSQL`: entries, messages, and dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from ._consumer import DeadLetter
from ._entry import Entry, Stored
from ._postgresql_queue import DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._postgresql_schema import Connection

#: Messages that `PostgreSQL.entries` reads at a time, and pieces that `PostgreSQL.get` reads at a time.
PAGE, PIECES_PAGE = 500, 32
#: Columns that are fields of an `Entry`, before those of the recipients.
FIELDS = ("sender", "mail_params", "peer", "helo", "protocol", "tls", "auth", "size", "subject")
ENTRY = f"""
SELECT id, uid, received_at, date, {", ".join(FIELDS)},
    (SELECT array_agg(address ORDER BY n) FROM recipients WHERE message = id),
    (SELECT array_agg(params ORDER BY n) FROM recipients WHERE message = id)
"""  # noqa: S608 -- no values


def entry_of(row: Sequence[Any]) -> Entry:
    """Return the entry of a row of `ENTRY`."""
    _, uid, received, date, *fields, addresses, params = row
    return Entry(
        id=uid,
        received=received,
        date=None if date is None else datetime.fromisoformat(date),
        recipients=tuple(addresses or ()),
        rcpt_params=tuple(params or ()),
        **dict(zip(FIELDS, fields, strict=True)),
    )


def read_page(db: Connection, *, last: int | None, reverse: bool, offset: int) -> list[tuple[int, Entry]]:
    """Return the messages after the one with the number ``last``, without ``offset`` of them, with their numbers."""
    order, sign = ("DESC", "<") if reverse else ("ASC", ">")
    condition = "" if last is None else f"WHERE id {sign} {last:d}"
    query = f"{ENTRY} FROM message_rows {condition} ORDER BY id {order} LIMIT {PAGE} OFFSET {offset:d}"
    return [(row[0], entry_of(row)) for row in db.execute(query.encode()).fetchall()]


def read_message(db: Connection, condition: str, key: object) -> Stored | None:
    """Return the message with this key, or None if it does not exist."""
    query = f"{ENTRY}, pieces, body FROM message_rows WHERE {condition}"
    row = db.execute(query.encode(), [key], binary=True).fetchone()
    if row is None:
        return None
    *fields, pieces, body = row
    entry = entry_of(fields)
    parts = []
    for first in range(0, pieces, PIECES_PAGE):
        parts += db.execute(
            "SELECT data FROM pieces WHERE uid = %s AND n >= %s AND n < %s ORDER BY n",
            [entry.id, first, first + PIECES_PAGE],
            binary=True,
        ).fetchall()
    if len(parts) != pieces:  # it was removed meanwhile
        return None
    return Stored.with_message(entry, b"".join([*(part for (part,) in parts), body]))


def read_dead_letters(db: Connection, *, group: str, last: int) -> list[tuple[int, DeadLetter | None]]:
    """Return dead letters after the message with the number ``last``. None is one that was removed meanwhile."""
    rows = db.execute(DEAD_LETTERS, [group, last, PAGE]).fetchall()
    query = f"{ENTRY} FROM message_rows WHERE id = ANY(%s)"
    entries = {row[0]: entry_of(row) for row in db.execute(query.encode(), [[row[0] for row in rows]]).fetchall()}
    return [
        (
            message,
            DeadLetter(entry=entries[message], group=group, reason=reason, attempts=attempts, state=state)
            if message in entries
            else None,
        )
        for message, reason, attempts, state in rows
    ]
