"""``smtp-trio serve --wait`` and ``smtp-trio relay --wait``: a store that cannot be opened yet."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from processes import running

from smtp_trio.stores import SQLite


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
async def test_server_listens_once_the_store_can_be_opened(workers: str, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()  # not a database
    options = ["--port", "0", "--store", "sqlite:mail", "--wait", "--workers", workers]
    async with running("-m", "smtp_trio", "serve", *options, cwd=tmp_path) as program:
        await program.err.wait_for("warning: waiting for the store: ")
        assert "listening" not in program.out.text
        (tmp_path / "mail").rmdir()
        await program.out.wait_for("storing in sqlite:")
        assert program.err.text.count("waiting for the store") == 1
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
async def test_signal_to_stop_ends_the_wait(workers: str, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    options = ["--port", "0", "--store", "sqlite:mail", "--wait", "--workers", workers]
    async with running("-m", "smtp_trio", "serve", *options, cwd=tmp_path) as program:
        await program.err.wait_for("waiting for the store: ")
        program.signal(signal.SIGHUP)
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0
    assert (tmp_path / "mail").is_dir()


async def test_relay_begins_once_the_store_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    options = ["--store", "sqlite:mail", "--to", "127.0.0.1:9", "--wait"]
    async with running("-m", "smtp_trio", "relay", *options, cwd=tmp_path) as program:
        await program.err.wait_for("warning: waiting for the store: ")
        (tmp_path / "mail").rmdir()
        async with SQLite(tmp_path / "mail"):
            await program.out.wait_for("relaying from sqlite:")
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0


@pytest.mark.parametrize("command", ["serve --port 0", "serve --port 0 --workers 2", "relay --to 127.0.0.1:9"])
async def test_store_for_which_it_is_useless_to_wait_is_an_error(command: str, tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail"):
        pass
    with closing(sqlite3.connect(tmp_path / "mail")) as db:
        db.execute("PRAGMA user_version = 99")
    options = [*command.split(), "--store", "sqlite:mail", "--wait"]
    async with running("-m", "smtp_trio", *options, cwd=tmp_path) as program:
        assert await program.wait() == 2
        assert "user_version 99 was written by a newer smtp_trio" in program.err.text
        assert "waiting for the store" not in program.err.text
