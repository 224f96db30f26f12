"""``smtp-trio conform --client``: what a client does when it meets servers of every kind."""

from __future__ import annotations

import argparse
import shlex
import ssl
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..conform._client_cases import client_rules, client_titles
from ..conform._client_runner import VALUES, Stage, play
from ..conform._runner import Report
from ..conform._subject import Command, Visitors, listen
from ..conform._visit import Setting
from .conform import Tell, add_choice, chosen, listed, reported
from .options import UsageError, describe_error, number_between


def add_conform_client(parser: argparse.ArgumentParser) -> None:
    """Give the sub-command its options."""
    parser.description = (
        "Play servers to a client: good, odd and hostile ones, and say what it did wrong. With --command it is run once for "
        "each; in it stand {host}, {port}, {from}, {to} and {to2} (the envelope), {message} (a file, with CRLF; it is the "
        "command's standard input too), {cafile}, {user} and {password}. Exit code of the client: 0 if the message was taken for "
        "all recipients. Without --command each connection meets the next server. Exit code: 0 if all passed, 1 if a case failed, "
        "2 if the client could not be tried."
    )
    add = parser.add_argument
    # fmt: off
    add("--client", action="store_true", required=True,
        help="try a client")
    add("--host", metavar="ADDRESS", default="127.0.0.1",
        help="where to listen (%(default)s)")
    add("--port", metavar="PORT", type=number_between(int, 65535), default=None,
        help="0: any free one; with --command, another for each case, which is the default there")
    add("--command", metavar="COMMAND",
        help="the client: 'prog --server {host}:{port} --from {from} --to {to} --to {to2} {message}'. No shell sees it")
    add("--require-tls", action="store_true",
        help="the client was told to insist on STARTTLS, and on the certificate ({cafile}; its name is --name)")
    add("--name", default="localhost",
        help="the name in the certificate: how the client calls the server (%(default)s, and the address)")
    add("--login", action="store_true",
        help=f"the client was told to log in, as {VALUES['user']} with the password {VALUES['password']}")
    add("--slow", action="store_true",
        help="also be silent, or answer after minutes: many of these cases take minutes each, up to twelve")
    add("--timeout", metavar="SECONDS", type=number_between(float, 3600), default=30.0,
        help="for each case (%(default)g)")
    add("--wait", metavar="SECONDS", type=number_between(float, 86400), default=300.0,
        help="without --command: for the client to come, for each case (%(default)g)")
    add("--jobs", metavar="N", type=number_between(int, 100, 1), default=1,
        help="clients at a time, with --command and no --port (%(default)s)")
    # fmt: on
    add_choice(parser)
    parser.set_defaults(run=run_conform_client)


def run_conform_client(options: argparse.Namespace) -> int:
    """Do what the options say; gives the exit code."""
    rules = chosen(options, client_rules())
    if options.list:
        return listed(rules)
    check(options)

    async def run(on_result: Tell) -> Report:
        setting = Setting(require_tls=options.require_tls, login=options.login)
        with certificates(options.name, options.host) as (contexts, cafile):
            stage = Stage(setting=setting, slow=options.slow, timeout=options.timeout, contexts=contexts, cafile=cafile)
            if options.command is not None:
                subject = Command(options.command, options.host, options.port or 0)
                return await play(subject, stage, rules, jobs=options.jobs, on_result=on_result)
            async with await listen(options.host, options.port or 0) as listener:
                where = f"{options.host}:{listener.socket.getsockname()[1]}"
                tell(f"listening on {where}")
                visitors = Visitors(listener, f"a client of {where}", wait=options.wait, tell=tell)
                return await play(visitors, stage, rules, on_result=on_result)

    try:
        return reported(options, run, client_titles())
    except OSError as error:
        raise UsageError(f"cannot listen on {options.host} port {options.port or 0}: {describe_error(error)}") from None


def check(options: argparse.Namespace) -> None:
    """Options that do not go together."""
    if options.command is None:
        if options.port is None:
            raise UsageError("where? (--port), or which client? (--command)")
        if options.jobs > 1:
            raise UsageError("--jobs needs --command")
        return
    if options.jobs > 1 and options.port:
        raise UsageError("--jobs needs a port for each: leave --port away")
    try:
        words = shlex.split(options.command)
    except ValueError as error:
        raise UsageError(f"--command: {error}") from None
    if not words:
        raise UsageError("--command: which one?")
    if "{port}" not in options.command and not options.port:
        raise UsageError("--command has no {port}, and there is no --port")


def tell(text: str) -> None:
    """Say on the terminal what comes next, beside the report."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def certificates(name: str, host: str) -> Iterator[tuple[Mapping[str, ssl.SSLContext], str]]:
    """TLS of servers whose certificates are good and bad, and the file with the authority to trust; none without trustme."""
    try:
        import trustme
    except ImportError:
        yield {}, ""
        return
    authority, other = trustme.CA(), trustme.CA()
    past = datetime.now(UTC) - timedelta(days=1)
    issued = {
        "good": authority.issue_cert(name, host),
        "name": authority.issue_cert("other.example"),
        "authority": other.issue_cert(name, host),
        "expired": authority.issue_cert(name, host, not_after=past),
    }
    contexts = {}
    for kind, certificate in issued.items():
        contexts[kind] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(contexts[kind])
    with tempfile.TemporaryDirectory(prefix="smtp-trio-") as folder:
        path = Path(folder, "ca.pem")
        authority.cert_pem.write_to_path(str(path))
        yield contexts, str(path)
