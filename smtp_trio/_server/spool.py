"""`spool`: moves a message into a temporary file; and a check of paths."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import AsyncIterable
from contextlib import suppress
from functools import partial
from typing import BinaryIO

from ..protocol.arguments import check_type
from .memory import Keeper, with_reserve
from .threads import run_in_thread

#: Octets that are written by one call in a thread.
WRITE_SIZE = 1 << 20


async def spool(
    pieces: AsyncIterable[bytes], keeper: Keeper, max_size: int, folder: str | os.PathLike[str] | None
) -> BinaryIO:
    """Return a file with all pieces, at its beginning. See `Body.spool`."""
    buffer = bytearray()
    file: BinaryIO | None = None
    counted = 0
    try:
        async for piece in pieces:
            counted, before = with_reserve(len(buffer) + len(piece)), counted
            keeper.keep(counted - before)
            buffer += piece
            if len(buffer) > keeper.share(max_size if file is None else WRITE_SIZE):
                if file is None:
                    file = await run_in_thread(partial(_create, folder))
                await run_in_thread(partial(_write, file, buffer))
                keeper.keep(-counted)
                buffer, counted = bytearray(), 0
        if file is None:
            return io.BytesIO(buffer)
        await run_in_thread(partial(_write, file, buffer))
        file.seek(0)
        return file
    except BaseException:
        if file is not None:
            with suppress(OSError):  # the disk is full, for example, which is also why the last write failed
                file.close()
        raise


def _create(folder: str | os.PathLike[str] | None) -> BinaryIO:
    return tempfile.TemporaryFile(dir=folder)


def _write(file: BinaryIO, octets: bytearray) -> None:
    """Append octets to a file, and pass all of them to the system."""
    file.write(octets)
    file.flush()


def check_path(value: object, what: str) -> str:
    """Return a path as a str. Raises TypeError if ``value`` is neither a str nor an `os.PathLike` of one."""
    check_type(value, what, (str, os.PathLike))
    path: object = os.fspath(value)  # type: ignore[call-overload]
    if not isinstance(path, str):
        raise TypeError(f"{what} must be a path of str, got {value!r}")
    return path
