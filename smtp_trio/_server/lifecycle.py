"""`Lifecycle`: a server from the first ``serve`` to the end of the last one, with the `start` and `stop` hooks around them."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

import trio

from . import log_events
from .state import HookTable, ServerState

# Several ``serve`` calls may run at a time: one for each of two ports, or one `serve_stream` for each connection. `serving`
# encloses each of them and counts them. The first to begin calls `Hooks.start`, and the last to end calls `Hooks.stop`.
# Serving may begin and end several times; each time the two hooks are called.
#
# No session may be open while `stop` runs, or begin before `start` has returned, so both hooks run under one lock. A
# ``serve`` that begins meanwhile waits for the lock, and calls `start` itself if `stop` has run. Acquiring a lock is a
# checkpoint. So the last ``serve`` looks again, after it, whether it is still the last one: another that began during
# the checkpoint has not waited for the lock, as the server was started. That one then calls `stop`.
#
# `Server.stop` sets a deadline for all of this. It applies to `start`, too: without it, a `start` hook that hangs would
# delay the end for ever. `Hooks.stop` is shielded and has a deadline of its own.


#: The server whose `Hooks.start` or `Hooks.stop` this task runs. Tasks that the hook has started inherit it.
current_hook: ContextVar[Lifecycle | None] = ContextVar("smtp_trio.current_hook", default=None)


class Lifecycle:
    """Counts the ``serve`` calls of a server, calls its `start` and `stop` hooks, and limits the time until its end."""

    def __init__(self, server: object, state: ServerState, *, name: str, last_hooks: float) -> None:
        #: `Hooks.start` has returned, and `Hooks.stop` was not called after it.
        self.started: bool = False
        #: `Hooks.start` was called once, so the hooks cannot be changed any more.
        self.begun: bool = False
        #: When all that is not shielded is cancelled, by `trio.current_time`.
        self.deadline: float = math.inf
        self._hook_task: trio.lowlevel.Task | None = None  # in which `Hooks.start` or `Hooks.stop` is running
        self._server, self._state, self._name, self._last_hooks = server, state, name, last_hooks
        self._count = 0
        self._warned = False  # that there is no `data` hook
        self._scopes: set[trio.CancelScope] = set()  # one around each ``serve``
        self._lock = trio.Lock()
        self._ended = trio.Event()

    def shorten(self, deadline: float) -> None:
        """Make the deadline of all ``serve`` calls earlier, if it is later than this one."""
        self.deadline = min(self.deadline, deadline)
        for scope in self._scopes:
            scope.deadline = self.deadline

    async def wait_ended(self) -> None:
        """Wait until no ``serve`` is running."""
        if self._count:
            await self._ended.wait()
        else:
            await trio.lowlevel.checkpoint()

    def serving(self, table: HookTable | None) -> Serving:
        """Enclose a ``serve``. Raises ClosedResourceError if the deadline passes before the server has started.

        :param table: the hooks of its sessions; None for those of the server.
        """
        if not self._warned and "data" not in (table or self._state.table).hooks:
            self._warned = True
            log_events.NO_DATA_HOOK.log(server=self._name)
        return Serving(self)

    async def begin(self) -> trio.CancelScope:
        """Count one more ``serve``, start the server if it has not started, and return the scope of that ``serve``."""
        self._count += 1
        if self._count == 1:
            self._ended = trio.Event()
        try:
            if not self.started:
                with self._scope() as scope:
                    try:
                        await self._start()
                    finally:
                        self._scopes.remove(scope)
                if scope.cancelled_caught:
                    raise trio.ClosedResourceError("the server was stopped")
        except BaseException:
            await self.end()
            raise
        return self._scope()

    async def end(self, scope: trio.CancelScope | None = None) -> None:
        """Count one ``serve`` less, and stop the server after the last one. ``scope`` is what `begin` has returned."""
        if scope is not None:
            self._scopes.remove(scope)
        try:
            if self._count == 1 and self.started:
                await self._stop()
        finally:
            self._count -= 1
            if not self._count:
                self._ended.set()

    def _scope(self) -> trio.CancelScope:
        """Return a scope with the deadline of the server, which `shorten` can make earlier."""
        scope = trio.CancelScope(deadline=self.deadline)
        self._scopes.add(scope)
        return scope

    @contextmanager
    def _in_hook(self) -> Iterator[None]:
        """Enclose the call of `Hooks.start` or `Hooks.stop`."""
        self._hook_task = trio.lowlevel.current_task()
        token = current_hook.set(self)
        try:
            yield
        finally:
            current_hook.reset(token)
            self._hook_task = None

    def is_called_by(self, tasks: Container[trio.lowlevel.Task]) -> bool:
        """Return whether the current task, whose ancestors are ``tasks``, belongs to the hook that is running.

        The task of the hook may have other children, such as one that waits for signals in the nursery around
        ``serve``. They do not inherit `current_hook`.
        """
        return current_hook.get() is self and self._hook_task in tasks

    async def _start(self) -> None:
        async with self._lock:
            if self.started:  # by the ``serve`` that had the lock
                return
            self.begun = True
            if (start := self._state.hooks.get("start")) is not None:
                with self._in_hook():
                    await start(self._server)
            self.started = True

    async def _stop(self) -> None:
        deadline = min(trio.current_time(), self.deadline) + self._last_hooks
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            async with self._lock:
                if self._count > 1:
                    return
                self.started = False
                with self._in_hook():
                    await self._state.call("stop")
        if scope.cancelled_caught:
            self._state.counts.errors += 1
            self._state.counts.exceptions += 1
            log_events.HOOK_CANCELLED.log(id=None, peer=None, hook="stop")


class Serving:
    """Encloses one ``serve`` of a server: see `Lifecycle.serving`.

    This is a class and not a generator with the decorator of contextlib. When a scope in a generator catches Cancelled,
    the traceback of that exception refers to the frame of ``__aexit__`` that has thrown it in, and this frame refers to
    the exception, from Python 3.12 on. The cycle would keep all sessions that were stopped until the garbage collector
    runs.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def __aenter__(self) -> None:
        self._scope = await self._lifecycle.begin()
        self._scope.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            return self._scope.__exit__(kind, error, traceback)
        finally:
            await self._lifecycle.end(self._scope)
