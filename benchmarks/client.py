"""What a sent message costs: smtp_trio's client against aiosmtplib and smtplib, 1 KiB messages over one kept connection, in one run.

    python benchmarks/client.py [--messages N] [--rounds N]

The server is Postfix's ``smtp-sink`` (Debian: ``postfix``; it pipelines and takes no chunks), pinned to one core, the clients to
another. The clients take turns, round by round, so that a noisy machine troubles all alike; what counts are the ratios, each of two
neighbours in a round. Needs aiosmtplib. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import smtplib
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiosmtplib
import trio

import smtp_trio

HOST = "127.0.0.1"
SENDER, RECIPIENT = "a@example.org", "b@example.org"
HEADER = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: a benchmark\r\n\r\n"
MESSAGE = HEADER + (b"x" * 62 + b"\r\n") * 15
#: Wall time and CPU time of so many messages, in seconds.
Cost = tuple[float, float]


class Clock:
    """Runs from its making on."""

    def __init__(self) -> None:
        self.start: Cost = (time.perf_counter(), time.process_time())

    def stop(self) -> Cost:
        """What has gone by, on the wall and in this process."""
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


def with_send(port: int, messages: int) -> Cost:
    """`smtp_trio.Client.send`, one message at a time."""

    async def main() -> Cost:
        async with smtp_trio.connect(HOST, port, tls="never") as client:
            clock = Clock()
            for _ in range(messages):
                await client.send(SENDER, [RECIPIENT], MESSAGE)
            return clock.stop()

    return trio.run(main)


def with_send_many(port: int, messages: int) -> Cost:
    """`smtp_trio.Client.send_many`, all in one call."""

    async def main() -> Cost:
        async with smtp_trio.connect(HOST, port, tls="never") as client:
            clock = Clock()
            results = await client.send_many((SENDER, [RECIPIENT], MESSAGE) for _ in range(messages))
            cost = clock.stop()
            assert all(result.complete for result in results)
            return cost

    return trio.run(main)


def with_aiosmtplib(port: int, messages: int) -> Cost:
    """``aiosmtplib.SMTP.sendmail``."""

    async def main() -> Cost:
        async with aiosmtplib.SMTP(hostname=HOST, port=port, start_tls=False) as client:
            clock = Clock()
            for _ in range(messages):
                await client.sendmail(SENDER, [RECIPIENT], MESSAGE)
            return clock.stop()

    return asyncio.run(main())


def with_smtplib(port: int, messages: int) -> Cost:
    """``smtplib.SMTP.sendmail``, which blocks."""
    with smtplib.SMTP(HOST, port, "localhost") as client:
        client.ehlo()
        clock = Clock()
        for _ in range(messages):
            client.sendmail(SENDER, [RECIPIENT], MESSAGE)
        return clock.stop()


CLIENTS: dict[str, Callable[[int, int], Cost]] = {
    "send": with_send,
    "send_many": with_send_many,
    "aiosmtplib": with_aiosmtplib,
    "smtplib": with_smtplib,
}


@contextmanager
def sink() -> Iterator[int]:
    """An smtp-sink on the first core, which listens on this port."""
    program = shutil.which("smtp-sink", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        raise SystemExit("smtp-sink is not here: it comes with Postfix (Debian: apt-get install postfix)")
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]  # nobody has it when the listener is gone
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with subprocess.Popen([program, *user, f"{HOST}:{port}", "100"]) as server:
        try:
            os.sched_setaffinity(server.pid, {min(os.sched_getaffinity(0))})
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    socket.create_connection((HOST, port)).close()
                except ConnectionRefusedError:
                    time.sleep(0.05)
                else:
                    break
            else:
                raise SystemExit("smtp-sink does not listen")
            yield port
        finally:
            server.kill()


def main() -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=2_000, help="of each client in each round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    costs: dict[str, list[Cost]] = {name: [] for name in CLIENTS}
    with sink() as port:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        for send in CLIENTS.values():  # nobody pays for what is made once
            send(port, 100)
        for _ in range(args.rounds):
            for name, send in CLIENTS.items():
                costs[name].append(send(port, args.messages))
    print(f"{len(MESSAGE)} octets a message, one kept connection, {args.rounds} rounds of {args.messages}")
    for name, values in costs.items():
        rates = [args.messages / wall for wall, _ in values]
        cpus = [1_000_000 * cpu / args.messages for _, cpu in values]
        print(
            f"{name:10} {statistics.median(rates):6.0f} messages a second ({min(rates):.0f} to {max(rates):.0f}),"
            f" {statistics.median(cpus):4.0f} us of CPU a message ({min(cpus):.0f} to {max(cpus):.0f})"
        )
    for name in ("send", "send_many"):
        faster = [theirs[0] / ours[0] for ours, theirs in zip(costs[name], costs["aiosmtplib"], strict=True)]
        dearer = [ours[1] / theirs[1] for ours, theirs in zip(costs[name], costs["smtplib"], strict=True)]
        print(
            f"{name:10} {statistics.median(faster):5.2f} times aiosmtplib's rate ({min(faster):.2f} to {max(faster):.2f}),"
            f" {statistics.median(dearer):4.2f} of smtplib's CPU ({min(dearer):.2f} to {max(dearer):.2f})"
        )


if __name__ == "__main__":
    main()
