"""The table of docs/conformance: results of ``smtp-trio conform`` for each server. ``python -m nox -s conformance`` writes it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smtp_trio import __version__

from .programs import PATH
from .servers import Server, start
from .setups import MTAS

DOCS = Path(__file__).parents[2] / "docs"
TIMEOUT = 300.0
"""Seconds for all cases of a server."""
LEVELS = ("MUST", "SHOULD", "RECOMMENDED")
EVERYTHING = ("--level", "recommended", "--danger")
JsonReport = Mapping[str, Any]
"""The report in the form of ``--format json``."""


TITLES: Mapping[str, str] = {
    "smtp-trio": "smtp_trio",
    "postfix": "Postfix",
    "exim": "Exim",
    "opensmtpd": "OpenSMTPD",
    "aiosmtpd": "aiosmtpd",
    "smtp-server": "nodemailer's smtp-server",
    "smtp-sink": "Postfix's smtp-sink",
}
POSTFIX = ("postconf", "-d", "-h", "mail_version")
#: Commands that print the version, where the greeting does not have it.
VERSIONS: Mapping[str, Sequence[str]] = {
    "postfix": POSTFIX,
    "smtp-sink": POSTFIX,
    "opensmtpd": (str(MTAS / "usr/sbin/smtpd"), "-h"),
}


def conform(server: Server, *options: str) -> tuple[int, JsonReport]:
    """Run the command in a process of its own; return its exit code and its report.

    Raises:
        subprocess.TimeoutExpired: It has not ended in time.
    """
    command = [sys.executable, "-m", "smtp_trio", "conform", f"{server.host}:{server.port}", *EVERYTHING]
    command += ["--to", "bo@example.org", "--tls-ca", str(server.cafile), "--format", "json", "--jobs", "4"]
    if server.setup.unknown is not None:
        command += ["--unknown", server.setup.unknown]
    if server.credentials is not None:
        command += ["--user", server.credentials[0], "--password", server.credentials[1]]
    done = subprocess.run([*command, *options], capture_output=True, timeout=TIMEOUT)
    assert done.returncode in (0, 1), f"{done.stderr.decode()}\n{server.log()}"
    return done.returncode, json.loads(done.stdout)


def main() -> None:
    """Test all servers, and write the table."""
    parser = argparse.ArgumentParser(prog="interop.tables", description="Test servers for conformance to the RFCs.")
    parser.add_argument(
        "--only", choices=TITLES, action="append", help="test this server only, and write no table; may be repeated"
    )
    parser.add_argument(
        "--full", type=Path, metavar="FOLDER", help="write the complete reports, with all dialogues, to this folder"
    )
    options = parser.parse_args()
    servers = {}
    with TemporaryDirectory(prefix="smtp-trio-") as modules:
        install = ("npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", modules, "smtp-server")
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, timeout=100)
        for name in options.only or TITLES:
            node_modules = Path(modules, "node_modules")
            with TemporaryDirectory(prefix="smtp-trio-") as folder, start(name, Path(folder), node_modules) as server:
                _, report = conform(server)
            if options.full is not None:
                options.full.mkdir(exist_ok=True)
                (options.full / f"{name}.json").write_text(json.dumps(report, indent=2))
            servers[name] = summary(report, version(name, report, node_modules))
            print(name, json.dumps(servers[name]), flush=True)
    if not options.only:
        data = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "servers": servers}
        (DOCS / "conformance.json").write_text(json.dumps(data, indent=1) + "\n")
        (DOCS / "conformance.inc").write_text(table(data))


def version(name: str, report: JsonReport, node_modules: Path) -> str:
    """Return the version of a server."""
    if name == "smtp-trio":
        return __version__
    text: str = report["greeting"]
    if name == "smtp-server":
        text = (node_modules / name / "package.json").read_text().partition('"version"')[2]
    elif name in VERSIONS:
        done = subprocess.run(
            VERSIONS[name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"PATH": PATH}, timeout=30
        )
        text = done.stdout.decode()
    found = re.search(r"\d+\.[\w.]+", text)
    return found[0] if found else ""


def summary(report: JsonReport, version: str) -> dict[str, Any]:
    """Return the part of a report that the page needs."""
    failed: dict[str, list[str]] = {level: [] for level in LEVELS}
    for result in report["results"]:
        if result["outcome"] == "failed":
            failed[result["level"]].append(result["id"])
    return {"version": version, "count": report["count"], "failed": failed}


def table(data: Mapping[str, Any]) -> str:
    """Return the table in reStructuredText."""
    lines = [".. Written by `nox -s conformance`.", "", f"Measured on {data['date']}.", "", ".. list-table::"]
    lines += ["   :header-rows: 1", "", "   * - Server", "     - Version", "     - Passed"]
    lines += [*(f"     - Failed: {level}" for level in LEVELS), "     - Skipped"]
    for name, server in data["servers"].items():
        cells = (server["version"], server["count"]["passed"], *(len(server["failed"][level]) for level in LEVELS))
        lines += [f"   * - {TITLES[name]}", *(f"     - {cell}" for cell in (*cells, server["count"]["skipped"]))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
