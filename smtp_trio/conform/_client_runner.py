"""The test of a client: its connections are given the replies of the cases, and what it did is evaluated.

Every case ends, whatever the client does.
"""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio
from attrs import define, evolve, field, frozen

from ._case import Requirement
from ._client_case import ClientCase, ClientExit, ClientInvariant, ClientRun, ClientSession
from ._client_cases import messages
from ._client_under_test import ClientUnderTest, SendRequest
from ._connection import Connection, RecordEntry
from ._report import MAX_LOST, Outcome, Report, Result, run_in_order
from ._scripted_server import PASSWORD, USER, ScriptedServer

MAX_CONNECTIONS = 20
"""Connections that are served in one case."""
SLOW_TIMEOUT = 660.0
"""Seconds that a case with ``--slow`` has in addition: no timeout of RFC 5321 4.5.3.2 is longer than 600."""
VALUES = {
    "from": "conform@client.test",
    "to": "user@mx.test",
    "to2": "second@mx.test",
    "user": USER,
    "password": PASSWORD,
}


@frozen(kw_only=True)
class ClientOptions:
    """The configuration of the client in all cases, and the certificates of the server."""

    require_tls: bool = False
    login: bool = False
    slow: bool = False
    """True if cases that take minutes are tried."""
    timeout: float = 30.0
    """Seconds for each case."""
    contexts: Mapping[str, ssl.SSLContext] = field(factory=dict, repr=False)
    """TLS with several certificates; the client trusts ``good``. Empty: no TLS."""
    cafile: str = ""

    def skip_reason(self, case: ClientCase, *, takes_requests: bool) -> str:
        """Return why a case cannot be tried, or an empty string."""
        available = {
            "--command": takes_requests,
            "--require-tls": self.require_tls,
            "--login": self.login,
            "--slow": self.slow,
            "TLS": bool(self.contexts),
        }
        needs = [*case.needs, *(["--command"] if case.values or case.message != "plain" else [])]
        if any("STARTTLS" in offer for offer in case.offers):
            needs.append("TLS")
        for need in needs:
            if not available[need]:
                return "needs trustme (pip install 'smtp-trio[testing]')" if need == "TLS" else f"needs {need}"
        return next((f"not with {option}" for option in case.skip_if if available[option]), "")


