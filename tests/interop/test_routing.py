"""Mail for domains in a network with Knot, unbound, nginx, and Postfix as the exchangers, at their usual ports.

Knot has the zones, which it signs, and unbound validates them. nginx has the MTA-STS policies. The client uses its defaults: the
name server in /etc/resolv.conf, the authorities of the system, and the ports 25 and 443.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trustme
from attrs import field, frozen
from cryptography import x509
from routing.certificates import Issued

import smtp_trio
from smtp_trio import Accepted, ConnectionLostError, DeliveryUnknownError, Outcome, Rejected, connect_domain
from smtp_trio.routing import (
    DnsResolver,
    DomainResult,
    DomainsResult,
    StsPolicies,
    StsResult,
    TlsaRecord,
    TlsCounters,
    TlsReport,
    TlsResultType,
)

from .conftest import can_make_namespaces, require, skip_or_fail
from .name_servers import Zone, validating_resolver
from .networks import Network, network, web_server
from .servers import Server, start_exchanger

pytestmark = pytest.mark.interop

MAIL = b"Subject: hello\r\n\r\nhello\r\n"
SENDER = "me@client.test"

AUTHORITY = trustme.CA()
NOW = datetime.datetime.now(datetime.UTC)
YESTERDAY = NOW - datetime.timedelta(days=1)
LAST_WEEK = NOW - datetime.timedelta(days=7)


def issue(*names: str, expired: bool = False) -> trustme.LeafCert:
    dates = (LAST_WEEK, YESTERDAY) if expired else (None, None)
    return AUTHORITY.issue_cert(*names, not_before=dates[0], not_after=dates[1])


def certificate_for(host: str, *, expired: bool = False) -> trustme.LeafCert:
    return issue(f"{host}.signed.test", f"{host}.unsigned.test", expired=expired)


def record(pem: trustme.Blob, usage: int, selector: int = 1, matching: int = 1) -> TlsaRecord:
    """Return the TLSA record of a certificate."""
    certificate = x509.load_pem_x509_certificate(pem.bytes())
    public_only: Issued = Issued(certificate, None)  # type: ignore[arg-type]
    return public_only.record(usage, selector, matching)


CERTIFICATES = {
    "192.0.2.1": certificate_for("mx1"),
    "192.0.2.2": certificate_for("mx2"),
    "192.0.2.3": certificate_for("stripped"),
    "192.0.2.4": certificate_for("expired", expired=True),
}
#: Two Postfixes, each with two addresses. An attacker keeps clients of one address from using STARTTLS.
EXCHANGERS = [["192.0.2.1", "192.0.2.3"], ["192.0.2.2", "192.0.2.4"]]
OPTIONS = {"192.0.2.3": "smtpd_discard_ehlo_keywords=starttls,silent-discard"}
LEAVES = [record(each.cert_chain_pems[0], 3) for each in CERTIFICATES.values()]
KEY1, KEY2, KEY3, KEY4 = LEAVES
TRUST_ANCHOR = record(AUTHORITY.cert_pem, 2, 0, 1)
WRONG, WRONG_ANCHOR = TlsaRecord(3, 1, 1, bytes(32)), TlsaRecord(2, 0, 1, bytes(32))
UNUSABLE = TlsaRecord(1, 1, 1, KEY1.data)

KILLED, NAME_SERVER, WEB_SERVER = "192.0.2.5", "192.0.2.53", "192.0.2.80"
#: 192.0.2.9 refuses connections, and 2001:db8::1 cannot be reached.
SIGNED = f"""\
mx1 A 192.0.2.1
_25._tcp.mx1 TLSA {KEY1}
mx2 A 192.0.2.2
_25._tcp.mx2 TLSA {TRUST_ANCHOR}
stripped A 192.0.2.3
_25._tcp.stripped TLSA {KEY3}
expired A 192.0.2.4
_25._tcp.expired TLSA {KEY4}
expired-ta A 192.0.2.4
_25._tcp.expired-ta TLSA {TRUST_ANCHOR}
wrong A 192.0.2.1
_25._tcp.wrong TLSA {WRONG}
wrong-ta A 192.0.2.2
_25._tcp.wrong-ta TLSA {WRONG_ANCHOR}
other-name A 192.0.2.2
_25._tcp.other-name TLSA {TRUST_ANCHOR}
changed A 192.0.2.1
_25._tcp.changed TLSA {WRONG}
_25._tcp.changed TLSA {KEY1}
unusable A 192.0.2.1
_25._tcp.unusable TLSA {UNUSABLE}
none A 192.0.2.2
killed A 192.0.2.5
dead A 192.0.2.9

