"""The parts of DER (X.690) that TLSA records need: the elements of a SEQUENCE, as they are encoded."""

from __future__ import annotations

from typing import Final

SEQUENCE: Final = 0x30
#: The tag [0], constructed.
CONTEXT_0: Final = 0xA0


def _end_of_header(data: bytes, start: int) -> tuple[int, int]:
    """Return where the contents of the element at ``start`` begin and end. The end may be beyond that of ``data``."""
    first = data[start + 1] if start + 1 < len(data) else 0
    count = first & 0x7F if first > 0x80 else 0  # the octets of a long length (X.690 8.1.3.5)
    begin = start + 2 + count
    return begin, begin + (int.from_bytes(data[start + 2 : begin], "big") if count else first)


def is_sequence(data: bytes) -> bool:
    """Return whether ``data`` is exactly one SEQUENCE, as a certificate and a public key are."""
    return len(data) > 1 and data[0] == SEQUENCE and _end_of_header(data, 0)[1] == len(data)


def elements(data: bytes) -> list[bytes]:
    """Return the elements of a SEQUENCE, each with its header; none if ``data`` is not one."""
    if not is_sequence(data):
        return []
    found = []
    start, _ = _end_of_header(data, 0)
    while start < len(data):
        _, end = _end_of_header(data, start)
        found.append(data[start:end])
        start = end
    return found


def public_key_info(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate (RFC 5280 4.1) as it is encoded, or b"" if it is missing.

    It is not decoded, since its digest counts, and its algorithm need not be known.
    """
    to_be_signed = next(iter(elements(certificate)), b"")
    members = elements(to_be_signed)
    if members and members[0][0] == CONTEXT_0:  # the version, which certificates of version 1 do not have
        del members[0]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    return members[5] if len(members) > 5 else b""
