"""Scenes are played to a client, and what it did is judged. It ends, whatever the client does."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio
from attrs import define, evolve, field, frozen

from ._case import Rule
from ._client_cases import messages
from ._runner import GIVE_UP, Outcome, Report, Result, in_order
from ._scene import Ending, Habit, Heard, Scene, Visit
from ._subject import Errand, Subject
from ._talk import Entry, Talk
from ._visit import PASSWORD, USER, Performance, Setting

NOTHING = Setting()
VISITS = 20
"""Connections in one scene, after which no more are served."""
SLOW = 660.0
"""Seconds that a scene has more where the client must lose patience: RFC 5321 4.5.3.2 has none that are more than 600."""
VALUES = {
    "from": "conform@client.test",
    "to": "user@mx.test",
    "to2": "second@mx.test",
    "user": USER,
    "password": PASSWORD,
}


@frozen(kw_only=True)
class Stage:
    """What the user says of the client, and what there is to play with."""

    setting: Setting = NOTHING
    slow: bool = False
    timeout: float = 30.0
    """Seconds for each scene."""
    contexts: Mapping[str, ssl.SSLContext] = field(factory=dict, repr=False)
    """The server's TLS, with certificates of several kinds; ``good`` is what the client trusts. Empty: no TLS."""
    cafile: str = ""

    def skip_reason(self, scene: Scene, *, asks: bool) -> str:
        """Why this scene cannot be played; empty if it can. `asks`: the client does what it is told."""
        told = {
            "--command": asks,
            "--require-tls": self.setting.require_tls,
            "--login": self.setting.login,
            "--slow": self.slow,
            "TLS": bool(self.contexts),
        }
        needs = [*scene.needs, *(["--command"] if scene.values or scene.letter != "plain" else [])]
        if any("STARTTLS" in offer for offer in scene.offers):
            needs.append("TLS")
        for need in needs:
            if not told[need]:
                return "needs trustme (pip install 'smtp-trio[testing]')" if need == "TLS" else f"needs {need}"
        return next((f"not with {lack}" for lack in scene.lacks if told[lack]), "")


