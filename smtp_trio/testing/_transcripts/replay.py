"""One side of a session that was, played to somebody who is to play the other."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from itertools import groupby

import trio

from .._faults.faulty_stream import MOMENT, reset
from .entry import MASK, Entry, Side, masked, other, secrets
from .transcript import Transcript, pattern

#: A line that is longer than this is not waited for.
LONGEST = 1 << 20


class Replay:
    """Plays ``side``."""

    def __init__(
        self,
        entries: list[Entry],
        stream: trio.abc.Stream,
        side: Side,
        passwords: Iterable[bytes],
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None,
    ) -> None:
        self.heard = Transcript()
        self._entries, self._stream, self._side = entries, stream, side
        self._context, self._hostname = ssl_context, server_hostname
        self._spans = secrets(entries)
        self._passwords = iter(passwords)
        self._said: dict[Side, int] = {"C": 0, "S": 0}
        self._buffer = b""

    async def run(self) -> Transcript:
        self._began = trio.current_time()
        try:
            for (side, event), run in groupby(self._entries, lambda entry: (entry.side, entry.event)):
                if event:
                    for entry in run:
                        await self._event(entry)
                elif side == self._side:
                    for entry in run:
                        await self._say(entry)
                else:
                    await self._hear(b"".join(entry.data for entry in run))
        except trio.BrokenResourceError as exc:
            raise AssertionError(f"the connection broke here:\n{self.heard}") from exc
        finally:
            await trio.aclose_forcefully(self._stream)
        return self.heard

    def _parts(self, side: Side, data: bytes) -> Iterator[tuple[bytes, bool]]:
        at = self._said[side]
        self._said[side] += len(data)
        return masked(data, at, self._spans[side])

    async def _say(self, entry: Entry) -> None:
        data = b""
        for part, secret in self._parts(self._side, entry.data):
            if secret and part == MASK:
                try:
                    part = next(self._passwords)
                except StopIteration:
                    raise ValueError("there is a password to be said here, and secrets= has none for it") from None
            data += part
        await trio.sleep_until(self._began + entry.time)
        self.heard.add(self._side, data)
        await self._stream.send_all(data)

    async def _hear(self, data: bytes) -> None:
        wanted = b"".join(MASK if secret else part for part, secret in self._parts(other(self._side), data))
        for line in _lines(wanted):
            got = await (self._line() if line.endswith(b"\r\n") else self._exactly(len(line)))
            self.heard.add(other(self._side), got)
            fits = pattern(line.decode("latin-1")).fullmatch(got.decode("latin-1"))
            if not fits:
                raise AssertionError(f"{line!r} should have come here:\n{self.heard}")

    async def _more(self) -> bool:
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        self._buffer += data
        return bool(data)

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer and len(self._buffer) < LONGEST and await self._more():
            pass
        return self._take(self._buffer.find(b"\r\n") + 2 if b"\r\n" in self._buffer else len(self._buffer))

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count and await self._more():
            pass
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def _event(self, entry: Entry) -> None:
        if entry.event == "begins TLS":
            await self._secure()
        elif entry.side == self._side:
            await trio.sleep_until(self._began + entry.time)
            if entry.event == "resets":
                await trio.sleep(MOMENT)  # for what was said to arrive
                reset(self._stream)
            await trio.aclose_forcefully(self._stream)
        elif self._buffer or await self._more():
            self.heard.add(entry.side, self._buffer)
            raise AssertionError(f"the connection should have been closed here:\n{self.heard}")
        self.heard.note(entry.side, entry.event)

    async def _secure(self) -> None:
        if self._context is None:
            raise ValueError("there is TLS in this session: it needs an ssl_context")
        server_side = self._side == "S"
        stream = trio.SSLStream(
            self._stream, self._context, server_side=server_side, server_hostname=self._hostname, https_compatible=True
        )
        self._stream = stream
        await stream.do_handshake()


def _lines(octets: bytes) -> list[bytes]:
    """Octets, cut behind every CRLF."""
    return [line + b"\r\n" for line in octets.split(b"\r\n")[:-1]] + list(filter(None, octets.split(b"\r\n")[-1:]))
