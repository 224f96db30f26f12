"""`Screening`: which connections become sessions, and the refusal of the others."""

from __future__ import annotations

import socket
from collections.abc import Sized
from contextlib import suppress
from typing import Any

import trio

from .._types import Peer
from .admission import MAX_ANSWERED, MAX_REFUSED, Admission
from .guard import LOCAL_ERROR
from .log_events import SESSION_FAILED
from .peers import UNIX, tcp_peer
from .proxies import ProxyHeaders, TrustedNetworks
from .state import ServerState

TOO_MANY = "Too many connections; try again later"

# Limits on connections are checked before a session is created, so that a refusal is cheap: with a socket, before there
# is a stream (`Screening.screen`). What connects for many clients is not counted itself. A balancer that sends PROXY
# headers is screened by their number, and its clients are counted after their headers; a proxy that sends XCLIENT is
# screened by nothing here, and its clients are counted when they are named.


class Screening:
    """Decides for one server whether a connection becomes a session, by its peer and the number of sessions."""

    def __init__(
        self,
        state: ServerState,
        admission: Admission,
        sessions: Sized,
        *,
        proxies: ProxyHeaders,
        trusted: TrustedNetworks,
        name: str,
        timeout: float,
    ) -> None:
        """``sessions`` are those that are open; a refusal may take ``timeout`` seconds."""
        self._state = state
        self._admission = admission
        self._sessions = sessions
        self._proxies = proxies
        self._trusted = trusted
        self._name = name
        self._timeout = timeout

    def screen(self, descriptor: int, address: tuple[Any, ...] | str, *, silent: bool) -> Peer | None:
        """Return the peer of an accepted connection that may become a session. Refuse another one, at little cost.

        :param descriptor: that of the connection. The caller closes it when the connection is refused.
        :param address: what accept() has returned. It is known even if the peer has reset the connection.
        :param silent: only close it, without a 421.
        """
        peer = tcp_peer(address) if isinstance(address, tuple) else UNIX
        if self._proxies and self._proxies.requires(peer):
            return peer if self._proxies.admits(peer) else None
        key = self.key(peer)
        number = self._admission.count(key, peer, len(self._sessions))
        if not number:
            return peer
        if number == MAX_REFUSED and key is not None:
            self._admission.ignore(key, peer)
        if number <= MAX_ANSWERED and not silent:
            with suppress(OSError):
                sock = socket.socket(fileno=descriptor)
                try:
                    sock.send(self._refusal(TOO_MANY), socket.MSG_DONTWAIT)
                finally:
                    sock.detach()
        return None

    def key(self, peer: Peer) -> str | None:
        """Return the name under which the connections of a peer are counted; None if they are not (see `Admission.key`).

        A proxy that sends XCLIENT is not counted: it connects for many clients.
        """
        if self._trusted.extensions and self._trusted.sends_xclient(peer):
            return None
        return self._admission.key(peer)

    def refuses(self, key: str | None, peer: Peer, *, screened: bool) -> int:
        """Return 0 if a stream may become a session, otherwise what `Admission.refuse` returns.

        A screened one was counted when it was accepted. Several connections may have been accepted before the first became
        a session, so there may be too many of them.
        """
        if not screened:
            return self._admission.count(key, peer, len(self._sessions))
        limit = self._admission.exceeded(key, len(self._sessions))
        return 0 if limit is None else self._admission.refuse(key, peer, limit)

    async def turn_away(
        self, stream: trio.abc.Stream, peer: Peer | None, *, number: int, silent: bool, error: Exception | None
    ) -> None:
        """Refuse a connection: with 421 in place of the greeting (RFC 5321 3.8), or only by closing it.

        A TLS handshake, only to send the 421, would cost more than a session.

        :param number: how many of this peer were refused in this minute.
        :param silent: only close it, without a 421.
        :param error: why no session could be created, which is reported; None when there are too many connections.
        """
        text = LOCAL_ERROR if error is not None else TOO_MANY
        try:
            if error is not None:
                where = {"id": None, "peer": None if peer is None else str(peer)}
                await self._state.report(error, SESSION_FAILED, where)
            with trio.move_on_after(self._timeout):
                if number <= MAX_ANSWERED and not silent:
                    await stream.send_all(self._refusal(text))
                    await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def _refusal(self, text: str) -> bytes:
        return f"421 {self._name} {text}\r\n".encode()
