"""Fixtures of the tests with other mail programs: the programs, the servers, the two stores, and certificates."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trustme
from attrs import evolve, frozen

from smtp_trio.stores import Maildir, SQLite, Stored, read

from .programs import HOST, PATH, PROGRAMS, Program, nodemailer
from .servers import Server, start
from .setups import CURRENT_EXIM, NAMESPACES, SETUPS

if TYPE_CHECKING:
    import smtp_trio

    from .programs import Outcome, Submission


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, with the reason; fail in CI, where every program must be installed."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require(command: str, *arguments: str) -> None:
    """Skip the test unless the command is installed, and, with arguments, succeeds."""
    path = shutil.which(command, path=PATH)
    if path is None:
        skip_or_fail(f"{command} is not installed")
    if arguments and subprocess.run([path, *arguments], capture_output=True, check=False, timeout=240).returncode:
        skip_or_fail(f"`{' '.join((command, *arguments))}` fails")


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the packages that npm has installed, from its cache if it can."""
    directory = tmp_path_factory.mktemp("npm")
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--prefer-offline",
        "--fetch-retries=5",
        "--prefix",
        str(directory),
    ]
    # cypress-mailpit asks for Cypress, which is not needed here.
    command += ["--legacy-peer-deps", "nodemailer", "smtp-server", "mailpit-api@2", "cypress-mailpit@2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    if result.returncode:
        skip_or_fail(f"npm could not install the packages: {result.stderr.strip()[-300:]}")
    return directory / "node_modules"


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.name)
def program(request: pytest.FixtureRequest) -> Program:
    """Each of the sending programs, if it is installed."""
    program: Program = request.param
    for command in program.needs:
        require(*command)
    if program.send is nodemailer:
        return evolve(program, send=partial(nodemailer, node_modules=request.getfixturevalue("node_modules")))
    return program


@functools.cache
def can_make_namespaces() -> bool:
    """Return whether this process may create namespaces, which a container may forbid."""
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, timeout=240).returncode == 0


def require_server(name: str) -> None:
    """Skip the test unless this server can be started."""
    setup = CURRENT_EXIM if name == CURRENT_EXIM.name else SETUPS[name]
    if setup.root and os.geteuid():
        skip_or_fail(f"{name} must be started as root")
    if setup.root and not can_make_namespaces():
        pytest.skip(f"{name} needs namespaces, which cannot be created here")
    for command in setup.needs:
        require(*command)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Server]]:
    """A function that returns a server by its name.

    It is started at the first call, and runs until the last test has ended.
    """
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def get(name: str) -> Server:
            if name not in running:
                require_server(name)
                modules = request.getfixturevalue("node_modules") if name == "smtp-server" else None
                # Not in pytest's directory, which the users that the servers run as may not enter.
                directory = stack.enter_context(TemporaryDirectory(prefix="smtp-trio-"))
                running[name] = stack.enter_context(start(name, Path(directory), modules))
            return running[name]

        yield get


@pytest.fixture(params=SETUPS)
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Iterator[Server]:
    """Each of the servers, or those that the test names. Messages of earlier tests are ignored.

    The server's log is printed, which pytest shows if the test fails.
    """
    server = servers(request.param)
    server.ignore_received()
    yield server
    print(server.log())


@frozen
class Certificates:
    """A server's TLS context, the authority that has issued its certificate, and another authority."""

    server: ssl.SSLContext
    authority: Path
    other_authority: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    authority, other_authority = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(directory / "authority.pem")
    other_authority.cert_pem.write_to_path(directory / "other_authority.pem")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(server)
    return Certificates(server, directory / "authority.pem", directory / "other_authority.pem")


@frozen
class StoreCase:
    """A store for a server, and the messages in it."""

    hooks: Maildir | SQLite
    path: Path

    def messages(self) -> list[Stored]:
        """Return the messages in the order in which they were stored."""
        if isinstance(self.hooks, Maildir):
            return [read(file) for file in sorted((self.path / "new").iterdir())]
        with closing(sqlite3.connect(self.path)) as database:
            uids = [uid for (uid,) in database.execute("SELECT uid FROM messages ORDER BY id")]
        return [read(self.path, uid) for uid in uids]


@pytest.fixture(params=[Maildir, SQLite], ids=["maildir", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreCase:
    """Each of the stores, or those that the test names."""
    path = tmp_path / "store"
    return StoreCase(request.param(path), path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home directory for a program."""
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


async def serve_and_send(server: smtp_trio.Server, program: Program, submission: Submission) -> Outcome:
    """Serve on a free port, let the program send a message, and return its outcome after every session has ended."""
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            serve = partial(server.serve, implicit_tls=submission.tls == "implicit")
            listeners: list[trio.SocketListener] = await nursery.start(serve, 0, "127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            outcome = await program.send(evolve(submission, port=port))
            await server.stop()
    return outcome
