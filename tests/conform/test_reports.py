"""The exact text of the reports."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree

import pytest
from attrs import evolve

from smtp_trio.conform import (
    Case,
    Level,
    Outcome,
    Report,
    Result,
    TextReport,
    as_json,
    junit,
    tap,
)
from smtp_trio.conform._connection import RecordEntry


def case(id: str, level: Level = Level.MUST) -> Case:
    return Case(
        id=id,
        title=f"a title of {id}",
        section="RFC 5321 4.2",
        sentence='Every command MUST generate "exactly" one <reply>.',
        level=level,
        steps=(),
    )


def entry(side: str, data: bytes) -> RecordEntry:
    return RecordEntry(side, data, len(data))


RECORD = (
    entry("S", b"220 mx.test\r\n"),
    entry("C", b"NOOP\x1b\r\n"),
    RecordEntry("S", b"500-<no>\r\n500 \xff", 5000),
    entry("-", b"the peer closed the connection"),
)
REPORT = Report(
    subject="mx.test:25",
    greeting="220 mx.test",
    extensions={"SIZE": "1000"},
    tls_extensions={"SIZE": "2000"},
    results=[
        Result(requirement=case("one.passed"), outcome=Outcome.PASSED, seconds=0.25),
        Result(
            requirement=case("one.failed", Level.SHOULD),
            outcome=Outcome.FAILED,
            reason="expected 250, got 500: <no> & \x01",
            record=RECORD,
            seconds=0.5,
        ),
        Result(requirement=case("two.skipped"), outcome=Outcome.SKIPPED, reason="SIZE is not offered"),
        Result(
            requirement=case("two.error"), outcome=Outcome.ERROR, reason="the server refuses the session", seconds=3.5
        ),
    ],
    seconds=4.25,
)

TAP = r"""TAP version 13
1..4
ok 1 - one.passed: a title of one.passed
not ok 2 - one.failed: a title of one.failed
  ---
  outcome: failed
  level: SHOULD
  message: "expected 250, got 500: <no> & \u0001"
  section: "RFC 5321 4.2"
  sentence: "Every command MUST generate \"exactly\" one <reply>."
  conversation:
    - "S: 220 mx.test"
    - "C: NOOP\\x1b"
    - "S: 500-<no>"
    - "S: 500 \\xff"
    - "S: ... 4,985 more octets"
    - "-: the peer closed the connection"
  ...
ok 3 - two.skipped: a title of two.skipped # SKIP SIZE is not offered
not ok 4 - two.error: a title of two.error
  ---
  outcome: error
  level: MUST
  message: "the server refuses the session"
  section: "RFC 5321 4.2"
  sentence: "Every command MUST generate \"exactly\" one <reply>."
  conversation:
  ...
"""
JUNIT = r"""<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="smtp-trio conform mx.test:25" tests="4" failures="1" errors="1" skipped="1" time="4.250">
  <testsuite name="one" tests="2" failures="1" errors="0" skipped="0" time="0.750">
    <testcase classname="smtp.one" name="one.passed: a title of one.passed" time="0.250"/>
    <testcase classname="smtp.one" name="one.failed: a title of one.failed" time="0.500">
      <failure type="SHOULD" message="expected 250, got 500: &lt;no&gt; &amp; ?">expected 250, got 500: &lt;no&gt; &amp; ?
RFC 5321 4.2 (SHOULD): "Every command MUST generate "exactly" one &lt;reply&gt;."
S: 220 mx.test
C: NOOP\x1b
S: 500-&lt;no&gt;
S: 500 \xff
S: ... 4,985 more octets
-: the peer closed the connection</failure>
    </testcase>
  </testsuite>
  <testsuite name="two" tests="2" failures="0" errors="1" skipped="1" time="3.500">
    <testcase classname="smtp.two" name="two.skipped: a title of two.skipped" time="0.000">
      <skipped message="SIZE is not offered"/>
    </testcase>
    <testcase classname="smtp.two" name="two.error: a title of two.error" time="3.500">
      <error type="MUST" message="the server refuses the session">the server refuses the session
