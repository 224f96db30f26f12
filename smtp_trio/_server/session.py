"""One session with one client: one task, which pulls commands from the core and awaits the application's hooks.

The core has judged a command's line and its place already, so a hook sees only what is in order; and the answer moves the state of
the protocol before anything goes over the network. What is done about each command is in `_courses`, how hooks are called in
`_calls`.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import trio

from .._instrument import announce
from .._types import Envelope, MessageState, Peer, TlsInfo
from .._wire import Wire
from ..protocol import (
    CONNECTION_LOST,
    NEED_DATA,
    BadCommandError,
    Command,
    CountedCommand,
    Data,
    EndOfBody,
    Hello,
    Mail,
    Rcpt,
    Reply,
    ServerProtocol,
)
from . import received
from .handlers import COURSES, conclude, greet, queued, start_tls
from .hook_runner import HookRunner
from .message_log import MessageRecord

if TYPE_CHECKING:
    from .body import Body
    from .server import Server

log = logging.getLogger("smtp_trio.session")
messages = logging.getLogger("smtp_trio.message")

#: Commands of a client that sends ahead (RFC 2920) which are answered before others get their turn.
TURN = 16
#: Verbs whose refusal by the core stands in the log of messages, as one by a hook does: there is mail that did not come.
NOTED = frozenset({"MAIL", "RCPT", "DATA", "BDAT"})


class Session(HookRunner):
    """A client's session, as hooks see it. ``context`` is a dict that is yours for as long as it lasts."""

    __slots__ = (
        "_debug",
        "_transaction",
        "_transactions",
        "_turns",
        "_unhooked",
        "auth_failures",
        "body",
        "connected",
        "context",
        "deferred",
        "idle",
        "last_message",
        "local",
        "over",
        "patience",
        "peer",
        "protocol",
        "tls",
        "wire",
        "woken",
    )

    def __init__(self, server: Server, stream: trio.abc.Stream, peer: Peer, local: Peer) -> None:
        super().__init__(server, server.token(10).hex())
        self.peer: Peer = peer
        self.local: Peer = local
        self.context: dict[Any, Any] = {}
        #: What became of the last message; None while there was none.
        self.last_message: MessageState | None = None
        #: What TLS agreed on; None without it.
        self.tls: TlsInfo | None = None
        self.protocol: ServerProtocol = server.new_protocol()
        self.wire: Wire = Wire(stream, self.protocol, server.timeouts.write)
        #: The `Hooks.connect` hook was called, so `Hooks.disconnect` will be.
        self.connected: bool = False
        #: Nothing more will be heard.
        self.over: bool = False
        #: It waits for the peer with nothing under way: `Server.stop` may say goodbye at once.
        self.idle: bool = False
        #: … and did.
        self.woken: bool = False
        #: When the peer has been silent for too long.
        self.patience: float = math.inf
        #: The message under way.
        self.body: Body | None = None
        #: A command that came when a message was under way, and has to wait for its end.
        self.deferred: Command | None = None
        self.auth_failures: int = 0
        self._transactions = self._turns = 0
        self._transaction: dict[Any, Any] = {}
        self._debug = log.isEnabledFor(logging.DEBUG)
        self._unhooked = server.unhooked
        announce(self)

    # --- what hooks may ask ----------------------------------------------------------------------------------------

    @property
    def stream(self) -> trio.abc.Stream:
        """The Trio stream, inside TLS when there is TLS. Whoever reads or writes here breaks the protocol."""
        return self.wire.stream

    @property
    def hello(self) -> Hello | None:
        """The last accepted HELO or EHLO."""
        return self.protocol.state.hello

    @property
    def user(self) -> str | None:
        """Who the client proved to be (RFC 4954), or None."""
        return self.protocol.state.user

    @property
    def pending(self) -> Command | None:
        """The command that is being answered, or None."""
        pending = self.protocol.pending
        return pending if isinstance(pending, Command) else None

    @property
    def buffered(self) -> int:
        """Octets received behind it, and not yet parsed."""
        return self.protocol.buffered

    @property
    def envelope(self) -> Envelope | None:
        """The transaction that is open, or being opened by the MAIL under way; None between transactions."""
        state = self.protocol.state
        mail = state.mail
        if mail is None:
            pending = self.protocol.pending
            if not isinstance(pending, Mail):
                return None
            mail = pending
        return Envelope(f"{self.id}-{self._transactions}", mail, tuple(state.rcpts), self._transaction)

    @property
    def protocol_name(self) -> str:
        """How the client speaks to us, by the names of RFC 3848: ``ESMTPSA``, say."""
        return received.with_type(self)

    def received(self) -> bytes:
        """The ``Received:`` field for the message under way, with its CRLF (RFC 5321 4.4)."""
        return received.received(self)

    # --- the session's task -----------------------------------------------------------------------------------------

    async def run(self, *, implicit_tls: bool) -> None:
        """The whole session, but for its end."""
        while not self.over:
            error: Exception | None = None
            try:
                self.scope: trio.CancelScope = trio.CancelScope(deadline=self.patience)
                with self.scope:
                    if self.connected or await self._begin(implicit_tls=implicit_tls):
                        await self._converse()
            except Exception as exc:
                if self.running is None or not self.scope.cancelled_caught:
                    raise
                error = exc  # of a hook that was cancelled for being late
            if not self.scope.cancelled_caught:
                continue
            if self.running is not None:
                await self._cut_off(*self.running, error)
            elif self.server.stopping:
                self.idle = False
                await self.leave(Reply(421, "Server is shutting down", "4.3.2"))
            elif trio.current_time() >= self.patience:
                self.idle = False
                await self.timed_out()

    async def _begin(self, *, implicit_tls: bool) -> bool:
        if implicit_tls and not await start_tls(self):
            return False
        if isinstance(self.stream, trio.SSLStream):
            self.tls = TlsInfo.of(self.stream)
            self.protocol.state.secure = True
        self.connected = True
        await greet(self)
        return True

    async def _converse(self) -> None:
        """One command after the other, each from its arrival to its answer."""
        while not self.over:
            command, self.deferred = self.deferred, None
            if command is None:
                try:
                    command = await self.receive_command()
                except BadCommandError as bad:
                    await self.refuse(bad)
                    continue
            if command is None:
                continue
            kind = type(command)
            if kind in self._unhooked:
                if self._queue(command, self.protocol.default_reply(command)):
                    await self.flush()
            else:
                await COURSES.get(kind, Session._ordinary)(self, command)
        await self.flush()

    async def _ordinary(self, command: Command) -> None:
        """A command with no course of its own: `Hooks.message`, then its hook, then the answer."""
        reply = await self.consult(command) if self.consults else None
        name = command.hook
        if reply is None and name is not None and name in self.hooks:
            reply = await self.call(name, command, decides=command)
        if reply is not None and reply.refused and isinstance(command, Mail | Rcpt):
            self.note(command, reply, self.envelope)
        await self.answer(reply or self.protocol.default_reply(command))

    async def receive_command(self) -> Command | None:
        """The next command. Replies leave before we wait for it: never wait for input while output is owed (RFC 2920 3.2 (7))."""
        protocol, scope = self.protocol, self.scope
        # If so, a deadline passed that was an earlier command's, and the wait for this one goes on.
        resumed, self.idle = self.idle, False
        if not resumed:
            self.patience = math.inf
        if protocol.buffered:
            await self.give_way()
        event = protocol.next_event()
        if event is NEED_DATA:
            if protocol.outbox and (rest := self.wire.flush_now()):
                await self._send(rest)
            if self.wire.broken:
                self.over = True
                return None
            if self.wire.quick:
                await trio.lowlevel.checkpoint()
                if self.wire.receive_now():
                    event = protocol.next_event()
        if event is NEED_DATA:
            if not resumed:
                # One deadline for the whole command: octets without an end of line win nobody time.
                self.patience = trio.current_time() + self.server.timeouts.command
            if scope.deadline > self.patience:
                scope.deadline = self.patience
            if self.server.stopping:
                scope.cancel()  # what was received is answered; nothing else is waited for
            while event is NEED_DATA:
                self.idle = True
                await self.wire.receive()
                if scope.cancel_called:  # woken and given data at once: the first counts, and no hook runs any more
                    await trio.lowlevel.checkpoint()
                self.idle = False
                event = protocol.next_event()
        if event is CONNECTION_LOST:
            self.over = True
            return None
        assert isinstance(event, Command)
        self.server.counts.commands += 1
        if type(event) is Mail:
            self._transactions += 1
            self._transaction = {}
        return event

    async def give_way(self) -> None:
        """Let others have their turn now and then, while there is more to work on than one client may have done in one go.

        To be called before an event is taken: if we are cancelled here, nothing is lost.
        """
        self._turns += 1
        if self._turns % TURN == 0:
            await trio.lowlevel.checkpoint()

    async def flush(self) -> None:
        """Send what is owed. When that cannot be done, the session is over: nobody can be answered any more."""
        if rest := self.wire.flush_now():
            await self._send(rest)
        if self.wire.broken:
            self.over = True

    async def _send(self, rest: bytes | memoryview) -> None:
        """Send what the kernel would not take at once."""
        self.disarm()
        began = trio.current_time()
        self.stop_hook_clock(began, self.server.timeouts.write)
        try:
            await self.wire.send(rest)
        finally:
            self.start_hook_clock(trio.current_time() - began)

    async def timed_out(self) -> None:
        """The peer was silent for too long: tell the hook, and then the peer (RFC 5321 4.5.3.2.7)."""
        self.over = True
        await self.call("timeout")
        await self.leave(Reply(421, "Timeout: closing the connection", "4.4.2"))

    async def leave(self, reply: Reply) -> None:
        """Say 421 without having been asked, and hear nothing more."""
        self.over = True
        if self.connected:
            await self.call("response", reply)
        self.protocol.close(reply)
        await self.flush()

    async def _cut_off(self, name: str, failure: Reply, error: Exception | None) -> None:
        """One of the frequent hooks was late, and the session's scope has ended it; perhaps it has raised an error over that."""
        self.running: tuple[str, Reply] | None = None
        self.patience = math.inf
        late = self.late(name)
        late.__cause__ = error
        await self.server.report(late, f"{self.id}: {name} hook failed")
        if self.body is not None:
            await conclude(self, self.body, failure)
        else:
            assert self.pending is not None
            self.note(self.pending, failure, self.envelope)
            await self.answer(failure)

    def wake(self) -> None:
        """`Server.stop`: wait for the peer no longer. Only for an idle session; a hook must not be cut off by this."""
        self.woken = True
        self.scope.cancel()

    def default_reply(self, command: Command) -> Reply:
        """What a command is answered with when nobody has another idea."""
        if self.body is not None and isinstance(command, EndOfBody | CountedCommand | Data):
            return queued(self.body.envelope)
        return self.protocol.default_reply(command)

    def body_is_due(self) -> bool:
        """The message under way was taken whole."""
        return self.body is not None and self.body.due

    async def end(self) -> None:
        """The session's last hooks, when all else is over."""
        lost = self.protocol.state.mail is not None
        for name in ("reset", "disconnect") if lost else ("disconnect",):
            if name in self.hooks:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self.server.timeouts.disconnect):
                    await self.call(name)

    def last_words(self) -> None:
        """We are being cancelled: say so if that needs no waiting (RFC 5321 3.8)."""
        if not self.over:
            self.over = True
            self.protocol.close(Reply(421, "Server is shutting down", "4.3.2"))
            self.wire.flush_now()

    # --- answers ----------------------------------------------------------------------------------------------------

    async def answer(self, reply: Reply) -> None:
        """Give this answer to the pending command."""
        command = self.protocol.pending
        try:
            if self.tells:
                await self.call("response", reply)
        finally:  # a data hook that gives up on its pull must not leave a question open
            urgent = self._queue(command, reply)
        if urgent:
            await self.flush()

    def _queue(self, command: Command | BadCommandError | None, reply: Reply) -> bool:
        """The answer, without its hook. True: it must leave at once (RFC 2920 3.2 (5), (6)), others may wait for company."""
        self.protocol.send(reply)
        if self._debug:
            # A line that is no command may be a password that came too late.
            bad = isinstance(command, BadCommandError) and (
                command.verb if command.verb in self.protocol.grammar.verbs else "?"
            )
            log.debug("%s: %s -> %s", self.id, bad or repr(command), reply)
        if reply.code == 421:
            self.over = True
        return not (isinstance(command, Command) and command.groupable)

    def note(
        self,
        command: Command | BadCommandError,
        reply: Reply | None,
        envelope: Envelope | None,
        body: Body | None = None,
    ) -> None:
        """A line for the log of messages: what became of one, or of a command that would have led to one. None: no answer."""
        if messages.isEnabledFor(logging.INFO):
            size, seconds = (0, 0.0) if body is None else (body.size, trio.current_time() - body.began)
            note = MessageRecord.of(self, command, reply, envelope, size, seconds)
            messages.info("%s", note, extra={"note": note})

    async def refuse(self, bad: BadCommandError) -> None:
        """Answer a command that the core refuses."""
        self.server.counts.commands += 1
        self.server.counts.errors += 1
        if bad.close:
            self.over = True
        if bad.verb in NOTED:
            self.note(bad, bad.reply, envelope=self.envelope)
        await self.answer(bad.reply)
