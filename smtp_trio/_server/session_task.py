"""`SessionTask`: runs one session with one client.

The core, a `ServerProtocol`, parses the commands and checks their order, so a hook only gets commands that are valid at
this point. A reply changes the state of the core before anything is sent. Three other modules do parts of the work:
`handlers` answers the commands that need more than a hook and a reply, `transaction` receives a message from DATA or
BDAT to its reply, and `hook_runner` calls the hooks, which get a `Session`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio
from attrs import evolve

from .._instrument import announce
from .._types import Counts, Peer
from .._wire import AcceptedSocket, Wire
from ..protocol import (
    CONNECTION_LOST,
    NEED_DATA,
    BadCommandError,
    Command,
    Data,
    Mail,
    Rcpt,
    Reply,
    ServerProtocol,
)
from ..protocol.dialogue import CLOSED
from ..protocol.events import Event
from ..protocol.extensions.auth import AuthCommand
from ..protocol.replies import PROXY_HEADER
from .auth_service import AuthService
from .authentication import refuse_auth
from .handlers import HANDLERS, SHUTTING_DOWN, greet
from .hook_runner import HookRunner
from .log_events import HOOK_CANCELLED, HOOK_FAILED
from .memory import FREE_ENVELOPE, FREE_INPUT, NO_MEMORY
from .proxies import Connection, local_of_xclient, peer_of_xclient
from .session import Session
from .session_log import SessionLog
from .session_memory import SessionMemory
from .transaction import Transaction
from .turns import READ_SIZE, Turns

if TYPE_CHECKING:
    from ..protocol.extensions.xclient import XclientCommand
    from .server import Server
    from .state import HookTable, ServerState

#: After this many buffered commands (RFC 2920) of a session that is the only one of its peer, other tasks get a turn.
COMMANDS_PER_TURN = 16
#: Seconds to wait after an error when there have been many; the ``smtpd_error_sleep_time`` of Postfix.
ERROR_DELAY = 1
#: The hooks that are called when a session ends.
LAST_HOOKS = frozenset({"disconnect", "reset"})
TIMEOUT = Reply(421, "Timeout: closing the connection", "4.4.2")
EXPIRED = Reply(421, "Session time limit reached; closing the connection", "4.4.2")


class SessionTask:
    """Runs one session, in the task that `Server` started for it: read a command, answer it, send the replies."""

    __slots__ = (
        "__weakref__",
        "_command_deadline",
        "_deferred",
        "_local",
        "auth_failures",
        "connected",
        "counts",
        "end_timeout",
        "expires",
        "hooks",
        "id",
        "idle",
        "key",
        "log",
        "memory",
        "processed",
        "protocol",
        "server",
        "session",
        "shield",
        "state",
        "transaction",
        "turns",
        "wire",
        "woken",
    )

    def __init__(
        self,
        server: Server,
        state: ServerState,
        table: HookTable,
        protocol: ServerProtocol,
        stream: trio.abc.Stream | AcceptedSocket,
        *,
        connection: Connection,
    ) -> None:
        self.id: str = server.token(10).hex()
        self.server: Server = server
        self.state: ServerState = state
        self.protocol: ServerProtocol = protocol
        self.wire: Wire = Wire(stream, protocol, server.timeouts.write)
        self.hooks: HookRunner = HookRunner(table, limit=server.timeouts.hook, reporter=self)
        self.transaction: Transaction = Transaction(self.id)
        #: What it holds besides its message.
        self.memory: SessionMemory = SessionMemory(state.memory, protocol, tls=isinstance(stream, trio.SSLStream))
        #: The server's counters.
        self.counts: Counts = state.counts
        #: Seconds that the `data` hook may take after the end of a message (``timeouts.end``).
        self.end_timeout: float = server.timeouts.end
        #: When the session is to end (``limits.session_time``), by `trio.current_time`.
        self.expires: float = math.inf
        if server.limits.session_time and server.timeouts.command != math.inf:
            self.expires = trio.current_time() + server.limits.session_time
        #: The `Hooks.connect` hook was called, so `Hooks.disconnect` has to be.
        self.connected: bool = False
        #: The session waits for a command or for a TLS handshake, so `Server.stop` may end it at once.
        self.idle: bool = False
        #: `Server.stop` has ended it while it was idle.
        self.woken: bool = False
        #: The last scope of `shielded`; None before the first.
        self.shield: trio.CancelScope | None = None
        self._command_deadline = math.inf  # when the client has been silent for too long
        self._deferred: Command | None = None  # a command that ended a message, to be carried out after it
        #: The turns that it shares with other sessions of its peer; None as long as it is the only one.
        self.turns: Turns | None = None
        #: The name under which `Admission` counts it; None if it is not counted.
        self.key: str | None = None
        #: The commands AUTH that did not succeed.
        self.auth_failures: int = 0
        #: Commands, or parts of a message, that were processed since the last checkpoint.
        self.processed: int = 0
        self._local = connection.local  # the server's end, before any XCLIENT
        announce(self)  # before `Session` is made, since smtp_trio.testing may replace the parts that it refers to
        self.session: Session = Session(server, connection, self)
        #: What is logged about the session.
        self.log: SessionLog = SessionLog(self.id, self.session, protocol, state.counts)
        if connection.header is not None:
            self.log.proxied(health_check=connection.health_check)

    @property
    def over(self) -> bool:
        """The session has ended: the dialogue is closed, or the connection cannot be used any more."""
        return self.protocol.dialogue.phase is CLOSED or self.wire.broken

    @property
    def block_timeout(self) -> float:
        """Seconds to wait for the next octets of a message."""
        return self.state.block_timeout

    @property
    def server_name(self) -> str:
        """The domain of the server."""
        return self.server.name

    @property
    def stopping(self) -> bool:
        """`Server.stop` was called."""
        return self.state.stopping

    @property
    def peer(self) -> Peer:
        """The client's end of the connection, which a hook may have replaced."""
        return self.session.peer

    @property
    def auth_service(self) -> AuthService:
        """The state for AUTH that the sessions of the server share."""
        return self.state.auth_service

    # --- the cancel scope of a session ------------------------------------------------------------------------------
    #
    # A session needs a deadline nearly all the time: while it waits for a command, and while a hook runs. Entering a
    # `trio.CancelScope` with a deadline costs as much as all the work of this package on one command, and a message has
    # at least three hooks and four waits. So there is one long-lived scope around the whole session,
    # `HookRunner.scope`, and only its deadline changes. Even a change costs about as much as parsing a command (Trio
    # keeps deadlines in a heap), so the deadline is changed only when necessary. The frequent hooks, which are those
    # called for every message (`hook_runner.FREQUENT`: mail, rcpt and data), use this scope; other hooks, and reads of
    # the body, have scopes of their own.
    #
    # * Before waiting for a command, `receive_command` makes the deadline earlier if it is later than that of the
    #   command. A deadline that is already earlier stays, and the deadline also stays when the command arrives in time.
    # * Before a frequent hook, `HookRunner.call` sets the deadline of the hook, unless it is right to within DEADLINE_SLACK,
    #   the precision of the deadlines of hooks. That of a `data` hook is set later, if it is set at all (`HookRunner.arm`).
    # * Before a wait that cannot be resumed after an interruption (AUTH, a handshake, the rest of a body, a full send
    #   buffer), `HookRunner.disarm` removes the deadline.
    #
    # The deadline can therefore be one that was set for an earlier wait, and expire in a later one. When its scope was
    # cancelled, `run` finds out why, in this order:
    #
    # 1. A frequent hook is running (`HookRunner.running`): it was late. The client gets 451, and the session goes on in
    #    a new scope.
    # 2. The server is stopping: `wake` has cancelled the scope of an idle session, or `receive_command` has cancelled
    #    it when it was about to wait. The client gets 421.
    # 3. `_command_deadline` has passed: the client was silent for too long, or the session has reached its time limit, so
    #    it gets 421.
    # 4. None of these: the deadline was set for an earlier wait. `run` enters a new scope and calls `receive_command`
    #    again, which sees from `idle` that it was interrupted, and waits with the deadline of the same command.
    #
    # Case 4 can only happen inside `wire.receive`, where a cancellation loses no data. In `receive_command`, `idle` is
    # true only during that call. (It is also true during a TLS handshake, which runs without a deadline of this scope.)
    # Everything else that waits either runs in a scope of its own or without a deadline.
    #
    # A scope can also be cancelled, and receive data, in the same iteration of the run loop. `receive_command` then
    # makes a checkpoint before it looks at the data: the cancellation counts, and no further hook is called. Trio's own
    # cancellations (of the server or from outside) come from outer scopes and are not caught here.
    #
    # A read of the body has a scope of its own because a timeout must reach the hook as `BodyError`. A hook that is not
    # frequent has one because it may run inside a frequent hook. While a hook waits for the client, its clock is
    # stopped: `HookRunner.pause_clock` and `restart_clock` enclose each such wait. The first does nothing if the wait
    # ends before the hook's deadline, and the second if the deadline is right to within DEADLINE_SLACK.

    async def run(self, *, implicit_tls: bool) -> None:
        """Run the session, from its first octet to its last reply. The caller then calls `end`."""
        hooks = self.hooks
        while not self.over:
            error: Exception | None = None
            try:
                with trio.CancelScope(deadline=self._command_deadline) as scope:
                    hooks.scope = scope
                    if self.connected or await self._begin(implicit_tls=implicit_tls):
                        await self._converse()
            except Exception as exc:
                if hooks.running is None or not scope.cancelled_caught:
                    raise
                error = exc  # a late hook raised it when it was cancelled
            if not scope.cancelled_caught:
                continue
            if hooks.running is not None:
                await self._end_late_hook(*hooks.running, error)
                error = None  # its traceback refers to this frame
            elif self.state.stopping:
                self.idle = False
                await self.leave(SHUTTING_DOWN)
            elif trio.current_time() >= self._command_deadline:
                self.idle = False
                await (self.expire() if trio.current_time() >= self.expires else self.time_out())

    def share(self, turns: Turns) -> None:
        """Share these turns from now on."""
        self.turns = turns
        self.wire.read_size = READ_SIZE

    def change_client(self, command: XclientCommand) -> bool:
        """Change the addresses as XCLIENT demands. Return False if the client has too many connections."""
        from ..protocol.extensions.xclient import begin_session

        session, state = self.session, self.protocol.state
        begin_session(state, command)  # before the connect hook, which is one of the client that was named
        session.context.clear()
        attributes = state.client
        session.local = local_of_xclient(self._local, attributes)
        peer = peer_of_xclient(session.peer, attributes)
        if "ADDR" in command.attributes:
            self.protocol.client_changed(self.server.trusted_keywords(peer))
            self.auth_failures = 0
            if session.tls is not None:  # the certificate is that of the proxy
                session.tls = evolve(session.tls, client_certificate=None)
        if peer == session.peer:
            return True
        session.peer = peer
        self.log.address_changed("XCLIENT")
        return self.server.count_as(self, peer)

    async def _begin(self, *, implicit_tls: bool) -> bool:
        if self.turns is not None:
            self.turns.begin()
        if implicit_tls and not await self.start_tls():
            return False
        if not self.wire.quick and isinstance(self.wire.stream, trio.SSLStream):
            if self.session.tls is None:  # the caller has done the handshake
                from .handshake import record_tls

                record_tls(self, self.wire.stream)
            self.protocol.tls_started()
        self.connected = True
        await greet(self)
        return True

    async def _converse(self) -> None:
        """Answer one command after another."""
        dialogue, hooks = self.protocol.dialogue, self.hooks
        while not (dialogue.phase is CLOSED or self.wire.broken):  # `over`, without the call
            command, self._deferred = self._deferred, None
            if command is None:
                try:
                    command = await self.receive_command()
                except BadCommandError as bad:
                    await self.refuse(bad)
                    continue
            if command is None:
                continue
            kind = type(command)
            if kind in hooks.unhooked:
                urgent = self._queue(command, self.protocol.default_reply(command))
                # That to QUIT is sent below: the loop ends, and nothing waits before that.
                if urgent and dialogue.phase is not CLOSED and (rest := self.wire.flush_now()):
                    await self._send(rest)
            else:
                await HANDLERS[kind](self, command)
        if rest := self.wire.flush_last() if self.ended else self.wire.flush_now():
            await self._send(rest)

    async def receive_command(self) -> Command | None:
        """Return the next command; None when there will be no more.

        The replies to groupable commands are held back until all buffered input is processed, so that those to a
        pipelined group are sent in one write, unless its hooks are slow (`HookRunner.began`); other replies have been
        sent at once (`_queue`). Before waiting for input, everything that is queued is sent (RFC 2920 3.2 (7)).
        """
        protocol, hooks = self.protocol, self.hooks
        received = protocol.input  # read directly: `protocol.buffered` would be two calls, twice for each command
        # The deadline of an earlier wait has interrupted the wait for this command (case 4 above).
        resumed, self.idle = self.idle, False
        if not resumed:
            self._command_deadline = math.inf
        if protocol.delayed:
            await self._delay()
        event: Event = NEED_DATA
        if received.at < len(received.data) or protocol.input_ended:  # without either, the core would return the same
            await self.yield_turn()
            event = protocol.next_event()
        if event is NEED_DATA:
            if protocol.outbox and (rest := self.wire.flush_now()):
                await self._send(rest)
            hooks.began = math.inf
            if self.wire.broken:
                return None
            paused = -1 if self.turns is None else self.turns.pause()
            if self.wire.quick and not self.wire.waits:
                await trio.lowlevel.checkpoint()
                if self.wire.receive_now():
                    if self.turns is not None and self.turns.begin(paused):
                        await self.turns.next()
                    event = protocol.next_event()
        if event is NEED_DATA:
            scope = hooks.scope
            received.compact()
            if self.memory.held != self.memory.fixed:
                self.memory.count()
            if not resumed:
                # One deadline for a whole command: a client cannot extend it by sending a line octet by octet.
                deadline = hooks.now() + self.state.command_timeout
                self._command_deadline = deadline if deadline < self.expires else self.expires  # noqa: FURB136  (faster)
            if scope.deadline > self._command_deadline:
                scope.deadline = self._command_deadline
            if self.state.stopping:
                scope.cancel()  # the commands that were received are answered; no others are waited for
            while event is NEED_DATA:
                self.idle = True
                await self.wire.receive()
                if scope.cancel_called:  # cancelled in the iteration in which data arrived: the cancellation counts
                    await trio.lowlevel.checkpoint()
                self.idle = False
                if self.turns is not None and self.turns.begin(paused):
                    await self.turns.next()
                event = protocol.next_event()
        if not isinstance(event, Command):
            assert event is CONNECTION_LOST
            self.end_dialogue()
            return None
        if type(event) is Mail:
            self.transaction.begin()
        memory = self.memory
        if (
            memory.held != memory.fixed
            or len(received.data) - received.at > FREE_INPUT
            or protocol.state.envelope > FREE_ENVELOPE
        ):
            memory.count()
        if memory.budget.used > memory.budget.beginning and isinstance(event, Mail | Rcpt):
            protocol.reach("memory")
            raise BadCommandError(NO_MEMORY, verb=event.verb)
        self.counts.commands += 1
        return event

    def release(self) -> None:
        """Count the session no more, and break the cycles of references to this object: the session has ended.

        Otherwise its memory would not be free before the garbage collector finds them.
        """
        self.memory.release()
        self.hooks.end()
        self.transaction.body = None

    async def yield_turn(self) -> None:
        """Let other tasks run after every `COMMANDS_PER_TURN` buffered commands, or when the peer's turn is used up.

        It is called before an event is taken from the core, so a cancellation here loses nothing.
        """
        if self.turns is not None:
            if self.turns.used_up():
                await self.turns.next()
            return
        self.processed += 1
        if self.processed >= COMMANDS_PER_TURN:
            self.processed = 0
            await trio.lowlevel.checkpoint()

    async def _delay(self) -> None:
        """Wait after an error of a client that has made many (`ServerProtocol.delayed`)."""
        self.protocol.delayed = False
        await self.wait_until(trio.current_time() + ERROR_DELAY)

    def hurry(self) -> None:
        """Wait for the next command no longer than `Timeouts.stress` from now on: the server is nearly full."""
        # During a TLS handshake the session is idle too, and its wire is broken.
        if self.idle and not self.wire.broken:
            self._command_deadline = min(self._command_deadline, trio.current_time() + self.state.command_timeout)
            self.hooks.scope.deadline = min(self.hooks.scope.deadline, self._command_deadline)

    async def flush(self) -> None:
        """Send the replies that are queued. If that fails, the session is over."""
        if rest := self.wire.flush_now():
            await self._send(rest)

    async def wait_until(self, time: float) -> None:
        """Send the replies that are queued, then wait until ``time`` or until `Server.stop` is called."""
        await self.flush()
        self.hooks.disarm()
        with trio.move_on_at(time):
            await self.state.stop_called.wait()

    def flush_nowait(self) -> None:
        """Send the replies that are queued, as far as that is possible without waiting."""
        if rest := self.wire.flush_now():
            self.protocol.outbox.insert(0, bytes(rest))

    async def _send(self, rest: bytes | memoryview) -> None:
        """Send what the kernel did not take at once."""
        self.memory.count(len(rest))
        self.hooks.disarm()
        self.hooks.pause_clock(trio.current_time(), self.server.timeouts.write)
        try:
            await self.wire.send(rest)
        finally:
            self.hooks.restart_clock()
            self.memory.count()

    async def time_out(self) -> None:
        """Call the `timeout` hook, send 421 and end the session, since the client was silent (RFC 5321 4.5.3.2.7)."""
        self.log.timed_out(in_message=self.transaction.body is not None)
        await self.hooks.call("timeout", self.session)
        await self.leave(TIMEOUT)

    async def expire(self) -> None:
        """End the session with 421, since it has been open for ``limits.session_time`` seconds."""
        self.protocol.reach("session_time", ends=True)
        await self.leave(EXPIRED)

    async def leave(self, reply: Reply) -> None:
        """Send an unsolicited 421 (RFC 5321 3.8), and end the session."""
        if self.connected:
            await self.hooks.call("response", self.session, reply)
        self.protocol.close(reply)
        self.log.reply(None)
        await self.flush()

    def end_dialogue(self) -> None:
        """End the session without a reply."""
        self.protocol.dialogue.enter(CLOSED)

    async def _end_late_hook(self, name: str, failure: Reply, error: Exception | None) -> None:
        """Report a frequent hook that was late and was cancelled by the session's scope, and send the failure reply.

        :param error: what the hook raised when it was cancelled.
        """
        self.hooks.running = None
        self._command_deadline = math.inf
        late = self.hooks.late(name, self.hooks.allowed)
        late.__cause__ = error
        await self.report(name, late)
        if self.transaction.body is not None:
            await self.transaction.conclude(self, failure)
        else:
            command = self.session.pending
            assert command is not None
            self.log.refusal(command, failure, self.session.envelope)
            await self.answer(failure)

    async def report(self, hook: str, error: Exception) -> None:
        """Report an exception of a hook, or its invalid reply, to the `error` hook and the log."""
        await self.state.report(error, HOOK_FAILED, {"id": self.id, "peer": self.log.peer, "hook": hook})

    async def renew_scope(self) -> None:
        """Make a checkpoint, which raises Cancelled in the scope that a late hook has used up.

        `run` then enters a new scope.
        """
        self.hooks.overdue, self._command_deadline = False, math.inf
        await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """End the wait of an idle session, for `Server.stop`. In another session this would interrupt a hook."""
        self.woken = True
        self.hooks.scope.cancel()

    @property
    def ended(self) -> bool:
        """There is nothing to do for `end`: the dialogue has ended, and no last hook is installed."""
        return self.over and self.transaction.body is None and LAST_HOOKS.isdisjoint(self.hooks.installed)

    async def end(self) -> None:
        """Send 421 if the session is being cancelled. Call its last hooks, shielded.

        They are `disconnect` if there was a `connect`, and before it `reset` if a transaction is open.
        """
        self.send_shutdown_nowait()
        if not self.connected or LAST_HOOKS.isdisjoint(self.hooks.installed):
            return
        now = trio.current_time()
        deadline = min(now + self.server.timeouts.disconnect, self.state.last_deadline)
        if self.protocol.state.mail is not None:
            await self._call_last("reset", (now + deadline) / 2)
        await self._call_last("disconnect", deadline)

    async def _call_last(self, name: str, deadline: float) -> None:
        if name in self.hooks.installed:
            with self.shielded(deadline) as scope:
                await self.hooks.call(name, self.session)
            if scope.cancelled_caught:
                self.counts.errors += 1
                self.counts.exceptions += 1
                HOOK_CANCELLED.log(id=self.id, peer=self.log.peer, hook=name)

    def shielded(self, deadline: float) -> trio.CancelScope:
        """Return a scope for what must not be cancelled before ``deadline``, or that of `Server.stop` if it is earlier."""
        shield = self.shield = trio.CancelScope(shield=True, deadline=min(deadline, self.state.last_deadline))
        return shield

    def send_shutdown_nowait(self) -> None:
        """Send 421 if that is possible without waiting: the session is being cancelled (RFC 5321 3.8)."""
        if self.transaction.body is not None:
            self.transaction.abandon(self.log, self.transaction.body)
        if not self.over:
            self.protocol.close(SHUTTING_DOWN)
            self.log.reply(None)
            self.wire.flush_now()

    async def start_tls(self) -> bool:
        """Do the TLS handshake on the connection. If it fails, return False: the session is over then."""
        from .handshake import start_tls

        context = self.server.tls
        assert context is not None
        return await start_tls(self, context, self.server.timeouts.tls)

    # --- replies ----------------------------------------------------------------------------------------------------

    async def call_message_hook(self, command: Command) -> Reply | None:
        """Call the `message` hook, which precedes the hook of each command. Return its reply, or None."""
        if not self.hooks.has_message:
            return None
        return await self.hooks.call("message", self.session, command, command=command)

    async def answer(self, reply: Reply) -> None:
        """Reply to the pending command. The reply is sent at once unless others may share its write."""
        command = self.protocol.pending
        try:
            if self.hooks.has_response:
                await self.hooks.call("response", self.session, reply)
                if reply.refused and command is not None and command.verb == Data.verb:
                    await self.wire.receive_arrived()  # octets sent during the hook are not commands either
        finally:  # also when a data hook cancels its read here: a command must not stay unanswered
            urgent = self._queue(command, reply)
        if urgent and (rest := self.wire.flush_now()):
            await self._send(rest)

    async def answer_recipient(self, reply: Reply) -> None:
        """Reply to the message for the next recipient, while its data hook goes on (RFC 2033 5)."""
        await self.transaction.answer_recipient(self, reply)

    def _queue(self, command: Command | BadCommandError | None, reply: Reply) -> bool:
        """Queue a reply; return whether it must be sent at once (RFC 2920 3.2 (5), (6)) or may wait for others."""
        self.protocol.send_reply(reply)
        if self.log.debug:
            self.log.reply(command)
        return not (isinstance(command, Command) and command.groupable)

    async def refuse(self, bad: BadCommandError) -> None:
        """Reply to a command that the core refuses."""
        reply = bad.reply
        if bad.verb == "DATA":
            self.hooks.disarm()
            await self.wire.receive_arrived()  # octets sent before the refusal are not commands
            self.hooks.restart_clock()  # between two chunks a data hook is running
            reply = self.protocol.checked_reply(reply)
        self.counts.commands += 1
        self.counts.errors += 1
        if bad.verb == AuthCommand.verb:
            reply = await refuse_auth(self, reply)
        if reply is PROXY_HEADER:
            self.log.unexpected_proxy_header()
            self.protocol.send_reply(reply)  # which sends nothing
            return
        self.log.refusal(bad, reply, self.session.envelope)
        await self.answer(reply)

    def defer(self, command: Command) -> None:
        """Carry out this command next, before others are received."""
        self._deferred = command
