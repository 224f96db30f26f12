"""The log of ``smtp-trio serve``: its two formats, with clients that send hostile octets, probes, and messages that are cut off."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trustme
from processes import HOST, Program, running, serving

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
LINE = re.compile(rf"{TIME} (?:(?:warning|error): )?([^\n]*)\n")
FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"]+)')

HOSTILE = [
    b'EHLO x" helo=-" id=1',
    b"MAIL FROM:<\x1b[31mred@example.net>",
    b"MAIL FROM:<a\x00b\x0b\x0c@example.net>",
    "MAIL FROM:<a\x85b@example.net> SMTPUTF8".encode(),
    b"MAIL FROM:<\xff\xfe@example.net>",
    b'MAIL FROM:<"a> to=<root@example.org> reply=\\"250 2.0.0 Ok\\" x="@example.net> X=1',
    "MAIL FROM:<\u202eabc@example.net> SMTPUTF8".encode(),
    b"RCPT TO:<a b=c@example.org>",
    b"RCPT TO:" + b"<" + b"x" * 1900 + b"@example.org>",
    b"RCPT TO:<" + b"y" * 4000 + b"@example.org>",
    "RCPT TO:<a\u2028b@example.org>".encode(),
    "RCPT TO:<用户@例え.example>".encode(),
    b"RCPT TO:<a@example.org>\n2026-11-28T00:00:00.000+00:00 x accepted: peer=-",
    b"\x7f\x1b[2J",
    b"AUTH PLAIN c3dvcmRmaXNo",
    b"c3dvcmRmaXNo",
]


def send_hostile_lines(client: smtplib.SMTP) -> int:
    """Send each line, and return the number of refusals that have to be in the log."""
    client.ehlo()
    refused = 0
    for line in HOSTILE:
        client.send(line + b"\r\n")
        code, _ = client.getreply()
        refused += code >= 400 and line[:4] in (b"MAIL", b"RCPT")
    return refused


def fields_of(message: str) -> dict[str, str]:
    """Return the fields of a line of text."""
    return {name: json.loads(value) if value.startswith('"') else value for name, value in FIELD.findall(message)}


async def ended(program: Program) -> str:
    """Stop a program, and return all that it printed."""
    program.signal(signal.SIGTERM)
    assert await program.wait() == 0
    return program.out.text + program.err.text


async def test_hostile_octets_in_text(tmp_path: Path) -> None:
    async with serving("-v", "--lenient", "example.org", cwd=tmp_path) as program:
        refused = await program.client(send_hostile_lines)
        text = await ended(program)

    messages = LINE.findall(text)
    assert "".join(LINE.sub("", text)) == ""  # every line has this form
    assert all(message.isprintable() and len(message) < 5000 for message in messages)
    found = [fields_of(message) for message in messages if " refused: peer=" in message]
    assert len(found) == refused
    assert {tuple(fields) for fields in found} == {
        ("peer", "helo", "proto", "from", "to", "size", "seconds", "tls", "user", "stored", "reply")
    }
    assert len([message for message in messages if " accepted: peer=" in message]) == 0
    assert f"stopped; messages accepted: 0, refused: {refused}; sessions: 1" in messages
    assert "[hidden]" in text
    assert "c3dvcmRmaXNo" not in text


@pytest.mark.slow
async def test_hostile_octets_in_json(tmp_path: Path) -> None:
    async with serving("-v", "--lenient", "example.org", "--log-format", "json", cwd=tmp_path) as program:
        refused = await program.client(send_hostile_lines)
        text = await ended(program)

    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    records = [json.loads(line) for line in text.splitlines()]
    assert all(list(record)[:3] == ["time", "level", "event"] for record in records)
    found = [record for record in records if record["event"] == "refused"]
    assert len(found) == refused == records[-1]["refused"]
    assert all(record["tls"] is record["user"] is record["stored"] is None for record in found)
    assert all(record["peer"].startswith(f"{HOST}:") for record in records if "id" in record)
    to = [address for record in found for address in record["to"]]
    assert "用户@例え.example" in to or "用户@例え.example" in str(records)
    assert "c3dvcmRmaXNo" not in text


# --- sessions without a message ---------------------------------------------------------------------------------------


def probe(octets: bytes) -> Callable[[int], int]:
    """Return a function that connects, sends these octets, disconnects, and returns the port that it connected from."""

    def connect(port: int) -> int:
        with socket.create_connection((HOST, port)) as sock:
            sock.sendall(octets)
            own: int = sock.getsockname()[1]
            return own

    return connect


async def test_probe_leaves_a_line(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        for octets in (b"", b"EHLO probe\r\n", b"QUIT\r\n"):
            port = await trio.to_thread.run_sync(probe(octets), program.port)
            await program.out.wait_for(
                rf" no message: peer={HOST}:{port} helo=(-|probe) proto=E?SMTP tls=- user=- seconds=\S+\n"
            )


@pytest.mark.slow
async def test_failed_handshake_leaves_a_line_with_the_address(tmp_path: Path) -> None:
    files = []
    certificate = trustme.CA().issue_cert("localhost")
    for name, pem in (("cert.pem", certificate.cert_chain_pems[0]), ("key.pem", certificate.private_key_pem)):
        pem.write_to_path(tmp_path / name)
        files.append(str(tmp_path / name))
    options = ("--tls-cert", files[0], "--tls-key", files[1], "--implicit-tls")
    async with serving(*options, cwd=tmp_path) as program:
        for octets in (b"", b"EHLO probe\r\n", b"\x16\x03\x01\x00\x05xxxxx"):
            port = await trio.to_thread.run_sync(probe(octets), program.port)
            await program.out.wait_for(rf" peer={HOST}:{port} TLS handshake failed: \S.*\n")


# --- messages that are cut off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
@pytest.mark.slow
async def test_message_that_a_second_signal_cuts_off_leaves_a_line(options: tuple[str, ...], tmp_path: Path) -> None:
    async with serving(*options, cwd=tmp_path) as program:
        async with await trio.open_tcp_stream(HOST, program.port) as stream:
            received = b""
            await stream.send_all(b"EHLO x\r\nMAIL FROM:<me@example.net>\r\nRCPT TO:<you@example.org>\r\nDATA\r\n")
            while b"\r\n354 " not in received:
                received += await stream.receive_some()
            await stream.send_all(b"half a mess")
            program.signal(signal.SIGTERM)
            await program.out.wait_for("SIGTERM: stopping")
            program.signal(signal.SIGTERM)
            assert await program.wait() == 0
    match = re.search(
        r" incomplete: peer=\S+ helo=x proto=ESMTP from=<me@example\.net> to=<you@example\.org> .*\n", program.out.text
    )
    assert match is not None
    assert match[0].endswith('stored=- reason="the session was cancelled"\n')
    assert "stopped; messages accepted: 0, refused: 0; sessions: 1" in program.out.text


# --- every line of the program ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_all_lines_are_json(tmp_path: Path) -> None:
    """Those of the start and the end, of warnings, signals and workers."""
    options = (
        "--workers", "2", "--log-format", "json", "-v", "--auth-accept-any", "--accept", "*", "--port", "0",
        "--store", "maildir:m=1, x",
    )  # fmt: skip
    async with running("-m", "smtp_trio", "serve", *options, cwd=tmp_path) as program:
        await program.out.wait_for_count(2, '"worker_started"')
        pid = int((await program.out.wait_for(r'"worker": 1, "pid": (\d+)'))[1])
        os.kill(pid, signal.SIGKILL)
        await program.err.wait_for('"worker_ended"')
        await program.out.wait_for_count(3, '"worker_started"')
        program.signal(signal.SIGHUP)
        await program.out.wait_for('"reloading"')
        text = await ended(program)

    records = [json.loads(line) for line in text.splitlines()]
    assert all(list(record)[:3] == ["time", "level", "event"] for record in records)
    assert {record["event"] for record in records} == {
        "listening", "storing", "all_domains_accepted", "any_login_accepted", "worker_started", "worker_ended", "reloading",
        "stopping", "stopped",
    }  # fmt: skip
    (end,) = [record for record in records if record["event"] == "worker_ended"]
    assert (end["level"], end["worker"], end["signal"], end["exit_code"], end["error"]) == (
        "warning", 1, "SIGKILL", None, None,
    )  # fmt: skip
    assert {record["store"] for record in records if record["event"] == "storing"} == {f"maildir:{tmp_path}/m=1, x"}
