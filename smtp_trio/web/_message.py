"""`ParsedMessage`: the content of a stored message for the page and the APIs."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import getaddresses
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from attrs import field, frozen

from .._server.threads import run_in_thread
from ..stores._content import ANY_FIELD, HEADER_END, NEWLINE, Part, charset_of, html_text, parts_of
from ..stores._entry import FIELD_OCTETS, HEADER_OCTETS, decode_subject

if TYPE_CHECKING:
    from ..stores import Stored

T = TypeVar("T")

# The content of messages is untrusted, so everything here has limits. `stores._content` limits the depth of the parts and the
# size of the header. Parts, fields and texts beyond the limits are left out, and `truncated` names them. Nothing here raises
# an error: values that cannot be decoded are shown as they are.

MAX_PARTS = 1000
MAX_FIELDS = 2000
#: The maximum number of characters of `ParsedMessage.text`, and of `ParsedMessage.html`.
MAX_TEXT = 1 << 19
#: The fields whose mailboxes are parsed, and the maximum number and octets of each.
ADDRESSES = ("from", "sender", "reply-to", "to", "cc", "bcc")
MAX_MAILBOXES = 1000
MAILBOX_OCTETS = 1 << 14
#: The maximum number of characters of a file name and of a content id.
MAX_NAME = 255
#: The size in octets from which on a message is parsed in a thread.
LARGE = 4096

#: A content type that can be sent in a header of HTTP (RFC 6838 4.2).
CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
#: A piece of a long field. It ends at white space if possible, so that encoded words are not split.
PIECE = re.compile(rb"(?s).{1,%d}(?![^ \t])|.{1,%d}" % (FIELD_OCTETS, FIELD_OCTETS))
#: Characters that separate directories, or that file systems do not allow.
UNSAFE = frozenset('/\\:*?"<>|')

Role = Literal["text", "html", "inline", "attachment"]


@frozen(kw_only=True)
class MessagePart:
    """A part of a message without subparts. An enclosed message is one part."""

    number: int
    """The number of the part in the message, from 1."""
    type: str
    """The content type in lower case, without parameters; application/octet-stream if it is invalid."""
    role: Role
    """"text" and "html" are shown as the text of the message. An "inline" part is displayed with it, such as an image."""
    disposition: str
    """The content disposition, "inline" or "attachment"; "" for any other value and if it is absent."""
    filename: str
    """The untrusted file name from the message, decoded (RFC 2231, RFC 2047); "" if it is absent."""
    safe_filename: str
    """A name that is safe for a file: without directories, and with printable characters only."""
    content_id: str
    """The text of ``Content-ID`` without its angle brackets, or ""."""
    charset: str
    """The charset of a text as Python names it, and "" for other types."""
    size: int
    """The octets without the transfer encoding."""
    source: Part = field(repr=False, eq=False)

    @classmethod
    def of(cls, number: int, part: Part) -> Self:
        """Return the description of a part."""
        kind = part.header.get_content_type()
        kind = kind if CONTENT_TYPE.fullmatch(kind) else "application/octet-stream"
        disposition = part.header.get_content_disposition() or ""
        filename = part.filename[:MAX_NAME]
        return cls(
            number=number,
            type=kind,
            role=role_of(part, kind),
            disposition=disposition if disposition in ("inline", "attachment") else "",
            filename=filename,
            safe_filename=safe_filename(filename, f"part-{number}{extension_of(kind)}"),
            content_id=decode_field(str(part.header.get("Content-ID", "")).encode("utf-8", "replace"))[:MAX_NAME].strip(
                "<> "
            ),
            charset=charset_of(part.header) if kind.startswith("text/") else "",
            size=sum(map(len, part.octets())),
            source=part,
        )

    def octets(self) -> bytes:
        """Return the octets without the transfer encoding."""
        return b"".join(self.source.octets())


@frozen(kw_only=True)
class ParsedMessage:
    """The content of a message. Use `parse` to create it, except for messages that are known to be small."""

    header: tuple[tuple[str, str], ...]
    """The names and the decoded values of the fields, in their order."""
    text: str
    """The plain text, or the text of the HTML if the message has no plain text."""
    html: str
    """The HTML as the sender wrote it, or "". It is not sanitised."""
    parts: tuple[MessagePart, ...]
    truncated: tuple[str, ...]
    """The names of those among "header", "text", "html" and "parts" that are incomplete because of a limit."""
    mailboxes: Mapping[str, tuple[tuple[str, str], ...]]
    """The display names and addresses in the fields of `ADDRESSES`, by the name in lower case."""

    @classmethod
    def of(cls, stored: Stored) -> Self:
        """Parse a message. This may take a second for large or hostile messages."""
        fields = raw_fields(stored.message)
        sources = list(islice(parts_of(stored.message, enclosed=False), MAX_PARTS + 1))
        parts = [MessagePart.of(number, part) for number, part in enumerate(sources[:MAX_PARTS], 1)]
        html, more_html = limited(join(part for part in parts if part.role == "html"))
        texts = [part for part in parts if part.role == "text"]
        text, more_text = limited(join(texts)) if texts else (html_text(html), more_html)
        truncated = {
            "header": len(fields) > MAX_FIELDS,
            "text": more_text,
            "html": more_html,
            "parts": len(sources) > MAX_PARTS,
        }
        return cls(
            header=tuple((name, decode_field(value)) for name, value in fields[:MAX_FIELDS]),
            text=text,
            html=html,
            parts=tuple(parts),
            truncated=tuple(name for name, is_true in truncated.items() if is_true),
            mailboxes={name: tuple(mailboxes_of(fields, name)) for name in ADDRESSES},
        )

    def get(self, name: str) -> str:
        """Return the value of the first field of a name, decoded, or "" without one."""
        name = name.lower()
        return next((value for field_name, value in self.header if field_name.lower() == name), "")

    def part(self, number: int) -> MessagePart | None:
        """Return the part with this number, or None if it does not exist."""
        return self.parts[number - 1] if 0 < number <= len(self.parts) else None


async def parse(stored: Stored) -> ParsedMessage:
    """Parse a message, in a thread if it is large."""
    return await read_message(stored, partial(ParsedMessage.of, stored))


async def read_message(stored: Stored, work: Callable[[], T]) -> T:
    """Call a function that parses a message, in a thread if the message is large, and return its result."""
    return work() if len(stored.message) < LARGE else await run_in_thread(work)


async def read_part(stored: Stored, number: int) -> tuple[MessagePart, bytes] | None:
    """Return a part of a message and its octets without the transfer encoding, or None if it does not exist."""

    def read() -> tuple[MessagePart, bytes] | None:
        sources = parts_of(stored.message, enclosed=False)
        source = next(islice(sources, number - 1, number), None) if 0 < number <= MAX_PARTS else None
        if source is None:
            return None
        part = MessagePart.of(number, source)
        return part, part.octets()

    return await read_message(stored, read)


def raw_fields(message: bytes) -> list[tuple[str, bytes]]:
    """Return the names and values of the fields in a header, at most `MAX_FIELDS` + 1."""
    start = message[:HEADER_OCTETS]
    end = 0 if NEWLINE.match(start) else found.end() if (found := HEADER_END.search(start)) else len(start)
    fields = islice(ANY_FIELD.finditer(start, 0, end), MAX_FIELDS + 1)
    return [(found[1].decode("ascii"), found[2]) for found in fields]


def mailboxes_of(fields: list[tuple[str, bytes]], name: str) -> Iterator[tuple[str, str]]:
    """Iterate over the display names and addresses in the fields with this name, except for invalid ones."""
    values = b",".join(unfold(value) for field_name, value in fields if field_name.lower() == name)[:MAILBOX_OCTETS]
    # The addresses are separated before they are decoded: an encoded word may contain a comma (RFC 2047 6.2).
    try:
        found = getaddresses([values.decode("utf-8", "replace")])
    except RecursionError:  # comments in comments
        return
    for label, address in found[:MAX_MAILBOXES]:
        if address:
            yield decode_field(label.encode("utf-8", "replace")), address


def unfold(value: bytes) -> bytes:
    """Return the value of a field on one line (RFC 5322 2.2.3)."""
    return NEWLINE.sub(b"", value).strip()


def decode_field(value: bytes) -> str:
    """Return the text of a field, of any length."""
    line = unfold(value)
    if b"=?" not in line:
        return line.decode("utf-8", "replace")
    # The library takes time quadratic in the number of encoded words, so a long field is decoded in pieces.
    return " ".join(map(decode_subject, PIECE.findall(line)))


def role_of(part: Part, kind: str) -> Role:
    """Return the role of a part in its message."""
    if part.is_attachment or kind in ("message/rfc822", "message/global"):
        return "attachment"
    if part.is_inline:
        return "inline"
    if kind == "text/html":
        return "html"
    # Reports are text (RFC 3464). Other types that mail programs do not display are files.
    return "text" if kind == "text/plain" or kind.startswith("message/") else "attachment"


def join(parts: Iterable[MessagePart]) -> Iterator[str]:
    """Iterate over the decoded text of parts, with a line end between them."""
    for position, part in enumerate(parts):
        if position:
            yield "\n"
        yield from part.source.text()


def limited(chunks: Iterator[str]) -> tuple[str, bool]:
    """Return the first `MAX_TEXT` characters of a text, and whether it is longer."""
    kept: list[str] = []
    length = 0
    for chunk in chunks:
        kept.append(chunk)
        length += len(chunk)
        if length > MAX_TEXT:
            break
    return "".join(kept)[:MAX_TEXT].replace("\r\n", "\n"), length > MAX_TEXT


def extension_of(kind: str) -> str:
    """Return the file name extension for a content type, or ".bin" if it is unknown."""
    return ".eml" if kind == "message/rfc822" else mimetypes.guess_extension(kind) or ".bin"


def safe_filename(name: str, default: str) -> str:
    """Return a file name without directories, control characters and bidirectional formatting characters."""
    # Bidirectional formatting characters, such as U+202E, are not printable.
    kept = "".join("_" if char in UNSAFE or not char.isprintable() else char for char in name).strip(" .")
    if len(kept) > 100:
        stem, dot, extension = kept.rpartition(".")
        kept = f"{stem[:80]}{dot}{extension}" if stem and len(extension) <= 16 else kept[:100]
    return kept or default
