"""Errors of the disk: 451 or 452, nothing of the message is left, and the store recovers without a restart."""

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
from descriptors import few_descriptors
from processes import run

from smtp_trio.stores import Maildir, SQLite, StoreError, StoreFullError, read

from .sessions import body, large, skip_without, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

Store = Maildir | SQLite
LARGE = tuple(large())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, which a test can fill up or make read-only."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        skip_without("the right to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.fixture(params=[Maildir, SQLite])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[Path], Store]]:
    """A function that returns a store in a directory. The store is closed at the end of the test."""
    stores: list[Store] = []

    def make(directory: Path) -> Store:
        stores.append(request.param(directory / "store"))
        return stores[-1]

    yield make
    for store in stores:
        await store.aclose()


async def put(store: Store, *chunks: bytes) -> str:
    return await store.put(transaction(), body(*chunks))


async def put_refused(store: Store, reply: str, *chunks: bytes) -> None:
    """Check that the store refuses a message with this reply."""
    with pytest.raises(StoreError) as refusal:
        await put(store, *chunks)
    assert str(refusal.value.reply).startswith(reply)


def messages_in(store: Store) -> list[bytes]:
    """Return all messages in a store, sorted, and check that nothing else is there."""
    if isinstance(store, Maildir):
        assert os.listdir(store.tmp) == []
        return sorted(read(os.path.join(store.new, name)).message for name in os.listdir(store.new))
    assert set(os.listdir(os.path.dirname(store.path))) - {"filler"} <= {"store", "store-wal", "store-shm"}
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT * FROM unpublished").fetchall() == []
        assert db.execute("SELECT uid FROM pieces WHERE uid NOT IN (SELECT uid FROM message_rows)").fetchall() == []
        return sorted(read(store.path, uid).message for (uid,) in db.execute("SELECT uid FROM messages").fetchall())


@pytest.mark.parametrize("chunks", [(b"x" * 300_000 + b"\r\n",), LARGE], ids=["small", "large"])
async def test_full_disk(make: Callable[[Path], Store], disk: Path, chunks: tuple[bytes, ...]) -> None:
    store = make(disk)
    await put(store, b"before\r\n")
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 200_000))
    await put_refused(store, "452 4.3.1", *chunks)
    await put_refused(store, "452 4.3.1", *chunks)
    assert messages_in(store) == [b"before\r\n"]

    (disk / "filler").unlink()
    await put(store, *chunks)
    assert messages_in(store) == sorted([b"before\r\n", b"".join(chunks)])


async def test_large_messages_that_fill_the_disk_are_removed(disk: Path) -> None:
    """What SQLite needs to remove their pieces is left free, and small messages are accepted again."""

    async def send() -> None:
        with pytest.raises(StoreFullError):
            await put(store, *large(10 << 20))

    async with SQLite(disk / "store") as store:
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(send)
        assert messages_in(store) == []
        await put(store, b"after\r\n")


async def test_all_messages_before_the_disk_is_full_are_stored(make: Callable[[Path], Store], disk: Path) -> None:
    store = make(disk)
    count = 0
    with pytest.raises(StoreFullError):
        while count < 100:
            await put(store, b"%07d " % count * 50_000)
            count += 1
    assert 0 < count < 100
    assert messages_in(store) == [b"%07d " % n * 50_000 for n in range(count)]


async def test_consumer_makes_space_on_a_full_disk(make: Callable[[Path], Store], disk: Path) -> None:
    """It can record its claims, and messages are accepted again when it has removed some, in another process too."""
    store, other = make(disk), make(disk)
    count = 0
    with pytest.raises(StoreFullError):
        while count < 1000:
            await put(store, b"%07d " % count * 1000)
            count += 1
    with trio.fail_after(100):
        async for delivery in other.consume("group", remove=True):
            await delivery.ack()
            count -= 1
            if count == 0:
                break
    for _ in range(10):
        await put(store, b"x" * 8000)
    assert len(messages_in(store)) == 10


@pytest.mark.parametrize("chunks", [(b"small\r\n",), LARGE], ids=["small", "large"])
async def test_read_only_file_system(make: Callable[[Path], Store], disk: Path, chunks: tuple[bytes, ...]) -> None:
    store = make(disk)
    await put(store, b"before\r\n")
    await store.aclose()
    remount(disk, "ro")
    await put_refused(store, "451 4.3.0", *chunks)
    for directory in (disk, disk / "new"):
        with pytest.raises(StoreError):
            await make(directory).open()

    remount(disk, "rw")
    await put(store, *chunks)
    assert messages_in(store) == sorted([b"before\r\n", b"".join(chunks)])


