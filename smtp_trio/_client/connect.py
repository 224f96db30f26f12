"""Opening a connection to a server by its name, and sending one message in one call."""

from __future__ import annotations

import email.message
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

import trio
from attrs import evolve

from .._instrument import network_opener
from ..protocol import Connect, Extension, ProxyHeader, SMTPError
from ..protocol.arguments import check_items, check_type
from ..protocol.hosts import check_hello_name, check_host, check_port
from .addresses import find_envelope, list_recipients
from .client import Client, ClientSettings
from .handshake import check_login, tls_mode
from .login import hide_login
from .message import Message
from .missing_fields import complete_message
from .results import (
    ConnectionLostError,
    DeliveryRecord,
    Result,
    TimedOutError,
    TlsHandshakeError,
    clear_record,
    not_sent,
)
from .timeouts import client_timeouts
from .transaction import Progress, check_reporting

if TYPE_CHECKING:
    from ..routing._send import DomainsResult, SendSettings

#: Port 465 expects TLS from the first octet (RFC 8314 3). Without it there is no greeting, and waiting for the whole
#: timeout would be useless, so the client waits for these seconds at most.
IMPLICIT_TLS_PORT, GREETING_ON_465 = 465, 10

#: A host name or IP address, or the path of a Unix domain socket.
Host = str | os.PathLike[str]
#: Called with a connection that was opened.
Opened = Callable[[trio.abc.Stream], object]


class ConnectSettings(ClientSettings, total=False):
    """The keyword arguments of `connect`, `send` and `Pool`: those of `Client` except for ``host``, and three more.

    ``local_address`` is the local IP address to connect from. ``server_hostname`` is the name that the server's
    certificate must have, if that is not ``host``. ``proxy_header`` is a header of the PROXY protocol to send first, with
    the addresses of a client for which this one connects.
    """

    local_address: str | None
    server_hostname: str | None
    proxy_header: ProxyHeader | None


SETTINGS = frozenset(ConnectSettings.__annotations__) | frozenset(ClientSettings.__annotations__)


@asynccontextmanager
async def connect(host: Host, port: int = 25, **settings: Unpack[ConnectSettings]) -> AsyncIterator[Client]:
    """Connect to a server; ``async with connect(...) as client`` opens the session and sends QUIT at the end.

    All addresses of ``host`` are tried (RFC 8305). MX records are not looked up. If ``host`` is an `os.PathLike`, it
    names a Unix domain socket, and ``port`` is ignored. ``settings`` are the keyword arguments of `Client` except for
    ``host``, and ``local_address``, ``server_hostname`` and ``proxy_header`` (`ConnectSettings`).

    With ``tls="opportunistic"`` (RFC 7435) and without ``ssl_context``, a server whose certificate is not valid is
    connected to a second time and used without verification: ``client.tls.problem`` is the reason. A server with which
    the TLS handshake fails for another reason is used without TLS. With ``ssl_context``, both raise
    `TlsHandshakeError`.

    Raises ValueError for an invalid name or port before anything is resolved, `ConnectionLostError` if the connection
    cannot be opened, `TimedOutError` if that takes longer than ``timeout.connect`` seconds, and the exceptions of the
    handshake: `GreetingError`, `ReplyError`, `TlsHandshakeError`, NotOfferedError, LocalProtocolError and
    RemoteProtocolError.
    """
    if (problem := hide_login(settings)) is not None:
        raise problem
    async with await open_client(host, port, **settings) as client:
        yield client


