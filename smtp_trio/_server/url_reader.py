"""`UrlReader`: the octets that the BURL commands of a message refer to (RFC 4468), for its `BodyReader`."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Protocol

import trio

from ..protocol import BodyError, CountedCommand
from ..protocol.arguments import check_type
from ..protocol.replies import LOCAL_ERROR
from .hook_runner import HookRunner
from .memory import Keeper

#: The octets of a piece, at most. A hook may provide all of them at once.
PIECE = 65536


class FetchingSession(Protocol):
    """The part of a session's task that a `UrlReader` uses."""

    @property
    def session(self) -> object: ...
    @property
    def hooks(self) -> HookRunner: ...
    @property
    def block_timeout(self) -> float: ...
    async def report(self, hook: str, error: Exception) -> None: ...


# The `burl` hook is called by a read of the `data` hook, and provides octets, or an iterable (`Session.provide`), which is
# then read piece by piece as the data hook goes on reading. The clock of the data hook stands still meanwhile, as it does
# while the session waits for a client, and the limits of such a wait are those of a fetch too: the session is occupied in
# the same way, and the client has chosen the URL. The octets that the hook has provided and that the data hook has not read
# are counted as memory of the message.
#
# A read may be cancelled and repeated, by a hook with a timeout of its own. A generator that was cancelled has ended, so
# what it would have returned is missing: the message cannot be accepted then.


class UrlReader:
    """The reader of the URLs of one message, one after the other.

    Its methods get the `Keeper` of the message, which counts the octets. If this object referred to it, the two would be a
    cycle, which keeps the session.
    """

    __slots__ = ("_at", "_command", "_incomplete", "_item", "_iterator", "_session")

    def __init__(self, session: FetchingSession) -> None:
        self._session = session
        self._command: CountedCommand | None = None
        self._iterator: AsyncIterator[bytes] | None = None
        self._item, self._at = b"", 0  # what was provided last, and how much of it was read
        self._incomplete = False

    async def read(self, command: CountedCommand, limit: float, keeper: Keeper) -> bytes | None:
        """Return the next octets for this BURL, b"" at their end, or None if that takes more than ``limit`` seconds.

        Raises `BodyError` with the reply for the message.
        """
        hooks = self._session.hooks
        hooks.pause_clock(trio.current_time(), math.inf)
        try:
            with trio.move_on_after(limit):
                if self._command is not command:
                    await self._open(command, keeper)
                    self._command = command
                return await self._next_piece(keeper)
        except BodyError:
            raise
        except Exception as error:
            await self._session.report("burl", error)
            raise BodyError("the URL of BURL could not be read", LOCAL_ERROR) from None
        finally:
            hooks.restart_clock()
        return None

    async def close(self, keeper: Keeper) -> None:
        """Close what is being read: the rest of the message is dropped."""
        iterator, self._iterator = self._iterator, None
        self._set_item(b"", keeper)
        if isinstance(iterator, AsyncGenerator):
            try:
                with trio.move_on_after(self._session.block_timeout):
                    await iterator.aclose()
            except Exception as error:
                await self._session.report("burl", error)

    async def _open(self, command: CountedCommand, keeper: Keeper) -> None:
        session = self._session
        session.hooks.provided = None
        reply = await session.hooks.call("burl", session.session, command, command=command)
        provided, session.hooks.provided = session.hooks.provided, None
        if reply is not None and reply.refused:
            raise BodyError("BURL was refused", reply)
        if provided is None:
            raise RuntimeError("BURL was neither refused nor answered with a call of Session.provide")
        self._iterator = None
        if isinstance(provided, AsyncIterable):
            self._iterator = provided.__aiter__()
        else:
            self._set_item(provided, keeper)

    async def _next_piece(self, keeper: Keeper) -> bytes:
        while self._at == len(self._item):
            self._set_item(b"", keeper)
            if self._incomplete:
                from ..protocol.extensions.burl import UNAVAILABLE

                raise BodyError("the read of the URL of BURL was cancelled", UNAVAILABLE)
            if self._iterator is None:
                return b""
            self._incomplete = True
            try:
                item = await anext(self._iterator)
            except StopAsyncIteration:
                self._iterator = None
            else:
                check_type(item, "each item that is provided for BURL", bytes, shown=False)
                self._set_item(item, keeper)
            self._incomplete = False
        await trio.lowlevel.checkpoint()
        piece = self._item[self._at : self._at + PIECE]
        self._at += len(piece)
        return piece

    def _set_item(self, item: bytes, keeper: Keeper) -> None:
        """Replace what is being read. Raises `BodyError` if there is no memory for it."""
        before = len(self._item)
        self._item, self._at = b"", 0
        keeper.keep(len(item) - before)
        self._item = item
