"""The client: a conversation with one server, over any stream. `connect` (in `_dialing`) opens the stream too.

It has no task of its own, so an error is always a plain one, never a group.
"""

from __future__ import annotations

import email.message
import ssl
from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Literal, Self

import trio

from ._batch import Batch, Messages
from ._conversation import ClientTimeouts, Conversation, accepted, timeouts_of
from ._login import log_in
from ._message import Message, Outgoing, envelope, mailbox, outgoing
from ._results import ConnectionLost, ConnectRejected, DeliveryUnknown, HandshakeFailed, Result, TimedOut
from ._sending import Delivery
from ._transaction import Progress
from ._values import TlsInfo
from .protocol import (
    ClientProtocol,
    Command,
    Connect,
    Data,
    Ehlo,
    Expn,
    Extension,
    Helo,
    Help,
    LocalProtocolError,
    Mail,
    Noop,
    NotOffered,
    Rcpt,
    Refused,
    RemoteProtocolError,
    Reply,
    Rset,
    SMTPError,
    Vrfy,
)
from .protocol.client import END
from .protocol.extension import Grammar
from .protocol.extensions import KNOWN
from .protocol.extensions.auth import AuthCommand
from .protocol.extensions.chunking import Bdat, BdatLast
from .protocol.extensions.lmtp import Lhlo, Lmtp
from .protocol.extensions.starttls import StartTlsCommand
from .protocol.params import NO_PARAMS, Params, make_params
from .protocol.sasl import Password, Token

TlsMode = Literal["opportunistic", "required", "implicit", "never"]
Login = Password | Token | tuple[str, str]

GRAMMAR = Grammar(KNOWN)
#: RFC 4954 4: AUTH with its initial response has the length of any other command.
LINE = 512
LMTP_GRAMMAR = Grammar((*KNOWN, Lmtp()))


