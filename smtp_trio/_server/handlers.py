"""What is done about each command: its course, from the moment the core hands it over to the moment it is answered.

Most have none of their own: a hook is asked, and the answer is given (`Session.run`). The others are here, in one function each.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from .._types import MessageState, TlsInfo
from ..protocol import (
    BadCommandError,
    Command,
    Connect,
    Data,
    Ehlo,
    Helo,
    Quit,
    Reply,
    Rset,
)
from ..protocol.extensions.auth import CANCELLED, TRY_LATER, AuthCommand, AuthResponse, Credentials
from ..protocol.extensions.chunking import Bdat, BdatLast
from ..protocol.extensions.starttls import StartTlsCommand
from ..protocol.replies import LOCAL_ERROR
from ..protocol.sasl import SecretRequest
from .body import Body

if TYPE_CHECKING:
    from .._types import Envelope
    from .session import Session

log = logging.getLogger("smtp_trio.session")

#: Seconds for the reply to a message that was taken: it goes out even while the session is being cancelled.
REPLY = 5

#: In place of the greeting, when the `Hooks.connect` hook fails.
NO_GREETING = Reply(421, "Local error in processing; closing the connection", "")


async def greet(session: Session) -> None:
    """The client has connected: the greeting is the answer (RFC 5321 3.1)."""
    command = session.protocol.next_event()
    assert isinstance(command, Connect)
    reply = await session.call("connect", decides=command, failure=NO_GREETING)
    if session.tls is not None:
        await session.call("secured")
    if reply is not None and reply.code == 220:
        reply = Reply(220, f"{session.server.name} ESMTP {reply.text}", "")  # RFC 5321 4.2: the domain stands first
    reply = reply or session.protocol.default_reply(command)
    await session.answer(reply)
    if reply.code == 521:  # RFC 7504 3: this host never takes mail, so there is nothing to stay for
        session.over = True


async def hello(session: Session, command: Command) -> None:
    """HELO or EHLO: a new beginning, which a hook may put words to, or refuse."""
    lost = session.protocol.state.mail is not None
    reply = await session.consult(command)
    if reply is None and "helo" in session.hooks:
        reply = await session.call("helo", command, decides=command)
    usual = session.protocol.default_reply(command)
    if reply is not None and reply.code == 250:
        # RFC 5321 4.1.1.1: the words stand behind the domain in the first line; what is on offer is not the hook's to say.
        first, _, rest = usual.text.partition("\n")
        reply = Reply(250, f"{first} {reply.text}\n{rest}".rstrip("\n"), "")
    reply = reply or usual
    await session.answer(reply)
    if lost and reply.accepted:  # RFC 5321 4.1.4: as if RSET had been said
        await session.call("reset")


async def rset(session: Session, command: Command) -> None:
    """RSET: the transaction is forgotten, and the hook is told."""
    reply = await session.consult(command) or session.protocol.default_reply(command)
    await session.answer(reply)
    if reply.accepted:
        await session.call("reset")


async def quit_(session: Session, command: Command) -> None:
    """QUIT: the last command, unless a hook refuses it."""
    reply = await session.consult(command) or session.protocol.default_reply(command)
    session.over = reply.accepted
    await session.answer(reply)


async def starttls(session: Session, command: Command) -> None:
    """STARTTLS: yes, a handshake, and everything anew (RFC 3207 4.2)."""
    refusal = await session.consult(command)
    if refusal is not None:
        await session.answer(refusal)
        return
    if session.server.stopping:  # a new beginning would only hold up the end
        await session.answer(Reply(421, "Server is shutting down", "4.3.2"))
        return
    await session.answer(command.default_reply)
    if not session.over and await start_tls(session):
        await session.call("secured")


async def start_tls(session: Session) -> bool:
    """Shake hands. When that fails there is nobody left to talk to: the session is over."""
    context = session.server.tls
    assert context is not None
    session.disarm()
    session.idle = True
    if session.server.stopping:
        session.wake()
    try:
        stream = await session.wire.start_tls(context, session.server.timeouts.tls, server_side=True)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as exc:
        log.info("%s: TLS handshake failed: %s", session.id, exc.__cause__ or type(exc).__name__)
        session.over = True
        return False
    session.idle = False
    session.tls = TlsInfo.of(stream)
    if session.connected:
        session.protocol.secured()
    return True


async def auth(session: Session, command: Command) -> None:
    """The exchange of RFC 4954 4: the mechanism asks, and the client answers, or a hook does."""
    reply = await session.consult(command)
    if reply is None:
        assert isinstance(command, AuthCommand)
        talk = command.exchange(session.server.mechanism_context)
        answer: Any = None  # a generator begins with this
        try:
            while True:
                question = talk.send(answer)
                if isinstance(question, Credentials):
                    answer = await session.call("auth", question, decides=command, failure=TRY_LATER)
                elif isinstance(question, SecretRequest):
                    answer = await session.stored_secret(question.user, command.mechanism)
                else:
                    await session.answer(question)
                    session.disarm()  # a deadline that is not meant would lose our place in the exchange
                    response = await session.receive_command()
                    if response is None:
                        return
                    assert isinstance(response, AuthResponse)
                    answer = response.line
        except BadCommandError as bad:
            reply = bad.reply
            session.auth_failures += reply.permanent and reply != CANCELLED
        except StopIteration as done:
            session.protocol.authenticated(done.value.user)
            reply = done.value.reply
    if reply is not None and session.auth_failures >= session.server.limits.auth_failures:
        reply = Reply(421, "Too many authentication failures; closing the connection", "4.7.0")
    await session.answer(reply or command.default_reply)


async def message(session: Session, command: Command) -> None:
    """DATA, or the first BDAT: the message, from here to its answer."""
    envelope = session.envelope
    assert envelope is not None
    session.body = body = Body(session, command, envelope)
    session.last_message = MessageState.NOT_TAKEN
    reply = await session.consult(command)
    if reply is None:
        reply = await session.call("data", body, decides=command, failure=LOCAL_ERROR)
    reply = reply or queued(envelope)
    if body.complete and reply.accepted:  # as a rule, nothing is left of it
        session.body = None
        await verdict(session, reply, body)
        session.note(command, reply, envelope, body)
    else:
        await conclude(session, body, reply)
    if session.overdue:  # the hook was late, but had all of the message: what comes next gets a scope of its own
        session.overdue, session.patience = False, math.inf
        await trio.lowlevel.checkpoint()


async def conclude(session: Session, body: Body, reply: Reply) -> None:
    """The hook has decided on the message: take what is left of it, and answer."""
    if not body.due and (body.started or reply.accepted):
        session.disarm()
        await body.finish(keep=reply.accepted and body.error is None)
    session.body = None
    if body.interrupted is not None:
        session.deferred = body.interrupted
        return
    if session.over and not body.due:
        session.note(Data(), None, body.envelope, body)
        return
    if body.error is not None:
        reply = session.protocol.fault or body.error.reply or reply
    await verdict(session, reply, body)
    session.note(Data(), reply, body.envelope, body)


async def verdict(session: Session, reply: Reply, body: Body) -> None:
    """Answer the message. Once it is taken, nothing comes between that and the 250 but this one write, which is shielded."""
    if reply.accepted:
        session.last_message = MessageState.UNACKNOWLEDGED
        looked_at = session.protocol.body
        if looked_at is not None and looked_at.repaired:
            log.info("%s: bare CR or LF in the message was made CRLF", body.envelope.id)
        session.server.counts.messages += 1
        session.server.counts.bytes += body.size
    else:
        session.server.counts.refused += 1
    if session.tells:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + REPLY):
            await session.call("response", reply)
    session.protocol.send(reply)
    if rest := session.wire.flush_now():
        with trio.CancelScope(shield=True, deadline=trio.current_time() + REPLY):
            await session.wire.send(rest)
    if reply.code == 421:
        session.over = True
    if reply.accepted and not session.wire.broken:
        session.last_message = MessageState.ACKNOWLEDGED


def queued(envelope: Envelope) -> Reply:
    """The usual answer to a message that was taken: with the id that the log and the stores know it by."""
    return Reply(250, f"Ok: queued as {envelope.id}", "2.0.0")


COURSES: dict[type[Command], Callable[[Session, Any], Awaitable[None]]] = {
    Ehlo: hello,
    Helo: hello,
    Rset: rset,
    Quit: quit_,
    StartTlsCommand: starttls,
    AuthCommand: auth,
    Data: message,
    Bdat: message,
    BdatLast: message,
}
