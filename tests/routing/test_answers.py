"""The values of lookups."""

from __future__ import annotations

import hashlib

import pytest

from smtp_trio.routing import Answer, LookupFailedError, NullMxError, TlsaRecord

SHA256, SHA512 = hashlib.sha256().digest(), hashlib.sha512().digest()


@pytest.mark.parametrize(
    ("record", "usable"),
    [
        (TlsaRecord(3, 1, 1, SHA256), True),
        (TlsaRecord(2, 0, 1, SHA256), True),
        (TlsaRecord(2, 1, 2, SHA512), True),
        (TlsaRecord(0, 1, 1, SHA256), False),
        (TlsaRecord(1, 0, 1, SHA256), False),
        (TlsaRecord(255, 1, 1, SHA256), False),
        (TlsaRecord(3, 2, 1, SHA256), False),
        (TlsaRecord(3, 1, 3, SHA256), False),
        (TlsaRecord(3, 1, 1, SHA512), False),
        (TlsaRecord(3, 1, 2, SHA256), False),
        (TlsaRecord(3, 1, 1, b""), False),
        (TlsaRecord(3, 0, 0, b""), False),
        (TlsaRecord(3, 0, 0, b"\x30"), False),
        (TlsaRecord(3, 0, 0, b"\x30\x03abc"), True),
        (TlsaRecord(2, 1, 0, b"\x30\x03ab"), False),
        (TlsaRecord(2, 1, 0, b"\x31\x03abc"), False),
        (TlsaRecord(2, 0, 0, b"\x30\x82\x01\x00" + bytes(256)), True),
        (TlsaRecord(2, 0, 0, b"\x30\x82\x01\x00" + bytes(257)), False),
        (TlsaRecord(2, 0, 0, b"\x30\x84\x01"), False),
        (TlsaRecord(2, 0, 0, b"\x30\x80"), False),  # an indefinite length, which DER does not have
    ],
    ids=str,
)
def test_usable_records(record: TlsaRecord, usable: bool) -> None:
    """RFC 7672 3.1, RFC 6698 4.1."""
    assert record.usable == usable


def test_record_as_text() -> None:
    assert str(TlsaRecord(3, 1, 1, b"\x01\xab")) == "3 1 1 01ab"
    assert repr(TlsaRecord(3, 1, 1, b"\x01\xab")).endswith("data=01ab)")


def test_canonical_name_is_the_name_without_cname_records() -> None:
    assert Answer("example.org", "A").canonical_name == "example.org"
    assert Answer("example.org", "A", canonical_name="host.example").canonical_name == "host.example"


def test_replies_of_errors() -> None:
    assert str(NullMxError("example.org")) == "556 5.1.10 example.org does not accept mail (null MX)"
    assert not NullMxError("example.org").temporary
    failure = LookupFailedError("example.org", "MX", "SERVFAIL")
    assert str(failure) == "451 4.4.3 DNS lookup failed: example.org MX: SERVFAIL"
    assert failure.temporary
    assert not LookupFailedError("example.org", "MX", "too long", temporary=False).temporary
