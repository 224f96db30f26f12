"""``smtp-trio conform --client``: test a client with ordinary, unusual and hostile servers."""

from __future__ import annotations

import argparse
import shlex
import shutil
import ssl
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio

from ..conform._client_cases import client_cases, client_titles
from ..conform._client_runner import VALUES, ClientOptions, check_client
from ..conform._client_under_test import CommandClient, IncomingClients, listen
from ..conform._report import Report
from .conform import OnResult, add_choice, choose, print_list, run_and_report
from .options import UsageError, describe_listen_error, number_between
from .units import seconds


def add_conform_client(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options to the parser."""
    parser.description = (
        "Test an SMTP client with ordinary, unusual and hostile servers, and report what it does wrong. With --command, "
        "the client is run once for each case. These stand for values: {host}, {port}, {from}, {to} and {to2} (the "
        "envelope), {message} (a file with CRLF line ends, which is the standard input too), {cafile}, {user} and "
        "{password}. The client must exit with 0 if the message was accepted for all recipients, and with another code "
        "otherwise. Without --command, each connection is one case. Exit code: 0 if all cases passed, 1 if one failed, 2 "
        "if the client could not be tested."
    )
    add = parser.add_argument
    # fmt: off
    add("--client", action="store_true", required=True,
        help="test a client")
    add("--host", metavar="ADDRESS", default="127.0.0.1",
        help="address to listen on (default: %(default)s)")
    add("--port", metavar="PORT", type=number_between(int, 65535), default=None,
        help="port to listen on; 0 stands for any free port (default with --command: another one for each case)")
    add("--command", metavar="COMMAND",
        help="the client: 'prog --server {host}:{port} --from {from} --to {to} --to {to2} {message}' (not a shell command)")
    add("--require-tls", action="store_true",
        help="the client is configured to require STARTTLS and a valid certificate ({cafile}, with the name of --name)")
    add("--name", default="localhost",
        help="the name in the certificate, beside the address: how the client calls the server (default: %(default)s)")
    add("--login", action="store_true",
        help=f"the client is configured to authenticate as {VALUES['user']} with the password {VALUES['password']}")
    add("--slow", action="store_true",
        help="also run cases of silent and slow servers, many of which take minutes (up to twelve)")
    add("--timeout", metavar="TIME", type=seconds(3600), default="30s",
        help="time limit of each case, in seconds or with a unit: 30s, 2m (default: %(default)s)")
    add("--wait", metavar="TIME", type=seconds(86400), default="5m",
        help="without --command: time to wait for a connection, for each case (default: %(default)s)")
    add("--jobs", metavar="N", type=number_between(int, 100, 1), default=1,
        help="number of simultaneous clients, with --command and without --port (default: %(default)s)")
    # fmt: on
    add_choice(parser)
    parser.set_defaults(run=run_conform_client)


def run_conform_client(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    requirements = choose(options, client_cases())
    if options.list:
        return print_list(requirements)
    check(options)

    async def run(on_result: OnResult) -> Report:
        with certificates(options.name, options.host) as (contexts, cafile):
            client_options = ClientOptions(
                require_tls=options.require_tls,
                login=options.login,
                slow=options.slow,
                timeout=options.timeout,
                contexts=contexts,
                cafile=cafile,
            )
            if options.command is not None:
                command = CommandClient(options.command, options.host, options.port or 0)
                # Each case listens again. An error is found here, before the first of them.
                await (await open_listener(options)).aclose()
                return await check_client(command, client_options, requirements, jobs=options.jobs, on_result=on_result)
            async with await open_listener(options) as listener:
                address = f"{options.host}:{listener.socket.getsockname()[1]}"
                progress(f"listening on {address}")
                clients = IncomingClients(
                    listener,
                    f"a client of {address}",
                    wait=options.wait,
                    on_case=lambda title: progress(f"next: {title}"),
                )
                return await check_client(clients, client_options, requirements, on_result=on_result)

    return run_and_report(options, run, client_titles())


async def open_listener(options: argparse.Namespace) -> trio.SocketListener:
    """Listen on ``--host`` and ``--port``."""
    port = options.port or 0
    try:
        return await listen(options.host, port)
    except (OSError, UnicodeError) as error:
        raise UsageError(describe_listen_error(options.host, port, error)) from None


def check(options: argparse.Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    if options.command is None:
        if options.port is None:
            raise UsageError("--port or --command is missing")
        if options.jobs > 1:
            raise UsageError("--jobs needs --command")
        return
    if options.jobs > 1 and options.port:
        raise UsageError("--jobs needs a port for each client: omit --port")
    try:
        parts = shlex.split(options.command)
    except ValueError as error:
        raise UsageError(f"--command: {error}") from None
    if not parts:
        raise UsageError("--command is empty")
    if "{port}" not in options.command and not options.port:
        raise UsageError("--command without {port} needs --port")
    if shutil.which(parts[0]) is None:
        raise UsageError(f"--command: no program {parts[0]!r} was found")


def progress(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def certificates(name: str, host: str) -> Iterator[tuple[Mapping[str, ssl.SSLContext], str]]:
    """Provide TLS contexts with valid and invalid certificates, and the authority's file; none without trustme."""
    try:
        import trustme
    except ImportError:
        yield {}, ""
        return
    authority, other = trustme.CA(), trustme.CA()
    past = datetime.now(UTC) - timedelta(days=1)
    try:
        issued = {
            "good": authority.issue_cert(name, host),
            "name": authority.issue_cert("other.example"),
            "authority": other.issue_cert(name, host),
            "expired": authority.issue_cert(name, host, not_after=past),
        }
    except ValueError:
        raise UsageError(f"no certificate can be issued for --name {name!r} and --host {host!r}") from None
    contexts = {}
    for kind, certificate in issued.items():
        contexts[kind] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(contexts[kind])
    with tempfile.TemporaryDirectory(prefix="smtp-trio-") as folder:
        path = Path(folder, "ca.pem")
        authority.cert_pem.write_to_path(str(path))
        yield contexts, str(path)
