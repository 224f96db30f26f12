"""The table of docs/conformance: results of ``smtp-trio conform`` for each server. ``python -m nox -s conformance`` writes it."""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import frozen

from smtp_trio import __version__

from .servers import Server, start
from .setups import CURRENT_POSTFIX, LMTP_SETUPS, MTAS, POSTFIX, SETTINGS

DOCS = Path(__file__).parents[2] / "docs"
REPORTS = DOCS / "conformance-reports"
TIMEOUT = 900.0
"""Seconds for all cases of a server."""
LEVELS = ("MUST", "SHOULD", "RECOMMENDED")
EVERYTHING = ("--level", "recommended", "--danger")
JsonReport = Mapping[str, Any]
"""The report in the form of ``--format json``."""


@frozen(kw_only=True)
class Run:
    """A server and a configuration of it that are tested."""

    title: str
    setup: str
    profile: str = "default"
    options: str = ""
    """The settings beyond what the server needs, for the table."""
    section: str
    """The section of the page that explains the failures."""
    package: str = ""
    """The Debian package, if it is one."""
    jobs: str = "4"
    """Cases that are tried at a time."""


def run(title: str, setup: str, section: str = "", **settings: str) -> Run:
    return Run(title=title, setup=setup, section=section or setup, **settings)


def options(setup: str) -> str:
    """Return the settings of the second configuration of a server."""
    return ", ".join(SETTINGS[setup, "options"])


#: The runs, by the names of their reports.
RUNS: Mapping[str, Run] = {
    "smtp-trio": run("smtp_trio", "smtp-trio"),
    "smtp-trio-strict": run("smtp_trio, strict", "smtp-trio", profile="options", options="--strict"),
    "smtp-trio-lenient": run("smtp_trio, lenient", "smtp-trio", profile="lenient", options="--lenient"),
    "postfix": run("Postfix", "postfix-current", "postfix", package="postfix"),
    "postfix-old": run("Postfix, old branch", "postfix", package="postfix"),
    "postfix-old-options": run(
        "Postfix, old branch, with options",
        "postfix",
        package="postfix",
        profile="options",
        options=options("postfix"),
    ),
    "exim": run("Exim", "exim", package="exim4-daemon-light"),
    "exim-options": run(
        "Exim, with options", "exim", package="exim4-daemon-light", profile="options", options=options("exim")
    ),
    "opensmtpd": run("OpenSMTPD, of 2020", "opensmtpd", package="opensmtpd"),
    # The limits of command lines are those of a class: a new connection resets them for all (``SMTP.command_size_limits``).
    "aiosmtpd": run("aiosmtpd", "aiosmtpd", jobs="1"),
    "smtp-server": run("nodemailer's smtp-server", "smtp-server"),
    "smtp-trio-lmtp": run("smtp_trio, LMTP", "smtp-trio-lmtp", "lmtp", profile="options", options="--strict"),
    "dovecot-lmtp": run("Dovecot", "dovecot-lmtp", "lmtp", package="dovecot-lmtpd"),
    "aiosmtpd-lmtp": run("aiosmtpd's LMTP", "aiosmtpd-lmtp", "lmtp", jobs="1"),
    "smtp-sink": run("Postfix's smtp-sink", "smtp-sink", package="postfix"),
}
#: Programs for tests, which are meant to accept nearly everything.
TOOLS = ("smtp-sink",)
#: Patterns of cases that fail for the same reason. Failures of a server that match patterns of the same line count once.
CAUSES: Sequence[str] = (
    "danger.smuggle-*",  # the end of a message is found without CRLF around its dot
    "syntax.end-*",  # another line end ends a command
    "ehlo.underscore mail.domain-*",  # characters that no label of a domain may have
    "ehlo.bad-*",
    "ehlo.empty ehlo.helo-empty",
    "mail.before-ehlo starttls.forgets-ehlo",
    "mail.argument-*",
    "mail.bad-dot-first mail.bad-dot-last mail.bad-dots-two rcpt.bad-dot*",
    "mail.bad-no-brackets rcpt.bad-no-brackets",
    "mail.bad-open rcpt.bad-open",
    "mail.bad-backslash rcpt.bad-backslash",
    "mail.bad-quote-open rcpt.bad-quote-open",
    "mail.bad-space rcpt.bad-space",
    "mail.bad-two-ats rcpt.bad-two-ats",
    "mail.bad-comma mail.bad-parenthesis mail.bad-bracket rcpt.bad-comma rcpt.bad-parenthesis rcpt.bad-bracket",
    "mail.bad-at-alone mail.bad-no-domain rcpt.bad-at-alone rcpt.bad-no-domain",
    "mail.bad-hyphen-* mail.bad-domain-dot mail.bad-dot-dot",
    "mail.bad-behind rcpt.bad-behind",
    "mail.space-* rcpt.space-* mail.two-spaces",
    "mail.quoted* rcpt.quoted",
    "mail.literal mail.literal-bad",
    (
        "mail.unknown-parameter rcpt.unknown-parameter mail.bad-keyword "
        "dsn.not-listed delivery.not-listed-* size.not-listed encoding.utf8-not-listed"
    ),
    "mail.unknown-parameter-code rcpt.unknown-parameter-code",
    "data.trailing-space commands.*-space",
    "data.argument commands.rset-argument commands.quit-argument",
    "commands.vrfy commands.vrfy-first",
    "syntax.control syntax.*-address",
    "syntax.invalid-utf8 encoding.utf8-invalid",
    "syntax.line-rest danger.long-line",
    "size.bad-* size.20-digits size.over",
    "size.twice encoding.body-twice",
    "encoding.body-empty encoding.body-bare encoding.body-unknown",
    "encoding.utf8-undeclared encoding.utf8-rcpt-*",
    "chunking.no-size-*",
    "auth.base64-*",
    "size.line-* encoding.line-* chunking.line-* auth.mail-line auth.line-* dsn.line-*",  # an extension does not add its octets
    "dsn.envid-100 dsn.orcpt-500 dsn.orcpt-utf8",
    "dsn.ret-* dsn.envid-* dsn.notify-* dsn.orcpt-*",
    "lmtp.two lmtp.next",
)
#: The words of RFC 2119 for a level. Sentences without them are grammar, or a description, or oblige the client only.
WORDS = {"MUST": re.compile(r"\b(MUST|SHALL|REQUIRED)\b"), "SHOULD": re.compile(r"\b(SHOULD|RECOMMENDED)\b")}
#: Columns of failures: title, level, and whether the sentence has a word of the level (None: both).
COLUMNS: Sequence[tuple[str, str, bool | None]] = (
    ("MUST, by its word", "MUST", True),
    ("MUST, by grammar", "MUST", False),
    ("SHOULD, by its word", "SHOULD", True),
    ("SHOULD, by grammar", "SHOULD", False),
    ("RECOMMENDED", "RECOMMENDED", None),
)