@overload
async def send(
    message: Message,
    host: Host,
    port: int = 25,
    *,
    sender: str | None = None,
    recipients: Iterable[str] | None = None,
    progress: Progress | None = None,
    record: DeliveryRecord | None = None,
    add_headers: bool = True,
    **settings: Unpack[ConnectSettings],
) -> Result: ...
@overload
async def send(
    message: Message,
    host: None = None,
    port: int = 25,
    *,
    sender: str | None = None,
    recipients: Iterable[str] | None = None,
    record: DeliveryRecord | None = None,
    add_headers: bool = True,
    **settings: Unpack[SendSettings],
) -> DomainsResult: ...
async def send(
    message: Message,
    host: Host | None = None,
    port: int = 25,
    *,
    sender: str | None = None,
    recipients: Iterable[str] | None = None,
    progress: Progress | None = None,
    record: DeliveryRecord | None = None,
    add_headers: bool = True,
    **settings: Any,
) -> Result:
    """Send one message to one server: `connect`, `Client.send` and QUIT in one call.

    ``message`` comes first here, before the server; ``sender`` and ``recipients`` are keyword arguments. They may be
    omitted for an email message, whose header fields name them (To, Cc and Bcc the recipients); ``add_headers`` adds
    Date and Message-ID to it if they are missing. Raises the exceptions of `connect` and `Client.send`, and ValueError
    if sender or recipients are omitted for another message.

    Without a host it goes to the exchangers of the recipients' domains: `smtp_trio.routing.send`, which has no
    ``progress`` and other settings, returns outcomes and does not raise for them.
    """
    if (problem := hide_login(settings)) is not None:
        raise problem
    check_reporting(progress, record)
    check_type(add_headers, "add_headers", bool)
    clear_record(record)
    if host is None:
        from ..routing._send import send as send_to_domains  # here, because few programs need it

        if progress is not None:
            raise TypeError("progress needs a host")
        return await send_to_domains(
            message, port, sender=sender, recipients=recipients, record=record, add_headers=add_headers, **settings
        )
    if isinstance(message, email.message.Message):
        sender, recipients = await find_envelope(message, sender, recipients)
        if add_headers:
            message = await complete_message(message, sender)
    if sender is None or recipients is None:
        raise ValueError("sender and recipients are required unless the message is an email.message.Message")
    names = list_recipients(recipients)
    try:
        async with connect(host, port, **settings) as client:
            return await client.send(sender, names, message, progress=progress, record=record)
    except SMTPError as exc:
        if exc.result is None:  # no connection could be opened
            exc.result = not_sent(sender, names)
        raise


# Opportunistic TLS by connecting again
#
# Opportunistic TLS (RFC 7435) uses encryption where it can, and never fails because of it. It would be simplest not to
# check the certificate at all, but then verified and unverified connections could not be distinguished. After a failed
# handshake the session cannot go on: the TLS state is undefined, and RFC 3207 4.1 leaves nothing to do but close. Hence
# up to three connections:
#
# 1. with a certificate check. It succeeds for most servers, and ``client.tls.verified`` is True;
# 2. if the certificate was the problem: with TLS but without the check. ``client.tls.problem`` is the reason;
# 3. if the handshake failed for another reason, in the first attempt or the second: without TLS.
#
# If the caller gave a context, there is one attempt, because its rules for certificates, versions and ciphers hold: the
# second attempt would need the same context without the check, and a context cannot be copied with its client
# certificate; the third one would send in cleartext what the context does not allow with an old version. A caller that
# accepts any certificate gives a context without the check. The other TLS modes make one attempt, too. A failure raises
# TlsHandshakeError. No message can be sent twice by this: an attempt fails before MAIL, and before AUTH too.
async def open_client(
    host: Host, port: int = 25, *, opened: Opened | None = None, **settings: Unpack[ConnectSettings]
) -> Client:
    """Connect and open the session as `connect` does; the caller closes the client.

    ``opened`` is called with each connection before anything is sent, for a caller that needs to know its addresses
    if the session is not opened.
    """
    check_server(host, port, settings)
    try:
        client = await _open(host, port, settings, opened)
    except SMTPError as exc:
        exc.connected = False
        raise
    client._reopen = partial(open_client, host, port, opened=opened, **settings)
    return client


async def _open(host: Host, port: int, settings: ConnectSettings, opened: Opened | None) -> Client:
    try:
        return await _attempt(host, port, settings, opened, check_certificate=True)
    except TlsHandshakeError as failure:
        context, problem = settings.get("ssl_context"), failure.unverified
        mode = tls_mode(settings.get("tls"), context, settings.get("auth"))
        if mode != "opportunistic" or context is not None:
            raise
    if problem is not None:
        try:
            return await _attempt(host, port, settings, opened, certificate_problem=problem)
        except TlsHandshakeError:
            pass
    return await _attempt(host, port, {**settings, "tls": "never"}, opened)


