"""A server with a store, to be killed or traced. It prints its port and its process id.

Run it in tests/ as ``python -m crash.server maildir:PATH|maildirs:PATH|sqlite:PATH [MUTANT]``.

A mutant sends a 250 before the message is durable, to show that the checks detect this: ``no-file-flush`` and
``no-directory-flush`` (Maildir) and ``no-log-flush`` (SQLite) leave out a flush, ``early`` sends 250 before it stores.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from typing import TYPE_CHECKING, Any

import trio

import smtp_trio
from smtp_trio.stores import Entry, Maildir, RecipientMaildirs, SQLite, Store, _sqlite_connection

if TYPE_CHECKING:
    from collections.abc import Callable


def make_store(spec: str) -> Store[Any]:
    """Return the store that ``maildir:PATH`` or ``sqlite:PATH`` names, or for ``maildirs:PATH`` one for each recipient."""
    kind, _, path = spec.partition(":")
    if kind == "maildirs":
        return RecipientMaildirs(os.path.join(path, "{domain}/{local}"))
    return Maildir(path) if kind == "maildir" else SQLite(path)


def skip_fsync(is_skipped: Callable[[int], bool]) -> None:
    """Make ``os.fsync`` do nothing for files whose mode ``is_skipped`` accepts."""
    fsync = os.fsync

    def fsync_others(fd: int) -> None:
        if not is_skipped(os.fstat(fd).st_mode):
            fsync(fd)

    os.fsync = fsync_others  # type: ignore[assignment]


def skip_log_flush() -> None:
    """Make SQLite never flush its log."""
    prepare = _sqlite_connection.prepare  # type: ignore[attr-defined]

    def prepare_unsynchronized(db: sqlite3.Connection) -> None:
        prepare(db)
        db.execute("PRAGMA synchronous = OFF")

    _sqlite_connection.prepare = prepare_unsynchronized  # type: ignore[attr-defined]


class EarlyReply(smtp_trio.Hooks):
    """Hooks that send 250 while the message is being stored."""

    def __init__(self, store: Store[Any], nursery: trio.Nursery) -> None:
        self.store, self.nursery = store, nursery

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> None:
        spool = self.store._spool(Entry.of(session, body.envelope), session.received)
        await spool.fill(body)
        self.nursery.start_soon(self.store._group.submit, spool)


async def main(spec: str, mutant: str) -> None:
    if mutant == "no-file-flush":
        skip_fsync(stat.S_ISREG)
    elif mutant == "no-directory-flush":
        skip_fsync(stat.S_ISDIR)
    elif mutant == "no-log-flush":
        skip_log_flush()
    store = make_store(spec)
    async with trio.open_nursery() as nursery:
        hooks = EarlyReply(store, nursery) if mutant == "early" else store
        listeners = await nursery.start(smtp_trio.Server(hooks, name="server.test").serve, 0, "127.0.0.1")
        print(listeners[0].socket.getsockname()[1], os.getpid(), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
