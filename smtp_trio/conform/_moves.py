"""What servers do to clients, beside sending what they send."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import trio
from attrs import frozen

from ._talk import Talk, WrongAnswer


async def gone(talk: Talk, seconds: float) -> bool:
    """Whether the client goes within so many seconds."""
    with trio.move_on_after(seconds) as scope:
        await talk.listen()
    return not scope.cancelled_caught


@frozen
class Slowly:
    """An octet, or so many, then a pause of so many seconds, and so on."""

    data: bytes
    pause: float = 0.02
    chunk: int = 1

    async def play(self, talk: Talk) -> None:
        for at in range(0, len(self.data), self.chunk):
            await talk.send(self.data[at : at + self.chunk])
            if await gone(talk, self.pause):
                return


@frozen
class Pause:
    """So many seconds. What comes meanwhile is early."""

    seconds: float

    async def play(self, talk: Talk) -> None:
        await gone(talk, self.seconds)


@frozen
class Hangup:
    """The connection is closed; with `reset`, as by a machine that has crashed."""

    reset: bool = False

    async def play(self, talk: Talk) -> None:
        if self.reset and isinstance(talk.stream, trio.SocketStream):
            talk.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await talk.hang_up()


@frozen
class Silence:
    """Nothing, until the client goes. Whatever it says is read."""

    async def play(self, talk: Talk) -> None:
        while not await talk.ended():
            talk.forget()


@frozen
class Gather:
    """So many octets are waited for, or the client goes. They can still be read."""

    octets: int

    async def play(self, talk: Talk) -> None:
        with suppress(WrongAnswer):
            await talk.gather(self.octets)


@frozen
class Shake:
    """The handshake of TLS, which the client may break off."""

    async def play(self, talk: Talk) -> None:
        if talk.tls is None:
            await talk.hang_up()
            return
        with suppress(WrongAnswer):
            await talk.start_tls(server_side=True)
