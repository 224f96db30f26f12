"""The parts of DER (X.690) that are read from certificates: the elements of an element, as they are encoded."""

from __future__ import annotations

from typing import Final

OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
SEQUENCE: Final = 0x30
#: The tags [0] and [3], constructed.
CONTEXT_0: Final = 0xA0
CONTEXT_3: Final = 0xA3
#: The tag [2], primitive: a DNS name in a GeneralName (RFC 5280 4.2.1.6).
DNS_NAME: Final = 0x82
#: The object identifier of the extension subjectAltName, 2.5.29.17, as it is encoded.
SUBJECT_ALT_NAME: Final = bytes.fromhex("0603551d11")


def _end_of_header(data: bytes, start: int) -> tuple[int, int]:
    """Return where the contents of the element at ``start`` begin and end. The end may be beyond that of ``data``."""
    first = data[start + 1] if start + 1 < len(data) else 0
    count = first & 0x7F if first > 0x80 else 0  # the octets of a long length (X.690 8.1.3.5)
    begin = start + 2 + count
    return begin, begin + (int.from_bytes(data[start + 2 : begin], "big") if count else first)


def is_element(data: bytes, tag: int) -> bool:
    """Return whether ``data`` is exactly one element with this tag."""
    return len(data) > 1 and data[0] == tag and _end_of_header(data, 0)[1] == len(data)


def is_sequence(data: bytes) -> bool:
    """Return whether ``data`` is exactly one SEQUENCE, as a certificate and a public key are."""
    return is_element(data, SEQUENCE)


def contents(data: bytes, tag: int) -> bytes:
    """Return the contents of an element; b"" if ``data`` is not one with this tag."""
    return data[_end_of_header(data, 0)[0] :] if is_element(data, tag) else b""


def elements(data: bytes, tag: int = SEQUENCE) -> list[bytes]:
    """Return the elements of an element, each with its header; none if ``data`` is not one with this tag."""
    found = []
    data, start = contents(data, tag), 0
    while start < len(data):
        _, end = _end_of_header(data, start)
        found.append(data[start:end])
        start = end
    return found


def _members(certificate: bytes) -> list[bytes]:
    """Return the members of a certificate's TBSCertificate after its version (RFC 5280 4.1)."""
    members = elements(next(iter(elements(certificate)), b""))
    if members and members[0][0] == CONTEXT_0:  # the version, which certificates of version 1 do not have
        del members[0]
    return members


def public_key_info(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate (RFC 5280 4.1) as it is encoded, or b"" if it is missing.

    It is not decoded, since its digest counts, and its algorithm need not be known.
    """
    members = _members(certificate)
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    return members[5] if len(members) > 5 else b""


def dns_names(certificate: bytes) -> list[str]:
    """Return the DNS names in the subjectAltName of a certificate (RFC 5280 4.2.1.6), in lower case."""
    extensions = (
        elements(extension)
        for member in _members(certificate)
        for sequence in elements(member, CONTEXT_3)
        for extension in elements(sequence)
    )
    # An extension has an identifier, perhaps whether it is critical, and the value in an OCTET STRING.
    values = (members[-1] for members in extensions if members[:1] == [SUBJECT_ALT_NAME])
    general_names = (name for value in values for name in elements(contents(value, OCTET_STRING)))
    names = (contents(name, DNS_NAME).decode("ascii", "replace").lower() for name in general_names)
    return [name for name in names if name]
