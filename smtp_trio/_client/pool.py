"""`Pool`: connections to one server that are kept open and shared by many tasks."""

from __future__ import annotations

import email.message
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, Unpack

import trio
from attrs import frozen

from ..protocol import Noop, SMTPError
from ..protocol.arguments import check_number, check_type
from ..protocol.dialogue import READY
from .addresses import find_envelope, list_recipients
from .client import Client
from .connect import ConnectSettings, Host, check_server, open_client
from .login import hide_login
from .message import Message
from .missing_fields import complete_message
from .pipeline import Messages
from .results import (
    AllRecipientsRejectedError,
    ConnectionLostError,
    DeliveryRecord,
    Result,
    clear_record,
    not_sent,
)
from .retry import can_be_sent_again, is_alive
from .session_limits import announced, has_room, transactions_left
from .transaction import Progress, check_reporting

#: Seconds for QUIT on all connections that are closed at one time, because a message, or its result, waits for that.
QUIT_TIMEOUT = 1
#: The command that a check of a kept connection names in an error.
NOOP = Noop()
#: Seconds for QUIT on all connections when the pool is closed.
CLOSE_TIMEOUT = 5


@frozen
class PoolStatistics:
    """The state of a pool.

    ``open`` is the number of open connections, ``idle`` the number of those that are not in use, ``waiting`` the number
    of tasks that wait for one, and ``messages`` the number of messages begun over all connections so far.
    """

    open: int
    idle: int
    waiting: int
    messages: int


