"""The commands of docs/api.rst, with curl."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import trio

import smtp_trio
from smtp_trio import web
from smtp_trio.stores import Memory

from .conftest import skip_or_fail

pytestmark = pytest.mark.interop
PAGE = Path(__file__).parents[2] / "docs" / "api.rst"


def commands() -> list[tuple[str, str]]:
    """Return the commands of the page, each with the output that the page shows, or ""."""
    blocks = re.findall(r"\.\. code-block:: console\n\n((?:   .*\n|\n)+)", PAGE.read_text(encoding="utf-8"))
    found: list[tuple[str, str]] = []
    for line in re.sub(r"\\\n\s*", "", "".join(blocks)).splitlines():
        text = line.removeprefix("   ")
        if text.startswith("$ "):
            found.append((text[2:], ""))
        elif text:
            command, output = found.pop()
            found.append((command, output + text))
    return found


async def test_commands_of_the_page(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        skip_or_fail("curl is not installed")
    async with Memory() as store, trio.open_nursery() as nursery:
        server = smtp_trio.Server(store)
        listener, *_ = await nursery.start(partial(server.serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        url = await nursery.start(partial(web.serve, server, store, 0))
        name = await store.add(b"Subject: x\r\n\r\nHello\r\n", "", ["carol@example.org"])
        outputs = {}
        for command, expected in commands():
            script = command.replace("http://127.0.0.1:8025", url).replace("127.0.0.1:1025", f"127.0.0.1:{port}")
            result = await trio.run_process(
                ["sh", "-c", script], env={"PATH": "/usr/bin:/bin", "ID": name}, capture_stdout=True, cwd=tmp_path
            )
            outputs[command] = result.stdout.decode()
            if expected:
                assert outputs[command] == expected, command
            elif outputs[command]:
                assert "error" not in json.loads(outputs[command]), command
        left = [entry.id async for entry in store.entries()]
        nursery.cancel_scope.cancel()
    assert len(outputs) == 11
    lists = [json.loads(output) for output in outputs.values() if output.startswith('{"messages"')]
    assert [[each["subject"] for each in found["messages"]] for found in lists] == [
        ["Invoice 17", "x"], ["Invoice 17"], ["Invoice 17"],
    ]  # fmt: skip
    assert '{"removed":1}' in outputs.values()
    assert (tmp_path / f"{name}.eml").read_bytes() == b"Subject: x\r\n\r\nHello\r\n"
    assert (tmp_path / "part-1.txt").read_bytes() == b"Hello\r\n"
    assert left == []
