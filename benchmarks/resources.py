"""Limits and memory of processes."""

from __future__ import annotations

import resource
from pathlib import Path


def raise_descriptor_limit() -> int:
    """Raise the limit of file descriptors as far as allowed, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def memory(pid: int, field: str = "VmRSS") -> int:
    """Return the resident memory of a process in KiB: the current one (``VmRSS``) or its maximum (``VmHWM``)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(f"no {field}")
