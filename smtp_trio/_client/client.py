"""The client: a conversation with one server, over any stream. `connect` (in `_dialing`) opens the stream too.

It has no task of its own, so an error is always a plain one, never a group.
"""

from __future__ import annotations

import email.message
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing

from .._types import TlsInfo
from ..protocol import (
    Command,
    Data,
    Ehlo,
    Expn,
    Helo,
    Help,
    LocalProtocolError,
    Mail,
    Noop,
    Rcpt,
    RemoteProtocolError,
    Reply,
    ReplyError,
    Rset,
    Vrfy,
)
from ..protocol.commands import END_OF_DATA
from ..protocol.extensions.auth import AuthCommand
from ..protocol.extensions.chunking import Bdat, BdatLast
from ..protocol.extensions.lmtp import Lhlo
from ..protocol.extensions.starttls import StartTlsCommand
from ..protocol.params import NO_PARAMS, Params, make_params
from ..protocol.sasl import PasswordCredentials
from .delivery import Delivery
from .exchange import accepted
from .handshake import GRAMMAR, Login, Opening
from .message import Message, Outgoing, envelope, mailbox, outgoing
from .pipeline import Batch, Messages
from .results import ConnectionLostError, DeliveryUnknownError, Result, TimedOutError
from .transaction import Progress


