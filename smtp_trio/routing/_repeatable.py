"""Messages that can be read for each domain: an async iterable yields its pieces only once, so they are kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Final

import trio

from .._client.message import Message, read_iterable

#: Octets of an iterable that are kept in memory. A larger message is kept in a temporary file.
MEMORY: Final = 1 << 20


@contextlib.asynccontextmanager
async def repeatable(message: Message) -> AsyncIterator[Message]:
    """Yield the message in a form that can be read any number of times until the end of the ``async with``.

    An async iterable is read to its end; its exceptions pass through unchanged. Raises TypeError for a piece that is not
    bytes, and OSError if the temporary file cannot be written.
    """
    if not isinstance(message, AsyncIterable):
        yield message
        return
    held: list[bytes] = []
    size = 0
    async with contextlib.aclosing(read_iterable(message)) as pieces:
        async for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size > MEMORY:
                break
        else:
            yield b"".join(held)
            return
        temporary = await trio.to_thread.run_sync(_open_temporary)
        async with trio.wrap_file(temporary) as file:
            for piece in held:
                await file.write(piece)
            held.clear()
            async for piece in pieces:
                await file.write(piece)
            await file.flush()
            yield Path(temporary.name)


def _open_temporary() -> IO[bytes]:
    """Open a temporary file, which is removed when it is closed."""
    return NamedTemporaryFile(prefix="smtp-trio-")  # closed by the caller
