"""Authentication of servers by TLSA records (RFC 7672 3, RFC 7671 9)."""

from __future__ import annotations

import datetime
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from smtp_trio import Server, TlsHandshakeError, TlsInfo, connect
from smtp_trio.protocol.der import is_sequence, public_key_info
from smtp_trio.routing import Dane, TlsaRecord, dane_context, verify_dane
from smtp_trio.routing._dane import matches_name
from smtp_trio.testing import Inbox, memory_network

from .certificates import NOW, Issued, rsa_key

HOST, DOMAIN, CANONICAL = NAMES = ("mx.example.net", "example.org", "example.com")
ROOT = Issued.make("Root", authority=True)
INTERMEDIATE = Issued.make("Intermediate", ROOT, authority=True)
SERVER = Issued.make("server", INTERMEDIATE, dns=[HOST])
OTHER = Issued.make("Other", authority=True)

SELECTORS_AND_TYPES = [(selector, matching) for selector in (0, 1) for matching in (0, 1, 2)]


def dane(*records: TlsaRecord, names: tuple[str, ...] = NAMES) -> Dane:
    return Dane(records, names)


def reason(chain: list[bytes], policy: Dane) -> str:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        verify_dane(chain, policy)
    assert caught.value.verify_message in str(caught.value)
    codes = {10: "expired", 27: "untrusted", 62: "name", 65: "no match"}
    return codes[caught.value.verify_code]


# --- DANE-EE(3) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("selector", "matching"), SELECTORS_AND_TYPES)
def test_dane_ee_matches_the_certificate_of_the_server(selector: int, matching: int) -> None:
    """RFC 7672 3.1.1."""
    record = SERVER.record(3, selector, matching)
    assert verify_dane(SERVER.chain, dane(record)) == record
    assert verify_dane(SERVER.chain[:1], dane(record)) == record
    assert reason(Issued.make("server", INTERMEDIATE, dns=[HOST]).chain, dane(record)) == "no match"


@pytest.mark.parametrize(
    "server",
    [
        Issued.make("other", dns=["other.example"]),
        Issued.make("nameless"),
        Issued.make("expired", dns=[HOST], days=(-30, -1)),
        Issued.make("not yet valid", INTERMEDIATE, days=(1, 30)),
        Issued.make("weak", key=rsa_key(1024)),
        Issued.make("client", extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), True)]),
        Issued.make("authority", authority=True, path_length=0),
    ],
    ids=lambda server: str(server.certificate.subject.rfc4514_string()),
)
def test_dane_ee_ignores_names_and_dates(server: Issued) -> None:
    """RFC 7672 3.1.1 and 3.2.1: the record alone binds the key to the server."""
    for selector, matching in SELECTORS_AND_TYPES:
        assert verify_dane(server.chain, dane(server.record(3, selector, matching)))


def test_dane_ee_does_not_match_another_certificate_of_the_chain() -> None:
    assert reason(SERVER.chain, dane(INTERMEDIATE.record(3), ROOT.record(3))) == "no match"


def test_rollover() -> None:
    """RFC 7672 4: the records of the old and of the new key, of which one matches."""
    new = Issued.make("new", INTERMEDIATE, dns=[HOST])
    policy = dane(SERVER.record(3), new.record(3))
    assert verify_dane(SERVER.chain, policy) == SERVER.record(3)
    assert verify_dane(new.chain, policy) == new.record(3)


def test_rollover_from_one_usage_to_another() -> None:
    assert verify_dane(SERVER.chain, dane(OTHER.record(3), ROOT.record(2))) == ROOT.record(2)
    assert verify_dane(SERVER.chain, dane(OTHER.record(2), SERVER.record(3))) == SERVER.record(3)


def test_unusable_records_authenticate_nothing() -> None:
    """RFC 7672 2.2: TLS is mandatory without authentication, whatever the server presents."""
    policy = dane(SERVER.record(1), ROOT.record(0), TlsaRecord(3, 1, 7, b"x"))
    assert verify_dane(OTHER.chain, policy) is None
    assert verify_dane([], policy) is None


def test_unusable_records_do_not_count_beside_usable_ones() -> None:
    assert reason(SERVER.chain, dane(SERVER.record(1), OTHER.record(3))) == "no match"


