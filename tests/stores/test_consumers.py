"""Consumers of an SQLite database that are cancelled at every step, are killed, or are in other processes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from smtp_trio.stores import SQLite, StoreError
from smtp_trio.stores._consumer import Outcome
from smtp_trio.testing import Attempt, cancel_everywhere

from .contract import MESSAGE, claim, dead, receive
from .test_sqlite import query

if TYPE_CHECKING:
    from smtp_trio.stores import Delivery

TESTS = Path(__file__).parents[1]


DONE = Outcome(kind="done")


async def add(store: SQLite, message: bytes = MESSAGE) -> str:
    return await store.add(message, "me@client.test", ["you@mx.test"])


@pytest.mark.slow
def test_cancellation_at_every_step(tmp_path: Path) -> None:
    """Every message is handled at least once, what was acknowledged is not delivered again, and attempts are not counted."""
    numbers = itertools.count(1)

    async def scenario(attempt: Attempt) -> None:
        handled: Counter[str] = Counter()
        acknowledged: set[str] = set()
        store = SQLite(tmp_path / f"{next(numbers)}.db")
        async with store:
            ids = [await add(store) for _ in range(4)]

            async def add_last() -> None:
                await wait_all_tasks_blocked()
                ids.append(await add(store))

            async with trio.open_nursery() as nursery:
                with attempt.here():
                    consumer = store.consume(max_in_flight=2)
                    delivery = await anext(consumer)
                    handled[delivery.id] += 1
                    await delivery.ack()
                    acknowledged.add(delivery.id)

                    delivery = await anext(consumer)
                    await delivery.retry(after=0, state="retried")
                    handled[delivery.id] += 1

                    async with await anext(consumer) as delivery:
                        await trio.lowlevel.checkpoint()
                        handled[delivery.id] += 1
                        await trio.sleep(1)
                    acknowledged.add(delivery.id)

                    for _ in range(2):
                        async with await anext(consumer) as delivery:
                            pass
                        acknowledged.add(delivery.id)
                    nursery.start_soon(add_last)
                    async with await anext(consumer) as delivery:
                        pass
                    acknowledged.add(delivery.id)

            while (got := await claim(store)) is not None:
                assert got.stored.id not in acknowledged
                retried = got.state == "retried"
                assert got.attempt == 1 + retried
                await store._settle(got, DONE)
                acknowledged.add(got.stored.id)
            # The end of a block was recorded, but the scenario was cancelled before it could note that.
            assert len(set(ids) - acknowledged) <= 1
            assert set(ids) - acknowledged <= set(handled)
            assert query(store.path, "SELECT * FROM deliveries") == []

    report = cancel_everywhere(scenario)
    assert report.points > 20
    assert {"Consumer._claim", "Consumer._record", "SQLite._wait_for_message"} <= set(report.functions)


CONSUME = """
import sys, trio
from smtp_trio.stores import SQLite

async def main():
    left = int(sys.argv[2])
    async with SQLite(sys.argv[1]) as store:
        async for delivery in store.consume(lease=300):
            print("claimed", delivery.id, flush=True)
            await delivery.ack()
            print("acknowledged", delivery.id, flush=True)
            left -= 1
            if left == 0:
                await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.slow
async def test_killed_consumers(tmp_path: Path) -> None:
    """Each is killed after a number of messages. Every message is handled, and none again after it was acknowledged.

    It leaves some for the next ones also if the test, which kills it, does not get the processor in time.
    """
    claimed: list[str] = []
    acknowledged: list[str] = []
    async with SQLite(tmp_path / "mail.db") as store:
        ids = [await add(store) for _ in range(60)]

        for lines in (1, 2, 3, 8, 15):
            most = lines // 2 + 6
            process = await trio.lowlevel.open_process(
                [sys.executable, "-c", CONSUME, store.path, str(most)], stdout=subprocess.PIPE, cwd=TESTS
            )
            assert process.stdout is not None
            output = b""
            while output.count(b"\n") < lines:
                output += await process.stdout.receive_some()
            process.send_signal(signal.SIGKILL)
            async for data in process.stdout:
                output += data
            await process.wait()
            for line in output.decode().splitlines():
                what, _, uid = line.partition(" ")
                (claimed if what == "claimed" else acknowledged).append(uid)

        now = store.clock()
        store.clock = lambda: now + 1000  # the leases of the processes have expired
        rest = []
        while (got := await claim(store)) is not None:
            rest.append(got.stored.id)
            assert got.attempt <= 2
        assert len(set(acknowledged)) == len(acknowledged)
        assert not set(acknowledged) & set(rest)
        # The result was recorded, but the process was killed before it could say so.
        assert set(ids) - set(acknowledged) - set(rest) <= set(claimed)
        assert set(claimed) | set(rest) == set(ids)


