"""`Plan`: the translation of a query to SQL for the search index of `SQLite`."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from attrs import Factory, define, frozen

from ._query import TEXT
from ._sqlite_reading import condition_of
from ._sqlite_texts import ALL_GRAMS, ALL_WORDS, FILES, OWN_FIELD, encodable, own_field

if TYPE_CHECKING:
    from ._query import Query, Term
    from ._sqlite_reading import Condition

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
#: The minimum length of a phrase in the table of trigrams. Shorter texts are in ``grams``.
TRIGRAM = 3
#: Characters that FTS5 does not distinguish or that end a text.
UNSAFE = frozenset("\0\ufffd\ufffe\uffff")
#: The characters of ASCII that are parts of tokens in ``grams``.
TOKEN = frozenset(string.ascii_letters + string.digits + string.punctuation)
#: Characters that the detail of an address can have only in a quoted string, where it may begin or end with white space.
UNQUOTED = frozenset(' "\\')
# The order of the joins is fixed: the tables of texts return their rows in the order of their ids.
WORDS = "FROM found.words CROSS JOIN found.texts ON texts.id = words.rowid"
GRAMS = "FROM found.grams CROSS JOIN found.texts ON texts.id = grams.rowid"
TEXTS = "FROM found.texts"
# The sign keeps SQLite from looking each of the ids up in ``words``.
AND_GRAMS = "+words.rowid IN (SELECT rowid FROM found.grams WHERE grams MATCH ?)"


@define
class Texts:
    """The texts that a message must have, and must not have, in one of the two tables of texts."""

    #: A phrase that all messages have.
    all: str
    wanted: list[str] = Factory(list)
    excluded: list[str] = Factory(list)

    def __bool__(self) -> bool:
        return bool(self.wanted or self.excluded)

    def expression(self) -> str:
        """Return the full-text query of FTS5."""
        wanted = " AND ".join(self.wanted or [self.all])
        return f"({wanted}) NOT ({' OR '.join(self.excluded)})" if self.excluded else wanted


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
    where: Condition
    """The part of the condition that applies to incomplete messages as well."""
    exact: bool

    @classmethod
    def of(cls, query: Query) -> Plan | None:
        """Return the plan for a query, or None if the index cannot be used for it."""
        words, grams = Texts(phrase(ALL_WORDS, "header")), Texts(phrase(ALL_GRAMS, "header"))
        files, exact = ["complete = 1"], True
        for term in query.terms:
            columns = EXACT.get(term.name) or APPROXIMATE.get(term.name)
            if term.name == "has":
                files.append(f"(files & {FILES[term.value]}) {'=' if term.negated else '!='} 0")
            elif columns is not None:
                text = text_to_find(term)
                exact = exact and term.name in EXACT and text is not None
                if text is not None:
                    table = grams if len(text) < TRIGRAM else words
                    (table.excluded if term.negated else table.wanted).append(phrase(text, *columns))
        where = condition_of(query)
        if not words and not grams and len(files) == 1 and not where[1]:
            return None
        conditions, values = [*files, where[0]], where[1]
        if grams:  # evaluated before the conditions on other tables
            conditions.insert(0, "grams MATCH ?" if not words else AND_GRAMS)
            values = (grams.expression(), *values)
        if words:
            conditions.insert(0, "words MATCH ?")
            values = (words.expression(), *values)
        source, key = (WORDS, "words.rowid") if words else (GRAMS, "grams.rowid") if grams else (TEXTS, "texts.id")
        return cls(source, key, " AND ".join(conditions), values, where, exact)


def phrase(text: str, *columns: str) -> str:
    """Return the full-text query for messages with a text in one of the columns."""
    quoted = text.replace('"', '""')
    return f'{{{" ".join(columns)}}} : "{quoted}"'


def text_to_find(term: Term) -> str | None:
    """Return a text that the columns of a term contain if it matches, or None if it cannot be searched for.

    If the term is negated, the columns contain the text only if the message is excluded.
    """
    text = term.needle
    if term.negated and term.name in APPROXIMATE:
        return None
    # UTF-8 and FTS5 must support all of its characters.
    if not text or not UNSAFE.isdisjoint(text) or encodable(text) != text:
        return None
    if term.name == "header":
        name, _, value = term.value.partition("=")
        return own_field(name, value) if name.lower().startswith(OWN_FIELD) else None
    if term.name == "detail" and UNQUOTED.isdisjoint(text):
        return f"+{text}@"
    if len(text) < TRIGRAM and not all(character > "\x7f" or character in TOKEN for character in text):
        return None
    return text
