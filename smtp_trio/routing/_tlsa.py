"""The TLSA records of an exchanger, and what they require (RFC 7672 2.2)."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from ..protocol.hosts import MAX_NAME
from ._answers import Answer, TlsaRecord
from ._lookups import Lookups, is_host_name, normalize_name
from ._routes import Dane


@frozen
class NextHop:
    """The domain of a route: its name, the name after its CNAME records, and whether its MX records are secure."""

    domain: str
    canonical_name: str
    secure: bool
    #: True if the domain has no MX records, so that it is its own exchanger.
    implicit: bool


# Which TLSA records count (RFC 7672 2.2.1 to 2.2.3)
#
# The addresses of an exchanger are looked up before its TLSA records, and their answers decide where TLSA records are
# looked for, at all:
#
#   addresses secure, no CNAME       at the name itself
#   addresses secure, with CNAME     at the end of the CNAME records, and otherwise at the name itself
#   addresses insecure, with CNAME   at the name itself, if the first CNAME record is secure
#   addresses insecure, no CNAME     nowhere
#
# Nothing is looked up below a name that is not signed: it could not count, and the name servers of some large providers
# do not answer such a question, so that no mail would be delivered to them (2.2.2). The first secure TLSA RRset counts,
# also if no record of it is usable: then TLS is mandatory without authentication. The name where it was found is the
# TLSA base domain, which does not change if the TLSA RRset itself is reached by CNAME records.
#
# A lookup that fails raises LookupFailedError: the exchanger is unreachable then (2.1.2). An attacker who can suppress
# answers would otherwise turn DANE off.
#
# With insecure MX records an attacker can name an exchanger of his own, which may have TLSA records. They are used
# nevertheless (2.2.1 permits that): they protect against attacks on the connection to the real exchanger. But a
# certificate in the name of the domain does not count then (3.2.2), and `Dane.secure_route` is False.
async def find_dane(lookups: Lookups, host: str, port: int, addresses: Iterable[Answer], hop: NextHop) -> Dane | None:
    """Return what the TLSA records of an exchanger require, or None if it has none that are secure.

    ``addresses`` are the answers with its addresses. Raises `LookupFailedError`.
    """
    for base in await _base_domains(lookups, host, list(addresses)):
        owner = f"_{port}._tcp.{base}"
        if len(owner) > MAX_NAME:  # no such name can exist
            continue
        answer = await lookups.query(owner, "TLSA")
        records = tuple(record for record in answer.records if isinstance(record, TlsaRecord))
        if answer.secure and records:
            return Dane(records, _reference_names(base, hop), secure_route=hop.secure)
    return None


async def _base_domains(lookups: Lookups, host: str, addresses: list[Answer]) -> list[str]:
    """Return the candidates for the TLSA base domain, in order (RFC 7672 2.2.2)."""
    # IPv6 and IPv4 addresses of one name are equally secure. If the answers differ, DANE is not given up for that:
    # whatever address is used, the server must be authenticated.
    secure = [answer for answer in addresses if answer.secure]
    expanded = normalize_name((secure or addresses)[0].canonical_name)
    if secure:
        # The base domain is a name of a certificate, and is sent in the handshake, so it has to be a host name.
        return [name for name in dict.fromkeys((expanded, host)) if is_host_name(name)]
    if expanded != host and (await lookups.query(host, "CNAME")).secure:
        return [host]
    return []


def _reference_names(base: str, hop: NextHop) -> tuple[str, ...]:
    """Return the names of which the certificate must have one, for usage DANE-TA(2) (RFC 7672 3.2.2)."""
    names = [base]
    if hop.implicit:
        names.append(hop.domain)
    elif hop.secure:
        names += hop.domain, hop.canonical_name
    return tuple(dict.fromkeys(names))
