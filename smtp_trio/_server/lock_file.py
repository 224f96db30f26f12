"""`locked`: exclusion of other processes that change the same file, by a lock file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Seconds to wait for another process. What is done under a lock takes a few milliseconds.
WAIT = 5.0
#: Seconds between two attempts.
INTERVAL = 0.02

# A lock by `flock` can be held by each process that can open the file, for reading too. A lock of a directory could
# therefore be held by any user who may list it. So the lock is a file that only its owner can open, and the owner must
# be this user or that of the directory, who can do everything with its files anyway. Another user who may write to the
# directory could still create the file first. Then there is an error with its name, and no process waits without end.
#
# The file is removed by the process that holds the lock. One that has opened the removed file gets a lock that excludes
# none, so it compares what it has locked with what is at the path, and opens that if it differs.


@contextmanager
def locked(path: str, *, wait: float | None = None) -> Iterator[None]:
    """Hold the lock of the file at ``path``, which is created and at the end removed. Blocks for ``wait`` seconds at most, by
    default `WAIT`.

    :raises OSError: another process holds the lock (EAGAIN), or the file cannot be a lock. The text names the file.
    """
    lock = _acquire(path, time.monotonic() + (WAIT if wait is None else wait))
    try:
        yield
    finally:
        with suppress(OSError):  # the next process removes it
            os.unlink(path)
        os.close(lock)


def _acquire(path: str, deadline: float) -> int:
    while True:
        lock = _open(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(path, lock):
                return lock
        except BlockingIOError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        if time.monotonic() >= deadline:
            raise OSError(errno.EAGAIN, f"another process holds the lock file {path}", path)
        time.sleep(INTERVAL)


def _open(path: str) -> int:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # the directory does not exist, which is not the fault of the lock file
        raise
    except OSError as error:
        raise OSError(error.errno, f"cannot open the lock file {path}: {error.strerror}", path) from None
    try:
        status = os.fstat(lock)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(errno.EEXIST, f"the lock file {path} is not a plain file with one name", path)
        if status.st_uid not in (os.geteuid(), os.stat(os.path.dirname(path) or os.curdir).st_uid):
            raise PermissionError(errno.EPERM, f"the lock file {path} belongs to another user", path)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _is_current(path: str, lock: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(lock))
    except FileNotFoundError:
        return False
