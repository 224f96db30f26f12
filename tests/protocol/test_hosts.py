"""Checks of host names, ports and names for EHLO."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtp_trio.protocol.hosts import check_hello_name, check_host, check_port

VALID = [
    "localhost", "mx.example", "mx.example.", "MX.Example", "a_b.example", "-a-.example", "1", "127.1", "192.0.2.1", "::1",
    "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.1", "xn--bcher-kva.example", "a" * 63 + ".example", ".".join(["a" * 49] * 5),
]  # fmt: skip
INVALID = {
    "": "empty",
    ".": "empty label",
    "..": "empty label",
    ".example": "empty label",
    "a..example": "empty label",
    "example..": "empty label",
    "a" * 64: "a label is longer than 63",
    "a" * 70 + ".example": "a label is longer than 63",
    ".".join(["a" * 63] * 4): "longer than 253",
    "a b": "contains ' '",
    " a": "contains ' '",
    "a\0b": r"contains '\\x00'",
    "a\n": r"contains '\\n'",
    "a\r\nQUIT": r"contains '\\r'",
    "a/b": "contains '/'",
    "smtp://a": "port",
    "a@b": "contains '@'",
    "a,b": "contains ','",
    "*": r"contains '\*'",
    "[::1]": "without brackets",
    "[192.0.2.1]": "without brackets",
    "[IPv6:::1]": "without brackets",
    "mx.example:25": "give the port as an argument",
    "::1::": "invalid IPv6 address",
    "1:2:3": "invalid IPv6 address",
    "fe80::1%\n": "invalid IPv6 address",
    "b\u00fccher..example": "A-labels",
    "\u00fc" * 70 + ".example": "A-labels",
    "\ud800": "A-labels",
    "a\u2028b.example": "A-labels",
}


@pytest.mark.parametrize("host", VALID)
def test_valid_hosts_are_unchanged(host: str) -> None:
    assert check_host(host, "host") == host


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        ("stra\u00dfe.example", "xn--strae-oqa.example"),
        ("\u4f8b\u3002example", "xn--fsq.example"),
    ],
)
def test_u_labels_become_a_labels(host: str, encoded: str) -> None:
    """RFC 5890 and RFC 5891, not the older IDNA of the codec "idna"."""
    assert check_host(host, "host") == encoded
    assert check_hello_name(host, "name") == encoded


@pytest.mark.parametrize("host", INVALID)
def test_invalid_hosts(host: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)^server: invalid host name: '.*' \(.*{INVALID[host]}"):
        check_host(host, "server")


@pytest.mark.parametrize("host", [None, b"localhost", 25, Path("a"), ["a"]])
def test_hosts_of_a_wrong_type(host: object) -> None:
    with pytest.raises(TypeError, match="server must be a str, not "):
        check_host(host, "server")


@pytest.mark.parametrize("port", [-1, 0, 65536, 2525_2525])
def test_ports_out_of_range(port: int) -> None:
    with pytest.raises(ValueError, match=f"port must be from 1 to 65535, got {port}"):
        check_port(port, "port", minimum=1)
    assert check_port(0, "port", minimum=0) == 0


@pytest.mark.parametrize("port", ["25", None, 25.0, b"25", "smtp"])
def test_ports_of_a_wrong_type(port: object) -> None:
    with pytest.raises(TypeError, match="port must be an int, not "):
        check_port(port, "port", minimum=0)


@pytest.mark.parametrize(
    "name", [*(host for host in VALID if ":" not in host), "[192.0.2.1]", "[IPv6:2001:db8::1]", "[x-tag:anything]"]
)
def test_valid_names_for_ehlo(name: str) -> None:
    assert check_hello_name(name, "name") == name


@pytest.mark.parametrize(
    "name", ["", "a b", "a\r\nb", "a..b", "a" * 64, "[]", "[a b]", "[a", "a]", "b\u00fc..c", "a\0"]
)
def test_invalid_names_for_ehlo(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"(?s)^name: .*must be a domain or an address literal \(RFC 5321 4\.1\.1\.1\)"
    ):
        check_hello_name(name, "name")


@pytest.mark.parametrize("name", ["::1", "2001:db8::1", "mx.example:25"])
def test_address_without_brackets_for_ehlo(name: str) -> None:
    with pytest.raises(ValueError, match="needs brackets"):
        check_hello_name(name, "name")
