"""A Trio stream on one side, the protocol on the other: the only place that reads, writes, upgrades or closes.

Plain sockets take a short path for writing: a reply that the kernel takes at once needs no pass through the scheduler. Reading is a
checkpoint on every stream, so a session that has much to say cannot starve the others.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import trio

#: Octets that are asked for at a time. They are all that a session holds of its peer's, besides one unfinished line.
RECEIVE = 65536
#: Seconds that a close may take before it is done by force.
CLOSE = 1

BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class Octets(Protocol):
    """What a wire needs of a `ServerProtocol` or `ClientProtocol`."""

    def receive_data(self, data: bytes) -> None: ...
    def data_to_send(self) -> bytes: ...


class Wire:
    """Carries octets between one stream and one protocol. ``broken``: nothing can be said over it any more."""

    __slots__ = ("_protocol", "_quick", "_write_timeout", "broken", "stalled", "stream")

    def __init__(self, stream: trio.abc.Stream, protocol: Octets, write_timeout: float) -> None:
        self.stream: trio.abc.Stream = stream
        self.broken: bool = False
        #: … because the peer took nothing for too long.
        self.stalled: bool = False
        self._protocol = protocol
        self._write_timeout = write_timeout
        # POSIX sockets can be read and written by their descriptor, which is public, and as fast as send and recv.
        self._quick: Callable[[], int] | None = None
        if type(stream) is trio.SocketStream and os.name == "posix":
            self._quick = stream.socket.fileno

    def receive_now(self) -> bool:
        """Take what has come, if that can be told without waiting. To be called behind a checkpoint, and only if `quick`.

        A peer that answers at once has often done so while others ran; that saves arming a timer, and asking the kernel to wake us.
        """
        return self._quick is not None and self._read(self._quick())

    @property
    def quick(self) -> bool:
        """Whether `receive_now` is worth a try."""
        return self._quick is not None

    async def receive(self) -> None:
        """Wait for octets from the peer, and hand them to the protocol; the end of input when there will be no more."""
        try:
            if self._quick is None:
                self._protocol.receive_data(bytes(await self.stream.receive_some(RECEIVE)))
                return
            # To wait is a full checkpoint, so the read needs no other; it may come to nothing, and then we wait again.
            await trio.lowlevel.wait_readable(self._quick())
            while not self._read(self._quick()):
                await trio.lowlevel.wait_readable(self._quick())
        except (*BROKEN, OSError, ValueError):  # the last is for a descriptor of -1: a hook has closed the stream
            self._protocol.receive_data(self._lost())

    def _read(self, descriptor: int) -> bool:
        """Take what is there, or the end of input; false when there is nothing yet."""
        try:
            data = os.read(descriptor, RECEIVE)
        except BlockingIOError:
            return False
        except OSError:
            data = self._lost()
        self._protocol.receive_data(data)
        return True

    def _lost(self) -> bytes:
        """A reset is an end of input like any other (RFC 5321 4.1.1.10: as if QUIT had come), but nobody is there to be answered."""
        self.broken = True
        return b""

    def flush_now(self) -> bytes | memoryview:
        """Send what the kernel takes of what is owed without waiting; returns what is left over."""
        data = self._protocol.data_to_send()
        if not data or self.broken:
            return b""
        if self._quick is None:
            return data
        try:
            sent = os.write(self._quick(), data)
        except BlockingIOError:
            return data
        except OSError:
            self.broken = True
            return b""
        return memoryview(data)[sent:] if sent < len(data) else b""

    async def send(self, data: bytes | memoryview) -> None:
        """Send what `flush_now` left over. When that cannot be done, or not in time, the wire is broken from then on."""
        self.broken = True  # should we be cancelled in the middle of it, nothing that came after could be understood
        try:
            with trio.fail_after(self._write_timeout):
                await self.stream.send_all(data)
        except BROKEN:
            return
        except trio.TooSlowError:
            self.stalled = True
            return
        self.broken = False

    async def start_tls(
        self, context: ssl.SSLContext, patience: float, *, server_side: bool, server_hostname: str | None = None
    ) -> trio.SSLStream[Any]:
        """Shake hands. Until that is done nothing can be said.

        Raises BrokenResourceError when it fails, TooSlowError when it takes more than ``patience`` seconds.
        """
        stream = trio.SSLStream(
            self.stream, context, server_hostname=server_hostname, server_side=server_side, https_compatible=False
        )
        self.broken = True  # until we know better
        with trio.fail_after(patience):
            await stream.do_handshake()
        self.carry(stream)
        self.broken = False
        return stream

    def carry(self, stream: trio.abc.Stream) -> None:
        """Speak over this stream from now on."""
        self.stream, self._quick = stream, None

    async def close(self) -> None:
        """Close the stream: politely while that is possible, by force otherwise. Needs no checkpoint to do its work."""
        if self._quick is not None and isinstance(self.stream, trio.SocketStream):
            self.stream.socket.close()  # which waits for nobody
            return
        if self.broken or trio.current_effective_deadline() == -float("inf"):
            await trio.aclose_forcefully(self.stream)
            return
        with trio.move_on_after(CLOSE):
            with suppress(*BROKEN):
                await self.stream.aclose()
