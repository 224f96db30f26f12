"""Streams in memory with a limited buffer: as over a network, a sender waits for its receiver.

What one end sends is received in the same pieces, so what each of two tasks observes does not depend on the order in
which they run.
"""

from __future__ import annotations

import operator
import socket
import struct
from collections import deque

import trio
from attrs import define, field

from .._types import Peer
from ..protocol.arguments import check_number

#: Octets that one direction holds, about as many as the buffers of a socket.
MAX_OCTETS = 65536
#: Seconds within which octets that were sent have arrived. To reset a connection earlier would discard some of them.
DELIVERY_TIME = 0.001


@define(eq=False)
class _Pipe:
    """One direction.

    ``ended``: the sender sends no more. ``cut``: the connection was reset, or the receiver has closed its end.
    """

    capacity: int
    pieces: deque[bytes] = field(factory=deque)
    held: int = 0
    ended: bool = False
    cut: bool = False
    sending: bool = False
    receiving: bool = False
    changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    def put(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.held += len(piece)
        self.changed.unpark_all()

    def get(self, max_octets: int | None) -> bytes:
        """Return the oldest piece, or the first ``max_octets`` of it; b"" if the direction is empty."""
        piece = self.pieces.popleft() if self.pieces else b""
        if max_octets is not None and len(piece) > max_octets:
            self.pieces.appendleft(piece[max_octets:])
            piece = piece[:max_octets]
        self.held -= len(piece)
        self.changed.unpark_all()
        return piece

    def cut_off(self) -> None:
        """Discard what was not received."""
        self.pieces.clear()
        self.held, self.cut = 0, True
        self.changed.unpark_all()

    def end(self) -> None:
        self.ended = True
        self.changed.unpark_all()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of `bounded_stream_pair`.

    ``endpoints`` are the addresses of the peer and of this end, as a server sees them.
    """

    #: If `send_all` raises, the last octet was not sent (see `fails_short`).
    sends_to: None = None

    def __init__(self, outgoing: _Pipe, incoming: _Pipe) -> None:
        self.endpoints: tuple[Peer, Peer] = Peer("", None, "memory"), Peer("", None, "memory")
        self._outgoing, self._incoming = outgoing, incoming
        self._closed = False

    @property
    def unread(self) -> int:
        """The number of octets that the other end has sent, and that were not received yet."""
        return self._incoming.held

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, and wait while the buffer is full.

        Raises trio.BrokenResourceError when the other end is closed, trio.ClosedResourceError when this end is.
        """
        pipe, octets = self._outgoing, bytes(data)
        if pipe.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        pipe.sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_sending()
            for start in range(0, len(octets), pipe.capacity):
                piece = octets[start : start + pipe.capacity]
                while pipe.held + len(piece) > pipe.capacity:
                    await pipe.changed.park()
                    self._check_sending()
                pipe.put(piece)
        finally:
            pipe.sending = False

    def _check_sending(self) -> None:
        if self._closed or self._outgoing.ended:
            raise trio.ClosedResourceError("this stream is closed for sending")
        if self._outgoing.cut:
            raise trio.BrokenResourceError("the other end is closed")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the buffer has space for an octet. Raises the same exceptions as `send_all`."""
        pipe = self._outgoing
        if pipe.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        pipe.sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_sending()
            while pipe.held >= pipe.capacity:
                await pipe.changed.park()
                self._check_sending()
        finally:
            pipe.sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next octets that the other end sent in one piece; b"" after the last.

        Raises trio.BrokenResourceError after a `reset`, trio.ClosedResourceError when this end is closed.
        """
        if max_bytes is not None and (max_bytes := operator.index(max_bytes)) < 1:
            raise ValueError("max_bytes must be >= 1")
        pipe = self._incoming
        if pipe.receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        pipe.receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self._closed:
                    raise trio.ClosedResourceError("this stream is closed")
                if pipe.cut:
                    raise trio.BrokenResourceError("the connection was reset")
                if pipe.pieces or pipe.ended:
                    return pipe.get(max_bytes)
                await pipe.changed.park()
        finally:
            pipe.receiving = False

    async def send_eof(self) -> None:
        """End this direction: the other end receives b"" after what was sent."""
        pipe = self._outgoing
        if pipe.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        pipe.end()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close this end at once. The other end receives what was sent, and then b""."""
        self._closed = True
        self._outgoing.end()
        self._incoming.cut_off()

    async def aclose(self) -> None:
        """Close this end, and execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Reset the connection: what was not received is lost, and the other end gets trio.BrokenResourceError."""
        self._closed = True
        self._outgoing.cut_off()
        self._incoming.cut_off()


def bounded_stream_pair(max_octets: int = MAX_OCTETS) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of a connection in memory, of which each direction holds at most ``max_octets``.

    When a direction is full, `send_all` waits until the other end receives; the memory streams of `trio.testing` have
    no such limit. Raises ValueError if ``max_octets`` is less than 1.
    """
    check_number(max_octets, "max_octets", 1, integer=True)
    one, two = _Pipe(max_octets), _Pipe(max_octets)
    return MemoryStream(one, two), MemoryStream(two, one)


def reset(stream: trio.abc.Stream) -> None:
    """Reset the connection of a stream, so that the other end gets an error. Raises TypeError for streams that cannot
    do that.

    Sockets can, and streams with a method ``reset``, as in this package, also below TLS.
    """
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream):
        # With a linger time of 0, close sends RST instead of FIN.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    elif callable(method := getattr(stream, "reset", None)):
        method()
    else:
        raise TypeError(f"{stream!r} cannot be reset")
