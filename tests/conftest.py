"""Fixtures for tests of all parts, and settings of Hypothesis.

Examples and the order of tasks are the same in each run: a test that fails for one in a thousand fails always or never, and
not in the run that decides. ``HYPOTHESIS_PROFILE=explore`` tries new ones: 20,000 examples for each test that sets no number
of its own.

A test's ``settings(...)`` inherit what they do not name from the profile that is loaded when its module is imported, so a
profile must be loaded here and nowhere else. Many tests do not need Hypothesis, and run where it is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trio.testing import MockClock

if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    # Random is what differs between runs, and the time that an example takes: neither decides whether a test passes.
    untimed = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("fixed", untimed, max_examples=200, derandomize=True)
    settings.register_profile("quick", settings.get_profile("fixed"), max_examples=20)  # see noxfile.py
    settings.register_profile("explore", untimed, max_examples=20_000, derandomize=False)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

    # Hypothesis also tries numbers and texts that it finds in the modules that are loaded, and in a process that shares the
    # tests with another one, these depend on the tests that it happens to have run before. Earlier versions do not do that,
    # and the first of them have no such module.
    PROVIDERS = "hypothesis.internal.conjecture.providers"
    providers: Any = importlib.import_module(PROVIDERS) if importlib.util.find_spec(PROVIDERS) is not None else None
    if hasattr(providers, "_get_local_constants") and os.environ.get("HYPOTHESIS_PROFILE") != "explore":
        no_constants = providers.Constants()
        providers._get_local_constants = lambda: no_constants


@pytest.fixture(autouse=True)
def seeded_order_of_tasks(request: pytest.FixtureRequest) -> None:
    """Let Trio run the tasks of a test in the same order in each run, unless their events come in another order.

    It chooses between two orders at random whenever several tasks can run.
    """
    random = getattr(sys.modules.get("trio._core._run"), "_r", None)
    if random is not None and os.environ.get("HYPOTHESIS_PROFILE") != "explore":
        random.seed(request.node.nodeid)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Make a directory for unix sockets, whose paths are limited to about 100 octets. That of ``tmp_path`` may be longer."""
    with tempfile.TemporaryDirectory(prefix="smtp-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def socket_clock() -> MockClock:
    """Make a clock for tests with TCP or UDP, which jumps when nothing has happened for 50 ms.

    `autojump_clock` jumps at once. What is sent over the loopback interface has usually arrived by then, but on a machine that
    is busy the kernel may deliver it later. Pairs of sockets, which are not in a network, need no such clock.
    """
    from trio.testing import MockClock  # not for the tests of the core, which run without Trio

    return MockClock(autojump_threshold=0.05)