def conform(server: Server, *options: str) -> tuple[int, JsonReport]:
    """Run the command in a process of its own; return its exit code and its report.

    Raises:
        subprocess.TimeoutExpired: It has not ended in time.
    """
    command = [sys.executable, "-m", "smtp_trio", "conform", f"{server.host}:{server.port}", *EVERYTHING]
    command += ["--lmtp"] if server.setup.lmtp else []
    command += ["--to", "bo@example.org", "--cafile", str(server.cafile), "--format", "json"]
    if server.setup.unknown is not None:
        command += ["--unknown", server.setup.unknown]
    if server.credentials is not None:
        command += ["--user", server.credentials[0], "--password", server.credentials[1]]
    done = subprocess.run([*command, *options], capture_output=True, timeout=TIMEOUT)
    assert done.returncode in (0, 1), f"{done.stderr.decode()}\n{server.log()}"
    return done.returncode, json.loads(done.stdout)


def main() -> None:
    """Test all servers, and write the table and the reports."""
    parser = argparse.ArgumentParser(prog="interop.tables", description="Test servers for conformance to the RFCs.")
    parser.add_argument(
        "--only", choices=RUNS, action="append", help="test this server only, and write no table; may be repeated"
    )
    parser.add_argument(
        "--full",
        type=Path,
        metavar="FOLDER",
        default=REPORTS,
        help="write the reports, with all dialogues, to this folder",
    )
    arguments = parser.parse_args()
    names = arguments.only or RUNS
    today = time.strftime("%Y-%m-%d", time.gmtime())
    servers = {}
    kept: Mapping[str, Any] = {} if arguments.only else json.loads((DOCS / "conformance.json").read_text())["servers"]
    with TemporaryDirectory(prefix="smtp-trio-") as modules:
        install = ("npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", modules, "smtp-server")
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, timeout=100)
        node_modules = Path(modules, "node_modules")
        for name in names:
            tested = RUNS[name]
            if name in kept and not is_available(tested):
                servers[name] = kept[name]
                print(f"{name}: SMTP_TRIO_POSTFIX names no directory, so the published results are kept", flush=True)
                continue
            with (
                TemporaryDirectory(prefix="smtp-trio-") as folder,
                start(tested.setup, Path(folder), node_modules, tested.profile) as server,
            ):
                _, report = conform(server, "--jobs", tested.jobs)
            arguments.full.mkdir(exist_ok=True)
            (arguments.full / f"{name}.json").write_text(json.dumps(published(report), indent=1) + "\n")
            servers[name] = summary(tested, report, version(tested, report, node_modules)) | {"date": today}
            print(name, json.dumps(servers[name]), flush=True)
    if not arguments.only:
        data = {"date": today, "servers": servers}
        (DOCS / "conformance.json").write_text(json.dumps(data, indent=1) + "\n")
        (DOCS / "conformance.inc").write_text(tables(data))


