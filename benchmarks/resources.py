"""What a process may have, and what it has."""

from __future__ import annotations

import resource
from pathlib import Path


def raise_limits() -> int:
    """As many descriptors as the system lets us have; returns how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def memory(pid: int, what: str = "VmRSS") -> int:
    """What a process holds, in KiB: now (``VmRSS``), or at most so far (``VmHWM``)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1])
    raise AssertionError(f"no {what}")