class Pool:
    """Connections to one server for any number of tasks. Use it with ``async with``; it opens no nursery.

    A connection is kept after use only if it is in step, and is checked before it is used again. The one used last is
    used first, so that those that are not needed expire. Expired connections are closed when the pool is next used, or
    when it is closed.

    :param host: as for `connect`, and so are ``port`` and ``settings``.
    :param size: the most connections that are open at a time.
    :param max_messages: the most messages sent over one connection; the server may set a lower limit (RFC 9422 4.1).
    :param max_age: seconds after which a connection is not used again.
    :param max_idle: seconds without use after which a connection is not used again.
    :param probe_after: seconds without use after which a connection must reply to NOOP before it is used. A connection
        with TLS, or over a stream that is not a socket, is always probed, because it cannot be checked there without
        waiting whether the server has closed it.

    Raises ValueError for numbers out of range and for invalid names and settings, and TypeError for arguments of a
    wrong type.
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
        **settings: Unpack[ConnectSettings],
    ) -> None:
        if (problem := hide_login(settings)) is not None:
            raise problem
        check_number(size, "size", 1, integer=True)
        check_number(max_messages, "max_messages", 1, integer=True)
        for seconds, what in ((max_age, "max_age"), (max_idle, "max_idle"), (probe_after, "probe_after")):
            check_number(seconds, what)
        if max_age == 0:
            raise ValueError("max_age must be > 0, got 0")
        check_server(host, port, settings)
        self._host = host
        self._port = port
        self._settings = settings
        self._max_messages = max_messages
        self._max_age = max_age
        self._max_idle = max_idle
        self._probe_after = probe_after
        #: One token for each connection that may be open; waiting tasks get them in order.
        self._slots = trio.Semaphore(size, max_value=size)
        #: When each open connection was opened, and since when each idle one is idle; the last item is the latest.
        self._opened_at: dict[Client, float] = {}
        self._idle_since: dict[Client, float] = {}
        self._closed = False
        self._messages = 0  # over connections that are closed

    @property
    def host(self) -> Host:
        """The host name or IP address of the server, or the path of its socket."""
        return self._host

    @property
    def port(self) -> int:
        """The port of the server."""
        return self._port

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send(
        self,
        sender: str,
        recipients: Iterable[str],
        message: Message,
        *,
        progress: Progress | None = None,
        record: DeliveryRecord | None = None,
        **params: object,
    ) -> Result:
        """Send a message over one of the connections, as `Client.send`; wait for a connection if all are in use.

        Raises the exceptions of `Client.send` and `connect`, and trio.ClosedResourceError if the pool is closed. If a
        kept connection turns out to be closed by the server, the message is sent again once over a new one, provided
        that the server cannot have accepted it.
        """
        check_reporting(progress, record)
        clear_record(record)
        names = list_recipients(recipients)
        try:
            return await self._send(sender, names, message, progress, record, params)
        except SMTPError as exc:
            if exc.result is None:  # no connection could be opened
                exc.result = not_sent(sender, names)
            raise

    async def _send(
        self,
        sender: str,
        names: list[str],
        message: Message,
        progress: Progress | None,
        record: DeliveryRecord | None,
        params: Mapping[str, object],
    ) -> Result:
        await self._acquire_slot()
        try:
            client = await self._take_idle()
            if client is not None and not has_room(client._exchange, names):
                await self._close_all([client])
                client = None
            if client is not None:
                begun = client._exchange.protocol.transactions_begun
                try:
                    return await client.send(sender, names, message, progress=progress, record=record, **params)
                except (ConnectionLostError, AllRecipientsRejectedError) as exc:
                    begun = client._exchange.protocol.transactions_begun - begun
                    if not await can_be_sent_again(client, begun, exc):
                        raise
                    clear_record(record)
                finally:
                    await self._give_back(client)
            client = await self._new_client()
            try:
                return await client.send(sender, names, message, progress=progress, record=record, **params)
            finally:
                await self._give_back(client)
        finally:
            self._slots.release()

    async def send_message(
        self,
        message: email.message.Message,
        sender: str | None = None,
        recipients: Iterable[str] | None = None,
        *,
        progress: Progress | None = None,
        record: DeliveryRecord | None = None,
        add_headers: bool = True,
        **params: object,
    ) -> Result:
        """Send an email message over one of the connections: as `Client.send_message`, with the retry of `send`."""
        check_type(message, "message", email.message.Message, shown=False)
        check_type(add_headers, "add_headers", bool)
        sender, names = await find_envelope(message, sender, recipients)
        if add_headers:
            message = await complete_message(message, sender)
        return await self.send(sender, names, message, progress=progress, record=record, **params)

    async def send_many(
        self,
        messages: Messages,
        *,
        progress: Progress | None = None,
        record: DeliveryRecord | None = None,
        **params: object,
    ) -> list[Result]:
        """Send messages over one of the connections, as `Client.send_many`; wait for it if all are in use.

        A new connection takes its place when the limits of the server are reached (RFC 9422). Nothing is sent again: if
        the connection is lost, ``record.results`` has what is known about each message. For more than one connection at
        a time, call `send` from several tasks. Raises the exceptions of `Client.send_many`
        and `connect`, and trio.ClosedResourceError if the pool is closed.
        """
        check_reporting(progress, record)
        clear_record(record)
        async with self.client() as client:
            return await client.send_many(messages, progress=progress, record=record, **params)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Lend one of the connections for the duration of the ``async with``; wait for one if all are in use.

        A transaction that is left open is ended before the next use. Nothing is sent again here. Raises the exceptions
        of `connect`, and trio.ClosedResourceError if the pool is closed.
        """
        await self._acquire_slot()
        try:
            client = await self._take_idle() or await self._new_client()
            try:
                yield client
            finally:
                await self._give_back(client)
        finally:
            self._slots.release()

    def statistics(self) -> PoolStatistics:
        """Return the present numbers of connections, waiting tasks and messages."""
        messages = self._messages + sum(client._transactions_begun for client in self._opened_at)
        waiting = self._slots.statistics().tasks_waiting
        return PoolStatistics(len(self._opened_at), len(self._idle_since), waiting, messages)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the pool: send QUIT over all idle connections and close them, within 5 s, or at once if cancelled.

        Connections in use are closed when they are returned. From then on the pool raises trio.ClosedResourceError,
        also in tasks that wait for a connection.
        """
        self._closed = True
        idle = list(self._idle_since)
        self._idle_since.clear()
        with trio.move_on_after(CLOSE_TIMEOUT):
            await self._close_all(idle)

    # --- connections ------------------------------------------------------------------------------------------------
    #
    # What is done for each message is written with ``try`` and ``finally``, and a cancel scope is entered only where
    # something may wait. With asynchronous context managers for the slot and the connection, and a scope around each check
    # for expired connections, `send` cost 213 Python frames more than `Client.send`, of 597; now 77.

    async def _acquire_slot(self) -> None:
        """Wait until another connection may be in use. `Semaphore.release` ends its use."""
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._slots.acquire_nowait()  # `acquire` would let other tasks run; `Client.send` does so soon enough
        except trio.WouldBlock:
            await self._slots.acquire()
            if self._closed:
                self._slots.release()
                self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the pool is closed")

    async def _open_client(self) -> Client:
        return await open_client(self._host, self._port, **self._settings)

    async def _new_client(self) -> Client:
        client = await self._open_client()
        self._opened_at[client] = trio.current_time()
        return client

    async def _take_idle(self) -> Client | None:
        """Return the connection that was used last if the server has not closed it, and None otherwise.

        Only one is tried, because a server that has closed one connection has most likely closed the others as well.
        """
        if expired := self._take_expired():
            with trio.move_on_after(QUIT_TIMEOUT):
                await self._close_all(expired)
        if not self._idle_since:
            return None
        client, since = self._idle_since.popitem()
        alive = False
        try:
            alive = await self._is_alive(client, trio.current_time() - since)
        finally:
            if not alive:
                await self._close_all([client])
        return client if alive else None

    async def _is_alive(self, client: Client, idle: float) -> bool:
        """Return whether the server has kept the connection open. Ends a transaction that was left open."""
        exchange = client._exchange
        if exchange.protocol.dialogue.phase is READY and exchange.wire.quick and idle < self._probe_after:
            try:
                exchange.check_unsolicited(NOOP)
            except SMTPError:
                return False
            return exchange.usable
        return await is_alive(client)

    async def _give_back(self, client: Client) -> None:
        """Keep a connection after use, or close it.

        This is shielded from cancellation, because the result of an accepted message must be returned.
        """
        closing = self._take_expired()
        if self._is_reusable(client):
            self._idle_since[client] = trio.current_time()
        else:
            closing.append(client)
        if closing:
            with trio.move_on_after(QUIT_TIMEOUT, shield=True):
                await self._close_all(closing)

    def _is_reusable(self, client: Client) -> bool:
        exchange = client._exchange
        limits = announced(exchange)
        return (
            exchange.usable
            and trio.current_time() - self._opened_at[client] < self._max_age
            and exchange.protocol.transactions_begun < self._max_messages
            and (limits is None or transactions_left(exchange, limits) != 0)
            and not self._closed
        )

    def _take_expired(self) -> list[Client]:
        """Remove and return the idle connections that are too old, or have been idle for too long."""
        if not self._idle_since:
            return []
        now = trio.current_time()
        expired = [
            client
            for client, since in self._idle_since.items()
            if now - since > self._max_idle or now - self._opened_at[client] >= self._max_age
        ]
        for client in expired:
            del self._idle_since[client]
        return expired

    async def _close_all(self, clients: list[Client]) -> None:
        """Send QUIT over each connection (RFC 5321 4.1.1.10) and close it; if cancelled, close the others at once."""
        try:
            for client in clients:
                await client.quit()
        finally:
            with trio.CancelScope(shield=True):
                for client in clients:
                    await client.aclose()
                    del self._opened_at[client]
                    self._messages += client._transactions_begun
