"""``smtp-trio serve``: receive mail and store it.

The hooks are a store, with `Server.on` adding one that checks logins and one that checks the domains of recipients. One
process serves alone (`serve`), or a parent (`supervise`) starts workers, which run the same command line again
(`serve_as_worker`).
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from itertools import zip_longest

import trio
from attrs import evolve

from .._server import log_events
from .._server.listeners import format_address, open_listeners, socket_from_fd, systemd_fds, to_listener
from .._server.server import Server
from .._server.session import Session
from .._server.tls_files import ClientCertificate, TlsFiles
from .._timeouts import server_timeouts
from .._types import Statistics
from ..credentials import UsersFile
from ..protocol import Rcpt, Reply, syntax
from ..protocol.extensions import Auth, standard
from ..protocol.hosts import check_host
from ..protocol.sasl import MECHANISMS, Credentials
from ..stores import Maildir, SQLite, StoreError
from .allocator import return_freed_memory
from .descriptors import MAX_SESSIONS, raise_descriptor_limit, sessions_within
from .limit_option import limit_help, limit_option, make_limits
from .log_output import open_log
from .network_option import network_option
from .options import UsageError, describe_error, describe_listen_error, number_between
from .privileges import become, user_option
from .service_manager import ServiceManager
from .switch_interval import short_switch_interval
from .tls_files import ignore_undecodable_names, load_certificates
from .units import octets, seconds
from .unix_option import LMTP_PATH, MODE, group_option, mode_option, unix_socket
from .workers import ParentLink, Workers, usable_cores

STORES: dict[str, type[Maildir | SQLite]] = {"maildir": Maildir, "sqlite": SQLite}
LOOPBACK = "127.0.0.1"
PORT = 2525
ALL_DOMAINS = "*"
ADD_ACCEPT = "add --accept DOMAIN, or --accept '*' for all domains"
#: The extension of ``--auth-accept-any``, with all mechanisms that send the password or token itself.
ANY_LOGIN = Auth(cleartext=True, mechanisms=tuple(name for name, each in MECHANISMS.items() if each.cleartext))
NOT_LOCAL = Reply(550, "Mail for this domain is not accepted here, and nothing is relayed", "5.7.1")

#: Seconds that sessions have to finish after the first signal to stop. After the second signal they are cancelled.
GRACE = 30.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STDERR = 2
STARTED_AT_TERMINAL = os.isatty(STDERR)


# --- options ----------------------------------------------------------------------------------------------------------


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio serve``."""
    parser.description = (
        "Receive mail and store it. Without options the server listens on 127.0.0.1:2525 and stores mail for every recipient "
        "in ./Maildir. It prints one line for each message and each refusal on standard output, and warnings and errors "
        "on standard error. It never relays. At most 512 sessions are open at once, and 50 from one "
        "client address, which may open 300 in a minute. SIGINT and SIGTERM stop "
        "the server after the messages in progress, or after 30 seconds; a second signal stops it at once. SIGHUP reloads the "
        "certificate and the auth file."
    )
    add = parser.add_argument
    # fmt: off
    add("--host", metavar="ADDRESS",
        help=f"address to listen on; '*': all interfaces, IPv4 and IPv6 (default: {LOOPBACK})")
    address = parser.add_mutually_exclusive_group().add_argument
    address("--port", metavar="PORT", type=number_between(int, 65535),
        help=f"port to listen on; 0: a free one, which is printed (default: {PORT})")
    address("--unix", metavar="PATH",
        help="path of a unix socket to listen on, instead of --host and --port")
    address("--fd", metavar="FD", type=fd_option, action="append", default=[],
        help="inherited file descriptor of a listening socket, instead of --host and --port; 'systemd': the sockets passed "
             "by systemd (LISTEN_FDS). Repeatable")
    add("--unix-mode", metavar="MODE", type=mode_option,
        help=f"permissions of the unix socket; those who may write to it may connect (default: {MODE:o})")
    add("--unix-group", metavar="GROUP", type=group_option,
        help="group of the unix socket (default: that of the process)")
    add("--lmtp", action="store_true",
        help="speak LMTP and not SMTP, with a reply for each recipient of a message; on the unix socket "
             f"{LMTP_PATH} unless an address is given")
    add("--user", metavar="USER", type=user_option,
        help="user to run as once the port is open; requires root. The store and the files that other options name must be "
             "accessible to it")
    add("--workers", metavar="N", type=number_between(int, 256), default=1,
        help="number of processes that share the port, restarted when they end; 0: one for each core (default: %(default)s)")
    add("--store", metavar="STORE", type=store_option, default="maildir:Maildir",
        help="where to store messages, maildir:PATH or sqlite:PATH (default: %(default)s)")
    add("--accept", metavar="DOMAIN", type=domain_option, action="append", default=[],
        help="accept mail for this domain only; .DOMAIN: for its subdomains, but not for DOMAIN itself; '*': for every domain. "
             "Required unless the address is a loopback one. Repeatable; <Postmaster> is always accepted")
    add("--name", metavar="NAME",
        help="the server's host name in its greeting and in Received fields (default: the name of this host)")
    add("--size", metavar="SIZE", type=octets, default="30M",
        help="maximum message size, with a unit if it is not in octets: 500k, 10M, 1G (1k is 1,024 octets); 0: no limit (default: "
             "%(default)s)")
    add("--timeout", metavar="TIME", type=seconds(10**9), default="5m",
        help="idle timeout, with a unit if it is not in seconds: 90s, 5m, 1h; 0: none (default: %(default)s)")
    add("--limit", metavar="NAME=VALUE", type=limit_option, action="append", default=[],
        help="a limit on what clients can use; 0 or 'none': no limit, where possible. Repeatable. The limits and their defaults, "
             f"in octets and seconds unless the value has a unit: {limit_help()}")
    add("--proxy-protocol", metavar="NETWORK", type=network_option, action="append", default=[],
        help="connections from this network, 'unix' for Unix domain sockets, must begin with a PROXY header (version 1 or 2), "
             "which has the address of the client; others must not. Repeatable")
    add("--xclient", metavar="NETWORK", type=network_option, action="append", default=[],
        help="proxies on this network may name their clients with XCLIENT. Repeatable")
    add("--xforward", metavar="NETWORK", type=network_option, action="append", default=[],
        help="filters on this network may state the origin of a message with XFORWARD, for the log. Repeatable")
    add("--newlines", choices=("reject", "normalize", "preserve"), default="normalize",
        help="how to treat a bare CR or LF in a message; reject: refuse the message, which is the default of the library; "
             "normalize: store it as CRLF; preserve: store it as it is (default: %(default)s)")
    mode = parser.add_mutually_exclusive_group().add_argument
    mode("--lenient", metavar="DOMAIN", nargs="?", const=True, default=False,
        help="accept what printers and scanners send although the SMTP standard forbids it: HELO without a name, addresses "
             "without a domain, to which DOMAIN is appended (default: the name of the server), AUTH after HELO, and others")
    mode("--strict", action="store_true",
        help="refuse what the SMTP standard forbids and most servers accept, such as addresses without angle brackets; for "
             "tests of clients")
    add("--tls-cert", metavar="FILE", action="append", default=[],
        help="certificate with its chain, in PEM; enables STARTTLS. Repeatable: clients that name the server get the certificate for "
             "that name, and others the first one")
    add("--tls-key", metavar="FILE", action="append", default=[],
        help="key of the certificate, in PEM (default: in the file of the certificate). Repeatable, in the order of --tls-cert")
    add("--implicit-tls", action="store_true",
        help="start TLS on connect, as on port 465; requires a certificate")
    add("--tls-min", metavar="VERSION", choices=("1.2", "1.3"), default="1.2",
        help="lowest version of TLS, 1.2 or 1.3 (default: %(default)s)")
    add("--tls-client-ca", metavar="FILE",
        help="certificates of the authorities for client certificates, in PEM; clients must have a valid certificate")
    add("--tls-client-optional", action="store_true",
        help="with --tls-client-ca: also accept clients without a certificate")
    add("--tls-timeout", metavar="TIME", type=seconds(10**9), default="30s",
        help="how long a TLS handshake may take; 0: no limit (default: %(default)s)")
    add("--auth-file", metavar="FILE",
        help="accounts, user:password or user:hash on each line, as `smtp-trio passwd` writes them. Clients have to log in, "
             "over TLS, before they send mail; requires a certificate")
    add("--auth-optional", action="store_true",
        help="with --auth-file: also accept mail from clients that do not log in")
    add("--auth-accept-any", action="store_true",
        help="accept any user name and password, also without TLS, and clients that do not log in; for development only")
    add("--log-format", choices=("text", "json"), default="text",
        help="format of the log (default: %(default)s)")
    add("-q", "--quiet", action="store_const", dest="level", const=logging.WARNING, default=logging.INFO,
        help="print warnings and errors only")
    add("-v", "--verbose", action="store_const", dest="level", const=logging.DEBUG,
        help="also print every command and its reply")
    # fmt: on
    parser.set_defaults(run=run_serve)


