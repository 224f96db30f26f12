"""The rate of an engine without SMTP: ``python -m benchmarks.engine_loop URL COUNT TASKS SIZE [--ungrouped]``.

Tasks hand messages to one writer, which writes all that wait as one durable group: the least that a store has to do. It prints
the seconds that this took.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Write = Callable[[list[bytes]], Awaitable[None]]
GROUP = 256


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


ENGINES = {"redis": redis, "postgresql": postgresql}


async def run(url: str, count: int, tasks: int, size: int, group: int) -> float:
    """Write messages, and return the seconds that it took."""
    sending, receiving = trio.open_memory_channel[tuple[bytes, trio.Event]](tasks)
    message = b"x" * size

    async def writer(write: Write) -> None:
        async for first in receiving:
            batch = [first]
            while len(batch) < group:
                try:
                    batch.append(receiving.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            await write([octets for octets, _ in batch])
            for _, done in batch:
                done.set()

    async def client(messages: int) -> None:
        for _ in range(messages):
            done = trio.Event()
            await sending.send((message, done))
            await done.wait()

    async with ENGINES[url.partition(":")[0]](url) as write, trio.open_nursery() as nursery:
        nursery.start_soon(writer, write)
        start = time.perf_counter()
        async with trio.open_nursery() as clients:
            for number in range(tasks):
                clients.start_soon(client, count // tasks + (number < count % tasks))
        seconds = time.perf_counter() - start
        await sending.aclose()
    return seconds


def main() -> None:
    """Write messages, and print the seconds that it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    for name in ("count", "tasks", "size"):
        parser.add_argument(name, type=int)
    parser.add_argument("--ungrouped", action="store_true")
    args = parser.parse_args()
    print(trio.run(run, args.url, args.count, args.tasks, args.size, 1 if args.ungrouped else GROUP))


if __name__ == "__main__":
    main()
