"""Sessions with the exchangers of a domain (RFC 5321 5.1, RFC 7672 2.2, RFC 8461 5)."""

from __future__ import annotations

import contextlib
import math
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

from smtp_trio import ClientTimeouts, Hooks, Reply, Server, Session, SMTPError, connect_domain, routing
from smtp_trio.protocol import Hello
from smtp_trio.routing import (
    DomainConnection,
    DomainUnreachableError,
    LookupFailedError,
    NoExchangerError,
    NullMxError,
    PolicyFetchError,
    StsPolicies,
    TlsPolicyType,
    TlsResultType,
)
from smtp_trio.testing import (
    Attempt,
    Close,
    Faults,
    Garbage,
    Inbox,
    MemoryResolver,
    Replace,
    Reset,
    Rule,
    cancel_everywhere,
    memory_network,
)

from .certificates import Issued

ONE, TWO, THREE, FOUR = "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"

#: example.org has two exchangers, and the first of them two addresses.
RECORDS: dict[str, Any] = {
    "example.org": {"MX": [(20, "b.example"), (10, "a.example")]},
    "a.example": {"A": [ONE, TWO]},
    "b.example": {"A": [THREE]},
}


class Refusing(Hooks):
    """Refuses with a greeting."""

    def __init__(self, code: int, status: str | None = "") -> None:
        self.greeting = Reply(code, "go away", status)
        self.sessions = 0

    async def connect(self, session: Session) -> Reply:
        self.sessions += 1
        return self.greeting


class RefusingHello(Hooks):
    def __init__(self, code: int) -> None:
        self.code = code

    async def helo(self, session: Session, hello: Hello) -> Reply:
        return Reply(self.code, "not with me", "")


class Silent(Hooks):
    """Accepts the connection, and sends no greeting."""

    async def connect(self, session: Session) -> None:
        await trio.sleep_forever()


class Slow(Inbox):
    """Sends its greeting and the reply to EHLO 20 s late each."""

    async def connect(self, session: Session) -> None:
        await trio.sleep(20)

    async def helo(self, session: Session, hello: Hello) -> None:
        await trio.sleep(20)


def outline(connection: DomainConnection | DomainUnreachableError) -> list[tuple[str, str, str]]:
    """Return the exchanger, the address, and the result of each attempt."""
    return [
        (each.exchanger.name, each.address, f"{each.reply.code} {each.reply.status}" if each.reply else "")
        for each in connection.attempts
    ]


async def attempts(servers: Mapping[str, Hooks | Server], **settings: Any) -> list[tuple[str, str, str]]:
    """Connect to example.org, and send a message if that succeeds; return the outline of the attempts."""
    resolver = settings.pop("resolver", None) or MemoryResolver(RECORDS)
    async with memory_network(servers or {"unused.test": Inbox()}):
        try:
            async with connect_domain("example.org", resolver=resolver, **settings) as connection:
                await connection.client.send("me@example.net", ["you@example.org"], MESSAGE)
        except DomainUnreachableError as error:
            return outline(error)
    assert [each.error is None for each in connection.attempts] == [False] * (len(connection.attempts) - 1) + [True]
    return outline(connection)


# --- order ----------------------------------------------------------------------------------------------------------


async def test_most_preferred_exchanger_is_used() -> None:
    """RFC 5321 5.1."""
    first, other = Inbox(), Inbox()
    async with memory_network({ONE: first, TWO: other, THREE: other}):
        async with connect_domain("example.org", resolver=MemoryResolver(RECORDS)) as connection:
            result = await connection.client.send("me@example.net", ["you@example.org"], MESSAGE)
    assert (connection.exchanger.name, connection.address) == ("a.example", ONE)
    assert outline(connection) == [("a.example", ONE, "")]
    assert connection.route.domain == "example.org"
    assert result.complete
    assert (len(first), len(other)) == (1, 0)


