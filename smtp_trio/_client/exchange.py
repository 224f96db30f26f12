"""The client's side of one connection: send commands, receive replies, and limit how long each reply may take."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio

from .._types import TlsInfo
from .._wire import Wire
from ..protocol import (
    CONNECTION_LOST,
    ClientProtocol,
    Command,
    Connect,
    CountedCommand,
    Data,
    EndOfData,
    RemoteProtocolError,
    ReplyError,
    SMTPError,
)
from ..protocol.client import SessionEndedError
from ..protocol.commands import END_OF_DATA, Hello, Mail, Quit, Rcpt, Rset
from ..protocol.dialogue import CLOSED, READY
from ..protocol.extensions.atrn import Atrn
from ..protocol.extensions.auth import AuthCommand, AuthResponse
from ..protocol.extensions.starttls import StartTlsCommand
from ..protocol.grammar import Grammar
from ..protocol.params import NO_PARAMS, Params, make_params
from ..protocol.replies import Reply
from .reply_timer import ReplyTimer
from .results import ConnectionLostError, TimedOutError
from .timeouts import ClientTimeouts

#: The field of `ClientTimeouts` that limits the wait for the reply to each command.
TIMEOUT_FIELDS: dict[type[Command], str] = {
    Connect: "greeting",
    StartTlsCommand: "starttls",
    AuthCommand: "auth",
    AuthResponse: "auth",
    Mail: "mail",
    Rcpt: "rcpt",
    Data: "data",
    EndOfData: "end",
    Rset: "rset",
    Quit: "quit",
    Atrn: "end",  # RFC 2645 5.2.1: at least ten minutes
}


def reply_timeout(timeouts: ClientTimeouts, command: Command) -> float:
    """Return how many seconds the reply to ``command`` may take (RFC 5321 4.5.3.2)."""
    if isinstance(command, CountedCommand):
        return timeouts.end if command.last else timeouts.block
    name = TIMEOUT_FIELDS.get(type(command), "hello" if isinstance(command, Hello) else "other")
    limit: float = getattr(timeouts, name)
    return limit


def check_reply(command: Command, reply: Reply) -> Reply:
    """Return ``reply``; raise `ReplyError` if it refuses the command (4yz or 5yz)."""
    if reply.refused:
        raise ReplyError(command, reply)
    return reply


# How the connection stays in step, or is closed
#
# SMTP replies carry no identifier: a reply belongs to the oldest command without one. If a call ended while a reply is
# still to come, the next call would take that reply for its own, and might report a message as accepted that was
# refused. So each call of the client ends in one of two states:
#
# * in step: every command has its reply, no message is half sent, and nothing is left to be written; or
# * closed: the stream is closed, and all later calls raise trio.ClosedResourceError.
#
# A later call never has to wait for an old reply. `__aexit__` enforces this at one place: whatever ended the operation
# (a reply, an exception, a timeout, a cancellation), it closes the stream unless the protocol is in step. No other code
# has to catch Cancelled. Closing uses trio.aclose_forcefully, which works in a cancelled scope and does not wait.
#
# Consequently a call that is cancelled before it has sent anything, or after it has received everything, leaves the
# connection usable; any other cancellation closes it. A write that is cancelled part-way sets `Wire.broken`, since it
# is not known how many octets were sent.
#
# The timeouts limit the waits for replies (`ReplyTimer`), and writes that do not fit into the buffer of the socket
# (`Wire.send`). A wait that takes too long ends with TimedOutError for the command that was waited for. Nothing limits
# the caller's own message iterator.
class Exchange:
    """The commands and replies of one connection.

    Each operation of a client runs inside ``async with exchange.operation()``.
    """

    __slots__ = ("_busy", "_grammar", "_timer", "lmtp", "protocol", "rcpt_domains", "timeouts", "tls", "wire")

    def __init__(self, stream: trio.abc.Stream, grammar: Grammar, timeouts: ClientTimeouts, *, lmtp: bool) -> None:
        self.protocol: ClientProtocol = ClientProtocol(grammar)
        self.timeouts: ClientTimeouts = timeouts
        self.wire: Wire = Wire(stream, self.protocol, timeouts.block)
        self.lmtp: bool = lmtp
        #: The TLS connection in use, or None.
        self.tls: TlsInfo | None = None
        #: The domains of recipients that were sent, counted if the server limits them (RFC 9422 4.3).
        self.rcpt_domains: set[str] = set()
        self._grammar = grammar
        self._busy = False
        self._timer: ReplyTimer | None = None

    def params(self, kind: type[Mail | Rcpt], values: Mapping[str, object]) -> Params:
        """Return keyword arguments as typed parameters of MAIL or RCPT.

        Raises TypeError for a name that is not known, and ValueError for a value that is not valid.
        """
        return make_params(values, self._grammar.params(kind)) if values else NO_PARAMS

    def param_names(self, kind: type[Mail | Rcpt]) -> frozenset[str]:
        """Return the names of the keyword arguments that are parameters of MAIL or RCPT."""
        return frozenset(param.name for param in self._grammar.params(kind))

    # --- one operation at a time ------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """True if the connection is open and in step, and nothing was received that was not asked for."""
        return self.open and not self.protocol.has_unread_input

    @property
    def open(self) -> bool:
        """As `usable`, but without regard to unsolicited replies, which `check_unsolicited` reports."""
        return not self.wire.broken and self.protocol.idle and self.protocol.dialogue.phase is not CLOSED

    def operation(self) -> Self:
        """Return the context manager for one operation.

        Raises trio.BusyResourceError while another operation is in progress, and trio.ClosedResourceError if the
        connection is closed. Only the handshake enters the exchange without this check, since the greeting is still to
        come at that time.
        """
        if self._busy:
            raise trio.BusyResourceError("another task is using this client")
        if not self.open:
            raise trio.ClosedResourceError("the connection of this client is closed")
        return self

    async def __aenter__(self) -> Self:
        self._busy = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._busy = False
        if not self.open:
            await self.close()

    # --- commands and replies ---------------------------------------------------------------------------------------

    async def request(self, command: Command) -> Reply:
        """Send one command and return its reply."""
        self.protocol.send_command(command)
        await self.flush()
        return await self.receive_reply()

    async def flush(self) -> bool:
        """Send what the protocol has queued.

        Return False if the connection cannot be written to any more; replies that explain why may still be readable.
        Raises `TimedOutError` if the server does not accept the octets within ``timeouts.block``.
        """
        if self.wire.broken:
            return False
        if rest := self.wire.flush_now():
            await self.wire.send(rest)
        if self.wire.stalled:
            raise TimedOutError(self.protocol.awaiting_reply or END_OF_DATA, self.timeouts.block)
        return not self.wire.broken

    def received_reply(self, command: Command | None = None) -> Reply | None:
        """Return the reply to the oldest command if it was received.

        Raises `ConnectionLostError`, which names ``command`` or else the oldest one, if the server has ended the session.
        """
        command = command or self.protocol.awaiting_reply or END_OF_DATA
        try:
            reply = self.protocol.next_reply()
        except SessionEndedError as exc:
            self.wire.broken = True
            raise ConnectionLostError(command, "the server closed the connection", exc.reply) from None
        if isinstance(reply, Reply):
            return reply
        if reply is CONNECTION_LOST:
            raise ConnectionLostError(command, "the server closed the connection")
        return None

    async def receive_reply(self) -> Reply:
        """Wait for the reply to the oldest command, or for one that the server sends before the end of a message.

        Raises `TimedOutError` and `ConnectionLostError`.
        """
        reply = self.received_reply()
        return await self.wait_for_reply() if reply is None else reply

    async def wait_for_reply(self) -> Reply:
        """As `receive_reply`, after `received_reply` has returned None."""
        command = self.protocol.awaiting_reply or END_OF_DATA
        limit = self._limit(command)
        deadline = trio.current_time() + limit
        timer = self._timer = self._timer or ReplyTimer.current()
        while True:
            if not await timer.receive(self.wire, deadline):
                raise TimedOutError(command, limit)
            if (reply := self.received_reply()) is not None:
                return reply

    def _limit(self, command: Command) -> float:
        """Return how many seconds the reply to ``command`` may take."""
        limit = reply_timeout(self.timeouts, command)
        latest = self.protocol.dialogue.unanswered[-1:]
        if latest and isinstance(latest[0], CountedCommand) and latest[0].last:
            # The whole message was sent in the group (RFC 3030 4.2). A server may hold back the replies to MAIL and
            # RCPT (RFC 2920 3.2) until it has processed the message, for which it has ten minutes.
            limit = max(limit, self.timeouts.end)
        return limit

    def check_unsolicited(self, command: Command) -> None:
        """Check what the server has sent since the last reply, before ``command`` is sent.

        Raises `ConnectionLostError`, which names ``command``, for a 421 or 221 reply (RFC 5321 3.8) and for the
        end of the connection. Raises RemoteProtocolError for any other reply, and for a part of one.
        """
        if not (self.wire.quick and self.wire.receive_now()) and self.protocol.is_quiet:
            return
        try:
            reply = self.received_reply(command)
        except ConnectionLostError:
            self.wire.broken = True
            raise
        if reply is not None:
            raise ConnectionLostError(command, "the server closed the connection", reply)
        if not self.protocol.in_sync:
            # The rest of this reply would be taken for the reply to the next command.
            self.wire.broken = True
            raise RemoteProtocolError("the server sent a part of a reply without a command")

    async def prepare_transaction(self, command: Command) -> None:
        """Check for unsolicited replies and end a transaction that was left open, before ``command`` is sent."""
        self.check_unsolicited(command)
        if self.protocol.dialogue.phase is not READY:
            await self.reset(command)

    async def reset(self, command: Command) -> None:
        """Send RSET before ``command``. Raises `ReplyError` if it is refused, `ConnectionLostError` for 421."""
        reply = await self.request(Rset())
        if self.protocol.closed:
            raise ConnectionLostError(command, "the server closed the connection", reply)
        check_reply(Rset(), reply)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connection at once, without QUIT."""
        self.wire.broken = True
        await trio.aclose_forcefully(self.wire.stream)

    async def quit(self) -> None:
        """Send QUIT (RFC 5321 4.1.1.10) and close the connection, within ``timeouts.quit`` seconds.

        Errors are ignored, since every message has its result by now.
        """
        try:
            with trio.move_on_after(self.timeouts.quit), suppress(SMTPError):
                if self.usable:
                    async with self.operation():
                        await self.request(Quit())
                        await self.wire.close()
        finally:
            await self.close()
