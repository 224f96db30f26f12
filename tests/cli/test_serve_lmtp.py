"""``smtp-trio serve --lmtp`` and ``--unix``, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import pytest
import trio
from processes import HOST, Program, run, running, serving as serving_tcp

import smtp_trio
from smtp_trio import Rejected
from smtp_trio._cli.main import main
from smtp_trio._server import lock_file

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ME, YOU = "me@example.net", "you@example.org"


async def deliver(path: Path) -> list[str]:
    """Send a message by LMTP to two recipients; return which were accepted."""
    stream = await trio.open_unix_socket(str(path))
    async with smtp_trio.Client(stream, lmtp=True) as client:
        result = await client.send(ME, [YOU, "no@example.com"], MESSAGE)
        assert all(isinstance(each, Rejected) for each in result.rejected)
        return [each.recipient for each in result.accepted]


async def stop(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert await program.wait() == 0


async def test_lmtp_on_a_unix_socket(short_path: Path) -> None:
    path = short_path / "lmtp.sock"
    async with running("-m", "smtp_trio", "serve", "--lmtp", "--accept", "example.org", cwd=short_path) as program:
        await program.out.wait_for("listening on unix:lmtp.sock\n")
        await program.out.wait_for("storing in")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await deliver(path) == [YOU]
        await program.out.wait_for("proto=LMTP ")
        await stop(program)
    assert len(list((short_path / "Maildir" / "new").iterdir())) == 1
    assert not path.exists()


@pytest.mark.slow
async def test_unix_socket_with_workers(short_path: Path) -> None:
    """It has the mode and the group of the options, and replaces what a server that was killed has left."""
    path = short_path / "mail"
    options = ["--unix", "mail", "--unix-mode", "660", "--lmtp", "--workers", "2"]
    options += ["--unix-group", "root"] if os.getuid() == 0 else []
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with running("-m", "smtp_trio", "serve", *options, cwd=short_path) as program:
        await program.out.wait_for("listening on unix:mail\n")
        await program.out.wait_for_count(2, r"worker \d: process \d+\n")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        for _ in range(4):
            assert await deliver(path) == [YOU, "no@example.com"]
        code, _, err = await run("-m", "smtp_trio", "serve", "--unix", "mail", cwd=short_path)
        assert code == 2
        assert "cannot listen on unix:mail: Address already in use: another program is listening there" in err
        await stop(program)
    assert not path.exists()


async def test_lmtp_on_tcp(tmp_path: Path) -> None:
    async with serving_tcp("--lmtp", cwd=tmp_path) as program:
        async with smtp_trio.connect(HOST, program.port, lmtp=True) as client:
            assert (await client.send(ME, [YOU], MESSAGE)).accepted
        await stop(program)


async def test_socket_of_another_server_is_not_removed(short_path: Path) -> None:
    path = short_path / "mail"
    async with running("-m", "smtp_trio", "serve", "--unix", "mail", cwd=short_path) as program:
        await program.out.wait_for("storing in")
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            await stop(program)
            assert path.exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("--lmtp --port 25", "--lmtp must not be used on port 25 (RFC 2033 5)"),
        ("--unix a --host 127.0.0.1", "--host cannot be combined with --unix"),
        ("--unix-mode 660", "--unix-mode and --unix-group require --unix, or --lmtp without an address"),
        ("--lmtp --port 24 --unix-mode 660", "--unix-mode and --unix-group require --unix, or --lmtp without an address"),
        ("--unix a --port 26", "argument --port: not allowed with argument --unix (see `smtp-trio serve --help`)"),
        ("--unix a --unix-mode 8", "argument --unix-mode: must be three octal digits such as 660, got '8' (see `smtp-trio serve "
         "--help`)"),
        ("--unix a --unix-group no-such-group", "argument --unix-group: no such group: 'no-such-group' (see `smtp-trio serve "
         "--help`)"),
        ("--unix file", "cannot listen on unix:file: There is a file that is not a socket"),
        ("--unix none/socket", "cannot listen on unix:none/socket: No such file or directory"),
    ],
)  # fmt: skip
def test_invalid_options(
    options: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["serve", *options.split()]) == 2
    assert capsys.readouterr().err == f"smtp-trio: error: {error}\n"


def test_lock_file_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the file that has to be looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock_file, "WAIT", 0)
    with lock_file.locked("mail.lock"):
        assert main(["serve", "--unix", "mail"]) == 2
    error = "cannot listen on unix:mail: another process holds the lock file mail.lock"
    assert capsys.readouterr().err == f"smtp-trio: error: {error}\n"
    assert not (tmp_path / "mail").exists()
