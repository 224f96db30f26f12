"""Stores in an engine: durable messages per second through the whole server, beside what the engine itself does.

    python -m benchmarks.engines [--short] [--only WORD]

prints the cases, and how the rates through the server compare with that of the engine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from attrs import evolve, frozen

from .case import Case, Contender, Environment, Measure, Outcome, Sample, UnavailableError, cores, pinned, run
from .load import Load, measure_load
from .report import format_outcome
from .servers import HOST, PATH, ROOT, own_server, require_module, require_program, shared_server, start
from .working import workers

POSTGRESQL = "/usr/lib/postgresql/15/bin"
#: The tasks of a loop wait for one group, which has all their messages. Of the sessions of a server, a third waits for each of
#: two groups, and a third receives its next message. So with three times as many sessions the groups have the same size.
SIZE, TASKS, SESSIONS = 4096, 100, 300
#: The replicas of Redis, which all have to flush a group, or the standbys of PostgreSQL, of which one has to.
REPLICAS = 2
#: Sessions send a message and the next envelope together. Waiting for each reply costs the generator and the server more than
#: the engine does.
LOAD = Load(sessions=SESSIONS, size=SIZE, overlapping=True)
ONE_COMMAND = Load(sessions=SESSIONS, size=SIZE)


@frozen
class Engine:
    """An engine: the commands of a server and of its replica, and the URL of a store in it."""

    name: str
    primary: Callable[[Environment, int], list[str]]
    replica: Callable[[int, Environment, int], list[str]]
    """Given the port of the primary first."""
    is_ready: Callable[[int, int], bool]
    """Whether the server with a port accepts queries, and has so many replicas."""
    url: str
    replicated: str
    """What is added to the URL of a store that waits for a replica, which the server may do itself."""


def redis(env: Environment, port: int) -> list[str]:
    """Return the command of a Redis server that flushes every group."""
    require_module("coredis")
    data = env.directory / f"redis-{port}"
    data.mkdir()
    return [
        require_program("redis-server", "redis-server"), "--port", str(port), "--bind", HOST, "--dir", str(data),
        "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", "",
        "--repl-diskless-sync-delay", "0",
    ]  # fmt: skip


def redis_replica(primary: int, env: Environment, port: int) -> list[str]:
    """Return the command of a replica, which flushes every group before it acknowledges it."""
    return [*redis(env, port), "--replicaof", HOST, str(primary)]


def redis_is_ready(port: int, replicas: int) -> bool:
    """Return whether a Redis server has so many replicas that have all data."""
    command = [require_program("redis-cli", "redis-tools"), "-h", HOST, "-p", str(port), "info", "replication"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.count("state=online") == replicas


def as_postgres(env: Environment, *command: str) -> list[str]:
    """Return a command that runs as a user that is not root, as PostgreSQL demands."""
    require_module("psycopg")
    if not os.path.exists(f"{POSTGRESQL}/postgres"):
        raise UnavailableError("postgres is not installed (Debian: postgresql)")
    if os.geteuid() != 0:
        return list(command)
    env.directory.chmod(0o755)
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


def postgresql(env: Environment, port: int, *make_data: str, **settings: str) -> list[str]:
    """Return the command of a PostgreSQL server with its default settings, and these."""
    data = env.directory / f"postgresql-{port}"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(data, "postgres")
    make_data = make_data or (f"{POSTGRESQL}/initdb", "-U", "postgres", "--auth=trust", "--no-sync")
    subprocess.run(as_postgres(env, *make_data, "-D", str(data)), check=True, capture_output=True, cwd="/")
    settings |= {"listen_addresses": HOST, "unix_socket_directories": ""}
    options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
    return as_postgres(env, f"{POSTGRESQL}/postgres", "-D", str(data), "-p", str(port), *options)


def postgresql_standby(primary: int, env: Environment, port: int) -> list[str]:
    """Return the command of a standby, which has flushed a transaction before its commit returns."""
    copy = (
        f"{POSTGRESQL}/pg_basebackup",
        "-R",
        "-h",
        HOST,
        "-p",
        str(primary),
        "-U",
        "postgres",
        "-c",
        "fast",
        "--no-sync",
    )
    return postgresql(env, port, *copy)


def postgresql_is_ready(port: int, replicas: int) -> bool:
    """Return whether a PostgreSQL server accepts queries, and waits for so many standbys."""
    import psycopg

    try:
        with psycopg.connect(host=HOST, port=port, user="postgres", dbname="postgres") as db:
            query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
            return db.execute(query).fetchall() == [(replicas,)]
    except psycopg.OperationalError:  # it listens before that
        return False


REDIS = Engine("Redis", redis, redis_replica, redis_is_ready, "redis://127.0.0.1:{}/0", f"?replicas={REPLICAS}")
POSTGRES = Engine(
    "PostgreSQL", postgresql, postgresql_standby, postgresql_is_ready, "postgresql://postgres@127.0.0.1:{}/postgres", ""
)
#: The same with standbys, of which one has to flush a transaction. It is a primary of its own, since it would wait for them in
#: the other cases, too.
SYNCHRONOUS = evolve(POSTGRES, primary=partial(postgresql, synchronous_standby_names="ANY 1 (*)"))


def url_of(engine: Engine, env: Environment, *, replicated: bool = False) -> str:
    """Start an engine, which all contenders share, and return the URL of a store in it."""
    key = engine.name, "replicated" if replicated else "alone"
    if key not in env.processes:
        env.processes[key] = process = start(env, engine.primary, *cores())
        wait_for(engine, process.port, 0)
        if replicated:
            for number in range(REPLICAS):
                start(env, partial(engine.replica, process.port), *cores())
                wait_for(engine, process.port, number + 1)
    return engine.url.format(env.processes[key].port) + (engine.replicated if replicated else "")


def wait_for(engine: Engine, port: int, replicas: int) -> None:
    """Wait until a server accepts queries, and has so many replicas."""
    deadline = time.monotonic() + 600
    while not engine.is_ready(port, replicas):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{engine.name} does not get ready with {replicas} replicas")
        time.sleep(0.05)


def through_server(kind: str, store: Callable[[Environment], str], load: Load = LOAD, *, part: int = 1) -> Contender:
    """Return a contender: a server with a store in the engine. It gets one ``part``-th of the messages."""

    def ready(env: Environment) -> Measure:
        process = start(env, own_server(kind, store(env)))
        if not env.short:
            measure_load(load, process, 2 * SESSIONS)
        return lambda count: measure_load(load, process, max(count // part, SESSIONS))

    return ready


def without_store(env: Environment) -> Measure:
    """Return the measurement of a server that reads the messages only: no store can be faster."""
    process = shared_server(env, "smtp_trio")
    return lambda count: measure_load(LOAD, process, count)


def without_smtp(store: Callable[[Environment], str], *options: str) -> Contender:
    """Return a contender: tasks that write to the engine, by a loop or with the store."""

    def ready(env: Environment) -> Measure:
        url = store(env)

        def measure(count: int) -> Sample:
            command = [
                sys.executable,
                "-m",
                "benchmarks.engine_loop",
                url,
                str(count),
                str(TASKS),
                str(SIZE),
                *options,
            ]
            with pinned(cores()[0]):
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT)
            seconds, spent = map(float, done.stdout.split())
            return Sample(1e6 * spent / count, count / seconds)

        return measure

    return ready


def in_the_long_form(contender: Contender) -> Contender:
    """Return the contender without its short form, which would show nothing that the others do not."""

    def ready(env: Environment) -> Measure:
        if env.short:
            raise UnavailableError("not in the short form")
        return contender(env)

    return ready


ENVIRONMENT = {**os.environ, "PATH": PATH}
GROUPED, WORKERS, SINGLE = "grouped", "grouped, two workers", "one by one"
LOOP, STORE = "the engine's loop, without SMTP", "the store without SMTP"
ROWS = "the loop with the rows of the store"


def case(engine: Engine, *, replicated: bool = False) -> Case:
    """Return the case of an engine, with replicas or without."""
    store = partial(url_of, engine, replicated=replicated)
    return Case(
        name=f"{engine.name}{' with two replicas' if replicated else ''}, 4 KiB, {SESSIONS} sessions",
        contenders={
            GROUPED: through_server("store", store),
            SINGLE: in_the_long_form(through_server("ungrouped-store", store, part=20)),
            # As the others, without a line in the log for each message.
            WORKERS: in_the_long_form(workers(2, store, LOAD, "--quiet")),
            "grouped, one command at a time": in_the_long_form(through_server("store", store, ONE_COMMAND, part=2)),
            "the server without a store": in_the_long_form(without_store),
            STORE: in_the_long_form(without_smtp(store, "--store")),
            LOOP: without_smtp(store),
            **({ROWS: without_smtp(store, "--rows")} if engine is not REDIS else {}),
        },
        amount=5_000,
        short=2 * SESSIONS,
        by="rate",
        rounds=3,
    )


CASES = [case(engine, replicated=replicated) for engine, replicated in (
    (REDIS, False), (REDIS, True), (POSTGRES, False), (SYNCHRONOUS, True),
)]  # fmt: skip


def summary(outcome: Outcome) -> str:
    """Return how the rates compare, as medians of the rounds."""
    ratio = {name: figures.ratio.median for name, figures in outcome.figures.items() if figures.ratio}
    if STORE not in ratio:
        return ""
    others = [name for name in (LOOP, ROWS, STORE) if name in ratio]
    shares = [f"{ratio[name]:.0%} ({WORKERS}: {ratio[name] / ratio[WORKERS]:.0%}) of {name}" for name in others]
    return f"  {GROUPED}: {ratio[SINGLE]:.1f} times {SINGLE}; " + "; ".join(shares)


def main() -> None:
    """Measure the engines."""
    parser = argparse.ArgumentParser(prog="benchmarks.engines", description="Measure stores in an engine.")
    parser.add_argument("--short", action="store_true", help="one round of little work")
    parser.add_argument("--only", default="", metavar="WORD", help="only the cases with this word in their name")
    args = parser.parse_args()
    with ExitStack() as stack:
        env = Environment(stack, args.short)
        for each in CASES:
            if args.only.lower() in each.name.lower():
                outcome = run("Engines", each, env)
                print(format_outcome(outcome), summary(outcome), sep="\n", flush=True)


if __name__ == "__main__":
    main()
