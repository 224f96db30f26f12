"""Work for threads under virtual time: hooks, files and stores, and what a client reports without `inline_threads`."""

from __future__ import annotations

import importlib
import itertools
import operator
import os
import sqlite3
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path

import pytest
import trio
from descriptors import open_descriptors
from trio.testing import MockClock
from trio.to_thread import run_sync  # a reference of the test's own

from smtp_trio import Body, Hooks, Mail, Reply, Server, Session, SMTPError, TimedOutError, Timeouts
from smtp_trio.protocol import Noop
from smtp_trio.stores import Maildir, SQLite, read
from smtp_trio.testing import (
    Attempt,
    SweepError,
    _inline_threads as module,
    cancel_everywhere,
    deterministic,
    fail_everywhere,
    inline_threads,
    memory_pair,
    open_memory_server,
    start_everywhere,
    stop_server,
)

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ENDS = "me@client.test", ["you@mx.test"]
number: ContextVar[int] = ContextVar("number", default=0)


@pytest.fixture
def clock(autojump_clock: MockClock) -> Iterator[MockClock]:
    """A clock that jumps, with `inline_threads`."""
    with inline_threads():
        yield autojump_clock


class Slow(Hooks):
    """Hooks that look up each sender in a thread."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def look_up(self) -> bool:
        self.threads.append(threading.current_thread())
        return True

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        await trio.to_thread.run_sync(self.look_up, abandon_on_cancel=True)
        return None

    async def data(self, session: Session, body: Body) -> Reply | None:
        await body.read()
        return None


async def test_hook_with_a_thread_takes_no_time(clock: MockClock) -> None:
    hooks = Slow()
    async with open_memory_server(hooks, timeout=5) as server, server.client(timeout=5) as client:
        await client.send(*ENDS, MESSAGE)
    assert hooks.threads == [threading.current_thread()]
    assert trio.current_time() == 0


async def test_functions_are_called_in_a_thread_again_after_the_block() -> None:
    with inline_threads():
        with inline_threads():
            assert await run_sync(threading.current_thread) is threading.current_thread()
        assert await trio.to_thread.run_sync(threading.current_thread) is threading.current_thread()
    assert await run_sync(threading.current_thread) is not threading.current_thread()


async def test_results_errors_and_arguments(clock: MockClock) -> None:
    assert await run_sync(operator.mul, 6, 7) == 42
    with pytest.raises(ZeroDivisionError):
        await run_sync(operator.truediv, 1, 0)


async def test_context_variables_are_copied(clock: MockClock) -> None:
    number.set(1)
    assert await run_sync(number.get) == 1
    await run_sync(number.set, 2)
    assert number.get() == 1


async def test_limiter_is_respected(clock: MockClock) -> None:
    limiter = trio.CapacityLimiter(1)
    used: list[int] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lambda: run_sync(lambda: used.append(limiter.borrowed_tokens), limiter=limiter))
    assert used == [1, 1, 1]
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize("abandon", [False, True])
async def test_call_is_a_cancellation_point(clock: MockClock, abandon: bool) -> None:
    called: list[str] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_sync(called.append, "before", abandon_on_cancel=abandon)
    assert scope.cancelled_caught
    assert called == []
    with trio.CancelScope() as scope:

        def work() -> None:
            called.append("work")
            scope.cancel()

        await run_sync(work, abandon_on_cancel=abandon)
    assert called == ["work"]
    assert scope.cancelled_caught is abandon


async def test_from_thread_raises(clock: MockClock) -> None:
    with pytest.raises(RuntimeError, match="call it from a thread"):
        await run_sync(trio.from_thread.run_sync, len, "")


async def test_files_and_paths(clock: MockClock, tmp_path: Path) -> None:
    with trio.fail_after(1):
        async with await trio.open_file(tmp_path / "file", "wb") as file:
            await file.write(b"octets")
        assert await trio.Path(tmp_path / "file").read_bytes() == b"octets"
    assert trio.current_time() == 0


@pytest.mark.parametrize("octets", [100, 3_000_000])
@pytest.mark.parametrize("make", [Maildir, SQLite])
async def test_store(clock: MockClock, tmp_path: Path, make: type[Maildir | SQLite], octets: int) -> None:
    message = b"Subject: hi\r\n\r\n" + b"x" * 98 * (octets // 100) + b"\r\n"
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "folder").mkdir()
    store = make(tmp_path / "folder" / "store")
    async with open_memory_server(store, timeout=20) as server, server.client(timeout=20) as client:
        await client.send(*ENDS, tmp_path / "message")
    await store.aclose()
    [stored] = messages_in(store)
    assert stored.endswith(message[-100:])
    assert trio.current_time() == 0


def messages_in(store: Maildir | SQLite) -> list[bytes]:
    """Return all messages in a store, and check that nothing else is there."""
    if isinstance(store, Maildir):
        assert os.listdir(store.tmp) == []
        return [read(os.path.join(store.new, name)).message for name in os.listdir(store.new)]
    assert os.listdir(os.path.dirname(store.path)) == ["store"]
    with closing(sqlite3.connect(store.path)) as db:
        return [body for (body,) in db.execute("SELECT body FROM messages")]


# --- sweeps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cancel", "fail", "stop"])
@pytest.mark.parametrize("make", [Maildir, SQLite])
def test_sweep_of_a_store(tmp_path: Path, make: type[Maildir | SQLite], kind: str) -> None:
    descriptors = open_descriptors()
    runs: set[tuple[int, int]] = set()

    numbers = itertools.count()

    async def scenario(attempt: Attempt) -> None:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        attempt.context["store"] = store = make(folder / "store")
        server = Server(store, name="mx.test", **deterministic())
        try:
            async with trio.open_nursery() as nursery:
                async with await memory_pair(nursery, server) as client:
                    await client.send(*ENDS, MESSAGE)
        finally:
            with trio.CancelScope(shield=True):
                await store.aclose()

    def check(attempt: Attempt) -> None:
        stored = messages_in(attempt.context["store"]) if attempt.sessions else []
        results = [result for client in attempt.clients for result in client.last_results if result.accepted]
        accepted = sum(server.statistics().messages for server in attempt.servers)
        assert len(results) <= len(stored) == accepted <= 1
        assert attempt.interrupted or results
        runs.add((len(results), len(stored)))

    if kind == "cancel":
        report = cancel_everywhere(scenario, check=check)
    elif kind == "fail":
        report = fail_everywhere(scenario, check=check)
    else:
        report = start_everywhere(scenario, stop_server, check=check, points=range(1, 10_000, 3))
    assert report.points > 10
    assert {(0, 0), (1, 1)} <= runs
    assert open_descriptors() == descriptors


def test_sweep_cancels_during_work_in_a_thread() -> None:
    done: list[int] = []

    async def scenario(attempt: Attempt) -> None:
        await run_sync(done.append, attempt.k)

    report = cancel_everywhere(scenario)
    assert report.points > 1
    assert {0, report.points} <= set(done)  # cancelled after the function had begun


def test_sweep_with_threads_does_not_wait_for_them() -> None:
    go_on = threading.Event()

    async def scenario(attempt: Attempt) -> None:
        await run_sync(go_on.wait, 60)

    with pytest.raises(SweepError, match="the scenario did not end within"):
        cancel_everywhere(scenario, inline_threads=False)
    go_on.set()
    assert cancel_everywhere(scenario).points > 1


# --- other versions of Trio ---------------------------------------------------------------------------------------------


def test_trio_without_the_private_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(importlib.import_module(module.MODULE), module.NAME)
    with pytest.raises(RuntimeError, match=r"inline_threads does not support Trio \d"), inline_threads():
        pytest.fail("the block was entered")

    async def scenario(attempt: Attempt) -> None:
        await trio.lowlevel.checkpoint()

    assert cancel_everywhere(scenario).points == 1


# --- hints --------------------------------------------------------------------------------------------------------------


async def mail_with_a_thread(server_timeouts: Timeouts) -> tuple[SMTPError | None, list[Exception]]:
    """Send a message to a server whose hook uses a thread that works until the client is done.

    Return the client's error, and those that the server has reported.
    """
    go_on = threading.Event()
    reported: list[Exception] = []

    class Waits(Slow):
        def look_up(self) -> bool:
            return go_on.wait(60)

        async def error(self, server: Server, error: Exception) -> None:
            reported.append(error)

    failure: SMTPError | None = None
    async with open_memory_server(Waits(), timeout=server_timeouts, raise_hook_errors=False) as server:
        try:
            async with server.client() as client:
                await client.send(*ENDS, MESSAGE)
        except SMTPError as exc:
            failure = exc
        go_on.set()
    return failure, reported


async def test_client_timeout_under_a_clock_that_jumps_mentions_threads(autojump_clock: MockClock) -> None:
    failure, _ = await mail_with_a_thread(Timeouts(hook=1000))
    assert "MAIL: no reply within" in str(failure)
    assert "smtp_trio.testing.inline_threads" in "".join(traceback.format_exception(failure))


async def test_hook_timeout_under_a_clock_that_jumps_mentions_threads(autojump_clock: MockClock) -> None:
    _, [late] = await mail_with_a_thread(Timeouts(hook=100))
    assert "the mail hook took more than 100 s" in str(late)
    assert "smtp_trio.testing.inline_threads" in "".join(late.__notes__)


async def test_timeout_under_another_clock_does_not_mention_threads(mock_clock: MockClock) -> None:
    class Stuck(Hooks):
        async def mail(self, session: Session, mail: Mail) -> Reply | None:
            mock_clock.jump(300)
            await trio.sleep_forever()
            return None

    async with open_memory_server(Stuck(), timeout=Timeouts(hook=1000)) as server:
        with pytest.raises(TimedOutError) as raised:
            async with server.client() as client:
                await client.mail("me@client.test")
    assert not hasattr(raised.value, "__notes__")


def test_timeout_outside_of_trio_does_not_mention_threads() -> None:
    assert not hasattr(TimedOutError(Noop(), 5), "__notes__")
