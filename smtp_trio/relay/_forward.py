"""One attempt to forward a message: an outcome for each recipient, whatever has happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import evolve, frozen

from .._client.delivery import unacceptable
from .._client.pool import Pool
from .._client.results import DeliveryRecord, Outcome, Rejected, Result, not_sent
from ..protocol import Connect, LocalProtocolError, Reply, ReplyError, SMTPError
from ..protocol.arguments import check_type
from ..protocol.params import Params
from ..routing import DomainPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds that an attempt has for the reply to a message that was sent, when the relay is cancelled.
REPLY_TIMEOUT = 10.0


@frozen
class Parcel:
    """A message as it is forwarded: with its ``Received:`` field, and for the recipients that are pending."""

    sender: str
    recipients: Sequence[str]
    message: bytes
    mail_params: Params
    rcpt_params: Mapping[str, Params]
    received: datetime
    now: Callable[[], datetime]


class Destination(Protocol):
    """The destination of a relay."""

    def __str__(self) -> str: ...

    @property
    def remote_mta(self) -> str | None: ...

    async def send(self, parcel: Parcel, record: DeliveryRecord) -> Result:
        """Send a message. Raises SMTPError and ValueError."""


# What an attempt can end with
#
# The client raises an exception for a message, or for the connection. A relay needs an outcome for each recipient:
#
# * What was accepted or refused is in the result, or in the ``result`` of the exception.
# * Of a server that cannot be used (`SMTPError.connected` is False) nothing is known about the message. It is tried again
#   until it expires, also if the server has refused the connection or the login with 5yz: that is a matter between the two
#   servers, which the sender has nothing to do with, and which an operator will repair.
# * A message that this server cannot get is refused permanently: it is too large, or needs an extension (RFC 6531 3.2, RFC
#   8689 4.2.1). Nothing is converted here.
# * For the rest the connection was lost, which is temporary.
class Attempt:
    """An attempt to send a message. ``scope`` cancels it; see `release`."""

    def __init__(self, deadline: float) -> None:
        self.scope: trio.CancelScope = trio.CancelScope(deadline=deadline)
        self.record: DeliveryRecord = DeliveryRecord()
        self.released = False

    def release(self) -> None:
        """End the attempt soon: at once, unless the message was sent and its reply is to come.

        Without waiting for the reply it would not be known whether the message has to be sent again (RFC 1047).
        """
        self.released = True
        result = self.record.result
        if result is not None and result.unknown:
            self.scope.deadline = min(self.scope.deadline, trio.current_time() + REPLY_TIMEOUT)
        else:
            self.scope.cancel()

    def unfinished(self, recipients: Iterable[str]) -> list[str]:
        """Return those of the recipients that have no outcome yet."""
        result = self.record.result
        finished = {outcome.recipient for outcome in result.outcomes} if result is not None else set()
        return [name for name in recipients if name not in finished]

    async def run(self, destination: Destination, parcel: Parcel) -> tuple[Result, str | None]:
        """Send a message. Return an outcome for each recipient, and why the server cannot be used, if it cannot be.

        If the attempt was cancelled, recipients to which nothing was sent have no outcome.
        """
        result, reply, unusable = not_sent(parcel.sender, parcel.recipients), None, None
        with self.scope:
            try:
                result = await destination.send(parcel, self.record)
            except SMTPError as error:
                result = error.result or result
                if not error.connected:
                    unusable = describe(error)
                    reply = Reply(451, f"{destination} cannot be used: {unusable}", "4.4.1")
                elif isinstance(error, ReplyError):
                    reply = error.reply
                elif isinstance(error, LocalProtocolError):
                    reply = unacceptable(error)
                else:
                    reply = Reply(451, describe(error), "4.4.2")
            except ValueError as error:  # an address or a parameter that the client cannot write
                reply = Reply(554, f"The message cannot be passed on: {describe(error)}", "5.6.0")
        if self.scope.cancelled_caught:
            result = self.record.result or result
            if not self.released:
                reply = Reply(451, "The attempt took too long", "4.4.2")
        return _completed(result, reply), unusable


def _completed(result: Result, reply: Reply | None) -> Result:
    """Return a result in which the recipients without an outcome were rejected with this reply."""
    if reply is None or not result.not_sent:
        return result
    known = {outcome.recipient: outcome for outcome in result.outcomes}
    outcomes: list[Outcome] = [known.get(name) or Rejected(name, Connect(), reply) for name in result.recipients]
    return evolve(result, outcomes=tuple(outcomes))


def rejected(recipients: Iterable[str], reply: Reply) -> tuple[Rejected, ...]:
    """Return the outcomes of recipients to which nothing was sent, because of ``reply``."""
    return tuple(Rejected(name, Connect(), reply) for name in recipients)


def describe(error: Exception) -> str:
    """Return the text of an exception in one line."""
    return " ".join(str(error).split()) or type(error).__name__


class Smarthost:
    """The destination of a relay that sends all messages to one server."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __str__(self) -> str:
        return f"{self._pool.host}:{self._pool.port}" if isinstance(self._pool.host, str) else str(self._pool.host)

    @property
    def remote_mta(self) -> str | None:
        """The name of the server in reports."""
        return self._pool.host if isinstance(self._pool.host, str) else None

    async def send(self, parcel: Parcel, record: DeliveryRecord) -> Result:
        """Send a message."""
        return await self._pool.send(
            parcel.sender,
            parcel.recipients,
            parcel.message,
            record=record,
            mail_params=parcel.mail_params,
            rcpt_params=parcel.rcpt_params,
            received=parcel.received,
            now=parcel.now,
        )


NO_DOMAIN = Reply(550, "The address has no domain, so its exchangers are not known", "5.1.3")


class Exchangers:
    """The destination of a relay that sends messages to the exchangers of their recipients' domains."""

    def __init__(self, pool: DomainPool) -> None:
        self._pool = pool

    def __str__(self) -> str:
        return "the exchangers of the recipients"

    @property
    def remote_mta(self) -> str | None:
        """None: a result has the names of the exchangers."""
        return None

    async def send(self, parcel: Parcel, record: DeliveryRecord) -> Result:
        """Send a message. A recipient without a domain, such as <Postmaster>, is refused."""
        names = [name for name in parcel.recipients if "@" in name]
        if not names:
            return _completed(not_sent(parcel.sender, parcel.recipients), NO_DOMAIN)
        result: Result = await self._pool.send(
            parcel.message,
            sender=parcel.sender,
            recipients=names,
            record=record,
            mail_params=parcel.mail_params,
            rcpt_params=parcel.rcpt_params,
            received=parcel.received,
            now=parcel.now,
        )
        if len(names) == len(parcel.recipients):
            return result
        return _completed(evolve(result, recipients=tuple(parcel.recipients)), NO_DOMAIN)


def destination_of(pool: Pool | DomainPool) -> Destination:
    """Return the destination of a relay with these connections."""
    check_type(pool, "pool", (Pool, DomainPool))
    return Smarthost(pool) if isinstance(pool, Pool) else Exchangers(pool)
