"""Results of sending: one outcome for each recipient of a message, and the exceptions that a client raises."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from contextlib import suppress

import trio
from attrs import field, frozen

from .._timeouts import mention_threads
from .._types import TlsInfo
from ..protocol import Command, Rcpt, Reply, ReplyError, SMTPError


# Three outcomes
#
# A program that sends mail has to decide, for each recipient, whether it is done, must try again, or must return the
# message to its sender. So an outcome is one of three types, and a type checker sees a case that was forgotten:
#
# * Accepted: done. The server is responsible for the message.
# * Rejected: the message has to be tried again after a 4yz reply, and returned after a 5yz reply.
# * Unknown: the whole message was sent, and the connection was lost before the reply. Neither choice is right in every
#   case: another attempt may deliver the message twice, and giving up may lose it.
#
# A recipient without any outcome is the fourth case, which needs no type: sending ended before the message was sent, so
# that it was certainly not accepted. Only the results of a call that raised or was cancelled have such recipients.
@frozen
class Accepted:
    """The outcome for a recipient for which the server accepted the message.

    From then on the server is responsible for delivery or a bounce (RFC 5321 4.2.5). ``reply`` is its reply to the
    message.
    """

    recipient: str
    reply: Reply


@frozen
class Rejected:
    """The outcome for a recipient for which the server did not accept the message.

    ``command`` is the command that was refused (MAIL, RCPT, DATA, BDAT or the end of the message), ``reply`` the
    refusal. ``not_offered`` is true if the command was not sent, because the server does not offer what this recipient
    needs, SMTPUTF8 or the extension of a parameter; another server may.
    """

    recipient: str
    command: Command
    reply: Reply
    not_offered: bool = False

    @property
    def temporary(self) -> bool:
        """True if the message may be accepted later (RFC 5321 4.2.1, 4yz)."""
        # RFC 5321 4.5.3.1.10: 552 in reply to RCPT means "too many recipients" and SHOULD be treated as 452.
        return self.reply.temporary or (self.reply.code == 552 and isinstance(self.command, Rcpt))

    @property
    def permanent(self) -> bool:
        """True if another attempt will be refused too (RFC 5321 4.2.1, 5yz)."""
        return not self.temporary


@frozen
class Unknown:
    """The outcome for a recipient when the connection was lost between the end of the message and its reply (RFC 1047).

    The message may have been delivered. Neither ``temporary`` nor ``permanent`` is true: another attempt may deliver
    the message twice, and without one it may be lost.
    """

    recipient: str
    reason: str
    temporary: bool = field(default=False, init=False)
    permanent: bool = field(default=False, init=False)


Outcome = Accepted | Rejected | Unknown


@frozen
class Result:
    """The outcomes of one message, in the order in which the recipients were given.

    A recipient has no outcome if sending ended before the server replied for it; the message was not accepted for it
    then. ``tls`` describes the TLS connection that was used, and is None without TLS.

    ``relayed_without_dsn`` are accepted recipients whose ``rcpt_params`` had NOTIFY=SUCCESS, and whose server does not offer
    DSN, so that it will not report the delivery. The program that passes the message on has to send a report itself, with
    the action "relayed" (RFC 3461 5.2.2); see `smtp_trio.dsn`. They are also those of a message with BY for which RFC 2852
    4.1.4 requires such a report.
    """

    sender: str
    recipients: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    tls: TlsInfo | None = None
    relayed_without_dsn: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[Accepted, ...]:
        """The outcomes of the recipients for which the message was accepted."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Accepted))

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The outcomes of the recipients for which the message was rejected."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Rejected))

    @property
    def unknown(self) -> tuple[Unknown, ...]:
        """The outcomes of the recipients for which the message may or may not have been accepted."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Unknown))

    @property
    def not_sent(self) -> tuple[str, ...]:
        """The recipients that have no outcome: the message was certainly not accepted for them."""
        known = {outcome.recipient for outcome in self.outcomes}
        return tuple(name for name in self.recipients if name not in known)

    @property
    def complete(self) -> bool:
        """True if the message was accepted for every recipient."""
        return len(self.accepted) == len(self.recipients)


class PartialResult:
    """The outcomes of one message while it is being sent.

    This is the only place where they are stored: a transaction writes them here, and `Client.last_results` reads them,
    also after an error or a cancellation. It does not refer to the message, so that a long `Client.send_many` does not
    keep its messages in memory.
    """

    __slots__ = ("outcomes", "pending", "recipients", "sender", "sent", "tls", "unreported")

    def __init__(
        self,
        sender: str,
        recipients: Iterable[str],
        tls: TlsInfo | None,
        unreported: frozenset[str] = frozenset(),
    ) -> None:
        self.sender: str = sender
        self.recipients: tuple[str, ...] = tuple(recipients)
        self.tls: TlsInfo | None = tls
        #: The recipients for which a report is due if the message is accepted.
        self.unreported: frozenset[str] = unreported
        self.outcomes: dict[str, Outcome] = {}
        #: The recipients of the current transaction that have no outcome yet, in order (a dict with the value None).
        self.pending: dict[str, None] = {}
        #: True once the whole message was sent in the current transaction.
        self.sent: bool = False

    def begin(self, recipients: Iterable[str]) -> None:
        """Begin a transaction for ``recipients``; their outcomes of an earlier transaction no longer count."""
        self.pending, self.sent = dict.fromkeys(recipients), False
        for recipient in self.pending:
            self.outcomes.pop(recipient, None)

    def reject(self, outcome: Rejected) -> None:
        """Store the outcome of a recipient that is not sent."""
        self.outcomes[outcome.recipient] = outcome

    def decide(self, recipient: str, outcome: Outcome) -> None:
        """Store the outcome of a pending recipient."""
        self.outcomes[recipient] = outcome
        del self.pending[recipient]

    @property
    def accepted(self) -> bool:
        """True if the message was accepted for at least one recipient."""
        return any(isinstance(outcome, Accepted) for outcome in self.outcomes.values())

    @property
    def decided(self) -> bool:
        """True if every recipient has an outcome, so that what happens to the connection does not matter."""
        return len(self.outcomes) == len(self.recipients)

    @property
    def in_doubt(self) -> bool:
        """True if the whole message was sent and its reply is still to come (RFC 1047)."""
        return self.sent and bool(self.pending)

    def result(self) -> Result:
        """Return the outcomes so far. A pending recipient of a message that was sent is `Unknown`."""
        outcomes: list[Outcome] = []
        for recipient in self.recipients:
            if recipient in self.outcomes:
                outcomes.append(self.outcomes[recipient])
            elif self.sent and recipient in self.pending:
                outcomes.append(Unknown(recipient, "no reply to the message was received"))
        if not self.unreported:
            return Result(self.sender, self.recipients, tuple(outcomes), self.tls)
        relayed = [
            each.recipient for each in outcomes if each.recipient in self.unreported and isinstance(each, Accepted)
        ]
        return Result(self.sender, self.recipients, tuple(outcomes), self.tls, tuple(relayed))


class DeliveryRecord:
    """The outcomes known for the messages of a call, while it runs and after it has ended, also by a cancellation.

    Give an empty one as ``record`` to `Client.send`, `Pool.send`, `send` or a method of their kind. It is filled as
    replies arrive, and emptied when it is used for another call.
    """

    __slots__ = ("_partials",)

    def __init__(self) -> None:
        self._partials: list[PartialResult] = []

    @property
    def results(self) -> tuple[Result, ...]:
        """The result so far of each message that was begun."""
        return tuple(partial.result() for partial in self._partials)

    @property
    def result(self) -> Result | None:
        """The result so far of the last message that was begun; None if nothing was sent.

        A recipient that has no outcome in it did not get the message. One whose outcome is `Unknown` may have got it.
        """
        return self._partials[-1].result() if self._partials else None


def clear_record(record: DeliveryRecord | None) -> None:
    """Empty a record before anything is sent or waited for, so that it has nothing of an earlier call or attempt."""
    if record is not None:
        record._partials.clear()


def not_sent(sender: str, recipients: Iterable[str]) -> Result:
    """Return the result of a message of which nothing was sent."""
    return Result(sender, tuple(dict.fromkeys(recipients)), ())


class ConnectionLostError(SMTPError, trio.BrokenResourceError):
    """The connection was lost, or could not be opened.

    ``command`` is the command in progress. ``reply`` is the reply with which the server ended the session (421 without
    a command or 221 without QUIT), or None. The message was not accepted for the recipients that have no outcome in
    ``result``.
    """

    def __init__(self, command: Command, reason: str, reply: Reply | None = None) -> None:
        super().__init__(f"{command.verb}: {reason}" + ("" if reply is None else f": {reply}"))
        self.command: Command = command.redacted
        self.reply: Reply | None = reply


class TlsHandshakeError(ConnectionLostError):
    """The TLS handshake failed.

    ``unverified`` is the reason if the server's certificate was not valid, and None otherwise.
    """

    def __init__(self, command: Command, reason: BaseException, hint: str = "") -> None:
        super().__init__(command, f"TLS handshake failed: {str(reason) or type(reason).__name__}{hint}")
        self.unverified: str | None = str(reason) if isinstance(reason, ssl.SSLCertVerificationError) else None


class TimedOutError(SMTPError, trio.TooSlowError):
    """The server did not reply in time (RFC 5321 4.5.3.2), and the connection was closed.

    ``command`` is the command that it did not reply to.
    """

    def __init__(self, command: Command, seconds: float, hint: str = "") -> None:
        super().__init__(f"{command.verb}: no reply within {seconds:g} s{hint}")
        self.command: Command = command.redacted
        with suppress(RuntimeError):  # created outside of Trio
            mention_threads(self)


class DeliveryUnknownError(SMTPError):
    """The connection was lost between the end of a message and its reply: the message may have been accepted (RFC 1047).

    This includes a reply that did not come in time and one that is not SMTP, and a write that failed after it may have
    sent everything. Sending the message again may deliver it twice, so the client never does that by itself, and
    ``temporary`` is False. ``command`` is the command in progress, and ``result`` has the outcome of each recipient.
    """

    result: Result

    def __init__(self, command: Command, reason: str, result: Result) -> None:
        super().__init__(f"{reason}; the message may have been delivered")
        self.command: Command = command.redacted
        self.result = result

    @property
    def temporary(self) -> bool:
        """False: another attempt may deliver the message twice."""
        return False


class AllRecipientsRejectedError(ReplyError):
    """The message was accepted for no recipient. ``result`` has the outcome of each recipient."""

    result: Result

    def __init__(self, command: Command, reply: Reply, result: Result) -> None:
        super().__init__(command, reply)
        self.result = result

    @property
    def temporary(self) -> bool:
        """True if another attempt later may succeed for at least one recipient."""
        return any(outcome.temporary for outcome in self.result.rejected)


class GreetingError(ReplyError):
    """The server's greeting refused the connection (RFC 5321 3.1, RFC 7504)."""
