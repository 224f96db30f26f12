"""``smtp-trio serve``: receive mail and store it.

One process serves alone (`serve`), or a parent (`supervise`) starts workers, which run the same command line again
(`serve_as_worker`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import cache, partial
from typing import TYPE_CHECKING

import trio

from .._server import log_events
from .._server.listeners import format_address, open_listeners, socket_from_fd, systemd_fds, to_listener
from .._server.server import Server
from .._server.snapshot import Snapshot, observe
from .._types import Statistics
from ..credentials import UsersFile
from .allocator import return_freed_memory
from .descriptors import MAX_SESSIONS, raise_descriptor_limit, sessions_within
from .fault_options import prepare_faults
from .http_listener import HttpListener, prepare_http
from .log_output import open_log
from .new_server import make_server, read_users, tls_files
from .options import LOOPBACK, UsageError, describe_error, describe_listen_error
from .privileges import become
from .recipients_option import load_source, reload_source
from .relay_options import PreparedRelay, prepare_relay, running_relay
from .serve_options import ALL_DOMAINS, PORT, add_options, check_options
from .service_manager import ServiceManager
from .store_option import open_store
from .switch_interval import short_switch_interval
from .tls_files import ignore_undecodable_names, load_certificates
from .unix_option import LMTP_PATH, unix_socket
from .workers import ParentLink, Workers, usable_cores

if TYPE_CHECKING:
    from ..relay import Relay

#: Seconds that sessions have to finish after the first signal to stop. After the second signal they are cancelled.
GRACE = 30.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STDERR = 2
STARTED_AT_TERMINAL = os.isatty(STDERR)
#: A function that is called on SIGHUP, and what it returns awaited. It raises UsageError when it cannot read something.
Reload = Callable[[], Awaitable[None] | None]


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio serve``."""
    add_options(parser)
    parser.set_defaults(run=run_serve, grace=GRACE, inbox=False)


def inherited_sockets(values: Sequence[str]) -> list[socket.socket]:
    """Return the listening sockets that the values of ``--fd`` name."""
    fds: list[int] = []
    for value in values:
        found = systemd_fds() if value == "systemd" else [int(value)]
        if not found:
            raise UsageError("--fd systemd: no sockets were passed to this process (LISTEN_PID, LISTEN_FDS)")
        fds += found
    sockets = []
    for fd in dict.fromkeys(fds):
        try:
            sockets.append(socket_from_fd(fd))
        except OSError as error:
            raise UsageError(f"--fd {fd}: {describe_error(error)}") from None
    return sockets


def prepare(
    options: argparse.Namespace, sockets: Sequence[socket.socket], http: HttpListener | None = None
) -> tuple[Server, list[Reload]]:
    """Return the server, and the functions to call on SIGHUP. ``sockets`` are the inherited ones."""
    if options.lmtp and options.host is options.port is options.unix is None and not options.fd:
        options.unix = LMTP_PATH
    check_options(options, sockets)
    options.host = LOOPBACK if options.host is None else options.host
    options.port = PORT if options.port is None else options.port
    return_freed_memory()
    reloads: list[Reload] = []
    accounts = None
    if options.auth_file is not None:
        accounts = UsersFile(options.auth_file, interval=None)
        read_accounts = partial(read_users, accounts)
        read_accounts()
        reloads.append(read_accounts)
    for source in options.recipients:
        load_source(source)
        reloads.append(partial(reload_source, source))
    # The rules of workers are their own, and those of a process with HTTP can be changed over it.
    shown = http is not None and (options.workers or usable_cores()) == 1
    faults, files = prepare_faults(options, wanted=shown)
    reloads += [file.load for file in files]
    if http is not None and shown:
        http.faults = faults
    server = make_server(options, accounts, None if http is None else http.recorder, faults)
    if options.tls_cert:
        reload_certificates = partial(load_certificates, server, tls_files(options))
        reload_certificates()
        reloads.append(reload_certificates)
        ignore_undecodable_names()
    return server, reloads


def run_worker(options: argparse.Namespace, parent: ParentLink) -> int:
    """Serve as a worker, and return the exit code. An error goes to the log, as everything that a worker prints."""
    log = open_log(options.level, as_json=options.log_format == "json", file_lock=parent.log_lock)
    with log, short_switch_interval():
        try:
            server, reloads = prepare(options, parent.sockets)
            trio.run(serve_as_worker, server, options, reloads, parent)
        except UsageError as error:
            log_events.START_FAILED.log(error=str(error))
            return 2
    return 0


