"""``smtp-trio mail show``: a message on a terminal, on which it can do nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from .._server.log_events import clean
from ..stores import MessageNotFoundError, Store, Stored
from ..stores._content import Part, header_fields, parts_of
from ..stores._entry import json_fields
from .mail_output import checked, flush, print_error, size_text, write, write_json

#: The fields of an entry that ``--envelope`` shows, with their labels.
DETAILS = {
    "id": "Id", "received": "Received", "size": "Octets", "peer": "Client", "helo": "Hello", "protocol": "Protocol", "tls": "TLS",
    "auth": "User",
}  # fmt: skip


async def show(store: Store[Any], options: argparse.Namespace) -> int:
    """Write a message. Return 1 if the store does not have it."""
    try:
        stored = await store.get(options.id)
    except MessageNotFoundError:
        print_error(f"no message {options.id} in {store.url}")
        return 1
    if options.raw:
        checked(lambda: sys.stdout.buffer.write(stored.message))
    elif options.json:
        write_json(json_fields(stored) | content_fields(stored))
    else:
        for line in envelope_lines(stored) if options.envelope else ():
            write(clean(line))
        for line in message_lines(stored):
            write(line)
    flush()
    return 0


def envelope_lines(stored: Stored) -> Iterator[str]:
    """Iterate over the lines about the envelope and the client."""
    yield f"Sender: <{stored.sender}> {stored.mail_params}".rstrip()
    for recipient, params in zip(stored.recipients, stored.rcpt_params, strict=True):
        yield f"Recipient: <{recipient}> {params}".rstrip()
    for name, label in DETAILS.items():
        value = getattr(stored, name)
        if value is not None:
            yield f"{label}: {value}"
    yield ""


def message_lines(stored: Stored) -> Iterator[str]:
    """Iterate over the decoded fields, the text and the names of the attachments, with control characters replaced."""
    for name, value in header_fields(stored.message):
        yield clean(f"{name}: {value}")
    yield ""
    parts = list(parts_of(stored.message))
    for part in texts_of(parts):
        yield from text_lines(part)
    for part in parts:
        if part.is_attachment or part.is_inline:
            name = f" {part.filename}" if part.filename else ""
            yield clean(f"[{part.header.get_content_type()}{name}, {size_text(part.end - part.start)}]")


def texts_of(parts: list[Part]) -> list[Part]:
    """Return the parts that are shown: plain text, or HTML in a message without plain text."""
    texts = [part for part in parts if not (part.is_attachment or part.is_inline)]
    plain = [part for part in texts if part.header.get_content_type() != "text/html"]
    return plain or texts


def text_lines(part: Part) -> Iterator[str]:
    """Iterate over the lines of a text for the terminal. The blank lines that tags of HTML leave are joined."""
    is_html = part.header.get_content_type() == "text/html"
    blank = False
    for line in lines_of(part):
        text = " ".join(line.split()) if is_html else line
        if not (is_html and blank and not text):
            yield printable(text)
        blank = not text


def lines_of(part: Part) -> Iterator[str]:
    """Iterate over the lines of a text. The last one can be without a line end."""
    rest = ""
    for chunk in part.chunks():
        *lines, rest = (rest + chunk).replace("\r\n", "\n").split("\n")
        yield from lines
    if rest:
        yield rest


def printable(line: str) -> str:
    """Return a line without control characters; a tab becomes spaces."""
    return clean(line.expandtabs())


def content_fields(stored: Stored) -> dict[str, object]:
    """Return the decoded header, text and attachments of a message for JSON."""
    parts = list(parts_of(stored.message))
    return {
        "header": list(header_fields(stored.message)),
        "text": "\n".join("".join(part.chunks()) for part in texts_of(parts)),
        "attachments": [
            {"type": part.header.get_content_type(), "filename": part.filename, "inline": part.is_inline}
            for part in parts
            if part.is_attachment or part.is_inline
        ],
    }
