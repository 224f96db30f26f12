"""Servers that are wrong in one way each, in memory and on a clock of our own: what is said of them, and that it ends in time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import trio
from trio.testing import memory_stream_pair

from smtp_trio.conform import (
    Case,
    Invariant,
    Level,
    Outcome,
    Report,
    Result,
    Rule,
    Target,
    Unreachable,
    conform,
)
from smtp_trio.conform._server_cases import read_cases, server_rules
from smtp_trio.conform._text import conversation

Stream = trio.abc.Stream
Server = Callable[[Stream], Awaitable[None]]

TIMEOUT = 10.0


def case(*lines: str, id: str = "test.case", after: str = "greeting") -> Case:
    """Return a case with these lines."""
    head = (f"== {id}: a case", "MUST RFC 5321 4.2: Every command MUST generate exactly one reply.", f"after: {after}")
    _, (rule,) = read_cases("\n".join((*head, *lines)))
    assert isinstance(rule, Case)
    return rule


ASK = ("C: NOOP", "S: 250")
NOOP = case(*ASK)


async def lines(stream: Stream) -> Sequence[bytes]:
    data = bytes(await stream.receive_some())
    if not data:
        raise trio.BrokenResourceError
    return data.splitlines()


async def tame(
    stream: Stream, answers: dict[bytes, bytes] | None = None, greeting: bytes = b"220 mx.test ESMTP\r\n"
) -> None:
    """Answers 250 to everything, 221 to QUIT, and what it is told to what it is told."""
    told = {b"QUIT": b"221 mx.test bye\r\n", **(answers or {})}
    await stream.send_all(greeting)
    while True:
        for line in await lines(stream):
            await stream.send_all(told.get(line.split(b" ")[0], b"250 mx.test\r\n"))
            if line == b"QUIT":
                return


async def play(server: Server, *rules: Rule, jobs: int = 1, seen: list[Result] | None = None) -> Report:
    """What is said of that server."""

    async def serve(stream: Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await server(stream)
        await stream.aclose()

    async with trio.open_nursery() as nursery:

        async def dial() -> Stream:
            near, far = memory_stream_pair()
            nursery.start_soon(serve, far)
            return near

        target = Target(host="mx.test", port=25, timeout=TIMEOUT, dial=dial)
        try:
            return await conform(target, rules, jobs=jobs, on_result=None if seen is None else seen.append)
        finally:
            nursery.cancel_scope.cancel()


async def one(server: Server, rule: Rule = NOOP) -> Result:
    (result,) = (await play(server, rule)).results
    return result


def after_noop(then: Callable[[Stream], Awaitable[None]]) -> Server:
    """A server that does that in place of an answer to NOOP."""

    async def server(stream: Stream) -> None:
        await stream.send_all(b"220 mx.test ESMTP\r\n")
        while True:
            for line in await lines(stream):
                if line == b"NOOP":
                    await then(stream)
                    return
                await stream.send_all(b"250 mx.test\r\n")

    return server


# --- one outcome each -------------------------------------------------------------------------------------------------


async def test_passed(autojump_clock: trio.testing.MockClock) -> None:
    result = await one(tame)
    assert (result.outcome, result.reason, result.record) == (Outcome.PASSED, "", ())


async def test_a_wrong_code(autojump_clock: trio.testing.MockClock) -> None:
    result = await one(lambda stream: tame(stream, {b"NOOP": b"500-5.5.1 No\r\n500 5.5.1 never\r\n"}))
    assert result.outcome is Outcome.FAILED
    assert result.reason == r"250 was due, and 500 came: 500-5.5.1 No\r\n / 500 5.5.1 never\r\n"
    assert conversation(result.record) == [
        "S: 220 mx.test ESMTP",
        "C: NOOP",
        "S: 500-5.5.1 No",
        "S: 500 5.5.1 never",
    ]


async def test_a_wrong_text(autojump_clock: trio.testing.MockClock) -> None:
    result = await one(tame, case("C: NOOP", "S: 250 text :  # with a colon"))
    assert result.reason == r"250 was due (with a colon), and its text is: 250 mx.test\r\n"
    result = await one(tame, case("C: NOOP", "S: 250 no text mx  # without a name"))
    assert result.reason == r"250 was due (without a name), and its text is: 250 mx.test\r\n"


async def test_skipped(autojump_clock: trio.testing.MockClock) -> None:
    report = await play(
        tame,
        case("needs: CHUNKING", id="test.one"),
        case("needs: --unknown", id="test.two"),
        case("skip if: SIZE", id="test.three"),
        case(after="STARTTLS", id="test.four"),
    )
    assert [(result.outcome, result.reason) for result in report.results] == [
        (Outcome.SKIPPED, "CHUNKING is not offered"),
        (Outcome.SKIPPED, "needs --unknown"),
        (Outcome.PASSED, ""),
        (Outcome.SKIPPED, "STARTTLS is not offered"),
    ]


async def test_no_recipient_is_taken(autojump_clock: trio.testing.MockClock) -> None:
    result = await one(lambda stream: tame(stream, {b"RCPT": b"550 5.1.1 No\r\n"}), case(after="DATA"))
    assert result.outcome is Outcome.SKIPPED
    assert result.reason.startswith("no message can be sent (try --from, --to, --user): 250 or 251 was due")


async def test_an_answer_too_many(autojump_clock: trio.testing.MockClock) -> None:
    result = await one(lambda stream: tame(stream, {b"NOOP": b"250 Ok\r\n250 Ok\r\n"}))
    assert (result.outcome, result.reason) == (Outcome.FAILED, r"there was an answer too many: 250 Ok\r\n")


async def test_quit_that_is_not_answered_fails_other_cases_only(autojump_clock: trio.testing.MockClock) -> None:
    result = await one(lambda stream: tame(stream, {b"QUIT": b""}))
    assert result.outcome is Outcome.PASSED


# --- whatever the server does, it ends --------------------------------------------------------------------------------


async def nothing(stream: Stream) -> None:
    await trio.sleep_forever()


async def closing(stream: Stream) -> None:
    pass


async def endless_lines(stream: Stream) -> None:
    while True:
        await stream.send_all(b"250-more\r\n" * 100)


async def endless_line(stream: Stream) -> None:
    while True:
        await stream.send_all(b"250 " + b"x" * 10000)


async def drops(stream: Stream) -> None:
    while True:
        await stream.send_all(b"2")
        await trio.sleep(1)


async def garbage(stream: Stream) -> None:
    await stream.send_all(b"what do you want?\r\n")
    await trio.sleep_forever()


async def half_a_reply(stream: Stream) -> None:
    await stream.send_all(b"250-this is")


@pytest.mark.parametrize(
    ("then", "reason", "seconds"),
    [
        (nothing, "250 was due, and nothing came: 10 s are over", TIMEOUT),
        (closing, "250 was due, and they closed", 0),
        (endless_lines, "a reply of more than 1,000 lines", 0),
        (endless_line, "70,004 octets without the end of a line", 0),
        (drops, "250 was due, and nothing came: 10 s are over", TIMEOUT),
        (garbage, r"this is no reply: what do you want?\r\n", 0),
        (half_a_reply, "250 was due, and they closed", 0),
    ],
)
async def test_it_ends(
    autojump_clock: trio.testing.MockClock, then: Callable[[Stream], Awaitable[None]], reason: str, seconds: float
) -> None:
    result = await one(after_noop(then))
    assert (result.outcome, result.reason) == (Outcome.FAILED, reason) or "octets without" in result.reason
    assert result.seconds == seconds


async def test_a_server_that_takes_nothing_more(autojump_clock: trio.testing.MockClock) -> None:
    """What comes while we send is read, so that neither side waits for the other; a flood is seen as one."""

    async def flood(stream: Stream) -> None:
        for _ in range(300):
            await stream.send_all(b"x" * 65536)

    result = await one(after_noop(flood), case("C: NOOP", "S. closes"))
    assert result.outcome is Outcome.FAILED


async def test_any_garbage(autojump_clock: trio.testing.MockClock) -> None:
    """A server that answers with whatever: all cases end, each with an outcome, in the time that they have."""
    chance = random.Random(5321)
    pieces = (
        b"2",
        b"250",
        b"250-",
        b"250 ",
        b"\r\n",
        b"\n",
        b"354 go\r\n",
        b"221 bye\r\n",
        b"421 no\r\n",
        b"\xff\0",
        b"503 5.5.1\r\n",
    )

    surveys = iter((True, True))

    async def server(stream: Stream) -> None:
        if next(surveys, False):
            await tame(
                stream, {b"EHLO": b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 10\r\n250-CHUNKING\r\n250 DSN\r\n"}
            )
            return
        await stream.send_all(b"220 mx.test\r\n")
        while True:
            await lines(stream)
            await stream.send_all(b"".join(chance.choices(pieces, k=4)))
            if chance.random() < 0.05:
                return

    report = await play(server, *server_rules())
    assert len(report.results) == len(server_rules())
    assert report.count(Outcome.FAILED) + report.count(Outcome.ERROR) > 200
    assert report.seconds < (len(server_rules()) + 10) * (TIMEOUT + 4)


# --- servers that do not let us in ------------------------------------------------------------------------------------


def turning_away(times: Sequence[bool]) -> Server:
    """Says 421 to those connections, in their order, and to none after them."""
    turns = iter(times)

    async def server(stream: Stream) -> None:
        if next(turns, False):
            await stream.send_all(b"421 mx.test too busy\r\n")
        else:
            await tame(stream)

    return server


async def test_turned_away_it_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    result = await one(turning_away([False, False, True, True]))
    assert (result.outcome, result.seconds) == (Outcome.PASSED, 1.5)


async def test_turned_away_for_good(autojump_clock: trio.testing.MockClock) -> None:
    rules = [case(*ASK, id=f"test.{number}") for number in range(5)]
    report = await play(turning_away([False, False, *[True] * 100]), *rules)
    assert [result.outcome for result in report.results] == [Outcome.ERROR] * 5
    first, *_, last = report.results
    assert first.reason.startswith(
        "the server turns us away: before the case began: 220 was due (a greeting), and 421 came"
    )
    assert last.reason == "the server could not be reached for 3 cases; no more are tried"
    assert report.seconds == 3 * 3.5


async def test_nobody_is_there(autojump_clock: trio.testing.MockClock) -> None:
    async def dial() -> Stream:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(Unreachable, match="cannot connect: Connection refused"):
        await conform(Target(host="mx.test", port=25, dial=dial), [NOOP])


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (lambda stream: tame(stream, greeting=b"554 mx.test no\r\n"), "its greeting is: 554 mx.test no"),
        (lambda stream: tame(stream, greeting=b"SSH-2.0-x\r\n"), "this is no reply: SSH-2.0-x"),
        (closing, "they closed"),
        (nothing, "nothing came within 10 s"),
    ],
)
async def test_nobody_speaks_smtp_there(autojump_clock: trio.testing.MockClock, server: Server, reason: str) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(Unreachable, match=reason)):
        await play(server, NOOP)


# --- all replies, and several at a time -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "answer"),
    [
        ("replies.syntax", b"250\tOk\r\n"),
        ("replies.codes", b"299 Ok\r\n"),
        ("replies.crlf", b"250 Ok\n"),
        ("replies.length", b"250 " + b"x" * 507 + b"\r\n"),
        ("replies.one-code", b"250-Ok\r\n251 Ok\r\n"),
        ("replies.text", b"250 \xc3\xb6k\r\n"),
        ("replies.listed", b"259 Ok\r\n"),
        ("replies.enhanced", b"250 Ok\r\n"),
        ("replies.enhanced-class", b"250 5.0.0 Ok\r\n"),
        ("replies.enhanced-lines", b"250-2.0.0 Ok\r\n250 2.1.0 Ok\r\n"),
        ("replies.internals", b"250 ValueError('x')\r\n"),
    ],
)
async def test_what_holds_for_all_replies(autojump_clock: trio.testing.MockClock, id: str, answer: bytes) -> None:
    (rule,) = [rule for rule in server_rules() if rule.id == id]
    assert isinstance(rule, Invariant)
    answers = {b"EHLO": b"250-mx.test\r\n250 ENHANCEDSTATUSCODES\r\n", b"QUIT": b"221 2.0.0 mx.test\r\n"}
    noop = case("C: NOOP", "S: 2..", after="EHLO")
    good = await play(lambda stream: tame(stream, {**answers, b"NOOP": b"250 2.0.0 Ok\r\n"}), noop, rule)
    assert [result.outcome for result in good.results] == [Outcome.PASSED] * 2
    bad = await play(lambda stream: tame(stream, {**answers, b"NOOP": answer}), noop, rule)
    assert [result.outcome for result in bad.results] == [Outcome.PASSED, Outcome.FAILED]
    assert bad.results[1].reason.startswith("1 of 4 replies, in 1 cases; first in test.case: 2")


async def test_no_enhanced_code_where_none_belongs(autojump_clock: trio.testing.MockClock) -> None:
    (rule,) = [rule for rule in server_rules() if rule.id == "replies.enhanced-none"]
    ehlo = b"250-2.0.0 mx.test\r\n250 ENHANCEDSTATUSCODES\r\n"
    report = await play(lambda stream: tame(stream, {b"EHLO": ehlo}), case(after="EHLO"), rule)
    assert report.results[-1].outcome is Outcome.FAILED


async def test_nothing_was_heard(autojump_clock: trio.testing.MockClock) -> None:
    (rule,) = [rule for rule in server_rules() if rule.id == "replies.syntax"]
    result = await one(tame, rule)
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "no reply was heard that it concerns")


@pytest.mark.parametrize("size", [b"9" * 5000, b"-1", b"\xd9\xa3", b"many"])
async def test_a_size_that_is_none(autojump_clock: trio.testing.MockClock, size: bytes) -> None:
    answers = {b"EHLO": b"250-mx.test\r\n250 SIZE " + size + b"\r\n"}
    rule = case("needs: SIZE n", after="EHLO")
    (result,) = (await play(lambda stream: tame(stream, answers), rule)).results
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "SIZE n is not offered")


async def test_several_at_a_time_are_told_in_their_order(autojump_clock: trio.testing.MockClock) -> None:
    busy, most = 0, 0

    async def server(stream: Stream) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        try:
            await trio.sleep(random.Random(busy).random())
            await tame(stream)
        finally:
            busy -= 1

    seen: list[Result] = []
    rules = [case(*ASK, id=f"test.{number}") for number in range(10)]
    report = await play(server, *rules, jobs=3, seen=seen)
    assert [result.rule for result in report.results] == [result.rule for result in seen] == rules
    assert {result.outcome for result in seen} == {Outcome.PASSED}
    assert most == 3


def test_levels_are_ordered() -> None:
    assert Level.MUST < Level.SHOULD < Level.RECOMMENDED
