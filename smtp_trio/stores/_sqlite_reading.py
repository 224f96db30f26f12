"""Reading from the database of `SQLite`: entries, messages, and the fields of old messages."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import trio

from ._consumer import DeadLetter
from ._entry import HEADER_OCTETS, Entry, Stored, parse_time, read_header
from ._query import Query
from ._sqlite_database import BUSY_TIMEOUT, VERSION, NewerVersionError, newer_version, schema_of

#: Entries that are read in one transaction. A long one would keep the write-ahead log from being copied and reused.
PAGE = 256
#: Columns of ``messages`` that are fields of an `Entry`.
COLUMNS = ("uid", "received_at", "sender", "mail_params", "peer", "helo", "protocol", "tls", "auth", "size")
MESSAGE = f"SELECT id, body, {', '.join(COLUMNS)} FROM messages WHERE uid = ?"  # noqa: S608 -- no values
RECIPIENTS = "SELECT address, params FROM recipients WHERE message = ? ORDER BY n"
# Not from the view: a column after ``body`` could only be read through all pages of the body.
ENTRIES = f"""
SELECT id, headers.message IS NOT NULL, subject, date, {", ".join(COLUMNS)}
FROM message_rows LEFT JOIN headers ON headers.message = id
"""  # noqa: S608 -- no values
DEAD_LETTERS = """
SELECT message, reason, attempts, state FROM deliveries
WHERE consumer_group = ? AND due IS NULL AND message > ? ORDER BY message LIMIT ?
"""
ADD_HEADER = """
INSERT OR IGNORE INTO headers SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM message_rows WHERE id = ? AND uid = ?)
"""

#: What a connection that cannot upgrade a database needs in the place of the tables of each version.
MISSING: tuple[Sequence[str], ...] = (
    (),
    (
        "CREATE TEMP VIEW message_rows AS SELECT * FROM messages",
        "CREATE TEMP TABLE pieces (uid TEXT, n INTEGER, data BLOB)",
    ),
    (
        "CREATE TEMP TABLE headers (message INTEGER PRIMARY KEY, subject TEXT, date TEXT)",
        "CREATE TEMP TABLE consumer_groups (name, last)",
        "CREATE TEMP TABLE deliveries (message, consumer_group, due, attempts, token, state, reason)",
    ),
)

#: The number of instructions of SQLite's virtual machine, a few milliseconds, between two looks at whether the task that waits
#: for a statement was cancelled.
INSTRUCTIONS = 100_000

#: Parts of a query that columns of ``message_rows`` decide.
COMPARISONS = {"before": "received_at < ?", "after": "received_at >= ?", "larger": "size > ?", "smaller": "size < ?"}

#: A condition, and the values of its parameters.
Condition = tuple[str, tuple[object, ...]]
Header = tuple[str | None, datetime | None]
#: An entry with its ``id`` in ``message_rows``, and whether its subject and date were found in ``headers``.
Row = tuple[int, Entry, bool]


def entry_fields(columns: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of an `Entry` that are in these `COLUMNS`."""
    fields = dict(zip(COLUMNS, columns, strict=True))
    return {"id": fields.pop("uid"), "received": read_time(fields.pop("received_at")), **fields}


