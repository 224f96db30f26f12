"""The tables of the search index of `SQLite`, and what is written to them for a message."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from ._content import header_fields
from ._query import Content, fold

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from ._content import Part
    from ._entry import Stored

# Two tables of texts
# -------------------
#
# ``words`` has the texts that `Query` compares, folded in the same way, in an FTS5 table of trigrams. A phrase of trigrams
# matches a substring of three or more characters, and so does a term of a query.
#
# A shorter text has no trigram. ``grams`` has, for each column of a message, the set of its single characters and the set of its
# pairs of adjacent ones, each as a token. So a term of one or two characters is one token, and a search reads one list of ids,
# however many messages have it. The table stores neither positions nor the texts (``detail=column``, ``content=''``), and takes
# a seventh of the size of ``words``.
#
# A folded text has single spaces between its words, and no needle begins or ends with one. So the pairs with white space are
# not needed, and white space can separate the tokens. The tokenizer must not divide the others: for it, all characters beyond
# ASCII are parts of tokens, and so are the letters and digits, and PUNCTUATION. Control characters separate.
#
# A query that only excludes messages needs something to exclude them from (``NOT`` is a binary operator of FTS5), so each message
# has a token that no text has, `ALL_WORDS` or `ALL_GRAMS`, in the column ``header``.

VERSION = 2
#: The columns of ``words`` and ``grams``.
COLUMNS = ("sender", "recipients", "cc", "bcc", "reply_to", "subject", "message_id", "header", "text")
PUNCTUATION = string.punctuation.replace("'", "''").replace('"', '""')
CREATE_WORDS = f"""
CREATE VIRTUAL TABLE found.words USING fts5({", ".join(COLUMNS)}, tokenize='trigram case_sensitive 1', columnsize=0)
"""
CREATE_GRAMS = f"""
CREATE VIRTUAL TABLE found.grams USING fts5(
{", ".join(COLUMNS)}, tokenize="ascii tokenchars '{PUNCTUATION}'", detail=column, content='', columnsize=0)
"""
TABLES = (
    # A message with ``complete`` = 0 has no row in ``words``. It is a candidate for every query, and has to be read.
    """
    CREATE TABLE found.texts (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL, files INTEGER NOT NULL, complete INTEGER NOT NULL,
    received_at TEXT NOT NULL, size INTEGER NOT NULL)
    """,
    "CREATE INDEX found.incomplete ON texts (id) WHERE complete = 0",
    CREATE_WORDS,
    CREATE_GRAMS,
    "CREATE TABLE found.progress (high INTEGER NOT NULL)",
    "INSERT INTO found.progress VALUES (0)",
    f"PRAGMA found.user_version = {VERSION}",
)
#: The tables of version 1, without ``grams``.
OLD_TABLES = ("words", "texts", "progress")
NAMES, PLACES = ", ".join(COLUMNS), ", ".join("?" * len(COLUMNS))
INSERT_TEXTS = """
INSERT INTO found.texts SELECT id, uid, ?, ?, received_at, size FROM message_rows WHERE id = ?
"""
INSERT_WORDS = f"INSERT INTO found.words (rowid, {NAMES}) VALUES (?, {PLACES})"  # noqa: S608
INSERT_GRAMS = f"INSERT INTO found.grams (rowid, {NAMES}) VALUES (?, {PLACES})"  # noqa: S608
# FTS5 needs what was inserted, to remove a row from a table that does not store it.
DELETE_GRAMS = f"INSERT INTO found.grams (grams, rowid, {NAMES}) VALUES ('delete', ?, {PLACES})"  # noqa: S608

ALL_WORDS, ALL_GRAMS = "\n\n\n", "all"
#: The prefix of the fields in the column ``header``, which tests use to identify messages, and the maximum length of a value.
#: Each field has a line, such as ``x-test=17``.
OWN_FIELD, OWN_FIELD_LENGTH = "x-", 100
#: The bits of ``files``: kinds of parts that a message has.
FILES = {"attachment": 1, "inline": 2}
#: The maximum number of indexed characters of a message. Each search reads longer messages.
MAX_TEXT = 1 << 20
#: The number of characters whose pairs are collected at a time.
CHUNK = 1 << 16


def add(db: sqlite3.Connection, message: int, stored: Stored) -> None:
    """Add a message to the index."""
    try:
        files, columns = columns_of(stored)
    except Exception:  # an error in the parser must not keep other messages out of the index
        files, columns = 0, None
    if db.execute("SELECT 1 FROM found.texts WHERE id = ?", [message]).fetchone():
        remove(db, [message])  # of an earlier message with the same id
    db.execute(INSERT_TEXTS, [files, columns is not None, message])
    if columns is not None:
        texts = [encodable(text) for text in columns]
        db.execute(INSERT_WORDS, [message, *texts])
        db.execute(INSERT_GRAMS, [message, *map(grams, COLUMNS, texts)])


def remove(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Remove messages from the index."""
    for message in ids:
        texts = db.execute(f"SELECT {NAMES} FROM found.words WHERE rowid = ?", [message]).fetchone()  # noqa: S608
        if texts is not None:
            db.execute(DELETE_GRAMS, [message, *map(grams, COLUMNS, texts)])
            db.execute("DELETE FROM found.words WHERE rowid = ?", [message])
        db.execute("DELETE FROM found.texts WHERE id = ?", [message])


