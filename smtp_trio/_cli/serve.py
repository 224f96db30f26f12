"""How ``smtp-trio serve`` serves: alone, as a worker, or as the parent of workers; and what the signals do."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial

import trio

from .._server.listeners import listener, open_listeners, spelled
from .._server.server import Server
from .._types import Statistics
from ..stores import Maildir, SQLite, StoreError
from .options import UsageError, describe_error
from .workers import Place, Workers

log = logging.getLogger("smtp_trio.cli")

#: Seconds for what is under way when the first signal comes. The second signal gives none.
GRACE = 30.0
STOP = (signal.SIGINT, signal.SIGTERM)
STDERR = 2
AT_A_TERMINAL = os.isatty(STDERR)


async def serve(
    server: Server,
    options: argparse.Namespace,
    sockets: Sequence[socket.socket],
    rereads: Sequence[Callable[[], None]],
    early: Sequence[int],
) -> int:
    """Serve until a signal says to stop; ``early`` are those that came before. Gives the exit code."""
    with trio.open_signal_receiver(*STOP, signal.SIGHUP) as signals:
        if early:
            return 0
        async with opened(options.store):
            listeners = list(map(listener, sockets)) or await listen(options)
            say_where(listeners, options.store)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(heed, signals, nursery, server.stop, rereads)
                await server.serve_listeners(listeners, implicit_tls=options.implicit_tls)
                nursery.cancel_scope.cancel()
    last_words(server.statistics())
    return 0


async def work(
    server: Server, options: argparse.Namespace, rereads: Sequence[Callable[[], None]], place: Place
) -> None:
    """Serve as a worker, until the parent says to stop."""
    async with opened(options.store), aclosing(place.orders()) as orders, trio.open_nursery() as nursery:
        nursery.start_soon(heed, orders, nursery, server.stop, rereads, logging.DEBUG)
        await server.serve_listeners(list(map(listener, place.sockets)), implicit_tls=options.implicit_tls)
        nursery.cancel_scope.cancel()
    place.report(server.statistics())


async def supervise(
    options: argparse.Namespace, sockets: Sequence[socket.socket], count: int, lock: int, early: Sequence[int]
) -> int:
    """Have workers serve until a signal says to stop; gives the exit code."""
    with trio.open_signal_receiver(*STOP, signal.SIGHUP) as signals:
        if early:
            return 0
        async with opened(options.store):
            pass  # what is wrong with it is said once, and no two workers make a new database
        if not sockets:
            # Not shared with anybody, to see that the port is free: another server of ours would share it without a word.
            collapse_group = await listen(options)
            options.port = collapse_group[0].socket.getsockname()[1]
            for each in collapse_group:
                each.socket.close()
        sets = [list(map(listener, sockets)) or await listen(options, reuse_port=True) for _ in range(count)]
        say_where(sets[0], options.store)
        workers = Workers(sets, lock, GRACE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed, signals, nursery, workers.stop, [partial(workers.tell, signal.SIGHUP)])
            await workers.run()
            nursery.cancel_scope.cancel()
    last_words(workers.statistics())
    return int(workers.failed)


@asynccontextmanager
async def opened(store: Maildir | SQLite) -> AsyncIterator[None]:
    async with aclosing(store):
        try:
            await store.open()
        except StoreError as error:
            raise UsageError(f"cannot store mail in {store.path}: {describe_error(error.__cause__ or error)}") from None
        yield


async def listen(options: argparse.Namespace, *, reuse_port: bool = False) -> list[trio.SocketListener]:
    try:
        return await open_listeners(options.port, None if options.host == "*" else options.host, reuse_port=reuse_port)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on {options.host}, port {options.port}: {describe_error(error)}") from None


def say_where(listeners: Sequence[trio.SocketListener], store: Maildir | SQLite) -> None:
    for each in listeners:
        log.info("listening on %s", spelled(each.socket))
    log.info("storing in %s:%s", type(store).__name__.lower(), store.path)


def last_words(done: Statistics) -> None:
    log.info("stopped; messages taken: %d, refused: %d; sessions: %d", done.messages, done.refused, done.sessions_total)


async def heed(
    signals: AsyncIterator[int],
    nursery: trio.Nursery,
    stop: Callable[[float], Awaitable[object]],
    rereads: Sequence[Callable[[], None]],
    level: int = logging.INFO,
) -> None:
    """Do as the signals say."""
    grace = GRACE
    async for number in signals:
        name = signal.Signals(number).name
        # A terminal that hangs up sends SIGHUP as well, and is none any more.
        if number != signal.SIGHUP or os.isatty(STDERR) != AT_A_TERMINAL:
            log.log(level, "%s: stopping", name)
            nursery.start_soon(stop, grace)
            grace = 0
            continue
        log.log(level, "%s: reading certificate and auth file again, where there are any", name)
        for reread in rereads:
            try:
                reread()
            except UsageError as error:
                log.error("%s: %s; what was read before stays", name, error)
