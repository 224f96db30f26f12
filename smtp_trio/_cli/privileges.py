"""The user that ``smtp-trio serve`` runs as after it has opened its port."""

from __future__ import annotations

import argparse
import os
import pwd

from .options import UsageError, describe_error


def user_option(text: str) -> pwd.struct_passwd:
    """Return the account that a value of ``--user`` names."""
    try:
        return pwd.getpwnam(text)
    except KeyError:
        raise argparse.ArgumentTypeError(f"no such user: {text!r}") from None


# Only root can open a port below 1024 and then become another user. The groups are changed first, because only root may
# change them. `setuid` as root sets the real, the effective and the saved user, so the process cannot become root again.
# The C library changes the user of all threads.
def become(user: pwd.struct_passwd | None) -> None:
    """Run as this user, with its groups, from now on. None changes nothing, and neither does the present user."""
    if user is None or os.geteuid() == user.pw_uid:
        return
    try:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    except OSError as error:
        raise UsageError(f"cannot become the user {user.pw_name}: {describe_error(error)}; start as root") from None
