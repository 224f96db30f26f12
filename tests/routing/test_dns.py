"""`DnsResolver` with real queries, to a name server on loopback."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset
import pytest
import trio
from dns.edns import EDECode, EDEOption
from dns.message import Message
from dns.rcode import Rcode
from trio.testing import MockClock

from smtp_trio.routing import (
    Answer,
    Dane,
    DnsResolver,
    LookupFailedError,
    MxRecord,
    RecordType,
    TlsaRecord,
    route,
)
from smtp_trio.routing._dnspython import NameServer, NameServers, system_nameservers

from .name_server import NameServerOnLoopback, Respond, name_server, to_wire

#: The records of the name server, by name and type.
ZONE: dict[tuple[str, str], Sequence[str]] = {
    ("example.org", "MX"): ["20 MX2.example.org.", "10 mx1.example.org."],
    ("example.org", "TXT"): ['"v=spf1" " -all"', r'"\255"'],
    ("null.example", "MX"): ["0 ."],
    ("mx1.example.org", "A"): ["192.0.2.1", "192.0.2.2"],
    ("mx1.example.org", "AAAA"): ["2001:db8::1"],
    ("_25._tcp.mx1.example.org", "TLSA"): [f"3 1 1 {bytes(32).hex()}", f"2 0 2 {bytes(range(64)).hex()}"],
    ("alias.example", "CNAME"): ["Alias2.example."],
    ("alias2.example", "CNAME"): ["mx1.example.org."],
    ("to-nothing.example", "CNAME"): ["gone.example."],
    ("loop.example", "CNAME"): ["loop2.example."],
    ("loop2.example", "CNAME"): ["loop.example."],
    **{(f"c{number}.example", "CNAME"): [f"c{number + 1}.example."] for number in range(40)},
    ("many.example", "A"): [f"10.0.{number // 256}.{number % 256}" for number in range(2000)],
}
NAMES = {name for name, _ in ZONE}


def from_zone(request: Message, tcp: bool, *, authenticated: bool = True, partial: bool = False) -> Message:
    """Answer from the zone, as a recursive name server does."""
    reply = dns.message.make_response(request, recursion_available=True)
    reply.flags |= dns.flags.AD if authenticated else 0
    [question] = request.question
    name, kind = question.name.to_text().lower()[:-1], dns.rdatatype.to_text(question.rdtype)
    while (name, kind) not in ZONE and (name, "CNAME") in ZONE and len(reply.answer) < 50:
        [target] = ZONE[name, "CNAME"]
        reply.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "CNAME", target))
        if partial:
            return reply
        name = target.lower()[:-1]
    if records := ZONE.get((name, kind)):
        reply.answer.append(dns.rrset.from_text_list(f"{name}.", 60, "IN", kind, records))
    else:
        soa = "ns.example. root.example. 1 1 1 1 1"
        reply.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", soa))
        reply.set_rcode(dns.rcode.NOERROR if name in NAMES else dns.rcode.NXDOMAIN)
    if not tcp and len(to_wire(reply)) > 1232:
        reply = dns.message.make_response(request)
        reply.flags |= dns.flags.TC
    return reply


def patient(server: NameServerOnLoopback) -> DnsResolver:
    """Return a resolver that waits for the answer of this server also on a machine that is busy."""
    return DnsResolver([server.address], timeout=100)


async def ask(respond: Respond, name: str, type: RecordType) -> Answer:
    async with name_server(respond) as server:
        return await patient(server).query(name, type)


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "type", "records"),
    [
        ("example.org", "MX", (MxRecord(20, "mx2.example.org"), MxRecord(10, "mx1.example.org"))),
        ("Example.ORG.", "MX", (MxRecord(20, "mx2.example.org"), MxRecord(10, "mx1.example.org"))),
        ("null.example", "MX", (MxRecord(0, ""),)),
        ("example.org", "TXT", ("v=spf1 -all", "\ufffd")),
        ("mx1.example.org", "A", ("192.0.2.1", "192.0.2.2")),
        ("mx1.example.org", "AAAA", ("2001:db8::1",)),
        (
            "_25._tcp.mx1.example.org",
            "TLSA",
            (TlsaRecord(3, 1, 1, bytes(32)), TlsaRecord(2, 0, 2, bytes(range(64)))),
        ),
        ("alias.example", "CNAME", ("alias2.example",)),
        ("mx1.example.org", "CNAME", ()),
        ("mx1.example.org", "MX", ()),
    ],
)
async def test_records(name: str, type: RecordType, records: tuple[object, ...]) -> None:
    answer = await ask(from_zone, name, type)
    assert answer == Answer(name.lower().rstrip("."), type, records, secure=True)  # type: ignore[arg-type]


async def test_name_that_does_not_exist() -> None:
    assert await ask(from_zone, "gone.example", "A") == Answer("gone.example", "A", exists=False, secure=True)


async def test_cname_records_are_followed() -> None:
    answer = await ask(from_zone, "alias.example", "AAAA")
    assert (answer.name, answer.canonical_name, answer.records) == (
        "alias.example",
        "mx1.example.org",
        ("2001:db8::1",),
    )


async def test_cname_to_a_name_that_does_not_exist() -> None:
    answer = await ask(from_zone, "to-nothing.example", "A")
    assert (answer.canonical_name, answer.exists, answer.records) == ("gone.example", False, ())


async def test_cname_to_a_name_without_records_of_the_type() -> None:
    answer = await ask(from_zone, "alias.example", "TXT")
    assert (answer.canonical_name, answer.exists, answer.records) == ("mx1.example.org", True, ())


async def test_cname_record_without_what_its_target_has() -> None:
    """RFC 7672 2.1.3: the query is repeated at the target."""
    async with name_server(lambda request, tcp: from_zone(request, tcp, partial=True)) as server:
        answer = await patient(server).query("alias.example", "A")
    assert (answer.canonical_name, answer.records, answer.secure) == (
        "mx1.example.org",
        ("192.0.2.1", "192.0.2.2"),
        True,
    )
    assert [name.lower() for name, _, _ in server.queries] == ["alias.example", "alias2.example", "mx1.example.org"]


# --- DNSSEC -------------------------------------------------------------------------------------------------------


async def test_answer_is_secure_if_it_is_authenticated() -> None:
    """RFC 7672 2.1.1: loopback is trusted."""
    assert (await ask(from_zone, "example.org", "MX")).secure
    assert not (
        await ask(lambda request, tcp: from_zone(request, tcp, authenticated=False), "example.org", "MX")
    ).secure


@pytest.mark.parametrize("insecure", ["alias.example", "alias2.example", "mx1.example.org"])
async def test_every_part_of_an_answer_must_be_authenticated(insecure: str) -> None:
    """RFC 7672 2.1.3."""

    def respond(request: Message, tcp: bool) -> Message:
        return from_zone(
            request, tcp, partial=True, authenticated=request.question[0].name.to_text().lower() != f"{insecure}."
        )

    assert not (await ask(respond, "alias.example", "A")).secure


@pytest.mark.parametrize(
    ("address", "trusted", "expected"),
    [
        ("127.0.0.1", [], True),
        ("127.0.0.53", [], True),
        ("::1", [], True),
        ("192.0.2.53", [], False),
        ("192.0.2.53", ["192.0.2.54"], False),
        ("192.0.2.53", ["192.0.2.53"], True),
        ("2001:db8::53", ["2001:DB8:0::53"], True),
    ],
)
def test_trusted_name_servers(address: str, trusted: list[str], expected: bool) -> None:
    """RFC 7672 2.1.1: the AD bit counts on loopback, or if the path is protected."""
    [server] = DnsResolver([address], trusted=trusted)._servers.servers
    assert server.trusted == expected


async def test_ad_bit_of_a_server_that_is_not_trusted() -> None:
    async with name_server(from_zone) as server:
        servers = NameServers([NameServer(*server.address, trusted=False)], timeout=100, attempts=1)
        answer = await servers.query("example.org", "MX")
    assert (len(answer.records), answer.secure) == (2, False)


async def test_query_asks_for_validation() -> None:
    """The bits RD, AD and DO (RFC 6840 5.7, RFC 3225), and responses that fit into a packet."""
    seen = []

    def respond(request: Message, tcp: bool) -> Message:
        seen.append(request)
        return from_zone(request, tcp)

    await ask(respond, "example.org", "MX")
    [request] = seen
    assert request.flags == dns.flags.RD | dns.flags.AD
    assert (request.edns, request.ednsflags, request.payload) == (0, dns.flags.DO, 1232)


# --- failures -----------------------------------------------------------------------------------------------------


def error(code: Rcode) -> Respond:
    def respond(request: Message, tcp: bool) -> Message:
        reply = dns.message.make_response(request)
        reply.set_rcode(code)
        return reply

    return respond


@pytest.mark.parametrize("code", [Rcode.SERVFAIL, Rcode.REFUSED, Rcode.NOTIMP, Rcode.FORMERR])
async def test_error_of_the_name_server_is_a_temporary_failure(code: Rcode) -> None:
    """RFC 5321 5.1; a bogus answer is SERVFAIL."""
    async with name_server(error(code)) as server:
        with pytest.raises(LookupFailedError) as caught:
            await patient(server).query("example.org", "MX")
    assert (caught.value.temporary, caught.value.name, caught.value.type) == (True, "example.org", "MX")
    assert caught.value.reason == f"127.0.0.1: {code.name}"
    assert len(server.queries) == 1


async def test_reason_of_the_name_server() -> None:
    """RFC 8914."""

    def respond(request: Message, tcp: bool) -> Message:
        reply = dns.message.make_response(request)
        reply.set_rcode(Rcode.SERVFAIL)
        unknown = EDEOption(60000)  # type: ignore[arg-type]
        reply.use_edns(options=[EDEOption(EDECode.DNSSEC_BOGUS, "signature expired"), unknown])
        return reply

    with pytest.raises(LookupFailedError, match=r"SERVFAIL \(DNSSEC BOGUS, 60000\)"):
        await ask(respond, "example.org", "MX")


async def test_name_that_becomes_too_long_is_a_permanent_failure() -> None:
    """RFC 6672 2.2: YXDOMAIN."""
    with pytest.raises(LookupFailedError) as caught:
        await ask(error(Rcode.YXDOMAIN), "example.org", "MX")
    assert not caught.value.temporary


@pytest.mark.parametrize("name", ["a" * 64 + ".example", "a." * 128 + "example", "a..example"])
async def test_name_that_cannot_be_asked_for(name: str) -> None:
    async with name_server(from_zone) as server:
        with pytest.raises(LookupFailedError) as caught:
            await patient(server).query(name, "MX")
    assert (caught.value.temporary, server.queries) == (False, [])


async def test_loop_of_cname_records() -> None:
    with pytest.raises(LookupFailedError, match="invalid response") as caught:
        await ask(from_zone, "loop.example", "A")
    assert caught.value.temporary


async def test_loop_of_cname_records_in_several_responses() -> None:
    async with name_server(lambda request, tcp: from_zone(request, tcp, partial=True)) as server:
        for name in ("loop.example", "c1.example"):
            server.queries.clear()
            with pytest.raises(LookupFailedError, match="too many CNAME records"):
                await patient(server).query(name, "A")
            assert len(server.queries) == 8


async def test_long_chain_of_cname_records() -> None:
    with pytest.raises(LookupFailedError, match="invalid response"):
        await ask(from_zone, "c1.example", "A")


async def test_contradictory_response() -> None:
    """NXDOMAIN with records."""

    def respond(request: Message, tcp: bool) -> Message:
        reply = from_zone(request, tcp)
        reply.set_rcode(Rcode.NXDOMAIN)
        return reply

    with pytest.raises(LookupFailedError, match="invalid response"):
        await ask(respond, "example.org", "MX")


async def test_name_server_that_does_not_answer(socket_clock: MockClock) -> None:
    """It is asked again; the failure is temporary."""
    async with name_server(lambda request, tcp: None) as server:
        with pytest.raises(LookupFailedError, match=r"127\.0\.0\.1: no answer within 4 s") as caught:
            await DnsResolver([server.address], timeout=4, attempts=3).query("example.org", "MX")
    assert (len(server.queries), trio.current_time(), caught.value.temporary) == (3, 12, True)


def not_a_response(request: Message, tcp: bool) -> bytes:
    return b"rubbish"


def wrong_id(request: Message, tcp: bool) -> bytes:
    reply = to_wire(from_zone(request, tcp))
    return bytes([reply[0] ^ 1]) + reply[1:]


def wrong_question(request: Message, tcp: bool) -> bytes:
    return to_wire(from_zone(request, tcp)).replace(b"\7example\3org", b"\7example\3net")


def request_itself(request: Message, tcp: bool) -> bytes:
    return to_wire(request)


def cut_off(request: Message, tcp: bool) -> bytes:
    return to_wire(from_zone(request, tcp))[:-3]


def wrong_counts(request: Message, tcp: bool) -> bytes:
    reply = to_wire(from_zone(request, tcp))
    return reply[:6] + b"\xff\xff" + reply[8:]


def pointer_loop(request: Message, tcp: bool) -> bytes:
    reply = to_wire(dns.message.make_response(dns.message.make_query("example.org", "MX", id=request.id)))
    return reply[:6] + b"\0\1" + reply[8:] + b"\xc0" + bytes([len(reply)]) + b"\0\x0f\0\1\0\0\0\0\0\0"


def bad_record(request: Message, tcp: bool) -> bytes:
    reply = to_wire(dns.message.make_response(dns.message.make_query("example.org", "MX", id=request.id)))
    return reply[:6] + b"\0\1" + reply[8:] + b"\xc0\x0c" + b"\0\x0f\0\1\0\0\0\0\0\1x"


@pytest.mark.parametrize(
    "respond",
    [not_a_response, wrong_id, wrong_question, request_itself, cut_off, wrong_counts, pointer_loop, bad_record],
)
async def test_octets_that_are_not_a_response_are_ignored(respond: Respond, socket_clock: MockClock) -> None:
    """Anyone can send them (RFC 5452), so the right response may still come."""
    with pytest.raises(LookupFailedError, match="no answer within") as caught:
        await ask(respond, "example.org", "MX")
    assert caught.value.temporary


async def test_large_response_comes_by_tcp() -> None:
    async with name_server(from_zone) as server:
        answer = await patient(server).query("many.example", "A")
    assert len(answer.records) == 2000
    assert [tcp for _, _, tcp in server.queries] == [False, True]


@pytest.mark.parametrize("octets", [None, b"", b"\0" * 20])
async def test_large_response_that_does_not_come(octets: bytes | None) -> None:
    def respond(request: Message, tcp: bool) -> Message | bytes | None:
        return octets if tcp else from_zone(request, tcp)

    with pytest.raises(LookupFailedError) as caught:
        await ask(respond, "many.example", "A")
    assert caught.value.temporary


class Silent(NameServerOnLoopback):
    """Accepts queries by TCP, and does not answer them."""

    async def serve_tcp(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            self.queries.append(("", "", True))
            await trio.sleep_forever()


@pytest.mark.parametrize("name", ["silent.example", "many.example"], ids=["UDP", "TCP"])
async def test_cancelled_lookup(name: str, socket_clock: MockClock) -> None:
    """Its socket is closed: one that is not is a ResourceWarning, which is an error here."""

    def respond(request: Message, tcp: bool) -> Message | None:
        return from_zone(request, tcp) if name == "many.example" else None

    async with name_server(respond, Silent) as server:
        with trio.move_on_after(3) as scope:
            await patient(server).query(name, "A")
        gc.collect()
    assert scope.cancelled_caught
    assert [tcp for _, _, tcp in server.queries] == ([False, True] if name == "many.example" else [False])


# --- several name servers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [Rcode.SERVFAIL, Rcode.REFUSED])
async def test_next_name_server_is_asked_after_an_error(code: Rcode) -> None:
    async with name_server(error(code)) as first, name_server(from_zone) as second:
        resolver = DnsResolver([first.address, second.address])
        assert (await resolver.query("example.org", "MX")).records
    assert (len(first.queries), len(second.queries)) == (1, 1)


async def test_next_name_server_is_asked_if_there_is_no_answer(socket_clock: MockClock) -> None:
    async with name_server(lambda request, tcp: None) as first, name_server(from_zone) as second:
        resolver = DnsResolver([first.address, second.address])
        assert (await resolver.query("example.org", "MX")).records
    assert (len(first.queries), len(second.queries)) == (1, 1)


async def test_reasons_of_all_name_servers() -> None:
    async with name_server(error(Rcode.SERVFAIL)) as first, name_server(error(Rcode.REFUSED)) as second:
        with pytest.raises(LookupFailedError) as caught:
            await DnsResolver([first.address, second.address]).query("example.org", "MX")
    assert caught.value.reason == "127.0.0.1: SERVFAIL; 127.0.0.1: REFUSED"


async def test_negative_answer_is_final() -> None:
    """NXDOMAIN and an answer without records are answers: the second server is not asked."""
    async with name_server(from_zone) as first, name_server(from_zone) as second:
        resolver = DnsResolver([first.address, second.address])
        assert not (await resolver.query("gone.example", "MX")).exists
        assert (await resolver.query("mx1.example.org", "MX")).records == ()
    assert second.queries == []


# --- construction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"nameservers": []}, ValueError),
        ({"nameservers": ["dns.example"]}, ValueError),
        ({"nameservers": [("127.0.0.1", 0)]}, ValueError),
        ({"nameservers": "127.0.0.1"}, TypeError),
        ({"trusted": ["dns.example"]}, ValueError),
        ({"trusted": "127.0.0.1"}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"attempts": 0}, ValueError),
        ({"attempts": 1.5}, TypeError),
    ],
    ids=str,
)
def test_invalid_argument(arguments: dict[str, object], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        DnsResolver(**arguments)  # type: ignore[arg-type]


def test_name_servers_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """resolv.conf(5): without any, the local host is asked."""
    found = system_nameservers()
    assert [server.address for server in DnsResolver()._servers.servers] == found
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(dns.resolver, "Resolver", partial(dns.resolver.Resolver, str(path)))
    path.write_text("search example.org\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    assert system_nameservers() == ["192.0.2.53", "2001:db8::53"]
    path.write_text("search example.org\n")
    assert system_nameservers() == ["127.0.0.1"]


def test_package_that_is_missing() -> None:
    """`smtp_trio.routing` can be imported, and the error says what to install."""
    script = """
