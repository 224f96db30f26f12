"""``smtp-trio conform --client`` in a process of its own: with our client and others, and its options."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import trio
from processes import run, running

from smtp_trio._cli.main import main
from smtp_trio.conform._client_cases import client_cases

CONFORM = ("-m", "smtp_trio", "conform", "--client")
TO = "--from {from} --to {to} --to {to2}"
COMMAND = (
    f"{sys.executable} -m smtp_trio send --server {{host}}:{{port}} {TO} --name client.test --tls never {{message}}"
)
TLS_COMMAND = COMMAND.replace("--tls never", "--tls required --cafile {cafile}").replace("{host}", "localhost")
SMTPLIB = """
import smtplib, sys
host, port, sender, *recipients = sys.argv[1:]
with smtplib.SMTP(host, int(port), "client.test", timeout=100) as client:
    refused = client.sendmail(sender, recipients, sys.stdin.read())
sys.exit(bool(refused))
"""


async def test_our_client(tmp_path: Path) -> None:
    ids = ("session.order", "session.message", "refusals.mail-550", "lost.closed-body", "data.dots", "habits")
    only = [word for each in ids for word in ("--only", each)]
    code, out, err = await run(*CONFORM, "--command", COMMAND, "--jobs", "4", *only, cwd=tmp_path)
    assert (code, err) == (0, "")
    for each in ids:
        assert f"\n   ok  {each}" in out
    assert "FAIL" not in out


@pytest.mark.slow
async def test_our_client_with_tls(tmp_path: Path) -> None:
    options = ("--require-tls", "--jobs", "4", "--format", "json", "--output", "report")
    only = ("--only", "session.order", "--only", "starttls.wrong-*", "--only", "starttls.stripped")
    assert await run(*CONFORM, "--command", TLS_COMMAND, *options, *only, cwd=tmp_path) == (0, "", "")
    report = json.loads((tmp_path / "report").read_text())
    assert {result["id"]: result["outcome"] for result in report["results"]} == {
        "session.order": "passed",
        "starttls.stripped": "passed",
        "starttls.wrong-name": "passed",
        "starttls.wrong-authority": "passed",
        "starttls.wrong-expired": "passed",
    }


@pytest.mark.slow
async def test_client_that_claims_success(tmp_path: Path) -> None:
    """Without a connection it could not be tested. With one, the report contains its output."""
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
    assert "-: the client ended with 0\n       -: output: all is well\n" in out


@pytest.mark.slow
async def test_client_that_does_not_end(tmp_path: Path) -> None:
    """It is killed, with the processes that it started, and only the end of its output is kept."""
    program = tmp_path / "stays.sh"
    program.write_text("#!/bin/sh\nsleep 1000 &\nyes\n")
    program.chmod(0o755)
    options = ("--only", "session.order", "--timeout", "1")
    code, out, _ = await run(*CONFORM, "--command", f"{program} {{port}}", *options, cwd=tmp_path)
    assert code == 2
    assert "the client did not connect within 1 s" in out


@pytest.mark.slow
async def test_without_a_command_each_connection_is_a_case(tmp_path: Path) -> None:
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


#: Commands of other clients.
OTHER_CLIENTS = {
    "swaks": "swaks --server {host} --port {port} --from {from} --to {to},{to2} --helo client.test --data @{message}",
    "msmtp": "msmtp --file=/dev/null --host={host} --port={port} --from={from} --domain=client.test -- {to} {to2}",
    "curl": "curl -sS smtp://{host}:{port}/client.test --mail-from {from} --mail-rcpt {to} --mail-rcpt {to2} -T {message}",
    "python": f"{sys.executable} smtplib_client.py {{host}} {{port}} {{from}} {{to}} {{to2}}",
}


@pytest.mark.interop
@pytest.mark.parametrize("name", OTHER_CLIENTS)
async def test_other_clients(name: str, tmp_path: Path) -> None:
    """They send a message to an ordinary server, and report failures."""
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
    code, out, err = await run(*CONFORM, "--command", OTHER_CLIENTS[name], *only, cwd=tmp_path)
    assert (code, err) == (0, ""), out


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--client", "--list", "--level", "recommended", "--danger"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        requirement.id for requirement in client_cases()
    ]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "--port or --command is missing"),
        (("--port", "0", "--jobs", "2"), "--jobs needs --command"),
        (("--port", "2525", "--jobs", "2", "--command", "x {port}"), "--jobs needs a port for each client"),
        (("--command", "x 'y"), "--command: No closing quotation"),
        (("--command", " "), "--command is empty"),
        (("--command", "x {host}"), "--command without {port} needs --port"),
        (("--command", "x {port}", "--only", "nothing"), "no case matches 'nothing'"),
        (
            ("--port", "0", "--host", "192.0.2.1"),
            "cannot listen on 192.0.2.1, port 0: Cannot assign requested address: ",
        ),
        (("--command", "true {port}", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1, port 0: Cannot assign"),
        (("--port", "0", "--host", "a..b"), "no certificate can be issued for --name 'localhost' and --host 'a..b'"),
        (("--command", "no-such-client {port}"), "--command: no program 'no-such-client' was found"),
        (
            ("--command", "true {port}", "--name", "a b"),
            "no certificate can be issued for --name 'a b' and --host '127.0.0.1'",
        ),
        (("--bogus",), "unrecognized arguments: --bogus (see `smtp-trio conform --client --help`)"),
    ],
)
def test_invalid_options(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], error: str) -> None:
    assert main(["conform", "--client", *options]) == 2
    printed = capsys.readouterr().err
    assert error in printed
    assert printed.count("\n") == 1


def test_command_that_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "client"
    program.write_text("not a script\n")
    program.chmod(0o755)
    assert main(["conform", "--client", "--command", f"{program} {{port}}", "--only", "session.order"]) == 2
    assert "the client cannot be run: Exec format error\n" in capsys.readouterr().out


def test_starttls_cases_are_skipped_without_trustme(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    assert main(["conform", "--client", "--command", "true {port}", "--only", "starttls.order"]) == 0
    assert "(needs trustme (pip install 'smtp-trio[testing]'))" in capsys.readouterr().out
