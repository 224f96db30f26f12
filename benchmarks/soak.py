"""Many messages over many connections, some of which misbehave: ``python -m benchmarks.soak [--short]``.

The messages are sent to ``smtp-trio serve`` in rounds. After each one no connection is left, and the server must hold
what it held before the first: the same tasks and file descriptors, no session, no temporary file, and from the second
round on nearly the same memory. At the end the store must have each message that got a 250 once and whole, and no
message that got another reply or whose end was not sent.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from attrs import Factory, define, evolve, frozen

from smtp_trio.stores import read

from .case import Environment
from .resources import cpu_seconds, raise_descriptor_limit
from .servers import HOST, ROOT, certificate, last_lines
from .soak_peers import MAX_SIZE, message
from .watched import Watched, watched

STORES = ("maildir", "sqlite")
#: Processes that the clients are divided into.
CLIENTS = 2
#: One in so many peers misbehaves.
BAD = 10
#: Rounds before the memory is compared.
WARM_UP = 3
#: How much more memory the server may have after any later round.
GROWTH = 1.05
#: Seconds that the server has after a round to end its sessions, also on a machine that is busy.
MAX_WAIT = 600.0
#: Seconds of silence after which the server ends a session.
TIMEOUT = 20


@frozen
class Form:
    """The extent of a soak."""

    messages: int
    connections: int
    rounds: int
    growth: float
    """How much more memory the server may have after a later round than after the first ones."""


WHOLE = Form(messages=100_000, connections=200, rounds=10, growth=1.05)
#: In short rounds, not everything happens before the memory is compared.
SHORT = Form(messages=1_500, connections=50, rounds=5, growth=1.2)


def command(store: str, directory: Path, connections: int) -> list[str]:
    """Return the arguments of the server.

    All peers have one address, so its limits must allow for all of them, and for those that the server still takes for open.
    """
    options = [
        "--store", f"{store}:{directory / store}", "--accept", "example.org", "--port", "0",
        "--tls-cert", certificate(), "--size", str(MAX_SIZE), "--timeout", str(TIMEOUT), "--log-format", "json",
    ]  # fmt: skip
    for limit in ("count-local=yes", f"per-peer={2 * connections}", "connections-per-minute=none"):
        options += ["--limit", limit]
    return ["serve", *options]


@define
class Messages:
    """What became of the messages of all rounds."""

    accepted: set[int] = Factory(set)
    outstanding: set[int] = Factory(set)
    """Messages without a reply: the server may have stored them or not."""
    refused: int = 0
    outcomes: Counter[str] = Factory(Counter)
    first: int = 0

    def run_round(self, port: int, count: int, connections: int, server: Watched, directory: Path) -> int:
        """Deliver so many messages, and return the largest memory of the server meanwhile, in KiB."""
        bad = max(1, connections // BAD // CLIENTS)
        outputs = [directory / f"client-{n}" for n in range(CLIENTS)]
        peak = 0
        with ExitStack() as stack:
            clients = []
            for output in outputs:
                numbers = [port, self.first, count // CLIENTS, connections // CLIENTS - bad, bad]
                self.first += 20 * count
                with output.open("wb") as file:
                    arguments = [sys.executable, "-m", "benchmarks.soak_peers", *map(str, numbers)]
                    clients.append(subprocess.Popen(arguments, cwd=ROOT, stdout=file))
                stack.callback(clients[-1].wait)
                stack.callback(clients[-1].kill)
            while any(client.poll() is None for client in clients):
                peak = max(peak, server.memory())
                time.sleep(0.1)
        if any(client.returncode for client in clients):
            raise RuntimeError("a client has failed")
        for output in outputs:
            result = json.loads(output.read_bytes())
            self.accepted.update(result["accepted"])
            self.outstanding.update(result["outstanding"])
            self.refused += result["refused"]
            self.outcomes.update(result["outcomes"])
        return peak


# --- what the server holds, and what it has stored --------------------------------------------------------------------


def held(server: Watched, store: str, directory: Path) -> dict[str, int]:
    """Return what the server holds."""
    found = {**server.report(), "descriptors": server.descriptors()}
    found["temporary files"] = len(os.listdir(directory / "temporary"))
    if store == "maildir":
        found["temporary files"] += len(os.listdir(directory / store / "tmp"))
    else:
        with closing(sqlite3.connect(directory / store)) as db:
            for query in (
                "SELECT count(*) FROM unpublished",
                "SELECT count(*) FROM pieces WHERE uid NOT IN (SELECT uid FROM message_rows)",
            ):
                found["temporary files"] += db.execute(query).fetchone()[0]
    return found


def stored(store: str, directory: Path) -> Iterator[bytes]:
    """Iterate over the stored messages."""
    if store == "maildir":
        for name in os.listdir(directory / store / "new"):
            yield read(directory / store / "new" / name).message
        return
    with closing(sqlite3.connect(directory / store)) as db:
        for (body,) in db.execute("SELECT body FROM messages"):
            yield body


def check_store(store: str, directory: Path, messages: Messages) -> list[str]:
    """Return what is wrong with the stored messages."""
    found: Counter[int] = Counter()
    torn = 0
    for octets in stored(store, directory):
        subject = re.match(rb"Subject: (\d+)\r\n", octets)
        number = int(subject[1]) if subject else -1
        found[number] += 1
        torn += octets != message(number)
    lost = messages.accepted - found.keys()
    wrong = found.keys() - messages.accepted - messages.outstanding
    twice = [number for number, times in found.items() if times > 1]
    print(
        f"  {len(found)} messages stored: {len(messages.accepted)} accepted, {len(messages.outstanding)} without a reply"
    )
    return [
        f"{len(numbers)} messages {what}: {sorted(numbers)[:5]}"
        for numbers, what in ((lost, "lost"), (wrong, "stored and not accepted"), (twice, "stored twice"))
        if numbers
    ] + ([f"{torn} messages changed"] if torn else [])


def check_log(log: Path, messages: Messages) -> list[str]:
    """Return what is wrong with the server's log."""
    wrong: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        event = json.loads(line) if line.startswith("{") else {"level": "error", "event": line}
        if event["level"] not in {"debug", "info"} or "Traceback" in line:
            wrong[event["event"]] += 1
    return [f"in the log: {count} x {event}" for event, count in wrong.items()]


