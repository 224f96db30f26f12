"""A message on its way to its recipients, over as many transactions as that takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..protocol import Mail, NotOfferedError, Path, Rcpt, Reply, ReplyError
from ..protocol.extensions.eightbitmime import BODY
from ..protocol.extensions.limits import LimitsExtension
from ..protocol.extensions.size import SIZE, Size
from ..protocol.extensions.smtputf8 import SMTPUTF8
from ..protocol.params import Param, Params
from .handshake import GRAMMAR
from .message import Message, Outgoing, mailbox, outgoing
from .results import AllRecipientsRejectedError, ConnectionLostError, Outcome, Result
from .transaction import Progress, Transaction

if TYPE_CHECKING:
    from .client import Client


#: The parameters of RCPT by the names that a caller gives them. All others are of MAIL.
FOR_RCPT = frozenset(param.name for param in GRAMMAR.params(Rcpt))


class Delivery:
    """One message, its envelope, and what became of it so far."""

    def __init__(
        self,
        client: Client,
        sender: str,
        mail: Mail,
        rcpts: Mapping[str, Rcpt],
        message: Outgoing,
        progress: Progress | None,
    ) -> None:
        self.mail: Mail = mail
        self.rcpts: Mapping[str, Rcpt] = rcpts
        self.message: Outgoing = message
        #: Its place among those of a batch.
        self.number: int = 0
        self._client = client
        self._sender = sender
        self._progress = progress
        self._outcomes: dict[str, Outcome] = {}
        self.transaction: Transaction | None = None

    @classmethod
    async def prepare(
        cls,
        client: Client,
        sender: str,
        recipients: Iterable[str],
        message: Message,
        progress: Progress | None,
        params: Mapping[str, object],
    ) -> Delivery:
        """Check all that can be checked here. Nothing was sent when this raises.

        Raises ValueError for an address or a parameter that is none, NotOfferedError for what the server does not offer, TypeError for a
        message that is none, and Refused when it is larger than the server takes (RFC 1870 6.1).
        """
        if isinstance(recipients, str):
            raise TypeError("recipients are a list of addresses, not a str")
        offered = client.offered
        utf8 = "SMTPUTF8" in offered
        paths = {name: _path(mailbox(name, f"recipient {name!r}"), utf8=utf8) for name in recipients}
        if not paths:
            raise ValueError("there are no recipients")
        path = _path(mailbox(sender, "sender", null=True), utf8=utf8)
        for_rcpt = {name: value for name, value in params.items() if name in FOR_RCPT}
        given = client.params(Mail, {name: value for name, value in params.items() if name not in for_rcpt})
        rcpt_params = client.params(Rcpt, for_rcpt)
        binary = given.get(BODY) == "BINARYMIME"
        if binary and "BINARYMIME" not in offered:  # RFC 3030 3; the parameter alone comes with 8BITMIME
            raise NotOfferedError("the server does not offer BINARYMIME")
        ready = await outgoing(message, eight_bit="8BITMIME" in offered, utf8=utf8, binary=binary)
        values: dict[Param[Any], Any] = dict(given)
        if ready.eight_bit and given.get(BODY) == "7BIT":
            raise ValueError("body='7BIT', and the message has octets above 127 (RFC 6152 3)")
        if ready.size is not None and isinstance(size := offered.get("SIZE"), Size):
            values.setdefault(SIZE, ready.size)
            if 0 < size.limit < ready.size:
                text = f"The message has {ready.size} octets, and the server takes {size.limit}; it was not sent"
                raise ReplyError(Mail(path), Reply(552, text, "5.3.4"))
        if ready.eight_bit is not False and "8BITMIME" in offered:
            values.setdefault(BODY, "8BITMIME")
        if ready.utf8_header or not all(each.is_ascii for each in (path, *paths.values())):
            values.setdefault(SMTPUTF8, True)  # RFC 6531 3.4: only where it is needed
        mail = Mail(path, Params(values))
        rcpts = {name: Rcpt(each, rcpt_params) for name, each in paths.items()}
        if params or SMTPUTF8 in values or not path.is_ordinary:
            for command in (mail, *rcpts.values()):
                client.protocol.encode_command(command, utf8=SMTPUTF8 in values)
        return cls(client, sender, mail, rcpts, ready, progress)

    def result(self) -> Result:
        """What is known by now."""
        known = {**self._outcomes, **(self.transaction.known("the answer did not come") if self.transaction else {})}
        outcomes = tuple(known[name] for name in self.rcpts if name in known)
        return Result(self._sender, tuple(self.rcpts), outcomes, self._client.tls)

    def new_transaction(self, names: Iterable[str]) -> Transaction:
        """A transaction for some of the recipients."""
        rcpts = {name: self.rcpts[name] for name in names}
        talk, lmtp = self._client.talk, self._client.lmtp
        self.transaction = Transaction(talk, self.mail, rcpts, self.message, progress=self._progress, lmtp=lmtp)
        return self.transaction

    @property
    def batch(self) -> int:
        """How many recipients a transaction may have (RFC 9422), as far as the server says so."""
        limits = self._client.offered.get("LIMITS")
        limit = limits.rcpt_max if isinstance(limits, LimitsExtension) else None
        return limit if limit and self.message.repeatable else len(self.rcpts)

    async def run(self, names: Iterable[str] | None = None) -> None:
        """All of it, or what is left for these recipients."""
        waiting = list(self.rcpts if names is None else names)
        while waiting:
            batch, waiting = waiting[: self.batch], waiting[self.batch :]
            transaction = self.new_transaction(batch)
            await transaction.run()
            self.finish(transaction)
            waiting = [*transaction.put_off, *waiting]
            if waiting and not self._client.talk.usable:
                self._outcomes.update(transaction.put_off)
                if missed := [name for name in waiting if name not in self._outcomes]:
                    raise ConnectionLostError(self.rcpts[missed[0]], "the server has left")
                return

    @property
    def in_the_dark(self) -> bool:
        """If the connection is lost now, nobody knows whether the message was taken (RFC 1047)."""
        return self.transaction is not None and self.transaction.in_the_dark

    def finish(self, transaction: Transaction) -> None:
        """This transaction is over."""
        self._outcomes.update(transaction.outcomes)
        self.transaction = None

    def verdict(self) -> Result:
        """The result, if there is anybody who was accepted; else raises AllRecipientsRejectedError."""
        result = self.result()
        if not result.accepted and result.rejected:
            first = result.rejected[0]
            raise AllRecipientsRejectedError(first.command, first.reply, result)
        return result


def _path(path: Path, *, utf8: bool) -> Path:
    """The path as this server can take it: without SMTPUTF8 a domain can still be written with A-labels (RFC 5890)."""
    if path.is_ascii or utf8:
        return path
    if not path.local.isascii():
        raise NotOfferedError(f"the server does not offer SMTPUTF8, which {path.raw!r} needs (RFC 6531 3.5)")
    return Path(str(path), path.local, path.domain)