def test_server_without_a_certificate() -> None:
    assert reason([], dane(SERVER.record(3))) == "no match"


@pytest.mark.parametrize(("usage", "issued"), [(3, SERVER), (2, ROOT)])
@pytest.mark.parametrize("selector", [0, 1])
def test_only_the_strongest_digest_counts(usage: int, issued: Issued, selector: int) -> None:
    """RFC 7672 5, RFC 7671 9: for each usage and selector; records without a digest always count."""
    good, bad = issued.record(usage, selector, 1), TlsaRecord(usage, selector, 2, bytes(64))
    assert verify_dane(SERVER.chain, dane(good)) == good
    assert reason(SERVER.chain, dane(good, bad)) == "no match"
    assert reason(SERVER.chain, dane(bad, good)) == "no match"
    strong = issued.record(usage, selector, 2)
    assert verify_dane(SERVER.chain, dane(TlsaRecord(usage, selector, 1, bytes(32)), strong)) == strong
    other_selector = issued.record(usage, 1 - selector, 1)
    assert verify_dane(SERVER.chain, dane(bad, other_selector)) == other_selector
    full = issued.record(usage, selector, 0)
    assert verify_dane(SERVER.chain, dane(bad, full)) == full


# --- DANE-TA(2) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [ROOT, INTERMEDIATE], ids=["root", "intermediate"])
@pytest.mark.parametrize(("selector", "matching"), SELECTORS_AND_TYPES)
def test_dane_ta_matches_an_authority_of_the_chain(anchor: Issued, selector: int, matching: int) -> None:
    """RFC 7672 3.1.2."""
    record = anchor.record(2, selector, matching)
    assert verify_dane(SERVER.chain, dane(record)) == record


def test_order_of_the_chain_does_not_matter() -> None:
    """Certificates that do not belong to it do not either."""
    leaf, intermediate, root = SERVER.chain
    assert verify_dane([leaf, OTHER.der, root, intermediate], dane(ROOT.record(2)))


def test_authority_that_is_not_presented() -> None:
    """RFC 7672 3.1.2: the server MUST present it. A record with the whole certificate works without that."""
    assert reason(SERVER.chain[:2], dane(ROOT.record(2, 0, 1), ROOT.record(2, 1, 0))) == "no match"
    assert verify_dane(SERVER.chain[:2], dane(ROOT.record(2, 0, 0)))
    assert reason(SERVER.chain[:1], dane(ROOT.record(2, 0, 0))) == "untrusted"


def test_own_certificate_of_the_server_is_no_authority() -> None:
    alone = Issued.make(HOST, dns=[HOST], authority=True)
    for issued in (alone, SERVER):
        for selector, matching in SELECTORS_AND_TYPES:
            policy = dane(issued.record(2, selector, matching))
            assert reason(issued.chain, policy) == "no match"
            assert reason([issued.der, *issued.chain], policy) == "no match"


def test_authority_that_is_presented_and_did_not_issue_the_certificate() -> None:
    """Anyone can present the certificate of an authority."""
    forged = [Issued.make("server", OTHER, dns=[HOST]).der, ROOT.der]
    assert reason(forged, dane(ROOT.record(2))) == "untrusted"
    namesake = Issued.make("Root", authority=True)
    forged = [Issued.make("server", namesake, dns=[HOST]).der, ROOT.der]
    assert reason(forged, dane(ROOT.record(2))) == "untrusted"


@pytest.mark.parametrize(
    ("names", "valid"),
    [
        ([HOST], True),
        ([DOMAIN], True),
        ([CANONICAL], True),
        (["x.example", "MX.Example.NET"], True),
        (["*.example.net"], True),
        (["*.net"], False),
        (["*.mx.example.net"], False),
        (["m*.example.net"], False),
        (["mx.example.net.evil.example"], False),
        (["example.net"], False),
        (["a.mx.example.net"], False),
    ],
    ids=str,
)
def test_dane_ta_checks_the_names(names: list[str], valid: bool) -> None:
    """RFC 7672 3.2.2 and 3.2.3: base domain, next-hop domain and its canonical name."""
    server = Issued.make(HOST, INTERMEDIATE, dns=names)  # the common name does not count beside DNS-IDs
    if valid:
        assert verify_dane(server.chain, dane(ROOT.record(2)))
    else:
        assert reason(server.chain, dane(ROOT.record(2))) == "name"