ADD = """
import sys, trio
from smtp_trio.stores import SQLite

async def main():
    async with SQLite(sys.argv[1]) as store:
        print(await store.add(b"Subject: x\\r\\n\\r\\n", "", ["you@mx.test"]))

trio.run(main)
"""


@pytest.mark.slow
async def test_message_of_another_process(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        got: list[Delivery] = []

        async def wait() -> None:
            got.append(await receive(store))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            result = await trio.run_process([sys.executable, "-c", ADD, store.path], capture_stdout=True)
    assert [each.id for each in got] == [result.stdout.decode().strip()]


async def test_consumers_wait_without_writing(tmp_path: Path) -> None:
    """A consumer that has nothing to do changes nothing, and one that is woken in vain waits again."""
    async with SQLite(tmp_path / "mail.db") as store:
        assert await claim(store) is None
        before = query(store.path, "PRAGMA data_version"), os.stat(f"{store.path}-wal").st_size
        with trio.move_on_after(0.05) as scope:
            await store._wait_for_message("default", 100)
        assert scope.cancelled_caught
        for _ in range(3):
            assert await claim(store) is None
        assert (query(store.path, "PRAGMA data_version"), os.stat(f"{store.path}-wal").st_size) == before

        store._announce()
        await store._wait_for_message("default", 100)  # something has changed since the claim: it returns at once
        await store._wait_for_message("default", 0.01)
        assert store._wake == set()


async def test_ids_of_removed_messages_are_not_used_again(tmp_path: Path) -> None:
    """A group would take a new message with such an id for one that it has settled."""
    async with SQLite(tmp_path / "mail.db") as store:
        for _ in range(3):
            uid = await add(store)
            async with await receive(store, remove=True) as delivery:
                assert delivery.id == uid
        await add(store)
        assert query(store.path, "SELECT id FROM messages") == [(4,)]
        await (await receive(store)).ack()
        query(store.path, "DELETE FROM messages")  # another program
        uid = await add(store)
        assert (await receive(store)).id == uid


async def test_group_has_no_rows_for_settled_messages(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        for _ in range(5):
            await add(store)
        for n in range(4):
            delivery = await receive(store)
            await (delivery.retry(after=100) if n == 2 else delivery.ack())
        assert query(store.path, "SELECT message FROM deliveries") == [(3,)]
        assert query(store.path, "SELECT * FROM consumer_groups") == [("default", 4)]


async def test_message_that_cannot_be_read_becomes_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other messages are delivered."""
    async with SQLite(tmp_path / "mail.db") as store:
        bad, good = await add(store), await add(store)
        original = store.get

        async def get(uid: str) -> object:
            if uid == bad:
                raise StoreError("malformed")
            return await original(uid)

        monkeypatch.setattr(store, "get", get)
        for n in range(2):
            with pytest.raises(StoreError, match="malformed"):
                await claim(store, max_attempts=2)
            if n == 0:
                got = await claim(store)
                assert got is not None
                assert got.stored.id == good
                now = store.clock()
                store.clock = partial(float, now + 10)
        [letter] = await dead(store)
        assert (letter.entry.id, letter.reason, letter.attempts) == (bad, "malformed", 2)


async def test_message_that_was_removed_meanwhile_can_be_settled(tmp_path: Path) -> None:
    """By another group, for example. There is nothing left to deliver."""
    async with SQLite(tmp_path / "mail.db") as store:
        await add(store)
        one, two = await receive(store, "one"), await receive(store, "two")
        await store.remove([one.id])
        await one.ack()
        await two.retry(after=0)
        assert await claim(store, "two") is None
