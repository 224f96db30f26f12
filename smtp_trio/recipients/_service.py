"""`RecipientService`: recipients and aliases that a program answers for by HTTP."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

import trio

from .._client.threads import run_in_thread
from .._server.client_memory import Memory
from ..protocol.arguments import check_number, check_type
from ._source import Source, SourceError

#: Octets of the longest response.
MAX_SIZE: Final = 65536

# What counts as an answer
#
# A refusal is final, and a client that gets one returns the message. So an address is unknown only after an explicit
# answer: a response with status 200, in JSON, whose member ``known`` is false. A 404 is what any web server replies to a
# path that it does not know, for example while the service is being replaced; it is an error, as every other status.
#
# Only known addresses are cached. A refusal from a cache would be wrong for a mailbox that was just created, and an
# attacker who tries many addresses does not repeat them anyway.
#
# Each request has a connection of its own. One that is kept open may be closed by the service at any moment, and a
# request that is sent at that moment fails. httpx2 does not close a connection whose TLS handshake is cancelled; its
# trace extension reports each connection, which is closed here.


class RecipientService(Source):
    """Recipients and aliases that a program answers for by HTTP. It needs the extra ``http``.

    The request for ``fred+lists@example.org`` is ``GET <url>?address=fred%2Blists%40example.org``. The response has the
    status 200 and a JSON object: ``{"known": false}`` for an address that is not accepted, ``{"known": true}`` for a
    mailbox, and ``{"known": true, "targets": ["anna@example.org"]}`` for an alias. Details, domains and the local part
    postmaster are left to the service. Everything else, a redirect too, is an error.

    :param url: an address with the scheme http or https. A user and a password in it are sent (basic authentication).
    :param timeout: seconds for a request.
    :param max_concurrent: the requests at a time. Others wait, within their time.
    :param cache: seconds for which a known address is not asked for again.
    :param max_entries: the number of addresses that are cached.
    :param ssl_context: verifies the certificate of the service. By default, the system's authorities are trusted.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: an argument is out of range, or ``url`` is invalid.
    :raises ModuleNotFoundError: httpx2 is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10,
        max_concurrent: int = 10,
        cache: float = 60,
        max_entries: int = 10000,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        check_type(url, "url", str)
        check_number(timeout, "timeout")
        check_number(max_concurrent, "max_concurrent", 1, integer=True)
        check_number(cache, "cache")
        check_number(max_entries, "max_entries", 1, integer=True)
        check_type(ssl_context, "ssl_context", ssl.SSLContext, optional=True)
        try:
            import_module("httpx2")  # here, since it takes a while, and not while other tasks wait
        except ModuleNotFoundError as error:
            text = "smtp_trio.recipients.RecipientService needs httpx2: install smtp-trio[http]"
            raise ModuleNotFoundError(text, name="httpx2") from error
        self.url = url
        self._shown = _check_url(url)
        self._timeout = timeout
        self._limiter = trio.CapacityLimiter(max_concurrent)
        self._max_entries = max_entries
        self._lifetime = cache
        self._context = ssl_context
        self.load()

    def __str__(self) -> str:
        return self._shown

    def load(self) -> None:
        """Empty the cache."""
        self._known: Memory[tuple[str, ...]] = Memory(self._max_entries, self._lifetime)

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Sequence[str]]:
        address = keys[0]
        targets = self._known.get(address)
        if targets is None:
            known = self._known
            targets = await self._ask(address)
            if targets is None:
                return {}
            known.put(address, "", targets)
        return {address: targets}

    async def _ask(self, address: str) -> tuple[str, ...] | None:
        """Return what the service answers for an address: its targets, or None if it is unknown."""
        import httpx2

        with trio.move_on_after(self._timeout):
            async with self._limiter:
                try:
                    return self._parse(await self._get(address))
                except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                    raise SourceError(f"{self}: {_describe(error)}") from error
        raise SourceError(f"{self}: no answer within {self._timeout:g} seconds")

    async def _get(self, address: str) -> bytes:
        """Return the body of the response."""
        import httpx2

        connections: list[Any] = []

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                connections.append(info["return_value"])

        url = f"{self.url}{'&' if '?' in self.url else '?'}{urlencode({'address': address})}"
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
        verify = await self._tls_context()
        body = b""
        try:
            with trio.CancelScope() as scope:
                async with (
                    httpx2.AsyncClient(verify=verify, trust_env=False, timeout=None) as client,
                    client.stream("GET", url, headers=headers, extensions={"trace": trace}) as response,
                ):
                    if response.status_code != 200:
                        raise SourceError(f"{self}: status {response.status_code}")
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > MAX_SIZE:
                            # Not `raise`: only an exception from the connection ends all the generators of httpx2.
                            scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                for connection in connections:
                    await connection.aclose()
        if len(body) > MAX_SIZE:
            raise SourceError(f"{self}: the response is longer than {MAX_SIZE} octets")
        return body

    def _parse(self, body: bytes) -> tuple[str, ...] | None:
        """Return the targets in the body of a response, or None for an unknown address."""
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict):
            known, targets = answer.get("known"), answer.get("targets", [])
            if known is False:
                return None
            if known is True and isinstance(targets, list) and all(isinstance(each, str) for each in targets):
                return tuple(targets)
        raise SourceError(f"{self}: the response must be a JSON object with known and targets, got {body[:100]!a}")

    async def _tls_context(self) -> ssl.SSLContext | bool:
        if not self.url.lower().startswith("https:"):
            return False  # never used; the default would read all authorities
        if self._context is None:
            self._context = await run_in_thread(ssl.create_default_context, abandon_on_cancel=True)
        return self._context


def _describe(error: BaseException) -> str:
    """Return the text of an error, or of the first of its causes that has one, such as that of a TLS handshake."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause or type(error).__name__)


def _check_url(text: str) -> str:
    """Return a URL without user, password and query, for error messages. Raises ValueError if it is invalid."""
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and url.hostname and not url.fragment and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("url must be http://HOST/PATH or https://HOST/PATH")
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))
