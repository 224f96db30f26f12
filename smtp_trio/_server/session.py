"""`Session`: one session with one client, as hooks see it. `SessionTask` runs it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import trio

from .._types import Envelope, MessageState, Peer, TlsInfo
from ..protocol import Command, CountedCommand, Data, Hello, Reply
from ..protocol.arguments import check_callable, check_type
from ..protocol.replies import OK
from .received import protocol_name, received_field
from .recipient_replies import queued
from .transaction import Transaction

if TYPE_CHECKING:
    from ..protocol.proxy_header import ProxyHeader
    from .proxies import Connection
    from .server import Server
    from .session_task import SessionTask


class Session:
    """One client's session, as hooks see it.

    The properties show the present state. `success`, `failure` and `send` record the reply of the hook that is running.
    A hook can also return a `Reply`, which has the same effect.
    """

    __slots__ = (
        "__weakref__",
        "_hooks",
        "_protocol",
        "_transaction",
        "_wire",
        "connection_peer",
        "context",
        "id",
        "local",
        "peer",
        "proxy_header",
        "server",
        "tls",
    )

    def __init__(self, server: Server, connection: Connection, task: SessionTask) -> None:
        #: Unique and unguessable; part of every line of the log about this session.
        self.id: str = task.id
        #: The server that this is a session of.
        self.server: Server = server
        #: The client: its end of the connection, or what a PROXY header or XCLIENT has named instead.
        self.peer: Peer = connection.peer
        #: The server's end of the connection, or the address that the client has connected to at a proxy.
        self.local: Peer = connection.local
        #: The other end of the connection: the client, or the proxy in front of it.
        self.connection_peer: Peer = connection.connection_peer
        #: The PROXY header, which a balancer in ``Server.proxy_from`` has sent; None without one.
        self.proxy_header: ProxyHeader | None = connection.header
        #: A dict for the application, which lasts as long as the session. XCLIENT begins a session anew, and empties it.
        self.context: dict[Any, Any] = {}
        #: The result of the TLS handshake; None without TLS.
        self.tls: TlsInfo | None = None
        self._hooks = task.hooks
        self._protocol = task.protocol
        self._transaction = task.transaction
        self._wire = task.wire

    @property
    def stream(self) -> trio.abc.Stream:
        """The Trio stream; a `trio.SSLStream` when TLS is active. Reading or writing it breaks the protocol."""
        return self._wire.stream

    @property
    def hello(self) -> Hello | None:
        """The last accepted HELO or EHLO; LHLO in LMTP."""
        return self._protocol.state.hello

    @property
    def user(self) -> str | None:
        """The authenticated user (RFC 4954), or None."""
        return self._protocol.state.user

    @property
    def xclient(self) -> Mapping[str, str | None]:
        """The attributes that a proxy has sent with XCLIENT, by name; empty without any. None is an unavailable one."""
        return self._protocol.state.client

    @property
    def xforward(self) -> Mapping[str, str | None]:
        """The attributes that a filter has sent with XFORWARD for the message, by name; empty without any."""
        return self._protocol.state.forwarded

    @property
    def pending(self) -> Command | None:
        """The command that is being answered, or None."""
        pending = self._protocol.pending
        return pending if isinstance(pending, Command) else None

    @property
    def buffered(self) -> int:
        """The number of octets that were received after the pending command and have not been parsed."""
        return self._protocol.buffered

    @property
    def envelope(self) -> Envelope | None:
        """The envelope of the open transaction, or of the one that the pending MAIL would open; otherwise None."""
        return self._transaction.envelope(self._protocol)

    @property
    def last_message(self) -> MessageState | None:
        """The state of the last message; None before the first."""
        return self._transaction.last_message

    @property
    def protocol_name(self) -> str:
        """The protocol that the client uses, as registered by RFC 3848, for example ``ESMTPSA``."""
        tls, user, lmtp = self.tls is not None, self.user is not None, self._protocol.grammar.lmtp
        return protocol_name(self.hello, self.envelope, tls=tls, user=user, lmtp=lmtp)

    def received(self) -> bytes:
        """Return the ``Received:`` field for the message that is being received, with its CRLF (RFC 5321 4.4).

        Put it before the message. A message whose first line is not a header field could continue the field there
        (RFC 5322 2.2.3), so an empty line comes between them: if the message has already been read, at the end of what
        this returns, else at the beginning of the body that is read after the call.
        """
        # An object that is used in place of a session, such as a stub in a test, need not have a transaction.
        transaction: Transaction | None = getattr(self, "_transaction", None)
        body = None if transaction is None else transaction.body
        field = received_field(
            server=self.server.name,
            protocol=self.protocol_name,
            hello=self.hello,
            peer=self.peer,
            envelope=self.envelope,
            now=self.server.now(),
        )
        return field if body is None else field + body.separator()

    def take_over(self, function: Callable[[trio.abc.Stream], Awaitable[object]]) -> None:
        """Let ``await function(stream)`` go on with the connection after the 250 to ATRN (RFC 2645).

        For the `atrn` hook: the client is the server from then on, so the function runs a `Client` on the stream. It has
        no time limit of the session, and the session ends with it. An exception goes to the `error` hook.

        :raises RuntimeError: this is not the hook of ATRN.
        """
        if self._hooks.command().verb != "ATRN":
            raise RuntimeError("take_over can be called in the atrn hook only")
        check_callable(function, "function")
        self._hooks.successor = function

    def provide(self, octets: bytes | AsyncIterable[bytes]) -> None:
        """Provide what the URL of a BURL refers to (RFC 4468), in the `burl` hook: the octets, or an iterable of pieces.

        They become a part of the message, with CRLF at the end of each line. The next piece is read when the data hook
        has read the last one. The limits are those of a client that sends the message: ``timeouts.block`` seconds for each
        piece, and `Limits.data_rate`, `Limits.message_time` and `Limits.memory`; beyond them the message gets 451. So it
        does after an exception of the iterable, which goes to the `error` hook.

        :raises RuntimeError: this is not the hook of BURL.
        """
        if self._hooks.command().verb != "BURL":
            raise RuntimeError("provide can be called in the burl hook only")
        check_type(octets, "octets", (bytes, AsyncIterable), shown=False)
        self._hooks.provided = octets

    def success(self, text: str | None = None) -> None:
        """Record the default reply to the pending command, with ``text`` if given. It is sent when the hook returns.

        For a command whose default reply is a refusal, such as EXPN, the reply is 250.

        :raises RuntimeError: the hook cannot reply, or has already recorded a reply.
        """
        command = self._hooks.command()
        envelope = self.envelope
        if envelope is not None and isinstance(command, CountedCommand | Data):
            reply = queued(envelope)  # a data hook replies to the message, not to the command DATA
        else:
            reply = self._protocol.default_reply(command)
            if reply.refused:  # the default is that of a server without the hook
                reply = OK
        self._hooks.settle(reply if text is None else Reply(reply.code, text, reply.status))

    def failure(self, code: int, text: str, status: str | None = None) -> None:
        """Record a refusal of the pending command. It is sent when the hook returns.

        :param code: a 4yz or 5yz reply code that the command may have (RFC 5321 4.3.2).
        :param status: the enhanced status code (RFC 3463), for example "5.1.1"; None for the default of this code.
        :raises ValueError: ``code`` is not a 4yz or 5yz code.
        :raises RuntimeError: the hook cannot reply, or has already recorded a reply.
        """
        if not 400 <= code <= 599:
            raise ValueError(f"the code of a refusal must be 400 to 599, got {code}")
        self._hooks.settle(Reply(code, text, status))

    def send(self, code: int, text: str, status: str | None = None) -> None:
        """Record a reply to the pending command, with any code that it may have. It is sent when the hook returns.

        :raises RuntimeError: the hook cannot reply, or has already recorded a reply.
        """
        self._hooks.settle(Reply(code, text, status))
