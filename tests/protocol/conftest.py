"""Settings of Hypothesis for the tests of the protocol core, which run without an event loop.

Examples are the same in each run. ``HYPOTHESIS_PROFILE=explore`` tries 20,000 new ones for each test. These tests alone
cover all branches of the core: ``coverage run -m pytest tests/protocol``.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("core", max_examples=200, deadline=None, derandomize=True, database=None)
settings.register_profile("quick", settings.get_profile("core"), max_examples=20)  # the nox session `quick`
settings.register_profile("explore", max_examples=20_000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "core"))
