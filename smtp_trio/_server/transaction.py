"""`Transaction`: the mail transactions of a session. It receives each message, from DATA or BDAT to its reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import trio

from .._types import Envelope, MessageState
from ..protocol import Command, Data, Mail, Reply, ServerProtocol
from ..protocol.replies import LOCAL_ERROR, START_MAIL_INPUT
from .body import Body
from .body_reader import BodyReader, BodySession
from .log_events import LINE_ENDS_REPLACED
from .recipient_replies import queued, summary
from .session_log import SessionLog

#: Seconds that sending the reply to an accepted message may take, shielded from cancellation.
REPLY_TIMEOUT = 5


class TransactionSession(BodySession, Protocol):
    """The part of a session's task that a `Transaction` uses."""

    @property
    def session(self) -> object: ...
    @property
    def log(self) -> SessionLog: ...
    @property
    def expires(self) -> float: ...
    async def renew_scope(self) -> None: ...
    async def expire(self) -> None: ...
    def shielded(self, deadline: float) -> trio.CancelScope: ...
    def defer(self, command: Command) -> None: ...


class Transaction:
    """The mail transaction under way (RFC 5321 3.3), and the state of the last message.

    One object serves a whole session.
    """

    __slots__ = ("_context", "_number", "_session_id", "body", "last_message")

    def __init__(self, session_id: str) -> None:
        #: The message that is being received, or None.
        self.body: BodyReader | None = None
        #: The state of the last message; None before the first.
        self.last_message: MessageState | None = None
        self._session_id = session_id
        self._number = 0
        self._context: dict[Any, Any] = {}

    def begin(self) -> None:
        """Begin the next transaction: MAIL was received."""
        self._number += 1
        self._context = {}

    def envelope(self, protocol: ServerProtocol) -> Envelope | None:
        """Return the envelope of the open transaction, or of the one that the pending MAIL would open, or None."""
        # A store asks three times. Another object each time would be 4 % of the instructions of a message.
        if self.body is not None:
            return self.body.envelope
        mail = protocol.state.mail
        if mail is None:
            if not isinstance(protocol.pending, Mail):
                return None
            mail = protocol.pending
        return Envelope(f"{self._session_id}-{self._number}", mail, tuple(protocol.state.rcpts), self._context)

    # --- one message ------------------------------------------------------------------------------------------------
    #
    # `receive` begins when the core has accepted the syntax and the order of DATA, or of the first BDAT. It calls the
    # `message` and `data` hooks and makes sure that the message gets exactly one reply, whatever the hook did:
    #
    # * The hook read the message to its end: its reply is sent.
    # * The hook refused the message before its first read: after DATA the refusal is sent in place of the 354, and
    #   nothing was transferred.
    # * The hook refused later, raised or was late: the client is in the middle of the message and will not read a reply
    #   before its end (RFC 5321 4.1.1.4), or may be sending further chunks (RFC 3030 2). `conclude` drops the rest and
    #   then sends the refusal.
    # * The hook accepted a message that it had not read to its end. The rest is unknown, so this is an error in the
    #   hook: 451.
    # * The message itself cannot be accepted: too long, bare CR or LF, a refused chunk. The reply for this replaces the
    #   hook's reply.
    # * RSET, EHLO or QUIT came between two chunks. The command itself is the end of the message, so the message has no
    #   reply; the command is deferred until the hook has returned.
    # * In LMTP, the hook has replied for some recipients (`answer_recipient`): what follows is for the others.
    # * The connection was lost: no reply; the mail log has a record of it.
    #
    # The state of the message moves only forward. NOT_TAKEN holds until the hook has returned with an acceptance. From
    # there to the call of `send_reply` there is no checkpoint (unless there is a `response` hook, which is shielded),
    # so a cancellation cannot come between the moment when the application has accepted the message and the moment when
    # its reply is sent. During this time the state is UNACKNOWLEDGED; it becomes ACKNOWLEDGED when the whole reply was
    # passed to the stream. If sending fails, UNACKNOWLEDGED remains, and the application knows that the client may send
    # the message again (RFC 1047).
    #
    # With BDAT the whole message may be in one group with MAIL and RCPT (RFC 3030 4.2), whose replies are held back at
    # that time. A client has a timer for each of them (RFC 5321 4.5.3.2), which may be shorter than the time that the
    # hook takes, so they are sent before the session waits for anything. If the hook does not wait, they share the
    # write of the reply to the message. A stream that cannot be written without waiting gets them before the hook.
    #
    # A client waits two minutes for the reply to DATA, and often not much longer for that to a chunk, so the `message`
    # and the `data` hook share the time of one hook. It waits ten minutes for the reply to a message, and less for all
    # others (RFC 5321 4.5.3.2). So when the hook has read the message and waits, it may take `Timeouts.end` seconds,
    # which count from its last wait for the client: all that it has read since then may have been sent at that time.
    #
    # The kernel nearly always accepts the reply at once. When it does not, a cancellation could interrupt the write;
    # so that write, and the `response` hook, are shielded, for REPLY_TIMEOUT seconds at most: long enough for a peer
    # that reads, short enough for a server that has to stop. The hook may use half of the time.

    async def receive(self, session: TransactionSession, command: Command) -> None:
        """Receive one message, from DATA or the first BDAT to its reply."""
        if not isinstance(command, Data) and (session.hooks.has_message or not session.wire.quick):
            await session.flush()
            # Without this, the cancellation sweeps of `smtp_trio.testing` would not reach a hook that waits once: the
            # step of the task in which it begins would begin with a checkpoint that raises Cancelled.
            await trio.lowlevel.cancel_shielded_checkpoint()
        envelope = self.envelope(session.protocol)
        assert envelope is not None
        self.body = body = BodyReader(session, command, envelope)
        self.last_message = MessageState.NOT_TAKEN
        reply = await session.call_message_hook(command) if session.hooks.has_message else None
        if reply is None:
            try:
                reply = await session.hooks.call(
                    "data",
                    session.session,
                    Body(body),
                    command=command,
                    failure=LOCAL_ERROR,
                    observer=body,
                    since=body.began,
                )
            finally:  # also when the hook was late: `SessionTask.run` then calls `conclude`
                body.close()
        if reply is None and body.early is not None and body.early.missing:
            reply = await session.hooks.report_missing_replies(body.early.missing)
        reply = reply or queued(envelope)
        if body.complete and reply.accepted:
            self.body = None
            await self._send_reply(session, reply, body, body.replies)
        elif reply.accepted and body.error is None:  # the hook has not read all of the message
            await session.hooks.report_early_return()
            await self.conclude(session, LOCAL_ERROR)
        else:
            await self.conclude(session, reply, body.replies)
        if session.hooks.overdue:  # the hook was late, but it had read the whole message, so its reply was sent
            await session.renew_scope()
        if body.began >= session.expires and not session.over:  # the client never makes the session wait for a command
            await session.expire()

    async def conclude(self, session: TransactionSession, reply: Reply, replies: Sequence[Reply] = ()) -> None:
        """Drop what is left of the message that is being received, and send its reply.

        ``replies`` are those of a hook that returned one for each recipient (see recipient_replies.py). They answer the
        end of a message, so a client that waits for the 354 has to send it.
        """
        body = self.body
        assert body is not None
        if replies and not body.started:
            body.started = True
            await session.answer(START_MAIL_INPUT)
        if body.started and not body.due:
            session.hooks.disarm()
            await body.drain()
        self.body = None
        if body.interrupted is not None:
            session.defer(body.interrupted)
        if body.interrupted is not None or body.refused or (session.over and not body.due):
            session.log.cut_off(body)
            return
        if body.error is not None:
            reply, replies = session.protocol.fault or body.error.reply or reply, ()
        elif not body.started:
            session.hooks.disarm()
            await session.wire.receive_arrived()  # octets sent before the refusal are not commands
            reply = session.protocol.checked_reply(reply)
        await self._send_reply(session, reply, body, replies)

    async def answer_recipient(self, session: TransactionSession, reply: Reply) -> None:
        """Send the reply to the message for the next recipient, while others are due. See above for the shields.

        The client may act on it at once, so from here on the message counts as accepted if the reply is positive.
        """
        began = session.hooks.now()
        if session.hooks.has_response:
            with session.shielded(began + REPLY_TIMEOUT / 2):
                await session.hooks.call("response", session.session, reply)
        if reply.accepted:
            self.last_message = MessageState.UNACKNOWLEDGED
        command = session.protocol.pending
        session.protocol.send_recipient_reply(reply)
        if session.log.debug:
            session.log.reply(command)
        if rest := session.wire.flush_now():
            with session.shielded(began + REPLY_TIMEOUT):
                await session.wire.send(rest)
        if reply.accepted and not session.wire.broken:
            self.last_message = MessageState.ACKNOWLEDGED

    def abandon(self, log: SessionLog, body: BodyReader) -> None:
        """Log the message of a session that ends without a reply to it, or without those for some recipients."""
        if body.early is not None and body.early.sent:
            log.message(body, summary(body.early.sent), body.early.sent)
        else:
            log.cut_off(body)

    async def _send_reply(
        self, session: TransactionSession, reply: Reply, body: BodyReader, replies: Sequence[Reply]
    ) -> None:
        """Send the reply to the message, or those in ``replies``, and keep its state. See above for the shields."""
        logged = replies
        if (early := body.early) is not None:
            if reply.code != 421 or not early.missing:
                replies = early.rest(reply, replies)
            logged = [*early.sent, *(replies or [reply] * early.missing)]
        outcome = summary(logged) if logged else reply
        if outcome.accepted:
            self.last_message = MessageState.UNACKNOWLEDGED
            inspector = session.protocol.inspector
            if inspector is not None and inspector.repaired:
                LINE_ENDS_REPLACED.log(id=body.envelope.id, peer=session.log.peer)
        began = session.hooks.now()
        if session.hooks.has_response:
            with session.shielded(began + REPLY_TIMEOUT / 2):
                for each in replies or (reply,) * session.protocol.replies_due:
                    await session.hooks.call("response", session.session, each)
            if not body.started:
                await session.wire.receive_arrived()  # octets sent during the hook are not commands either
        session.log.message(body, outcome if outcome.accepted else session.protocol.checked_reply(outcome), logged)
        command = session.protocol.pending
        session.protocol.send_reply(replies or reply)
        if session.log.debug:
            session.log.reply(command)
        if rest := session.wire.flush_now():
            with session.shielded(began + REPLY_TIMEOUT):
                await session.wire.send(rest)
        if outcome.accepted and not session.wire.broken:
            self.last_message = MessageState.ACKNOWLEDGED
