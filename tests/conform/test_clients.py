"""Every case for clients, with configurations of `smtp_trio.Client`, and with clients that have one defect each."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing
from attrs import define

from smtp_trio.conform import Outcome, Report, Requirement
from smtp_trio.conform._client_case import ClientCase, ClientExit, ClientInvariant
from smtp_trio.conform._client_cases import CHAPTERS, client_cases, client_titles
from smtp_trio.conform._client_runner import ClientOptions, check_client
from smtp_trio.conform._client_under_test import SendRequest, Serve
from smtp_trio.conform._report_formats import FORMATS
from smtp_trio.conform._text_report import details
from smtp_trio.testing import bounded_stream_pair

from . import clients_in_memory
from .clients_in_memory import SendFunction, SimpleClient, run_client_cases, simple_client

pytestmark = pytest.mark.exhaustive  # every case five times; one Python version is enough

CONFIGURATIONS = ("plain", "opportunistic", "login", "required", "submission")


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("requirement", client_cases(), ids=lambda requirement: requirement.id)
def test_our_client_conforms(requirement: Requirement, name: str) -> None:
    (result,) = [result for result in clients_in_memory.report(name).results if result.requirement is requirement]
    assert result.outcome in (Outcome.PASSED, Outcome.SKIPPED), "\n".join(details(result))


@pytest.mark.parametrize("requirement", client_cases(), ids=lambda requirement: requirement.id)
def test_every_case_is_tried_once(requirement: Requirement) -> None:
    results = [
        result
        for name in CONFIGURATIONS
        for result in clients_in_memory.report(name).results
        if result.requirement is requirement
    ]
    assert any(result.outcome is Outcome.PASSED for result in results), {result.reason for result in results}


def test_cases_are_complete() -> None:
    assert len({requirement.id for requirement in client_cases()}) == len(client_cases()) > 300
    assert list(dict.fromkeys(requirement.group for requirement in client_cases())) == list(CHAPTERS)
    assert all(client_titles().values())
    for requirement in client_cases():
        assert requirement.section.startswith("RFC "), requirement.id
        assert requirement.sentence or requirement.level.name == "RECOMMENDED", f"{requirement.id} needs a sentence"


# --- clients with defects ---------------------------------------------------------------------------------------------


def requirements(*ids: str) -> list[Requirement]:
    return [requirement for requirement in client_cases() if requirement.id in ids]


def without_dot_stuffing(text: bytes) -> bytes:
    return text + b".\r\n"


#: A case, the defects of a client that fails it, and the reason.
DEFECTS: tuple[tuple[str, dict[str, object], str], ...] = (
    ("session.order", {"mail": b"NOOP"}, "no message was sent completely|EHLO or HELO, then MAIL"),
    ("session.order", {"code": 1}, "the client ended with 1: it reports a failure"),
    ("session.ehlo", {"hello": [b"HELO client.test"]}, "expected EHLO"),
    ("session.ehlo", {"hello": [b"HELO client.test", b"EHLO client.test"]}, "sent: HELO"),
    ("session.quit", {"last": ()}, "the client closed the connection without QUIT"),
    ("session.quit", {"last": (b"QUIT", b"NOOP")}, "sent after QUIT: NOOP"),
    ("session.greeting-waits", {"early": b"NOOP\r\n"}, "sent before the reply to GREETING: NOOP"),
    ("session.message", {"body": lambda text: text.upper() + b".\r\n"}, "sent another text: ONE LINE"),
    ("session.helo-500", {}, "expected EHLO, then HELO, then MAIL, then RCPT, then DATA"),
    (
        "session.helo-no-parameters",
        {"mail": b"MAIL FROM:<%b> SIZE=1", "ignores_refusals": True},
        "sent: MAIL FROM:.*SIZE",
    ),
    ("session.greeting-554", {"ignores_refusals": True}, "sent after the reply to GREETING: EHLO"),
    ("replies.space-data", {"code": 70}, "the client ended with 70"),
    ("replies.intermediate-mail", {}, "sent: DATA"),
    ("refusals.mail-550", {"ignores_refusals": True}, "the client ended with 0: it reports that the message was sent"),
    ("refusals.mail-550", {"ignores_refusals": True, "code": 1}, "sent: (RCPT|DATA)"),
    ("refusals.data-250", {}, "sent: From:"),
    ("refusals.body-451", {"ignores_refusals": True}, "the client ended with 0"),
    ("lost.closed-body", {"ignores_refusals": True}, "the client ended with 0"),
    ("lost.torn-body", {"code": 0}, "the client ended with 0"),
    ("data.dots", {"body": without_dot_stuffing}, "sent another text: |500"),
    ("data.dot-alone", {"body": without_dot_stuffing}, "sent another text"),
    ("data.bare-lf", {"body": lambda text: text + b".\r\n"}, "a bare CR or LF was sent: "),
    ("data.large", {"body": lambda text: text[:-1000] + b"\r\n.\r\n"}, "sent another text: ... 0123"),
    ("pipelining.not-offered", {"does_not_wait": True}, "sent before the reply to EHLO"),
    ("pipelining.data", {"data": [b"DATA\r\nSubject: no"]}, "sent before the reply to DATA: Subject: no"),
    ("pipelining.rcpt-data", {"ignores_refusals": True, "code": 1}, "sent a message: From: "),
    ("size.too-small", {}, "sent a message: From: "),
    ("encoding.7bit", {}, r"non-ASCII octets were sent: \\xc3"),
    (
        "encoding.8bit",
        {},
        r"the message needs a MAIL that matches BODY=\(8BITMIME\|BINARYMIME\), got MAIL FROM:<[^>]+>\\r",
    ),
    ("encoding.utf8-rcpt", {}, r"sent: RCPT TO:<j\\xc3"),
    (
        "auth.challenge",
        {"hello": (b"EHLO client.test", b"AUTH PLAIN", b"AGFh"), "ignores_refusals": True},
        r"expected \*",
    ),
    (
        "auth.clear",
        {"hello": (b"EHLO client.test", b"AUTH PLAIN AGFhAGJi"), "ignores_refusals": True},
        "sent outside TLS: AUTH",
    ),
    ("starttls.stripped", {}, "sent outside TLS: MAIL"),
    ("danger.smuggle-lf-crlf", {}, "a bare CR or LF was sent"),
    ("danger.smuggle-crlf-crlf", {"body": without_dot_stuffing}, "sent: MAIL FROM:<evil"),
    ("danger.inject-to-crlf", {}, "sent: RCPT TO:<evil"),
)


@pytest.mark.parametrize(
    ("id", "defects", "reason"), DEFECTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_client_with_a_defect(id: str, defects: dict[str, object], reason: str) -> None:
    options = {"require_tls": "--require-tls" in needs(id), "login": "--login" in needs(id)}
    (result,) = run_client_cases(simple_client(**defects), requirements(id), **options).results
    assert result.outcome is Outcome.FAILED, result
    assert re.search(reason, result.reason), result.reason
    assert any(entry.side == "-" and b"the client ended with" in entry.data for entry in result.record)


def needs(id: str) -> tuple[str, ...]:
    return tuple(requirements(id)[0].needs)


#: An invariant, the defects of a client that violates it, and the reason.
VIOLATIONS: tuple[tuple[str, dict[str, object], str], ...] = (
    ("crlf", {"end": b"\n"}, r"EHLO client\.test\\n"),
    ("ascii", {"hello": [b"EHLO client.test\t"]}, r"EHLO client\.test\\t"),
    ("length", {"hello": [b"EHLO " + b"a" * 510]}, "EHLO aaa"),
    ("verbs", {"hello": [b"EHLO client.test", b"HELP"]}, "HELP"),
    ("hello", {"hello": [b"EHLO client_test"]}, "EHLO client_test"),
    ("hello", {"hello": [b"EHLO"]}, "EHLO"),
    ("hello-first", {"hello": []}, "MAIL FROM:<conform@client.test>"),
    ("paths", {"mail": b"MAIL FROM: <%b>"}, "MAIL FROM: <"),
    ("paths", {"rcpt": b"RCPT TO:%b"}, "RCPT TO:user@mx.test"),
    ("paths", {"mail": b"MAIL FROM:<%b> SIZE=1  BODY=7BIT"}, "MAIL FROM:<.*  BODY"),
    ("offered", {"mail": b"MAIL FROM:<%b> RET=HDRS"}, "RET was not offered"),
    ("nested", {"hello": [b"EHLO client.test", b"MAIL FROM:<a@client.test>"]}, "MAIL FROM:<conform@"),
    ("nested", {"hello": [b"EHLO client.test", b"DATA"], "ignores_refusals": True}, "DATA"),
    ("nested", {"mail": b"NOOP"}, "RCPT"),
    ("waits", {"does_not_wait": True}, "sent before the reply to .*: "),
    ("bare", {"body": lambda text: text.replace(b"\r\n", b"\n") + b"\r\n.\r\n"}, r"\\n"),
    ("8bit", {"body": lambda text: b"\xff" + text + b".\r\n"}, "non-ASCII octets, after MAIL FROM:<"),
)


@pytest.mark.parametrize(
    ("id", "defects", "reason"), VIOLATIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_client_that_violates_an_invariant(id: str, defects: dict[str, object], reason: str) -> None:
    """In one of the two cases, replies are delayed."""
    chosen = requirements("session.order", "pipelining.not-offered", f"habits.{id}")
    good = run_client_cases(simple_client(), chosen).results[-1]
    assert (good.requirement.id, good.outcome) == (f"habits.{id}", Outcome.PASSED), good.reason
    bad = run_client_cases(simple_client(**defects), chosen).results[-1]
    assert bad.outcome is Outcome.FAILED
    assert re.search(r"in \d cases; first in (session.order|pipelining.not-offered): " + reason, bad.reason), bad.reason


def test_every_invariant_can_be_violated() -> None:
    assert {f"habits.{name}" for name, _, _ in VIOLATIONS} == {
        requirement.id for requirement in client_cases() if isinstance(requirement, ClientInvariant)
    }


# --- time limits ------------------------------------------------------------------------------------------------------


async def send_nothing(stream: trio.abc.Stream, request: SendRequest) -> int:
    await trio.sleep_forever()
    return 0


async def close_at_once(stream: trio.abc.Stream, request: SendRequest) -> int:
    return 0


async def send_endless_line(stream: trio.abc.Stream, request: SendRequest) -> int:
    while True:
        await stream.send_all(b"x" * 65536)


async def send_endless_commands(stream: trio.abc.Stream, request: SendRequest) -> int:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, stream)
        try:
            while True:
                await stream.send_all(b"NOOP\r\n")
        except trio.BrokenResourceError:
            return 0
        finally:
            nursery.cancel_scope.cancel()


async def drain(stream: trio.abc.Stream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for _ in stream:
            pass


async def send_endless_message(stream: trio.abc.Stream, request: SendRequest) -> int:
    send = simple_client(body=lambda text: text + b"line\r\n" * 5_000_000)
    return await send(stream, request)


async def send_endless_chunk(stream: trio.abc.Stream, request: SendRequest) -> int:
    return await simple_client(data=[b"BDAT 999999999 LAST\r\n" + bytes(20_000_000)])(stream, request)


async def send_one_octet_a_second(stream: trio.abc.Stream, request: SendRequest) -> int:
    while True:
        await stream.send_all(b"N")
        await trio.sleep(1)


@pytest.mark.parametrize(
    ("send", "reason"),
    [
        (send_nothing, "the client did not end within 30 s"),
        (send_one_octet_a_second, "the client did not end within 30 s"),
        (close_at_once, "expected EHLO"),
        (send_endless_line, "octets without a line end"),
        (send_endless_commands, "received more than 1,000 commands"),
        (send_endless_message, "received more than 16,777,216 octets"),
        (send_endless_chunk, "received more than 16,777,216 octets"),
    ],
)
def test_every_case_ends(send: SendFunction, reason: str) -> None:
    async def robust(stream: trio.abc.Stream, request: SendRequest) -> int:
        try:
            return await send(stream, request)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return 0

    report = run_client_cases(robust, requirements("session.order"))
    (result,) = report.results
    assert result.outcome is Outcome.FAILED
    assert reason in result.reason
    assert report.seconds <= 30


def test_all_cases_end_with_random_commands() -> None:
    """Every case has an outcome within its time limit."""
    chance = random.Random(5321)
    pieces = (
        b"EHLO x\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<a@b>\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"\n",
        b"\xff\0",
        b"AUTH",
        b"STARTTLS\r\n",
        b"BDAT 3\r\nabc",
        b"BDAT x LAST\r\n",
        b"QUIT\r\n",
        b"*\r\n",
        b"AUTH LOGIN\r\n",
        b"\r\n",
    )

    async def send(stream: trio.abc.Stream, request: SendRequest) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, stream)
            try:
                for _ in range(chance.randrange(40)):
                    await stream.send_all(chance.choice(pieces))
                    await trio.sleep(chance.choice((0, 0, 0.01)))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return 1
            finally:
                nursery.cancel_scope.cancel()
        return chance.randrange(2)

    for options in (False, True):
        report = run_client_cases(send, client_cases(), require_tls=options, login=options)
        assert len(report.results) == len(client_cases())
        assert report.count(Outcome.FAILED) > 50
        assert not [result.reason for result in report.results if result.outcome is Outcome.ERROR]


# --- clients that do not connect, and clients without a command -------------------------------------------------------


@define
class ConnectingClient:
    """A client that connects so many times; -1 stands for a command that does not exist."""

    times: int
    takes_requests: bool = True
    code: int | None = 0
    name: str = "a client"
    wait: float = 100.0
    runs: int = 0

    async def run(self, request: SendRequest, serve: Serve) -> ClientExit:
        self.runs += 1
        if self.times < 0:
            raise FileNotFoundError(2, "No such file or directory")
        if not self.times and not self.takes_requests:
            await trio.sleep_forever()
        for _ in range(self.times):
            near, far = bounded_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, far)
                await SimpleClient(stream=near, request=request).run()
                await near.aclose()
        return ClientExit(self.code, b"first\nlast\n")


def run_with(client: ConnectingClient, *ids: str) -> Report:
    return trio.run(
        partial(check_client, client, ClientOptions(), requirements(*ids)),
        clock=trio.testing.MockClock(autojump_threshold=0),
    )


FOUR = ("session.order", "session.quit", "session.ehlo", "session.greeting-554", "session.message", "starttls.order")


def test_no_connection() -> None:
    report = run_with(client := ConnectingClient(0, takes_requests=False), *FOUR)
    reasons = [result.reason for result in report.results if result.outcome is Outcome.ERROR]
    assert reasons == [
        "the client did not connect within 30 s",
        *["the client did not connect; no more cases are tried"] * 3,
    ]
    assert (report.seconds, client.runs) == (130, 1)


def test_command_that_does_not_connect() -> None:
    report = run_with(ConnectingClient(0), *FOUR)
    reasons = [result.reason for result in report.results if result.outcome is Outcome.ERROR]
    assert (
        reasons
        == ["the client ended and did not connect"] * 3 + ["the client did not connect; no more cases are tried"] * 2
    )


def test_command_that_does_not_exist() -> None:
    (result,) = run_with(ConnectingClient(-1), "session.quit").results
    assert (result.outcome, result.reason) == (Outcome.ERROR, "the client cannot be run: No such file or directory")


def test_several_connections() -> None:
    (result,) = run_with(ConnectingClient(2, code=3), "session.order").results
    notes = [entry.data for entry in result.record if entry.side == "-"]
    assert notes[0] == b"connection 1"
    assert b"connection 2" in notes
    assert notes[-3:] == [b"the client ended with 3", b"output: first", b"output: last"]
    (result,) = run_with(ConnectingClient(25), "session.order").results
    assert result.outcome is Outcome.PASSED


def test_client_that_takes_no_requests() -> None:
    report = run_with(ConnectingClient(1, takes_requests=False, code=None), *FOUR, "data.dots")
    assert {result.requirement.id: result.reason for result in report.results} == {
        "session.order": "",
        "session.quit": "",
        "session.ehlo": "",
        "session.greeting-554": "",
        "session.message": "needs --command",
        "data.dots": "needs --command",
        "starttls.order": "needs trustme (pip install 'smtp-trio[testing]')",
    }


def test_every_report_format() -> None:
    report = run_with(ConnectingClient(1, code=3), "session.order", "session.quit", "session.message")
    for name, write in FORMATS.items():
        assert "session.order" in write(report), name


def test_needs_are_known() -> None:
    cases = [requirement for requirement in client_cases() if isinstance(requirement, ClientCase)]
    assert {need for case in cases for need in (*case.needs, *case.skip_if)} == {
        "--command",
        "--require-tls",
        "--login",
        "--slow",
    }
