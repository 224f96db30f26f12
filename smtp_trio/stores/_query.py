"""`Query`: the messages that a search finds. The syntax is that of Mailpit (mailpit.axllent.org/docs/usage/search-filters)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Self

from attrs import field, frozen

from ..protocol.amounts import OCTETS, parse_amount
from ..protocol.arguments import check_type
from ._content import CHUNK, Part, field_values, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._entry import Entry, Stored

# How a message is compared with a query
# --------------------------------------
#
# Most parts of a query can be decided from the entry of a message, which a store has at hand. Some need its header, and some
# the whole message, which may be large. So a term is compared with an entry and with as much of the message as was read, and
# the result is True, False, or None for "not known yet". `Query.decide` returns at the first term that is False; a store reads
# more of a message only for the result None.

#: A part that begins with one of these and a colon, outside of quotes, is not text.
NAME = re.compile(r"([A-Za-z-]+):")
#: Characters that are normalized at a time, split at white space if possible. The time that it takes to sort combining characters
#: grows with the square of their number, and a message can consist of them.
SLICE = re.compile(r"(?s).{1,1000}(?!\S)|.{1,1000}")
#: The name of a field (RFC 5322 2.2), and what ends it in a query. Such a name does not contain "=".
FIELD_NAME = re.compile(r"[!-9;<>-~]+(=|\Z)")
DATE = re.compile(r"(\d{4})(?:[-/](\d\d?)(?:[-/](\d\d?)(?:[T ](.+))?)?)?", re.ASCII | re.IGNORECASE)


class Content:
    """As much of a message as a store has read: its header, or all of it with ``complete``."""

    def __init__(self, octets: bytes, *, complete: bool) -> None:
        self.octets: bytes = octets
        self.complete: bool = complete
        self._fields: dict[tuple[str, ...], str] = {}
        self._texts: list[str] | None = None

    def fields(self, *names: str) -> str:
        """Return the values of the fields with these names, folded (`fold`), one on each line."""
        if names not in self._fields:
            self._fields[names] = "\n".join(map(fold, field_values(self.octets, *names)))
        return self._fields[names]

    def parts(self) -> Iterator[Part]:
        """Iterate over the parts of the message."""
        return parts_of(self.octets)

    def text_contains(self, needle: str) -> bool:
        """Return whether a text of the message contains ``needle``, or the name of an attachment does."""
        if len(self.octets) > CHUNK:
            return any(needle in text for text in self._windows(len(needle)))
        if self._texts is None:
            self._texts = [fold(text) for part in self.parts() for text in (part.filename, "".join(part.chunks()))]
        return any(needle in text for text in self._texts)

    def texts(self, parts: Iterable[Part]) -> Iterator[str]:
        """Iterate over pieces of the texts in which `text_contains` looks, each text in a line of its own."""
        for part in parts:
            yield f"{fold(part.filename)}\n"
            if len(self.octets) <= CHUNK:
                yield fold("".join(part.chunks()))
            else:
                space = False
                for chunk in part.chunks():
                    text = fold(chunk, strip=False)
                    yield text.removeprefix(" ") if space else text
                    space = text.endswith(" ")
            yield "\n"

    def _windows(self, overlap: int) -> Iterator[str]:
        """Iterate over the texts, folded, in chunks that begin with the last ``overlap`` characters of the one before."""
        for part in self.parts():
            yield fold(part.filename)
            rest = ""
            for chunk in part.chunks():
                text = (rest + fold(chunk, strip=False)).replace("  ", " ")
                yield text
                rest = text[-overlap:]


Test = Callable[["Term", "Entry", "Content | None"], "bool | None"]


def fold(text: str, *, strip: bool = True) -> str:
    """Return a text in the form in which texts are compared: without differences of case and of white space."""
    if not text.isascii():
        text = "".join(unicodedata.normalize("NFC", each) for each in SLICE.findall(text))
    folded = " ".join(text.casefold().split())
    if strip or not text:
        return folded
    return f"{' ' * text[0].isspace()}{folded}{' ' * (text[-1].isspace() and folded != '')}"


def in_fields(term: Term, content: Content | None, *names: str) -> bool | None:
    return None if content is None else term.needle in content.fields(*names)


def from_(term: Term, entry: Entry, content: Content | None) -> bool | None:
    return term.needle in fold(entry.sender) or in_fields(term, content, "From", "Sender")


def to(term: Term, entry: Entry, content: Content | None) -> bool | None:
    return recipients(term, entry, content) or in_fields(term, content, "To")


def recipients(term: Term, entry: Entry, content: Content | None) -> bool:
    return any(term.needle in fold(recipient) for recipient in entry.recipients)


def rcpt(term: Term, entry: Entry, content: Content | None) -> bool:
    return any(term.needle == fold(recipient) for recipient in entry.recipients)


def detail(term: Term, entry: Entry, content: Content | None) -> bool:
    return any(term.needle == fold(detail_of(recipient)) for recipient in entry.recipients)


def detail_of(mailbox: str) -> str:
    """Return the part after the first "+" in the local part of a mailbox (RFC 5233), or ""."""
    return mailbox.rpartition("@")[0].partition("+")[2]


def header(term: Term, entry: Entry, content: Content | None) -> bool | None:
    if content is None:
        return None
    name, equals, value = term.value.partition("=")
    values = field_values(content.octets, name)
    return fold(value) in map(fold, values) if equals else values != []


def cc(term: Term, entry: Entry, content: Content | None) -> bool | None:
    return in_fields(term, content, "Cc")


def bcc(term: Term, entry: Entry, content: Content | None) -> bool | None:
    found = [each for each in map(fold, entry.recipients) if term.needle in each]
    if not found or content is None:
        return None if found else False
    named = content.fields("To", "Cc")
    return any(each not in named for each in found)


def reply_to(term: Term, entry: Entry, content: Content | None) -> bool | None:
    return in_fields(term, content, "Reply-To")


def addressed(term: Term, entry: Entry, content: Content | None) -> bool | None:
    return (
        term.needle in fold(entry.sender)
        or recipients(term, entry, content)
        or in_fields(term, content, "From", "Sender", "To", "Cc", "Bcc", "Reply-To")
    )


def subject(term: Term, entry: Entry, content: Content | None) -> bool | None:
    # A store may have been written by a version that did not keep the subject.
    return term.needle in fold(entry.subject) if entry.subject is not None else in_fields(term, content, "Subject")


def message_id(term: Term, entry: Entry, content: Content | None) -> bool | None:
    return in_fields(term, content, "Message-ID")


def text(term: Term, entry: Entry, content: Content | None) -> bool | None:
    if addressed(term, entry, content) or subject(term, entry, content):
        return True
    return content.text_contains(term.needle) if content is not None and content.complete else None


def before(term: Term, entry: Entry, content: Content | None) -> bool:
    received = entry.received if entry.received.tzinfo else entry.received.replace(tzinfo=UTC)
    return received < datetime.fromisoformat(term.value)


def after(term: Term, entry: Entry, content: Content | None) -> bool:
    return not before(term, entry, content)


def larger(term: Term, entry: Entry, content: Content | None) -> bool:
    return entry.size > int(term.value)


def smaller(term: Term, entry: Entry, content: Content | None) -> bool:
    return entry.size < int(term.value)


def has(term: Term, entry: Entry, content: Content | None) -> bool | None:
    if content is None or not content.complete:
        return None
    return any(part.is_attachment if term.value == "attachment" else part.is_inline for part in content.parts())


TEXT = ""
TESTS: Mapping[str, Test] = {
    TEXT: text,
    "from": from_,
    "to": to,
    "rcpt": rcpt,
    "detail": detail,
    "cc": cc,
    "bcc": bcc,
    "addressed": addressed,
    "reply-to": reply_to,
    "subject": subject,
    "message-id": message_id,
    "header": header,
    "before": before,
    "after": after,
    "larger": larger,
    "smaller": smaller,
    "has": has,
}
#: Names that look into the header of a message.
IN_HEADER = frozenset({"from", "to", "cc", "bcc", "addressed", "reply-to", "subject", "message-id", "header"})
#: Names that Mailpit has in addition, and why they find nothing here.
WITHOUT_MEANING = {"is": "a store does not record what was read or tagged", "tag": "a store has no tags"}


@frozen
class Term:
    """One condition of a query."""

    name: str
    """The name before the colon in lower case, or "" for a word or phrase."""
    value: str
    """The text that is looked for; a time in ISO 8601 with its UTC offset; a number of octets; or "attachment" or "inline"."""
    negated: bool = False
    """True if messages that fulfil the condition are excluded."""
    needle: str = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "needle", fold(self.value))

    def __str__(self) -> str:
        value = self.value
        if (
            any(map(str.isspace, value))
            or '"' in value
            or (self.name == TEXT and (value[0] in "-!" or NAME.match(value)))
        ):
            value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"{'-' * self.negated}{self.name}{':' * bool(self.name)}{value}"

    def decide(self, entry: Entry, content: Content | None) -> bool | None:
        """Return whether a message fulfils the condition, or None if more of it has to be read."""
        result = TESTS[self.name](self, entry, content)
        return result if result is None else result != self.negated


@frozen
class Query:
    """Conditions that a message has to fulfil. ``Query.parse(text)`` returns those of a text; without any, all messages do.

    ``str(query)`` is a text from which the same query is parsed, whatever the time zone.
    """

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, text: str, *, tz: tzinfo | None = None) -> Self:
        """Return the query of a text. Raises ValueError, which names the part that is invalid.

        ``tz`` is the time zone of dates without a UTC offset; by default, that of the machine.
        """
        check_type(text, "text", str)
        return cls(tuple(parse_term(*part, tz) for part in split_parts(text)))

    def __str__(self) -> str:
        return " ".join(map(str, self.terms))

    @property
    def needs_header(self) -> bool:
        """True if the header of a message may be enough to decide."""
        return any(term.name in IN_HEADER for term in self.terms)

    def matches(self, stored: Stored) -> bool:
        """Return whether a message fulfils all conditions."""
        return bool(self.decide(stored, Content(stored.message, complete=True)))

    def decide(self, entry: Entry, content: Content | None = None) -> bool | None:
        """Return whether a message fulfils all conditions, or None if more of it has to be read."""
        result: bool | None = True
        for term in self.terms:
            match term.decide(entry, content):
                case False:
                    return False
                case None:
                    result = None
        return result


def split_parts(text: str) -> Iterator[tuple[str, str, int]]:
    """Iterate over the parts of a query: as written, without quotes, and the position of the first quote without them."""
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        start, quoted, first_quote = position, False, -1
        value: list[str] = []
        while position < len(text) and (quoted or not text[position].isspace()):
            character = text[position]
            if quoted and character == "\\" and text[position + 1 : position + 2] in ('"', "\\"):
                position += 1
                value.append(text[position])
            elif character == '"':
                quoted = not quoted
                first_quote = len(value) if first_quote < 0 else first_quote
            else:
                value.append(character)
            position += 1
        if quoted:
            raise ValueError(f"{text[start:]!r}: the quotation mark at the end is missing")
        yield text[start:position], "".join(value), len(value) if first_quote < 0 else first_quote


def parse_term(written: str, value: str, unquoted: int, tz: tzinfo | None) -> Term:
    """Return the condition of a part. Its first ``unquoted`` characters can be a sign and a name."""
    negated = unquoted > 0 and value[0] in "-!" and len(value) > 1
    start = int(negated)
    name = TEXT
    found = NAME.match(value, start, unquoted)
    if found and (found[1].lower() in TESTS or found[1].lower() in WITHOUT_MEANING):
        name, start = found[1].lower(), found.end()
    value = value[start:]
    if name in WITHOUT_MEANING:
        raise ValueError(f"{written!r}: {WITHOUT_MEANING[name]}")
    if not value.strip():
        raise ValueError(f"{written!r}: the text to look for is missing")
    try:
        return Term(name, PARSERS[name](value, tz) if name in PARSERS else value, negated)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{written!r}: {error}") from None


def parse_time(value: str, tz: tzinfo | None) -> str:
    """Return a time in ISO 8601 with its UTC offset. A year, month or day is its beginning."""
    expected = "must be a date such as 2026-11-29, or a time such as 2026-11-29T18:30 or 2026-11-29T18:30:00+01:00"
    found = DATE.fullmatch(value.strip())
    if found is None:
        raise ValueError(expected)
    year, month, day, time = found.groups()
    try:
        when = datetime.fromisoformat(f"{year}-{int(month or 1):02}-{int(day or 1):02}T{(time or '00:00').upper()}")
        when = when if when.tzinfo else when.replace(tzinfo=tz) if tz else when.astimezone()
        when.astimezone(UTC)  # OverflowError for a time that UTC does not have
        return datetime.fromisoformat(when.isoformat()).isoformat()
    except (ValueError, OverflowError):
        raise ValueError(expected) from None


def parse_size(value: str, _: tzinfo | None) -> str:
    """Return a number of octets. As in Mailpit and in the options of the command line, a kilobyte has 1,024."""
    size = parse_amount(value, OCTETS, 10**18)
    if size is None:
        raise ValueError("must be a number of octets, or a size such as 500k or 10M")
    return str(int(size))


def parse_header(value: str, _: tzinfo | None) -> str:
    """Return the name of a field, or its name and its value with "=" between them."""
    if not FIELD_NAME.match(value):
        raise ValueError("must be the name of a field, or a name and a value such as header:X-Test-Id=17")
    return value


def parse_has(value: str, _: tzinfo | None) -> str:
    """Return the kind of part that a message is to have."""
    kind = value.lower().removesuffix("s")
    if kind not in ("attachment", "inline"):
        raise ValueError("only has:attachment and has:inline are known")
    return kind


PARSERS: Mapping[str, Callable[[str, tzinfo | None], str]] = {
    "before": parse_time,
    "after": parse_time,
    "larger": parse_size,
    "smaller": parse_size,
    "has": parse_has,
    "header": parse_header,
}


def as_query(query: Query | str) -> Query:
    """Return a query, or that of a text."""
    check_type(query, "query", (Query, str))
    return query if isinstance(query, Query) else Query.parse(query)
