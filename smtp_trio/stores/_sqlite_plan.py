"""`Plan`: the translation of a query to SQL for the search index of `SQLite`."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ._query import TEXT
from ._sqlite_reading import condition_of
from ._sqlite_texts import ALL_GRAMS, ALL_WORDS, FILES, OWN_FIELD, encodable, own_field

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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

# How a query is evaluated
# ------------------------
#
# Each of the two tables of texts returns the ids that match a full-text query in their order, and stops when a page is full. For
# a query with long and with short texts, the ids of ``words`` are looked up in the set of those of ``grams``.
#
# This is slow if one part of the query matches most messages, and another one few or none of the first, since all ids of the
# frequent part are compared. So at first the parts that are cheap to evaluate are asked for a few ids (`Plan.probes`). If one
# of them has no more, these messages are compared one by one (`Plan.among`), with the texts that ``words`` stores.

# The order of the joins is fixed: the tables of texts return their rows in the order of their ids.
WORDS = "FROM found.words CROSS JOIN found.texts ON texts.id = words.rowid"
GRAMS = "FROM found.grams CROSS JOIN found.texts ON texts.id = grams.rowid"
TEXTS = "FROM found.texts"
SOME_TEXTS = "FROM found.texts CROSS JOIN found.words ON words.rowid = texts.id"
IDS = "texts.id IN (SELECT value FROM json_each(?))"
# The sign keeps SQLite from looking each of the ids up in ``words``.
AND_GRAMS = "+words.rowid IN (SELECT rowid FROM found.grams WHERE grams MATCH ?)"


@frozen
class Text:
    """A text that a message must have in one of the columns, or must not have in any."""

    text: str
    columns: tuple[str, ...]
    negated: bool = False

    @property
    def is_short(self) -> bool:
        """True if the text is in ``grams``, and not in ``words``."""
        return len(self.text) < TRIGRAM

    def phrase(self) -> str:
        """Return the full-text query for messages with the text."""
        quoted = self.text.replace('"', '""')
        return f'{{{" ".join(self.columns)}}} : "{quoted}"'

    def comparison(self) -> str:
        """Return the condition in SQL, with one parameter for each column."""
        found = " OR ".join(f"instr(words.{column}, ?)" for column in self.columns)
        return f"NOT ({found})" if self.negated else f"({found})"


def expression(texts: Sequence[Text], everything: str) -> str:
    """Return the full-text query for several texts. ``everything`` is one that all messages have."""
    wanted = " AND ".join([text.phrase() for text in texts if not text.negated] or [f'header : "{everything}"'])
    excluded = " OR ".join(text.phrase() for text in texts if text.negated)
    return f"({wanted}) NOT ({excluded})" if excluded else wanted


@frozen
class Source:
    """Tables, the column of the ids in them by which the results are ordered, and a condition."""

    tables: str
    key: str
    condition: str
    values: tuple[object, ...]


@frozen
class Plan:
    """The translation of a query to SQL.

    The messages that a `Source` finds and the incomplete ones are candidates. ``exact`` is true if the former always match the
    query.
    """

    texts: tuple[Text, ...]
    conditions: tuple[str, ...]
    """Conditions on the table ``texts``."""
    where: Condition
    """The condition that applies to incomplete messages as well. Its values are those of ``conditions``."""
    exact: bool

    @classmethod
    def of(cls, query: Query) -> Plan | None:
        """Return the plan for a query, or None if the index cannot be used for it."""
        texts, files, exact = [], [], True
        for term in query.terms:
            columns = EXACT.get(term.name) or APPROXIMATE.get(term.name)
            if term.name == "has":
                files.append(f"(files & {FILES[term.value]}) {'=' if term.negated else '!='} 0")
            elif columns is not None:
                text = text_to_find(term)
                exact = exact and term.name in EXACT and text is not None
                if text is not None:
                    texts.append(Text(text, columns, term.negated))
        where = condition_of(query)
        conditions = (*files, where[0]) if where[1] else tuple(files)
        return cls(tuple(texts), conditions, where, exact) if texts or conditions else None

    def source(self) -> Source:
        """Return the source of the messages that match."""
        grams = [text for text in self.texts if text.is_short]
        words = [text for text in self.texts if not text.is_short]
        matches: list[tuple[str, object]] = []
        if words:
            matches.append(("words MATCH ?", expression(words, ALL_WORDS)))
        if grams:  # evaluated before the conditions on other tables
            matches.append((AND_GRAMS if words else "grams MATCH ?", expression(grams, ALL_GRAMS)))
        tables, key = (WORDS, "words.rowid") if words else (GRAMS, "grams.rowid") if grams else (TEXTS, "texts.id")
        conditions = [*(condition for condition, _ in matches), *self.conditions, "complete = 1"]
        return Source(tables, key, " AND ".join(conditions), (*(value for _, value in matches), *self.where[1]))

    def probes(self) -> Iterator[Source]:
        """Iterate over the sources of parts of the query that few messages may match, if there are other parts."""
        grams = tuple(text for text in self.texts if text.is_short)
        if grams and len(grams) < len(self.texts):
            yield evolve(self, texts=grams, conditions=(), where=("1", ())).source()
        if self.conditions and self.texts:
            yield evolve(self, texts=()).source()

    def among(self, ids: Sequence[int]) -> Source:
        """Return the source of those messages with some ids that match."""
        comparisons = (text.comparison() for text in self.texts)
        values = (text.text for text in self.texts for _ in text.columns)
        condition = " AND ".join([IDS, *self.conditions, *comparisons])
        return Source(SOME_TEXTS, "texts.id", condition, (json.dumps(ids), *self.where[1], *values))


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
