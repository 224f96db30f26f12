"""Sweeps over a scenario: one run for each point at which it can be cancelled, can lose a connection, or something else can start.

A sweep first runs the scenario without an interruption. That shows whether the scenario passes at all, and lists its
points (see `interruption`). Then it runs the scenario again for each point, as a new ``trio.run`` with virtual time,
and interrupts it there. After each run the guarantees of docs/cancellation are checked, then the check of the caller;
the first violation ends the sweep.

Runs should differ only in their interruption. Time is virtual, the streams are in memory, and where the installed Trio
allows it the order of tasks follows from a seed (see `scheduling`). Where it does not, a run may take another order,
and two things follow. A run may end before it reaches its point: it is repeated a few times, then the point is left
out. And a run may pass points that the first one did not have: they are appended to the list, which may become twice as
long as it was after the first run. Each point is tried once, so a sweep ends.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from itertools import count
from typing import TypedDict, Unpack

import trio
from attrs import field, frozen

from ..._types import MessageState
from ...protocol import SMTPError
from ...protocol.arguments import argument, check_callable, check_items, check_number, check_type
from .._inline_threads import replaced_threads
from .interruption import Kind, Point
from .scheduling import deterministic_scheduling
from .stacks import Place
from .sweep_run import Check, RunLimits, Scenario, SweepRun

ErrorTypes = tuple[type[Exception], ...]

#: Exceptions that a lost connection or a stopped server may cause.
ALLOWED_AFTER_CUT: ErrorTypes = (SMTPError, trio.BrokenResourceError, trio.ClosedResourceError)
#: How an interruption is described in an error; the number of the point follows.
INTERRUPTIONS: dict[Kind, str] = {
    "cancel": "cancelled at step",
    "cut": "connection cut at operation",
    "start": "action started at step",
}
#: How often a run is repeated that ended before its point.
TRIES = 3


@frozen
class SweepReport:
    """The result of a sweep without violations: ``points`` is the number of points that were tried.

    ``places`` counts them by the `Place` they were at, the innermost call outside of Trio. ``functions`` counts them by
    every function whose call was on the stack of the task, such as "Store.data": the qualified name, as in
    ``Place.function``. ``states`` are the values of ``last_message`` after the runs, over all sessions.
    """

    points: int
    places: dict[Place, int]
    states: frozenset[MessageState | None]
    functions: dict[str, int]

    def __str__(self) -> str:
        states = ", ".join(sorted("none" if each is None else each.name for each in self.states))
        places = "".join(f"\n{number:6} in {place}" for place, number in Counter(self.places).most_common())
        return f"{self.points} points passed; last messages: {states or 'none'}{places}"


class SweepError(AssertionError):
    """A run with violations. ``k`` is its point (0: the run without an interruption), ``reasons`` are the violations.

    ``stack`` shows where the interrupted task was, and after it the other tasks; ``transcript`` is the text of
    `Attempt.transcript`.
    """

    def __init__(self, k: int, reasons: tuple[str, ...], stack: str, transcript: str, where: str) -> None:
        again = f"\n\nTo repeat only this point: points=[{k}]" if k else ""
        text = "\n".join(reasons)
        super().__init__(f"{where}: {text}\n\n{stack}\n\nTranscript:\n{transcript.rstrip() or '(empty)'}{again}")
        self.k = k
        self.reasons = reasons
        self.stack = stack
        self.transcript = transcript


class SweepOptions(TypedDict, total=False):
    """The keywords of `cancel_everywhere`, `fail_everywhere` and `start_everywhere`.

    :param check: called with the `Attempt` after each run without a violation, async or not; it raises AssertionError
        for one. Default: None.
    :param allow: exceptions that the scenario or a hook may raise, one class or several; any other is a violation.
        Default: none.
    :param points: the numbers of the points to try, from 1. Those after the last point are left out, so that
        ``range(1, 10000, 3)`` is every third point; ValueError if none is left. Default: None, all of them.
    :param grace: virtual seconds within which a cancelled run must end. Default: 60.
    :param max_seconds: virtual seconds within which any run must end. Default: 1e6.
    :param max_steps: task steps within which any run must end. Default: 100,000.
    :param seed: decides which of several tasks runs first. Default: 0.
    :param inline_threads: call the functions of `trio.to_thread.run_sync` in the task, as `inline_threads` does.
        Default: True.
    """

    check: Check | None
    allow: type[Exception] | Iterable[type[Exception]]
    points: Collection[int] | None
    grace: float
    max_seconds: float
    max_steps: int
    seed: int
    inline_threads: bool


def _error_types(allow: type[Exception] | Iterable[type[Exception]]) -> ErrorTypes:
    types = check_items([allow] if isinstance(allow, type) else allow, "allow", type)
    if wrong := [each for each in types if not issubclass(each, BaseException)]:
        raise TypeError(f"each item of allow must be an exception class, got {wrong[0]!r}")
    return types


def _points(points: Collection[int] | None) -> Collection[int] | None:
    if points is None:
        return None
    chosen = points if isinstance(points, range) else check_items(points, "points", int)
    if chosen and min(chosen) < 1:
        raise ValueError(f"points must be >= 1, got {min(chosen)}")
    return chosen


def _check_function(function: object, what: str) -> None:
    """Raise TypeError for a scenario or an action that is not callable, or is a plain function."""
    plain = inspect.isfunction(function) and not inspect.iscoroutinefunction(function)
    if plain or not callable(function):
        raise TypeError(f"{what} must be an async function with one argument, got {function!r}")


@frozen(kw_only=True)
class Options:
    """The values of `SweepOptions`, which as a TypedDict can type keywords, but cannot have defaults."""

    check: Check | None = field(default=None, validator=argument(check_callable, optional=True))
    allow: ErrorTypes = field(default=(), converter=_error_types)
    points: Collection[int] | None = field(default=None, converter=_points)
    grace: float = field(default=60, validator=argument(check_number))
    max_seconds: float = field(default=1e6, validator=argument(check_number))
    max_steps: int = field(default=100_000, validator=argument(check_number, 1, integer=True))
    seed: int = field(default=0, validator=argument(check_type, int))
    inline_threads: bool = field(default=True, validator=argument(check_type, bool))


def cancel_everywhere(scenario: Scenario, **options: Unpack[SweepOptions]) -> SweepReport:
    """Run the scenario once for each of its task steps, and cancel it there.

    This is a plain function, to be called outside of ``trio.run``. ``scenario`` is an async function with one argument,
    an `Attempt`. It must create all that it uses, since each run is a ``trio.run`` of its own, with virtual time, in a
    thread of its own.

    After each run these guarantees are checked: no task is running and no stream is open; no session was open before
    `start` had returned or when `stop` was called; `Server.stop` cancelled no hook in the grace period; each `connect`
    had one `disconnect`; the client of an accepted message received the reply, or had disconnected;
    ``session.last_message``, ``client.last_results`` and ``server.statistics()`` agree with that. Then
    ``check(attempt)`` checks your own assertions.

    `trio.to_thread.run_sync` needs no thread: see `inline_threads`.

    ``options`` are those of `SweepOptions`: ``check``, ``allow``, ``points``, ``grace``, ``max_seconds``,
    ``max_steps``, ``seed``, ``inline_threads``.

    A run that exceeds a limit is cancelled and reported as a violation. If it does not end then either, it is
    abandoned: its thread stays blocked until the process ends.

    Raises `SweepError`, an AssertionError, with the point, the stacks at it and the transcript. Raises ValueError when
    the scenario has no point, or ``points`` contains none of its points or a number < 1.
    """
    return _sweep("cancel", scenario, Options(**options))


def fail_everywhere(scenario: Scenario, **options: Unpack[SweepOptions]) -> SweepReport:
    """Run the scenario once for each receive or send; that one raises BrokenResourceError, and both ends lose the
    connection. A send does so in two runs: in one before anything was sent, in the other after everything was.

    This applies to the streams of all clients and sessions in the scenario, and to those of `Attempt.wrap`. Besides
    ``allow``, the scenario may raise what a lost connection causes: SMTPError, BrokenResourceError and
    ClosedResourceError. All else, ``options`` and exceptions included, is as in `cancel_everywhere`.
    """
    return _sweep("cut", scenario, Options(**options))


def start_everywhere(scenario: Scenario, action: Scenario, **options: Unpack[SweepOptions]) -> SweepReport:
    """Run the scenario once for each of its task steps, and start ``action`` there, in a task of its own.

    ``action`` is an async function with one argument, the `Attempt`: `stop_server`, `connect_client`, or one of yours,
    which finds in ``attempt.context`` what the scenario has put there, and the servers in ``attempt.servers``. The run
    ends when both the scenario and the action have ended.

    Besides ``allow``, the scenario and the action may raise what a stopped server causes, once a server of the run was
    stopped: SMTPError, BrokenResourceError and ClosedResourceError. All else, ``options`` and exceptions included, is
    as in `cancel_everywhere`.
    """
    _check_function(action, "action")
    return _sweep("start", scenario, Options(**options), action)


def _sweep(kind: Kind, scenario: Scenario, options: Options, action: Scenario | None = None) -> SweepReport:
    _check_function(scenario, "scenario")
    chosen = None if options.points is None else sorted(set(options.points))
    tried, places, functions, states = 0, Counter[Place](), Counter[str](), set[MessageState | None]()
    limits = RunLimits(options.max_steps, options.max_seconds, options.grace)
    with deterministic_scheduling() as set_seed, replaced_threads() if options.inline_threads else nullcontext():

        def run_at(k: int, target: Point | None, *, whole: bool) -> SweepRun:
            set_seed(options.seed)
            run = SweepRun(kind, k, target, limits, action, whole=whole)
            found = run.execute(scenario, options.check)
            stopped = kind == "start" and any(each._state.stopping for each in run.attempt.servers)
            lenient = k and (kind == "cut" or stopped)
            _raise_violations(run, found, (*ALLOWED_AFTER_CUT, *options.allow) if lenient else options.allow)
            states.update(each.last_message for each in run.attempt.sessions)
            return run

        # This run also shows whether the scenario uses `Attempt.here`, so that only a part of it is interrupted.
        first = run_at(0, None, whole=True)
        whole, points = first.interruption.whole, list(first.interruption.passed)
        known, max_points = set(points), 2 * len(points)
        if points and chosen is not None and (not chosen or chosen[0] > len(points)):
            raise ValueError(f"points must be from 1 to {len(points)}, got {chosen}")
        for k in count(1) if chosen is None else chosen:
            if k > len(points):
                break
            for _ in range(TRIES):
                run = run_at(k, points[k - 1], whole=whole)
                new = [each for each in run.interruption.passed if each not in known][: max_points - len(points)]
                points += new
                known.update(new)
                if run.attempt.interrupted:
                    tried += 1
                    places[run.stacks[0].place] += 1
                    functions.update({call.place.function for call in run.stacks[0].calls})
                    break
    if not tried:
        raise ValueError(
            "the scenario has no point to try: it must take a step, in a client or server of this package for a cut"
        )
    return SweepReport(tried, dict(places), frozenset(states), dict(functions))


def _raise_violations(run: SweepRun, found: list[str], allow: ErrorTypes) -> None:
    """Raise SweepError for what was found, and for what the scenario, the action, a hook or the check raised."""
    reasons, cause = list(found), run.check_error if run.hang is None else None
    if cause is not None:
        reasons.append(_describe(cause))
    for what, error in [
        ("the scenario raised ", run.error),
        ("the action raised ", run.action_error),
        *(("a hook raised ", each) for each in run.attempt.errors),
    ]:
        if run.hang is None and (rest := _without(error, allow)) is not None:
            reasons.append(what + _describe(rest))
            cause = cause or rest
    if reasons:
        interrupted = run.attempt.interrupted
        where = f"{INTERRUPTIONS[run.interruption.kind]} {run.attempt.k}" if interrupted else "without an interruption"
        others = "".join(f"\nAnother task: {each}" for each in run.stacks[1:] if each.calls)
        stack = f"Stack: {run.stacks[0]}{others}" if run.stacks else ""
        k = run.attempt.k if interrupted else 0
        raise SweepError(k, tuple(reasons), stack, str(run.attempt.transcript), where) from cause


def _describe(error: Exception) -> str:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _without(error: Exception | None, allow: ErrorTypes) -> Exception | None:
    """Return what remains of an exception, or of a group, without those that are allowed."""
    if isinstance(error, ExceptionGroup):
        return error.split(allow)[1] if allow else error
    return None if isinstance(error, allow) else error