def store_option(text: str) -> Maildir | SQLite:
    """Return the store that a value of ``--store`` names."""
    kind, _, path = text.partition(":")
    if kind not in STORES or not path:
        raise argparse.ArgumentTypeError(f"must be maildir:PATH or sqlite:PATH, got {text!r}")
    return STORES[kind](os.path.expanduser(path))


def fd_option(text: str) -> str:
    """Check a value of ``--fd``."""
    return text if text == "systemd" else str(number_between(int, 2**31 - 1)(text))


def domain_option(text: str) -> str:
    """Return a value of ``--accept`` in the form that the domains of recipients have.

    A leading dot stays, and so does ``*``. See `syntax.normalize_domain`.
    """
    if text == ALL_DOMAINS:
        return text
    domain = text.removeprefix(".")
    canonical = syntax.parse_domain(domain)
    if canonical is None:
        raise argparse.ArgumentTypeError(f"invalid domain: {text!r}")
    return text[: -len(domain)] + canonical.lower()


def check_options(options: argparse.Namespace, sockets: Sequence[socket.socket]) -> None:
    """Raise UsageError for options that cannot be combined. ``sockets`` are those of ``--fd``."""
    if not options.tls_cert:
        if options.tls_key:
            raise UsageError("--tls-key requires --tls-cert")
        if options.tls_client_ca is not None:
            raise UsageError("--tls-client-ca requires --tls-cert and --tls-key")
        if options.implicit_tls:
            raise UsageError("--implicit-tls requires --tls-cert and --tls-key")
        if options.auth_file is not None:
            raise UsageError("--auth-file requires --tls-cert and --tls-key: passwords are accepted over TLS only")
    if options.tls_key and len(options.tls_key) != len(options.tls_cert):
        raise UsageError("--tls-key must be given once for each --tls-cert, or not at all")
    if options.tls_client_optional and options.tls_client_ca is None:
        raise UsageError("--tls-client-optional requires --tls-client-ca")
    if options.auth_optional and options.auth_file is None:
        raise UsageError("--auth-optional requires --auth-file")
    if options.auth_accept_any and options.auth_file is not None:
        raise UsageError("--auth-accept-any cannot be combined with --auth-file")
    if options.fd and options.host is not None:
        raise UsageError("--host cannot be combined with --fd: the inherited socket has an address already")
    if options.unix is not None and options.host is not None:
        raise UsageError("--host cannot be combined with --unix")
    if options.unix is None and not (options.unix_mode is None and options.unix_group is None):
        raise UsageError("--unix-mode and --unix-group require --unix, or --lmtp without an address")
    if options.lmtp and 25 in (
        options.port,
        *(sock.getsockname()[1] for sock in sockets if sock.family != socket.AF_UNIX),
    ):
        raise UsageError("--lmtp must not be used on port 25 (RFC 2033 5)")
    if not options.accept:
        # Mail for every domain is a convenience for tests. On a public address it would invite spam for all of them.
        if options.host is not None and not is_loopback(options.host):
            raise UsageError(f"--host {options.host} is not a loopback address: {ADD_ACCEPT}")
        for sock in sockets:
            if sock.family != socket.AF_UNIX and not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
                raise UsageError(f"--fd: {format_address(sock)} is not a loopback address: {ADD_ACCEPT}")


