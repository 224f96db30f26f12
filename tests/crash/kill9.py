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
from typing import TYPE_CHECKING

from smtp_trio.stores import read

from .load import Load, large_message, message, number_of, running_server

if TYPE_CHECKING:
    from collections.abc import Callable

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


def partial_in(spec: str) -> int:
    """Return how many messages are partly stored, invisible to readers."""
    kind, _, path = spec.partition(":")
    if kind == "maildir":
        return len(os.listdir(os.path.join(path, "tmp")))
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("SELECT count(*) FROM unpublished").fetchone()
        return int(count)


def check_no_orphans(spec: str) -> None:
    """Check that a store has nothing of a message that it has not stored. No server may be using it.

    The files in ``tmp`` of a Maildir are removed once they are 36 hours old; they are made that old here.
    """
    kind, _, path = spec.partition(":")
    if kind == "maildir":
        for file in os.scandir(os.path.join(path, "tmp")):
            os.utime(file, (1, 1))
    with running_server(spec):
        pass
    assert partial_in(spec) == 0
    if kind == "maildir":
        return
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT uid FROM pieces WHERE uid NOT IN (SELECT uid FROM message_rows)").fetchall() == []


def kill_round(
    spec: str,
    seed: int,
    messages: int,
    *,
    connections: int = CONNECTIONS,
    make: Callable[[int], bytes] = message,
    longest_delay: float = 0.02,
) -> str:
    """Run one round, and return its result as a line.

    Fails when a message is lost, incomplete or duplicated needlessly.
    """
    load = Load(make=make)
    for number in range(messages):
        load.todo.put(number)
    generator = random.Random(seed)
    kill_after = generator.randrange(messages // 20, messages * 19 // 20)
    delay = generator.random() * longest_delay
    with running_server(spec) as (port, pid):
        kill = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
        load.on_accepted = lambda count: kill.start() if count == kill_after else None
        load.run(port, connections)
        kill.join()
    accepted, unknown = set(load.accepted), set(load.unknown)
    after_kill = stored(spec)
    lost = accepted - after_kill.keys()
    assert not lost, f"seed {seed}: accepted and lost: {sorted(lost)}"
    incomplete = after_kill.keys() - accepted - unknown
    assert not incomplete, f"seed {seed}: stored before the end was sent: {sorted(incomplete)}"
    partial = partial_in(spec)
    assert partial or make is not large_message, f"seed {seed}: the kill has hit no large message"

    load.on_accepted = lambda count: None
    with running_server(spec) as (port, _):
        load.run(port, connections)
    check_no_orphans(spec)
    found = stored(spec)
    assert found.keys() == set(range(messages)), f"seed {seed}: {messages - len(found)} messages are missing"
    duplicated = {number for number, times in found.items() if times > 1}
    assert duplicated <= unknown, f"seed {seed}: duplicated after a reply: {sorted(duplicated - unknown)}"
    assert max(found.values()) <= 2
    return (
        f"seed {seed}: killed after {len(accepted)} of {messages}; {len(unknown)} outstanding, "
        f"{len(duplicated)} of them duplicated, {partial} left partly stored and removed; nothing lost"
    )


def several_maildirs_round(path: str, messages: int, kill_after: int) -> None:
    """Kill a server that delivers each message into three Maildirs. Each of them must have every accepted message.

    A message without a reply can be in some of them, and be there twice after it was sent again.
    """
    load = Load(recipients=(b"one@intake.test", b"two@intake.test", b"three@other.test"))
    folders = ("intake.test/one", "intake.test/two", "other.test/three")
    for number in range(messages):
        load.todo.put(number)
    with running_server(f"maildirs:{path}") as (port, pid):
        load.on_accepted = lambda count: os.kill(pid, signal.SIGKILL) if count == kill_after else None
        load.run(port, CONNECTIONS)
    accepted, unknown = set(load.accepted), set(load.unknown)
    for folder in folders:
        after_kill = stored(f"maildir:{os.path.join(path, folder)}")
        assert accepted <= after_kill.keys() <= accepted | unknown, folder
    load.on_accepted = lambda count: None
    with running_server(f"maildirs:{path}") as (port, _):
        load.run(port, CONNECTIONS)
    for folder in folders:
        found = stored(f"maildir:{os.path.join(path, folder)}")
        assert found.keys() == set(range(messages)), folder
        assert {number for number, times in found.items() if times > 1} <= unknown, folder


def main(kind: str, directory: str, rounds: str = "1", messages: str = "5000") -> None:
    for seed in range(int(rounds)):
        print(kind, kill_round(f"{kind}:{os.path.join(directory, f'{kind}-{seed}')}", seed, int(messages)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
