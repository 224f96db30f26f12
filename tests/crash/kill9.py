"""SIGKILL under load: every message that got a 250 is stored once and complete.

Run it in tests/ as ``python -m crash.kill9 maildir|sqlite DIRECTORY [ROUNDS [MESSAGES]]``.

A round sends numbered messages over twenty connections, kills the server at a random moment, starts another one with
the same store, and sends the messages without a 250 again, as a client would. Then every message must be in the store
and complete: those that were accepted before the kill once, those whose reply was outstanding once or twice.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import threading
from collections import Counter
from contextlib import closing

from smtp_trio.stores import read

from .load import Load, number_of, running_server

CONNECTIONS = 20


def stored(spec: str) -> Counter[int]:
    """Return how many times each message is in the store, and check that all are complete."""
    kind, _, path = spec.partition(":")
    if kind == "maildir":
        new = os.path.join(path, "new")
        return Counter(number_of(read(os.path.join(new, name)).message) for name in os.listdir(new))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM messages WHERE size <> length(body)").fetchone() == (0,)
        assert (
            db.execute("SELECT count(*) FROM messages").fetchone()
            == db.execute("SELECT count(*) FROM recipients").fetchone()
        )
        return Counter(number_of(body) for (body,) in db.execute("SELECT body FROM messages"))


def kill_round(spec: str, seed: int, messages: int) -> str:
    """Run one round, and return its result as a line.

    Fails when a message is lost, incomplete or duplicated needlessly.
    """
    load = Load()
    for number in range(messages):
        load.todo.put(number)
    generator = random.Random(seed)
    kill_after, delay = generator.randrange(messages // 20, messages * 19 // 20), generator.random() / 50
    with running_server(spec) as (port, pid):
        kill = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
        load.on_accepted = lambda count: kill.start() if count == kill_after else None
        load.run(port, CONNECTIONS)
        kill.join()
    accepted, unknown = set(load.accepted), set(load.unknown)
    after_kill = stored(spec)
    lost = accepted - after_kill.keys()
    assert not lost, f"seed {seed}: accepted and lost: {sorted(lost)}"
    incomplete = after_kill.keys() - accepted - unknown
    assert not incomplete, f"seed {seed}: stored before the end was sent: {sorted(incomplete)}"
    leftovers = len(os.listdir(os.path.join(spec.partition(":")[2], "tmp"))) if spec.startswith("maildir") else 0

    load.on_accepted = lambda count: None
    with running_server(spec) as (port, _):
        load.run(port, CONNECTIONS)
    found = stored(spec)
    assert found.keys() == set(range(messages)), f"seed {seed}: {messages - len(found)} messages are missing"
    duplicated = {number for number, times in found.items() if times > 1}
    assert duplicated <= unknown, f"seed {seed}: duplicated after a reply: {sorted(duplicated - unknown)}"
    assert max(found.values()) <= 2
    return (
        f"seed {seed}: killed after {len(accepted)} of {messages}; {len(unknown)} outstanding, "
        f"{len(duplicated)} of them duplicated, {leftovers} files left in tmp/; nothing lost"
    )


def main(kind: str, directory: str, rounds: str = "1", messages: str = "5000") -> None:
    for seed in range(int(rounds)):
        print(kind, kill_round(f"{kind}:{os.path.join(directory, f'{kind}-{seed}')}", seed, int(messages)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
