"""What a peer says costs neither much memory nor much time."""

from __future__ import annotations

import re
import time
import tracemalloc

import pytest
import trio
from trio.testing import MockClock

from smtp_trio.conform import Invariant, Outcome, Rule, _client_invariants as habits
from smtp_trio.conform._server_cases import server_rules
from smtp_trio.conform._talk import LINE, Reply

from .test_outcomes import ASK, Stream, after_noop, case, play

CASES = 30
FLOOD = b"250-" + b"x" * 1020 + b"\r\n"
"""A line too long: an invariant is broken by each."""
TIME = 0.2
"""Seconds of the processor for one line; the square of its length would take some minutes."""

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
    return piece * (LINE // len(piece))


@pytest.mark.slow
async def test_replies_are_not_kept(autojump_clock: MockClock) -> None:
    """Each case hears a megabyte; what is left of them all is little."""

    async def flood(stream: Stream) -> None:
        await stream.send_all(FLOOD * 999 + b"250 ok\r\n")
        await trio.sleep(1)

    rules: list[Rule] = [case(*ASK, "end: no QUIT", id=f"test.{n}") for n in range(CASES)]
    rules += [rule for rule in server_rules() if isinstance(rule, Invariant)]
    tracemalloc.start()
    try:
        report = await play(after_noop(flood), *rules)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < CASES // 2 * len(FLOOD) * 1000
    length = next(result for result in report.results if result.rule.id == "replies.length")
    assert length.outcome is Outcome.FAILED
    assert length.reason.startswith(f"{CASES} of {2 * CASES} replies, in {CASES} cases; first in test.0: 250-xxx")
    assert length.record


@pytest.mark.parametrize(
    "rule", [rule for rule in server_rules() if isinstance(rule, Invariant)], ids=lambda rule: rule.id
)
def test_invariants_are_quick(rule: Invariant) -> None:
    for piece in PIECES:
        for head in HEADS[:2]:
            lines = (f"250-{head}{long(piece)}\r\n".encode(), f"250 {head}{long(piece)}!\r\n".encode())
            begin = time.process_time()
            rule.broken(Reply(lines, "NOOP", 1))
            assert time.process_time() - begin < TIME, (head, piece)


@pytest.mark.parametrize("pattern", [habits.HELLO, habits.PATH], ids=["HELLO", "PATH"])
def test_commands_are_read_quickly(pattern: re.Pattern[bytes]) -> None:
    for piece in PIECES:
        for head in HEADS:
            for end in ("", "!\r\n", "\n"):
                line = f"{head}{long(piece)}{end}".encode()
                begin = time.process_time()
                pattern.fullmatch(line)
                assert time.process_time() - begin < TIME, (head, piece, end)
