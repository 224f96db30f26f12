"""The switch interval of the interpreter while ``smtp-trio serve`` runs."""

from __future__ import annotations

import sys

from smtp_trio._cli.switch_interval import short_switch_interval


def test_interval_is_short_during_the_block() -> None:
    before = sys.getswitchinterval()
    with short_switch_interval():
        assert sys.getswitchinterval() < before / 5
    assert sys.getswitchinterval() == before
