"""File operations that make data durable. Everything here blocks: call it in a thread."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import struct
from collections.abc import Callable
from contextlib import suppress

#: Octets of a large message that are written before they are flushed; see "How a large message is written" in maildir.py.
PART = 1 << 18
#: Flush the octets of a file, and of its attributes only the size. Not all systems have it.
flush_octets: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of the data: a signal, a full disk or a quota can make `os.write` write less, which is not an error."""
    with memoryview(data) as rest:
        while rest:
            done = os.write(fd, rest)
            rest = rest[done:]


def free_octets(path: str) -> float:
    """Return the free space of the file system of a path; infinity if that does not say, as some network file systems."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize if status.f_blocks else math.inf


def check_free(path: str, octets: int) -> None:
    """Raise OSError if the file system of a path has less free space."""
    if free_octets(path) < octets:
        raise OSError(errno.ENOSPC, f"less than {octets >> 10} KiB are left on the disk; free some space", path)


class Directory:
    """A directory that is held open: for fsync, and for names relative to it, which stay valid when its path changes.

    The descriptor is closed with the last reference to this object. A thread that uses the directory can therefore not
    see the number of its descriptor closed and given to another file, when another thread opens the directory again.
    """

    def __init__(self, path: str, *, follow: bool = False) -> None:
        """Open the directory. ``follow`` allows the path to be a symbolic link to it."""
        self.path: str = path
        self.fd: int = os.open(path, os.O_RDONLY | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW))
        self._status = os.fstat(self.fd)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):  # it could not be opened
            os.close(self.fd)

    def sync(self) -> None:
        """Make the names in the directory durable: fsync of a file saves its octets and not its name."""
        os.fsync(self.fd)

    def is_current(self) -> bool:
        """Return whether the path still names this directory."""
        try:
            return os.path.samestat(os.lstat(self.path), self._status)
        except FileNotFoundError:
            return False


class ProcessMark:
    """A number by which other processes see whether the process that chose it is still there.

    It is the position of a lock on one octet of a file, which the kernel releases when the process ends. The file is the
    write-ahead log of a database, as only those who may write to the database can open it: a directory could be locked by
    any user who may list it. The database itself cannot be used, because closing any descriptor of it would release
    SQLite's own locks on it (sqlite.org/howtocorrupt.html, 2.2); it has none on the log. The lock belongs to the open file
    and not to the process (F_OFD_SETLK), so that two stores of one process see each other, too. Where the system has no such
    locks, other processes count as ended.
    """

    #: A ``struct flock``: the type, SEEK_SET, position, length, and no process.
    _LOCK = struct.Struct("hhqqi4x")

    def __init__(self, number: int) -> None:
        self.number: int = number
        self._fd: int | None = None

    def __del__(self) -> None:
        self.release()

    def hold(self, path: str) -> None:
        """Lock this number in a file. Raises OSError."""
        self.release()
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        if hasattr(fcntl, "F_OFD_SETLK"):
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self.number, 1, 0))

    def release(self) -> None:
        """Unlock the number."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def is_held(self, number: int) -> bool:
        """Return whether another store has locked a number in the same file."""
        assert self._fd is not None
        if not hasattr(fcntl, "F_OFD_GETLK"):
            return False
        query = self._LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        kind: int = self._LOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, query))[0]
        return kind != fcntl.F_UNLCK


def check_no_link(path: str) -> None:
    """Raise OSError for a symbolic link. A user who could create one could have mail written to any place."""
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "is a symbolic link, which a store does not follow", path)


def make_directory(path: str, *, follow: bool = False) -> None:
    """Create a directory, and missing ones above it, so that they survive a power cut.

    An existing one is not changed. Raises OSError if it is a symbolic link, unless ``follow`` is true.
    """
    if not follow:
        check_no_link(path)
    parent = os.path.dirname(path)
    try:
        os.mkdir(path, 0o700)  # mail is private
    except FileNotFoundError:
        make_directory(parent, follow=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        # The process that created it may have ended before it flushed the parent directory. If this process may not
        # open the parent, another user created the directory.
        with suppress(OSError):
            Directory(parent, follow=True).sync()
        return
    Directory(parent, follow=True).sync()


def check_writable(path: str) -> None:
    """Raise OSError, with what to do, when this user cannot write to the path or its file system is read-only."""
    if os.access(path, os.W_OK):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, "on a read-only file system; mount it for writing, or store mail elsewhere", path)
    raise PermissionError(errno.EACCES, "not writable; give the user of the server the right to write there", path)