import sys
sys.modules.update(cryptography=None, dns=None, httpx2=None)
from smtp_trio.routing import DnsResolver
try:
    DnsResolver()
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "smtp_trio.routing needs dnspython: install smtp-trio[dns]\n"


def test_packages_are_imported_when_they_are_used() -> None:
    script = """
import sys
import smtp_trio, smtp_trio.testing
assert not {name for name in sys.modules if name.startswith("smtp_trio.routing")} or "dns" not in sys.modules
import smtp_trio.routing
print({"dns", "cryptography", "httpx2"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"


# --- routes -------------------------------------------------------------------------------------------------------


async def test_route() -> None:
    """All lookups of a domain, over sockets."""
    async with name_server(from_zone) as server:
        found = await route("example.org", resolver=patient(server))
    [exchanger] = found.exchangers
    assert (exchanger.name, exchanger.addresses) == ("mx1.example.org", ("2001:db8::1", "192.0.2.1", "192.0.2.2"))
    assert isinstance(exchanger.tls, Dane)
    assert exchanger.tls.names == ("mx1.example.org", "example.org")
    assert [each.name for each in found.unreachable] == ["mx2.example.org"]


async def test_lookups_at_the_same_time_are_limited(socket_clock: MockClock) -> None:
    """So that a process with many routes does not run out of file descriptors."""
    together = []

    class Slow(NameServerOnLoopback):
        """Answers when no more queries come."""

        async def serve_udp(self, udp: trio.socket.SocketType) -> None:
            while True:
                pending = [await udp.recvfrom(4096)]
                while True:
                    with trio.move_on_after(1) as scope:
                        pending.append(await udp.recvfrom(4096))
                    if scope.cancelled_caught:
                        break
                together.append(len(pending))
                for message, sender in pending:
                    answer = self.answer(message, tcp=False)
                    assert answer is not None
                    await udp.sendto(answer, sender)

    async with name_server(from_zone, Slow) as server:
        resolver = patient(server)
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(resolver.query, "example.org", "MX")
    assert together == [64, 64, 64, 8]