def is_loopback(host: str) -> bool:
    """Return whether all addresses of a host are loopback addresses. Blocks while the name is resolved."""
    if host == "*":
        return False
    try:
        found = socket.getaddrinfo(check_host(host, "host"), None, type=socket.SOCK_STREAM)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    except OSError as error:
        raise UsageError(f"--host {host}: {describe_error(error)}") from None
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


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


# --- the server -------------------------------------------------------------------------------------------------------


def make_server(options: argparse.Namespace, accounts: UsersFile | None) -> Server:
    """Return a server as the options describe it."""
    auth = ANY_LOGIN if options.auth_accept_any else Auth()
    if accounts is not None:
        auth = Auth(required=not options.auth_optional, mechanisms=accounts.mechanisms)
    limits = make_limits([("sessions", sessions_within(raise_descriptor_limit())), *options.limit])
    try:
        server = Server(
            options.store,
            name=options.name,
            size=options.size,
            timeout=evolve(server_timeouts(options.timeout), tls=options.tls_timeout),
            extensions=standard(auth),
            limits=limits,
            newlines=options.newlines,
            lenient=options.lenient,
            strict=options.strict,
            lmtp=options.lmtp,
            proxy_from=options.proxy_protocol,
            xclient_from=options.xclient,
            xforward_from=options.xforward,
        )
    except ValueError as error:
        raise UsageError(f"--{error}") from None  # the names of options and of parameters are the same
    if accounts is not None:
        server.on(auth=accounts.auth, secret=accounts.secret)
    if options.auth_accept_any:
        server.on(auth=accept_any_login)
    if options.accept and ALL_DOMAINS not in options.accept:
        server.on(rcpt=accept_domains(options.accept))
    return server


