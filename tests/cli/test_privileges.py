"""``smtp-trio serve --user`` and the service manager: the port is opened as root, and everything else by an ordinary user."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import trio
from processes import Program, run, running, serving

from smtp_trio._cli.service_manager import ServiceManager
from smtp_trio.stores import read

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ME, YOU = "me@example.net", "you@example.org"
USER = "nobody"

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of the ordinary user. Those of pytest are accessible to root only."""
    path = Path(subprocess.check_output(["mktemp", "-d", "/tmp/smtp-trio.XXXXXX"], text=True).strip())
    account = pwd.getpwnam(USER)
    os.chown(path, account.pw_uid, account.pw_gid)
    yield path
    shutil.rmtree(path)


def ids(program: Program, kind: str) -> list[int]:
    """Return the users or groups of a process (proc(5)): real, effective, saved and for files; or all its groups."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    found = re.search(rf"^{kind}:(.*)$", status, re.MULTILINE)
    assert found is not None
    return [int(each) for each in found[1].split()]


def files(folder: Path) -> list[Path]:
    """Return the files and directories in a directory."""
    return list(folder.rglob("*"))


@root
@pytest.mark.parametrize("store", ["maildir:mail", "sqlite:mail.db"])
async def test_store_belongs_to_the_user(home: Path, store: str) -> None:
    account = pwd.getpwnam(USER)
    async with serving("--user", USER, "--store", store, cwd=home) as program:
        assert ids(program, "Uid") == [account.pw_uid] * 4
        assert ids(program, "Gid") == [account.pw_gid] * 4
        assert set(ids(program, "Groups")) == set(os.getgrouplist(USER, account.pw_gid))
        await program.send(ME, [YOU], MESSAGE)
    assert {path.stat().st_uid for path in files(home)} == {account.pw_uid}
    if store.startswith("maildir"):
        (file,) = (home / "mail" / "new").iterdir()
        assert read(file).message == MESSAGE


@root
async def test_privileged_port(home: Path) -> None:
    """The port is opened as root. In a network namespace, nothing else listens there."""
    serve = f"{sys.executable} -m smtp_trio serve --port 25 --user {USER} --store maildir:mail"
    script = f"ip link set lo up; exec {serve}"
    command = ["unshare", "-n", "sh", "-c", script]
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        assert "CI" not in os.environ
        pytest.skip("network namespaces cannot be made here")
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=home)
    assert process.stdout is not None
    with trio.fail_after(100):
        received = b""
        while b"storing" not in received:
            data = await process.stdout.receive_some()
            assert data, received
            received += data
        assert b"listening on 127.0.0.1:25\n" in received
        process.terminate()
        assert await process.wait() == 0
    await process.stdout.aclose()


@root
async def test_user_without_access(tmp_path: Path) -> None:
    """The store is opened as the user, and the error names it."""
    code, out, err = await run("-m", "smtp_trio", "serve", "--port", "0", "--user", USER, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err == f"smtp-trio: error: cannot store mail in {tmp_path}/Maildir: Permission denied\n"


@root
async def test_only_root_can_change_the_user(home: Path) -> None:
    prefix = ["setpriv", "--reuid", USER, "--clear-groups"]
    if subprocess.run([*prefix, sys.executable, "-c", "import smtp_trio"], capture_output=True, check=False).returncode:
        pytest.skip("the ordinary user cannot run this Python")
    code, out, err = await run("-m", "smtp_trio", "serve", "--port", "0", "--user", "root", cwd=home, prefix=prefix)
    assert (code, out) == (2, "")
    assert err == "smtp-trio: error: cannot become the user root: Operation not permitted; start as root\n"


async def test_unknown_user(tmp_path: Path) -> None:
    code, _, err = await run("-m", "smtp_trio", "serve", "--user", "no-such-user", cwd=tmp_path)
    assert code == 2
    assert "argument --user: no such user: 'no-such-user'" in err


# --- the service manager ----------------------------------------------------------------------------------------------


class Manager:
    """A service manager's socket, as systemd opens it."""

    def __init__(self, path: str) -> None:
        self.sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM)
        self._path = path
        self.received: list[str] = []

    async def __aenter__(self) -> Self:
        await self.sock.bind(f"\0{self._path[1:]}" if self._path.startswith("@") else self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def wait_for(self, pattern: str) -> None:
        while not re.fullmatch(pattern, state := (await self.sock.recv(4096)).decode(), re.DOTALL):
            self.received.append(state)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("abstract", [False, True])
async def test_notifications(short_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, abstract: bool) -> None:
    """Ready, reloading and stopping; the watchdog is fed in between."""
    address = f"@{short_path}/notify" if abstract else str(short_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    async with Manager(address) as manager, serving("--workers", str(workers), cwd=short_path) as program:
        await manager.wait_for("READY=1")
        assert set(manager.received) <= {"WATCHDOG=1"}
        for _ in range(3):
            await manager.wait_for("WATCHDOG=1")
        program.signal(signal.SIGHUP)
        await manager.wait_for(r"RELOADING=1\nMONOTONIC_USEC=\d+")
        await manager.wait_for("READY=1")
        program.signal(signal.SIGTERM)
        await manager.wait_for("STOPPING=1")
        assert await program.wait() == 0


async def test_manager_that_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not depend on it."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    async with serving(cwd=tmp_path) as program:
        await program.send(ME, [YOU], MESSAGE)


@pytest.mark.parametrize(
    ("variables", "address", "watchdog"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": "/run/x"}, "/run/x", None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000"}, "/run/x", 30),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, "/run/x", None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "own"}, "/run/x", 30),
        ({"WATCHDOG_USEC": "0"}, None, None),
        ({"WATCHDOG_USEC": "soon"}, None, None),
    ],
)
def test_variables_of_the_manager(
    variables: dict[str, str], address: str | None, watchdog: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are removed, since processes that the server starts must not use them."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("own", str(os.getpid())))
    assert ServiceManager.from_environment() == ServiceManager(address, watchdog)
    assert not set(variables) & set(os.environ)


def test_units_are_valid(tmp_path: Path) -> None:
    """systemd finds nothing to complain about."""
    if shutil.which("systemd-analyze") is None:
        assert "CI" not in os.environ
        pytest.skip("systemd-analyze is not installed")
    units = [str(UNITS / "smtp-trio.service"), str(UNITS / "smtp-trio.socket")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_command_of_the_unit(tmp_path: Path) -> None:
    """The options of the service exist, and it serves with the sockets that it gets."""
    text = (UNITS / "smtp-trio.service").read_text().replace("\\\n", " ")
    command = re.search(r"^ExecStart=/usr/bin/env smtp-trio (.*)$", text, re.MULTILINE)
    assert command is not None
    words = command[1].replace("%S", str(tmp_path)).replace("--fd systemd", "--port 0").split()
    tls = words.index("--tls-cert")
    assert words[tls + 1 : tls + 4 : 2] == ["%d/cert.pem", "%d/key.pem"]
    del words[tls : tls + 4]
    async with running("-m", "smtp_trio", *words, cwd=tmp_path) as program:
        await program.out.wait_for(rf"storing in maildir:{tmp_path}/smtp-trio\n")
