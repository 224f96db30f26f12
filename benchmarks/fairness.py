"""One client among others: how long a client that says one command at a time waits for its answers beside one that floods."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from .case import Case, Contender, Ground, Measure, Sample, cores, pinned
from .load import Talk
from .servers import ROOT, Process, running

#: Seconds, after which a server that lets the polite client wait has shown enough.
LONGEST = 2.0
#: What the polite client says, and what it is answered.
COMMANDS = (
    (b"MAIL FROM:<a@example.org>\r\n", b"250"),
    (b"RCPT TO:<b@example.org>\r\n", b"250"),
    (b"DATA\r\n", b"354"),
    (b"Subject: polite\r\n\r\n.\r\n", b"250"),
)
ALL = ("smtp_trio", "floor", "aiosmtpd", "aiosmtpd on uvloop", "smtp-server")
#: The floor knows a message by where it ends in what it reads, so it cannot have many at once.
TAKING = tuple(name for name in ALL if name != "floor")


@contextmanager
def flooded(server: Process, connections: int, kind: str) -> Iterator[None]:
    """Meanwhile others flood the server."""
    command = [sys.executable, "-m", "benchmarks.flood", str(server.port), str(connections), kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
            assert process.poll() is None, "the flood has run dry"
        finally:
            process.kill()


def polite(server: Process, count: int, connections: int = 0, kind: str = "") -> Sample:
    """So many messages, a command at a time: microseconds that 99 of 100 answers took at most, and the median.

    An answer that takes too long is the last one, and counts with what it took until then.
    """
    with ExitStack() as stack:
        talk = Talk(server.port)
        stack.callback(talk.close)
        talk.hear(b"220")
        talk.say(b"EHLO polite.example.org\r\n", [b"250"])
        if connections:
            stack.enter_context(flooded(server, connections, kind))
        talk.sock.settimeout(LONGEST)
        waits: list[float] = []
        end = time.perf_counter() + LONGEST
        for command, code in COMMANDS * count:
            before = time.perf_counter()
            with suppress(TimeoutError):
                talk.say(command, [code])
            after = time.perf_counter()
            waits.append(1e6 * (after - before))
            if after > end:
                break
    return Sample(sorted(waits)[len(waits) * 99 // 100], statistics.median(waits))


def beside(server: str, connections: int, kind: str) -> Contender:
    """The polite client beside so many connections that flood; in the short form beside one."""

    def ready(ground: Ground) -> Measure:
        process = running(ground, server)
        many = min(connections, 1) if ground.short else connections

        def measure(count: int) -> Sample:
            with pinned(cores()[1]):
                return polite(process, count, many, kind)

        return measure

    return ready


def case(name: str, connections: int, kind: str = "", servers: tuple[str, ...] = ALL) -> Case:
    """All beside the same flood."""
    return Case(
        name=name,
        contenders={server: beside(server, connections, kind) for server in servers},
        amount=250,
        short=2,
        unit="\N{MICRO SIGN}s that 99 of 100 answers take at most",
        rate="\N{MICRO SIGN}s, the median",
        rounds=3,
    )


CASES = [
    case("a polite client alone", 0),
    case("a polite client beside a flood of NOOP, 1 connection", 1, "NOOP"),
    case("a polite client beside a flood of NOOP, 10 connections", 10, "NOOP"),
    case("a polite client beside a flood of recipients, 10 connections", 10, "recipients"),
    case("a polite client beside a flood of tiny messages, 1 connection", 1, "messages", TAKING),
    case("a polite client beside a flood of tiny messages, 10 connections", 10, "messages", TAKING),
]
