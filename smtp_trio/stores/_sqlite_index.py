"""The search index of `SQLite`: a second database with the searchable texts of messages."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import frozen

from ._content import header_fields
from ._query import TEXT, Content, fold
from ._sqlite_database import file_id
from ._sqlite_reading import connect_to_read, find_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._content import Part
    from ._entry import Stored
    from ._query import Query, Term
    from ._spool import T
    from ._sqlite_reading import Condition

# The search index
# ----------------
#
# Without an index a search reads every message, which takes a minute for 100,000 messages. The index stores the texts that
# `Query` compares, folded in the same way, in an FTS5 table of trigrams. A phrase of trigrams matches a substring, and so does
# a term of a query. So the table gives the same results as `Query`, in every language.
#
# The index is a separate file, so that storing a message does not involve it: it is written by searches and by
# `SQLite.maintain`, on another connection, and no transaction of the store waits for it. It can be deleted at any time, and
# is then rebuilt. It has only derived data, so it is not flushed.
#
# Messages are added in the order of their ``id``, up to ``high``. A search uses the index for these, and reads the messages
# above as it would without an index. So the result of a search depends neither on the progress of the index nor on whether
# it can be read.
#
# An ``id`` can be reused if the messages with the largest ids are removed. So each text is stored with the ``uid`` of its
# message. As long as a message is in the store, no smaller id is reused. So the texts are up to date from the largest id
# downwards whose ``uid`` in the index is that of the message (`height`).
#
# Removed messages are not found, since every result is joined with the table of messages. Their texts are removed a few at a
# time (`Index.step`), or when another message with the same id is added.

SUFFIX = "-search"
VERSION = 1
#: The columns of ``words``.
COLUMNS = ("sender", "recipients", "cc", "bcc", "reply_to", "subject", "message_id", "header", "text")
CREATE_WORDS = f"""
CREATE VIRTUAL TABLE found.words USING fts5({", ".join(COLUMNS)}, tokenize='trigram case_sensitive 1', columnsize=0)
"""
TABLES = (
    # A message with ``complete`` = 0 has no row in ``words``. It is a candidate for every query, and has to be read.
    "CREATE TABLE found.texts (id INTEGER PRIMARY KEY, uid TEXT NOT NULL, files INTEGER NOT NULL, complete INTEGER NOT NULL)",
    "CREATE INDEX found.incomplete ON texts (id) WHERE complete = 0",
    CREATE_WORDS,
    "CREATE TABLE found.progress (high INTEGER NOT NULL)",
    "INSERT INTO found.progress VALUES (0)",
    f"PRAGMA found.user_version = {VERSION}",
)
#: The columns that are searched for a term, by its name.
ADDRESSES = ("sender", "recipients", "cc", "bcc", "reply_to")
EXACT = {
    TEXT: (*ADDRESSES, "subject", "text"),
    "from": ("sender",),
    "to": ("recipients",),
    "cc": ("cc",),
    "addressed": ADDRESSES,
    "reply-to": ("reply_to",),
    "subject": ("subject",),
    "message-id": ("message_id",),
}
#: The same for terms that the index can only approximate: messages without the text do not match, the others have to be read.
APPROXIMATE = {"bcc": ("recipients",), "rcpt": ("recipients",), "detail": ("recipients",), "header": ("header",)}
#: The prefix of the fields in the column ``header``, which tests use to identify messages, and the maximum length of a value.
#: Each field has a line, such as ``x-test=17``.
OWN_FIELD, OWN_FIELD_LENGTH = "x-", 100
#: The bits of ``files``: kinds of parts that a message has.
FILES = {"attachment": 1, "inline": 2}
#: Names that `condition_of` decides.
COMPARED = frozenset({"before", "after", "larger", "smaller"})
#: The minimum length of a phrase in the table of trigrams. For shorter texts all rows are scanned.
TRIGRAM = 3
#: In some languages two characters from ``IDEOGRAPHS`` on are a word. All such pairs of a text are added at its end, each with
#: `PAIR` after it, so that the table of trigrams has them as well.
IDEOGRAPHS, PAIR = "\u2e80", "\ue000"
PAIRS = re.compile(f"(?=([{IDEOGRAPHS}-\U0010ffff]{{2}}))")
#: The special characters of the operator GLOB, which takes a third of the time of the function ``instr``.
GLOB_SPECIAL = re.compile(r"[*?\[]")
#: Characters that FTS5 does not distinguish or that end a text, and `PAIR`.
UNSAFE = frozenset(f"\0\ufffd\ufffe\uffff{PAIR}")
#: Characters that the detail of an address can have only in a quoted string, where it may begin or end with white space.
UNQUOTED = frozenset(' "\\')
#: The maximum number of indexed characters of a message. Each search reads longer messages.
MAX_TEXT = 1 << 20
#: The maximum numbers of messages, and of their octets, that one transaction adds, of ids that it checks, and of texts that it
#: removes.
ADDED, ADDED_OCTETS, CHECKED, REMOVED = 32, 1 << 20, 2000, 32

#: The size of the page cache of the index, in octets.
CACHE = 1 << 24
#: Seconds between two checks for messages that another process has removed.
CHECK_INTERVAL = 600
# The order of the joins is fixed: the table of trigrams returns its rows in the order of their ids.
WORDS = "FROM found.words CROSS JOIN found.texts ON texts.id = words.rowid CROSS JOIN message_rows ON message_rows.id = texts.id"
# Without a phrase each text is compared. This order is for queries with conditions on messages, which are evaluated first.
CHOSEN_WORDS = """
FROM message_rows CROSS JOIN found.texts ON texts.id = message_rows.id CROSS JOIN found.words ON words.rowid = texts.id
"""
TEXTS = "FROM found.texts CROSS JOIN message_rows ON message_rows.id = texts.id"
INSERT = f"INSERT INTO found.words (rowid, {', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
GONE = """
SELECT id FROM found.texts
WHERE id > ? AND id <= ? AND NOT EXISTS (SELECT 1 FROM message_rows WHERE message_rows.id = texts.id)
ORDER BY id LIMIT ?
"""
HEIGHT = """
SELECT message_rows.id FROM message_rows JOIN found.texts ON texts.id = message_rows.id AND texts.uid = message_rows.uid
WHERE message_rows.id <= (SELECT high FROM found.progress) ORDER BY message_rows.id DESC LIMIT 1
"""


@frozen
class Plan:
    """The translation of a query to SQL.

    The messages that satisfy ``condition`` and the incomplete ones are candidates. ``exact`` is true if the former always
    match the query.
    """

    source: str
    """The tables."""
    key: str
    """The column of the ids, by which the results are ordered."""
    condition: str
    values: tuple[object, ...]
    exact: bool

    @classmethod
    def of(cls, query: Query) -> Plan | None:
        """Return the plan for a query, or None if the index cannot be used for it."""
        phrases: list[str] = []
        conditions: list[str] = []
        values: list[object] = []
        exact = True
        for term in query.terms:
            columns = EXACT.get(term.name) or APPROXIMATE.get(term.name)
            text = None if columns is None else text_to_find(term)
            exact = exact and (term.name in COMPARED or term.name == "has" or (term.name in EXACT and text is not None))
            if term.name == "has":
                conditions.append(f"(files & {FILES[term.value]}) {'=' if term.negated else '!='} 0")
            elif columns is None or text is None:
                continue
            elif len(text) >= TRIGRAM:
                quoted = text.replace('"', '""')
                phrases.append(f'{{{" ".join(columns)}}} : "{quoted}"')
            else:
                conditions.append("(" + " OR ".join(f"+words.{column} GLOB ?" for column in columns) + ")")
                values += ["*" + GLOB_SPECIAL.sub(r"[\g<0>]", text) + "*"] * len(columns)
        if phrases:
            conditions.insert(0, "words MATCH ?")
            values.insert(0, " AND ".join(phrases))
        if not conditions:
            return None
        if not values:
            source, key = TEXTS, "texts.id"
        elif phrases or not any(term.name in COMPARED for term in query.terms):
            source, key = WORDS, "words.rowid"
        else:
            source, key = CHOSEN_WORDS, "message_rows.id"
        return cls(source, key, " AND ".join([*conditions, "complete = 1"]), tuple(values), exact)


def text_to_find(term: Term) -> str | None:
    """Return a text that the columns of a term contain if it matches, or None if it cannot be searched for."""
    text = term.needle
    # UTF-8 and FTS5 must support all of its characters.
    if term.negated or not text or not UNSAFE.isdisjoint(text) or encodable(text) != text:
        return None
    if term.name == "header":
        name, _, value = term.value.partition("=")
        return own_field(name, value) if name.lower().startswith(OWN_FIELD) else None
    if term.name == "detail" and UNQUOTED.isdisjoint(text):
        return f"+{text}@"
    return f"{text}{PAIR}" if len(text) == 2 and min(text) >= IDEOGRAPHS else text


def own_field(name: str, value: str) -> str:
    """Return the line of a field in the column ``header``, preceded by a line feed."""
    return f"\n{name.lower()}={fold(value)[:OWN_FIELD_LENGTH]}"


def encodable(text: str) -> str:
    """Remove the characters that UTF-8 or FTS5 does not support. The terms of a `Plan` do not contain them."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\n")


