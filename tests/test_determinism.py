"""A test passes in all runs or in none: what it tries does not depend on a random seed."""

from __future__ import annotations

import ast
import importlib
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

TESTS = Path(__file__).parent
#: Other files need not be parsed, which takes most of the time.
WORDS = re.compile(r"hypothesis|_profile|Random|uuid|secrets\.")


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """Return the place, the module or object and name of what is called, and the node, of calls in files with `WORDS`."""
    return tuple(_calls())


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if WORDS.search(text) else ():
            match node:
                case ast.Call(func=ast.Name(name)):
                    pass
                case ast.Call(func=ast.Attribute(ast.Name(owner), attribute)):
                    name = f"{owner}.{attribute}"
                case _:
                    continue
            yield f"{path.relative_to(TESTS)}:{node.lineno}", name, node


explores = pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") == "explore", reason="explores")


@explores
def test_examples_do_not_depend_on_the_modules_that_are_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def examples() -> list[int]:
        found: list[int] = []

        @settings(max_examples=200)
        @given(st.integers())
        def collect(number: int) -> None:
            found.append(number)

        collect()
        return found

    before = examples()
    (tmp_path / "more_numbers.py").write_text(f"NUMBERS = {list(range(10**6, 10**6 + 300))}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("more_numbers")
    assert examples() == before


@explores
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


def test_random_numbers_have_a_seed() -> None:
    unseeded = {"uuid.uuid4", "secrets.token_bytes", "secrets.token_hex", "random.SystemRandom"}
    wrong = [
        f"{place}: {name}"
        for place, name, node in calls()
        if name in unseeded or (name in ("Random", "random.Random") and not node.args)
    ]
    assert wrong == []
