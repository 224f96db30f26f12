"""The plots of the status view."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from smtp_trio.web._plot import BOTTOM, HEIGHT, LEFT, OTHERS, RIGHT, TOP, WIDTH, Plot, rounded_up


def plot(*counts: dict[str, int]) -> Plot:
    first = datetime(2026, 11, 29, 5, 0, tzinfo=UTC)
    return Plot.of([{"time": (first + timedelta(minutes=n)).isoformat()} for n in range(len(counts))], counts)


@pytest.mark.parametrize(("value", "top"), [(0, 2), (2, 2), (3, 4), (5, 10), (11, 20), (21, 40), (99, 100), (101, 200)])
def test_top_of_the_axis(value: int, top: int) -> None:
    assert rounded_up(value) == top


def test_bars_are_stacked_and_within_the_plot() -> None:
    drawn = plot(*[{"rcpt 550": 3, "mail 450": 1} if n % 2 else {"rcpt 550": n} for n in range(60)])
    assert drawn.totals == {"rcpt 550": sum(range(0, 60, 2)) + 90, "mail 450": 30}
    for bar in drawn.bars:
        assert LEFT <= bar.x <= WIDTH - RIGHT
        assert TOP <= bar.y <= bar.y + bar.height <= HEIGHT - BOTTOM + 0.2
    upper, lower = drawn.bars[-1], drawn.bars[-2]
    assert upper.x == lower.x
    assert upper.y + upper.height == pytest.approx(lower.y, abs=0.2)


def test_last_minute_is_at_the_right_and_a_gap_is_left_out() -> None:
    first, last = (bar.x for bar in plot({"messages": 1}, {}, {"messages": 1}).bars)
    assert last == pytest.approx(WIDTH - RIGHT - 10, abs=0.5)
    assert last - first == pytest.approx(20, abs=0.5)


def test_rare_reasons_are_summed() -> None:
    drawn = plot({f"rcpt {550 + n}": 10 - n for n in range(8)})
    assert list(drawn.totals) == ["rcpt 550", "rcpt 551", "rcpt 552", "rcpt 553", OTHERS]
    assert drawn.totals[OTHERS] == 6 + 5 + 4 + 3
    assert len(drawn.bars) == 5


def test_minutes_before_the_last_hour_are_not_drawn() -> None:
    assert len(plot(*[{"messages": 1}] * 70).bars) == 60


def test_nothing_to_draw() -> None:
    assert plot({}, {}).bars == ()
