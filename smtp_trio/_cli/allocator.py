"""The C library's memory allocator, set so that ``smtp-trio serve`` returns the memory that it no longer needs."""

from __future__ import annotations

# A large message is received in pieces of up to a mebibyte, whose buffers live for milliseconds. The malloc of glibc first
# maps each of them into memory of its own, which is returned when it is freed. But after the first one has been freed,
# glibc takes blocks of its size from a heap (mallopt(3), "dynamic mmap threshold"), and a heap can return memory only at its
# end: a few small objects at higher addresses keep all freed buffers. There is also a heap for each of several threads. The
# memory of a server then grows for days, although Python and the server free everything. Setting the thresholds makes them
# constant, and all threads, of which only one at a time runs Python, share one heap.

#: Parameters of mallopt(3) and their values: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, in octets, and M_ARENA_MAX.
PARAMETERS = {-3: 131072, -1: 131072, -8: 1}


def return_freed_memory() -> None:
    """Set the allocator. Do nothing where the C library has no ``mallopt``."""
    import ctypes  # imported here because only this command needs it

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in PARAMETERS.items():
            mallopt(parameter, value)
