"""Tests of the functions that derive keys, with vectors of RFC 7914."""

from __future__ import annotations

from smtp_trio.protocol.sasl.key_derivation import key_derivation


def test_scrypt() -> None:
    """The second vector of RFC 7914 12."""
    key = key_derivation.get().scrypt(memoryview(b"password"), salt=b"NaCl", n=1024, r=8, p=16, dklen=64)
    assert key.hex() == (
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )


def test_pbkdf2() -> None:
    """The first 32 octets of the first vector of RFC 7914 11."""
    key = key_derivation.get().pbkdf2_hmac("sha256", memoryview(b"passwd"), b"salt", 1)
    assert key.hex() == "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
