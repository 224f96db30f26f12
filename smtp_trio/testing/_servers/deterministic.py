"""The two doors of a server, wall clock and chance, made to give the same in every run."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import trio

#: The time of day when a server of tests first looks at its watch.
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


class DeterministicSettings(TypedDict):
    """What `deterministic` gives: keywords of `Server`."""

    now: Callable[[], datetime]
    token: Callable[[int], bytes]


def deterministic(seed: int = 0) -> DeterministicSettings:
    """The ``now`` and ``token`` of a `Server` that is the same in every run: ``Server(hooks, **deterministic())``.

    The time is midnight of 1 January 2026 when it is first asked for, and passes with Trio's clock from there. Ids and
    challenges are those of a generator that begins with ``seed``: everybody can guess them, so this is for tests alone.
    """
    chance = random.Random(seed)
    began: list[float] = []

    def now() -> datetime:
        time = trio.current_time()
        if not began:
            began.append(time)
        return MIDNIGHT + timedelta(seconds=time - began[0])

    return {"now": now, "token": chance.randbytes}
