"""`stores.open`: a store that must exist already."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
import trio

from smtp_trio import stores
from smtp_trio.stores import SQLite, StoreError

URLS = ("maildir:{}", "sqlite:{}")


def snapshot(directory: Path) -> list[tuple[str, int, int]]:
    """Return the names, times and sizes of the files in a directory."""
    return sorted(
        (str(path), path.stat().st_mtime_ns, path.stat().st_size if path.is_file() else 0)
        for path in directory.rglob("*")
        if not path.name.endswith(("-shm", "-wal"))
    )


@pytest.mark.parametrize("url", URLS)
async def test_store_that_does_not_exist_is_not_created(url: str, tmp_path: Path) -> None:
    store = stores.open(url.format(tmp_path / "missing" / "store"), create=False)

    with pytest.raises(StoreError, match="No such file") as caught:
        await store.__aenter__()

    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(StoreError):
        await store.add(b"Subject: hi\r\n\r\n", "me@example.net", ["you@example.org"])
    assert snapshot(tmp_path) == []


@pytest.mark.parametrize("url", URLS)
async def test_opening_a_store_without_creating_it_changes_nothing(url: str, tmp_path: Path) -> None:
    url = url.format(tmp_path / "store")
    async with stores.open(url) as store:
        await store.add(b"Subject: hi\r\n\r\n", "me@example.net", ["you@example.org"])
    if (tmp_path / "store" / "tmp").is_dir():
        (tmp_path / "store" / "tmp" / "old").write_bytes(b"")
        os.utime(tmp_path / "store" / "tmp" / "old", (0, 0))
    before = snapshot(tmp_path)

    async with stores.open(url, create=False):
        pass

    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("url", URLS)
async def test_existing_store_can_be_written_to(url: str, tmp_path: Path) -> None:
    url = url.format(tmp_path / "store")
    async with stores.open(url):
        pass

    async with stores.open(url, create=False) as store:
        assert await store.add(b"Subject: hi\r\n\r\n", "me@example.net", ["you@example.org"])


async def test_database_of_another_program_is_not_opened(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "db")
    db.execute("CREATE TABLE t (a)")
    db.close()

    with pytest.raises(StoreError, match="not a database of an SQLite store"):
        await stores.open(f"sqlite:{tmp_path / 'db'}", create=False).__aenter__()


async def test_store_is_closed_when_its_block_is_cancelled(tmp_path: Path) -> None:
    store = SQLite(tmp_path / "mail.db")
    opened = trio.Event()

    async def use() -> None:
        async with store:
            await store.get(await store.add(b"hello\r\n", "", ["you@example.org"]))
            opened.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        await opened.wait()
        nursery.cancel_scope.cancel()
    assert store._writer.db is store._reader.db is None