def tls_files(options: argparse.Namespace) -> TlsFiles:
    """Return the files of the options about TLS."""
    verified: ClientCertificate = "optional" if options.tls_client_optional else "required"
    return TlsFiles(
        list(zip_longest(options.tls_cert, options.tls_key)),
        minimum=options.tls_min,
        client_certificate="never" if options.tls_client_ca is None else verified,
        client_ca=options.tls_client_ca,
    )


async def accept_any_login(session: Session, credentials: Credentials) -> None:
    """Accept all credentials, as the `auth` hook of ``--auth-accept-any``."""


def accept_domains(domains: Sequence[str]) -> Callable[[Session, Rcpt], Awaitable[Reply | None]]:
    """Return a `rcpt` hook that accepts recipients at these domains only.

    A domain that begins with a dot means its subdomains. ``<Postmaster>`` without a domain is accepted as well
    (RFC 5321 4.5.1).
    """
    exact, suffixes = frozenset(domains), tuple(domain for domain in domains if domain.startswith("."))

    async def rcpt(session: Session, rcpt: Rcpt) -> Reply | None:
        domain = rcpt.recipient.domain
        if domain is None or domain.lower() in exact or domain.endswith(suffixes):
            return None
        return NOT_LOCAL

    return rcpt


def read_users(users: UsersFile) -> None:
    """Read the file of ``--auth-file``. Raises UsageError when it cannot be used; the users then stay as they are."""
    try:
        users.load()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot use {users.path}: {describe_error(error)}") from None


def prepare(options: argparse.Namespace, sockets: Sequence[socket.socket]) -> tuple[Server, list[Callable[[], None]]]:
    """Return the server, and the functions to call on SIGHUP. ``sockets`` are the inherited ones."""
    if options.lmtp and options.host is options.port is options.unix is None and not options.fd:
        options.unix = LMTP_PATH
    check_options(options, sockets)
    options.host = LOOPBACK if options.host is None else options.host
    options.port = PORT if options.port is None else options.port
    return_freed_memory()
    reloads: list[Callable[[], None]] = []
    accounts = None
    if options.auth_file is not None:
        accounts = UsersFile(options.auth_file, interval=None)
        read_accounts = partial(read_users, accounts)
        read_accounts()
        reloads.append(read_accounts)
    server = make_server(options, accounts)
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
    server, reloads = prepare(options, sockets)
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
                code = trio.run(serve, server, options, sockets, reloads, early_signals)
        else:
            code = trio.run(supervise, options, sockets, count, log_lock, early_signals)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return code