async def test_attempts_are_reported_when_they_end() -> None:
    seen: list[tuple[str, routing.Attempt]] = []
    found = await attempts({TWO: Refusing(421), THREE: Inbox()}, on_attempt=lambda *each: seen.append(each))
    assert [domain for domain, _ in seen] == ["example.org"] * 3
    assert [(each.exchanger.name, each.address) for _, each in seen] == [(name, address) for name, address, _ in found]
    assert [each.error is None for _, each in seen] == [False, False, True]


async def test_exception_of_the_callback_closes_the_connection() -> None:
    def fail(domain: str, attempt: routing.Attempt) -> None:
        raise KeyError(domain)

    async with memory_network({ONE: Inbox()}) as servers:
        with pytest.raises(KeyError):
            async with connect_domain("example.org", resolver=MemoryResolver(RECORDS), on_attempt=fail):
                raise AssertionError
        await trio.testing.wait_all_tasks_blocked()
        assert servers[ONE].server.statistics().sessions_open == 0


async def test_other_addresses_and_exchangers_follow() -> None:
    """RFC 5321 5.1: at least two addresses, in order."""
    assert await attempts({THREE: Inbox()}) == [
        ("a.example", ONE, "451 4.4.1"),
        ("a.example", TWO, "451 4.4.1"),
        ("b.example", THREE, ""),
    ]


@pytest.mark.parametrize(("most", "tried"), [(1, [ONE]), (2, [ONE, TWO]), (9, [ONE, TWO, THREE])])
async def test_number_of_addresses_is_limited(most: int, tried: list[str]) -> None:
    resolver = MemoryResolver({"example.org": {"A": [ONE, TWO, THREE]}})
    found = await attempts({}, resolver=resolver, max_addresses=most)
    assert [address for _, address, _ in found] == tried


async def test_two_addresses_are_tried_by_default() -> None:
    resolver = MemoryResolver({"example.org": {"AAAA": ["2001:db8::1", "2001:db8::2"], "A": [ONE, TWO]}})
    assert [address for _, address, _ in await attempts({}, resolver=resolver)] == ["2001:db8::1", ONE]


@pytest.mark.parametrize(("most", "tried"), [(1, 1), (5, 5), (None, 10)])
async def test_number_of_attempts_is_limited(most: int | None, tried: int) -> None:
    """RFC 5321 5.1: "there MAY also be a configurable limit"."""
    hosts = [f"mx{number}.example" for number in range(8)]
    records: dict[str, Any] = {
        host: {"A": [f"192.0.2.{2 * n + 1}", f"192.0.2.{2 * n + 2}"]} for n, host in enumerate(hosts)
    }
    records["example.org"] = {"MX": [(10, host) for host in hosts]}
    settings = {} if most is None else {"max_attempts": most}
    found = await attempts({}, resolver=MemoryResolver(records), **settings)
    assert len(found) == tried


async def test_domain_without_mx_records_is_its_own_exchanger() -> None:
    resolver = MemoryResolver({"example.org": {"A": [FOUR]}})
    assert await attempts({FOUR: Inbox()}, resolver=resolver) == [("example.org", FOUR, "")]


async def test_address_literal() -> None:
    async with memory_network({FOUR: Inbox()}):
        async with connect_domain(f"[{FOUR}]", resolver=MemoryResolver({})) as connection:
            assert connection.client.usable
    assert outline(connection) == [(f"[{FOUR}]", FOUR, "")]


# --- servers that open no session -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [421, 450, 521, 554])
async def test_exchanger_that_refuses_with_its_greeting(code: int) -> None:
    """RFC 5321 3.1, RFC 7504: the host accepts no mail; another of the domain may."""
    found = await attempts({ONE: Refusing(code), TWO: Refusing(code), THREE: Inbox()})
    expected = {421: "451 4.3.2", 450: "450 4.3.2", 521: "521 5.3.2", 554: "554 5.3.2"}[code]
    assert [result for _, _, result in found] == [expected, expected, ""]


@pytest.mark.parametrize("code", [421, 451, 504, 550])
async def test_exchanger_that_refuses_hello(code: int) -> None:
    found = await attempts({ONE: RefusingHello(code), TWO: RefusingHello(code), THREE: Inbox()})
    assert [result[0] for _, _, result in found[:2]] == [str(code)[0]] * 2
    assert found[2] == ("b.example", THREE, "")


