"""Connections to one server that are kept, and shared by many tasks. It has no task of its own."""

from __future__ import annotations

import email.message
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self, Unpack

import trio
from attrs import frozen

from ..protocol import Mail, Noop, SMTPError
from ..protocol.dialogue import READY
from ..protocol.extensions.limits import LimitsExtension
from .client import Client
from .connect import Host, Settings, dial
from .message import Message, envelope
from .results import AllRecipientsRejectedError, ConnectionLostError, Result
from .transaction import Progress

#: Seconds that a kept connection has to show that it is alive. Longer than that, and a new one is likely there sooner.
PROBE = 5
#: Seconds for QUIT over connections that will not be kept: a message, or its result, waits behind that.
GOODBYE = 1


@frozen
class PoolStatistics:
    """A pool as it is now: connections that are ``open``, those of them that are ``idle``, tasks that are ``waiting`` for one, and
    ``messages`` that were begun over any of them so far.
    """

    open: int
    idle: int
    waiting: int
    messages: int


class Pool:
    """Connections to one server, for any number of tasks; to be used with ``async with``.

    A connection is kept for the next message only if it is provably in step, and not too old. Before it is used again we look
    whether the server has left meanwhile; if so, a new one takes its place in silence. The one used last goes first, so that those
    that are not needed grow old. They are closed when somebody next uses the pool, or when it ends.
    """

    def __init__(
        self,
        host: Host,
        port: int = 25,
        *,
        size: int = 4,
        max_messages: int = 100,
        max_age: float = 300,
        max_idle: float = 30,
        probe_after: float = 1,
        **settings: Unpack[Settings],
    ) -> None:
        """``host``, ``port`` and ``settings`` are as in `connect`. At most ``size`` connections are open at a time.

        None of them carries more than ``max_messages`` (or what the server says in LIMITS, RFC 9422 4.1), is given out again when it
        is older than ``max_age`` seconds, or when it was idle for more than ``max_idle``. One that was idle for ``probe_after``
        seconds has to answer a NOOP first. So has one inside TLS, or on a stream other than a socket, however short it was idle:
        whether the server has left cannot be seen there without waiting.

        Raises ValueError for numbers that allow no connection.
        """
        if size < 1 or max_messages < 1 or max_age <= 0:
            raise ValueError(f"no connection could be used: {size=}, {max_messages=}, {max_age=}")
        if max_idle < 0 or probe_after < 0:
            raise ValueError(f"time cannot be negative: {max_idle=}, {probe_after=}")
        self._host = host
        self._port = port
        self._settings = settings
        self._max_messages = max_messages
        self._max_age = max_age
        self._max_idle = max_idle
        self._probe_after = probe_after
        #: First come, first served.
        self._places = trio.Semaphore(size, max_value=size)
        #: When each connection that is open was made, and when each that is idle became so: the latest is the last.
        self._born: dict[Client, float] = {}
        self._idle: dict[Client, float] = {}
        self._closed = False
        self._messages = 0  # over connections that are closed

    # --- what it does -----------------------------------------------------------------------------------------------

    async def send(
        self,
        sender: str,
        recipients: Iterable[str],
        message: Message,
        *,
        progress: Progress | None = None,
        **params: object,
    ) -> Result:
        """`Client.send` over one of the connections; waits for its turn. Raises what that and `connect` raise.

        It is tried again, once and over a new connection, only where nothing can have been taken: when a kept connection was lost
        before MAIL was sent, or while MAIL alone was on its way; and when the first answer was 421 to MAIL, for then the server has
        refused all that came behind it. Where the server pipelines, MAIL never goes alone. Then a connection that is lost without a
        word raises `ConnectionLostError` or `DeliveryUnknownError`, and it is for you to decide. `TimedOutError` is never tried again.
        """
        names = recipients if isinstance(recipients, str) else list(recipients)
        async with self._place():
            if (kept := await self._kept()) is not None:
                begun = kept.protocol.transactions_begun
                try:
                    async with self._lent(kept):
                        return await kept.send(sender, names, message, progress=progress, **params)
                except (ConnectionLostError, AllRecipientsRejectedError) as exc:
                    if not _untaken(kept, kept.protocol.transactions_begun - begun, exc):
                        raise
            async with self._lent(await self._new()) as client:
                return await client.send(sender, names, message, progress=progress, **params)

    async def send_message(
        self,
        message: email.message.Message,
        sender: str | None = None,
        recipients: Iterable[str] | None = None,
        *,
        progress: Progress | None = None,
        **params: object,
    ) -> Result:
        """`Client.send_message` over one of the connections, as `send` does it."""
        sender, names = envelope(message, sender, recipients)
        return await self.send(sender, names, message, progress=progress, **params)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """One of the connections, for you alone within the ``async with``. Waits for its turn; raises what `connect` raises.

        A transaction that you leave open is ended before anybody else uses it. Nothing is tried again here.
        """
        async with self._place():
            async with self._lent(await self._kept() or await self._new()) as client:
                yield client

    def statistics(self) -> PoolStatistics:
        """How it stands."""
        messages = self._messages + sum(client.protocol.transactions_begun for client in self._born)
        return PoolStatistics(len(self._born), len(self._idle), self._places.statistics().tasks_waiting, messages)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Say QUIT over all that are idle, and close them; by force when cancelled. Those in use follow when they are returned.

        From now on the pool raises trio.ClosedResourceError, also in tasks that wait for a connection.
        """
        self._closed = True
        idle = list(self._idle)
        self._idle.clear()
        await self._dismiss(idle)

    # --- connections come and go ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Room for one connection."""
        self._check_open()
        async with self._places:
            self._check_open()
            yield

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the pool is closed")

    async def _dial(self) -> Client:
        return await dial(self._host, self._port, **self._settings)

    async def _new(self) -> Client:
        client = await self._dial()
        self._born[client] = trio.current_time()
        return client

    async def _kept(self) -> Client | None:
        """The connection that was used last, if it is still there. Otherwise a new one is the better bet: a server that has closed
        one of them has most likely closed the others as well.
        """
        with trio.move_on_after(GOODBYE):
            await self._dismiss(self._outdated())
        if not self._idle:
            return None
        client, since = self._idle.popitem()
        alive = False
        try:
            alive = await self._alive(client, trio.current_time() - since)
        finally:
            if not alive:
                await self._dismiss([client])
        return client if alive else None

    async def _alive(self, client: Client, idle: float) -> bool:
        """Whether the server is still there, and has said nothing since. Ends a transaction that was left open."""
        ready = client.protocol.dialogue.phase is READY
        with trio.move_on_after(PROBE), suppress(SMTPError):
            if ready and client.talk.wire.quick and idle < self._probe_after:
                client.talk.listen(Noop())
            else:
                await (client.noop() if ready else client.rset())
            return client.usable
        return False

    @asynccontextmanager
    async def _lent(self, client: Client) -> AsyncIterator[Client]:
        try:
            yield client
        finally:
            await self._give_back(client)

    async def _give_back(self, client: Client) -> None:
        """Keep it, or close it. That cannot be cancelled: a message that was taken must be reported."""
        leaving = self._outdated()
        if self._may_stay(client):
            self._idle[client] = trio.current_time()
        else:
            leaving.append(client)
        if leaving:
            with trio.move_on_after(GOODBYE, shield=True):
                await self._dismiss(leaving)

    def _may_stay(self, client: Client) -> bool:
        limits = client.offered.get("LIMITS")
        said = limits.mail_max if isinstance(limits, LimitsExtension) else None
        most = min(self._max_messages, said or self._max_messages)
        young = trio.current_time() - self._born[client] < self._max_age
        return client.usable and young and client.protocol.transactions_begun < most and not self._closed

    def _outdated(self) -> list[Client]:
        """Take those that are too old, or were idle for too long."""
        now = trio.current_time()
        old = [
            client
            for client, since in self._idle.items()
            if now - since > self._max_idle or now - self._born[client] >= self._max_age
        ]
        for client in old:
            del self._idle[client]
        return old

    async def _dismiss(self, clients: list[Client]) -> None:
        """Say QUIT over each of them (RFC 5321 4.1.1.10), and close it; those that are left when cancelled are closed by force."""
        try:
            for client in clients:
                await client.quit()
        finally:
            with trio.CancelScope(shield=True):
                for client in clients:
                    await client.aclose()
                    del self._born[client]
                    self._messages += client.protocol.transactions_begun


def _untaken(client: Client, begun: int, exc: ConnectionLostError | AllRecipientsRejectedError) -> bool:
    """Whether the server can have taken nothing of a message that failed like this, in its so many transactions."""
    if begun == 0:
        return True
    if begun > 1 or not isinstance(exc.command, Mail):
        return False
    if isinstance(exc, AllRecipientsRejectedError):
        return exc.reply.code == 421
    return "PIPELINING" not in client.offered  # then MAIL went alone
