"""Every case, against our own server in all its shapes."""

from __future__ import annotations

import pytest

from smtp_trio.conform import Case, Level, Outcome, Rule
from smtp_trio.conform._server_cases import CHAPTERS, server_rules, server_titles

from . import ours

pytestmark = pytest.mark.slow  # every case four times, and as good on one Python as on another

#: What no server of ours offers; the cases that need it are for others.
NOT_OURS = {"DSN", "BINARYMIME", "AUTH CRAM-MD5"}


@pytest.mark.parametrize("setting", ours.SETTINGS)
@pytest.mark.parametrize("rule", server_rules(), ids=lambda rule: rule.id)
def test_our_server_conforms(rule: Rule, setting: str) -> None:
    (result,) = [result for result in ours.report(setting).results if result.rule is rule]
    assert result.outcome in (Outcome.PASSED, Outcome.SKIPPED), result.reason


@pytest.mark.parametrize(
    "rule", [rule for rule in server_rules() if not NOT_OURS & set(rule.needs)], ids=lambda rule: rule.id
)
def test_no_case_is_skipped_by_all(rule: Rule) -> None:
    results = [result for name in ours.SETTINGS for result in ours.report(name).results if result.rule is rule]
    assert any(result.outcome is Outcome.PASSED for result in results), {result.reason for result in results}


def test_the_tables_are_in_order() -> None:
    assert len({rule.id for rule in server_rules()}) == len(server_rules())
    assert list(dict.fromkeys(rule.group for rule in server_rules())) == list(CHAPTERS)
    assert all(server_titles().values())
    for rule in server_rules():
        assert rule.section.startswith("RFC "), rule.id
        assert rule.sentence or rule.level is Level.RECOMMENDED, f"{rule.id} demands what nobody has written"
        assert not isinstance(rule, Case) or rule.steps, rule.id


def test_there_are_cases_of_every_level() -> None:
    assert {rule.level for rule in server_rules()} == set(Level)
    assert len(server_rules()) > 300
