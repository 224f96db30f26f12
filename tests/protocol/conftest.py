"""Hypothesis makes the same examples every time, unless ``HYPOTHESIS_PROFILE=explore`` sends it out to look for new ones."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("core", max_examples=200, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=20_000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "core"))
