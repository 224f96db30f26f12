"""A program that lets the k-th flush, write or rename fail with EIO, for every k.

Run it in tests/ as ``fiu-run -x python -m stores.eio flush|write|rename DIRECTORY``. libfiu intercepts calls to the C
library, so those of SQLite fail as well as those of Python. For each store and each k this checks that a message is
accepted only if it is stored, that nothing of a refused one is left, and that the next one is stored without a restart.
SQLite writes a large message in a thousand small pieces; of those, every k up to 20 fails, and then fewer of them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import trio

from smtp_trio.stores import Maildir, SQLite, StoreError, read

from .sessions import body, large, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The functions of the C library that fail, by the names that libfiu gives them.
CALLS = {
    "flush": (b"posix/io/sync/fsync", b"posix/io/sync/fdatasync"),
    "write": (b"posix/io/rw/write", b"posix/io/rw/pwrite"),
    "rename": (),  # libfiu does not know renameat: the function of Python fails
}
LIBFIU = ctypes.CDLL("libfiu.so.0")
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint),
)


class FailingCalls:
    """Counts calls of one kind, and lets those from number ``first`` to ``last`` fail."""

    def __init__(self, kind: str) -> None:
        self.count, self.first, self.last = 0, 0, 0
        self._callback = CALLBACK(self._call)
        LIBFIU.fiu_init(0)
        for name in CALLS[kind]:
            LIBFIU.fiu_enable_external(name, 1, ctypes.c_void_p(errno.EIO), 0, self._callback)
        if kind == "rename":
            self._rename, os.rename = os.rename, self._rename_or_fail

    def _call(self, *_: object) -> int:
        self.count += 1
        return self.first <= self.count <= self.last

    def _rename_or_fail(self, *args: Any, **kwargs: Any) -> None:
        if self._call():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._rename(*args, **kwargs)

    def arm(self, first: int, last: int) -> None:
        self.count, self.first, self.last = 0, first, last

    def disarm(self) -> None:
        self.arm(0, 0)


def numbers() -> Iterator[int]:
    """Iterate over the numbers of the calls that fail: all up to 20, and then in growing steps."""
    k = 1
    while k < 10_000:
        yield k
        k += 1 if k < 20 else k // 4


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
    make: type[Maildir | SQLite], directory: str, chunks: tuple[bytes, ...], calls: FailingCalls, *, lasting: bool
) -> int:
    """Let each call for a message fail in turn, with ``lasting`` also all later ones. Return how many have failed."""
    failures = 0
    for k in numbers():
        for opened in (False, True):
            store = make(os.path.join(directory, f"{make.__name__}-{len(chunks)}-{lasting}-{k}-{opened}"))
            if opened:
                assert await put(store, (b"before\r\n",))
            calls.arm(k, 10_000 if lasting else k)
            accepted = await put(store, chunks)
            failed = calls.count >= k
            calls.disarm()
            failures += failed
            assert await put(store, (b"after\r\n",))
            expected = [b"before\r\n"] * opened + [b"".join(chunks)] * accepted + [b"after\r\n"]
            assert sorted(messages_in(store)) == sorted(expected), (store, accepted)
            await store.aclose()
            if isinstance(store, SQLite):
                with closing(sqlite3.connect(store.path)) as db:
                    assert db.execute("SELECT * FROM unpublished").fetchall() == []
            if opened and not failed:
                assert accepted
                return failures
    raise AssertionError("more than 10,000 calls for one message")


async def main(kind: str, directory: str) -> None:
    calls = FailingCalls(kind)
    for make in (Maildir,) if kind == "rename" else (Maildir, SQLite):  # SQLite renames nothing
        for chunks in ((b"small\r\n",), tuple(large())):
            for lasting in (False, True):
                count = await sweep(make, directory, chunks, calls, lasting=lasting)
                assert count >= (3 if kind == "flush" and make is Maildir else 1), count
                print(f"{make.__name__}, {len(chunks)} chunks, lasting={lasting}: {count} times {kind} failed")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
