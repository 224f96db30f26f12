"""``smtp-trio conform``: test a server for conformance to the RFCs."""

from __future__ import annotations

import argparse
import os
import re
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

import trio

from ..conform._case import Level, Requirement
from ..conform._report import Outcome, Report, Result
from ..conform._report_formats import FORMATS
from ..conform._server_cases import server_cases, server_titles
from ..conform._server_runner import check_server
from ..conform._target import Target, UnreachableError
from ..conform._text_report import TextReport
from .options import (
    PASSWORD_VARIABLE as PASSWORD,
    UsageError,
    describe_error,
    number_between,
    print_result,
    read_password,
)
from .send import cancel_on_signal
from .tls_files import client_context
from .units import seconds

OnResult = Callable[[Result], None] | None
Run = Callable[[OnResult], Awaitable[Report]]

#: Characters that would end an argument of a command or make another one of it, and what is not text.
INVALID = re.compile(r"[<>\x00-\x20\x7f\ud800-\udfff]")

LEVELS = {level.name.lower(): level for level in Level}


def add_conform(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options to the parser."""
    parser.description = (
        "Test an SMTP server for conformance to the RFCs, each case on a connection of its own, and report the "
        "deviations from them. The cases send messages to one recipient: use a test mailbox for --to. Exit code: 0 if all cases "
        "passed, 1 if one failed, 2 if the server could not be tested."
    )
    add = parser.add_argument
    # fmt: off
    add("server", metavar="HOST:PORT", nargs="?",
        help="the server, with an IPv6 address in brackets, or unix:PATH for a socket. The default port is 25, with --lmtp 24")
    add("--from", dest="sender", metavar="ADDRESS", default="conform@example.com",
        help="a sender that the server accepts (default: %(default)s)")
    add("--to", dest="recipient", metavar="ADDRESS", default="postmaster",
        help="a recipient that the server accepts and that gets the test messages (default: %(default)s, which every server must "
             "accept; its real mailbox gets them)")
    add("--unknown", metavar="ADDRESS",
        help="a recipient that the server refuses; without it, the cases that need one are skipped")
    add("--burl", metavar="URL",
        help="a URL that the server fetches for BURL, whose content ends with CRLF; without it, the cases that need one are skipped")
    add("--name", default="conform.test",
        help="the argument of EHLO (default: %(default)s)")
    add("--user", metavar="NAME",
        help=f"authenticate as this user where necessary; the password comes from --password-file or from {PASSWORD} in the "
             "environment")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--password-file", metavar="FILE",
        help="file with the password on its first line")
    secret.add_argument("--password", metavar="PASSWORD",
        help="the password; other users of this machine can see it in the process list")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--cafile", metavar="FILE",
        help="certificate authorities to trust, in PEM (default: those of the system)")
    trust.add_argument("--insecure", action="store_true",
        help="accept any certificate")
    add("--lmtp", action="store_true",
        help="use LMTP (RFC 2033): LHLO is sent in place of EHLO, and cases about SMTP only are skipped")
    add("--implicit-tls", action="store_true",
        help="begin with the TLS handshake, as on port 465")
    add("--proxy-protocol", action="store_true",
        help="begin each connection with a PROXY header, which the server requires, and run the cases about it")
    add("--timeout", metavar="TIME", type=seconds(3600), default="30s",
        help="time limit of each case, in seconds or with a unit: 30s, 2m (default: %(default)s)")
    add("--jobs", metavar="N", type=number_between(int, 100, 1), default=1,
        help="number of simultaneous connections (default: %(default)s)")
    add("--client", action="store_true",
        help="test a client instead of a server; see `smtp-trio conform --client --help`")
    # fmt: on
    add_choice(parser)
    parser.set_defaults(run=run_conform)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose cases and the format of the report."""
    add = parser.add_argument
    # fmt: off
    add("--only", metavar="PATTERN", action="append", default=[],
        help="run only the cases of this chapter or with a matching identifier ('mail', '*.empty'). Repeatable")
    add("--skip", metavar="PATTERN", action="append", default=[],
        help="omit the cases of this chapter or with a matching identifier. Repeatable")
    add("--level", choices=LEVELS, default="should",
        help="run the cases of this level and of stronger ones; must and should: as in RFC 2119; recommended: good practice that "
             "no RFC requires (default: %(default)s)")
    add("--danger", action="store_true",
        help="also run cases of message smuggling and flooding; only use them on your own systems")
    add("--list", action="store_true",
        help="print the cases and exit")
    add("--format", choices=("text", *FORMATS), default="text",
        help="format of the report (default: %(default)s)")
    add("--output", metavar="FILE",
        help="write the report to this file instead of standard output")
    add("-q", "--quiet", action="store_true",
        help="report only the cases that failed or could not be tried, and the summary; for the format text")
    # fmt: on


def run_conform(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    requirements = choose(options, server_cases())
    if options.list:
        return print_list(requirements)
    target = make_target(options)

    async def run(on_result: OnResult) -> Report:
        return await check_server(target, requirements, jobs=options.jobs, on_result=on_result)

    try:
        return run_and_report(options, run, server_titles())
    except UnreachableError as problem:
        raise UsageError(f"{options.server}: {problem}") from None


def print_list(requirements: Sequence[Requirement]) -> int:
    """Print the cases, and return the exit code."""
    for requirement in requirements:
        print_result(f"{requirement.id:34} {requirement.level.name:11} {requirement.section:22} {requirement.title}")
    return 0


def run_and_report(options: argparse.Namespace, run: Run, titles: Mapping[str, str]) -> int:
    """Run the cases, write the report to the file or standard output, and return the exit code."""
    try:
        if options.output is None:
            return write_report(options, run, titles, sys.stdout)
        with open(options.output, "w", encoding="utf-8") as out:
            return write_report(options, run, titles, out)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = "standard output" if options.output is None else f"--output {options.output}"
        raise UsageError(f"{where}: {describe_error(error)}") from None


def write_report(options: argparse.Namespace, run: Run, titles: Mapping[str, str], out: TextIO) -> int:
    """Run the cases, write the report, and return the exit code."""
    colour = out.isatty() and not os.environ.get("NO_COLOR")
    text = TextReport(out, colour=colour, quiet=options.quiet, titles=titles)
    on_result = None if options.format in FORMATS else text.add
    try:
        report = trio.run(run_or_interrupt, run, on_result)
    except BaseExceptionGroup as group:  # of UnreachableError or of a write error: always a single exception
        raise first(group) from None
    if options.format in FORMATS:
        out.write(FORMATS[options.format](report))
    else:
        text.end(report)
    return exit_code(report)


async def run_or_interrupt(run: Run, on_result: OnResult) -> Report:
    """Run the cases and return the report; on SIGINT, cancel them and raise KeyboardInterrupt.

    Without a signal receiver, Python may raise KeyboardInterrupt in a destructor or a callback, where it is ignored.
    """
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as running:
                nursery.start_soon(cancel_on_signal, signals, running)
                report = await run(on_result)
            nursery.cancel_scope.cancel()
    if running.cancelled_caught:
        raise KeyboardInterrupt
    return report


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception of a group that is not a group."""
    inner = group.exceptions[0]
    return first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def exit_code(report: Report) -> int:
    """Return 1 if a case failed, 2 if one could not be tried, or none because the server refuses sessions, otherwise 0."""
    if report.count(Outcome.FAILED):
        return 1
    refused = bool(report.refusal) and not report.count(Outcome.PASSED)
    return 2 if refused or report.count(Outcome.ERROR) else 0


def choose(options: argparse.Namespace, requirements: Sequence[Requirement]) -> list[Requirement]:
    """Return the cases that the options select."""
    for pattern in (*options.only, *options.skip):
        if not any(matches(requirement, [pattern]) for requirement in requirements):
            raise UsageError(f"no case matches {pattern!r} (see `smtp-trio conform --list`)")
    chosen = [
        requirement
        for requirement in requirements
        if requirement.level <= LEVELS[options.level]
        and (options.danger or not requirement.danger)
        and (not options.only or matches(requirement, options.only))
        and not matches(requirement, options.skip)
    ]
    if not chosen:
        raise UsageError(
            f"no case is selected with --level {options.level}{' --danger' if options.danger else ''} by --only and --skip; "
            "--level recommended --danger selects from all cases"
        )
    return chosen


def matches(requirement: Requirement, patterns: Sequence[str]) -> bool:
    """Return whether one of the patterns matches the chapter or the identifier of a case."""
    return any(fnmatchcase(requirement.group, pattern) or fnmatchcase(requirement.id, pattern) for pattern in patterns)


def server_address(text: str, default_port: int) -> tuple[str | Path, int]:
    """Return the host, or the path of a unix socket, and the port."""
    kind, _, path = text.partition(":")
    if kind == "unix" and path:
        return Path(path), default_port
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"invalid HOST:PORT: {text!r}")
    return host, int(port)


def make_target(options: argparse.Namespace) -> Target:
    """Return the server that the options describe."""
    if options.server is None:
        raise UsageError("HOST:PORT of the server is missing (see `smtp-trio conform --help`)")
    host, port = server_address(options.server, 24 if options.lmtp else 25)
    for option, value in (("--from", options.sender), ("--to", options.recipient), ("--unknown", options.unknown)):
        if value is not None and INVALID.search(value):
            raise UsageError(f"{option}: invalid address: {value!r}")
    if options.burl is not None and INVALID.search(options.burl):
        raise UsageError(f"--burl: invalid URL: {options.burl!r}")
    if not options.name or INVALID.search(options.name):
        raise UsageError(f"--name: invalid host name: {options.name!r}")
    tls = client_context(options.cafile)
    if options.insecure:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    password = options.password
    if options.password_file is not None:
        password = read_password(options.password_file)
    elif password is None:
        password = os.environ.get(PASSWORD)
    if options.user is not None and password is None:
        raise UsageError(f"--user requires a password, in --password-file FILE or in {PASSWORD} in the environment")
    if options.user is None and options.password_file is not None:
        raise UsageError("--password-file requires --user")
    return Target(
        host=host,
        port=port,
        lmtp=options.lmtp,
        name=options.name,
        sender=options.sender,
        recipient=options.recipient,
        unknown=options.unknown,
        burl=options.burl,
        user=options.user,
        password=password or "",
        tls=tls,
        implicit_tls=options.implicit_tls,
        proxy_protocol=options.proxy_protocol,
        timeout=options.timeout,
    )
