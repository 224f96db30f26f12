"""The third part of a report: the message that it is about, or its header (RFC 3461 6.2, RFC 6533 4)."""

from __future__ import annotations

import base64
from collections.abc import Collection

from attrs import frozen

from ..protocol.extensions.dsn import RET
from ..protocol.header import header_end, is_utf8
from ._original import Original

# What is returned, and how
#
# * The whole message, if a delivery has failed and the sender has not asked for the header only (RET=HDRS; RFC 3461 4.3 and
#   6.2). Otherwise its header; also if the message is larger than the limit, or came with REQUIRETLS (RFC 8689 5).
# * The octets are returned as they were received. message/rfc822 must not be encoded (RFC 2046 5.2.1), so a message whose
#   octets the server that gets the report does not accept is returned without its text. The types of RFC 6533 and text may
#   be encoded, with base64.
# * A header in UTF-8 makes the types of RFC 6533: message/global, message/global-headers.


@frozen
class ReturnedPart:
    """A part: its type, its transfer encoding, and its octets, which are encoded already."""

    content_type: str
    encoding: str
    octets: bytes


def returned_part(original: Original, *, failed: bool, limit: int, offers: Collection[str]) -> ReturnedPart:
    """Return the part with the message, or with its header.

    ``failed`` is true if a delivery has failed, ``limit`` the most octets of the original, and ``offers`` are the extensions
    of the server that gets the report.
    """
    message = original.message
    header = message[: header_end(message)]
    utf8 = not header.isascii() and is_utf8(header)
    wanted = failed and original.mail_params.get(RET, "FULL") == "FULL" and not requires_tls(original)
    if wanted and len(message) <= limit:
        encoding = transfer_encoding(message)
        if utf8:
            return _encoded("message/global", encoding, message, offers)
        if encoding == "7bit" or {"8bit": "8BITMIME", "binary": "BINARYMIME"}[encoding] in offers:
            return ReturnedPart("message/rfc822", encoding, message)
    header = _cut(header, limit)
    return _encoded(
        "message/global-headers" if utf8 else "text/rfc822-headers", transfer_encoding(header), header, offers
    )


def requires_tls(original: Original) -> bool:
    """Return whether a message was received with REQUIRETLS."""
    return any(param.keyword == "REQUIRETLS" for param in original.mail_params)


def transfer_encoding(octets: bytes) -> str:
    """Return the Content-Transfer-Encoding of octets that are not encoded (RFC 2045 6.2)."""
    if b"\0" in octets or not octets.count(b"\r\n") == octets.count(b"\r") == octets.count(b"\n"):
        return "binary"  # NUL, or a bare CR or LF (RFC 2045 2.7 and 2.8)
    if max(map(len, octets.split(b"\r\n"))) > 998:
        return "binary"
    return "7bit" if octets.isascii() else "8bit"


def _encoded(content_type: str, encoding: str, octets: bytes, offers: Collection[str]) -> ReturnedPart:
    """Return a part of a type that may be encoded. UTF-8 that is not encoded needs a server with SMTPUTF8 (RFC 6533 4.5)."""
    sendable = {"8BITMIME", "SMTPUTF8"} <= set(offers) and content_type.startswith("message/global")
    if encoding == "7bit" or (encoding == "8bit" and sendable):
        return ReturnedPart(content_type, encoding, octets)
    return ReturnedPart(content_type, "base64", base64.encodebytes(octets).replace(b"\n", b"\r\n"))


def _cut(header: bytes, limit: int) -> bytes:
    """Return the first fields of a header."""
    if len(header) <= limit:
        return header
    return header[: header.rfind(b"\r\n", 0, limit) + 2] if b"\r\n" in header[:limit] else b""
