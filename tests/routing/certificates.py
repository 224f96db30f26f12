"""Certificates for tests of DANE."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from smtp_trio.routing import TlsaRecord

#: What each matching type does with the data (RFC 6698 2.1.3).
DIGESTS: dict[int, Callable[[bytes], bytes]] = {
    0: lambda data: data,
    1: lambda data: hashlib.sha256(data).digest(),
    2: lambda data: hashlib.sha512(data).digest(),
}

NOW = datetime.now(UTC)
PEM = serialization.Encoding.PEM


@frozen
class Issued:
    """A certificate with its key, and the certificates of its issuers."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes
    issuers: tuple[x509.Certificate, ...] = ()

    @classmethod
    def make(
        cls,
        name: str,
        issuer: Self | None = None,
        *,
        authority: bool = False,
        dns: Iterable[str] = (),
        days: tuple[int, int] = (-1, 30),
        path_length: int | None = None,
        constraints: bool = True,
        extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
        key: CertificateIssuerPrivateKeyTypes | None = None,
    ) -> Self:
        """Issue a certificate, signed by itself if there is no issuer. ``days`` are those of its dates, from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + timedelta(days[0]))
            .not_valid_after(NOW + timedelta(days[1]))
        )
        if constraints:
            builder = builder.add_extension(x509.BasicConstraints(authority, path_length), critical=True)
        if names := [x509.DNSName(each) for each in dns]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
        return cls(certificate, key, (issuer.certificate, *issuer.issuers) if issuer else ())

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_info(self) -> bytes:
        """The public key in DER."""
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.certificate.public_key().public_bytes(serialization.Encoding.DER, info)

    @property
    def chain(self) -> list[bytes]:
        """The certificate and those of its issuers, in DER."""
        return [each.public_bytes(serialization.Encoding.DER) for each in (self.certificate, *self.issuers)]

    def record(self, usage: int, selector: int = 1, matching: int = 1) -> TlsaRecord:
        """Return the TLSA record of this certificate."""
        data = self.key_info if selector else self.der
        return TlsaRecord(usage, selector, matching, DIGESTS[matching](data))

    def server_context(self, folder: Path) -> ssl.SSLContext:
        """Return the context of a server that presents the certificate and those of its issuers."""
        path = folder / "chain.pem"
        info = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        certificates = b"".join(each.public_bytes(PEM) for each in (self.certificate, *self.issuers))
        path.write_bytes(self.key.private_bytes(PEM, *info) + certificates)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)
