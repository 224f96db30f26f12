"""A stream whose owner has faults: what it says and hears is changed, held back or cut off, as rules have it."""

from __future__ import annotations

import math
import socket
import struct
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .rule import End, Hear, Hold, Side, Step, Wait
from .rules import Early
from .wire_tracker import GREETING, Piece, WireTracker

if TYPE_CHECKING:
    from .faults import Faults

#: Seconds for what was said to arrive.
MOMENT = 0.001
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class FaultyStream(trio.abc.HalfCloseableStream):
    """One end of a connection, with the faults of its side. Attributes that it has not are those of the stream under it."""

    def __init__(self, stream: trio.abc.Stream, side: Side, faults: Faults, *, greeted: bool = False) -> None:
        self.transport: trio.abc.Stream = stream
        self.side: Side = side
        self.faults = faults
        #: There is TLS over us, and the faults are played inside it.
        self.transparent: bool = False
        self._hearsay = WireTracker(greeted=greeted)
        self._acting: dict[tuple[int, bool], bool] = {}
        self._coming: deque[Step] = deque()
        #: Replies that will be heard before they are said, and how many commands were answered.
        self._promised: deque[Hear] = deque()
        self._answered = 0
        self._held: list[Hold] = []
        self._until = math.inf
        self._begun = greeted or side == "server"
        self._closed = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.transport, name)

    # --- what is made of a piece ----------------------------------------------------------------------------------------

    @property
    def _idle(self) -> bool:
        """No rule has anything to do with the octets here."""
        return self.transparent or not self.faults.on_octets(self.side)

    def _changed(self, piece: Piece, *, heard: bool) -> list[Step]:
        steps: list[Step] = [piece.octets]
        for index, rule in self.faults.on_octets(self.side):
            if not rule.acts_on(piece, heard=heard):
                continue
            if not piece.start:
                self._acting[index, heard] = self.faults.is_due(index, heard=heard)
            if self._acting.get((index, heard)):
                steps = self.faults.change(index, rule, piece, steps, heard=heard)
        return steps

    # --- saying -----------------------------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, with the faults that this side has. Raises trio.BrokenResourceError when one of them ends the connection."""
        if self._idle:
            await self.transport.send_all(data)
            return
        await trio.lowlevel.checkpoint()
        self._begin()
        octets = b""
        for piece in self._hearsay.said(self.side, bytes(data)):
            for step in self._changed(piece, heard=False):
                if isinstance(step, bytes):
                    octets += step
                    continue
                if octets:
                    await self._send(octets)
                    octets = b""
                await self._do(step)
        if octets:
            await self._send(octets)

    async def _do(self, step: Step) -> None:
        """A step that is none of octets to send."""
        if isinstance(step, Wait):
            await trio.sleep(step.seconds)
        elif isinstance(step, Hear):
            self._promised.append(step)
            self._fulfil()
        elif isinstance(step, Hold):
            if not self._held:
                self._until = trio.current_time() + step.within
            self._held.append(step)
            if len(self._held) >= step.count:
                await self._send(b"")
        elif isinstance(step, End):
            await self._send(b"")
            await self._finish(step)

    async def _send(self, octets: bytes) -> None:
        """Send this, behind what was held back."""
        octets = b"".join(each.octets for each in self._held) + octets
        self._held, self._until = [], math.inf
        await self.transport.send_all(octets)

    async def _finish(self, end: End) -> None:
        if end is End.SILENCE:
            with suppress(*BROKEN):
                while await self.transport.receive_some():
                    pass
        elif end is End.RESET:
            await trio.sleep(MOMENT)  # or it would depend on whose turn it was how much of what we have said is lost
            reset(self.transport)
        await trio.aclose_forcefully(self.transport)
        raise trio.BrokenResourceError(f"a fault: {end.value}")

    # --- hearing ------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """A client that does not wait for the greeting hears one before anybody has said so."""
        if not self._begun:
            self._begun = True
            piece = Piece(GREETING, b"")
            for index, rule in self.faults.on_octets(self.side):
                if isinstance(rule, Early) and rule.acts_on(piece, heard=False) and self.faults.is_due(index):
                    steps = self.faults.change(index, rule, piece, [], heard=False)
                    self._promised += [step for step in steps if isinstance(step, Hear)]
            self._fulfil()

    def _fulfil(self, answered: int = -1) -> None:
        """Hear what is to be heard now that this question was answered: it must not overtake the replies to what was asked before."""
        self._answered = max(self._answered, answered + 1)
        while self._promised and self._promised[0].number <= self._answered:
            step = self._promised.popleft()
            self._coming.append(step.octets)
            self._answered = step.number + 1

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What the other end says, as far as the faults of this side let it through."""
        if self._closed:  # what came before that is not heard any more
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this stream is closed")
        if self._idle and not self._coming:
            return bytes(await self.transport.receive_some(max_bytes))
        await trio.lowlevel.checkpoint()
        self._begin()
        other: Side = "server" if self.side == "client" else "client"
        while True:
            while self._coming:
                step = self._coming.popleft()
                if not isinstance(step, bytes):
                    await self._do(step)
                elif step:
                    if max_bytes is not None and len(step) > max_bytes:
                        self._coming.appendleft(step[max_bytes:])
                    return step[:max_bytes]
            data = await self._receive()
            if not data:
                return self._hearsay.left_over(other)
            for piece in self._hearsay.said(other, data):
                self._coming += self._changed(piece, heard=True)
                if other == "server":
                    self._fulfil(piece.number)

    async def _receive(self) -> bytes:
        """What comes next; meanwhile, what was held back has waited for long enough."""
        if self._held:
            with trio.move_on_at(self._until):
                return bytes(await self.transport.receive_some())
            await self._send(b"")
        return bytes(await self.transport.receive_some())

    # --- the rest of a stream ---------------------------------------------------------------------------------------------

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream under it does."""
        await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream under it does."""
        assert isinstance(self.transport, trio.abc.HalfCloseableStream)
        await self._last_words()
        await self.transport.send_eof()

    async def aclose(self) -> None:
        """What was held back leaves, and the stream is closed."""
        self._closed = True
        try:
            await self._last_words()
        finally:
            await self.transport.aclose()

    async def _last_words(self) -> None:
        rest = self._hearsay.left_over(self.side)
        if self._held or rest:
            with suppress(*BROKEN):
                await self._send(rest)


def reset(stream: trio.abc.Stream) -> None:
    """Make the peer see an error and no end, where the stream can do that: sockets, and those in memory of ours."""
    while isinstance(stream, FaultyStream | trio.SSLStream):
        stream = stream.transport if isinstance(stream, FaultyStream) else stream.transport_stream
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    elif hasattr(stream, "reset"):
        stream.reset()
