"""Authentication of a server by TLSA records (RFC 7672 3, RFC 6698 2.1)."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from .._wire import VerifyingContext
from ..protocol.der import public_key_info
from ._answers import CERT, DANE_EE, DANE_TA, DIGESTS, FULL, TlsaRecord
from ._extras import missing
from ._lookups import normalize_name
from ._routes import Dane

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, ExtendedKeyUsage, KeyUsage
    from cryptography.x509.verification import ExtensionPolicy, Policy

#: How many certificates of a chain are considered. Real ones have from one to four.
MAX_CHAIN: Final = 16
#: For how many records of usage DANE-TA(2) a chain is verified. Each takes up to 30 ms, in which no other task runs. An
#: authority has two while its key is being replaced.
MAX_VERIFIED: Final = 8

#: The reasons of an `ssl.SSLCertVerificationError`, in its attribute ``verify_code``: those of OpenSSL's X509_V_ERR_*.
EXPIRED, UNTRUSTED, NAME_MISMATCH, NO_MATCH = 10, 27, 62, 65


def failure(code: int, text: str) -> ssl.SSLCertVerificationError:
    """Return the exception for a certificate that is not valid, as the handshake would raise it."""
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {text}")
    error.verify_code, error.verify_message = code, text
    return error


# How a server is authenticated (RFC 7672 3.1 and 3.2)
#
# One record that matches is enough. So a key can be replaced: its owner publishes the records of the old and of the new
# one (RFC 7672 4).
#
# * DANE-EE(3): the record is that of the server's own certificate or key. Nothing else in the certificate counts: not
#   its names, and not its dates.
# * DANE-TA(2): the record is that of an authority, whose certificate the server MUST present as part of its chain. The
#   chain up to it must be valid, with dates and constraints, also those of the authority, and the certificate must have
#   one of the reference identifiers. The authorities that the system trusts play no part. A record with a whole
#   certificate (2 0 0) works without the server presenting it; a bare key (2 1 0) is compared with the keys of the chain.
#
# If records have the same usage and selector, and different digests, only those with the strongest one are used. The
# others are there for clients that do not know it, and may be weak (RFC 7671 9).
#
# Python's ssl can verify a chain only during the handshake, and up to authorities that are known before it. These are
# known after it, from the chain. So the handshake is made without verification (CERT_NONE), and then the package
# cryptography verifies the chain, by the rules of RFC 5280. The further rules for authorities of the web are left out,
# since an authority for DANE is often a private one. The limits on algorithms and on the number of signatures stay.
def verify_dane(chain: Sequence[bytes], dane: Dane, *, now: datetime | None = None) -> TlsaRecord | None:
    """Authenticate a server by the certificates that it presented; return the TLSA record that matched (RFC 7672 3).

    ``chain`` are the certificates in DER, beginning with the server's own. Return None if no record is usable: TLS is
    enough then, without authentication (RFC 7672 2.2). ``now`` is the time for which the dates are checked, for usage
    DANE-TA(2) only.

    Raises `ssl.SSLCertVerificationError` if no record matches, or only one of usage DANE-TA(2) for a certificate that
    is not valid; its ``verify_code`` is the one of OpenSSL. Raises ImportError if the package cryptography, which
    DANE-TA(2) needs, is not installed.
    """
    records = strongest(dane.usable)
    if not records:
        return None
    if not chain:
        raise failure(NO_MATCH, "the server presented no certificate")
    leaf, *others = chain[:MAX_CHAIN]
    for record in records:
        if record.usage == DANE_EE and matches(record, leaf):
            return record
    rejected = None
    authorities = ((record, _anchors(record, leaf, others)) for record in records if record.usage == DANE_TA)
    for record, anchors in islice((each for each in authorities if each[1]), MAX_VERIFIED):
        try:
            _verify_chain(leaf, others, anchors, dane.names, now or datetime.now(UTC))
        except ssl.SSLCertVerificationError as error:
            rejected = rejected or error
        else:
            return record
    raise rejected or failure(NO_MATCH, "no TLSA record matches the certificates of the server")


def strongest(records: Iterable[TlsaRecord]) -> list[TlsaRecord]:
    """Return the records without those that have a stronger digest beside them (RFC 7671 9)."""
    best: dict[tuple[int, int], int] = {}
    for record in records:
        key = record.usage, record.selector
        best[key] = max(best.get(key, FULL), record.matching)
    return [record for record in records if record.matching in (FULL, best[record.usage, record.selector])]


def matches(record: TlsaRecord, certificate: bytes) -> bool:
    """Return whether a record is that of a certificate (RFC 6698 2.1.2 to 2.1.4)."""
    selected = certificate if record.selector == CERT else public_key_info(certificate)
    return record.data == (selected if record.matching == FULL else DIGESTS[record.matching](selected).digest())


# --- DANE-TA(2) -----------------------------------------------------------------------------------------------------


def _anchors(record: TlsaRecord, leaf: bytes, others: Sequence[bytes]) -> list[bytes]:
    """Return the certificates of authorities that a record matches. The server's own certificate is not one."""
    known = [record.data] if record.selector == CERT and record.matching == FULL else others
    return [certificate for certificate in known if certificate != leaf and matches(record, certificate)]


