"""The installed hooks and the counters of a server, which its sessions share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from weakref import WeakSet

import trio

from .._timeouts import Timeouts, mention_threads
from .._types import Counts
from ..protocol import Command
from ..protocol.extensions.auth import HOOKS as AUTH_HOOKS
from ..protocol.grammar import Grammar
from .auth_service import AuthService
from .handlers import needs_handler
from .hook_runner import Hook
from .log_events import HOOK_FAILED, Event, Value
from .memory import MemoryBudget

if TYPE_CHECKING:
    from .measurements import Measurements

# A session looks up its hooks for every command, so they are prepared once, when they are installed: `HookTable.hooks`
# has only those that the application has written, and `HookTable.unhooked` the commands for which no hook has to be
# called. A server that only has a `data` hook answers MAIL and RCPT without an await. A server has one table, and one
# more for each ``serve`` that was given hooks of its own.
#
# What only some servers need is imported when a server with such a setting is made, and not by a session: with no file
# descriptors left, or after a change of the root directory, the import would fail, and it delays all other sessions.
#
# The server's own hooks (`start`, `stop`, `error`) are called here. They are always those of the server's table. An
# exception in `error` is only logged: reporting it would call the same hook again.


class HookTable:
    """The installed hooks of a session, prepared for fast access."""

    def __init__(self, hooks: Mapping[str, Hook], grammar: Grammar) -> None:
        #: The hooks, by name.
        self.hooks: dict[str, Hook] = dict(hooks)
        #: Their names, for the core. One set for all sessions: a set for each would take a quarter of a kilobyte.
        self.names: frozenset[str] = frozenset(hooks)
        found = frozenset(command for command in grammar.verbs.values() if not needs_handler(command, hooks))
        every = "message" in hooks or "response" in hooks
        #: Commands that need neither a hook nor a handler: their default reply is queued at once.
        self.unhooked: frozenset[type[Command]] = frozenset() if every else found
        #: The same in sessions whose `message` and `response` hooks are skipped (`HookRunner.skip_command_hooks`).
        self.unhooked_if_skipped: frozenset[type[Command]] = found

    def observe(self, measurements: Measurements) -> None:
        """Measure how long the hooks take, also in sessions that have begun."""
        for name, hook in self.hooks.items():
            self.hooks[name] = measurements.timed(name, hook)


class ServerState:
    """The shared state of one server. It also calls the hooks that belong to the server rather than to a session."""

    def __init__(
        self,
        server: object,
        grammar: Grammar,
        hooks: Mapping[str, Hook],
        *,
        timeouts: Timeouts,
        memory: int | None,
        auth_service: AuthService,
    ) -> None:
        self.counts: Counts = Counts()
        #: `Server.stop` was called.
        self.stopping: bool = False
        #: Set at the same time, for those that wait.
        self.stop_called: trio.Event = trio.Event()
        #: When the shielded parts of all sessions must have ended because of `Server.stop`, by `trio.current_time`.
        self.last_deadline: float = math.inf
        #: The octets that all sessions hold.
        self.memory: MemoryBudget = MemoryBudget(memory)
        #: What the sessions share for AUTH.
        self.auth_service: AuthService = auth_service
        #: The extensions, merged; all sessions share their tables and caches.
        self.grammar: Grammar = grammar
        #: Called with each exception that is reported, and with those of the `error` hook, for servers in tests.
        self.observe_error: Callable[[Exception], object] | None = None
        #: What is measured while the server is observed; None before.
        self.measurements: Measurements | None = None
        self._tables: WeakSet[HookTable] = WeakSet()
        self._server = server
        self._timeouts = timeouts
        self.set_stress(stressed=False)
        self.install(hooks)

    def set_stress(self, *, stressed: bool) -> None:
        """Begin or end to use `Timeouts.stress` for clients that are silent."""
        timeouts = self._timeouts
        limit = timeouts.stress if stressed else math.inf
        #: The server is nearly full.
        self.stressed: bool = stressed
        #: Seconds to wait for a command, and for the next octets of a message.
        self.command_timeout: float = min(timeouts.command, limit)
        self.block_timeout: float = min(timeouts.block, limit)

    def install(self, hooks: Mapping[str, Hook]) -> None:
        """Use these hooks, by name, in all sessions that begin from now on and have none of their own."""
        self.table: HookTable = self.new_table(hooks)

    def new_table(self, hooks: Mapping[str, Hook]) -> HookTable:
        """Return a table of these hooks, by name."""
        if not AUTH_HOOKS.isdisjoint(hooks):
            self.auth_service.load()
        table = HookTable(hooks, self.grammar)
        self._tables.add(table)
        if self.measurements is not None:
            table.observe(self.measurements)
        return table

    def observe(self) -> Measurements:
        """Measure hooks and sessions from now on."""
        if self.measurements is None:
            from .measurements import Measurements  # few servers are observed

            self.measurements = Measurements()
            for table in self._tables:
                table.observe(self.measurements)
        return self.measurements

    @property
    def hooks(self) -> dict[str, Hook]:
        """The hooks of the server, by name."""
        return self.table.hooks

    async def call(self, name: str, *args: object) -> None:
        """Call a hook of the server if it is installed. An exception is reported, not raised."""
        if (hook := self.hooks.get(name)) is not None:
            try:
                with trio.move_on_after(self._timeouts.hook) as scope:  # not `fail_after`: see `Wire.start_tls`
                    await hook(self._server, *args)
                if scope.cancelled_caught:
                    raise trio.TooSlowError
            except Exception as exc:
                where: dict[str, Value] = {"id": None, "peer": None, "hook": name}
                if name == "error":
                    self._observe(exc)
                    HOOK_FAILED.log(where, error=describe(exc), exc_info=exc)
                else:
                    await self.report(exc, HOOK_FAILED, where)

    async def report(self, error: Exception, event: Event, fields: Mapping[str, Value]) -> None:
        """Log an error that is not the client's, and call the `error` hook. Its text is not sent to any client.

        :param event: the event to log.
        :param fields: its fields, without ``error``.
        """
        if isinstance(error, trio.TooSlowError):
            mention_threads(error)
        self._observe(error)
        self.counts.errors += 1
        self.counts.exceptions += 1
        event.log(fields, error=describe(error), exc_info=error)
        await self.call("error", error)

    def _observe(self, error: Exception) -> None:
        if self.observe_error is not None:
            self.observe_error(error)


def describe(error: Exception) -> str:
    """Return an exception in one line, for the log."""
    return f"{type(error).__name__}: {error}"
