"""The PROXY protocol, versions 1 and 2: headers are read and written, and compared with the package proxy-protocol."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol.crc32c import crc32c
from smtp_trio.protocol.dialogue import CLOSED
from smtp_trio.protocol.framing import PROXY_V2
from smtp_trio.protocol.proxy_header import V2_OCTETS, ProxyHeader, ProxyHeaderError, ProxyHeaderReader, ProxyTls

from .driver import ServerDriver

CLIENT, SERVER = ("192.0.2.9", 4242), ("192.0.2.1", 25)
TCP4 = struct.pack("!4s4sHH", bytes([192, 0, 2, 9]), bytes([192, 0, 2, 1]), 4242, 25)


def v2(rest: bytes = b"", *, start: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    """Return a header of version 2."""
    return PROXY_V2 + struct.pack("!BBH", start, family, len(rest) if length is None else length) + rest


def value(kind: int, octets: bytes) -> bytes:
    return struct.pack("!BH", kind, len(octets)) + octets


def read(octets: bytes) -> tuple[ProxyHeader, bytes]:
    """Return a header and what follows it. It is read whole, and in pieces of every size that a reader asks for."""
    reader = ProxyHeaderReader()
    used = reader.receive_data(octets)
    assert reader.header is not None
    assert reader.wanted == 0
    asking, position = ProxyHeaderReader(), 0
    while asking.wanted:
        piece = octets[position : position + asking.wanted]
        assert len(piece) == asking.wanted, "more octets wanted than the header has"
        assert asking.receive_data(piece) == len(piece)
        position += len(piece)
    assert (asking.header, position) == (reader.header, used)
    return reader.header, octets[used:]


def oracle(octets: bytes) -> Any:
    """Return what the other package reads, or None if it finds no header; skip the test if it is not installed."""
    module = pytest.importorskip("proxyprotocol.detect")
    try:
        return module.ProxyProtocolDetect().unpack(octets)
    except (module.ProxyProtocolSyntaxError, ValueError, struct.error):
        return None


def address(found: Any) -> tuple[str, int | None]:
    return (found, None) if isinstance(found, str) else (str(found[0]), found[1])


HEADERS = {
    "TCP4": (b"PROXY TCP4 192.0.2.9 192.0.2.1 4242 25\r\n", ProxyHeader(CLIENT, SERVER, version=1)),
    "TCP6": (
        b"PROXY TCP6 2001:db8::9 2001:db8::1 0 65535\r\n",
        ProxyHeader(("2001:db8::9", 0), ("2001:db8::1", 65535), version=1),
    ),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", ProxyHeader(version=1)),
    "the longest": (
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".ljust(105, b"f") + b"\r\n",
        ProxyHeader(version=1),
    ),
    "IPv4": (v2(TCP4), ProxyHeader(CLIENT, SERVER)),
    "IPv6": (
        v2(struct.pack("!16s16sHH", bytes(15) + b"\1", bytes(15) + b"\2", 1, 2), family=0x21),
        ProxyHeader(("::1", 1), ("::2", 2)),
    ),
    "unix": (
        v2(b"/run/a".ljust(108, b"\0") + b"x" * 108, family=0x31), ProxyHeader(("/run/a", None), ("x" * 108, None))
    ),
    "unix, not ASCII": (
        v2(b"\0x".ljust(108, b"\0") + b"\xff".ljust(108, b"\0"), family=0x31),
        ProxyHeader(("\0x", None), ("\udcff", None)),
    ),
    "unspecified": (v2(family=0), ProxyHeader()),
    "unspecified with a value": (v2(value(2, b"mx.test"), family=0), ProxyHeader(authority="mx.test")),
    "LOCAL": (v2(start=0x20, family=0), ProxyHeader(local=True)),
    "LOCAL, the rest is ignored": (v2(b"garbage", start=0x20, family=0xEE), ProxyHeader(local=True)),
    "values": (
        v2(TCP4 + value(1, b"smtp") + value(2, b"mx.test") + value(4, b"padding") + value(5, b"\0id") + value(0x30, b"red")
           + value(0xE0, b"custom") + value(0xE0, b"")),
        ProxyHeader(CLIENT, SERVER, alpn=b"smtp", authority="mx.test", unique_id=b"\0id", netns="red",
                    tlvs=((0xE0, b"custom"), (0xE0, b""))),
    ),
    "TLS": (
        v2(TCP4 + value(0x20, b"\7\0\0\0\0" + value(0x21, b"TLSv1.3") + value(0x22, b"fred") + value(0x23, b"AES")
                        + value(0x24, b"SHA256") + value(0x25, b"RSA2048") + value(0x28, b"certificate"))),
        ProxyHeader(CLIENT, SERVER, tls=ProxyTls(7, 0, "TLSv1.3", "fred", "AES", "SHA256", "RSA2048")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_header(name: str) -> None:
    octets, header = HEADERS[name]
    assert read(octets + b"EHLO x\r\n") == (header, b"EHLO x\r\n")


@pytest.mark.parametrize("name", HEADERS)
def test_header_is_read_in_any_two_pieces(name: str) -> None:
    octets, header = HEADERS[name]
    for cut in range(len(octets)):
        reader = ProxyHeaderReader()
        assert reader.receive_data(octets[:cut]) == cut
        assert reader.header is None
        assert reader.began is (cut > 0)
        assert reader.receive_data(octets[cut:] + b"rest") == len(octets) - cut
        assert reader.header == header


@pytest.mark.parametrize("name", HEADERS)
def test_other_package_reads_the_same(name: str) -> None:
    octets, header = HEADERS[name]
    found = oracle(octets)
    if name == "unix, not ASCII":
        assert found is None
        return
    assert found is not None
    if header.source is None:
        assert not found.proxied or found.source is None
        return
    assert header.destination is not None
    assert (address(found.source), address(found.dest)) == (header.source, header.destination)
    if header.version == 2:
        assert (found.tlv.alpn or None, found.tlv.authority or None) == (header.alpn, header.authority)
        assert (found.tlv.unique_id or None, found.tlv.netns or None) == (header.unique_id, header.netns)
    if header.tls is not None:
        tls = found.tlv.ssl
        assert (tls.has_ssl, tls.verify, tls.version, tls.cn) == (True, 0, "TLSv1.3", "fred")


INVALID = {
    "SMTP": (b"EHLO x", "no PROXY header"),
    "one octet": (b"E", "no PROXY header"),
    "TLS": (b"\x16\x03\x01", "no PROXY header"),
    "lower case": (b"proxy TCP4", "no PROXY header"),
    "signature of version 2": (b"\r\n\r\n\0\r\nQUIT\r\n", "no PROXY header"),
    "no CRLF": (b"PROXY UNKNOWN ".ljust(107, b"1"), "no CRLF within 107 octets"),
    "one octet too long": (b"PROXY UNKNOWN ".ljust(106, b"1") + b"\r\n", "no CRLF within 107 octets"),
    "LF": (b"PROXY TCP4 192.0.2.9 192.0.2.1 4242 25\n", "version 1: malformed line"),
    "LF after UNKNOWN": (b"PROXY UNKNOWN\n", "version 1: malformed line"),
    "no addresses": (b"PROXY TCP4\r\n", "version 1: malformed line"),
    "one word more": (b"PROXY TCP4 192.0.2.9 192.0.2.1 4242 25 x\r\n", "version 1: malformed line"),
    "two spaces": (b"PROXY TCP4  192.0.2.9 192.0.2.1 4242 25\r\n", "version 1: malformed line"),
    "port": (b"PROXY TCP4 192.0.2.9 192.0.2.1 65536 25\r\n", "version 1: malformed line"),
    "port with a zero": (b"PROXY TCP4 192.0.2.9 192.0.2.1 042 25\r\n", "version 1: malformed line"),
    "negative port": (b"PROXY TCP4 192.0.2.9 192.0.2.1 -1 25\r\n", "version 1: malformed line"),
    "other digits": ("PROXY TCP4 192.0.2.9 192.0.2.1 ٤ 25\r\n".encode(), "version 1: malformed line"),
    "UDP4": (b"PROXY UDP4 192.0.2.9 192.0.2.1 4242 25\r\n", "version 1: malformed line"),
    "UNKNOWNS": (b"PROXY UNKNOWNS\r\n", "version 1: malformed line"),
    "address with a zero": (b"PROXY TCP4 192.0.2.09 192.0.2.1 4242 25\r\n", "version 1: malformed line"),
    "short address": (b"PROXY TCP4 192.0.9 192.0.2.1 4242 25\r\n", "version 1: malformed line"),
    "scope": (b"PROXY TCP6 fe80::1%1 ::1 4242 25\r\n", "version 1: malformed line"),
    "TCP4 with IPv6": (b"PROXY TCP4 ::1 ::2 4242 25\r\n", "version 1: malformed line"),
    "TCP6 with IPv4": (b"PROXY TCP6 192.0.2.9 192.0.2.1 4242 25\r\n", "version 1: malformed line"),
    "two families": (b"PROXY TCP4 192.0.2.9 ::1 4242 25\r\n", "version 1: malformed line"),
    "version 3": (v2(TCP4, start=0x31), "version 2: unknown version or command"),
    "command 2": (v2(TCP4, start=0x22), "version 2: unknown version or command"),
    "family 4": (v2(TCP4, family=0x41), "version 2: unknown family, or not a stream"),
    "UDP": (v2(TCP4, family=0x12), "version 2: unknown family, or not a stream"),
    "length": (v2(length=V2_OCTETS + 1), "version 2: more than 4096 octets announced"),
    "length of LOCAL": (v2(start=0x20, length=65535), "version 2: more than 4096 octets announced"),
    "short IPv4": (v2(length=11), "version 2: too short for its addresses"),
    "IPv4 as IPv6": (v2(TCP4, family=0x21), "version 2: too short for its addresses"),
    "IPv4 as unix": (v2(TCP4, family=0x31), "version 2: too short for its addresses"),
    "type without a length": (v2(TCP4 + b"\x01"), "version 2: incomplete value"),
    "incomplete value": (v2(TCP4 + b"\x01\0\5smtp"), "version 2: incomplete value"),
    "short TLS": (v2(TCP4 + value(0x20, b"\1\0\0\0")), "version 2: incomplete value"),
    "incomplete value in TLS": (v2(TCP4 + value(0x20, b"\1\0\0\0\0\x21\0\5TLS")), "version 2: incomplete value"),
    "long id": (v2(TCP4 + value(5, bytes(129))), "version 2: unique id too long"),
    "checksum": (v2(TCP4 + value(3, bytes(4))), "version 2: wrong checksum"),
    "short checksum": (v2(TCP4 + value(3, bytes(3))), "version 2: wrong checksum"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_header(name: str) -> None:
    """It is refused whether it arrives whole or in pieces; the length of the rest is checked before that arrives."""
    octets, problem = INVALID[name]
    for size in (len(octets), 1):
        reader = ProxyHeaderReader()
        with pytest.raises(ProxyHeaderError) as caught:
            for start in range(0, len(octets), size):
                reader.receive_data(octets[start : start + size])
        assert str(caught.value) == problem
        assert caught.value.temporary
        assert reader.header is None


def test_two_checksums() -> None:
    header = ProxyHeader(CLIENT, SERVER, checksum=True).encode()
    with pytest.raises(ProxyHeaderError, match="checksum"):
        ProxyHeaderReader().receive_data(v2(header[16:] * 2))


@pytest.mark.parametrize(
    ("octets", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next two: RFC 3720 B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c(octets: bytes, checksum: int) -> None:
    assert crc32c(octets) == checksum


@given(position=st.integers(0, 90), change=st.integers(1, 255))
def test_checksum_detects_each_change(position: int, change: int) -> None:
    header = ProxyHeader(CLIENT, SERVER, authority="mx.test", tls=ProxyTls(1, 1, "TLSv1.3"), checksum=True)
    octets = bytearray(header.encode())
    octets[position % len(octets)] ^= change
    reader = ProxyHeaderReader()
    try:
        reader.receive_data(bytes(octets))
    except ProxyHeaderError:
        return
    assert reader.header is None or reader.header.local or not reader.header.checksum  # or it is incomplete now


PORTS = st.integers(0, 65535)
ENDS = st.one_of(
    [st.tuples(*[st.tuples(st.ip_addresses(v=v).map(str), PORTS)] * 2) for v in (4, 6)]
    + [
        st.tuples(
            *[st.tuples(st.text(st.characters(exclude_characters="\0", codec="ascii"), max_size=108), st.none())] * 2
        )
    ]
)
TLS = st.builds(ProxyTls, st.integers(0, 255), st.integers(0, 2**32 - 1), *[st.none() | st.text(max_size=20)] * 5)


@given(
    ends=ENDS | st.just((None, None)),
    values=st.fixed_dictionaries({}, optional={
        "alpn": st.binary(max_size=20),
        "authority": st.text(max_size=20),
        "unique_id": st.binary(max_size=128),
        "netns": st.text(max_size=20),
        "tls": TLS,
        "tlvs": st.lists(st.tuples(st.integers(0xE0, 0xFF), st.binary(max_size=20)), max_size=3).map(tuple),
        "checksum": st.booleans(),
    }),
)  # fmt: skip
def test_header_that_was_written_is_read_again(ends: Any, values: dict[str, Any]) -> None:
    header = ProxyHeader(*ends, **values)
    octets = header.encode()
    assert read(octets + b"rest") == (header, b"rest")
    if header.source is not None and header.source[1] is not None:
        found = oracle(octets)
        assert found is not None
        assert (address(found.source), address(found.dest)) == ends


@given(ends=ENDS.filter(lambda ends: ends[0][1] is not None))
def test_header_of_version_1_that_was_written_is_read_again(ends: Any) -> None:
    header = ProxyHeader(*ends, version=1)
    octets = header.encode()
    assert len(octets) <= 107
    assert read(octets) == (header, b"")
    found = oracle(octets)
    assert (address(found.source), address(found.dest)) == ends


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: v2(TCP4 + rest)))
def test_any_octets(octets: bytes) -> None:
    """What is read as a header is read in the same way by the other package, which accepts more."""
    reader = ProxyHeaderReader()
    try:
        reader.receive_data(octets)
    except ProxyHeaderError:
        return
    if reader.header is not None and reader.header.source is not None:
        assert address(oracle(octets).source) == reader.header.source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": CLIENT}, "source and destination must both be given"),
        ({"source": CLIENT, "destination": SERVER, "local": True}, "a local connection has no source"),
        ({"source": CLIENT, "destination": ("::1", 25)}, "must be of the same family, got '192.0.2.9' and '::1'"),
        ({"source": CLIENT, "destination": ("/run/x", None)}, "must be of the same family"),
        ({"source": ("mx.test", 25), "destination": SERVER}, "invalid IP address: 'mx.test'"),
        ({"source": ("fe80::1%eth0", 25), "destination": ("::1", 25)}, "has no scope, got 'fe80::1%eth0'"),
        ({"source": ("192.0.2.1", 65536), "destination": SERVER}, "port must be from 0 to 65535, got 65536"),
        ({"source": ("x" * 109, None), "destination": ("", None)}, "must have at most 108 octets"),
        (
            {"source": ("a", None), "destination": ("b", None), "version": 1},
            "version 1 has no addresses of unix sockets",
        ),
        ({"version": 1, "local": True}, "version 1 has no LOCAL"),
        ({"version": 1, "alpn": b"x"}, "no values besides the addresses"),
        ({"version": 1, "checksum": True}, "no values besides the addresses"),
        ({"version": 3}, "version must be 1 or 2, got 3"),
        ({"unique_id": bytes(129)}, "unique_id must have at most 128 octets, got 129"),
        ({"tlvs": [(0xE0, bytes(4094))]}, "must have at most 4096 octets after the first 16, got 4097"),
    ],
)
def test_header_that_cannot_be_written(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ProxyHeader(**arguments)


@pytest.mark.parametrize(
    "name", ["source", "local", "alpn", "authority", "unique_id", "netns", "tls", "tlvs", "checksum"]
)
def test_argument_of_a_wrong_type(name: str) -> None:
    arguments: dict[str, Any] = {name: 1}
    with pytest.raises(TypeError, match=name):
        ProxyHeader(**arguments)


@pytest.mark.parametrize(("client", "verify", "verified"), [(1, 0, False), (3, 0, True), (5, 0, True), (3, 1, False)])
def test_verified_client_certificate(client: int, verify: int, verified: bool) -> None:
    assert ProxyTls(client, verify).verified is verified


@pytest.mark.parametrize("version", [1, 2])
def test_server_that_expects_commands_closes_without_a_reply(version: Any) -> None:
    """PRX-5: a header that the caller has not read before is not believed, and ends the session."""
    session = ServerDriver()
    session.send(b"")
    assert session.send(ProxyHeader(CLIENT, SERVER, version=version).encode() + b"EHLO x\r\n") == []
    (bad,) = session.refused
    assert bad.reply.text == "PROXY header received, which is not expected from this address"
    assert session.closed
    assert session.protocol.pending is None
    assert session.protocol.dialogue.phase is CLOSED


@pytest.mark.parametrize("version", [1, 2])
def test_header_after_ehlo_is_a_command(version: Any) -> None:
    session = ServerDriver().begin()
    replies = session.send(ProxyHeader(CLIENT, SERVER, version=version).encode())
    assert {reply[:3] for reply in replies} == {"500"}
