"""What became of a message: for each recipient one of three outcomes, each with its own type."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio
from attrs import field, frozen

from ..protocol import Command, Rcpt, Reply, ReplyError, SMTPError

if TYPE_CHECKING:
    from .._types import TlsInfo


@frozen
class Accepted:
    """The server has taken the message for this recipient, and is responsible for it from now on (RFC 5321 4.2.5)."""

    recipient: str
    reply: Reply


@frozen
class Rejected:
    """The server did not take it for this recipient: ``command`` is what it refused (MAIL, RCPT, the message), and ``reply`` why."""

    recipient: str
    command: Command
    reply: Reply

    @property
    def temporary(self) -> bool:
        """It may be tried again later."""
        # RFC 5321 4.5.3.1.10: a 552 to RCPT means too many recipients, and SHOULD be taken for 452.
        return self.reply.temporary or (self.reply.code == 552 and isinstance(self.command, Rcpt))

    @property
    def permanent(self) -> bool:
        """It will be refused again, and should go back to its sender."""
        return not self.temporary


@frozen
class Unknown:
    """The connection was lost between the end of the message and its answer: it may have been delivered (RFC 1047).

    ``temporary`` is true, for who tries again loses nothing, and at the worst delivers twice.
    """

    recipient: str
    reason: str
    temporary: bool = field(default=True, init=False)
    permanent: bool = field(default=False, init=False)


Outcome = Accepted | Rejected | Unknown


@frozen
class Result:
    """What became of one message: an outcome for each recipient, in the order given. Where it was cut short, some have none.

    ``tls`` is what protected it, None when nothing did.
    """

    sender: str
    recipients: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    tls: TlsInfo | None = None

    @property
    def accepted(self) -> tuple[Accepted, ...]:
        """Those that the server has taken it for."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Accepted))

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Those that it has not."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Rejected))

    @property
    def unknown(self) -> tuple[Unknown, ...]:
        """Those of whom nobody knows."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Unknown))

    @property
    def complete(self) -> bool:
        """It was taken for all of them."""
        return len(self.accepted) == len(self.recipients)


class ConnectionLostError(SMTPError, trio.BrokenResourceError):
    """There is no connection any more, or never was one. ``command`` is what was under way; nothing was taken by the server."""

    def __init__(self, command: Command, reason: str) -> None:
        super().__init__(f"{command.verb}: {reason}")
        self.command: Command = command.redacted


class TlsHandshakeError(ConnectionLostError):
    """There is no TLS with this server. ``unverified``: its certificate was the reason, and why."""

    def __init__(self, command: Command, reason: BaseException) -> None:
        super().__init__(command, f"TLS handshake failed: {str(reason) or type(reason).__name__}")
        self.unverified: str | None = str(reason) if isinstance(reason, ssl.SSLCertVerificationError) else None


class TimedOutError(SMTPError, trio.TooSlowError):
    """The server was silent for too long (RFC 5321 4.5.3.2), and the connection was closed. ``command`` is what it did not answer."""

    def __init__(self, command: Command, seconds: float) -> None:
        super().__init__(f"{command.verb}: no answer within {seconds:g} s")
        self.command: Command = command.redacted


class DeliveryUnknownError(SMTPError):
    """The message went out whole, and the connection was lost before its answer: nobody knows whether it was taken (RFC 1047).

    To send it again may deliver it twice, so that is for you to decide. ``result`` tells it by recipient.
    """

    def __init__(self, command: Command, reason: str, result: Result) -> None:
        super().__init__(f"{reason}; the message may have been delivered")
        self.command: Command = command.redacted
        self.result = result


class AllRecipientsRejectedError(ReplyError):
    """Every recipient was refused, or the message was for all of them. ``result`` tells it by recipient."""

    def __init__(self, command: Command, reply: Reply, result: Result) -> None:
        super().__init__(command, reply)
        self.result = result


class GreetingError(ReplyError):
    """The server turned us away in its greeting (RFC 5321 3.1, RFC 7504)."""
