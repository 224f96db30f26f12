"""The handlers of commands: one for each that needs more than a hook and a reply, and `default` for the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

from ..protocol import (
    Command,
    Connect,
    Mail,
    Rcpt,
    Reply,
)
from ..protocol.replies import LOCAL_ERROR
from .authentication import AuthSession, auth
from .transaction import Transaction

if TYPE_CHECKING:
    from ..protocol.extensions.xclient import XclientCommand
    from ..protocol.extensions.xforward import XforwardCommand

#: The reply in place of the greeting when the `connect` hook fails.
CONNECT_FAILED = Reply(421, "Local error in processing; closing the connection", "")
SENT_TOO_EARLY = Reply(554, "Data received after ATRN; closing the connection", "5.5.0")
TOO_MANY = Reply(421, "Too many connections; try again later", "")
SHUTTING_DOWN = Reply(421, "Server is shutting down", "4.3.2")


class HandlerSession(AuthSession, Protocol):
    """The part of a session's task that the handlers use."""

    connected: bool

    @property
    def server_name(self) -> str: ...
    @property
    def stopping(self) -> bool: ...
    @property
    def transaction(self) -> Transaction: ...
    async def start_tls(self) -> bool: ...
    async def report(self, hook: str, error: Exception) -> None: ...
    def change_client(self, command: XclientCommand) -> bool: ...


# The order of steps is the same in all handlers. The `message` hook is called first, since it may refuse any command,
# then the command's own hook; if neither replies, the reply is the core's default. `SessionTask.answer` changes the
# state of the dialogue. Steps that depend on the new state, such as the `reset` hook, come after it, if the command was
# accepted.


async def greet(session: HandlerSession) -> None:
    """Send the greeting, which is the reply to the connection itself (RFC 5321 3.1)."""
    command = session.protocol.next_event()
    assert isinstance(command, Connect)
    reply = await _connect(session, command)
    if session.protocol.state.secure:
        await session.hooks.call("secured", session.session)
    await _answer_connect(session, reply)


async def _connect(session: HandlerSession, command: Command) -> Reply:
    """Call the `connect` hook; return the greeting."""
    default = session.protocol.default_reply(command)
    if "connect" not in session.hooks.installed:
        return default
    reply = await session.hooks.call("connect", session.session, command=command, failure=CONNECT_FAILED)
    if reply is not None and reply.code == 220:
        reply = Reply(220, f"{default.text} {reply.text}", "")  # RFC 5321 4.2: the domain comes first
    return reply or default


async def _answer_connect(session: HandlerSession, reply: Reply) -> None:
    if reply.refused:
        session.log.connection_refused(reply)
    await session.answer(reply)
    if reply.code == 521:  # RFC 7504 3: this host never accepts mail, and the connection may be closed at once
        session.end_dialogue()


async def hello(session: HandlerSession, command: Command) -> None:
    """Answer HELO, EHLO or LHLO. The hooks may refuse it, or add text to the first line of the reply."""
    had_transaction = session.protocol.state.mail is not None
    reply = await session.call_message_hook(command)
    if reply is None and "helo" in session.hooks.installed:
        reply = await session.hooks.call("helo", session.session, command, command=command)
    default = session.protocol.default_reply(command)
    if reply is not None and reply.code == 250:
        # RFC 5321 4.1.1.1: the text follows the domain in the first line. The other lines list what the core
        # implements.
        first, _, rest = default.text.partition("\n")
        reply = Reply(250, f"{first} {reply.text}\n{rest}".rstrip("\n"), "")
    reply = reply or default
    await session.answer(reply)
    if had_transaction and reply.accepted:  # RFC 5321 4.1.4: EHLO clears the transaction as RSET does
        await session.hooks.call("reset", session.session)


async def rset(session: HandlerSession, command: Command) -> None:
    """Abort the transaction for RSET (RFC 5321 4.1.1.5), then call the `reset` hook."""
    reply = await session.call_message_hook(command) or session.protocol.default_reply(command)
    await session.answer(reply)
    if reply.accepted and "reset" in session.hooks.installed:
        await session.flush()  # otherwise a client that waits for the reply would wait for the hook too
        await session.hooks.call("reset", session.session)


