"""Checks of host names, ports and the names for EHLO, before anything is resolved or sent.

The parameter ``what`` of each function is the name of the argument, for error messages.
"""

from __future__ import annotations

import ipaddress
import operator
from typing import Final

from .lazy import lazy_pattern
from .syntax import ADDRESS_LITERAL, normalize_domain

MAX_NAME, MAX_LABEL = 253, 63  # octets, RFC 1035 2.3.4, without the length octets of the DNS
#: The characters of labels. The underscore is not allowed in host names (RFC 952), and occurs in them.
LABEL: Final = lazy_pattern(r"[A-Za-z0-9_-]+")
LITERAL: Final = lazy_pattern(ADDRESS_LITERAL)


# Without these checks, a mistake in a name appears late, and as something else: as an error of the codec "idna", of the
# resolver ("Name or service not known", which may pass), or of the server. The resolver also accepts other forms of
# IPv4 addresses ("127.1"), which look like names and are passed on to it.


def check_host(host: object, what: str) -> str:
    """Return a host name, with A-labels (RFC 5890), or an IP address, unchanged.

    Raises TypeError if ``host`` is not a str, and ValueError if it is neither.
    """
    if not isinstance(host, str):
        raise TypeError(f"{what} must be a str, not {type(host).__name__}")
    if ":" in host and _is_ip_address(host):
        return host
    name = host if host.isascii() else normalize_domain(host)
    if problem := "not encodable as A-labels" if name is None else _name_problem(name):
        raise ValueError(f"{what}: invalid host name: {host!a} ({problem})")
    assert name is not None
    return name


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return host.isprintable()  # a scope may contain any character


def _name_problem(name: str) -> str:
    """Return what is wrong with a name in ASCII, or ""."""
    if not name:
        return "empty"
    if name.startswith("["):
        return "give an IPv6 address without brackets"
    if ":" in name:
        return "give the port as an argument of its own" if name.count(":") == 1 else "invalid IPv6 address"
    labels = name.removesuffix(".").split(".")
    if "" in labels:
        return "empty label"
    for label in labels:
        if (match := LABEL.match(label)) is None or match.end() < len(label):
            return f"contains {label[match.end() if match else 0]!a}"
        if len(label) > MAX_LABEL:
            return f"a label is longer than {MAX_LABEL} characters"
    return f"longer than {MAX_NAME} characters" if len(name.removesuffix(".")) > MAX_NAME else ""


def check_port(port: object, what: str, *, minimum: int) -> int:
    """Return a TCP port. Raises TypeError if it is not an int, ValueError if it is not from ``minimum`` to 65535."""
    if isinstance(port, bool):
        raise TypeError(f"{what} must be an int, not bool")
    try:
        number = operator.index(port)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} must be an int, not {type(port).__name__}") from None
    if not minimum <= number <= 65535:
        raise ValueError(f"{what} must be from {minimum} to 65535, got {number}")
    return number


def check_hello_name(name: object, what: str) -> str:
    """Return the name that EHLO sends, a domain with A-labels or an address literal (RFC 5321 4.1.1.1).

    Raises TypeError if ``name`` is not a str, and ValueError if it is neither.
    """
    if isinstance(name, str) and name.isascii() and LITERAL.fullmatch(name):
        return name
    try:
        if isinstance(name, str) and ":" in name:
            raise ValueError(f"{what}: {name!a} needs brackets, as in [192.0.2.1] or [IPv6:2001:db8::1]")
        return check_host(name, what)
    except ValueError as error:
        raise ValueError(f"{error}; must be a domain or an address literal (RFC 5321 4.1.1.1)") from None