@pytest.mark.parametrize(
    ("servers", "reply"),
    [
        ({ONE: Refusing(554), TWO: Refusing(521), THREE: Refusing(554)}, "554 5.3.2"),
        ({ONE: Refusing(554), TWO: Refusing(450), THREE: Refusing(554)}, "450 4.3.2"),
        ({ONE: Refusing(554), TWO: Refusing(554)}, "451 4.4.1"),
        ({}, "451 4.4.1"),
    ],
    ids=["permanent", "one temporary", "one dead", "all dead"],
)
async def test_domain_without_a_session(servers: dict[str, Hooks], reply: str) -> None:
    """The error is permanent only if that of every attempt is."""
    async with memory_network(servers or {"unused.test": Inbox()}):
        with pytest.raises(DomainUnreachableError) as caught:
            async with connect_domain("example.org", resolver=MemoryResolver(RECORDS)):
                raise AssertionError
    assert f"{caught.value.reply.code} {caught.value.reply.status}" == reply
    assert caught.value.temporary is (reply[0] == "4")
    assert caught.value.domain == "example.org"
    assert [each.error is None for each in caught.value.attempts] == [False] * 3
    assert "a.example [192.0.2." in str(caught.value) or "b.example" in str(caught.value)


async def test_failed_lookup_of_one_exchanger_makes_the_error_temporary() -> None:
    resolver = MemoryResolver(RECORDS, failures={"b.example": "SERVFAIL"})
    async with memory_network({ONE: Refusing(554), TWO: Refusing(554)}):
        with pytest.raises(DomainUnreachableError) as caught:
            async with connect_domain("example.org", resolver=resolver):
                raise AssertionError
    assert (caught.value.reply.code, caught.value.reply.status) == (451, "4.4.3")
    assert [each.name for each in caught.value.unreachable] == ["b.example"]


@pytest.mark.parametrize(
    ("rule", "result"),
    [(Garbage("CONNECT"), "451 4.5.0"), (Close("CONNECT"), "451 4.4.1"), (Reset("EHLO"), "451 4.4.2")],
    ids=str,
)
async def test_exchanger_that_does_not_speak_smtp(rule: Rule, result: str) -> None:
    async with memory_network({ONE: Inbox(), TWO: Inbox()}, faults=Faults(rule)):
        async with connect_domain("example.org", resolver=MemoryResolver(RECORDS)) as connection:
            pass
    assert outline(connection) == [("a.example", ONE, result), ("a.example", TWO, "")]


@pytest.mark.parametrize(
    ("greeting", "reply"),
    [
        (b"421 5.3.2 closing\r\n", b"451 4.3.2 "),
        (b"450 5.7.1 the status does not fit\r\n", b"450 4.3.2 "),
        (b"599 5.999.999 unknown\r\n", b"599 5.999.999 "),
        (b"554\r\n", b"554 5.3.2 "),
        (b"554 \xff\x07\r\n", b"554 5.3.2 "),
        ((b"554-" + b"x" * 400 + b"\r\n") * 50 + b"554 end\r\n", b"554"),
        (b"250 accepted\r\n", b"451 4.5.0 "),
    ],
    ids=lambda value: ascii(value[:9]),
)
async def test_reply_for_an_unusual_greeting(greeting: bytes, reply: bytes) -> None:
    """It can be sent to another client, whatever the exchanger has sent."""
    resolver = MemoryResolver({"example.org": {"A": [ONE]}})
    async with memory_network({ONE: Inbox()}, faults=Faults(Replace("CONNECT", greeting))):
        with pytest.raises(DomainUnreachableError) as caught:
            async with connect_domain("example.org", resolver=resolver):
                raise AssertionError
    octets = caught.value.reply.encode()
    assert octets.startswith(reply)
    assert all(len(line) <= 512 for line in octets.splitlines(keepends=True))
    assert len(octets) < 1000


