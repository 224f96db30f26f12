"""`check_server` with servers in memory that have one defect each: outcomes, reasons and time limits."""

from __future__ import annotations

import io
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import trio
from trio.testing import memory_stream_pair

from smtp_trio._cli.conform import exit_code
from smtp_trio.conform import (
    Case,
    Invariant,
    Level,
    Outcome,
    Report,
    Requirement,
    Result,
    Target,
    UnreachableError,
    check_server,
    read_cases,
    server_cases,
)
from smtp_trio.conform._text_report import TextReport, record_lines

Stream = trio.abc.Stream
Server = Callable[[Stream], Awaitable[None]]

TIMEOUT = 10.0


def case(*lines: str, id: str = "test.case", after: str = "greeting") -> Case:
    """Return a case with these lines."""
    head = (f"== {id}: a case", "MUST RFC 5321 4.2: Every command MUST generate exactly one reply.", f"after: {after}")
    _, (requirement,) = read_cases("\n".join((*head, *lines)))
    assert isinstance(requirement, Case)
    return requirement


ASK = ("C: NOOP", "S: 250")
NOOP = case(*ASK)


async def receive_lines(stream: Stream) -> Sequence[bytes]:
    """Receive once, and return the lines. Raise BrokenResourceError at the end of the connection."""
    data = bytes(await stream.receive_some())
    if not data:
        raise trio.BrokenResourceError
    return data.splitlines()


async def answer_250(
    stream: Stream, replies: dict[bytes, bytes] | None = None, greeting: bytes = b"220 mx.test ESMTP\r\n"
) -> None:
    """Serve a session: answer with ``replies`` by verb, QUIT with 221, and everything else with 250."""
    by_verb = {b"QUIT": b"221 mx.test bye\r\n", **(replies or {})}
    await stream.send_all(greeting)
    while True:
        for line in await receive_lines(stream):
            await stream.send_all(by_verb.get(line.split(b" ")[0], b"250 mx.test\r\n"))
            if line == b"QUIT":
                return


async def run_cases(
    server: Server, *requirements: Requirement, jobs: int = 1, results: list[Result] | None = None
) -> Report:
    """Return the report about a server."""

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
            on_result = None if results is None else results.append
            return await check_server(target, requirements, jobs=jobs, on_result=on_result)
        finally:
            nursery.cancel_scope.cancel()


async def run_case(server: Server, requirement: Requirement = NOOP) -> Result:
    """Return the result of one case."""
    (result,) = (await run_cases(server, requirement)).results
    return result


def after_noop(then: Callable[[Stream], Awaitable[None]]) -> Server:
    """Return a server that calls `then` in place of a reply to NOOP."""

    async def server(stream: Stream) -> None:
        await stream.send_all(b"220 mx.test ESMTP\r\n")
        while True:
            for line in await receive_lines(stream):
                if line == b"NOOP":
                    await then(stream)
                    return
                await stream.send_all(b"250 mx.test\r\n")

    return server


# --- outcomes ---------------------------------------------------------------------------------------------------------


async def test_passed(autojump_clock: trio.testing.MockClock) -> None:
    result = await run_case(answer_250)
    assert (result.outcome, result.reason, result.record) == (Outcome.PASSED, "", ())


async def test_unexpected_code(autojump_clock: trio.testing.MockClock) -> None:
    result = await run_case(lambda stream: answer_250(stream, {b"NOOP": b"500-5.5.1 No\r\n500 5.5.1 never\r\n"}))
    assert result.outcome is Outcome.FAILED
    assert result.reason == r"expected 250, got 500: 500-5.5.1 No\r\n / 500 5.5.1 never\r\n"
    assert record_lines(result.record) == [
        "S: 220 mx.test ESMTP",
        "C: NOOP",
        "S: 500-5.5.1 No",
        "S: 500 5.5.1 never",
    ]


async def test_unexpected_text(autojump_clock: trio.testing.MockClock) -> None:
    result = await run_case(answer_250, case("C: NOOP", "S: 250 text :  # with a colon"))
    assert result.reason == r"expected 250 (with a colon), got another text: 250 mx.test\r\n"
    result = await run_case(answer_250, case("C: NOOP", "S: 250 no text mx  # without a name"))
    assert result.reason == r"expected 250 (without a name), got another text: 250 mx.test\r\n"


