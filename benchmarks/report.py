"""Output of the results: text on the terminal; in docs/ the results in JSON, and tables and a chart made from them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

from attrs import asdict

import smtp_trio

from . import chart
from .case import Figures, Outcome, Spread, today
from .servers import PATH

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, TABLES, PICTURE = DOCS / "performance.json", DOCS / "performance.inc", DOCS / "performance.svg"
PACKAGES = ("trio", "attrs", "aiosmtpd", "aiosmtplib", "uvloop", "smtpproto")
#: The cases in the chart.
SHOWN = (
    "1 KiB, 10 kept connections",
    "1 KiB, one connection per message",
    "100 KiB, 4 kept connections",
    "10 MiB, 2 kept connections",
    "an idle session, 5,000 open",
)

#: The title of the column with the cost for the load generator.
LOAD = "\N{MICRO SIGN}s of CPU of the load generator"

Outcomes = Sequence[Outcome]


def machine() -> dict[str, str]:
    """Return the date, the machine and the versions of all programs."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = [f"smtp_trio {smtp_trio.__version__}"]
    versions += [f"{name} {version}" for name in PACKAGES if (version := package(name))]
    for name, command in {"node": ["node", "-v"], "Postfix": ["postconf", "-dh", "mail_version"]}.items():
        if output := version_output(command):
            versions.append(f"{name} {output}")
    return {
        "date": today(),
        "machine": f"{model[0].partition(':')[2].strip() if model else platform.machine()}, {os.cpu_count()} cores",
        "system": f"Linux {platform.release()}, {platform.python_implementation()} {platform.python_version()}",
        "versions": ", ".join(versions),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def package(name: str) -> str:
    """Return the version of an installed package, or ""."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def version_output(command: Sequence[str]) -> str:
    """Return the output of a command that prints a version, or "" when it is not installed."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "PATH": PATH}
        )
    except FileNotFoundError:
        return ""
    return result.stdout.strip()


# --- on a terminal ---------------------------------------------------------------------------------------------------


def format_outcome(outcome: Outcome) -> str:
    """Return the results of a case, with a line for each contender."""
    lines = [f"\n{outcome.theme}: {outcome.name}"]
    for name, found in outcome.figures.items():
        cells = found.missing or "   ".join(f"{cell:34}" for cell in cells_of(outcome, found, with_units=True)).rstrip()
        lines.append(f"  {name:40} {cells}")
    return "\n".join(lines)


def cells_of(outcome: Outcome, found: Figures, *, with_units: bool = False) -> Iterator[str]:
    """Iterate over cost, rate, ratio and load as text."""
    values = (
        (found.cost, outcome.unit),
        (found.rate, outcome.rate),
        (found.ratio, "ratio"),
        (found.load, LOAD),
    )
    for spread, unit in values:
        yield "" if spread is None else f"{format_spread(spread)} {unit}" if with_units else format_spread(spread)


def format_spread(spread: Spread) -> str:
    """Return the median, with minimum and maximum in brackets."""
    middle, low, high = map(chart.format_number, (spread.median, spread.low, spread.high))
    return middle if low == high else f"{middle} ({low} to {high})"


# --- in docs/ --------------------------------------------------------------------------------------------------------


def write(where: Mapping[str, str], outcomes: Outcomes) -> None:
    """Write the results, the tables and the chart."""
    results = {"where": dict(where), "outcomes": [asdict(outcome) for outcome in outcomes]}
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    render()


def render() -> None:
    """Write the tables and the chart from the results."""
    where, outcomes = read()
    TABLES.write_text(tables(where, outcomes), encoding="utf-8")
    PICTURE.write_text(picture(outcomes), encoding="utf-8")


def read() -> tuple[dict[str, str], list[Outcome]]:
    """Return the results that were written."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results["where"], [outcome_of(values) for values in results["outcomes"]]


def outcome_of(values: dict[str, Any]) -> Outcome:
    """Return an outcome from the values that `asdict` has made of it."""
    found = {
        name: Figures(missing=each.pop("missing"), **{key: value and Spread(**value) for key, value in each.items()})
        for name, each in values.pop("figures").items()
    }
    return Outcome(**values, figures=found)


def tables(where: Mapping[str, str], outcomes: Outcomes) -> str:
    """Return a table for each case, in reStructuredText."""
    lines = [f":{key.capitalize()}: {value}" for key, value in where.items()]
    for theme, cases in groupby(outcomes, key=lambda outcome: outcome.theme):
        lines += ["", theme, "~" * len(theme)]
        for outcome in cases:
            lines += ["", f".. list-table:: {outcome.name}", "   :header-rows: 1", "   :widths: auto", ""]
            head = [
                outcome.unit,
                outcome.rate,
                f"ratio: {outcome.reference} {outcome.by} divided by this",
                LOAD,
            ]
            rows = {
                name: ["—", "—", found.missing, ""] if found.missing else list(cells_of(outcome, found))
                for name, found in outcome.figures.items()
            }
            used = [column for column in range(len(head)) if any(row[column] for row in rows.values())]
            for name, cells in {"": head, **rows}.items():
                row = [name, *(cells[column] for column in used)]
                lines += [f"   {'*' if not number else ' '} - {cell}".rstrip() for number, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def picture(outcomes: Outcomes) -> str:
    """Return the chart of the cases in SHOWN."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    groups = []
    for name in SHOWN:
        if name in by_name:
            bars = [
                chart.Bar(contender, found.cost.median, highlighted=contender.startswith("smtp_trio"))
                for contender, found in by_name[name].figures.items()
                if found.cost is not None
            ]
            groups.append(chart.Group(name, by_name[name].unit, bars))
    return chart.draw("What a message costs", groups)
