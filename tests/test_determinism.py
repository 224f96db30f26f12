"""A test passes in all runs or in none: what it tries does not depend on a random seed."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield the place, the called expression and the node of all calls in the tests."""
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(TESTS)}:{node.lineno}", ast.unparse(node.func), node


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") == "explore", reason="explores")
def test_examples_are_the_same_in_each_run() -> None:
    for each in (settings(), settings(max_examples=3)):
        assert each.derandomize
        assert each.database is None
        assert each.deadline is None
        assert HealthCheck.too_slow in each.suppress_health_check


def test_no_test_sets_how_examples_are_chosen() -> None:
    """The settings that tests/conftest.py loads hold for all tests, and an example that is searched for is always found."""
    fixed = {"derandomize", "database", "deadline"}
    wrong = []
    for place, name, node in calls():
        keywords = {keyword.arg for keyword in node.keywords}
        sets = name.endswith(("load_profile", "register_profile")) or (name.endswith("settings") and keywords & fixed)
        searches = name == "hypothesis.find" and not {"random", "settings"} <= keywords
        if (sets and not place.startswith("conftest.py:")) or searches:
            wrong.append(f"{place}: {name}")
    assert wrong == []
