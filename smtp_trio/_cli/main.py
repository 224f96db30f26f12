"""The entry point of ``smtp-trio``: parse the command line, run the command, and return its exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from .. import __version__
from .exit_codes import INTERRUPTED
from .options import Parser, UsageError


class Command(NamedTuple):
    """A command: its line in the help of the program, and the function that adds its options, by its module and name."""

    help: str
    module: str
    function: str

    def add_options(self, parser: Parser, argv: Sequence[str]) -> None:
        """Import the module of the command, and add its options."""
        command = self
        if self is CONFORM and "--client" in argv:
            command, parser.help_options = CONFORM_CLIENT, "--client --help"
        getattr(import_module(command.module, __package__), command.function)(parser)


CONFORM = Command("test a server or a client against the RFCs", ".conform", "add_conform")
CONFORM_CLIENT = Command(CONFORM.help, ".conform_client", "add_conform_client")
COMMANDS = {
    "serve": Command("receive mail and store it", ".serve", "add_serve"),
    "inbox": Command("receive mail during development and show it on a page", ".inbox", "add_inbox"),
    "send": Command("send messages to a server", ".send", "add_send"),
    "relay": Command("forward the messages of a store", ".relay", "add_relay"),
    "conform": CONFORM,
    "mail": Command("list, search, export and remove stored messages", ".mail", "add_mail"),
    "health": Command("ask whether a server works, for supervisors", ".health", "add_health"),
    "passwd": Command("set the password of a user for --auth-file", ".passwd", "add_passwd"),
    "hash-password": Command("print the line of a user for --auth-file", ".passwd", "add_hash_password"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (by default that of the process) asks for, and return its exit code."""
    replace_closed_streams()
    try:
        options = make_parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
        run: Callable[[argparse.Namespace], int | None] = options.run
        return run(options) or 0
    except UsageError as error:
        from .._server.log_events import clean

        print(f"smtp-trio: error: {clean(str(error))}", file=sys.stderr, flush=True)
        discard_output()  # what could not be written on a full disk
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return INTERRUPTED  # SIGINT before or after the command handles it itself, in a task of a nursery
    except BrokenPipeError:
        discard_output()  # the reader of standard output has ended, as `| head` does
        return 128 + signal.SIGPIPE


def discard_output() -> None:
    """Discard what is buffered for standard output if it cannot be written: at exit, Python would try and fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def replace_closed_streams() -> None:
    """Open the null device in place of each closed standard stream; Python sets it to None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for the whole process


def make_parser(argv: Sequence[str] = ()) -> Parser:
    """Return the parser of the command line.

    A command has its options only if ``argv`` begins with it, because the modules of the others are not imported: that would
    take several times as long as ``--version``, which needs none of them.
    """
    top = Parser(prog="smtp-trio", description="SMTP for Trio.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        parser = commands.add_parser(name, help=command.help, allow_abbrev=False)
        if name in argv[:1]:
            command.add_options(parser, argv)
    return top
