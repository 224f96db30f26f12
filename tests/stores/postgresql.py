"""PostgreSQL servers for tests: each has a directory of its own, and only listens on a socket there."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from attrs import Factory, define

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The directories in which Debian and others install the programs, which are not in PATH.
PROGRAMS = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), Path("/usr/pgsql/bin")]


def programs() -> Path:
    """Return the directory of the programs of PostgreSQL. Skip the test without them; fail in CI."""
    for directory in [*PROGRAMS, *(Path(entry) for entry in os.get_exec_path())]:
        if (directory / "initdb").exists():
            return directory
    if os.environ.get("CI"):
        pytest.fail("postgresql is not installed")
    pytest.skip("postgresql is not installed")


def as_user() -> dict[str, Any]:
    """Return the options of `subprocess` for a user that is not root, as which PostgreSQL does not run."""
    return {} if os.geteuid() else {"user": "postgres", "group": "postgres", "extra_groups": []}


def run(directory: Path, program: str, *arguments: str) -> None:
    """Run one of the programs, and raise an error with its output if it fails."""
    command = [str(programs() / program), *arguments]
    result = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=240, **as_user()
    )
    assert result.returncode == 0, result.stderr


def make_directory() -> Path:
    """Return a new directory that belongs to the user of the servers. pytest's own cannot be entered by another user."""
    path = Path(mkdtemp(prefix="smtp-trio-"))
    if not os.geteuid():
        shutil.chown(path, "postgres", "postgres")
    return path


@functools.cache
def template() -> Path:
    """Return the directory of a server that was never started. It is made once."""
    path = make_directory()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    run(path, "initdb", "--pgdata", str(path / "data"), "--auth", "trust", "--username", "postgres", "--no-sync")
    return path / "data"


@define
class PostgresServer:
    """A server in a directory. ``settings`` are those that differ from the defaults."""

    directory: Path
    settings: dict[str, str] = Factory(dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, **params: str) -> str:
        """Return a URL for `open`."""
        pairs = {"host": str(self.directory), "user": "postgres", **params}
        return "postgresql:///postgres?" + "&".join(f"{name}={quote(value)}" for name, value in pairs.items())

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        options = {"listen_addresses": "", "unix_socket_directories": str(self.directory), **self.settings}
        arguments = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        log = self.directory / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", self.data, *arguments],
                cwd=self.directory,
                stdout=output,
                stderr=output,
                **as_user(),
            )
        self.wait()

    def wait(self) -> None:
        """Return when the server accepts connections, or is a standby that does."""
        command = [str(programs() / "pg_isready"), "-q", "-U", "postgres", "-d", "postgres", "-h", str(self.directory)]
        for _ in range(4800):
            assert self.process is not None
            assert self.process.poll() is None, (self.directory / "log").read_text()
            if subprocess.run(command, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError((self.directory / "log").read_text())

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends its sessions, and SIGQUIT it crashes without writing anything."""
        if self.process is not None:
            pid = self.process.pid
            self.process.send_signal(signal.SIGSTOP)  # so that it starts no other process meanwhile
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(240)
            self.process = None
            # After SIGKILL they notice a moment later that it has ended, and another server does not start before that.
            for _ in range(4800):
                if not any(Path(f"/proc/{child}/exe").exists() for child in children):
                    return
                time.sleep(0.05)
            raise AssertionError("the processes of the server have not ended")


@contextmanager
def open_server(**settings: str) -> Iterator[PostgresServer]:
    """Run a server with these settings, and remove it at the end of the block."""
    directory = make_directory()
    server = PostgresServer(directory, settings)
    try:
        subprocess.run(["cp", "-a", template(), server.data], check=True)
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(directory)


@contextmanager
def open_standby(primary: PostgresServer, **settings: str) -> Iterator[PostgresServer]:
    """Run a standby of another server."""
    directory = make_directory()
    server = PostgresServer(directory, {"primary_conninfo": f"host={primary.directory} user=postgres", **settings})
    try:
        run(
            directory,
            "pg_basebackup",
            "-h",
            str(primary.directory),
            "-U",
            "postgres",
            "-D",
            str(server.data),
            "-c",
            "fast",
            "-N",
        )
        (server.data / "standby.signal").touch()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(directory)