def clear(db: sqlite3.Connection) -> None:
    """Remove all messages from the index. One by one would take a minute for 100,000 of them."""
    for statement in ("DROP TABLE found.words", CREATE_WORDS, "DROP TABLE found.grams", CREATE_GRAMS):
        db.execute(statement)
    db.execute("DELETE FROM found.texts")


def prepare(db: sqlite3.Connection) -> None:
    """Create the tables, unless they exist; replace those of an earlier version. Raises ValueError if that is not possible."""
    if version_of(db) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    version = version_of(db)  # another process may have created them meanwhile
    tables = {name for (name,) in db.execute("SELECT name FROM found.sqlite_master WHERE type = 'table'")}
    if version > VERSION or (version == 0 and tables):
        raise ValueError(f"the search index has version {version}, and only {VERSION} is supported")
    if version < VERSION:
        for name in OLD_TABLES:
            db.execute(f"DROP TABLE IF EXISTS found.{name}")
        for statement in TABLES:
            db.execute(statement)
    db.execute("COMMIT")


def version_of(db: sqlite3.Connection) -> int:
    """Return the version of the tables, or 0 if there are none."""
    return int(db.execute("PRAGMA found.user_version").fetchone()[0])


def columns_of(stored: Stored) -> tuple[int, Sequence[str] | None]:
    """Return ``files`` of a message, and its texts, by `COLUMNS`, which are None if its text is too long."""
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
        "".join(own_field(*each) for each in header_fields(stored.message, OWN_FIELD.encode())) + ALL_WORDS,
        text,
    )


def text_of(content: Content, parts: Sequence[Part]) -> str | None:
    """Return the texts of a message that terms without a name search, or None if they are too long."""
    found, size = [], 0
    for text in content.texts(parts):
        found.append(text)
        size += len(text)
        if size > MAX_TEXT:
            return None
    return "".join(found)


def own_field(name: str, value: str) -> str:
    """Return the line of a field in the column ``header``, preceded by a line feed."""
    return f"\n{name.lower()}={fold(value)[:OWN_FIELD_LENGTH]}"


def encodable(text: str) -> str:
    """Replace the characters that UTF-8 or FTS5 does not support."""
    if text.isascii():
        return text.replace("\0", "\n")
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\0", "\n")


def grams(column: str, text: str) -> str:
    """Return the tokens of a text in ``grams``: its characters, and the pairs of adjacent ones."""
    tokens = " ".join(tokens_of(text))
    return f"{tokens} {ALL_GRAMS}" if column == "header" else tokens


def tokens_of(text: str) -> Iterator[str]:
    """Iterate over the characters and pairs of a text. Those of each chunk are different from each other."""
    for start in range(0, len(text), CHUNK):
        chunk = text[start : start + CHUNK + 1]
        yield from dict.fromkeys(chunk)
        yield from dict.fromkeys(map(str.__add__, chunk, chunk[1:]))
