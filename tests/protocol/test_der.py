"""What is read from certificates, without decoding the rest."""

from __future__ import annotations

import ssl

import pytest
import trustme
from hypothesis import given, strategies as st

from smtp_trio.protocol.der import dns_names, elements, is_sequence, public_key_info

AUTHORITY = trustme.CA()


def test_public_key_of_a_certificate_of_version_1() -> None:
    """It has no version, so the key is one place further to the front."""
    members = [bytes([0x30, 1, number]) for number in range(6)]
    to_be_signed = b"\x30\x12" + b"".join(members)
    assert public_key_info(b"\x30\x14" + to_be_signed) == members[5]


@pytest.mark.parametrize(
    "names", [["a.test"], ["B.test", "*.c.test", "192.0.2.1", "d.test"], [f"h{number}.test" for number in range(200)]]
)
def test_dns_names_of_a_certificate(names: list[str]) -> None:
    pem = AUTHORITY.issue_cert(*names).cert_chain_pems[0].bytes().decode()
    certificate = ssl.PEM_cert_to_DER_cert(pem)
    assert dns_names(certificate) == [name.lower() for name in names if name != "192.0.2.1"]
    assert is_sequence(public_key_info(certificate))


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b"\x30" + bytes([len(data)]) + data))
def test_any_octets(data: bytes) -> None:
    assert len(b"".join(elements(data))) <= len(data)
    assert public_key_info(data) in data
    assert dns_names(data) == []


@given(st.integers(0), st.binary(min_size=1, max_size=3))
def test_damaged_certificates(at: int, octets: bytes) -> None:
    """Nothing is raised, wherever a certificate is damaged."""
    certificate = ssl.PEM_cert_to_DER_cert(ISSUED)
    at %= len(certificate)
    damaged = certificate[:at] + octets + certificate[at + len(octets) :]
    for name in dns_names(damaged):
        assert isinstance(name, str)
    public_key_info(damaged)
    dns_names(certificate[:at])


ISSUED = AUTHORITY.issue_cert("a.test", "b.test").cert_chain_pems[0].bytes().decode()
