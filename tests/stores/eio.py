"""A program that lets the k-th flush of the disk fail, for every k.

Run it in tests/ as ``fiu-run -x python -m stores.eio DIRECTORY``. libfiu intercepts calls to the C library, so the
flushes of SQLite fail as well as those of Python. For each store and each k this checks that a message is accepted only
if it is stored, that nothing of a refused one is left, and that the next one is stored without a restart.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import sys
from contextlib import closing

import trio

from smtp_trio.stores import Maildir, SQLite, StoreError, read

from .sessions import body, large, transaction

FLUSHES = (b"posix/io/sync/fsync", b"posix/io/sync/fdatasync")
LIBFIU = ctypes.CDLL("libfiu.so.0")
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint),
)


class FailingFlushes:
    """Counts flushes, and lets those from number ``first`` to ``last`` fail."""

    def __init__(self) -> None:
        self.count, self.first, self.last = 0, 0, 0
        self._callback = CALLBACK(self._flush)
        LIBFIU.fiu_init(0)
        for name in FLUSHES:
            LIBFIU.fiu_enable_external(name, 1, ctypes.c_void_p(errno.EIO), 0, self._callback)

    def _flush(self, *_: object) -> int:
        self.count += 1
        return self.first <= self.count <= self.last

    def arm(self, first: int, last: int) -> None:
        self.count, self.first, self.last = 0, first, last

    def disarm(self) -> None:
        self.arm(0, 0)


def messages_in(store: Maildir | SQLite) -> list[bytes]:
    """Return all messages in a store, and check that it is consistent."""
    if isinstance(store, Maildir):
        assert os.listdir(store.tmp) == []
        return [read(os.path.join(store.new, name)).message for name in os.listdir(store.new)]
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [read(store.path, uid).message for (uid,) in db.execute("SELECT uid FROM messages").fetchall()]


async def put(store: Maildir | SQLite, chunks: tuple[bytes, ...]) -> bool:
    """Store a message, and return whether it was accepted."""
    try:
        await store.put(transaction(), body(*chunks))
    except StoreError as error:
        return error.reply.accepted
    return True


async def sweep(
    make: type[Maildir | SQLite], directory: str, chunks: tuple[bytes, ...], flushes: FailingFlushes, *, lasting: bool
) -> int:
    """Let each flush of a message fail in turn, with ``lasting`` also all later ones. Return the number of flushes."""
    for k in range(1, 100):
        for opened in (False, True):
            store = make(os.path.join(directory, f"{make.__name__}-{len(chunks)}-{lasting}-{k}-{opened}"))
            if opened:
                assert await put(store, (b"before\r\n",))
            flushes.arm(k, 1000 if lasting else k)
            accepted = await put(store, chunks)
            failed = flushes.count >= k
            flushes.disarm()
            assert await put(store, (b"after\r\n",))
            expected = [b"before\r\n"] * opened + [b"".join(chunks)] * accepted + [b"after\r\n"]
            assert sorted(messages_in(store)) == sorted(expected), (store, accepted)
            await store.aclose()
            if isinstance(store, SQLite):
                with closing(sqlite3.connect(store.path)) as db:
                    assert db.execute("SELECT * FROM unpublished").fetchall() == []
            if opened and not failed:
                assert accepted
                return k - 1
    raise AssertionError("more than 100 flushes for one message")


async def main() -> None:
    flushes = FailingFlushes()
    for make in (Maildir, SQLite):
        for chunks in ((b"small\r\n",), tuple(large())):
            for lasting in (False, True):
                count = await sweep(make, sys.argv[1], chunks, flushes, lasting=lasting)
                assert count >= (3 if make is Maildir else 1), count
                print(f"{make.__name__}, {len(chunks)} chunks, lasting={lasting}: {count} flushes failed")


if __name__ == "__main__":
    trio.run(main)
