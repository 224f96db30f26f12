"""The channel binding "tls-server-end-point" (RFC 5929 4): the hash function is that of the certificate's signature."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, strategies as st

from smtp_trio.protocol.sasl import server_end_point

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
DSA = dsa.generate_private_key(1024)
HASHES: dict[str, Any] = {name: getattr(hashes, name)() for name in ("SHA224", "SHA256", "SHA384", "SHA512")}


def certificate(key: Any, algorithm: Any, **how: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.test")])
    begin = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + datetime.timedelta(days=1))
    return builder.sign(key, algorithm, **how)


def sequence(*members: bytes) -> bytes:
    body = b"".join(members)
    assert len(body) < 128
    return bytes([0x30, len(body)]) + body


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize("kind", ["RSA", "RSASSA-PSS", "DSA", "ECDSA"])
def test_hash_function_of_the_signature(kind: str, name: str) -> None:
    key = {"DSA": DSA, "ECDSA": EC}.get(kind, RSA)
    how = {"rsa_padding": padding.PSS(padding.MGF1(HASHES[name]), 20)} if kind == "RSASSA-PSS" else {}
    made = certificate(key, HASHES[name], **how)
    der = made.public_bytes(Encoding.DER)
    assert server_end_point(der) == hashlib.new(name, der).digest()


@pytest.mark.parametrize(
    "algorithm",
    [
        "2a864886f70d010104",  # MD5 with RSA
        "2a864886f70d010105",  # SHA-1 with RSA
        "2a8648ce380403",  # DSA with SHA-1
        "2a8648ce3d0401",  # ECDSA with SHA-1
    ],
)
def test_sha_256_replaces_md5_and_sha_1(algorithm: str) -> None:
    identifier = bytes.fromhex(algorithm)
    der = sequence(sequence(), sequence(b"\x06" + bytes([len(identifier)]) + identifier, b"\x05\x00"))
    assert server_end_point(der) == hashlib.sha256(der).digest()


@pytest.mark.parametrize("params", [(), (sequence(),), (b"\x05\x00",), (sequence(b"\xa2\x03\x02\x01\x14"),)])
def test_rsassa_pss_without_a_hash_function_has_sha_1(params: tuple[bytes, ...]) -> None:
    der = sequence(sequence(), sequence(bytes.fromhex("06092a864886f70d01010a"), *params))
    assert server_end_point(der) == hashlib.sha256(der).digest()


@pytest.mark.parametrize("hash", [b"", b"\x06\x01\x2a"])
def test_rsassa_pss_with_an_unknown_hash_function(hash: bytes) -> None:
    param = sequence(hash)
    tagged = bytes([0xA0, len(param)]) + param
    der = sequence(sequence(), sequence(bytes.fromhex("06092a864886f70d01010a"), sequence(tagged)))
    assert server_end_point(der) == b""


def test_no_binding_for_an_algorithm_without_a_hash_function() -> None:
    assert server_end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(Encoding.DER)) == b""


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b"\x30" + bytes([len(data)]) + data))
def test_any_octets_have_no_binding(data: bytes) -> None:
    assert server_end_point(data) == b""
