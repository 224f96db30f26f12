"""Work for threads that is done in the task instead, for virtual time and for sweeps."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import outcome
import trio

# A clock that jumps when all tasks are blocked counts a task that waits for a thread as blocked. So it jumps to the next
# deadline while the thread works, and some timeout expires: that of the hook, or that of the client.
#
# Trio starts all threads of `trio.to_thread.run_sync` by one function of the module below. To replace that function, and
# not `run_sync` itself, has two advantages. It does not matter how a module has imported `run_sync` (`trio.Path` has a
# reference of its own). And all else remains Trio's: checkpoints, limiters, context variables, the delivery of the
# result in a later step of the task, and what a cancellation does to a call with and without ``abandon_on_cancel``.
# The function has a private name, which is looked up here and nowhere else.
MODULE, NAME = "trio._threads", "start_thread_soon"


def _run_now(fn: Callable[[], Any], deliver: Callable[[outcome.Outcome[Any]], object], name: str | None = None) -> None:
    deliver(outcome.capture(fn))


@contextmanager
def replaced_threads() -> Generator[bool]:
    """Do the work of threads in the calling task within the block; yield whether the installed Trio allows that."""
    module = importlib.import_module(MODULE)
    start = getattr(module, NAME, None)
    if start is None:
        yield False
        return
    setattr(module, NAME, _run_now)
    try:
        yield True
    finally:
        setattr(module, NAME, start)


@contextmanager
def inline_threads() -> Generator[None]:
    """Let `trio.to_thread.run_sync` call its function in the task, without a thread, within the ``with`` block.

    So `trio.open_file`, `trio.Path`, `trio.socket.getaddrinfo`, the stores of this package and threads of your own
    hooks can be used under a MockClock that jumps, for which a task that waits for a thread would be one that does
    nothing. All runs in this process are affected. A cancellation has the same effect as with threads: the function is not
    called, or the call returns its result and `trio.Cancelled` is raised at the next checkpoint (by the call itself with
    ``abandon_on_cancel``).

    Other tasks do not run meanwhile, so the function must not wait for one of them. `trio.from_thread.run` and
    `trio.from_thread.run_sync` raise RuntimeError in it. Raises RuntimeError if the installed version of Trio starts
    threads in a way that is not known here.
    """
    with replaced_threads() as replaced:
        if not replaced:
            raise RuntimeError(f"inline_threads does not support Trio {trio.__version__}: it has no {MODULE}.{NAME}")
        yield
