"""Without the packages of the extra ``dns``: what works, what the errors say, and that nothing imports the packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

#: Removes the packages from the interpreter before anything is imported: no finder is asked for them.
WITHOUT = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dns", "cryptography", "httpx2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""

#: What has a resolver works. DANE by the key of the server needs no package either; here the server has no TLS.
WITH_A_RESOLVER = """\
import trio
import smtp_trio
from smtp_trio.routing import route
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

async def main():
    records = {
        "example.org": {"MX": [(10, "mx.example.org")]},
        "mx.example.org": {"A": ["192.0.2.1"]},
        "_25._tcp.tlsa.example.org": {"TLSA": ["3 1 1 " + 32 * "00"]},
        "tlsa.example.org": {"A": ["192.0.2.1"]},
    }
    resolver = MemoryResolver(records, secure=["example.org"])
    inbox = Inbox()
    async with memory_network({"192.0.2.1": inbox}):
        print((await route("example.org", resolver=resolver)).exchangers[0].name)
        async with smtp_trio.connect_domain("example.org", resolver=resolver) as connection:
            print(connection.address)
        message = b"Subject: hi\\r\\n\\r\\nhello\\r\\n"
        names = ["you@example.org", "you@tlsa.example.org"]
        result = await smtp_trio.send(message, sender="me@example.net", recipients=names, resolver=resolver)
        print(*(type(each).__name__ for each in result.outcomes), len(inbox))

trio.run(main)
"""

#: The calls that need the packages.
CALLS = {
    "DnsResolver": "from smtp_trio.routing import DnsResolver\nasync def call(): DnsResolver()",
    "route": 'from smtp_trio.routing import route\nasync def call(): await route("example.org")',
    "connect_domain": """\
import smtp_trio
async def call():
    async with smtp_trio.connect_domain("example.org"): pass
""",
    "send": """\
import smtp_trio
async def call(): await smtp_trio.send(b"Subject: hi", sender="me@x.example", recipients=["you@example.org"])
""",
    "StsPolicies": """\
from smtp_trio.routing import StsPolicies
from smtp_trio.testing import MemoryResolver
async def call(): StsPolicies(MemoryResolver({}))
""",
}

CALL = """
import trio
try:
    trio.run(call)
except ModuleNotFoundError as error:
    print(error)
"""

COMMAND = """
import runpy
sys.argv = ["smtp-trio", {arguments}]
runpy.run_module("smtp_trio", run_name="__main__", alter_sys=True)
"""


def python(script: str) -> tuple[int, str, str]:
    """Run a script without the packages; return its exit code, output and errors."""
    run = subprocess.run([sys.executable, "-c", WITHOUT + script], capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr, run.stderr
    return run.returncode, run.stdout, run.stderr


def test_what_has_a_resolver_works() -> None:
    assert python(WITH_A_RESOLVER) == (0, "mx.example.org\n192.0.2.1\nAccepted Rejected 1\n", "")


@pytest.mark.parametrize("name", CALLS)
def test_error_says_what_to_install(name: str) -> None:
    package = "httpx2" if name == "StsPolicies" else "dnspython"
    expected = f"smtp_trio.routing needs {package}: install smtp-trio[dns]\n"
    assert python(CALLS[name] + CALL) == (0, expected, "")


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (
            ["send", "--mx", "mail.eml"],
            2,
            "smtp-trio: error: --mx needs dnspython, which is not installed: python -m pip install 'smtp-trio[dns]'\n",
        ),
        (["send", "--help"], 0, ""),
        (["--help"], 0, ""),
    ],
    ids=["mx", "send-help", "help"],
)
def test_command(tmp_path: Path, arguments: Sequence[str], code: int, error: str) -> None:
    path = tmp_path / "mail.eml"
    path.write_bytes(b"From: me@example.net\nTo: you@example.org\n\nhello\n")
    shown = ", ".join(repr(str(path) if each == "mail.eml" else each) for each in arguments)
    found = python(COMMAND.format(arguments=shown))
    assert (found[0], found[2]) == (code, error)


@pytest.mark.parametrize(
    "script",
    [
        "import smtp_trio, smtp_trio.testing, smtp_trio.routing",
        "from smtp_trio._cli.main import make_parser\nmake_parser(['send']).format_help()",
        "import smtp_trio\n[getattr(smtp_trio, name) for name in smtp_trio.__all__]",
    ],
)
def test_packages_are_not_imported_before_they_are_needed(script: str) -> None:
    """They are installed here."""
    check = "\nimport sys\nprint(sorted({'dns', 'httpx2', 'cryptography'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script + check], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_importing_the_package_or_the_command_line_loads_no_routing() -> None:
    script = (
        "import sys, smtp_trio\nfrom smtp_trio._cli.main import make_parser\nmake_parser(['send']).format_help()\n"
        "smtp_trio.connect, smtp_trio.Pool, smtp_trio.send\n"
        "print([name for name in sys.modules if name.startswith('smtp_trio.routing')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert run.stdout == "[]\n"
