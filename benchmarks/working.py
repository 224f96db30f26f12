"""Two workers beside one: what ``smtp-trio serve --workers`` makes of two cores, which the load's generator shares with them."""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path

from .case import Case, Contender, Ground, Measure, Sample, cores, cpu, pinned
from .load import Load, command
from .servers import ROOT, Process, ours, start


def family(pid: int) -> list[int]:
    """A process and its children."""
    lists = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    return [pid, *(int(child) for each in lists for child in each.read_text().split())]


def everywhere(load: Load, server: Process, count: int) -> Sample:
    """As `load.drive`, but the kernel says who works where."""
    pids = family(server.pid)
    before, others = [cpu(pid) for pid in pids], children()
    began = time.perf_counter()
    with pinned(*cores()):
        subprocess.run(command(load, server.port, count), check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    wall = time.perf_counter() - began
    spent = sum(cpu(pid) for pid in pids) - sum(before)
    return Sample(1e6 * spent / count, count / wall, 1e6 * (children() - others) / count)


def children() -> float:
    """CPU of those that we have waited for, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def workers(number: int, store: str, load: Load) -> Contender:
    """So many workers under a load."""

    def ready(ground: Ground) -> Measure:
        key = "workers", str(number), store
        if key not in ground.processes:
            place = f"{store}:{ground.folder / store}-{number}"
            ground.processes[key] = start(ground, ours("command-line", str(number), place), *cores())
            deadline = time.monotonic() + 30
            while number > 1 and len(family(ground.processes[key].pid)) <= number:
                assert time.monotonic() < deadline, "the workers do not come"
                time.sleep(0.02)
        process = ground.processes[key]
        everywhere(load, process, 2 * load.sessions)  # whoever answers is there
        return lambda count: everywhere(load, process, count)

    return ready


def case(name: str, store: str, load: Load, amount: int, short: int) -> Case:
    """Two beside one."""
    both = {"two workers": workers(2, store, load), "one worker": workers(1, store, load)}
    return Case(name=name, contenders=both, amount=amount, short=short, by="rate")


CASES = [
    case("two workers: 1 KiB, a hook with 1 ms of work", "busy", Load(sessions=40), 3_000, 80),
    case("two workers: 1 KiB, Maildir", "maildir", Load(sessions=40), 4_000, 80),
    case("two workers: 1 KiB, Maildir, one connection a message", "maildir", Load(sessions=40, lone=True), 2_500, 80),
]
