"""A message in the form of Mailpit's API v1: the summary in a list, and the whole message."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import getaddresses
from typing import TYPE_CHECKING, Any

from ..stores._content import ANY_FIELD, HEADER_END, charset_of, decode_chunks, html_text, parts_of
from ..stores._entry import HEADER_OCTETS, decode_subject

if TYPE_CHECKING:
    from ..stores import Stored
    from ..stores._content import Part

#: Characters of the text of a message that a list shows.
SNIPPET = 250
#: Characters of a field with addresses that are parsed.
ADDRESSES = 1 << 14
FOLD = re.compile(r"\r?\n[ \t]+")
Address = dict[str, str]


def timestamp(when: datetime) -> str:
    """Return a time in RFC 3339, in UTC, with milliseconds."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fields(message: bytes) -> dict[str, list[str]]:
    """Return the values of the fields in the header, unfolded but not decoded, by their names in the usual case."""
    start = message[:HEADER_OCTETS]
    end = HEADER_END.search(start)
    found: dict[str, list[str]] = {}
    for name, value in ANY_FIELD.findall(start[: end.end()] if end else start):
        text = FOLD.sub(" ", value.decode("utf-8", "replace")).strip()
        # "-".join(…) and not str.title, which also changes letters after digits.
        usual = "-".join(word.capitalize() for word in name.decode("ascii").split("-"))
        found.setdefault(usual, []).append(text)
    return found


def addresses(values: Iterable[str]) -> list[Address]:
    """Return the addresses in fields. Names are decoded after parsing: an encoded one may contain a comma."""
    parsed = getaddresses([", ".join(values)[:ADDRESSES]])
    return [{"Name": decode_subject(name.encode()), "Address": address} for name, address in parsed if name or address]


class Mail:
    """A message, and what Mailpit's API says about it."""

    def __init__(self, stored: Stored, *, read: bool) -> None:
        self.stored = stored
        self.read = read
        self.fields = fields(stored.message)
        self.parts: Sequence[Part] = list(parts_of(stored.message))

    def text_of(self, kind: str) -> str:
        """Return the text of the parts of a content type that are displayed."""
        return "\n".join(
            "".join(decode_chunks(part.octets(), charset_of(part.header)))
            for part in self.parts
            if part.header.get_content_type() == kind and not part.is_attachment and not part.is_inline
        )

    @property
    def html(self) -> str:
        return self.text_of("text/html")

    @property
    def text(self) -> str:
        """The plain text, or that of the HTML in a message that has no other."""
        return self.text_of("text/plain") or html_text(self.html).strip()

    def first(self, name: str) -> str:
        """Return the value of a field, or "" without one."""
        return self.fields.get(name, [""])[0]

    def common(self) -> dict[str, Any]:
        """Return what a summary and a whole message have in common."""
        to, cc, bcc = (addresses(self.fields.get(name, ())) for name in ("To", "Cc", "Bcc"))
        named = {each["Address"].lower() for each in (*to, *cc, *bcc)}
        bcc += [{"Name": "", "Address": each} for each in self.stored.recipients if each.lower() not in named]
        return {
            "ID": self.stored.id,
            "MessageID": self.first("Message-Id").strip("<> "),
            "Read": self.read,
            "From": next(iter(addresses(self.fields.get("From", ()))), {"Name": "", "Address": ""}),
            "To": to,
            "Cc": cc,
            "Bcc": bcc,
            "ReplyTo": addresses(self.fields.get("Reply-To", ())),
            "Subject": self.stored.subject or "",
            "Username": self.stored.auth or "",
            "Tags": [],
            "Size": self.stored.size,
        }

    def summary(self) -> dict[str, Any]:
        """Return the message as it is in a list."""
        return {
            **self.common(),
            "Created": timestamp(self.stored.received),
            "Attachments": sum(part.is_attachment for part in self.parts),
            "Snippet": " ".join(self.text.split())[:SNIPPET],
        }

    def whole(self) -> dict[str, Any]:
        """Return the message with its texts, and what is attached."""
        return {
            **self.common(),
            "ReturnPath": self.stored.sender,
            "ListUnsubscribe": {
                "Header": self.first("List-Unsubscribe"),
                "HeaderPost": self.first("List-Unsubscribe-Post"),
                "Links": re.findall(r"<([^<>]*)>", self.first("List-Unsubscribe")),
                "Errors": "",
            },
            "Date": timestamp(self.stored.date or self.stored.received),
            "Text": self.text,
            "HTML": self.html,
            "Inline": [attachment(n, part) for n, part in enumerate(self.parts, 1) if part.is_inline],
            "Attachments": [attachment(n, part) for n, part in enumerate(self.parts, 1) if part.is_attachment],
        }


def attachment(number: int, part: Part) -> dict[str, Any]:
    """Return what is known about an attached file."""
    octets = b"".join(part.octets())
    content_id = str(part.header.get("Content-ID", "")).strip("<> ")
    digest = {name: hashlib.new(name, octets, usedforsecurity=False).hexdigest() for name in ("md5", "sha1", "sha256")}
    return {
        "PartID": str(number),
        "FileName": part.filename or content_id,
        "ContentType": part.header.get_content_type(),
        "ContentID": content_id,
        "Size": len(octets),
        "Checksums": {name.upper(): value for name, value in digest.items()},
    }