def run_serve(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    parent = ParentLink.from_environment()
    if parent is not None:
        return run_worker(options, parent)
    sockets = inherited_sockets(options.fd)
    http = prepare_http(options)
    server, reloads = prepare(options, sockets, http)
    prepared = prepare_relay(options, "relay-")
    count = options.workers or usable_cores()
    log_lock = os.memfd_create("smtp-trio-log") if count > 1 else None
    # With Python's own handlers, a signal just before Trio's receiver opens or just after it closes would end the
    # process with that signal instead of exit code 0.
    early_signals: list[int] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: early_signals.append(number))
    log = open_log(options.level, as_json=options.log_format == "json", file_lock=log_lock)
    with unix_socket(options) as own, log:
        sockets += own
        if log_lock is None:
            with short_switch_interval():
                code = trio.run(serve, server, options, sockets, reloads, early_signals, prepared, http)
        else:
            code = trio.run(supervise, options, sockets, count, log_lock, early_signals, prepared, http)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return code


async def serve(
    server: Server,
    options: argparse.Namespace,
    sockets: Sequence[socket.socket],
    reloads: Sequence[Reload],
    early_signals: Sequence[int],
    prepared: PreparedRelay | None,
    http: HttpListener | None,
) -> int:
    """Serve in this process until SIGINT or SIGTERM, and return the exit code.

    ``reloads`` are called on SIGHUP; ``early_signals`` are signals to stop that came before this function was called.
    """
    manager = ServiceManager.from_environment()
    with trio.open_signal_receiver(*STOP_SIGNALS, signal.SIGHUP) as signals:
        if early_signals:
            return 0
        listeners = list(map(to_listener, sockets)) or await listen(options)
        if http is not None:
            await http.open()
        become(options.user)
        async with AsyncExitStack() as stack:
            is_open = await stack.enter_async_context(
                open_store(options.store, wait=(lambda: signals) if options.wait else None)
            )
            if not is_open:
                return 0
            relay = await stack.enter_async_context(running_relay(prepared))
            log_start(listeners, options)
            async with trio.open_nursery() as nursery:
                stop = stop_all(server.stop, relay)
                if http is not None:  # until the last session has ended, so that its state can be seen meanwhile
                    reloads = [*reloads, http.reload]
                    url = await nursery.start(partial(http.serve, server, options.store, relay=relay))
                    if options.inbox:
                        log_events.INBOX_READY.log(address=format_address(listeners[0].socket), url=url)
                nursery.start_soon(handle_signals, signals, nursery, stop, reloads, manager, options.grace)
                nursery.start_soon(manager.feed_watchdog)
                await server.serve_listeners(listeners, implicit_tls=options.implicit_tls)
                if relay is not None:
                    await relay.stop(GRACE)
                nursery.cancel_scope.cancel()
    log_statistics(server.statistics())
    return 0


async def serve_as_worker(
    server: Server, options: argparse.Namespace, reloads: Sequence[Reload], parent: ParentLink
) -> None:
    """Serve as one of several workers until the parent process sends SIGTERM."""
    measure = cache(partial(observe, server, options.store._group))  # from the first time that the parent asks

    def snapshot() -> Snapshot:
        return measure()()

    async with open_store(options.store, wait=parent.signals if options.wait else None) as is_open:
        if not is_open:
            return
        async with aclosing(parent.signals(snapshot)) as signals, trio.open_nursery() as nursery:
            nursery.start_soon(
                handle_signals, signals, nursery, server.stop, reloads, ServiceManager(), options.grace, logging.DEBUG
            )
            parent.report_ready()
            await server.serve_listeners(list(map(to_listener, parent.sockets)), implicit_tls=options.implicit_tls)
            nursery.cancel_scope.cancel()
    parent.report(snapshot())


