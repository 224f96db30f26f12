"""A stream that changes, delays or cuts the octets of one side according to the rules of a script."""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress

import trio

from ..._wire import BROKEN
from .._streams import DELIVERY_TIME, reset
from .._wire_tracker import BODY, GREETING, Piece, Role, WireTracker
from .rule import Ending, FakeReply, Hold, Step, Wait
from .rules import Delay, Early, Hang
from .scope import Subject
from .script import Entry, Script, cancel_at_end


class FaultyStream(trio.abc.HalfCloseableStream):
    """One end of a connection, with the faults of its side.

    Other attributes are those of the stream ``transport``.
    """

    # A tracker divides the octets of both directions into pieces. Pieces that this side sends are changed in `send_all`.
    # Pieces that it receives are changed in `receive_some`, for a client that ignores refusals or does not wait for
    # replies, and for a server that fails within a body. The tracker always gets the octets before any change. So the
    # dialogue is tracked correctly even if, for example, a client receives a 250 in place of a 550.

    def __init__(self, stream: trio.abc.Stream, side: Role, script: Script, *, greeted: bool = False) -> None:
        self.transport: trio.abc.Stream = stream
        self.side: Role = side
        self.script = script
        #: Whether TLS was started over this stream. Then the stream inside TLS has the faults.
        self.transparent: bool = False
        #: The subject that is compared with the scopes of rules. If it is None, rules with a scope do not act.
        self.subject: Subject | None = None
        self._tracker = WireTracker(greeted=greeted)
        #: The rules that act on the current body, and those of them that have changed it.
        self._acting: dict[bool, list[Entry]] = {True: [], False: []}
        self._changed: set[Entry] = set()
        #: Octets that were received before this stream was made, and are received through it again.
        self._again = b""
        #: The `Delay` or `Hang` that acts on the last piece. The wait ends when the rule is removed.
        self._waits_for: Entry | None = None
        #: Received pieces without steps. The steps are determined when a piece is delivered, since its subject depends on
        #: the commands before it.
        self._pieces: deque[Piece] = deque()
        #: The remaining steps for received octets.
        self._incoming: deque[Step] = deque()
        #: Fake replies that wait for earlier replies, and the number of replies that the client has received.
        self._fake_replies: deque[FakeReply] = deque()
        self._answered = 0
        self._held: list[Hold] = []
        self._held_until = math.inf
        #: Whether the rules for a fake greeting were checked; always true for a server.
        self._started = greeted or side == "server"
        self._closed = False
        #: The fault that has ended the connection.
        self._ending: Ending | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.transport, name)

    @property
    def sends_to(self) -> trio.abc.Stream:
        """The transport stream. If `send_all` raises, not all octets were sent, unless that stream had accepted them (see
        `fails_short`).
        """
        return self.transport

    # --- rules ----------------------------------------------------------------------------------------------------------

    @property
    def _idle(self) -> bool:
        """True if no rule applies to the octets of this stream, and no rule can be added."""
        return self.transparent or not (self.script.live or self.script.for_stream(self.side))

    def begin_within(self, command: bytes, received: bytes) -> None:
        """Begin in the middle of a server's session, at ``command``; ``received`` are the octets received after it."""
        self._tracker.feed("client", command + b"\r\n")
        self._again = received

    def _steps(self, piece: Piece, *, incoming: bool) -> list[Step]:
        steps: list[Step] = [piece.octets]
        self._waits_for = None
        for entry in self._acting[incoming] if piece.start else self._due(piece, incoming=incoming):
            if entry.removed.is_set():
                continue
            before, steps = steps, entry.change(piece, steps, incoming=incoming)
            if steps != before and entry not in self._changed:
                self._changed.add(entry)
                entry.count(self.subject)
                if isinstance(entry.rule, Delay | Hang):
                    self._waits_for = entry
        return steps

    def _due(self, piece: Piece, *, incoming: bool) -> list[Entry]:
        """Return the rules that act on a piece. At the beginning of a body they act on the whole body, which counts once."""
        due = [
            entry
            for entry in self.script.for_stream(self.side)
            if entry.rule.acts_on(piece, incoming=incoming)
            and entry.covers(self.subject)
            and entry.is_due(incoming=incoming)
        ]
        self._changed.difference_update(due)
        if piece.at == BODY:
            self._acting[incoming] = due
        return due

    # --- sending --------------------------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, with the faults of this side.

        Raises trio.BrokenResourceError if a fault ends the connection before all octets were sent. If it ends the
        connection after them, the next operation raises it, as with a socket.
        """
        if self._idle and self._ending is None:
            await self.transport.send_all(data)
            return
        await trio.lowlevel.checkpoint()
        self._check()
        self._start()
        octets = b""
        pieces = deque(self._tracker.feed(self.side, bytes(data)))
        while pieces and self._ending is None:
            steps = deque(self._steps(pieces.popleft(), incoming=False))
            while steps and self._ending is None:
                step = steps.popleft()
                if isinstance(step, bytes):
                    octets += step
                    continue
                if octets:
                    await self._send(octets)
                    octets = b""
                await self._take(step)
            if pieces or self._tracker.kept(self.side) or any(isinstance(step, bytes | Hold) for step in steps):
                self._check()
        if octets:
            await self._send(octets)

    def _check(self) -> None:
        if self._ending is not None:
            raise trio.BrokenResourceError(f"a fault: {self._ending.value}")

    async def _take(self, step: Step) -> None:
        """Carry out a step that is not octets."""
        if isinstance(step, Wait):
            with trio.move_on_after(step.seconds):
                await self._wait_for_removal()
        elif isinstance(step, FakeReply):
            self._fake_replies.append(step)
            self._deliver_fake_replies()
        elif isinstance(step, Hold):
            if not self._held:
                self._held_until = trio.current_time() + step.within
            self._held.append(step)
            if len(self._held) >= step.count:
                await self._send(b"")
        elif isinstance(step, Ending):
            await self._send(b"")
            await self._end(step)

    async def _send(self, octets: bytes) -> None:
        """Send octets after those that are held."""
        octets = b"".join(each.octets for each in self._held) + octets
        self._held, self._held_until = [], math.inf
        await self.transport.send_all(octets)

    async def _wait_for_removal(self) -> None:
        """Wait until the rule that makes this side wait is removed, or its server stops.

        Only the rules of a live list can be removed, and only their streams know a session.
        """
        if self._waits_for is None or self.subject is None:
            await trio.sleep_forever()
        else:
            async with trio.open_nursery() as nursery:
                cancel_at_end(nursery, self._waits_for, self.subject.session)

    async def _discard_received(self, scope: trio.CancelScope) -> None:
        """Receive and discard octets until the peer closes the connection, then cancel ``scope``."""
        with suppress(*BROKEN):
            while await self.transport.receive_some():
                pass
        scope.cancel()

    async def _end(self, ending: Ending) -> None:
        if ending is Ending.SILENCE:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._discard_received, nursery.cancel_scope)
                await self._wait_for_removal()
                nursery.cancel_scope.cancel()
        elif ending is Ending.RESET:
            # Without the wait, the number of octets that the reset discards would depend on the order of tasks.
            await trio.sleep(DELIVERY_TIME)
            with suppress(TypeError):
                reset(self.transport)
        await trio.aclose_forcefully(self.transport)
        self._ending = ending

    # --- receiving ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Deliver a fake greeting if the client does not wait for the real one."""
        if not self._started:
            self._started = True
            piece = Piece(GREETING, b"", number=0)
            for entry in self.script.for_stream(self.side):
                if isinstance(entry.rule, Early) and entry.rule.acts_on(piece, incoming=False) and entry.is_due():
                    steps = entry.change(piece, [], incoming=False)
                    entry.count(None)
                    self._fake_replies += [step for step in steps if isinstance(step, FakeReply)]
            self._deliver_fake_replies()

    def _deliver_fake_replies(self, answered: int = -1) -> None:
        """Deliver the fake replies that are due after the reply to command ``answered``. They must not precede earlier
        replies.
        """
        self._answered = max(self._answered, answered + 1)
        while self._fake_replies and self._fake_replies[0].number <= self._answered:
            step = self._fake_replies.popleft()
            self._incoming.append(step.octets)
            self._answered = step.number + 1

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive octets from the other end, with the faults of this side."""
        if self._closed:  # even if received octets are left
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this stream is closed")
        if self._idle and self._ending is None and not (self._incoming or self._pieces):
            return bytes(await self.transport.receive_some(max_bytes))
        await trio.lowlevel.checkpoint()
        self._check()
        self._start()
        other: Role = "server" if self.side == "client" else "client"
        while True:
            while self._incoming:
                step = self._incoming.popleft()
                if not isinstance(step, bytes):
                    await self._take(step)
                    self._check()
                elif step:
                    if max_bytes is not None and len(step) > max_bytes:
                        self._incoming.appendleft(step[max_bytes:])
                    return step[:max_bytes]
            if self._pieces:
                piece = self._pieces.popleft()
                self._incoming += self._steps(piece, incoming=True)
                if other == "server" and piece.number is not None:
                    self._deliver_fake_replies(piece.number)
                continue
            data = await self._receive()
            if not data:
                return b"".join(piece.octets for piece in self._tracker.finish(other))
            self._pieces += self._tracker.feed(other, data)

    async def _receive(self) -> bytes:
        """Receive from the transport stream. Meanwhile send held octets when their time is over."""
        if self._again:
            data, self._again = self._again, b""
            return data
        if self._held:
            with trio.move_on_at(self._held_until):
                return bytes(await self.transport.receive_some())
            await self._send(b"")
        return bytes(await self.transport.receive_some())

    # --- other methods of a stream --------------------------------------------------------------------------------------

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport stream might accept data."""
        await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send held octets, and then end-of-file, over the transport stream."""
        assert isinstance(self.transport, trio.abc.HalfCloseableStream)
        await self._send_rest()
        await self.transport.send_eof()

    async def aclose(self) -> None:
        """Send held octets, and close the transport stream."""
        self._closed = True
        try:
            await self._send_rest()
        finally:
            await self.transport.aclose()

    async def _send_rest(self) -> None:
        rest = b"".join(piece.octets for piece in self._tracker.finish(self.side))
        if self._held or rest:
            with suppress(*BROKEN):
                await self._send(rest)

    def reset(self) -> None:
        """Reset the connection, so that the other end gets an error.

        Raises TypeError if the transport stream does not support it.
        """
        reset(self.transport)
