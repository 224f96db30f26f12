"""A program: the k-th flush of the disk fails, for every k. Run it as ``fiu-run -x python -m stores.eio FOLDER``,
from tests/.

libfiu stands between the process and the C library, so SQLite's flushes fail as well as Python's. For each store and
each k: the peer is not told 250 unless the message is there, of a refused message nothing is left, and the next one
is stored without a restart.
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


class Fault:
    """Lets flushes fail from the ``first`` to the ``last``, and counts them all."""

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


def kept(store: Maildir | SQLite) -> list[bytes]:
    """All that a store holds; fails if it holds a half of anything."""
    if isinstance(store, Maildir):
        assert os.listdir(store.tmp) == []
        return [read(os.path.join(store.new, name)).message for name in os.listdir(store.new)]
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [read(store.path, uid).message for (uid,) in db.execute("SELECT uid FROM messages").fetchall()]


async def attempt(store: Maildir | SQLite, chunks: tuple[bytes, ...]) -> bool:
    try:
        await store.put(transaction(), body(*chunks))
    except StoreError as error:
        return error.reply.accepted
    return True


async def sweep(
    make: type[Maildir | SQLite], folder: str, chunks: tuple[bytes, ...], fault: Fault, *, lasting: bool
) -> int:
    """Returns how many flushes could fail."""
    for k in range(1, 100):
        for opened in (False, True):
            store = make(os.path.join(folder, f"{make.__name__}-{len(chunks)}-{lasting}-{k}-{opened}"))
            if opened:
                assert await attempt(store, (b"before\r\n",))
            fault.arm(k, 1000 if lasting else k)
            accepted = await attempt(store, chunks)
            struck = fault.count >= k
            fault.disarm()
            assert await attempt(store, (b"after\r\n",))
            expected = [b"before\r\n"] * opened + [b"".join(chunks)] * accepted + [b"after\r\n"]
            assert sorted(kept(store)) == sorted(expected), (store, accepted)
            await store.aclose()
            if opened and not struck:
                assert accepted
                return k - 1
    raise AssertionError("no end of flushes")


async def main() -> None:
    fault = Fault()
    for make in (Maildir, SQLite):
        for chunks in ((b"small\r\n",), tuple(large())):
            for lasting in (False, True):
                flushes = await sweep(make, sys.argv[1], chunks, fault, lasting=lasting)
                assert flushes >= (3 if make is Maildir else 1), flushes
                print(f"{make.__name__}, {len(chunks)} chunks, lasting={lasting}: {flushes} flushes failed")


if __name__ == "__main__":
    trio.run(main)
