"""Instructions of servers, clients and imports, counted by valgrind's callgrind: they hardly depend on what else runs.

    python -m benchmarks.instructions CLIENT PORT COUNT...

sends these numbers of messages with one of the clients of `benchmarks.sending`, under callgrind.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import sending
from .case import Case, Contender, Environment, Measure, Sample
from .load import Load, measure_load
from .pythons import VERSIONS, interpreter
from .servers import PATH, ROOT, Process, certificate, require_module, require_program, start

# How instructions are counted
# ----------------------------
#
# Callgrind executes a program 50 times as slowly as the processor, or 10 times while it does not count. The counts are those
# of user mode, without the kernel's. Servers and clients are started and warmed up without counting. A client sends twice, and
# the difference is divided by that of the numbers of messages, so that its connection does not count.

UNIT = "thousands of instructions per message"
WARM_UP = 40
CLIENTS = {**sending.ONE, "Pool, four connections": sending.with_pool}


def callgrind(file: Path | str = "/dev/null") -> list[str]:
    """Return the beginning of a command that counts instructions. Raises UnavailableError without valgrind."""
    return [require_program("valgrind", "valgrind"), "--tool=callgrind", f"--callgrind-out-file={file}"]


def serving(kind: str, version: str, load: Load) -> Contender:
    """Return a contender: one of our servers, under one version of Python."""

    def ready(env: Environment) -> Measure:
        process, file = _shared(env, kind, version)

        def measure(count: int) -> Sample:
            measure_load(load, process, WARM_UP)
            _control(process, "--instr=on")
            measure_load(load, process, count)
            _control(process, "--dump")
            _control(process, "--instr=off")
            dump = max(env.directory.glob(f"{file.name}.*"), key=lambda each: int(each.suffix[1:]))
            return Sample(_totals(dump) / count / 1000)

        return measure

    return ready


def _shared(env: Environment, kind: str, version: str) -> tuple[Process, Path]:
    """Return a server that the cases share, and the file whose name begins that of its dumps."""
    file = env.directory / f"callgrind-{kind}-{version}"
    key = ("callgrind", kind, version)
    if key not in env.processes:
        command = [*callgrind(file), "--instr-atstart=no", interpreter(version), "-m", "benchmarks.server", kind]
        env.processes[key] = start(env, lambda _, port: [*command, str(port), certificate()])
    return env.processes[key], file


def _control(process: Process, command: str) -> None:
    control = [require_program("callgrind_control", "valgrind"), command, str(process.pid)]
    subprocess.run(control, check=True, capture_output=True, env={**os.environ, "PATH": PATH})


def _totals(dump: Path) -> int:
    return _number(r"^totals: (\d+)", dump.read_text())


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"callgrind has not printed {pattern!r}: {text[-1000:]!r}")
    return int(found[1])


def instructions_of(command: Sequence[str]) -> int:
    """Return the number of instructions of a Python program, from compiled files."""
    done = _run([*callgrind(), sys.executable, *command])
    return _number(r"Collected : (\d+)", done.stderr)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environ)


def client(name: str) -> Contender:
    """Return a contender: one of our clients or of the others, under the Python that runs this."""

    def ready(env: Environment) -> Measure:
        if name == "aiosmtplib":
            require_module("aiosmtplib")
        server, file = sending.local_server(env), env.directory / f"callgrind-{name}"
        command = [*callgrind(file), "--instr-atstart=no", sys.executable, "-m", "benchmarks.instructions", name]

        def measure(count: int) -> Sample:
            arguments = [str(server.port), str(WARM_UP), str(WARM_UP + count)]
            subprocess.run([*command, *arguments], check=True, capture_output=True, cwd=ROOT)
            few, all_ = (_totals(file.with_name(f"{file.name}.{number}")) for number in (1, 2))
            return Sample((all_ - few) / count / 1000)

        return measure

    return ready


def program(*command: str) -> Contender:
    """Return a contender: a program of Python, without the start and the end of the interpreter."""

    def ready(env: Environment) -> Measure:
        require_program("valgrind", "valgrind")
        _run([sys.executable, *command])  # compiles the files
        return lambda _: Sample((instructions_of(command) - _bare()) / 1e6)

    return ready


@functools.cache
def _bare() -> int:
    return instructions_of(["-c", ""])


def by_version(load: Load) -> dict[str, Contender]:
    """Return contenders: smtp_trio and the floor under each version of Python."""
    return {
        f"{kind}, Python {version}": serving(kind, version, load)
        for version in VERSIONS
        for kind in ("smtp_trio", "floor")
    }


#: What the contenders of `by_version` are compared with.
SAME_VERSION = {f"floor, Python {version}": f"smtp_trio, Python {version}" for version in VERSIONS}

sending_messages = functools.partial(Case, amount=200, short=20, unit=UNIT, rounds=1)

CASES = [
    sending_messages(name="a server: 1 KiB, kept connections", contenders=by_version(Load()), compared=SAME_VERSION),
    sending_messages(
        name="a server: 1 KiB, one connection per message",
        contenders=by_version(Load(reconnect=True)),
        compared=SAME_VERSION,
    ),
    sending_messages(name="a client: 1 KiB, kept connections", contenders={name: client(name) for name in CLIENTS}),
    Case(
        name="a start",
        contenders={
            "trio and smtp_trio.Server": program("-c", "import trio; from smtp_trio import Server"),
            "trio and smtp_trio.connect": program("-c", "import trio; from smtp_trio import connect"),
            "trio": program("-c", "import trio"),
            "smtp-trio --version": program("-m", "smtp_trio", "--version"),
            "aiosmtpd": program("-c", "import aiosmtpd.controller"),
        },
        amount=1,
        short=1,
        unit="millions of instructions",
        rounds=1,
    ),
]


def main(name: str, port: str, *counts: str) -> None:
    """Send messages with a client, and let callgrind write the instructions for each number of them."""
    this = Process(os.getpid(), 0)
    CLIENTS[name](int(port), WARM_UP)
    _control(this, "--instr=on")
    for messages in counts:
        CLIENTS[name](int(port), int(messages))
        _control(this, "--dump")


if __name__ == "__main__":
    main(*sys.argv[1:])
