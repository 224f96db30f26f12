"""One message with its envelope, sent in as many transactions as its recipients need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import trio

from ..protocol import Command, Mail, NotOfferedError, Path, Rcpt, Reply, ReplyError, SMTPError
from ..protocol.extensions.deliverby import BY, EXPIRED
from ..protocol.extensions.eightbitmime import BODY
from ..protocol.extensions.limits import LimitsExtension
from ..protocol.extensions.size import SIZE, Size
from ..protocol.extensions.smtputf8 import SMTPUTF8
from ..protocol.params import NO_PARAMS, Param, Params
from .addresses import parse_mailbox
from .exchange import Exchange
from .message import Message, PreparedMessage, prepare_message
from .results import ConnectionLostError, PartialResult, Rejected
from .send_params import NONE, read_send_params, writable
from .session_limits import TOO_MANY_DOMAINS, TOO_MANY_TRANSACTIONS, allow_domains, announced, transactions_left
from .transaction import Progress, Transaction

#: The recipients that are checked before other tasks run: 0.5 ms, and 6 ms for domains with U-labels.
TURN = 128


# What is decided before anything is sent
#
# An error that is found after MAIL costs a round trip and RSET, and in `send_many` it would affect the messages around
# it. So `prepare` checks everything that the client can know: the syntax of addresses and parameters, the offers of the
# server, and the size of the message. If it raises, nothing was sent. These parameters are added to those that the
# caller gives:
#
# * SIZE, if the server offers it and the size is known (RFC 1870 6.1). A message above the server's limit is not sent.
#   This is reported as a ReplyError with 552, as if the server had refused MAIL, so that a caller handles both in the
#   same way.
# * BODY=8BITMIME, unless the message is known to be ASCII (RFC 6152 3). A file of more than 64 KiB or an iterable is not
#   read in advance, so it is declared as 8-bit too, which is always allowed.
# * SMTPUTF8, if an address or the header is not ASCII (RFC 6531 3.4). Without need it is not sent, because such a
#   message can only be relayed by servers that support it. A domain alone does not need it: without SMTPUTF8 it is sent
#   as A-labels.
#
# What one recipient needs and the server does not offer concerns this recipient only: it is rejected, and the message is sent
# to the others. That is SMTPUTF8 for a local part outside ASCII (RFC 6531 3.2), and the extensions of the parameters of RCPT
# (RFC 7293 5.1.1). If none is left, the message is not sent at all, and NotOfferedError is raised.
#
# One transaction is enough unless there are more recipients than the server accepts in one. The server advertises
# that limit (LIMITS, RFC 9422), or replies 452 to some RCPT (RFC 5321 4.5.3.1.10). The message is then sent again for the other
# recipients, if it can be read again; an iterable cannot.
class Delivery:
    """One message, its commands, and its outcomes so far (``partial``)."""

    def __init__(
        self,
        exchange: Exchange,
        mail: Mail,
        rcpts: Mapping[str, Rcpt],
        message: PreparedMessage,
        partial: PartialResult,
        progress: Progress | None,
    ) -> None:
        self.mail: Mail = mail
        self.rcpts: Mapping[str, Rcpt] = rcpts
        self.message: PreparedMessage = message
        self.partial: PartialResult = partial
        self._exchange = exchange
        self._progress = progress

    @classmethod
    async def prepare(
        cls,
        exchange: Exchange,
        sender: str,
        recipients: Collection[str],
        message: Message,
        progress: Progress | None,
        params: Mapping[str, object],
    ) -> Delivery:
        """Check the arguments of a send call and convert them to commands. Nothing is sent.

        Raises ValueError for an invalid address or parameter, TypeError for a message of a wrong type, NotOfferedError
        if the server does not offer what the message needs, and ReplyError if the message is larger than the server accepts
        (552, RFC 1870 6.1), or the time for its delivery is over (554, RFC 2852 4.1.3).
        """
        offered = exchange.protocol.offered
        utf8 = "SMTPUTF8" in offered
        paths: dict[str, Path] = {}
        problems: dict[str, NotOfferedError] = {}
        ordinary = True
        for name in recipients:
            recipient = parse_mailbox(name, "recipient")
            if recipient.is_ordinary:
                paths[name] = recipient
            else:
                ordinary = False
                try:
                    paths[name] = _encodable(recipient, utf8=utf8)
                except NotOfferedError as error:
                    problems[name] = error
            if len(paths) % TURN == 0:
                await trio.lowlevel.checkpoint()
        if not paths:
            raise next(iter(problems.values()), ValueError("there must be at least one recipient"))
        path = parse_mailbox(sender, "sender", null=True)
        if not path.is_ordinary:
            path = _encodable(path, utf8=utf8)
        given, binary = NONE, False
        values: dict[Param[Any], Any] = {}
        if params:
            given = read_send_params(exchange, sender, paths, params)
            values = dict(given.mail)
            if (by := given.mail.get(BY)) is not None and by.expired:
                raise ReplyError(Mail(path), EXPIRED)
            binary = values.get(BODY) == "BINARYMIME"
            if binary and "BINARYMIME" not in offered:
                # RFC 3030 3. The parameter alone would be accepted by a server with 8BITMIME.
                raise NotOfferedError("the server does not offer BINARYMIME")
        ordinary = ordinary and path.is_ordinary
        smtputf8 = SMTPUTF8 in values or not (ordinary or all(each.is_ascii for each in (path, *paths.values())))
        ready = await prepare_message(
            message, eight_bit="8BITMIME" in offered, utf8=utf8, binary=binary, smtputf8=smtputf8
        )
        if ready.eight_bit and values.get(BODY) == "7BIT":
            raise ValueError("body='7BIT' does not allow octets above 127 in the message (RFC 6152 3)")
        if ready.size is not None and isinstance(size := offered.get("SIZE"), Size):
            values.setdefault(SIZE, ready.size)
            if 0 < size.limit < ready.size:
                text = f"The message has {ready.size} octets, the server accepts {size.limit}; it was not sent"
                raise ReplyError(Mail(path), Reply(552, text, "5.3.4"))
        if ready.eight_bit is not False and "8BITMIME" in offered:
            values.setdefault(BODY, "8BITMIME")
        if smtputf8 or ready.utf8_header:
            values.setdefault(SMTPUTF8, True)  # RFC 6531 3.4: only if it is needed
        mail = Mail(path, Params(values) if values else NO_PARAMS)
        partial = PartialResult(
            sender, dict.fromkeys(recipients) if problems else paths, exchange.tls, given.unreported
        )
        for name, problem in problems.items():
            partial.reject(Rejected(name, Rcpt(parse_mailbox(name, name)), unacceptable(problem), not_offered=True))
        if params or SMTPUTF8 in values or not path.is_ordinary:
            mail = Mail(path, writable(mail.params, utf8=SMTPUTF8 in values))
            exchange.protocol.encode_command(mail)
            rcpts = await _checked_rcpts(exchange, paths, given.rcpts, partial, utf8=SMTPUTF8 in values)
        else:
            rcpts = {name: Rcpt(each) for name, each in paths.items()}
        return cls(exchange, mail, rcpts, ready, partial, progress)

    def new_transaction(self, recipients: Iterable[str]) -> Transaction:
        """Return a transaction for some of the recipients."""
        rcpts = {name: self.rcpts[name] for name in recipients}
        return Transaction(self._exchange, self.mail, rcpts, self.message, self.partial, self._progress)

    @property
    def within_limits(self) -> bool:
        """True if the message can be sent to all recipients in one transaction, as far as the server has announced."""
        limits = announced(self._exchange)
        return limits is None or (
            self._max_recipients(limits) >= len(self.rcpts)
            and limits.rcpt_domain_max is None
            and transactions_left(self._exchange, limits) != 0
        )

    def _max_recipients(self, limits: LimitsExtension) -> int:
        """Return the most recipients for one transaction, which the server may limit (RFC 9422 4.2)."""
        return limits.rcpt_max if limits.rcpt_max and self.message.repeatable else len(self.rcpts)

    def _next_batch(self, waiting: list[str]) -> tuple[list[str], list[str]]:
        """Return the recipients of the next transaction, and those that wait. Reject those that the session has no room for."""
        limits = announced(self._exchange)
        if limits is None:
            return waiting, []
        if transactions_left(self._exchange, limits) == 0:
            self._reject(waiting, self.mail, TOO_MANY_TRANSACTIONS)
            return [], []
        most = self._max_recipients(limits)
        if limits.rcpt_domain_max is not None:
            domains = ((self.rcpts[name].recipient.domain or "").lower() for name in waiting)
            allowed = dict(zip(waiting, allow_domains(self._exchange, limits, domains), strict=True))
            for name in waiting:
                if not allowed[name]:
                    self._reject([name], self.rcpts[name], TOO_MANY_DOMAINS)
            waiting = [name for name in waiting if allowed[name]]
        return waiting[:most], waiting[most:]

    def _reject(self, names: Iterable[str], command: Command, reply: Reply) -> None:
        """Store the outcome of recipients that are not sent, unless the server has refused them before."""
        for name in names:
            self.partial.outcomes.setdefault(name, Rejected(name, command, reply))

    async def run(self, recipients: Iterable[str] | None = None) -> None:
        """Send the message to ``recipients``, or to all. Raises as `Transaction.run`."""
        waiting = list(self.rcpts if recipients is None else recipients)
        while waiting:
            batch, waiting = self._next_batch(waiting)
            if not batch:
                return
            transaction = self.new_transaction(batch)
            await transaction.run()
            waiting = [*transaction.postponed, *waiting]
            if waiting and not self._exchange.usable:
                if missed := [name for name in waiting if name not in self.partial.outcomes]:
                    raise ConnectionLostError(self.rcpts[missed[0]], "the server closed the connection")
                return


async def _checked_rcpts(
    exchange: Exchange, paths: Mapping[str, Path], params: Mapping[str, Params], partial: PartialResult, *, utf8: bool
) -> dict[str, Rcpt]:
    """Return the RCPT commands that can be sent to this server; reject the recipients of the others.

    Raises NotOfferedError if none can be sent, and ValueError for an address that cannot be written.
    """
    rcpts: dict[str, Rcpt] = {}
    problem: NotOfferedError | None = None
    for number, (name, path) in enumerate(paths.items(), 1):
        rcpt = Rcpt(path, writable(params.get(name, NO_PARAMS), utf8=utf8))
        try:
            exchange.protocol.encode_command(rcpt, utf8=utf8)
            rcpts[name] = rcpt
        except NotOfferedError as error:
            problem = problem or error
            partial.reject(Rejected(name, rcpt, unacceptable(error), not_offered=True))
        if number % TURN == 0:
            await trio.lowlevel.checkpoint()
    if problem is not None and not rcpts:
        raise problem
    return rcpts


def unacceptable(error: SMTPError) -> Reply:
    """Return the reply for a message that needs what a server does not offer (RFC 3463 3.7, X.6.3)."""
    status = error.status if isinstance(error, NotOfferedError) else "5.6.3"
    return Reply(550 if status.startswith("5.7.") else 554, str(error), status)


def _encodable(path: Path, *, utf8: bool) -> Path:
    """Return ``path`` as this server can accept it.

    Without SMTPUTF8 a domain outside ASCII is still encodable, as A-labels (RFC 5890).
    Raises NotOfferedError for a local part outside ASCII.
    """
    if path.is_ascii or utf8:
        return path
    if not path.local.isascii():
        raise NotOfferedError(f"{path.raw!r} needs SMTPUTF8 (RFC 6531 3.5), and the server does not offer it")
    return Path(str(path), path.local, path.domain)
