"""The output that docs/command-line.rst shows is that of the program."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import blocks
import pytest
from processes import HOST, run, serving

PAGE = (blocks.ROOT / "docs" / "command-line.rst").read_text(encoding="utf-8")
MESSAGE = b"From: me@example.net\nTo: you@example.org\nSubject: hi\n\nhello, world\n"
#: What differs from run to run.
VARIABLE = {
    r"[0-9-]{10}T[0-9:.]{12}\+\d\d:\d\d": "TIME",
    r"127\.0\.0\.1:\d+": "ADDRESS",
    r"maildir:\S+": "MAILDIR",
    r"[0-9a-f]{20}-\d": "ID",
}


def normal(lines: Sequence[str]) -> list[str]:
    """Return lines without what differs from run to run."""
    for pattern, name in VARIABLE.items():
        lines = [re.sub(pattern, name, line.rstrip()) for line in lines]
    return list(lines)


def documented(command: str) -> list[str]:
    """Return the lines that the page shows after a command."""
    block = re.search(rf"^   \$ {re.escape(command)}\n((?:   .*\n)+)", PAGE, re.MULTILINE)
    assert block is not None, command
    return normal(textwrap.dedent(block[1]).splitlines())


async def test_start_of_serve(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        assert normal(program.out.text.splitlines()) == documented("smtp-trio serve")


@pytest.mark.parametrize("verbose", [False, True])
async def test_send(tmp_path: Path, verbose: bool) -> None:
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    options = ["--to", "you@example.org", *(["--verbose"] if verbose else []), "message.eml"]
    shown = documented(
        f"smtp-trio send --server {'localhost:2525' if verbose else 'mx.example.org'} {' '.join(options)}"
    )
    async with serving("--name", "mx.example.org", cwd=tmp_path) as program:
        server = f"--server={HOST}:{program.port}"
        code, out, err = await run("-m", "smtp_trio", "send", server, *options, cwd=tmp_path)
        assert code == 0
        # Standard output and standard error, which a terminal shows together.
        assert [line for line in shown if line.startswith("accepted")] == normal(out.splitlines())
        assert [line for line in shown if not line.startswith("accepted")] == normal(err.splitlines())


async def test_composed_message(tmp_path: Path) -> None:
    """The last of the examples has no output; it is valid."""
    example = re.search(r"\$ smtp-trio send --server mx\.example\.org (--from .*) \\\n +(.*)\n", PAGE)
    assert example is not None
    (tmp_path / "chart.png").write_bytes(b"\x89PNG")
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', f"{example[1]} {example[2]}")]
    async with serving(cwd=tmp_path) as program:
        server = f"--server={HOST}:{program.port}"
        code, out, err = await run("-m", "smtp_trio", "send", server, *words, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith("accepted  <you@example.org>  250 2.0.0 ")
