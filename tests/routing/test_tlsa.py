"""Which TLSA records apply to an exchanger, and what follows from them (RFC 7672 2.1 and 2.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from attrs import evolve
from trio.testing import MockClock

from smtp_trio.routing import (
    Answer,
    Dane,
    NoExchangerError,
    Opportunistic,
    RecordType,
    Route,
    TlsaRecord,
    TlsPolicy,
    route,
)
from smtp_trio.testing import MemoryResolver

EE = TlsaRecord(3, 1, 1, bytes(32))
TA = TlsaRecord(2, 0, 1, bytes(range(32)))
PKIX = TlsaRecord(1, 1, 1, bytes(32))

Zones = Mapping[str, Mapping[str, Sequence[TlsaRecord | tuple[int, str] | str]]]

#: A domain whose MX records and exchanger are in two zones.
PLAIN: Zones = {
    "example.org": {"MX": [(10, "mx.example.net")]},
    "mx.example.net": {"A": ["192.0.2.1"]},
    "_25._tcp.mx.example.net": {"TLSA": [EE, TA]},
}
BOTH = ["example.org", "example.net"]


def policy(found: Route) -> TlsPolicy:
    [exchanger] = found.exchangers
    return exchanger.tls


def asked(resolver: MemoryResolver, type: str = "TLSA") -> list[str]:
    return [name for name, each in resolver.queries if each == type]


async def test_secure_usable_records_require_authentication() -> None:
    """RFC 7672 2.2: TLS and authentication are mandatory."""
    resolver = MemoryResolver(PLAIN, secure=BOTH)
    found = await route("example.org", resolver=resolver)
    assert found.secure
    assert policy(found) == Dane((EE, TA), ("mx.example.net", "example.org"), secure_route=True)
    assert found.exchangers[0].tls.usable == (EE, TA)  # type: ignore[union-attr]
    assert asked(resolver) == ["_25._tcp.mx.example.net"]


@pytest.mark.parametrize("unusable", [PKIX, TlsaRecord(3, 1, 9, bytes(32)), TlsaRecord(3, 1, 1, bytes(20))], ids=str)
async def test_secure_unusable_records_require_tls_without_authentication(unusable: TlsaRecord) -> None:
    """RFC 7672 2.2."""
    resolver = MemoryResolver({**PLAIN, "_25._tcp.mx.example.net": {"TLSA": [unusable]}}, secure=BOTH)
    tls = policy(await route("example.org", resolver=resolver))
    assert isinstance(tls, Dane)
    assert (tls.records, tls.usable) == ((unusable,), ())


async def test_unusable_records_among_usable_ones() -> None:
    resolver = MemoryResolver({**PLAIN, "_25._tcp.mx.example.net": {"TLSA": [PKIX, EE]}}, secure=BOTH)
    tls = policy(await route("example.org", resolver=resolver))
    assert isinstance(tls, Dane)
    assert (tls.records, tls.usable) == ((PKIX, EE), (EE,))


async def test_insecure_records_are_opportunistic() -> None:
    """RFC 7672 2.2. Nothing is looked up in a zone that is not signed (2.2.2)."""
    resolver = MemoryResolver(PLAIN, secure=["example.org"])
    assert policy(await route("example.org", resolver=resolver)) == Opportunistic()
    assert asked(resolver) == []


async def test_insecure_records_of_a_signed_host_are_opportunistic() -> None:
    """As after a delegation to an unsigned zone."""
    resolver = MemoryResolver(
        {
            **PLAIN,
            "_25._tcp.mx.example.net": {"CNAME": "tlsa.example.com"},
            "tlsa.example.com": {"TLSA": [EE]},
        },
        secure=BOTH,
    )
    assert policy(await route("example.org", resolver=resolver)) == Opportunistic()
    assert asked(resolver) == ["_25._tcp.mx.example.net"]


@pytest.mark.parametrize("records", [{}, {"_25._tcp.mx.example.net": {"TXT": ["no TLSA"]}}], ids=["NXDOMAIN", "NODATA"])
async def test_no_records_are_opportunistic(records: Zones) -> None:
    """RFC 7672 2.2: an authenticated denial of existence."""
    zones = {name: PLAIN[name] for name in ("example.org", "mx.example.net")}
    resolver = MemoryResolver({**zones, **records}, secure=BOTH)
    assert policy(await route("example.org", resolver=resolver)) == Opportunistic()


@pytest.mark.parametrize("reason", ["SERVFAIL", "bogus", "malformed"])
async def test_failed_lookup_makes_the_exchanger_unreachable(reason: str) -> None:
    """RFC 7672 2.1.2: it MUST NOT be connected to; the next one is used."""
    resolver = MemoryResolver(
        {
            **PLAIN,
            "example.org": {"MX": [(10, "mx.example.net"), (20, "b.example")]},
            "b.example": {"A": ["192.0.2.2"]},
        },
        secure=BOTH,
        failures={("_25._tcp.mx.example.net", "TLSA"): reason},
    )
    found = await route("example.org", resolver=resolver)
    assert [exchanger.name for exchanger in found.exchangers] == ["b.example"]
    assert [each.name for each in found.unreachable] == ["mx.example.net"]


async def test_failed_lookup_delays_the_message() -> None:
    """RFC 7672 2.1.2: if no server is reachable."""
    resolver = MemoryResolver(PLAIN, secure=BOTH, failures={"_25._tcp.mx.example.net": "SERVFAIL"})
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=resolver)
    assert caught.value.temporary
    assert str(caught.value) == "451 4.4.3 DNS lookup failed: _25._tcp.mx.example.net TLSA: SERVFAIL"


async def test_lookup_without_an_answer_delays_the_message(autojump_clock: MockClock) -> None:
    resolver = MemoryResolver(PLAIN, secure=BOTH, delays={"_25._tcp.mx.example.net": math.inf})
    with pytest.raises(NoExchangerError, match="no answer within 15 s"):
        await route("example.org", resolver=resolver)


async def test_unsigned_zone_whose_name_servers_fail_on_tlsa() -> None:
    """RFC 7672 2.2.2: mail to such domains must not be delayed."""
    resolver = MemoryResolver(PLAIN, secure=["example.org"], failures={"_25._tcp.mx.example.net": "NOTIMP"})
    assert policy(await route("example.org", resolver=resolver)) == Opportunistic()


# --- MX records that are not secure -------------------------------------------------------------------------------


async def test_insecure_mx_records() -> None:
    """RFC 7672 2.2.1 and 3.2.2: the host is authenticated, by its own name only, and not as one of the domain."""
    found = await route("example.org", resolver=MemoryResolver(PLAIN, secure=["example.net"]))
    assert not found.secure
    assert policy(found) == Dane((EE, TA), ("mx.example.net",), secure_route=False)


async def test_bogus_mx_records_are_a_failed_lookup() -> None:
    resolver = MemoryResolver(PLAIN, secure=BOTH, failures={("example.org", "MX"): "bogus"})
    with pytest.raises(Exception, match=r"451 4\.4\.3") as caught:
        await route("example.org", resolver=resolver)
    assert caught.value.temporary  # type: ignore[attr-defined]


# --- CNAME records ------------------------------------------------------------------------------------------------


async def test_cname_of_the_domain_adds_a_name() -> None:
    """RFC 7672 3.2.2: base domain, next-hop domain, and the next-hop domain at the end of the CNAME records."""
    resolver = MemoryResolver(
        {
            "exchange.example.org": {"CNAME": "mail.example.org"},
            "mail.example.org": {"CNAME": "example.com"},
            "example.com": {"MX": [(10, "mx10.example.com")]},
            "mx10.example.com": {"A": ["192.0.2.10"]},
            "_25._tcp.mx10.example.com": {"TLSA": [TA]},
        },
        secure=["example.org", "example.com"],
    )
    tls = policy(await route("exchange.example.org", resolver=resolver))
    assert tls == Dane((TA,), ("mx10.example.com", "exchange.example.org", "example.com"))
    resolver.secure.remove("example.org")  # RFC 7672 2.1.3: all after an insecure CNAME record is insecure
    tls = policy(await route("exchange.example.org", resolver=resolver))
    assert tls == Dane((TA,), ("mx10.example.com",), secure_route=False)


ALIAS: Zones = {
    "example.org": {"MX": [(10, "mx.example.org")]},
    "mx.example.org": {"CNAME": ["backup.example.net"]},
    "backup.example.net": {"A": ["192.0.2.20"], "AAAA": ["2001:db8::20"]},
}
AT_EXPANDED: Zones = {"_25._tcp.backup.example.net": {"TLSA": [EE]}}
AT_INITIAL: Zones = {"_25._tcp.mx.example.org": {"TLSA": [TA]}}


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        (AT_EXPANDED, Dane((EE,), ("backup.example.net", "example.org"))),
        (AT_INITIAL, Dane((TA,), ("mx.example.org", "example.org"))),
        ({**AT_EXPANDED, **AT_INITIAL}, Dane((EE,), ("backup.example.net", "example.org"))),
        ({}, Opportunistic()),
    ],
)
async def test_secure_cname_of_an_exchanger(zones: Zones, expected: TlsPolicy) -> None:
    """RFC 7672 2.2.2 and 2.2.3: the base domain is the expanded name, and failing that, the initial one."""
    resolver = MemoryResolver({**ALIAS, **zones}, secure=BOTH)
    assert policy(await route("example.org", resolver=resolver)) == expected
    assert asked(resolver)[0] == "_25._tcp.backup.example.net"


async def test_insecure_records_at_the_expanded_name() -> None:
    """The next candidate is tried (RFC 7672 2.2.3)."""
    zones: Zones = {
        **ALIAS,
        **AT_INITIAL,
        "_25._tcp.backup.example.net": {"CNAME": ["t.example"]},
        "t.example": {"TLSA": [EE]},
    }
    found = await route("example.org", resolver=MemoryResolver(zones, secure=BOTH))
    assert policy(found) == Dane((TA,), ("mx.example.org", "example.org"))


async def test_failed_lookup_at_the_expanded_name() -> None:
    """A failure at any step counts (RFC 7672 2.2.2), so the initial name is not tried."""
    failures: dict[str | tuple[str, str], str | Exception] = {"_25._tcp.backup.example.net": "SERVFAIL"}
    resolver = MemoryResolver({**ALIAS, **AT_INITIAL}, secure=BOTH, failures=failures)
    with pytest.raises(NoExchangerError, match=r"4\.4\.3"):
        await route("example.org", resolver=resolver)
    assert asked(resolver) == ["_25._tcp.backup.example.net"]


async def test_insecure_addresses_after_a_secure_cname() -> None:
    """RFC 7672 2.2.2: the TLSA records of the initial name count. The CNAME record is looked up alone."""
    resolver = MemoryResolver({**ALIAS, **AT_EXPANDED, **AT_INITIAL}, secure=["example.org"])
    assert policy(await route("example.org", resolver=resolver)) == Dane((TA,), ("mx.example.org", "example.org"))
    assert asked(resolver, "CNAME") == ["mx.example.org"]
    assert asked(resolver) == ["_25._tcp.mx.example.org"]


async def test_insecure_cname() -> None:
    """RFC 7672 2.2.2: DANE does not apply."""
    resolver = MemoryResolver({**ALIAS, **AT_EXPANDED, **AT_INITIAL}, secure=["example.net"])
    assert policy(await route("example.org", resolver=resolver)) == Opportunistic()
    assert asked(resolver) == []


async def test_failed_lookup_of_the_cname() -> None:
    resolver = MemoryResolver(
        {**ALIAS, **AT_INITIAL}, secure=["example.org"], failures={("mx.example.org", "CNAME"): "bogus"}
    )
    with pytest.raises(NoExchangerError, match=r"4\.4\.3"):
        await route("example.org", resolver=resolver)


async def test_cname_of_the_tlsa_records_does_not_change_the_base_domain() -> None:
    """RFC 7672 2.2.3."""
    zones: Zones = {
        **PLAIN,
        "_25._tcp.mx.example.net": {"CNAME": "tlsa201._dane.example.org"},
        "tlsa201._dane.example.org": {"TLSA": [TA]},
    }
    found = await route("example.org", resolver=MemoryResolver(zones, secure=BOTH))
    assert policy(found) == Dane((TA,), ("mx.example.net", "example.org"))


@pytest.mark.parametrize("insecure", ["A", "AAAA"])
async def test_addresses_of_which_one_family_is_insecure(insecure: str) -> None:
    """The TLSA records count: no answer may turn DANE off. Validating resolvers do not return this for one name."""
    resolver = MemoryResolver({**PLAIN, "mx.example.net": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]}}, secure=BOTH)

    class Mixed:
        async def query(self, name: str, type: RecordType) -> Answer:
            answer = await resolver.query(name, type)
            return evolve(answer, secure=answer.secure and type != insecure)

    assert isinstance(policy(await route("example.org", resolver=Mixed())), Dane)


@pytest.mark.parametrize("name", ["a b.example.net", "x\\000.example.net", "192.0.2.7"])
async def test_expanded_name_that_is_not_a_host_name(name: str) -> None:
    """It is no base domain: it could be neither sent in the handshake nor be a name of a certificate."""
    resolver = MemoryResolver(
        {
            **ALIAS,
            **AT_INITIAL,
            "mx.example.org": {"CNAME": [name]},
            name: {"A": ["192.0.2.1"]},
            f"_25._tcp.{name}": {"TLSA": [EE]},
        },
        secure=["example.org", "example.net", name],
    )
    assert policy(await route("example.org", resolver=resolver)) == Dane((TA,), ("mx.example.org", "example.org"))


# --- domains without MX records, other ports, literals ------------------------------------------------------------


async def test_implicit_mx() -> None:
    """RFC 7672 2.2.2: the domain is its sole server name."""
    zones: Zones = {"example.org": {"A": ["192.0.2.1"]}, "_25._tcp.example.org": {"TLSA": [EE]}}
    found = await route("example.org", resolver=MemoryResolver(zones, secure=["example.org"]))
    assert policy(found) == Dane((EE,), ("example.org",))


async def test_implicit_mx_with_a_cname() -> None:
    """RFC 7672 3.2.2: the base domain is the expanded name, and the next-hop domain the second identifier."""
    zones: Zones = {
        "example.org": {"CNAME": "host.example.net"},
        "host.example.net": {"A": ["192.0.2.1"]},
        "_25._tcp.host.example.net": {"TLSA": [TA]},
    }
    found = await route("example.org", resolver=MemoryResolver(zones, secure=BOTH))
    assert policy(found) == Dane((TA,), ("host.example.net", "example.org"))


async def test_port_is_part_of_the_name() -> None:
    """RFC 7672 2.2.3."""
    zones: Zones = {**PLAIN, "_2525._tcp.mx.example.net": {"TLSA": [TA]}}
    found = await route("example.org", resolver=MemoryResolver(zones, secure=BOTH), port=2525)
    assert policy(found) == Dane((TA,), ("mx.example.net", "example.org"))


async def test_host_whose_name_is_too_long_for_tlsa_records() -> None:
    """`_25._tcp.` before it would be longer than 253 characters, so there can be none."""
    name = ".".join(["a" * 49] * 5)
    resolver = MemoryResolver({name: {"A": ["192.0.2.1"]}}, secure=[name])
    assert policy(await route(name, resolver=resolver)) == Opportunistic()
    assert asked(resolver) == []


async def test_dane_never() -> None:
    resolver = MemoryResolver(PLAIN, secure=BOTH)
    assert policy(await route("example.org", resolver=resolver, dane="never")) == Opportunistic()
    assert asked(resolver) == []


async def test_order_does_not_depend_on_tlsa_records() -> None:
    """RFC 7672 2.2.1: obeying MX preferences takes precedence."""
    zones: Zones = {
        **PLAIN,
        "example.org": {"MX": [(5, "open.example"), (10, "mx.example.net")]},
        "open.example": {"A": ["192.0.2.5"]},
    }
    found = await route("example.org", resolver=MemoryResolver(zones, secure=BOTH))
    assert [exchanger.name for exchanger in found.exchangers] == ["open.example", "mx.example.net"]


# --- mandatory DANE (RFC 7672 6) ----------------------------------------------------------------------------------


async def test_required_dane() -> None:
    """Exchangers without usable records are left out."""
    zones: Zones = {
        **PLAIN,
        "example.org": {"MX": [(5, "open.example"), (7, "pkix.example.net"), (10, "mx.example.net")]},
        "open.example": {"A": ["192.0.2.5"]},
        "pkix.example.net": {"A": ["192.0.2.6"]},
        "_25._tcp.pkix.example.net": {"TLSA": [PKIX]},
    }
    resolver = MemoryResolver(zones, secure=BOTH)
    found = await route("example.org", resolver=resolver, dane="required")
    assert [exchanger.name for exchanger in found.exchangers] == ["mx.example.net"]
    assert [str(each.error)[:9] for each in found.unreachable] == ["451 4.7.5", "451 4.7.5"]
    del resolver.records["_25._tcp.mx.example.net"]
    with pytest.raises(NoExchangerError, match=r"451 4\.7\.5 open\.example has no usable and secure TLSA records"):
        await route("example.org", resolver=resolver, dane="required")


async def test_required_dane_and_insecure_mx_records() -> None:
    """RFC 7672 2.2.1: delivery MUST be delayed."""
    resolver = MemoryResolver(PLAIN, secure=["example.net"])
    with pytest.raises(NoExchangerError, match=r"451 4\.7\.5 the MX records of example\.org are not secure"):
        await route("example.org", resolver=resolver, dane="required")
    assert resolver.queries == [("example.org", "MX")]


async def test_required_dane_and_an_address_literal() -> None:
    with pytest.raises(NoExchangerError, match=r"451 4\.7\.5"):
        await route("[192.0.2.1]", resolver=MemoryResolver({}), dane="required")
