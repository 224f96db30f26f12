"""The sessions on the page about faults: curl sets a rule in a running server, and swaks meets it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import blocks
import pytest
import trio
from processes import serving

from .conftest import require
from .programs import PATH

pytestmark = pytest.mark.interop

SESSIONS = [block for block in blocks.CONSOLE if block.page == "faults" and "swaks" in block.source]


def test_page_has_a_rule_and_a_policy() -> None:
    assert [("answer RCPT 450 once" in each.source, "greylist" in each.source) for each in SESSIONS] == [
        (True, False), (False, True),
    ]  # fmt: skip


@pytest.mark.parametrize("session", SESSIONS, ids=str)
async def test_session_of_the_page(session: blocks.Block, tmp_path: Path) -> None:
    """Each command prints what the page shows, apart from line breaks."""
    require("swaks")
    require("curl", "--json", "{}", "--version")
    async with serving("--http", "0", cwd=tmp_path) as program:
        http = (await program.out.wait_for(r"serving HTTP on http://127\.0\.0\.1:(\d+)"))[1]
        commands = re.findall(r"^\$ (.*)", session.source, re.MULTILINE)
        script = "\n".join(commands).replace(":2525", f":{program.port}").replace(":8025", f":{http}")
        result = await trio.run_process(
            ["bash", "-c", script],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": PATH, "HOME": str(tmp_path)},
            cwd=tmp_path,
        )
        await program.out.wait_for(r"peer=127\.0\.0\.1:\d+ fault 1 acts: rule=")
    shown = "".join(line for line in session.source.splitlines() if not line.startswith("$ "))
    assert re.sub(r"[\n ]", "", result.stdout.decode()) == shown.replace(" ", "")
