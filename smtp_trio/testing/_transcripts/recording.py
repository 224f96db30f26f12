"""Recording a session: around its stream, and for what TLS hides there, between its wire and its protocol."""

from __future__ import annotations

import trio

from ..._server.peers import endpoints
from ..._types import Peer
from ..._wire import OctetProtocol, Wire
from .._streams import reset
from .entry import Event, Log, Side, other

#: The first octets of a ClientHello (RFC 8446 5.1). No line of SMTP begins with them.
CLIENT_HELLO = b"\x16\x03"


class RecordedStream(trio.abc.HalfCloseableStream):
    """A stream that is recorded in a `Transcript`.

    ``transport_stream`` is the one below, ``session`` the name of the session.
    """

    def __init__(self, stream: trio.abc.Stream, log: Log, side: Side, session: str) -> None:
        self.transport_stream: trio.abc.Stream = stream
        self._log, self._side = log, side
        self.session: str = session
        self._encrypted = False
        #: The sides whose direction has ended.
        self._ended: set[Side] = set()

    @property
    def sends_to(self) -> trio.abc.Stream:
        """The stream below: if its `send_all` raises, that of this stream does (see `fails_short`)."""
        return self.transport_stream

    @property
    def endpoints(self) -> tuple[Peer, Peer]:
        """The addresses of both ends."""
        return endpoints(self.transport_stream)

    def _add(self, side: Side, data: bytes | bytearray | memoryview) -> None:
        octets = bytes(data)
        if side == "C" and not self._encrypted and octets.startswith(CLIENT_HELLO):
            self._encrypted = True
            self._log.note("C", "begins TLS", session=self.session)
        if not self._encrypted:
            self._log.add(side, octets, session=self.session)

    def _end(self, side: Side, event: Event) -> None:
        if side not in self._ended:
            self._ended.add(side)
            self._log.note(side, event, session=self.session)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send over the transport stream. All of the data is recorded, even if an error prevents that it is sent."""
        self._add(self._side, data)
        await self.transport_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport stream might accept data."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive from the transport stream."""
        try:
            data = await self.transport_stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self._end(other(self._side), "resets")
            raise
        if data:
            self._add(other(self._side), data)
        else:
            self._end(other(self._side), "closes")
        return data

    async def send_eof(self) -> None:
        """Send an end of file over the transport stream. Raises TypeError when that is not half-closeable."""
        if not isinstance(self.transport_stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"{self.transport_stream!r} has no send_eof")
        self._end(self._side, "closes")
        await self.transport_stream.send_eof()

    def reset(self) -> None:
        """Reset the connection, so that the other end receives an error.

        Raises TypeError for streams that cannot do that.
        """
        reset(self.transport_stream)
        self._end(self._side, "resets")

    async def aclose(self) -> None:
        """Close the transport stream."""
        self._end(self._side, "closes")
        await self.transport_stream.aclose()


class Tap:
    """A protocol that records its octets, between a wire and the wire's protocol.

    ``encrypted``: record only octets inside TLS, because a `RecordedStream` below records the others.
    """

    def __init__(self, wire: Wire, log: Log, side: Side, session: str, *, encrypted: bool) -> None:
        self._protocol: OctetProtocol = wire._protocol
        self._wire, self._log, self._side, self._session = wire, log, side, session
        self._secure, self._encrypted = False, encrypted
        wire._protocol = self

    def _is_recorded(self) -> bool:
        if not self._secure and isinstance(self._wire.stream, trio.SSLStream):
            self._secure = True
            if not self._encrypted:
                self._log.note("C", "begins TLS", session=self._session)
        return self._secure or not self._encrypted

    def receive_data(self, data: bytes) -> None:
        """Record octets from the other side, or with b"" its end, and pass them to the protocol."""
        if self._is_recorded():
            side = other(self._side)
            if data:
                self._log.add(side, data, session=self._session)
            elif not self._encrypted:
                self._log.note(side, "resets" if self._wire.broken else "closes", session=self._session)
        self._protocol.receive_data(data)

    def data_to_send(self) -> bytes:
        """Return the octets to send, and record them."""
        data = self._protocol.data_to_send()
        if self._is_recorded() and not self._wire.broken:
            self._log.add(self._side, data, session=self._session)
        return data