async def test_cases_without_their_preconditions_are_skipped(autojump_clock: trio.testing.MockClock) -> None:
    report = await run_cases(
        answer_250,
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


async def test_cases_are_skipped_if_no_recipient_is_accepted(autojump_clock: trio.testing.MockClock) -> None:
    result = await run_case(lambda stream: answer_250(stream, {b"RCPT": b"550 5.1.1 No\r\n"}), case(after="DATA"))
    assert result.outcome is Outcome.SKIPPED
    assert result.reason.startswith("no message can be sent (try --from, --to, --user): expected 250 or 251")


async def test_superfluous_reply_is_detected_at_quit(autojump_clock: trio.testing.MockClock) -> None:
    result = await run_case(lambda stream: answer_250(stream, {b"NOOP": b"250 Ok\r\n250 Ok\r\n"}))
    assert (result.outcome, result.reason) == (Outcome.FAILED, r"received a superfluous reply: 250 Ok\r\n")


async def test_unanswered_quit_does_not_fail_a_case(autojump_clock: trio.testing.MockClock) -> None:
    result = await run_case(lambda stream: answer_250(stream, {b"QUIT": b""}))
    assert result.outcome is Outcome.PASSED


# --- time limits ------------------------------------------------------------------------------------------------------


async def send_nothing(stream: Stream) -> None:
    await trio.sleep_forever()


async def close_at_once(stream: Stream) -> None:
    pass


async def endless_lines(stream: Stream) -> None:
    while True:
        await stream.send_all(b"250-more\r\n" * 100)


async def endless_line(stream: Stream) -> None:
    while True:
        await stream.send_all(b"250 " + b"x" * 10000)


async def send_one_octet_a_second(stream: Stream) -> None:
    while True:
        await stream.send_all(b"2")
        await trio.sleep(1)


async def send_garbage(stream: Stream) -> None:
    await stream.send_all(b"what do you want?\r\n")
    await trio.sleep_forever()


async def half_a_reply(stream: Stream) -> None:
    await stream.send_all(b"250-this is")


@pytest.mark.parametrize(
    ("then", "reason", "seconds"),
    [
        (send_nothing, "expected 250, got nothing within 10 s", TIMEOUT),
        (close_at_once, "expected 250, but the peer closed the connection", 0),
        (endless_lines, "received a reply of more than 1,000 lines", 0),
        (endless_line, "received 70,004 octets without a line end", 0),
        (send_one_octet_a_second, "expected 250, got nothing within 10 s", TIMEOUT),
        (send_garbage, r"received an invalid reply: what do you want?\r\n", 0),
        (half_a_reply, "expected 250, but the peer closed the connection", 0),
    ],
)
async def test_every_case_ends(
    autojump_clock: trio.testing.MockClock, then: Callable[[Stream], Awaitable[None]], reason: str, seconds: float
) -> None:
    result = await run_case(after_noop(then))
    assert (result.outcome, result.reason) == (Outcome.FAILED, reason) or "without a line end" in result.reason
    assert result.seconds == seconds


async def test_flood_while_sending(autojump_clock: trio.testing.MockClock) -> None:
    """Octets that arrive while a command is sent are read, so that the two sides cannot wait for each other."""

    async def flood(stream: Stream) -> None:
        for _ in range(300):
            await stream.send_all(b"x" * 65536)

    result = await run_case(after_noop(flood), case("C: NOOP", "S. closes"))
    assert result.outcome is Outcome.FAILED


async def test_all_cases_end_with_random_replies(autojump_clock: trio.testing.MockClock) -> None:
    """Every case has an outcome within its time limit."""
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
            await answer_250(
                stream, {b"EHLO": b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 10\r\n250-CHUNKING\r\n250 DSN\r\n"}
            )
            return
        await stream.send_all(b"220 mx.test\r\n")
        while True:
            await receive_lines(stream)
            await stream.send_all(b"".join(chance.choices(pieces, k=4)))
            if chance.random() < 0.05:
                return

    report = await run_cases(server, *server_cases())
    assert len(report.results) == len(server_cases())
    assert report.count(Outcome.FAILED) + report.count(Outcome.ERROR) > 200
    assert report.seconds < (len(server_cases()) + 10) * (TIMEOUT + 4)


# --- refused sessions -------------------------------------------------------------------------------------------------


def refusing(refuse: Sequence[bool]) -> Server:
    """Return a server that answers a connection with 421 where `refuse` is true, and serves all later ones."""
    turns = iter(refuse)

    async def server(stream: Stream) -> None:
        if next(turns, False):
            await stream.send_all(b"421 mx.test too busy\r\n")
        else:
            await answer_250(stream)

    return server


async def test_refused_session_is_retried(autojump_clock: trio.testing.MockClock) -> None:
    result = await run_case(refusing([False, False, True, True]))
    assert (result.outcome, result.seconds) == (Outcome.PASSED, 1.5)


async def test_run_stops_after_three_refused_cases(autojump_clock: trio.testing.MockClock) -> None:
    requirements = [case(*ASK, id=f"test.{number}") for number in range(5)]
    report = await run_cases(refusing([False, False, *[True] * 100]), *requirements)
    assert [result.outcome for result in report.results] == [Outcome.ERROR] * 5
    first, *_, last = report.results
    assert first.reason.startswith(
        "the server refuses the session: before the case began: expected 220 (a greeting), got 421"
    )
    assert last.reason == "the server could not be reached for 3 cases; no more cases are tried"
    assert report.seconds == 3 * 3.5


@pytest.mark.parametrize("code", ["421 4.7.28 Unusual rate", "450 4.7.1 Error: too much mail from"])
@pytest.mark.parametrize(
    "steps",
    [
        ("C: MAIL FROM:<{from}>", "S: 250"),
        ("C: MAIL FROM:<{from}", "S: 501"),  # the refusal is not one of the missing bracket
        ("C: MAIL FROM:<{from}>", "C: RCPT TO:<{to}>", "S: 250", "S: 250"),
    ],
)
async def test_rate_limit(autojump_clock: trio.testing.MockClock, code: str, steps: Sequence[str]) -> None:
    """Such a case could not be tried; cases without MAIL are. The report names the reply and the first case."""
    mails = 0

    async def server(stream: Stream) -> None:
        nonlocal mails
        await stream.send_all(b"220 mx.test\r\n")
        while True:
            for each in await receive_lines(stream):
                mails += each.startswith(b"MAIL")
                limited = each.startswith(b"MAIL") and mails > 2
                reply = code.encode() if limited else b"221 bye" if each == b"QUIT" else b"250 mx.test"
                await stream.send_all(reply + b"\r\n")
                if limited and code.startswith("421"):
                    return

    requirements = [
        case("C: MAIL FROM:<{from}>", "S: 250", id="test.a"),
        *(case(*steps, id=f"test.{n}") for n in range(3)),
    ]
    report = await run_cases(server, *requirements, NOOP)
    passed, *limited, noop = report.results
    assert passed.outcome is noop.outcome is Outcome.PASSED
    assert [(each.outcome, each.reason) for each in limited] == [
        (Outcome.ERROR, f"the server limits the rate of this host: {code}")
    ] * 3
    assert exit_code(report) == 2
    text = io.StringIO()
    TextReport(text).end(report)
    note = f"The server limits the rate of this host: {code} (first in test.0). Exempt this host from the limit, and test again."
    assert note in " ".join(text.getvalue().split())


async def test_rate_limit_before_the_first_case(autojump_clock: trio.testing.MockClock) -> None:
    async def server(stream: Stream) -> None:
        await answer_250(stream, {b"MAIL": b"421 4.7.28 Unusual rate\r\n"})

    with pytest.RaisesGroup(
        pytest.RaisesExc(UnreachableError, match="limits the rate of this host: 421 4.7.28 Unusual")
    ):
        await run_cases(server, NOOP)


async def test_error_limit_is_not_a_rate_limit(autojump_clock: trio.testing.MockClock) -> None:
    """A server may give up after too many errors; a case that fails by that has been tried."""
    server = after_noop(lambda stream: stream.send_all(b"500 5.5.2 What?\r\n421 4.7.0 Too many errors\r\n"))
    result = await run_case(server, case("C: NOOP", "S: 250", "S: 250"))
    assert result.outcome is Outcome.FAILED


async def test_refused_connection(autojump_clock: trio.testing.MockClock) -> None:
    async def dial() -> Stream:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(UnreachableError, match="cannot connect: Connection refused"):
        await check_server(Target(host="mx.test", port=25, dial=dial), [NOOP])


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (
            lambda stream: answer_250(stream, greeting=b"250 mx.test\r\n"),
            "expected a 220 greeting, got 250 mx.test",
        ),
        (lambda stream: answer_250(stream, greeting=b"SSH-2.0-x\r\n"), "received an invalid reply: SSH-2.0-x"),
        (close_at_once, "the peer closed the connection"),
        (send_nothing, "received nothing within 10 s"),
    ],
)
async def test_peer_that_is_not_an_smtp_server(
    autojump_clock: trio.testing.MockClock, server: Server, reason: str
) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(UnreachableError, match=reason)):
        await run_cases(server, NOOP)


