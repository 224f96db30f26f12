"""``smtp-trio serve --wait`` and ``smtp-trio relay --wait``: a store that cannot be opened yet."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from processes import running
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio._cli.options import UsageError
from smtp_trio._cli.store_option import open_store
from smtp_trio.stores import Memory, SQLite, StoreError
from smtp_trio.stores._errors import UnusableStoreError


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


class FailsOnce(Memory):
    """A store whose engine does not respond to the second attempt to open it."""

    attempts = 0
    failure = StoreError("the primary is being replaced")

    async def open(self) -> None:
        self.attempts += 1
        if self.attempts == 2:
            raise self.failure
        await super().open()


async def no_signals() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0


async def test_store_that_fails_again_after_the_wait_is_waited_for_again(autojump_clock: MockClock) -> None:
    store = FailsOnce()
    async with open_store(store, wait=no_signals) as is_open:
        assert is_open
    assert store.attempts == 4


async def test_without_wait_the_first_failure_is_an_error() -> None:
    store = FailsOnce()
    store.attempts = 1
    with pytest.raises(UsageError, match=r"cannot store mail in memory:\S+: the primary is being replaced"):
        async with open_store(store):
            pass


async def test_error_after_the_wait_for_which_it_is_useless_to_wait_is_an_error(autojump_clock: MockClock) -> None:
    store = FailsOnce()
    store.failure = UnusableStoreError("another version")
    with pytest.raises(UsageError, match="another version"):
        async with open_store(store, wait=no_signals):
            pass


async def test_signal_that_comes_while_the_store_is_opened_is_not_lost() -> None:
    async def sigterm() -> AsyncIterator[int]:
        yield signal.SIGTERM
        await trio.sleep_forever()

    class OpensWhateverHappens(Memory):
        async def open(self) -> None:
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()

    async with open_store(OpensWhateverHappens(), wait=sigterm) as is_open:
        assert not is_open
