"""Every scene, played to our own client in all its shapes; and clients that are wrong in one way each."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing
from attrs import define

from smtp_trio.conform import Outcome, Report, Result, Rule
from smtp_trio.conform._client_cases import CHAPTERS, client_rules, client_titles
from smtp_trio.conform._client_runner import Stage, play
from smtp_trio.conform._formats import FORMATS
from smtp_trio.conform._scene import Ending, Habit, Scene
from smtp_trio.conform._subject import Errand, Serve
from smtp_trio.conform._text import details
from smtp_trio.conform._visit import Setting
from smtp_trio.testing import bounded_stream_pair

from . import clients
from .clients import Naive, Talk, naive, played

pytestmark = pytest.mark.slow  # every scene five times, and as good on one Python as on another

SHAPES = ("plain", "opportunistic", "login", "required", "submission")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", client_rules(), ids=lambda rule: rule.id)
def test_our_client_conforms(rule: Rule, shape: str) -> None:
    (result,) = [result for result in clients.report(shape).results if result.rule is rule]
    assert result.outcome in (Outcome.PASSED, Outcome.SKIPPED), "\n".join(details(result))


@pytest.mark.parametrize("rule", client_rules(), ids=lambda rule: rule.id)
def test_no_scene_is_skipped_by_all(rule: Rule) -> None:
    results = [result for shape in SHAPES for result in clients.report(shape).results if result.rule is rule]
    assert any(result.outcome is Outcome.PASSED for result in results), {result.reason for result in results}


def test_the_tables_are_in_order() -> None:
    assert len({rule.id for rule in client_rules()}) == len(client_rules()) > 300
    assert list(dict.fromkeys(rule.group for rule in client_rules())) == list(CHAPTERS)
    assert all(client_titles().values())
    for rule in client_rules():
        assert rule.section.startswith("RFC "), rule.id
        assert rule.sentence or rule.level.name == "RECOMMENDED", f"{rule.id} demands what nobody has written"


# --- clients that are wrong -------------------------------------------------------------------------------------------


def rules(*ids: str) -> list[Rule]:
    return [rule for rule in client_rules() if rule.id in ids]


def one(talk: Talk, id: str) -> Result:
    (result,) = played(talk, rules(id)).results
    return result


def as_it_is(text: bytes) -> bytes:
    return text + b".\r\n"


#: A scene, what is wrong with the client that meets it, and what is said of that.
WRONG: tuple[tuple[str, dict[str, object], str], ...] = (
    ("session.order", {"mail": b"NOOP"}, "no message was sent to its end|EHLO or HELO, then MAIL"),
    ("session.order", {"code": 1}, "the client ended with 1: it says that it could not send"),
    ("session.ehlo", {"hello": [b"HELO client.test"]}, "EHLO was due, and was not said"),
    ("session.ehlo", {"hello": [b"HELO client.test", b"EHLO client.test"]}, "this was said: HELO"),
    ("session.quit", {"quits": ()}, "the client has closed without QUIT"),
    ("session.quit", {"quits": (b"QUIT", b"NOOP")}, "this was said after QUIT: NOOP"),
    ("session.greeting-waits", {"early": b"NOOP\r\n"}, "this was sent before GREETING was answered: NOOP"),
    ("session.message", {"body": lambda text: text.upper() + b".\r\n"}, "this was sent: ONE LINE"),
    ("session.helo-500", {}, "EHLO, then HELO, then MAIL, then RCPT, then DATA was due"),
    (
        "session.helo-no-parameters",
        {"mail": b"MAIL FROM:<%b> SIZE=1", "believes": True},
        "this was said: MAIL FROM:.*SIZE",
    ),
    ("session.greeting-554", {"believes": True}, "this was said after GREETING was answered: EHLO"),
    ("replies.space-data", {"code": 70}, "the client ended with 70"),
    ("replies.intermediate-mail", {}, "this was said: DATA"),
    ("refusals.mail-550", {"believes": True}, "the client ended with 0: it says that the message was sent"),
    ("refusals.mail-550", {"believes": True, "code": 1}, "this was said: (RCPT|DATA)"),
    ("refusals.data-250", {}, "this was said: From:"),
    ("refusals.body-451", {"believes": True}, "the client ended with 0"),
    ("lost.closed-body", {"believes": True}, "the client ended with 0"),
    ("lost.torn-body", {"code": 0}, "the client ended with 0"),
    ("data.dots", {"body": as_it_is}, "this was sent: |500"),
    ("data.dot-alone", {"body": as_it_is}, "this was sent: nothing|this was sent"),
    ("data.bare-lf", {"body": lambda text: text + b".\r\n"}, "a bare CR or LF was sent: "),
    ("data.large", {"body": lambda text: text[:-1000] + b"\r\n.\r\n"}, "this was sent: ... 0123"),
    ("pipelining.not-offered", {"ahead": True}, "this was sent before EHLO was answered"),
    ("pipelining.data", {"data": [b"DATA\r\nSubject: no"]}, "this was sent before DATA was answered: Subject: no"),
    ("pipelining.rcpt-data", {"believes": True, "code": 1}, "a message was sent: From: "),
    ("size.too-small", {}, "a message was sent: From: "),
    ("encoding.7bit", {}, r"non-ASCII octets were sent: \\xc3"),
    ("encoding.8bit", {}, r"the message needs BODY=\(8BITMIME\|BINARYMIME\), and came with MAIL FROM:<[^>]+>\\r"),
    ("encoding.utf8-rcpt", {}, r"this was said: RCPT TO:<j\\xc3"),
    ("auth.challenge", {"hello": (b"EHLO client.test", b"AUTH PLAIN", b"AGFh"), "believes": True}, r"\* was due"),
    (
        "auth.clear",
        {"hello": (b"EHLO client.test", b"AUTH PLAIN AGFhAGJi"), "believes": True},
        "this was said in clear: AUTH",
    ),
    ("starttls.stripped", {}, "this was said in clear: MAIL"),
    ("danger.smuggle-lf-crlf", {}, "a bare CR or LF was sent"),
    ("danger.smuggle-crlf-crlf", {"body": as_it_is}, "this was said: MAIL FROM:<evil"),
    ("danger.inject-to-crlf", {}, "this was said: RCPT TO:<evil"),
)


@pytest.mark.parametrize(("id", "flaws", "reason"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_client_that_is_wrong(id: str, flaws: dict[str, object], reason: str) -> None:
    setting = Setting(require_tls="--require-tls" in needs(id), login="--login" in needs(id))
    (result,) = played(naive(**flaws), rules(id), setting=setting).results
    assert result.outcome is Outcome.FAILED, result
    assert re.search(reason, result.reason), result.reason
    assert any(entry.side == "-" and b"the client ended with" in entry.data for entry in result.record)


def needs(id: str) -> tuple[str, ...]:
    return tuple(rules(id)[0].needs)


#: A habit, and what a client has that does not keep to it.
BAD_HABITS: tuple[tuple[str, dict[str, object], str], ...] = (
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
    ("nested", {"hello": [b"EHLO client.test", b"DATA"], "believes": True}, "DATA"),
    ("nested", {"mail": b"NOOP"}, "RCPT"),
    ("waits", {"ahead": True}, "behind .*, which was not answered: "),
    ("bare", {"body": lambda text: text.replace(b"\r\n", b"\n") + b"\r\n.\r\n"}, r"\\n"),
    ("8bit", {"body": lambda text: b"\xff" + text + b".\r\n"}, "octets outside of ASCII, after MAIL FROM:<"),
)


@pytest.mark.parametrize(
    ("id", "flaws", "reason"), BAD_HABITS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_client_with_a_bad_habit(id: str, flaws: dict[str, object], reason: str) -> None:
    """Heard in two scenes: in one of them each command waits a while for its answer."""
    played_to = rules("session.order", "pipelining.not-offered", f"habits.{id}")
    good = played(naive(), played_to).results[-1]
    assert (good.rule.id, good.outcome) == (f"habits.{id}", Outcome.PASSED), good.reason
    bad = played(naive(**flaws), played_to).results[-1]
    assert bad.outcome is Outcome.FAILED
    assert re.search(r"in \d scenes; first in (session.order|pipelining.not-offered): " + reason, bad.reason), (
        bad.reason
    )


def test_every_habit_can_be_bad() -> None:
    assert {f"habits.{name}" for name, _, _ in BAD_HABITS} == {
        rule.id for rule in client_rules() if isinstance(rule, Habit)
    }


# --- whatever the client does, it ends ---------------------------------------------------------------------------------


async def silent(stream: trio.abc.Stream, errand: Errand) -> int:
    await trio.sleep_forever()
    return 0


async def gone(stream: trio.abc.Stream, errand: Errand) -> int:
    return 0


async def flood(stream: trio.abc.Stream, errand: Errand) -> int:
    while True:
        await stream.send_all(b"x" * 65536)


async def commands(stream: trio.abc.Stream, errand: Errand) -> int:
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


async def endless_message(stream: trio.abc.Stream, errand: Errand) -> int:
    talk = naive(body=lambda text: text + b"line\r\n" * 5_000_000)
    return await talk(stream, errand)


async def endless_chunk(stream: trio.abc.Stream, errand: Errand) -> int:
    return await naive(data=[b"BDAT 999999999 LAST\r\n" + bytes(20_000_000)])(stream, errand)


async def trickle(stream: trio.abc.Stream, errand: Errand) -> int:
    while True:
        await stream.send_all(b"N")
        await trio.sleep(1)


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (silent, "the client was still there after 30 s"),
        (trickle, "the client was still there after 30 s"),
        (gone, "was due, and was not said"),
        (flood, "octets without the end of a line"),
        (commands, "more than 1,000 commands"),
        (endless_message, "more than 16,777,216 octets came"),
        (endless_chunk, "more than 16,777,216 octets came"),
    ],
)
def test_it_ends(talk: Talk, reason: str) -> None:
    async def robust(stream: trio.abc.Stream, errand: Errand) -> int:
        try:
            return await talk(stream, errand)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return 0

    report = played(robust, rules("session.order"))
    (result,) = report.results
    assert result.outcome is Outcome.FAILED
    assert reason in result.reason
    assert report.seconds <= 30


def test_any_garbage() -> None:
    """A client that says whatever: all scenes end, each with an outcome, in the time that they have."""
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

    async def talk(stream: trio.abc.Stream, errand: Errand) -> int:
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

    for setting in (clients.NOTHING, Setting(require_tls=True, login=True)):
        report = played(talk, client_rules(), setting=setting)
        assert len(report.results) == len(client_rules())
        assert report.count(Outcome.FAILED) > 50
        assert not [result.reason for result in report.results if result.outcome is Outcome.ERROR]


# --- who does not come, and who cannot be asked -----------------------------------------------------------------------


@define
class Other:
    """A subject that comes as often as it is told."""

    times: int
    asks: bool = True
    code: int | None = 0
    name: str = "somebody"
    wait: float = 100.0
    runs: int = 0

    async def run(self, errand: Errand, serve: Serve) -> Ending:
        self.runs += 1
        if self.times < 0:
            raise FileNotFoundError(2, "No such file or directory")
        if not self.times and not self.asks:
            await trio.sleep_forever()
        for _ in range(self.times):
            near, far = bounded_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, far)
                await Naive(stream=near, errand=errand).run()
                await near.aclose()
        return Ending(self.code, b"first\nlast\n")


def with_subject(subject: Other, *ids: str) -> Report:
    return trio.run(partial(play, subject, Stage(), rules(*ids)), clock=trio.testing.MockClock(autojump_threshold=0))


FOUR = ("session.order", "session.quit", "session.ehlo", "session.greeting-554", "session.message", "starttls.order")


def test_nobody_comes() -> None:
    report = with_subject(silent_one := Other(0, asks=False), *FOUR)
    reasons = [result.reason for result in report.results if result.outcome is Outcome.ERROR]
    assert reasons == ["the client did not come within 30 s", *["the client did not come; no more are tried"] * 3]
    assert (report.seconds, silent_one.runs) == (130, 1)


def test_a_command_that_does_not_connect() -> None:
    report = with_subject(Other(0), *FOUR)
    reasons = [result.reason for result in report.results if result.outcome is Outcome.ERROR]
    assert reasons == ["the client ended and did not connect"] * 3 + ["the client did not come; no more are tried"] * 2


def test_a_command_that_is_not_there() -> None:
    (result,) = with_subject(Other(-1), "session.quit").results
    assert (result.outcome, result.reason) == (Outcome.ERROR, "it cannot be run: No such file or directory")


def test_it_comes_several_times() -> None:
    (result,) = with_subject(Other(2, code=3), "session.order").results
    notes = [entry.data for entry in result.record if entry.side == "-"]
    assert notes[0] == b"connection 1"
    assert b"connection 2" in notes
    assert notes[-3:] == [b"the client ended with 3", b"it wrote: first", b"it wrote: last"]
    (result,) = with_subject(Other(25), "session.order").results
    assert result.outcome is Outcome.PASSED


def test_without_a_command_the_wire_is_judged_alone() -> None:
    report = with_subject(Other(1, asks=False, code=None), *FOUR, "data.dots")
    assert {result.rule.id: result.reason for result in report.results} == {
        "session.order": "",
        "session.quit": "",
        "session.ehlo": "",
        "session.greeting-554": "",
        "session.message": "needs --command",
        "data.dots": "needs --command",
        "starttls.order": "needs trustme (pip install 'smtp-trio[testing]')",
    }


def test_every_format_can_tell_it() -> None:
    report = with_subject(Other(1, code=3), "session.order", "session.quit", "session.message")
    for name, write in FORMATS.items():
        assert "session.order" in write(report), name


def test_a_scene_needs_what_it_needs() -> None:
    scenes = [rule for rule in client_rules() if isinstance(rule, Scene)]
    assert {need for scene in scenes for need in (*scene.needs, *scene.lacks)} == {
        "--command",
        "--require-tls",
        "--login",
        "--slow",
    }