async def test_only_quit_is_awaited_after_a_554_greeting(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 5321 3.1. All cases that need a session are skipped."""
    greeting = b"554-mx.test refuses\r\n554 all mail\r\n"
    commands = case(*ASK, id="test.commands")
    quit_first = case("needs: 554 greeting", "S: 554", "C: QUIT", "S: 221", id="test.quit", after="connect")
    early = case("C: QUIT", "S: 220", id="test.early", after="connect")

    async def waits_for_quit(stream: Stream) -> None:
        await answer_250(stream, greeting=greeting)

    async def closes(stream: Stream) -> None:
        await stream.send_all(greeting)

    refusal = r"the server refuses sessions: 554-mx.test refuses\r\n / 554 all mail\r\n"
    report = await run_cases(waits_for_quit, commands, quit_first, early)
    assert [(result.outcome, result.reason) for result in report.results] == [
        (Outcome.SKIPPED, refusal),
        (Outcome.PASSED, ""),
        (Outcome.SKIPPED, refusal),
    ]
    assert report.greeting == refusal.removeprefix("the server refuses sessions: ")
    report = await run_cases(closes, commands, quit_first)
    assert [(result.outcome, result.reason) for result in report.results] == [
        (Outcome.SKIPPED, refusal),
        (Outcome.FAILED, "expected 221, but the peer closed the connection"),
    ]
    report = await run_cases(answer_250, quit_first)
    assert [(result.outcome, result.reason) for result in report.results] == [(Outcome.SKIPPED, "needs 554 greeting")]


async def test_no_case_is_tried_after_a_521_greeting(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 7504 3: the host never accepts mail, and may close the connection."""

    async def closes(stream: Stream) -> None:
        await stream.send_all(b"521-mx.test\r\n521 Host does not accept mail\r\n")

    report = await run_cases(closes, NOOP, case("needs: 554 greeting", "C: QUIT", "S: 221", after="connect"))
    assert [result.outcome for result in report.results] == [Outcome.SKIPPED] * 2
    assert {result.reason for result in report.results} == {report.refusal}
    assert report.refusal.startswith(
        "the server never accepts mail (RFC 7504 3), so nothing can be tested: 521-mx.test"
    )


# --- invariants, and simultaneous cases -------------------------------------------------------------------------------


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
async def test_violated_invariants(autojump_clock: trio.testing.MockClock, id: str, answer: bytes) -> None:
    (requirement,) = [requirement for requirement in server_cases() if requirement.id == id]
    assert isinstance(requirement, Invariant)
    replies = {b"EHLO": b"250-mx.test\r\n250 ENHANCEDSTATUSCODES\r\n", b"QUIT": b"221 2.0.0 mx.test\r\n"}
    noop = case("C: NOOP", "S: 2..", after="EHLO")
    good = await run_cases(
        lambda stream: answer_250(stream, {**replies, b"NOOP": b"250 2.0.0 Ok\r\n"}), noop, requirement
    )
    assert [result.outcome for result in good.results] == [Outcome.PASSED] * 2
    bad = await run_cases(lambda stream: answer_250(stream, {**replies, b"NOOP": answer}), noop, requirement)
    assert [result.outcome for result in bad.results] == [Outcome.PASSED, Outcome.FAILED]
    assert bad.results[1].reason.startswith("1 of 4 replies, in 1 cases; first in test.case: 2")


async def test_enhanced_code_in_reply_to_ehlo(autojump_clock: trio.testing.MockClock) -> None:
    (requirement,) = [requirement for requirement in server_cases() if requirement.id == "replies.enhanced-none"]
    ehlo = b"250-2.0.0 mx.test\r\n250 ENHANCEDSTATUSCODES\r\n"
    report = await run_cases(lambda stream: answer_250(stream, {b"EHLO": ehlo}), case(after="EHLO"), requirement)
    assert report.results[-1].outcome is Outcome.FAILED


async def test_invariant_without_replies_is_skipped(autojump_clock: trio.testing.MockClock) -> None:
    (requirement,) = [requirement for requirement in server_cases() if requirement.id == "replies.syntax"]
    result = await run_case(answer_250, requirement)
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "no reply to check was received")


