"""``promtool`` of Prometheus accepts the metrics, and the alerts in contrib/."""

from __future__ import annotations

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
