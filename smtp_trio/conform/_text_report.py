"""The report for people: a line for each case, and the details of failed ones."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from attrs import define, field

from ._case import Level
from ._connection import RecordEntry, show
from ._report import ADVICE, Outcome, Report, Result

WIDTH = 110
SHOWN_LINES = 14
"""Lines of a record that are shown from its beginning, and from its end."""
MARKS = {Outcome.PASSED: "ok", Outcome.FAILED: "FAIL", Outcome.SKIPPED: "skip", Outcome.ERROR: "ERROR"}
UNSUCCESSFUL = (Outcome.FAILED, Outcome.ERROR)
COLOURS = {Outcome.PASSED: "32", Outcome.FAILED: "31;1", Outcome.SKIPPED: "2", Outcome.ERROR: "35;1"}


@define
class TextReport:
    """Writes results to a file as they arrive, and those that failed once more at the end.

    With ``quiet``, only cases that failed or could not be tried are written, with their details, and the summary.
    """

    out: TextIO
    colour: bool = False
    titles: Mapping[str, str] = field(factory=dict)
    """The titles of the chapters."""
    quiet: bool = False
    _group: str = ""

    def add(self, result: Result) -> None:
        """Write a result, after the title of its chapter if it is the first one there."""
        unsuccessful = result.outcome in UNSUCCESSFUL
        if self.quiet and not unsuccessful:
            return
        requirement = result.requirement
        if requirement.group != self._group:
            self._group = requirement.group
            self._write("\n" + self._paint("1", self.titles.get(requirement.group, requirement.group)))
        self._write(self._line(result))
        if unsuccessful:
            self._write("\n".join(f"       {line}" for line in details(result)) + "\n")

    def end(self, report: Report) -> None:
        """Write the cases that failed or could not be tried once more, unless `quiet`, and the summary."""
        unsuccessful = [result for result in report.results if result.outcome in UNSUCCESSFUL]
        if unsuccessful and not self.quiet:
            self._write("\n" + self._paint("1", "Not passed"))
            for result in unsuccessful:
                self._write(self._line(result))
        if report.refusal:
            self._write("\n" + textwrap.fill(f"{report.refusal[0].upper()}{report.refusal[1:]}", WIDTH))
        if (limited := report.rate_limited) is not None:
            note = f"{limited.reason[0].upper()}{limited.reason[1:]} (first in {limited.requirement.id}). {ADVICE.capitalize()}."
            self._write("\n" + textwrap.fill(note, WIDTH))
        self._write("\n" + summary(report))

    def _line(self, result: Result) -> str:
        requirement = result.requirement
        mark = self._paint(COLOURS[result.outcome], f"{MARKS[result.outcome]:>5}")
        text = f"{requirement.id}: {requirement.title}"
        return (
            f"{mark}  {self._paint('2', f'{text} ({result.reason})')}"
            if result.outcome is Outcome.SKIPPED
            else f"{mark}  {text}"
        )

    def _paint(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self.colour else text

    def _write(self, text: str) -> None:
        self.out.write(text + "\n")
        self.out.flush()


def summary(report: Report) -> str:
    """Return one line with the number of cases that passed, failed and were skipped."""
    failed = [result.requirement.level for result in report.results if result.outcome is Outcome.FAILED]
    levels = ", ".join(f"{failed.count(level)} {level.name}" for level in Level if level in failed)
    parts = [f"{report.count(Outcome.PASSED)} passed"]
    parts += [f"{len(failed)} failed ({levels})" if failed else "0 failed"]
    parts += [f"{report.count(Outcome.SKIPPED)} skipped"]
    if errors := report.count(Outcome.ERROR):
        parts += [f"{errors} could not be tried"]
    return f"{report.subject}: {', '.join(parts)}, in {report.seconds:.1f} s"


def details(result: Result) -> Iterator[str]:
    """Yield the reason, the sentence of the RFC and the record."""
    yield from textwrap.wrap(result.reason, WIDTH) or [""]
    requirement = result.requirement
    quoted = (
        f'{requirement.section} ({requirement.level.name}): "{requirement.sentence}"'
        if requirement.sentence
        else requirement.section
    )
    yield from textwrap.wrap(quoted, WIDTH)
    yield from record_lines(result.record)


def record_lines(record: Sequence[RecordEntry]) -> list[str]:
    """Return a record as lines. Of a long one, lines in the middle are omitted."""
    lines = []
    for entry in record:
        # Only CRLF divides octets into lines. It is not shown.
        pieces = entry.data.removesuffix(b"\r\n").split(b"\r\n") if entry.side != "-" else [entry.data]
        lines += [f"{entry.side}: {show(piece)}" for piece in pieces]
        if entry.length > len(entry.data):
            lines.append(f"{entry.side}: ... {entry.length - len(entry.data):,} more octets")
    if len(lines) > 2 * SHOWN_LINES:
        lines[SHOWN_LINES:-SHOWN_LINES] = [f"... {len(lines) - 2 * SHOWN_LINES} more lines"]
    return lines
