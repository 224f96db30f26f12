"""The connections that a `DomainPool` keeps open, by exchanger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any

import trio

from .._client.client import Client
from .._client.pool import QUIT_TIMEOUT, Pool, PoolStatistics
from ._answers import DANE_TA
from ._routes import Dane, Exchanger, MtaSts

# A connection may be used for another domain only if that domain requires nothing of it that was not established when it
# was opened. The key of a connection therefore has the name of the exchanger and what its TLS was checked for:
#
# * DANE: the records. The names of the domain belong to it only if one of the records is of usage DANE-TA(2), since only
#   then does a certificate have to match a name, which may be that of the domain (RFC 7672 3.2.2).
# * MTA-STS in the mode "enforce": the certificate is valid for the name of the exchanger, whatever else is in the policy
#   (RFC 8461 4.1). Each domain's own policy was consulted by its route, which has allowed the exchanger.
# * MTA-STS in the mode "testing", and no policy at all: nothing was required. These are different keys, as the result of
#   a test belongs to one policy.


def connection_key(exchanger: Exchanger) -> Hashable:
    """Return what two domains must agree in for a connection of one to be used for the other."""
    tls = exchanger.tls
    if isinstance(tls, Dane):
        names = tls.names if any(record.usage == DANE_TA for record in tls.usable) else tls.names[:1]
        return exchanger.name, frozenset(tls.records), names  # an RRset has no order
    if isinstance(tls, MtaSts) and tls.enforce:
        return exchanger.name, "verified"
    return exchanger.name, tls


class ExchangerPool(Pool):
    """The connections to one exchanger. `address` has the IP address of each."""

    def __init__(self, exchanger: Exchanger, **numbers: Any) -> None:
        super().__init__(exchanger.addresses[0], **numbers)
        self._addresses: dict[Client, str] = {}

    @property
    def slots(self) -> trio.Semaphore:
        """One token for each connection that may be open."""
        return self._slots

    @property
    def unused(self) -> bool:
        """True if it has no connection, and none is waited for."""
        return not self._opened_at and self._slots.value == self._slots.max_value

    @property
    def idle_since(self) -> float | None:
        """Since when its longest idle connection is idle; None if it has none."""
        return next(iter(self._idle_since.values()), None)

    async def take(self) -> tuple[Client, str] | None:
        """Return a connection that was kept and is still open, with its address; None without one."""
        client = await self._take_idle()
        return None if client is None else (client, self._addresses[client])

    def add(self, client: Client, address: str) -> None:
        """Add a connection that was opened, and is in use."""
        self._opened_at[client] = trio.current_time()
        self._addresses[client] = address

    async def give_back(self, client: Client) -> None:
        """Keep a connection after use, or close it."""
        await self._give_back(client)

    async def close_expired(self) -> None:
        """Close the connections that are too old, or have been idle for too long."""
        await self._close_all(self._take_expired())

    async def close_longest_idle(self) -> None:
        """Close the connection that has been idle for the longest time."""
        client = next(iter(self._idle_since))
        del self._idle_since[client]
        await self._close_all([client])

    async def _close_all(self, clients: list[Client]) -> None:
        try:
            await super()._close_all(clients)
        finally:
            for client in clients:
                self._addresses.pop(client, None)


class ExchangerPools:
    """All pools, by `connection_key`, and the limit on their connections.

    :param total: the most connections that are open at a time.
    :param numbers: those of each pool.
    """

    def __init__(self, total: int, **numbers: Any) -> None:
        self._numbers = numbers
        self._pools: dict[Hashable, ExchangerPool] = {}
        self._in_use = trio.Semaphore(total, max_value=total)
        self._total = total
        self._opening = 0  # connections that are being opened
        self._messages = 0  # of pools that were removed
        self._closed = False

    @asynccontextmanager
    async def slot(self, exchanger: Exchanger) -> AsyncIterator[ExchangerPool]:
        """Wait until another connection to this exchanger may be in use; yield the pool that has them.

        The slot of the exchanger is taken first: those that wait for a busy exchanger do not delay the others.
        """
        self.check_open()
        key = connection_key(exchanger)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = ExchangerPool(exchanger, **self._numbers)
        try:
            async with pool.slots, self._in_use:
                self.check_open()
                yield pool
        finally:
            with trio.move_on_after(QUIT_TIMEOUT, shield=True):
                for each in list(self._pools.values()):
                    await each.close_expired()
            self._remove_unused()

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[None]:
        """Close idle connections, so that one more may be open; it may be opened in the block."""
        self._opening += 1
        try:
            while sum(len(pool._opened_at) for pool in self._pools.values()) + self._opening > self._total:
                idle = [(since, pool) for pool in self._pools.values() if (since := pool.idle_since) is not None]
                if not idle:
                    break
                with trio.move_on_after(QUIT_TIMEOUT):
                    await min(idle, key=lambda each: each[0])[1].close_longest_idle()
            yield
        finally:
            self._opening -= 1

    def statistics(self) -> PoolStatistics:
        """Return the sums over all exchangers."""
        each = [pool.statistics() for pool in self._pools.values()]
        waiting = sum(pool.waiting for pool in each) + self._in_use.statistics().tasks_waiting
        messages = self._messages + sum(pool.messages for pool in each)
        return PoolStatistics(sum(pool.open for pool in each), sum(pool.idle for pool in each), waiting, messages)

    def check_open(self) -> None:
        """Raise trio.ClosedResourceError if the pools are closed."""
        if self._closed:
            raise trio.ClosedResourceError("the pool is closed")

    async def aclose(self) -> None:
        """Close all idle connections at the same time; those in use are closed when they are given back."""
        self._closed = True
        async with trio.open_nursery() as nursery:
            for pool in self._pools.values():
                nursery.start_soon(pool.aclose)
        self._remove_unused()

    def _remove_unused(self) -> None:
        for key, pool in list(self._pools.items()):
            if pool.unused:
                self._messages += pool.statistics().messages
                del self._pools[key]
