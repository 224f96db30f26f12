"""The page on metrics, the dashboard and the alerts name exactly what ``/metrics`` has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from smtp_trio.web._metrics import METRICS, Metric

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.rst").read_text("utf-8")
RULES = (ROOT / "contrib" / "prometheus" / "smtp-trio.rules.yml").read_text("utf-8")
DASHBOARD = (ROOT / "contrib" / "grafana" / "smtp-trio.json").read_text("utf-8")
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def series(metric: Metric) -> set[str]:
    """Return the names of the time series of a metric."""
    return {f"smtp_trio_{metric.name}{suffix}" for suffix in SUFFIXES[metric.kind]}


SERIES = {name: metric for metric in METRICS for name in series(metric)}


def test_the_page_has_a_row_for_each_metric() -> None:
    rows = re.findall(r"   \* - ``smtp_trio_(\w+)``\n     - (\w+)\n     -(.*)\n     - (.+)\n", PAGE)
    assert rows == [
        (
            f"{metric.name}_total" if metric.kind == "counter" else metric.name,
            metric.kind,
            " " * bool(metric.labels) + ", ".join(f"``{label}``" for label in metric.labels),
            metric.text,
        )
        for metric in METRICS
    ]


def test_the_page_explains_each_alert() -> None:
    assert re.findall(r"   \* - ``(SmtpTrio\w+)``", PAGE) == re.findall(r"- alert: (\w+)", RULES)


def check_expressions(text: str) -> set[str]:
    """Check that the metrics in a text exist, and have the labels that it selects; return their names."""
    for name, labels in re.findall(r"\b(smtp_trio_\w+)(?:\{([^}]*)\})?", text):
        selected = set(re.findall(r"(\w+)(?:!|=)[=~\"]?", labels)) - {"instance"}
        assert selected <= set(SERIES[name].labels), name
    return set(re.findall(r"\bsmtp_trio_\w+", text))


def test_alerts_name_metrics_that_exist() -> None:
    assert len(check_expressions(RULES)) > 10


def test_the_dashboard_shows_every_metric() -> None:
    panels = json.loads(DASHBOARD)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    shown = check_expressions(" ".join(target["expr"] for panel in panels for target in panel.get("targets", ())))
    assert [metric.name for metric in METRICS if not series(metric) & shown] == []
