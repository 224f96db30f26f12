"""``smtp-trio conform``: what a server does, beside what the RFCs say."""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TextIO

import trio

from ..conform._case import Level, Rule
from ..conform._formats import FORMATS
from ..conform._runner import Outcome, Report, Result, conform
from ..conform._server_cases import server_rules, server_titles
from ..conform._target import Target, Unreachable
from ..conform._text import TextReport
from .options import UsageError, describe_error, number_between

PASSWORD = "SMTP_TRIO_PASSWORD"
Tell = Callable[[Result], None] | None
Run = Callable[[Tell], Awaitable[Report]]

LEVELS = {level.name.lower(): level for level in Level}


def add_conform(parser: argparse.ArgumentParser) -> None:
    """Give the sub-command its options."""
    parser.description = (
        "Try a server against the sentences of the RFCs, each on a connection of its own, and say where it differs. It sends "
        "messages to one recipient: use a mailbox for tests. Exit code: 0 if all passed, 1 if a case failed, 2 if the server "
        "could not be tried."
    )
    add = parser.add_argument
    # fmt: off
    add("server", metavar="HOST:PORT", nargs="?",
        help="the server; an IPv6 address stands in brackets, and without a port it is 25")
    add("--from", dest="sender", metavar="ADDRESS", default="conform@example.com",
        help="a sender that it takes (%(default)s)")
    add("--to", dest="recipient", metavar="ADDRESS", default="postmaster",
        help="a recipient that it takes (%(default)s, which every server must take)")
    add("--unknown", metavar="ADDRESS",
        help="a recipient that it refuses; cases that need one are skipped without it")
    add("--name", default="conform.test",
        help="what to call ourselves in EHLO (%(default)s)")
    add("--user", metavar="NAME",
        help=f"log in where the server wants it; the password is in {PASSWORD}")
    add("--password", metavar="PASSWORD",
        help=f"the password, in place of {PASSWORD}: others on this machine can see it while this runs")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--tls-ca", metavar="FILE",
        help="the authorities that may vouch for its certificate, in PEM (the system's)")
    trust.add_argument("--insecure", action="store_true",
        help="take any certificate")
    add("--implicit-tls", action="store_true",
        help="TLS from the first octet on, as on port 465")
    add("--timeout", metavar="SECONDS", type=number_between(float, 3600), default=30.0,
        help="for each case, with all its answers (%(default)g)")
    add("--jobs", metavar="N", type=number_between(int, 100, 1), default=1,
        help="connections at a time (%(default)s)")
    add("--client", action="store_true",
        help="try a client in place of a server: `smtp-trio conform --client --help` tells of that")
    # fmt: on
    add_choice(parser)
    parser.set_defaults(run=run_conform)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The options that say which cases are tried, and what becomes of the results."""
    add = parser.add_argument
    # fmt: off
    add("--only", metavar="PATTERN", action="append", default=[],
        help="cases of this section or with such an id ('mail', '*.empty'); may be repeated")
    add("--skip", metavar="PATTERN", action="append", default=[],
        help="no cases of this section or with such an id; may be repeated")
    add("--level", choices=LEVELS, default="should",
        help="try what the RFCs say that it MUST do, or SHOULD as well, or also what is only recommended (%(default)s)")
    add("--danger", action="store_true",
        help="also try to smuggle messages in, and flood it: for what is your own only")
    add("--list", action="store_true",
        help="print the cases, and do nothing")
    add("--format", choices=("text", *FORMATS), default="text",
        help="of the report (%(default)s)")
    add("--output", metavar="FILE",
        help="write the report there, and not to standard output")
    # fmt: on


def run_conform(options: argparse.Namespace) -> int:
    """Do what the options say; gives the exit code."""
    rules = chosen(options, server_rules())
    if options.list:
        return listed(rules)
    target = as_target(options)

    async def run(on_result: Tell) -> Report:
        return await conform(target, rules, jobs=options.jobs, on_result=on_result)

    try:
        return reported(options, run, server_titles())
    except Unreachable as problem:
        raise UsageError(f"{target.host}:{target.port}: {problem}") from None


def listed(rules: Sequence[Rule]) -> int:
    """Print them."""
    for rule in rules:
        print(f"{rule.id:34} {rule.level.name:11} {rule.section:22} {rule.title}")
    return 0


def reported(options: argparse.Namespace, run: Run, titles: Mapping[str, str]) -> int:
    """Try what is to be tried, and write the report where it is wanted; gives the exit code."""
    if options.output is None:
        return report(options, run, titles, sys.stdout)
    try:
        with open(options.output, "w", encoding="utf-8") as out:
            return report(options, run, titles, out)
    except OSError as error:
        raise UsageError(f"--output {options.output}: {describe_error(error)}") from None


def report(options: argparse.Namespace, run: Run, titles: Mapping[str, str], out: TextIO) -> int:
    """Try the cases, and write the report; gives the exit code."""
    text = TextReport(out, colour=out.isatty() and not os.environ.get("NO_COLOR"), titles=titles)
    write = None if options.format in FORMATS else text.add
    try:
        told = trio.run(run, write)
    except BaseExceptionGroup as group:  # Ctrl-C, or an output that takes no more: nobody else raises here
        raise first(group) from None
    if options.format in FORMATS:
        out.write(FORMATS[options.format](told))
    else:
        text.end(told)
    return exit_code(told)


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that all this is about."""
    inner = group.exceptions[0]
    return first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def exit_code(told: Report) -> int:
    """What the shell is told."""
    if told.count(Outcome.FAILED):
        return 1
    return 2 if told.count(Outcome.ERROR) else 0


def chosen(options: argparse.Namespace, rules: Sequence[Rule]) -> list[Rule]:
    """The cases that these options mean."""
    for pattern in (*options.only, *options.skip):
        if not any(matches(rule, [pattern]) for rule in rules):
            raise UsageError(f"no case is like {pattern!r} (see `smtp-trio conform --list`)")
    return [
        rule
        for rule in rules
        if rule.level <= LEVELS[options.level]
        and (options.danger or not rule.danger)
        and (not options.only or matches(rule, options.only))
        and not matches(rule, options.skip)
    ]


def matches(rule: Rule, patterns: Sequence[str]) -> bool:
    """Whether one of them means this case."""
    return any(fnmatchcase(rule.group, pattern) or fnmatchcase(rule.id, pattern) for pattern in patterns)


def as_target(options: argparse.Namespace) -> Target:
    """The server that these options mean."""
    if options.server is None:
        raise UsageError("which server? (HOST:PORT)")
    host, colon, port = options.server.rpartition(":")
    if not colon or options.server.endswith("]"):
        host, port = options.server, "25"
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{options.server!r} is no HOST:PORT")
    for option, value in (("--from", options.sender), ("--to", options.recipient), ("--unknown", options.unknown)):
        if value is not None and any(char in value for char in "<>\r\n\0 "):
            raise UsageError(f"{option}: {value!r} is no address")
    try:
        tls = ssl.create_default_context(cafile=options.tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--tls-ca {options.tls_ca}: {describe_error(error)}") from None
    if options.insecure:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    password = options.password if options.password is not None else os.environ.get(PASSWORD)
    if options.user is not None and password is None:
        raise UsageError(f"--user needs a password, in {PASSWORD}")
    return Target(
        host=host,
        port=int(port),
        name=options.name,
        sender=options.sender,
        recipient=options.recipient,
        unknown=options.unknown,
        user=options.user,
        password=password or "",
        tls=tls,
        implicit_tls=options.implicit_tls,
        timeout=options.timeout,
    )
