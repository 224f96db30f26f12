"""Many large messages at the same time: ``python -m benchmarks.memory_budget [--short]``.

Each session sends a message as fast as the server takes it. The server's resident memory must not grow by more than its
budget (``--limit memory=...``) and `BASE`. Each session must end with 250 or a temporary refusal, and only what got a 250
may be stored.

The messages do not fit on the disk. With the small budget, the memory is used up soon, and only as many messages are
accepted as it allows to be received at a time. With the large one, all are received at the same time, until the file
system of the store, a small one in memory, is full.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import PIPE

from attrs import evolve, frozen

from .case import Environment
from .large_peers import BLOCK, header
from .resources import raise_descriptor_limit
from .servers import ROOT
from .soak import STORES, held, listening, settled
from .watched import watched

CLIENTS = 2
#: What a server needs besides, in MiB: modules and code that the first messages load, the stacks of threads, and SQLite's cache.
BASE = 10
#: Set in the process that has a mount namespace of its own.
INSIDE = "SMTP_TRIO_MEMORY_NAMESPACE"
MIB = 1 << 20


@frozen
class Form:
    """A case: the sessions, the size of a message, the budget, and the size of the file system of the store, in MiB."""

    sessions: int
    size: int
    budget: int
    disk: int | None = None


WHOLE = (Form(1000, 100, 24), Form(1000, 100, 256, disk=4096))
SHORT = (Form(60, 3, 2), Form(60, 3, 16))


def enter_namespace() -> bool:
    """Run this program again in a mount namespace of its own, unless it runs in one. Return False if that is not possible."""
    if INSIDE in os.environ:
        return True
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    command = [unshare, *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        return False
    os.environ[INSIDE] = "1"
    os.execv(unshare, [*command, sys.executable, "-m", "benchmarks.memory_budget", *sys.argv[1:]])


def command(store: str, directory: Path, form: Form) -> list[str]:
    """Return the arguments of the server."""
    options = ["--store", f"{store}:{directory / store}", "--accept", "example.org", "--port", "0"]
    options += ["--size", f"{form.size + 1}M", "--log-format", "json"]
    for limit in (f"memory={form.budget}M", f"sessions={form.sessions + 10}"):
        options += ["--limit", limit]
    return ["serve", *options]


def stored(store: str, directory: Path) -> Iterator[bytes]:
    """Iterate over the stored messages, without the fields that the store adds."""
    if store == "maildir":
        for name in os.listdir(directory / store / "new"):
            octets = (directory / store / "new" / name).read_bytes()
            yield octets[octets.index(b"Subject: ") :]
        return
    with closing(sqlite3.connect(directory / store)) as db:
        for (uid,) in db.execute("SELECT uid FROM messages").fetchall():
            yield db.execute("SELECT body FROM messages WHERE uid = ?", [uid]).fetchone()[0]


def run(store: str, form: Form, directory: Path) -> list[str]:
    """Run a case, print the figures, and return what is wrong."""
    log = directory / "log"
    (directory / "temporary").mkdir()
    with (
        watched(command(store, directory, form), log, TMPDIR=str(directory / "temporary")) as server,
        ExitStack() as stack,
    ):
        port = listening(server, log)
        holds, before = settled(server, port, store, directory), server.memory()
        clients = []
        for n in range(CLIENTS):
            count = form.sessions // CLIENTS
            arguments = [sys.executable, "-m", "benchmarks.large_peers", *map(str, (port, n * count, count, form.size))]
            clients.append(
                stack.enter_context(subprocess.Popen(arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True))
            )
            stack.callback(clients[-1].kill)
        # All begin together: a server whose memory is used up by the first messages would refuse the other sessions.
        for client in clients:
            assert client.stdout is not None
            client.stdout.readline()
        began = time.monotonic()
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        counted = 0
        while any(client.poll() is None for client in clients):
            counted = max(counted, server.report()["memory"])
            time.sleep(0.5)
        if any(client.returncode for client in clients):
            raise RuntimeError("a client has failed")
        seconds = time.monotonic() - began
        outcomes = {int(n): outcome for client in clients for n, outcome in json.loads(client.communicate()[0]).items()}
        peak = server.memory("VmHWM")
        deadline = time.monotonic() + 600
        while (after := held(server, store, directory)) != holds and time.monotonic() < deadline:
            time.sleep(0.2)
        print(
            f"{store}, {form.sessions} sessions of {form.size} MiB, budget {form.budget} MiB: memory {before / 1024:.0f} MiB "
            f"at the start, +{(peak - before) / 1024:.0f} MiB at most, +{(server.memory() - before) / 1024:.0f} MiB after; "
            f"{counted / MIB:.0f} MiB counted; {seconds:.0f} s; {dict(Counter(outcomes.values()))}",
            flush=True,
        )
    problems = []
    if peak - before > (form.budget + BASE) * 1024:
        problems.append(f"the memory grew by {(peak - before) / 1024:.1f} MiB")
    if after != holds:
        problems.append(f"the server holds {after}, before {holds}")
    other = {outcome for outcome in outcomes.values() if outcome != "250" and not outcome.startswith("4")}
    if other:
        problems.append(f"sessions ended with {other}")
    found: Counter[int] = Counter()
    for octets in stored(store, directory):
        number = int(octets[9 : octets.index(b"\r\n")])
        found[number] += 1
        if octets != header(number) + BLOCK * (form.size * MIB // len(BLOCK)) + b"\r\n":
            problems.append(f"message {number} was changed")
    accepted = Counter(number for number, outcome in outcomes.items() if outcome == "250")
    if found != accepted:
        problems.append(f"lost: {sorted(accepted - found)}; stored and not accepted: {sorted(found - accepted)}")
    return problems


def main() -> int:
    """Run all cases with each store, and return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory_budget", description="Send many large messages at a time.")
    parser.add_argument("--short", action="store_true", help="60 sessions of 3 MiB")
    parser.add_argument("--store", choices=STORES, action="append", help="only with this store")
    parser.add_argument("--size", type=int, metavar="MIB", help="messages of this size")
    parser.add_argument("--budget", type=int, metavar="MIB", help="only with this budget")
    args = parser.parse_args()
    forms = SHORT if args.short else WHOLE
    if any(form.disk for form in forms) and not enter_namespace():
        print("skipped: mount namespaces are not available")
        return 0
    raise_descriptor_limit()
    problems = []
    for form in forms:
        if args.budget not in {None, form.budget}:
            continue
        if args.size is not None:
            form = evolve(form, size=args.size)
        for store in args.store or STORES:
            with ExitStack() as stack:
                directory = Environment(stack).directory
                if form.disk is not None:
                    mount = ["mount", "-t", "tmpfs", "-o", f"size={form.disk}M", "tmpfs", str(directory)]
                    subprocess.run(mount, check=True)
                    stack.callback(subprocess.run, ["umount", "-l", str(directory)], check=True)
                problems += [f"{store}, {form.budget} MiB: {each}" for each in run(store, form, directory)]
    print("\n".join(problems) or "within the budget, and nothing is stored that was refused")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
