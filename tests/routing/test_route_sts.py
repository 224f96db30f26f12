"""Routes of domains with an MTA-STS policy (RFC 8461 4, 5 and 8.4)."""

from __future__ import annotations

import pytest

from smtp_trio.routing import (
    Dane,
    MtaSts,
    NoExchangerError,
    Opportunistic,
    PolicyFetchError,
    StsPolicies,
    StsResult,
    TlsResultType,
    route,
)
from smtp_trio.testing import MemoryResolver

RECORD = "_mta-sts.example.org"
TLSA = {"TLSA": ["3 1 1 " + "0f" * 32]}
UNUSABLE = {"TLSA": ["1 1 1 " + "0f" * 32]}


def text(mode: str, *mx: str) -> bytes:
    return "\n".join(["version: STSv1", f"mode: {mode}", "max_age: 86400", *(f"mx: {each}" for each in mx)]).encode()


class World:
    """example.org with two exchangers, a.example and b.example, and a policy."""

    def __init__(self, policy: bytes | None) -> None:
        self.resolver = MemoryResolver(
            {
                "example.org": {"MX": [(10, "a.example"), (20, "b.example")]},
                "a.example": {"A": ["192.0.2.1"]},
                "b.example": {"A": ["192.0.2.2"]},
                RECORD: {"TXT": ["v=STSv1; id=1;"]},
            }
        )
        self.policy = policy
        self.policies = StsPolicies(self.resolver, self.fetch)

    async def fetch(self, domain: str) -> bytes:
        if self.policy is None:
            raise PolicyFetchError(domain, TlsResultType.STS_POLICY_FETCH_ERROR, "status 404")
        return self.policy

    def publish(self, id: str, policy: bytes) -> None:
        self.policy = policy
        self.resolver.records[RECORD] = {"TXT": [f"v=STSv1; id={id};"]}


async def test_exchangers_that_the_policy_names() -> None:
    world = World(text("enforce", "a.example", "*.example"))
    found = await route("example.org", resolver=world.resolver, sts=world.policies)
    assert found.sts is not None
    assert found.sts.policy is not None
    assert [each.tls for each in found.exchangers] == [MtaSts(found.sts.policy)] * 2
    assert all(isinstance(each.tls, MtaSts) and each.tls.enforce for each in found.exchangers)


async def test_enforced_policy_leaves_out_other_exchangers() -> None:
    """RFC 8461 5, 8.4: nothing is sent to them, and the order of the others is the same."""
    world = World(text("enforce", "b.example"))
    found = await route("example.org", resolver=world.resolver, sts=world.policies)
    assert [each.name for each in found.exchangers] == ["b.example"]
    [left_out] = found.unreachable
    assert left_out.name == "a.example"
    assert str(left_out.error) == "451 4.7.5 the MTA-STS policy of example.org does not allow a.example"
    assert left_out.error.temporary


async def test_policy_that_names_no_exchanger_delays_the_message() -> None:
    """RFC 8461 5: such failures are transient."""
    world = World(text("enforce", "example.org"))
    with pytest.raises(NoExchangerError) as failed:
        await route("example.org", resolver=world.resolver, sts=world.policies)
    assert failed.value.temporary
    assert failed.value.reply.status == "4.7.5"


async def test_newer_policy_is_looked_for_before_an_exchanger_is_left_out() -> None:
    """RFC 8461 5.1 (3), 8.1: the domain has a new exchanger and a new policy."""
    world = World(text("enforce", "a.example"))
    await world.policies.find("example.org")
    world.publish("2", text("enforce", "a.example", "b.example"))
    found = await route("example.org", resolver=world.resolver, sts=world.policies)
    assert [each.name for each in found.exchangers] == ["a.example", "b.example"]


async def test_testing_mode_leaves_out_nothing() -> None:
    world = World(text("testing", "b.example"))
    found = await route("example.org", resolver=world.resolver, sts=world.policies)
    policies = [each.tls for each in found.exchangers]
    assert all(isinstance(tls, MtaSts) and not tls.enforce for tls in policies)
    assert [isinstance(tls, MtaSts) and tls.allowed for tls in policies] == [False, True]
    assert found.unreachable == ()


async def test_mode_none_is_opportunistic() -> None:
    world = World(text("none"))
    found = await route("example.org", resolver=world.resolver, sts=world.policies)
    assert [each.tls for each in found.exchangers] == [Opportunistic()] * 2


async def test_policy_that_cannot_be_fetched_is_part_of_the_route() -> None:
    """So that it can be reported (RFC 8461 6)."""
    world = World(None)
    found = await route("example.org", resolver=world.resolver, sts=world.policies)
    assert [each.tls for each in found.exchangers] == [Opportunistic()] * 2
    assert found.sts is not None
    assert found.sts.failure is not None
    assert found.sts.failure.result_type is TlsResultType.STS_POLICY_FETCH_ERROR


async def test_domain_without_a_policy() -> None:
    world = World(None)
    del world.resolver.records[RECORD]
    found = await route("example.org", resolver=world.resolver, sts=world.policies)
    assert found.sts == StsResult("example.org")
    assert [each.tls for each in found.exchangers] == [Opportunistic()] * 2


@pytest.mark.parametrize("records", [TLSA, UNUSABLE], ids=["usable", "unusable"])
async def test_dane_takes_precedence(records: dict[str, list[str]]) -> None:
    """RFC 8461 2: also for an exchanger that the policy does not name; the other one has no TLSA records."""
    world = World(text("enforce", "b.example"))
    world.resolver.records["_25._tcp.a.example"] = records
    world.resolver.secure = {"example.org", "a.example"}
    found = await route("example.org", resolver=world.resolver, sts=world.policies)
    first, second = (each.tls for each in found.exchangers)
    assert isinstance(first, Dane)
    assert isinstance(second, MtaSts)


async def test_policies_are_not_used_without_being_asked_for() -> None:
    world = World(text("enforce", "b.example"))
    found = await route("example.org", resolver=world.resolver)
    assert found.sts is None
    assert [each.tls for each in found.exchangers] == [Opportunistic()] * 2
    assert (RECORD, "TXT") not in world.resolver.queries
    assert (await route("[192.0.2.1]", resolver=world.resolver, sts=world.policies)).sts is None
    world.resolver.records |= {f"_25._tcp.{host}.example": TLSA for host in "ab"}
    world.resolver.secure = {"example.org", "example"}
    assert (await route("example.org", resolver=world.resolver, sts=world.policies, dane="required")).sts is None


async def test_policy_is_that_of_the_domain_and_not_of_its_alias() -> None:
    """RFC 8461 3.4: the Policy Domain is the next-hop domain."""
    world = World(text("enforce", "b.example"))
    world.resolver.records["alias.example"] = {"CNAME": "example.org"}
    found = await route("alias.example", resolver=world.resolver, sts=world.policies)
    assert found.sts == StsResult("alias.example")
    assert len(found.exchangers) == 2


async def test_argument_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="sts"):
        await route("example.org", resolver=MemoryResolver({}), sts="enforce")  # type: ignore[arg-type]
