"""Each 250 comes after the flush of its message, and an intake that lies is found out: see order.py."""

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
def test_every_250_comes_after_its_flush(tmp_path: Path, kind: str) -> None:
    assert order.run(kind, tmp_path, 1000) == 1000


@pytest.mark.parametrize(
    ("kind", "mutant", "why"),
    [
        ("maildir", "no-file-flush", "its file was never flushed"),
        ("maildir", "no-directory-flush", "the directory was never flushed"),
        ("maildir", "early", "acknowledged before"),
        ("sqlite", "no-log-flush", "the log was never flushed"),
        ("sqlite", "early", "acknowledged before"),
    ],
)
def test_an_intake_that_lies_is_found_out(tmp_path: Path, kind: str, mutant: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        order.run(kind, tmp_path, 100, mutant)