# --- the program ------------------------------------------------------------------------------------------------------


def listening(server: Watched, log: Path) -> int:
    """Return the port of the server, when its log has it."""
    deadline = time.monotonic() + 600
    while not (found := re.search(r"127\.0\.0\.1:(\d+)", log.read_text())):
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server does not listen:\n{last_lines(log.read_text())}")
        time.sleep(0.02)
    return int(found[1])


def settled(server: Watched, port: int, store: str, directory: Path) -> dict[str, int]:
    """Return what the server holds after its first session, when it has started completely."""
    with socket.create_connection((HOST, port)) as sock:
        sock.recv(1000)
    before: dict[str, int] = {}
    while (found := held(server, store, directory)) != before or found["sessions"] or found["SessionTask"]:
        before = found
        time.sleep(0.1)
    return found


def soak(store: str, form: Form, directory: Path) -> list[str]:
    """Run the rounds, print what the server holds after each, and return what is wrong."""
    log, problems, messages = directory / "log", [], Messages()
    count = form.messages // form.rounds
    (directory / "temporary").mkdir()
    with watched(command(store, directory, form.connections), log, TMPDIR=str(directory / "temporary")) as server:
        port = listening(server, log)
        before = settled(server, port, store, directory)
        print(f"{store}, before: {server.memory()} KiB, {before}", flush=True)
        quiet: list[int] = []
        for number in range(1, form.rounds + 1):
            began, cpu = time.monotonic(), cpu_seconds(server.pid)
            peak = messages.run_round(port, count, form.connections, server, directory)
            seconds = time.monotonic() - began
            deadline = time.monotonic() + MAX_WAIT
            while (after := held(server, store, directory)) != before and time.monotonic() < deadline:
                time.sleep(0.2)
            quiet.append(server.memory())
            print(
                f"  round {number}: {quiet[-1]} KiB, at most {peak}; {len(messages.accepted)} accepted, "
                f"{messages.refused} refused; {count / seconds:.0f}/s, server "
                f"{100 * (cpu_seconds(server.pid) - cpu) / seconds:.0f} % of a core; "
                f"{'holds what it held before' if after == before else after}",
                flush=True,
            )
            if after != before:
                problems.append(f"round {number}: the server holds {after}, before {before}")
        most = max(quiet[WARM_UP - 1 :])
        print(f"  memory after round {WARM_UP} and later: up to {100 * (most / quiet[WARM_UP - 1] - 1):+.1f} %")
        if most > form.growth * quiet[WARM_UP - 1]:
            problems.append(f"the memory grew from {quiet[WARM_UP - 1]} to {most} KiB")
        server.process.send_signal(signal.SIGTERM)
        if code := server.process.wait(MAX_WAIT):
            problems.append(f"the server ended with exit code {code}")
    for outcome, times in sorted(messages.outcomes.items()):
        if outcome.startswith("lost") and "421" not in outcome:
            problems.append(f"{times} x {outcome}")
        print(f"  {times:6} x {outcome}")
    return problems + check_store(store, directory, messages) + check_log(log, messages)


def main() -> int:
    """Run the soak with each store, and return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description="Send messages for a long time.")
    parser.add_argument("--short", action="store_true", help="3,000 messages over 50 connections")
    parser.add_argument("--messages", type=int, default=None, metavar="N", help="for each store (default: 100,000)")
    parser.add_argument("--store", choices=STORES, action="append", help="only with this store")
    args = parser.parse_args()
    raise_descriptor_limit()
    form = SHORT if args.short else WHOLE
    if args.messages is not None:
        form = evolve(form, messages=args.messages)
    problems = []
    for store in args.store or STORES:
        with ExitStack() as stack:
            problems += [f"{store}: {each}" for each in soak(store, form, Environment(stack).directory)]
    print("\n".join(problems) or "nothing lost, nothing stored that was refused, and nothing left")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
