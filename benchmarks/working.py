"""Workers of ``smtp-trio serve --workers``: two compared with one, on two cores shared with the load generator."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable
from functools import partial

from .case import Case, Contender, Environment, Measure, Sample, cores, cpu, pinned
from .load import Load, generator_command
from .servers import ROOT, Process, children, own_server, start


def process_tree(pid: int) -> list[int]:
    """Return the ids of a process and its children."""
    return [pid, *children(pid)]


def measure_on_all_cores(load: Load, server: Process, count: int) -> Sample:
    """Measure as `load.measure_load`, but with all cores for server and load generator."""
    pids = process_tree(server.pid)
    before, load_before = [cpu(pid) for pid in pids], children_cpu()
    start_time = time.perf_counter()
    with pinned(*cores()):
        command = generator_command(load, server.port, count)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    # A generator in Python prints the time without that of its start.
    wall = float(done.stdout) if done.stdout else time.perf_counter() - start_time
    spent = sum(cpu(pid) for pid in pids) - sum(before)
    return Sample(1e6 * spent / count, count / wall, 1e6 * (children_cpu() - load_before) / count)


def children_cpu() -> float:
    """Return the CPU time of the ended children of this process, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def workers(number: int, store: Callable[[Environment], str], load: Load, *options: str) -> Contender:
    """Return a contender: this number of workers with the store of a URL, and more options, under a load."""

    def ready(env: Environment) -> Measure:
        url = store(env)
        key = "workers", str(number), url
        if key not in env.processes:
            env.processes[key] = start(env, own_server("command-line", str(number), url, *options), *cores())
            deadline = time.monotonic() + 600
            while number > 1 and len(process_tree(env.processes[key].pid)) <= number:
                assert time.monotonic() < deadline, "the workers did not start"
                time.sleep(0.02)
        process = env.processes[key]
        measure_on_all_cores(load, process, 2 * load.sessions)  # returns after all workers have started
        return lambda count: measure_on_all_cores(load, process, count)

    return ready


def case(name: str, store: str, load: Load, amount: int, short: int) -> Case:
    """Return a case that compares two workers with one."""

    def url(number: int, env: Environment) -> str:
        return f"{store}:{env.directory / store}-{number}"

    both = {"two workers": workers(2, partial(url, 2), load), "one worker": workers(1, partial(url, 1), load)}
    return Case(name=name, contenders=both, amount=amount, short=short, by="rate")


CASES = [
    case("two workers: 1 KiB, a hook with 1 ms of work", "busy", Load(sessions=40), 3_000, 80),
    case("two workers: 1 KiB, Maildir", "maildir", Load(sessions=40), 4_000, 80),
    case(
        "two workers: 1 KiB, Maildir, one connection per message",
        "maildir",
        Load(sessions=40, reconnect=True),
        2_500,
        80,
    ),
]
