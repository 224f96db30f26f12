"""A message on its way in: small ones wait in memory, a large one in a file that goes away unless it is kept.

The file is written in threads, a mebibyte at a time, so a disk that stalls holds up one peer and not the server, and
a message of any size takes the memory of a small one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ._disk import write_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

MEMORY = 1 << 20


class Spool:
    """The octets of one message, ``head`` first. A store says in ``create`` where those go that memory does not hold.

    ``name`` is what the store calls the message. With ``unix`` each CRLF becomes LF.
    """

    def __init__(self, name: str, head: bytes = b"", *, unix: bool = False) -> None:
        self.name: str = name
        self.size: int = 0
        """Octets written to the file so far; all of them, when the spool is full and in a file."""
        self.fd: int | None = None
        self._held = bytearray(head)
        self._unix = unix

    def create(self) -> int:
        """Open the file that takes what memory does not hold."""
        raise NotImplementedError

    async def fill(self, body: AsyncIterable[bytes]) -> None:
        """Take in a whole body. If that fails, in whatever way, nothing is left of it when this raises."""
        try:
            async for chunk in body:
                self._held += chunk
                if len(self._held) >= MEMORY:
                    await trio.to_thread.run_sync(self.flush)
            await trio.lowlevel.checkpoint_if_cancelled()  # the last moment to turn back
        except BaseException:  # Cancelled too
            await self.dispose()
            raise

    def flush(self, *, last: bool = False) -> None:
        """Move what memory holds to the file."""
        data = self.take(last=last)
        if self.fd is None:
            self.fd = self.create()
        write_all(self.fd, data)
        self.size += len(data)

    def take(self, *, last: bool = True) -> bytearray:
        """What memory holds, which it then no longer does."""
        data, self._held = self._held, bytearray()
        if self._unix:
            if data.endswith(b"\r") and not last:  # the LF may be in the next chunk
                self._held += b"\r"
                del data[-1:]
            data = data.replace(b"\r\n", b"\n")
        return data

    def close(self) -> None:
        """Close the file, if there is one; raises OSError where the system has kept bad news for this moment."""
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)

    def discard(self) -> None:
        """Leave nothing of it on the disk."""
        with suppress(OSError):
            self.close()

    async def dispose(self) -> None:
        """Discard from a session, be it one that is being cancelled, and do not wait for a disk that has stopped."""
        if self.fd is not None:
            with trio.move_on_after(5, shield=True):
                await trio.to_thread.run_sync(self.discard, abandon_on_cancel=True)
