"""Clients, which run in this process: smtp_trio, aiosmtplib and smtplib, with smtp-sink as the server if installed."""

from __future__ import annotations

import asyncio
import smtplib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import trio

import smtp_trio

from .case import Case, Clock, Contender, Environment, Measure, Sample, UnavailableError, cores, pinned
from .load import HEADER, LINE
from .servers import HOST, Process, require_module, shared_server, start

SENDER, RECIPIENT = "a@example.org", "b@example.org"
MESSAGE = HEADER + LINE * 15
#: The number of connections in the cases with several.
POOL = 4
#: The time of a round trip through the relay, in seconds.
LATENCY = 0.02

#: Sends a number of messages to a port: (port, messages).
Send = Callable[[int, int], Sample]


def with_send(port: int, messages: int) -> Sample:
    """Use `smtp_trio.Client.send`, one message at a time."""

    async def main() -> Sample:
        async with smtp_trio.connect(HOST, port, tls="never") as client:
            clock = Clock()
            for _ in range(messages):
                await client.send(SENDER, [RECIPIENT], MESSAGE)
            return clock.stop(messages)

    return trio.run(main)


def with_send_many(port: int, messages: int) -> Sample:
    """Use `smtp_trio.Client.send_many`, with all messages in one call."""

    async def main() -> Sample:
        async with smtp_trio.connect(HOST, port, tls="never") as client:
            clock = Clock()
            results = await client.send_many((SENDER, [RECIPIENT], MESSAGE) for _ in range(messages))
            sample = clock.stop(messages)
            assert all(result.complete for result in results)
            return sample

    return trio.run(main)


def with_pool(port: int, messages: int) -> Sample:
    """Use `smtp_trio.Pool` in four tasks."""

    async def send_all(pool: smtp_trio.Pool, count: int) -> None:
        for _ in range(count):
            await pool.send(SENDER, [RECIPIENT], MESSAGE)

    async def main() -> Sample:
        async with smtp_trio.Pool(HOST, port, size=POOL, max_messages=messages + POOL, tls="never") as pool:
            async with trio.open_nursery() as nursery:
                for _ in range(POOL):
                    nursery.start_soon(send_all, pool, 1)
            clock = Clock()
            async with trio.open_nursery() as nursery:
                for _ in range(POOL):
                    nursery.start_soon(send_all, pool, messages // POOL)
            return clock.stop(messages)

    return trio.run(main)


def with_aiosmtplib(port: int, messages: int, connections: int = 1) -> Sample:
    """Use ``aiosmtplib.SMTP.sendmail`` over one or several connections, each in its own task."""
    import aiosmtplib

    async def send_all(client: aiosmtplib.SMTP, count: int) -> None:
        for _ in range(count):
            await client.sendmail(SENDER, [RECIPIENT], MESSAGE)

    async def main() -> Sample:
        clients = [aiosmtplib.SMTP(hostname=HOST, port=port, start_tls=False) for _ in range(connections)]
        for client in clients:
            await client.connect()
        await asyncio.gather(*(send_all(client, 1) for client in clients))
        clock = Clock()
        await asyncio.gather(*(send_all(client, messages // connections) for client in clients))
        sample = clock.stop(messages)
        for client in clients:
            await client.quit()
        return sample

    return asyncio.run(main())


def with_smtplib(port: int, messages: int, connections: int = 1) -> Sample:
    """Use ``smtplib.SMTP.sendmail`` over one or several connections, each in its own thread."""
    clients = [smtplib.SMTP(HOST, port, "localhost") for _ in range(connections)]

    def send_all(client: smtplib.SMTP, count: int) -> None:
        for _ in range(count):
            client.sendmail(SENDER, [RECIPIENT], MESSAGE)

    with ThreadPoolExecutor(connections) as threads:
        list(threads.map(lambda client: send_all(client, 1), clients))
        clock = Clock()
        list(threads.map(lambda client: send_all(client, messages // connections), clients))
        sample = clock.stop(messages)
    for client in clients:
        client.quit()
    return sample


def sending_to(target: Callable[[Environment], Process], send: Send) -> Contender:
    """Return a contender: a client that sends to this server."""

    def ready(env: Environment) -> Measure:
        if send in (with_aiosmtplib, pooled_aiosmtplib):
            require_module("aiosmtplib")
        port = target(env).port

        def measure(messages: int) -> Sample:
            with pinned(cores()[1]):
                return send(port, messages)

        with pinned(cores()[1]):
            send(port, POOL)  # not measured: what is created only once
        return measure

    return ready


def pooled_aiosmtplib(port: int, messages: int) -> Sample:
    """Use as many connections as the pool; aiosmtplib has no pool."""
    return with_aiosmtplib(port, messages, POOL)


def pooled_smtplib(port: int, messages: int) -> Sample:
    """Use as many connections as the pool."""
    return with_smtplib(port, messages, POOL)


def local_server(env: Environment) -> Process:
    """Return the server for all clients. smtp-sink supports PIPELINING and not CHUNKING."""
    try:
        return shared_server(env, "smtp-sink")
    except UnavailableError:
        return shared_server(env, "smtp_trio")


def distant_server(env: Environment) -> Process:
    """Return the same server, reached through the relay."""
    if ("relay",) not in env.processes:
        target = local_server(env).port
        env.processes["relay",] = start(
            env,
            lambda _, port: [sys.executable, "-m", "benchmarks.relay", str(port), str(target), str(LATENCY)],
        )
    return env.processes["relay",]


ONE: dict[str, Send] = {
    "send": with_send,
    "send_many": with_send_many,
    "aiosmtplib": with_aiosmtplib,
    "smtplib": with_smtplib,
}
POOLED: dict[str, Send] = {"Pool": with_pool, "aiosmtplib": pooled_aiosmtplib, "smtplib, in threads": pooled_smtplib}


def case(
    name: str, target: Callable[[Environment], Process], clients: dict[str, Send], amount: int, short: int
) -> Case:
    """Return a case in which all clients send to the same server."""
    contenders = {client: sending_to(target, send) for client, send in clients.items()}
    return Case(name=name, contenders=contenders, amount=amount, short=short, by="rate")


CASES = [
    case("1 KiB, one kept connection", local_server, ONE, 2_000, 40),
    case("1 KiB, four kept connections", local_server, POOLED, 2_000, 40),
    case("1 KiB, one kept connection, round trips of 20 ms", distant_server, ONE, 40, 4),
    case("1 KiB, four kept connections, round trips of 20 ms", distant_server, POOLED, 160, 8),
]
