"""The fields of a header that a client sent, parsed with the package `email`."""

from __future__ import annotations

from email.headerregistry import BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.policy import EmailPolicy
from typing import Any

# The client chooses the fields, so parsing them must neither fail nor take long. `email.policy.default` does both: it
# raises IndexError for "Message-ID: <", and since its parsers take quadratic time, a minute passes until it has parsed
# 50 kilobytes of quotation marks in To. So a field that is long, or that cannot be parsed, is text without structure.

#: The number of characters up to which a field is parsed.
MAX_PARSED = 2000

REGISTRY = HeaderRegistry()


class TextHeader(BaseHeader):
    """A field that was not parsed: its text, unfolded, without decoding encoded words (RFC 2047)."""

    max_count = None

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        """Called by `BaseHeader` for the text of the field and its parse tree."""
        kwds["decoded"], kwds["parse_tree"] = value, None


def parse_field(name: str, value: str) -> BaseHeader:
    """Return a field, parsed by its own grammar if possible."""
    if len(value) <= MAX_PARSED:
        try:
            return REGISTRY(name, value)
        except Exception:  # noqa: S110  # of any class: the parsers have no exception of their own for what they cannot parse
            pass
    return TextHeader(name, value)


PARSER = BytesHeaderParser(policy=EmailPolicy(header_factory=parse_field))


def parse_header(octets: bytes) -> EmailMessage:
    """Return the fields of a header whose lines end in CRLF. Reading one of them raises no exception."""
    return PARSER.parsebytes(octets.replace(b"\r\n", b"\n"))