async def test_silent_exchanger(autojump_clock: MockClock) -> None:
    found = await attempts({ONE: Silent(), TWO: Silent(), THREE: Inbox()}, timeout=ClientTimeouts(greeting=10))
    assert [result for _, _, result in found] == ["451 4.4.1", "451 4.4.1", ""]
    assert trio.current_time() == pytest.approx(20, abs=2)


async def test_time_of_an_attempt_is_limited(autojump_clock: MockClock) -> None:
    """Also for a server that is slow in each step."""
    found = await attempts({ONE: Slow(), TWO: Slow(), THREE: Inbox()}, attempt_timeout=30)
    assert [result for _, _, result in found] == ["451 4.4.1", "451 4.4.1", ""]
    assert trio.current_time() == pytest.approx(60, abs=2)


@pytest.mark.parametrize("limit", [0, 45])
async def test_slow_exchanger_is_used(limit: float, autojump_clock: MockClock) -> None:
    assert await attempts({ONE: Slow()}, attempt_timeout=limit) == [("a.example", ONE, "")]


def test_cancelled_at_every_step() -> None:
    """No task and no connection is left."""

    async def once(attempt: Attempt) -> None:
        async with memory_network({ONE: Refusing(450), THREE: Inbox()}):
            with attempt.here():
                async with connect_domain("example.org", resolver=MemoryResolver(RECORDS)) as connection:
                    await trio.lowlevel.checkpoint()
                    assert connection.client.usable

    assert cancel_everywhere(once).points >= 20


# --- domains without a route ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "failures", "error"),
    [
        ({"example.org": {"MX": [(0, "")]}}, {}, NullMxError),
        ({"other.example": {"A": [ONE]}}, {}, NoExchangerError),
        ({"example.org": {"MX": [(10, "a.example")], "A": [ONE]}}, {}, NoExchangerError),
        (RECORDS, {("example.org", "MX"): "SERVFAIL"}, LookupFailedError),
    ],
    ids=["null MX", "unknown", "no address", "failure"],
)
async def test_domain_without_a_route(records: Any, failures: Any, error: type[Exception]) -> None:
    """RFC 5321 5.1, RFC 7505 4.1: nothing is connected to."""
    server = Refusing(554)
    async with memory_network({ONE: server}):
        with pytest.raises(error):
            async with connect_domain("example.org", resolver=MemoryResolver(records, failures=failures)):
                raise AssertionError
    assert server.sessions == 0


@pytest.mark.parametrize(("seconds", "tried"), [(40, 1), (50, 1), (70, 2)])
async def test_time_for_all_attempts_is_limited(seconds: float, tried: int, autojump_clock: MockClock) -> None:
    """An attempt in progress ends, and no other one is begun. The time for the lookups does not count."""
    resolver = MemoryResolver(RECORDS, delays={("example.org", "MX"): 10})
    async with memory_network({ONE: Silent(), TWO: Silent(), THREE: Inbox()}):
        with pytest.raises(DomainUnreachableError) as caught:
            async with connect_domain("example.org", resolver=resolver, attempt_timeout=50, domain_timeout=seconds):
                raise AssertionError
    assert trio.current_time() == pytest.approx(seconds + 10, abs=1)
    assert [result for _, _, result in outline(caught.value)] == ["451 4.4.1"] * tried


async def test_domain_is_temporarily_unreachable_if_time_was_short() -> None:
    """Those that were not tried may accept mail."""
    async with memory_network({ONE: Refusing(554), TWO: Refusing(554), THREE: Refusing(554)}):
        with pytest.raises(DomainUnreachableError) as caught:
            async with connect_domain("example.org", resolver=MemoryResolver(RECORDS)):
                raise AssertionError
    assert not caught.value.temporary
    late = DomainUnreachableError("example.org", caught.value.attempts[:2], late="no time for others")
    assert (late.temporary, str(late)) == (True, "451 4.4.1 no time for others")