def check_server(host: Host, port: int, settings: ConnectSettings) -> None:
    """Raise TypeError or ValueError, which name the argument, for names and a port that cannot be used."""
    if isinstance(host, os.PathLike):
        if "\0" in os.fspath(host)[1:]:  # the first one marks a name in Linux's abstract namespace
            raise ValueError(f"host: invalid path: {os.fspath(host)!a} (contains NUL)")
    else:
        check_host(host, "host")
        check_port(port, "port", minimum=1)
    for name in ("local_address", "server_hostname"):
        if (value := settings.get(name)) is not None:
            check_host(value, name)
    if (value := settings.get("name")) is not None:
        check_hello_name(value, "name")
    if unknown := sorted(set(settings) - SETTINGS):
        raise TypeError(f"unexpected keyword argument: {', '.join(unknown)}")
    check_login(
        settings.get("tls"),
        settings.get("ssl_context"),
        settings.get("auth_mechanisms"),
        allow_cleartext=settings.get("allow_cleartext", False),
    )
    check_type(settings.get("lmtp", False), "lmtp", bool)
    check_type(settings.get("proxy_header"), "proxy_header", ProxyHeader, optional=True)
    client_timeouts(settings.get("timeout"))
    if "extensions" in settings:
        settings["extensions"] = check_items(settings["extensions"], "extensions", Extension)


async def _attempt(
    host: Host,
    port: int,
    settings: ConnectSettings,
    opened: Opened | None,
    *,
    check_certificate: bool = False,
    certificate_problem: str | None = None,
) -> Client:
    # A path is marked by a slash, so that the client does not take it for a name.
    own_name = os.path.join(os.curdir, host) if isinstance(host, os.PathLike) else host
    name = settings.get("server_hostname") or own_name
    timeouts = client_timeouts(settings.get("timeout"))
    if port == IMPLICIT_TLS_PORT and settings.get("tls") != "implicit" and not isinstance(host, os.PathLike):
        timeouts = evolve(timeouts, greeting=min(timeouts.greeting, GREETING_ON_465))
    settings = {**settings, "timeout": timeouts}
    stream = await _open_stream(host, port, settings.get("local_address"), timeouts.connect)
    if opened is not None:
        opened(stream)
    if (header := settings.get("proxy_header")) is not None:
        await _send_header(stream, header, timeouts.connect)
    # The other settings are those of the client, which raises TypeError for a name that it does not know.
    own = ("local_address", "server_hostname", "proxy_header")
    rest = cast("ClientSettings", {key: value for key, value in settings.items() if key not in own})
    try:
        client = Client(stream, host=name, **rest)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    await client._open(check_certificate=check_certificate, certificate_problem=certificate_problem)
    return client


async def _open_stream(host: Host, port: int, local_address: str | None, limit: float) -> trio.abc.Stream:
    try:
        with trio.fail_after(limit):
            if isinstance(host, os.PathLike):
                return await trio.open_unix_socket(os.fspath(host))
            name = check_host(host, "host")
            if (open_stream := network_opener.get(None)) is not None:
                return await open_stream(name, port, local_address)
            return await trio.open_tcp_stream(name, port, local_address=local_address)
    except OSError as exc:
        where = os.fspath(host) if isinstance(host, os.PathLike) else f"{host} port {port}"
        raise ConnectionLostError(Connect(), f"cannot connect to {where}: {connect_failure(exc)}") from exc
    except trio.TooSlowError:
        raise TimedOutError(Connect(), limit) from None


async def _send_header(stream: trio.abc.Stream, header: ProxyHeader, limit: float) -> None:
    try:
        with trio.fail_after(limit):
            await stream.send_all(header.encode())
    except BaseException as exc:
        await trio.aclose_forcefully(stream)
        if isinstance(exc, trio.TooSlowError):
            raise TimedOutError(Connect(), limit) from None
        if isinstance(exc, trio.BrokenResourceError):
            raise ConnectionLostError(Connect(), "the server closed the connection before the PROXY header") from exc
        raise


def connect_failure(error: OSError) -> str:
    """Return why no address could be connected to, without the addresses and the numbers of the errors."""
    group = error.__cause__
    causes = group.exceptions if isinstance(group, BaseExceptionGroup) else (error,)
    return "; ".join(dict.fromkeys(map(_reason, causes)))


def _reason(error: BaseException) -> str:
    # Trio puts the address into the text of an OSError. The number of an error of the resolver is negative.
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)
