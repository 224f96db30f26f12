"""The short tests in examples/inbox, in three languages, pass beside each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from .conftest import require
from .listening import listening
from .programs import PATH

pytestmark = pytest.mark.interop

EXAMPLES = Path(__file__).parents[2] / "examples" / "inbox"
COMMANDS = {
    "test_welcome.py": (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
    "welcome.test.mjs": ("node", "--test"),
    "welcome_test.rb": ("ruby",),
}


def test_all_examples_are_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
async def test_example(name: str, node_modules: Path, tmp_path: Path) -> None:
    require(COMMANDS[name][0])
    # Node looks for packages beside the file.
    (tmp_path / "node_modules").symlink_to(node_modules)
    (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    async with listening(cwd=tmp_path) as listener:
        environment = {**os.environ, "PATH": PATH, "INBOX_URL": listener.url, "SMTP_PORT": str(listener.port)}
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                result = await trio.run_process(
                    [*COMMANDS[name], name],
                    cwd=tmp_path,
                    env=environment,
                    capture_stdout=True,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
                assert result.returncode == 0, result.stdout.decode()

            for _ in range(2):
                nursery.start_soon(run)
