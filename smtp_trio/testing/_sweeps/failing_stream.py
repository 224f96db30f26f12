"""A stream whose connection is cut when somebody says so."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..._server.listeners import endpoints
from ..._types import Peer


class FailingStream(trio.abc.HalfCloseableStream):
    """Asks ``cut`` at the beginning of every receive and send; once that says yes, the connection is gone, for both ends."""

    def __init__(self, stream: trio.abc.Stream, cut: Callable[[], bool]) -> None:
        self.transport_stream: trio.abc.Stream = stream
        self._cut = cut
        self._broken = self._closed = False

    async def _operate(self) -> None:
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
        """Who is at the two ends."""
        return endpoints(self.transport_stream)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream below. Raises BrokenResourceError once it is cut, as `receive_some` does."""
        await self._operate()
        await self.transport_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        if self._broken:
            await self._operate()
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the stream below."""
        await self._operate()
        return await self.transport_stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """As the stream below. Raises TypeError when that cannot be closed in one direction."""
        await self._operate()
        if not isinstance(self.transport_stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"{self.transport_stream!r} has no send_eof")
        await self.transport_stream.send_eof()

    async def aclose(self) -> None:
        """As the stream below."""
        self._closed = True
        await self.transport_stream.aclose()
