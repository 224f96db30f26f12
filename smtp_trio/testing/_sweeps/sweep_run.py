"""One run of a scenario in a sweep: how it is driven, interrupted, limited and ended."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from typing import NoReturn

import trio
from attrs import frozen

from ..._client.reply_timer import ReplyTimer
from .attempt import Attempt
from .interruption import Interruption, Kind, Point
from .observation import Observer
from .stacks import TaskStack, tasks_below

Check = Callable[[Attempt], object]
Scenario = Callable[[Attempt], Awaitable[object]]

#: How many tasks compete to run an action. Trio runs the tasks that are ready in random order, and an action reveals most
#: when it begins before the others take their next step. The more tasks compete, the more often it does.
STARTERS = 16


@frozen
class RunLimits:
    """Limits after which a run counts as one that does not end.

    ``steps`` is a number of task steps, ``seconds`` a virtual time, and ``grace`` the virtual seconds that a run has
    after a cancellation.
    """

    steps: int
    seconds: float
    grace: float


# A run that exceeds a limit must be reported, and for that it has to end. First the scenario is cancelled through a
# scope around it, which ends most runs. A scenario that holds a shield without a deadline, or catches `Cancelled` and
# goes on, cannot be ended from outside by any documented means. Such a run is abandoned: each run has a thread of its
# own, in which it stays blocked, while the sweep reports the stacks of its tasks. The thread is a daemon, so it does
# not keep the process alive. That costs one thread in a test run that fails in any case. The alternatives, to close
# coroutines or to lift the shields of others, would run code of the scenario in states that Trio excludes.


class SweepRun:
    """One run of a scenario under an `Interruption`, with its findings."""

    def __init__(
        self,
        kind: Kind,
        k: int,
        target: Point | None,
        limits: RunLimits,
        action: Scenario | None = None,
        *,
        whole: bool,
    ) -> None:
        self.interruption = Interruption(kind, target, self._on_reached, whole=whole)
        self.observer = Observer(self.interruption.wrap)
        self.attempt = Attempt(k, self.interruption, self.observer)
        #: The exceptions that the scenario, the action and the check raised.
        self.error: Exception | None = None
        self.action_error: Exception | None = None
        self.check_error: Exception | None = None
        #: Why the run counts as one that does not end; None while it does not.
        self.hang: str | None = None
        #: The stacks of the scenario's tasks at the interruption, that of the interrupted task first; in a run that did
        #: not end, their stacks when the limit was exceeded.
        self.stacks: list[TaskStack] = []
        self._limits = limits
        self._action = action
        #: The part that the limits are for now, when it began, and how many steps it has taken.
        self._part = ""
        self._began = 0.0
        self._steps = 0
        self._abandoned = False
        self._root: trio.lowlevel.Task | None = None
        #: The task at the point, during the step that is the point, and its stack before that step.
        self._interrupted: trio.lowlevel.Task | None = None
        self._stack_before: TaskStack | None = None
        self._guard = trio.CancelScope()
        self._alarm = trio.CancelScope()
        self._result: Future[None] = Future()

    def execute(self, scenario: Scenario, check: Check | None) -> list[str]:
        """Run the scenario and the checks; return what is wrong with the scenario's traces, or why it did not end.

        What they raise is in ``error`` and ``check_error``, but for a BaseException, which is raised.
        """
        self._found: list[str] = []
        thread = threading.Thread(
            target=copy_context().run, args=(self._in_thread, scenario, check), name="smtp_trio sweep", daemon=True
        )
        thread.start()
        self._result.result()
        if not self._abandoned:
            thread.join()
        return [self.hang] if self.hang is not None else self._found

    def _in_thread(self, scenario: Scenario, check: Check | None) -> None:
        from trio.testing import MockClock  # here, because it imports pytest if that is installed

        clock = MockClock(autojump_threshold=0)
        try:
            trio.run(self._main, scenario, check, clock=clock, instruments=[StepInstrument(self)])
        except BaseException as exc:
            self._result.set_exception(exc)
        else:
            self._result.set_result(None)

    async def _main(self, scenario: Scenario, check: Check | None) -> None:
        self.observer.install()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._scenario, scenario, check, nursery.cancel_scope, name="the scenario")
            await self._enforce_time()

    async def _scenario(self, scenario: Scenario, check: Check | None, outside: trio.CancelScope) -> None:
        self._root = trio.lowlevel.current_task()
        ReplyTimer.current()  # its task belongs to the run: the scenario does not leave it
        tasks = trio.lowlevel.current_statistics().tasks_living
        with self._limited("the scenario"):
            # The action runs beside the scenario, and is waited for.
            async with trio.open_nursery() as self._actions:
                self._context = copy_context()
                try:
                    with self.interruption.region() if self.interruption.whole else nullcontext():
                        await scenario(self.attempt)
                except Exception as exc:
                    self.error = exc
        if self.hang is None:
            with self._limited("the check"):
                try:
                    self._found = await self._check(tasks, check)
                except Exception as exc:
                    self.check_error = exc
        outside.cancel()

    async def _check(self, tasks: int, check: Check | None) -> list[str]:
        """Return violations of the guarantees in docs/cancellation; without any, call ``check``.

        ``tasks`` were running before.
        """
        found: list[str] = []
        if (left := trio.lowlevel.current_statistics().tasks_living - tasks) > 0:
            found.append(f"{left} tasks were left running")
        found += await self.observer.violations()
        if check is not None and not found:
            result = check(self.attempt)
            if inspect.isawaitable(result):
                await result
        return found

    # --- the interruption -----------------------------------------------------------------------------------------------

    def _on_reached(self, task: trio.lowlevel.Task) -> None:
        """Take the stacks before the interruption."""
        self._take_stacks(but=task)
        if self.interruption.kind == "cut":
            self.stacks.insert(0, TaskStack.of_current_task())
            return
        self._interrupted, self._stack_before = task, TaskStack.of(task)
        if self._action is not None:
            # An instrument runs outside of all tasks, so the context has to be given.
            for _ in range(STARTERS):
                self._context.run(partial(self._actions.start_soon, self._start, name="the action"))
        elif self.interruption.whole:
            self._alarm.deadline = min(self._alarm.deadline, trio.current_time() + self._limits.grace)

    async def _start(self) -> None:
        """Run the action, in the first task that calls this."""
        action, self._action = self._action, None
        if action is not None:
            try:
                await action(self.attempt)
            except Exception as exc:
                self.action_error = exc

    def after_step(self, task: trio.lowlevel.Task) -> None:
        """Take the stack of the interrupted task.

        `Cancelled` meets it, or the action begins, at the checkpoint that this step has come to.
        """
        if task is self._interrupted and self._stack_before is not None:
            after = TaskStack.of(task)
            # A task that ended with this step has no stack any more.
            self.stacks.insert(0, after if after.calls else self._stack_before)
            self._interrupted = None

    def _take_stacks(self, but: trio.lowlevel.Task | None = None) -> None:
        assert self._root is not None
        self.stacks = [TaskStack.of(each) for each in tasks_below(self._root) if each is not but]

    # --- the limits -----------------------------------------------------------------------------------------------------

    def _limited(self, part: str) -> trio.CancelScope:
        """Return a scope for this part of the run, which is cancelled when the part exceeds a limit."""
        self._part, self._steps, self._began = part, 0, trio.current_time()
        self._alarm.deadline = self._began + self._limits.seconds
        self._guard = trio.CancelScope()
        return self._guard

    def before_step(self, task: trio.lowlevel.Task) -> None:
        """Interrupt the run if this step is the point, and enforce the limit of steps."""
        self.interruption.before_step(task)
        self._steps += 1
        if self._steps == self._limits.steps:
            self._give_up(f"did not end within {self._limits.steps} task steps")
        elif self._steps > 2 * self._limits.steps:
            self._abandon()

    async def _enforce_time(self) -> None:
        limits = self._limits
        with self._alarm:
            await trio.sleep_forever()
        if self.interruption.done and self.interruption.whole and trio.current_time() < self._began + limits.seconds:
            self._give_up(f"did not end within {limits.grace:g} s after it was cancelled")
        else:
            self._give_up(f"did not end within {limits.seconds:g} s of virtual time")
        await trio.sleep(limits.grace)
        self._abandon()

    def _give_up(self, reason: str) -> None:
        """Cancel the scenario, or the check, and report ``reason``."""
        if self.hang is None:
            self.hang = f"{self._part} {reason}"
            self._take_stacks()
            self._guard.cancel()

    def _abandon(self) -> NoReturn:
        """Report a run that did not end after it was cancelled, and block its thread for ever."""
        self.hang = f"{self.hang}, nor after it was cancelled at that limit"
        self._abandoned = True
        self._take_stacks()
        self._result.set_result(None)
        while True:
            threading.Event().wait()


class StepInstrument(trio.abc.Instrument):
    """Reports each step of each task to a `SweepRun`."""

    def __init__(self, run: SweepRun) -> None:
        self._run = run

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._run.interruption.add_task(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._run.before_step(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._run.after_step(task)
