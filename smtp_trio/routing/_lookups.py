"""Lookups with a time limit, and the names that they are made for."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio
from attrs import frozen

from ..protocol.hosts import check_host
from ..protocol.syntax import is_address_literal
from ._answers import Answer, RecordType, Resolver
from ._errors import LookupFailedError

T = TypeVar("T")
R = TypeVar("R")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@frozen
class Lookups:
    """A resolver, of which each answer may take ``timeout`` seconds."""

    resolver: Resolver
    timeout: float

    async def query(self, name: str, type: RecordType) -> Answer:
        """Return the answer of the resolver. Raises `LookupFailedError`, also if it takes too long."""
        with trio.move_on_after(self.timeout):
            return await self.resolver.query(name, type)
        raise LookupFailedError(name, type, f"no answer within {self.timeout:g} s")


async def gather(function: Callable[[T], Awaitable[R]], values: Iterable[T]) -> list[R]:
    """Call an async function for all values at the same time, and return the results in the order of the values."""
    results: dict[int, R] = {}

    async def run(number: int, value: T) -> None:
        results[number] = await function(value)

    async with trio.open_nursery() as nursery:
        for number, value in enumerate(values):
            nursery.start_soon(run, number, value)
    return [results[number] for number in sorted(results)]


def check_domain(domain: object, what: str) -> str | IpAddress:
    """Return a domain in lower case with A-labels and without the final dot, or the address of an address literal.

    Raises TypeError if ``domain`` is not a str, and ValueError if it is neither (RFC 5321 4.1.2 and 4.1.3).
    """
    if isinstance(domain, str) and domain.startswith("["):
        tag, _, ipv6 = domain[1:-1].partition(":")
        address = parse_address(ipv6 or tag)
        if address is None or not (domain.endswith("]") and is_address_literal(domain)):
            raise ValueError(f"{what}: invalid address literal: {domain!a}")
        return address
    name = normalize_name(check_host(domain, what))
    if parse_address(name) is not None:
        raise ValueError(f"{what}: {domain!a} needs brackets, as in [192.0.2.1] or [IPv6:2001:db8::1]")
    return name


def parse_address(text: str) -> IpAddress | None:
    """Return an IP address, or None if ``text`` is not one; for an IPv4-mapped one the IPv4 address (RFC 4291 2.5.5)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def normalize_name(name: str) -> str:
    """Return a name in the form in which names are compared: in lower case, without the final dot (RFC 4343)."""
    return name.lower().removesuffix(".")


def is_host_name(name: str) -> bool:
    """Return whether a name from the DNS is one that a host may have, and not an IP address (RFC 5321 5.1)."""
    try:
        return parse_address(check_host(name, "host")) is None
    except ValueError:
        return False
