"""`run_in_thread`: call a function in a worker thread, without a reference cycle if it raises an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

T = TypeVar("T")


# Trio passes the error of a thread as the result of the function that it calls in the thread. The traceback of the error
# refers to the frames in which it was raised, each frame refers to the one that has called it, and among these are
# Trio's, whose variables contain the result: the error. Such a cycle keeps all that the function used, such as a message
# or a password, until the garbage collector runs. So here the error is not a result: it is put into a list that is empty
# again when the error is raised in the task.


async def run_in_thread(
    function: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None, abandon_on_cancel: bool = False
) -> T:
    """Call ``function()`` in a thread and return its result, as :func:`trio.to_thread.run_sync` does."""
    errors: list[BaseException] = []
    work = partial(_call, function, errors)
    result = await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    if errors:
        raise errors.pop()
    return result  # type: ignore[return-value]


def _call(function: Callable[[], T], errors: list[BaseException]) -> T | None:
    try:
        return function()
    except BaseException as error:
        errors.append(error)
        return None
