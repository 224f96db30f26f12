"""A message on its way in, pulled by the `data` hook: no task, no queue, no buffer of its own."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import trio

from .._types import Envelope
from ..protocol import (
    CONNECTION_LOST,
    END_OF_BODY,
    END_OF_CHUNK,
    FAULT,
    NEED_DATA,
    BadCommandError,
    BodyError,
    Command,
    CountedCommand,
    Data,
    Noop,
    Reply,
)
from ..protocol.replies import OK, START_MAIL_INPUT

if TYPE_CHECKING:
    from .session import Session


class Body:
    """The message as an async iterable of ``bytes``: dots unstuffed, CRLF kept. The first pull sends the 354 (RFC 5321 4.1.1.4).

    Not pulling is back-pressure. A pull raises `BodyError` when the message will not end well; let it pass. DATA and BDAT look the
    same from here.
    """

    __slots__ = (
        "_dropping",
        "_session",
        "_started",
        "_undecided",
        "began",
        "complete",
        "due",
        "envelope",
        "error",
        "interrupted",
        "size",
    )

    def __init__(self, session: Session, command: Command, envelope: Envelope) -> None:
        #: Who sends it to whom.
        self.envelope: Envelope = envelope
        #: When it began, by Trio's clock.
        self.began: float = trio.current_time()
        #: Octets that came so far.
        self.size: int = 0
        #: It has ended well: every octet of it was pulled.
        self.complete: bool = False
        #: How it failed, once it has.
        self.error: BodyError | None = None
        #: The command that ended it before its time, which is still to be carried out.
        self.interrupted: Command | None = None
        #: Its answer is due: what comes next is no longer of it.
        self.due: bool = False
        self._session = session
        self._dropping = False
        self._undecided: Command | None = None
        self._started = not isinstance(command, Data)

    @property
    def started(self) -> bool:
        """The client was told to send it, or sends it unasked (BDAT)."""
        return self._started

    def __aiter__(self) -> Body:
        return self

    def __anext__(self) -> Coroutine[Any, Any, bytes]:
        return self._next()  # one level of coroutines less, which every wait for the peer passes through

    async def read(self) -> bytes:
        """All of it, which is no more than the server's ``size``. Raises `BodyError` as a pull does."""
        return b"".join([piece async for piece in self])

    async def finish(self, *, keep: bool) -> None:
        """Take what is left of it up to where its answer is due; it is thrown away unless somebody will ``keep`` the message."""
        session = self._session
        if not keep:
            self._drop()
        while not (self.due or self.interrupted or session.over):
            try:
                await self._next()
            except BodyError:
                self._drop()
            except StopAsyncIteration:
                return

    def _drop(self) -> None:
        self._dropping = True
        self._session.protocol.discard()

    async def _next(self) -> bytes:
        """The next piece. Raises StopAsyncIteration when the answer is due, `BodyError` once the message is known to be lost."""
        session, protocol = self._session, self._session.protocol
        if self.error is not None and not self._dropping:
            raise self.error
        if self.complete:
            raise StopAsyncIteration
        if not self._started:
            self._started = True
            await session.answer(START_MAIL_INPUT)
        while True:
            if protocol.buffered:  # chunks may be as small as commands
                await session.give_way()
            try:
                event = self._undecided or protocol.next_event()
            except BadCommandError as bad:  # between two chunks
                await session.refuse(bad)
                if session.over:
                    raise self._fail(str(bad)) from None
                continue
            if isinstance(event, bytes):
                self.size += len(event)
                return event
            if event is NEED_DATA:
                await self._wait()
            elif event is END_OF_BODY or (event is END_OF_CHUNK and self._dropping):
                self.due, self.complete = True, not self._dropping
                raise StopAsyncIteration
            elif event is END_OF_CHUNK:
                await session.answer(OK)
            elif event is FAULT:
                raise self._fail(str(protocol.fault), protocol.fault)
            elif event is CONNECTION_LOST:
                session.over = True
                raise self._fail("the peer is gone")
            else:
                assert isinstance(event, Command)
                await self._between(event)

    async def _wait(self) -> None:
        """Wait for the peer, with a deadline of our own: a hook is told of silence by `BodyError`, never by a cancellation."""
        session = self._session
        if session.protocol.outbox:
            await session.flush()
        if session.over:
            raise self._fail("the peer is gone")
        if session.wire.quick:
            await trio.lowlevel.checkpoint()
            if session.wire.receive_now():
                return
        began = trio.current_time()
        session.stop_hook_clock(began, session.server.timeouts.block)
        try:
            with trio.CancelScope(deadline=began + session.server.timeouts.block) as scope:
                await session.wire.receive()
        finally:
            session.start_hook_clock(trio.current_time() - began)
        if scope.cancelled_caught:
            await session.timed_out()
            raise self._fail("the peer was silent for too long")

    async def _between(self, command: Command) -> None:
        """A command that came between two chunks. Only BDAT, NOOP and what ends the message are in order there (RFC 3030 2)."""
        session = self._session
        if isinstance(command, CountedCommand | Noop):
            self._undecided = command  # should the hook give up on this pull, the next one asks again
            refusal = await session.consult(command)
            self._undecided = None
            if isinstance(command, Noop):
                await session.answer(refusal or OK)
            elif refusal is not None:
                raise self._fail(f"{command.verb} was refused", refusal)
            return
        self.interrupted = command
        raise self._fail(f"{command.verb} came before the last chunk")

    def _fail(self, reason: str, reply: Reply | None = None) -> BodyError:
        self.error = self.error or BodyError(reason, reply)
        return self.error
