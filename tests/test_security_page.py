"""The page on security names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def missing(page: str) -> list[str]:
    """Return the tests that a page names, as ``file::test``, and that do not exist."""
    named = re.findall(r"``(tests/[\w/.]+)::(\w+)``", page)
    return [f"{file}::{test}" for file, test in named if not has_test(ROOT / file, test)]


def has_test(file: Path, test: str) -> bool:
    """Return whether a file defines a test."""
    return file.is_file() and re.search(rf"^(async )?def {test}\(", file.read_text(), re.MULTILINE) is not None


def test_tests_of_the_defences_exist() -> None:
    page = (ROOT / "docs/security.rst").read_text()
    assert missing(page) == []
    rows = page.partition("   * - Defence\n")[2].partition("\n\n")[0].split("   * - ")[1:]
    assert len(rows) > 30
    assert all("::test_" in row for row in rows)


def test_missing_tests_are_found() -> None:
    here = "tests/test_security_page.py::test_missing_tests_are_found"
    assert missing(f"``{here}`` ``{here}_x`` ``tests/y.py::test_x``") == [f"{here}_x", "tests/y.py::test_x"]
