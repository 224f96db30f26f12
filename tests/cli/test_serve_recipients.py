"""``smtp-trio serve --recipients``."""

from __future__ import annotations

import signal
import smtplib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
from ports import free_port
from processes import serving

from smtp_trio._cli.main import main
from smtp_trio.stores import read

FILE = """\
fred@example.org
info@example.org: fred@example.org, anna@away.test
@.lab.example.org
"""


def replies(*addresses: str) -> Callable[[smtplib.SMTP], list[str]]:
    """Return a dialogue that sends a RCPT for each address, and returns the codes of the replies."""

    def dialogue(client: smtplib.SMTP) -> list[str]:
        client.ehlo()
        client.docmd("MAIL FROM:<me@example.net>")
        answers = [client.docmd(f"RCPT TO:<{address}>") for address in addresses]
        return [f"{code} {text.decode().partition(' ')[0]}" for code, text in answers]

    return dialogue


ACCEPTED, UNKNOWN, NOT_LOCAL, LATER = "250 2.1.5", "550 5.1.1", "550 5.7.1", "451 4.3.0"


async def test_file_and_its_reload(tmp_path: Path) -> None:
    """On a public address; aliases are expanded in the store; SIGHUP reads the file, and an invalid one changes nothing."""
    file = tmp_path / "recipients"
    file.write_text(FILE)
    addresses = "fred@example.org", "Fred+x@example.org", "x@example.org", "x@a.lab.example.org", "x@example.net"
    options = "--host", "*", "--recipients", str(file)
    async with serving(*options, cwd=tmp_path) as program:
        assert await program.client(replies(*addresses, "Postmaster", "postmaster@example.org")) == [
            ACCEPTED, ACCEPTED, UNKNOWN, ACCEPTED, NOT_LOCAL, ACCEPTED, ACCEPTED,
        ]  # fmt: skip
        await program.out.wait_for(r'refused: .* to=<x@example\.org> .*reply="550 5\.1\.1 No such mailbox here"')
        await program.send("me@example.net", ["info@example.org", "fred@example.org"], b"Subject: hi\r\n\r\n")
        await program.out.wait_for(r" accepted: .* to=<info@example\.org>,<fred@example\.org> ")

        file.write_text("x@example.org\nfred\n")
        program.signal(signal.SIGHUP)
        await program.err.wait_for(
            rf'error: SIGHUP: "cannot use {file}, line 2: expected an address.*; the previous one stays in use'
        )
        assert await program.client(replies(*addresses)) == [ACCEPTED, ACCEPTED, UNKNOWN, ACCEPTED, NOT_LOCAL]

        file.write_text("x@example.org\n")
        program.signal(signal.SIGHUP)
        await program.out.wait_for_count(2, "reloading the certificate, the auth file, the recipients")
        while await program.client(replies("x@example.org", "fred@example.org")) != [ACCEPTED, UNKNOWN]:
            await trio.lowlevel.checkpoint()
    (stored,) = (tmp_path / "Maildir" / "new").iterdir()
    assert read(stored).recipients == ("fred@example.org", "anna@away.test")
    assert read(stored).rcpt_params == ("ORCPT=rfc822;info@example.org",) * 2


async def test_database_accepted_domains_and_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "recipients.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE recipients (address TEXT PRIMARY KEY, targets TEXT)")
        database.executemany("INSERT INTO recipients VALUES (?, NULL)", [("fred@example.org",), ("fred@example.net",)])
    more = tmp_path / "more"
    more.write_text("wilma@example.org\n")
    options = ["--recipients", f"sqlite:{path}", "--recipients", "more", "--recipient-delimiter", "-", "--accept"]
    async with serving(*options, "example.org", cwd=tmp_path) as program:
        addresses = "fred-x@example.org", "fred+x@example.org", "wilma@example.org", "fred@example.net"
        assert await program.client(replies(*addresses)) == [ACCEPTED, UNKNOWN, ACCEPTED, NOT_LOCAL]
        path.unlink()
        assert await program.client(replies("wilma@example.org", "Postmaster")) == [LATER, ACCEPTED]
        line = (await program.err.wait_for(r"^.*cannot look up recipients.*\n"))[0]
        assert f"sqlite:{path}: unable to open database file" in line
    assert program.err.text == line


@pytest.mark.slow
async def test_workers_reload_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipients"
    file.write_text(FILE)
    async with serving("--workers", "2", "--recipients", str(file), cwd=tmp_path) as program:
        assert await program.client(replies("fred@example.org", "x@example.org")) == [ACCEPTED, UNKNOWN]
        file.write_text("x@example.org\n")
        program.signal(signal.SIGHUP)
        # Each connection may be one to either worker.
        sequence = 0
        while sequence < 10:
            found = await program.client(replies("fred@example.org", "x@example.org"))
            sequence = sequence + 1 if found == [UNKNOWN, ACCEPTED] else 0


@pytest.mark.slow
async def test_service_that_is_not_running(tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    url = f"http://127.0.0.1:{free_port()}/"
    async with serving("--accept", "*", "--recipients", url, cwd=tmp_path) as program:
        assert await program.client(replies("fred@example.org", "x@example.org")) == [LATER, LATER]
        line = (await program.err.wait_for(r"^.*cannot look up recipients.*\n"))[0]
        assert url in line
    assert program.err.text == line


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--recipients", "missing"], "cannot use {path}/missing: No such file or directory"),
        (["--recipients", "invalid"], "cannot use {path}/invalid, line 1: expected an address, @domain"),
        (["--recipients", "sqlite:missing.db"], "cannot use sqlite:{path}/missing.db: unable to open database file"),
        (["--recipients", "sqlite:"], "argument --recipients: must be FILE, sqlite:PATH or an http or https URL"),
        (["--recipients", ""], "argument --recipients: must be FILE, sqlite:PATH or an http or https URL"),
        (["--recipients", "http://"], "argument --recipients: url must be http://HOST/PATH or https://HOST/PATH"),
        (["--recipient-delimiter", "@"], "argument --recipient-delimiter: delimiter must be printable ASCII"),
        (["--host", "*"], "--host * is not a loopback address: add --accept DOMAIN ('*' for all) or --recipients FILE"),
    ],
    ids=range(8),
)
def test_errors(
    options: list[str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "invalid").write_text("fred\n")
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--port", "0", *options]) == 2
    assert error.format(path=tmp_path) in capsys.readouterr().err
