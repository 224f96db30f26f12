"""`Observed`: an awaitable that calls its observer before the task waits."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from types import CoroutineType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Observer(Protocol):
    """An object whose methods are called before a wait, if it is ``observing``."""

    @property
    def observing(self) -> bool: ...
    def before_wait(self) -> None: ...


# Why a hook is observed
#
# Two things have to be done for a data hook that takes long, and not for one that returns at once, because they cost
# more than the rest of the work on a small message: to send the replies that are held back, which a write of their own
# would double, and to move the deadline. Whether a hook takes long is not known before it is called. But a task can
# only wait by a ``yield`` that reaches Trio, and `Observed` is on the way there: Trio calls `send`, which resumes the
# hook, and what the hook yields is returned to Trio. So the observer runs between the moment when the hook has decided
# to wait and the wait itself. It must not await anything, since the hook may already have registered for its wake-up.
#
# Nearly all waits are for the client, and nothing has to be done for them, so the observer has an attribute for this.
#
# All else is done by the coroutine itself, including ``throw``, ``close`` and the attributes from which Trio makes the
# stack of a task.
class Observed(Awaitable[T]):
    """Awaits ``awaitable``. Each time before the task waits it calls the observer, while that is ``observing``."""

    __slots__ = ("_coroutine", "_observer", "_send")

    def __init__(self, awaitable: Awaitable[T], observer: Observer) -> None:
        coroutine = awaitable if isinstance(awaitable, CoroutineType) else _as_coroutine(awaitable)
        self._coroutine = coroutine
        self._send = coroutine.send
        self._observer = observer

    def __await__(self) -> Generator[Any, Any, T]:
        return self  # type: ignore[return-value]  # the methods of a generator, without the class

    def __iter__(self) -> Observed[T]:
        return self

    def __next__(self) -> object:
        return self.send(None)

    def send(self, value: object) -> object:
        """Resume the coroutine; return what it yields."""
        try:
            request = self._send(value)
        except BaseException:
            # Trio sends the exception to raise, such as Cancelled, whose traceback refers to this frame: a cycle.
            value = None
            raise
        if self._observer.observing:
            self._observer.before_wait()
        return request

    def __getattr__(self, name: str) -> object:
        return getattr(self._coroutine, name)


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable
