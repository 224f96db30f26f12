"""The report for programs: TAP, JUnit XML and JSON. Each function returns the whole text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from ._report import Outcome, Report, Result
from ._text_report import details, record_lines

#: Characters that XML 1.0 does not allow, not even as references.
INVALID_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def tap(report: Report) -> str:
    """Return the report in TAP version 13 (https://testanything.org).

    Skipped cases have the reason, and failed ones a YAML block with the details.
    """
    lines = ["TAP version 13", f"1..{len(report.results)}"]
    for number, result in enumerate(report.results, 1):
        requirement = result.requirement
        title = f"{number} - {requirement.id}: {requirement.title}".replace("#", "\\#")
        if result.outcome is Outcome.SKIPPED:
            lines.append(f"ok {title} # SKIP {result.reason}")
        elif result.outcome is Outcome.PASSED:
            lines.append(f"ok {title}")
        else:
            lines += [
                f"not ok {title}",
                "  ---",
                f"  outcome: {result.outcome.value}",
                f"  level: {requirement.level.name}",
            ]
            # JSON strings are valid YAML.
            lines += [f"  message: {json.dumps(result.reason)}", f"  section: {json.dumps(requirement.section)}"]
            lines += [f"  sentence: {json.dumps(requirement.sentence)}", "  conversation:"]
            lines += [f"    - {json.dumps(line)}" for line in record_lines(result.record)]
            lines += ["  ..."]
    return "\n".join(lines) + "\n"


def junit(report: Report) -> str:
    """Return the report in the XML of JUnit, which CI systems read: one test suite for each chapter."""
    suites: dict[str, list[Result]] = {}
    for result in report.results:
        suites.setdefault(result.requirement.group, []).append(result)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines += [f"<testsuites name={_attribute('smtp-trio conform ' + report.subject)} {_counts(report.results)}>"]
    for group, results in suites.items():
        lines.append(f"  <testsuite name={_attribute(group)} {_counts(results)}>")
        for result in results:
            requirement = result.requirement
            head = (
                f"    <testcase classname={_attribute(f'smtp.{group}')} name={_attribute(f'{requirement.id}: {requirement.title}')} "
                f'time="{result.seconds:.3f}"'
            )
            lines += (
                [f"{head}/>"] if result.outcome is Outcome.PASSED else [f"{head}>", _child(result), "    </testcase>"]
            )
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def _counts(results: Sequence[Result]) -> str:
    count = {outcome: sum(each.outcome is outcome for each in results) for outcome in Outcome}
    seconds = sum(each.seconds for each in results)
    return (
        f'tests="{len(results)}" failures="{count[Outcome.FAILED]}" errors="{count[Outcome.ERROR]}" '
        f'skipped="{count[Outcome.SKIPPED]}" time="{seconds:.3f}"'
    )


def _child(result: Result) -> str:
    if result.outcome is Outcome.SKIPPED:
        return f"      <skipped message={_attribute(result.reason)}/>"
    element = "failure" if result.outcome is Outcome.FAILED else "error"
    text = escape(INVALID_IN_XML.sub("?", "\n".join(details(result))))
    kind = _attribute(result.requirement.level.name)
    return f"      <{element} type={kind} message={_attribute(result.reason)}>{text}</{element}>"


def _attribute(text: str) -> str:
    return quoteattr(INVALID_IN_XML.sub("?", text))


def as_json(report: Report) -> str:
    """Return the report as one JSON object: the server, what it offers, and all results."""
    count = {outcome.value: report.count(outcome) for outcome in Outcome}
    whole = {
        "server": report.subject,
        "greeting": report.greeting,
        "extensions": dict(report.extensions) if report.extensions is not None else None,
        "extensions_inside_tls": dict(report.tls_extensions) if report.tls_extensions is not None else None,
        "seconds": round(report.seconds, 3),
        "count": count,
        "results": [_as_object(result) for result in report.results],
    }
    return json.dumps(whole, indent=2) + "\n"


def _as_object(result: Result) -> Mapping[str, object]:
    requirement = result.requirement
    return {
        "id": requirement.id,
        "title": requirement.title,
        "section": requirement.section,
        "sentence": requirement.sentence,
        "level": requirement.level.name,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "seconds": round(result.seconds, 3),
        "conversation": record_lines(result.record),
    }


FORMATS: Mapping[str, Callable[[Report], str]] = {"tap": tap, "junit": junit, "json": as_json}
