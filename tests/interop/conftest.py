"""What the tests with foreign programs share: the programs, a server, the two stores, certificates."""

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
from .recipes import NAMESPACES, RECIPES
from .servers import Server, start

if TYPE_CHECKING:
    import smtp_trio

    from .programs import Errand, Outcome


def missing(reason: str) -> NoReturn:
    """Skip the test, with the reason; where CI is set everything is there, or the run has failed."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need(command: str, *arguments: str) -> None:
    """Go on only if the command is installed; with arguments, only if it also succeeds."""
    path = shutil.which(command, path=PATH)
    if path is None:
        missing(f"{command} is not installed")
    if arguments and subprocess.run([path, *arguments], capture_output=True, check=False, timeout=60).returncode:
        missing(f"`{' '.join((command, *arguments))}` fails")


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where nodemailer and its smtp-server are: npm fetches them, from its own cache if it can."""
    folder = tmp_path_factory.mktemp("nodemailer")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", str(folder)]
    command += ["nodemailer", "smtp-server"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    if done.returncode:
        missing(f"npm could not install nodemailer and smtp-server: {done.stderr.strip()[-300:]}")
    return folder / "node_modules"


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.name)
def program(request: pytest.FixtureRequest) -> Program:
    """Each of the foreign programs, if it is installed."""
    program: Program = request.param
    for command in program.needs:
        need(*command)
    if program.send is nodemailer:
        return evolve(program, send=partial(nodemailer, node_modules=request.getfixturevalue("node_modules")))
    return program


@functools.cache
def namespaces() -> bool:
    """Whether this machine lets us make namespaces. A container may not, and no package would change that."""
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, timeout=30).returncode == 0


def need_server(name: str) -> None:
    """Go on only if this server can be started here."""
    recipe = RECIPES[name]
    if recipe.root and os.geteuid():
        missing(f"{name} starts as root only")
    if recipe.root and not namespaces():
        pytest.skip(f"{name} needs namespaces of its own, which root may not make here")
    for command in recipe.needs:
        need(*command)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Server]]:
    """Gives a server by its name; it is started where it is first asked for, and runs until the last test is over."""
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def get(name: str) -> Server:
            if name not in running:
                need_server(name)
                modules = request.getfixturevalue("node_modules") if name == "smtp-server" else None
                # Not under pytest's own folder: that is closed to the users as whom servers run.
                folder = stack.enter_context(TemporaryDirectory(prefix="smtp-trio-"))
                running[name] = stack.enter_context(start(name, Path(folder), modules))
            return running[name]

        yield get


@pytest.fixture(params=RECIPES)
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Iterator[Server]:
    """Each of the servers, or those that the test names, with nothing of other tests in the box.

    Where a test fails, the server's log is shown.
    """
    server = servers(request.param)
    server.forget()
    yield server
    print(server.log())


@frozen
class Certificates:
    """A server's TLS side, the authority that vouches for it, and one that does not."""

    server: ssl.SSLContext
    authority: Path
    stranger: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    stranger.cert_pem.write_to_path(folder / "stranger.pem")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(server)
    return Certificates(server, folder / "authority.pem", folder / "stranger.pem")


@frozen
class Box:
    """A store to serve with, and what is in it."""

    store: Maildir | SQLite
    path: Path

    def read(self) -> list[Stored]:
        """The messages, in the order in which they came."""
        if isinstance(self.store, Maildir):
            return [read(file) for file in sorted((self.path / "new").iterdir())]
        with closing(sqlite3.connect(self.path)) as database:
            uids = [uid for (uid,) in database.execute("SELECT uid FROM messages ORDER BY id")]
        return [read(self.path, uid) for uid in uids]


@pytest.fixture(params=[Maildir, SQLite], ids=["maildir", "sqlite"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    path = tmp_path / "box"
    return Box(request.param(path), path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder for a program to run in."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


async def serve_and_send(server: smtp_trio.Server, program: Program, errand: Errand) -> Outcome:
    """Serve on a free port of the loopback until the program has done its errand and every session has ended."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(server.serve, implicit_tls=errand.tls == "implicit")
            listeners: list[trio.SocketListener] = await nursery.start(serve, 0, "127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            outcome = await program.send(evolve(errand, port=port))
            await server.stop()
    return outcome
