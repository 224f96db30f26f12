"""Fetching MTA-STS policies by HTTPS (RFC 8461 3.3)."""

from __future__ import annotations

import ssl
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from .._client.default_context import default_context
from .._client.threads import run_in_thread
from ..protocol.arguments import check_number, check_type
from ..protocol.hosts import MAX_NAME, check_port
from ._answers import Answer, Resolver
from ._errors import LookupFailedError
from ._extras import missing
from ._lookups import gather, parse_address
from ._sts_policy import MAX_SIZE, PolicyFetchError
from ._tls_results import MAX_TEXT, TlsResultType, find_tls_error

if TYPE_CHECKING:
    import httpx2

#: The most addresses of the policy host that are tried.
MAX_ADDRESSES: Final = 4
FAMILIES: Final[tuple[Literal["AAAA", "A"], ...]] = ("AAAA", "A")


# What the request guards against
#
# Anyone can make this host fetch a policy, by having a message sent to a domain of their own. So the request is limited
# in time, from the lookup to the last octet, and in size. Redirects are not followed (RFC 8461 3.3: MUST NOT), and no
# proxy, cookie or password of the environment is used. The addresses of the policy host may be any, also private ones:
# nothing is sent to a server that has no certificate for the policy host.
#
# The URL has an address in place of the name, so that the addresses come from the resolver of this package, like all
# others. The name of the policy host is in the Host field, in SNI, and is the one that the certificate must have.
#
# A response must have a length. One that ends with the connection could be cut short by anyone between here and
# the server, because many servers close TLS connections without notice, and "max_age: 604800" cut short is a valid
# field. An incomplete response is refused, and the cached policy stays in use.
#
# The body is not decompressed: 64 KiB may become 64 MiB.
#
# httpx2 sets the ALPN protocols of a context, so a context that is shared with SMTP connections cannot be used. It does
# not close a connection whose TLS handshake is cancelled; its trace extension reports each connection, which is closed
# here.
class HttpsPolicyFetcher:
    """Fetches the text of MTA-STS policies from ``https://mta-sts.<domain>/.well-known/mta-sts.txt`` (RFC 8461 3.3).

    Only a complete response with status 200 and media type ``text/plain`` counts. Redirects are not followed. It needs
    the extra ``dns``.

    :param resolver: looks up the addresses of the policy host. At most four are tried.
    :param ssl_context: verifies the certificate of the policy host. It must not be used for anything else, as it is
        modified: its ALPN protocol is set, and names are compared with the DNS names of the certificate only (RFC 8461
        3.3). By default, the system's authorities are trusted.
    :param timeout: seconds for everything.
    :param max_size: octets of the largest policy that is accepted, up to 65536.
    :param port: the port of the policy hosts.
    :raises ValueError: a number is out of range, or the context does not verify certificates.
    :raises ModuleNotFoundError: httpx2 is not installed.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = 60,
        max_size: int = MAX_SIZE,
        port: int = 443,
    ) -> None:
        check_type(ssl_context, "ssl_context", ssl.SSLContext, optional=True)
        check_number(timeout, "timeout")
        check_number(max_size, "max_size", 1, integer=True)
        if max_size > MAX_SIZE:
            raise ValueError(f"max_size must be <= {MAX_SIZE}, got {max_size}")
        if ssl_context is not None:
            if not ssl_context.check_hostname or ssl_context.verify_mode != ssl.CERT_REQUIRED:
                raise ValueError("ssl_context must verify certificates and host names (RFC 8461 3.3)")
            ssl_context.hostname_checks_common_name = False
        try:
            import_module("httpx2")  # here, since it takes a while, and not while other tasks wait
        except ModuleNotFoundError as exc:
            raise missing("httpx2") from exc
        self._resolver = resolver
        self._timeout = timeout
        self._max_size = max_size
        self._port = check_port(port, "port", minimum=1)
        self._given = ssl_context
        #: The default context of SMTP connections, which is another one when the system's authorities have changed,
        #: and the context that was made with it.
        self._made: tuple[ssl.SSLContext, ssl.SSLContext] | None = None

    async def __call__(self, domain: str) -> bytes:
        """Return the text of the policy of ``domain``, a name with A-labels. Raises `PolicyFetchError`."""
        import httpx2

        host = f"mta-sts.{domain}"
        if len(host) > MAX_NAME:
            raise self._error(domain, f"{host} is longer than {MAX_NAME} characters")
        with trio.move_on_after(self._timeout):
            addresses = await self._look_up(domain, host)
            context = await self._context()
            for number, address in enumerate(addresses, 1):
                try:
                    return await self._get(domain, host, address, context, self._timeout / len(addresses))
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                    cause = find_tls_error(error)
                    if isinstance(cause, ssl.SSLCertVerificationError):
                        raise self._error(domain, cause.verify_message, TlsResultType.STS_WEBPKI_INVALID) from error
                    if number == len(addresses):
                        raise self._error(domain, _describe(error)) from error
                except httpx2.HTTPError as error:
                    raise self._error(domain, _describe(error)) from error
        raise self._error(domain, f"no complete response within {self._timeout:g} seconds")

    async def _look_up(self, domain: str, host: str) -> list[str]:
        """Return the addresses of the policy host; those of one kind if the lookup of the other kind failed."""

        async def look_up(family: Literal["AAAA", "A"]) -> Answer | LookupFailedError:
            try:
                return await self._resolver.query(host, family)
            except LookupFailedError as error:
                return error

        answers = await gather(look_up, FAMILIES)
        found = [
            record
            for answer in answers
            if isinstance(answer, Answer)
            for record in answer.records[: MAX_ADDRESSES // 2]
            if isinstance(record, str) and parse_address(record) is not None
        ]
        if not found:
            reasons = [str(answer) for answer in answers if isinstance(answer, LookupFailedError)]
            raise self._error(domain, "; ".join(reasons) or f"{host} has no address")
        return found

    async def _get(
        self, domain: str, host: str, address: str, context: ssl.SSLContext, connect_timeout: float
    ) -> bytes:
        import httpx2

        connections: list[Any] = []

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                connections.append(info["return_value"])

        url = f"https://{f'[{address}]' if ':' in address else address}:{self._port}/.well-known/mta-sts.txt"
        headers = {
            "Host": host if self._port == 443 else f"{host}:{self._port}",
            "Accept": "text/plain",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": "smtp_trio",
        }
        extensions = {"sni_hostname": host, "trace": trace}
        timeout = httpx2.Timeout(self._timeout, connect=connect_timeout)
        body = b""
        try:
            with trio.CancelScope() as scope:
                async with (
                    httpx2.AsyncClient(verify=context, trust_env=False, timeout=timeout) as client,
                    client.stream("GET", url, headers=headers, extensions=extensions) as response,
                ):
                    if (problem := self._header_problem(response)) is not None:
                        raise self._error(domain, problem)
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > self._max_size:
                            # Not `raise`: only an exception from the connection ends all the generators of httpx2.
                            scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                for connection in connections:
                    await connection.aclose()
        if len(body) > self._max_size:
            raise self._error(domain, f"longer than {self._max_size} octets")
        return body

    def _header_problem(self, response: httpx2.Response) -> str | None:
        """Return what is wrong with the header of a response; None if nothing is."""
        if response.status_code != 200:
            return f"status {response.status_code}"
        media_type = response.headers.get("Content-Type", "")
        if media_type.partition(";")[0].strip().lower() != "text/plain":
            return f"media type {media_type[:100]!a} instead of text/plain"
        if (encoding := response.headers.get("Content-Encoding", "identity").lower()) != "identity":
            return f"content encoding {encoding[:100]!a}"
        if "Content-Length" not in response.headers and "Transfer-Encoding" not in response.headers:
            return "neither Content-Length nor Transfer-Encoding"
        return None

    async def _context(self) -> ssl.SSLContext:
        if self._given is not None:
            return self._given
        shared = await default_context(verify=True)
        if self._made is None or self._made[0] is not shared:
            self._made = shared, await run_in_thread(_make_context, abandon_on_cancel=True)
        return self._made[1]

    def _error(
        self, domain: str, reason: str, result_type: TlsResultType = TlsResultType.STS_POLICY_FETCH_ERROR
    ) -> PolicyFetchError:
        return PolicyFetchError(domain, result_type, reason[:MAX_TEXT])


def _make_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.hostname_checks_common_name = False  # RFC 8461 3.3: only the DNS names count
    return context


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