async def serve(
    server: Server,
    options: argparse.Namespace,
    sockets: Sequence[socket.socket],
    reloads: Sequence[Callable[[], None]],
    early_signals: Sequence[int],
) -> int:
    """Serve in this process until SIGINT or SIGTERM, and return the exit code.

    ``reloads`` are called on SIGHUP; ``early_signals`` are signals to stop that came before this function was called.
    """
    manager = ServiceManager.from_environment()
    with trio.open_signal_receiver(*STOP_SIGNALS, signal.SIGHUP) as signals:
        if early_signals:
            return 0
        listeners = list(map(to_listener, sockets)) or await listen(options)
        become(options.user)
        async with open_store(options.store):
            log_start(listeners, options)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handle_signals, signals, nursery, server.stop, reloads, manager)
                nursery.start_soon(manager.feed_watchdog)
                await server.serve_listeners(listeners, implicit_tls=options.implicit_tls)
                nursery.cancel_scope.cancel()
    log_statistics(server.statistics())
    return 0


async def serve_as_worker(
    server: Server, options: argparse.Namespace, reloads: Sequence[Callable[[], None]], parent: ParentLink
) -> None:
    """Serve as one of several workers until the parent process sends SIGTERM."""
    async with open_store(options.store), aclosing(parent.signals()) as signals, trio.open_nursery() as nursery:
        nursery.start_soon(handle_signals, signals, nursery, server.stop, reloads, ServiceManager(), logging.DEBUG)
        parent.report_ready()
        await server.serve_listeners(list(map(to_listener, parent.sockets)), implicit_tls=options.implicit_tls)
        nursery.cancel_scope.cancel()
    parent.report(server.statistics())


async def supervise(
    options: argparse.Namespace,
    sockets: Sequence[socket.socket],
    count: int,
    log_lock: int,
    early_signals: Sequence[int],
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
        become(options.user)
        # Opened once before the workers start: an error is printed once, and only one process creates a new database.
        async with open_store(options.store):
            pass
        log_start(listener_sets[0], options)
        workers = Workers(listener_sets, log_lock, GRACE)
        async with trio.open_nursery() as nursery:
            reloads = [partial(workers.send_signal, signal.SIGHUP)]
            nursery.start_soon(handle_signals, signals, nursery, workers.stop, reloads, manager)
            nursery.start_soon(manager.feed_watchdog)
            await workers.run()
            nursery.cancel_scope.cancel()
    log_statistics(workers.statistics())
    return int(workers.failed)


@asynccontextmanager
async def open_store(store: Maildir | SQLite) -> AsyncIterator[None]:
    """Open a store, and close it at the end of the block."""
    async with aclosing(store):
        try:
            await store.open()
        except StoreError as error:
            cause = error.__cause__ or error
            path = (isinstance(cause, OSError) and cause.filename) or store.path
            raise UsageError(f"cannot store mail in {path}: {describe_error(cause)}") from None
        yield


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
    log_events.STORING.log(store=f"{type(options.store).__name__.lower()}:{options.store.path}")
    descriptors = raise_descriptor_limit()
    if "sessions" not in dict(options.limit) and (sessions := sessions_within(descriptors)) < MAX_SESSIONS:
        log_events.FEW_DESCRIPTORS.log(descriptors=descriptors, sessions=sessions)
    if ALL_DOMAINS in options.accept:
        log_events.ALL_DOMAINS_ACCEPTED.log()
    if options.auth_accept_any:
        log_events.ANY_LOGIN_ACCEPTED.log()


def log_statistics(statistics: Statistics) -> None:
    """Log the totals at the end."""
    log_events.STOPPED.log(messages=statistics.messages, refused=statistics.refused, sessions=statistics.sessions_total)


async def handle_signals(
    signals: AsyncIterator[int],
    nursery: trio.Nursery,
    stop: Callable[[float], Awaitable[object]],
    reloads: Sequence[Callable[[], None]],
    manager: ServiceManager,
    level: int = logging.INFO,
) -> None:
    """Call ``stop(GRACE)`` on the first signal to stop and ``stop(0)`` on the next one; call ``reloads`` on SIGHUP."""
    grace = GRACE
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
                reload()
            except UsageError as error:
                log_events.RELOAD_FAILED.log(signal=name, error=str(error))
        manager.ready()
