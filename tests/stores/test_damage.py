"""Damaged databases: the error says what to do, what can be read is kept, and no other error is raised."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from processes import run

from smtp_trio.stores import SQLite, StoreError, read

from .sessions import body, transaction

COUNT = 40
MESSAGES = [b"%04d\r\n" % n * 800 for n in range(COUNT)]


async def filled(path: Path) -> SQLite:
    """Return a store with forty messages, which is closed."""
    store = SQLite(path)
    for message in MESSAGES:
        await store.put(transaction(), body(message))
    await store.aclose()
    return store


def readable(path: Path) -> dict[int, bytes]:
    """Return the messages that can still be read, by their numbers."""
    found: dict[int, bytes] = {}
    with closing(sqlite3.connect(path)) as db:
        for n in range(1, COUNT + 1):
            with suppress(sqlite3.DatabaseError):
                found |= db.execute("SELECT id, body FROM messages WHERE id = ?", [n]).fetchall()
    return found


@pytest.mark.parametrize("kept", [0.5, 4096, 50], ids=["half", "one page", "part of the header"])
async def test_truncated_database(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "db"
    store = await filled(path)
    size = int(kept * path.stat().st_size) if kept < 1 else int(kept)
    os.truncate(path, size)
    before = path.read_bytes()

    with pytest.raises(StoreError, match=r"malformed; move it away, and recover its messages with .* \.recover"):
        await store.open()
    with pytest.raises(StoreError) as refusal:
        await store.put(transaction(), body(b"new\r\n"))
    assert str(refusal.value.reply).startswith("451 4.3.0")
    await store.aclose()
    assert path.read_bytes() == before


@pytest.mark.slow
async def test_server_with_a_truncated_database(tmp_path: Path) -> None:
    path = tmp_path / "db"
    await filled(path)
    os.truncate(path, 4096)
    code, out, err = await run("-m", "smtp_trio", "serve", "--port", "0", "--store", "sqlite:db", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(
        f"smtp-trio: error: cannot store mail in {path}: database disk image is malformed; move it away"
    )
    assert err.count("\n") == 1


async def test_damaged_pages(tmp_path: Path) -> None:
    """Pages are overwritten in turn. What is refused leaves the file as it is, and what is stored can be read."""
    original = tmp_path / "original"
    await filled(original)
    pages = [*range(10), *range(10, original.stat().st_size // 4096, 7)]
    refusals = []
    for page in pages:
        path = tmp_path / f"db{page}"
        shutil.copy(original, path)
        with path.open("r+b") as file:
            file.seek(page * 4096)
            file.write(b"\xaa" * 4096)
        before = readable(path)
        store = SQLite(path)
        try:
            uid = await store.put(transaction(), body(b"new\r\n"))
        except StoreError as error:
            refusals.append(f"{error.reply}: {error}")
        else:
            assert read(path, uid).message == b"new\r\n"
        await store.aclose()
        assert readable(path) == before, page
    assert all(re.match("451 4.3.0 .*(malformed|not a database)", each, re.DOTALL) for each in refusals)
    assert 0 < len(refusals) < len(pages) / 2


async def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"Subject: a message\r\n" * 1000)
    with pytest.raises(StoreError, match="file is not a database; move the file away, or store mail elsewhere"):
        await SQLite(tmp_path / "db").open()
