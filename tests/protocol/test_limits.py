"""The LIMITS extension (RFC 9422)."""

from __future__ import annotations

import pytest

from smtp_trio.protocol.extensions import STANDARD, LimitsExtension
from smtp_trio.protocol.session_state import SessionState

from .driver import HELLO, ServerDriver


@pytest.mark.parametrize(
    ("extension", "line"),
    [
        (
            LimitsExtension(mail_max=20, rcpt_max=100, rcpt_domain_max=3),
            "LIMITS MAILMAX=20 RCPTMAX=100 RCPTDOMAINMAX=3",
        ),
        (LimitsExtension(rcpt_max=999999), "LIMITS RCPTMAX=999999"),
        (LimitsExtension(mail_max=1), "LIMITS MAILMAX=1"),
    ],
)
def test_ehlo_line_round_trip(extension: LimitsExtension, line: str) -> None:
    assert f"250-{line}" in ServerDriver(extensions=(extension, *STANDARD)).send_lines(HELLO)[1].split("\n")
    assert LimitsExtension().parse_offer(line.split()[1:]) == extension


def test_limits_is_not_offered_without_limits() -> None:
    assert LimitsExtension().advertise(SessionState()) is None
    assert not any(isinstance(extension, LimitsExtension) for extension in STANDARD)


@pytest.mark.parametrize(
    "words",
    [
        ["RCPTMAX"], ["RCPTMAX="], ["RCPTMAX=0"], ["RCPTMAX=-1"], ["RCPTMAX=+5"], ["RCPTMAX=007"], ["RCPTMAX=1000000"],
        ["RCPTMAX=x"], ["RCPTMAX=1_0"], ["RCPTMAX=\u0661"], ["RCPTMAX=5=5"], ["FROMMAX=5"], ["=5"], [],
    ],
)  # fmt: skip
def test_invalid_limits_are_ignored(words: list[str]) -> None:
    assert LimitsExtension().parse_offer([*words, "mailmax=7"]) == LimitsExtension(mail_max=7)


def test_new_ehlo_reply_replaces_limits() -> None:
    """RFC 9422 3: limits may change after STARTTLS or AUTH; the last reply to EHLO counts."""
    assert LimitsExtension(rcpt_max=5, mail_max=5).parse_offer(["MAILMAX=6"]) == LimitsExtension(mail_max=6)


@pytest.mark.parametrize("value", [0, -1, 1000000])
@pytest.mark.parametrize("name", ["mail_max", "rcpt_max", "rcpt_domain_max"])
def test_invalid_limit_is_an_error(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be between 1 and 999999"):
        LimitsExtension(**{name: value})
