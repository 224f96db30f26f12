"""Discovery and caching of MTA-STS policies (RFC 8461 3.3, 5.1), in memory and in virtual time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio.routing import (
    LookupFailedError,
    PolicyFetchError,
    StsPolicies,
    StsPolicy,
    TlsFailure,
    TlsResultType,
)
from smtp_trio.testing import Attempt, MemoryResolver, cancel_everywhere

DAY = 86400
DOMAIN = "example.com"
RECORD = "_mta-sts.example.com"
FETCH_ERROR = TlsResultType.STS_POLICY_FETCH_ERROR


def text(mode: str = "enforce", mx: str = "mx.example.com", max_age: int = 30 * DAY) -> bytes:
    return f"version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n".encode()


class World:
    """The DNS, and the policy hosts. ``served`` is what they send, by domain; an exception is raised."""

    def __init__(self, **settings: Any) -> None:
        self.errors: list[Exception] = []
        settings = {"on_error": self.errors.append, **settings}
        self.resolver = MemoryResolver({RECORD: {"TXT": ["v=STSv1; id=1;"]}})
        self.served: dict[str, bytes | Exception] = {DOMAIN: text()}
        self.fetched: list[str] = []
        self.fetch_seconds = 0.0
        self.policies = StsPolicies(self.resolver, self.fetch, **settings)

    async def fetch(self, domain: str) -> bytes:
        self.fetched.append(domain)
        await trio.sleep(self.fetch_seconds)
        found = self.served.get(domain, PolicyFetchError(domain, FETCH_ERROR, "status 404"))
        if isinstance(found, Exception):
            raise found
        return found

    def publish(self, id: str, policy: bytes, domain: str = DOMAIN) -> None:
        self.announce(id, domain)
        self.served[domain] = policy

    def announce(self, id: str, domain: str = DOMAIN) -> None:
        self.resolver.records[f"_mta-sts.{domain}"] = {"TXT": [f"v=STSv1; id={id};"]}

    def fail(self, reason: str = "status 500", result_type: TlsResultType = FETCH_ERROR) -> None:
        self.served[DOMAIN] = PolicyFetchError(DOMAIN, result_type, reason)

    async def mx(self, *, check: bool = False) -> tuple[str, ...] | None:
        """Return the patterns of the policy that applies to the domain; None if there is none."""
        policy = (await self.policies.find(DOMAIN, check=check)).policy
        return None if policy is None else policy.mx


@pytest.fixture
def world() -> World:
    return World()


OLD, NEW = ("mx.example.com",), ("new.example.com",)

# --- no policy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records", [[], ["v=spf1 -all"], ["v=STSv1; id=1", "v=STSv1; id=2"], ["v=STSv1; id=-"]])
async def test_domain_without_a_valid_record_has_no_policy(
    autojump_clock: MockClock, world: World, records: list[str]
) -> None:
    """RFC 8461 3.1: the remaining steps are skipped, and that is not a failure."""
    world.resolver.records[RECORD] = {"TXT": records}
    result = await world.policies.find(DOMAIN)
    assert (result.domain, result.policy, result.error, result.failure) == (DOMAIN, None, None, None)
    assert world.fetched == []


async def test_domain_does_not_exist(autojump_clock: MockClock, world: World) -> None:
    assert (await world.policies.find("none.example")).policy is None
    assert (world.fetched, world.errors) == ([], [])


async def test_failed_lookup_is_not_reported(autojump_clock: MockClock, world: World) -> None:
    """RFC 8461 6: only failures to fetch a policy are."""
    world.resolver.failures[RECORD] = "SERVFAIL"
    result = await world.policies.find(DOMAIN)
    assert result.policy is None
    assert isinstance(result.error, LookupFailedError)
    assert result.failure is None
    assert world.fetched == []


async def test_lookup_without_an_end_is_a_failed_one(autojump_clock: MockClock, world: World) -> None:
    world.resolver.delays[RECORD] = inf
    result = await world.policies.find(DOMAIN)
    assert isinstance(result.error, LookupFailedError)
    assert trio.current_time() == 15


@pytest.mark.parametrize("result_type", [FETCH_ERROR, TlsResultType.STS_WEBPKI_INVALID])
async def test_policy_that_cannot_be_fetched(
    autojump_clock: MockClock, world: World, result_type: TlsResultType
) -> None:
    """RFC 8461 3.3: delivery continues as without a policy, and the failure is reported."""
    world.fail("reason", result_type)
    result = await world.policies.find(DOMAIN)
    assert result.policy is None
    assert isinstance(result.error, PolicyFetchError)
    assert result.error.temporary
    assert str(result.error) == "MTA-STS policy of example.com: reason"
    assert result.failure == TlsFailure(result_type, "reason")
    assert world.errors == []  # there was no policy to protect


async def test_invalid_policy(autojump_clock: MockClock, world: World) -> None:
    world.served[DOMAIN] = text(mode="strict")
    result = await world.policies.find(DOMAIN)
    assert result.policy is None
    assert result.failure == TlsFailure(TlsResultType.STS_POLICY_INVALID, "unknown mode: 'strict'")


@pytest.mark.parametrize("literal", ["[192.0.2.1]", "[IPv6:2001:db8::1]"])
async def test_address_literal_has_no_policy(autojump_clock: MockClock, world: World, literal: str) -> None:
    """RFC 8461 3.4."""
    assert (await world.policies.find(literal)).policy is None
    assert world.resolver.queries == []


async def test_name_that_is_too_long_for_a_record(autojump_clock: MockClock, world: World) -> None:
    domain = ".".join(["a" * 49] * 5)
    assert len(domain) <= 253 < len(f"_mta-sts.{domain}")
    assert (await world.policies.find(domain)).policy is None
    assert world.resolver.queries == []


@pytest.mark.parametrize("domain", ["", "a b", "192.0.2.1", "2001:db8::1", "a..b", "example.com:25", "[x]"])
async def test_invalid_domain(autojump_clock: MockClock, world: World, domain: str) -> None:
    with pytest.raises(ValueError, match="domain"):
        await world.policies.find(domain)
    assert world.resolver.queries == []


async def test_subdomain_does_not_use_the_policy_of_its_parent(autojump_clock: MockClock, world: World) -> None:
    """RFC 8461 3.4."""
    await world.policies.find(DOMAIN)
    assert (await world.policies.find(f"mail.{DOMAIN}")).policy is None


# --- the cached policy ------------------------------------------------------------------------------------------------


async def test_policy_is_fetched_once(autojump_clock: MockClock, world: World) -> None:
    result = await world.policies.find(DOMAIN)
    assert result.policy == StsPolicy("enforce", 30 * DAY, OLD)
    assert (result.error, result.failure) == (None, None)
    for name in (DOMAIN, "Example.COM", "example.com."):
        assert (await world.policies.find(name)) == result
    assert world.fetched == [DOMAIN]
    assert world.resolver.queries == [(RECORD, "TXT")]


async def test_internationalized_domain(autojump_clock: MockClock, world: World) -> None:
    world.publish("1", text(), "xn--bcher-kva.example")
    assert (await world.policies.find("b\u00fccher.example")).policy is not None
    assert world.fetched == ["xn--bcher-kva.example"]


async def test_record_of_a_provider(autojump_clock: MockClock, world: World) -> None:
    """RFC 8461 3.1 and 8.2: CNAME records are followed."""
    world.resolver.records[RECORD] = {"CNAME": "_mta-sts.provider.example"}
    world.resolver.records["_mta-sts.provider.example"] = {"TXT": ["v=STSv1; id=p1;"]}
    assert await world.mx() == OLD


@pytest.mark.parametrize("mode", ["enforce", "testing"])
async def test_policy_expires(autojump_clock: MockClock, world: World, mode: str) -> None:
    world.served[DOMAIN] = text(mode, max_age=1000)
    assert await world.mx() == OLD
    world.fail()
    world.announce("2")
    await trio.sleep(1000)
    assert await world.mx(check=True) == OLD
    await trio.sleep(1)
    assert await world.mx() is None


async def test_policy_with_a_lifetime_of_zero_applies_to_one_message(autojump_clock: MockClock) -> None:
    world = World()
    world.served[DOMAIN] = text(max_age=0)
    assert await world.mx() == OLD
    await trio.sleep(0.001)
    assert await world.mx() == OLD
    assert len(world.fetched) == 2


async def test_new_id_is_noticed_by_a_check(autojump_clock: MockClock, world: World) -> None:
    """RFC 8461 5.1 (3): before a permanent failure. Until then, the cached policy is used without a lookup."""
    assert await world.mx() == OLD
    world.publish("2", text(mx="new.example.com"))
    assert await world.mx() == OLD
    assert await world.mx(check=True) == NEW
    assert await world.mx() == NEW
    assert world.fetched == [DOMAIN] * 2


async def test_check_with_the_same_id_fetches_nothing(autojump_clock: MockClock, world: World) -> None:
    assert await world.mx() == OLD
    world.served[DOMAIN] = text(mx="new.example.com")
    assert await world.mx(check=True) == OLD
    assert world.fetched == [DOMAIN]
    assert world.resolver.queries == [(RECORD, "TXT")] * 2


Attack = Callable[[World], None]


def no_record(world: World) -> None:
    del world.resolver.records[RECORD]


def broken_record(world: World) -> None:
    world.resolver.records[RECORD] = {"TXT": ["v=STSv1; id=2", "v=STSv1; id=3"]}


def failed_lookup(world: World) -> None:
    world.resolver.failures[RECORD] = "SERVFAIL"


def failed_fetch(world: World) -> None:
    world.announce("2")
    world.fail()


def invalid_policy(world: World) -> None:
    world.publish("2", b"<html>")


@pytest.mark.parametrize("attack", [no_record, broken_record, failed_lookup, failed_fetch, invalid_policy])
async def test_cached_policy_stays_when_no_newer_one_is_found(
    autojump_clock: MockClock, world: World, attack: Callable[[World], None]
) -> None:
    """RFC 8461 3.3: the sender MUST apply the cached policy, also when it is due, until it expires."""
    await world.mx()
    attack(world)
    assert await world.mx(check=True) == OLD
    for _ in range(29):
        await trio.sleep(DAY)
        assert await world.mx() == OLD
    await trio.sleep(2 * DAY)
    # Without a valid record, the policy that was due was fetched again (RFC 8461 10.2). Otherwise it has expired.
    assert await world.mx() == (None if attack in (failed_fetch, invalid_policy) else OLD)


async def test_failure_to_replace_a_policy_is_reported(autojump_clock: MockClock, world: World) -> None:
    """RFC 8461 6 and 10.2: to the domain, and to the administrator."""
    await world.mx()
    failed_fetch(world)
    result = await world.policies.find(DOMAIN, check=True)
    assert result.policy is not None
    assert result.failure == TlsFailure(FETCH_ERROR, "status 500")
    [error] = world.errors
    assert isinstance(error, PolicyFetchError)
    assert error.domain == DOMAIN


# --- the mode "none" --------------------------------------------------------------------------------------------------


async def test_mode_none_withdraws_a_policy(autojump_clock: MockClock, world: World) -> None:
    """RFC 8461 8.3."""
    assert await world.mx() == OLD
    world.publish("2", text("none", max_age=DAY))
    assert await world.mx(check=True) is None
    # It is cached like another policy.
    assert await world.mx() is None
    assert len(world.fetched) == 2


async def test_missing_files_of_a_withdrawn_policy_are_no_failure(autojump_clock: MockClock, world: World) -> None:
    world.served[DOMAIN] = text("none")
    assert await world.mx() is None
    world.announce("2")
    world.fail()
    result = await world.policies.find(DOMAIN, check=True)
    assert (result.policy, result.error, result.failure) == (None, None, None)
    assert world.errors == []


async def test_policy_after_a_withdrawn_one(autojump_clock: MockClock, world: World) -> None:
    world.served[DOMAIN] = text("none")
    assert await world.mx() is None
    world.publish("2", text())
    assert await world.mx(check=True) == OLD


# --- refresh ----------------------------------------------------------------------------------------------------------


async def test_policy_is_fetched_again_after_a_day(autojump_clock: MockClock, world: World) -> None:
    """RFC 8461 3.3, 10.2: also when its id is the same, which extends its lifetime."""
    world.served[DOMAIN] = text(max_age=2 * DAY)
    await world.mx()
    for _ in range(10):
        await trio.sleep(DAY)
        assert await world.mx() == OLD
    assert len(world.fetched) == 11


async def test_refresh_in_the_background(autojump_clock: MockClock, world: World) -> None:
    """A policy that was used is fetched before the next message needs it; one that was not used expires."""
    world.served[DOMAIN] = text(max_age=3 * DAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.policies.run)
        await world.mx()
        await trio.sleep(1.5 * DAY)
        assert len(world.fetched) == 2
        queries = len(world.resolver.queries)
        assert await world.mx() == OLD
        assert len(world.resolver.queries) == queries
        await trio.sleep(20 * DAY)
        assert len(world.fetched) == 3
        nursery.cancel_scope.cancel()


async def test_refresh_in_the_background_is_tried_again(autojump_clock: MockClock, world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.policies.run)
        await world.mx()
        world.fail()
        await trio.sleep(2 * DAY)
        assert len(world.errors) > 5
        world.served[DOMAIN] = text(mx="new.example.com")
        await trio.sleep(DAY / 10)
        assert await world.mx() == NEW
        nursery.cancel_scope.cancel()


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_failed_fetch_is_not_repeated_at_once(autojump_clock: MockClock, world: World) -> None:
    """RFC 8461 3.3: not within five minutes for the same id."""
    world.fail()
    for _ in range(5):
        result = await world.policies.find(DOMAIN, check=True)
        assert result.failure == TlsFailure(FETCH_ERROR, "status 500")
    assert len(world.fetched) == 1
    world.announce("2")
    await world.mx()
    assert len(world.fetched) == 2
    await trio.sleep(299)
    await world.mx()
    assert len(world.fetched) == 2
    await trio.sleep(1)
    world.served[DOMAIN] = text()
    assert await world.mx() == OLD


async def test_repeated_failure_is_reported_to_the_administrator_once(autojump_clock: MockClock, world: World) -> None:
    await world.mx()
    failed_fetch(world)
    for _ in range(5):
        await world.mx(check=True)
    assert len(world.errors) == 1


async def test_tasks_share_one_discovery(autojump_clock: MockClock, world: World) -> None:
    world.fetch_seconds = 10
    found = []

    async def find() -> None:
        found.append(await world.mx())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(find)
    assert found == [OLD] * 20
    assert world.fetched == [DOMAIN]
    assert trio.current_time() == 10


async def test_discovery_of_a_cancelled_task_is_taken_over(autojump_clock: MockClock, world: World) -> None:
    world.fetch_seconds = 10
    found = []

    async def find() -> None:
        found.append(await world.mx())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(find)
                await wait_all_tasks_blocked()
                nursery.start_soon(find)
                nursery.start_soon(find)
                await wait_all_tasks_blocked()
                scope.cancel()
    assert found == [OLD, OLD]
    assert world.fetched == [DOMAIN] * 2


async def test_other_errors_of_a_fetcher_are_raised(autojump_clock: MockClock, world: World) -> None:
    world.served[DOMAIN] = RuntimeError("a bug")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a bug"):
            await world.mx()
    assert len(world.fetched) == 2


async def test_memory_is_limited(autojump_clock: MockClock) -> None:
    """The policies that were not used for the longest time are removed."""
    world = World(max_memory=200_000)
    domains = [f"d{number}.example" for number in range(500)]
    for domain in domains:
        world.publish("1", text(), domain)
        assert (await world.policies.find(domain)).policy is not None
        await world.mx()
    world.fetched.clear()
    for domain in domains[-20:]:
        await world.policies.find(domain)
    await world.mx()
    assert world.fetched == []
    await world.policies.find(domains[0])
    assert world.fetched == [domains[0]]


async def test_large_policies_count_more(autojump_clock: MockClock) -> None:
    world = World(max_memory=200_000)
    await world.mx()
    world.publish("1", text() + b"mx: a\n" * 5000, "large.example")
    assert (await world.policies.find("large.example")).policy is not None  # for this message
    world.fail()
    assert await world.mx() is None


async def test_failures_are_limited(autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.routing._sts_policies.MAX_FAILURES", 10)
    for number in range(20):
        world.announce("1", f"d{number}.example")
        await world.policies.find(f"d{number}.example")
    await world.policies.find("d19.example")
    assert len(world.fetched) == 20
    await world.policies.find("d0.example")
    assert len(world.fetched) == 21


@pytest.mark.parametrize(
    "settings", [{"max_memory": -1}, {"refresh": 0}, {"retry": -1}, {"refresh": float("nan")}, {"lookup_timeout": -1}]
)
def test_invalid_number(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be >= [01]"):
        World(**settings)


@pytest.mark.parametrize("settings", [{"on_error": 1}, {"max_memory": 1.5}, {"path": 1}])
def test_argument_of_a_wrong_type(settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        World(**settings)


# --- the file ---------------------------------------------------------------------------------------------------------


def stored(path: Path) -> dict[str, Any]:
    """Return the policies in a file by domain."""
    return {item["domain"]: item for item in json.loads(path.read_text())["policies"]}


async def test_file_keeps_policies(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    world = World(path=path)
    assert await world.mx() == OLD
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["policies.json"]
    item = stored(path)[DOMAIN]
    assert item["id"] == "1"
    assert 0 <= time.time() - item["fetched"] < 1000

    restarted = World(path=str(path))
    restarted.resolver.failures[RECORD] = "SERVFAIL"
    assert (await restarted.policies.find(DOMAIN)).policy == StsPolicy("enforce", 30 * DAY, OLD)
    assert restarted.errors == []
    # Its id is known too.
    assert (await world.mx(check=True), len(world.fetched)) == (OLD, 1)


async def test_file_is_replaced_after_each_change(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(path=tmp_path / "policies.json")
    await world.mx()
    world.publish("7", text("none"), "other.example")
    await world.policies.find("other.example")
    world.publish("2", text(mx="new.example.com"))
    await world.mx(check=True)
    found = stored(tmp_path / "policies.json")
    assert {domain: item["id"] for domain, item in found.items()} == {DOMAIN: "2", "other.example": "7"}


@pytest.mark.parametrize(("age", "expected"), [(0, OLD), (29 * DAY, OLD), (31 * DAY, None), (-DAY, OLD)])
async def test_age_counts_while_the_program_is_stopped(
    autojump_clock: MockClock, tmp_path: Path, age: float, expected: tuple[str, ...] | None
) -> None:
    """A time in the future, after the clock was set back, counts as now."""
    path = tmp_path / "policies.json"
    await World(path=path).mx()
    content = json.loads(path.read_text())
    content["policies"][0]["fetched"] = time.time() - age
    path.write_text(json.dumps(content))
    world = World(path=path)
    world.fail()
    assert await world.mx() == expected


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"version": 2, "policies": []}', '{"version": 1, "policies": 1}', "[" * 100_000, "\udcff"],
)
async def test_invalid_file_is_reported_and_replaced(autojump_clock: MockClock, tmp_path: Path, content: str) -> None:
    path = tmp_path / "policies.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    world = World(path=path)
    assert await world.mx() == OLD
    [error] = world.errors
    assert isinstance(error, ValueError)
    assert list(stored(path)) == [DOMAIN]


async def test_invalid_policies_of_a_file_are_left_out(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    await World(path=path).mx()
    content = json.loads(path.read_text())
    [good] = content["policies"]
    bad = [1, {}, good | {"domain": 1}, good | {"policy": "x"}, good | {"fetched": "1"}, good | {"fetched": True}]
    content["policies"] = [*bad, good]
    path.write_text(json.dumps(content))
    world = World(path=path)
    world.resolver.failures[RECORD] = "SERVFAIL"
    assert await world.mx() == OLD
    assert world.errors == []


async def test_file_that_cannot_be_written_does_not_stop_mail(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(path=tmp_path / "missing" / "policies.json")
    assert await world.mx() == OLD
    [error] = world.errors
    assert isinstance(error, FileNotFoundError)
    assert await world.mx() == OLD


async def test_path_that_cannot_be_read(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(path=tmp_path)
    assert await world.mx() == OLD
    assert [type(error) for error in world.errors] == [IsADirectoryError] * 2
    assert [name for name in os.listdir(tmp_path.parent) if name.startswith(f".{tmp_path.name}")] == []


def test_many_tasks_write_the_file_in_threads(tmp_path: Path) -> None:
    """With the system's clock: several changes are written at once, and the last one is in the file."""
    path = tmp_path / "policies.json"
    world = World(path=path)
    domains = {f"d{number}.example" for number in range(50)}

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for domain in domains:
                world.publish("1", text(), domain)
                nursery.start_soon(world.policies.find, domain)

    trio.run(main)
    assert stored(path).keys() == domains
    assert world.errors == []


def test_cancellation_at_every_step_keeps_cache_and_file_consistent(tmp_path: Path) -> None:
    """The next call finds the policy, and the file has what is in the cache."""
    path = tmp_path / "policies.json"

    async def scenario(attempt: Attempt) -> None:
        path.unlink(missing_ok=True)
        world = World(path=path)
        with attempt.here():
            await world.mx()
        assert path.exists() == (DOMAIN in world.policies._cached)
        assert await world.mx() == OLD
        assert list(stored(path)) == [DOMAIN]
        assert world.errors == []

    assert cancel_everywhere(scenario).points > 2