def test_next_hop_domain_does_not_count_with_insecure_mx_records() -> None:
    """RFC 7672 3.2.2: the base domain is the only reference identifier then."""
    server = Issued.make("server", INTERMEDIATE, dns=[DOMAIN])
    assert reason(server.chain, dane(ROOT.record(2), names=(HOST,))) == "name"


@pytest.mark.parametrize(("name", "valid"), [(HOST, True), ("*.example.net", True), ("server", False)])
def test_common_name_counts_without_dns_names(name: str, valid: bool) -> None:
    """RFC 7672 3.2.3."""
    address = x509.SubjectAlternativeName([x509.RFC822Name("postmaster@example.org")])
    for extensions in ([], [(address, False)]):
        server = Issued.make(name, INTERMEDIATE, extensions=extensions)
        if valid:
            assert verify_dane(server.chain, dane(ROOT.record(2)))
        else:
            assert reason(server.chain, dane(ROOT.record(2))) == "name"


def test_certificate_without_any_name() -> None:
    assert reason(Issued.make("", INTERMEDIATE).chain, dane(ROOT.record(2))) == "name"


EXPIRED = Issued.make("Expired", ROOT, authority=True, days=(-9, -1))
NO_AUTHORITY = Issued.make("No authority", ROOT)
NO_CONSTRAINTS = Issued.make("No constraints", ROOT, constraints=False)
SHORT = Issued.make("Short", authority=True, path_length=0)
FOR_NET = Issued.make(
    "For .net", authority=True, extensions=[(x509.NameConstraints([x509.DNSName("example.net")], None), True)]
)
SIGNER = Issued.make(
    "Signer",
    authority=True,
    extensions=[(x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)],
)
CLIENTS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVERS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
WEAK = Issued.make("Weak", authority=True, key=rsa_key(1024))


def leaf(issuer: Issued, *extensions: x509.ExtensionType, critical: bool = True, **settings: object) -> Issued:
    found = [(extension, critical) for extension in extensions]
    return Issued.make("server", issuer, **{"dns": [HOST], "extensions": found, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "anchor", "expected"),
    [
        (leaf(ROOT, days=(-9, -1)), ROOT, "expired"),
        (leaf(ROOT, days=(1, 9)), ROOT, "untrusted"),
        (leaf(EXPIRED), ROOT, "expired"),
        (leaf(EXPIRED), EXPIRED, "expired"),
        (leaf(NO_AUTHORITY), ROOT, "untrusted"),
        (leaf(NO_AUTHORITY), NO_AUTHORITY, "untrusted"),
        (leaf(NO_CONSTRAINTS), NO_CONSTRAINTS, "untrusted"),
        (leaf(Issued.make("Below", SHORT, authority=True)), SHORT, "untrusted"),
        (leaf(FOR_NET, dns=["example.org"]), FOR_NET, "untrusted"),
        (leaf(SIGNER), SIGNER, "untrusted"),
        (leaf(ROOT, CLIENTS), ROOT, "untrusted"),
        (leaf(Issued.make("For clients", ROOT, authority=True, extensions=[(CLIENTS, False)])), ROOT, "untrusted"),
        (leaf(ROOT, UNKNOWN), ROOT, "untrusted"),
        (leaf(WEAK), WEAK, "untrusted"),
    ],
    ids=[
        "expired", "not yet valid", "expired intermediate", "expired anchor", "issuer is no authority", "anchor is no authority",
        "anchor without constraints", "path length", "name constraints", "key usage", "for clients", "issuer for clients",
        "unknown critical extension", "weak key",
    ],
)  # fmt: skip
def test_dane_ta_checks_the_chain(server: Issued, anchor: Issued, expected: str) -> None:
    """RFC 7672 3.1.2, RFC 5280 6.1."""
    assert reason(server.chain, dane(anchor.record(2, 0, 1))) == expected


