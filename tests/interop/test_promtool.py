"""``promtool`` of Prometheus accepts the metrics, and the alerts in contrib/ fire when they should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx2
import pytest

from smtp_trio import Limits, Server
from smtp_trio.stores import Memory
from smtp_trio.web import app

from .conftest import require

pytestmark = pytest.mark.interop
RULES = Path(__file__).parents[2] / "contrib" / "prometheus" / "smtp-trio.rules.yml"
ALERTS = Path(__file__).with_name("alerts.yml")


def promtool(*arguments: str, text: bytes = b"") -> tuple[int, bytes]:
    """Run promtool; return its exit code and its output."""
    require("promtool", "--version")
    result = subprocess.run(["promtool", *arguments], input=text, capture_output=True, check=False, timeout=240)
    return result.returncode, result.stdout + result.stderr


async def test_metrics() -> None:
    store = Memory()
    transport = httpx2.ASGITransport(app(Server(store, limits=Limits(sessions=10)), store))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        text = (await http.get("/metrics")).content
    assert promtool("check", "metrics", text=text) == (0, b"")


def test_alerts() -> None:
    code, output = promtool("check", "rules", str(RULES))
    assert code == 0, output


def test_alerts_fire(tmp_path: Path) -> None:
    tests = tmp_path / "alerts.yml"
    tests.write_text(ALERTS.read_text().replace("[RULES]", f'["{RULES}"]'))
    code, output = promtool("test", "rules", str(tests))
    assert code == 0, output


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert alerts == re.findall(r"^      - alertname: (\w+)", ALERTS.read_text(), re.MULTILINE)
