"""What went over the wire in a session, in order, with the times: written down from life, printed, compared, and played again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import trio
from attrs import frozen

from .._listen import endpoints
from .._values import Peer

if TYPE_CHECKING:
    from .._wire import Octets, Wire

Side = Literal["C", "S"]
#: What can happen besides octets.
What = Literal["", "closes", "resets", "begins TLS"]


@frozen
class Entry:
    """Octets that one side sent in one piece, or, with an ``event``, something else that it did.

    ``side`` is "C" for the client and "S" for the server, ``time`` seconds since the transcript began, by Trio's clock. ``session``
    names the connection, where a transcript has several.
    """

    time: float
    side: Side
    data: bytes = b""
    event: What = ""
    session: str = ""


class Transcript:
    """Every octet of one session, or of several, in order and with the time. ``str()`` of it has no secrets in it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._began: float | None = None

    def __repr__(self) -> str:
        return f"<Transcript of {len(self.entries)} entries>"

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    # --- writing down -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The clock of this transcript starts now, unless it runs already."""
        if self._began is None:
            self._began = trio.current_time()

    def add(self, side: Side, data: bytes | bytearray | memoryview, *, session: str = "") -> None:
        """This side has sent these octets, just now."""
        if data:
            self.entries.append(Entry(self._now(), side, bytes(data), session=session))

    def note(self, side: Side, event: What, *, session: str = "") -> None:
        """This side has done something else, just now."""
        self.entries.append(Entry(self._now(), side, event=event, session=session))

    def _now(self) -> float:
        self.begin()
        assert self._began is not None
        return trio.current_time() - self._began

    def record(self, stream: trio.abc.Stream, *, side: Side, session: str = "") -> RecordedStream:
        """Wrap one end of a connection, that of ``side``: what is sent and received over it from now on is written down.

        What comes in is written down when it is received, so the order is that in which this end saw it. Octets of TLS are not.
        """
        self.begin()
        return RecordedStream(stream, self, side, session)

    def tap(self, wire: Wire, *, side: Side, session: str = "", secure: bool = False) -> None:
        self.begin()
        wire._protocol = _Tap(wire, self, side, session, secure)

    # --- printing ---------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        lines: list[str] = []
        for entry in self.entries:
            if entry.event:
                lines.append(f"{entry.side}. {entry.event}")
            lines += [f"{entry.side}: {line}" for line in entry.data.decode("latin-1").splitlines()]
        return "\n".join(lines) + "\n"


class RecordedStream(trio.abc.HalfCloseableStream):
    """A stream of which a `Transcript` is kept."""

    def __init__(self, stream: trio.abc.Stream, transcript: Transcript, side: Side, session: str) -> None:
        self.transport: trio.abc.Stream = stream
        self._transcript, self._side, self._session = transcript, side, session
        self._other: Side = "S" if side == "C" else "C"
        self._secret = False  # TLS has begun
        self._over: set[Side] = set()

    @property
    def endpoints(self) -> tuple[Peer, Peer]:
        """Who is at the two ends."""
        return endpoints(self.transport)

    def _enter(self, side: Side, data: bytes | bytearray | memoryview) -> None:
        octets = bytes(data)
        # The first octets of a ClientHello (RFC 8446 5.1), which no line of SMTP begins with.
        if side == "C" and not self._secret and octets[:2] == b"\x16\x03":
            self._secret = True
            self._transcript.note("C", "begins TLS", session=self._session)
        if not self._secret:
            self._transcript.add(side, octets, session=self._session)

    def _end(self, side: Side, event: What) -> None:
        if side not in self._over:
            self._over.add(side)
            self._transcript.note(side, event, session=self._session)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._enter(self._side, data)
        await self.transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self.transport.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self._end(self._other, "resets")
            raise
        if data:
            self._enter(self._other, data)
        else:
            self._end(self._other, "closes")
        return data

    async def send_eof(self) -> None:
        if not isinstance(self.transport, trio.abc.HalfCloseableStream):
            raise NotImplementedError("the stream below cannot be half closed")
        self._end(self._side, "closes")
        await self.transport.send_eof()

    async def aclose(self) -> None:
        self._end(self._side, "closes")
        await self.transport.aclose()


class _Tap:
    """Sits between a wire and its protocol, where octets are not encrypted any more, and not yet."""

    def __init__(self, wire: Wire, transcript: Transcript, side: Side, session: str, secure: bool) -> None:
        self._protocol: Octets = wire._protocol
        self._wire, self._transcript, self._session = wire, transcript, session
        self._side, self._other = side, "S" if side == "C" else "C"
        self._only_secure = secure

    @property
    def _wanted(self) -> bool:
        return not self._only_secure or isinstance(self._wire.stream, trio.SSLStream)

    def receive_data(self, data: bytes) -> None:
        if self._wanted:
            other: Side = "S" if self._side == "C" else "C"
            if data:
                self._transcript.add(other, data, session=self._session)
        self._protocol.receive_data(data)

    def data_to_send(self) -> bytes:
        data = self._protocol.data_to_send()
        if self._wanted:
            self._transcript.add(self._side, data, session=self._session)
        return data
