"""From a domain to its exchangers (RFC 5321 5.1, RFC 7505): order, addresses, loops, and domains without a route."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
import trio
from trio.testing import MockClock

from smtp_trio import SMTPError
from smtp_trio.routing import (
    Answer,
    Exchanger,
    LookupFailedError,
    MxRecord,
    NoExchangerError,
    NullMxError,
    Opportunistic,
    RecordType,
    Route,
    RoutingError,
    route,
)
from smtp_trio.testing import MemoryResolver

ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"


def hosts(found: Route) -> list[str]:
    return [exchanger.name for exchanger in found.exchangers]


def exchangers(*names: str) -> dict[str, dict[str, list[str]]]:
    """Return the records of hosts with one address each."""
    return {name: {"A": [f"192.0.2.{number}"]} for number, name in enumerate(names, 1)}


def domain(*mx: tuple[int, str]) -> MemoryResolver:
    """Return a resolver with these MX records of example.org, whose hosts have one address each."""
    return MemoryResolver({"example.org": {"MX": list(mx)}, **exchangers(*(host for _, host in mx))})


# --- order --------------------------------------------------------------------------------------------------------


async def test_exchangers_are_sorted_by_preference() -> None:
    """RFC 5321 5.1: lower numbers are more preferred, whatever the order of the records is."""
    found = await route("example.org", resolver=domain((20, "b.example"), (5, "a.example"), (100, "c.example")))
    assert found == Route(
        "example.org",
        "example.org",
        secure=False,
        exchangers=(
            Exchanger("a.example", 5, (TWO,), Opportunistic()),
            Exchanger("b.example", 20, (ONE,), Opportunistic()),
            Exchanger("c.example", 100, (THREE,), Opportunistic()),
        ),
    )


async def test_exchangers_of_equal_preference_are_in_random_order() -> None:
    """RFC 5321 5.1: a MUST, to spread the load. The source of randomness decides."""
    resolver = domain((10, "a.example"), (10, "b.example"), (10, "c.example"), (5, "first.example"))
    seen = Counter()  # type: ignore[var-annotated]
    for seed in range(300):
        first, *others = hosts(await route("example.org", resolver=resolver, random=Random(seed)))
        assert first == "first.example"
        seen[tuple(others)] += 1
        assert [first, *others] == hosts(await route("example.org", resolver=resolver, random=Random(seed)))
    assert len(seen) == 6
    assert min(seen.values()) > 20


async def test_order_is_random_by_default() -> None:
    resolver = domain((10, "a.example"), (10, "b.example"))
    assert len({tuple(hosts(await route("example.org", resolver=resolver))) for _ in range(64)}) == 2


async def test_exchanger_with_several_records_is_tried_once() -> None:
    """With its lowest preference."""
    resolver = domain((30, "a.example"), (20, "b.example"), (10, "A.example."))
    found = await route("example.org", resolver=resolver)
    assert [(exchanger.preference, exchanger.name) for exchanger in found.exchangers] == [
        (10, "a.example"),
        (20, "b.example"),
    ]


# --- addresses ----------------------------------------------------------------------------------------------------


async def test_addresses_of_both_families_alternate() -> None:
    """RFC 5321 5.1 and 5.2: at least two addresses, and those of one family in the order presented."""
    resolver = MemoryResolver({"example.org": {"A": [TWO, ONE, THREE], "AAAA": ["2001:db8::2", "2001:DB8::1"]}})
    found = await route("example.org", resolver=resolver)
    assert found.exchangers[0].addresses == ("2001:db8::2", TWO, "2001:db8::1", ONE, THREE)


async def test_failed_lookup_of_one_family_leaves_the_other() -> None:
    resolver = MemoryResolver({"example.org": {"A": [ONE]}}, failures={("example.org", "AAAA"): "SERVFAIL"})
    assert (await route("example.org", resolver=resolver)).exchangers[0].addresses == (ONE,)


async def test_addresses_that_mean_no_other_host_are_left_out() -> None:
    """A connection to 0.0.0.0 or :: would be one to the own host."""
    addresses = {"A": ["0.0.0.0", ONE, "224.0.0.1", ONE], "AAAA": ["::", "ff02::1", "::ffff:0.0.0.0", "rubbish"]}
    found = await route("example.org", resolver=MemoryResolver({"example.org": addresses}))
    assert found.exchangers[0].addresses == (ONE,)


# --- domains without MX records, aliases, literals ----------------------------------------------------------------


async def test_domain_without_mx_records_is_its_own_exchanger() -> None:
    """RFC 5321 5.1: the implicit MX, of preference 0."""
    found = await route("example.org", resolver=MemoryResolver({"example.org": {"A": [ONE]}}))
    assert found.exchangers == (Exchanger("example.org", 0, (ONE,), Opportunistic()),)


async def test_addresses_of_a_domain_with_mx_records_are_not_used() -> None:
    """RFC 5321 5.1: MUST NOT, also if no exchanger is usable."""
    resolver = MemoryResolver({"example.org": {"MX": [(10, "gone.example")], "A": [ONE]}})
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=resolver)
    assert ("example.org", "A") not in resolver.queries
    assert str(caught.value.reply) == "550 5.4.4 gone.example has no address"


async def test_cname_of_a_domain_is_followed() -> None:
    """RFC 5321 5.1: the resulting name is processed as if it were the initial one."""
    resolver = MemoryResolver(
        {
            "example.org": {"CNAME": "alias.example"},
            "alias.example": {"CNAME": ["example.net"]},
            "example.net": {"MX": [(10, "mx.example.net")]},
            "mx.example.net": {"A": [ONE]},
        }
    )
    found = await route("example.org", resolver=resolver)
    assert (found.domain, found.canonical_name, hosts(found)) == ("example.org", "example.net", ["mx.example.net"])


async def test_cname_of_a_domain_without_mx_records() -> None:
    resolver = MemoryResolver({"example.org": {"CNAME": "host.example"}, "host.example": {"A": [ONE]}})
    found = await route("example.org", resolver=resolver)
    assert found.exchangers == (Exchanger("example.org", 0, (ONE,), Opportunistic()),)


async def test_cname_of_an_exchanger_is_tolerated() -> None:
    """RFC 5321 5.1 leaves it out of its scope; many domains have one."""
    resolver = MemoryResolver(
        {"example.org": {"MX": [(1, "mx.example")]}, "mx.example": {"CNAME": "x.example"}, "x.example": {"A": [ONE]}}
    )
    assert (await route("example.org", resolver=resolver)).exchangers[0].addresses == (ONE,)


@pytest.mark.parametrize(
    ("literal", "address"),
    [("[192.0.2.1]", ONE), ("[IPv6:2001:db8::1]", "2001:db8::1"), ("[ipv6:2001:DB8::1]", "2001:db8::1")],
)
async def test_address_literal(literal: str, address: str) -> None:
    """RFC 5321 4.1.3: nothing is looked up."""
    resolver = MemoryResolver({})
    found = await route(literal, resolver=resolver)
    assert found.exchangers == (Exchanger(literal, 0, (address,), Opportunistic()),)
    assert resolver.queries == []


@pytest.mark.parametrize(
    ("given", "asked"),
    [("EXAMPLE.Org", "example.org"), ("example.org.", "example.org"), ("bücher.example", "xn--bcher-kva.example")],
)
async def test_name_of_a_domain_is_normalized(given: str, asked: str) -> None:
    resolver = MemoryResolver({asked: {"A": [ONE]}})
    assert (await route(given, resolver=resolver)).domain == asked
    assert resolver.queries[0] == (asked, "MX")


@pytest.mark.parametrize(
    "invalid",
    [
        "", ".", "a..b", "-.example org", "example.org\n", "a" * 64 + ".example", "a." * 127 + "example", "example.org:25",
        "192.0.2.1", "2001:db8::1", "[192.0.2.256]", "[192.0.2.1", "[2001:db8::1]", "[IPv6:192.0.2.1]", "[IPv6:fe80::1%eth0]",
        "[X400:foo]", "[]", "user@example.org", "ex\0ample.org", "bü\u00adch er.example",
    ],
)  # fmt: skip
async def test_invalid_domain_is_a_value_error_before_any_lookup(invalid: str) -> None:
    resolver = MemoryResolver({})
    with pytest.raises(ValueError, match="domain"):
        await route(invalid, resolver=resolver)
    assert resolver.queries == []


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"domain": None}, TypeError, "domain must be a str"),
        ({"domain": b"example.org"}, TypeError, "domain must be a str"),
        ({"dane": "maybe"}, ValueError, "dane must be"),
        ({"dane": True}, ValueError, "dane must be"),
        ({"port": 0}, ValueError, "port must be"),
        ({"own": "mx.example"}, TypeError, "own must be an iterable of str"),
        ({"own": ["a b"]}, ValueError, "own: invalid host name"),
        ({"own": [25]}, TypeError, "each item of own"),
        ({"lookup_timeout": -1}, ValueError, "timeout must be >= 0"),
        ({"loopback": "yes"}, TypeError, "loopback must be bool"),
        ({"random": 7}, TypeError, "random must be Random or None"),
    ],
    ids=str,
)
async def test_invalid_argument(arguments: dict[str, object], error: type[Exception], text: str) -> None:
    resolver = MemoryResolver({"example.org": {"A": [ONE]}})
    with pytest.raises(error, match=text):
        await route(**{"domain": "example.org", "resolver": resolver, **arguments})  # type: ignore[arg-type]
    assert resolver.queries == []


# --- domains without a route --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mx", [[(0, ".")], [(0, "")], [(10, ".")]])
async def test_null_mx(mx: list[tuple[int, str]]) -> None:
    """RFC 7505 4.1: 556 5.1.10, without a lookup of addresses."""
    resolver = MemoryResolver({"example.org": {"MX": mx, "A": [ONE]}})
    with pytest.raises(NullMxError) as caught:
        await route("example.org", resolver=resolver)
    assert (caught.value.reply.code, caught.value.reply.status) == (556, "5.1.10")
    assert (caught.value.domain, caught.value.temporary) == ("example.org", False)
    assert resolver.queries == [("example.org", "MX")]


async def test_null_mx_among_other_records_is_ignored() -> None:
    """RFC 7505 3: a domain with a null MX MUST NOT have another one."""
    assert hosts(await route("example.org", resolver=domain((0, "."), (10, "mx.example")))) == ["mx.example"]


def status(error: RoutingError) -> str:
    return f"{error.reply.code} {error.reply.status}"


async def test_domain_that_does_not_exist() -> None:
    """RFC 5321 5.1: this MUST be reported as an error."""
    resolver = MemoryResolver({})
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=resolver)
    assert (status(caught.value), caught.value.temporary) == ("550 5.1.2", False)
    assert resolver.queries == [("example.org", "MX")]


async def test_domain_without_mx_records_and_addresses() -> None:
    """RFC 5321 5.1: an implicit MX that is unusable."""
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=MemoryResolver({"example.org": {"TXT": ["v=spf1 -all"]}}))
    assert status(caught.value) == "550 5.4.4"


@pytest.mark.parametrize("failure", ["SERVFAIL", LookupFailedError("example.org", "MX", "bogus")])
async def test_failed_mx_lookup_is_temporary(failure: str | Exception) -> None:
    """RFC 5321 5.1: the message MUST be queued; it is no empty answer, so addresses are not used."""
    resolver = MemoryResolver({"example.org": {"A": [ONE]}}, failures={("example.org", "MX"): failure})
    with pytest.raises(LookupFailedError) as caught:
        await route("example.org", resolver=resolver)
    assert (status(caught.value), caught.value.temporary) == ("451 4.4.3", True)
    assert (caught.value.name, caught.value.type) == ("example.org", "MX")
    assert resolver.queries == [("example.org", "MX")]


async def test_permanent_failure_of_the_mx_lookup() -> None:
    failure = LookupFailedError("example.org", "MX", "YXDOMAIN", temporary=False)
    with pytest.raises(LookupFailedError) as caught:
        await route("example.org", resolver=MemoryResolver({}, failures={"example.org": failure}))
    assert (status(caught.value), caught.value.temporary) == ("550 5.4.3", False)


async def test_exchangers_that_are_unreachable_are_left_out() -> None:
    """RFC 7672 2.1.2: delivery may proceed via the other hosts; the route has the reasons."""
    resolver = domain((10, "a.example"), (20, "b.example"), (30, "c.example"), (40, "d_e.example"))
    resolver.failures["a.example"] = "SERVFAIL"
    resolver.records["c.example"] = {}
    found = await route("example.org", resolver=resolver)
    assert hosts(found) == ["b.example", "d_e.example"]
    assert [(each.name, each.preference, status(each.error)) for each in found.unreachable] == [
        ("a.example", 10, "451 4.4.3"),
        ("c.example", 30, "550 5.4.4"),
    ]


@pytest.mark.parametrize("mx", ["192.0.2.1", "2001:db8::1", "a b.example", "mx\\000.example", "[192.0.2.1]", "a" * 64])
async def test_mx_record_without_a_host_name(mx: str) -> None:
    """RFC 5321 5.1: it MUST contain a domain name."""
    resolver = MemoryResolver({"example.org": {"MX": [(10, mx)]}, mx: {"A": [ONE]}})
    with pytest.raises(NoExchangerError, match=r"550 5\.4\.4 .* is not a host name"):
        await route("example.org", resolver=resolver)
    assert resolver.queries == [("example.org", "MX")]


@pytest.mark.parametrize("failing", ["a.example", "b.example"])
@pytest.mark.parametrize("type", ["A", "AAAA"])
async def test_failure_is_permanent_only_if_it_is_for_all_exchangers(failing: str, type: str) -> None:
    """RFC 5321 5.1: MX records of which none is usable. A temporary DNS failure is never reported as permanent."""
    resolver = MemoryResolver({"example.org": {"MX": [(1, "a.example"), (2, "b.example")]}})
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=resolver)
    assert (status(caught.value), len(caught.value.unreachable)) == ("550 5.4.4", 2)
    resolver.failures[failing, type] = "SERVFAIL"
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=resolver)
    assert (status(caught.value), caught.value.temporary) == ("451 4.4.3", True)
    assert failing in str(caught.value)


async def test_temporary_failure_of_one_family_counts_before_a_permanent_one_of_the_other() -> None:
    permanent = LookupFailedError("example.org", "AAAA", "YXDOMAIN", temporary=False)
    failures: dict[str | tuple[str, str], str | Exception] = {
        ("example.org", "AAAA"): permanent,
        ("example.org", "A"): "SERVFAIL",
    }
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=MemoryResolver({"example.org": {}}, failures=failures))
    assert caught.value.temporary


def test_every_error_is_an_smtp_error() -> None:
    assert issubclass(NullMxError, RoutingError)
    assert issubclass(NoExchangerError, RoutingError)
    assert issubclass(LookupFailedError, RoutingError)
    assert issubclass(RoutingError, SMTPError)


# --- loops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "left"),
    [
        ([], ["a.example", "b.example", "c.example", "d.example"]),
        (["other.example", "198.51.100.1"], ["a.example", "b.example", "c.example", "d.example"]),
        (["d.example"], ["a.example", "b.example", "c.example"]),
        (["C.Example."], ["a.example"]),
        (["b.example"], ["a.example"]),
        (["b.example", "d.example"], ["a.example"]),
        (["192.0.2.4"], ["a.example", "b.example", "c.example"]),
        (["[192.0.2.3]"], ["a.example"]),
        (["::ffff:192.0.2.2"], ["a.example"]),
        (["d.example", "192.0.2.2"], ["a.example"]),
    ],
    ids=str,
)
async def test_own_host_and_less_preferred_exchangers_are_left_out(own: list[str], left: list[str]) -> None:
    """RFC 5321 5.1: those of the same preference too."""
    resolver = domain((10, "a.example"), (20, "b.example"), (20, "c.example"), (30, "d.example"))
    found = await route("example.org", resolver=resolver, own=own)
    assert sorted(hosts(found)) == left
    assert found.unreachable == ()


@pytest.mark.parametrize("own", ["a.example", "192.0.2.1", "[IPv6:::ffff:c000:201]"])
async def test_own_host_as_the_most_preferred_exchanger(own: str) -> None:
    """RFC 5321 5.1: an error condition."""
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=domain((10, "a.example"), (20, "b.example")), own=[own])
    assert (status(caught.value), caught.value.temporary) == ("554 5.4.6", False)


@pytest.mark.parametrize("name", ["example.org", "[192.0.2.1]"])
async def test_own_host_as_the_only_exchanger(name: str) -> None:
    resolver = MemoryResolver({"example.org": {"A": [ONE]}})
    for own in ("example.org", ONE):
        if name != "[192.0.2.1]" or own == ONE:
            with pytest.raises(NoExchangerError, match="loops back"):
                await route(name, resolver=resolver, own=[own])


@pytest.mark.parametrize("own", ["a.example", "192.0.2.1"])
async def test_loop_is_permanent_although_the_lookup_of_another_exchanger_fails(own: str) -> None:
    resolver = domain((10, "a.example"), (20, "b.example"))
    resolver.failures["b.example"] = "SERVFAIL"
    with pytest.raises(NoExchangerError, match=r"554 5\.4\.6"):
        await route("example.org", resolver=resolver, own=[own])


async def test_unreachable_exchanger_that_is_more_preferred_than_the_own_host() -> None:
    """It may be reachable later, so the error is temporary."""
    resolver = domain((10, "a.example"), (20, "b.example"))
    resolver.failures["a.example"] = "SERVFAIL"
    with pytest.raises(NoExchangerError, match=r"451 4\.4\.3"):
        await route("example.org", resolver=resolver, own=["b.example"])


LOOPBACK = {"A": ["127.0.0.1"]}, {"A": ["127.9.9.9"]}, {"AAAA": ["::1"]}, {"AAAA": ["::ffff:127.0.0.1"]}


@pytest.mark.parametrize("addresses", LOOPBACK, ids=str)
async def test_loopback_address_is_the_own_host(addresses: dict[str, list[str]]) -> None:
    """Strangers decide what is in the DNS for their domain, and they must not reach services of this host."""
    resolver = domain((10, "a.example"), (20, "localhost"), (30, "c.example"))
    resolver.records["localhost"] = addresses
    assert hosts(await route("example.org", resolver=resolver)) == ["a.example"]
    assert hosts(await route("example.org", resolver=resolver, loopback=True)) == [
        "a.example",
        "localhost",
        "c.example",
    ]
    resolver.records["example.org"] = addresses
    with pytest.raises(NoExchangerError, match="loops back"):
        await route("example.org", resolver=resolver)


@pytest.mark.parametrize("literal", ["[127.0.0.1]", "[IPv6:::1]", "[IPv6:::ffff:127.0.0.1]"])
async def test_loopback_address_as_a_literal(literal: str) -> None:
    with pytest.raises(NoExchangerError, match="loops back"):
        await route(literal, resolver=MemoryResolver({}))
    assert (await route(literal, resolver=MemoryResolver({}), loopback=True)).exchangers


async def test_own_address_among_many() -> None:
    resolver = MemoryResolver({"example.org": {"A": [f"192.0.2.{number}" for number in range(1, 100)]}})
    with pytest.raises(NoExchangerError, match="loops back"):
        await route("example.org", resolver=resolver, own=["192.0.2.99"])


# --- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_numbers_of_exchangers_and_addresses_are_bounded() -> None:
    """The most preferred ones are kept, and addresses of both families."""
    resolver = MemoryResolver(
        {
            "example.org": {"MX": [(number, f"mx{number}.example") for number in reversed(range(5000))]},
            **{
                f"mx{number}.example": {
                    "A": [f"10.0.{each // 256}.{each % 256}" for each in range(1, 3000)],
                    "AAAA": [f"2001:db8::{each:x}" for each in range(1, 3000)],
                }
                for number in range(30)
            },
        }
    )
    found = await route("example.org", resolver=resolver)
    assert hosts(found) == [f"mx{number}.example" for number in range(20)]
    assert {len(exchanger.addresses) for exchanger in found.exchangers} == {8}
    assert sum(":" in address for address in found.exchangers[0].addresses) == 4
    assert len(resolver.queries) == 1 + 20 * 2


async def test_own_host_counts_beyond_the_bound() -> None:
    resolver = domain(*((number // 30, f"mx{number}.example") for number in range(90)))
    found = await route("example.org", resolver=resolver, own=["mx89.example"])
    assert {exchanger.preference for exchanger in found.exchangers} == {0}
    with pytest.raises(NoExchangerError, match="loops back"):
        await route("example.org", resolver=resolver, own=["mx29.example"])


async def test_time_of_each_lookup_is_bounded(autojump_clock: MockClock) -> None:
    resolver = domain((10, "a.example"), (20, "b.example"))
    resolver.delays["a.example"] = math.inf
    found = await route("example.org", resolver=resolver)
    assert (hosts(found), trio.current_time()) == (["b.example"], 15)
    assert str(found.unreachable[0].error) == "451 4.4.3 DNS lookup failed: a.example AAAA: no answer within 15 s"
    resolver.delays["example.org"] = math.inf
    with pytest.raises(LookupFailedError, match="no answer within 3 s"):
        await route("example.org", resolver=resolver, lookup_timeout=3)
    assert trio.current_time() == 18


async def test_lookups_of_all_exchangers_run_at_the_same_time(autojump_clock: MockClock) -> None:
    resolver = domain(*((number, f"mx{number}.example") for number in range(20)))
    resolver.delays.update({f"mx{number}.example": 4 for number in range(20)})
    await route("example.org", resolver=resolver, lookup_timeout=0)
    assert trio.current_time() == 4


async def test_loop_of_cname_records() -> None:
    resolver = MemoryResolver({"example.org": {"CNAME": "b.example"}, "b.example": {"CNAME": "example.org"}})
    with pytest.raises(LookupFailedError, match="CNAME"):
        await route("example.org", resolver=resolver)


async def test_cancellation_ends_the_lookups(autojump_clock: MockClock) -> None:
    resolver = domain((10, "a.example"), (20, "b.example"))
    resolver.delays["a.example"] = math.inf
    with trio.move_on_after(1) as scope:
        await route("example.org", resolver=resolver)
    assert scope.cancelled_caught


@pytest.mark.parametrize("name", ["example.org", "[192.0.2.1]"])
async def test_route_is_a_checkpoint(name: str) -> None:
    class Immediate:
        async def query(self, name: str, type: RecordType) -> Answer:
            return Answer(name, type, ("192.0.2.1",))

    resolver = Immediate()
    with trio.testing.assert_checkpoints():
        await route(name, resolver=resolver)


class WrongResolver:
    """A resolver that answers every question with the same records."""

    def __init__(self, *records: object) -> None:
        self.records = records

    async def query(self, name: str, type: RecordType) -> Answer:
        return Answer(name, type, self.records)  # type: ignore[arg-type]


@pytest.mark.parametrize("records", [("192.0.2.1", 7), (MxRecord(10, "mx.example"),)], ids=str)
async def test_records_of_another_type_are_ignored(records: tuple[object, ...]) -> None:
    resolver = WrongResolver(*records)
    if isinstance(records[0], str):
        assert (await route("example.org", resolver=resolver)).exchangers[0].name == "example.org"
    else:
        with pytest.raises(NoExchangerError, match="no address"):
            await route("example.org", resolver=resolver)
