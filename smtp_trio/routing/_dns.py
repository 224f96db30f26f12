"""`DnsResolver`: lookups by recursive name servers, with the package dnspython."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import trio

from ..protocol.arguments import check_number
from ..protocol.hosts import check_port
from ._answers import Answer, RecordType
from ._extras import missing

#: How many lookups run at the same time. Each needs a socket.
MAX_QUERIES = 64
PORT = 53


class DnsResolver:
    """A `Resolver` that asks recursive name servers by UDP and TCP. It needs the extra ``dns``.

    DNSSEC is validated by the name servers. That they have validated an answer counts only if they are trusted (RFC
    7672 2.1.1): a resolver on the same host is. With others all answers are insecure, so that DANE is not used.

    :param nameservers: IP addresses, or pairs of address and port, in the order in which they are asked. By default
        those that the system uses when the object is created, and without any 127.0.0.1.
    :param trusted: IP addresses of validating name servers whose AD bit counts, in addition to loopback addresses. The
        network between them and this host must be protected.
    :param timeout: how many seconds a name server may take to answer.
    :param attempts: how often a name server is asked that does not answer.

    Raises TypeError or ValueError for an invalid argument, and ModuleNotFoundError if dnspython is not installed.
    """

    def __init__(
        self,
        nameservers: Iterable[str | tuple[str, int]] | None = None,
        *,
        trusted: Iterable[str] = (),
        timeout: float = 5,
        attempts: int = 2,
    ) -> None:
        try:
            from ._dnspython import NameServer, NameServers, system_nameservers
        except ModuleNotFoundError as exc:
            raise missing("dnspython") from exc
        check_number(timeout, "timeout")
        check_number(attempts, "attempts", 1, integer=True)
        if isinstance(nameservers, str) or isinstance(trusted, str):
            raise TypeError("nameservers and trusted must be iterables of IP addresses, not a str")
        protected = {str(ipaddress.ip_address(address)) for address in trusted}
        servers = []
        for each in system_nameservers() if nameservers is None else nameservers:
            host, port = (each, PORT) if isinstance(each, str) else each
            address = ipaddress.ip_address(host)
            servers.append(
                NameServer(
                    str(address),
                    check_port(port, "the port of a name server", minimum=1),
                    trusted=address.is_loopback or str(address) in protected,
                )
            )
        if not servers:
            raise ValueError("nameservers must not be empty")
        self._servers = NameServers(servers, timeout, attempts)
        self._limit = trio.Semaphore(MAX_QUERIES)

    async def query(self, name: str, type: RecordType) -> Answer:
        """Return the records of ``type`` of a name with A-labels, after following its CNAME records.

        Raises `LookupFailedError`, which is temporary unless the name itself is invalid.
        """
        async with self._limit:
            return await self._servers.query(name, type)
