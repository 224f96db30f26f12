"""``smtp-trio serve``: a mail intake in one command. (``smtp-trio send`` is in `_send_cli`.)

It is put together from what every program can use: a store is the hooks, and who may send to whom is set with `Server.on`. What
is here besides is the options, and one line for whatever is wrong with them; `_serving` goes on from there.
"""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import logging
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from .. import __version__
from .._server.listeners import handed_over, inherited, spelled
from .._server.server import Server
from .._server.session import Session
from ..protocol import Limits, Rcpt, Reply, syntax
from ..protocol.extensions import Auth, standard
from ..stores import Maildir, SQLite
from .auth_file import Accounts, Hash
from .log_output import set_up_log
from .options import Parser, UsageError, describe_error, number_between
from .send import add_send
from .serve import STOP, serve, supervise, work
from .workers import Place, cores

STORES: dict[str, type[Maildir | SQLite]] = {"maildir": Maildir, "sqlite": SQLite}
LOOPBACK = "127.0.0.1"

NOT_HERE = Reply(550, "No mail is taken for that domain here; nothing is relayed", "5.7.1")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit code."""
    try:
        options = parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
        run: Callable[[argparse.Namespace], int | None] = options.run
        return run(options) or 0
    except UsageError as error:
        print(f"smtp-trio: error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who read our output has gone, as `| head` does; what is left in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


# --- the options ------------------------------------------------------------------------------------------------------


def parser(argv: Sequence[str] = ()) -> Parser:
    """All that can be said; what few need is imported for those who say it."""
    top = Parser(prog="smtp-trio", description="SMTP for Trio.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    add_serve(commands.add_parser("serve", help="take in mail and store it", allow_abbrev=False))
    add_send(commands.add_parser("send", help="send messages", allow_abbrev=False))
    conform = commands.add_parser("conform", help="try a server or a client against the RFCs", allow_abbrev=False)
    if "conform" in argv[:1]:
        if "--client" in argv:
            from .conform_client import add_conform_client as add_conform
        else:
            from .conform import add_conform
        add_conform(conform)
    hashing = commands.add_parser("hash-password", help="print a password's hash, for --auth-file", allow_abbrev=False)
    hashing.description = "Ask for a password, or read a line of standard input, and print its hash."
    hashing.set_defaults(run=hash_password)
    return top


def add_serve(serve: argparse.ArgumentParser) -> None:
    serve.description = (
        "Take in mail and store it: on 127.0.0.1:2525, for every recipient, in ./Maildir, unless told otherwise. A line is "
        "printed for each message and each refusal. Nothing is ever relayed. SIGINT and SIGTERM drain; SIGHUP reads the "
        "certificate and the auth file again."
    )
    add = serve.add_argument
    # fmt: off
    add("--host", metavar="ADDRESS", default=LOOPBACK,
        help="where to listen; '*': everywhere, IPv4 and IPv6 (%(default)s)")
    where = serve.add_mutually_exclusive_group().add_argument
    where("--port", metavar="PORT", type=number_between(int, 65535), default=2525,
        help="0: any free one, which is printed (%(default)s)")
    where("--fd", metavar="FD", type=as_fd, action="append", default=[],
        help="take connections from this listening socket, in place of --host and --port; 'systemd': from those that systemd "
             "has opened (LISTEN_FDS). May be repeated")
    add("--workers", metavar="N", type=number_between(int, 256), default=1,
        help="processes that share the port, with a parent that replaces one that dies; 0: one for each core (%(default)s)")
    add("--store", metavar="STORE", type=as_store, default="maildir:Maildir",
        help="maildir:PATH or sqlite:PATH (%(default)s)")
    add("--accept", metavar="DOMAIN", type=as_domain, action="append", default=[],
        help="take mail for this domain, and for no other; .DOMAIN: for its subdomains. Needed for any host that is not "
             "loopback. May be repeated; <Postmaster> is always taken")
    add("--name", metavar="NAME",
        help="the server's own name (this host's)")
    add("--size", metavar="OCTETS", type=number_between(int, 10**18), default=31457280,
        help="the largest message; 0: any (%(default)s)")
    add("--timeout", metavar="SECONDS", type=number_between(float, 10**9), default=300.0,
        help="of silence before goodbye; 0: never (%(default)g)")
    add("--newlines", choices=("reject", "normalize", "preserve"), default="normalize",
        help="what becomes of a bare CR or LF in a message (%(default)s: it is stored as CRLF)")
    add("--tls-cert", metavar="FILE",
        help="the certificate and its chain, in PEM; with it STARTTLS is offered")
    add("--tls-key", metavar="FILE",
        help="the certificate's key, in PEM (in the file of the certificate)")
    add("--implicit-tls", action="store_true",
        help="TLS from the first octet on, as on port 465")
    add("--auth-file", metavar="FILE",
        help="who may log in: user:password or user:hash, a line each. MAIL needs a login then, and a login needs TLS")
    add("--auth-optional", action="store_true",
        help="with --auth-file: whoever does not log in may send as well")
    add("--log-format", choices=("text", "json"), default="text",
        help="how lines are printed (%(default)s)")
    add("-q", "--quiet", action="store_const", dest="level", const=logging.WARNING, default=logging.INFO,
        help="print warnings and errors only")
    add("-v", "--verbose", action="store_const", dest="level", const=logging.DEBUG,
        help="print every command and its answer too")
    # fmt: on
    serve.set_defaults(run=run_serve)


def as_store(text: str) -> Maildir | SQLite:
    kind, _, path = text.partition(":")
    if kind not in STORES or not path:
        raise argparse.ArgumentTypeError(f"unknown store {text!r}: want maildir:PATH or sqlite:PATH")
    return STORES[kind](os.path.expanduser(path))


def as_fd(text: str) -> str:
    return text if text == "systemd" else str(number_between(int, 2**31 - 1)(text))


def as_domain(text: str) -> str:
    """A domain to accept, as `syntax.Path` would have it; a dot in front is kept."""
    bare = text.removeprefix(".")
    canonical = syntax.canonical_domain(bare) if re.fullmatch(rf"{syntax.DOMAIN}|{syntax.LITERAL}", bare) else None
    if canonical is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no domain")
    return text[: -len(bare)] + canonical.lower()


def hash_password(options: argparse.Namespace) -> None:
    if sys.stdin.isatty():
        try:
            password = getpass.getpass()
            again = getpass.getpass("Again: ")
        except EOFError:
            raise UsageError("no password") from None
        if again != password:
            raise UsageError("these were two passwords")
    else:
        password = sys.stdin.readline().removesuffix("\n")
    if not password or syntax.CONTROL.search(password):
        raise UsageError("a password is one character or more, without controls")
    print(Hash.of(password))


# --- what they ask for ------------------------------------------------------------------------------------------------


def make_server(options: argparse.Namespace, accounts: Accounts | None) -> Server:
    tls = certificate(options.tls_cert, options.tls_key) if options.tls_cert is not None else None
    required = accounts is not None and not options.auth_optional
    try:
        server = Server(
            options.store,
            name=options.name,
            size=options.size,
            timeout=options.timeout,
            tls=tls,
            extensions=standard(Auth(required=required)),
            limits=Limits(sessions=512, per_peer=50),
            newlines=options.newlines,
        )
    except ValueError as error:
        raise UsageError(f"--name: {error}") from None
    if accounts is not None:
        server.on(auth=accounts.auth)
    if options.accept:
        server.on(rcpt=accepting(options.accept))
    return server


def accepting(domains: Sequence[str]) -> Callable[[Session, Rcpt], Awaitable[Reply | None]]:
    """A `rcpt` hook that takes every recipient at these domains, and the bare ``<Postmaster>`` (RFC 5321 4.5.1)."""
    exact, below = frozenset(domains), tuple(domain for domain in domains if domain.startswith("."))

    async def rcpt(session: Session, rcpt: Rcpt) -> Reply | None:
        domain = rcpt.recipient.domain
        if domain is None or domain.lower() in exact or domain.endswith(below):
            return None
        return NOT_HERE

    return rcpt


def handed_on(wanted: Sequence[str]) -> list[socket.socket]:
    """The sockets that ``--fd`` means."""
    fds: list[int] = []
    for each in wanted:
        found = handed_over() if each == "systemd" else [int(each)]
        if not found:
            raise UsageError("--fd systemd: no socket was handed to this process (LISTEN_PID, LISTEN_FDS)")
        fds += found
    sockets = []
    for fd in dict.fromkeys(fds):
        try:
            sockets.append(inherited(fd))
        except OSError as error:
            raise UsageError(f"--fd {fd}: {describe_error(error)}") from None
    return sockets


def check(options: argparse.Namespace, sockets: Sequence[socket.socket]) -> None:
    """Options that do not go together."""
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise UsageError("--tls-key needs --tls-cert")
        if options.implicit_tls:
            raise UsageError("--implicit-tls needs --tls-cert and --tls-key")
        if options.auth_file is not None:
            raise UsageError("--auth-file needs --tls-cert and --tls-key: passwords are taken under TLS only")
    if options.auth_optional and options.auth_file is None:
        raise UsageError("--auth-optional needs --auth-file")
    if options.fd and options.host != LOOPBACK:
        raise UsageError("--host does not go with --fd, which has its address already")
    if not options.accept:
        if not is_loopback(options.host):
            raise UsageError(f"--host {options.host} is not loopback: say with --accept DOMAIN which mail to take")
        for sock in sockets:
            if sock.family != socket.AF_UNIX and not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
                raise UsageError(f"--fd: {spelled(sock)} is not loopback: say with --accept DOMAIN which mail to take")


def is_loopback(host: str) -> bool:
    if host == "*":
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: {describe_error(error)}") from None
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def certificate(cert: str, key: str | None) -> ssl.SSLContext:
    """A context with this certificate. A new one each time: one that fails to load has spoilt its context, and one context can
    hold certificates of several kinds, so that an old RSA one would live on beside a new ECDSA one.
    """
    for path in (cert, key or cert):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise UsageError(f"cannot read {path}: {describe_error(error)}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")  # an encrypted key would be asked for on the terminal
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise UsageError(f"the key in {key or cert} does not belong to the certificate in {cert}") from None
        raise UsageError(f"no certificate in {cert}, or no key that needs no passphrase in {key or cert}") from None
    return context


def read_accounts(accounts: Accounts) -> None:
    try:
        accounts.read()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot use {accounts.path}: {describe_error(error)}") from None


# --- serving ----------------------------------------------------------------------------------------------------------


def run_serve(options: argparse.Namespace) -> int:
    place = Place.given()
    sockets = handed_on(options.fd) if place is None else place.sockets
    check(options, sockets)
    rereads: list[Callable[[], None]] = []
    accounts = None
    if options.auth_file is not None:
        accounts = Accounts(options.auth_file)
        read_accounts(accounts)
        rereads.append(partial(read_accounts, accounts))
    server = make_server(options, accounts)
    if options.tls_cert is not None:

        def reread_certificate() -> None:
            server.tls = certificate(options.tls_cert, options.tls_key)

        rereads.append(reread_certificate)
    count = options.workers or cores()
    lock = place.lock if place is not None else None if count == 1 else os.memfd_create("smtp-trio-log")
    set_up_log(options.level, as_json=options.log_format == "json", lock=lock)
    if place is not None:
        trio.run(work, server, options, rereads, place)
        return 0
    # Python's own handlers would end us with a signal, not with 0, when one comes just before we listen to them or just after.
    early: list[int] = []
    for number in STOP:
        signal.signal(number, lambda number, frame: early.append(number))
    if lock is None:
        code = trio.run(serve, server, options, sockets, rereads, early)
    else:
        code = trio.run(supervise, options, sockets, count, lock, early)
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    return code
