"""The short tests in examples/inbox, in three languages, pass beside each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import blocks
import pytest
import trio

from .conftest import require
from .listening import Listener, listening
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
def test_an_example_is_short(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 88


@pytest.mark.parametrize("name", COMMANDS)
async def test_example(name: str, node_modules: Path, tmp_path: Path) -> None:
    require(COMMANDS[name][0])
    # Node looks for packages beside the file.
    (tmp_path / "node_modules").symlink_to(node_modules)
    (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    async with listening(cwd=tmp_path) as listener:
        http_port = str(urlsplit(listener.url).port)
        environment = {**os.environ, "PATH": PATH, "HTTP_PORT": http_port, "SMTP_PORT": str(listener.port)}
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


async def test_django(tmp_path: Path) -> None:
    """With the settings in docs/recipes.rst."""
    django = pytest.importorskip("django.core.mail")
    conf = pytest.importorskip("django.conf")
    utils = pytest.importorskip("django.test.utils")
    (block,) = [block for block in blocks.PYTHON if block.page == "recipes" and "EMAIL_HOST" in block.source]
    settings = {name: value for name, value in block.run().items() if name.startswith("EMAIL_")}

    def send_and_wait(listener: Listener) -> list[str]:
        with utils.override_settings(**settings | {"EMAIL_PORT": listener.port}):
            django.send_mail("Welcome", "Your code is 4711", "shop@example.org", ["bo@example.org"])
        with urlopen(f"{listener.url}/api/wait?to=bo@example.org&subject=Welcome", timeout=100) as response:
            return [message["text"].strip() for message in json.load(response)["messages"]]

    if not conf.settings.configured:
        conf.settings.configure()
    async with listening(cwd=tmp_path) as listener:
        assert await trio.to_thread.run_sync(send_and_wait, listener) == ["Your code is 4711"]
