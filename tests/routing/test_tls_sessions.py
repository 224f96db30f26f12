"""What TLS reports count of routes and of connections (RFC 8460 4.3)."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from smtp_trio import Hooks, Server, connect_domain
from smtp_trio.routing import (
    DaneMode,
    DomainsResult,
    DomainUnreachableError,
    NoExchangerError,
    PolicyFetchError,
    ReportedPolicy,
    StsPolicies,
    TlsPolicyType,
    TlsResultType,
    TlsSession,
    parse_sts_policy,
    route,
    send,
)
from smtp_trio.routing._attempts import local_address
from smtp_trio.testing import Inbox, MemoryResolver, memory_network, open_test_server

from .certificates import Issued

ME, MESSAGE = "me@example.net", b"Subject: hi\r\n\r\nhello\r\n"
ONE, TWO = "192.0.2.1", "192.0.2.2"
SERVER = Issued.make("a.example", dns=["a.example"])
TLSA_NAME = "_25._tcp.a.example"
POLICY = b"version: STSv1\nmode: enforce\nmax_age: 86400\nmx: a.example\n"

#: example.org has two exchangers, a.example and b.example.
RECORDS: dict[str, Any] = {
    "example.org": {"MX": [(10, "a.example"), (20, "b.example")]},
    "a.example": {"A": [ONE]},
    "b.example": {"A": [TWO]},
    "_mta-sts.example.org": {"TXT": ["v=STSv1; id=1;"]},
}


def resolver(tlsa: Iterable[str] = (), **settings: Any) -> MemoryResolver:
    """Return a resolver in whose signed zones a.example has these TLSA records."""
    records = {**RECORDS, TLSA_NAME: {"TLSA": list(tlsa)}} if tlsa else RECORDS
    return MemoryResolver(records, secure=["example.org", "example"], **settings)


def policies(result: bytes | TlsResultType) -> StsPolicies:
    """Return the cache of policies for which a fetch has this result."""

    async def fetch(domain: str) -> bytes:
        if isinstance(result, TlsResultType):
            raise PolicyFetchError(domain, result, "the reason")
        return result

    return StsPolicies(MemoryResolver(RECORDS), fetch)


def outline(sessions: Iterable[TlsSession]) -> list[tuple[TlsPolicyType, str, list[tuple[TlsResultType, str | None]]]]:
    return [
        (
            each.policy.type,
            each.policy.domain,
            [(failure.result_type, failure.receiving_mx_hostname) for failure in each.failures],
        )
        for each in sessions
    ]


# --- before there is a connection -----------------------------------------------------------------------------------


async def test_exchanger_that_the_policy_does_not_name() -> None:
    """RFC 8461 5: it gets no mail, and the failure is counted."""
    found = await route("example.org", resolver=resolver(), sts=policies(POLICY))
    [session] = found.sessions
    assert session.policy == ReportedPolicy.sts("example.org", parse_sts_policy(POLICY))
    assert outline([session]) == [
        (TlsPolicyType.STS, "example.org", [(TlsResultType.CERTIFICATE_HOST_MISMATCH, "b.example")])
    ]
    assert [each.session for each in found.unreachable] == [session]


@pytest.mark.parametrize(
    ("fetched", "result_type"),
    [
        (TlsResultType.STS_POLICY_FETCH_ERROR, TlsResultType.STS_POLICY_FETCH_ERROR),
        (TlsResultType.STS_WEBPKI_INVALID, TlsResultType.STS_WEBPKI_INVALID),
        (b"version: STSv2", TlsResultType.STS_POLICY_INVALID),
    ],
    ids=["fetch", "authentication", "version"],
)
async def test_policy_that_is_announced_and_cannot_be_used(fetched: Any, result_type: TlsResultType) -> None:
    """RFC 8460 4.3.2.2: counted once for a route. Its connection is one without a policy."""
    async with memory_network({ONE: Server(Inbox(), tls=None)}):
        async with connect_domain("example.org", resolver=resolver(), sts=policies(fetched)) as connection:
            pass
    assert outline(connection.sessions) == [
        (TlsPolicyType.STS, "example.org", [(result_type, None)]),
        (TlsPolicyType.NO_POLICY_FOUND, "example.org", [(TlsResultType.STARTTLS_NOT_SUPPORTED, "a.example")]),
    ]
    assert connection.sessions[0].policy == ReportedPolicy(TlsPolicyType.STS, "example.org")
    assert connection.sessions == (*connection.route.sessions, connection.attempts[0].session)


async def test_policy_that_cannot_be_replaced_by_a_newer_one() -> None:
    """RFC 8461 3.3: the older policy stays, and the failure is counted under it."""
    texts = [POLICY]

    async def fetch(domain: str) -> bytes:
        if not texts:
            raise PolicyFetchError(domain, TlsResultType.STS_POLICY_FETCH_ERROR, "status 404")
        return texts.pop()

    looked_up = resolver()
    found = StsPolicies(looked_up, fetch)
    await found.find("example.org")
    looked_up.records["_mta-sts.example.org"] = {"TXT": ["v=STSv1; id=2;"]}
    sessions = (await route("example.org", resolver=looked_up, sts=found)).sessions
    assert {each.policy for each in sessions} == {ReportedPolicy.sts("example.org", parse_sts_policy(POLICY))}
    assert [failure.result_type for each in sessions for failure in each.failures] == [
        TlsResultType.STS_POLICY_FETCH_ERROR,
        TlsResultType.CERTIFICATE_HOST_MISMATCH,
    ]


@pytest.mark.parametrize("delay", [0, 1000])
async def test_lookup_of_tlsa_records_that_fails(delay: float, autojump_clock: object) -> None:
    """RFC 8460 4.3.2.1: in a signed zone only; otherwise no TLSA records are looked up."""
    failures = {} if delay else {TLSA_NAME: "bogus"}
    found = await route("example.org", resolver=resolver(failures=failures, delays={TLSA_NAME: delay}))
    assert outline(found.sessions) == [(TlsPolicyType.TLSA, "a.example", [(TlsResultType.DNSSEC_INVALID, "a.example")])]
    reason = found.sessions[0].failures[0].reason_code
    assert reason == ("no answer within 15 s" if delay else "bogus")


@pytest.mark.parametrize(("name", "type"), [("a.example", "A"), ("example.org", "MX")])
async def test_other_lookups_that_fail_are_not_counted(name: str, type: str) -> None:
    """RFC 8460 4.3.4: it is not known whether there is a policy."""
    looked_up = resolver(failures={(name, type): "SERVFAIL"})
    async with memory_network({TWO: Inbox()}):
        result = await send(MESSAGE, sender=ME, recipients=["x@example.org"], resolver=looked_up)
    assert not any(each.policy.type is TlsPolicyType.TLSA for each in result.domains[0].sessions)


async def test_alias_of_which_the_lookup_fails() -> None:
    """A CNAME record decides where TLSA records are, if the addresses are not secure (RFC 7672 2.2.2)."""
    records = {**RECORDS, "a.example": {"CNAME": ["host.test"]}, "host.test": {"A": [ONE]}}
    looked_up = MemoryResolver(
        records, secure=["example.org", "example"], failures={("a.example", "CNAME"): "SERVFAIL"}
    )
    found = await route("example.org", resolver=looked_up)
    assert [each.name for each in found.unreachable] == ["a.example"]
    assert found.sessions == ()


@pytest.mark.parametrize(
    ("records", "result_type"),
    [([], TlsResultType.DANE_REQUIRED), (["1 1 1 " + "0f" * 32], TlsResultType.TLSA_INVALID)],
    ids=["none", "unusable"],
)
async def test_dane_that_is_required(records: list[str], result_type: TlsResultType) -> None:
    """RFC 8460 4.3.2.1."""
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=resolver(records), dane="required")
    assert outline(caught.value.sessions) == [
        (TlsPolicyType.TLSA, "a.example", [(result_type, "a.example")]),
        (TlsPolicyType.TLSA, "b.example", [(TlsResultType.DANE_REQUIRED, "b.example")]),
    ]
    assert list(caught.value.sessions[0].policy.strings) == records


async def test_error_has_the_policy() -> None:
    """No exchanger is named by it."""
    text = POLICY.replace(b"a.example", b"c.example")
    with pytest.raises(NoExchangerError) as caught:
        await route("example.org", resolver=resolver(), sts=policies(text))
    assert caught.value.sts is not None
    assert caught.value.sts.policy == parse_sts_policy(text)
    assert len(caught.value.sessions) == 2


# --- connections ----------------------------------------------------------------------------------------------------


async def test_records_that_are_not_usable(tmp_path: Path) -> None:
    """RFC 8460 4.3.2.1, RFC 7672 2.2: TLS is mandatory and unauthenticated; the domain should know of it."""
    async with memory_network({ONE: Server(Inbox(), tls=SERVER.server_context(tmp_path))}):
        async with connect_domain("example.org", resolver=resolver([str(SERVER.record(1))])) as connection:
            assert connection.client.tls is not None
    assert outline(connection.sessions) == [
        (TlsPolicyType.TLSA, "a.example", [(TlsResultType.TLSA_INVALID, "a.example")])
    ]


async def test_error_after_attempts() -> None:
    """b.example is left out by the policy, and a.example has no TLS."""
    async with memory_network({ONE: Inbox(), TWO: Inbox()}):
        with pytest.raises(DomainUnreachableError) as caught:
            async with connect_domain("example.org", resolver=resolver(), sts=policies(POLICY)):
                raise AssertionError
    assert outline(caught.value.sessions) == [
        (TlsPolicyType.STS, "example.org", [(TlsResultType.CERTIFICATE_HOST_MISMATCH, "b.example")]),
        (TlsPolicyType.STS, "example.org", [(TlsResultType.STARTTLS_NOT_SUPPORTED, "a.example")]),
    ]
    assert caught.value.sts is not None


@pytest.mark.parametrize("dane", ["opportunistic", "required"])
async def test_result_of_a_message(dane: DaneMode) -> None:
    """Also if the domain has no exchanger."""
    async with memory_network({ONE: Inbox(), TWO: Inbox()}):
        result = await send(MESSAGE, sender=ME, recipients=["x@example.org"], resolver=resolver(), dane=dane)
    assert isinstance(result, DomainsResult)
    types = [failure.result_type for each in result.domains[0].sessions for failure in each.failures]
    assert types == ([TlsResultType.STARTTLS_NOT_SUPPORTED] if result.complete else [TlsResultType.DANE_REQUIRED] * 2)
    assert result.complete is (dane == "opportunistic")


@pytest.mark.parametrize(
    "server", [Hooks(), Server(Hooks(), tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))], ids=["", "TLS"]
)
async def test_addresses_of_a_connection(server: Hooks | Server) -> None:
    """RFC 8460 4.4: of both ends, also if no session was opened."""
    async with open_test_server(server) as running:
        port = running.port
        records = {
            **RECORDS,
            "a.example": {"A": ["127.0.0.1"]},
            f"_{port}._tcp.a.example": {"TLSA": [str(SERVER.record(3))]},
        }
        looked_up = MemoryResolver(records, secure=["example.org", "example"])
        with pytest.raises(DomainUnreachableError) as caught:
            async with connect_domain("example.org", port, resolver=looked_up, loopback=True, max_attempts=1):
                raise AssertionError
    [session] = caught.value.sessions
    [failure] = session.failures
    assert (failure.sending_mta_ip, failure.receiving_ip) == ("127.0.0.1", "127.0.0.1")


async def test_address_of_a_connection_that_the_caller_gives() -> None:
    async with memory_network({ONE: Inbox()}):
        async with connect_domain("example.org", resolver=resolver(), local_address="198.51.100.1") as connection:
            pass
    [session] = connection.sessions
    [failure] = session.failures
    assert (failure.sending_mta_ip, failure.receiving_ip) == ("198.51.100.1", ONE)


async def test_address_of_a_connection_that_is_lost() -> None:
    """It is not known then."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
    assert local_address(stream) == "127.0.0.1"
    await stream.aclose()
    assert local_address(stream) is None
    for listener in listeners:
        await listener.aclose()