async def check_client(
    client: ClientUnderTest,
    options: ClientOptions,
    requirements: Iterable[Requirement],
    *,
    jobs: int = 1,
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Try all cases, `jobs` at a time. `on_result` is called with each result, in the order of the cases."""
    begin = trio.current_time()
    requirements = list(requirements)
    run = _Run(client=client, options=options)
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    cases = [requirement for requirement in requirements if isinstance(requirement, ClientCase)]
    await run_in_order(cases, run.attempt, jobs=jobs, on_result=add)
    for requirement in requirements:
        if isinstance(requirement, ClientInvariant):
            add(run.evaluate(requirement))
    return Report(subject=client.name, results=results, seconds=trio.current_time() - begin)


@define(kw_only=True)
class _Run:
    client: ClientUnderTest
    options: ClientOptions
    sessions: list[ClientSession] = field(factory=list)
    lost: int = 0
    """Cases in a row in which the client did not connect."""

    async def attempt(self, case: ClientCase) -> Result:
        """Try one case."""
        if why := self.options.skip_reason(case, takes_requests=self.client.takes_requests):
            return Result(requirement=case, outcome=Outcome.SKIPPED, reason=why)
        if self.lost >= (MAX_LOST if self.client.takes_requests else 1):
            why = "the client did not connect; no more cases are tried"
            return Result(requirement=case, outcome=Outcome.ERROR, reason=why)
        begin = trio.current_time()
        result = await self.once(case)
        self.lost = self.lost + 1 if result.outcome is Outcome.ERROR else 0
        return evolve(result, seconds=trio.current_time() - begin)

    async def once(self, case: ClientCase) -> Result:
        options = self.options
        values = {**VALUES, "cafile": options.cafile, **case.values}
        message = messages()[case.message]
        sessions: list[ClientSession] = []
        client_exit = ClientExit()
        limit = options.timeout + (SLOW_TIMEOUT if "--slow" in case.needs else 0)
        context = options.contexts.get(case.certificate)

        async def serve(stream: trio.abc.Stream) -> None:
            if len(sessions) >= MAX_CONNECTIONS:
                await trio.aclose_forcefully(stream)
                return
            if not sessions:
                scope.deadline = trio.current_time() + limit
            session = ClientSession(case, Connection(stream, side="S", tls=context))
            sessions.append(session)
            await ScriptedServer(session, require_tls=options.require_tls, login=options.login).run()

        with trio.move_on_after(limit + self.client.wait) as scope:
            try:
                request = SendRequest(f"{case.id}: {case.title}", message, values)
                client_exit = await self.client.run(request, serve)
            except OSError as error:
                why = f"the client cannot be run: {error.strerror or error}"
                return Result(requirement=case, outcome=Outcome.ERROR, reason=why)
            except Exception as error:  # a bug in the engine must not end the run
                why = "".join(traceback.format_exception_only(error)).strip()
                return Result(requirement=case, outcome=Outcome.ERROR, reason=why)
        self.sessions += sessions
        run = ClientRun(case, sessions, client_exit, message)
        outcome, why = evaluate(run, f"{limit:g} s" if scope.cancelled_caught else "")
        record = () if outcome in (Outcome.PASSED, Outcome.SKIPPED) else full_record(sessions, client_exit)
        return Result(requirement=case, outcome=outcome, reason=why, record=record)

    def evaluate(self, invariant: ClientInvariant) -> Result:
        """Evaluate an invariant over all connections."""
        if not any(session.commands for session in self.sessions):
            return Result(requirement=invariant, outcome=Outcome.SKIPPED, reason="no command was received")
        # A client under attack may do many things. The expectations of the case define which of them are wrong.
        peaceful = [session for session in self.sessions if not session.case.danger]
        violations = [(session, why) for session in peaceful if (why := invariant.violation(session))]
        if not violations:
            return Result(requirement=invariant, outcome=Outcome.PASSED)
        session, why = violations[0]
        count = len({each.case.id for each, _ in violations})
        why = f"in {count} cases; first in {session.case.id}: {why}"
        return Result(requirement=invariant, outcome=Outcome.FAILED, reason=why, record=session.connection.entries)


def evaluate(run: ClientRun, limit: str) -> tuple[Outcome, str]:
    """Return the outcome of a case and the reason. `limit` is the time limit, if it was exceeded."""
    if not run.sessions:
        if limit:
            return Outcome.ERROR, f"the client did not connect within {limit}"
        return evaluate_without_connection(run)
    if limit:
        return Outcome.FAILED, f"the client did not end within {limit}"
    for session in run.sessions:
        if session.problem:
            return Outcome.FAILED, session.problem
    case = run.case
    for reaction in case.reactions:
        if reaction.required and not any(reaction in session.performed for session in run.sessions):
            return Outcome.SKIPPED, f"the client does not cause the event {reaction.event}"
    complete = [message.data for message in run.messages if message.complete and message.data]
    if case.message != "plain" and complete and not any(run.message[:40] in data for data in complete):
        return Outcome.SKIPPED, "the client does not send {message} or its standard input"
    for expectation in case.expectations:
        if why := expectation.violation(run):
            return Outcome.FAILED, why
    return Outcome.PASSED, ""


def evaluate_without_connection(run: ClientRun) -> tuple[Outcome, str]:
    """Return the outcome of a case without a connection: a client may refuse some messages and addresses itself."""
    case = run.case
    if (case.values or case.message != "plain") and run.exit.code:
        violations = [expectation.violation(run) for expectation in case.expectations]
        return next(((Outcome.FAILED, why) for why in violations if why), (Outcome.PASSED, ""))
    return Outcome.ERROR, "the client ended and did not connect"


def full_record(sessions: Sequence[ClientSession], client_exit: ClientExit) -> list[RecordEntry]:
    """Return the record of all connections, with the exit code and the output of the client."""
    entries: list[RecordEntry] = []
    for number, session in enumerate(sessions, 1):
        if len(sessions) > 1:
            entries.append(remark(f"connection {number}".encode()))
        entries += session.connection.entries
    if client_exit.code is not None:
        entries.append(remark(f"the client ended with {client_exit.code}".encode()))
    entries += [remark(b"output: " + line) for line in client_exit.output.splitlines()[-10:]]
    return entries


def remark(text: bytes) -> RecordEntry:
    """Return an entry about the connection."""
    return RecordEntry("-", text, len(text))
