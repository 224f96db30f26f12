"""A message before it is committed: a small one in memory, a large one in a file.

The file is written in threads, a mebibyte at a time. A disk that stalls therefore delays one session and not the
server, and a message of any size needs no more memory than a small one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._server.received import begins_with_field
from ._disk import write_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

#: Octets of a message that are kept in memory. When there are more, they are moved to the file.
MEMORY = 1 << 20


class Spool:
    """The octets of one message.

    ``name`` is the store's id of the message. ``head`` are octets that the store puts before it. With ``lf`` each CRLF
    becomes LF. Each store has a subclass, which creates the file of a large message.
    """

    def __init__(self, name: str, head: bytes = b"", *, lf: bool = False) -> None:
        self.name: str = name
        self.size: int = 0
        """The number of octets that were written to the file."""
        self.fd: int | None = None
        self._buffer = bytearray(head)
        # The beginning of the message, if it comes after fields and may continue the last of them.
        self._start: bytes | None = b"" if head else None
        self._lf = lf

    def create_file(self) -> int:
        """Create the file of a large message, and return its descriptor. Called in a thread."""
        raise NotImplementedError

    async def fill(self, body: AsyncIterable[bytes]) -> None:
        """Read a whole body. On any error, cancellation included, the file is removed before this raises."""
        try:
            async for chunk in body:
                self._buffer += self.separate(chunk) if self._start is not None else chunk
                if len(self._buffer) >= MEMORY:
                    await trio.to_thread.run_sync(self.flush)
            self.end_header()
            # The last point at which the message can be cancelled (see `GroupCommit`).
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await self.discard_in_thread()
            raise

    def separate(self, chunk: bytes) -> bytes:
        """Return a chunk with an empty line before it if it begins a message that does not begin with a field.

        Until that is known, the octets are kept, and b"" is returned.
        """
        start = self._start = (self._start or b"") + chunk
        field = begins_with_field(start)
        if field is None:
            return b""
        self._start = None
        return start if field else b"\r\n" + start

    def end_header(self) -> None:
        """Add a short message, of which it is not known whether it begins with a field."""
        if self._start:
            self._buffer += b"\r\n" + self._start

    def flush(self, *, last: bool = False) -> None:
        """Write the octets in memory to the file. ``last`` means that no more follow."""
        data = self.take(last=last)
        if self.fd is None:
            self.fd = self.create_file()
        write_all(self.fd, data)
        self.size += len(data)

    def take(self, *, last: bool = True) -> bytearray:
        """Remove the octets from memory, and return them."""
        data, self._buffer = self._buffer, bytearray()
        if self._lf:
            if data.endswith(b"\r") and not last:  # the LF may come with the next chunk
                self._buffer += b"\r"
                del data[-1:]
            data = data.replace(b"\r\n", b"\n")
        return data

    def close(self) -> None:
        """Close the file, if there is one. Raises OSError: some file systems report a failed write only now."""
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)

    def discard(self) -> None:
        """Remove everything that was written to the disk."""
        with suppress(OSError):
            self.close()

    async def discard_in_thread(self) -> None:
        """Call `discard`, also in a cancelled task, and wait for it 5 s at most: the disk may have stalled."""
        if self.fd is not None:
            with trio.move_on_after(5, shield=True):
                await trio.to_thread.run_sync(self.discard, abandon_on_cancel=True)
