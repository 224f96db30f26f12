"""From a name and a port to a client that can send: connections, and what is tried when TLS is taken where it can be had."""

from __future__ import annotations

import email.message
import os
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TypedDict, Unpack, cast

import trio

from ..protocol import Connect
from .client import Client
from .exchange import ClientTimeouts, timeouts_of
from .handshake import Login, TlsMode
from .message import Message
from .results import ConnectionLostError, Result, TimedOutError, TlsHandshakeError
from .transaction import Progress

Host = str | os.PathLike[str]


class ClientSettings(TypedDict, total=False):
    """The keywords of `Client`, but for ``host``."""

    tls: TlsMode | None
    ssl_context: ssl.SSLContext | None
    auth: Login | None
    name: str | None
    lmtp: bool
    allow_cleartext: bool
    timeout: float | None
    timeouts: ClientTimeouts | None


class Settings(ClientSettings, total=False):
    """What `connect`, `send` and `Pool` hand on: the keywords of `Client`, and two of their own.

    ``local_address`` is what to connect from. ``server_hostname`` is the name in the certificate, where that is not the host's.
    """

    local_address: str | None
    server_hostname: str | None


@asynccontextmanager
async def connect(host: Host, port: int = 25, **settings: Unpack[Settings]) -> AsyncIterator[Client]:
    """A `Client` of the server at ``host`` and ``port``; an `os.PathLike` is a unix socket, and has no port.

    ``settings`` are the keywords of `Client`, and ``local_address`` and ``server_hostname``. All addresses of a host are tried as RFC
    8305 has it.

    Opportunistic TLS (RFC 7435) checks the certificate, and then goes on all the same: a server whose certificate is wrong is called
    again, and ``client.tls`` says what is wrong with it; one that no TLS can be made with at all is spoken to in the clear.

    Raises `ConnectionLostError` when nobody is there, `TimedOutError` when that takes too long, and what ``async with Client`` raises.
    """
    async with await dial(host, port, **settings) as client:
        yield client


async def send(
    message: Message,
    host: Host,
    port: int = 25,
    *,
    sender: str | None = None,
    recipients: Iterable[str] | None = None,
    progress: Progress | None = None,
    **settings: Unpack[Settings],
) -> Result:
    """Send one message to one server: `connect`, `Client.send` and QUIT in one call.

    An email message says by its fields who sends it to whom, where ``sender`` and ``recipients`` do not; all others need both.
    Raises what `connect` and `Client.send` raise.
    """
    if isinstance(message, email.message.Message):
        async with connect(host, port, **settings) as client:
            return await client.send_message(message, sender, recipients, progress=progress)
    if sender is None or recipients is None:
        raise ValueError("only an email message knows its sender and recipients; for this one they must be given")
    async with connect(host, port, **settings) as client:
        return await client.send(sender, recipients, message, progress=progress)


async def dial(host: Host, port: int = 25, **settings: Unpack[Settings]) -> Client:
    """As `connect`, but the client is yours to close."""
    try:
        return await _try(host, port, settings, problem=None)
    except TlsHandshakeError as failure:
        if (settings.get("tls") or ("required" if settings.get("auth") else "opportunistic")) != "opportunistic":
            raise
        with_it: Settings = {**settings, "tls": "opportunistic"} if failure.unverified else {**settings, "tls": "never"}
        try:
            return await _try(host, port, with_it, problem=failure.unverified)
        except TlsHandshakeError:
            return await _try(host, port, {**settings, "tls": "never"}, problem=None)


async def _try(host: Host, port: int, settings: Settings, problem: str | None) -> Client:
    name = settings.get("server_hostname") or (os.fspath(host) if isinstance(host, os.PathLike) else host)
    limits = timeouts_of(settings.get("timeout"), settings.get("timeouts"))
    stream = await _open(host, port, settings.get("local_address"), limits.connect)
    own = (
        "local_address",
        "server_hostname",
    )  # what is left is the client's, which raises TypeError for what it does not know
    rest = cast("ClientSettings", {key: value for key, value in settings.items() if key not in own})
    try:
        client = Client(stream, host=name, **rest)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    client.strict_tls, client.tls_problem = problem is None, problem
    return await client.__aenter__()


async def _open(host: Host, port: int, local_address: str | None, limit: float) -> trio.abc.Stream:
    try:
        with trio.fail_after(limit):
            if isinstance(host, os.PathLike):
                return await trio.open_unix_socket(os.fspath(host))
            return await trio.open_tcp_stream(host, port, local_address=local_address)
    except OSError as exc:
        where = os.fspath(host) if isinstance(host, os.PathLike) else f"{host} port {port}"
        causes = exc.__cause__.exceptions if isinstance(exc.__cause__, BaseExceptionGroup) else (exc,)
        reasons = "; ".join(dict.fromkeys(str(cause) for cause in causes))
        raise ConnectionLostError(Connect(), f"cannot connect to {where}: {reasons}") from exc
    except trio.TooSlowError:
        raise TimedOutError(Connect(), limit) from None
