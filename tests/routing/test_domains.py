"""A message from the DNS to the exchanger of a domain: each rule, with the resolver of a dict and servers in memory.

The modules for routes, TLSA records, policies and sessions have more cases of each rule.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import define, field

from smtp_trio import Hooks, Server, Session, Unknown
from smtp_trio.protocol import Rcpt
from smtp_trio.routing import DomainResult, StsPolicies, send
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

from .certificates import Issued

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
A, A2, B, B6 = "192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::3"

#: example.org has two exchangers, and the first of them two addresses.
RECORDS: dict[str, Any] = {
    "example.org": {"MX": [(20, "b.example"), (10, "a.example")]},
    "a.example": {"A": [A, A2]},
    "b.example": {"A": [B], "AAAA": [B6]},
}
DOMAIN = "example.org"

AUTHORITY = Issued.make("authority", authority=True)
#: The certificates that a.example may present.
CERTIFICATES = {
    "valid": Issued.make("a.example", AUTHORITY, dns=["a.example"]),
    "expired": Issued.make("a.example", AUTHORITY, dns=["a.example"], days=(-9, -1)),
    "other name": Issued.make("x.example", AUTHORITY, dns=["x.example"]),
    "own": Issued.make("a.example", dns=["a.example"]),
}


def tlsa(certificate: str, usage: int = 3) -> dict[str, Any]:
    """Return the TLSA record of a.example for a certificate; for usage 2, that of its authority."""
    issued = AUTHORITY if usage == 2 else CERTIFICATES[certificate]
    return {"_25._tcp.a.example": {"TLSA": [issued.record(usage, 0 if usage == 2 else 1)]}}


@define
class World:
    """The exchangers of example.org: ``up`` are the addresses of those that can be connected to."""

    folder: Path
    up: Iterable[str] = (A, A2, B)
    records: Mapping[str, Any] = field(factory=dict)
    secure: Iterable[str] = ()
    failures: Mapping[Any, str] = field(factory=dict)
    #: The name of the certificate of a.example, and of b.example; None is a server without TLS.
    tls: tuple[str | None, str | None] = None, None
    #: The MTA-STS policy, with all exchangers of the domain unless they are given.
    mode: str | None = None
    mx: Iterable[str] = ("a.example", "b.example")
    settings: Mapping[str, Any] = field(factory=dict)
    inboxes: dict[str, Inbox] = field(factory=lambda: {"a": Inbox(), "b": Inbox()})
    resolver: MemoryResolver = field(init=False)

    def __attrs_post_init__(self) -> None:
        policy = {} if self.mode is None else {"_mta-sts.example.org": {"TXT": ["v=STSv1; id=1;"]}}
        self.resolver = MemoryResolver(
            {**RECORDS, **policy, **self.records}, secure=self.secure, failures=self.failures
        )

    async def fetch(self, domain: str) -> bytes:
        return "\n".join(
            ["version: STSv1", f"mode: {self.mode}", "max_age: 999999", *(f"mx: {each}" for each in self.mx)]
        ).encode()

    def server(self, host: str) -> Server:
        name = self.tls[host == "b"]
        context = None if name is None else CERTIFICATES[name].server_context(self.folder)
        return Server(self.inboxes[host], tls=context)

    async def send(self, recipient: str = f"you@{DOMAIN}") -> tuple[str, str]:
        """Send the message; return its outcome, and the exchangers that have received it."""
        trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusted.load_verify_locations(cadata=AUTHORITY.der)
        settings = {
            "sts": StsPolicies(self.resolver, self.fetch),
            "sts_context": trusted,
            "random": Random(1),
            **self.settings,
        }
        servers = {address: self.server("a" if address in (A, A2) else "b") for address in self.up}
        async with memory_network(servers or {"unused.test": Server(Hooks())}):
            result = await send(
                MESSAGE, sender="me@example.net", recipients=[recipient], resolver=self.resolver, **settings
            )
        [self.result] = result.domains
        [outcome] = result.outcomes
        assert not isinstance(outcome, Unknown)
        received = "".join(host for host, inbox in self.inboxes.items() for _ in inbox)
        return f"{outcome.reply.code} {outcome.reply.status}", received

    result: DomainResult = field(init=False)


OK = "250 2.0.0"

#: The rules of RFC 5321 5.1 and RFC 7505: what is special about the world, the outcome, and which exchangers have
#: received the message.
MX_RULES: dict[str, tuple[dict[str, Any], str, str]] = {
    "5321 5.1, the most preferred exchanger": ({}, OK, "a"),
    "5321 5.1, the second address of an exchanger": ({"up": [A2, B]}, OK, "a"),
    "5321 5.1, the next exchanger": ({"up": [B]}, OK, "b"),
    "5321 5.1, the next exchanger by IPv6": ({"up": [B6]}, OK, "b"),
    "5321 5.1, all exchangers are dead": ({"up": []}, "451 4.4.1", ""),
    "5321 5.1, implicit MX": ({"records": {DOMAIN: {"A": [B]}}}, OK, "b"),
    "5321 5.1, implicit MX of IPv6": ({"records": {DOMAIN: {"AAAA": [B6]}}, "up": [B6]}, OK, "b"),
    "5321 5.1, no implicit MX beside MX records": (
        {"records": {DOMAIN: {"MX": [(10, "none.example")], "A": [B]}}},
        "550 5.4.4",
        "",
    ),
    "5321 5.1, CNAME of the domain": (
        {"records": {DOMAIN: {"CNAME": ["alias.example"]}, "alias.example": {"MX": [(1, "b.example")]}}},
        OK,
        "b",
    ),
    "5321 5.1, CNAME and implicit MX": ({"records": {DOMAIN: {"CNAME": ["b.example"]}}}, OK, "b"),
    "5321 5.1, the domain has no records": ({"records": {DOMAIN: {}}}, "550 5.4.4", ""),
    "5321 5.1, the lookup of MX records fails": ({"failures": {(DOMAIN, "MX"): "SERVFAIL"}}, "451 4.4.3", ""),
    "5321 5.1, the lookup for the first exchanger fails": ({"failures": {"a.example": "SERVFAIL"}}, OK, "b"),
    "5321 5.1, one lookup fails and one host has no address": (
        {"records": {"b.example": {}}, "failures": {"a.example": "SERVFAIL"}},
        "451 4.4.3",
        "",
    ),
    "5321 5.1, own host is less preferred": ({"settings": {"own": ["b.example"]}, "up": [B]}, "451 4.4.1", ""),
    "5321 5.1, own host is less preferred, by address": ({"settings": {"own": [B6]}, "up": [B]}, "451 4.4.1", ""),
    "5321 5.1, own host is the most preferred": ({"settings": {"own": ["A.example."]}}, "554 5.4.6", ""),
    "5321 5.1, own host is the most preferred, by address": ({"settings": {"own": [A2]}}, "554 5.4.6", ""),
    "5321 5.1, a loopback address is the own host": ({"records": {"a.example": {"A": ["127.0.0.9"]}}}, "554 5.4.6", ""),
    "7505 4.1, null MX": ({"records": {DOMAIN: {"MX": [(0, ".")], "A": [B]}}}, "556 5.1.10", ""),
}


@pytest.mark.parametrize("rule", MX_RULES)
async def test_mx(rule: str, tmp_path: Path) -> None:
    changes, outcome, received = MX_RULES[rule]
    assert await World(tmp_path, **changes).send() == (outcome, received)


async def test_null_mx_is_decided_without_a_connection(tmp_path: Path) -> None:
    """RFC 7505 4.1."""
    world = World(tmp_path, records={DOMAIN: {"MX": [(0, ".")], "A": [B]}})
    await world.send()
    assert world.result.attempts == ()
    assert world.resolver.queries == [(DOMAIN, "MX")]


async def test_domain_that_does_not_exist(tmp_path: Path) -> None:
    """RFC 5321 5.1: it MUST be reported as an error."""
    assert await World(tmp_path).send("you@none.example") == ("550 5.1.2", "")


async def test_address_literal(tmp_path: Path) -> None:
    """RFC 5321 4.1.3: nothing is looked up."""
    world = World(tmp_path, up=[B6])
    assert await world.send(f"you@[IPv6:{B6}]") == (OK, "b")
    assert world.resolver.queries == []


async def test_exchangers_of_equal_preference_are_chosen_at_random(tmp_path: Path) -> None:
    """RFC 5321 5.1: a MUST."""
    records = {DOMAIN: {"MX": [(10, "a.example"), (10, "b.example")]}}
    random = Random(0)
    outcomes = [await World(tmp_path, records=records, settings={"random": random}).send() for _ in range(20)]
    assert set(outcomes) == {(OK, "a"), (OK, "b")}


async def test_recipient_keeps_its_domain(tmp_path: Path) -> None:
    """RFC 5321 5.1: a CNAME decides where the message is sent, and is no other recipient."""
    seen: list[Rcpt] = []

    class Noting(Inbox):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> None:
            seen.append(rcpt)

    world = World(tmp_path, records={"alias.example": {"CNAME": [DOMAIN]}}, inboxes={"a": Noting(), "b": Inbox()})
    assert await world.send("you@alias.example") == (OK, "a")
    assert [str(each.recipient) for each in seen] == ["you@alias.example"]
    assert world.result.domain == "alias.example"


SIGNED = ["example.org", "example"]

#: The rules of RFC 7672, in signed zones.
DANE_RULES: dict[str, tuple[dict[str, Any], str, str]] = {
    "7672 3.1.1, DANE-EE": ({"records": tlsa("own"), "tls": ("own", None)}, OK, "a"),
    "7672 3.1.1, DANE-EE, expired certificate": ({"records": tlsa("expired"), "tls": ("expired", None)}, OK, "a"),
    "7672 3.1.1, DANE-EE, other name": ({"records": tlsa("other name"), "tls": ("other name", None)}, OK, "a"),
    "7672 3.1.2, DANE-TA": ({"records": tlsa("valid", 2), "tls": ("valid", None)}, OK, "a"),
    "7672 3.1.2, DANE-TA, expired certificate": ({"records": tlsa("valid", 2), "tls": ("expired", None)}, OK, "b"),
    "7672 3.2.2, DANE-TA, other name": ({"records": tlsa("valid", 2), "tls": ("other name", None)}, OK, "b"),
    "7672 2.2, another key": ({"records": tlsa("valid"), "tls": ("own", None)}, OK, "b"),
    "7672 2.2, another key of the only exchanger": (
        {"records": tlsa("valid"), "tls": ("own", None), "up": [A]},
        "451 4.7.5",
        "",
    ),
    "7672 2.2, STARTTLS is missing": ({"records": tlsa("valid")}, OK, "b"),
    "7672 2.2, STARTTLS of the only exchanger is missing": ({"records": tlsa("valid"), "up": [A]}, "451 4.7.4", ""),
    "7672 2.2, secure and unusable": ({"records": tlsa("valid", 1), "tls": ("own", None)}, OK, "a"),
    "7672 2.2, secure and unusable, STARTTLS is missing": ({"records": tlsa("valid", 1)}, OK, "b"),
    "7672 2.2, insecure": ({"records": tlsa("valid"), "secure": ["example.org"]}, OK, "a"),
    "7672 2.1.2, bogus": (
        {"records": tlsa("own"), "tls": ("own", None), "failures": {"_25._tcp.a.example": "bogus"}},
        OK,
        "b",
    ),
    "7672 2.1.2, bogus, no other exchanger": (
        {
            "records": {**tlsa("own"), "b.example": {}},
            "tls": ("own", None),
            "failures": {"_25._tcp.a.example": "bogus"},
        },
        "451 4.4.3",
        "",
    ),
    "7672 6, required": ({"records": tlsa("own"), "tls": ("own", None), "settings": {"dane": "required"}}, OK, "a"),
    "7672 6, required and missing": ({"settings": {"dane": "required"}, "tls": ("own", None)}, "451 4.7.5", ""),
}


@pytest.mark.parametrize("rule", DANE_RULES)
async def test_dane(rule: str, tmp_path: Path) -> None:
    changes, outcome, received = DANE_RULES[rule]
    assert await World(tmp_path, **{"secure": SIGNED, **changes}).send() == (outcome, received)


VALID = ("valid", None)

#: The rules of RFC 8461.
STS_RULES: dict[str, tuple[dict[str, Any], str, str]] = {
    "8461 5, enforce": ({"mode": "enforce", "tls": VALID}, OK, "a"),
    "8461 5, enforce, STARTTLS is missing": ({"mode": "enforce"}, "451 4.7.4", ""),
    "8461 4.2, enforce, expired certificate": (
        {"mode": "enforce", "tls": ("expired", None), "up": [A]},
        "451 4.7.5",
        "",
    ),
    "8461 4.2, enforce, other name": ({"mode": "enforce", "tls": ("other name", None), "up": [A]}, "451 4.7.5", ""),
    "8461 4.2, enforce, unknown authority": ({"mode": "enforce", "tls": ("own", None), "up": [A]}, "451 4.7.5", ""),
    "8461 4.1, enforce, not named": (
        {"mode": "enforce", "mx": ["b.example"], "tls": VALID, "up": [A, B6]},
        "451 4.7.4",
        "",
    ),
    "8461 4.1, enforce, none is named": ({"mode": "enforce", "mx": ["c.example"], "tls": VALID}, "451 4.7.5", ""),
    "8461 4.1, enforce, wildcard": ({"mode": "enforce", "mx": ["*.example"], "tls": VALID}, OK, "a"),
    "8461 4.1, enforce, wildcard for one label": (
        {"mode": "enforce", "mx": ["*.org"], "records": {DOMAIN: {"MX": [(1, "a.b.org")]}, "a.b.org": {"A": [A]}}},
        "451 4.7.5",
        "",
    ),
    "8461 5, testing": ({"mode": "testing", "tls": VALID}, OK, "a"),
    "8461 5, testing, STARTTLS is missing": ({"mode": "testing"}, OK, "a"),
    "8461 5, testing, expired certificate": ({"mode": "testing", "tls": ("expired", None)}, OK, "a"),
    "8461 5, testing, not named": ({"mode": "testing", "mx": ["b.example"]}, OK, "a"),
    "8461 5, none": ({"mode": "none", "mx": []}, OK, "a"),
    "8461 3.1, no policy": ({"settings": {"sts": None}}, OK, "a"),
    "8461 2, DANE takes precedence over a valid certificate": (
        {"mode": "enforce", "tls": VALID, "records": tlsa("own"), "secure": SIGNED, "up": [A]},
        "451 4.7.5",
        "",
    ),
    "8461 2, DANE takes precedence over an unknown authority": (
        {"mode": "enforce", "tls": ("own", None), "records": tlsa("own"), "secure": SIGNED},
        OK,
        "a",
    ),
}


@pytest.mark.parametrize("rule", STS_RULES)
async def test_mta_sts(rule: str, tmp_path: Path) -> None:
    changes, outcome, received = STS_RULES[rule]
    assert await World(tmp_path, **changes).send() == (outcome, received)


async def test_policy_is_looked_for_again_after_it_has_failed(tmp_path: Path) -> None:
    """RFC 8461 5.1 (3): the message is delayed, and the next attempt is made with the new policy."""
    world = World(tmp_path, mode="enforce")
    world.settings = {"sts": StsPolicies(world.resolver, world.fetch)}
    assert await world.send() == ("451 4.7.4", "")
    world.mode = "none"
    assert await world.send() == ("451 4.7.4", "")  # the id is the same
    world.resolver.records["_mta-sts.example.org"] = {"TXT": ["v=STSv1; id=2;"]}
    assert await world.send() == ("451 4.7.4", "")
    assert await world.send() == (OK, "a")


@pytest.mark.parametrize(
    "changes",
    [{"mode": "enforce", "up": []}, {"mode": "testing"}, {"records": tlsa("own"), "secure": SIGNED, "up": [A]}],
    ids=["dead", "testing", "DANE"],
)
async def test_policy_is_not_looked_for_again_after_another_failure(changes: dict[str, Any], tmp_path: Path) -> None:
    world = World(tmp_path, **changes)
    await world.send()
    assert world.resolver.queries.count(("_mta-sts.example.org", "TXT")) == 1
