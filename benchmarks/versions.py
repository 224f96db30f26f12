"""Servers under several versions of Python."""

from __future__ import annotations

from .case import Case, Contender, Environment, Measure
from .instructions import SAME_VERSION
from .load import Load, measure_load
from .pythons import VERSIONS, interpreter
from .servers import Process, certificate, start


def serving(kind: str, version: str, load: Load) -> Contender:
    """Return a contender: one of our servers under one version of Python."""

    def ready(env: Environment) -> Measure:
        process = _shared(env, kind, version)
        if not env.short:
            measure_load(load, process, 2 * load.sessions)
        return lambda count: measure_load(load, process, count)

    return ready


def _shared(env: Environment, kind: str, version: str) -> Process:
    if (kind, version) not in env.processes:
        command = [interpreter(version), "-m", "benchmarks.server", kind]
        env.processes[kind, version] = start(env, lambda _, port: [*command, str(port), certificate()])
    return env.processes[kind, version]


def case(name: str, load: Load, amount: int, short: int) -> Case:
    """Return a case with smtp_trio and the floor under each version of Python."""
    return Case(
        name=f"{name}, by version of Python",
        contenders={
            f"{kind}, Python {version}": serving(kind, version, load)
            for version in VERSIONS
            for kind in ("smtp_trio", "floor")
        },
        compared=SAME_VERSION,
        amount=amount,
        short=short,
        rounds=10,
    )


CASES = [
    case("1 KiB, 10 kept connections", Load(), 3_000, 50),
    case("1 KiB, one connection per message", Load(reconnect=True), 1_500, 40),
    case("1 KiB, 10 kept connections, no wake-ups", Load(polling=True), 3_000, 50),
    case("1 KiB, one connection per message, no wake-ups", Load(polling=True, reconnect=True), 1_500, 40),
]
