"""The pages in docs/: their programs run, and the options, names and replies that they list exist."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import importlib.util
import inspect
import json
import logging
import os
import pkgutil
import re
import smtplib
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import blocks
import pytest
import trio
from attrs import fields
from installed_plugin import INI, installed

import smtp_trio
import smtp_trio.stores
import smtp_trio.testing
from smtp_trio._cli.main import make_parser
from smtp_trio.conform import Level, server_cases
from smtp_trio.conform._client_cases import client_cases
from smtp_trio.protocol import (
    NORMAL,
    STRICT,
    Command,
    Ehlo,
    EndOfData,
    Expn,
    Helo,
    Help,
    Mail,
    Rcpt,
    Strictness,
    Vrfy,
    lenient_mode,
)
from smtp_trio.protocol.extensions.auth import AuthCommand
from smtp_trio.testing import open_memory_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from smtp_trio.conform import Requirement
    from smtp_trio.testing import InboxThread

pytest_plugins = ["pytester"]

DOCS = blocks.ROOT / "docs"
PAGES = "\n".join(page.read_text(encoding="utf-8") for page in blocks.PAGES)

#: What fits on a page that is 1280 pixels wide.
COLUMNS = 88

MISSING = [name for name in ("django", "aiosmtplib", "anyio") if importlib.util.find_spec(name) is None]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("block", blocks.PYTHON, ids=str)
def test_block_runs_when_copied_alone(
    block: blocks.Block, smtp_inbox: InboxThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block without a server in it may connect to one that accepts all mail."""
    for name in MISSING:
        if re.search(rf"^\s*(import|from) {name}\b", block.source, re.MULTILINE):
            pytest.skip(f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    mail_log = logging.getLogger("smtp_trio.message")
    level, handlers = mail_log.level, [*mail_log.handlers]
    try:
        names = block.run(port=None if "Server(" in block.source else smtp_inbox.port)
    finally:
        mail_log.setLevel(level)
        mail_log.handlers[:] = handlers
    assert block.undefined(names) == set()


@pytest.mark.parametrize("block", blocks.PYTHON, ids=str)
def test_block_uses_existing_names(block: blocks.Block) -> None:
    """Also in functions that nothing calls."""
    for node in ast.walk(ast.parse(block.source)):
        match node:
            case ast.Attribute(ast.Name("smtp_trio"), name):
                assert hasattr(smtp_trio, name)
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("smtp_trio"):
                assert [alias.name for alias in names if not can_be_imported(module, alias.name)] == []


def can_be_imported(module: str, name: str) -> bool:
    """Return whether a module has a name, or is a package with a module of that name."""
    found = importlib.import_module(module)
    return hasattr(found, name) or (
        hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    )


@pytest.mark.slow
@pytest.mark.parametrize("tests", [False, True], ids=["programs", "tests"])
def test_blocks_pass_a_type_checker(tests: bool, tmp_path: Path) -> None:
    """With the strict settings of this project. Functions without annotations are allowed in tests only."""
    pytest.importorskip("mypy")
    found = [block for block in blocks.PYTHON if ("def test_" in block.source) == tests]
    assert len(found) > 10
    for block in found:
        (tmp_path / f"{block.page}_{block.number}.py").write_text(block.source, "utf-8")
    options = [
        "--config-file",
        "pyproject.toml",
        "--cache-dir",
        str(tmp_path / "cache"),
        "--disable-error-code",
        "import-untyped",
    ]
    if tests:
        options += ["--allow-untyped-defs", "--allow-untyped-calls"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, sorted(tmp_path.glob("*.py")))],
        capture_output=True, text=True, cwd=blocks.ROOT, check=False,
    )  # fmt: skip
    assert (checked.stderr, checked.returncode) == ("", 0), checked.stdout


COMMANDS = [(str(block), argv) for block in blocks.CONSOLE for argv in block.commands()]


