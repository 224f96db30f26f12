"""Actions of a scripted server besides sending octets."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import trio
from attrs import frozen

from ._connection import CaseFailedError, Connection


async def closed_within(connection: Connection, seconds: float) -> bool:
    """Return whether the client closes the connection within so many seconds."""
    with trio.move_on_after(seconds) as scope:
        await connection.read_until_closed()
    return not scope.cancelled_caught


@frozen
class SendSlowly:
    """Send octets one by one, with so many seconds after each."""

    data: bytes
    pause: float

    async def perform(self, connection: Connection) -> None:
        for octet in range(len(self.data)):
            await connection.send(self.data[octet : octet + 1])
            if await closed_within(connection, self.pause):
                return


@frozen
class Pause:
    """Wait. What the client sends meanwhile, it sent without waiting for the reply."""

    seconds: float

    async def perform(self, connection: Connection) -> None:
        await closed_within(connection, self.seconds)


@frozen
class CloseConnection:
    """Close the connection, with `reset` as a crashed host would."""

    reset: bool = False

    async def perform(self, connection: Connection) -> None:
        if self.reset and isinstance(connection.stream, trio.SocketStream):
            connection.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await connection.close()


@frozen
class SendNothing:
    """Read until the client closes the connection, and send nothing."""

    async def perform(self, connection: Connection) -> None:
        while not await connection.closes():
            connection.discard_unread()


@frozen
class WaitForOctets:
    """Wait until so many octets have arrived, or the client has closed the connection. They are not consumed."""

    octets: int

    async def perform(self, connection: Connection) -> None:
        with suppress(CaseFailedError):
            await connection.wait_for_octets(self.octets)


@frozen
class AcceptTls:
    """Perform the TLS handshake, which the client may abort. Without a certificate, close the connection."""

    async def perform(self, connection: Connection) -> None:
        if connection.tls is None:
            await connection.close()
            return
        with suppress(CaseFailedError):
            await connection.start_tls(server_side=True)
