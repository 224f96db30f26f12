"""Limits on the memory and time that a peer can cost."""

from __future__ import annotations

import re
import tracemalloc

import pytest
import trio
from trio.testing import MockClock

from smtp_trio.conform import Invariant, Outcome, Requirement, server_cases
from smtp_trio.conform._client_invariants import HELLO, PATH
from smtp_trio.conform._connection import MAX_LINE, ReceivedReply

from .test_server_runner import ASK, Stream, after_noop, case, run_cases

CASES = 30
#: A line that is too long, so that an invariant is violated by every reply.
FLOOD = b"250-" + b"x" * 1020 + b"\r\n"

#: What long lines are made of: characters that the patterns treat differently, and beginnings of what they look for.
PIECES = [
    *"a0A-.: <>=\t@/[é",
    "a ",
    "> ",
    "a.",
    "a-",
    "at 0x",
    "aError",
    "aError(",
    ".py",
    "5.",
    "5.1.",
    "0 ",
    "\r",
    "\r\n",
]
HEADS = ["", "5.7.8 ", "EHLO ", "EHLO [", "EHLO [IPv6:", "EHLO [a:", "MAIL FROM:<", "RCPT TO:<"]


def long(piece: str) -> str:
    """Return a text for which quadratic time would exceed the time limit of a test many times."""
    return piece * (4 * MAX_LINE // len(piece))


@pytest.mark.slow
async def test_replies_are_not_kept(autojump_clock: MockClock) -> None:
    """Each case receives a megabyte of replies; the memory does not grow with the number of cases."""

    async def flood(stream: Stream) -> None:
        await stream.send_all(FLOOD * 999 + b"250 ok\r\n")
        await trio.sleep(1)

    requirements: list[Requirement] = [case(*ASK, "end: no QUIT", id=f"test.{n}") for n in range(CASES)]
    requirements += [requirement for requirement in server_cases() if isinstance(requirement, Invariant)]
    tracemalloc.start()
    try:
        report = await run_cases(after_noop(flood), *requirements)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < CASES // 2 * len(FLOOD) * 1000
    length = next(result for result in report.results if result.requirement.id == "replies.length")
    assert length.outcome is Outcome.FAILED
    assert length.reason.startswith(f"{CASES} of {2 * CASES} replies, in {CASES} cases; first in test.0: 250-xxx")
    assert length.record


@pytest.mark.parametrize(
    "requirement",
    [requirement for requirement in server_cases() if isinstance(requirement, Invariant)],
    ids=lambda requirement: requirement.id,
)
def test_invariants_take_linear_time(requirement: Invariant) -> None:
    for piece in PIECES:
        for head in HEADS[:2]:
            lines = (f"250-{head}{long(piece)}\r\n".encode(), f"250 {head}{long(piece)}!\r\n".encode())
            requirement.violated(ReceivedReply(lines, "NOOP", 1))


@pytest.mark.parametrize("pattern", [HELLO, PATH], ids=["HELLO", "PATH"])
@pytest.mark.parametrize("head", HEADS)
def test_patterns_for_commands_take_linear_time(pattern: re.Pattern[bytes], head: str) -> None:
    for piece in PIECES:
        for end in ("", "!\r\n", "\n"):
            pattern.fullmatch(f"{head}{long(piece)}{end}".encode())
