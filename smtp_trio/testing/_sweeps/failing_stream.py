"""A stream that loses its connection on demand."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..._server.peers import endpoints
from ..._types import Peer


class FailingStream(trio.abc.HalfCloseableStream):
    """A stream that calls ``cut`` before every receive and send, and after every send; once that returns True, the
    connection is lost for both ends.

    After a send that raised, all octets may have arrived: Trio's contract allows that, so `fails_short` is False.
    """

    def __init__(self, stream: trio.abc.Stream, cut: Callable[[], bool]) -> None:
        self.transport_stream: trio.abc.Stream = stream
        self._cut = cut
        self._broken = self._closed = False

    async def _point(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if not self._broken and self._cut():
            self._broken = True
            await trio.aclose_forcefully(self.transport_stream)
        if self._broken:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("the sweep has cut this connection")

    @property
    def endpoints(self) -> tuple[Peer, Peer]:
        """The addresses of both ends."""
        return endpoints(self.transport_stream)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send over the transport stream. Raises BrokenResourceError once the connection is cut."""
        await self._point()
        await self.transport_stream.send_all(data)
        if not self._closed:
            await self._point()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport stream might accept data. Raises BrokenResourceError once the connection is cut."""
        if self._broken:
            await self._point()
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive from the transport stream. Raises BrokenResourceError once the connection is cut."""
        await self._point()
        return await self.transport_stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Send an end of file over the transport stream. Raises TypeError when that is not half-closeable."""
        await self._point()
        if not isinstance(self.transport_stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"{self.transport_stream!r} has no send_eof")
        await self.transport_stream.send_eof()

    async def aclose(self) -> None:
        """Close the transport stream."""
        self._closed = True
        await self.transport_stream.aclose()
