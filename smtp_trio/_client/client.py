"""`Client`: one connection to one server, with a method for each verb and for whole messages."""

from __future__ import annotations

import email.message
import ssl
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Self, TypedDict

import trio

from .._instrument import announce
from .._types import TlsInfo
from .._wire import check_context
from ..protocol import (
    Command,
    Data,
    Ehlo,
    Expn,
    Extension,
    Helo,
    Help,
    Mail,
    Noop,
    Rcpt,
    RemoteProtocolError,
    Reply,
    Rset,
    SMTPError,
    Vrfy,
)
from ..protocol.arguments import check_items, check_type
from ..protocol.extensions.auth import AuthCommand
from ..protocol.extensions.defaults import merge_extensions
from ..protocol.extensions.known import KNOWN
from ..protocol.extensions.lmtp import Lhlo, Lmtp
from ..protocol.extensions.starttls import StartTlsCommand
from ..protocol.extensions.xclient import XclientCommand
from ..protocol.extensions.xforward import XforwardCommand
from ..protocol.grammar import Grammar
from ..protocol.hosts import check_hello_name
from ..protocol.sasl import Mechanism
from .addresses import find_envelope, list_recipients, parse_mailbox
from .attributes import attribute_commands, make_attributes
from .delivery import Delivery
from .exchange import Exchange, check_reply
from .handshake import Handshake, TlsMode
from .in_doubt import raise_if_in_doubt
from .login import KINDS, Login, read_login
from .message import Message
from .message_commands import send_chunk, send_data, send_url
from .missing_fields import complete_message
from .pipeline import END, Messages, Pipeline, open_source
from .results import (
    AllRecipientsRejectedError,
    ConnectionLostError,
    DeliveryRecord,
    PartialResult,
    Result,
    TimedOutError,
    clear_record,
    not_sent,
)
from .timeouts import ClientTimeouts, client_timeouts
from .transaction import Progress, check_reporting

#: Shared by all clients that add no extensions of their own.
GRAMMAR = Grammar(KNOWN)
LMTP_GRAMMAR = Grammar((*KNOWN, Lmtp()))


class ClientSettings(TypedDict, total=False):
    """The keyword arguments of `Client`, except for ``host``."""

    tls: TlsMode | None
    ssl_context: ssl.SSLContext | None
    auth: Login | None
    auth_mechanisms: Iterable[str | Mechanism] | None
    name: str | None
    lmtp: bool
    allow_cleartext: bool
    timeout: float | ClientTimeouts | None
    extensions: Iterable[Extension]


