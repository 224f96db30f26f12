"""One session with one client: one task, which pulls commands from the core and awaits the application's hooks.

The order of things in `Session._command` is that of the design: the core has judged the line and its place already, so a hook sees
only what is in order. The answer moves the state of the protocol before anything goes over the network.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import trio

from . import _received
from ._body import Body
from ._hooks import NOWHERE
from ._note import Note
from ._values import Envelope, MessageState, Peer, TlsInfo
from ._wire import Wire
from .protocol import (
    CONNECTION_LOST,
    NEED_DATA,
    BadCommand,
    BodyError,
    Command,
    Connect,
    CountedCommand,
    Data,
    Ehlo,
    EndOfBody,
    Expn,
    Hello,
    Helo,
    Help,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Reply,
    Rset,
    ServerProtocol,
    Vrfy,
)
from .protocol.commands import ANYTIME
from .protocol.extension import Step
from .protocol.extensions.auth import FAILED, TRY_LATER, AuthCommand, AuthResponse
from .protocol.extensions.chunking import Bdat, BdatLast
from .protocol.extensions.starttls import StartTlsCommand
from .protocol.replies import LOCAL_ERROR

if TYPE_CHECKING:
    from ._server import Server

log = logging.getLogger("smtp_trio.session")
messages = logging.getLogger("smtp_trio.message")

#: Seconds for the reply to a message that was taken: it goes out even while the session is being cancelled.
REPLY = 5

#: Seconds that are nothing to a hook's deadline.
BLINK = 0.01

#: Verbs whose refusal by the core stands in the log of messages, as one by a hook does: there is mail that did not come.
NOTED = frozenset({"MAIL", "RCPT", "DATA", "BDAT"})
#: Which hook a command has, besides `Hooks.message`.
HOOK: dict[type[Command], str] = {Mail: "mail", Rcpt: "rcpt", Vrfy: "vrfy", Expn: "expn", Help: "help"}
#: The hooks that run for every message.
FREQUENT = frozenset({"mail", "rcpt", "data"})
#: What `Hooks.message` may accept by itself: nothing that moves octets or opens a dialogue of its own.
MESSAGE_ACCEPTS = (Hello, Mail, Rcpt, Rset, Noop, Vrfy, Expn, Help)


class Session:
    """A client's session, as hooks see it. ``context`` is a dict that is yours for as long as it lasts."""

    def __init__(self, server: Server, stream: trio.abc.Stream, peer: Peer, local: Peer) -> None:
        self.server = server
        self.id = server.token(10).hex()
        self.peer, self.local = peer, local
        self.context: dict[Any, Any] = {}
        #: What became of the last message; None while there was none.
        self.last_message: MessageState | None = None
        self.protocol: ServerProtocol = server.new_protocol()
        self.wire = Wire(stream, self.protocol, server.timeouts.write)
        self.tls: TlsInfo | None = None
        #: Nothing more will be heard.
        self.over = False
        #: It waits for the peer with nothing under way: `Server.stop` may say goodbye at once.
        self.idle = False
        self.woken = False
        self.connected = False
        # Around everything that is done for the client: its deadline is the client's, or that of the hook which runs.
        self._scope = trio.CancelScope()
        self._patience = math.inf  # when the peer has been silent for too long
        self._running: tuple[str, Reply] | None = None  # the hook that the scope's deadline is for, and what comes of being late
        self._body: Body | None = None  # the message under way
        self._hook_scope: trio.CancelScope | None = None
        self._hooks = server.installed
        # Looked up for every command, so looked up once.
        self._consults, self._tells = "message" in self._hooks, "response" in self._hooks
        self._debug = log.isEnabledFor(logging.DEBUG)
        self._settled: Reply | None = None
        self._deciding: Command | None = None  # what the running hook may answer
        self._transactions = 0
        self._transaction: dict[Any, Any] = {}
        self._next: Command | None = None
        self._failures = 0  # of AUTH
        self._silent = False

    # --- what hooks may ask ----------------------------------------------------------------------------------------

    @property
    def stream(self) -> trio.abc.Stream:
        """The Trio stream, inside TLS when there is TLS. Whoever reads or writes here breaks the protocol."""
        return self.wire.stream

    @property
    def hello(self) -> Hello | None:
        """The last accepted HELO or EHLO."""
        return self.protocol.facts.hello

    @property
    def user(self) -> str | None:
        """Who the client proved to be (RFC 4954), or None."""
        return self.protocol.facts.user

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
        facts = self.protocol.facts
        mail = facts.mail
        if mail is None:
            pending = self.protocol.pending
            if not isinstance(pending, Mail):
                return None
            mail = pending
        return Envelope(f"{self.id}-{self._transactions}", mail, tuple(facts.rcpts), self._transaction)

    @property
    def protocol_name(self) -> str:
        """How the client speaks to us, by the names of RFC 3848: ``ESMTPSA``, say."""
        return _received.with_type(self)

    def received(self) -> bytes:
        """The ``Received:`` field for the message under way, with its CRLF (RFC 5321 4.4)."""
        return _received.received(self)

    def success(self, text: str | None = None) -> None:
        """Answer the command under way with its usual reply, in other words if given. It leaves when the hook ends."""
        usual = self._usual(self._may_settle())
        self._settle(usual if text is None else Reply(usual.code, text, usual.status))

    def failure(self, code: int, text: str, status: str | None = None) -> None:
        """Refuse the command under way. Raises ValueError for a code that is no refusal."""
        if not 400 <= code <= 599:
            raise ValueError(f"{code} is no refusal: 4yz or 5yz is")
        self._settle(Reply(code, text, status))

    def send(self, code: int, text: str, status: str | None = None) -> None:
        """Answer the command under way with any code that it may have."""
        self._settle(Reply(code, text, status))

    def _may_settle(self) -> Command:
        if self._deciding is None:
            raise RuntimeError("there is no command to answer here")
        return self._deciding

    def _settle(self, reply: Reply) -> None:
        command = self._may_settle()
        if self._settled is not None:
            raise RuntimeError(f"{command.verb} was answered twice: {self._settled} and {reply}")
        self._settled = reply

    def _usual(self, command: Command) -> Reply:
        if self._body is not None and isinstance(command, EndOfBody | CountedCommand | Data):
            return queued(self._body.envelope)
        return self.protocol.usual(command)

    # --- the session's task -----------------------------------------------------------------------------------------

    async def run(self, *, implicit_tls: bool) -> None:
        """The whole session, but for its end."""
        while not self.over:
            error: Exception | None = None
            try:
                with trio.CancelScope(deadline=self._patience) as self._scope:
                    await self._begin(implicit_tls=implicit_tls)
                    while not self.over:
                        await self._turn()
                    await self.flush()
            except Exception as exc:
                if self._running is None or not self._scope.cancelled_caught:
                    raise
                error = exc  # of a hook that was cancelled for being late
            if not self._scope.cancelled_caught:
                continue
            if self._running is not None:
                await self._cut_off(*self._running, error)
            elif self.server.stopping or trio.current_time() >= self._patience:
                await self._say_goodbye()

    async def _begin(self, *, implicit_tls: bool) -> None:
        if self.connected or (implicit_tls and not await self._start_tls()):
            return
        if isinstance(self.stream, trio.SSLStream):
            self.tls = TlsInfo.of(self.stream)
            self.protocol.facts.secure = True
        self.connected = True
        await self._greet()

    async def _greet(self) -> None:
        command = self.protocol.next_event()
        assert isinstance(command, Connect)
        name = self.server.name
        failure = Reply(421, f"{name} Local error in processing; closing the connection", "")
        reply = await self._call("connect", decides=command, failure=failure)
        if self.tls is not None:
            await self._call("secured")
        if reply is not None and reply.code == 220:
            reply = Reply(220, f"{name} ESMTP {reply.text}", "")  # RFC 5321 4.2: the domain stands first
        await self.answer(reply or self.protocol.usual(command))

    async def _turn(self) -> None:
        """One command, from its arrival to its answer."""
        command, self._next = self._next, None
        if command is None:
            try:
                command = await self._receive_command()
            except BadCommand as bad:
                await self.refuse(bad)
                return
            if command is None:
                return
        handler = HANDLERS.get(type(command), Session._command)
        await handler(self, command)

    async def _receive_command(self) -> Command | None:
        """The next command. Replies leave before we wait for it: never wait for input while output is owed (RFC 2920 3.2 (7))."""
        protocol, scope = self.protocol, self._scope
        resumed, self.idle = self.idle, False  # a deadline passed that was an earlier command's: the wait for this one goes on
        if not resumed:
            self._patience = math.inf
        event = protocol.next_event()
        if event is NEED_DATA:
            if rest := self.wire.flush_now():
                await self._send(rest)
            if self.wire.broken:
                self.over = True
                return None
            if await self.wire.receive_now():
                event = protocol.next_event()
        if event is NEED_DATA:
            if not resumed:
                # One deadline for the whole command: octets without an end of line win nobody time.
                self._patience = trio.current_time() + self.server.timeouts.command
            if scope.deadline > self._patience:
                scope.deadline = self._patience
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
        return event

    def _disarm(self) -> None:
        """Whatever comes now is not the peer's silence.

        Moving a scope's deadline costs as much as parsing a command does. So between commands that are answered at once the scope
        keeps the deadline of an earlier one. When that passes, `run` sees from ``_patience`` that it was not meant, and goes on.
        """
        if self._scope.deadline != math.inf:
            self._scope.deadline = math.inf

    async def flush(self) -> None:
        """Send what is owed. When that cannot be done, the session is over: nobody can be answered any more."""
        if rest := self.wire.flush_now():
            await self._send(rest)
        if self.wire.broken:
            self.over = True

    async def _send(self, rest: bytes | memoryview) -> None:
        """Send what the kernel would not take at once."""
        self._disarm()
        began = trio.current_time()
        self.stop_hook_clock(began, self.server.timeouts.write)
        try:
            await self.wire.send(rest)
        finally:
            self.start_hook_clock(trio.current_time() - began)

    async def _say_goodbye(self) -> None:
        """The idle scope was cancelled: by its own deadline or by `Server.stop`."""
        self.idle = False
        name = self.server.name
        if self.server.stopping:
            await self.leave(Reply(421, f"{name} Server is shutting down", "4.3.2"))
        else:
            await self.timed_out()

    async def timed_out(self) -> None:
        """The peer was silent for too long: tell the hook, and then the peer (RFC 5321 4.5.3.2.7)."""
        self.over = True
        await self._call("timeout")
        await self.leave(Reply(421, f"{self.server.name} Timeout: closing the connection", "4.4.2"))

    async def leave(self, reply: Reply) -> None:
        """Say 421 without having been asked, and hear nothing more."""
        self.over = True
        await self._call("response", reply)
        self.protocol.close(reply)
        await self.flush()

    def wake(self) -> None:
        """`Server.stop`: wait for the peer no longer. Only for an idle session; a hook must not be cut off by this."""
        self.woken = True
        self._scope.cancel()

    async def end(self) -> None:
        """The session's last hooks, when all else is over."""
        lost = self.protocol.facts.mail is not None
        for name in ("reset", "disconnect") if lost else ("disconnect",):
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.server.timeouts.disconnect):
                await self._call(name)

    def last_words(self) -> None:
        """We are being cancelled: say so if that needs no waiting (RFC 5321 3.8)."""
        if not self.over:
            self.over = True
            self.protocol.close(Reply(421, f"{self.server.name} Server is shutting down", "4.3.2"))
            self.wire.flush_now()

    # --- commands ---------------------------------------------------------------------------------------------------

    async def _command(self, command: Command) -> None:
        """A command with no course of its own: `Hooks.message`, then its hook, then the answer."""
        if type(command) is Mail:
            self._transactions += 1
            self._transaction = {}
        reply = await self.consult(command) if self._consults else None
        if reply is None:
            name = HOOK.get(type(command))
            if name in self._hooks:
                reply = await self._call(name, command, decides=command)
        if reply is not None and reply.refused and isinstance(command, Mail | Rcpt):
            self.note(command, reply, self.envelope)
        await self.answer(reply or self.protocol.usual(command))

    async def _hello(self, hello: Command) -> None:
        lost = self.protocol.facts.mail is not None
        reply = await self.consult(hello)
        if reply is None and "helo" in self._hooks:
            reply = await self._call("helo", hello, decides=hello)
        usual = self.protocol.usual(hello)
        if reply is not None and reply.code == 250:
            # RFC 5321 4.1.1.1: the words stand behind the domain in the first line; what is on offer is not the hook's to say.
            first, _, rest = usual.text.partition("\n")
            reply = Reply(250, f"{first} {reply.text}\n{rest}".rstrip("\n"), "")
        reply = reply or usual
        await self.answer(reply)
        if lost and reply.accepted:  # RFC 5321 4.1.4: as if RSET had been said
            await self._call("reset")

    async def _rset(self, command: Command) -> None:
        reply = await self.consult(command) or self.protocol.usual(command)
        await self.answer(reply)
        if reply.accepted:
            await self._call("reset")

    async def _quit(self, command: Command) -> None:
        reply = await self.consult(command) or self.protocol.usual(command)
        self.over = reply.accepted
        await self.answer(reply)

    async def _starttls(self, command: Command) -> None:
        refusal = await self.consult(command)
        if refusal is not None:
            await self.answer(refusal)
            return
        assert isinstance(command, StartTlsCommand)
        for step in command.talk():
            if isinstance(step, Reply):
                await self.answer(step)
            elif step is Step.UPGRADE and not self.over:
                if await self._start_tls():
                    await self._call("secured")

    async def _start_tls(self) -> bool:
        """Shake hands. When that fails there is nobody left to talk to: the session is over."""
        context = self.server.tls
        assert context is not None
        self._disarm()
        self.idle = True
        try:
            stream = await self.wire.start_tls(context, self.server.timeouts.tls)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as exc:
            log.info("%s: TLS handshake failed: %s", self.id, exc.__cause__ or type(exc).__name__)
            self.over = True
            return False
        self.idle = False
        self.tls = TlsInfo.of(stream)
        if self.connected:
            self.protocol.secured()
        return True

    async def _auth(self, command: Command) -> None:
        """The exchange of RFC 4954 4: the mechanism asks, the client answers, and the hook judges the claim."""
        reply = await self.consult(command)
        if reply is None:
            assert isinstance(command, AuthCommand)
            talk = command.talk()
            line: Any = None  # a generator begins with this
            try:
                while True:
                    await self.answer(talk.send(line))
                    self._disarm()  # a deadline that is not meant would lose our place in the exchange
                    response = await self._receive_command()
                    if response is None:
                        return
                    assert isinstance(response, AuthResponse)
                    line = response.line
            except BadCommand as bad:
                reply = bad.reply
            except StopIteration as done:
                credentials = done.value
                reply = await self._call("auth", credentials, decides=command, failure=TRY_LATER)
                if reply is None or reply.accepted:
                    self.protocol.authenticated(credentials.user)
        if reply is not None and reply.code == FAILED.code:
            self._failures += 1
            if self._failures >= self.server.limits.auth_failures:
                name = self.server.name
                reply = Reply(421, f"{name} Too many authentication failures; closing the connection", "4.7.0")
        await self.answer(reply or command.usual)

    async def _message(self, command: Command) -> None:
        """DATA, or the first BDAT: the message, from here to its answer."""
        envelope = self.envelope
        assert envelope is not None
        self._body = body = Body(self, command, envelope)
        self.last_message = MessageState.NOT_TAKEN
        reply = await self.consult(command) if self._consults else None
        if reply is None:
            reply = await self._call("data", body, decides=command, failure=LOCAL_ERROR)
        await self._conclude(body, reply or queued(envelope))
        if self._scope.cancel_called:  # the hook was late, but had all of the message: what comes next gets a scope of its own
            self._patience = math.inf
            await trio.lowlevel.checkpoint()

    async def _conclude(self, body: Body, reply: Reply) -> None:
        """The hook has decided on the message: take what is left of it, and answer."""
        if not body.due and (body.started or reply.accepted):
            self._disarm()
            await body.finish(keep=reply.accepted and body.error is None)
        self._body = None
        if body.interrupted is not None:
            self._next = body.interrupted
            return
        if self.over and not body.due:
            self.note(Data(), None, body.envelope, body)
            return
        if body.error is not None:
            reply = self.protocol.fault or body.error.reply or reply
        await self._verdict(reply, body)
        self.note(Data(), reply, body.envelope, body)

    async def _verdict(self, reply: Reply, body: Body) -> None:
        """Answer the message. Once it is taken, nothing comes between that and the 250 but this one write, which is shielded."""
        if reply.accepted:
            self.last_message = MessageState.UNACKNOWLEDGED
            self.server.counts.messages += 1
            self.server.counts.bytes += body.size
        else:
            self.server.counts.refused += 1
        if self._tells:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REPLY):
                await self._call("response", reply)
        self.protocol.send(reply)
        if rest := self.wire.flush_now():
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REPLY):
                await self.wire.send(rest)
        if reply.code == 421:
            self.over = True
        if reply.accepted and not self.wire.broken:
            self.last_message = MessageState.ACKNOWLEDGED

    # --- answers ----------------------------------------------------------------------------------------------------

    async def answer(self, reply: Reply) -> None:
        """Give this answer to the pending command."""
        command = self.protocol.pending
        try:
            if self._tells:
                await self._call("response", reply)
        finally:  # a data hook that gives up on its pull must not leave a question open
            self.protocol.send(reply)
        if self._debug:
            # A line that is no command may be a password that came too late.
            log.debug("%s: %s -> %s", self.id, "?" if isinstance(command, BadCommand) else repr(command), reply)
        if reply.code == 421:
            self.over = True
        # RFC 2920 3.2 (5), (6): the answers to these are not held back for company.
        if isinstance(command, BadCommand) or not command.groupable:  # type: ignore[union-attr]
            await self.flush()

    def note(
        self, command: Command | BadCommand, reply: Reply | None, envelope: Envelope | None, body: Body | None = None
    ) -> None:
        """A line for the log of messages: what became of one, or of a command that would have led to one. None: no answer."""
        if messages.isEnabledFor(logging.INFO):
            size, seconds = (0, 0.0) if body is None else (body.size, trio.current_time() - body.began)
            note = Note.of(self, command, reply, envelope, size, seconds)
            messages.info("%s", note, extra={"note": note})

    async def refuse(self, bad: BadCommand) -> None:
        """Answer a command that the core refuses."""
        self.server.counts.commands += 1
        self.server.counts.errors += 1
        if bad.close:
            self.over = True
        if bad.verb in NOTED:
            self.note(bad, bad.reply, envelope=self.envelope)
        await self.answer(bad.reply)

    async def consult(self, command: Command) -> Reply | None:
        """Ask `Hooks.message`."""
        return await self._call("message", command, decides=command)

    def stop_hook_clock(self, now: float, wait: float) -> None:
        """The hook waits for the peer, which is not its fault. What cannot run out during that wait needs no stopping."""
        scope = self._hook_scope
        if scope is not None and scope.deadline - now <= wait:
            scope.deadline = math.inf

    def start_hook_clock(self, waited: float) -> None:
        """The hook works again, and its time begins anew; what it lost in the blink of an eye is not worth the trouble."""
        scope = self._hook_scope
        if scope is not None and (waited > BLINK or scope.deadline == math.inf):
            scope.deadline = trio.current_time() + self.server.timeouts.hook

    async def _call(
        self, name: str, *args: Any, decides: Command | None = None, failure: Reply = LOCAL_ERROR
    ) -> Reply | None:
        """Call a hook if somebody wrote it. Whatever goes wrong in it becomes ``failure``, and is told to the `error` hook."""
        hook = self._hooks.get(name)
        if hook is None:
            return HOOKLESS.get(name)
        outer = self._deciding, self._settled, self._hook_scope
        self._deciding, self._settled = decides, None
        limit = self.server.timeouts.hook
        frequent = name in FREQUENT and self._hook_scope is None
        try:
            if frequent:
                # A scope costs as much as all our work on a command. The session's own is at hand, so `run` sees to a late hook.
                self._running = name, failure
                self._hook_scope = self._scope
                self._scope.deadline = trio.current_time() + limit
                answer = await hook(self, *args)
            else:
                if self._running is None:
                    self._disarm()
                with trio.move_on_after(limit) as self._hook_scope:
                    answer = await hook(self, *args)
                if self._hook_scope.cancelled_caught:
                    raise self._late(name)
            result = None if decides is None else self._checked(name, decides, answer)
        except Exception as exc:
            if (bug := without_body_error(exc)) is not None:
                await self.server.report(bug, f"{self.id}: {name} hook failed")
            result = failure if decides is not None else None
        finally:
            self._deciding, self._settled, self._hook_scope = outer
        if frequent:
            if self._scope.cancel_called and not (self._body is not None and self._body.due):
                await trio.lowlevel.checkpoint()  # it was late, and has not noticed
            self._running = None
        return result

    def _late(self, name: str) -> trio.TooSlowError:
        return trio.TooSlowError(f"the {name} hook took more than {self.server.timeouts.hook} s")

    async def _cut_off(self, name: str, failure: Reply, error: Exception | None) -> None:
        """One of the frequent hooks was late, and the session's scope has ended it; perhaps it has raised an error over that."""
        self._running, self._patience = None, math.inf
        late = self._late(name)
        late.__cause__ = error
        await self.server.report(late, f"{self.id}: {name} hook failed")
        if self._body is not None:
            await self._conclude(self._body, failure)
        else:
            assert self.pending is not None
            self.note(self.pending, failure, self.envelope)
            await self.answer(failure)

    def _checked(self, name: str, command: Command, answer: Reply | None) -> Reply | None:
        """The hook's answer, if it is one that this command may get (RFC 5321 4.3.2)."""
        if self._settled is not None:
            if answer is not None:
                raise RuntimeError(f"the {name} hook settled {self._settled} and returned {answer} as well")
            answer = self._settled
        if answer is None:
            return None
        if not isinstance(answer, Reply):
            raise TypeError(f"the {name} hook returned {answer!r}; it must be a Reply or None")
        codes = EndOfBody.codes if isinstance(command, Data) else command.codes
        if answer.code not in codes and answer.code not in ANYTIME:
            raise ValueError(f"the {name} hook answered {command.verb} with {answer.code}, which that may not have")
        if name == "message" and answer.accepted and not isinstance(command, MESSAGE_ACCEPTS):
            raise ValueError(f"the message hook cannot accept {command.verb}")
        return answer


def without_body_error(exc: Exception) -> Exception | None:
    """What is left of an exception when `BodyError`, which is nobody's bug, is taken out of it."""
    if isinstance(exc, BodyError):
        return None
    if isinstance(exc, ExceptionGroup):
        return exc.split(BodyError)[1]
    return exc


def queued(envelope: Envelope) -> Reply:
    """The usual answer to a message that was taken: with the id that the log and the stores know it by."""
    return Reply(250, f"Ok: queued as {envelope.id}", "2.0.0")


#: What the default of a hook would say, where that is not None.
HOOKLESS: dict[str, Reply] = {"data": NOWHERE, "auth": FAILED}

HANDLERS: dict[type[Command], Callable[[Session, Any], Coroutine[Any, Any, None]]] = {
    StartTlsCommand: Session._starttls,
    AuthCommand: Session._auth,
    Rset: Session._rset,
    Quit: Session._quit,
    Data: Session._message,
    Bdat: Session._message,
    BdatLast: Session._message,
    Helo: Session._hello,
    Ehlo: Session._hello,
}
