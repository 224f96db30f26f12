"""`HandshakeStream`: a connection during a TLS handshake, whose octets wait for a turn of the peer."""

from __future__ import annotations

from typing import Protocol

import trio

from .turns import Turns

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
