"""Settings with which a server takes the same time and random octets in every run."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import trio

from ...protocol.arguments import check_type

#: The time of day at the first call of ``now``.
START = datetime(2026, 1, 1, tzinfo=UTC)


class DeterministicSettings(TypedDict):
    """The keyword arguments of `Server` that `deterministic` returns."""

    now: Callable[[], datetime]
    token: Callable[[int], bytes]


def deterministic(seed: int = 0) -> DeterministicSettings:
    """Return ``now`` and ``token`` for a `Server` that is the same in every run: ``Server(hooks, **deterministic())``.

    The first time that the server asks for is midnight of 1 January 2026; from there it passes with Trio's clock. Ids
    and challenges come from a random generator with this ``seed``. They can be guessed, so this is for tests only.
    """
    check_type(seed, "seed", int)
    generator = random.Random(seed)
    began: list[float] = []

    def now() -> datetime:
        time = trio.current_time()
        if not began:
            began.append(time)
        return START + timedelta(seconds=time - began[0])

    return {"now": now, "token": generator.randbytes}
