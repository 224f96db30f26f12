"""Queries to name servers with dnspython. This module is imported when a `DnsResolver` is created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import trio
from attrs import frozen

from ._answers import Answer, MxRecord, RecordType, TlsaRecord
from ._errors import LookupFailedError
from ._lookups import normalize_name

#: The size of responses by UDP that is asked for, which fits into a packet everywhere (RFC 9715). Larger ones use TCP.
UDP_OCTETS: Final = 1232
#: How many responses a chain of CNAME records may take. dnspython limits those of one response.
MAX_RESPONSES: Final = 8


def system_nameservers() -> list[str]:
    """Return the addresses of the name servers that the system uses, and without any 127.0.0.1, as resolv.conf(5)."""
    try:
        return [str(each) for each in dns.resolver.Resolver().nameservers]
    except dns.resolver.NoResolverConfiguration:
        return ["127.0.0.1"]


@frozen
class NameServer:
    """A recursive name server. Its AD bit counts if it is ``trusted``."""

    address: str
    port: int
    trusted: bool


# Which answers are secure (RFC 7672 2.1.1, RFC 4035 4.9.3)
#
# DNSSEC is validated by a recursive name server, and not here. It sets the AD bit in responses that it has validated,
# and sends SERVFAIL for data that is bogus. The AD bit counts only if nothing between the name server and this host can
# set it. The query has the bits DO and AD, without which servers do not report what they have validated (RFC 6840 5.7).
#
# A response may begin with CNAME records; AD means that all of them are validated too. A server may also return a CNAME
# record without what its target has. That is looked up, and the answer is secure if each response is (RFC 7672 2.1.3).
# A response is complete if it has the records, or the SOA record of a negative response (RFC 2308 2).
#
# A server that does not answer is asked again. One that answers with an error is not; only the next server is asked. All
# failures are temporary, except that a DNAME record makes the name too long (YXDOMAIN, RFC 6672 2.2).
@frozen
class NameServers:
    """Name servers, which are asked one after the other until one has an answer."""

    servers: Sequence[NameServer]
    timeout: float
    attempts: int

    async def query(self, name: str, type: RecordType) -> Answer:
        """Return the answer for a name, at the end of its CNAME records. Raises `LookupFailedError`."""
        try:
            current = dns.name.from_text(name)
        except dns.exception.DNSException as exc:
            raise LookupFailedError(name, type, f"invalid name: {exc}", temporary=False) from exc
        secure = True
        for _ in range(MAX_RESPONSES):
            response, trusted = await self._ask(name, current, type)
            secure = secure and trusted and bool(response.flags & dns.flags.AD)
            try:
                found = response.resolve_chaining()
            except dns.exception.DNSException as exc:
                raise LookupFailedError(name, type, f"invalid response: {exc}") from exc
            if found.answer is None and found.canonical_name != current and not _is_negative(response):
                current = found.canonical_name
                continue
            return Answer(
                normalize_name(name),
                type,
                tuple(_record(rdata) for rdata in found.answer or ()),
                canonical_name=_text(found.canonical_name),
                exists=response.rcode() != dns.rcode.NXDOMAIN,
                secure=secure,
            )
        raise LookupFailedError(name, type, "too many CNAME records")

    async def _ask(self, name: str, current: dns.name.Name, type: RecordType) -> tuple[dns.message.QueryMessage, bool]:
        """Return the response of the first server that has an answer, and whether the server is trusted."""
        servers = list(self.servers)
        reasons: dict[str, None] = {}
        for _ in range(self.attempts):
            for server in tuple(servers):
                try:
                    with trio.fail_after(self.timeout):
                        response = await _exchange(server, current, type)
                except trio.TooSlowError:
                    reasons[f"{server.address}: no answer within {self.timeout:g} s"] = None
                    continue
                except (OSError, EOFError, trio.BrokenResourceError, dns.exception.DNSException) as exc:
                    reasons[f"{server.address}: {exc}"] = None
                    continue
                rcode = response.rcode()
                if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    return response, server.trusted
                if rcode == dns.rcode.YXDOMAIN:
                    raise LookupFailedError(name, type, "the name is too long (YXDOMAIN)", temporary=False)
                reasons[f"{server.address}: {_error(response)}"] = None
                servers.remove(server)
        raise LookupFailedError(name, type, "; ".join(reasons))


async def _exchange(server: NameServer, name: dns.name.Name, type: RecordType) -> dns.message.QueryMessage:
    """Send a query, and return the response, by TCP if it is too large for UDP.

    Query and socket are new each time, so that id and port are random (RFC 5452). Anyone can send octets to the socket,
    so those that are not a response to the query are ignored.
    """
    request = dns.message.make_query(name, type, use_edns=0, want_dnssec=True, payload=UDP_OCTETS)
    request.flags |= dns.flags.AD
    response, _ = await dns.asyncquery.udp_with_fallback(
        request,
        server.address,
        port=server.port,
        ignore_unexpected=True,
        ignore_errors=True,
        backend=dns.asyncbackend.get_backend("trio"),
    )
    assert isinstance(response, dns.message.QueryMessage)
    return response


def _is_negative(response: dns.message.QueryMessage) -> bool:
    """Return whether a response is negative, by its code or by an SOA record (RFC 2308 2)."""
    return response.rcode() == dns.rcode.NXDOMAIN or any(
        rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority
    )


def _error(response: dns.message.Message) -> str:
    """Return the error of a response, with the reasons that the server gives (RFC 8914), such as "DNSSEC BOGUS"."""
    names = [getattr(each.code, "name", str(each.code)).replace("_", " ") for each in response.extended_errors()]
    return dns.rcode.to_text(response.rcode()) + (f" ({', '.join(names)})" if names else "")


def _text(name: dns.name.Name) -> str:
    return normalize_name(name.to_text())


def _record(rdata: Any) -> MxRecord | TlsaRecord | str:  # noqa: ANN401
    match dns.rdatatype.to_text(rdata.rdtype):
        case "MX":
            return MxRecord(rdata.preference, _text(rdata.exchange))
        case "TLSA":
            return TlsaRecord(rdata.usage, rdata.selector, rdata.mtype, rdata.cert)
        case "TXT":
            return b"".join(rdata.strings).decode(
                "utf-8", "replace"
            )  # RFC 8461 3.1: without spaces between the strings
        case "CNAME":
            return _text(rdata.target)
        case _:
            return str(rdata.address)
