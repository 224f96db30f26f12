"""`DnsResolver` and `route` with a name server that signs its zones and a resolver that validates them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from smtp_trio.routing import (
    Dane,
    DnsResolver,
    LookupFailedError,
    NoExchangerError,
    NullMxError,
    Opportunistic,
    TlsaRecord,
    route,
)

from .conftest import require
from .name_servers import Zone, validating_resolver

pytestmark = pytest.mark.interop

RECORD = TlsaRecord(3, 1, 1, bytes(range(32)))
ZONES = {
    "signed.test": Zone(f"""\
@ MX 10 mx1
@ MX 20 mx.unsigned.test.
@ MX 30 alias
@ MX 40 mx.bogus.test.
mx1 A 192.0.2.1
mx1 AAAA 2001:db8::1
_25._tcp.mx1 TLSA {RECORD}
alias CNAME mx1
www CNAME signed.test.
null MX 0 .
hosted MX 10 outside
outside CNAME mx.unsigned.test.
_25._tcp.outside CNAME _25._tcp.mx1
implicit A 192.0.2.4
"""),
    "unsigned.test": Zone(
        f"""\
@ MX 10 mx1.signed.test.
mx A 192.0.2.2
_25._tcp.mx TLSA {RECORD}
""",
        "unsigned",
    ),
    "bogus.test": Zone("@ MX 10 mx\nmx A 192.0.2.3\n", "bogus"),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address of the validating resolver."""
    require("knotd")
    require("unbound")
    directory: Path = tmp_path_factory.mktemp("name-servers")
    with validating_resolver(directory, ZONES) as address:
        yield address


@pytest.fixture
def resolver(address: tuple[str, int]) -> DnsResolver:
    return DnsResolver([address], timeout=100)


@pytest.mark.parametrize(
    ("name", "exists", "secure"),
    [
        ("mx1.signed.test", True, True),
        ("alias.signed.test", True, True),
        ("gone.signed.test", False, True),
        ("mx.unsigned.test", True, False),
        ("gone.unsigned.test", False, False),
        ("outside.signed.test", True, False),
    ],
)
async def test_security_of_answers(resolver: DnsResolver, name: str, exists: bool, secure: bool) -> None:
    """RFC 7672 2.1.1; the AD bit is that of the whole chain of CNAME records (2.1.3)."""
    answer = await resolver.query(name, "A")
    assert (answer.exists, answer.secure) == (exists, secure)
    assert not (await resolver.query(name, "TXT")).records


async def test_cname_record_alone(resolver: DnsResolver) -> None:
    answer = await resolver.query("outside.signed.test", "CNAME")
    assert (answer.records, answer.secure) == (("mx.unsigned.test",), True)


async def test_bogus_answer(resolver: DnsResolver) -> None:
    """It is a failed lookup, with the reason of the resolver (RFC 8914)."""
    with pytest.raises(LookupFailedError, match="SERVFAIL") as caught:
        await resolver.query("mx.bogus.test", "A")
    assert caught.value.temporary


async def test_route(resolver: DnsResolver) -> None:
    found = await route("www.signed.test", resolver=resolver, random=Random(1))
    assert (found.canonical_name, found.secure) == ("signed.test", True)
    dane = Dane((RECORD,), ("mx1.signed.test", "www.signed.test", "signed.test"))
    assert [(exchanger.name, exchanger.addresses, exchanger.tls) for exchanger in found.exchangers] == [
        ("mx1.signed.test", ("2001:db8::1", "192.0.2.1"), dane),
        ("mx.unsigned.test", ("192.0.2.2",), Opportunistic()),
        ("alias.signed.test", ("2001:db8::1", "192.0.2.1"), dane),
    ]
    assert [(each.name, each.error.temporary) for each in found.unreachable] == [("mx.bogus.test", True)]


async def test_insecure_mx_records_with_a_secure_exchanger(resolver: DnsResolver) -> None:
    [exchanger] = (await route("unsigned.test", resolver=resolver)).exchangers
    assert exchanger.tls == Dane((RECORD,), ("mx1.signed.test",), secure_route=False)
    with pytest.raises(NoExchangerError, match=r"451 4\.7\.5"):
        await route("unsigned.test", resolver=resolver, dane="required")


async def test_exchanger_in_an_unsigned_zone_with_records_in_the_signed_one(resolver: DnsResolver) -> None:
    """RFC 7672 2.2.2, "Insecure CNAME"; the TLSA records are themselves reached by a CNAME record."""
    [exchanger] = (await route("hosted.signed.test", resolver=resolver)).exchangers
    assert exchanger.tls == Dane((RECORD,), ("outside.signed.test", "hosted.signed.test"))


async def test_implicit_mx(resolver: DnsResolver) -> None:
    [exchanger] = (await route("implicit.signed.test", resolver=resolver)).exchangers
    assert (exchanger.name, exchanger.addresses, exchanger.tls) == (
        "implicit.signed.test",
        ("192.0.2.4",),
        Opportunistic(),
    )


async def test_domains_without_a_route(resolver: DnsResolver) -> None:
    with pytest.raises(NullMxError):
        await route("null.signed.test", resolver=resolver)
    with pytest.raises(NoExchangerError, match=r"5\.1\.2"):
        await route("gone.signed.test", resolver=resolver)
    with pytest.raises(LookupFailedError) as caught:
        await route("bogus.test", resolver=resolver)
    assert caught.value.temporary
