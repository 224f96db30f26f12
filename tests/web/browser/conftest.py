"""Fixtures of the tests with a browser: Chromium with chromedriver, a server, and axe-core."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from .inbox import Inbox, running

if TYPE_CHECKING:
    from .browser import Browser


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, with the reason; fail in CI, where every program must be installed."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def inbox_server() -> Iterator[Inbox]:
    """A server with its page, for all tests."""
    with running() as inbox:
        yield inbox


@pytest.fixture
def inbox(inbox_server: Inbox) -> Inbox:
    """The server without messages."""
    inbox_server.clear()
    return inbox_server


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser, for all tests."""
    if find_spec("selenium") is None:
        skip_or_fail("selenium is not installed: python -m pip install --group interop")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in programs.items():
        if path is None:
            skip_or_fail(f"{name} is not installed")
    from .browser import Browser

    directory = tmp_path_factory.mktemp("chromium")
    browser = Browser.start(str(programs["chromium"]), str(programs["chromedriver"]), directory)
    try:
        yield browser
    finally:
        browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser, inbox: Inbox) -> Browser:
    """The browser with the empty inbox, in a wide window."""
    chromium.resize(1440, 900)
    chromium.driver.get(inbox.url)
    return chromium


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, installed by npm, which uses its cache if it can."""
    if shutil.which("npm") is None:
        skip_or_fail("npm is not installed")
    directory = tmp_path_factory.mktemp("axe")
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--prefer-offline",
        "--fetch-retries=5",
        "--prefix",
        str(directory),
        "axe-core@4",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    if result.returncode:
        skip_or_fail(f"npm could not install axe-core: {result.stderr.strip()[-300:]}")
    return (Path(directory) / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
