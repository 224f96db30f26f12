"""``smtp-trio`` that reports what it holds: ``python -m benchmarks.watched FD ARGUMENTS``.

On SIGUSR1 it writes a line of JSON to the file descriptor: the tasks of Trio, the sessions and messages that exist as
objects, whether they are open or not, and the octets that the server counts (`Limits.memory`).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from .resources import memory
from .servers import ROOT, last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from smtp_trio import Server

#: What is counted by the names of classes, so that this program imports no private module.
COUNTED = ("SessionTask", "BodyReader", "MaildirSpool", "SQLiteSpool")


@frozen
class Watched:
    """A server that is running under this program."""

    pid: int
    process: subprocess.Popen[bytes]
    pipe: int
    log: Path

    def report(self) -> dict[str, int]:
        """Return what the server holds now."""
        os.kill(self.pid, signal.SIGUSR1)
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(self.pipe, 65536)
            if not more:
                raise self._ended()
            line += more
        found: dict[str, int] = json.loads(line)
        return found

    def descriptors(self) -> int:
        """Return the number of file descriptors that the server has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self, field: str = "VmRSS") -> int:
        """Return the resident memory of the server in KiB, as `resources.memory` does. Raises RuntimeError if it has ended."""
        if self.process.poll() is not None:
            raise self._ended()
        return memory(self.pid, field)

    def _ended(self) -> RuntimeError:
        last = last_lines(self.log.read_text(errors="replace"))
        return RuntimeError(f"the server has ended ({self.process.wait()}):\n{last}")


@contextmanager
def watched(arguments: Sequence[str], log: Path, **environment: str) -> Iterator[Watched]:
    """Run ``smtp-trio`` with these arguments during the block, and kill it at the end if it has not ended."""
    reading, writing = os.pipe()
    try:
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.watched", str(writing), *arguments],
                cwd=ROOT, stdout=file, stderr=file, pass_fds=[writing], env={**os.environ, **environment},
            )  # fmt: skip
        os.close(writing)
        try:
            yield Watched(process.pid, process, reading, log)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(reading)


@cache
def servers() -> list[Server]:
    """Return the servers that exist when this is called first."""
    return [each for each in gc.get_objects() if type(each).__name__ == "Server"]


def report(fd: int) -> None:
    """Write one report. This runs in the main thread, between two instructions of the event loop.

    To count the objects of a busy server would take most of its time, so that is done only when no session is open.
    """
    statistics = [server.statistics() for server in servers()]
    found = {
        "memory": sum(each.memory for each in statistics),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
    }
    found["sessions"] = sum(each.sessions_open for each in statistics)
    if not found["sessions"]:
        classes = Counter(type(each).__name__ for each in gc.get_objects())
        found |= {name: classes[name] for name in COUNTED}
    os.write(fd, json.dumps(found).encode() + b"\n")


def main(fd: str, *arguments: str) -> None:
    """Run ``smtp-trio``."""
    from smtp_trio._cli.entry import main as smtp_trio

    signal.signal(signal.SIGUSR1, lambda number, frame: report(int(fd)))
    sys.argv[:] = ["smtp-trio", *arguments]
    sys.exit(smtp_trio())


if __name__ == "__main__":
    main(*sys.argv[1:])
