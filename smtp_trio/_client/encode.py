"""Encoding of header fields and content for a server without SMTPUTF8 or 8BITMIME.

It is imported when an email message is sent, and not before.
"""

from __future__ import annotations

import base64
import email.message
import quopri
import re
from typing import Final
from urllib.parse import quote

from ..protocol.header import is_utf8
from .address_list import TOKEN, split_addresses
from .addresses import canonical_address, set_fields
from .generator import LINE_LENGTH, NEWLINE, encoded_words, fold

#: Types of content that are encoded as base64; others are text, for which quoted-printable is readable.
BINARY_TYPES: Final = frozenset({"application", "audio", "image", "video"})
ENCODING: Final = "Content-Transfer-Encoding"
#: Fields whose values are parameters (RFC 2045 5, RFC 2183).
PARAMETER_FIELDS: Final = frozenset({"content-type", "content-disposition"})
#: A parameter with its value, a quoted string or a token.
PARAMETER: Final = re.compile(r';([ \t]*)([^\s=;"*]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
#: Fields whose values are address lists (RFC 5322 3.6), in lower case.
ADDRESS_FIELDS: Final = frozenset(
    ["from", "sender", "reply-to", "to", "cc", "bcc", "resent-from", "resent-sender", "resent-to", "resent-cc"]
)
#: A line end that continues a field (RFC 5322 2.2.3).
FOLD: Final = re.compile(r"(?:\r\n|\r|\n)(?=[ \t])")
WHITE_SPACE: Final = re.compile("([ \t]+)")
#: A quoted string in a phrase, and a character with its backslash in either a quoted string or a comment.
QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
ESCAPED: Final = re.compile(r"\\(.)")
NOT_ASCII: Final = re.compile(r"[^\0-\x7f]")


# Octets above 127 in the header of an email message
#
# Without SMTPUTF8 they must be encoded (RFC 6531 3.5). The email package makes encoded words of the character set
# unknown-8bit, which no reader displays, and with the policy compat32 of whole address lists and parameters, which are
# then not addresses and parameters any more (RFC 2047 5). When it does so differs between the versions of Python. Here
# the octets are taken for UTF-8 if they are valid as such, and only what has to be encoded is encoded:
#
#   address lists              display names, names of groups, and comments (RFC 2047 5); domains as A-labels (RFC 5890)
#   Content-Type, -Disposition values of parameters (RFC 2231)
#   other fields               words with such octets, which keeps the syntax of structured fields as far as possible
#
# The email package represents an octet above 127 of a parsed field as a surrogate. A field that a program sets with the
# policy compat32 has characters instead; both are encoded in the same way.


def encode_header(message: email.message.Message, *, utf8: bool) -> None:
    """Encode the fields of a message and of its parts that are text outside ASCII.

    ``utf8`` leaves fields in UTF-8 as they are (RFC 6532 3.1).
    """
    for part in message.walk():
        fields = list(part.raw_items())
        encoded = [
            (name, encode_field(name, value) if type(value) is str and not _sendable(value, utf8=utf8) else value)
            for name, value in fields
        ]
        if any(before is not after for (_, before), (_, after) in zip(fields, encoded, strict=True)):
            set_fields(part, encoded)


def _sendable(value: str, *, utf8: bool) -> bool:
    return value.isascii() or (utf8 and is_utf8(value.encode("utf-8", "surrogateescape")))


def encode_field(name: str, value: str) -> str:
    """Return the value of a field in ASCII, with CRLF before each further line."""
    text = FOLD.sub("", value).encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    if name.lower() in PARAMETER_FIELDS:
        # What is malformed becomes encoded words that do not contain a semicolon.
        text = ";".join(map(_encode_words, PARAMETER.sub(_encode_parameter, text).split(";")))
    elif name.lower() in ADDRESS_FIELDS and split_addresses(text) is not None:
        text = _encode_addresses(text)
    return fold(f"{name}: {_encode_words(text)}", LINE_LENGTH).removeprefix(f"{name}: ")


def _encode_parameter(match: re.Match[str]) -> str:
    space, name, quoted, token = match.groups()
    text = _unescape(quoted) if quoted is not None else token
    if text.isascii():
        return match[0]
    octets = text.encode("utf-8", "surrogateescape")
    return f";{space}{name}*={'utf-8' if is_utf8(octets) else 'unknown-8bit'}''{quote(octets, safe='')}"


def _encode_addresses(text: str) -> str:
    """Return an address list that is not malformed in ASCII, except for addresses whose local part is not."""
    written, entry = "", list[re.Match[str]]()
    for match in TOKEN.finditer(text + ","):
        if match.lastgroup != "separator":
            entry.append(match)
            continue
        named = match[0] == ":" or any(token.lastgroup == "angle" for token in entry)
        written += _encode_entry(entry, named=named) + match[0]
        entry = []
    return written[:-1].strip(" \t")


def _encode_entry(entry: list[re.Match[str]], *, named: bool) -> str:
    """Return one entry of an address list in ASCII. ``named``: what is outside of comments and brackets is a name."""
    written = words = ""
    for match in entry:
        token = match[0]
        if match.lastgroup == "angle":
            token = token if token.isascii() else f"<{canonical_address(token[1:-1].strip())}>"
        elif match.lastgroup == "space" and token.startswith("("):
            token = token if token.isascii() else f"({encoded_words(_unescape(token[1:-1]))})"
        else:
            words += token
            continue
        written, words = written + _encode_name_or_address(words, named=named) + token, ""
    return written + _encode_name_or_address(words, named=named)


def _encode_name_or_address(words: str, *, named: bool) -> str:
    if words.isascii():
        return words
    if not named:
        return words.replace(words.strip(), canonical_address(words.strip()))
    name = QUOTED.sub(lambda quoted: _unescape(quoted[1]), words)
    return f" {encoded_words(name.strip())} "  # RFC 2047 5 (3): separated from what is beside it


def _unescape(text: str) -> str:
    """Return the text of a quoted string or a comment without its backslashes."""
    return ESCAPED.sub(r"\1", text)


def _encode_words(text: str) -> str:
    """Return text with its words outside ASCII as encoded words (RFC 2047)."""
    if text.isascii():
        return text
    parts = WHITE_SPACE.split(text)  # words at even indices
    written = ""
    at = 0
    while at < len(parts):
        end = at
        while end < len(parts) and not parts[end].isascii():
            end += 2
        if end == at:
            written += "".join(parts[at : at + 2])
            at += 2
            continue
        run = "".join(parts[at : end - 1])
        # White space between encoded words is not displayed (RFC 2047 6.2), so it is encoded too.
        if at and _is_encoded_word(parts[at - 2]):
            run = parts[at - 1] + run
        if end < len(parts) and _is_encoded_word(parts[end]):
            run += parts[end - 1]
        written += encoded_words(run) + "".join(parts[end - 1 : end])
        at = end
    return written


def _is_encoded_word(word: str) -> bool:
    return word.startswith("=?") and word.endswith("?=")


# Octets above 127 in the content of an email message
#
# Without 8BITMIME they must be encoded (RFC 6152 3). The email package decodes the content by its character set and
# encodes the text anew; that fails if the character set is missing, wrong or unknown. Here the octets themselves are
# encoded, so that the character set need not be known (RFC 2045 6).


def encode_content(message: email.message.Message) -> None:
    """Encode the octets above 127 in the parts of a message: text as quoted-printable and other content as base64."""
    encoded = [_encode_part(part) for part in message.walk()]
    if not any(encoded):
        return
    if "MIME-Version" not in message:
        message["MIME-Version"] = "1.0"
    for part in message.walk():
        if part.is_multipart() and _encoding(part) in ("8bit", "binary"):  # RFC 2045 6.4: no other than these and 7bit
            _set_encoding(part, "7bit")


def _encode_part(part: email.message.Message) -> bool:
    """Encode the content of a part that is not ASCII. Return whether it was."""
    if part.is_multipart():
        # RFC 2046 5.1.1: what is before the first part and after the last one is not displayed.
        for name in ("preamble", "epilogue"):
            text = getattr(part, name)
            if text:
                setattr(part, name, NOT_ASCII.sub("?", text))
        return False
    # `get_payload` would decode the octets by the character set, or take characters of a str for Latin-1.
    payload = part._payload  # type: ignore[attr-defined]
    if not isinstance(payload, str) or payload.isascii():
        return False
    octets = payload.encode("ascii", "surrogateescape")  # UnicodeEncodeError: the octets of characters are not known
    encoding = _encoding(part)
    if encoding == "base64":  # RFC 2045 6.8: characters outside its alphabet are ignored
        part.set_payload(NOT_ASCII.sub("", payload))
    elif encoding == "quoted-printable":
        part.set_payload(NOT_ASCII.sub(lambda octet: f"={ord(octet[0]) & 0xFF:02X}", payload))
    elif part.get_content_maintype() in BINARY_TYPES:
        part.set_payload(base64.encodebytes(octets).decode("ascii"))
        _set_encoding(part, "base64")
    else:
        text = "\n".join(NEWLINE.split(payload)).encode("ascii", "surrogateescape")
        part.set_payload(quopri.encodestring(text).decode("ascii"))
        _set_encoding(part, "quoted-printable")
    return True


def _encoding(part: email.message.Message) -> str:
    values = [str(value) for name, value in part.raw_items() if name.lower() == ENCODING.lower()]
    return values[0].partition("(")[0].strip().lower() if values else ""


def _set_encoding(part: email.message.Message, encoding: str) -> None:
    del part[ENCODING]
    part[ENCODING] = encoding