@pytest.mark.slow
@pytest.mark.parametrize("option", ["maildir:{}", "sqlite:{}/db"])
async def test_server_on_a_read_only_file_system(
    disk: Path, tmp_path_factory: pytest.TempPathFactory, option: str
) -> None:
    """The error names the path, and says what to do."""
    remount(disk, "ro")
    command = ["-m", "smtp_trio", "serve", "--port", "0", "--store", option.format(disk)]
    code, out, err = await run(*command, cwd=tmp_path_factory.mktemp("cwd"))
    assert (code, out) == (2, "")
    reason = "on a read-only file system; mount it for writing, or store mail elsewhere"
    assert err == f"smtp-trio: error: cannot store mail in {disk}: {reason}\n"


async def test_limit_of_the_file_size(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """A write beyond the limit writes up to it, and the next one fails. A database has two files."""
    store = make(tmp_path)
    await store.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
    try:
        await put_refused(store, "45", *LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert messages_in(store) == []
    await put(store, *LARGE)
    assert messages_in(store) == [b"".join(LARGE)]


async def test_no_file_descriptor_available(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """A Maildir needs one for each message, and a database that is open needs none."""
    store = make(tmp_path)
    await put(store, b"before\r\n")
    with few_descriptors(0):
        if isinstance(store, SQLite):
            await put(store, *LARGE)
            await put(store, b"small\r\n")
        else:
            await put_refused(store, "451 4.3.0", *LARGE)
            await put_refused(store, "451 4.3.0", b"small\r\n")
    if isinstance(store, Maildir):
        await put(store, *LARGE)
        await put(store, b"small\r\n")
    assert messages_in(store) == sorted([b"before\r\n", b"small\r\n", b"".join(LARGE)])


@pytest.mark.parametrize("chunks", [(b"small\r\n",), LARGE], ids=["small", "large"])
async def test_removed_directory(make: Callable[[Path], Store], tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    """A Maildir is created again at once. SQLite notices only after its commit, and so refuses one message."""
    store = make(tmp_path / "directory")
    await put(store, b"before\r\n")
    shutil.rmtree(tmp_path / "directory")
    if isinstance(store, SQLite):
        await put_refused(store, "451 4.3.0", *chunks)
    await put(store, *chunks)
    assert messages_in(store) == [b"".join(chunks)]


async def test_directory_removed_during_a_message(make: Callable[[Path], Store], tmp_path: Path) -> None:
    store = make(tmp_path / "directory")
    await store.open()

    def chunks() -> Iterator[bytes]:
        yield from LARGE
        shutil.rmtree(tmp_path / "directory")

    with pytest.raises(StoreError) as refusal:
        await store.put(transaction(), body(chunks=chunks()))
    assert str(refusal.value.reply).startswith("451 4.3.0")
    await put(store, b"after\r\n")
    assert messages_in(store) == [b"after\r\n"]


async def test_file_at_the_path_of_the_directory(make: Callable[[Path], Store], tmp_path: Path) -> None:
    (tmp_path / "directory").write_bytes(b"")
    store = make(tmp_path / "directory")
    await put_refused(store, "451 4.3.0", b"small\r\n")
    (tmp_path / "directory").unlink()
    await put(store, b"small\r\n")


@pytest.mark.parametrize("opened", [False, True])
async def test_locked_database(tmp_path: Path, opened: bool) -> None:
    store = SQLite(tmp_path / "store")
    await store.open()
    if not opened:
        await store.aclose()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with trio.fail_after(100):
            await put_refused(store, "451 4.3.0", b"small\r\n")
        other.execute("ROLLBACK")
    await put(store, b"small\r\n")
    assert messages_in(store) == [b"small\r\n"]
    await store.aclose()


@pytest.mark.parametrize("chunks", [(b"small\r\n",), LARGE], ids=["small", "large"])
async def test_body_that_raises(make: Callable[[Path], Store], tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    store = make(tmp_path)
    await store.open()
    error = LookupError("the peer has gone")
    with pytest.raises(LookupError) as raised:
        await store.put(transaction(), body(*chunks, error=error))
    assert raised.value is error
    assert messages_in(store) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sweeps"), [("flush", 8), ("write", 8), ("rename", 4)])
def test_failed_calls(tmp_path: Path, kind: str, sweeps: int) -> None:
    """EIO at the k-th fsync, write or rename, in a process of its own: see eio.py."""
    if shutil.which("fiu-run") is None:
        skip_without("fiu-run (Debian package fiu-utils)")
    tests = Path(__file__).parents[1]
    program = ["fiu-run", "-x", sys.executable, "-m", "stores.eio", kind, str(tmp_path)]
    result = subprocess.run(program, cwd=tests, check=False, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    assert result.stdout.count("failed") == sweeps
