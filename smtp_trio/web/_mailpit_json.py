"""A message in the form of Mailpit's API v1: the summary in a list, the whole message, and its header."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ._message import raw_fields, unfold

if TYPE_CHECKING:
    from ..stores import Stored
    from ._message import MessagePart, ParsedMessage

#: The number of characters of the text of a message in a list.
SNIPPET = 250
LINK = re.compile(r"<([^<>]*)>")


def timestamp(when: datetime) -> str:
    """Return a time in RFC 3339, in UTC, with milliseconds."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def common(stored: Stored, parsed: ParsedMessage, *, read: bool) -> dict[str, Any]:
    """Return the members that a summary and a whole message have in common."""

    def addresses(name: str) -> list[dict[str, str]]:
        return [{"Name": label, "Address": address} for label, address in parsed.mailboxes[name]]

    to, cc, bcc = addresses("to"), addresses("cc"), addresses("bcc")
    named = {each["Address"].lower() for each in (*to, *cc, *bcc)}
    # As in Mailpit, these are also the recipients of the envelope that no field names.
    bcc += [{"Name": "", "Address": each} for each in stored.recipients if each.lower() not in named]
    return {
        "ID": stored.id,
        "MessageID": parsed.get("Message-ID").strip("<> "),
        "Read": read,
        "From": next(iter(addresses("from")), {"Name": "", "Address": ""}),
        "To": to,
        "Cc": cc,
        "Bcc": bcc,
        "ReplyTo": addresses("reply-to"),
        "Subject": parsed.get("Subject"),
        "Username": stored.auth or "",
        "Tags": [],
        "Size": stored.size,
    }


def summary(stored: Stored, parsed: ParsedMessage, *, read: bool) -> dict[str, Any]:
    """Return the summary of a message in a list."""
    return {
        **common(stored, parsed, read=read),
        "Created": timestamp(stored.received),
        "Attachments": sum(part.role == "attachment" for part in parsed.parts),
        "Snippet": " ".join(parsed.text.split())[:SNIPPET],
    }


def whole(stored: Stored, parsed: ParsedMessage) -> dict[str, Any]:
    """Return a message with its texts and attachments. Its read mark is true."""
    unsubscribe = parsed.get("List-Unsubscribe")
    return {
        **common(stored, parsed, read=True),
        "ReturnPath": stored.sender,
        "ListUnsubscribe": {
            "Header": unsubscribe,
            "HeaderPost": parsed.get("List-Unsubscribe-Post"),
            "Links": LINK.findall(unsubscribe),
            "Errors": "",
        },
        "Date": timestamp(stored.date or stored.received),
        "Text": parsed.text,
        "HTML": parsed.html,
        "Inline": [attachment(part) for part in parsed.parts if part.role == "inline"],
        "Attachments": [attachment(part) for part in parsed.parts if part.role == "attachment"],
    }


def attachment(part: MessagePart) -> dict[str, Any]:
    """Return the description of an attachment."""
    octets = part.octets()
    digests = {name: hashlib.new(name, octets, usedforsecurity=False).hexdigest() for name in ("md5", "sha1", "sha256")}
    return {
        "PartID": str(part.number),
        "FileName": part.filename or part.content_id,
        "ContentType": part.type,
        "ContentID": part.content_id,
        "Size": part.size,
        "Checksums": {name.upper(): digest for name, digest in digests.items()},
    }


def header(message: bytes) -> dict[str, list[str]]:
    """Return the undecoded values of the fields by their names in the usual case ("Message-Id")."""
    found: dict[str, list[str]] = {}
    for name, value in raw_fields(message):
        usual = "-".join(word.capitalize() for word in name.split("-"))
        found.setdefault(usual, []).append(unfold(value).decode("utf-8", "replace"))
    return found
