"""Stores in an engine: durable messages per second through the whole server, beside what the engine itself does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

from .case import Case, Clock, Contender, Environment, Measure, Sample, UnavailableError, cores, pinned
from .load import Load, measure_load
from .servers import HOST, PATH, ROOT, own_server, require_module, require_program, shared_server, start

POSTGRESQL = "/usr/lib/postgresql/15/bin"
SIZE, SESSIONS = 4096, 100


def redis(env: Environment, port: int) -> list[str]:
    """Return the command of a Redis server that flushes every group."""
    require_module("coredis")
    data = env.directory / "redis"
    data.mkdir()
    return [
        require_program("redis-server", "redis-server"), "--port", str(port), "--bind", HOST, "--dir", str(data),
        "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", "",
    ]  # fmt: skip


def postgresql(env: Environment, port: int) -> list[str]:
    """Return the command of a PostgreSQL server with its default settings."""
    require_module("psycopg")
    data = env.directory / "postgresql"
    if not os.path.exists(f"{POSTGRESQL}/postgres"):
        raise UnavailableError("postgres is not installed (Debian: postgresql)")
    user: list[str] = []
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(data, "postgres")
        env.directory.chmod(0o755)
    initdb = [*user, f"{POSTGRESQL}/initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/")
    return [
        *user, f"{POSTGRESQL}/postgres", "-D", str(data), "-p", str(port), "-c", f"listen_addresses={HOST}",
        "-c", "unix_socket_directories=",
    ]  # fmt: skip


#: The engines: their commands, and their URLs with the port.
ENGINES: dict[str, tuple[Callable[[Environment, int], list[str]], str]] = {
    "Redis": (redis, "redis://127.0.0.1:{}/0"),
    "PostgreSQL": (postgresql, "postgresql://postgres@127.0.0.1:{}/postgres"),
}


def engine(env: Environment, name: str) -> str:
    """Start an engine, which all cases share, and return its URL."""
    make, url = ENGINES[name]
    if (name,) not in env.processes:
        env.processes[name,] = start(env, make, *cores())
        if name == "PostgreSQL":  # it listens before it accepts queries
            ready = [f"{POSTGRESQL}/pg_isready", "-q", "-h", HOST, "-p", str(env.processes[name,].port)]
            deadline = time.monotonic() + 60
            while subprocess.run(ready, check=False).returncode and time.monotonic() < deadline:
                time.sleep(0.05)
    return url.format(env.processes[name,].port)


def through_server(name: str, kind: str) -> Contender:
    """Return a contender: a server with a store in the engine."""

    def ready(env: Environment) -> Measure:
        process = start(env, own_server(kind, engine(env, name)))
        load = Load(sessions=SESSIONS, size=SIZE)
        if not env.short:
            measure_load(load, process, 2 * SESSIONS)
        return lambda count: measure_load(load, process, count)

    return ready


def without_store(env: Environment) -> Measure:
    """Return the measurement of a server that reads the messages only: no store can be faster."""
    process, load = shared_server(env, "smtp_trio"), Load(sessions=SESSIONS, size=SIZE)
    return lambda count: measure_load(load, process, count)


def alone(name: str) -> Contender:
    """Return a contender: the engine with a loop that writes groups."""

    def ready(env: Environment) -> Measure:
        url = engine(env, name)

        def measure(count: int) -> Sample:
            command = [sys.executable, "-m", "benchmarks.engine_loop", url, str(count), str(SESSIONS), str(SIZE)]
            clock = Clock()
            with pinned(cores()[0]):
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT)
            return Sample(clock.stop(count).cost, count / float(done.stdout))

        return measure

    return ready


ENVIRONMENT = {**os.environ, "PATH": PATH}


def case(name: str, amount: int) -> Case:
    """Return the case of an engine."""
    return Case(
        name=f"{name}, 4 KiB, {SESSIONS} sessions",
        contenders={
            "grouped": through_server(name, "store"),
            "one by one": through_server(name, "ungrouped-store"),
            "the server without a store": without_store,
            "the engine without SMTP, grouped": alone(name),
        },
        amount=amount,
        short=2 * SESSIONS,
        by="rate",
        rounds=3,
    )


CASES = [case("Redis", 3_000), case("PostgreSQL", 3_000)]
