"""Cases are played, one connection each, and what comes out is judged. It ends, whatever the server does."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import TypeVar

import trio
from attrs import define, evolve, field, frozen

from ._case import Case, Invariant, Rule
from ._talk import Entry, Hungup, Reply, Talk, WrongAnswer
from ._target import Facts, Target, Unprepared, prepare, reason, skip_reason, survey

R = TypeVar("R", bound=Rule)

RETRIES = (0.5, 1.0, 2.0)
"""Seconds before a server that has turned us away is called again."""
GIVE_UP = 3
"""Cases in a row without a connection, after which no more are tried."""
GOODBYE = 2.0
"""Seconds for the answer to the QUIT at a case's end."""
REPLIES = 500
"""Of one case, that the invariants look at."""


class Outcome(Enum):
    """What has become of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ERROR = "error"
    """It could not be tried: no connection, or the server refused what comes before."""


@frozen(kw_only=True)
class Result:
    """A case, and what has become of it."""

    rule: Rule
    outcome: Outcome
    reason: str = ""
    record: Sequence[Entry] = ()
    """What was said; for a case that has failed."""
    seconds: float = 0.0


@frozen(kw_only=True)
class Report:
    """All that has come out."""

    server: str
    facts: Facts | None
    results: Sequence[Result]
    seconds: float

    def count(self, outcome: Outcome) -> int:
        """How many cases have had that outcome."""
        return sum(result.outcome is outcome for result in self.results)


@define
class _Heard:
    """Replies and where they were heard, for the invariants."""

    replies: list[tuple[Reply, Case, Talk]] = field(factory=list)

    def add(self, talk: Talk, case: Case) -> None:
        self.replies += [(reply, case, talk) for reply in talk.replies[:REPLIES]]


async def conform(
    target: Target,
    rules: Iterable[Rule],
    *,
    jobs: int = 1,
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Try all of them, `jobs` at a time; `on_result` is told each, in their order.

    Raises:
        Unreachable: no case could be tried.
    """
    begin = trio.current_time()
    rules = list(rules)
    cases = [rule for rule in rules if isinstance(rule, Case)]
    run = _Run(target=target, facts=await survey(target))
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    await in_order(cases, run.attempt, jobs=jobs, on_result=add)
    for rule in rules:
        if isinstance(rule, Invariant):
            add(run.judge(rule))
    seconds = trio.current_time() - begin
    return Report(server=f"{target.host}:{target.port}", facts=run.facts, results=results, seconds=seconds)


async def in_order(
    rules: Sequence[R], attempt: Callable[[R], Awaitable[Result]], *, jobs: int, on_result: Callable[[Result], None]
) -> None:
    """Attempt all of them, `jobs` at a time; tell of each in their order."""

    async def one(rule: R, send: trio.MemorySendChannel[Result]) -> None:
        await send.send(await attempt(rule))

    async with trio.open_nursery() as nursery:
        waiting: list[trio.MemoryReceiveChannel[Result]] = []
        for rule in [*rules, *[None] * jobs]:
            if len(waiting) == jobs or (rule is None and waiting):
                on_result(await waiting.pop(0).receive())
            if rule is not None:
                sender, receiver = trio.open_memory_channel[Result](1)
                nursery.start_soon(one, rule, sender)
                waiting.append(receiver)


@define(kw_only=True)
class _Run:
    target: Target
    facts: Facts
    heard: _Heard = field(factory=_Heard)
    lost: int = 0

    async def attempt(self, case: Case) -> Result:
        """One case, and once more if the server was too busy to talk."""
        if why := skip_reason(case, self.facts, self.target):
            return Result(rule=case, outcome=Outcome.SKIPPED, reason=why)
        if self.lost >= GIVE_UP:
            why = f"the server could not be reached for {GIVE_UP} cases; no more are tried"
            return Result(rule=case, outcome=Outcome.ERROR, reason=why)
        begin = trio.current_time()
        for pause in (*RETRIES, None):
            result, turned_away = await self.once(case)
            if not turned_away:
                self.lost = 0
                break
            if pause is None:
                self.lost += 1
                result = evolve(result, outcome=Outcome.ERROR, reason=f"the server turns us away: {result.reason}")
            else:
                await trio.sleep(pause)
        return evolve(result, seconds=trio.current_time() - begin)

    async def once(self, case: Case) -> tuple[Result, bool]:
        """A connection for this case; besides, whether the server did not want to talk at all."""
        talk: Talk | None = None
        problem: Outcome | None = None
        why = ""
        with trio.move_on_after(self.target.timeout) as scope:
            try:
                talk = await self.target.connect()
                await prepare(talk, case.state, self.facts)
                for step in case.steps:
                    talk.due = ""
                    await step.play(talk)
                if case.quits:
                    await goodbye(talk)
            except OSError as error:
                return Result(rule=case, outcome=Outcome.ERROR, reason=reason(error)), True
            except Unprepared as wrong:
                problem, why = Outcome.ERROR, f"before the case began: {wrong}"
            except WrongAnswer as wrong:
                problem, why = Outcome.FAILED, str(wrong)
            except Exception as error:  # a bug of ours must not end the whole run
                problem, why = Outcome.ERROR, "".join(traceback.format_exception_only(error)).strip()
        if scope.cancelled_caught:
            due = talk.due if talk is not None and talk.due else "this was to be over"
            problem, why = Outcome.FAILED, f"{due}, and nothing came: {self.target.timeout:g} s are over"
        if talk is None:
            return Result(rule=case, outcome=Outcome.ERROR, reason=why), False
        await trio.aclose_forcefully(talk.stream)
        self.heard.add(talk, case)
        if problem is None:
            return Result(rule=case, outcome=Outcome.PASSED), False
        return Result(rule=case, outcome=problem, reason=why, record=talk.entries), _turned_away(talk)

    def judge(self, rule: Invariant) -> Result:
        """A rule for all replies, held against those that were heard."""
        relevant = [each for each in self.heard.replies if all(need in each[2].extensions for need in rule.needs)]
        if not relevant:
            return Result(rule=rule, outcome=Outcome.SKIPPED, reason="no reply was heard that it concerns")
        broken = [each for each in relevant if rule.broken(each[0])]
        if not broken:
            return Result(rule=rule, outcome=Outcome.PASSED)
        reply, case, talk = broken[0]
        cases = len({each.id for _, each, _ in broken})
        why = f"{len(broken)} of {len(relevant)} replies, in {cases} cases; first in {case.id}: {reply}"
        return Result(rule=rule, outcome=Outcome.FAILED, reason=why, record=talk.entries)


async def goodbye(talk: Talk) -> None:
    """QUIT, which must be the next thing that is answered: an answer too many would come before it.

    That it is answered at all is for other cases.
    """
    with trio.move_on_after(GOODBYE):
        await talk.send(b"QUIT\r\n")
        try:
            reply = await talk.reply("QUIT")
        except Hungup:
            return
        if reply.code not in ("221", "421"):
            raise WrongAnswer(f"there was an answer too many: {reply}")


def _turned_away(talk: Talk) -> bool:
    """Whether the first thing that the server said was that it cannot serve us now, or it said nothing and closed."""
    if talk.replies:
        return talk.replies[0].code == "421"
    return not talk.unread and talk.hung_up
