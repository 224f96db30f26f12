"""``smtp-trio conform --client`` as a user has it: with our own client, with those of others, and with whoever connects."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import trio
from processes import run, running

from smtp_trio._cli.main import main
from smtp_trio.conform._client_cases import client_rules

CONFORM = ("-m", "smtp_trio", "conform", "--client")
TO = "--from {from} --to {to} --to {to2}"
OURS = f"{sys.executable} -m smtp_trio send --server {{host}}:{{port}} {TO} --name client.test --tls never {{message}}"
SECURE = OURS.replace("--tls never", "--tls required --cafile {cafile}").replace("{host}", "localhost")
SMTPLIB = """
import smtplib, sys
host, port, sender, *recipients = sys.argv[1:]
with smtplib.SMTP(host, int(port), "client.test", timeout=10) as client:
    refused = client.sendmail(sender, recipients, sys.stdin.read())
sys.exit(bool(refused))
"""


async def test_our_client(tmp_path: Path) -> None:
    ids = ("session.order", "session.message", "refusals.mail-550", "lost.closed-body", "data.dots", "habits")
    only = [word for each in ids for word in ("--only", each)]
    code, out, err = await run(*CONFORM, "--command", OURS, "--jobs", "4", *only, cwd=tmp_path)
    assert (code, err) == (0, "")
    for each in ids:
        assert f"\n   ok  {each}" in out
    assert "FAIL" not in out


async def test_our_client_and_tls(tmp_path: Path) -> None:
    options = ("--require-tls", "--jobs", "4", "--format", "json", "--output", "report")
    only = ("--only", "session.order", "--only", "starttls.wrong-*", "--only", "starttls.stripped")
    assert await run(*CONFORM, "--command", SECURE, *options, *only, cwd=tmp_path) == (0, "", "")
    told = json.loads((tmp_path / "report").read_text())
    assert {result["id"]: result["outcome"] for result in told["results"]} == {
        "session.order": "passed",
        "starttls.stripped": "passed",
        "starttls.wrong-name": "passed",
        "starttls.wrong-authority": "passed",
        "starttls.wrong-expired": "passed",
    }


async def test_a_client_that_lies(tmp_path: Path) -> None:
    """It says that all is well, and has not even come; one that comes has its output in the report."""
    script = f"{sys.executable} -c 'print(\"all is well\")'"
    only = ("--only", "session.order", "--only", "session.quit", "--port", "0")
    code, out, _ = await run(*CONFORM, "--command", f"{script} {{port}}", *only, cwd=tmp_path)
    assert code == 2
    assert (
        "ERROR  session.order: EHLO, MAIL, RCPT and DATA are sent in this order\n       the client ended and did not connect"
        in out
    )
    connect = 'import socket; socket.create_connection(("{host}", {port})); print("all is well")'
    code, out, _ = await run(*CONFORM, "--command", f"{sys.executable} -c '{connect}'", *only, cwd=tmp_path)
    assert code == 1
    assert "-: the client ended with 0\n       -: it wrote: all is well\n" in out


async def test_a_client_that_stays(tmp_path: Path) -> None:
    """It is killed, with all that it has started, and what it writes fills no memory."""
    program = tmp_path / "stays.sh"
    program.write_text("#!/bin/sh\nsleep 1000 &\nyes\n")
    program.chmod(0o755)
    options = ("--only", "session.order", "--timeout", "1")
    code, out, _ = await run(*CONFORM, "--command", f"{program} {{port}}", *options, cwd=tmp_path)
    assert code == 2
    assert "the client did not come within 1 s" in out


async def test_whoever_connects(tmp_path: Path) -> None:
    """Without a command, each connection meets the next scene."""
    only = ("--only", "session.order", "--only", "session.greeting-554", "--only", "session.message")
    async with running(*CONFORM, "--port", "0", *only, cwd=tmp_path) as program:
        port = int((await program.err.wait_for(r"listening on 127\.0\.0\.1:(\d+)"))[1])
        await program.err.wait_for("next: session.order: EHLO, MAIL, RCPT and DATA are sent in this order")
        program.port = port
        await program.send("conform@client.test", ["user@mx.test"], b"Subject: hi\r\n\r\nhi\r\n")
        await program.err.wait_for("next: session.greeting-554: ")
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"QUIT\r\n")
            async for _ in stream:
                pass
        assert await program.wait() == 0
    assert "   ok  session.order" in program.out.text
    assert "   ok  session.greeting-554" in program.out.text
    assert (
        " skip  session.message: the message arrives as it was given to the client (needs --command)"
        in program.out.text
    )


#: Clients of others, and how they are told what to do.
OTHERS = {
    "swaks": "swaks --server {host} --port {port} --from {from} --to {to},{to2} --helo client.test --data @{message}",
    "msmtp": "msmtp --file=/dev/null --host={host} --port={port} --from={from} --domain=client.test -- {to} {to2}",
    "curl": "curl -sS smtp://{host}:{port}/client.test --mail-from {from} --mail-rcpt {to} --mail-rcpt {to2} -T {message}",
    "python": f"{sys.executable} smtplib_client.py {{host}} {{port}} {{from}} {{to}} {{to2}}",
}


@pytest.mark.interop
@pytest.mark.parametrize("name", OTHERS)
async def test_clients_of_others(name: str, tmp_path: Path) -> None:
    """They send a message to an ordinary server, and say so when they could not."""
    if name != "python" and shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "smtplib_client.py").write_text(SMTPLIB)
    ids = (
        "session.order",
        "session.message",
        "refusals.mail-550",
        "refusals.body-554",
        "lost.closed-body",
        "replies.lines-*",
    )
    only = [word for each in ids for word in ("--only", each)]
    code, out, err = await run(*CONFORM, "--command", OTHERS[name], *only, cwd=tmp_path)
    assert (code, err) == (0, ""), out


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--client", "--list", "--level", "recommended", "--danger"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [rule.id for rule in client_rules()]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ((), "where? (--port), or which client? (--command)"),
        (("--port", "0", "--jobs", "2"), "--jobs needs --command"),
        (("--port", "2525", "--jobs", "2", "--command", "x {port}"), "--jobs needs a port for each"),
        (("--command", "x 'y"), "--command: No closing quotation"),
        (("--command", " "), "--command: which one?"),
        (("--command", "x {host}"), "--command has no {port}, and there is no --port"),
        (("--command", "x {port}", "--only", "nothing"), "no case is like 'nothing'"),
        (("--port", "0", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1 port 0: "),
    ],
)
def test_options_that_are_wrong(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], fault: str) -> None:
    assert main(["conform", "--client", *options]) == 2
    assert fault in capsys.readouterr().err


def test_without_trustme_there_is_no_tls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    assert main(["conform", "--client", "--command", "true {port}", "--only", "starttls.order"]) == 0
    assert "(needs trustme (pip install 'smtp-trio[testing]'))" in capsys.readouterr().out
