"""`UrlReader`: the octets that the BURL commands of a message refer to (RFC 4468), for its `BodyReader`."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Protocol

import trio

from ..protocol import BodyError, CountedCommand
from ..protocol.arguments import check_type
from ..protocol.extensions.burl import UNAVAILABLE
from ..protocol.replies import LOCAL_ERROR
from .hook_runner import HookRunner

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


# The `burl` hook is called by a read of the `data` hook, and provides an iterable (`Session.provide`), which is then read
# piece by piece as the data hook goes on reading. The clock of the data hook stands still meanwhile, as it does while the
# session waits for a client: each piece may take ``timeouts.block`` seconds.


class UrlReader:
    """The reader of the URLs of one message, one after the other."""

    __slots__ = ("_command", "_pieces", "_session")

    def __init__(self, session: FetchingSession) -> None:
        self._session = session
        self._command: CountedCommand | None = None
        self._pieces: AsyncGenerator[bytes] | None = None

    async def read(self, command: CountedCommand) -> bytes:
        """Return the next octets for this BURL, or b"" at their end. Raises `BodyError` with the reply for the message."""
        hooks = self._session.hooks
        hooks.pause_clock(trio.current_time(), math.inf)
        try:
            with trio.move_on_after(self._session.block_timeout):
                if self._command is not command:
                    self._command, self._pieces = command, await self._open(command)
                assert self._pieces is not None
                return await anext(self._pieces, b"")
            raise BodyError("the URL of BURL took too long", UNAVAILABLE)
        except BodyError:
            raise
        except Exception as error:
            await self._session.report("burl", error)
            raise BodyError("the URL of BURL could not be read", LOCAL_ERROR) from None
        finally:
            hooks.restart_clock()

    async def close(self) -> None:
        """Close what is being read: the rest of the message is dropped."""
        pieces, self._pieces = self._pieces, None
        if pieces is not None:
            await pieces.aclose()

    async def _open(self, command: CountedCommand) -> AsyncGenerator[bytes]:
        session = self._session
        session.hooks.provided = None
        reply = await session.hooks.call("burl", session.session, command, command=command)
        if reply is not None and reply.refused:
            raise BodyError("BURL was refused", reply)
        if session.hooks.provided is None:
            raise RuntimeError("BURL was neither refused nor answered with a call of Session.provide")
        return _pieces(session.hooks.provided)


async def _pieces(octets: bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    if isinstance(octets, bytes):
        for start in range(0, len(octets), PIECE):
            await trio.lowlevel.checkpoint()
            yield octets[start : start + PIECE]
        return
    iterator = octets.__aiter__()
    try:
        async for item in iterator:
            check_type(item, "each item that is provided for BURL", bytes, shown=False)
            async with aclosing(_pieces(item)) as pieces:
                async for piece in pieces:
                    yield piece
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
