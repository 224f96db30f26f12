"""`Plot`: stacked bars for the last sixty minutes, as numbers for an SVG template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from attrs import frozen

MINUTES = 60
#: The number of series with a colour of their own; the last colour is for all others.
MAX_SERIES = 4
OTHERS = "other"

WIDTH, HEIGHT = 640, 150
LEFT, RIGHT, TOP, BOTTOM = 38, 4, 16, 20
BAR = (WIDTH - LEFT - RIGHT) / MINUTES
#: Minutes between two labels of the time axis.
LABEL_EVERY = 15


@frozen
class Bar:
    """A segment of a bar: its position, the number of its series, and its title."""

    x: float
    y: float
    height: float
    series: int
    title: str


@frozen(kw_only=True)
class Plot:
    """The positions and labels of a plot."""

    totals: Mapping[str, int]
    """The totals of the series by name."""
    bars: tuple[Bar, ...]
    marks: tuple[tuple[float, int], ...]
    """The positions and the numbers of the value axis."""
    times: tuple[tuple[float, str], ...]
    """The positions and the texts of the time axis."""

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]], counts: Sequence[Mapping[str, int]]) -> Self:
        """Return the plot of the counts by name for each minute of `/api/statistics`."""
        minutes = [datetime.fromisoformat(minute["time"]).astimezone() for minute in history]
        counts, totals = grouped(counts)
        top = rounded_up(max((each.total() for each in counts), default=0))
        scale = (HEIGHT - TOP - BOTTOM) / top
        bars: list[Bar] = []
        for minute, each in zip(minutes, counts, strict=True):
            x = position(minutes[-1], minute)
            y = float(HEIGHT - BOTTOM)
            for series, name in enumerate(totals):
                if (count := each[name]) and x >= LEFT:
                    y -= count * scale
                    title = f"{minute:%H:%M}: {count} {name}"
                    bars.append(Bar(round(x, 1), round(y, 1), round(count * scale, 1), series, title))
        return cls(
            totals=totals,
            bars=tuple(bars),
            marks=tuple((HEIGHT - BOTTOM - value * scale, value) for value in (0, top // 2, top)),
            times=tuple(
                (round(position(minutes[-1], minute) + BAR / 2, 1), f"{minute:%H:%M}")
                for minute in minutes
                if minute.minute % LABEL_EVERY == 0
            ),
        )


def grouped(counts: Sequence[Mapping[str, int]]) -> tuple[list[Counter[str]], dict[str, int]]:
    """Return the counts with the rarest names as `OTHERS`, and the totals of the names that are left."""
    totals: Counter[str] = Counter()
    for each in counts:
        totals.update(each)
    kept = dict(totals.most_common(MAX_SERIES))
    if others := totals.total() - sum(kept.values()):
        kept[OTHERS] = others
    found = []
    for each in counts:
        group: Counter[str] = Counter()
        for name, count in each.items():
            group[name if name in kept else OTHERS] += count
        found.append(group)
    return found, kept


def position(last: datetime, minute: datetime) -> float:
    """Return the position of the left edge of a bar. The bar of the last minute ends at the right edge of the plot."""
    return WIDTH - RIGHT - BAR * (1 + (last - minute).total_seconds() // 60)


def rounded_up(value: int) -> int:
    """Return the least of 2, 4, 10, 20, 40, 100, … that is at least ``value``."""
    power = 1
    while True:
        for factor in (2, 4, 10):
            if value <= factor * power:
                return factor * power
        power *= 10