class Index:
    """The index of a database. All methods block, and must be called in one thread at a time."""

    def __init__(self, path: str) -> None:
        self._database = path
        self.path: str = path + SUFFIX
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._broken = False
        self._checked: int | None = 0
        self._next_check = 0.0

    def open(self) -> sqlite3.Connection | None:
        """Return the connection, or None if an index cannot be created."""
        if (file := file_id(self._database)) != self._file:  # the database was moved or removed
            self.close()
            self._file = file
        if self._db is None and not self._broken:
            try:
                self._db = self._connect()
            except (OSError, sqlite3.Error, ValueError):  # FTS5 is missing, or the directory is read-only
                self._broken = True
        return self._db

    def _connect(self) -> sqlite3.Connection:
        db = connect_to_read(self._database)
        try:
            with suppress(FileExistsError):  # like the database: mail is private, and links are not followed
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            if os.path.islink(self.path):
                raise OSError(f"{self.path} is a symbolic link")
            db.execute("ATTACH ? AS found", [self.path])
            db.execute("PRAGMA found.journal_mode = WAL")
            db.execute("PRAGMA found.synchronous = NORMAL")
            db.execute("PRAGMA found.secure_delete = FAST")
            db.execute(f"PRAGMA found.cache_size = {-CACHE >> 10}")
            (version,) = db.execute("PRAGMA found.user_version").fetchone()
            if version != VERSION:
                if db.execute("SELECT 1 FROM found.sqlite_master").fetchone():
                    raise ValueError(f"{self.path}: version {version} is not supported")
                db.execute("BEGIN")
                for statement in TABLES:
                    db.execute(statement)
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the connection. The next use opens it again."""
        self._broken = False
        if self._db is not None:
            db, self._db = self._db, None
            db.close()

    def discard(self) -> None:
        """Delete a damaged index. It is rebuilt after the store is opened again."""
        self.close()
        self._broken = True
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(self.path + suffix)

    def step(self) -> bool:
        """Add some messages, or remove the texts of some removed messages. Return whether more remain."""
        db = self.open()
        if db is None:
            return False
        try:
            db.execute("BEGIN")
            more = self._add(db) or self._check(db)
            db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.OperationalError):
                self.discard()
            return False  # another process writes, or the disk is full
        return more

    def _add(self, db: sqlite3.Connection) -> bool:
        current = height(db)
        (high,) = db.execute("SELECT high FROM found.progress").fetchone()
        if high > current == 0:  # all were removed; one by one would take a minute for 100,000 texts
            clear(db)
        octets = 0
        rows = db.execute(
            "SELECT id, uid FROM message_rows WHERE id > ? ORDER BY id LIMIT ?", [current, ADDED]
        ).fetchall()
        for message, uid in rows:
            stored = find_message(db, uid)
            assert stored is not None  # this is one transaction
            add(db, message, stored)
            current = message
            octets += stored.size
            if octets > ADDED_OCTETS:
                break
        if high != current:
            db.execute("UPDATE found.progress SET high = ?", [current])
        return bool(rows)

    def _check(self, db: sqlite3.Connection) -> bool:
        """Check the next ids for removed messages, if any may have been removed."""
        if self._checked is None:
            if time.monotonic() < self._next_check:
                return False
            self._checked = 0
        ids = ids_of(
            db.execute("SELECT id FROM found.texts WHERE id > ? ORDER BY id LIMIT ?", [self._checked, CHECKED])
        )
        if not ids:
            self._checked = None
            self._next_check = time.monotonic() + CHECK_INTERVAL
            return False
        gone = ids_of(db.execute(GONE, [self._checked, ids[-1], REMOVED]))
        remove(db, gone)
        self._checked = gone[-1] if len(gone) == REMOVED else ids[-1]
        return True

    def note_removal(self) -> None:
        """Make the next steps check for removed messages."""
        self._next_check = 0.0

    def height(self) -> int | None:
        """Return the ``id`` up to which the index has all messages, or None without an index."""
        return self._ask(height)

    def find(
        self, plan: Plan, where: Condition, low: int, high: int, *, reverse: bool, most: int
    ) -> list[tuple[int, bool]] | None:
        """Return the ids between ``low`` and ``high``, both excluded, of messages that may match a query.

        The second item of each pair is true if the message is known to match. ``where`` is a condition on
        ``message_rows``. Return None if the index cannot be read.
        """
        order = "DESC" if reverse else "ASC"

        def work(db: sqlite3.Connection) -> list[tuple[int, bool]]:
            found = []
            for source, key, condition, values in (
                (plan.source, plan.key, plan.condition, plan.values),
                (TEXTS, "texts.id", "complete = 0", ()),
            ):
                rows = db.execute(
                    f"SELECT {key} {source} WHERE {condition} AND {where[0]} AND {key} > ? AND {key} < ? "
                    f"ORDER BY {key} {order} LIMIT ?",
                    [*values, *where[1], low, high, most],
                )
                found += [(message, plan.exact and condition is plan.condition) for message in ids_of(rows)]
            return sorted(found, reverse=reverse)[:most]

        return self._ask(work)

    def count(self, plan: Plan, where: Condition, high: int) -> int | None:
        """Return the number of messages up to ``high`` that match a query, or None if it is not known exactly."""

        def work(db: sqlite3.Connection) -> int | None:
            if not plan.exact or db.execute("SELECT 1 FROM found.texts WHERE complete = 0").fetchone():
                return None
            statement = f"SELECT count(*) {plan.source} WHERE {plan.condition} AND {where[0]} AND texts.id <= ?"
            return int(db.execute(statement, [*plan.values, *where[1], high]).fetchone()[0])

        return self._ask(work)

    def _ask(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Call ``work`` with the connection and return its result, or None if the index is missing or cannot be read."""
        db = self.open()
        if db is None:
            return None
        try:
            db.execute("BEGIN")
            return work(db)
        except sqlite3.DatabaseError as error:
            if not isinstance(error, sqlite3.OperationalError):
                self.discard()
            return None
        finally:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")