async def default(session: HandlerSession, command: Command) -> None:
    """Call the `message` hook and the command's hook, and send the reply: for commands without a handler of their own."""
    reply = await session.call_message_hook(command) if session.hooks.has_message else None
    name = command.hook
    if reply is None and name is not None and name in session.hooks.installed:
        reply = await session.hooks.call(name, session.session, command, command=command)
    if reply is not None and reply.refused and isinstance(command, Mail | Rcpt):
        session.log.refusal(command, reply, session.transaction.envelope(session.protocol))
    await session.answer(reply or session.protocol.default_reply(command))


async def starttls(session: HandlerSession, command: Command) -> None:
    """Answer STARTTLS with 220, make the TLS handshake, and call the `secured` hook.

    The core then forgets what the client sent (RFC 3207 4.2).
    """
    refusal = await session.call_message_hook(command)
    if refusal is not None:
        await session.answer(refusal)
        return
    if session.stopping:  # a new handshake and EHLO would only delay the end
        await session.answer(SHUTTING_DOWN)
        return
    await session.answer(command.default_reply)
    if not session.over and await session.start_tls():
        session.protocol.tls_started()
        await session.hooks.call("secured", session.session)


async def atrn(session: HandlerSession, command: Command) -> None:
    """Answer ATRN. After a 250 the function of the hook runs on the connection, and then the session is over."""
    hooks = session.hooks
    hooks.successor = None
    reply = await session.call_message_hook(command)
    reply = reply or await hooks.call("atrn", session.session, command, command=command)
    reply = reply or session.protocol.default_reply(command)
    function = hooks.successor
    if reply.accepted and function is None:
        await session.report("atrn", RuntimeError("ATRN was accepted without a call of Session.take_over"))
        reply = LOCAL_ERROR
    if reply.accepted and session.protocol.buffered:
        reply = SENT_TOO_EARLY
    await session.answer(reply)
    if reply is SENT_TOO_EARLY:
        session.end_dialogue()
    if not reply.accepted or function is None or session.over:
        return
    session.end_dialogue()  # also for a server that stops: the peer does not expect a reply
    hooks.disarm()
    try:
        await function(session.wire.stream)
    except Exception as error:
        await session.report("atrn", error)


async def xclient(session: HandlerSession, command: XclientCommand) -> None:
    """Begin the session anew for the client that a proxy has named: for the hooks, one ends and another begins."""
    refusal = await session.call_message_hook(command)
    if refusal is not None:
        await session.answer(refusal)
        return
    session.connected = False
    await session.hooks.call("disconnect", session.session)
    if not session.change_client(command):
        await session.answer(TOO_MANY)
        return
    session.connected = True
    await _answer_connect(session, await _connect(session, command))


async def xforward(session: HandlerSession, command: XforwardCommand) -> None:
    """Answer XFORWARD, and log what it states."""
    reply = await session.call_message_hook(command) or command.default_reply
    await session.answer(reply)
    if reply.accepted:
        session.log.forwarded(command.attributes)


def message(session: HandlerSession, command: Command) -> Awaitable[None]:
    """DATA or the first BDAT: receive the message."""
    return session.transaction.receive(session, command)


Handler = Callable[[HandlerSession, Any], Awaitable[None]]
#: The handlers of the commands that `default` is not for, by verb, so that the classes of those that a server does not offer
#: are not imported. QUIT needs none: its reply closes the dialogue.
BY_VERB: dict[str, Handler] = {
    "EHLO": hello,
    "HELO": hello,
    "LHLO": hello,
    "RSET": rset,
    "STARTTLS": starttls,
    "XCLIENT": xclient,
    "XFORWARD": xforward,
    "AUTH": auth,
    "ATRN": atrn,
    "DATA": message,
    "BDAT": message,
    "BURL": message,
}


class Handlers(dict[type[Command], Handler]):
    """The handlers by the class of the command. Classes of an application have `default`, even with a verb of the table."""

    def __missing__(self, kind: type[Command]) -> Handler:
        own = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
        handler = self[kind] = BY_VERB.get(kind.verb, default) if own else default
        return handler


HANDLERS = Handlers()
#: The hooks without which these handlers do no more than to send the default reply.
CALLED: dict[Handler, frozenset[str]] = {hello: frozenset({"helo", "reset"}), rset: frozenset({"reset"})}


def needs_handler(command: type[Command], hooks: Collection[str]) -> bool:
    """Return whether more has to be done for a command than to send the default reply, with these hooks of commands."""
    handler = HANDLERS[command]
    called = {command.hook} if handler is default else CALLED.get(handler)
    return called is None or not called.isdisjoint(hooks)
