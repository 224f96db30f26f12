"""A Unix file, whose lines end in a lone LF: some programs mend it, some send it as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

import smtp_trio
from smtp_trio.stores import Maildir

from .conftest import Box, serve_and_send
from .mails import FOLDER, unix
from .programs import Errand, Program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.interop

MAIL = FOLDER / "alternative.eml"
maildir = pytest.mark.parametrize("box", [Maildir], indirect=True, ids=["maildir"])


@maildir
async def test_a_server_says_why_it_refuses_a_bare_lf(box: Box, program: Program, tmp_path: Path, home: Path) -> None:
    # `curl -T` of such a file, and smtplib's sendmail(message.as_bytes()).
    mail = unix(MAIL, tmp_path / "unix.eml")

    outcome = await serve_and_send(smtp_trio.Server(box.store), program, Errand(mail=mail, home=home))

    if program.crlf:
        assert outcome.sent, outcome.said
        assert [stored.message for stored in box.read()] == [MAIL.read_bytes() + program.adds]
    else:
        assert not outcome.sent
        assert "550" in outcome.said
        assert "bare LF; lines must end in CRLF" in outcome.said
        assert box.read() == []


@asynccontextmanager
async def command_line(store: str) -> AsyncIterator[int]:
    """`smtp-trio serve` in a process of its own; it has to end well when it is told to."""
    command = [sys.executable, "-m", "smtp_trio", "serve", "--port", "0", "--store", store]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
            said = b""
            while not (address := re.search(rb"127\.0\.0\.1:(\d+)", said)):
                more = await process.stdout.receive_some()
                assert more, f"it has ended and named no address: {said!r}"
                said += more
            yield int(address[1])
            process.terminate()


async def test_smtp_trio_serve_takes_a_bare_lf_for_crlf(box: Box, program: Program, tmp_path: Path, home: Path) -> None:
    mail = unix(MAIL, tmp_path / "unix.eml")
    kind = "maildir" if isinstance(box.store, Maildir) else "sqlite"

    async with command_line(f"{kind}:{box.path}") as port:
        outcome = await program.send(Errand(port=port, mail=mail, home=home))

    assert outcome.sent, outcome.said
    # A program that knows no lone LF takes the last line for one without an end, and gives it one.
    blank_line = b"" if program.crlf else b"\r\n"
    assert [stored.message for stored in box.read()] == [MAIL.read_bytes() + blank_line + program.adds]
