"""SIGINT while the program starts or ends: it exits with the code of SIGINT, and prints no traceback."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import run

#: Runs ``python -m smtp_trio`` and sends the process SIGINT at an audit event, given as its name, the beginning of its
#: first argument, and how many such events to leave out.
PROGRAM = """
import os, runpy, signal, sys

name, start, skip, *arguments = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler if name != "ignored" else signal.SIG_IGN)
remaining = int(skip)

def hook(event, values):
    global remaining
    if event == name and str(values[0] if values else "").startswith(start):
        remaining -= 1
        if remaining == -1:
            print("SIGINT now", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGINT)

if name == "ignored":
    os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
sys.argv[1:] = arguments
runpy.run_module("smtp_trio", run_name="__main__", alter_sys=True)
"""
MESSAGE = b"From: a@b.example\r\nTo: c@d.example\r\n\r\nhello\r\n"
COMMANDS: dict[str, Sequence[str]] = {
    "serve": ("serve", "--port=0", "--store=maildir:mail", "--host=127.0.0.1"),
    "send": ("send", "--server=127.0.0.1:1", "message.eml"),
    "conform": ("conform", "127.0.0.1:1"),
    "conform --client": ("conform", "--client", "--port=0"),
    "hash-password": ("hash-password", "fred"),
    "--version": ("--version",),
}


async def interrupted(name: str, start: str, command: str, cwd: Path, skip: int = 0) -> tuple[int, str, str]:
    (cwd / "message.eml").write_bytes(MESSAGE)
    return await run("-c", PROGRAM, name, start, str(skip), *COMMANDS[command], cwd=cwd)


def assert_quiet(result: tuple[int, str, str]) -> None:
    code, out, err = result
    assert (code, out, err) == (128 + signal.SIGINT, "", "SIGINT now\n")


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("serve", "smtp_trio._cli.main"),
        ("send", "smtp_trio._client.client"),
        ("conform", "smtp_trio.conform"),
        *(
            pytest.param(command, module, marks=pytest.mark.slow)
            for command, module in (
                ("serve", "trio"),
                ("serve", "smtp_trio._server.server"),
                ("send", "attrs"),
                ("send", "ssl"),
                ("send", "email.message"),
                ("conform", "argparse"),
                ("conform --client", "smtp_trio.conform._client_runner"),
                ("hash-password", "hashlib"),
                ("--version", "argparse"),
            )
        ),
    ],
)
async def test_while_modules_are_imported(command: str, module: str, tmp_path: Path) -> None:
    assert_quiet(await interrupted("import", module, command, tmp_path))


@pytest.mark.parametrize("skip", [0, 3, 10, 30, 100, 200])
@pytest.mark.slow
async def test_at_any_import_of_the_package_and_of_trio(skip: int, tmp_path: Path) -> None:
    """Those of other packages are between them."""
    for command in ("send", "conform"):
        code, out, err = await interrupted(
            "import", "smtp_trio._cli" if skip < 10 else "", command, tmp_path, skip + 40
        )
        assert "Traceback" not in err
        if "SIGINT now" in err:
            assert (code, out, err) == (128 + signal.SIGINT, "", "SIGINT now\n")


@pytest.mark.parametrize("command", ["send", "conform", "conform --client"])
@pytest.mark.parametrize("skip", [0, *(pytest.param(skip, marks=pytest.mark.slow) for skip in (1, 2))])
async def test_while_the_loop_starts(command: str, skip: int, tmp_path: Path) -> None:
    """Trio creates a pair of sockets to be woken up with, before the command handles SIGINT."""
    code, _, err = await interrupted("socket.__new__", "", command, tmp_path, skip)
    assert "SIGINT now" in err
    assert "Traceback" not in err
    assert code == 128 + signal.SIGINT


async def test_serve_while_the_loop_starts(tmp_path: Path) -> None:
    """It handles SIGINT by then, and stops as it does later."""
    code, out, err = await interrupted("socket.__new__", "", "serve", tmp_path)
    assert (code, err) == (0, "SIGINT now\n")
    assert "listening" not in out


async def test_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """Shells start programs in the background with SIGINT ignored."""
    code, out, err = await interrupted("ignored", "", "--version", tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith("smtp-trio ")
