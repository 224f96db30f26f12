"""The file in which MTA-STS policies survive a restart. Everything here blocks: call it in a thread."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress

from attrs import frozen

from ._sts_policy import StsPolicy, parse_sts_policy

VERSION = 1


@frozen
class StoredPolicy:
    """A policy, its id, and when it was fetched, in seconds since 1970."""

    domain: str
    id: str
    fetched: float
    policy: StsPolicy


# RFC 8461 10.2: an attacker who can suppress discovery is stopped by a policy that is cached already, so a restart must
# not lose the policies. They are one JSON file, because they are few and small, and an operator can read it. The text of
# a policy is stored and parsed again, so that the file has no second form of what a policy is.
def read_policies(path: str) -> list[StoredPolicy]:
    """Return the policies in a file, oldest use first; none if it does not exist.

    Raises OSError if it cannot be read, and ValueError if its content is something else. A policy that is invalid is left out.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return []
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    match content:
        case {"version": 1, "policies": [*items]}:
            return [stored for item in items if (stored := _stored(item)) is not None]
    raise ValueError(f"{path}: not a file of MTA-STS policies, version {VERSION}")


def _stored(item: object) -> StoredPolicy | None:
    match item:
        case {"domain": str(domain), "id": str(id), "fetched": int() | float() as fetched, "policy": str(text)}:
            with suppress(ValueError):
                return StoredPolicy(domain, id, fetched, parse_sts_policy(text))
    return None


def write_policies(path: str, policies: Iterable[StoredPolicy]) -> None:
    """Replace a file by one with ``policies``. Whenever the system stops, the file is the old or the new one."""
    items = [
        {"domain": each.domain, "id": each.id, "fetched": each.fetched, "policy": "\n".join(each.policy.lines)}
        for each in policies
    ]
    text = json.dumps({"version": VERSION, "policies": items}, indent=1)
    directory = os.path.dirname(os.path.abspath(path))
    # The file shows to which domains mail is sent. `mkstemp` makes it readable for its owner only.
    fd, temporary = tempfile.mkstemp(dir=directory, prefix=f".{os.path.basename(path)}.")
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    # fsync of a file saves its octets, and that of the directory its name.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
