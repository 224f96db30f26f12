"""Replay of one side of a recorded session, to a peer that has the other side."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby

import trio

from .._streams import DELIVERY_TIME, reset
from .entry import MASK, Entry, Log, Side, masked, other, secrets
from .text import pattern

#: The longest line that is waited for, in octets.
MAX_LINE = 1 << 20


class Replay:
    """Plays ``side`` of ``entries`` over ``stream``, and records the new session in ``log``."""

    def __init__(
        self,
        entries: list[Entry],
        stream: trio.abc.Stream,
        side: Side,
        log: Log,
        passwords: Iterable[bytes],
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None,
    ) -> None:
        self._entries, self._stream, self._side, self._log = entries, stream, side, log
        self._context, self._hostname = ssl_context, server_hostname
        self._spans = secrets(entries)
        self._passwords = iter(passwords)
        #: Octets of each side that were replayed so far.
        self._offsets: dict[Side, int] = {"C": 0, "S": 0}
        self._buffer = b""

    async def run(self) -> None:
        """Play the session and close the stream.

        Raises AssertionError where the peer does not send what was recorded.
        """
        self._began = trio.current_time()
        try:
            for (side, event), run in groupby(self._entries, lambda entry: (entry.side, entry.event)):
                if event:
                    for entry in run:
                        await self._play_event(entry)
                elif side == self._side:
                    for entry in run:
                        await self._send(entry)
                else:
                    await self._expect(b"".join(entry.data for entry in run))
        except trio.BrokenResourceError as exc:
            raise AssertionError(f"the connection was lost here:\n{self._log}") from exc
        finally:
            await trio.aclose_forcefully(self._stream)

    def _parts(self, side: Side, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Divide the next octets of one side into secret parts and others."""
        at = self._offsets[side]
        self._offsets[side] += len(data)
        return masked(data, at, self._spans[side])

    async def _send(self, entry: Entry) -> None:
        data = b""
        for part, secret in self._parts(self._side, entry.data):
            if secret and part == MASK:
                try:
                    part = next(self._passwords)
                except StopIteration:
                    raise ValueError("the transcript has a masked password for which secrets= has no value") from None
            data += part
        await trio.sleep_until(self._began + entry.time)
        self._log.add(self._side, data)
        await self._stream.send_all(data)

    async def _expect(self, data: bytes) -> None:
        """Receive octets that match ``data``, in which secrets stand for any text."""
        wanted = b"".join(MASK if secret else part for part, secret in self._parts(other(self._side), data))
        for line in _lines(wanted):
            got = await (self._receive_line() if line.endswith(b"\r\n") else self._receive_exactly(len(line)))
            self._log.add(other(self._side), got)
            if not pattern(line.decode("latin-1")).fullmatch(got.decode("latin-1")):
                raise AssertionError(f"expected {line!r} here, got {got!r}:\n{self._log}")

    async def _receive(self) -> bool:
        """Receive some octets into the buffer; return False at the end of the connection."""
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        self._buffer += data
        return bool(data)

    async def _receive_line(self) -> bytes:
        while b"\r\n" not in self._buffer and len(self._buffer) < MAX_LINE and await self._receive():
            pass
        return self._take(self._buffer.find(b"\r\n") + 2 if b"\r\n" in self._buffer else len(self._buffer))

    async def _receive_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count and await self._receive():
            pass
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def _play_event(self, entry: Entry) -> None:
        if entry.event == "begins TLS":
            await self._start_tls()
        elif entry.side == self._side:
            await trio.sleep_until(self._began + entry.time)
            if entry.event == "resets":
                await trio.sleep(DELIVERY_TIME)  # a reset discards octets that have not been received yet
                with suppress(TypeError):
                    reset(self._stream)
            await trio.aclose_forcefully(self._stream)
        elif self._buffer or await self._receive():
            self._log.add(entry.side, self._buffer)
            raise AssertionError(f"expected the end of the connection here:\n{self._log}")
        self._log.note(entry.side, entry.event)

    async def _start_tls(self) -> None:
        if self._context is None:
            raise ValueError("the session begins TLS, so ssl_context is required")
        stream = trio.SSLStream(
            self._stream,
            self._context,
            server_side=self._side == "S",
            server_hostname=self._hostname,
            https_compatible=True,
        )
        self._stream = stream
        await stream.do_handshake()


def _lines(octets: bytes) -> list[bytes]:
    """Split octets after each CRLF."""
    return [line + b"\r\n" for line in octets.split(b"\r\n")[:-1]] + list(filter(None, octets.split(b"\r\n")[-1:]))
