"""``smtp-trio send --verbose``: the dialogue on standard error, without passwords."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from processes import HOST, run, running

from smtp_trio import Hooks, Reply, Server, Session
from smtp_trio.protocol.extensions import Auth, standard
from smtp_trio.protocol.sasl import Credentials

from .test_send import ME, MESSAGE, YOU, Authority, Recorder, ScriptedServer, running_server, send


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    """A file with a message."""
    path = tmp_path / "mail.eml"
    path.write_bytes(MESSAGE)
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_message_after_data_is_abbreviated(tmp_path: Path) -> None:
    body = "".join(f"line {number}\r\n" for number in range(500))
    (tmp_path / "mail.eml").write_bytes(MESSAGE + body.encode())
    async with running_server(ScriptedServer({"RCPT": b"250-one\r\n250 two\r\n"})) as server:
        code, _, err = await send("-v", server, "mail.eml", cwd=tmp_path)
    assert code == 0
    lines = err.splitlines()
    assert lines[lines.index(" -> DATA") :] == [
        " -> DATA",
        "<-  354 go on",
        f" -> From: {ME}",
        f" -> To: You <{YOU}>",
        " -> Subject: hi",
        " -> ",
        " -> .hello",
        *[f" -> line {number}" for number in range(5)],
        f" -> [{len(body) - 5 * 8:,} more octets]",
        " -> .",
        "<-  250 ok",
        " -> QUIT",
        "<-  221 bye",
    ]
    assert "<-  250-one\n<-  250 two\n" in err


async def test_long_lines_and_control_characters(tmp_path: Path) -> None:
    (tmp_path / "mail.eml").write_bytes(MESSAGE + b"\x1b[2J" + b"x" * 5000 + b"\r\n")
    async with running_server(ScriptedServer({"EHLO": b"250 \x1b]0;title\x07\r\n"})) as server:
        code, _, err = await send("-v", server, "mail.eml", cwd=tmp_path)
    assert code == 0
    assert "\x1b" not in err
    assert "<-  250 ?]0;title?\n" in err
    assert max(map(len, err.splitlines())) < 200


async def test_refusals_and_connections(tmp_path: Path, mail: Path) -> None:
    scripted = ScriptedServer({"RCPT": b"550 no\r\n"}, {"DATA": None})
    async with running_server(scripted) as server:
        code, lines, err = await send("-v", server, "mail.eml", cwd=tmp_path)
        assert (code, len(lines)) == (1, 1)
        assert f" -> RCPT TO:<{YOU}>\n<** 550 no\n" in err
        code, lines, err = await send("-v", server, "mail.eml", cwd=tmp_path)
        assert (code, len(lines)) == (75, 1)
        assert err.startswith(f"=== Connected to {server.partition('=')[2]}\n")
        assert err.endswith(" -> DATA\n=== Connection closed by the server\n")


class Secrets(Recorder):
    """A recorder that also has stored passwords, and refuses tokens and the password "wrong"."""

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        return Reply(535, "No", "5.7.8") if credentials.password != "p&ssw0rd" else None

    async def secret(self, session: Session, user: str, mechanism: str) -> str | None:
        return "p&ssw0rd"


@asynccontextmanager
async def server_with(authority: Authority, hooks: Hooks, mechanism: str) -> AsyncIterator[str]:
    """Run a server that offers one mechanism over TLS; yield the ``--server`` option with its address."""
    async with trio.open_nursery() as nursery:
        server = Server(hooks, tls=authority.server(), extensions=standard(Auth(mechanisms=(mechanism,))))
        (listener,) = await nursery.start(partial(server.serve, 0, HOST))
        yield f"--server={HOST}:{listener.socket.getsockname()[1]}"
        await server.stop()


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("password", ["p&ssw0rd", "wr0ng&"])
async def test_passwords_are_hidden(
    tmp_path: Path, mail: Path, authority: Authority, mechanism: str, password: str
) -> None:
    (tmp_path / "password").write_text(password)
    options = ["--user=fred", "--password-file=password", "--cafile=ca.pem", "--verbose", "mail.eml"]
    async with server_with(authority, Secrets(), mechanism) as server:
        code, _, err = await send(server, *options, cwd=tmp_path)

    correct = password == "p&ssw0rd"
    assert code == (0 if correct else 1)
    assert f"\n ~> AUTH {mechanism}" in err
    begin = err.index(" ~> AUTH")
    exchange = err[begin : err.index("<~  235" if correct else "<~* 535", begin)].splitlines()
    assert all(
        re.fullmatch(rf" ~> AUTH {mechanism}( \[hidden\])?| ~> \[hidden\]|<~  334 \[hidden\]", line)
        for line in exchange
    )
    for secret in (password, f"fred\0{password}", f"\0fred\0{password}"):
        assert secret not in err
        assert base64.b64encode(secret.encode()).decode() not in err
    if correct:  # what follows the exchange is shown
        assert f" ~> MAIL FROM:<{ME}>" in err
    assert "=== TLS started: TLSv1.3, " in err
    assert ", certificate verified\n" in err


@pytest.mark.slow
async def test_reason_why_a_certificate_is_not_verified(tmp_path: Path, mail: Path, authority: Authority) -> None:
    async with server_with(authority, Recorder(), "PLAIN") as server:
        code, _, err = await send("-v", server, "mail.eml", cwd=tmp_path)
    assert code == 0
    assert err.count("=== Connected to ") == 2  # the second one without the check of the certificate
    assert re.search(r"^=== TLS started: TLSv1\.3, .*, certificate not verified: .*certificate", err, re.MULTILINE)


@pytest.mark.slow
async def test_messages_are_sent_after_the_reader_of_the_dialogue_has_ended(tmp_path: Path, mail: Path) -> None:
    async with running_server(ScriptedServer({})) as server:
        async with running("-m", "smtp_trio", "send", "-v", server, "mail.eml", cwd=tmp_path) as program:
            await program.err.stream.aclose()
            assert (await program.out.read_rest()).startswith("accepted")
            assert await program.process.wait() == 0


async def test_dialogue_is_not_printed_without_the_option(tmp_path: Path, mail: Path) -> None:
    async with running_server(ScriptedServer({})) as server:
        assert (await run("-m", "smtp_trio", "send", server, "mail.eml", cwd=tmp_path))[2] == ""
