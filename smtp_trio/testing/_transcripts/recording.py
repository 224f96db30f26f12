"""Where octets are written down: around a stream, and, where that sees but TLS, between a wire and its protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..._server.peers import endpoints
from ..._types import Peer
from ..._wire import OctetProtocol, Wire
from .._streams import reset
from .entry import Side, What, other

if TYPE_CHECKING:
    from .transcript import Transcript

#: The first octets of a ClientHello (RFC 8446 5.1), which no line of SMTP begins with.
CLIENT_HELLO = b"\x16\x03"


class RecordedStream(trio.abc.HalfCloseableStream):
    """A stream of which a `Transcript` is kept. ``transport_stream`` is the one below, ``session`` its name there."""

    def __init__(self, stream: trio.abc.Stream, transcript: Transcript, side: Side, session: str) -> None:
        self.transport_stream: trio.abc.Stream = stream
        self._transcript, self._side = transcript, side
        self.session: str = session
        self._encrypted = False
        self._over: set[Side] = set()

    @property
    def endpoints(self) -> tuple[Peer, Peer]:
        """Who is at the two ends."""
        return endpoints(self.transport_stream)

    def _enter(self, side: Side, data: bytes | bytearray | memoryview) -> None:
        octets = bytes(data)
        if side == "C" and not self._encrypted and octets.startswith(CLIENT_HELLO):
            self._encrypted = True
            self._transcript.note("C", "begins TLS", session=self.session)
        if not self._encrypted:
            self._transcript.add(side, octets, session=self.session)

    def _end(self, side: Side, event: What) -> None:
        if side not in self._over:
            self._over.add(side)
            self._transcript.note(side, event, session=self.session)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream below; what it could not take whole is written down all the same."""
        self._enter(self._side, data)
        await self.transport_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the stream below."""
        try:
            data = await self.transport_stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self._end(other(self._side), "resets")
            raise
        if data:
            self._enter(other(self._side), data)
        else:
            self._end(other(self._side), "closes")
        return data

    async def send_eof(self) -> None:
        """As the stream below. Raises TypeError when that cannot be closed in one direction."""
        if not isinstance(self.transport_stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"{self.transport_stream!r} has no send_eof")
        self._end(self._side, "closes")
        await self.transport_stream.send_eof()

    def reset(self) -> None:
        """Close the stream below as a broken network does. Raises TypeError when it is none of sockets or memory."""
        reset(self.transport_stream)
        self._end(self._side, "resets")

    async def aclose(self) -> None:
        """As the stream below."""
        self._end(self._side, "closes")
        await self.transport_stream.aclose()


class Tap:
    """Between a wire and its protocol. ``encrypted``: only what a `RecordedStream` below cannot see."""

    def __init__(self, wire: Wire, transcript: Transcript, side: Side, session: str, *, encrypted: bool) -> None:
        self._protocol: OctetProtocol = wire._protocol
        self._wire, self._transcript, self._side, self._session = wire, transcript, side, session
        self._secure, self._encrypted = False, encrypted
        wire._protocol = self

    def _wanted(self) -> bool:
        if not self._secure and isinstance(self._wire.stream, trio.SSLStream):
            self._secure = True
            if not self._encrypted:
                self._transcript.note("C", "begins TLS", session=self._session)
        return self._secure or not self._encrypted

    def receive_data(self, data: bytes) -> None:
        """What came from the other side; b"" when there will be no more."""
        if self._wanted():
            side = other(self._side)
            if data:
                self._transcript.add(side, data, session=self._session)
            elif not self._encrypted:
                self._transcript.note(side, "resets" if self._wire.broken else "closes", session=self._session)
        self._protocol.receive_data(data)

    def data_to_send(self) -> bytes:
        """What is about to be sent."""
        data = self._protocol.data_to_send()
        if self._wanted() and not self._wire.broken:
            self._transcript.add(self._side, data, session=self._session)
        return data
