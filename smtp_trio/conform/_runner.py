"""Cases are played, one connection each, and what comes out is judged. It ends, whatever the server does."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import TypeVar

import trio
from attrs import define, evolve, field, frozen

from ._case import Case, Invariant, Rule
from ._talk import Entry, Hungup, Talk, WrongAnswer
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
class _Tally:
    """An invariant, and what came of it so far: of the replies only the first that breaks it is kept, as text."""

    rule: Invariant
    relevant: int = 0
    broken: int = 0
    cases: set[str] = field(factory=set)
    first: str = ""
    record: Sequence[Entry] = ()

    def add(self, talk: Talk, case: Case) -> None:
        """Judge what was heard in a case."""
        if not all(need in talk.extensions for need in self.rule.needs):
            return
        replies = talk.replies[:REPLIES]
        broken = [reply for reply in replies if self.rule.broken(reply)]
        if broken and not self.broken:
            self.first, self.record = f"{case.id}: {broken[0]}", talk.record
        if broken:
            self.cases.add(case.id)
        self.relevant += len(replies)
        self.broken += len(broken)

    @property
    def result(self) -> Result:
        """What has become of it."""
        if not self.relevant:
            return Result(rule=self.rule, outcome=Outcome.SKIPPED, reason="no reply was heard that it concerns")
        if not self.broken:
            return Result(rule=self.rule, outcome=Outcome.PASSED)
        why = f"{self.broken} of {self.relevant} replies, in {len(self.cases)} cases; first in {self.first}"
        return Result(rule=self.rule, outcome=Outcome.FAILED, reason=why, record=self.record)


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
    tallies = [_Tally(rule) for rule in rules if isinstance(rule, Invariant)]
    run = _Run(target=target, facts=await survey(target), tallies=tallies)
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    await in_order(cases, run.attempt, jobs=jobs, on_result=add)
    for tally in tallies:
        add(tally.result)
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
    tallies: Sequence[_Tally]
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
        for tally in self.tallies:
            tally.add(talk, case)
        if problem is None:
            return Result(rule=case, outcome=Outcome.PASSED), False
        return Result(rule=case, outcome=problem, reason=why, record=talk.record), _turned_away(talk)


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
