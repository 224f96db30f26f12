"""Stores: durable messages per second, with one flush for a group of messages or one for each."""

from __future__ import annotations

from .case import Case, Contender, Environment, Measure
from .load import Load, measure_load
from .servers import own_server, start


def store_contender(kind: str, sessions: int) -> Contender:
    """Return a contender: a server with a store on disk, of a kind in `benchmarks.server`."""

    def ready(env: Environment) -> Measure:
        if (kind,) not in env.processes:
            env.processes[kind,] = start(env, own_server(kind, str(env.directory / kind)))
        process, load = env.processes[kind,], Load(sessions=sessions)
        if not env.short:
            measure_load(load, process, 2 * sessions)
        return lambda count: measure_load(load, process, count)

    return ready


def case(store: str, kind: str, sessions: int, amount: int) -> Case:
    """Return a case that compares a store with and without group commit."""
    contenders = {
        "grouped": store_contender(kind, sessions),
        "one by one": store_contender(f"ungrouped-{kind}", sessions),
    }
    name = f"{store}, 1 KiB, {sessions} session{'s' * (sessions > 1)}"
    return Case(name=name, contenders=contenders, amount=amount, short=2 * sessions, by="rate", rounds=3)


CASES = [
    case("Maildir", "maildir", 1, 300),
    case("Maildir", "maildir", 100, 2_000),
    case("SQLite", "sqlite", 1, 300),
    case("SQLite", "sqlite", 100, 5_000),  # with fewer messages, connecting would take a considerable part of the time
]
