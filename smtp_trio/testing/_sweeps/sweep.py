"""Sweeps: a scenario is run again and again, and struck each time at another point, until there is none left.

What `docs/cancellation` promises is looked at behind each run, and then what a check of yours has to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import trio
from attrs import frozen

from ..._types import MessageState
from ...protocol import SMTPError
from .sweep_run import Blow, Bounds, Check, Scenario, Stepping, SweepRun

Errors = tuple[type[Exception], ...]

#: What may come of a lost connection.
LOST: Errors = (SMTPError, trio.BrokenResourceError, trio.ClosedResourceError)
#: By what the points of a sweep are called.
POINTS: dict[Blow, str] = {"cancel": "cancelled at step", "cut": "cut at operation"}


@frozen
class SweepReport:
    """What a sweep has tried: the number of ``points``, all of which held.

    ``places`` are the functions that they fell in, and how many in each; ``states`` what ``last_message`` was in the end, over all
    sessions of all runs.
    """

    points: int
    places: dict[str, int]
    states: frozenset[MessageState | None]

    def __str__(self) -> str:
        states = ", ".join(sorted("none" if each is None else each.name for each in self.states))
        places = "".join(f"\n{number:6} in {place}" for place, number in Counter(self.places).most_common())
        return f"{self.points} points held; last messages: {states or 'none'}{places}"


class SweepError(AssertionError):
    """A run that did not hold. ``k`` is its point (0: it was not struck at all), ``reasons`` what was wrong with it.

    ``stack`` tells where the task was that the point fell to, and under it where the others were; ``transcript`` what was said.
    """

    def __init__(self, k: int, reasons: tuple[str, ...], stack: str, transcript: str, where: str) -> None:
        again = f"\n\nOnly this point: points=[{k}]" if k else ""
        told = "\n".join(reasons)
        super().__init__(f"{where}: {told}\n\n{stack}\n\nWhat was said:\n{transcript.rstrip() or '(nothing)'}{again}")
        self.k = k
        self.reasons = reasons
        self.stack = stack
        self.transcript = transcript


def cancel_everywhere(
    scenario: Scenario,
    *,
    check: Check | None = None,
    allow: Errors = (),
    points: Iterable[int] | None = None,
    patience: float = 60,
    seconds: float = 1e6,
    steps: int = 100_000,
    seed: int = 0,
) -> SweepReport:
    """Run the scenario, cancelled at its first task step; again, at its second; and so on until it ends before that.

    A plain function, to be called outside of any run. ``scenario`` is an async function of one argument, an `Attempt`, and makes all
    that it uses anew, for each run is a ``trio.run`` of its own, with virtual time. Behind each, this is looked at: no task is left,
    no stream is open; every `connect` had its one `disconnect`; the sender of a message that was taken has been told so, or could not
    be; ``session.last_message``, ``client.last_results`` and ``server.statistics()`` agree with that. Then ``check(attempt)``, which
    may be async, looks at what is yours. ``allow``: exceptions that the scenario or a hook may raise; another ends the sweep.

    ``points``: which to try, in rising order; all by default. A run is endless, and an error, when it goes on ``patience`` seconds of
    virtual time after it was cancelled, or takes more than ``seconds`` or ``steps``. Which of several tasks runs first depends on
    ``seed`` alone.

    Raises `SweepError`, an AssertionError, with the point, the stacks there and the transcript.
    """
    return _sweep("cancel", scenario, check, allow, points, Bounds(steps, seconds, patience), seed)


def fail_everywhere(
    scenario: Scenario,
    *,
    check: Check | None = None,
    allow: Errors = (),
    points: Iterable[int] | None = None,
    patience: float = 60,
    seconds: float = 1e6,
    steps: int = 100_000,
    seed: int = 0,
) -> SweepReport:
    """As `cancel_everywhere`, but the k-th receive or send raises BrokenResourceError, and the connection is gone for both ends.

    That goes for the streams of every client and every session of the scenario, and for those of `Attempt.wrap`. What comes of a lost
    connection (SMTPError, BrokenResourceError, ClosedResourceError) the scenario may raise, besides ``allow``.
    """
    return _sweep("cut", scenario, check, allow, points, Bounds(steps, seconds, patience), seed)


def _sweep(
    blow: Blow,
    scenario: Scenario,
    check: Check | None,
    allow: Errors,
    points: Iterable[int] | None,
    bounds: Bounds,
    seed: int,
) -> SweepReport:
    tried, places, states = 0, Counter[str](), set[MessageState | None]()
    run = partial(_run, blow, scenario, check, bounds, seed)
    lost = LOST if blow == "cut" else ()
    with _one_order():
        # Once without a blow: who fails then does not fail because of us; and we learn whether it uses `Attempt.here`.
        whole = run(0, allow, whole=True).whole
        for k in count(1) if points is None else points:
            attempt = run(k, (*lost, *allow), whole=whole)
            states.update(each.last_message for each in attempt.sessions)
            if not attempt.struck:
                break
            tried += 1
            places[attempt.stands[0].place] += 1
    if not tried:
        raise ValueError(
            "there was no point to try: is anything done in the scenario, and by one of our clients or servers?"
        )
    return SweepReport(tried, dict(places), frozenset(states))


def _run(
    blow: Blow,
    scenario: Scenario,
    check: Check | None,
    bounds: Bounds,
    seed: int,
    k: int,
    allow: Errors,
    *,
    whole: bool,
) -> SweepRun:
    from trio.testing import MockClock  # which imports pytest, where there is one

    attempt = SweepRun(k, blow, bounds, whole=whole)
    _scheduler._r.seed(seed)
    cause: Exception | None = None
    found: list[str] = []
    try:
        found = trio.run(
            attempt.run,
            scenario,
            check,
            clock=MockClock(autojump_threshold=0),
            instruments=[Stepping(attempt, bounds.steps)],
        )
    except Exception as exc:  # out of the check
        found, cause = [attempt.endless or _told(exc)], exc
    for what, error in [
        ("the scenario raised ", attempt.error),
        *(("a hook raised ", each) for each in attempt.errors),
    ]:
        if attempt.endless is None and (rest := _without(error, allow)) is not None:
            found.append(what + _told(rest))
            cause = cause or rest
    if found:
        raise _error(attempt, found, POINTS[blow]) from cause
    return attempt


def _error(attempt: SweepRun, found: list[str], point: str) -> SweepError:
    where = f"{point} {attempt.k}" if attempt.struck else "not struck at all, the scenario fails by itself"
    where_else = "".join(f"\nAnother task: {each}" for each in attempt.stands[1:] if each.calls)
    stack = f"Where it was: {attempt.stands[0]}{where_else}" if attempt.stands else ""
    return SweepError(attempt.k if attempt.struck else 0, tuple(found), stack, str(attempt.transcript), where)


def _told(error: Exception) -> str:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _without(error: Exception | None, allow: Errors) -> Exception | None:
    """What is left of an exception, or of a group, without what is allowed."""
    if isinstance(error, ExceptionGroup):
        return error.split(allow)[1] if allow else error
    return None if isinstance(error, allow) else error


_scheduler: Any = trio._core._run


@contextmanager
def _one_order() -> Generator[None]:
    """Have Trio decide by its seed alone which task goes first, as it does under Hypothesis."""
    state, deterministic = _scheduler._r.getstate(), _scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = deterministic
        _scheduler._r.setstate(state)
