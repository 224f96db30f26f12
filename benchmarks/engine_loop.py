"""The rate of an engine without SMTP: ``python -m benchmarks.engine_loop URL COUNT TASKS SIZE [--rows] [--store]``.

Tasks hand messages to one writer, which writes all that wait as one durable group. It prints the seconds that this took, and
those of its CPU.

An entry or row has the octets of the message only, and a table has the index of its key: the least that a store could do. With
``--rows`` it executes the statement of the store in PostgreSQL, so that the engine does what it does for the store, and the
program next to nothing: all columns but the id and the octets are constants. With ``--store`` the tasks use the store of
smtp_trio, which also writes the envelope, the recipients, and what readers and consumers need: twelve columns and two more
tables with their indexes in PostgreSQL, eleven fields in Redis.
"""

from __future__ import annotations

import argparse
import itertools
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import trio

from smtp_trio import stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Write = Callable[[list[bytes]], Awaitable[None]]
#: How long something took, and how much CPU.
Seconds = tuple[float, float]
GROUP = 256
SENDER, RECIPIENT = "a@example.org", "b@example.org"
HEADER = b"Subject: a benchmark\r\n\r\n"


@asynccontextmanager
async def redis(url: str) -> AsyncIterator[Write]:
    """Write to a stream, flushed by the primary (``appendfsync always``) and by so many replicas as the URL tells."""
    import coredis

    server, _, options = url.partition("?")
    replicas = int(dict(parse_qsl(options)).get("replicas", 0))
    async with coredis.Redis.from_url(server) as client:

        async def write(messages: list[bytes]) -> None:
            async with client.pipeline(transaction=False) as pipeline:
                added: list[Any] = [pipeline.xadd("loop", {"message": message}) for message in messages]
                if replicas:
                    added.append(pipeline.wait(replicas, 5000))
            for each in added:
                await each

        yield write


@asynccontextmanager
async def postgresql(url: str) -> AsyncIterator[Write]:
    """Insert into a table, in a thread, one transaction for a group."""
    import psycopg

    db = psycopg.connect(url)
    db.execute("CREATE TABLE IF NOT EXISTS loop (id bigserial PRIMARY KEY, message bytea NOT NULL)")
    db.commit()

    def insert(messages: list[bytes]) -> None:
        db.execute("INSERT INTO loop (message) SELECT unnest(%b::bytea[])", [messages])
        db.commit()

    async def write(messages: list[bytes]) -> None:
        await trio.to_thread.run_sync(insert, messages)

    yield write
    db.close()


@asynccontextmanager
async def store_rows(url: str) -> AsyncIterator[Write]:
    """Insert what the store would, into its tables, in a thread: one statement for a group, which is one transaction."""
    import psycopg

    from smtp_trio.stores._postgresql_connection import Bodies, BodiesDumper
    from smtp_trio.stores._postgresql_schema import prepare_tables
    from smtp_trio.stores.postgresql import STORE

    db = psycopg.connect(url, autocommit=True, prepare_threshold=1, options="-c search_path=loop")
    db.adapters.register_dumper(Bodies, BodiesDumper)
    prepare_tables(db, "loop")
    prefix, numbers = secrets.token_hex(10), itertools.count()
    envelope = (SENDER, "", "127.0.0.1", "client.example.org", "ESMTP", None, None)

    def insert(messages: list[bytes]) -> None:
        uids = [f"{prefix}-{next(numbers)}" for _ in messages]
        row = (datetime.now(UTC), *envelope, len(messages[0]), "a benchmark", None, 0)
        columns = [[value] * len(messages) for value in row]
        recipients = [[value] * len(messages) for value in (0, RECIPIENT, "")]
        db.execute(STORE, [uids, *columns, Bodies(messages), uids, *recipients, None]).fetchall()

    async def write(messages: list[bytes]) -> None:
        await trio.to_thread.run_sync(insert, messages)

    yield write
    db.close()


ENGINES = {"redis": redis, "postgresql": postgresql}


async def run(write: Callable[[bytes], Awaitable[object]], count: int, tasks: int, size: int) -> Seconds:
    """Write messages."""
    # PostgreSQL would compress a message of one letter to a hundredth, and not write what a store has to write.
    message = HEADER + random.Random(0).randbytes(size - len(HEADER))

    async def client(messages: int) -> None:
        for _ in range(messages):
            await write(message)

    start, before = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as clients:
        for number in range(tasks):
            clients.start_soon(client, count // tasks + (number < count % tasks))
    return time.perf_counter() - start, time.process_time() - before


async def run_loop(url: str, count: int, tasks: int, size: int, *, rows: bool = False) -> Seconds:
    """Write with a loop."""
    sending, receiving = trio.open_memory_channel[tuple[bytes, trio.Event]](tasks)

    async def writer(write: Write) -> None:
        async for first in receiving:
            batch = [first]
            while len(batch) < GROUP:
                try:
                    batch.append(receiving.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            await write([octets for octets, _ in batch])
            for _, done in batch:
                done.set()

    async def send(message: bytes) -> None:
        done = trio.Event()
        await sending.send((message, done))
        await done.wait()

    engine = store_rows if rows else ENGINES[url.partition(":")[0]]
    async with engine(url) as write, trio.open_nursery() as nursery:
        nursery.start_soon(writer, write)
        seconds = await run(send, count, tasks, size)
        await sending.aclose()
    return seconds


async def run_store(url: str, count: int, tasks: int, size: int) -> Seconds:
    """Write with the store."""
    async with stores.open(url) as store:

        async def add(message: bytes) -> None:
            await store.add(message, SENDER, [RECIPIENT])

        return await run(add, count, tasks, size)


def main() -> None:
    """Write messages, and print the seconds that it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    for name in ("count", "tasks", "size"):
        parser.add_argument(name, type=int)
    parser.add_argument("--rows", action="store_true")
    parser.add_argument("--store", action="store_true")
    args = parser.parse_args()
    work = run_store if args.store else partial(run_loop, rows=args.rows)
    print(*trio.run(work, args.url, args.count, args.tasks, args.size))


if __name__ == "__main__":
    main()
