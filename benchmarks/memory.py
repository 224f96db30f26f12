"""What is held: by an idle session, by a large message, and what an import takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack

from attrs import evolve

from .case import Case, Contender, Ground, Measure, Missing, Sample
from .load import Load, drive
from .resources import memory, raise_limits
from .servers import HOST, ROOT, SERVERS, start

IMPORT = "import time; start = time.process_time(); {}; print((time.process_time() - start) * 1000)"
#: KiB. Nothing grows by less, and ratios need a number.
PAGE = 4
#: Sessions that are opened at once.
BATCH = 200
IDLE = ("smtp_trio", "floor", "aiosmtpd", "aiosmtpd on uvloop", "smtp-server", "smtp-sink")


def idle(server: str) -> Contender:
    """So many sessions that have said EHLO, and then nothing."""

    def ready(ground: Ground) -> Measure:
        def measure(count: int) -> Sample:
            raise_limits()
            with ExitStack() as stack:
                process = start(evolve(ground, stack=stack), SERVERS[server])
                greet(stack, process.port, 1)
                before = memory(process.pid)
                for done in range(0, count, BATCH):
                    greet(stack, process.port, min(BATCH, count - done))
                return Sample(max(memory(process.pid) - before, PAGE) / count)

        SERVERS[server](ground, 0)  # what is missing is said now
        return measure

    return ready


def greet(stack: ExitStack, port: int, count: int) -> None:
    """Open so many sessions, and keep them."""
    socks = [stack.enter_context(socket.create_connection((HOST, port), timeout=30)) for _ in range(count)]
    for sock in socks:  # smtp-server waits a while before it greets
        hear(sock)
    for sock in socks:
        sock.sendall(b"EHLO client.example.org\r\n")
    for sock in socks:
        hear(sock)


def hear(sock: socket.socket) -> None:
    """Take a reply, whose last line has a space behind its code."""
    octets = b""
    while not octets.endswith(b"\r\n") or octets.splitlines()[-1][3:4] != b" ":
        received = sock.recv(4096)
        if not received:
            raise RuntimeError("the server has left")
        octets += received


def growth(server: str) -> Contender:
    """How much more than for a message of 64 KiB is held at most while one of so many MiB comes."""

    def ready(ground: Ground) -> Measure:
        def measure(mebibytes: int) -> Sample:
            with ExitStack() as stack:
                process = start(evolve(ground, stack=stack), SERVERS[server])
                drive(Load(size=1 << 16, sessions=1), process, 4)
                before = memory(process.pid, "VmHWM")
                sample = drive(Load(size=mebibytes << 20, sessions=1), process, 1)
                grown = memory(process.pid, "VmHWM") - before
                assert sample.rate is not None
                return Sample(max(grown, PAGE) / 1024, sample.rate * mebibytes)

        SERVERS[server](ground, 0)
        return measure

    return ready


def importing(statement: str) -> Contender:
    """A new interpreter, which imports; the mean of so many. It finds all of it compiled."""

    def ready(ground: Ground) -> Measure:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": str(ground.folder / "compiled")}
        env.pop("PYTHONDONTWRITEBYTECODE", None)

        def once() -> float:
            command = [sys.executable, "-c", IMPORT.format(statement)]
            done = subprocess.run(command, check=False, capture_output=True, env=env, cwd=ROOT)
            if done.returncode:
                raise Missing("not installed")
            return float(done.stdout)

        once()
        return lambda count: Sample(sum(once() for _ in range(count)) / count)

    return ready


CASES = [
    Case(
        name="an idle session, 5,000 open",
        contenders={server: idle(server) for server in IDLE},
        amount=5_000,
        short=20,
        unit="KiB a session",
        rounds=1,
    ),
    Case(
        name="an idle session, 9,900 open",
        contenders={"smtp_trio": idle("smtp_trio")},
        amount=9_900,
        short=20,
        unit="KiB a session",
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
            "smtp_trio alone": importing("import smtp_trio"),
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
