"""The open files and sockets of this process, of which some may belong to objects of earlier tests that are garbage."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


def open_descriptors() -> int:
    """Return how many descriptors are open, without those of garbage, which are closed at any moment."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """Leave so many descriptors that can be opened in the block. The garbage collector closes none meanwhile."""
    gc.collect()
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(left + 1)]
    for descriptor in free:
        os.close(descriptor)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
