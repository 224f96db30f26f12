"""Fixtures for tests of all parts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Make a directory for unix sockets, whose paths are limited to about 100 octets. That of ``tmp_path`` may be longer."""
    with tempfile.TemporaryDirectory(prefix="smtp-", dir="/tmp") as directory:
        yield Path(directory)
