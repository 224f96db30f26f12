"""The options of ``smtp-trio relay``, which ``smtp-trio serve`` has with the prefix ``--relay-``."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio
from attrs import frozen

from .._client.connect import ConnectSettings
from .._client.pool import Pool
from .._server import log_events
from ..stores import NotSupportedError
from .mx_options import resolver_option
from .options import PASSWORD_VARIABLE, UsageError, number_between
from .send import PASSWORD_MECHANISMS, default_port, server_option, settings
from .units import seconds

if TYPE_CHECKING:
    from ..relay import Relay
    from ..routing import DomainPool

# `smtp-trio serve` has these options too, so the modules of the relay and of routing are imported when they are used.

YEAR = 366 * 86400
#: Seconds that messages in progress have to finish after the first signal to stop.
GRACE = 30.0
LONGEST_INTERVAL = 4 * 3600.0
DEFAULT_CONCURRENCY = 4


def add_relay_options(add: Callable[..., Any], prefix: str = "") -> None:
    """Add the options, each with this prefix. Their values are attributes that begin with ``relay_``."""

    def option(name: str, **details: Any) -> None:
        add(f"--{prefix}{name}", dest=f"relay_{name.replace('-', '_')}", **details)

    # fmt: off
    option("direct", action="store_true",
        help="instead of to one server, send to the exchangers of the recipients' domains, as their MX records name them. Needs "
             "the extra dns: pip install 'smtp-trio[dns]'")
    option("tls", choices=("opportunistic", "required", "implicit", "never"),
        help="opportunistic: use STARTTLS if the server offers it, with any certificate; required: always, with a verified "
             "certificate; implicit: start TLS on connect, with a verified certificate; never: no TLS (default: opportunistic, "
             f"or required with --{prefix}user or --{prefix}cafile)")
    option("cafile", metavar="FILE",
        help=f"certificates to trust, in PEM (default: those of the system); makes --{prefix}tls required the default")
    option("user", metavar="NAME",
        help=f"log in as this user; the password comes from --{prefix}password-file, or from {PASSWORD_VARIABLE} in the environment")
    option("password-file", metavar="FILE",
        help="file with the password on its first line")
    option("auth-mechanism", type=str.upper, action="append", choices=PASSWORD_MECHANISMS,
        help="SASL mechanism to log in with. Repeatable, best first (default: the best that the server offers)")
    option("allow-cleartext", action="store_true",
        help="allow the password to be sent without encryption, or to a server whose certificate was not verified")
    option("concurrency", metavar="N", type=number_between(int, 1000, 1), default=DEFAULT_CONCURRENCY,
        help="how many messages are sent at the same time (default: %(default)s)")
    option("retry", metavar="TIME[:TIME]", type=retry_option, default="5m:4h",
        help="time until the second attempt, and the longest time between attempts; it doubles each time (default: %(default)s)")
    option("max-age", metavar="TIME", type=seconds(YEAR), default="5d",
        help="when a message is returned to its sender, if it could not be delivered until then (default: %(default)s)")
    option("delay-after", metavar="TIME", type=seconds(YEAR), default="4h",
        help="age at which its sender gets a report of the delay, once; 0: never (default: %(default)s)")
    option("group", metavar="NAME", default="relay",
        help="group of consumers of the store (default: %(default)s)")
    option("keep", action="store_true",
        help="keep messages in the store when they are delivered or returned (default: remove them)")
    option("resolver", metavar="ADDRESS[:PORT]", type=resolver_option, action="append", default=[],
        help=f"with --{prefix}direct: name server to ask. Repeatable (default: those of the system)")
    option("trust-resolver", action="store_true",
        help=f"with --{prefix}direct: believe the name servers of --{prefix}resolver that they have validated answers by DNSSEC")
    option("dane", choices=("opportunistic", "required", "never"),
        help=f"with --{prefix}direct: opportunistic: authenticate the exchangers that have TLSA records; required: use no others; "
             "never: ignore the records (default: opportunistic)")
    option("no-mta-sts", action="store_true",
        help=f"with --{prefix}direct: ignore the MTA-STS policies of domains")
    option("own", metavar="NAME|ADDRESS", action="append", default=[],
        help=f"with --{prefix}direct: a name or IP address of this host, to which nothing is sent. Repeatable")
    option("mx-port", metavar="PORT", type=number_between(int, 65535, 1),
        help=f"with --{prefix}direct: port of the exchangers (default: 25)")
    option("loopback", action="store_true",
        help=f"with --{prefix}direct: use exchangers with loopback addresses, for tests")
    # fmt: on


def retry_option(text: str) -> tuple[float, float]:
    """Return the first and the longest interval that a value of ``--retry`` means."""
    first, colon, longest = text.partition(":")
    parse = seconds(YEAR)
    shortest = parse(first)
    return shortest, parse(longest) if colon else max(shortest, LONGEST_INTERVAL)


def add_destination(add: Callable[..., Any], name: str, text: str) -> None:
    """Add the option with the server."""
    add(f"--{name}", metavar="HOST[:PORT]", dest="relay_to", type=server_option, help=text)


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Give the options in a UsageError this prefix."""
    try:
        yield
    except UsageError as error:
        text = str(error)
        raise UsageError(text.replace("--", f"--{prefix}", 1) if text.startswith("--") else text) from None


