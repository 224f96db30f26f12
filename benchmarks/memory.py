"""Memory of an idle session and of a large message, and the time of an import."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack

from attrs import evolve

from .case import Case, Contender, Environment, Measure, Sample, UnavailableError
from .load import Load, measure_load
from .resources import memory, raise_descriptor_limit
from .servers import HOST, ROOT, SERVERS, start

IMPORT = "import time; start = time.process_time(); {}; print((time.process_time() - start) * 1000)"
#: The least growth in KiB: memory grows in pages, and a ratio needs a number greater than 0.
PAGE = 4
#: The number of sessions that are opened together.
BATCH = 200
IDLE = ("smtp_trio", "floor", "aiosmtpd", "aiosmtpd on uvloop", "smtp-server", "smtp-sink")


def idle(server: str) -> Contender:
    """Return a contender: a server with idle sessions after EHLO."""

    def ready(env: Environment) -> Measure:
        def measure(count: int) -> Sample:
            raise_descriptor_limit()
            with ExitStack() as stack:
                process = start(evolve(env, stack=stack), SERVERS[server])
                open_sessions(stack, process.port, 1)
                before = memory(process.pid)
                for done in range(0, count, BATCH):
                    open_sessions(stack, process.port, min(BATCH, count - done))
                return Sample(max(memory(process.pid) - before, PAGE) / count)

        SERVERS[server](env, 0)  # raises UnavailableError before the measurements
        return measure

    return ready


def open_sessions(stack: ExitStack, port: int, count: int) -> None:
    """Open sessions, send EHLO, and keep them open until the stack is closed."""
    socks = [stack.enter_context(socket.create_connection((HOST, port), timeout=600)) for _ in range(count)]
    for sock in socks:  # smtp-server waits before its greeting
        read_reply(sock)
    for sock in socks:
        sock.sendall(b"EHLO client.example.org\r\n")
    for sock in socks:
        read_reply(sock)


def read_reply(sock: socket.socket) -> None:
    """Read a reply, whose last line has a space after the code."""
    octets = b""
    while not octets.endswith(b"\r\n") or octets.splitlines()[-1][3:4] != b" ":
        received = sock.recv(4096)
        if not received:
            raise RuntimeError("the server has closed the connection")
        octets += received


def growth(server: str) -> Contender:
    """Return a contender: the growth of a server's peak memory from a message of 64 KiB to one of a number of MiB."""

    def ready(env: Environment) -> Measure:
        def measure(mebibytes: int) -> Sample:
            with ExitStack() as stack:
                process = start(evolve(env, stack=stack), SERVERS[server])
                measure_load(Load(size=1 << 16, sessions=1), process, 4)
                before = memory(process.pid, "VmHWM")
                sample = measure_load(Load(size=mebibytes << 20, sessions=1), process, 1)
                grown = memory(process.pid, "VmHWM") - before
                assert sample.rate is not None
                return Sample(max(grown, PAGE) / 1024, sample.rate * mebibytes)

        SERVERS[server](env, 0)
        return measure

    return ready


def importing(statement: str) -> Contender:
    """Return a contender: the mean time of an import in a new interpreter, from compiled files."""

    def ready(env: Environment) -> Measure:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(env.directory / "compiled")}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)

        def once() -> float:
            command = [sys.executable, "-c", IMPORT.format(statement)]
            result = subprocess.run(command, check=False, capture_output=True, env=environ, cwd=ROOT)
            if result.returncode:
                raise UnavailableError("not installed")
            return float(result.stdout)

        once()
        return lambda count: Sample(sum(once() for _ in range(count)) / count)

    return ready


CASES = [
    Case(
        name="an idle session, 5,000 open",
        contenders={server: idle(server) for server in IDLE},
        amount=5_000,
        short=20,
        unit="KiB per session",
        rounds=1,
    ),
    Case(
        name="an idle session, 9,900 open",
        contenders={"smtp_trio": idle("smtp_trio")},
        amount=9_900,
        short=20,
        unit="KiB per session",
        rounds=1,
    ),
    Case(
        name="a message of 1 GiB",
        contenders={server: growth(server) for server in ("smtp_trio", "floor", "smtp-server", "smtp-sink")},
        amount=1024,
        short=4,
        unit="MiB of growth",
        rate="MiB/s",
        rounds=1,
    ),
    Case(
        name="import",
        contenders={
            "smtp_trio.Server": importing("import smtp_trio; smtp_trio.Server"),
            "smtp_trio.connect": importing("import smtp_trio; smtp_trio.connect"),
            "smtp_trio": importing("import smtp_trio"),
            "smtp_trio.protocol": importing("import smtp_trio.protocol"),
            "trio": importing("import trio"),
            "aiosmtpd": importing("import aiosmtpd.controller"),
            "aiosmtplib": importing("import aiosmtplib"),
            "smtplib": importing("import smtplib"),
        },
        amount=5,
        short=1,
        unit="ms of CPU",
    ),
]