def is_available(tested: Run) -> bool:
    """Return whether a server can be measured: the current Postfix has to be unpacked first, all others are required."""
    return tested.setup != CURRENT_POSTFIX.name or POSTFIX.is_dir()


def published(report: JsonReport) -> JsonReport:
    """Return a report without the details of cases that did not fail, and without what differs from run to run."""
    results = [
        {key: value for key, value in result.items() if key != "seconds"}
        if result["outcome"] == "failed"
        else {"id": result["id"], "level": result["level"], "outcome": result["outcome"]}
        for result in report["results"]
    ]
    return {"extensions": report["extensions"], "count": report["count"], "results": results}


def version(tested: Run, report: JsonReport, node_modules: Path) -> str:
    """Return the version of a server, with its revision if it is a Debian package."""
    if tested.section == "smtp-trio" or tested.setup == "smtp-trio-lmtp":
        return __version__
    if tested.package:
        return package_version(tested)
    text: str = report["greeting"]
    if tested.setup == "smtp-server":
        text = (node_modules / tested.setup / "package.json").read_text().partition('"version"')[2]
    found = re.search(r"\d+\.[\w.]+", text)
    return found[0] if found else ""


def package_version(tested: Run) -> str:
    """Return the version of a Debian package, from the first line of its changelog or from the system's list."""
    folder = POSTFIX if tested.setup == CURRENT_POSTFIX.name else MTAS
    changelog = folder / "usr/share/doc" / tested.package / "changelog.Debian.gz"
    if tested.setup in ("postfix", "smtp-sink", "dovecot-lmtp") or not changelog.exists():
        query = ("dpkg-query", "--show", "--showformat", "${Version}", tested.package)
        return subprocess.run(query, check=True, capture_output=True, text=True, timeout=30).stdout
    return gzip.decompress(changelog.read_bytes()).decode().partition("(")[2].partition(")")[0]


def summary(tested: Run, report: JsonReport, version: str) -> dict[str, Any]:
    """Return the part of a report that the page needs."""
    results = report["results"]
    tried = [result for result in results if result["outcome"] in ("passed", "failed")]
    failed = [result for result in tried if result["outcome"] == "failed"]
    columns = {
        title: [sum(_counts(result, level, word) for result in each) for each in (failed, tried)]
        for title, level, word in COLUMNS
    }
    return {
        "section": tested.section,
        "version": version,
        "options": tested.options,
        "count": report["count"],
        "columns": columns,
        "causes": causes([result["id"] for result in failed]),
        "failed": {level: [each["id"] for each in failed if each["level"] == level] for level in LEVELS},
    }


def _counts(result: Mapping[str, Any], level: str, word: bool | None) -> bool:
    if result["level"] != level:
        return False
    return word is None or word == (WORDS[level].search(result["sentence"]) is not None)


def causes(failed: Sequence[str]) -> int:
    """Return the number of causes of these failed cases: those of a line of CAUSES have one."""
    found = set()
    for case in failed:
        matching = [line for line in CAUSES if any(fnmatch.fnmatchcase(case, each) for each in line.split())]
        found.add(matching[0] if matching else case)
    return len(found)


def tables(data: Mapping[str, Any]) -> str:
    """Return the tables in reStructuredText."""
    servers = data["servers"]
    lines = [".. Written by `nox -s conformance`.", "", f"Measured on {data['date']}.", ""]
    lmtp = [name for name in servers if RUNS[name].setup in LMTP_SETUPS]
    lines += table({name: each for name, each in servers.items() if name not in (*TOOLS, *lmtp)}, data["date"])
    lines += ["", "Servers of LMTP:", ""]
    lines += table({name: servers[name] for name in lmtp}, data["date"])
    lines += ["", "The options:", ""]
    lines += [f"* {RUNS[name].title}: ``{each['options']}``" for name, each in servers.items() if each["options"]]
    lines += ["", "A program for tests, which is meant to accept nearly everything:", ""]
    lines += table({name: each for name, each in servers.items() if name in TOOLS}, data["date"])
    return "\n".join(lines) + "\n"


def table(servers: Mapping[str, Any], date: str) -> Sequence[str]:
    """Return the lines of a table: for each level the failed cases of those tried, and the causes of all of them.

    A server that was measured on another date than `date` has its own.
    """
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - Server", "     - Version"]
    lines += [f"     - {title}" for title, _, _ in COLUMNS]
    lines += ["     - Causes", "     - Skipped", "     - Report"]
    for name, server in servers.items():
        version = server["version"] + ("" if server["date"] == date else f" (measured on {server['date']})")
        cells = [RUNS[name].title, version, *(f"{failed} of {tried}" for failed, tried in server["columns"].values())]
        cells += [server["causes"], server["count"]["skipped"], f":download:`JSON <conformance-reports/{name}.json>`"]
        lines += [f"   {'* ' if not at else '  '}- {cell}" for at, cell in enumerate(cells)]
    return lines


if __name__ == "__main__":
    main()