#: Options that have a meaning for one server only, and by domain only.
SMARTHOST = ("to", "tls", "user", "password_file", "auth_mechanism", "allow_cleartext")
DIRECT = ("resolver", "trust_resolver", "dane", "no_mta_sts", "own", "mx_port", "loopback")


def check_relay_options(options: argparse.Namespace, destination: str, prefix: str = "") -> None:
    """Raise UsageError for options that cannot be combined. ``destination`` is the option with the server."""

    def flag(name: str) -> str:
        return destination if name == "to" else f"--{prefix}{name.replace('_', '-')}"

    if options.relay_to is None and not options.relay_direct:
        given = [name for name in (*SMARTHOST, *DIRECT, "cafile", "keep") if getattr(options, f"relay_{name}")]
        if given:
            raise UsageError(f"{flag(given[0])} requires {destination} or --{prefix}direct")
        return
    for name in SMARTHOST if options.relay_direct else DIRECT:
        if getattr(options, f"relay_{name}"):
            direct = flag("direct")
            raise UsageError(
                f"{flag(name)} cannot be combined with {direct}"
                if options.relay_direct
                else f"{flag(name)} requires {direct}"
            )
    for name in ("password_file", "auth_mechanism", "allow_cleartext"):
        if getattr(options, f"relay_{name}") and options.relay_user is None:
            raise UsageError(f"{flag(name)} requires {flag('user')}")
    if options.relay_trust_resolver and not options.relay_resolver:
        raise UsageError(f"{flag('trust_resolver')} requires {flag('resolver')}")
    if options.relay_retry[1] < options.relay_retry[0] or options.relay_retry[0] < 1:
        raise UsageError(f"{flag('retry')}: the first time must be at least 1 s, and not longer than the second one")


def make_pool(options: argparse.Namespace, prefix: str = "") -> Pool | DomainPool:
    """Return the connections that the options mean. Raises UsageError for options that cannot be used."""
    if options.relay_direct:
        from ..routing import DomainPool
        from .send_mx import mx_settings

        values = {
            "resolvers": options.relay_resolver,
            "trust_resolver": options.relay_trust_resolver,
            "own": options.relay_own,
            "loopback": options.relay_loopback,
            "dane": options.relay_dane,
            "no_mta_sts": options.relay_no_mta_sts,
            "cafile": options.relay_cafile,
            "name": options.name,
            "timeout": None,
            "port": options.relay_mx_port,
        }
        port, found = mx_settings(argparse.Namespace(**values), f"--{prefix}direct")
        return DomainPool(port, size=options.relay_concurrency, **found)
    values = {
        "server": options.relay_to,
        "tls": options.relay_tls,
        "cafile": options.relay_cafile,
        "user": options.relay_user,
        "password_file": options.relay_password_file,
        "mechanisms": options.relay_auth_mechanism,
        "allow_cleartext": options.relay_allow_cleartext,
        "name": options.name,
        "lmtp": False,
        "timeout": None,
    }
    chosen = argparse.Namespace(**values)
    with prefixed(prefix):
        connection: ConnectSettings = settings(chosen)
        try:
            host, port = options.relay_to.host, options.relay_to.port or default_port(chosen)
            return Pool(host, port, size=options.relay_concurrency, **connection)
        except ValueError as error:
            raise UsageError(f"--{error}") from None


def make_relay(options: argparse.Namespace, pool: Pool | DomainPool) -> Relay:
    """Return the relay that the options mean. Raises UsageError for a store whose messages cannot be consumed."""
    from ..relay import Relay, Schedule

    first, longest = options.relay_retry
    schedule = Schedule(
        first=first, longest=longest, max_age=options.relay_max_age, delay_after=options.relay_delay_after
    )
    try:
        return Relay(
            options.store,
            pool,
            name=options.name,
            group=options.relay_group,
            concurrency=options.relay_concurrency,
            schedule=schedule,
            remove=not options.relay_keep,
        )
    except (ValueError, NotSupportedError) as error:
        raise UsageError(f"cannot relay: {error}") from None


def relays(options: argparse.Namespace) -> bool:
    """Return whether there is a destination."""
    return options.relay_to is not None or bool(options.relay_direct)


@frozen
class PreparedRelay:
    """A relay and its connections."""

    relay: Relay
    pool: Pool | DomainPool


def prepare_relay(options: argparse.Namespace, prefix: str = "") -> PreparedRelay | None:
    """Return the relay that the options mean, or None without a destination. Raises UsageError."""
    if not relays(options):
        return None
    pool = make_pool(options, prefix)
    return PreparedRelay(make_relay(options, pool), pool)


@asynccontextmanager
async def running_relay(prepared: PreparedRelay | None) -> AsyncIterator[Relay | None]:
    """Run a relay during the block. The store must be open. Raises UsageError if another process consumes its messages."""
    if prepared is None:
        yield None
        return
    relay = prepared.relay
    try:
        async with prepared.pool, trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            log_events.RELAYING.log(store=relay.store.url, destination=relay.destination)
            try:
                yield relay
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error, others = group.split(NotSupportedError)
        if error is None or others is not None:
            raise
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise UsageError(f"cannot relay: {first}") from None
    counts = relay.statistics()
    log_events.RELAY_STOPPED.log(
        relayed=counts.relayed, undelivered=counts.undelivered, deferred=counts.deferred, reports=counts.reports
    )
