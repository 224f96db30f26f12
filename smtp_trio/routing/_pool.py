"""`DomainPool`: messages to any domains, over connections that are kept open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack

from .._client.login import hide_login
from .._client.message import Message
from .._client.pool import Pool, PoolStatistics
from .._client.results import DeliveryRecord
from ..protocol.arguments import check_number
from ..protocol.params import Params
from ._dns import DnsResolver
from ._exchanger_pools import ExchangerPools
from ._send import DomainsResult, SendSettings, check_send_settings, envelope_params, send_to_domains


class DomainPool:
    """Connections to the exchangers of any domains, shared by many tasks. Use it with ``async with``.

    Each connection belongs to an exchanger, with the TLS that was required of it when it was opened. It is used for every
    domain that has this exchanger and requires no other TLS, and otherwise kept as `smtp_trio.Pool` keeps it.

    :param port: the port of the exchangers.
    :param size: the most connections to one exchanger that are open at a time.
    :param max_connections: the most connections to all exchangers. The one that has been idle for the longest time is
        closed before another one is opened.
    :param max_messages: as for `smtp_trio.Pool`, and so are ``max_age``, ``max_idle`` and ``probe_after``.
    :param settings: as for `send`. By default, all messages share one `DnsResolver`.

    Raises TypeError or ValueError for an invalid argument.
    """

    def __init__(
        self,
        port: int = 25,
        *,
        size: int = 4,
        max_connections: int = 100,
        max_messages: int = 100,
        max_age: float = 300,
        max_idle: float = 30,
        probe_after: float = 1,
        **settings: Unpack[SendSettings],
    ) -> None:
        if (problem := hide_login(settings)) is not None:
            raise problem
        check_number(max_connections, "max_connections", 1, integer=True)
        numbers = {
            "size": size,
            "max_messages": max_messages,
            "max_age": max_age,
            "max_idle": max_idle,
            "probe_after": probe_after,
        }
        Pool("192.0.2.1", port, **numbers)  # type: ignore[arg-type]  # checks the numbers
        check_send_settings(port, settings)
        self._port = port
        self._settings = settings
        self._pools = ExchangerPools(max_connections, **numbers)

    async def send(
        self,
        message: Message,
        *,
        sender: str | None = None,
        recipients: Iterable[str] | None = None,
        record: DeliveryRecord | None = None,
        add_headers: bool = True,
        mail_params: Params | None = None,
        rcpt_params: Mapping[str, Params] | None = None,
        received: datetime | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> DomainsResult:
        """Send a message as `send` does, over connections that are open if possible; wait if too many are in use.

        If the server has closed a kept connection before the message was sent, a new one to the same exchanger is tried.
        In the result, an attempt that has used a kept connection has no ``session``, as a TLS report counts that of the
        handshake (RFC 8460 4.3). Raises as `send` does, and trio.ClosedResourceError if the pool is closed.
        """
        self._pools.check_open()
        params = envelope_params(mail_params, rcpt_params, received, now)
        if self._settings.get("resolver") is None:
            self._settings["resolver"] = DnsResolver()  # not before it is needed: it has to be in an event loop
        return await send_to_domains(
            message,
            self._port,
            sender,
            recipients,
            record,
            self._settings,
            self._pools,
            add_headers=add_headers,
            params=params,
        )

    def statistics(self) -> PoolStatistics:
        """Return the present numbers of connections, waiting tasks and messages, over all exchangers."""
        return self._pools.statistics()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the pool: send QUIT over all idle connections and close them, within 5 s, or at once if cancelled.

        Connections in use are closed when they are returned. From then on the pool raises trio.ClosedResourceError.
        """
        await self._pools.aclose()
