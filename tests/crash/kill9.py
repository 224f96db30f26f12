"""Kill -9 under load: what had its 250 is there, whole and once.

Run it as ``python -m crash.kill9 maildir|sqlite FOLDER [ROUNDS [MESSAGES]]``, from tests/.

A round sends numbered messages over twenty connections, kills the intake at some moment, starts another on the same
store, and sends what had no 250 again, as a client would. Then the store must hold every message whole: those that
were acknowledged before the kill once, and twice at most those whose 250 was under way.
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

from .load import Load, intake, number_of

CONNECTIONS = 20


def stored(spec: str) -> Counter[int]:
    """How often each message is in the store; fails for a torn one."""
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
    """One round; returns a line about it, and fails when a message is lost, torn or doubled without need."""
    load = Load()
    for number in range(messages):
        load.todo.put(number)
    chance = random.Random(seed)
    moment, delay = chance.randrange(messages // 20, messages * 19 // 20), chance.random() / 50
    with intake(spec) as (port, pid):
        kill = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
        load.on_reply = lambda count: kill.start() if count == moment else None
        load.run(port, CONNECTIONS)
        kill.join()
    before, under_way = set(load.acknowledged), set(load.unknown)
    after_kill = stored(spec)
    lost = before - after_kill.keys()
    assert not lost, f"seed {seed}: acknowledged and lost: {sorted(lost)}"
    unasked = after_kill.keys() - before - under_way
    assert not unasked, f"seed {seed}: stored before it was sent to its end: {sorted(unasked)}"
    leftovers = len(os.listdir(os.path.join(spec.partition(":")[2], "tmp"))) if spec.startswith("maildir") else 0

    load.on_reply = lambda count: None
    with intake(spec) as (port, _):
        load.run(port, CONNECTIONS)
    found = stored(spec)
    assert found.keys() == set(range(messages)), f"seed {seed}: {messages - len(found)} messages are missing"
    doubled = {number for number, times in found.items() if times > 1}
    assert doubled <= under_way, f"seed {seed}: doubled without need: {sorted(doubled - under_way)}"
    assert max(found.values()) <= 2
    return (
        f"seed {seed}: killed after {len(before)} of {messages}; {len(under_way)} under way, "
        f"{len(doubled)} of them doubled, {leftovers} files left in tmp/; nothing lost"
    )


def main(kind: str, folder: str, rounds: str = "1", messages: str = "5000") -> None:
    for seed in range(int(rounds)):
        print(kind, kill_round(f"{kind}:{os.path.join(folder, f'{kind}-{seed}')}", seed, int(messages)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
