"""The search index of `SQLite`: a second database beside the first, with the texts of messages that can be searched."""

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

# What the index is
# -----------------
#
# Without an index a search reads every message, and 100,000 of them take a minute. The index has the texts that `Query`
# compares, folded as it compares them, in an FTS5 table of trigrams. A phrase of trigrams is a substring, which is what a
# term of a query is; so the answer of the table is that of `Query`, in every language.
#
# It is a file of its own, so that it costs nothing when a message is stored: it is written by searches and by
# `SQLite.maintain`, with another connection, and no transaction of the store waits for it. It can be removed at any time, and
# is made again. Nothing in it is needed for anything else, so it is not flushed.
#
# Messages are added in the order of their ``id``, up to ``high``. A search reads the messages above it as it would
# without an index, and asks the index for the others. So its result never depends on how far the index is, or on
# whether it can be read.
#
# An ``id`` can be used again if the messages with the largest ones are removed. So each text is stored with the ``uid`` of its
# message. A message with a smaller id than one that is still there cannot have been replaced. So it is enough to look from
# ``high`` downwards for the first message whose ``uid`` is that of its text (`height`); all below are current.
#
# Removed messages are not found, since every result is looked up among the messages. Their texts are removed a few at a
# time (`Index.step`), or when another message with their id is added.

SUFFIX = "-search"
VERSION = 1
#: The columns of ``words``.
COLUMNS = ("sender", "recipients", "cc", "bcc", "reply_to", "subject", "message_id", "header", "text")
CREATE_WORDS = f"""
CREATE VIRTUAL TABLE found.words USING fts5({", ".join(COLUMNS)}, tokenize='trigram case_sensitive 1', columnsize=0)
"""
TABLES = (
    # With ``complete`` = 0 a message has no row in ``words``, and fulfils every condition until it is read.
    "CREATE TABLE found.texts (id INTEGER PRIMARY KEY, uid TEXT NOT NULL, files INTEGER NOT NULL, complete INTEGER NOT NULL)",
    "CREATE INDEX found.incomplete ON texts (id) WHERE complete = 0",
    CREATE_WORDS,
    "CREATE TABLE found.progress (high INTEGER NOT NULL)",
    "INSERT INTO found.progress VALUES (0)",
    f"PRAGMA found.user_version = {VERSION}",
)
#: The columns in which the term of a name is looked for.
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
#: The same for names whose terms only exclude messages without the text there.
APPROXIMATE = {"bcc": ("recipients",), "rcpt": ("recipients",), "detail": ("recipients",), "header": ("header",)}
#: Fields that are in the column ``header``: those that have no meaning for everybody, as tests use them. They have a line each,
#: such as ``x-test=17``, with so many characters of the value.
OWN_FIELD, OWN_FIELD_LENGTH = "x-", 100
#: What a message can have, as bits of ``files``.
FILES = {"attachment": 1, "inline": 2}
#: Names that `condition_of` decides.
COMPARED = frozenset({"before", "after", "larger", "smaller"})
#: The number of characters from which on a text is in the table of trigrams. Shorter ones are looked for in all texts.
TRIGRAM = 3
#: Two characters from ``IDEOGRAPHS`` on are a word in some languages. All such pairs of a text are added to it, each with
#: `PAIR` behind it, so that they are in the table of trigrams, too.
IDEOGRAPHS, PAIR = "\u2e80", "\ue000"
PAIRS = re.compile(f"(?=([{IDEOGRAPHS}-\U0010ffff]{{2}}))")
#: Characters with a meaning in the operator GLOB, which takes a third of the time of the function ``instr``.
GLOB_SPECIAL = re.compile(r"[*?\[]")
#: Characters that FTS5 does not distinguish, or at which it ends; and the one with a meaning here.
UNSAFE = frozenset(f"\0\ufffd\ufffe\uffff{PAIR}")
#: Characters that the detail of an address has only in quotes, where it may begin or end with white space.
UNQUOTED = frozenset(' "\\')
#: Characters of a message that are indexed. A longer one is read by each search.
MAX_TEXT = 1 << 20
#: Messages, and their octets, that are added in one transaction; ids that are checked, and texts that are removed.
ADDED, ADDED_OCTETS, CHECKED, REMOVED = 32, 1 << 20, 2000, 32

#: Octets of the index that are kept in memory.
CACHE = 1 << 24
#: Seconds after which it is looked for messages that another process has removed.
CHECK_INTERVAL = 600
# The order of the joins is fixed: the table of trigrams returns its rows in the order of their ids.
WORDS = "FROM found.words CROSS JOIN found.texts ON texts.id = words.rowid CROSS JOIN message_rows ON message_rows.id = texts.id"
# Without a phrase each text is compared. This order is for queries that exclude other messages by conditions on them.
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
    """How the index answers a query.

    The messages that fulfil ``condition`` are candidates, and so are incomplete ones. ``exact`` is true if the former are
    known to fulfil the query.
    """

    source: str
    """The tables."""
    key: str
    """The column of the ids, in whose order the tables are read."""
    condition: str
    values: tuple[object, ...]
    exact: bool

    @classmethod
    def of(cls, query: Query) -> Plan | None:
        """Return the plan for a query, or None if the index is of no use for it."""
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
    """Return a text that the columns of a term have if it is fulfilled, or None if there is no such text."""
    text = term.needle
    # UTF-8 and FTS5 must have all characters.
    if term.negated or not text or not UNSAFE.isdisjoint(text) or encodable(text) != text:
        return None
    if term.name == "header":
        name, _, value = term.value.partition("=")
        return own_field(name, value) if name.lower().startswith(OWN_FIELD) else None
    if term.name == "detail" and UNQUOTED.isdisjoint(text):
        return f"+{text}@"
    return f"{text}{PAIR}" if len(text) == 2 and min(text) >= IDEOGRAPHS else text