async def supervise(
    options: argparse.Namespace,
    sockets: Sequence[socket.socket],
    count: int,
    log_lock: int,
    early_signals: Sequence[int],
    prepared: PreparedRelay | None,
    http: HttpListener | None,
) -> int:
    """Run ``count`` workers until SIGINT or SIGTERM, and return the exit code."""
    manager = ServiceManager.from_environment()
    with trio.open_signal_receiver(*STOP_SIGNALS, signal.SIGHUP) as signals:
        if early_signals:
            return 0
        if not sockets:
            # With SO_REUSEPORT the port of another smtp-trio could be opened as well, and the kernel would divide the
            # connections between the two. Opening it first without that option detects this.
            exclusive = await listen(options)
            options.port = exclusive[0].socket.getsockname()[1]
            for each in exclusive:
                each.socket.close()
        listener_sets = [
            list(map(to_listener, sockets)) or await listen(options, reuse_port=True) for _ in range(count)
        ]
        if http is not None:
            await http.open()
        become(options.user)
        async with AsyncExitStack() as stack:
            # Opened once before the workers start: an error is printed once, and only one process creates a new database.
            is_open = await stack.enter_async_context(
                open_store(options.store, wait=(lambda: signals) if options.wait else None)
            )
            if not is_open:
                return 0
            if prepared is None and http is None:
                await stack.aclose()  # this process does not use it
            relay = None
            if prepared is not None:  # in this process: one relay is enough, and it goes on when a worker ends
                relay = await stack.enter_async_context(running_relay(prepared))
            log_start(listener_sets[0], options)
            workers = Workers(listener_sets, log_lock, GRACE, observed=http is not None)
            async with trio.open_nursery() as nursery:
                reloads: list[Reload] = [partial(workers.send_signal, signal.SIGHUP)]
                if http is not None:
                    reloads.append(http.reload)
                    await nursery.start(partial(http.serve, None, options.store, workers=workers, relay=relay))
                stop = stop_all(workers.stop, relay)
                nursery.start_soon(handle_signals, signals, nursery, stop, reloads, manager, options.grace)
                nursery.start_soon(manager.feed_watchdog)
                await workers.run()
                if relay is not None:
                    await relay.stop(GRACE)
                nursery.cancel_scope.cancel()
    log_statistics(workers.statistics())
    return int(workers.failed)


def stop_all(stop: Callable[[float], Awaitable[object]], relay: Relay | None) -> Callable[[float], Awaitable[object]]:
    """Return a function that calls ``stop`` of a server, and that of its relay, at the same time."""
    if relay is None:
        return stop

    async def stop_both(grace: float) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop, grace)
            nursery.start_soon(relay.stop, grace)

    return stop_both


async def listen(options: argparse.Namespace, *, reuse_port: bool = False) -> list[trio.SocketListener]:
    """Open the listening sockets of ``--host`` and ``--port``."""
    try:
        return await open_listeners(options.port, None if options.host == "*" else options.host, reuse_port=reuse_port)
    except ValueError as error:
        raise UsageError(f"--{error}") from None  # the names of options and of parameters are the same
    except OSError as error:
        raise UsageError(describe_listen_error(options.host, options.port, error)) from None


def log_start(listeners: Sequence[trio.SocketListener], options: argparse.Namespace) -> None:
    """Log the addresses and the store, and warnings about options that are not meant for a public server."""
    for each in listeners:
        log_events.LISTENING.log(address=format_address(each.socket))
    log_events.STORING.log(store=options.store.url)
    descriptors = raise_descriptor_limit()
    sessions = sessions_within(descriptors, http=options.http is not None)
    if "sessions" not in dict(options.limit) and sessions < MAX_SESSIONS:
        log_events.FEW_DESCRIPTORS.log(descriptors=descriptors, sessions=sessions)
    if options.inbox:  # that is what it is for
        return
    if ALL_DOMAINS in options.accept and not options.recipients:
        log_events.ALL_DOMAINS_ACCEPTED.log()
    if options.fault or options.fault_file:
        log_events.FAULTS_IN_USE.log()
    if options.auth_accept_any:
        log_events.ANY_LOGIN_ACCEPTED.log()


def log_statistics(statistics: Statistics) -> None:
    """Log the totals at the end."""
    log_events.STOPPED.log(messages=statistics.messages, refused=statistics.refused, sessions=statistics.sessions_total)


async def handle_signals(
    signals: AsyncIterator[int],
    nursery: trio.Nursery,
    stop: Callable[[float], Awaitable[object]],
    reloads: Sequence[Reload],
    manager: ServiceManager,
    grace: float,
    level: int = logging.INFO,
) -> None:
    """Call ``stop(grace)`` on the first signal to stop and ``stop(0)`` on the next one; call ``reloads`` on SIGHUP."""
    manager.ready()
    async for number in signals:
        name = signal.Signals(number).name
        # A terminal that is closed sends SIGHUP too. Its descriptor is then not a terminal any more.
        if number != signal.SIGHUP or os.isatty(STDERR) != STARTED_AT_TERMINAL:
            log_events.STOPPING.log(as_level=level, signal=name)
            manager.stopping()
            nursery.start_soon(stop, grace)
            grace = 0
            continue
        log_events.RELOADING.log(as_level=level, signal=name)
        manager.reloading()
        for reload in reloads:
            try:
                if (loading := reload()) is not None:
                    await loading
            except UsageError as error:
                log_events.RELOAD_FAILED.log(signal=name, error=str(error))
        manager.ready()
