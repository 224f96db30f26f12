"""Every case for servers, with several configurations of `smtp_trio.Server`."""

from __future__ import annotations

import pytest

from smtp_trio.conform import Case, Level, Outcome, Requirement, server_cases
from smtp_trio.conform._server_cases import CHAPTERS, server_titles

from . import our_servers

pytestmark = pytest.mark.exhaustive  # every case four times; one Python version is enough

#: Extensions that `smtp_trio.Server` does not offer.
NOT_OFFERED = {"EXPN", "VRFY"}
STRICT = ("strict", "services", "lmtp")


@pytest.mark.parametrize("name", our_servers.CONFIGURATIONS)
@pytest.mark.parametrize("requirement", server_cases(), ids=lambda requirement: requirement.id)
def test_our_server_conforms(requirement: Requirement, name: str) -> None:
    """By default it fails the cases about documented deviations, and no other. A strict one fails none."""
    (result,) = [result for result in our_servers.report(name).results if result.requirement is requirement]
    deviates = requirement.id in our_servers.DEVIATIONS and name not in STRICT
    assert result.outcome in (Outcome.FAILED if deviates else Outcome.PASSED, Outcome.SKIPPED), result.reason


@pytest.mark.parametrize(
    "requirement",
    [requirement for requirement in server_cases() if not NOT_OFFERED & set(requirement.needs)],
    ids=lambda requirement: requirement.id,
)
def test_every_case_is_tried_once(requirement: Requirement) -> None:
    results = [
        result
        for name in our_servers.CONFIGURATIONS
        for result in our_servers.report(name).results
        if result.requirement is requirement
    ]
    assert any(result.outcome is Outcome.PASSED for result in results), {result.reason for result in results}


def test_cases_are_complete() -> None:
    assert len({requirement.id for requirement in server_cases()}) == len(server_cases())
    assert list(dict.fromkeys(requirement.group for requirement in server_cases())) == list(CHAPTERS)
    assert all(server_titles().values())
    for requirement in server_cases():
        assert requirement.section.startswith("RFC "), requirement.id
        assert requirement.sentence or requirement.level is Level.RECOMMENDED, f"{requirement.id} needs a sentence"
        assert not isinstance(requirement, Case) or requirement.steps, requirement.id


def test_there_are_cases_of_every_level() -> None:
    assert {requirement.level for requirement in server_cases()} == set(Level)
    assert len(server_cases()) > 300
