"""The beginning of a session: greeting, EHLO, STARTTLS and AUTH."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, Literal, cast, get_args

import trio

from .._types import TlsInfo, unmap
from .._wire import check_context, verifies_peer
from ..protocol import (
    Connect,
    Ehlo,
    Hello,
    Helo,
    LocalProtocolError,
    NotOfferedError,
    RemoteProtocolError,
    Reply,
    ReplyError,
)
from ..protocol.arguments import check_choice, check_type
from ..protocol.extensions.auth import Auth, AuthCommand, AuthResponse
from ..protocol.extensions.lmtp import Lhlo
from ..protocol.extensions.starttls import StartTlsCommand
from ..protocol.hosts import check_hello_name, check_host
from ..protocol.limits import COMMAND_LINE_OCTETS
from ..protocol.reply_parser import InvalidReplyError
from ..protocol.sasl import (
    MECHANISMS,
    ClientCredentials,
    ClientExchange,
    Computation,
    Mechanism,
    MechanismContext,
    decode_challenge,
    server_end_point,
    usable_mechanisms,
)
from .default_context import default_context
from .exchange import Exchange, check_reply
from .results import ConnectionLostError, GreetingError, TimedOutError, TlsHandshakeError
from .threads import run_in_thread

TlsMode = Literal["opportunistic", "required", "implicit", "never"]


def tls_mode(tls: TlsMode | None, ssl_context: ssl.SSLContext | None, auth: object) -> TlsMode:
    """Return ``tls``, or the default if it is None.

    A caller with credentials must know the server, and an ``ssl_context`` determines which servers are trusted, or has the
    certificate by which the server knows the client. Opportunistic TLS would ignore that without an error.
    """
    return tls or ("opportunistic" if ssl_context is None and auth is None else "required")


def check_login(
    tls: object, ssl_context: object, mechanisms: Iterable[str | Mechanism] | None, *, allow_cleartext: object
) -> None:
    """Raise TypeError or ValueError for an invalid argument of this name.

    Without the check of ``tls``, a value that is not known would mean that nothing is encrypted.
    """
    check_choice(tls, "tls", get_args(TlsMode), optional=True)
    check_context(ssl_context, "ssl_context", server_side=False)
    check_type(allow_cleartext, "allow_cleartext", bool)
    known_mechanisms(mechanisms)


#: Replies to EHLO after which HELO is tried: those of RFC 5321 4.1.1.1 and 4.2.4 for a command that is not implemented,
#: and others that servers and filters without EHLO send instead.
TRY_HELO: Final = frozenset({451, 500, 501, 502, 503, 504, 550, 554})
#: Replies to AUTH that refuse the mechanism, and not the credentials (RFC 4954 4 and 6).
#: 432: "a password transition is needed", for which the user logs in by another mechanism once.
MECHANISM_REFUSED: Final = frozenset({432, 504, 534})


def known_mechanisms(wanted: Iterable[str | Mechanism] | None) -> list[Mechanism]:
    """Return the SASL mechanisms, those that are given by name too, or all. Raises ValueError for an unknown name."""
    if wanted is None:
        return list(MECHANISMS.values())
    if isinstance(wanted, str):
        raise TypeError("mechanisms must be a list of names, not a str")
    found = [each if isinstance(each, Mechanism) else each.upper() for each in wanted]
    if unknown := [name for name in found if isinstance(name, str) and name not in MECHANISMS]:
        raise ValueError(f"unknown SASL mechanism: {', '.join(unknown)}; known are {', '.join(MECHANISMS)}")
    return [each if isinstance(each, Mechanism) else MECHANISMS[each] for each in found]


# A wrong port, or a wrong ``tls``
#
# Port 465 expects TLS from the first octet (RFC 8314 3). Without it, client and server wait for each other: for the
# greeting, and for the ClientHello. With it, and on a port for STARTTLS, the greeting is taken for a TLS record. And some
# other service may use the port. Each of these is a frequent mistake, and the errors below name it.

#: The first octets by which services that are not SMTP are known.
OTHER_SERVICES: Final = {"HTTP/": "HTTP", "SSH-": "SSH", "+OK": "POP3", "* ": "IMAP"}
#: The reasons of OpenSSL, by version, for octets that are not TLS.
NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}
)
NEEDS_IMPLICIT: Final = (
    '; a server that expects TLS from the first octet, as on port 465, needs tls="implicit" (RFC 8314 3)'
)
#: `TlsInfo.problem` if the context does not check certificates: opportunistic TLS over a stream that the client has not
#: opened itself, which cannot be opened again without the check, or a context of the caller.
NOT_CHECKED: Final = "the certificate was not checked"
NEEDS_STARTTLS: Final = '; the server does not begin with TLS on this port: use tls="required" for STARTTLS'


class Handshake:
    """Opens the session of one client, and repeats parts of that for `Client.starttls` and `Client.auth`."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        host: str,
        tls: TlsMode | None,
        ssl_context: ssl.SSLContext | None,
        auth: ClientCredentials | None,
        name: str | None,
        allow_cleartext: bool,
        mechanisms: Iterable[str | Mechanism] | None,
    ) -> None:
        self.host: str = host
        # The name in the certificate has A-labels (RFC 6125 6.4.2) and no final dot; an address has no scope. From
        # `connect`, ``host`` may be the path of a socket.
        check_type(host, "host", str)
        check_login(tls, ssl_context, mechanisms, allow_cleartext=allow_cleartext)
        name_or_path = host if not host or "/" in host else check_host(host, "host")
        self._certificate_name = name_or_path.partition("%")[0].rstrip(".") or None
        #: The name that EHLO sends.
        self.name: str = _local_literal(exchange.wire.stream) if name is None else check_hello_name(name, "name")
        #: The server's greeting, once the whole handshake has succeeded.
        self.greeting: Reply | None = None
        #: The authenticated user, or None.
        self.user: str | None = None
        self._exchange = exchange
        self._tls: TlsMode = tls_mode(tls, ssl_context, auth)
        self._ssl_context = ssl_context
        self._auth = auth
        self._allow_cleartext = allow_cleartext
        self._mechanisms = known_mechanisms(mechanisms)
        # Why the certificate was not valid in an earlier attempt, and whether it must be valid in this one although TLS
        # is opportunistic. See connect.py.
        self._certificate_problem: str | None = None
        self._check_certificate = False
        if self._tls in ("required", "implicit") and not host and (ssl_context is None or ssl_context.check_hostname):
            raise ValueError(f"tls={self._tls!r} needs a host, for which the certificate is checked")

    # --- the whole handshake ----------------------------------------------------------------------------------------

    async def run(self, *, check_certificate: bool = False, certificate_problem: str | None = None) -> None:
        """Open the session, up to and including AUTH.

        ``check_certificate`` makes opportunistic TLS fail on a certificate that is not valid; ``certificate_problem``
        is what was wrong with it in an earlier attempt, for `TlsInfo.problem`.
        """
        self._check_certificate, self._certificate_problem = check_certificate, certificate_problem
        try:
            await self._run()
        except TimedOutError as exc:
            if isinstance(exc.command, Connect) and self._exchange.tls is None and self._tls != "implicit":
                raise TimedOutError(exc.command, self._exchange.timeouts.greeting, NEEDS_IMPLICIT) from None
            raise

    async def _run(self) -> None:
        exchange = self._exchange
        async with exchange:
            if self._tls == "implicit":
                await self._tls_handshake()
            elif isinstance(exchange.wire.stream, trio.SSLStream):
                exchange.tls = TlsInfo.of(exchange.wire.stream)
            greeting = await self._receive_greeting()
            if not greeting.accepted:
                raise GreetingError(Connect(), greeting)
            await self._hello()
            if self._tls in ("opportunistic", "required") and exchange.tls is None:
                await self._starttls()
            if self._auth is not None:
                await self.log_in(self._auth)
            self.greeting = greeting

    async def _receive_greeting(self) -> Reply:
        try:
            return await self._exchange.receive_reply()
        except ConnectionLostError as exc:
            if self._exchange.tls is not None or exc.reply is not None:
                raise
            raise ConnectionLostError(Connect(), f"the server sent no greeting and closed{NEEDS_IMPLICIT}") from None
        except InvalidReplyError as exc:
            for start, service in OTHER_SERVICES.items():
                if exc.line.startswith(start.encode()):
                    raise RemoteProtocolError(f"the server speaks {service} on this port, not SMTP: {exc}") from None
            raise

    async def _hello(self) -> Reply:
        exchange = self._exchange
        command: Hello = Lhlo(self.name) if exchange.lmtp else Ehlo(self.name)
        reply = await exchange.request(command)
        if reply.code in TRY_HELO and not exchange.lmtp and self._auth is None and self._tls != "required":
            # RFC 5321 3.2: a server without extensions. HELO would not help if TLS or AUTH, which are extensions, is
            # required.
            refusal = ReplyError(command, reply)
            command = Helo(self.name)
            try:
                reply = await exchange.request(command)
            except ConnectionLostError:  # the server has closed the connection after its refusal, which is the reason
                raise refusal from None
        return check_reply(command, reply)

    async def restart(self) -> None:
        """Send EHLO again, after the session has begun anew (XCLIENT)."""
        self.user = None
        await self._hello()

    # --- TLS --------------------------------------------------------------------------------------------------------

    async def start_tls(self, ssl_context: ssl.SSLContext | None) -> None:
        """Send STARTTLS and require a valid certificate, whatever the ``tls`` setting was; then send EHLO again.

        Raises ValueError if the certificate cannot be checked because the host is not known.
        """
        context = ssl_context or self._ssl_context
        if not self.host and (context is None or context.check_hostname):
            raise ValueError("STARTTLS needs a host, for which the certificate is checked")
        self._ssl_context, self._tls = context, "required"
        await self._starttls()

    async def _starttls(self) -> None:
        if "STARTTLS" not in self._exchange.protocol.offered:
            if self._tls == "required":
                raise NotOfferedError("the server does not offer STARTTLS, and TLS is required")
            return
        reply = await self._exchange.request(StartTlsCommand())
        if reply.accepted:
            await self._tls_handshake()
            await self._hello()  # RFC 3207 4.2: what the server offered before TLS no longer counts
        elif self._tls == "required" or self._exchange.protocol.closed:
            raise ReplyError(StartTlsCommand(), reply)

    async def _tls_handshake(self) -> None:
        exchange = self._exchange
        limit, host = exchange.timeouts.tls, self._certificate_name
        command = Connect() if self._tls == "implicit" else StartTlsCommand()
        context = self._ssl_context
        if context is None:
            context = await default_context(verify=self._tls != "opportunistic" or self._check_certificate)
        try:
            stream = await exchange.wire.start_tls(context, limit, server_side=False, server_hostname=host)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            cause = exc.__cause__ or exc
            wrong_port = self._tls == "implicit" and getattr(cause, "reason", None) in NOT_TLS
            raise TlsHandshakeError(command, cause, NEEDS_STARTTLS if wrong_port else "") from exc
        except trio.TooSlowError:
            raise TimedOutError(command, limit) from None
        verified = verifies_peer(context)
        problem = None if verified else self._certificate_problem or NOT_CHECKED
        exchange.tls = TlsInfo.of(stream, verified=verified, problem=problem)
        exchange.protocol.verified = verified
        if self._tls != "implicit":
            exchange.protocol.tls_started()

    # --- AUTH -------------------------------------------------------------------------------------------------------

    # When credentials are sent, and by which mechanism
    #
    # Credentials are sent only to a server whose identity is known: over TLS with a certificate that is valid for its
    # name. This holds for every mechanism. One that does not reveal the password (CRAM-MD5, SCRAM) still lets an
    # impostor relay the exchange, or try passwords against what it recorded. TLS without a verified certificate is no
    # better, since anyone can offer it. That is why ``auth`` makes TLS required by default, and why opportunistic TLS
    # cannot be combined with it unless the certificate turned out to be valid. ``allow_cleartext`` lifts the rule, for
    # a server on the same machine or inside a tunnel.
    #
    # `usable_mechanisms` returns the mechanisms that the server offers and that fit the credentials. Under TLS their
    # order is that of preference; without TLS those come first that do not reveal the password, and the others are used
    # only with ``allow_cleartext`` (RFC 4954 4, RFC 4616 5). If the server refuses a mechanism although it offered it
    # (432, 504, 534), the next one is tried. After 535 the credentials are wrong, and each further attempt would count
    # against the user's account.
    #
    # The server's last step matters as well. In SCRAM the server proves that it knows the password; if the proof is
    # wrong, the 235 reply comes from someone else, and the connection is closed although AUTH "succeeded" (RFC 5802 3).

    async def log_in(
        self, credentials: ClientCredentials, mechanisms: Iterable[str | Mechanism] | None = None
    ) -> Reply:
        """Send AUTH with the best mechanism that both sides know, and return the server's reply (RFC 4954 4).

        ``mechanisms`` are the names of those that may be used, best first; None means those of the client.

        Raises `ReplyError` if the server refuses the credentials, NotOfferedError and LocalProtocolError if no
        mechanism can be used, and RemoteProtocolError if the server violates the mechanism or cannot prove its
        identity.
        """
        exchange = self._exchange
        if not ((exchange.tls is not None and exchange.tls.verified) or self._allow_cleartext):
            raise LocalProtocolError(
                "credentials are not sent without a verified certificate; allow_cleartext=True permits it"
            )
        offered = exchange.protocol.offered.get("AUTH")
        if not isinstance(offered, Auth):
            raise NotOfferedError(f"the server does not offer AUTH{'' if exchange.tls else ', or not without TLS'}")
        names = [name for name in offered.mechanisms if isinstance(name, str)]
        known = self._mechanisms if mechanisms is None else known_mechanisms(mechanisms)
        binding = self._channel_binding()
        usable = usable_mechanisms(
            known,
            names,
            credentials,
            secure=exchange.tls is not None,
            allow_cleartext=self._allow_cleartext,
            channel_binding=binding,
        )
        # RFC 5802 6: a client supports channel binding for a mechanism if it may use the -PLUS form.
        bound = {mechanism.name.removesuffix("-PLUS") for mechanism in known if mechanism.needs == "channel_binding"}
        for mechanism in usable:
            can_bind = mechanism.name.removesuffix("-PLUS") in bound
            context = MechanismContext(
                self.host, os.urandom, channel_binding=binding if can_bind else b"", offered=tuple(names)
            )
            reply = await self._authenticate(mechanism, credentials, context)
            if reply.code not in MECHANISM_REFUSED or exchange.protocol.closed:
                break
            # A -PLUS form that was refused does not count as offered, since an attacker could refuse it in order to get a
            # login without channel binding.
            names = [name for name in names if name != mechanism.name]
        check_reply(AuthCommand(mechanism.name), reply)
        self.user = credentials.user
        return reply

    def _channel_binding(self) -> bytes:
        """Return the binding to the server's certificate (RFC 5929 4), b"" without TLS."""
        stream = self._exchange.wire.stream
        if not isinstance(stream, trio.SSLStream):
            return b""
        certificate = cast("ssl.SSLObject", stream).getpeercert(binary_form=True)
        return server_end_point(certificate or b"")

    async def _authenticate(
        self, mechanism: Mechanism, credentials: ClientCredentials, context: MechanismContext
    ) -> Reply:
        """Do one exchange, and return the server's last reply, which may be a refusal."""
        exchange = self._exchange
        steps = mechanism.client(credentials, context)
        command = AuthCommand(mechanism.name, await self._respond(steps, None))
        postponed: AuthResponse | None = None
        if command.initial is not None and len(exchange.protocol.encode_command(command)) > COMMAND_LINE_OCTETS:
            # RFC 4954 4: an initial response that makes the line too long is sent after an empty challenge instead.
            postponed = AuthResponse(base64.b64encode(command.initial).decode())
            command = AuthCommand(mechanism.name)
        reply = await exchange.request(command)
        while reply.intermediate:
            try:
                challenge = decode_challenge(reply.text, mechanism)
                response = postponed or AuthResponse(
                    base64.b64encode(await self._respond(steps, challenge) or b"").decode()
                )
            except RemoteProtocolError as exc:
                if not (await exchange.request(AuthResponse("*"))).refused:
                    # RFC 4954 4: "*" cancels the exchange, and the reply must be 501. What the server takes the next line
                    # for is not known now.
                    exchange.wire.broken = True
                raise RemoteProtocolError(f"AUTH {mechanism.name}: {exc}") from exc
            postponed = None
            reply = await exchange.request(response)
        if reply.accepted:
            with suppress(StopIteration):
                try:
                    steps.send(None)
                except RemoteProtocolError:  # the server did not prove that it knows the password
                    exchange.wire.broken = True
                    raise
        return reply

    async def _respond(self, steps: ClientExchange, challenge: bytes | None) -> bytes | None:
        """Send a challenge to the client's side of a mechanism; return its response."""
        exchange, answer = self._exchange, cast("Any", challenge)
        while isinstance(step := steps.send(answer), Computation):
            exchange.wire.broken = True  # in case of a cancellation, which would leave AUTH in the middle
            answer = await run_in_thread(step.compute, abandon_on_cancel=True)
            exchange.wire.broken = False
        return step


def _local_literal(stream: trio.abc.Stream) -> str:
    """Return the local address as an address literal, for EHLO without a ``name`` (RFC 5321 4.1.1.1, 4.1.3).

    The host's own name is not used, because it seldom resolves outside of the local network.
    """
    if isinstance(stream, trio.SSLStream):
        return _local_literal(stream.transport_stream)
    if isinstance(stream, trio.SocketStream):
        with suppress(OSError):
            name = stream.socket.getsockname()
            if isinstance(name, tuple):
                return address_literal(name[0])
    return "[127.0.0.1]"


def address_literal(host: str) -> str:
    """Return an IP address as an address literal (RFC 5321 4.1.3), which has no scope."""
    host = unmap(host).partition("%")[0]
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"
