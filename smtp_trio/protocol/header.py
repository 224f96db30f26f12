"""The header of a message, as far as SMTP needs it: where it ends."""

from __future__ import annotations

from typing import Final

#: The end of the last header field and the empty line after it (RFC 5322 2.1).
END_OF_HEADER: Final = b"\r\n\r\n"


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
