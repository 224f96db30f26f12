"""Generation of email messages as octets. It is imported when an email message is sent, and not before."""

from __future__ import annotations

import email.message
import io
import os
import re
from email.charset import UNKNOWN8BIT, Charset
from email.errors import HeaderParseError
from email.generator import BytesGenerator
from email.header import Header
from email.policy import EmailPolicy, Policy
from typing import Final, cast

from ..protocol.dot_stuffing import normalize_message, normalize_newlines
from ..protocol.header import is_utf8

FIELD_NAME: Final = re.compile("[!-9;-~]+")  # RFC 5322 2.2
#: A line end in a field that does not continue it (RFC 5322 2.2.3).
END_OF_FIELD: Final = re.compile(rb"\r\n(?![ \t]|\Z)")
NEWLINE: Final = re.compile("\r\n|\r|\n")
#: A word with the spaces before it, or spaces at the end.
WORD: Final = re.compile(" *[^ ]+| +")
#: The octets of a line without CRLF (RFC 5321 4.5.3.1.6, RFC 5322 2.1.1).
MAX_LINE: Final = 998
#: The greatest length of a line with encoded words (RFC 2047 2).
LINE_LENGTH: Final = 76
#: Characters that `Header` takes for line ends and omits; as many of them as fit into one encoded word.
SEPARATORS: Final = re.compile("([\v\f\x1c-\x1e\x85\u2028\u2029]{1,15})")


def generate(message: email.message.Message, policy: Policy) -> bytes:
    """Return the message as octets with CRLF line ends. Raises ValueError for a field that would end before its end."""
    file = io.BytesIO()
    FieldGenerator(file, mangle_from_=False, policy=policy).flatten(message)
    return normalize_message(file.getvalue())


# A field that was parsed is written with the octets and the folding that it had, because a signature may cover it. The
# email package does not do that in all versions of Python. That of 3.11 splits such fields with `str.splitlines`, which
# takes VT, FF, FS, GS, RS and others for line ends; SMTP and the parser do not, so a part of one field became another
# field (Bcc, for example). That of 3.13 encodes octets above 127 whether or not the server accepts them; here
# `encode_header` has encoded those that must be. For all fields the octets are checked, because a field name or a value
# may also have been set with a line end.
#
# The generator also makes two calls for the whole text of a part that take 15 ms for each MB, in which no other thread
# can run. It splits the text at its line ends; `generate` converts all line ends at the end, so the text is written as
# it is. And it searches the text for a new boundary, which 80 random bits make needless.
class FieldGenerator(BytesGenerator):
    """A generator that writes each field by `field_octets`, and texts with the line ends that they have."""

    def _write_lines(self, lines: str) -> None:
        self.write(lines)

    @classmethod
    def _make_boundary(cls, text: str | None = None) -> str:
        return f"==============={os.urandom(10).hex()}=="

    def _dispatch(self, msg: email.message.Message) -> None:
        # The content type may not be that of the content: a multipart message without its boundary is text, whose
        # octets the generator would decode, and a type with octets above 127 was another one before it was encoded.
        payload = msg._payload  # type: ignore[attr-defined]
        if isinstance(payload, str):
            self._handle_text(msg)  # type: ignore[attr-defined]
        elif isinstance(payload, list) and msg.get_content_maintype() not in ("multipart", "message"):
            if "Content-Type" not in msg:  # where the boundary would be written
                raise ValueError("a message with parts needs a Content-Type such as multipart/mixed")
            self._handle_multipart(msg)  # type: ignore[attr-defined]
        else:
            super()._dispatch(msg)  # type: ignore[misc]

    def _write_headers(self, msg: email.message.Message) -> None:
        for name, value in msg.raw_items():
            self._fp.write(field_octets(cast("Policy", self.policy), name, value))  # type: ignore[attr-defined]
        self._fp.write(b"\r\n")  # type: ignore[attr-defined]


def field_octets(policy: Policy, name: str, value: object) -> bytes:
    """Return one header field with CRLF line ends.

    Raises ValueError for an invalid name, and for a field that would be read as more than one or as an empty line.
    """
    if not FIELD_NAME.fullmatch(name):
        raise ValueError(f"invalid name of a header field: {name!a}")
    if type(value) is str:
        text = f"{name}: {value}"
        if not isinstance(policy, EmailPolicy) and len(text) > MAX_LINE:
            # With compat32 the fields that a program has set are str too, so that a line may be too long.
            text = "\r\n".join(fold(line, MAX_LINE) for line in NEWLINE.split(text))
        octets = f"{text}\r\n".encode("utf-8", "surrogateescape")
    else:
        try:
            octets = policy.fold_binary(name, cast("str", value))
        except HeaderParseError as error:
            raise ValueError(f"{name} contains a line end: {error}") from None
        except UnicodeEncodeError:  # the generator encodes the other fields, Message-ID for example not
            raise ValueError(f"{name} must be ASCII: {str(value)!a}") from None
    octets = normalize_newlines(octets)
    if END_OF_FIELD.search(octets):
        raise ValueError(f"{name} contains a line end: {str(value)!a}")
    return octets


def fold(line: str, length: int) -> str:
    """Return a line of a header field with CRLF before spaces, so that its lines have at most ``length`` characters.

    A longer word stays whole. The first word after the name of a field stays beside it. No line has white space alone,
    which would be obsolete syntax (RFC 5322 4.2).
    """
    lines, current = [], ""
    for number, word in enumerate(WORD.findall(line)):
        if number > 1 and len(current) + len(word) > length and current.strip() and word.strip():
            lines.append(current)
            current = ""
        current += word
    return "\r\n".join([*lines, current])


def encoded_words(text: str) -> str:
    """Return the whole text as encoded words (RFC 2047), with a space between two of them."""
    octets = text.encode("utf-8", "surrogateescape")
    charset, text = ("utf-8", text) if is_utf8(octets) else (UNKNOWN8BIT, octets.decode("ascii", "surrogateescape"))
    parts = SEPARATORS.split(text)  # separators at odd indices
    return " ".join(
        Charset(charset).header_encode(part)
        if at % 2
        else Header(part, charset).encode(linesep="\n", maxlinelen=LINE_LENGTH - 1).replace("\n", "")
        for at, part in enumerate(parts)
        if part
    )
