"""Results of cases, and the report of a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import TypeVar

import trio
from attrs import frozen

from ._case import Requirement
from ._connection import RecordEntry

R = TypeVar("R", bound=Requirement)

MAX_LOST = 3
"""Cases in a row without a connection, after which no more are tried."""


LIMITED = "the server limits the rate of this host"
"""The reason of a case that could not be tried because of that, before the server's reply."""
ADVICE = "exempt this host from the limit, and test again"


class Outcome(Enum):
    """The outcome of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ERROR = "error"
    """It could not be tried: no connection was possible, or the server refused what comes before the case."""


@frozen(kw_only=True)
class Result:
    """A case and its outcome."""

    requirement: Requirement
    outcome: Outcome
    reason: str = ""
    record: Sequence[RecordEntry] = ()
    """The octets that were exchanged, for a failed case."""
    seconds: float = 0.0


@frozen(kw_only=True)
class Report:
    """The results of a run."""

    subject: str
    """The server or client."""
    results: Sequence[Result]
    seconds: float
    greeting: str | None = None
    refusal: str = ""
    """Why the server could not be tested, if its greeting refuses all sessions."""
    extensions: Mapping[str, str] | None = None
    """The extensions in the reply to EHLO, for a server."""
    tls_extensions: Mapping[str, str] | None = None
    """Those inside TLS."""

    def count(self, outcome: Outcome) -> int:
        """Return the number of cases with this outcome."""
        return sum(result.outcome is outcome for result in self.results)

    @property
    def rate_limited(self) -> Result | None:
        """The first case that could not be tried because the server limits the rate of this host, or None."""
        return next((each for each in self.results if LIMITED in each.reason), None)


async def run_in_order(
    requirements: Sequence[R],
    attempt: Callable[[R], Awaitable[Result]],
    *,
    jobs: int,
    on_result: Callable[[Result], None],
) -> None:
    """Attempt all requirements, `jobs` at a time. Call `on_result` in the order of the requirements."""

    async def one(requirement: R, send: trio.MemorySendChannel[Result]) -> None:
        await send.send(await attempt(requirement))

    async with trio.open_nursery() as nursery:
        waiting: list[trio.MemoryReceiveChannel[Result]] = []
        for requirement in [*requirements, *[None] * jobs]:
            if len(waiting) == jobs or (requirement is None and waiting):
                on_result(await waiting.pop(0).receive())
            if requirement is not None:
                sender, receiver = trio.open_memory_channel[Result](1)
                nursery.start_soon(one, requirement, sender)
                waiting.append(receiver)
