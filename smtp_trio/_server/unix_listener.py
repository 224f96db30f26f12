"""Listening on a unix socket: its mode and group, and the file of a socket whose server has ended."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress

import trio

from ..protocol.arguments import check_number, check_type
from .listeners import BACKLOG, to_listener
from .lock_file import locked
from .spool import check_path

# The file of a unix socket stays when its server ends, and another server cannot bind the same path. Whether a server is
# listening there can be found out by connecting: without one, the kernel refuses. Between that and `bind`, another server
# could do the same, so that each would remove the socket of the other one. So both hold a lock file for that time.
#
# To connect, a client needs the permission to write to the file. A socket that is not listening refuses every client, and
# the mode is set before `listen`. Linux creates the file with the mode of the socket's descriptor, less the umask, so it
# has never more permissions than it is meant to have. (The umask is not changed: all threads share it.)
#
# `bind` returns no descriptor of the file, and another user who may write to the directory could put a link to another
# file in its place. So the file is opened by its name once, without following a link, and checked; owner and mode
# are then changed through the descriptor. As it has been opened by O_PATH, this needs its name in /proc. Other systems
# have no O_PATH, but can change the mode of a link itself.


async def open_unix_listener(
    path: str | os.PathLike[str], *, mode: int = 0o600, gid: int | None = None, backlog: int | None = None
) -> trio.SocketListener:
    """Listen on a unix socket; return the listener, for `Server.serve_listeners`.

    A socket at ``path`` whose server has ended is replaced. The file stays when the listener is closed.

    :param mode: the permissions of the socket. A client that may write to it may connect; by default its owner.
    :param gid: the group of the socket; that of the process by default.
    :param backlog: how many connections may wait to be accepted; by default 4096, or the maximum of the system if that
        is less.
    :raises FileExistsError: the file at ``path`` is not a socket.
    :raises OSError: a server is listening there (EADDRINUSE), another process holds the lock file ``PATH.lock`` (EAGAIN),
        or the socket cannot be created.
    """
    path = check_path(path, "path")
    check_number(mode, "mode", integer=True)
    check_type(gid, "gid", int, optional=True)
    check_number(backlog, "backlog", integer=True, optional=True)
    return to_listener(await trio.to_thread.run_sync(bind_unix, path, mode, gid, backlog))


def bind_unix(
    path: str, mode: int, gid: int | None = None, backlog: int | None = None, *, uid: int | None = None
) -> socket.socket:
    """Return a socket that listens at this path; see `open_unix_listener`. ``uid`` is the owner of the file."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with locked(f"{path}.lock"):
            _remove_stale(path)
            with suppress(OSError):  # other systems than Linux
                os.fchmod(sock.fileno(), mode)
            sock.bind(path)
            try:
                _set_attributes(path, mode, uid, gid)
                sock.listen(BACKLOG if backlog is None else backlog)
            except BaseException:
                os.unlink(path)
                raise
    except BaseException:
        sock.close()
        raise
    return sock


def _set_attributes(path: str, mode: int, uid: int | None, gid: int | None) -> None:
    """Set the owner, the group and the mode of the socket at this path, and of no other file."""
    owner, group = -1 if uid is None else uid, -1 if gid is None else gid
    if not hasattr(os, "O_PATH"):
        os.chown(path, owner, group, follow_symlinks=False)
        os.chmod(path, mode, follow_symlinks=False)
        return
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status, name = os.fstat(file), f"/proc/self/fd/{file}"
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
            raise FileExistsError(errno.EEXIST, "The socket was replaced by another file", path)
        if (owner, group) != (-1, -1):
            os.chown(name, owner, group)
        if stat.S_IMODE(status.st_mode) != mode:
            os.chmod(name, mode)
    finally:
        os.close(file)


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that has ended. Raises OSError if there is anything else at this path."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "There is a file that is not a socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its queue of connections is full
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
