"""How a client begins and ends: greeting, EHLO, STARTTLS and AUTH; QUIT. What it does in between is in `_client`."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

import trio

from .._instrument import announce
from .._types import TlsInfo
from ..protocol import (
    ClientProtocol,
    Connect,
    Ehlo,
    Extension,
    Helo,
    LocalProtocolError,
    NotOfferedError,
    Reply,
    ReplyError,
    SMTPError,
)
from ..protocol.extensions import KNOWN
from ..protocol.extensions.lmtp import Lhlo, Lmtp
from ..protocol.extensions.starttls import StartTlsCommand
from ..protocol.grammar import Grammar
from ..protocol.sasl import BearerToken, PasswordCredentials
from .exchange import ClientTimeouts, Exchange, accepted, timeouts_of
from .login import log_in
from .results import GreetingError, TimedOutError, TlsHandshakeError

TlsMode = Literal["opportunistic", "required", "implicit", "never"]
Login = PasswordCredentials | BearerToken | tuple[str, str]

GRAMMAR = Grammar(KNOWN)
LMTP_GRAMMAR = Grammar((*KNOWN, Lmtp()))


class Opening:
    """The part of a client that opens and closes its connection (of `Client`, which see)."""

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
        (the default with it), "implicit" (TLS from the first octet) or "never". ``auth`` is a `PasswordCredentials`, a `BearerToken` or a pair of user
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
        self._auth = PasswordCredentials(*auth) if isinstance(auth, tuple) else auth
        self._allow_cleartext = allow_cleartext
        self.protocol: ClientProtocol = ClientProtocol(LMTP_GRAMMAR if lmtp else GRAMMAR)
        self.talk: Exchange = Exchange(stream, self.protocol, timeouts_of(timeout, timeouts))
        self._name = name or _own_name(stream)
        if not self._name.isascii() or not self._name.isprintable() or " " in self._name:
            raise ValueError(f"name {self._name!a} is no domain or address literal (RFC 5321 4.1.1.1)")
        if self._mode in ("required", "implicit") and not host:
            raise ValueError(f"tls={self._mode!r} needs a host, whose certificate is checked")
        #: Whether a certificate that is not right ends an opportunistic handshake, and why it was not right when we tried before.
        self.strict_tls: bool = False
        self.tls_problem: str | None = None
        announce(self)

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
        # RFC 5321 4.1.1.10: a refusal is no reason to leave without a goodbye. Where none can be said, `quit` just closes.
        await (self.quit() if exc is None or isinstance(exc, SMTPError) else self.talk.close())

    async def quit(self) -> None:
        """Say QUIT and close the connection. Waits 5 s for the answer at most, and does not fail, whatever the server does."""
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
                raise GreetingError(Connect(), greeting)
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
                raise NotOfferedError("the server does not offer STARTTLS, and TLS is required here")
            return
        reply = await self.talk.ask(StartTlsCommand())
        if reply.accepted:
            await self._shake_hands()
            await self._hello()
        elif self._mode == "required" or self.protocol.closed:
            raise ReplyError(StartTlsCommand(), reply)

    async def _shake_hands(self) -> None:
        verify = self.strict_tls or self._mode != "opportunistic"
        context = self._context or ssl.create_default_context()
        if not verify:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        limit, host = self.talk.timeouts.tls, self.host.rstrip(".") or None
        begin = Connect() if self._mode == "implicit" else StartTlsCommand()
        self.talk.disarm()
        try:
            stream = await self.talk.wire.start_tls(context, limit, server_side=False, server_hostname=host)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise TlsHandshakeError(begin, exc.__cause__ or exc) from exc
        except trio.TooSlowError:
            raise TimedOutError(begin, limit) from None
        verified = context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
        self.tls = TlsInfo.of(stream, verified=verified, problem=None if verified else self.tls_problem)
        if self._mode != "implicit":
            self.protocol.secured()

    async def _login(self, credentials: PasswordCredentials | BearerToken) -> Reply:
        verified = self.tls is not None and self.tls.verified
        if not (verified or self._allow_cleartext):
            raise LocalProtocolError(
                "credentials do not go over a connection that was not verified, unless you allow_cleartext"
            )
        reply = await log_in(self.talk, credentials, secure=self.tls is not None, allow_cleartext=self._allow_cleartext)
        self.user = credentials.user
        return reply


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