# Why the client has no task of its own
#
# A background task could read replies as they arrive, and notice at once that the server has closed the connection. It
# would need a nursery, and with it every exception of the client would come in an exception group, and a cancellation
# of the nursery would end calls in the middle. So all work is done in the task that calls a method, except that a system
# task, one for all clients, watches the deadlines (`ReplyTimer`). Two things follow:
#
# * What the server sends between two calls is read at the beginning of the next one (`Exchange.check_unsolicited`).
# * Only one task can use the client. A second one gets trio.BusyResourceError and does not wait, because a program
#   that sends from several tasks over one connection most likely wants a `Pool`.
#
# What `send` raises depends on one question: may the server have accepted the message? Up to the last octet of the
# message the answer is no, and after its reply the answer is known. If the connection is lost in between, delivery is
# unknown (RFC 1047), and `raise_if_in_doubt` replaces the exception by `DeliveryUnknownError`. The PartialResult of
# each message, which the transaction keeps up to date, decides this. It is also what `last_results` returns when a call
# was cancelled, since a Cancelled exception cannot carry a result.
class Client:
    """A client of one server, over a stream that is already connected.

    Use it with ``async with``: on entry it receives the greeting and sends EHLO, STARTTLS and AUTH; on exit it sends
    QUIT. It opens no nursery, so its errors are never wrapped in exception groups. Only one task at a time may use it
    (trio.BusyResourceError otherwise); `Pool` serves several. Every method that sends a command raises
    `ConnectionLostError`, `TimedOutError` and RemoteProtocolError if the connection fails, and trio.ClosedResourceError
    if an earlier call has closed it.

    :param stream: a connected Trio stream to the server.
    :param host: the name of the server, for its certificate (and SNI).
    :param tls: "opportunistic": STARTTLS if the server offers it, whatever its certificate; this is the default without
        ``auth`` and ``ssl_context``. "required": STARTTLS with a valid certificate, the default with either of them.
        "implicit": TLS from the first octet (RFC 8314 3). "never": no TLS.
    :param ssl_context: the context for TLS in every mode, instead of `ssl.create_default_context`. It decides which
        certificates are valid, with "opportunistic" too.
    :param auth: a `PasswordCredentials`, a `BearerToken`, an `ExternalCredentials`, an `AnonymousCredentials` or a
        tuple of user and password. Credentials are sent only over TLS with a verified certificate.
    :param auth_mechanisms: the SASL mechanisms that may be used, best first: their names, or instances of
        `smtp_trio.protocol.sasl.Mechanism`. The default is all in `smtp_trio.protocol.sasl.MECHANISMS`.
    :param name: the domain or address literal that EHLO sends (RFC 5321 4.1.1.1); the default is the local address.
    :param lmtp: use LMTP (RFC 2033).
    :param allow_cleartext: send credentials without TLS or without a verified certificate too; with ``tls="never"`` or
        ``tls="opportunistic"``, because TLS is required by default.
    :param timeout: seconds for each reply, or a `ClientTimeouts`; 0 means no limit. The defaults are those of RFC 5321
        4.5.3.2.
    :param extensions: extensions to support besides the built-in ones (`smtp_trio.protocol.extensions.KNOWN`); one with
        the keyword of a built-in extension replaces it.

    Raises ValueError for an invalid ``host``, for a ``name`` that EHLO cannot send, for an unknown ``tls`` or mechanism,
    and for settings that contradict each other, and TypeError for arguments of a wrong type.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        host: str = "",
        tls: TlsMode | None = None,
        ssl_context: ssl.SSLContext | None = None,
        auth: Login | None = None,
        auth_mechanisms: Iterable[str | Mechanism] | None = None,
        name: str | None = None,
        lmtp: bool = False,
        allow_cleartext: bool = False,
        timeout: float | ClientTimeouts | None = None,
        extensions: Iterable[Extension] = (),
    ) -> None:
        credentials, problem = read_login(auth, "auth")
        del auth
        if problem is not None:
            raise problem
        grammar = LMTP_GRAMMAR if lmtp else GRAMMAR
        check_type(stream, "stream", trio.abc.Stream)
        check_type(lmtp, "lmtp", bool)
        if added := check_items(extensions, "extensions", Extension):
            grammar = Grammar(merge_extensions(grammar.extensions, added))
        self._exchange = Exchange(stream, grammar, client_timeouts(timeout), lmtp=lmtp)
        self._handshake = Handshake(
            self._exchange,
            host=host,
            tls=tls,
            ssl_context=ssl_context,
            auth=credentials,
            name=name,
            allow_cleartext=allow_cleartext,
            mechanisms=auth_mechanisms,
        )
        #: The messages of the last `send` or `send_many`.
        self._results: list[PartialResult] = []
        #: Opens a connection like this one; None if that is not possible, or the session was changed by a method.
        self._reopen: Callable[[], Awaitable[Client]] | None = None
        #: The transactions begun over earlier connections.
        self._earlier_transactions = 0
        announce(self)

    # --- state of the connection ------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The name of the server, as given."""
        return self._handshake.host

    @property
    def lmtp(self) -> bool:
        """True if this client uses LMTP (RFC 2033)."""
        return self._exchange.lmtp

    @property
    def stream(self) -> trio.abc.Stream:
        """The stream in use, a `trio.SSLStream` with TLS. Reading from it or writing to it breaks the session."""
        return self._exchange.wire.stream

    @property
    def tls(self) -> TlsInfo | None:
        """The TLS connection in use; None without TLS."""
        return self._exchange.tls

    @property
    def user(self) -> str | None:
        """The user that AUTH has authenticated, or None."""
        return self._handshake.user

    @property
    def greeting(self) -> Reply | None:
        """The server's greeting; None before ``async with`` was entered."""
        return self._handshake.greeting

    @property
    def offered(self) -> Mapping[str, Extension]:
        """The extensions that the server offers and this client supports, by keyword."""
        return self._exchange.protocol.offered

    @property
    def capabilities(self) -> Mapping[str, tuple[str, ...]]:
        """Everything in the server's reply to EHLO: the parameters of each keyword (RFC 5321 4.1.1.1)."""
        return self._exchange.protocol.capabilities

    @property
    def usable(self) -> bool:
        """True if the connection is open and no reply is outstanding, so that a command can be sent."""
        return self._exchange.usable

    @property
    def last_results(self) -> tuple[Result, ...]:
        """The results so far of the last `send` or `send_many`, also after an error or a cancellation."""
        return tuple(partial.result() for partial in self._results)

    @property
    def last_result(self) -> Result | None:
        """The result so far of the last message. Recipients without a reply have no outcome in it."""
        return self._results[-1].result() if self._results else None

    # --- beginning and end ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self.greeting is None:  # otherwise `connect` has opened the session
            await self._open()
        return self

    async def _open(self, *, check_certificate: bool = False, certificate_problem: str | None = None) -> None:
        """Open the session (see `Handshake.run`); close the connection if that fails."""
        try:
            await self._handshake.run(check_certificate=check_certificate, certificate_problem=certificate_problem)
        except SMTPError:
            await self._exchange.quit()  # RFC 5321 3.1: after a 554 greeting the client still sends QUIT
            raise
        except BaseException:
            await self._exchange.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # RFC 5321 4.1.1.10: a client sends QUIT before it closes, also after a refusal. `quit` only closes if it cannot
        # be sent.
        await (self.quit() if exc is None or isinstance(exc, SMTPError) else self.aclose())

    async def quit(self) -> None:
        """Send QUIT and close the connection (RFC 5321 4.1.1.10).

        Errors are ignored. The client waits for the reply for at most ``timeout.quit`` seconds (5 by default).
        """
        await self._exchange.quit()

    async def aclose(self) -> None:
        """Close the connection at once, without QUIT."""
        await self._exchange.close()

    # --- one command at a time --------------------------------------------------------------------------------------

    async def command(self, command: Command) -> Reply:
        """Send a command that has no method here, such as one of a third-party extension; return the reply.

        The extension must be one of ``extensions``. The reply may take ``timeout.other`` seconds.

        Raises `ReplyError` if the command is refused, NotOfferedError if the server does not offer its extension,
        LocalProtocolError if it is out of order, and ValueError if it cannot be sent as one line. The last includes
        DATA, BDAT, STARTTLS and AUTH, which have methods of their own.
        """
        check_type(command, "command", Command)
        if command.counted or command.starts_tls or isinstance(command, Data | AuthCommand):
            raise ValueError(f"{command.verb} is more than one line and a reply: use the method of that name")
        self._reopen = None
        return await self._request(command)

    async def _request(self, command: Command) -> Reply:
        async with self._exchange.operation():
            self._exchange.check_unsolicited(command)
            return check_reply(command, await self._exchange.request(command))

    async def ehlo(self, name: str | None = None) -> Reply:
        """Send EHLO (in LMTP: LHLO), which also ends a transaction (RFC 5321 4.1.1.1).

        ``name`` defaults to that of the client. Raises `ReplyError` if it is refused.
        """
        self._reopen = None
        kind = Lhlo if self.lmtp else Ehlo
        return await self._request(kind(self._handshake.name if name is None else check_hello_name(name, "name")))

    async def helo(self, name: str | None = None) -> Reply:
        """Send HELO, after which no extensions are in use (RFC 5321 4.1.1.1).

        ``name`` defaults to that of the client. Raises `ReplyError` if it is refused.
        """
        self._reopen = None
        return await self._request(Helo(self._handshake.name if name is None else check_hello_name(name, "name")))

    async def mail(self, sender: str, **params: object) -> Reply:
        """Send MAIL FROM (RFC 5321 4.1.1.2). Raises `ReplyError` if it is refused.

        ``sender`` "" is the null reverse-path. Parameters are keyword arguments with typed values: ``size=100,
        body="8BITMIME", ret="HDRS", envid="x"`` for example. Raises ValueError and TypeError for invalid ones.
        """
        path = parse_mailbox(sender, "sender", null=True)
        return await self._request(Mail(path, self._exchange.params(Mail, params)))

    async def rcpt(self, recipient: str, **params: object) -> Reply:
        """Send RCPT TO (RFC 5321 4.1.1.3). Raises `ReplyError` if it is refused.

        Parameters are keyword arguments, as in ``notify=("FAILURE", "DELAY"), orcpt="rfc822;a@example.org"`` (RFC
        3461). Raises ValueError and TypeError for invalid ones.
        """
        path = parse_mailbox(recipient, "recipient")
        return await self._request(Rcpt(path, self._exchange.params(Rcpt, params)))

    async def data(self, message: Message) -> Reply:
        """Send DATA, the message and its end; return the reply to the message (RFC 5321 4.1.1.4).

        Line ends are converted to CRLF and dots are stuffed. Raises `ReplyError` if DATA or the message is refused,
        and `DeliveryUnknownError`, whose ``result`` is empty, if the connection was lost before the reply to the message.
        """
        return await send_data(self._exchange, message)

    async def bdat(self, octets: bytes, *, last: bool = False) -> Reply:
        """Send one chunk of a message by BDAT (RFC 3030 2); ``last`` ends the message.

        The octets are sent unchanged: line ends are not converted. Raises `ReplyError` if the chunk is refused,
        `DeliveryUnknownError` as `data` does, and LocalProtocolError for NUL unless MAIL had ``body="BINARYMIME"`` (RFC 3030 3).
        """
        check_type(octets, "octets", bytes, shown=False)
        check_type(last, "last", bool)
        return await send_chunk(self._exchange, octets, last=last)

    async def burl(self, url: str, *, last: bool = False) -> Reply:
        """Send BURL: the server adds what ``url`` refers to to the message (RFC 4468); ``last`` ends the message.

        It can be mixed with `bdat`. Raises as that does, and ValueError for what is not a URL.
        """
        return await send_url(self._exchange, url, last=last)

    async def rset(self) -> Reply:
        """Send RSET, which ends the transaction (RFC 5321 4.1.1.5). Raises `ReplyError` if it is refused."""
        return await self._request(Rset())

    async def noop(self) -> Reply:
        """Send NOOP, which does nothing (RFC 5321 4.1.1.9). Raises `ReplyError` if it is refused."""
        return await self._request(Noop())

    async def vrfy(self, user: str) -> Reply:
        """Send VRFY, which asks whether ``user`` is a mailbox (RFC 5321 4.1.1.6).

        Raises `ReplyError` if it is refused.
        """
        check_type(user, "user", str)
        return await self._request(Vrfy(user))

    async def expn(self, name: str) -> Reply:
        """Send EXPN, which asks for the members of a mailing list (RFC 5321 4.1.1.7).

        Raises `ReplyError` if it is refused.
        """
        check_type(name, "name", str)
        return await self._request(Expn(name))

    async def help(self, topic: str = "") -> Reply:
        """Send HELP (RFC 5321 4.1.1.8). Raises `ReplyError` if it is refused."""
        check_type(topic, "topic", str)
        return await self._request(Help(topic))

    async def starttls(self, ssl_context: ssl.SSLContext | None = None) -> TlsInfo:
        """Send STARTTLS, do the TLS handshake and send EHLO again (RFC 3207). The certificate must be valid.

        ``ssl_context`` replaces the one given to the client. Raises ValueError if the client has no ``host`` to check
        the certificate for, NotOfferedError if the server does not offer STARTTLS, `ReplyError` if it refuses, and
        `TlsHandshakeError`.
        """
        check_context(ssl_context, "ssl_context", server_side=False)
        self._reopen = None
        async with self._exchange.operation():
            self._exchange.check_unsolicited(StartTlsCommand())
            await self._handshake.start_tls(ssl_context)
        assert self.tls is not None
        return self.tls

    async def auth(self, credentials: Login, *, mechanisms: Iterable[str | Mechanism] | None = None) -> Reply:
        """Log in by the best mechanism that both sides know (RFC 4954).

        ``mechanisms`` are those that may be used, best first, instead of the client's ``auth_mechanisms``.
        If the server refuses one that it offers (432, 504 or 534), the next one is tried.

        ``credentials`` are as for the client's ``auth``. They are sent only over TLS with a verified certificate,
        unless the client has ``allow_cleartext``. Raises `ReplyError` if the server refuses them, NotOfferedError and
        LocalProtocolError if no mechanism can be used.
        """
        login, problem = read_login(credentials, "credentials")
        del credentials
        if problem is not None:
            raise problem
        check_type(login, "credentials", KINDS, shown=False)  # and not None
        mechanisms = None if mechanisms is None else check_items(mechanisms, "mechanisms", str, Mechanism)
        self._reopen = None
        async with self._exchange.operation():
            self._exchange.check_unsolicited(AuthCommand("*"))
            assert login is not None
            return await self._handshake.log_in(login, mechanisms)

    async def xclient(self, **attributes: str | int | None) -> Reply:
        """Name the client for which this one connects, with XCLIENT (Postfix), and send EHLO again.

        The attributes are ``name``, ``addr``, ``port``, ``proto`` ("SMTP" or "ESMTP"), ``helo``, ``login``, ``destaddr`` and
        ``destport``; None is one that is not available. The server takes that client for its own from then on, and a user who has
        logged in with this one is forgotten. Returns the server's greeting.

        Raises `ReplyError` if the server refuses it, NotOfferedError if it does not offer XCLIENT or an attribute, TypeError
        for an unknown attribute, and ValueError for an invalid value.
        """
        values = make_attributes(XclientCommand, attributes)
        self._reopen = None
        async with self._exchange.operation():
            self._exchange.check_unsolicited(XclientCommand(values))
            for command in attribute_commands(self._exchange, XclientCommand, values):
                reply = check_reply(command, await self._exchange.request(command))
                await self._handshake.restart()
            return reply

    async def xforward(self, **attributes: str | int | None) -> Reply:
        """State the origin of the next message, for the log of the server, with XFORWARD (Postfix).

        The attributes are ``name``, ``addr``, ``port``, ``proto``, ``helo``, ``ident`` and ``source`` ("LOCAL" or "REMOTE"); None
        is one that is not available. Raises as `xclient` does.
        """
        values = make_attributes(XforwardCommand, attributes)
        self._reopen = None
        async with self._exchange.operation():
            self._exchange.check_unsolicited(XforwardCommand(values))
            for command in attribute_commands(self._exchange, XforwardCommand, values):
                reply = check_reply(command, await self._exchange.request(command))
            return reply

    # --- whole messages ---------------------------------------------------------------------------------------------

    async def send(
        self,
        sender: str,
        recipients: Iterable[str],
        message: Message,
        *,
        progress: Progress | None = None,
        record: DeliveryRecord | None = None,
        **params: object,
    ) -> Result:
        """Send a message in as few round trips as the server allows, and return the outcome for each recipient.

        :param sender: the reverse-path; "" is the null reverse-path, for bounces (RFC 5321 4.5.5).
        :param recipients: one address or more.
        :param message: bytes, an email message, an `os.PathLike` that names a file, or an async iterable of bytes. Line
            ends are converted to CRLF and dots are stuffed. It includes the header section.
        :param progress: called with the octets sent so far and the size of the message in octets (None if not known).
        :param record: filled with the outcomes as they arrive, for the case that the call is cancelled.
        :param params: parameters of MAIL and RCPT, as in ``ret="HDRS", envid="x", notify=("FAILURE",)`` (RFC 3461), and
            ``smtputf8=True`` for an iterable whose header is UTF-8, because MAIL is sent before that is known. The server has
            to offer them. ``mail_params`` and ``rcpt_params`` are those of an envelope that is passed on: a
            `smtp_trio.protocol.Params`, and a mapping of recipients to these. What the server does not offer is left out
            if its RFC allows it, as it does for DSN; see ``relayed_without_dsn`` of the result. ``received`` is the time at
            which that message was received, a datetime with a time zone: the time since then is subtracted from BY and MTRK.
            ``now`` returns the current time (default: that of the system).

        Raises `AllRecipientsRejectedError`, a `ReplyError`, if the message was accepted for no recipient;
        `DeliveryUnknownError` if the connection was lost between the end of the message and its reply;
        `ConnectionLostError`, `TimedOutError` and RemoteProtocolError if it was lost before. Before anything is sent it
        raises ValueError, TypeError, OSError (of a file), NotOfferedError, LocalProtocolError, and `ReplyError` for a
        message that is larger than the server accepts (552, RFC 1870 6.1) or whose time is over (554, RFC 2852 4.1.3).
        TypeError, OSError and LocalProtocolError that concern a piece of a file or of an iterable are raised while the message
        is sent. The ``result`` of an SMTPError has the outcomes so far.
        """
        check_reporting(progress, record)
        operation = self._begin_results(record)
        names = list_recipients(recipients)
        try:
            async with operation:
                delivery = await Delivery.prepare(self._exchange, sender, names, message, progress, params)
                self._results.append(delivery.partial)
                await self._exchange.prepare_transaction(delivery.mail)
                await delivery.run()
        except (ConnectionLostError, TimedOutError, RemoteProtocolError) as exc:
            raise_if_in_doubt(exc, self._results)
            if not (self._results and self._results[0].decided):
                exc.result = self.last_result or not_sent(sender, names)
                raise
        except SMTPError as exc:
            exc.result = self.last_result or not_sent(sender, names)
            raise
        result = delivery.partial.result()
        if not result.accepted and result.rejected:
            first = min(result.rejected, key=lambda each: each.not_offered)  # rather a refusal of the server
            raise AllRecipientsRejectedError(first.command, first.reply, result)
        return result

    async def send_message(
        self,
        message: email.message.Message,
        sender: str | None = None,
        recipients: Iterable[str] | None = None,
        *,
        progress: Progress | None = None,
        record: DeliveryRecord | None = None,
        add_headers: bool = True,
        **params: object,
    ) -> Result:
        """Send an email message. Its header fields name sender and recipients unless they are given (RFC 5322 3.6).

        The addresses in Bcc are recipients, but the field itself is not sent. Date and Message-ID are added if they are
        missing, unless ``add_headers`` is false; the message object is not modified. Raises as `send` does, and
        ValueError if the fields name no sender or no recipient.
        """
        check_type(message, "message", email.message.Message, shown=False)
        check_type(add_headers, "add_headers", bool)
        sender, names = await find_envelope(message, sender, recipients)
        if add_headers:
            message = await complete_message(message, sender)
        return await self.send(sender, names, message, progress=progress, record=record, **params)

    async def send_many(
        self,
        messages: Messages,
        *,
        progress: Progress | None = None,
        record: DeliveryRecord | None = None,
        **params: object,
    ) -> list[Result]:
        """Send messages, each a tuple of sender, recipients and message; return their results in the same order.

        ``messages`` is an iterable or an async iterable. If the server offers PIPELINING, the next message is sent
        before the reply to the previous one is received (RFC 2920). A message that is rejected for all recipients, or
        that is larger than the server accepts, does not raise; its result has the outcomes. Otherwise raises as `send`
        does; ``last_results`` and ``record.results`` then have the results so far, and ``result`` of the exception is
        that of the message that failed, or of the last one if the connection was lost.

        If the server has announced limits of a session (MAILMAX and RCPTDOMAINMAX, RFC 9422), a client of `connect` or of a
        `Pool` closes the connection when they are reached and goes on over a new one; raises the exceptions of `connect` then.
        It does not if a method such as `auth` has changed the session. Messages that are not sent are rejected with 452.
        """
        check_reporting(progress, record)
        operation = self._begin_results(record)
        try:
            async with open_source(messages) as source:
                item = END
                while True:
                    asynchronous, stops = isinstance(messages, AsyncIterable), self._reopen is not None
                    async with operation:
                        pipeline = Pipeline(self._exchange, self._results, asynchronous=asynchronous, stops=stops)
                        first = await anext(source, END) if item is END else item
                        item = await pipeline.run(first, source, progress, params)
                    if item is END:
                        break
                    await self._open_again()
                    operation = self._exchange.operation()
        except SMTPError as exc:
            if isinstance(exc, ConnectionLostError | TimedOutError | RemoteProtocolError):
                raise_if_in_doubt(exc, self._results)
            exc.result = exc.result or self.last_result
            raise
        return list(self.last_results)

    async def _open_again(self) -> None:
        """Go on over a new connection. Raises the exceptions of `connect`."""
        assert self._reopen is not None
        old = self._exchange
        await old.quit()
        client = await self._reopen()
        self._earlier_transactions += old.protocol.transactions_begun
        self._exchange, self._handshake = client._exchange, client._handshake

    @property
    def _transactions_begun(self) -> int:
        return self._earlier_transactions + self._exchange.protocol.transactions_begun

    def _begin_results(self, record: DeliveryRecord | None) -> Exchange:
        """Begin the results of a call; return its operation. The results of the last call are kept if a record has them.

        Raises trio.BusyResourceError, which changes no results, and trio.ClosedResourceError.
        """
        try:
            operation = self._exchange.operation()
        except trio.ClosedResourceError:
            clear_record(record)
            raise
        clear_record(record)
        self._results = [] if record is None else record._partials
        return operation