async def play(
    subject: Subject,
    stage: Stage,
    rules: Iterable[Rule],
    *,
    jobs: int = 1,
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Play all of them, `jobs` at a time; `on_result` is told each, in their order."""
    begin = trio.current_time()
    rules = list(rules)
    run = _Run(subject=subject, stage=stage)
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    await in_order([rule for rule in rules if isinstance(rule, Scene)], run.attempt, jobs=jobs, on_result=add)
    for rule in rules:
        if isinstance(rule, Habit):
            add(run.judge(rule))
    seconds = trio.current_time() - begin
    return Report(server=subject.name, facts=None, results=results, seconds=seconds)


@define(kw_only=True)
class _Run:
    subject: Subject
    stage: Stage
    visits: list[Visit] = field(factory=list)
    lost: int = 0
    """Scenes in a row to which nobody came."""

    async def attempt(self, scene: Scene) -> Result:
        """One scene."""
        if why := self.stage.skip_reason(scene, asks=self.subject.asks):
            return Result(rule=scene, outcome=Outcome.SKIPPED, reason=why)
        if self.lost >= (GIVE_UP if self.subject.asks else 1):
            return Result(rule=scene, outcome=Outcome.ERROR, reason="the client did not come; no more are tried")
        begin = trio.current_time()
        result = await self.once(scene)
        self.lost = self.lost + 1 if result.outcome is Outcome.ERROR else 0
        return evolve(result, seconds=trio.current_time() - begin)

    async def once(self, scene: Scene) -> Result:
        stage = self.stage
        values = {**VALUES, "cafile": stage.cafile, **scene.values}
        text = messages()[scene.letter]
        visits: list[Visit] = []
        ending = Ending()
        limit = stage.timeout + (SLOW if "--slow" in scene.needs else 0)
        context = stage.contexts.get(scene.certificate)

        async def serve(stream: trio.abc.Stream) -> None:
            if len(visits) >= VISITS:
                await trio.aclose_forcefully(stream)
                return
            if not visits:
                scope.deadline = trio.current_time() + limit
            visit = Visit(scene, Talk(stream, side="S", tls=context))
            visits.append(visit)
            await Performance(visit, stage.setting).run()

        with trio.move_on_after(limit + self.subject.wait) as scope:
            try:
                ending = await self.subject.run(Errand(f"{scene.id}: {scene.title}", text, values), serve)
            except OSError as error:
                return Result(rule=scene, outcome=Outcome.ERROR, reason=f"it cannot be run: {error.strerror or error}")
            except Exception as error:  # a bug of ours must not end the whole run
                why = "".join(traceback.format_exception_only(error)).strip()
                return Result(rule=scene, outcome=Outcome.ERROR, reason=why)
        self.visits += visits
        outcome, why = verdict(Heard(scene, visits, ending, text), f"{limit:g} s" if scope.cancelled_caught else "")
        record = () if outcome in (Outcome.PASSED, Outcome.SKIPPED) else account(visits, ending)
        return Result(rule=scene, outcome=outcome, reason=why, record=record)

    def judge(self, habit: Habit) -> Result:
        """A rule for all that was said, held against it."""
        if not any(visit.commands for visit in self.visits):
            return Result(rule=habit, outcome=Outcome.SKIPPED, reason="nothing was heard")
        # To an attack there is no proper behaviour: its own scene says what matters.
        calm = [visit for visit in self.visits if not visit.scene.danger]
        broken = [(visit, why) for visit in calm if (why := habit.broken(visit))]
        if not broken:
            return Result(rule=habit, outcome=Outcome.PASSED)
        visit, why = broken[0]
        scenes = len({each.scene.id for each, _ in broken})
        why = f"in {scenes} scenes; first in {visit.scene.id}: {why}"
        return Result(rule=habit, outcome=Outcome.FAILED, reason=why, record=visit.talk.entries)


def verdict(heard: Heard, limit: str) -> tuple[Outcome, str]:
    """What is to be said of it, and why."""
    if not heard.visits:
        if limit:
            return Outcome.ERROR, f"the client did not come within {limit}"
        return untried(heard)
    if limit:
        return Outcome.FAILED, f"the client was still there after {limit}"
    for visit in heard.visits:
        if visit.problem:
            return Outcome.FAILED, visit.problem
    scene = heard.scene
    for act in scene.acts:
        if act.always and not any(act in visit.played for visit in heard.visits):
            return Outcome.SKIPPED, f"the client never comes so far ({act.event})"
    whole = [message.data for message in heard.messages if message.whole and message.data]
    if scene.letter != "plain" and whole and not any(messages()[scene.letter][:40] in data for data in whole):
        return Outcome.SKIPPED, "the client does not send what it is given, in {message} or as standard input"
    for check in scene.checks:
        if why := check.wrong(heard):
            return Outcome.FAILED, why
    return Outcome.PASSED, ""


def untried(heard: Heard) -> tuple[Outcome, str]:
    """It ended without a connection: some messages and addresses may be refused that early."""
    scene = heard.scene
    if (scene.values or scene.letter != "plain") and heard.ending.code:
        wrong = [check.wrong(heard) for check in scene.checks]
        return next(((Outcome.FAILED, why) for why in wrong if why), (Outcome.PASSED, ""))
    return Outcome.ERROR, "the client ended and did not connect"


def account(visits: Sequence[Visit], ending: Ending) -> list[Entry]:
    """All that was said, and what the client says itself."""
    entries: list[Entry] = []
    for number, visit in enumerate(visits, 1):
        if len(visits) > 1:
            entries.append(note(f"connection {number}".encode()))
        entries += visit.talk.entries
    if ending.code is not None:
        entries.append(note(f"the client ended with {ending.code}".encode()))
    entries += [note(b"it wrote: " + line) for line in ending.output.splitlines()[-10:]]
    return entries


def note(text: bytes) -> Entry:
    """An entry about the session."""
    return Entry("-", text, len(text))
