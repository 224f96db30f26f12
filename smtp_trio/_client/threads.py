"""Work that takes more than a few milliseconds, done in a worker thread while other tasks run."""

from __future__ import annotations

import email.message
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from .._timeouts import clock_jumps

ResultT = TypeVar("ResultT")

#: Octets in memory above which their line ends are converted in a thread: 0.7 ms of work, 6 ms in the worst case.
LARGE_OCTETS: Final = 1 << 18
#: The work for an email message above which it is generated in a thread, in octets of its body: about 3 ms.
LARGE_EMAIL: Final = 1 << 16
#: A character of a header costs as much as this many octets of a body, because address fields are parsed.
HEADER_WEIGHT: Final = 64
#: The most threads at a time. The work holds the GIL for most of the time, so more of them would not be faster.
THREADS: Final = 4

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("smtp_trio client threads")


# When a thread is used
#
# A task that computes for 50 ms delays all other tasks of the program by that time. The client does three things that can
# take so long: it converts messages, it loads the certificates of the authorities, and it derives the keys of SCRAM. In a
# thread, such work lets other tasks run every few milliseconds. A thread costs 0.1 ms, as much as sending a small message
# does, so it is used for large messages only, which `is_large` estimates without reading them.
#
# Cancellation. An email message is mutable and belongs to the caller. A thread cannot be stopped, so a call that is
# cancelled waits until the thread has finished: the client never uses a message after the call that it was given to has
# ended. Work without such an argument may be abandoned.
#
# Threads of its own. Trio's default limit on threads is shared with the program. A program whose threads all wait for
# the client (by `trio.from_thread.run`) would leave none for it, and both would wait forever.
#
# Virtual time. A clock that jumps when all tasks are blocked (`trio.testing.MockClock` with ``autojump_threshold``)
# counts a task that waits for a thread as blocked, so all timeouts of both sides would expire at once. Under such a
# clock the work is done in the task.
async def run_in_thread(function: Callable[..., ResultT], *args: object, abandon_on_cancel: bool = False) -> ResultT:
    """Call ``function(*args)`` in a worker thread, and return its result.

    A cancellation waits for the thread, unless ``abandon_on_cancel`` is true.
    """
    if clock_jumps():
        return function(*args)
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)


async def run_for(message: object, function: Callable[..., ResultT], *args: object) -> ResultT:
    """Call ``function(*args)``, whose duration grows with the size of ``message``: in a thread if it is large."""
    return await run_in_thread(function, *args) if is_large(message) else function(*args)


def is_large(message: object) -> bool:
    """Return whether converting ``message`` takes so long that other tasks should run meanwhile."""
    if isinstance(message, bytes | bytearray | memoryview):
        return memoryview(message).nbytes > LARGE_OCTETS
    if not isinstance(message, email.message.Message):
        return False
    work = 0
    for part in message.walk():
        # `get_payload` would decode the text, which is part of the work that is estimated here.
        payload = getattr(part, "_payload", None)
        work += len(payload) if isinstance(payload, str | bytes) else 0
        work += HEADER_WEIGHT * sum(len(name) + len(str(value)) for name, value in part.raw_items())
        if work > LARGE_EMAIL:
            return True
    return False
