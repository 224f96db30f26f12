"""Files with LF line ends: some programs send CRLF, and some send them unchanged."""

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

from .conftest import StoreCase, serve_and_send
from .mails import DIRECTORY, unix
from .programs import Program, Submission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.interop

MAIL = DIRECTORY / "alternative.eml"
maildir = pytest.mark.parametrize("store", [Maildir], indirect=True, ids=["maildir"])


@maildir
async def test_refused_bare_lf_is_explained_in_the_reply(
    store: StoreCase, program: Program, tmp_path: Path, home: Path
) -> None:
    # Sent by `curl -T`, and by smtplib's sendmail(message.as_bytes()).
    mail = unix(MAIL, tmp_path / "unix.eml")

    outcome = await serve_and_send(smtp_trio.Server(store.hooks), program, Submission(mail=mail, home=home))

    if program.crlf:
        assert outcome.sent, outcome.output
        assert [stored.message for stored in store.messages()] == [MAIL.read_bytes() + program.appends]
    else:
        assert not outcome.sent
        assert "550" in outcome.output
        assert "bare LF; lines must end in CRLF" in outcome.output
        assert store.messages() == []


@asynccontextmanager
async def serving(store: str) -> AsyncIterator[int]:
    """Run `smtp-trio serve`, and yield its port. It has to end with exit code 0 on SIGTERM."""
    command = [sys.executable, "-m", "smtp_trio", "serve", "--port", "0", "--store", store]
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
            output = b""
            while not (address := re.search(rb"127\.0\.0\.1:(\d+)", output)):
                more = await process.stdout.receive_some()
                assert more, f"it has ended without an address: {output!r}"
                output += more
            yield int(address[1])
            process.terminate()


async def test_serve_stores_a_bare_lf_as_crlf(store: StoreCase, program: Program, tmp_path: Path, home: Path) -> None:
    mail = unix(MAIL, tmp_path / "unix.eml")
    kind = "maildir" if isinstance(store.hooks, Maildir) else "sqlite"

    async with serving(f"{kind}:{store.path}") as port:
        outcome = await program.send(Submission(port=port, mail=mail, home=home))

    assert outcome.sent, outcome.output
    # A program that does not regard LF as a line end adds one to the last line.
    blank_line = b"" if program.crlf else b"\r\n"
    assert [stored.message for stored in store.messages()] == [MAIL.read_bytes() + blank_line + program.appends]
