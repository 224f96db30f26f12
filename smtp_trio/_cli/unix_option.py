"""The unix socket of ``smtp-trio serve``: ``--unix``, ``--unix-mode`` and ``--unix-group``."""

from __future__ import annotations

import argparse
import errno
import grp
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .._server.unix_listener import bind_unix
from .options import UsageError, describe_error

#: The path with ``--lmtp`` and without an address.
LMTP_PATH = "lmtp.sock"
MODE = 0o600


def mode_option(text: str) -> int:
    """Return the permissions that a value of ``--unix-mode`` names."""
    if re.fullmatch("0?[0-7]{3}", text) is None:
        raise argparse.ArgumentTypeError(f"must be three octal digits such as 660, got {text!r}")
    return int(text, 8)


def group_option(text: str) -> int:
    """Return the group that a value of ``--unix-group`` names."""
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise argparse.ArgumentTypeError(f"no such group: {text!r}") from None


@contextmanager
def unix_socket(options: argparse.Namespace) -> Iterator[list[socket.socket]]:
    """Listen on the socket of ``--unix``, if it was given; remove it at the end.

    The socket belongs to the user of ``--user``, who may not be allowed to remove it. Then the next server does.
    """
    if options.unix is None:
        yield []
        return
    try:
        mode = MODE if options.unix_mode is None else options.unix_mode
        uid = None if options.user is None else options.user.pw_uid
        sock = bind_unix(options.unix, mode, options.unix_group, uid=uid)
    except OSError as error:
        hint = ": another program is listening there" if error.errno == errno.EADDRINUSE else ""
        raise UsageError(f"cannot listen on unix:{options.unix}: {describe_error(error)}{hint}") from None
    created = os.lstat(options.unix)
    try:
        with sock:
            yield [sock]
    finally:
        with suppress(OSError):
            if os.path.samestat(created, os.lstat(options.unix)):
                os.unlink(options.unix)
