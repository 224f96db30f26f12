"""The header of a message, as far as SMTP needs it: where it begins and ends."""

from __future__ import annotations

from typing import Final

from .lazy import lazy_pattern

#: The end of the last header field and the empty line after it (RFC 5322 2.1).
END_OF_HEADER: Final = b"\r\n\r\n"

#: The octets with which something begins that is not a part of the message: a byte order mark of UTF-8, or the line
#: before a message in an mbox file (RFC 4155), which some programs quote.
PREFACE_MARKS: Final = (b"\xef\xbb\xbf", b"From ", b">From ")
# Only before a header field. Otherwise the line is text of a message without a header. "From :" is a field (RFC 5322 4.5).
PREFACE: Final = lazy_pattern(rb"(?:\xef\xbb\xbf)?(?:>?From (?![ \t]*:)[^\r\n]*(?:\r+\n|\r|\n))*(?=[!-9;-~]+[ \t]*:)")


def message_start(octets: bytes) -> int:
    """Return the number of octets before the header that are not a part of the message.

    These are a byte order mark, and lines that begin with ``From`` and a space, as in an mbox file.
    """
    if not octets.startswith(PREFACE_MARKS):
        return 0
    match = PREFACE.match(octets)
    return 0 if match is None else match.end()


def header_end(octets: bytes) -> int:
    """Return the number of octets in the header of a message whose lines end in CRLF, without the empty line.

    A message without an empty line consists of its header only (RFC 5322 2.1). One that begins with an empty line has
    no header.
    """
    if octets.startswith(b"\r\n"):
        return 0
    end = octets.find(END_OF_HEADER)
    return len(octets) if end < 0 else end + 2


def is_utf8(octets: bytes) -> bool:
    """Return whether octets are valid UTF-8."""
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True
