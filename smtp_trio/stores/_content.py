"""Reading of the content of a message: decoded fields, the text of the parts, and attachments (RFC 2045 to 2047)."""

from __future__ import annotations

import binascii
import codecs
import html
import re
from email.parser import BytesHeaderParser
from functools import lru_cache
from typing import TYPE_CHECKING

from attrs import frozen

from ._entry import FIELD, HEADER_OCTETS, decode_subject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

# Why not the parser of the standard library
# ------------------------------------------
#
# Messages come from strangers, and a store can hold one of 100 MiB. `email.parser` copies a message line by line into a list,
# compares each line with the boundary of every level, and recurses into each level. Here a part is a range of the octets.
# Its header is read by `email.parser`, but boundaries are found by one pass of a regular expression for each level, and there
# are at most `MAX_DEPTH` levels. Text is decoded a chunk at a time, so that the memory does not depend on the size of a part.

MAX_DEPTH = 20
MAX_PARTS = 10_000
#: Lines that begin like a delimiter and are looked at, for each level.
MAX_LINES = 100_000
#: Characters of ``Content-Type`` and ``Content-Disposition`` that are read.
MAX_PARAMETERS = 2048
#: Octets of a part that are decoded at a time.
CHUNK = 1 << 20
#: Python codecs that are not charsets of messages, or that decode slowly or interpret escape sequences.
NO_CHARSETS = frozenset({"utf-7", "idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})

NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
HEADER_END = re.compile(rb"\n(?=\r?\n)")
#: A field of any name.
ANY_FIELD = re.compile(rb"(?m)^([!-9;-~]+)[ \t]*:(.*(?:\r?\n[ \t].*)*)")
NEWLINE = re.compile(rb"\r?\n")
#: The rest of a delimiter, after the boundary.
DELIMITER_END = re.compile(rb"(--)?[ \t]*(\r?\n|\Z)")
#: Elements of HTML whose content is not text, and comments: the beginning and the end.
HIDDEN = re.compile(r"<(?:(script|style)\b|!--)", re.IGNORECASE)
HIDDEN_END = {
    "script": re.compile("</script[^>]*>?", re.IGNORECASE),
    "style": re.compile("</style[^>]*>?", re.IGNORECASE),
    "": re.compile("-->"),
}
#: A tag. It ends at the next "<" at the latest, so that the expression takes linear time for any text.
TAG = re.compile(r"<[a-zA-Z/!?][^<>]*>")
#: A character by a number that is too large. Python refuses to convert one of some thousand digits.
LARGE_NUMBER = re.compile(r"&#[0-9]{10,};?")


@frozen
class Part:
    """A part of a message that has no parts itself: its header, and the range of its body in the message."""

    header: Message
    message: bytes
    start: int
    end: int

    @property
    def is_attachment(self) -> bool:
        """True if the part is a file and is not displayed with the text (RFC 2183)."""
        disposition = self.header.get_content_disposition()
        if disposition in ("attachment", "inline"):
            return disposition == "attachment"
        return "Content-ID" not in self.header and self._is_file

    @property
    def is_inline(self) -> bool:
        """True if the part is a file that is displayed with the text, such as an image."""
        return self._is_file and not self.is_attachment

    @property
    def _is_file(self) -> bool:
        return self.filename != "" or self.header.get_content_maintype() not in ("text", "message", "multipart")

    @property
    def filename(self) -> str:
        """The name of the file, decoded, or "" without one."""
        try:
            return decode_subject((self.header.get_filename() or "").encode("utf-8", "replace"))
        except (ValueError, LookupError, TypeError):  # a parameter that RFC 2231 does not allow
            return ""

    def chunks(self) -> Iterator[str]:
        """Iterate over the decoded text, without the tags of HTML. A part of another type, such as an image, has none."""
        if self.header.get_content_maintype() not in ("text", "message", "multipart"):
            return
        is_html = self.header.get_content_subtype() == "html"
        for text in self.text():
            yield html_text(text) if is_html else text

    def text(self) -> Iterator[str]:
        """Iterate over the octets, decoded as text."""
        return decode_chunks(self.octets(), charset_of(self.header))

    def octets(self) -> Iterator[bytes]:
        """Iterate over the octets without their transfer encoding (RFC 2045 6). Invalid octets of it are left out."""
        encoding = str(self.header.get("Content-Transfer-Encoding", "")).strip().lower()
        if encoding == "base64":
            kept = b""
            for chunk in self._lines():
                data = kept + chunk.translate(None, NOT_BASE64)
                whole = len(data) // 4 * 4
                kept = data[whole:]
                yield decode_base64(data[:whole])
            yield decode_base64(kept)
        elif encoding == "quoted-printable":
            for chunk in self._lines():
                yield binascii.a2b_qp(chunk)
        else:
            yield from self._lines()

    def _lines(self) -> Iterator[bytes]:
        """Iterate over the octets in chunks that end with a line, if the lines are shorter than a chunk."""
        start = self.start
        while start < self.end:
            end = min(start + CHUNK, self.end)
            if end < self.end:
                end = self.message.rfind(b"\n", start, end) + 1 or end
            yield self.message[start:end]
            start = end


def parts_of(message: bytes, *, enclosed: bool = True) -> Iterator[Part]:
    """Iterate over the parts of a message that have no parts themselves, in their order. Damaged ones are text.

    An enclosed message (RFC 2046 5.2.1) has parts; without ``enclosed`` it is one part.
    """
    ranges = [(0, len(message), 0)]
    for _ in range(MAX_PARTS):
        if not ranges:
            return
        start, end, depth = ranges.pop()
        header, body = read_fields(message, start, end)
        kind = header.get_content_type()
        boundary = boundary_of(header) if kind.startswith("multipart/") else None
        inner = split(message, body, end, boundary) if boundary is not None and depth < MAX_DEPTH else []
        if inner:
            ranges += [(first, last, depth + 1) for first, last in reversed(inner)]
        elif enclosed and kind == "message/rfc822" and depth < MAX_DEPTH:
            ranges.append((body, end, depth + 1))
        else:
            yield Part(header, message, body, end)


def read_fields(message: bytes, start: int, end: int) -> tuple[Message, int]:
    """Return the header of the message or part in a range, and the position at which its body begins."""
    if empty := NEWLINE.match(message, start, end):  # a part without a header
        return BytesHeaderParser().parsebytes(b""), empty.end()
    found = HEADER_END.search(message, start, end)
    if found is None:
        return parse_fields(message[start : min(end, start + HEADER_OCTETS)]), end
    fields = message[start : min(found.end(), start + HEADER_OCTETS)]
    empty = NEWLINE.match(message, found.end(), end)
    return parse_fields(fields), empty.end() if empty else found.end()


def parse_fields(fields: bytes) -> Message:
    """Return a header. The time that `email` needs for parameters grows with the square of their length, so they are cut."""
    header = BytesHeaderParser().parsebytes(fields)
    for name in ("Content-Type", "Content-Disposition"):
        value = header.get(name)
        if value is not None and len(text := str(value)) > MAX_PARAMETERS:
            header.replace_header(name, text[:MAX_PARAMETERS])
    return header


def boundary_of(header: Message) -> bytes | None:
    """Return the boundary between the parts, or None if it is missing or invalid."""
    try:
        boundary = header.get_boundary()
    except (ValueError, LookupError, TypeError):
        return None
    return boundary.encode("ascii", "replace") if boundary else None


def split(message: bytes, start: int, end: int, boundary: bytes) -> list[tuple[int, int]]:
    """Return the ranges of the parts between delimiters (RFC 2046 5.1.1). The last delimiter may be missing."""
    ranges: list[tuple[int, int]] = []
    first: int | None = None
    # The line end before a delimiter belongs to it. An expression would look through all of a message in one call, in which
    # no other thread can run; `find` is fast, and returns at each line that begins like a delimiter.
    line = b"\n--" + boundary
    position = max(start - 1, 0)
    for _ in range(MAX_LINES):
        found = message.find(line, position, end)
        if found < 0:
            break
        position = found + len(line)
        rest = DELIMITER_END.match(message, position, end)
        if rest is None:
            continue
        if first is not None:
            last = found - message.endswith(b"\r", first, found)
            ranges.append((first, max(first, last)))
        first = position = rest.end(2)
        position -= rest[2] != b""  # the next delimiter may follow
        if rest[1] or len(ranges) >= MAX_PARTS:
            return ranges
    return [*ranges, (first, end)] if first is not None else ranges


def decode_base64(data: bytes) -> bytes:
    """Return the octets of base64, or as many as can be decoded."""
    try:
        return binascii.a2b_base64(data + b"===")
    except binascii.Error:  # one character too many at the end
        return b""


def charset_of(header: Message) -> str:
    """Return the charset of a text, UTF-8 if it is absent or unknown."""
    try:
        name = header.get_content_charset() or "utf-8"
        codec = codecs.lookup(name)
    except (LookupError, ValueError, TypeError):
        return "utf-8"
    # Codecs such as "rot13" and "zlib" do not make text of octets.
    is_charset = getattr(codec, "_is_text_encoding", True) and codec.name.replace("_", "-") not in NO_CHARSETS
    return codec.name if is_charset else "utf-8"


def decode_chunks(chunks: Iterator[bytes], charset: str) -> Iterator[str]:
    """Decode octets, a character may be divided between two chunks."""
    try:
        decoder = codecs.getincrementaldecoder(charset)("replace")
    except LookupError:  # a codec without one
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        for chunk in chunks:
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)
    except ValueError:  # a codec that does not support "replace"
        return


def html_text(text: str) -> str:
    """Return the text of HTML, without tags and what is not displayed."""
    kept, position = [], 0
    while found := HIDDEN.search(text, position):
        kept.append(text[position : found.start()])
        end = HIDDEN_END[(found[1] or "").lower()].search(text, found.end())
        if end is None:
            break
        position = end.end()
    else:
        kept.append(text[position:])
    return html.unescape(LARGE_NUMBER.sub("\ufffd", TAG.sub(" ", " ".join(kept))))


@lru_cache(maxsize=64)
def field_pattern(name: str) -> re.Pattern[bytes]:
    """Return the expression that finds the fields of a name in a header."""
    return re.compile(FIELD % re.escape(name.encode()))


def field_values(message: bytes, *names: str) -> list[str]:
    """Return the values of the fields with these names in the header of a message, decoded."""
    start = message[:HEADER_OCTETS]
    found = HEADER_END.search(start)
    header = start[: found.end()] if found else start
    return [decode_subject(each[1]) for name in names for each in field_pattern(name).finditer(header)]


def header_fields(message: bytes, prefix: bytes = b"") -> Iterator[tuple[str, str]]:
    """Iterate over the names and the decoded values of the fields in the header of a message.

    ``prefix`` is the beginning of their names, in lower case.
    """
    start = message[:HEADER_OCTETS]
    found = HEADER_END.search(start)
    for name, value in ANY_FIELD.findall(start[: found.end()] if found else start):
        if name.lower().startswith(prefix):
            yield name.decode("ascii"), decode_subject(value)