class Client:
    """A client of one server, to be used with ``async with``: greeting, EHLO, STARTTLS and AUTH at its beginning, QUIT at its end.

    One task at a time may use it; `Pool` is for several. ``last_result`` is what is known of the last message, also when it was
    cancelled.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        host: str = "",
        tls: TlsMode | None = None,
        ssl_context: ssl.SSLContext | None = None,
        auth: Login | None = None,
        name: str | None = None,
        lmtp: bool = False,
        allow_cleartext: bool = False,
        timeout: float | None = None,
        timeouts: ClientTimeouts | None = None,
    ) -> None:
        """``stream`` leads to the server, which is called ``host`` (in its certificate, and as SNI).

        ``tls`` is "opportunistic" (the default without ``auth``: STARTTLS where it is offered, whatever the certificate), "required"
        (the default with it), "implicit" (TLS from the first octet) or "never". ``auth`` is a `Password`, a `Token` or a pair of user
        and password; it never goes over a connection that was not verified, unless you ``allow_cleartext``. ``name`` is who we say
        we are in EHLO; without it, our address. ``lmtp`` speaks RFC 2033. ``timeout`` in seconds stands for all of ``timeouts``.

        Raises ValueError for a name that no EHLO can carry, and for settings that contradict each other.
        """
        self.host: str = host
        self.lmtp: bool = lmtp
        #: What TLS agreed on; None without it.
        self.tls: TlsInfo | None = None
        #: Who we proved to be, or None.
        self.user: str | None = None
        #: The server's greeting, once it was heard.
        self.greeting: Reply | None = None
        self._mode: TlsMode = tls or ("opportunistic" if auth is None else "required")
        self._context = ssl_context
        self._auth = Password(*auth) if isinstance(auth, tuple) else auth
        self._allow_cleartext = allow_cleartext
        self.protocol: ClientProtocol = ClientProtocol(LMTP_GRAMMAR if lmtp else GRAMMAR)
        self.talk: Conversation = Conversation(stream, self.protocol, timeouts_of(timeout, timeouts))
        self._name = name or _own_name(stream)
        if not self._name.isascii() or not self._name.isprintable() or " " in self._name:
            raise ValueError(f"name {self._name!a} is no domain or address literal (RFC 5321 4.1.1.1)")
        if self._mode in ("required", "implicit") and not host:
            raise ValueError(f"tls={self._mode!r} needs a host, whose certificate is checked")
        self._deliveries: list[Delivery | Result] = []
        #: Whether a certificate that is not right ends an opportunistic handshake, and why it was not right when we tried before.
        self.strict_tls: bool = False
        self.tls_problem: str | None = None

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def stream(self) -> trio.abc.Stream:
        """The Trio stream, inside TLS when there is TLS. Whoever reads or writes here breaks the protocol."""
        return self.talk.wire.stream

    @property
    def offered(self) -> Mapping[str, Extension]:
        """What the server offers and this client understands, by keyword."""
        return self.protocol.offered

    @property
    def capabilities(self) -> Mapping[str, tuple[str, ...]]:
        """All that the server says in its answer to EHLO: words by keyword."""
        return self.protocol.capabilities

    @property
    def usable(self) -> bool:
        """The connection is open, and in step."""
        return self.talk.usable

    @property
    def last_results(self) -> tuple[Result, ...]:
        """What is known of the messages of the last `send` or `send_many`, however that ended."""
        return tuple(each.result() if isinstance(each, Delivery) else each for each in self._deliveries)

    @property
    def last_result(self) -> Result | None:
        """What is known of the last message. Recipients of whom nothing was said are not in it."""
        return self.last_results[-1] if self._deliveries else None

    # --- beginning and end ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self.greeting is not None:  # `connect` has been here
            return self
        try:
            await self._open()
        except SMTPError:
            await self.talk.quit()  # RFC 5321 3.1: who was turned away says goodbye
            raise
        except BaseException:
            await self.talk.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await (self.quit() if exc is None else self.talk.close())

    async def quit(self) -> None:
        """Say QUIT and close the connection. Waits 5 s for the answer at most, and raises nothing but trio.Cancelled."""
        await self.talk.quit()

    async def aclose(self) -> None:
        """Close the connection at once, without a word."""
        await self.talk.close()

    async def _open(self) -> None:
        async with self.talk:
            if self._mode == "implicit":
                await self._shake_hands()
            elif isinstance(self.stream, trio.SSLStream):
                self.tls = TlsInfo.of(self.stream)
            greeting = await self.talk.reply()
            if not greeting.accepted:
                raise ConnectRejected(Connect(), greeting)
            await self._hello()
            if self._mode in ("opportunistic", "required") and self.tls is None:
                await self._secure()
            if self._auth is not None:
                await self._login(self._auth)
            self.greeting = greeting

    async def _hello(self) -> Reply:
        command = Lhlo(self._name) if self.lmtp else Ehlo(self._name)
        reply = await self.talk.ask(command)
        if reply.code in (500, 502) and not self.lmtp and self._auth is None and self._mode != "required":
            # RFC 5321 3.2: an old server. Where TLS or AUTH is needed it would be of no use.
            reply = await self.talk.ask(Helo(self._name))
        return accepted(command, reply)

    async def _secure(self) -> None:
        """STARTTLS, where it is offered; else go on without it, or not."""
        if "STARTTLS" not in self.offered:
            if self._mode == "required":
                raise NotOffered("the server does not offer STARTTLS, and TLS is required here")
            return
        reply = await self.talk.ask(StartTlsCommand())
        if reply.accepted:
            await self._shake_hands()
            await self._hello()
        elif self._mode == "required" or self.protocol.closed:
            raise Refused(StartTlsCommand(), reply)

    async def _shake_hands(self) -> None:
        verify = self.strict_tls or self._mode != "opportunistic"
        context = self._context or ssl.create_default_context()
        if not verify:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        limit, host = self.talk.timeouts.tls, self.host or None
        self.talk.disarm()
        try:
            stream = await self.talk.wire.start_tls(context, limit, server_side=False, server_hostname=host)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise HandshakeFailed(StartTlsCommand(), exc.__cause__ or exc) from exc
        except trio.TooSlowError:
            raise TimedOut(StartTlsCommand(), limit) from None
        verified = context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
        self.tls = TlsInfo.of(stream, verified=verified, problem=None if verified else self.tls_problem)
        if self._mode != "implicit":
            self.protocol.secured()

    async def _login(self, credentials: Password | Token) -> Reply:
        verified = self.tls is not None and self.tls.verified
        if not (verified or self._allow_cleartext):
            raise LocalProtocolError(
                "credentials do not go over a connection that was not verified, unless you allow_cleartext"
            )
        reply = await log_in(self.talk, credentials, secure=self.tls is not None, allow_cleartext=self._allow_cleartext)
        self.user = credentials.user
        return reply

    # --- one command at a time --------------------------------------------------------------------------------------

    async def _say(self, command: Command) -> Reply:
        async with self.talk.turn():
            self.talk.listen(command)
            return accepted(command, await self.talk.ask(command))

    async def ehlo(self, name: str | None = None) -> Reply:
        """EHLO (in LMTP: LHLO), which also ends a transaction. Every verb raises `Refused` for 4yz and 5yz."""
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
        """DATA, the message, and the answer to it. Raises `ConnectionLost` or `TimedOut` when that does not come."""
        if self.lmtp:
            raise LocalProtocolError("in LMTP the message has an answer for each recipient: use send")
        ready = await self._ready(message)
        async with self.talk.turn():
            self.talk.listen(Data())
            reply = await self.talk.ask(Data())
            if reply.refused:
                raise Refused(Data(), reply)
            self.talk.disarm()
            async with aclosing(ready.pieces()) as pieces:
                async for piece in pieces:
                    self.protocol.send_body(piece)
                    await self.talk.flush()
            self.protocol.end_body()
            await self.talk.flush()
            return accepted(END, await self.talk.reply())

    async def bdat(self, octets: bytes, *, last: bool = False) -> Reply:
        """BDAT: these octets, as they are (RFC 3030 2). Line ends are your business."""
        command = BdatLast(len(octets)) if last else Bdat(len(octets))
        async with self.talk.turn():
            self.talk.listen(command)
            self.protocol.ask(command)
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
        """STARTTLS, the handshake, and EHLO again (RFC 3207). The certificate is checked as ``tls="required"`` has it."""
        self._context, self._mode = ssl_context or self._context, "required"
        async with self.talk.turn():
            self.talk.listen(StartTlsCommand())
            await self._secure()
        assert self.tls is not None
        return self.tls

    async def auth(self, credentials: Login) -> Reply:
        """AUTH, by the best mechanism that both sides know (RFC 4954)."""
        async with self.talk.turn():
            self.talk.listen(AuthCommand("*"))
            return await self._login(Password(*credentials) if isinstance(credentials, tuple) else credentials)

    def params(self, kind: type[Mail | Rcpt], values: Mapping[str, object]) -> Params:
        """Keyword values as parameters. Raises ValueError and TypeError for what is none, NotOffered for what is not on offer."""
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

        Raises `NobodyAccepted`, a `Refused`, only when no recipient was accepted; `DeliveryUnknown` when the connection was lost
        between the end of the message and its answer; `ConnectionLost`, `TimedOut` and `RemoteProtocolError` when it was lost before;
        ValueError, TypeError, `NotOffered` and `LocalProtocolError` before anything was sent.
        """
        turn = self.talk.turn()
        self._deliveries = []
        try:
            async with turn:
                delivery = await Delivery.prepare(self, sender, recipients, message, progress, params)
                self._deliveries.append(delivery)
                await self.talk.ready(delivery.mail)
                await delivery.run()
        except (ConnectionLost, TimedOut, RemoteProtocolError) as exc:
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

        Where the server takes chunks, the next message is on its way before the last one is answered. A message that nobody was
        accepted for is no error here: its result says so. Raises as `send` does otherwise; then ``last_results`` has what is known.
        """
        turn = self.talk.turn()
        self._deliveries = []
        try:
            async with turn:
                await Batch(self, self._deliveries).run(messages, progress, params)
        except (ConnectionLost, TimedOut, RemoteProtocolError) as exc:
            self._lost(exc)
            raise
        return list(self.last_results)

    def _lost(self, exc: ConnectionLost | TimedOut | RemoteProtocolError) -> None:
        """No more will be heard: DeliveryUnknown if that was between the end of a message and its answer (RFC 1047)."""
        command = END if isinstance(exc, RemoteProtocolError) else exc.command
        for delivery in self._deliveries:
            if isinstance(delivery, Delivery) and delivery.in_the_dark:
                raise DeliveryUnknown(command, str(exc), delivery.result()) from exc


def _own_name(stream: trio.abc.Stream) -> str:
    """Who we are when nobody says: our address, as a literal (RFC 5321 4.1.1.1). Our host's name is seldom known out there."""
    host = "127.0.0.1"
    if isinstance(stream, trio.SSLStream):
        return _own_name(stream.transport_stream)
    if isinstance(stream, trio.SocketStream):
        with suppress(OSError):
            address = stream.socket.getsockname()
            host = address[0] if isinstance(address, tuple) else host
    return f"[IPv6:{host.partition('%')[0]}]" if ":" in host else f"[{host}]"