@pytest.mark.parametrize("size", [b"9" * 5000, b"-1", b"\xd9\xa3", b"many"])
async def test_invalid_size_keyword_is_ignored(autojump_clock: trio.testing.MockClock, size: bytes) -> None:
    replies = {b"EHLO": b"250-mx.test\r\n250 SIZE " + size + b"\r\n"}
    requirement = case("needs: SIZE n", after="EHLO")
    (result,) = (await run_cases(lambda stream: answer_250(stream, replies), requirement)).results
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "SIZE n is not offered")


async def test_simultaneous_cases_are_reported_in_order(autojump_clock: trio.testing.MockClock) -> None:
    busy, most = 0, 0

    async def server(stream: Stream) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        try:
            await trio.sleep(random.Random(busy).random())
            await answer_250(stream)
        finally:
            busy -= 1

    results: list[Result] = []
    requirements = [case(*ASK, id=f"test.{number}") for number in range(10)]
    report = await run_cases(server, *requirements, jobs=3, results=results)
    assert (
        [result.requirement for result in report.results] == [result.requirement for result in results] == requirements
    )
    assert {result.outcome for result in results} == {Outcome.PASSED}
    assert most == 3


def test_levels_are_ordered() -> None:
    assert Level.MUST < Level.SHOULD < Level.RECOMMENDED
