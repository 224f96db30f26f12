"""Clients, which run in this process: smtp_trio's against aiosmtplib and smtplib, to smtp-sink if it is there."""

from __future__ import annotations

import asyncio
import smtplib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import trio

import smtp_trio

from .case import Case, Clock, Contender, Ground, Measure, Missing, Sample, cores, pinned
from .load import HEADER, LINE
from .servers import HOST, Process, module, running, start

SENDER, RECIPIENT = "a@example.org", "b@example.org"
MESSAGE = HEADER + LINE * 15
#: Connections at once, where there are several.
POOL = 4
#: Seconds of a round trip through the relay.
LATENCY = 0.02

Send = Callable[[int, int], Sample]  # to a port, so many messages


def with_send(port: int, messages: int) -> Sample:
    """`smtp_trio.Client.send`, one message at a time."""

    async def main() -> Sample:
        async with smtp_trio.connect(HOST, port, tls="never") as client:
            clock = Clock()
            for _ in range(messages):
                await client.send(SENDER, [RECIPIENT], MESSAGE)
            return clock.stop(messages)

    return trio.run(main)


def with_send_many(port: int, messages: int) -> Sample:
    """`smtp_trio.Client.send_many`, all in one call."""

    async def main() -> Sample:
        async with smtp_trio.connect(HOST, port, tls="never") as client:
            clock = Clock()
            results = await client.send_many((SENDER, [RECIPIENT], MESSAGE) for _ in range(messages))
            sample = clock.stop(messages)
            assert all(result.complete for result in results)
            return sample

    return trio.run(main)


def with_pool(port: int, messages: int) -> Sample:
    """`smtp_trio.Pool`, which four tasks use."""

    async def some(pool: smtp_trio.Pool, count: int) -> None:
        for _ in range(count):
            await pool.send(SENDER, [RECIPIENT], MESSAGE)

    async def main() -> Sample:
        async with smtp_trio.Pool(HOST, port, size=POOL, max_messages=messages + POOL, tls="never") as pool:
            async with trio.open_nursery() as nursery:
                for _ in range(POOL):
                    nursery.start_soon(some, pool, 1)
            clock = Clock()
            async with trio.open_nursery() as nursery:
                for _ in range(POOL):
                    nursery.start_soon(some, pool, messages // POOL)
            return clock.stop(messages)

    return trio.run(main)


def with_aiosmtplib(port: int, messages: int, connections: int = 1) -> Sample:
    """``aiosmtplib.SMTP.sendmail``, over one connection or several, each with a task of its own."""
    import aiosmtplib

    async def some(client: aiosmtplib.SMTP, count: int) -> None:
        for _ in range(count):
            await client.sendmail(SENDER, [RECIPIENT], MESSAGE)

    async def main() -> Sample:
        clients = [aiosmtplib.SMTP(hostname=HOST, port=port, start_tls=False) for _ in range(connections)]
        for client in clients:
            await client.connect()
        await asyncio.gather(*(some(client, 1) for client in clients))
        clock = Clock()
        await asyncio.gather(*(some(client, messages // connections) for client in clients))
        sample = clock.stop(messages)
        for client in clients:
            await client.quit()
        return sample

    return asyncio.run(main())


def with_smtplib(port: int, messages: int, connections: int = 1) -> Sample:
    """``smtplib.SMTP.sendmail``, which blocks: over one connection or several, each with a thread of its own."""
    clients = [smtplib.SMTP(HOST, port, "localhost") for _ in range(connections)]

    def some(client: smtplib.SMTP, count: int) -> None:
        for _ in range(count):
            client.sendmail(SENDER, [RECIPIENT], MESSAGE)

    with ThreadPoolExecutor(connections) as threads:
        list(threads.map(lambda client: some(client, 1), clients))
        clock = Clock()
        list(threads.map(lambda client: some(client, messages // connections), clients))
        sample = clock.stop(messages)
    for client in clients:
        client.quit()
    return sample


def to(target: Callable[[Ground], Process], send: Send) -> Contender:
    """A client, and the server that it sends to."""

    def ready(ground: Ground) -> Measure:
        if send in (with_aiosmtplib, pooled_aiosmtplib):
            module("aiosmtplib")
        port = target(ground).port

        def measure(messages: int) -> Sample:
            with pinned(cores()[1]):
                return send(port, messages)

        with pinned(cores()[1]):
            send(port, POOL)  # nobody pays for what is made once
        return measure

    return ready


def pooled_aiosmtplib(port: int, messages: int) -> Sample:
    """As many connections as the pool has: it has none of its own."""
    return with_aiosmtplib(port, messages, POOL)


def pooled_smtplib(port: int, messages: int) -> Sample:
    """As many connections as the pool has."""
    return with_smtplib(port, messages, POOL)


def sink(ground: Ground) -> Process:
    """What everybody sends to: it pipelines, and takes no chunks."""
    try:
        return running(ground, "smtp-sink")
    except Missing:
        return running(ground, "smtp_trio")


def far(ground: Ground) -> Process:
    """The same, at the other end of the relay."""
    if ("relay",) not in ground.processes:
        target = sink(ground).port
        ground.processes["relay",] = start(
            ground,
            lambda _, port: [sys.executable, "-m", "benchmarks.relay", str(port), str(target), str(LATENCY)],
        )
    return ground.processes["relay",]


ONE: dict[str, Send] = {
    "send": with_send,
    "send_many": with_send_many,
    "aiosmtplib": with_aiosmtplib,
    "smtplib": with_smtplib,
}
POOLED: dict[str, Send] = {"Pool": with_pool, "aiosmtplib": pooled_aiosmtplib, "smtplib, in threads": pooled_smtplib}


def case(name: str, target: Callable[[Ground], Process], clients: dict[str, Send], amount: int, short: int) -> Case:
    """All to the same server."""
    contenders = {client: to(target, send) for client, send in clients.items()}
    return Case(name=name, contenders=contenders, amount=amount, short=short, by="rate")


CASES = [
    case("1 KiB, one kept connection", sink, ONE, 2_000, 40),
    case("1 KiB, four kept connections", sink, POOLED, 2_000, 40),
    case("1 KiB, one kept connection, round trips of 20 ms", far, ONE, 40, 4),
    case("1 KiB, four kept connections, round trips of 20 ms", far, POOLED, 160, 8),
]
