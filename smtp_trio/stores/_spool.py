"""A message before it is committed: a small one in memory, a large one on the disk, where readers do not see it.

It is written to the disk in threads, a part at a time. A disk that stalls therefore delays one session and not the
server, and a message of any size needs no more memory than a small one. Nearly all of a large message is on the disk
before it is committed, so that the other messages of its group do not wait for it (see `_group.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import trio

from .._server.memory import UNCOUNTED, Keeper, with_reserve
from .._server.received import begins_with_field
from .._server.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable

T = TypeVar("T")

#: Octets of a message that are kept in memory. When there are more, they are written to the disk, and so is each part of
#: `Spool.part` octets that follows.
MEMORY = 1 << 20
#: Seconds to wait for a step of the removal of a message that is not stored.
DISCARD_TIMEOUT = 5
#: Seconds in which a session removes such messages, its own and those of others. Its client waits for the reply, for ten
#: minutes or more (RFC 5321 4.5.3.2.6).
REMOVAL_TIMEOUT = 500


class Spool:
    """The octets of one message.

    ``name`` is the store's id of the message. ``head`` are octets that the store puts before it. With ``lf`` each CRLF
    becomes LF. Each store has a subclass, which writes a large message to the disk.
    """

    part: int = MEMORY
    """The number of octets that are written at a time."""
    memory: int = MEMORY
    """The number of octets in memory at which the first part is written."""

    def __init__(self, name: str, head: bytes = b"", *, lf: bool = False) -> None:
        self.name: str = name
        self.size: int = 0
        """The number of octets that were written to the disk."""
        self._buffer = bytearray(head)
        # The beginning of the message, if it comes after fields and may continue the last of them.
        self._start: bytes | None = b"" if head else None
        self._lf = lf

    # --- implemented by each store:

    def write(self, data: bytearray) -> None:
        """Write octets to the disk, after those that were written before. Called in a thread, by `in_thread`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do as much as possible of the work of a commit, after the last octet of a large message. Called like `write`."""

    def discard(self) -> bool:
        """Remove what was written to the disk, and return whether that has to be called again. Called like `write`."""
        return False

    async def in_thread(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call one of these functions in a thread."""
        return await run_in_thread(work, abandon_on_cancel=abandon_on_cancel)

    def write_part(self) -> Awaitable[bool]:
        """Write octets in memory, and return whether there is another part in memory."""
        return self.in_thread(self.flush)

    def complete(self) -> Awaitable[None]:
        """Call `finish`."""
        return self.in_thread(self.finish)

    # --- the same in every store:

    @property
    def buffered(self) -> int:
        """The number of octets in memory."""
        return len(self._buffer)

    async def fill(self, body: AsyncIterable[bytes], keeper: Keeper = UNCOUNTED) -> None:
        """Read a whole body. On any error, cancellation included, nothing is left on the disk when this raises.

        ``keeper`` counts what is in memory.
        """
        kept = 0
        try:
            async for chunk in body:
                self._buffer += self.separate(chunk) if self._start is not None else chunk
                kept, before = with_reserve(self.buffered), kept
                keeper.keep(kept - before)
                if self.buffered >= keeper.share(min(self.memory, self.part) if self.size else self.memory):
                    while await self.write_part():
                        pass
                    kept, before = with_reserve(self.buffered), kept
                    keeper.keep(kept - before)
            self.end_header()
            if self.size:
                await self.complete()
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

    def flush(self, *, last: bool = False) -> bool:
        """Write octets in memory to the disk, and return whether there is another part in memory.

        ``last`` means that no more follow; all of them are written then.
        """
        data = self.take(last=last)
        self.write(data)
        self.size += len(data)
        return self.buffered >= self.part

    def take(self, *, last: bool = True) -> bytearray:
        """Remove the octets from memory, and return them: all of them if they are the last, otherwise a part."""
        end = len(self._buffer)
        if not last and end >= 2 * self.part:
            end = self.part
        if self._lf and not last and self._buffer.endswith(b"\r", 0, end):  # the LF may come with the next chunk
            end -= 1
        data, self._buffer = self._buffer[:end], self._buffer[end:]
        if self._lf:
            data = data.replace(b"\r\n", b"\n")
        return data

    @property
    def written(self) -> bool:
        """True if something of the message may be on the disk, so that it has to be discarded if it is not stored."""
        return self.size > 0

    @property
    def to_discard(self) -> bool:
        """True if `discard` has something to do."""
        return self.written

    async def discard_in_thread(self) -> None:
        """Call `discard`, also in a cancelled task, and wait for each call 5 s at most: the disk may have stalled.

        A cancelled task, as those of a server that stops, waits about 5 s in total.
        """
        more, began = True, trio.current_time()
        while more and self.to_discard:
            with trio.move_on_after(DISCARD_TIMEOUT, shield=True) as scope:
                more = await self.in_thread(self.discard, abandon_on_cancel=True)
            longest = DISCARD_TIMEOUT if trio.current_effective_deadline() == -math.inf else REMOVAL_TIMEOUT
            if scope.cancelled_caught or trio.current_time() > began + longest:
                return


class TaskSpool(Spool):
    """A message of a store whose engine is used by tasks instead of threads."""

    async def send(self, data: bytearray) -> None:
        """Write octets, after those that were written before, where readers do not see them. Raises `StoreError`."""
        raise NotImplementedError

    async def withdraw(self) -> None:
        """Remove what was written, as far as the engine responds."""

    async def write_part(self) -> bool:
        """Write a part, and return whether there is another one in memory."""
        data = self.take(last=False)
        await self.send(data)
        self.size: int = self.size + len(data)
        return self.buffered >= self.part

    async def complete(self) -> None:
        """Do nothing: the commit does the rest."""

    async def discard_in_thread(self) -> None:
        """Call `withdraw`, also in a cancelled task."""
        if self.written:
            with trio.move_on_after(DISCARD_TIMEOUT, shield=True):
                await self.withdraw()