@pytest.mark.parametrize(("block", "argv"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_commands_of_a_console_block_are_valid(block: str, argv: list[str]) -> None:
    make_parser(argv).parse_args(argv)


def test_every_command_of_a_console_block_is_found() -> None:
    for block in blocks.CONSOLE:
        assert len(block.commands()) == len(re.findall(r"smtp-trio (?!=)|-m smtp_trio ", block.source))
    assert {argv[0] for _, argv in COMMANDS} == {
        "serve",
        "inbox",
        "send",
        "relay",
        "conform",
        "passwd",
        "mail",
        "health",
    }


@pytest.mark.parametrize("block", blocks.ALL, ids=str)
def test_no_line_of_a_block_is_cut_off(block: blocks.Block) -> None:
    assert [line for line in block.source.splitlines() if len(line) > COLUMNS] == []


def test_no_line_of_an_included_program_is_cut_off() -> None:
    included = {path for text in PAGES.split() if (path := DOCS / text).suffix == ".py" and path.exists()}
    assert included
    assert [
        line for path in included for line in path.read_text(encoding="utf-8").splitlines() if len(line) > COLUMNS
    ] == []


#: The modules whose exported names are documented.
PUBLIC = (
    "smtp_trio", "smtp_trio.policies", "smtp_trio.recipients", "smtp_trio.credentials", "smtp_trio.stores", "smtp_trio.testing",
    "smtp_trio.testing.strategies", "smtp_trio.protocol",
    "smtp_trio.protocol.extensions", "smtp_trio.protocol.sasl", "smtp_trio.routing", "smtp_trio.relay", "smtp_trio.tracing",
    "smtp_trio.conform",
)  # fmt: skip
DIRECTIVE = re.compile(
    r"^\.\. (?P<module>(?:current)?module):: (\S+)|^\.\. (?:auto\w+|data):: ([\w.]+(?:\n +[\w.]+)*)", re.MULTILINE
)


@cache
def documented() -> set[int]:
    """Return the ids of all objects that the pages document."""
    found = set()
    for page in blocks.PAGES:
        module = "smtp_trio"
        for match in DIRECTIVE.finditer(page.read_text(encoding="utf-8")):
            if match["module"]:
                module = match[2]
                continue
            for name in match[3].split():
                owner, _, last = (name if name.startswith("smtp_trio.") else f"{module}.{name}").rpartition(".")
                found.add(id(pkgutil.resolve_name(f"{owner}:{last}" if owner in PUBLIC else f"{owner}.{last}")))
    return found


EXPORTED = [(module, name) for module in PUBLIC for name in importlib.import_module(module).__all__]


@pytest.mark.parametrize(("module", "name"), EXPORTED, ids=[f"{module}.{name}" for module, name in EXPORTED])
def test_public_name_is_documented(module: str, name: str) -> None:
    assert id(getattr(importlib.import_module(module), name)) in documented()


MEASURED = json.loads((DOCS / "conformance.json").read_text())["servers"].values()


@pytest.mark.parametrize("section", dict.fromkeys(result["section"] for result in MEASURED))
def test_page_explains_exactly_the_failures_of_a_server(section: str) -> None:
    """In all its configurations and versions."""
    page = (DOCS / "conformance.rst").read_text()
    text = re.split(rf"^{section}\n-+\n", page, flags=re.MULTILINE | re.IGNORECASE)[1]
    text = re.split(r"^[\w-]+\n-+\n", text, flags=re.MULTILINE)[0]
    patterns = re.findall(r"``([a-z]+\.[a-z0-9*-]+)``", text)
    runs = [result["failed"] for result in MEASURED if result["section"] == section]
    failed = {case for run in runs for cases in run.values() for case in cases}
    assert [case for case in failed if not any(fnmatch.fnmatchcase(case, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not fnmatch.filter(failed, pattern)] == []


def test_number_of_cases_is_stated() -> None:
    number = len(server_cases())
    assert f"with {number} cases" in (DOCS / "conformance.rst").read_text()
    assert f"| {number} cases for any server" in (DOCS.parent / "README.md").read_text()


@pytest.mark.parametrize("command", ["serve", "send"])
def test_page_documents_exactly_the_options_of_a_command(command: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "smtp_trio", command, "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "1000"},  # no option is broken
    )  # fmt: skip
    page = (DOCS / "command-line.rst").read_text().partition(f".. program:: smtp-trio {command}\n")[2]
    documented = re.findall(r"^\.\. option:: .*(--[a-z-]+)", page.partition("\n.. program::")[0], re.MULTILINE)
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", shown.stdout)) == {"--help", *documented}


HOOKS: list[tuple[str, type[Command]]] = [
    ("helo", Ehlo), ("helo", Helo), ("auth", AuthCommand), ("mail", Mail), ("rcpt", Rcpt), ("data", EndOfData), ("vrfy", Vrfy),
    ("expn", Expn), ("help", Help),
]  # fmt: skip


def test_page_lists_exactly_what_each_mode_accepts() -> None:
    rows = re.findall(
        r"\* - ``(\w+)``\n     - .*\n((?:     - (?:yes|no)\n){3})", (DOCS / "server.rst").read_text("utf-8")
    )
    modes = (STRICT, NORMAL, lenient_mode("example.org"))
    assert {name: re.findall("yes|no", cells) for name, cells in rows} == {
        member.name: ["yes" if getattr(mode, member.name) else "no" for mode in modes] for member in fields(Strictness)
    }


@pytest.mark.parametrize(("hook", "command"), HOOKS)
def test_page_lists_exactly_the_codes_that_a_hook_may_return(hook: str, command: type[Command]) -> None:
    """Other than those that the core sends by itself."""
    row = re.search(rf"   \* - ``{hook}\(.*\n     - .*\n     - (.*)", (DOCS / "hooks.rst").read_text())
    assert row is not None
    listed = {int(code) for code in re.findall(r"\b[2-5]\d\d\b", row[1].partition(" is 454")[0])}
    for first, last in re.findall(r"(\d{3}) to (\d{3})", row[1]):
        listed |= set(range(int(first), int(last) + 1))
    assert listed - {451} == command.codes - {334, 451, 503} - ({502, 504} if hook == "auth" else set())


EXAMPLES = [block for block in blocks.PYTHON if block.page == "testing" and "def test_" in block.source]
#: As in a project that `django-admin startproject` made.
DJANGO = "from django.conf import settings\n\nsettings.configure()\n"


@pytest.mark.exhaustive
@pytest.mark.parametrize("under", ["pytest-trio", "anyio"])
def test_tests_of_the_page_on_testing_pass(
    under: str, pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a test suite that has only the plugin."""
    sources = [
        block.source
        for block in EXAMPLES
        if ("anyio" in block.source) == (under == "anyio")
        and not any(f"import {name}" in block.source or f"from {name}" in block.source for name in MISSING)
    ]
    assert len(sources) >= (12 if under == "pytest-trio" and not MISSING else 1)
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path))
    pytester.makeini(INI + ("trio_mode = true\n" if under == "pytest-trio" else ""))
    if "django" not in MISSING:
        pytester.makeconftest(DJANGO)
    pytester.makepyfile(**{f"test_{number}": source for number, source in enumerate(sources)})
    tests = (
        sum(source.count("def test_") for source in sources)
        + sum(source.count("Faults(Reset") for source in sources) * 2
    )
    options = ["-p", "no:trio"] if under == "anyio" else ["-p", "no:anyio"]
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=tests)


def test_program_of_the_page_on_testing_prints_a_transcript(capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks.PYTHON:
        if block.page == "testing" and "def test_" not in block.source:
            block.run()
    assert "\nC: Subject: hi\n" in capsys.readouterr().out


def test_sweeps_of_the_page_on_cancellation_pass() -> None:
    sweep, actions, block_only, store = [
        block for block in blocks.PYTHON if block.page == "cancellation" and "attempt" in block.source
    ]
    sweep.run()["test_store"]()
    actions.run()["test_database"]()
    store.run()["test_store"]()
    assert smtp_trio.testing.cancel_everywhere(block_only.run()["scenario"]).points > 5


async def test_server_on_a_blocking_socket(capsys: pytest.CaptureFixture[str]) -> None:
    serve: Callable[[socket.socket], None] = load("blocking").serve

    def serve_one(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            serve(client)

    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=100) as client:
            assert client.sendmail("me@example.net", ["you@example.org"], b"Subject: hi\r\n\r\n.dot\r\n") == {}
            assert client.docmd("FOO")[0] == 500
            client.mail("me@example.net")
            client.rcpt("you@example.org")
            client.send(b"BDAT 7 LAST\r\nhello\r\n")
            assert client.getreply()[0] == 250

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve_one, listener)
            await trio.to_thread.run_sync(send, listener.getsockname()[1])
    assert capsys.readouterr().out.replace("\r", "") == "Subject: hi\n\n.dot\nhello\n"


def table_of(section: str) -> list[list[str]]:
    """Return the rows of the table in a section of docs/migrating, without its header."""
    page = (DOCS / "migrating.rst").read_text("utf-8")
    text = page.partition(f"\n{section}\n---")[2].partition("\n---")[0]
    return [list(row) for row in re.findall(r"   \* - (.+)\n     - (.+)\n", text)[1:]]


def module_of_table(package: str) -> ModuleType:
    """Return a package, or skip the test if another version than that of its table is installed."""
    module: ModuleType = pytest.importorskip(package)
    page = (DOCS / "migrating.rst").read_text("utf-8")
    version = re.search(rf"For version ([\d.]+) of {package}", page)
    assert version is not None
    if not f"{module.__version__}.".startswith(f"{version[1]}."):
        pytest.skip(f"the table is for {package} {version[1]}")
    return module


def words(cell: str) -> set[str]:
    """Return the identifiers in the code of a cell."""
    return set(re.findall(r"(?<![\w'\"])[A-Za-z_]\w+", " ".join(re.findall(r"``(.+?)``", cell))))


def words_of(*folders: Path) -> set[str]:
    return {
        word
        for folder in folders
        for file in folder.rglob("*.py")
        for word in re.findall(r"\w+", file.read_text("utf-8"))
    }


#: The rest of what the tables name: Python, the standard library, and variables.
OTHER = set(
    re.findall(
        r"\w+",
        "async await for in as with True False None nursery trio SocketListener BusyResourceError hooks path piece py text sock "
        "errors response email message_from_bytes os examples catch_all forward handlers",
    )
)


@pytest.mark.parametrize("package", ["aiosmtpd", "aiosmtplib"])
def test_tables_for_users_of_other_packages_name_what_exists(package: str) -> None:
    theirs = words_of(Path(str(module_of_table(package).__file__)).parent) | OTHER
    ours = words_of(Path(smtp_trio.__file__).parent, blocks.ROOT / "examples") | OTHER
    rows = table_of(f"From {package}")
    assert len(rows) > 30
    for before, now in rows:
        assert {word.removeprefix("handle_") for word in words(before)} - theirs - {""} == set()
        assert words(now) - ours == set()


def test_all_handlers_of_aiosmtpd_are_in_its_table() -> None:
    """Also the settings of its server, and all exceptions of aiosmtplib in that of the other."""
    module_of_table("aiosmtpd")
    smtp = importlib.import_module("aiosmtpd.smtp")
    aiosmtplib = module_of_table("aiosmtplib")
    server = words(" ".join(before for before, _ in table_of("From aiosmtpd")))
    client = words(" ".join(before for before, _ in table_of("From aiosmtplib")))
    hooks = set(re.findall(r"_call_handler_hook\(['\"](\w+)", inspect.getsource(smtp))) | {"STARTTLS"}
    settings = set(inspect.signature(smtp.SMTP).parameters) - {
        "handler",
        "loop",
        "auth_callback",
        "proxy_protocol_timeout",
    }
    assert {f"handle_{hook}" for hook in hooks - {"AUTH"}} | settings <= server
    errors = {name for name in aiosmtplib.__all__ if name.endswith(("Error", "Exception", "Refused", "Disconnected"))}
    assert (errors - {"SMTPRecipientRefused"}) | set(inspect.signature(aiosmtplib.send).parameters) - {
        "message"
    } <= client


async def test_recipients_of_the_hooks_page() -> None:
    """Postmaster is accepted in the own domain and without a domain, and not in others."""
    [block] = [block for block in blocks.PYTHON if "class Known(" in block.source]
    async with open_memory_server(block.run()["Known"]()) as server, server.client() as client:
        await client.mail("me@example.net")
        for recipient in ("Fred@EXAMPLE.org", "Postmaster@example.org", "postmaster"):
            await client.rcpt(recipient)
        for recipient in ("postmaster@example.com", "postmaster@[192.0.2.1]", "wilma@example.org"):
            with pytest.raises(smtp_trio.ReplyError, match="No such user here"):
                await client.rcpt(recipient)


@pytest.mark.parametrize("cases", [server_cases, client_cases])
def test_numbers_of_conformance_cases(cases: Callable[[], Sequence[Requirement]]) -> None:
    """The numbers in README.md and on the page of the command line are those of ``smtp-trio conform --list``."""
    total = len(cases())
    default = sum(case.level <= Level.SHOULD and not case.danger for case in cases())
    page = " ".join((DOCS / "command-line.rst").read_text(encoding="utf-8").split())
    subject = "any SMTP server" if cases is server_cases else "an SMTP client"
    found = re.search(rf"tests {subject} in (\d+) cases with .{{,60}}? and (?:in )?(\d+) without", page)
    assert found is not None
    assert found.groups() == (str(total), str(default))
    assert (
        f"{total} {'cases for any server' if cases is server_cases else 'for any client'}" in blocks.README.read_text()
    )


def test_options_of_sweeps_are_described() -> None:
    """The text of help() and of the page, which is made of the docstring."""
    described = re.findall(r":param (\w+):", inspect.getdoc(smtp_trio.testing.SweepOptions) or "")
    assert described == list(smtp_trio.testing.SweepOptions.__annotations__)
    assert ".. autoclass:: smtp_trio.testing.SweepOptions()" in PAGES


def test_context_managers_name_their_statement() -> None:
    """The annotations of functions that return context managers say AsyncGenerator or AsyncIterator in help()."""
    functions = [smtp_trio.connect, smtp_trio.Pool.client]
    functions += [
        smtp_trio.testing.open_memory_server,
        smtp_trio.testing.open_test_server,
        smtp_trio.testing.memory_network,
    ]
    for function in functions:
        assert "``async with" in (inspect.getdoc(function) or "").split("\n\n")[0]


def test_readme_lists_all_pages() -> None:
    linked = set(re.findall(r"\(docs/([a-z-]+)\.rst\)", blocks.README.read_text(encoding="utf-8")))
    assert linked == {page.stem for page in blocks.PAGES} - {"index"}
