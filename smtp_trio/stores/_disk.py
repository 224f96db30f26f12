"""File operations that make data durable. Everything here blocks: call it in a thread."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of the data: a signal, a full disk or a quota can make `os.write` write less, which is not an error."""
    with memoryview(data) as rest:
        while rest:
            done = os.write(fd, rest)
            rest = rest[done:]


@contextmanager
def open_directory(path: str) -> Iterator[int]:
    """Open a directory, for fsync and for names relative to it, which stay valid when its path changes."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable: fsync of a file saves its octets and not its name."""
    with open_directory(path) as fd:
        os.fsync(fd)


def make_directory(path: str) -> None:
    """Create a directory, and missing ones above it, so that they survive a power cut.

    An existing one is not changed.
    """
    parent = os.path.dirname(path)
    try:
        os.mkdir(path, 0o700)  # mail is private
    except FileNotFoundError:
        make_directory(parent)
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        # The process that created it may have ended before it flushed the parent directory. If this process may not
        # open the parent, another user created the directory.
        with suppress(OSError):
            sync_directory(parent)
        return
    sync_directory(parent)


def check_writable(path: str) -> None:
    """Raise PermissionError when the path is not writable, also when the reason is a read-only file system."""
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "not writable", path)