@pytest.mark.parametrize(
    ("server", "anchor"),
    [
        (leaf(SHORT), SHORT),
        (leaf(FOR_NET), FOR_NET),
        (leaf(ROOT, SERVERS), ROOT),
        (leaf(ROOT, UNKNOWN, critical=False), ROOT),
        (leaf(ROOT, constraints=False), ROOT),
        (leaf(Issued.make("RSA", authority=True, key=rsa_key(2048))), None),
    ],
    ids=["path length", "name constraints", "for servers", "unknown extension", "no constraints", "RSA"],
)
def test_valid_chains(server: Issued, anchor: Issued | None) -> None:
    data = server.chain[-1]
    record = anchor.record(2, 0, 1) if anchor else TlsaRecord(2, 0, 0, data)
    assert verify_dane(server.chain, dane(record)) == record


def test_common_name_does_not_evade_name_constraints() -> None:
    server = Issued.make(DOMAIN, FOR_NET)
    assert reason(server.chain, dane(FOR_NET.record(2))) == "name"


def test_time_of_the_verification() -> None:
    later = NOW + datetime.timedelta(365)
    assert verify_dane(SERVER.chain, dane(SERVER.record(3)), now=later)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        verify_dane(SERVER.chain, dane(ROOT.record(2)), now=later)
    assert caught.value.verify_code == 10


def test_first_reason_is_reported() -> None:
    server = leaf(Issued.make("Unrelated", ROOT, authority=True), days=(-9, -1))
    assert reason(server.chain, dane(ROOT.record(2), OTHER.record(2), OTHER.record(3))) == "expired"


def test_long_chains_are_bounded() -> None:
    namesakes = [Issued.make("Intermediate", ROOT, authority=True).der for _ in range(40)]
    assert reason([SERVER.der, *namesakes, *SERVER.chain[1:]], dane(ROOT.record(2))) == "no match"
    assert reason([SERVER.der, *namesakes[:14], ROOT.der], dane(ROOT.record(2))) == "untrusted"


@pytest.mark.parametrize(("others", "tried"), [(0, True), (7, True), (8, False), (100, False)])
def test_authorities_are_bounded(others: int, tried: bool) -> None:
    """A certificate in a record is a candidate without being presented, and an RRset can have hundreds of them."""
    records = [TlsaRecord(2, 0, 0, OTHER.der[:-1] + bytes([number])) for number in range(others)]
    policy = dane(*records, ROOT.record(2, 0, 0))
    if tried:
        assert verify_dane(SERVER.chain, policy) == ROOT.record(2, 0, 0)
    else:
        assert reason(SERVER.chain, policy) == "untrusted"


@pytest.mark.parametrize("rubbish", [b"", b"\x30", b"\x30\x00", b"\x30\x02\x30\x00", b"rubbish", bytes(100)])
def test_certificates_that_cannot_be_decoded(rubbish: bytes) -> None:
    for selector in (0, 1):
        assert reason([rubbish], dane(SERVER.record(3, selector))) == "no match"
        assert reason([SERVER.der, rubbish], dane(ROOT.record(2, selector))) == "no match"
    assert reason([rubbish, ROOT.der], dane(ROOT.record(2))) == "untrusted"
    if is_sequence(rubbish):
        assert reason(SERVER.chain, dane(TlsaRecord(2, 0, 0, rubbish))) == "untrusted"


# --- names and DER ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("presented", "reference", "expected"),
    [
        ("mx.example.org", "MX.example.ORG.", True),
        ("*.example.org", "mx.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.b.example.org", False),
        ("*.org", "example.org", False),
        ("*", "org", False),
        ("*.", "org", False),
        ("smtp*.example.org", "smtp1.example.org", False),
        ("*smtp.example.org", "xsmtp.example.org", False),
        ("mx.*.org", "mx.example.org", False),
        ("", "mx.example.org", False),
    ],
)
def test_names_and_wildcards(presented: str, reference: str, expected: bool) -> None:
    """RFC 7672 3.2.3."""
    assert matches_name(presented, reference) == expected


@pytest.mark.parametrize(
    "issued",
    [SERVER, ROOT, WEAK, Issued.make("2048 bits", key=rsa_key(2048)), Issued.make("x" * 64, dns=["y.example"] * 300)],
    ids=["server", "root", "1024 bits", "2048 bits", "long"],
)
def test_public_key_of_a_certificate(issued: Issued) -> None:
    assert public_key_info(issued.der) == issued.key_info


