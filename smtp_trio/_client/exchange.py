"""A client's side of one connection: what is said leaves, and each answer is waited for no longer than RFC 5321 4.5.3.2 has it.

One operation at a time. Whatever ends it, an answer, an error or a cancellation, the connection is in step after it, or closed: a
reply that comes late can never be taken for the answer to something else.
"""

from __future__ import annotations

import math
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio
from attrs import field, fields, frozen

from .._timeouts import DEADLINE_SLACK, seconds_or_infinity
from .._wire import Wire
from ..protocol import (
    CONNECTION_LOST,
    ClientProtocol,
    Command,
    Connect,
    CountedCommand,
    Data,
    EndOfBody,
    RemoteProtocolError,
    ReplyError,
    SMTPError,
)
from ..protocol.client import Answer
from ..protocol.commands import END_OF_DATA, Hello, Mail, Quit, Rcpt, Rset
from ..protocol.dialogue import READY
from ..protocol.extensions.auth import AuthCommand, AuthResponse
from ..protocol.extensions.starttls import StartTlsCommand
from ..protocol.replies import Reply
from .results import ConnectionLostError, TimedOutError


@frozen(kw_only=True)
class ClientTimeouts:
    """A client's patience, in seconds; 0: without end. The values of RFC 5321 4.5.3.2, and Postfix's where that is silent.

    ``connect`` is for the connection, ``tls`` for the handshake, ``block`` for the server to take a piece of the message (it begins
    anew with each), ``end`` for the answer to the message; the others are for the answer to the command of that name, ``hello`` for
    EHLO, HELO and LHLO, and ``other`` for what has none of its own.
    """

    connect: float = field(default=30, converter=seconds_or_infinity)
    greeting: float = field(default=300, converter=seconds_or_infinity)
    hello: float = field(default=300, converter=seconds_or_infinity)
    starttls: float = field(default=300, converter=seconds_or_infinity)
    tls: float = field(default=300, converter=seconds_or_infinity)
    auth: float = field(default=300, converter=seconds_or_infinity)
    mail: float = field(default=300, converter=seconds_or_infinity)
    rcpt: float = field(default=300, converter=seconds_or_infinity)
    data: float = field(default=120, converter=seconds_or_infinity)
    block: float = field(default=180, converter=seconds_or_infinity)
    end: float = field(default=600, converter=seconds_or_infinity)
    rset: float = field(default=20, converter=seconds_or_infinity)
    quit: float = field(default=5, converter=seconds_or_infinity)
    other: float = field(default=300, converter=seconds_or_infinity)

    @classmethod
    def all(cls, seconds: float) -> ClientTimeouts:
        """The same for all of them, but for ``quit``, which is no longer than it was."""
        return cls(**{each.name: seconds for each in fields(cls) if each.name != "quit"}, quit=min(5, seconds or 5))

    def of(self, command: Command) -> float:
        """How long the answer to this command may take."""
        if isinstance(command, CountedCommand):
            return self.end if command.last else self.block
        limit: float = getattr(self, NAMES.get(type(command), "hello" if isinstance(command, Hello) else "other"))
        return limit


def timeouts_of(timeout: float | None, timeouts: ClientTimeouts | None) -> ClientTimeouts:
    """The timeouts that these two keywords stand for. Raises ValueError when both are given."""
    if timeout is None:
        return timeouts or ClientTimeouts()
    if timeouts is not None:
        raise ValueError("timeout stands for all timeouts: give one of the two")
    return ClientTimeouts.all(timeout)


#: The timeout that a command has, by name.
NAMES: dict[type[Command], str] = {
    Connect: "greeting",
    StartTlsCommand: "starttls",
    AuthCommand: "auth",
    AuthResponse: "auth",
    Mail: "mail",
    Rcpt: "rcpt",
    Data: "data",
    EndOfBody: "end",
    Rset: "rset",
    Quit: "quit",
}


