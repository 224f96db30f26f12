"""What every store is: hooks whose ``data`` answers 250 only when the message is safe.

A store says how a session's message is spooled and how a group of messages is committed; the rest is here. See RFC
5321 6.1: with its 250 a server takes responsibility, and "MUST NOT lose the message for frivolous reasons", a crash
being one.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
from typing import TYPE_CHECKING, ClassVar, Generic

import trio
from attrs import frozen

from .._server.hooks import Hooks
from ..protocol.replies import Reply
from ._group import Group, SpoolT

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Mapping, Sequence
    from datetime import datetime

    from .._server.body import Body
    from .._server.server import Server
    from .._server.session import Session
    from .._types import Envelope

logger = logging.getLogger("smtp_trio.stores")

STORE_ID = "smtp_trio.store_id"
"""Where ``envelope.context`` has the store's own name for a message that it keeps."""


@frozen
class Stored:
    """A message as a store kept it, with its envelope."""

    sender: str
    """The mailbox as it was sent; "" for the null sender."""
    recipients: tuple[str, ...]
    """Those that were accepted, in order, each as it was sent."""
    message: bytes
    """What the peer sent, without anything that the store added."""
    received: datetime


class StoreError(Exception):
    """The store did not take a message. ``reply`` is what to tell the peer; the words and the cause are for the log."""

    reply: ClassVar[Reply] = Reply(451, "Cannot store the message now; try again later", "4.3.0")


class StoreFullError(StoreError):
    """No room on the device, or none within the quota."""

    reply: ClassVar[Reply] = Reply(452, "Insufficient system storage", "4.3.1")


class MessageTooBigError(StoreError):
    """Larger than this store can ever hold."""

    reply: ClassVar[Reply] = Reply(552, "Message size exceeds what the store can hold", "5.3.4")


class Store(Hooks, Generic[SpoolT]):
    """Hooks that keep every message.

    Subclass a store for hooks of your own beside it, or call ``put`` from your own ``data``. A store opens with the
    server that it serves, or on first use, and may be used again after it was closed.
    """

    def __init__(self) -> None:
        self._group: Group[SpoolT] = Group(self._commit)

    # What a store of your own says:

    def _spool(self, session: Session, envelope: Envelope) -> SpoolT:
        """An empty spool for the message that a session is about to send."""
        raise NotImplementedError

    def _commit(self, messages: Sequence[SpoolT]) -> Mapping[SpoolT, Exception]:
        """Make messages safe, in a thread; see ``Group``."""
        raise NotImplementedError

    def _open(self) -> None:
        """Make ready, in the thread that commits; raises what is amiss. ``_commit`` comes without it as well."""

    def _close(self) -> None:
        """Let go of what is open, in the thread that commits."""

    # What every store does:

    async def put(self, session: Session, body: AsyncIterable[bytes]) -> str:
        """Store the message that a session is sending, for all its recipients, and return the store's name for it.

        Returns when the message would survive a power cut; raises ``StoreError``, with nothing left of it, when it is
        not kept. ``body`` is that of the session's ``data`` hook, or what you make of it.
        """
        envelope = session.envelope
        if envelope is None:
            raise RuntimeError("a store keeps the message of a transaction, and this session has none under way")
        spool = self._spool(session, envelope)
        try:
            await spool.fill(body)
        except (OSError, StoreError) as error:
            raise self._refusal(error) from error
        refused = await self._group.submit(spool)
        if refused is not None:
            raise self._refusal(refused) from refused
        envelope.context[STORE_ID] = spool.name
        return spool.name

    async def open(self) -> None:
        """Open now rather than on first use; raises ``StoreError`` when the store cannot be used."""
        try:
            await trio.to_thread.run_sync(self._open, limiter=self._group.writer)
        except (OSError, sqlite3.Error, StoreError) as error:
            raise self._refusal(error) from error

    async def aclose(self) -> None:
        """Close what is open. A store that is used again opens again."""
        await trio.to_thread.run_sync(self._close, limiter=self._group.writer)

    def _refusal(self, error: Exception) -> StoreError:
        """What a fault means to the peer; made for each session, since one fault may have struck a whole group."""
        if isinstance(error, StoreError):
            kind = type(error)
        elif isinstance(error, OSError):
            kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        else:
            # The low octet is the primary code (sqlite.org/rescode.html).
            kind = StoreFullError if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL else StoreError
        return kind(f"{self!r}: {str(error) or type(error).__name__}")

    # The hooks:

    async def start(self, server: Server) -> None:
        await self.open()

    async def stop(self, server: Server) -> None:
        await self.aclose()

    async def data(self, session: Session, body: Body) -> Reply | None:
        try:
            await self.put(session, body)
        except StoreError as error:
            logger.error("%s: not stored: %s", body.envelope.id, error, exc_info=error.__cause__)
            return error.reply
        return None
