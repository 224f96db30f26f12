"""The test of a server: each case has a connection of its own. Every case ends, whatever the server does."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence

import trio
from attrs import define, evolve, field

from ..protocol.arguments import check_callable, check_items, check_number, check_type
from ._case import Case, Invariant, Requirement
from ._connection import CaseFailedError, Connection, ConnectionClosedError, RecordEntry
from ._report import LIMITED, MAX_LOST, Outcome, Report, Result, run_in_order
from ._target import (
    LMTP,
    PROXY_PROTOCOL,
    CaseSetupError,
    ServerProfile,
    Target,
    describe_connect_error,
    prepare,
    rate_limit,
    skip_reason,
    survey,
)

RETRY_DELAYS = (0.5, 1.0, 2.0)
"""Seconds before each new attempt to connect to a server that refused the session with 421."""
QUIT_TIMEOUT = 2.0
"""Seconds for the reply to the QUIT at the end of a case."""
MAX_REPLIES = 500
"""Replies of one case that invariants look at."""


@define
class _Tally:
    """An invariant and its result so far. Only the first violation is kept, as text."""

    requirement: Invariant
    replies: int = 0
    violations: int = 0
    cases: set[str] = field(factory=set)
    first: str = ""
    record: Sequence[RecordEntry] = ()

    def add(self, connection: Connection, case: Case) -> None:
        """Evaluate the invariant over the replies of a case."""
        if not all(need in connection.extensions for need in self.requirement.needs):
            return
        replies = connection.replies[:MAX_REPLIES]
        violations = [reply for reply in replies if self.requirement.violated(reply)]
        if violations and not self.violations:
            self.first, self.record = f"{case.id}: {violations[0]}", connection.record
        if violations:
            self.cases.add(case.id)
        self.replies += len(replies)
        self.violations += len(violations)

    @property
    def result(self) -> Result:
        """The result over all cases so far."""
        if not self.replies:
            return Result(
                requirement=self.requirement, outcome=Outcome.SKIPPED, reason="no reply to check was received"
            )
        if not self.violations:
            return Result(requirement=self.requirement, outcome=Outcome.PASSED)
        why = f"{self.violations} of {self.replies} replies, in {len(self.cases)} cases; first in {self.first}"
        return Result(requirement=self.requirement, outcome=Outcome.FAILED, reason=why, record=self.record)


async def check_server(
    target: Target,
    requirements: Iterable[Requirement],
    *,
    jobs: int = 1,
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Try all cases, `jobs` at a time. `on_result` is called with each result, in the order of the cases.

    Raises:
        UnreachableError: The server cannot be reached, or it does not use SMTP.
    """
    check_type(target, "target", Target)
    check_number(jobs, "jobs", 1, integer=True)
    check_callable(on_result, "on_result", optional=True)
    begin = trio.current_time()
    requirements = check_items(requirements, "requirements", Requirement)
    cases = [requirement for requirement in requirements if isinstance(requirement, Case)]
    tallies = [_Tally(requirement) for requirement in requirements if isinstance(requirement, Invariant)]
    profile = await survey(target)
    run = _Run(target=target, profile=profile, tallies=tallies)
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    await run_in_order(cases, run.attempt, jobs=jobs, on_result=add)
    for tally in tallies:
        add(tally.result)
    return Report(
        subject=target.address,
        results=results,
        seconds=trio.current_time() - begin,
        greeting=profile.greeting,
        refusal=profile.refusal if profile.refused_with else "",
        extensions=profile.plain,
        tls_extensions=profile.secure,
    )


@define(kw_only=True)
class _Run:
    target: Target
    profile: ServerProfile
    tallies: Sequence[_Tally]
    lost: int = 0
    """Cases in a row for which no session was possible."""

    async def attempt(self, case: Case) -> Result:
        """Try one case, again if the server refuses the session for now."""
        if why := skip_reason(case, self.profile, self.target):
            return Result(requirement=case, outcome=Outcome.SKIPPED, reason=why)
        if self.lost >= MAX_LOST:
            why = f"the server could not be reached for {MAX_LOST} cases; no more cases are tried"
            return Result(requirement=case, outcome=Outcome.ERROR, reason=why)
        begin = trio.current_time()
        for delay in (*RETRY_DELAYS, None):
            result, refused = await self.once(case)
            if not refused:
                self.lost = 0
                break
            if delay is None:
                self.lost += 1
                why = f"the server refuses the session: {result.reason}"
                result = evolve(result, outcome=Outcome.ERROR, reason=why)
            else:
                await trio.sleep(delay)
        return evolve(result, seconds=trio.current_time() - begin)

    async def once(self, case: Case) -> tuple[Result, bool]:
        """Return the result of one attempt, and whether the server refused the session."""
        connection: Connection | None = None
        problem: Outcome | None = None
        why = ""
        with trio.move_on_after(self.target.timeout) as scope:
            try:
                connection = await self.target.connect(header=PROXY_PROTOCOL not in case.needs)
                await prepare(connection, case.stage, self.profile)
                # The cases about LMTP have its commands.
                connection.lmtp = self.target.lmtp and LMTP not in case.needs
                for step in case.steps:
                    connection.expected = ""
                    await step.perform(connection)
                if case.send_quit:
                    await quit_session(connection)
            except OSError as error:
                return Result(requirement=case, outcome=Outcome.ERROR, reason=describe_connect_error(error)), True
            except CaseSetupError as failure:
                problem, why = Outcome.ERROR, f"before the case began: {failure}"
            except CaseFailedError as failure:
                problem, why = Outcome.FAILED, str(failure)
            except Exception as error:  # a bug in the engine must not end the run
                problem, why = Outcome.ERROR, "".join(traceback.format_exception_only(error)).strip()
        if scope.cancelled_caught:
            expected = connection.expected if connection is not None and connection.expected else "expected an end"
            problem, why = Outcome.FAILED, f"{expected}, got nothing within {self.target.timeout:g} s"
        if connection is None:
            return Result(requirement=case, outcome=Outcome.ERROR, reason=why), False
        await trio.aclose_forcefully(connection.stream)
        for tally in self.tallies:
            tally.add(connection, case)
        if limit := rate_limit(connection):
            # Whatever the case expected, it was not tried: a refusal is not one of what it sent.
            problem, why = Outcome.ERROR, f"{LIMITED}: {limit}"
        if problem is None:
            return Result(requirement=case, outcome=Outcome.PASSED), False
        # A server that closes the connection after a PROXY header does not refuse sessions, but the header.
        refused = _refused(connection) and PROXY_PROTOCOL not in case.needs
        return Result(requirement=case, outcome=problem, reason=why, record=connection.record), refused


async def quit_session(connection: Connection) -> None:
    """Send QUIT, and check that the next reply is the one to it: a superfluous reply would come first.

    Whether QUIT is answered at all is checked by other cases.
    """
    with trio.move_on_after(QUIT_TIMEOUT):
        await connection.send(b"QUIT\r\n")
        try:
            reply = await connection.read_reply("QUIT")
        except ConnectionClosedError:
            return
        if reply.code not in ("221", "421"):
            raise CaseFailedError(f"received a superfluous reply: {reply}")


def _refused(connection: Connection) -> bool:
    """Return whether the greeting was 421, or the connection was closed before it."""
    if connection.replies:
        return connection.replies[0].code == "421"
    return not connection.unread and connection.closed
