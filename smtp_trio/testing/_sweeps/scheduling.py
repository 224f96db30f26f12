"""The order in which Trio runs tasks, made to depend on a seed alone where the installed Trio allows that."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import Random

# Trio shuffles the tasks that are ready to run. Two private names of its scheduler, which pytest-trio uses as well,
# make that shuffle depend on a seed. They are looked up here, when a sweep begins, and nowhere else. A Trio that lacks
# them only makes runs harder to repeat: a sweep identifies its points by task and step (`interruption.Point`), so it
# still reaches all of them.
SCHEDULER = "trio._core._run"


@contextmanager
def deterministic_scheduling() -> Generator[Callable[[int], None]]:
    """Let a seed decide the order of tasks within the block; yield the function that sets the seed.

    Without the private names the function does nothing.
    """
    scheduler = importlib.import_module(SCHEDULER)
    random = getattr(scheduler, "_r", None)
    deterministic = getattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", None)
    if not isinstance(random, Random) or not isinstance(deterministic, bool):
        yield lambda seed: None
        return
    state = random.getstate()
    setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010  (not a name that a type checker should accept)
    try:
        yield random.seed
    finally:
        setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", deterministic)  # noqa: B010
        random.setstate(state)
