"""A program: a mail intake to kill and to trace. It prints its port and its process id.

Run it as ``python -m crash.intake maildir:PATH|sqlite:PATH [MUTANT]``, from tests/.

A mutant is an intake that lies about what is safe, to show that the check finds it out:
``no-file-flush`` and ``no-directory-flush`` (Maildir), ``no-log-flush`` (SQLite), ``early`` (answers 250 and then stores).
"""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from typing import TYPE_CHECKING, Any

import trio

import smtp_trio
from smtp_trio.stores import Maildir, SQLite, Store, sqlite

if TYPE_CHECKING:
    from collections.abc import Callable


def make_store(spec: str) -> Maildir | SQLite:
    kind, _, path = spec.partition(":")
    return Maildir(path) if kind == "maildir" else SQLite(path)


def without_flush(of: Callable[[int], bool]) -> None:
    fsync = os.fsync

    def careless(fd: int) -> None:
        if not of(os.fstat(fd).st_mode):
            fsync(fd)

    os.fsync = careless  # type: ignore[assignment]


def without_log_flush() -> None:
    prepare = sqlite.prepare

    def careless(db: sqlite3.Connection) -> None:
        prepare(db)
        db.execute("PRAGMA synchronous = OFF")

    sqlite.prepare = careless


class Early(smtp_trio.Hooks):
    """Says 250 while the message is on its way to the disk."""

    def __init__(self, store: Store[Any], nursery: trio.Nursery) -> None:
        self.store, self.nursery = store, nursery

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> None:
        spool = self.store._spool(session, body.envelope)
        await spool.fill(body)
        self.nursery.start_soon(self.store._group.submit, spool)


async def main(spec: str, mutant: str) -> None:
    if mutant == "no-file-flush":
        without_flush(stat.S_ISREG)
    elif mutant == "no-directory-flush":
        without_flush(stat.S_ISDIR)
    elif mutant == "no-log-flush":
        without_log_flush()
    store = make_store(spec)
    async with trio.open_nursery() as nursery:
        hooks = Early(store, nursery) if mutant == "early" else store
        listeners = await nursery.start(smtp_trio.Server(hooks, name="intake.test").serve, 0, "127.0.0.1")
        print(listeners[0].socket.getsockname()[1], os.getpid(), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
