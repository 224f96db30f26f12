"""``smtp-trio inbox``: receive mail during development, and show it on a page.

It is ``smtp-trio serve`` with other defaults: everything is accepted, and the newest messages are kept in memory.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..stores import Memory
from .fault_options import add_fault_options
from .http_options import add_http_options
from .options import LOOPBACK, Parser, UsageError, missing_package, number_between
from .serve import add_serve, run_serve
from .serve_options import ALL_DOMAINS, is_loopback
from .store_option import store_option
from .units import octets

PORT, HTTP_PORT = 1025, 8025
#: The number of sessions whose transcripts are kept.
TRANSCRIPTS = 200
#: The maximum of ``--messages``. Each message takes a few hundred octets that ``--octets`` does not count.
MAX_MESSAGES = 1_000_000


def add_inbox(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio inbox``."""
    parser.description = (
        "Receive mail during development, and show it on a page. Without options it accepts mail at "
        f"{LOOPBACK}:{PORT}, from any sender to any recipient, with any login, relays none, keeps the newest messages in memory, "
        f"and shows them at http://{LOOPBACK}:{HTTP_PORT}. Ctrl-C stops it at once. It needs the extra web: "
        "pip install 'smtp-trio[web]'"
    )
    add = parser.add_argument
    # fmt: off
    add("--host", metavar="ADDRESS", default=LOOPBACK,
        help="address to accept mail at; '*': all interfaces, IPv4 and IPv6 (default: %(default)s)")
    add("--port", metavar="PORT", type=number_between(int, 65535), default=PORT,
        help="port to accept mail at; 0: a free one, which is printed (default: %(default)s)")
    add("--messages", metavar="N", type=number_between(int, MAX_MESSAGES, 1),
        help="number of messages to keep; the oldest ones are dropped (default: 1000)")
    add("--octets", metavar="SIZE", type=octets,
        help="octets to keep, such as 500k, 10M or 1G; the oldest messages are dropped (default: 100M)")
    add("--store", metavar="STORE", type=store_option,
        help="keep all mail in this store instead of memory: sqlite:PATH, maildir:PATH or another one of `smtp-trio serve`")
    add("--starttls", action="store_true",
        help="offer STARTTLS with a generated certificate, which most libraries refuse unless verification is switched off")
    # fmt: on
    add_http_options(add)
    add_fault_options(add)
    add("-q", "--quiet", action="store_const", dest="level", const=logging.WARNING, default=logging.INFO,
        help="print warnings and errors only")  # fmt: skip
    add("-v", "--verbose", action="store_const", dest="level", const=logging.DEBUG,
        help="also print every command and its reply")  # fmt: skip
    parser.set_defaults(run=run_inbox, http=(LOOPBACK, HTTP_PORT), http_transcripts=TRANSCRIPTS)


def run_inbox(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    if options.store is None:
        bounds = {name: value for name in ("messages", "octets") if (value := getattr(options, name)) is not None}
        try:
            options.store = Memory(**bounds)
        except ValueError as error:
            raise UsageError(f"--{error}") from None
    elif options.messages is not None or options.octets is not None:
        raise UsageError("--messages and --octets cannot be combined with --store")
    serve = Parser(prog="smtp-trio inbox")
    add_serve(serve)
    merged = serve.parse_args([])
    vars(merged).update(vars(options), inbox=True, grace=0, auth_accept_any=True)
    merged.limit = [
        ("per_peer", None),
        ("connections_per_minute", None),
    ]  # all clients of a test suite have one address
    if not is_loopback(options.host):
        merged.accept = [ALL_DOMAINS]
    if isinstance(options.store, Memory):
        merged.size = min(merged.size, options.store.octets)
    if not options.starttls:
        return run_serve(merged)
    with certificate() as path:
        merged.tls_cert = [path]
        return run_serve(merged)


@contextmanager
def certificate() -> Iterator[str]:
    """Create a certificate for this machine, and yield the path of a file with it and its key."""
    try:
        import trustme
    except ModuleNotFoundError as error:
        raise missing_package("--starttls", str(error.name), "web") from None
    issued = trustme.CA().issue_cert("localhost", LOOPBACK, "::1")
    with TemporaryDirectory(prefix="smtp-trio-") as directory:
        path = Path(directory) / "inbox.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(path)
        yield str(path)
