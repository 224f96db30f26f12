"""Amounts of octets and of time as text."""

from __future__ import annotations

from decimal import Decimal

import pytest

from smtp_trio.protocol.amounts import OCTETS, SECONDS, parse_amount


@pytest.mark.parametrize(
    ("text", "octets"),
    [("0", 0), ("10", 10), ("1k", 1024), ("1.5 KiB", 1536), ("2MB", 2 * 1024**2), (" 1g ", 1024**3), ("1e3", 1000)],
)
def test_octets(text: str, octets: int) -> None:
    assert parse_amount(text, OCTETS, 10**12) == octets


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", "0.5"), ("90", "90"), ("5m", "300"), ("2 min", "120"), ("1H", "3600"), ("1d", "86400")],
)
def test_seconds(text: str, seconds: str) -> None:
    assert parse_amount(text, SECONDS, 10**9) == Decimal(seconds)


@pytest.mark.parametrize(
    "text", ["", "k", "1x", "-1", "1..2", "1e99999999999999999999", "101", "nan", "1 k k", "\u0661"]
)
def test_invalid_amounts(text: str) -> None:
    assert parse_amount(text, OCTETS, 100) is None
