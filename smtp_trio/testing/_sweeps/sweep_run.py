"""How one run of a sweep goes: when it is struck, how it ends in any case, and what is seen of it."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, NoReturn

import trio
from attrs import frozen

from ..._client.client import Client
from ..._instrument import watcher
from ..._server.server import Server
from ..._server.session import Session
from .attempt import Attempt
from .scrutiny import Line, SeenClient, SeenSession
from .stacks import Stand, tasks_below

#: What is done at the k-th point: scopes are cancelled, or a connection is cut.
Blow = Literal["cancel", "cut"]
Check = Callable[[Attempt], object]
Scenario = Callable[[Attempt], Awaitable[object]]


@frozen
class Bounds:
    """When a run is taken for endless: task steps, seconds of virtual time, and seconds after a cancellation."""

    steps: int
    seconds: float
    patience: float


class SweepRun(Attempt):
    """One run of a scenario, with what its author need not see."""

    def __init__(self, k: int, blow: Blow, bounds: Bounds, *, whole: bool) -> None:
        super().__init__(k, self._operation if blow == "cut" else None)
        self._whole = whole
        #: What the scenario raised.
        self.error: Exception | None = None
        #: Why the run was ended by force.
        self.endless: str | None = None
        #: Where its tasks stood when it was struck (or ended by force), the one whose turn it was first.
        self.stands: list[Stand] = []
        self._blow, self._bounds = blow, bounds
        self._guard = trio.CancelScope()
        self._alarm = trio.CancelScope()
        self._points = 0
        self._root: trio.lowlevel.Task | None = None

    @property
    def whole(self) -> bool:
        """All of the scenario is struck, and not only a part of it."""
        return self._whole

    # --- the blow ---------------------------------------------------------------------------------------------------

    def step(self, task: trio.lowlevel.Task) -> bool:
        """A task is about to take a step. True: it is the one."""
        if self._blow == "cut" or not self._point():
            return False
        self._look_around(but=task)
        for scope in self._open:
            scope.cancel()
        if self._whole:
            self._alarm.deadline = min(self._alarm.deadline, self.struck_at + self._bounds.patience)
        return True

    def _operation(self) -> bool:
        """A stream is about to be used. True: cut it."""
        if not self._point():
            return False
        self._look_around(but=trio.lowlevel.current_task())
        self.stands.insert(0, Stand.here())
        return True

    def _point(self) -> bool:
        if not self._open:
            return False
        self._points += 1
        if self._points != self.k:
            return False
        self.struck_at = trio.current_time()
        return True

    def _look_around(self, but: trio.lowlevel.Task | None = None) -> None:
        assert self._root is not None
        self.stands = [Stand.of(each) for each in tasks_below(self._root) if each is not but]

    # --- the run ----------------------------------------------------------------------------------------------------

    async def run(self, scenario: Scenario, check: Check | None) -> list[str]:
        """The scenario, and what is wrong with what it left behind."""
        watcher.set(self._watch)
        tasks = trio.lowlevel.current_statistics().tasks_living
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._scenario, scenario, nursery.cancel_scope, name="the scenario")
                await self._wait_for_the_alarm()
        except BaseException:  # of tasks that were killed
            if self.endless is None:
                raise
        if self.endless is not None:
            return [self.endless]
        self._root = trio.lowlevel.current_task()
        with trio.CancelScope() as self._guard:
            return await self._wrong(tasks, check)
        return [f"check: {self.endless}"]

    async def _wrong(self, tasks: int, check: Check | None) -> list[str]:
        """What does not agree with the promises, and if there is nothing, with the check. So many tasks there were before."""
        found: list[str] = []
        if (left := trio.lowlevel.current_statistics().tasks_living - tasks) > 0:
            found.append(f"{left} tasks were left running")
        with trio.fail_after(self._bounds.seconds):
            for session in self._seen:
                found += await session.wrong()
            for client in self._seen_clients:
                found += await client.wrong(self._seen)
            found += self._wrong_counts()
            if check is not None and not found:
                result = check(self)
                if inspect.isawaitable(result):
                    await result
        return found

    async def _scenario(self, scenario: Scenario, outside: trio.CancelScope) -> None:
        self._root = trio.lowlevel.current_task()
        try:
            with self._guard:
                if self._whole:
                    with self._within():
                        await scenario(self)
                else:
                    await scenario(self)
        except Exception as exc:
            self.error = exc
        outside.cancel()

    async def _wait_for_the_alarm(self) -> None:
        """Until the scenario has ended, or taken too long for it: then it is cancelled, and in the end without regard for shields."""
        bounds = self._bounds
        with self._alarm:
            self._alarm.deadline = trio.current_time() + bounds.seconds
            await trio.sleep_forever()
        if self.struck and self._whole:
            self.give_up(f"it has not ended {bounds.patience:g} s after it was cancelled")
        else:
            self.give_up(f"it has not ended after {bounds.seconds:g} s of virtual time")
        await trio.sleep(bounds.patience)
        for each in gc.get_objects():  # there is no other way to them
            if type(each) is trio.CancelScope and each.shield:
                each.shield = False
        await trio.sleep_forever()

    def give_up(self, reason: str) -> None:
        """The run will not end by itself."""
        if self.endless is None:
            self.endless = reason
            self._look_around()
            self._guard.cancel()

    def kill(self, task: trio.lowlevel.Task) -> None:
        """A task of the scenario is about to take a step, and will not be cancelled: it ends here."""
        assert self._root is not None
        if task in tasks_below(self._root):
            self.endless = f"{task.name} has not ended, nor when it was cancelled"
            with suppress(RuntimeError):  # it may not like that either
                task.coro.close()
            task._next_send_fn = _stop

    def _wrong_counts(self) -> list[str]:
        found = []
        for server in self._servers:
            counts = server.statistics()
            taken = sum(len(each.taken) for each in self._seen if each.session.server is server)
            if counts.sessions_open:
                found.append(f"{counts.sessions_open} sessions of server {server.name} have not ended")
            if counts.messages != taken:
                found.append(f"server {server.name} counts {counts.messages} messages, and its data hook took {taken}")
        return found

    # --- who is watched ---------------------------------------------------------------------------------------------

    def _watch(self, made: Session | Client) -> None:
        if isinstance(made, Session):
            if made.server not in self._servers:
                self._servers.append(made.server)
                self._listen_to_errors(made.server)
            line = Line(self._transcript, "S", made.id)
            self._seen.append(SeenSession(made, self.wrap(made.wire.stream), line))
        else:
            name = f"client {len(self._seen_clients) + 1}"
            line = Line(self._heard, "C", name)
            self._seen_clients.append(SeenClient(made, self.wrap(made.talk.wire.stream), line, name))

    def _listen_to_errors(self, server: Server) -> None:
        hook = server.installed.get("error")

        async def error(server: Server, error: Exception) -> None:
            self.errors.append(error)
            if hook is not None:
                await hook(server, error)

        server.installed["error"] = error


class Stepping(trio.abc.Instrument):
    """Tells a trial of every step that a task takes."""

    def __init__(self, trial: SweepRun, limit: int) -> None:
        self._trial, self._limit = trial, limit
        self._steps = 0
        self._struck: trio.lowlevel.Task | None = None
        self._before: Stand | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps += 1
        if self._trial.step(task):
            self._struck = task
            self._before = Stand.of(task)
        if self._steps == self._limit:
            self._trial.give_up(f"it has not ended after {self._limit} steps of its tasks")
        elif self._steps > 2 * self._limit:
            self._trial.kill(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._struck:
            self._struck = None
            # Where it has come to by this step, for there the cancellation meets it; unless that was its last.
            after = Stand.of(task)
            self._trial.stands.insert(0, after if after.calls or self._before is None else self._before)


def _stop(_: object) -> NoReturn:
    raise RuntimeError("this task would not be cancelled")
