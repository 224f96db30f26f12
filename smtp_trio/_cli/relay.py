"""``smtp-trio relay``: forward the messages of a store to a server."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from .._server import log_events
from .log_output import open_log
from .options import UsageError
from .privileges import become, user_option
from .relay_options import (
    GRACE,
    PreparedRelay,
    add_destination,
    add_relay_options,
    check_relay_options,
    prepare_relay,
    relays,
    running_relay,
)
from .service_manager import ServiceManager
from .store_option import open_store, relayed_store_option

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def add_relay(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio relay``."""
    parser.description = (
        "Forward the messages of a store to a server, or with --direct to the exchangers of their recipients' domains. "
        "Messages that are refused temporarily are sent again, for days. A message that cannot be delivered is returned to its "
        "sender with a report, which is put into the store and forwarded too. It prints a line for each attempt and recipient. "
        "SIGINT and SIGTERM stop it after the messages in progress, or after 30 seconds; a second signal stops it at once. "
        "Exit code: 0, it was stopped; 2, an option is invalid, or the store cannot be used."
    )
    add = parser.add_argument
    # fmt: off
    add("--store", metavar="STORE", type=relayed_store_option, required=True,
        help="where the messages are, such as sqlite:PATH. A path must exist")
    add("--wait", action="store_true",
        help="wait until the store can be opened, instead of ending with an error")
    add_destination(add, "to", "server to forward to, with an IPv6 address in brackets, or unix:PATH for a socket. The default "
        "port is 25, with --user 587, with --tls implicit 465")
    add_relay_options(add)
    add("--name", metavar="NAME",
        help="host name to send in EHLO, and for Received fields and reports (default: the name of this host)")
    add("--run-as", metavar="USER", type=user_option,
        help="user to run as; requires root")
    add("--log-format", choices=("text", "json"), default="text",
        help="format of the log (default: %(default)s)")
    add("-q", "--quiet", action="store_const", dest="level", const=logging.WARNING, default=logging.INFO,
        help="print warnings and errors only")
    add("-v", "--verbose", action="store_const", dest="level", const=logging.DEBUG,
        help="also print debug records")
    # fmt: on
    parser.set_defaults(run=run_relay)


def run_relay(options: argparse.Namespace) -> int:
    """Relay until SIGINT or SIGTERM; return the exit code."""
    if not relays(options):
        raise UsageError("--to HOST or --direct is required (see `smtp-trio relay --help`)")
    check_relay_options(options, "--to")
    prepared = prepare_relay(options)
    assert prepared is not None
    early_signals: list[int] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: early_signals.append(number))
    with open_log(options.level, as_json=options.log_format == "json"):
        code = trio.run(relay_until_stopped, options, prepared, early_signals)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return code


async def relay_until_stopped(options: argparse.Namespace, prepared: PreparedRelay, early_signals: list[int]) -> int:
    """Run the relay, and return the exit code."""
    manager = ServiceManager.from_environment()
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        if early_signals:
            return 0
        become(options.run_as)
        wait = (lambda: signals) if options.wait else None
        async with open_store(options.store, purpose="read", wait=wait) as is_open:
            if not is_open:
                return 0
            async with running_relay(prepared), trio.open_nursery() as nursery:
                nursery.start_soon(manager.feed_watchdog)
                await stop_on_signals(signals, prepared.relay.stop, manager)
                nursery.cancel_scope.cancel()
    return 0


async def stop_on_signals(
    signals: AsyncIterator[int], stop: Callable[[float], Awaitable[object]], manager: ServiceManager
) -> None:
    """Call ``stop(GRACE)`` on the first signal, and ``stop(0)`` on the next one; return when it has ended."""
    manager.ready()
    log_events.STOPPING.log(signal=signal.Signals(await anext(signals)).name)
    manager.stopping()

    async def stop_at_once() -> None:
        await anext(signals)
        await stop(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_once)
        await stop(GRACE)
        nursery.cancel_scope.cancel()