# --- in a handshake -----------------------------------------------------------------------------------------------


async def handshake(
    folder: Path, server: Issued, policy: Dane, version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
) -> TlsInfo | None:
    """Connect to a server with a certificate, send a message, and return what its result says about TLS."""
    inbox = Inbox()
    server_context = server.server_context(folder)
    server_context.maximum_version = version
    async with memory_network({"192.0.2.1": Server(inbox, tls=server_context)}):
        context = dane_context(policy)
        async with connect("192.0.2.1", tls="required", ssl_context=context, server_hostname=policy.names[0]) as client:
            result = await client.send("me@example.net", ["you@example.org"], b"Subject: hi\r\n\r\nhello\r\n")
    assert len(inbox) == 1
    return result.tls


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "record",
    [SERVER.record(3), SERVER.record(3, 0, 0), ROOT.record(2, 0, 1), INTERMEDIATE.record(2, 1, 2)],
    ids=["3 1 1", "3 0 0", "2 0 1", "2 1 2"],
)
async def test_message_to_a_server_that_is_authenticated(
    record: TlsaRecord, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    tls = await handshake(tmp_path, SERVER, dane(record), version)
    assert tls is not None
    assert (tls.verified, tls.problem) == (True, None)


async def test_message_without_authentication(tmp_path: Path) -> None:
    """RFC 7672 2.2: records that are all unusable."""
    tls = await handshake(tmp_path, OTHER, dane(SERVER.record(1)))
    assert tls is not None
    assert (tls.verified, tls.problem) == (False, "the certificate was not checked")


@pytest.mark.parametrize(
    ("server", "record", "text"),
    [
        (SERVER, OTHER.record(3), "no TLSA record matches"),
        (SERVER, OTHER.record(2), "no TLSA record matches"),
        (leaf(INTERMEDIATE, dns=["x.example"]), ROOT.record(2), "the certificate is for x.example"),
        (leaf(INTERMEDIATE, days=(-9, -1)), ROOT.record(2), "not valid at validation time"),
    ],
    ids=["key", "authority", "name", "expired"],
)
async def test_server_that_is_not_authenticated(server: Issued, record: TlsaRecord, text: str, tmp_path: Path) -> None:
    """RFC 7672 2.2 and 3.2: nothing is sent."""
    with pytest.raises(TlsHandshakeError, match=text) as caught:
        await handshake(tmp_path, server, dane(record))
    assert text in (caught.value.unverified or "")


async def test_server_name_is_the_base_domain(tmp_path: Path) -> None:
    """RFC 7672 8.1."""
    seen = []
    context = SERVER.server_context(tmp_path)
    context.sni_callback = lambda connection, name, context: seen.append(name)
    async with memory_network({"192.0.2.1": Server(Inbox(), tls=context)}):
        policy = dane(SERVER.record(3))
        async with connect("192.0.2.1", ssl_context=dane_context(policy), server_hostname=policy.names[0]):
            pass
    assert seen == [HOST]


def test_dane_ee_needs_no_package() -> None:
    """Without the extra, DANE-TA raises an error that says what to install."""
    own, authority = SERVER.record(3).data, ROOT.record(2).data
    script = f"""
import sys
sys.modules.update(cryptography=None, dns=None, httpx2=None)
from smtp_trio.routing import Dane, TlsaRecord, verify_dane
chain = {SERVER.chain!r}
assert verify_dane(chain, Dane((TlsaRecord(3, 1, 1, {own!r}),), ("mx.example",)))
try:
    verify_dane(chain, Dane((TlsaRecord(2, 1, 1, {authority!r}),), ("mx.example",)))
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "smtp_trio.routing needs cryptography: install smtp-trio[dns]\n"


def test_other_keys() -> None:
    """DANE-EE works with keys of any algorithm."""
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder().subject_name(ROOT.certificate.subject).issuer_name(ROOT.certificate.subject)
    certificate = (
        builder.public_key(key.public_key()).serial_number(1).not_valid_before(NOW).not_valid_after(NOW).sign(key, None)
    )
    issued = Issued(certificate, key)
    assert verify_dane(issued.chain, dane(issued.record(3)))
