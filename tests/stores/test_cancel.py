"""Cancellation at every step of ``put``: either the message is stored and its id returned, or nothing of it is left."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import trio
from attrs import define
from descriptors import open_descriptors

from smtp_trio.stores import Maildir, SQLite, read

from .sessions import body, large, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator


@define(eq=False)
class CancelAt(trio.abc.Instrument):
    """An instrument that cancels a scope when one task is about to run its k-th step."""

    k: int
    scope: trio.CancelScope
    task: trio.lowlevel.Task | None = None

    def observe_current_task(self) -> None:
        """Count the steps of the current task from now on."""
        self.task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.k -= 1
            if self.k == 0:
                self.scope.cancel()


async def put_three(
    store: Maildir | SQLite, chunks: tuple[bytes, ...], cancelled: int, instrument: CancelAt, stored: dict[int, str]
) -> None:
    """Store three messages at once, and cancel the session with this number. Put the ids into ``stored``."""

    async def put(n: int) -> None:
        if n == cancelled:
            instrument.observe_current_task()
            with instrument.scope:
                stored[n] = await store.put(transaction(), body(*chunks))
        else:
            stored[n] = await store.put(transaction(), body(*chunks))

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(put, n)
    await store.aclose()


def messages_in(store: Maildir | SQLite) -> dict[str, bytes]:
    """Return all messages in a store by id, and check that nothing else is there."""
    if isinstance(store, Maildir):
        assert os.listdir(store.tmp) == []
        return {name: read(os.path.join(store.new, name)).message for name in os.listdir(store.new)}
    assert os.listdir(os.path.dirname(store.path)) == ["store"]
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT * FROM unpublished").fetchall() == []
        assert db.execute("SELECT uid FROM pieces WHERE uid NOT IN (SELECT uid FROM message_rows)").fetchall() == []
        return dict(db.execute("SELECT uid, body FROM messages").fetchall())


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, if there is a file system for that: on a busy disk, thousands of flushes take minutes."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as path:
        yield Path(path)


@pytest.mark.parametrize("make", [Maildir, SQLite])
@pytest.mark.parametrize(
    "chunks",
    [pytest.param((b"small\r\n",), id="small"), pytest.param(tuple(large()), id="large", marks=pytest.mark.exhaustive)],
)
def test_cancel_at_every_step(memory_path: Path, make: type[Maildir | SQLite], chunks: tuple[bytes, ...]) -> None:
    outcomes = set()
    descriptors = open_descriptors()
    for k in range(1, 1000):
        (memory_path / str(k)).mkdir()
        store = make(memory_path / str(k) / "store")
        stored: dict[int, str] = {}
        instrument = CancelAt(k, trio.CancelScope())
        trio.run(put_three, store, chunks, k % 3, instrument, stored, instruments=[instrument])

        assert messages_in(store) == dict.fromkeys(stored.values(), b"".join(chunks))
        assert len(stored) == 2 + (k % 3 in stored)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        rmtree(memory_path / str(k))
        outcomes.add(k % 3 in stored)
        if not instrument.scope.cancel_called:
            break
    assert outcomes == {True, False}
    assert k > len(chunks)
