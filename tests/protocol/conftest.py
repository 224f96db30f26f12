"""Settings of Hypothesis. Every run has the same examples; ``HYPOTHESIS_PROFILE`` selects fewer (`quick`) or new ones (`explore`)."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("core", max_examples=200, deadline=None, derandomize=True, database=None)
settings.register_profile("quick", settings.get_profile("core"), max_examples=20)
settings.register_profile("explore", max_examples=20_000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "core"))