implicit AAAA 2001:db8::1
implicit A 192.0.2.2
null MX 0 .
empty TXT "no mail"
www CNAME to-mx1
many MX 10 mx1
"""
#: The domains of the signed zone, each with the preferences of its exchangers.
SIGNED_MX = {
    "to-mx1": "mx1 mx2",
    "to-mx2": "mx2 mx1",
    "to-dead": "dead mx2",
    "to-wrong": "wrong mx2",
    "to-wrong-only": "wrong wrong-ta",
    "to-wrong-ta": "wrong-ta mx1",
    "to-other-name": "other-name mx1",
    "to-changed": "changed",
    "to-unusable": "unusable",
    "to-expired": "expired",
    "to-expired-ta": "expired-ta mx1",
    "to-stripped": "stripped mx1",
    "to-stripped-only": "stripped",
    "to-none": "none",
    "to-killed": "killed mx2",
    "to-bogus": "mx.bogus.test. mx2",
    "to-bogus-only": "mx.bogus.test.",
}
#: The domains of the unsigned zone, each with its exchangers, and the mode and the patterns of its policy.
POLICIES = {
    "sts": ("mx1 mx2", "enforce", "*.unsigned.test"),
    "sts-dead": ("dead mx2", "enforce", "*.unsigned.test"),
    "sts-stripped": ("stripped mx1", "enforce", "*.unsigned.test"),
    "sts-stripped-only": ("stripped", "enforce", "*.unsigned.test"),
    "sts-expired": ("expired mx2", "enforce", "*.unsigned.test"),
    "sts-other-name": ("other-name mx1", "enforce", "*.unsigned.test"),
    "sts-excluded": ("mx2 mx1", "enforce", "mx1.unsigned.test"),
    "sts-excluded-only": ("mx2", "enforce", "mx1.unsigned.test"),
    "sts-with-dane": ("wrong.signed.test. mx1", "enforce", "*.signed.test *.unsigned.test"),
    "testing-stripped": ("stripped mx1", "testing", "*.unsigned.test"),
    "testing-other-name": ("other-name", "testing", "*.unsigned.test"),
    "testing-excluded": ("mx2", "testing", "mx1.unsigned.test"),
    "sts-cached": ("stripped", "enforce", "*.unsigned.test"),
    "withdrawn": ("stripped", "none", "*.unsigned.test"),
    # These policies cannot be fetched.
    "late": ("stripped", "enforce", "*.unsigned.test"),
    "moved": ("stripped", "enforce", "*.unsigned.test"),
    "html": ("stripped", "enforce", "*.unsigned.test"),
    "invalid": ("stripped", "some", "*.unsigned.test"),
    "missing": ("stripped", "", ""),
}


def mx_records(domain: str, exchangers: str) -> str:
    return "".join(f"{domain} MX {10 * number} {host}\n" for number, host in enumerate(exchangers.split(), 1))


def zones() -> dict[str, Zone]:
    signed = SIGNED + "".join(mx_records(*each) for each in SIGNED_MX.items())
    # The response does not fit into a packet, and names more exchangers than are used.
    signed += "".join(f"many MX 20 exchanger-with-a-rather-long-name-{number}\n" for number in range(100))
    unsigned = """\
