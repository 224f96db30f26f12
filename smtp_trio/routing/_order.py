"""The exchangers that MX records name, in the order in which they are tried, and without those beyond the own host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from random import Random
from typing import Final, TypeVar

from attrs import frozen

from ..protocol import Reply
from ..protocol.arguments import check_items, check_type
from ._answers import MxRecord
from ._errors import NullMxError
from ._lookups import IpAddress, check_domain, normalize_name, parse_address
from ._routes import Exchanger
from ._unreachable import NoExchangerError, Unreachable

#: How many exchangers of a domain are used. RFC 5321 5.1 permits a limit. Large providers have about five.
MAX_EXCHANGERS: Final = 20

H = TypeVar("H", "Candidate", "Exchanger | Unreachable")


@frozen
class Candidate:
    """The host of an MX record, or of the implicit one."""

    preference: int
    host: str


def candidates(domain: str, records: Iterable[MxRecord], random: Random) -> list[Candidate]:
    """Return the exchangers that MX records name, each once, in the order in which they are tried.

    Without records it is the domain itself, the implicit MX (RFC 5321 5.1). Raises `NullMxError`.
    """
    named = [Candidate(record.preference, normalize_name(record.host)) for record in records]
    if not named:
        return [Candidate(0, domain)]
    hosts = [candidate for candidate in named if candidate.host]  # RFC 7505 3: a null MX must be the only record
    if not hosts:
        raise NullMxError(domain)
    random.shuffle(hosts)
    found: dict[str, Candidate] = {}
    for candidate in sorted(hosts, key=lambda candidate: candidate.preference):  # sorting keeps the order of equal ones
        found.setdefault(candidate.host, candidate)
    return list(found.values())


# Loops (RFC 5321 5.1)
#
# A host that is itself an exchanger of the domain may only send to those that are more preferred: one of the same or of
# a higher preference number would send back to it. So the lowest number of an exchanger that has a name or an address
# of the own host is a limit, and exchangers are kept below it. A loopback address is always one of the own host, and a
# domain of a stranger may have it in the DNS. The names are in the MX records. The addresses are
# known only after the lookups, so the limit is applied twice. Exchangers beyond the limit that are unreachable are
# dropped too: a lookup that failed for one of them must not make a loop, which is permanent, look like a temporary
# error.
@frozen
class OwnHost:
    """The names and addresses of the own host, to which loopback addresses belong unless ``loopback`` is True."""

    names: frozenset[str]
    addresses: frozenset[IpAddress]
    loopback: bool

    @classmethod
    def of(cls, own: Iterable[str], *, loopback: bool) -> OwnHost:
        """Return the host with these names and IP addresses. Raises TypeError or ValueError for one that is invalid."""
        check_type(loopback, "loopback", bool)
        names: set[str] = set()
        addresses: set[IpAddress] = set()
        for each in check_items(own, "own", str):
            known = parse_address(each) or check_domain(each, "own")
            if isinstance(known, str):
                names.add(known)
            else:
                addresses.add(known)
        return cls(frozenset(names), frozenset(addresses), loopback)

    def cut_by_name(self, domain: str, hosts: Sequence[Candidate]) -> list[Candidate]:
        """Return the hosts that are more preferred than the own one. Raises `NoExchangerError` if all are cut."""
        limit = min((host.preference for host in hosts if host.host in self.names), default=math.inf)
        return _below(limit, hosts, domain)

    def cut_by_address(self, domain: str, hosts: Sequence[Exchanger | Unreachable]) -> list[Exchanger | Unreachable]:
        """As `cut_by_name`, after their addresses were looked up."""
        limit = min((host.preference for host in hosts if self._has_address(host)), default=math.inf)
        return _below(limit, hosts, domain)

    def _has_address(self, host: Exchanger | Unreachable) -> bool:
        addresses = map(parse_address, host.addresses) if isinstance(host, Exchanger) else ()
        return any(each in self.addresses or (each.is_loopback and not self.loopback) for each in addresses if each)


def _below(limit: float, hosts: Sequence[H], domain: str) -> list[H]:
    """Return the hosts with a preference below ``limit``. Raise `NoExchangerError` if it is empty."""
    left = [host for host in hosts if host.preference < limit]
    if not left:
        raise NoExchangerError(domain, Reply(554, f"mail for {domain} loops back to this host", "5.4.6"))
    return left
