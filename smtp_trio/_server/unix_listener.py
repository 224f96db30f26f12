"""Listening on a unix socket: its mode and group, and the file of a socket whose server has ended."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat

import trio

from ..protocol.arguments import check_number, check_type
from .listeners import BACKLOG, to_listener
from .spool import check_path

# The file of a unix socket stays when its server ends, and another server cannot bind the same path. Whether a server is
# listening there can be found out by connecting: without one, the kernel refuses. Between that and `bind`, another server
# could do the same, so that each would remove the socket of the other one. So both lock the directory for that time.
#
# To connect, a client needs the permission to write to the file. Its mode is set before `listen`, and a socket that is not
# listening refuses every client, so the mode that it has by the umask of the process does not matter.


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
    :raises OSError: a server is listening there (EADDRINUSE), or the socket cannot be created.
    """
    path = check_path(path, "path")
    check_number(mode, "mode", integer=True)
    check_type(gid, "gid", int, optional=True)
    check_number(backlog, "backlog", integer=True, optional=True)
    return to_listener(await trio.to_thread.run_sync(bind_unix, path, mode, gid, backlog))


def bind_unix(path: str, mode: int, gid: int | None = None, backlog: int | None = None) -> socket.socket:
    """Return a socket that listens at this path; see `open_unix_listener`."""
    directory = os.open(os.path.dirname(path) or os.curdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        _remove_stale(path)
        sock.bind(path)
        try:
            if gid is not None:
                os.chown(path, -1, gid, follow_symlinks=False)
            os.chmod(path, mode)
            sock.listen(BACKLOG if backlog is None else backlog)
        except BaseException:
            os.unlink(path)
            raise
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return sock


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