mx1 A 192.0.2.1
mx2 A 192.0.2.2
stripped A 192.0.2.3
expired A 192.0.2.4
other-name A 192.0.2.1
dead A 192.0.2.9
"""
    for domain, (exchangers, _, _) in POLICIES.items():
        unsigned += mx_records(domain, exchangers)
        unsigned += f'_mta-sts.{domain} TXT "v=STSv1; id=1;"\nmta-sts.{domain} A {WEB_SERVER}\n'
    return {
        "signed.test": Zone(signed),
        "unsigned.test": Zone(unsigned, "unsigned"),
        "bogus.test": Zone("@ MX 10 mx\nmx A 192.0.2.1\n", "bogus"),
    }


def write_policies(directory: Path) -> None:
    """Write what the web server serves: a certificate and a policy for each domain of the unsigned zone."""
    for domain, (_, mode, patterns) in POLICIES.items():
        host = f"mta-sts.{domain}.unsigned.test"
        write_certificate(directory, host, expired=domain == "late")
        if mode:
            lines = [
                "version: STSv1",
                f"mode: {mode}",
                *(f"mx: {each}" for each in patterns.split()),
                "max_age: 604800",
            ]
            file = directory / host / ".well-known" / "mta-sts.txt"
            file.parent.mkdir(parents=True)
            file.write_text("".join(f"{line}\r\n" for line in lines))


def write_certificate(directory: Path, host: str, *, expired: bool) -> None:
    issue(host, expired=expired).private_key_and_cert_chain_pem.write_to_path(directory / f"{host}.pem")


@frozen
class Internet:
    """The network, the exchangers, each with its addresses, and the directory of the web server."""

    network: Network
    exchangers: list[tuple[Server, list[str]]]
    web: Path

    def send(self, *domains: str, policies: Path | None = None) -> DomainsResult:
        """Send a message to a recipient of each domain. ``policies`` is the file of the MTA-STS policies."""

        async def send() -> DomainsResult:
            resolver = DnsResolver()
            sts = StsPolicies(resolver, path=policies)
            recipients = [f"you@{domain}" for domain in domains]
            return await smtp_trio.send(MAIL, sender=SENDER, recipients=recipients, resolver=resolver, sts=sts)

        return self.network.run(send)


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """The network with its servers, which run until the last test of this module has ended."""
    for program in ("knotd", "unbound", "nginx", "postfix", "ip"):
        require(program)
    if os.geteuid() or not can_make_namespaces():
        skip_or_fail("network namespaces cannot be created here, or not by this user")
    # Not in pytest's directory, which the users that the servers run as may not enter.
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory(prefix="smtp-trio-")))
        root.chmod(0o755)
        directories = [root / name for name in ("names", "web", "one", "two")]
        for directory in directories:
            directory.mkdir()
        names, web, *mail = directories
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        AUTHORITY.cert_pem.write_to_path(root / "authority.pem")
        patch.setenv("SSL_CERT_FILE", str(root / "authority.pem"))
        net = stack.enter_context(
            network(root, "127.0.0.1", [*CERTIFICATES, KILLED, "192.0.2.9", NAME_SERVER, WEB_SERVER])
        )
        net.enter(stack, validating_resolver(names, zones(), authority=(NAME_SERVER, 53), resolver=("127.0.0.1", 53)))
        write_policies(web)
        net.enter(stack, web_server(web, WEB_SERVER, "sts.unsigned.test"))
        exchangers = []
        for directory, addresses in zip(mail, EXCHANGERS, strict=True):
            certificates = {address: CERTIFICATES[address] for address in addresses}
            server = net.enter(stack, start_exchanger(directory, AUTHORITY, certificates, OPTIONS))
            exchangers.append((server, addresses))
        yield Internet(net, exchangers, web)


@frozen
class Tried:
    """An attempt: the exchanger, the status if it failed, what is reported about TLS, and the TLS connection.

    ``session`` is "" for a success, the type of the failure, or None if there is nothing to report.
    """

    exchanger: str
    status: str = ""
    session: str | None = ""
    tls: str = field()

    @tls.default
    def _usual(self) -> str:
        return "" if self.status else "verified"


def tried(result: DomainResult) -> list[Tried]:
    """Return what happened to the attempts."""
    found = []
    for attempt in result.attempts:
        session = None if attempt.session is None else attempt.session.failures
        connected = "verified" if attempt.tls and attempt.tls.verified else "encrypted" if attempt.tls else "clear"
        found.append(
            Tried(
                attempt.exchanger.name.removesuffix(".test"),
                str(attempt.reply.status) if attempt.reply else "",
                None if session is None else " ".join(failure.result_type.value for failure in session),
                "" if attempt.error else connected,
            )
        )
    return found


NO_STARTTLS, NO_MATCH, UNTRUSTED = "starttls-not-supported", "certificate-host-mismatch", "certificate-not-trusted"
LATE = "certificate-expired"
MX1, MX2 = Tried("mx1.signed"), Tried("mx2.signed")
STS_MX1, STS_MX2 = Tried("mx1.unsigned"), Tried("mx2.unsigned")
STRIPPED = Tried("stripped.unsigned", "", NO_STARTTLS, "clear")
FAILED_STRIPPED = Tried("stripped.unsigned", "4.7.4", NO_STARTTLS)

CASES: dict[str, list[Tried]] = {
    # the order of MX records
    "to-mx1.signed.test": [MX1],
    "to-mx2.signed.test": [MX2],
    "www.signed.test": [MX1],
    "many.signed.test": [MX1],
    "to-dead.signed.test": [Tried("dead.signed", "4.4.1", None), MX2],
    "implicit.signed.test": [
        Tried("implicit.signed", "4.4.1", None),
        Tried("implicit.signed", tls="encrypted"),
    ],
    "to-none.signed.test": [Tried("none.signed", tls="encrypted")],
    "to-bogus.signed.test": [MX2],
    # DANE
    "to-wrong.signed.test": [Tried("wrong.signed", "4.7.5", NO_MATCH), MX2],
    "to-wrong-ta.signed.test": [Tried("wrong-ta.signed", "4.7.5", NO_MATCH), MX1],
    "to-wrong-only.signed.test": [
        Tried("wrong.signed", "4.7.5", NO_MATCH),
        Tried("wrong-ta.signed", "4.7.5", NO_MATCH),
    ],
    "to-other-name.signed.test": [Tried("other-name.signed", "4.7.5", NO_MATCH), MX1],
    "to-changed.signed.test": [Tried("changed.signed")],
    "to-unusable.signed.test": [Tried("unusable.signed", session="tlsa-invalid", tls="encrypted")],
    "to-expired.signed.test": [Tried("expired.signed")],  # RFC 7672 3.1.1: dates do not count with DANE-EE(3)
    "to-expired-ta.signed.test": [Tried("expired-ta.signed", "4.7.5", LATE), MX1],
    "to-stripped.signed.test": [Tried("stripped.signed", "4.7.4", NO_STARTTLS), MX1],
    "to-stripped-only.signed.test": [Tried("stripped.signed", "4.7.4", NO_STARTTLS)],
    # MTA-STS
    "sts.unsigned.test": [STS_MX1],
    "sts-dead.unsigned.test": [Tried("dead.unsigned", "4.4.1", None), STS_MX2],
    "sts-stripped.unsigned.test": [FAILED_STRIPPED, STS_MX1],
    "sts-stripped-only.unsigned.test": [FAILED_STRIPPED],
    "sts-expired.unsigned.test": [Tried("expired.unsigned", "4.7.5", LATE), STS_MX2],
    "sts-other-name.unsigned.test": [Tried("other-name.unsigned", "4.7.5", NO_MATCH), STS_MX1],
    "sts-excluded.unsigned.test": [STS_MX1],
    # RFC 8461 2: a policy cannot override DANE.
    "sts-with-dane.unsigned.test": [Tried("wrong.signed", "4.7.5", NO_MATCH), STS_MX1],
    "testing-stripped.unsigned.test": [STRIPPED],
    "testing-other-name.unsigned.test": [Tried("other-name.unsigned", "", NO_MATCH, "encrypted")],
    "testing-excluded.unsigned.test": [Tried("mx2.unsigned", "", NO_MATCH, "verified")],
    # RFC 8461 3.3: without a policy that was cached before, mail is delivered as if there were none.
    **{
        f"{domain}.unsigned.test": [STRIPPED] for domain in ("withdrawn", "late", "moved", "html", "invalid", "missing")
    },
}


#: The domains to which nothing is sent, with the replies.
WITHOUT_ROUTE = {
    "null.signed.test": "556 5.1.10",
    "gone.signed.test": "550 5.1.2",
    "empty.signed.test": "550 5.4.4",
    "bogus.test": "451 4.4.3",
    "to-bogus-only.signed.test": "451 4.4.3",
    "sts-excluded-only.unsigned.test": "451 4.7.5",
}


@pytest.fixture(scope="module")
def delivered(internet: Internet) -> DomainsResult:
    """The result of a message to all domains."""
    for server, _ in internet.exchangers:
        server.ignore_received()
    return internet.send(*CASES, *WITHOUT_ROUTE)


def of_domain(result: DomainsResult, domain: str) -> tuple[Outcome, DomainResult]:
    [outcome] = [each for each in result.outcomes if each.recipient == f"you@{domain}"]
    [found] = [each for each in result.domains if each.domain == domain]
    return outcome, found


@pytest.mark.parametrize("domain", CASES)
def test_domain(delivered: DomainsResult, domain: str) -> None:
    """A message gets to the first exchanger that satisfies the policy, or is delayed."""
    outcome, result = of_domain(delivered, domain)
    expected = CASES[domain]
    assert tried(result) == expected
    if expected[-1].status:
        assert isinstance(outcome, Rejected)
        assert (outcome.reply.temporary, outcome.reply.status) == (True, expected[0].status)
    else:
        assert isinstance(outcome, Accepted)


@pytest.mark.parametrize("domain", WITHOUT_ROUTE)
def test_domain_without_a_route(delivered: DomainsResult, domain: str) -> None:
    outcome, result = of_domain(delivered, domain)
    assert isinstance(outcome, Rejected)
    assert str(outcome.reply).startswith(WITHOUT_ROUTE[domain])
    assert not result.attempts


def test_messages_arrive(internet: Internet, delivered: DomainsResult) -> None:
    used = [each.attempts[-1].address for each in delivered.domains if each.error is None]
    assert len(used) == sum(not attempts[-1].status for attempts in CASES.values())
    for server, addresses in internet.exchangers:
        count = sum(address in addresses for address in used)
        assert server.received(count) == [MAIL] * count


def test_exchanger_that_is_killed(internet: Internet, delivered: DomainsResult) -> None:
    """The session with it is lost, and the next messages go to the next exchanger."""
    domain = "to-killed.signed.test"

    async def kill(server: Server) -> None:
        async with connect_domain(domain) as connection:
            assert connection.address == KILLED
            server.kill()
            with pytest.raises((ConnectionLostError, DeliveryUnknownError)):
                await connection.client.send(SENDER, [f"you@{domain}"], MAIL)

    start = partial(start_exchanger, authority=AUTHORITY, certificates={KILLED: certificate_for("killed")})
    with TemporaryDirectory(prefix="smtp-trio-") as directory, ExitStack() as stack:
        server = internet.network.enter(stack, start(Path(directory)))
        first = internet.send(domain)
        assert server.received(1) == [MAIL]
        internet.network.run(partial(kill, server))
        second = internet.send(domain)
        assert not server.received(0)
    assert tried(first.domains[0]) == [Tried("killed.signed")]
    assert tried(second.domains[0]) == [Tried("killed.signed", "4.4.1", None), MX2]
    assert isinstance(second.outcomes[0], Accepted)


def test_policy_host_whose_certificate_expires(internet: Internet, tmp_path: Path) -> None:
    """A new policy cannot be fetched, and the cached one protects the domain (RFC 8461 3.3)."""
    domain, path = "sts-cached.unsigned.test", tmp_path / "policies.json"

    async def find() -> StsResult:
        return await StsPolicies(DnsResolver(), path=path).find(domain, check=True)

    first = internet.network.run(find)
    assert (first.error, first.policy and first.policy.mode) == (None, "enforce")
    # as if the domain had published a new policy since then
    path.write_text(path.read_text().replace('"id": "1"', '"id": "0"'))
    write_certificate(internet.web, f"mta-sts.{domain}", expired=True)
    second = internet.network.run(find)
    assert (second.policy, second.failure and second.failure.result_type) == (
        first.policy,
        TlsResultType.STS_WEBPKI_INVALID,
    )
    result = internet.send(domain, policies=path)
    assert tried(result.domains[0]) == [FAILED_STRIPPED]
    assert isinstance(result.outcomes[0], Rejected)


@pytest.mark.parametrize(
    ("domains", "code", "lines"),
    [
        (["to-wrong.signed.test", "sts-stripped.unsigned.test"], 0, ["accepted", "accepted"]),
        (["to-stripped-only.signed.test", "to-dead.signed.test"], 75, ["4.7.4", "accepted"]),
        (["sts-stripped-only.unsigned.test"], 75, ["4.7.4"]),
        (["to-bogus-only.signed.test"], 75, ["4.4.3"]),
        (["null.signed.test", "to-mx1.signed.test"], 1, ["5.1.10", "accepted"]),
    ],
)
def test_command(internet: Internet, tmp_path: Path, domains: list[str], code: int, lines: list[str]) -> None:
    """``smtp-trio send --mx`` with the defaults of its options; each attempt is shown."""
    mail = tmp_path / "mail.eml"
    mail.write_bytes(MAIL)
    command = [sys.executable, "-m", "smtp_trio", "send", "--mx", "-v", "--from", SENDER]
    for domain in domains:
        command += ["--to", f"you@{domain}"]
    done = internet.network.call(
        subprocess.run, [*command, str(mail)], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120
    )
    assert done.returncode == code, done
    for domain, text in zip(domains, lines, strict=True):
        [line] = [each for each in done.stdout.splitlines() if f"you@{domain}" in each]
        assert text in line
        for attempt in CASES.get(domain, ()):
            assert f"{attempt.exchanger}.test" in done.stderr


def test_report(delivered: DomainsResult) -> None:
    """The report for a domain has the sessions that were counted (RFC 8460 4)."""
    counters = TlsCounters()
    for result in delivered.domains:
        for session in result.sessions:
            counters.add(result.domain, session)
    found = {}
    for domain, results in counters.take().items():
        report = TlsReport.for_day(
            YESTERDAY.date(), domain=domain, results=results, organization="Client", contact="tls@client.test"
        )
        content = json.loads(report.to_json())
        assert content["date-range"]["start-datetime"] == f"{YESTERDAY.date()}T00:00:00Z"
        found[domain] = [
            (
                each["policy"]["policy-type"],
                each["policy"]["policy-domain"],
                *each["summary"].values(),
                {
                    failure["result-type"]: failure["failed-session-count"]
                    for failure in each.get("failure-details", ())
                },
            )
            for each in content["policies"]
        ]
    assert {domain: found.get(domain) for domain in REPORTS} == REPORTS


#: What the reports to some domains have: the policies, each with its successes and failures. None: there is no report.
REPORTS: dict[str, list[tuple[str, str, int, int, dict[str, int]]] | None] = {
    "to-mx1.signed.test": [("tlsa", "mx1.signed.test", 1, 0, {})],
    "to-wrong.signed.test": [
        ("tlsa", "wrong.signed.test", 0, 1, {NO_MATCH: 1}),
        ("tlsa", "mx2.signed.test", 1, 0, {}),
    ],
    "sts-stripped.unsigned.test": [("sts", "sts-stripped.unsigned.test", 1, 1, {NO_STARTTLS: 1})],
    "sts-expired.unsigned.test": [("sts", "sts-expired.unsigned.test", 1, 1, {LATE: 1})],
    "sts-with-dane.unsigned.test": [
        ("tlsa", "wrong.signed.test", 0, 1, {NO_MATCH: 1}),
        ("sts", "sts-with-dane.unsigned.test", 1, 0, {}),
    ],
    "testing-stripped.unsigned.test": [("sts", "testing-stripped.unsigned.test", 0, 1, {NO_STARTTLS: 1})],
    "testing-excluded.unsigned.test": [("sts", "testing-excluded.unsigned.test", 0, 1, {NO_MATCH: 1})],
    "sts-excluded.unsigned.test": [("sts", "sts-excluded.unsigned.test", 1, 1, {NO_MATCH: 1})],
    "sts-excluded-only.unsigned.test": [("sts", "sts-excluded-only.unsigned.test", 0, 1, {NO_MATCH: 1})],
    **{
        f"{domain}.unsigned.test": [
            ("sts", f"{domain}.unsigned.test", 0, 1, {problem: 1}),
            ("no-policy-found", f"{domain}.unsigned.test", 0, 1, {NO_STARTTLS: 1}),
        ]
        for domain, problem in (
            ("late", "sts-webpki-invalid"),
            ("moved", "sts-policy-fetch-error"),
            ("html", "sts-policy-fetch-error"),
            ("missing", "sts-policy-fetch-error"),
            ("invalid", "sts-policy-invalid"),
        )
    },
    "withdrawn.unsigned.test": [("no-policy-found", "withdrawn.unsigned.test", 0, 1, {NO_STARTTLS: 1})],
    "to-dead.signed.test": [("tlsa", "mx2.signed.test", 1, 0, {})],
    "gone.signed.test": None,
    "null.signed.test": None,
}
