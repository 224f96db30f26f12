"""The PROXY protocol, versions 1 and 2: a load balancer sends the addresses of a connection before its first octet.

`ProxyHeader` is a header as a value, which `ProxyHeader.encode` writes, and `ProxyHeaderReader` reads one that arrives in
pieces. The specification is https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, Literal, TypeAlias

from attrs import Attribute, field, frozen

from .arguments import argument, check_items, check_type
from .crc32c import crc32c
from .errors import RemoteProtocolError
from .framing import PROXY_V1, PROXY_V2
from .hosts import check_port
from .values import Value

# The two versions
# ----------------
#
# Version 1 is a line of text of at most 107 octets with its CRLF: "PROXY TCP4 192.0.2.9 192.0.2.1 4242 25". Version 2 is
# binary: 12 octets that no other protocol begins with, 4 octets with the version, the command, the family and the length
# of the rest, then the addresses, and then values with a type and a length (TLV). A header is read before any other octet,
# and nothing after it may be read by mistake, since it may be the beginning of a TLS handshake.
#
# The sender of a header decides which address the client has for the server, so a reader must not guess:
#
# - Octets that can no longer become a header are an error at once. A client that begins with EHLO does not have to wait.
# - The forms of addresses and ports in version 1 are those of the specification: no leading zeros, single spaces.
# - The length in version 2 is a limit on what will be buffered, so it is checked before the rest is read.
# - Combinations of family and address that the specification does not define are errors. Datagrams are, too: SMTP does
#   not use UDP.
#
# Two headers have no addresses, and the connection's own are to be used instead: LOCAL in version 2, which a balancer
# sends for a connection of its own, such as a health check (its other octets have to be ignored), and UNKNOWN (version 1)
# or UNSPEC (version 2), for a client whose address it does not know or cannot write.

#: The longest header of version 1, with its CRLF, and the shortest one.
V1_OCTETS, V1_LEAST = 107, len(b"PROXY UNKNOWN\r\n")
#: The first octets of version 2, which have the length of the rest.
V2_START = 16
#: The greatest length of the rest that is accepted. The specification allows 65,535; a balancer that sends the certificate
#: of a client needs about 2,000.
V2_OCTETS = 4096

PORT: Final = r"(0|[1-9][0-9]{0,4})"
TCP_LINE: Final = re.compile(rf"PROXY TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) {PORT} {PORT}")
UNKNOWN_LINE: Final = re.compile(r"PROXY UNKNOWN( [^\n]*)?")

VERSION_2 = 0x20
LOCAL, PROXY = 0, 1
UNSPEC, INET, INET6, UNIX = 0, 1, 2, 3
STREAM = 1
MAX_PATH = 108
START: Final = struct.Struct("!12sBBH")
ADDRESSES: Final = {
    INET: struct.Struct("!4s4sHH"),
    INET6: struct.Struct("!16s16sHH"),
    UNIX: struct.Struct(f"!{MAX_PATH}s{MAX_PATH}s"),
}
#: The octets of the addresses, by the octet with the family and the protocol.
ADDRESS_OCTETS: Final = {UNSPEC: 0, **{family << 4 | STREAM: each.size for family, each in ADDRESSES.items()}}

#: The type and the length of a value.
VALUE: Final = struct.Struct("!BH")
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
KNOWN: Final = frozenset({ALPN, AUTHORITY, UNIQUE_ID, SSL, NETNS})
#: The beginning of an SSL value, and the values inside of it with the fields of `ProxyTls`.
TLS: Final = struct.Struct("!BI")
TLS_TEXTS: Final = {
    0x21: "version",
    0x22: "common_name",
    0x23: "cipher",
    0x24: "signature_algorithm",
    0x25: "key_algorithm",
}
MAX_UNIQUE_ID = 128
#: The octets of a CRC32C value while the checksum is computed.
NO_CHECKSUM = bytes(4)

#: An IP address and a port, or the path of a unix socket and None.
Address: TypeAlias = tuple[str, int | None]


class ProxyHeaderError(RemoteProtocolError):
    """The connection does not begin with a valid PROXY header."""


@frozen(eq=False, repr=False)
class ProxyTls(Value):
    """The TLS connection between the client and the balancer, which the balancer has decrypted (PP2_TYPE_SSL).

    ``client`` has bits: 1 for TLS, 2 for a client certificate in this connection, 4 for one in this TLS session.
    ``verify`` is 0 if the certificate was valid. A text that the balancer does not send is None.
    """

    client: int = 1
    verify: int = 0
    version: str | None = None
    common_name: str | None = None
    cipher: str | None = None
    signature_algorithm: str | None = None
    key_algorithm: str | None = None

    @property
    def verified(self) -> bool:
        """True if the client has sent a certificate that the balancer found valid."""
        return self.client & 6 != 0 and self.verify == 0

    def _encode(self) -> bytes:
        texts = {kind: _octets(getattr(self, name)) for kind, name in TLS_TEXTS.items()}
        values = ((kind, text) for kind, text in texts.items() if text is not None)
        return TLS.pack(self.client, self.verify) + _encode_values(values)


def _check_address(_: object, attribute: Attribute[Address | None], value: Address | None) -> None:
    check_type(value, attribute.name, tuple, optional=True)


def _unknown_tlvs(value: object) -> tuple[tuple[int, bytes], ...]:
    return check_items(value, "tlvs", tuple)  # type: ignore[arg-type]


@frozen(eq=False, repr=False)
class ProxyHeader(Value):
    """A PROXY header: the addresses of a connection as the balancer has accepted it.

    ``source`` is the client's address and ``destination`` the one that it has connected to, each an IP address and a port,
    or the path of a unix socket and None. Both are None in a header without addresses; then the connection's own are to
    be used. ``local`` is true for a connection of the balancer itself, such as a health check (LOCAL).

    The others are values of version 2: the protocol that was negotiated by ALPN, the host name that the client asked for
    (AUTHORITY, the SNI of TLS), a unique id of the connection, the network namespace, ``tls``, and ``tlvs`` with those
    of any other type. ``checksum`` is true if there was a CRC32C, which is verified, or is to be written.

    Raises ValueError for values that cannot be written as a header.
    """

    source: Address | None = field(default=None, validator=_check_address)
    destination: Address | None = field(default=None, validator=_check_address)
    version: Literal[1, 2] = field(default=2, kw_only=True)
    local: bool = field(default=False, kw_only=True, validator=argument(check_type, bool))
    alpn: bytes | None = field(default=None, kw_only=True, validator=argument(check_type, bytes, optional=True))
    authority: str | None = field(default=None, kw_only=True, validator=argument(check_type, str, optional=True))
    unique_id: bytes | None = field(default=None, kw_only=True, validator=argument(check_type, bytes, optional=True))
    netns: str | None = field(default=None, kw_only=True, validator=argument(check_type, str, optional=True))
    tls: ProxyTls | None = field(default=None, kw_only=True, validator=argument(check_type, ProxyTls, optional=True))
    tlvs: tuple[tuple[int, bytes], ...] = field(default=(), kw_only=True, converter=_unknown_tlvs)
    checksum: bool = field(default=False, kw_only=True, validator=argument(check_type, bool))

    def __attrs_post_init__(self) -> None:
        if self.version not in (1, 2):
            raise ValueError(f"version must be 1 or 2, got {self.version!r}")
        if (self.source is None) != (self.destination is None):
            raise ValueError("source and destination must both be given, or neither")
        if self.local and self.source is not None:
            raise ValueError("a local connection has no source and destination")
        if len(self.unique_id or b"") > MAX_UNIQUE_ID:
            raise ValueError(f"unique_id must have at most {MAX_UNIQUE_ID} octets, got {len(self.unique_id or b'')}")
        self.encode()

    def encode(self) -> bytes:
        """Return the octets of the header."""
        return self._encode_v1() if self.version == 1 else self._encode_v2()

    def _encode_v1(self) -> bytes:
        if self.local or self.checksum or self._values():
            raise ValueError("version 1 has no LOCAL and no values besides the addresses")
        if self.source is None or self.destination is None:
            return b"PROXY UNKNOWN\r\n"
        family = _family(self.source, self.destination)
        if family == UNIX:
            raise ValueError("version 1 has no addresses of unix sockets")
        (source, source_port), (destination, destination_port) = self.source, self.destination
        protocol = "TCP4" if family == INET else "TCP6"
        return f"PROXY {protocol} {source} {destination} {source_port} {destination_port}\r\n".encode()

    def _encode_v2(self) -> bytes:
        family, addresses = UNSPEC, b""
        if self.source is not None and self.destination is not None:
            family = _family(self.source, self.destination)
            (source, source_port), (destination, destination_port) = self.source, self.destination
            if family == UNIX:
                addresses = ADDRESSES[UNIX].pack(_octets(source), _octets(destination))
            else:
                packed = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
                addresses = ADDRESSES[family].pack(*packed, source_port, destination_port)
        values = [*self._values(), *[(CRC32C, NO_CHECKSUM)] * self.checksum]
        rest = addresses + _encode_values(values)
        if len(rest) > V2_OCTETS:
            raise ValueError(
                f"a header must have at most {V2_OCTETS} octets after the first {V2_START}, got {len(rest)}"
            )
        command, protocol = LOCAL if self.local else PROXY, STREAM if family else UNSPEC
        header = START.pack(PROXY_V2, VERSION_2 | command, family << 4 | protocol, len(rest)) + rest
        return header[:-4] + crc32c(header).to_bytes(4, "big") if self.checksum else header

    def _values(self) -> list[tuple[int, bytes]]:
        values = {
            ALPN: self.alpn,
            AUTHORITY: _octets(self.authority),
            UNIQUE_ID: self.unique_id,
            SSL: None if self.tls is None else self.tls._encode(),
            NETNS: _octets(self.netns),
        }
        return [*((kind, value) for kind, value in values.items() if value is not None), *self.tlvs]


def _octets(text: str | None) -> bytes | None:
    # Paths, and names from certificates, may be any octets.
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _text(octets: bytes | None) -> str | None:
    return None if octets is None else octets.decode("utf-8", "surrogateescape")


def _family(source: Address, destination: Address) -> int:
    """Return the family of two addresses. Raises ValueError if they cannot be written, or have different ones."""
    families = {_family_of(*source), _family_of(*destination)}
    if len(families) > 1:
        raise ValueError(f"source and destination must be of the same family, got {source[0]!r} and {destination[0]!r}")
    return families.pop()


def _family_of(host: str, port: int | None) -> int:
    if port is None:
        if len(host.encode("utf-8", "surrogateescape")) > MAX_PATH:
            raise ValueError(f"the path of a socket must have at most {MAX_PATH} octets: {host!r}")
        return UNIX
    check_port(port, "port", minimum=0)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"invalid IP address: {host!r}") from None
    if "%" in host:
        raise ValueError(f"an IP address in a header has no scope, got {host!r}")
    return INET if address.version == 4 else INET6


def _encode_values(values: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(VALUE.pack(kind, len(value)) + value for kind, value in values)


# --- reading ------------------------------------------------------------------------------------------------------


class ProxyHeaderReader:
    """Reads a header that arrives in pieces.

    Give it what was received, with `receive_data`, until ``header`` is set.
    """

    def __init__(self) -> None:
        #: The header, once it is complete.
        self.header: ProxyHeader | None = None
        self._octets = b""

    @property
    def began(self) -> bool:
        """True if there are octets of a header."""
        return bool(self._octets)

    @property
    def wanted(self) -> int:
        """The number of octets that can be received without any that follow the header; 0 when it is complete."""
        octets = self._octets
        if self.header is not None:
            return 0
        if octets and octets.startswith(PROXY_V2[: len(octets)]):
            return max(V2_START, _v2_octets(octets)) - len(octets)
        return max(V1_LEAST - len(octets), 2 - octets.endswith(b"\r"))

    def receive_data(self, data: bytes) -> int:
        """Add octets; return how many of them belong to the header. The others follow it.

        Raises `ProxyHeaderError` as soon as the octets cannot be a header any more.
        """
        before = len(self._octets)
        octets = self._octets + data
        if octets.startswith(PROXY_V2[: len(octets)]):
            end = _v2_octets(octets)
            if 0 < end <= len(octets):
                self.header = _parse_v2(octets[:end])
        elif octets.startswith(PROXY_V1[: len(octets)]):
            end = octets.find(b"\n", 0, V1_OCTETS) + 1
            if end:
                self.header = _parse_v1(octets[:end])
            elif len(octets) >= V1_OCTETS:
                raise ProxyHeaderError(f"no CRLF within {V1_OCTETS} octets")
        else:
            raise ProxyHeaderError("no PROXY header")
        self._octets = octets if self.header is None else octets[:end]
        return len(self._octets) - before


def _parse_v1(line: bytes) -> ProxyHeader:
    """Parse a header of version 1, which ends in LF."""
    text = line.removesuffix(b"\r\n").decode("latin-1")
    if UNKNOWN_LINE.fullmatch(text):  # the specification requires that the rest of the line is ignored
        return ProxyHeader(version=1)
    if match := TCP_LINE.fullmatch(text):
        family, source, destination, source_port, destination_port = match.groups()
        with suppress(ValueError):
            header = ProxyHeader((source, int(source_port)), (destination, int(destination_port)), version=1)
            if (family == "6") == (":" in source):
                return header
    raise ProxyHeaderError("version 1: malformed line")


def _v2_octets(octets: bytes) -> int:
    """Return the length of a header of version 2; 0 if it is not known yet.

    Raises `ProxyHeaderError` if its first octets are not valid.
    """
    if len(octets) < V2_START:
        return 0
    _, command, family, length = START.unpack_from(octets)
    assert isinstance(length, int)
    if command not in (VERSION_2 | LOCAL, VERSION_2 | PROXY):
        raise ProxyHeaderError("version 2: unknown version or command")
    if command == VERSION_2 | PROXY and family not in ADDRESS_OCTETS:
        raise ProxyHeaderError("version 2: unknown family, or not a stream")
    if length > V2_OCTETS:
        raise ProxyHeaderError(f"version 2: more than {V2_OCTETS} octets announced")
    if command == VERSION_2 | PROXY and length < ADDRESS_OCTETS[family]:
        raise ProxyHeaderError("version 2: too short for its addresses")
    return V2_START + length


def _parse_v2(octets: bytes) -> ProxyHeader:
    """Parse a header of version 2, of which the first octets are valid."""
    _, command, family, _ = START.unpack_from(octets)
    if command == VERSION_2 | LOCAL:
        return ProxyHeader(local=True)
    source = destination = None
    if family == UNIX << 4 | STREAM:
        paths = ADDRESSES[UNIX].unpack_from(octets, V2_START)
        source, destination = ((_text(path.rstrip(b"\0")) or "", None) for path in paths)
    elif family in (INET << 4 | STREAM, INET6 << 4 | STREAM):
        first, second, source_port, destination_port = ADDRESSES[family >> 4].unpack_from(octets, V2_START)
        source = str(ipaddress.ip_address(first)), source_port
        destination = str(ipaddress.ip_address(second)), destination_port
    values, others, checked = {}, [], False
    for kind, value, end in _parse_values(octets, V2_START + ADDRESS_OCTETS[family]):
        if kind == CRC32C:
            # It is computed with its own octets set to zero.
            zeroed = octets[: end - len(value)] + bytes(len(value)) + octets[end:]
            if checked or len(value) != 4 or crc32c(zeroed) != int.from_bytes(value, "big"):
                raise ProxyHeaderError("version 2: wrong checksum")
            checked = True
        elif kind in KNOWN:
            values[kind] = value
        elif kind != NOOP:
            others.append((kind, value))
    try:
        return ProxyHeader(
            source,
            destination,
            alpn=values.get(ALPN),
            authority=_text(values.get(AUTHORITY)),
            unique_id=values.get(UNIQUE_ID),
            netns=_text(values.get(NETNS)),
            tls=_parse_tls(values[SSL]) if SSL in values else None,
            tlvs=tuple(others),
            checksum=checked,
        )
    except ValueError:  # the other values are valid by their length
        raise ProxyHeaderError("version 2: unique id too long") from None


def _parse_values(octets: bytes, start: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield the type, the value and the end of each value from ``start`` on."""
    while start < len(octets):
        if start + VALUE.size > len(octets):
            raise ProxyHeaderError("version 2: incomplete value")
        kind, length = VALUE.unpack_from(octets, start)
        start += VALUE.size
        end = start + length
        if end > len(octets):
            raise ProxyHeaderError("version 2: incomplete value")
        yield kind, octets[start:end], end
        start = end


def _parse_tls(octets: bytes) -> ProxyTls:
    if len(octets) < TLS.size:
        raise ProxyHeaderError("version 2: incomplete value")
    client, verify = TLS.unpack_from(octets)
    texts = {TLS_TEXTS[kind]: _text(value) for kind, value, _ in _parse_values(octets, TLS.size) if kind in TLS_TEXTS}
    return ProxyTls(client, verify, **texts)
