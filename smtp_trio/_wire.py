"""A Trio stream on one side, the protocol on the other: the only place that reads, writes, upgrades or closes.

Plain sockets take a short path for writing: a reply that the kernel takes at once needs no pass through the scheduler. Reading is a
checkpoint on every stream, so a session that has much to say cannot starve the others.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

import trio

from .protocol import ServerProtocol

#: Octets that are asked for at a time. They are all that a session holds of its peer's, besides one unfinished line.
RECEIVE = 65536
#: Seconds that a close may take before it is done by force.
CLOSE = 1

BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class Wire:
    """Carries octets between one stream and one protocol. ``broken``: nothing can be said over it any more."""

    def __init__(self, stream: trio.abc.Stream, protocol: ServerProtocol, write_timeout: float) -> None:
        self.stream = stream
        self.broken = False
        self._protocol = protocol
        self._write_timeout = write_timeout
        # POSIX sockets can be written to with os.write; it is public and as fast as send.
        self._quick = type(stream) is trio.SocketStream and os.name == "posix"

    async def receive(self) -> None:
        """Wait for octets from the peer, and hand them to the protocol; the end of input when there will be no more."""
        try:
            data = await self.stream.receive_some(RECEIVE)
        except BROKEN:  # a reset is an end like any other (RFC 5321 3.8: treat it as QUIT)
            self.broken = True
            data = b""
        self._protocol.receive_data(bytes(data))

    def flush_now(self) -> bytes | memoryview:
        """Send what the kernel takes of what is owed without waiting; returns what is left over."""
        data = self._protocol.data_to_send()
        if not data or not self._quick or self.broken:
            return b"" if self.broken else data
        assert isinstance(self.stream, trio.SocketStream)
        try:
            sent = os.write(self.stream.socket.fileno(), data)
        except BlockingIOError:
            return data
        except OSError:
            self.broken = True
            return b""
        return memoryview(data)[sent:] if sent < len(data) else b""

    async def flush(self) -> None:
        """Send all that is owed. When that cannot be done, or not in time, the wire is broken from then on."""
        if rest := self.flush_now():
            await self.send(rest)

    async def send(self, data: bytes | memoryview) -> None:
        """Send this before anything else, as `flush` does."""
        self.broken = True  # should we be cancelled in the middle of it, nothing that came after could be understood
        try:
            with trio.fail_after(self._write_timeout):
                await self.stream.send_all(data)
        except (*BROKEN, trio.TooSlowError):
            return
        self.broken = False

    async def start_tls(self, context: ssl.SSLContext, timeout: float) -> trio.SSLStream[Any]:
        """Shake hands as the server. Raises BrokenResourceError when that fails, TooSlowError when it takes too long."""
        stream = trio.SSLStream(self.stream, context, server_side=True, https_compatible=False)
        self.broken = True  # until we know better
        with trio.fail_after(timeout):
            await stream.do_handshake()
        self.stream, self.broken, self._quick = stream, False, False
        return stream

    async def close(self) -> None:
        """Close the stream: politely while that is possible, by force otherwise. Needs no checkpoint to do its work."""
        if self.broken or trio.current_effective_deadline() == -float("inf"):
            await trio.aclose_forcefully(self.stream)
            return
        with trio.move_on_after(CLOSE):
            try:
                await self.stream.aclose()
            except BROKEN:
                pass
