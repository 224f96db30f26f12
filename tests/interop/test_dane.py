"""`verify_dane` and OpenSSL's implementation of DANE decide alike about servers."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from routing.certificates import Issued

from smtp_trio.routing import Dane, TlsaRecord, verify_dane

from .conftest import require

pytestmark = pytest.mark.interop

HOST = "mx.example.net"
ROOT = Issued.make("Root", authority=True)
INTERMEDIATE = Issued.make("Intermediate", ROOT, authority=True)
SERVER = Issued.make("server", INTERMEDIATE, dns=[HOST])
SELF_SIGNED = Issued.make(HOST, dns=[HOST], authority=True)
OTHER = Issued.make("Other", authority=True)
NO_AUTHORITY = Issued.make("No authority", ROOT)
EXPIRED = Issued.make("Expired", ROOT, authority=True, days=(-9, -1))
SHORT = Issued.make("Short", authority=True, path_length=0)
CLIENTS = [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]
FOR_ORG = Issued.make(
    "For .org", authority=True, extensions=[(x509.NameConstraints([x509.DNSName("example.org")], None), True)]
)


def below(issuer: Issued, *names: str, common_name: str = "server", days: tuple[int, int] = (-1, 30)) -> Issued:
    """Return a server with these names."""
    return Issued.make(common_name, issuer, dns=names, days=days)


def wrong(usage: int, selector: int, matching: int) -> TlsaRecord:
    return TlsaRecord(usage, selector, matching, bytes(32 * matching))


CASES: list[tuple[Issued, list[TlsaRecord]]] = [
    *(
        (SERVER, [issued.record(usage, selector, matching)])
        for issued in (SERVER, INTERMEDIATE, ROOT, OTHER)
        for usage in (2, 3)
        for selector in (0, 1)
        for matching in (0, 1, 2)
    ),
    (SELF_SIGNED, [SELF_SIGNED.record(2)]),
    (SELF_SIGNED, [SELF_SIGNED.record(3)]),
    # dates
    (below(ROOT, HOST, days=(-9, -1)), [ROOT.record(2)]),
    (below(ROOT, HOST, days=(1, 9)), [ROOT.record(2)]),
    (below(EXPIRED, HOST), [ROOT.record(2)]),
    (Issued.make("expired", dns=["x.example"], days=(-9, -1)), [OTHER.record(3)]),
    # names
    *(
        (below(ROOT, *names, common_name=common_name), [ROOT.record(2)])
        for names in ([], ["x.example"], ["x.example", HOST], ["*.example.net"], ["*.net"], ["a.mx.example.net"])
        for common_name in (HOST, "server", "*.example.net")
    ),
    # chains
    (below(NO_AUTHORITY, HOST), [ROOT.record(2)]),
    (below(NO_AUTHORITY, HOST), [NO_AUTHORITY.record(2)]),
    (below(SHORT, HOST), [SHORT.record(2)]),
    (below(Issued.make("Below", SHORT, authority=True), HOST), [SHORT.record(2)]),
    (below(FOR_ORG, HOST), [FOR_ORG.record(2)]),
    (below(Issued.make("For clients", ROOT, authority=True, extensions=CLIENTS), HOST), [ROOT.record(2)]),
    (Issued.make("server", ROOT, dns=[HOST], extensions=CLIENTS), [ROOT.record(2)]),
    # several records: rollover, and the strongest digest
    (SERVER, [OTHER.record(3), SERVER.record(3)]),
    (SERVER, [OTHER.record(2), SERVER.record(3)]),
    (SERVER, [OTHER.record(3), ROOT.record(2)]),
    (SERVER, [SERVER.record(3, 1, 1), wrong(3, 1, 2)]),
    (SERVER, [wrong(3, 1, 1), SERVER.record(3, 1, 2)]),
    (SERVER, [SERVER.record(3, 0, 1), wrong(3, 1, 2)]),
    (SERVER, [SERVER.record(3, 1, 0), wrong(3, 1, 2)]),
    (SERVER, [ROOT.record(2, 0, 1), wrong(2, 0, 2)]),
    (SERVER, [SERVER.record(1), OTHER.record(3)]),
]


def openssl_accepts(server: Issued, records: list[TlsaRecord], folder: Path) -> bool:
    """Return whether ``openssl s_client`` authenticates the server by the records."""
    context = server.server_context(folder)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(1)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, args=[listener])
        thread.start()
        command = ["openssl", "s_client", "-brief", "-connect", f"127.0.0.1:{listener.getsockname()[1]}"]
        command += ["-dane_tlsa_domain", HOST, "-dane_ee_no_namechecks"]
        for record in records:
            command += ["-dane_tlsa_rrdata", str(record)]
        run = subprocess.run(command, input=b"Q\n", capture_output=True, check=False, timeout=240)
        thread.join()
    return b"Verification: OK" in run.stdout + run.stderr


@pytest.mark.parametrize(("server", "records"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_decision(server: Issued, records: list[TlsaRecord], tmp_path: Path) -> None:
    """OpenSSL also accepts an authority that has expired, and wildcards within a label, which RFC 7672 3.2.3 forbids."""
    require("openssl")
    try:
        accepted = verify_dane(server.chain, Dane(tuple(records), (HOST,))) is not None
    except ssl.SSLCertVerificationError:
        accepted = False
    assert accepted == openssl_accepts(server, records, tmp_path)