class Client(Opening):
    """A client of one server, to be used with ``async with``: greeting, EHLO, STARTTLS and AUTH at its beginning, QUIT at its end.

    One task at a time may use it; `Pool` is for several. ``last_result`` is what is known of the last message, also when it was
    cancelled.
    """

    #: Of the last `send` or `send_many`.
    _deliveries: Sequence[Delivery | Result] = ()

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def last_results(self) -> tuple[Result, ...]:
        """What is known of the messages of the last `send` or `send_many`, however that ended."""
        return tuple(each.result() if isinstance(each, Delivery) else each for each in self._deliveries)

    @property
    def last_result(self) -> Result | None:
        """What is known of the last message. Recipients of whom nothing was said are not in it."""
        return self.last_results[-1] if self._deliveries else None

    # --- one command at a time --------------------------------------------------------------------------------------

    async def _say(self, command: Command) -> Reply:
        async with self.talk.turn():
            self.talk.listen(command)
            return accepted(command, await self.talk.ask(command))

    async def ehlo(self, name: str | None = None) -> Reply:
        """EHLO (in LMTP: LHLO), which also ends a transaction. Every verb raises `ReplyError` for 4yz and 5yz."""
        kind = Lhlo if self.lmtp else Ehlo
        return await self._say(kind(name or self._name))

    async def helo(self, name: str | None = None) -> Reply:
        """HELO: from now on without extensions (RFC 5321 4.1.1.1)."""
        return await self._say(Helo(name or self._name))

    async def mail(self, sender: str, **params: object) -> Reply:
        """MAIL FROM. Parameters are typed keyword values: ``size=100, body="8BITMIME", ret="HDRS", envid="x"``, …"""
        return await self._say(Mail(mailbox(sender, "sender", null=True), self.params(Mail, params)))

    async def rcpt(self, recipient: str, **params: object) -> Reply:
        """RCPT TO. Parameters as in ``notify=("FAILURE", "DELAY"), orcpt="rfc822;a@example.org"`` (RFC 3461)."""
        return await self._say(Rcpt(mailbox(recipient, "recipient"), self.params(Rcpt, params)))

    async def data(self, message: Message) -> Reply:
        """DATA, the message, and the answer to it. Raises `ConnectionLostError` or `TimedOutError` when that does not come."""
        if self.lmtp:
            raise LocalProtocolError("in LMTP the message has an answer for each recipient: use send")
        ready = await self._ready(message)
        async with self.talk.turn():
            self.talk.listen(Data())
            reply = await self.talk.ask(Data())
            if reply.refused:
                raise ReplyError(Data(), reply)
            self.talk.disarm()
            async with aclosing(ready.pieces()) as pieces:
                async for piece in pieces:
                    self.protocol.send_body(piece)
                    await self.talk.flush()
            self.protocol.end_body()
            await self.talk.flush()
            return accepted(END_OF_DATA, await self.talk.reply())

    async def bdat(self, octets: bytes, *, last: bool = False) -> Reply:
        """BDAT: these octets, as they are (RFC 3030 2). Line ends are your business."""
        if self.lmtp and last:
            raise LocalProtocolError("in LMTP the message has an answer for each recipient: use send")
        command = BdatLast(len(octets)) if last else Bdat(len(octets))
        async with self.talk.turn():
            self.talk.listen(command)
            self.protocol.send_command(command)
            self.protocol.send_body(octets)
            await self.talk.flush()
            return accepted(command, await self.talk.reply())

    async def rset(self) -> Reply:
        """RSET: forget the transaction (RFC 5321 4.1.1.5)."""
        return await self._say(Rset())

    async def noop(self) -> Reply:
        """NOOP: are you there? (RFC 5321 4.1.1.9)"""
        return await self._say(Noop())

    async def vrfy(self, user: str) -> Reply:
        """VRFY: is this a user of yours? (RFC 5321 4.1.1.6)"""
        return await self._say(Vrfy(user))

    async def expn(self, name: str) -> Reply:
        """EXPN: who is on this list? (RFC 5321 4.1.1.7)"""
        return await self._say(Expn(name))

    async def help(self, topic: str = "") -> Reply:
        """HELP (RFC 5321 4.1.1.8)."""
        return await self._say(Help(topic))

    async def starttls(self, ssl_context: ssl.SSLContext | None = None) -> TlsInfo:
        """STARTTLS, the handshake, and EHLO again (RFC 3207). The certificate is checked as ``tls="required"`` has it.

        Raises ValueError when the client knows no host that it could be checked for.
        """
        context = ssl_context or self._context
        if not self.host and (context is None or context.check_hostname):
            raise ValueError("STARTTLS needs a host, whose certificate is checked")
        self._context, self._mode = context, "required"
        async with self.talk.turn():
            self.talk.listen(StartTlsCommand())
            await self._secure()
        assert self.tls is not None
        return self.tls

    async def auth(self, credentials: Login) -> Reply:
        """AUTH, by the best mechanism that both sides know (RFC 4954)."""
        async with self.talk.turn():
            self.talk.listen(AuthCommand("*"))
            return await self._login(
                PasswordCredentials(*credentials) if isinstance(credentials, tuple) else credentials
            )

    def params(self, kind: type[Mail | Rcpt], values: Mapping[str, object]) -> Params:
        """Keyword values as parameters. Raises ValueError and TypeError for what is none."""
        return make_params(values, GRAMMAR.params(kind)) if values else NO_PARAMS

    async def _ready(self, message: Message) -> Outgoing:
        return await outgoing(message, eight_bit="8BITMIME" in self.offered, utf8="SMTPUTF8" in self.offered)

    # --- whole messages ---------------------------------------------------------------------------------------------

    async def send(
        self,
        sender: str,
        recipients: Iterable[str],
        message: Message,
        *,
        progress: Progress | None = None,
        **params: object,
    ) -> Result:
        """Send a message, in as few round trips as the server lets us, and say what became of it for each recipient.

        ``message`` is bytes, an email message, a path or an async iterable of bytes; its line ends and dots are put right. ``sender``
        "" is the null path of mail about mail. ``progress`` is called with the octets handed to the network so far, and in all.
        Parameters are typed keyword values: ``ret="HDRS", envid="x", notify=("FAILURE",)`` (RFC 3461), say.

        Raises `AllRecipientsRejectedError`, a `ReplyError`, only when no recipient was accepted; `DeliveryUnknownError` when the connection was lost
        between the end of the message and its answer; `ConnectionLostError`, `TimedOutError` and `RemoteProtocolError` when it was lost before;
        ValueError, TypeError, OSError (of a file), `NotOfferedError` and `LocalProtocolError` before anything was sent;
        trio.ClosedResourceError when an earlier call has lost the connection.
        """
        turn = self.talk.turn()
        self._deliveries = ()
        try:
            async with turn:
                delivery = await Delivery.prepare(self, sender, recipients, message, progress, params)
                self._deliveries = (delivery,)
                await self.talk.ready(delivery.mail)
                await delivery.run()
        except (ConnectionLostError, TimedOutError, RemoteProtocolError) as exc:
            self._lost(exc)
            raise
        return delivery.verdict()

    async def send_message(
        self,
        message: email.message.Message,
        sender: str | None = None,
        recipients: Iterable[str] | None = None,
        *,
        progress: Progress | None = None,
        **params: object,
    ) -> Result:
        """Send an email message, to whom its fields say, where you do not (RFC 5322 3.6.3, 3.6.6). Bcc is not sent.

        Raises as `send` does, and ValueError when the fields name no sender or no recipient.
        """
        sender, names = envelope(message, sender, recipients)
        return await self.send(sender, names, message, progress=progress, **params)

    async def send_many(
        self,
        messages: Messages,
        *,
        progress: Progress | None = None,
        **params: object,
    ) -> list[Result]:
        """Send messages, each a tuple of sender, recipients and message; the results are in their order.

        Where the server pipelines, the next message is on its way before the last one is answered. A message that nobody was
        accepted for is no error here: its result says so. Raises as `send` does otherwise; then ``last_results`` has what is known.
        """
        turn = self.talk.turn()
        deliveries: list[Delivery | Result] = []
        self._deliveries = deliveries
        try:
            async with turn:
                await Batch(self, deliveries).run(messages, progress, params)
        except (ConnectionLostError, TimedOutError, RemoteProtocolError) as exc:
            self._lost(exc)
            raise
        return list(self.last_results)

    def _lost(self, exc: ConnectionLostError | TimedOutError | RemoteProtocolError) -> None:
        """No more will be heard: DeliveryUnknownError if that was between the end of a message and its answer (RFC 1047)."""
        command = END_OF_DATA if isinstance(exc, RemoteProtocolError) else exc.command
        for delivery in self._deliveries:
            if isinstance(delivery, Delivery) and delivery.in_the_dark:
                raise DeliveryUnknownError(command, str(exc), delivery.result()) from exc