def own_field(name: str, value: str) -> str:
    """Return the line of a field in the column ``header``, with the end of the line before it."""
    return f"\n{name.lower()}={fold(value)[:OWN_FIELD_LENGTH]}"


def encodable(text: str) -> str:
    """Return a text without characters that UTF-8 or FTS5 does not have. None of them is in a term of a `Plan`."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\n")


class Index:
    """The index of a database. All methods block, and are called in one thread at a time."""

    def __init__(self, path: str) -> None:
        self._database = path
        self.path: str = path + SUFFIX
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._broken = False
        self._checked: int | None = 0
        self._next_check = 0.0

    def open(self) -> sqlite3.Connection | None:
        """Return the connection, or None if there can be no index."""
        if (file := file_id(self._database)) != self._file:  # the database was moved or removed
            self.close()
            self._file = file
        if self._db is None and not self._broken:
            try:
                self._db = self._connect()
            except (OSError, sqlite3.Error, ValueError):  # without FTS5, or a directory that cannot be written to
                self._broken = True
        return self._db

    def _connect(self) -> sqlite3.Connection:
        db = connect_to_read(self._database)
        try:
            with suppress(FileExistsError):  # as the database: mail is private, and links are not followed
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            if os.path.islink(self.path):
                raise OSError(f"{self.path} is a link")
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
        """Close the connection. It is opened again when it is needed."""
        self._broken = False
        if self._db is not None:
            db, self._db = self._db, None
            db.close()

    def discard(self) -> None:
        """Remove a damaged index. It is made again when the store is opened the next time."""
        self.close()
        self._broken = True
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(self.path + suffix)

    def step(self) -> bool:
        """Add some messages, or remove the texts of some that are not there any more. Return whether there is more to do."""
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
        if high > current == 0:  # all messages were removed; one by one would take a minute for 100,000 texts
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
        """Look for removed messages among some that follow those of the last call, if any can have been removed."""
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
        """Note that messages were removed: the next steps look for them."""
        self._next_check = 0.0

    def height(self) -> int | None:
        """Return the ``id`` up to which the index has all messages, or None if there is no index."""
        return self._ask(height)

    def find(
        self, plan: Plan, where: Condition, low: int, high: int, *, reverse: bool, most: int
    ) -> list[tuple[int, bool]] | None:
        """Return the ids between ``low`` and ``high``, without these two, of messages that may fulfil a query.

        The second of each pair is true if it is known that they do. ``where`` is a condition on ``message_rows``. None means
        that the index cannot be read.
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
        """Return the number of messages up to ``high`` that fulfil a query, or None if that is not known exactly."""

        def work(db: sqlite3.Connection) -> int | None:
            if not plan.exact or db.execute("SELECT 1 FROM found.texts WHERE complete = 0").fetchone():
                return None
            statement = f"SELECT count(*) {plan.source} WHERE {plan.condition} AND {where[0]} AND texts.id <= ?"
            return int(db.execute(statement, [*plan.values, *where[1], high]).fetchone()[0])

        return self._ask(work)

    def _ask(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what ``work`` returns for the connection, or None if there is no index or it cannot be read."""
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
    """Return the values of rows with one column."""
    return [value for (value,) in rows]


def height(db: sqlite3.Connection) -> int:
    """Return the ``id`` up to which all messages are in the index."""
    row = db.execute(HEIGHT).fetchone()
    return 0 if row is None else int(row[0])


def add(db: sqlite3.Connection, message: int, stored: Stored) -> None:
    """Add a message to the index."""
    try:
        files, columns = columns_of(stored)
    except Exception:  # a fault in the parser must not keep other messages out of the index
        files, columns = 0, None
    if db.execute(
        "SELECT 1 FROM found.texts WHERE id = ?", [message]
    ).fetchone():  # of a message with the same id before
        remove(db, [message])
    db.execute("INSERT INTO found.texts VALUES (?, ?, ?, ?)", [message, stored.id, files, columns is not None])
    if columns is not None:
        db.execute(INSERT, [message, *map(with_pairs, map(encodable, columns))])


def columns_of(stored: Stored) -> tuple[int, Sequence[str] | None]:
    """Return the files of a message, and its columns in ``words``, or None if its text is too long."""
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
    """Return a text with its pairs of ideographs."""
    if text.isascii():
        return text
    pairs = dict.fromkeys(PAIRS.findall(text))
    return f"{text}\n{''.join(f'{pair}{PAIR}' for pair in pairs)}" if pairs else text


def text_of(content: Content, parts: Sequence[Part]) -> str | None:
    """Return the texts of a message in which a word is looked for, or None if they are too long."""
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
