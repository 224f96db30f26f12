"""The TLS handshake of a session: `start_tls` makes it, on a `HandshakeStream`, whose octets wait for a turn of the peer."""

from __future__ import annotations

import ssl
from typing import Any, Protocol, cast

import trio

from .._types import TlsInfo
from .._wire import Wire
from ..protocol import ServerProtocol
from .hook_runner import HookRunner
from .session_log import SessionLog
from .session_memory import SessionMemory
from .tls_files import channel_binding
from .turns import Turns

# STARTTLS has four steps:
#
# 1. The core refuses STARTTLS if octets follow it, since they may have been injected (RFC 3207 4.2, CVE-2011-0411).
# 2. The 220 is sent unencrypted and flushed; STARTTLS is not groupable.
# 3. The handshake runs on the same transport. After it the wire uses the `SSLStream` only.
# 4. `ServerProtocol.tls_started` resets the state: the transaction, the user and EHLO. The client begins again with
#    EHLO.
#
# During the handshake the client cannot understand a reply, so the wire counts as broken: a cancellation, a timeout
# or a failure ends the session without a reply. A half-finished handshake cannot be undone, and continuing without
# encryption would be the downgrade that TLS must prevent.
#
# The session counts as idle during the handshake: nothing has been promised to the client, so `Server.stop` need
# not wait for it.
#
# Turns
# -----
#
# A handshake costs as much as a hundred commands, most of it in one step: the signature after the first octets of the
# client. With fifty connections that begin a handshake at the same time, or hold back these octets until all have, one
# client could make all others wait for fifty signatures. So a session takes part in a handshake as it does in a dialogue:
# what it has received is processed in a turn of its peer (see turns.py), and its time counts.
#
# The stream lies between the connection and the `trio.SSLStream` during the handshake only. The octets after it cost no
# more to decrypt than to copy.


class SharingSession(Protocol):
    """The part of a session's task that a `HandshakeStream` uses."""

    @property
    def turns(self) -> Turns | None: ...


class HandshakeStream(trio.abc.Stream):
    """A connection whose octets wait for a turn of its peer, if that has other sessions."""

    def __init__(self, transport: trio.abc.Stream, session: SharingSession) -> None:
        self._transport = transport
        self._session = session

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        turns = self._session.turns
        paused = -1 if turns is None else turns.pause()
        data = await self._transport.receive_some(max_bytes)
        # Another session of the peer may have begun meanwhile.
        if (turns := self._session.turns) is not None and turns.begin(paused):
            await turns.next()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._transport.aclose()


class SecuredSession(Protocol):
    """The part of a `Session` that a handshake changes."""

    tls: TlsInfo | None


class HandshakeSession(SharingSession, Protocol):
    """The part of a session's task that a handshake uses."""

    idle: bool

    @property
    def protocol(self) -> ServerProtocol: ...
    @property
    def wire(self) -> Wire: ...
    @property
    def hooks(self) -> HookRunner: ...
    @property
    def memory(self) -> SessionMemory: ...
    @property
    def log(self) -> SessionLog: ...
    @property
    def session(self) -> SecuredSession: ...
    @property
    def stopping(self) -> bool: ...
    def wake(self) -> None: ...


async def start_tls(session: HandshakeSession, context: ssl.SSLContext, seconds: float) -> bool:
    """Do the TLS handshake on the connection of a session. If it fails, return False: the session is over then."""
    session.memory.add_tls()
    session.hooks.disarm()
    session.idle = True
    if session.stopping:
        session.wake()
    try:
        stream = await session.wire.start_tls(
            context, seconds, server_side=True, transport=HandshakeStream(session.wire.stream, session)
        )
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as exc:
        session.log.tls_failed(exc)
        return False
    record_tls(session, stream)
    if session.hooks.scope.cancel_called:  # in the iteration in which the handshake ended: the cancellation counts
        await trio.lowlevel.checkpoint()
    session.idle = False
    return True


def record_tls(session: HandshakeSession, stream: trio.SSLStream[Any]) -> None:
    """Record what a handshake has shown, for the application and for the mechanisms of AUTH."""
    session.session.tls = tls = TlsInfo.of(stream)
    session.log.tls_started(tls.version)
    state = session.protocol.state
    state.client_certificate = tls.client_certificate
    state.channel_binding = channel_binding(cast("ssl.SSLObject", stream))
