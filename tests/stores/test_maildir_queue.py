"""Consuming the messages of a Maildir, which mail readers use at the same time. See test_contract.py for the rest."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from smtp_trio.stores import Maildir, NotSupportedError, StoreError
from smtp_trio.stores._maildir_queue import MAX_TEMPORARY_AGE, QUEUE

from .contract import claim, dead, put, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from smtp_trio.stores import Delivery


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Maildir]:
    async with Maildir(tmp_path / "box") as store:
        yield store


def files(store: Maildir) -> tuple[list[str], list[str]]:
    """Return the names in ``new/`` and in ``cur/``."""
    return sorted(os.listdir(store.new)), sorted(os.listdir(os.path.join(store.path, "cur")))


def states(store: Maildir) -> set[str]:
    """Return the ids of the messages with a state."""
    return {name for name in os.listdir(os.path.join(store.path, QUEUE)) if not name.startswith(".")}


async def settle(delivery: Delivery, outcome: str) -> None:
    if outcome == "ack":
        await delivery.ack()
    elif outcome == "retry":
        await delivery.retry(after=0)
    else:
        await delivery.fail("x")


async def test_settled_messages_are_in_cur_with_a_flag(store: Maildir) -> None:
    done, failed, waiting = [await put(store) for _ in range(3)]
    await (await receive(store)).ack()
    await (await receive(store)).fail("x")
    await (await receive(store)).retry(after=60)
    assert files(store) == ([waiting], sorted([f"{done}:2,S", f"{failed}:2,F"]))
    assert states(store) == {failed, waiting}


async def test_state_survives_the_process(store: Maildir) -> None:
    uid = await put(store)
    await (await receive(store)).retry(after=0, state="state")
    await store.aclose()
    other = Maildir(store.path)
    delivery = await receive(other)
    assert (delivery.id, delivery.attempt, delivery.state) == (uid, 2, "state")
    await other.aclose()
    assert await claim(store) is None  # the lease is not over


@pytest.mark.parametrize("outcome", ["ack", "retry", "fail"])
@pytest.mark.parametrize("removed", [False, True], ids=["moved", "removed"])
async def test_message_that_a_reader_moves_counts_as_handled(store: Maildir, outcome: str, *, removed: bool) -> None:
    """Whether a consumer has it at that time or not. Only a failure is still recorded, if the message is there."""
    uid, second = await put(store), await put(store)
    delivery = await receive(store)
    for each in (uid, second):
        if removed:
            os.unlink(os.path.join(store.new, each))
        else:
            os.rename(os.path.join(store.new, each), os.path.join(store.path, "cur", f"{each}:2,R"))
    await settle(delivery, outcome)
    assert await claim(store) is None
    assert [letter.entry.id for letter in await dead(store)] == [uid] * (outcome == "fail" and not removed)
    assert files(store) == ([], [] if removed else sorted([f"{uid}:2,R", f"{second}:2,R"]))


async def test_one_process_consumes(store: Maildir) -> None:
    await put(store)
    delivery = await receive(store)
    other = Maildir(store.path)
    with pytest.raises(NotSupportedError, match=rf"another consumer uses it \(process {os.getpid()}\)"):
        await receive(other)
    await delivery.fail("x")
    assert [letter.reason for letter in await dead(other)] == ["x"]
    assert await other.requeue("default", [delivery.id]) == 1
    assert (await receive(store)).attempt == 1
    await store.aclose()
    assert await claim(other) is None
    await other.aclose()


async def test_one_group(store: Maildir) -> None:
    await put(store)
    await (await receive(store, "one")).fail("x")
    with pytest.raises(NotSupportedError, match="consumed by the group 'one', and a Maildir supports one"):
        await receive(store, "two")
    assert await dead(store, "two") == []
    assert await store.requeue("two", [letter.entry.id for letter in await dead(store, "one")]) == 0


async def test_files_of_other_programs_are_not_delivered(store: Maildir, caplog: pytest.LogCaptureFixture) -> None:
    """They stay in new/, and are logged once."""
    for name in ("1.theirs", "2.link", ".hidden", "3.flags:2,"):
        path = os.path.join(store.new, name)
        if name == "2.link":
            os.symlink("/etc/passwd", path)
        else:
            with open(path, "wb") as file:
                file.write(b"Subject: x\r\n\r\n")
    uid = await put(store)
    assert (await receive(store)).id == uid
    for _ in range(2):
        assert await claim(store) is None
    assert len(files(store)[0]) == 5
    assert [(record.event, record.fields["path"]) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("not_consumed", os.path.join(store.new, "1.theirs")),
        ("not_consumed", os.path.join(store.new, "2.link")),
    ]


async def test_damaged_state_counts_as_none(store: Maildir) -> None:
    uid = await put(store)
    late = await receive(store)
    with open(os.path.join(store.path, QUEUE, uid), "w") as file:
        file.write("{")
    with pytest.raises(StoreError, match="expired"):
        await late.ack()
    await store.aclose()
    assert (await receive(store)).attempt == 1


async def test_what_ended_processes_have_left_is_removed(store: Maildir) -> None:
    await put(store)
    await receive(store)
    await store.aclose()
    directory = os.path.join(store.path, QUEUE)
    for name, age in ((".tmp-old", MAX_TEMPORARY_AGE + 60), (".tmp-recent", 0)):
        with open(os.path.join(directory, name), "w"):
            pass
        when = os.stat(os.path.join(directory, name)).st_mtime - age
        os.utime(os.path.join(directory, name), (when, when))
    with open(os.path.join(directory, "gone"), "w") as file:
        json.dump({}, file)
    await claim(store)
    assert "gone" not in states(store)
    assert {name for name in os.listdir(directory) if name.startswith(".tmp")} == {".tmp-recent"}


async def test_message_of_another_store_object_is_noticed(store: Maildir) -> None:
    """Within a second: another process cannot wake a consumer."""
    async with trio.open_nursery() as nursery:
        got: list[str] = []

        @nursery.start_soon
        async def consume() -> None:
            async with await receive(store) as delivery:
                got.append(delivery.id)

        other = Maildir(store.path)
        uid = await put(other)
    assert got == [uid]
    await other.aclose()


class Crash(BaseException):
    """The process ends here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], bool]:
    """Have the call of this number that changes a file system end the process. Return a function that tells if it has."""
    calls = 0

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise Crash
            return real(*args, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("rename", "fsync", "unlink", "write"):
        wrap(name)
    return lambda: calls >= number


@pytest.mark.parametrize("step", ["ack", "fail", "requeue", "retry", "claim"])
async def test_process_that_ends_at_any_call_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The message is settled, or a dead letter, or delivered again; and once settled it is not delivered again."""
    for number in range(1, 100):
        store = Maildir(tmp_path / str(number))
        uid = await put(store)
        if step == "requeue":
            await (await receive(store)).fail("x")
        delivery = await receive(store) if step not in ("claim", "requeue") else None
        with monkeypatch.context() as patch:
            crashed = crash_at(patch, number)
            try:
                if delivery is None:
                    await (claim(store) if step == "claim" else store.requeue("default", [uid]))
                else:
                    await (
                        delivery.fail("x") if step == "fail" else delivery.ack() if step == "ack" else delivery.retry()
                    )
            except Crash:
                pass
            ended = crashed()
        store._queue.release()
        later = Maildir(store.path)
        later.clock = lambda: 1e11
        again = await claim(later)
        letters = await dead(later)
        assert [entry.id async for entry in later] == [uid]
        seen = files(later)[1] == [f"{uid}:2,S"]
        assert [again is not None, letters != [], seen].count(True) == 1, f"call {number}"
        assert not seen or step == "ack"
        await later.aclose()
        await store.aclose()
        shutil.rmtree(store.path)
        if not ended:
            assert again is None if step in ("ack", "fail") else again is not None
            assert number > 2
            return
    pytest.fail("the calls have no end")
