"""Symbolic links are not followed into or out of a store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from smtp_trio.stores import Maildir, SQLite, StoreError, maildir

from .sessions import body, large, transaction

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["", "tmp", "new", "cur"])
async def test_maildir_with_a_link_in_place_of_a_directory(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "box" / name
    if name:
        (tmp_path / "box").mkdir()
    link.symlink_to(elsewhere)
    store = Maildir(tmp_path / "box")
    with pytest.raises(StoreError, match="symbolic link"):
        await store.open()
    for chunks in ((b"small\r\n",), tuple(large())):
        with pytest.raises(StoreError, match="symbolic link"):
            await store.put(transaction(), body(*chunks))
    assert list(elsewhere.iterdir()) == []

    link.unlink()
    await store.put(transaction(), body(b"small\r\n"))
    await store.aclose()


@pytest.mark.parametrize("name", ["tmp", "new"])
async def test_directory_that_is_replaced_by_a_link_while_in_use(tmp_path: Path, name: str) -> None:
    store = Maildir(tmp_path / "box")
    await store.put(transaction(), body(b"before\r\n"))
    (tmp_path / "box" / name).rename(tmp_path / "moved")
    (tmp_path / "box" / name).symlink_to(tmp_path / "moved")
    before = os.listdir(tmp_path / "moved")
    with pytest.raises(StoreError, match="symbolic link"):
        await store.put(transaction(), body(b"refused\r\n"))
    assert os.listdir(tmp_path / "moved") == before
    await store.aclose()


async def test_link_at_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir, "unique_name", lambda now: "name")
    store = Maildir(tmp_path / "box")
    await store.open()
    (tmp_path / "box/tmp/name").symlink_to(tmp_path / "target")
    for chunks in ((b"small\r\n",), tuple(large())):
        with pytest.raises(StoreError):
            await store.put(transaction(), body(*chunks))
    assert not (tmp_path / "target").exists()
    await store.aclose()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_link_at_a_file_of_a_database(tmp_path: Path, suffix: str) -> None:
    link = tmp_path / f"mail.db{suffix}"
    link.symlink_to(tmp_path / "target")
    store = SQLite(tmp_path / "mail.db")
    with pytest.raises(StoreError, match="symbolic link"):
        await store.open()
    assert os.listdir(tmp_path) == [link.name]

    link.unlink()
    await store.open()
    await store.aclose()


@pytest.mark.parametrize("make", [Maildir, SQLite])
async def test_directory_above_a_store_may_be_a_link(tmp_path: Path, make: type[Maildir | SQLite]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = make(tmp_path / "link" / "store")
    await store.put(transaction(), body(b"small\r\n"))
    await store.aclose()
    assert (tmp_path / "real" / "store").exists()