async def test_lookups_are_limited(autojump_clock: MockClock) -> None:
    resolver = MemoryResolver(RECORDS, delays={"example.org": math.inf})
    with pytest.raises(LookupFailedError, match="within 3 s"):
        async with connect_domain("example.org", resolver=resolver, lookup_timeout=3):
            raise AssertionError


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"tls": "never"}, TypeError),
        ({"auth": ("a", "b")}, TypeError),
        ({"max_addresses": 0}, ValueError),
        ({"max_addresses": 1.5}, TypeError),
        ({"max_attempts": 0}, ValueError),
        ({"max_attempts": 1.5}, TypeError),
        ({"attempt_timeout": -1}, ValueError),
        ({"domain_timeout": -1}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"name": "a b"}, ValueError),
        ({"port": 0}, ValueError),
        ({"local_address": "a b"}, ValueError),
        ({"sts_context": 1}, TypeError),
        ({"on_attempt": 1}, TypeError),
        ({"on_attempt": trio.sleep}, TypeError),
        ({"sts_context": ssl._create_unverified_context()}, ValueError),
        ({"dane": "maybe"}, ValueError),
        ({"domain": "a..b"}, ValueError),
        ({"domain": ONE}, ValueError),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else value.__name__,
)
async def test_invalid_arguments(settings: dict[str, Any], error: type[Exception]) -> None:
    """They are refused before anything is looked up."""
    resolver = MemoryResolver(RECORDS)
    with pytest.raises(error):
        async with connect_domain(**{"domain": "example.org", "resolver": resolver, **settings}):
            raise AssertionError
    assert resolver.queries == []


async def test_settings_of_the_client() -> None:
    class Names(Inbox):
        async def helo(self, session: Session, hello: Hello) -> None:
            names.append((hello.domain, session.peer.host))

    names: list[tuple[str, str]] = []
    async with memory_network({(ONE, 2525): Names()}):
        async with connect_domain(
            "example.org",
            2525,
            resolver=MemoryResolver(RECORDS),
            name="client.test",
            local_address="198.51.100.1",
            extensions=iter(()),
        ):
            pass
    assert names == [("client.test", "198.51.100.1")]


async def test_name_is_loaded_when_it_is_used() -> None:
    script = "import sys, smtp_trio; smtp_trio.send; assert 'smtp_trio.routing' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- TLS ------------------------------------------------------------------------------------------------------------

SERVER = Issued.make("a.example", dns=["a.example"])
OTHER = Issued.make("other", dns=["a.example"])


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


