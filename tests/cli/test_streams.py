"""Standard streams that are closed or cannot be written, and what is printed on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from processes import run

from smtp_trio.stores import Maildir

from .test_send import ME, MESSAGE, YOU, recording_server

SEND = "send --tls never {server}"


async def shell(command: str, redirection: str, cwd: Path) -> tuple[int, str, str]:
    """Run ``smtp-trio`` with a redirection of the shell; return its exit code, standard output and standard error."""
    script = f"exec {sys.executable} -m smtp_trio {command} {redirection}"
    done = await trio.run_process(["sh", "-c", script], capture_stdout=True, capture_stderr=True, check=False, cwd=cwd)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("command", "redirection", "code", "error"),
    [
        (f"{SEND} -", "<&-", 2, "- is not a message: it does not begin with a header field such as From: or Subject:"),
        (f"{SEND} --user fred mail.eml", "<&-", 2, "--user requires a password, in --password-file FILE or in SMTP_TRIO_PASSWORD "
         "in the environment"),
        (f"{SEND} mail.eml", ">&-", 0, ""),
        (f"{SEND} mail.eml", "2>&-", 0, ""),
        (f"{SEND} -v mail.eml", "2>&-", 0, ""),
        (f"{SEND} mail.eml", ">/dev/full", 0, "standard output: No space left on device"),
        (f"{SEND} missing", "2>&-", 2, ""),
        ("hash-password fred", "<&-", 2, "the password is empty"),
        ("hash-password fred", "<mail.eml >&-", 0, ""),
        ("hash-password fred", "<mail.eml >/dev/full", 2, "standard output: No space left on device"),
        ("conform {address} --only connection.greeting", ">&-", 0, ""),
        ("conform {address} --only connection.greeting", ">/dev/full", 2, "standard output: No space left on device"),
        ("conform --list", ">/dev/full", 2, "standard output: No space left on device"),
        ("mail export --store maildir:box --format mbox -", ">&-", 2, "standard output is closed"),
        ("mail export --store maildir:box --format mbox -", ">/dev/full", 2, "cannot write -: No space left on device"),
    ],
)  # fmt: skip
@pytest.mark.slow
async def test_closed_and_full_streams(
    tmp_path: Path, command: str, redirection: str, code: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMTP_TRIO_PASSWORD", raising=False)
    (tmp_path / "mail.eml").write_bytes(MESSAGE)
    async with Maildir(tmp_path / "box") as store:
        await store.add(MESSAGE, ME, [YOU])
    async with recording_server() as (hooks, server):
        command = command.format(server=server, address=server.partition("=")[2])
        got, _, err = await shell(command, redirection, tmp_path)
    assert (got, err) == (code, f"smtp-trio: error: {error}\n" if error else "")
    if command.startswith("send"):
        assert bool(hooks.messages) == (code == 0)


async def test_control_characters_of_a_name_are_not_printed(tmp_path: Path) -> None:
    options = ["send", "--from", ME, "--to", YOU, "a\x1b[2Jb\nc\u202e"]
    code, out, err = await run("-m", "smtp_trio", *options, cwd=tmp_path)
    assert (code, out, err) == (2, "", "smtp-trio: error: cannot read a?[2Jb?c?: No such file or directory\n")