RFC 5321 4.2 (MUST): "Every command MUST generate "exactly" one &lt;reply&gt;."</error>
    </testcase>
  </testsuite>
</testsuites>
"""
TEXT = (
    r"""
First
   ok  one.passed: a title of one.passed
 FAIL  one.failed: a title of one.failed
       expected 250, got 500: <no> & """
    + "\x01"
    + r"""
       RFC 5321 4.2 (SHOULD): "Every command MUST generate "exactly" one <reply>."
       S: 220 mx.test
       C: NOOP\x1b
       S: 500-<no>
       S: 500 \xff
       S: ... 4,985 more octets
       -: the peer closed the connection


two
 skip  two.skipped: a title of two.skipped (SIZE is not offered)
ERROR  two.error: a title of two.error
       the server refuses the session
       RFC 5321 4.2 (MUST): "Every command MUST generate "exactly" one <reply>."


Not passed
 FAIL  one.failed: a title of one.failed
ERROR  two.error: a title of two.error

mx.test:25: 1 passed, 1 failed (1 SHOULD), 1 skipped, 1 could not be tried, in 4.2 s
"""
)


def test_tap() -> None:
    assert tap(REPORT) == TAP


def test_junit() -> None:
    assert junit(REPORT) == JUNIT
    ElementTree.fromstring(JUNIT)


def test_json() -> None:
    report = json.loads(as_json(REPORT))
    assert {key: value for key, value in report.items() if key != "results"} == {
        "server": "mx.test:25",
        "greeting": "220 mx.test",
        "extensions": {"SIZE": "1000"},
        "extensions_inside_tls": {"SIZE": "2000"},
        "seconds": 4.25,
        "count": {"passed": 1, "failed": 1, "skipped": 1, "error": 1},
    }
    assert report["results"][1] == {
        "id": "one.failed",
        "title": "a title of one.failed",
        "section": "RFC 5321 4.2",
        "sentence": 'Every command MUST generate "exactly" one <reply>.',
        "level": "SHOULD",
        "outcome": "failed",
        "reason": "expected 250, got 500: <no> & \x01",
        "seconds": 0.5,
        "conversation": [
            "S: 220 mx.test",
            "C: NOOP\\x1b",
            "S: 500-<no>",
            "S: 500 \\xff",
            "S: ... 4,985 more octets",
            "-: the peer closed the connection",
        ],
    }
    assert [result["outcome"] for result in report["results"]] == ["passed", "failed", "skipped", "error"]


def write(colour: bool = False, quiet: bool = False, report: Report = REPORT) -> str:
    out = io.StringIO()
    text = TextReport(out, colour=colour, titles={"one": "First"}, quiet=quiet)
    for result in report.results:
        text.add(result)
    text.end(report)
    return out.getvalue()


def test_text() -> None:
    assert write() == TEXT


def test_quiet_text_has_no_successful_cases_and_no_list() -> None:
    without = [line for line in TEXT.splitlines() if not line.startswith(("   ok ", " skip "))]
    begin = without.index("Not passed")
    assert write(quiet=True).splitlines() == without[: begin - 1] + without[begin + 3 :]


def test_list_of_cases_that_have_not_passed_is_left_out_if_it_is_empty() -> None:
    report = evolve(REPORT, results=[result for result in REPORT.results if result.outcome is Outcome.PASSED])
    assert "Not passed" not in write(report=report)
    assert write(quiet=True, report=report) == "\nmx.test:25: 1 passed, 0 failed, 0 skipped, in 4.2 s\n"


def test_colours() -> None:
    coloured = write(colour=True)
    assert "\033[31;1m FAIL\033[0m" in coloured
    for code in ("31;1", "32", "2", "35;1", "1", "0"):
        coloured = coloured.replace(f"\033[{code}m", "")
    assert coloured == TEXT


@pytest.mark.parametrize("format", [tap, junit, as_json])
def test_control_characters_are_escaped(format: object) -> None:
    assert callable(format)
    assert not set(format(REPORT)) & {chr(number) for number in range(32) if number != 10}