def certified(*names: str, common_name: str | None = None) -> ssl.SSLContext:
    """Return the context of a server with a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*names, common_name=common_name).configure_cert(context)
    return context


def signed(record: str) -> MemoryResolver:
    """Return a resolver in whose signed zones a.example has a TLSA record."""
    records = {**RECORDS, "_25._tcp.a.example": {"TLSA": [record]}}
    return MemoryResolver(records, secure=["example.org", "example"])


async def test_opportunistic_tls(tmp_path: Path) -> None:
    """RFC 7435: any certificate is good enough, and so is none."""
    for context in (SERVER.server_context(tmp_path), None):
        async with memory_network({ONE: Server(Inbox(), tls=context)}):
            async with connect_domain("example.org", resolver=MemoryResolver(RECORDS)) as connection:
                assert (connection.client.tls is not None) is (context is not None)
        [attempt] = connection.attempts
        assert attempt.tls == connection.client.tls
        assert attempt.session is not None
        assert attempt.session.policy.type is TlsPolicyType.NO_POLICY_FOUND
        types = [each.result_type for each in attempt.session.failures]
        assert types == ([] if context else [TlsResultType.STARTTLS_NOT_SUPPORTED])


async def test_dane(tmp_path: Path) -> None:
    """RFC 7672 2.2."""
    inbox = Inbox()
    async with memory_network({ONE: Server(inbox, tls=SERVER.server_context(tmp_path))}):
        async with connect_domain("example.org", resolver=signed(str(SERVER.record(3)))) as connection:
            result = await connection.client.send("me@example.net", ["you@example.org"], MESSAGE)
    assert result.tls is not None
    assert result.tls.verified
    [attempt] = connection.attempts
    assert attempt.session is not None
    assert (attempt.session.policy.type, attempt.session.policy.domain) == (TlsPolicyType.TLSA, "a.example")
    assert attempt.session.failures == ()


@pytest.mark.parametrize("context", ["wrong", "none"])
@pytest.mark.parametrize("usable", [True, False])
async def test_exchanger_that_does_not_satisfy_dane(context: str, usable: bool, tmp_path: Path) -> None:
    """RFC 7672 2.2: nothing is sent to it in clear text, or without authentication. The next exchanger is used."""
    if context == "wrong" and not usable:
        return  # RFC 7672 2.2: no certificate is checked
    inbox, other = Inbox(), Inbox()
    tls = OTHER.server_context(tmp_path) if context == "wrong" else None
    first = Server(inbox, tls=tls)
    record = str(SERVER.record(3 if usable else 1))
    async with memory_network({ONE: first, TWO: first, THREE: other}):
        async with connect_domain("example.org", resolver=signed(record)) as connection:
            await connection.client.send("me@example.net", ["you@example.org"], MESSAGE)
    assert (len(inbox), len(other)) == (0, 1)
    status = "451 4.7.5" if context == "wrong" else "451 4.7.4"
    assert [result for _, _, result in outline(connection)] == [status, status, ""]
    session = connection.attempts[0].session
    assert session is not None
    [failure] = session.failures
    assert (failure.receiving_mx_hostname, failure.receiving_ip) == ("a.example", ONE)
    if context == "none":
        assert failure.result_type is TlsResultType.STARTTLS_NOT_SUPPORTED


async def test_records_that_are_not_usable_require_tls(tmp_path: Path) -> None:
    """RFC 7672 2.2."""
    async with memory_network({ONE: Server(Inbox(), tls=OTHER.server_context(tmp_path))}):
        async with connect_domain("example.org", resolver=signed(str(SERVER.record(1)))) as connection:
            assert connection.client.tls is not None
            assert not connection.client.tls.verified


async def test_refused_hello_is_temporary_if_tls_is_required() -> None:
    """The server that refuses EHLO is not authenticated."""
    async with memory_network({ONE: RefusingHello(550), TWO: RefusingHello(550)}):
        with pytest.raises(DomainUnreachableError) as caught:
            async with connect_domain("example.org", resolver=signed(str(SERVER.record(3)))):
                raise AssertionError
    assert [result for _, _, result in outline(caught.value)] == ["451 4.7.4", "451 4.7.4", "451 4.4.1"]


class Published:
    """An MTA-STS policy of example.org."""

    def __init__(self, mode: str, *mx: str) -> None:
        self.resolver = MemoryResolver({**RECORDS, "_mta-sts.example.org": {"TXT": ["v=STSv1; id=1;"]}})
        lines = ["version: STSv1", f"mode: {mode}", "max_age: 86400", *(f"mx: {each}" for each in mx)]
        self.text = "\n".join(lines).encode()

    async def fetch(self, domain: str) -> bytes:
        if not self.text:
            raise PolicyFetchError(domain, TlsResultType.STS_POLICY_FETCH_ERROR, "none")
        return self.text

    def settings(self) -> Any:
        return {
            "resolver": self.resolver,
            "sts": StsPolicies(self.resolver, self.fetch),
            "sts_context": trusting(),
        }


async def sts_session(policy: Published, context: ssl.SSLContext | None) -> tuple[DomainConnection, int]:
    """Send a message to example.org; return the connection, and how many messages a.example has received."""
    inbox = Inbox()
    first = Server(inbox, tls=context)
    other = Server(Inbox(), tls=certified("b.example"))
    async with memory_network({ONE: first, TWO: first, THREE: other}):
        async with connect_domain("example.org", **policy.settings()) as connection:
            await connection.client.send("me@example.net", ["you@example.org"], MESSAGE)
    return connection, len(inbox)


async def test_mta_sts() -> None:
    """RFC 8461 4.2 and 5: the certificate is for the name of the exchanger."""
    connection, received = await sts_session(Published("enforce", "*.example"), certified("a.example"))
    assert received == 1
    [attempt] = connection.attempts
    assert attempt.tls is not None
    assert attempt.tls.verified
    assert attempt.session is not None
    assert (attempt.session.policy.type, attempt.session.failures) == (TlsPolicyType.STS, ())


async def test_mta_sts_trusts_the_authorities_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also after they have changed. Common names do not count here either."""
    policy = Published("enforce", "*.example")
    for number, (trusted, context, received) in enumerate(
        [
            (trustme.CA(), certified("a.example"), 0),
            (authority(), certified("a.example"), 2),
            (authority(), certified("192.0.2.9", common_name="a.example"), 0),
        ]
    ):
        trusted.cert_pem.write_to_path(path := str(tmp_path / f"{number}.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", path)
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
        inbox = Inbox()
        settings = policy.settings() | {"sts_context": None}
        async with memory_network({ONE: Server(inbox, tls=context)}):
            for _ in range(2):
                with contextlib.suppress(DomainUnreachableError):
                    async with connect_domain("example.org", **settings) as connection:
                        await connection.client.send("me@example.net", ["you@example.org"], MESSAGE)
        assert len(inbox) == received


FAILURES: dict[str, tuple[Callable[[], ssl.SSLContext | None], str, TlsResultType]] = {
    "name": (lambda: certified("x.example"), "451 4.7.5", TlsResultType.CERTIFICATE_HOST_MISMATCH),
    "common name": (
        lambda: certified("192.0.2.9", common_name="a.example"),
        "451 4.7.5",
        TlsResultType.CERTIFICATE_HOST_MISMATCH,
    ),
    "no TLS": (lambda: None, "451 4.7.4", TlsResultType.STARTTLS_NOT_SUPPORTED),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_exchanger_that_does_not_satisfy_the_policy(name: str) -> None:
    """RFC 8461 5: in the mode "enforce" nothing is sent to it; in the mode "testing" mail is sent, and the failure counted."""
    make, status, result_type = FAILURES[name]
    connection, received = await sts_session(Published("enforce", "*.example"), make())
    assert received == 0
    assert [result for _, _, result in outline(connection)] == [status, status, ""]
    assert _result_types(connection) == [result_type]

    connection, received = await sts_session(Published("testing", "*.example"), make())
    assert received == 1
    assert outline(connection) == [("a.example", ONE, "")]
    assert _result_types(connection) == [result_type]


def _result_types(connection: DomainConnection) -> list[TlsResultType]:
    session = connection.attempts[0].session
    assert session is not None
    assert session.policy.type is TlsPolicyType.STS
    return [each.result_type for each in session.failures]


async def test_exchanger_that_the_policy_does_not_name() -> None:
    """RFC 8461 5: it is not connected to, or counted as a failure."""
    connection, received = await sts_session(Published("enforce", "b.example"), certified("a.example"))
    assert (received, outline(connection)) == (0, [("b.example", THREE, "")])

    connection, received = await sts_session(Published("testing", "b.example"), certified("a.example"))
    assert (received, _result_types(connection)) == (1, [TlsResultType.CERTIFICATE_HOST_MISMATCH])


async def test_tested_policy_and_an_exchanger_that_is_dead() -> None:
    policy = Published("testing", "*.example")
    async with memory_network({THREE: Server(Inbox(), tls=certified("b.example"))}):
        async with connect_domain("example.org", **policy.settings()) as connection:
            pass
    assert [each.session is None for each in connection.attempts] == [True, True, False]


async def test_handshake_that_fails_and_is_not_required() -> None:
    """The server offers STARTTLS, and the handshake fails: the failure is counted, and mail is sent in clear text."""
    context = certified("a.example")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("PSK")
    connection, received = await sts_session(Published("none"), context)
    assert received == 1
    assert connection.client.tls is None
    session = connection.attempts[0].session
    assert session is not None
    assert [each.result_type for each in session.failures] == [TlsResultType.VALIDATION_FAILURE]


async def test_error_is_an_smtp_error() -> None:
    async with memory_network({"unused.test": Inbox()}):
        with pytest.raises(SMTPError, match=r"451 4\.4\.1 a\.example"):
            async with connect_domain("example.org", resolver=MemoryResolver(RECORDS)):
                raise AssertionError
