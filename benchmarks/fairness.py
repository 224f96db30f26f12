"""Fairness: how long a client that waits for each reply has to wait beside clients that flood the server."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from .case import Case, Contender, Environment, Measure, Sample, cores, pinned
from .load import Connection
from .servers import ROOT, Process, shared_server

#: Seconds after which a measurement ends.
MAX_TIME = 2.0
#: The commands of the measured client, and the codes of their replies.
COMMANDS = (
    (b"MAIL FROM:<a@example.org>\r\n", b"250"),
    (b"RCPT TO:<b@example.org>\r\n", b"250"),
    (b"DATA\r\n", b"354"),
    (b"Subject: a benchmark\r\n\r\n.\r\n", b"250"),
)
ALL = ("smtp_trio", "floor", "aiosmtpd", "aiosmtpd on uvloop", "smtp-server")
#: The floor looks for the end of a message only at the end of what it has read, so it cannot receive many at once.
WITHOUT_FLOOR = tuple(name for name in ALL if name != "floor")


@contextmanager
def flooded(server: Process, connections: int, kind: str) -> Iterator[None]:
    """Let other connections flood the server during the block."""
    command = [sys.executable, "-m", "benchmarks.flood", str(server.port), str(connections), kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
            assert process.poll() is None, "the flood has ended"
        finally:
            process.kill()


def measure_client(server: Process, count: int, connections: int = 0, kind: str = "") -> Sample:
    """Send messages one command at a time, and measure the time until each reply.

    Returns the 99th percentile and the median of these times in microseconds. A reply that does not come before the end
    of the measurement counts with the time until then.
    """
    with ExitStack() as stack:
        connection = Connection(server.port)
        stack.callback(connection.close)
        connection.read_reply(b"220")
        connection.exchange(b"EHLO client.example.org\r\n", [b"250"])
        if connections:
            stack.enter_context(flooded(server, connections, kind))
        connection.sock.settimeout(MAX_TIME)
        waits: list[float] = []
        end = time.perf_counter() + MAX_TIME
        for command, code in COMMANDS * count:
            before = time.perf_counter()
            with suppress(TimeoutError):
                connection.exchange(command, [code])
            after = time.perf_counter()
            waits.append(1e6 * (after - before))
            if after > end:
                break
    return Sample(sorted(waits)[len(waits) * 99 // 100], statistics.median(waits))


def waiting_client(server: str, connections: int, kind: str) -> Contender:
    """Return a contender: the measured client beside flooding connections (one in the short form)."""

    def ready(env: Environment) -> Measure:
        process = shared_server(env, server)
        flooding = min(connections, 1) if env.short else connections

        def measure(count: int) -> Sample:
            with pinned(cores()[1]):
                return measure_client(process, count, flooding, kind)

        return measure

    return ready


def case(name: str, connections: int, kind: str = "", servers: tuple[str, ...] = ALL) -> Case:
    """Return a case with all servers under the same flood."""
    return Case(
        name=name,
        contenders={server: waiting_client(server, connections, kind) for server in servers},
        amount=250,
        short=2,
        unit="\N{MICRO SIGN}s until the reply, 99th percentile",
        rate="\N{MICRO SIGN}s, median",
        rounds=3,
    )


CASES = [
    case("a waiting client alone", 0),
    case("a waiting client beside a flood of NOOP, 1 connection", 1, "NOOP"),
    case("a waiting client beside a flood of NOOP, 10 connections", 10, "NOOP"),
    case("a waiting client beside a flood of recipients, 10 connections", 10, "recipients"),
    case("a waiting client beside a flood of tiny messages, 1 connection", 1, "messages", WITHOUT_FLOOR),
    case("a waiting client beside a flood of tiny messages, 10 connections", 10, "messages", WITHOUT_FLOOR),
]
