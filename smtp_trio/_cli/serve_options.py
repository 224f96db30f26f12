"""The options of ``smtp-trio serve``, and which of them cannot be combined."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import socket
from collections.abc import Sequence

from .._server.listeners import format_address
from ..protocol import syntax
from ..protocol.hosts import check_host
from .fault_options import add_fault_options
from .http_options import add_http_options
from .limit_option import limit_help, limit_option
from .network_option import network_option
from .options import LOOPBACK, UsageError, describe_error, number_between
from .privileges import user_option
from .recipients_option import delimiter_option, recipients_option
from .relay_options import add_destination, add_relay_options, check_relay_options, relays
from .store_option import store_option
from .units import octets, seconds
from .unix_option import LMTP_PATH, MODE, group_option, mode_option

PORT = 2525
ALL_DOMAINS = "*"
ADD_ACCEPT = "add --accept DOMAIN ('*' for all) or --recipients FILE"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio serve``."""
    parser.description = (
        "Receive mail and store it. Without options the server listens on 127.0.0.1:2525 and stores mail for every recipient "
        "in ./Maildir. It prints one line for each message and each refusal on standard output, and warnings and errors "
        "on standard error. It relays nothing unless --relay or --relay-direct is given. "
        "At most 512 sessions are open at once, and 50 from one "
        "client address, which may open 300 in a minute. SIGINT and SIGTERM stop "
        "the server after the messages in progress, or after 30 seconds; a second signal stops it at once. SIGHUP reloads the "
        "certificate, the auth file, the recipients and the fault rules."
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
        help="where to store messages: maildir:PATH, sqlite:PATH, redis://HOST, postgresql://HOST/DATABASE, https://HOST/PATH or "
             "memory: (default: %(default)s)")
    add("--wait", action="store_true",
        help="wait until the store can be opened, instead of ending with an error, as for an engine that starts at the same time")
    add("--accept", metavar="DOMAIN", type=domain_option, action="append", default=[],
        help="accept mail for this domain only; .DOMAIN: for its subdomains, but not for DOMAIN itself; '*': for every domain. "
             "Required unless the address is a loopback one, or --recipients is given. Repeatable; <Postmaster> is always "
             "accepted")
    add("--recipients", metavar="SOURCE", type=recipients_option, action="append", default=[],
        help="accept mail for the addresses that this file, sqlite:PATH or http or https URL lists only, and expand its "
             "aliases. Repeatable. <Postmaster> is always accepted")
    add("--recipient-delimiter", metavar="CHARS", type=delimiter_option, default="+",
        help="characters that begin the detail of an address: user+detail is accepted where user is; '': none "
             "(default: %(default)s)")
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
    add_destination(add, "relay", "forward the stored messages to this server, as `smtp-trio relay` does, in tasks of their own: a "
        "client does not wait for that. With --workers, the parent process does it")
    add_relay_options(add, "relay-")
    add_http_options(add)
    add_fault_options(add)
    add("--log-format", choices=("text", "json"), default="text",
        help="format of the log (default: %(default)s)")
    add("-q", "--quiet", action="store_const", dest="level", const=logging.WARNING, default=logging.INFO,
        help="print warnings and errors only")
    add("-v", "--verbose", action="store_const", dest="level", const=logging.DEBUG,
        help="also print every command and its reply")
    # fmt: on


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
    if options.workers != 1 and not options.store.shared:
        raise UsageError(f"--workers cannot be combined with --store {options.store.url}: its mail is in one process")
    if options.unix is not None and options.host is not None:
        raise UsageError("--host cannot be combined with --unix")
    if options.unix is None and not (options.unix_mode is None and options.unix_group is None):
        raise UsageError("--unix-mode and --unix-group require --unix, or --lmtp without an address")
    if options.lmtp and 25 in (
        options.port,
        *(sock.getsockname()[1] for sock in sockets if sock.family != socket.AF_UNIX),
    ):
        raise UsageError("--lmtp must not be used on port 25 (RFC 2033 5)")
    check_relay_options(options, "--relay", "relay-")
    check_open_relay(options, sockets)
    if not (options.accept or options.recipients):
        # Mail for every domain is a convenience for tests. On a public address it would invite spam for all of them.
        if options.host is not None and not is_loopback(options.host):
            raise UsageError(f"--host {options.host} is not a loopback address: {ADD_ACCEPT}")
        for sock in sockets:
            if sock.family != socket.AF_UNIX and not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
                raise UsageError(f"--fd: {format_address(sock)} is not a loopback address: {ADD_ACCEPT}")


def check_open_relay(options: argparse.Namespace, sockets: Sequence[socket.socket]) -> None:
    """Raise UsageError if anyone could send mail to anyone through this server, which is what spammers look for."""
    if not relays(options) or ALL_DOMAINS not in options.accept:
        return
    if options.auth_file is not None and not options.auth_optional:
        return
    public = options.host is not None and not is_loopback(options.host)
    addresses = [sock.getsockname()[0] for sock in sockets if sock.family != socket.AF_UNIX]
    if public or not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise UsageError("--relay with --accept '*' would be an open relay: add --auth-file, or name the domains")


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