def read_time(text: str) -> datetime:
    """Return a time of reception, which another program may have written: 1970 if it is none, so that all can be read."""
    try:
        return parse_time(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def rcpt_fields(db: sqlite3.Connection, message: int) -> dict[str, Any]:
    """Return the fields of an `Entry` that are in ``recipients``."""
    rows = db.execute(RECIPIENTS, [message]).fetchall()
    return {"recipients": tuple(address for address, _ in rows), "rcpt_params": tuple(params for _, params in rows)}


def find_message(db: sqlite3.Connection, uid: str) -> Stored | None:
    """Return a message, or None if the database does not have it. Works with databases of all versions."""
    row = db.execute(MESSAGE, [uid]).fetchone()
    if row is None:
        return None
    message, body, *columns = row
    subject, date = read_header(body)
    return Stored(message=body, subject=subject, date=date, **entry_fields(columns), **rcpt_fields(db, message))


def find_id(db: sqlite3.Connection, uid: str) -> int | None:
    """Return the ``id`` of a message, or None if the database does not have it."""
    row = db.execute("SELECT id FROM message_rows WHERE uid = ?", [uid]).fetchone()
    return None if row is None else int(row[0])


def find_uids(db: sqlite3.Connection, uids: Sequence[str]) -> set[str]:
    """Return those of the uids that the database has."""
    rows = db.execute("SELECT uid FROM message_rows WHERE uid IN (SELECT value FROM json_each(?))", [json.dumps(uids)])
    return {uid for (uid,) in rows}


def count_messages(db: sqlite3.Connection, where: Condition = ("1", ())) -> int:
    """Return the number of messages that fulfil a condition."""
    condition, values = where
    return int(db.execute(f"SELECT count(*) FROM message_rows WHERE {condition}", values).fetchone()[0])  # noqa: S608


def connect_to_read(path: str | os.PathLike[str]) -> sqlite3.Connection:
    """Return a connection that cannot change the database. Raises `sqlite3.Error`, and ValueError if it is not a store's."""
    db = sqlite3.connect(
        f"file:{quote(os.path.abspath(path))}?mode=ro",
        uri=True,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        version, tables = schema_of(db)
        if version > VERSION and "messages" in tables:
            raise NewerVersionError(newer_version(version))
        if not 1 <= version <= VERSION or "messages" not in tables:
            raise ValueError(f"{os.fspath(path)}: not a database of an SQLite store with user_version 1 to {VERSION}")
        for statement in (statement for missing in MISSING[version:] for statement in missing):
            db.execute(statement)
        db.set_progress_handler(is_cancelled, INSTRUCTIONS)
    except BaseException:
        db.close()
        raise
    return db


def is_cancelled() -> bool:
    """Return whether the task that waits for this thread was cancelled. SQLite interrupts the statement then."""
    try:
        trio.from_thread.check_cancelled()
    except trio.Cancelled:
        return True
    except RuntimeError:  # no task waits
        pass
    return False


def read_row(path: str | os.PathLike[str], uid: str) -> Stored:
    """Return the message that `SQLite` stored as ``uid``, and its envelope.

    Raises LookupError when the database does not have it, and ValueError when the database is not a store's.
    """
    with closing(connect_to_read(path)) as db:
        stored = find_message(db, uid)
        if stored is None:
            raise LookupError(f"{os.fspath(path)}: no message {uid!r}")
        return stored


def read_entries(db: sqlite3.Connection, condition: str, values: Sequence[object]) -> list[Row]:
    """Return the entries that fulfil a condition, which can end with ORDER BY and LIMIT."""
    return [read_entry(db, *row) for row in db.execute(f"{ENTRIES} WHERE {condition}", values).fetchall()]


def read_entry(
    db: sqlite3.Connection, message: int, known: int, subject: str | None, date: str | None, *columns: object
) -> Row:
    """Return the entry of a row. Its subject and date are those in the message if ``headers`` does not have them."""
    fields = entry_fields(columns)
    when = None if date is None else datetime.fromisoformat(date)
    if not known:
        (body,) = db.execute(
            "SELECT substr(body, 1, ?) FROM message_rows WHERE id = ?", [HEADER_OCTETS, message]
        ).fetchone()
        subject, when = read_header(start_of(db, fields["id"]) + body)
    return message, Entry(subject=subject, date=when, **fields, **rcpt_fields(db, message)), bool(known)


def read_page(
    db: sqlite3.Connection,
    last: int | None,
    *,
    reverse: bool,
    where: Condition = ("1", ()),
    offset: int = 0,
    size: int = PAGE,
) -> list[Row]:
    """Return the entries that fulfil a condition and follow the one with the id ``last`` (None: from the beginning).

    The first ``offset`` of them are left out, and at most ``size`` are read.
    """
    sign, order = ("<", "DESC") if reverse else (">", "ASC")
    condition, values = where
    if last is not None:
        condition, values = f"{condition} AND id {sign} ?", (*values, last)
    return read_entries(db, f"{condition} ORDER BY id {order} LIMIT ? OFFSET ?", [*values, size, offset])


def condition_of(query: Query) -> Condition:
    """Return the part of a query about time and size as SQL. All messages that the query finds fulfil it."""
    terms = [term for term in query.terms if term.name in COMPARISONS]
    conditions = [f"{'NOT ' * term.negated}({COMPARISONS[term.name]})" for term in terms]
    values = [
        datetime.fromisoformat(term.value).astimezone(UTC).isoformat(timespec="microseconds")
        if term.name in ("before", "after")
        else int(term.value)
        for term in terms
    ]
    return " AND ".join(["1", *conditions]), tuple(values)


def read_dead_letters(db: sqlite3.Connection, group: str, last: int) -> list[tuple[int, DeadLetter]]:
    """Return the dead letters of a group that follow the message with the id ``last``, each with its id."""
    found = []
    for message, reason, attempts, state in db.execute(DEAD_LETTERS, [group, last, PAGE]).fetchall():
        for _, entry, _ in read_entries(db, "id = ?", [message]):
            letter = DeadLetter(entry=entry, group=group, reason=reason, attempts=attempts, state=state)
            found.append((message, letter))
    return found


def start_of(db: sqlite3.Connection, uid: str) -> bytes:
    """Return the beginning of a message that was written in pieces, as much as `read_header` needs; b"" if it was not."""
    start = b""
    for (data,) in db.execute("SELECT data FROM pieces WHERE uid = ? ORDER BY n", [uid]):
        start += data
        if len(start) >= HEADER_OCTETS:
            break
    return start


def header_row(message: int, subject: str | None, date: datetime | None) -> tuple[int, str | None, str | None]:
    """Return the row of ``headers`` for a message."""
    return message, subject, None if date is None else date.astimezone(UTC).isoformat()


def add_headers(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Insert into ``headers`` what was found in messages of earlier versions, unless they were removed meanwhile."""
    values = [(*header_row(message, entry.subject, entry.date), message, entry.id) for message, entry, _ in rows]
    db.executemany(ADD_HEADER, values)
