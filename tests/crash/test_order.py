"""Each 250 is sent after the flush of its message, and servers that send it earlier are detected: see order.py."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from . import order

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def strace() -> None:
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have strace")
        pytest.skip("needs strace")


@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
def test_every_250_is_sent_after_the_flush(tmp_path: Path, kind: str) -> None:
    assert order.run(kind, tmp_path, 1000) == 1000


@pytest.mark.parametrize(
    ("kind", "mutant", "error"),
    [
        ("maildir", "no-file-flush", "its file was never flushed"),
        ("maildir", "no-directory-flush", "the directory was never flushed"),
        ("maildir", "early", "replied before"),
        ("sqlite", "no-log-flush", "the log was never flushed"),
        ("sqlite", "early", "replied before"),
    ],
)
def test_early_250_is_detected(tmp_path: Path, kind: str, mutant: str, error: str) -> None:
    with pytest.raises(AssertionError, match=error):
        order.run(kind, tmp_path, 100, mutant)
