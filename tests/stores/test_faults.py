"""Disks that are full, read-only, broken, locked or gone: 452 or 451, nothing half-stored, and back to work without a restart."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from smtp_trio.stores import Maildir, SQLite, StoreError, StoreFullError, read

from .sessions import body, large, leave_out, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

Store = Maildir | SQLite
LARGE = tuple(large())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB to fill up and to make read-only."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        leave_out("the right to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@pytest.fixture(params=[Maildir, SQLite])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[Path], Store]]:
    """Makes a store, which is closed at the end."""
    stores: list[Store] = []

    def make(folder: Path) -> Store:
        stores.append(request.param(folder / "store"))
        return stores[-1]

    yield make
    for store in stores:
        await store.aclose()


async def put(store: Store, *chunks: bytes) -> str:
    return await store.put(transaction(), body(*chunks))


async def refused(store: Store, reply: str, *chunks: bytes) -> None:
    with pytest.raises(StoreError) as refusal:
        await put(store, *chunks)
    assert str(refusal.value.reply).startswith(reply)


def kept(store: Store) -> list[bytes]:
    """All that a store holds, whole, and nothing beside it."""
    if isinstance(store, Maildir):
        assert os.listdir(store.tmp) == []
        return sorted(read(os.path.join(store.new, name)).message for name in os.listdir(store.new))
    assert set(os.listdir(os.path.dirname(store.path))) - {"filler"} <= {"store", "store-wal", "store-shm"}
    with closing(sqlite3.connect(store.path)) as db:
        return sorted(read(store.path, uid).message for (uid,) in db.execute("SELECT uid FROM messages").fetchall())


@pytest.mark.parametrize("chunks", [(b"x" * 300_000 + b"\r\n",), LARGE], ids=["small", "large"])
async def test_a_full_disk(make: Callable[[Path], Store], disk: Path, chunks: tuple[bytes, ...]) -> None:
    store = make(disk)
    await put(store, b"before\r\n")
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 200_000))
    await refused(store, "452 4.3.1", *chunks)
    await refused(store, "452 4.3.1", *chunks)
    assert kept(store) == [b"before\r\n"]

    (disk / "filler").unlink()
    await put(store, *chunks)
    assert kept(store) == sorted([b"before\r\n", b"".join(chunks)])


async def test_a_disk_that_fills_up_takes_what_it_can(make: Callable[[Path], Store], disk: Path) -> None:
    store = make(disk)
    taken = 0
    with pytest.raises(StoreFullError):
        while taken < 100:
            await put(store, b"%07d " % taken * 50_000)
            taken += 1
    assert 0 < taken < 100
    assert kept(store) == [b"%07d " % n * 50_000 for n in range(taken)]


@pytest.mark.parametrize("chunks", [(b"small\r\n",), LARGE], ids=["small", "large"])
async def test_a_read_only_disk(make: Callable[[Path], Store], disk: Path, chunks: tuple[bytes, ...]) -> None:
    store = make(disk)
    await put(store, b"before\r\n")
    await store.aclose()
    remount(disk, "ro")
    await refused(store, "451 4.3.0", *chunks)
    for folder in (disk, disk / "new"):
        with pytest.raises(StoreError):
            await make(folder).open()

    remount(disk, "rw")
    await put(store, *chunks)
    assert kept(store) == sorted([b"before\r\n", b"".join(chunks)])


async def test_a_limit_on_the_size_of_files(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """A write up to the limit is a short one; the one after it fails."""
    store = make(tmp_path)
    await store.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
    try:
        await refused(store, "45", *LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept(store) == []
    await put(store, *LARGE)
    assert kept(store) == [b"".join(LARGE)]


async def test_no_file_descriptors_left(make: Callable[[Path], Store], tmp_path: Path) -> None:
    store = make(tmp_path)
    await put(store, b"before\r\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        await refused(store, "451 4.3.0", *LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await put(store, *LARGE)
    assert kept(store) == sorted([b"before\r\n", b"".join(LARGE)])


@pytest.mark.parametrize("chunks", [(b"small\r\n",), LARGE], ids=["small", "large"])
async def test_a_directory_that_is_removed(
    make: Callable[[Path], Store], tmp_path: Path, chunks: tuple[bytes, ...]
) -> None:
    """A Maildir is made anew at once. An open database cannot know before it has committed; so it refuses once."""
    store = make(tmp_path / "folder")
    await put(store, b"before\r\n")
    shutil.rmtree(tmp_path / "folder")
    if isinstance(store, SQLite):
        await refused(store, "451 4.3.0", *chunks)
    await put(store, *chunks)
    assert kept(store) == [b"".join(chunks)]


async def test_a_directory_that_is_removed_under_a_message(make: Callable[[Path], Store], tmp_path: Path) -> None:
    store = make(tmp_path / "folder")
    await store.open()

    def chunks() -> Iterator[bytes]:
        yield from LARGE
        shutil.rmtree(tmp_path / "folder")

    with pytest.raises(StoreError) as refusal:
        await store.put(transaction(), body(chunks=chunks()))
    assert str(refusal.value.reply).startswith("451 4.3.0")
    await put(store, b"after\r\n")
    assert kept(store) == [b"after\r\n"]


async def test_a_file_in_the_place_of_a_directory(make: Callable[[Path], Store], tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"")
    store = make(tmp_path / "folder")
    await refused(store, "451 4.3.0", b"small\r\n")
    (tmp_path / "folder").unlink()
    await put(store, b"small\r\n")


@pytest.mark.parametrize("opened", [False, True])
async def test_a_locked_database(tmp_path: Path, opened: bool) -> None:
    store = SQLite(tmp_path / "store")
    await store.open()
    if not opened:
        await store.aclose()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with trio.fail_after(5):
            await refused(store, "451 4.3.0", b"small\r\n")
        other.execute("ROLLBACK")
    await put(store, b"small\r\n")
    assert kept(store) == [b"small\r\n"]
    await store.aclose()


@pytest.mark.parametrize("chunks", [(b"small\r\n",), LARGE], ids=["small", "large"])
async def test_a_body_that_breaks_off(make: Callable[[Path], Store], tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    store = make(tmp_path)
    await store.open()
    error = LookupError("the peer has gone")
    with pytest.raises(LookupError) as raised:
        await store.put(transaction(), body(*chunks, error=error))
    assert raised.value is error
    assert kept(store) == []


@pytest.mark.slow
def test_every_flush_may_fail(tmp_path: Path) -> None:
    """EIO at the k-th fsync, in a process of its own: see eio.py."""
    if shutil.which("fiu-run") is None:
        leave_out("fiu-run, which Debian has in fiu-utils")
    tests = Path(__file__).parents[1]
    program = ["fiu-run", "-x", sys.executable, "-m", "stores.eio", str(tmp_path)]
    ran = subprocess.run(program, cwd=tests, check=False, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("failed") == 8
