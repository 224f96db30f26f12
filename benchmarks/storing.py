"""Durable messages a second, through the whole server: what comes of flushing for a group of sessions at once."""

from __future__ import annotations

from .case import Case, Contender, Ground, Measure
from .load import Load, drive
from .servers import ours, start


def through(kind: str, sessions: int) -> Contender:
    """A server with a store on disk; ``kind`` is as in `benchmarks.server`."""

    def ready(ground: Ground) -> Measure:
        if (kind,) not in ground.processes:
            ground.processes[kind,] = start(ground, ours(kind, str(ground.folder / kind)))
        process, load = ground.processes[kind,], Load(sessions=sessions)
        if not ground.short:
            drive(load, process, 2 * sessions)
        return lambda count: drive(load, process, count)

    return ready


def case(store: str, kind: str, sessions: int, amount: int) -> Case:
    """A store with its groups, and without."""
    contenders = {"grouped": through(kind, sessions), "one by one": through(f"lone-{kind}", sessions)}
    name = f"{store}, 1 KiB, {sessions} session{'s' * (sessions > 1)}"
    return Case(name=name, contenders=contenders, amount=amount, short=2 * sessions, by="rate", rounds=3)


CASES = [
    case("Maildir", "maildir", 1, 300),
    case("Maildir", "maildir", 100, 2_000),
    case("SQLite", "sqlite", 1, 300),
    case("SQLite", "sqlite", 100, 5_000),  # fewer, and one measures connecting
]