class Exchange:
    """Says commands, hears answers. `turn` is around every operation of the client."""

    __slots__ = ("_scope", "_waiting", "protocol", "timeouts", "wire")

    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol, timeouts: ClientTimeouts) -> None:
        self.protocol: ClientProtocol = protocol
        self.timeouts: ClientTimeouts = timeouts
        self.wire: Wire = Wire(stream, protocol, timeouts.block)
        # Around a turn. To arm one costs as much as to send a message does, so there is one for all the waits of a turn, and its
        # deadline is moved from one to the next.
        self._scope: trio.CancelScope | None = None
        self._waiting: tuple[Command, float] = (END_OF_DATA, math.inf)

    @property
    def usable(self) -> bool:
        """In step, and not closed: something can be said now."""
        return self.protocol.in_sync and self._open

    @property
    def _open(self) -> bool:
        """`usable`, but for what may have come unasked, which `listen` hears and tells."""
        return self.protocol.idle and not self.wire.broken and not self.protocol.closed

    def turn(self) -> Self:
        """To be put around one operation: ``async with talk.turn():``.

        Raises trio.BusyResourceError when another is under way, trio.ClosedResourceError when there can be none any more.
        """
        if self._scope is not None:
            raise trio.BusyResourceError("another task is using this client")
        if not self._open:
            raise trio.ClosedResourceError("the connection of this client is closed")
        return self

    async def __aenter__(self) -> Self:
        self._scope = trio.CancelScope()
        self._scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        scope, self._scope = self._scope, None
        assert scope is not None
        scope.__exit__(kind, exc, traceback)
        if not self._open:
            await self.close()
        if scope.cancelled_caught:
            raise TimedOutError(*self._waiting) from None

    def disarm(self) -> None:
        """Whatever is waited for now is not the server's answer."""
        if self._scope is not None and self._scope.deadline != math.inf:
            self._scope.deadline = math.inf

    async def close(self) -> None:
        """Close the connection, by force, and at once."""
        self.wire.broken = True
        await trio.aclose_forcefully(self.wire.stream)

    def listen(self, command: Command) -> None:
        """Hear what came unasked since the last answer: a 421, or the end. Raises ConnectionLostError for either, naming ``command``.

        Raises RemoteProtocolError for all else, and for half a reply.
        """
        if self.wire.quick:
            self.wire.receive_now()
        event = self.protocol.next_event()
        if isinstance(event, Answer):
            raise ConnectionLostError(command, f"the server has left: {event.reply}")
        if event is CONNECTION_LOST:
            self.wire.broken = True
            raise ConnectionLostError(command, "the server has closed the connection")
        if not self.protocol.in_sync:
            # The rest of it would be taken for the answer to what is said next.
            self.wire.broken = True
            raise RemoteProtocolError("a part of a reply that nobody asked for")

    async def ready(self, command: Command) -> None:
        """Before a transaction begins: what came unasked is heard, what was left open is ended."""
        self.listen(command)
        if self.protocol.dialogue.phase is not READY:
            await self.ask(Rset())

    async def flush(self) -> bool:
        """Send what is to be sent. False: the server takes no more, but may have said why. Raises TimedOutError when it sits there."""
        if self.wire.broken:
            return False
        if rest := self.wire.flush_now():
            self.disarm()
            await self.wire.send(rest)
        if self.wire.stalled:
            raise TimedOutError(self.protocol.awaiting_reply or END_OF_DATA, self.timeouts.block)
        return not self.wire.broken

    def heard(self) -> Reply | None:
        """The answer to the oldest command, if it is here already."""
        event = self.protocol.next_event()
        if isinstance(event, Answer):
            return event.reply
        if event is CONNECTION_LOST:
            raise ConnectionLostError(
                self.protocol.awaiting_reply or END_OF_DATA, "the server has closed the connection"
            )
        return None

    async def reply(self) -> Reply:
        """The answer to the oldest command, or the one that comes to a message before its end. When it is late, the turn ends."""
        command = self.protocol.awaiting_reply or END_OF_DATA
        reply = self.heard()
        if reply is None:
            assert self._scope is not None
            limit = self.timeouts.of(command)
            self._waiting = command, limit
            deadline = trio.current_time() + limit
            if (
                not 0 <= deadline - self._scope.deadline < DEADLINE_SLACK
            ):  # to move it costs as much as to read a reply does
                self._scope.deadline = deadline
        while reply is None:
            await self.wire.receive()
            reply = self.heard()
        return reply

    async def ask(self, command: Command) -> Reply:
        """One command, one answer."""
        self.protocol.send_command(command)
        await self.flush()
        return await self.reply()

    async def quit(self) -> None:
        """Say QUIT, and close. Whatever goes wrong with it does so in silence: everything that counts was answered."""
        try:
            with trio.move_on_after(self.timeouts.quit), suppress(SMTPError):
                if self.usable:
                    async with self.turn():
                        await self.ask(Quit())
                        self.disarm()
                        await self.wire.close()
        finally:
            await self.close()


def accepted(command: Command, reply: Reply) -> Reply:
    """The reply, unless it is a refusal, which raises `ReplyError`."""
    if reply.refused:
        raise ReplyError(command, reply)
    return reply
