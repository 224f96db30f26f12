"""Streams in memory that hold no more than they are told to, as a network does: who writes waits for who reads.

What one end sends the other receives in the same pieces, so what each of two tasks sees does not depend on whose turn it was.
"""

from __future__ import annotations

import operator
import socket
import struct
from collections import deque

import trio
from attrs import define, field

from .._types import Peer

#: Octets that one direction holds: about what a socket's buffers do.
MAX_OCTETS = 65536


@define(eq=False)
class _Pipe:
    """One direction. ``ended``: no more will come. ``cut``: the connection is gone, or its reader is."""

    room: int
    pieces: deque[bytes] = field(factory=deque)
    held: int = 0
    ended: bool = False
    cut: bool = False
    sending: bool = False
    receiving: bool = False
    news: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    def put(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.held += len(piece)
        self.news.unpark_all()

    def get(self, max_octets: int | None) -> bytes:
        """The oldest piece, or what is asked for of it; b"" when there is none."""
        piece = self.pieces.popleft() if self.pieces else b""
        if max_octets is not None and len(piece) > max_octets:
            self.pieces.appendleft(piece[max_octets:])
            piece = piece[:max_octets]
        self.held -= len(piece)
        self.news.unpark_all()
        return piece

    def cut_off(self) -> None:
        """What is on its way is lost."""
        self.pieces.clear()
        self.held, self.cut = 0, True
        self.news.unpark_all()

    def end(self) -> None:
        self.ended = True
        self.news.unpark_all()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of `bounded_stream_pair`. ``endpoints`` are the peer and us, as a server sees them."""

    def __init__(self, outgoing: _Pipe, incoming: _Pipe) -> None:
        self.endpoints: tuple[Peer, Peer] = Peer("", None, "memory"), Peer("", None, "memory")
        self._outgoing, self._incoming = outgoing, incoming
        self._closed = False

    @property
    def unread(self) -> int:
        """Octets that came and were not received yet."""
        return self._incoming.held

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, and wait while the other end's buffer is full.

        Raises trio.BrokenResourceError when nobody will receive it, trio.ClosedResourceError when this end is closed.
        """
        pipe, octets = self._outgoing, bytes(data)
        if pipe.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        pipe.sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_sending()
            for start in range(0, len(octets), pipe.room):
                piece = octets[start : start + pipe.room]
                while pipe.held + len(piece) > pipe.room:
                    await pipe.news.park()
                    self._check_sending()
                pipe.put(piece)
        finally:
            pipe.sending = False

    def _check_sending(self) -> None:
        if self._closed or self._outgoing.ended:
            raise trio.ClosedResourceError("this stream is closed for sending")
        if self._outgoing.cut:
            raise trio.BrokenResourceError("the other end is gone")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room for an octet at least. Raises as `send_all` does."""
        pipe = self._outgoing
        if pipe.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        pipe.sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_sending()
            while pipe.held >= pipe.room:
                await pipe.news.park()
                self._check_sending()
        finally:
            pipe.sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next octets of what the other end sent in one piece; b"" when it has ended.

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
                await pipe.news.park()
        finally:
            pipe.receiving = False

    async def send_eof(self) -> None:
        """Say that nothing more will come."""
        pipe = self._outgoing
        if pipe.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        pipe.end()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close this end, at once: the other one receives what was sent, and then the end."""
        self._closed = True
        self._outgoing.end()
        self._incoming.cut_off()

    async def aclose(self) -> None:
        """`close`, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Close this end as a broken network does: what is on its way is lost, and the other end gets an error."""
        self._closed = True
        self._outgoing.cut_off()
        self._incoming.cut_off()


def bounded_stream_pair(max_octets: int = MAX_OCTETS) -> tuple[MemoryStream, MemoryStream]:
    """Two ends of a connection in memory, of which each direction holds ``max_octets`` at most.

    More than that and `send_all` waits until the other end has received; Trio's own memory streams swallow any amount. Raises
    ValueError for no octets at all.
    """
    if max_octets < 1:
        raise ValueError(f"max_octets must be 1 or more, not {max_octets}")
    there, back = _Pipe(max_octets), _Pipe(max_octets)
    return MemoryStream(there, back), MemoryStream(back, there)


def reset(stream: trio.abc.Stream) -> None:
    """Close a stream as a broken network does, so that the other end gets an error. Raises TypeError when that cannot be done."""
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    elif isinstance(stream, MemoryStream):
        stream.reset()
    else:
        raise TypeError(f"{stream!r} cannot be reset")
