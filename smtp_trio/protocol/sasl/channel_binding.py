"""Channel binding (RFC 5056): the value that ties a login to the TLS connection in which it is made."""

from __future__ import annotations

import hashlib
from typing import Final

from ..der import CONTEXT_0, OBJECT_IDENTIFIER, contents, elements

# A server with a valid certificate may still be the wrong one: an attacker may have obtained a certificate for the name,
# and pass on what client and server send. With channel binding the proofs of SCRAM cover the certificate that each side
# has seen, so such a relay fails.
#
# The type is "tls-server-end-point" (RFC 5929 4). Python's ssl module cannot export keys, which "tls-exporter" (RFC 9266)
# needs, and "tls-unique" is not defined for TLS 1.3.

#: The only type of channel binding that is supported.
TLS_SERVER_END_POINT: Final = "tls-server-end-point"

#: The hash function of each signature algorithm, by the contents of its object identifier. RFC 5929 4.1 takes SHA-256 in
#: place of MD5 and SHA-1.
HASHES: Final = {
    bytes.fromhex(oid): name
    for name, oids in {
        # RSA (RFC 8017) with MD5, SHA-1 and SHA-256; DSA and ECDSA with SHA-1 and SHA-256 (RFC 3279, RFC 5758)
        "sha256": "2a864886f70d010104 2a864886f70d010105 2a864886f70d01010b 2a8648ce380403 608648016503040302 "
        "2a8648ce3d0401 2a8648ce3d040302",
        "sha224": "2a864886f70d01010e 608648016503040301 2a8648ce3d040301",
        "sha384": "2a864886f70d01010c 608648016503040303 2a8648ce3d040303",
        "sha512": "2a864886f70d01010d 608648016503040304 2a8648ce3d040304",
    }.items()
    for oid in oids.split()
}
#: RSASSA-PSS, whose parameters name the hash function (RFC 4055 3.1).
RSASSA_PSS: Final = bytes.fromhex("2a864886f70d01010a")
#: The hash functions in those parameters.
PSS_HASHES: Final = {
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040204"): "sha224",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}


def server_end_point(certificate: bytes) -> bytes:
    """Return the channel binding of a server's certificate, which is in DER (RFC 5929 4.1).

    It is b"" if it is not defined: for a signature algorithm without one hash function, such as Ed25519.
    """
    # Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue } (RFC 5280 4.1)
    members = elements(certificate)
    algorithm = elements(members[1]) if len(members) > 1 else []
    if not algorithm:
        return b""
    identifier = contents(algorithm[0], OBJECT_IDENTIFIER)
    name = _pss_hash(algorithm[1:]) if identifier == RSASSA_PSS else HASHES.get(identifier)
    return hashlib.new(name, certificate).digest() if name else b""


def _pss_hash(params: list[bytes]) -> str | None:
    """Return the hash function of RSASSA-PSS. Without one in the parameters it is SHA-1, for which SHA-256 is used."""
    for param in elements(params[0]) if params else []:
        for algorithm in elements(param, CONTEXT_0):
            return PSS_HASHES.get(contents((elements(algorithm) or [b""])[0], OBJECT_IDENTIFIER))
    return "sha256"
