"""SIGKILL at a random moment under load: see kill9.py. SMTP_TRIO_CRASH_ROUNDS is the number of rounds (default: 1)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from .kill9 import kill_round, several_maildirs_round
from .load import large_message

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", range(int(os.environ.get("SMTP_TRIO_CRASH_ROUNDS", "1"))))
@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
def test_no_accepted_message_is_lost(tmp_path: Path, kind: str, seed: int) -> None:
    print(kill_round(f"{kind}:{tmp_path / 'store'}", seed, 5000))


@pytest.mark.parametrize("seed", range(int(os.environ.get("SMTP_TRIO_CRASH_ROUNDS", "1"))))
@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
def test_large_messages(tmp_path: Path, kind: str, seed: int) -> None:
    """The kill hits messages of 5 to 30 MiB that are partly on the disk: nothing of them is left after the restart."""
    spec = f"{kind}:{tmp_path / 'store'}"
    print(kill_round(spec, seed, 30, connections=6, make=large_message, longest_delay=0.5))


def test_every_recipient_has_an_accepted_message(tmp_path: Path) -> None:
    several_maildirs_round(str(tmp_path / "store"), 300, 120)