def _verify_chain(
    leaf: bytes, others: Sequence[bytes], anchors: Sequence[bytes], names: Iterable[str], now: datetime
) -> None:
    """Verify the certificate of a server, up to one of the anchors, for one of the names (RFC 7672 3.1.2 and 3.2.2).

    Raises `ssl.SSLCertVerificationError`.
    """
    try:
        from cryptography import x509
        from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
    except ImportError as exc:
        raise missing("cryptography") from exc
    try:
        certificate, *intermediates = map(x509.load_der_x509_certificate, (leaf, *others))
        store = Store([x509.load_der_x509_certificate(anchor) for anchor in anchors])
    except ValueError as exc:
        raise failure(UNTRUSTED, f"invalid certificate: {exc}") from exc
    authority, server = _extension_policies()
    builder = PolicyBuilder().store(store).time(now).extension_policies(ca_policy=authority, ee_policy=server)
    try:
        # The verifier for servers takes one name, and knows only DNS-IDs. So the names are compared below.
        verified = builder.build_client_verifier().verify(certificate, intermediates)
        presented = _presented_names(certificate, verified.chain)
    except (VerificationError, ValueError) as exc:
        expired = any(each.not_valid_after_utc < now for each in (certificate, *intermediates))
        raise failure(EXPIRED if expired else UNTRUSTED, str(exc)) from exc
    if not any(matches_name(each, name) for each in presented for name in names):
        raise failure(NAME_MISMATCH, f"the certificate is for {', '.join(presented[:10]) or 'no name'}")


def _extension_policies() -> tuple[ExtensionPolicy, ExtensionPolicy]:
    """Return the rules for the extensions of an authority and of a server (RFC 5280 6.1.4 and 4.2.1.12)."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID
    from cryptography.x509.verification import Criticality, ExtensionPolicy

    usages = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE

    def may_sign_certificates(policy: Policy, certificate: Certificate, usage: KeyUsage | None) -> None:
        if usage is not None and not usage.key_cert_sign:
            raise ValueError("the key of an issuer is not for certificates")

    def is_for_servers(policy: Policy, certificate: Certificate, usage: ExtendedKeyUsage | None) -> None:
        if usage is not None and not any(each in usage for each in usages):
            raise ValueError("the certificate is not for servers")

    either = Criticality.AGNOSTIC
    server = ExtensionPolicy.permit_all().may_be_present(x509.ExtendedKeyUsage, either, is_for_servers)
    authority = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, either, None)  # the verifier requires that it is true
        .may_be_present(x509.KeyUsage, either, may_sign_certificates)
        .may_be_present(x509.ExtendedKeyUsage, either, is_for_servers)
    )
    return authority, server


def _presented_names(certificate: Certificate, chain: Iterable[Certificate]) -> list[str]:
    """Return the DNS-IDs of a certificate, or else its CN-ID (RFC 7672 3.2.3)."""
    from cryptography import x509

    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName) and (names := value.get_values_for_type(x509.DNSName)):
            return names
    # The verifier does not apply the name constraints of an authority to common names.
    if any(isinstance(extension.value, x509.NameConstraints) for each in chain for extension in each.extensions):
        return []
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return [str(each.value) for each in common[-1:]]


def matches_name(presented: str, reference: str) -> bool:
    """Return whether a name of a certificate is one of the server. A wildcard is a whole label (RFC 7672 3.2.3)."""
    presented, reference = normalize_name(presented), normalize_name(reference)
    if presented.startswith("*."):
        # As in OpenSSL, a wildcard does not stand for all names below a top-level domain.
        return "." in presented[2:] and reference.partition(".")[2] == presented[2:]
    return presented == reference


# --- the handshake --------------------------------------------------------------------------------------------------


def dane_context(dane: Dane) -> ssl.SSLContext:
    """Return a context for connections to an exchanger, whose handshakes authenticate it by its TLSA records.

    It is used with `smtp_trio.connect` or `smtp_trio.Client`, with ``tls="required"`` and ``dane.names[0]`` as
    ``server_hostname``, which is sent to the server (SNI, RFC 7672 8.1). A server that is not authenticated raises
    `smtp_trio.TlsHandshakeError`. If no record is usable, no certificate is checked (RFC 7672 2.2).
    """
    context = DaneContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # `DaneObject` verifies instead
    context.options |= ssl.OP_NO_RENEGOTIATION  # in which the server could present another certificate
    context.dane, context.verifies = dane, bool(dane.usable)
    return context


class DaneObject(ssl.SSLObject):
    """The TLS connection of a `DaneContext`."""

    def do_handshake(self) -> None:
        """Finish the handshake, and authenticate the server. Raises `ssl.SSLCertVerificationError` if that fails."""
        super().do_handshake()
        context = self.context
        assert isinstance(context, DaneContext)
        verify_dane(presented_chain(self), context.dane)


class DaneContext(VerifyingContext):
    """A context whose connections verify the server by TLSA records."""

    sslobject_class = DaneObject
    dane: Dane


def presented_chain(connection: ssl.SSLObject) -> list[bytes]:
    """Return the certificates in DER that the server has presented, its own first."""
    if sys.version_info >= (3, 13):
        return list(connection.get_unverified_chain() or ())
    # Before Python 3.13 the method is on the object that `ssl.SSLObject` wraps, and returns objects of the module _ssl.
    # These versions of Python get security fixes only, so that it will not change.
    from _ssl import ENCODING_DER

    chain = connection._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [certificate.public_bytes(ENCODING_DER) for certificate in chain or ()]
