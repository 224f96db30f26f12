"""What has to be done by hand so that the disk holds what it was given. Everything here blocks: call it in a thread."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of it: a signal, a full disk or a quota may make a write a short one, which is not an error."""
    with memoryview(data) as rest:
        while rest:
            done = os.write(fd, rest)
            rest = rest[done:]


@contextmanager
def directory(path: str) -> Iterator[int]:
    """A descriptor to flush a directory by, and to name files in it whatever becomes of its path."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def flush_directory(path: str) -> None:
    """Make the names in a directory safe: to flush a file saves its octets, not its name."""
    with directory(path) as fd:
        os.fsync(fd)


def make_directory(path: str) -> None:
    """Make a directory that survives a power cut, and what is missing above it; one that is there is left as it is."""
    parent = os.path.dirname(path)
    try:
        os.mkdir(path, 0o700)  # mail is private
    except FileNotFoundError:
        make_directory(parent)
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        # Who made it may have come no further. If it is not ours to flush, then neither was it ours to make.
        with suppress(OSError):
            flush_directory(parent)
        return
    flush_directory(parent)


def check_writable(path: str) -> None:
    """Raise PermissionError where nothing can be written, be it for the file system's sake."""
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is not writable", path)
