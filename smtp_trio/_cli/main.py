"""The entry point of ``smtp-trio``: parse the command line, run the command, and return its exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from .._server.log_events import clean
from .exit_codes import INTERRUPTED
from .options import Parser, UsageError
from .passwd import add_hash_password, add_passwd
from .relay import add_relay
from .send import add_send
from .serve import add_serve


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (by default that of the process) asks for, and return its exit code."""
    replace_closed_streams()
    try:
        options = make_parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
        run: Callable[[argparse.Namespace], int | None] = options.run
        return run(options) or 0
    except UsageError as error:
        print(f"smtp-trio: error: {clean(str(error))}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return INTERRUPTED  # SIGINT before or after the command handles it itself, in a task of a nursery
    except BrokenPipeError:
        # The reader of standard output has ended, as `| head` does. Python flushes what is buffered at exit, which
        # would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def replace_closed_streams() -> None:
    """Open the null device in place of each closed standard stream; Python sets it to None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for the whole process


def make_parser(argv: Sequence[str] = ()) -> Parser:
    """Return the parser of the command line.

    The options of ``conform`` and ``mail`` are added only when ``argv`` begins with it, because no other command imports
    their modules.
    """
    top = Parser(prog="smtp-trio", description="SMTP for Trio.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    add_serve(commands.add_parser("serve", help="receive mail and store it", allow_abbrev=False))
    add_send(commands.add_parser("send", help="send messages to a server", allow_abbrev=False))
    add_relay(commands.add_parser("relay", help="forward the messages of a store", allow_abbrev=False))
    conform = commands.add_parser("conform", help="test a server or a client against the RFCs", allow_abbrev=False)
    if "conform" in argv[:1]:
        if "--client" in argv:
            from .conform_client import add_conform_client as add_conform

            conform.help_options = "--client --help"
        else:
            from .conform import add_conform
        add_conform(conform)
    mail = commands.add_parser("mail", help="list, search, export and remove stored messages", allow_abbrev=False)
    if "mail" in argv[:1]:
        from .mail import add_mail

        add_mail(mail)
    add_passwd(commands.add_parser("passwd", help="set the password of a user for --auth-file", allow_abbrev=False))
    add_hash_password(
        commands.add_parser("hash-password", help="print the line of a user for --auth-file", allow_abbrev=False)
    )
    return top