def ids_of(rows: Iterable[tuple[int]]) -> list[int]:
    """Return the ids in rows with one column."""
    return [value for (value,) in rows]


def height(db: sqlite3.Connection) -> int:
    """Return the ``id`` up to which all messages are in the index."""
    row = db.execute(HEIGHT).fetchone()
    return 0 if row is None else int(row[0])


def add(db: sqlite3.Connection, message: int, stored: Stored) -> None:
    """Add a message to the index."""
    try:
        files, columns = columns_of(stored)
    except Exception:  # an error in the parser must not keep other messages out of the index
        files, columns = 0, None
    if db.execute(
        "SELECT 1 FROM found.texts WHERE id = ?", [message]
    ).fetchone():  # of an earlier message with the same id
        remove(db, [message])
    db.execute("INSERT INTO found.texts VALUES (?, ?, ?, ?)", [message, stored.id, files, columns is not None])
    if columns is not None:
        db.execute(INSERT, [message, *map(with_pairs, map(encodable, columns))])


def columns_of(stored: Stored) -> tuple[int, Sequence[str] | None]:
    """Return ``files`` of a message, and its columns in ``words``, which are None if its text is too long."""
    content = Content(stored.message, complete=True)
    files, parts = 0, tuple(content.parts())
    for part in parts:
        files |= FILES["attachment"] * part.is_attachment | FILES["inline"] * part.is_inline
    text = text_of(content, parts)
    if text is None:
        return files, None
    return files, (
        fold(stored.sender) + "\n" + content.fields("From", "Sender"),
        "\n".join([*map(fold, stored.recipients), content.fields("To")]),
        content.fields("Cc"),
        content.fields("Bcc"),
        content.fields("Reply-To"),
        content.fields("Subject") if stored.subject is None else fold(stored.subject),
        content.fields("Message-ID"),
        "".join(own_field(*each) for each in header_fields(stored.message, OWN_FIELD.encode())),
        text,
    )


def with_pairs(text: str) -> str:
    """Append the pairs of ideographs in a text to it."""
    if text.isascii():
        return text
    pairs = dict.fromkeys(PAIRS.findall(text))
    return f"{text}\n{''.join(f'{pair}{PAIR}' for pair in pairs)}" if pairs else text


def text_of(content: Content, parts: Sequence[Part]) -> str | None:
    """Return the texts of a message that terms without a name search, or None if they are too long."""
    found, size = [], 0
    for text in content.texts(parts):
        found.append(text)
        size += len(text)
        if size > MAX_TEXT:
            return None
    return "".join(found)


def clear(db: sqlite3.Connection) -> None:
    """Remove all messages from the index."""
    for statement in ("DROP TABLE found.words", CREATE_WORDS, "DELETE FROM found.texts"):
        db.execute(statement)


def remove(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Remove messages from the index."""
    db.executemany("DELETE FROM found.words WHERE rowid = ?", [(message,) for message in ids])
    db.executemany("DELETE FROM found.texts WHERE id = ?", [(message,) for message in ids])
