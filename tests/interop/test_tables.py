"""The published tables belong to the published reports, and count what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import tables

DATA = json.loads((tables.DOCS / "conformance.json").read_text())


def test_page_has_the_tables_of_the_data() -> None:
    assert (tables.DOCS / "conformance.inc").read_text() == tables.tables(DATA)
    assert list(DATA["servers"]) == list(tables.RUNS)


@pytest.mark.parametrize("name", tables.RUNS)
def test_report_has_the_failures_of_the_data(name: str) -> None:
    report = json.loads((tables.REPORTS / f"{name}.json").read_text())
    failed = [result for result in report["results"] if result["outcome"] == "failed"]
    by_level = {level: [each["id"] for each in failed if each["level"] == level] for level in tables.LEVELS}
    assert by_level == DATA["servers"][name]["failed"]
    assert tables.causes([each["id"] for each in failed]) == DATA["servers"][name]["causes"]
    assert all(each["conversation"] for each in failed)


@pytest.mark.parametrize(
    ("level", "sentence", "column"),
    [
        ("MUST", "Servers MUST NOT do this", "MUST, by its word"),
        ("MUST", "it will return code 555", "MUST, by grammar"),
        ("MUST", "These codes must appear", "MUST, by grammar"),
        ("SHOULD", "SMTP servers SHOULD do this", "SHOULD, by its word"),
        ("SHOULD", "A client MUST NOT do this", "SHOULD, by grammar"),
        ("RECOMMENDED", "A server MUST do something like this", "RECOMMENDED"),
    ],
)
def test_column_of_a_failure(level: str, sentence: str, column: str) -> None:
    result = {"id": "test.case", "level": level, "sentence": sentence, "outcome": "failed"}
    report = {"results": [result, {**result, "outcome": "skipped"}], "count": {}}
    columns = tables.summary(tables.RUNS["exim"], report, "4.96")["columns"]
    assert {title: each for title, each in columns.items() if each != [0, 0]} == {column: [1, 1]}


def test_failures_with_the_same_cause() -> None:
    assert tables.causes(["danger.smuggle-lf-dot-lf", "danger.smuggle-first-line", "syntax.end-lf"]) == 2


def test_published_results_of_a_postfix_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "POSTFIX", tmp_path)
    assert all(map(tables.is_available, tables.RUNS.values()))
    monkeypatch.setattr(tables, "POSTFIX", tmp_path / "missing")
    assert [name for name, run in tables.RUNS.items() if not tables.is_available(run)] == ["postfix"]


def test_results_of_another_date() -> None:
    server = {**DATA["servers"]["postfix"], "date": "2026-01-02", "version": "3.10"}
    assert "     - 3.10 (measured on 2026-01-02)" in tables.table({"postfix": server}, "2026-03-04")
    assert "     - 3.10" in tables.table({"postfix": server}, "2026-01-02")
