"""``smtp-trio send`` as a user has it: in a process of its own, against servers that take, refuse, vanish or are not there."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from attrs import define, field
from processes import HOST, Output, run, running, serving

from smtp_trio import Body, Hooks, Reply, Server, Session
from smtp_trio._cli.main import main
from smtp_trio._cli.message_files import letters
from smtp_trio.protocol import Mail, Rcpt
from smtp_trio.protocol.extensions import Auth, EightBitMime, SmtpUtf8, standard
from smtp_trio.protocol.extensions.auth import Credentials

ME, YOU, HER = "me@example.net", "you@example.org", "her@example.org"
MESSAGE = f"From: {ME}\r\nTo: You <{YOU}>\r\nSubject: hi\r\n\r\n.hello\r\n".encode()


@define
class Intake(Hooks):
    """Keeps what it takes, refuses some, and counts connections."""

    messages: list[bytes] = field(factory=list)
    envelopes: list[tuple[str, ...]] = field(factory=list)
    connections: int = 0
    users: list[str | None] = field(factory=list)

    async def connect(self, session: Session) -> None:
        self.connections += 1

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        right = (credentials.user, credentials.password) == ("fred", "secret")
        return None if right else Reply(535, "Authentication credentials invalid", "5.7.8")

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        if rcpt.recipient.user == "nobody":
            return Reply(550, "No such user here", "5.1.1")
        if rcpt.recipient.user == "busy":
            return Reply(450, "Mailbox is busy", "4.2.1")
        return None

    async def data(self, session: Session, body: Body) -> None:
        message = await body.read()
        self.messages.append(message)
        self.envelopes.append(tuple(str(path) for path in (body.envelope.sender, *body.envelope.recipients)))
        self.users.append(session.user)


@asynccontextmanager
async def intake(tls: ssl.SSLContext | None = None, *, implicit_tls: bool = False) -> AsyncIterator[tuple[Intake, str]]:
    """One that listens, and what ``--server`` has to be for it."""
    hooks = Intake()
    async with trio.open_nursery() as nursery:
        server = Server(hooks, name="mx.example.org", tls=tls, newlines="reject", extensions=standard(Auth()))
        (listener,) = await nursery.start(partial(server.serve, 0, HOST, implicit_tls=implicit_tls))
        yield hooks, f"--server={HOST}:{listener.socket.getsockname()[1]}"
        await server.stop()


async def send(*options: str, cwd: Path, stdin: bytes = b"") -> tuple[int, list[str], str]:
    """Gives exit code, lines, and what it said of errors."""
    code, out, err = await run("-m", "smtp_trio", "send", *options, cwd=cwd, stdin=stdin)
    assert "Traceback" not in err
    return code, out.splitlines(), err


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    """A message, in a folder of its own."""
    path = tmp_path / "mail.eml"
    path.write_bytes(MESSAGE)
    return path


def look(folder: Path) -> list[tuple[Path, int]]:
    """What is in there, and since when."""
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


# --- what is sent, and to whom ----------------------------------------------------------------------------------------


async def test_a_file(tmp_path: Path, mail: Path) -> None:
    async with intake() as (hooks, server):
        code, lines, err = await send(server, "mail.eml", cwd=tmp_path)

    assert (code, err) == (0, "")
    (line,) = lines
    assert re.fullmatch(rf"accepted  <{YOU}>  250 2\.0\.0 Ok: queued as \S+  mail\.eml", line)
    assert hooks.messages == [MESSAGE]
    assert hooks.envelopes == [(ME, YOU)]


async def test_a_unix_file_with_blind_copies_from_standard_input(tmp_path: Path) -> None:
    unix = f"From: {ME}\nBcc: {YOU},\n  x <{HER}>\nbcc: nobody@example.org\nSubject: Bcc:\n\nBcc: stays\n.\n".encode()
    async with intake() as (hooks, server):
        code, lines, err = await send(server, "-", cwd=tmp_path, stdin=unix)

    assert (code, err) == (1, "")
    assert [line.split("  ")[:2] for line in lines] == [
        ["accepted", f"<{YOU}>"],
        ["accepted", f"<{HER}>"],
        ["refused", "<nobody@example.org>"],
    ]
    assert lines[2] == "refused  <nobody@example.org>  550 5.1.1 No such user here  -"
    assert hooks.messages == [f"From: {ME}\r\nSubject: Bcc:\r\n\r\nBcc: stays\r\n.\r\n".encode()]


async def test_options_win_over_fields(tmp_path: Path, mail: Path) -> None:
    async with intake() as (hooks, server):
        code, lines, _ = await send(
            server, "--from=", "--to", HER, "--to", "Postmaster", "--to", HER, mail.name, cwd=tmp_path
        )

    assert code == 0
    assert [line.split("  ")[1] for line in lines] == [f"<{HER}>", "<Postmaster>"]
    assert hooks.envelopes == [("", HER, "Postmaster")]


async def test_a_directory_over_one_connection(tmp_path: Path) -> None:
    box = tmp_path / "box"
    (box / "more").mkdir(parents=True)
    (box / "more" / "d").write_bytes(MESSAGE)
    for name in ("c", "a", "b", ".hidden"):
        (box / name).write_bytes(MESSAGE + name.encode() + b"\r\n")
    async with intake() as (hooks, server):
        code, lines, _ = await send(server, "box", cwd=tmp_path)

    assert code == 0
    assert [line.split("  ")[-1] for line in lines] == ["box/a", "box/b", "box/c"]
    assert hooks.messages == [MESSAGE + name + b"\r\n" for name in (b"a", b"b", b"c")]
    assert hooks.connections == 1


async def test_a_maildir_is_left_as_it_is(tmp_path: Path) -> None:
    files = {"new/2": b"2", "cur/1:2,S": b"1", "tmp/3": b"3", "dovecot-uidlist": b"x"}
    for name, mark in files.items():
        (tmp_path / "Maildir" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Maildir" / name).write_bytes(MESSAGE + mark)
    before = look(tmp_path)
    async with intake() as (hooks, server):
        code, _, _ = await send(server, "Maildir", cwd=tmp_path)

    assert code == 0
    assert hooks.messages == [MESSAGE + b"2\r\n", MESSAGE + b"1\r\n"]
    assert look(tmp_path) == before


async def test_an_empty_directory_is_no_mistake(tmp_path: Path) -> None:
    assert await send(".", cwd=tmp_path) == (0, [], "smtp-trio: nothing to send\n")


async def test_a_store_of_ours_can_be_sent_on(tmp_path: Path, mail: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        server = f"--server={HOST}:{program.port}"
        assert (await send(server, "mail.eml", cwd=tmp_path))[0] == 0
        async with intake() as (hooks, other):
            assert (await send(other, "Maildir", cwd=tmp_path))[0] == 0
    assert hooks.messages[0].endswith(MESSAGE)


async def test_a_server_that_takes_only_ascii(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(
        "From: me@example.net\nTo: you@example.org\nSubject: Grüße\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße\n".encode()
    )
    server = Server(
        hooks := Intake(), extensions=[each for each in standard() if not isinstance(each, EightBitMime | SmtpUtf8)]
    )
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(server.serve, 0, HOST)
        code, _, err = await send(f"--server={HOST}:{listener.socket.getsockname()[1]}", "m", cwd=tmp_path)
        await server.stop()

    assert (code, err) == (0, "")
    assert hooks.messages[0].isascii()
    assert b"Subject: =?" in hooks.messages[0]


async def test_a_unix_socket_and_lmtp_want_their_own_server(tmp_path: Path, mail: Path) -> None:
    server = Server(hooks := Intake())
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(tmp_path / "socket"))
    sock.listen()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [trio.SocketListener(sock)])
        assert (await send("--server", "unix:socket", "mail.eml", cwd=tmp_path))[0] == 0
        code, lines, err = await send("--server", "unix:socket", "--lmtp", "mail.eml", cwd=tmp_path)
        await server.stop()

    assert hooks.messages == [MESSAGE]
    assert (code, lines[0].split("  ")[0]) == (1, "refused")  # it speaks no LMTP
    assert err.startswith("smtp-trio: error: LHLO was refused: 500 ")


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("users", "words", "code"),
    [
        (["you", "her"], ["accepted", "accepted"], 0),
        (["you", "busy"], ["accepted", "deferred"], 75),
        (["you", "nobody"], ["accepted", "refused"], 1),
        (["busy", "you", "nobody"], ["deferred", "accepted", "refused"], 1),
        (["busy"], ["deferred"], 75),
        (["nobody"], ["refused"], 1),
    ],
)
async def test_exit_codes(tmp_path: Path, mail: Path, users: Sequence[str], words: Sequence[str], code: int) -> None:
    to = [f"--to={user}@example.org" for user in users]
    async with intake() as (_, server):
        got, lines, err = await send(server, *to, "mail.eml", cwd=tmp_path)

    assert (got, err) == (code, "")
    assert {line.split("  ")[1]: line.split("  ")[0] for line in lines} == {
        f"<{user}@example.org>": word for user, word in zip(users, words, strict=True)
    }


async def test_one_message_that_is_refused_stops_no_other(tmp_path: Path, mail: Path) -> None:
    (tmp_path / "big").write_bytes(MESSAGE + b"x" * 2000)
    async with serving("--size", "1000", cwd=tmp_path) as program:
        code, lines, err = await send(f"--server={HOST}:{program.port}", "big", "mail.eml", cwd=tmp_path)

    assert (code, err) == (1, "")
    assert lines[0].startswith(f"refused  <{YOU}>  552 5.3.4 ")
    assert lines[1].startswith(f"accepted  <{YOU}>  250 ")


async def test_nobody_is_there(tmp_path: Path, mail: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    code, lines, err = await send(f"--server={HOST}:{port}", "mail.eml", "mail.eml", cwd=tmp_path)

    assert code == 75
    assert len(lines) == 2
    assert all(line.startswith(f"deferred  <{YOU}>  cannot connect to {HOST} port {port}: ") for line in lines)
    assert err.startswith(f"smtp-trio: error: cannot connect to {HOST} port {port}: ")
    assert err.endswith("; is it the right --server?\n")
    assert err.count("\n") == 1


SCRIPT = {
    "EHLO": b"250 mx\r\n", "MAIL": b"250 ok\r\n", "RCPT": b"250 ok\r\n", "DATA": b"354 go on\r\n", ".": b"250 ok\r\n",
    "QUIT": b"221 bye\r\n", "RSET": b"250 ok\r\n",
}  # fmt: skip


class Scripted:
    """A server that answers what it is told to, once for each connection; None: it hangs up instead."""

    def __init__(self, *connections: dict[str, bytes | None], greeting: bytes = b"220 mx\r\n") -> None:
        self.greeting = greeting
        self.connections = list(connections)
        self.said: list[str] = []
        self.stuck = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        answers = SCRIPT | self.connections.pop(0)
        octets, in_message = b"", False
        await stream.send_all(self.greeting)
        while data := await stream.receive_some():
            octets += data
            while b"\r\n" in octets:
                line, _, octets = octets.partition(b"\r\n")
                verb = line.decode()[:4].upper()
                if in_message and line != b".":
                    continue
                self.said.append(verb)
                answer = answers[verb]
                if answer is None:
                    return
                if not answer:
                    self.stuck.set()
                    continue
                await stream.send_all(answer)
                in_message = answer.startswith(b"354")


@asynccontextmanager
async def scripted(script: Scripted) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, script.serve, 0, host=HOST))
        yield f"--server={HOST}:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_lost_behind_the_message(tmp_path: Path, mail: Path) -> None:
    async with scripted(Scripted({".": None})) as server:
        code, lines, err = await send(server, "mail.eml", cwd=tmp_path)

    assert (code, err) == (75, "")
    (line,) = lines
    assert line.startswith(f"unknown  <{YOU}>  ")
    assert "it may have been delivered" in line


async def test_lost_before_the_message(tmp_path: Path, mail: Path) -> None:
    async with scripted(Scripted({"DATA": None})) as server:
        code, lines, err = await send(server, "mail.eml", cwd=tmp_path)

    assert (code, err) == (75, "")
    assert [line.split("  ")[0] for line in lines] == ["deferred"]


class Once(Hooks):
    """Takes one message a connection, and says so to the next MAIL."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        return Reply(421, "That is enough", "4.7.0") if session.id in self.ids else None

    async def data(self, session: Session, body: Body) -> None:
        await body.read()
        self.ids.append(session.id)


async def test_a_server_that_says_goodbye_at_the_second_message(tmp_path: Path, mail: Path) -> None:
    server = Server(hooks := Once())
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(server.serve, 0, HOST)
        where = f"--server={HOST}:{listener.socket.getsockname()[1]}"
        code, lines, err = await send(where, *["mail.eml"] * 3, cwd=tmp_path)
        await server.stop()

    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in lines] == ["accepted"] * 3
    assert len(set(hooks.ids)) == 3


async def test_a_server_that_hangs_up_behind_each_message(tmp_path: Path, mail: Path) -> None:
    script = Scripted({".": b"250 ok\r\n421 enough\r\n"}, {})
    async with scripted(script) as server:
        code, lines, err = await send(server, "mail.eml", "mail.eml", cwd=tmp_path)

    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in lines] == ["accepted", "accepted"]
    assert script.connections == []


async def test_the_timeout(tmp_path: Path, mail: Path) -> None:
    async with scripted(Scripted({"MAIL": b""})) as server:
        code, lines, err = await send(server, "--timeout", "0.2", "mail.eml", cwd=tmp_path)

    assert (code, err) == (75, "")
    assert lines == [f"deferred  <{YOU}>  MAIL: no answer within 0.2 s  mail.eml"]


@pytest.mark.parametrize(
    ("greeting", "word", "code"), [(b"554 no\r\n", "refused", 1), (b"421 later\r\n", "deferred", 75)]
)
async def test_turned_away(tmp_path: Path, mail: Path, greeting: bytes, word: str, code: int) -> None:
    async with scripted(Scripted({}, greeting=greeting)) as server:
        got, lines, err = await send(server, "mail.eml", cwd=tmp_path)

    assert got == code
    assert [line.split("  ")[0] for line in lines] == [word]
    assert err.count("\n") == 1


async def test_it_is_no_smtp_server(tmp_path: Path, mail: Path) -> None:
    async with scripted(Scripted({}, greeting=b"SSH-2.0-x\r\n")) as server:
        code, _, err = await send(server, "mail.eml", cwd=tmp_path)

    assert code == 75
    assert err.count("\n") == 1


async def test_what_a_server_says_does_no_harm_on_a_terminal(tmp_path: Path, mail: Path) -> None:
    async with scripted(Scripted({"RCPT": "550 no\u202e\x1b[2J\r\n".encode()})) as server:
        code, lines, _ = await send(server, "mail.eml", cwd=tmp_path)

    assert code in (1, 75)  # whether such a reply is one is the client's business
    assert "\x1b" not in lines[0]
    assert "\u202e" not in lines[0]


async def test_interrupted(tmp_path: Path, mail: Path) -> None:
    script = Scripted({".": b""})
    async with scripted(script) as server:
        async with running("-m", "smtp_trio", "send", server, "mail.eml", cwd=tmp_path) as program:
            await script.stuck.wait()
            program.signal(signal.SIGINT)
            assert await program.end() == 130
    assert program.out.text.startswith(f"unknown  <{YOU}>  ")
    assert program.err.text == ""


async def test_nobody_reads_its_lines(tmp_path: Path, mail: Path) -> None:
    async with intake() as (hooks, server):
        async with running("-m", "smtp_trio", "send", server, "mail.eml", "mail.eml", cwd=tmp_path) as program:
            await program.out.stream.aclose()
            assert await program.err.rest() == ""
            assert await program.process.wait() == 0
    assert hooks.messages == [MESSAGE, MESSAGE]


# --- TLS and passwords ------------------------------------------------------------------------------------------------


class Authority:
    """Certificates for 127.0.0.1, and for somebody else."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(folder / "ca.pem")

    def server(self, name: str = HOST) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("mode", ["required", "implicit"])
async def test_tls(tmp_path: Path, mail: Path, authority: Authority, mode: str) -> None:
    async with intake(authority.server(), implicit_tls=mode == "implicit") as (hooks, server):
        assert await_code(await send(server, "--tls", mode, "--cafile", "ca.pem", "mail.eml", cwd=tmp_path)) == 0
        code, lines, err = await send(server, "--tls", mode, "mail.eml", cwd=tmp_path)

    assert len(hooks.messages) == 1
    assert (code, lines[0].split("  ")[0]) == (75, "deferred")
    assert "certificate verify failed" in err
    assert err.endswith("; --cafile FILE says whose certificates to trust\n")


def await_code(done: tuple[int, list[str], str]) -> int:
    assert done[2] == ""
    return done[0]


@pytest.mark.parametrize("options", [[], ["--tls", "opportunistic"], ["--tls", "never"]])
async def test_tls_where_it_is_taken_as_it_comes(
    tmp_path: Path, mail: Path, authority: Authority, options: Sequence[str]
) -> None:
    async with intake(authority.server("elsewhere.example")) as (hooks, server):
        assert await_code(await send(server, *options, "mail.eml", cwd=tmp_path)) == 0
    assert len(hooks.messages) == 1


async def test_tls_is_not_there(tmp_path: Path, mail: Path) -> None:
    async with intake() as (hooks, server):
        code, _, err = await send(server, "--tls", "required", "mail.eml", cwd=tmp_path)
    assert code == 1
    assert err.startswith("smtp-trio: error: the server does not offer STARTTLS")
    assert hooks.messages == []


async def test_a_password_from_a_file(tmp_path: Path, mail: Path, authority: Authority) -> None:
    (tmp_path / "password").write_text("secret\nnot this\n")
    options = ["--user", "fred", "--password-file", "password", "--cafile", "ca.pem"]
    async with intake(authority.server()) as (hooks, server):
        assert await_code(await send(server, *options, "mail.eml", cwd=tmp_path)) == 0
    assert hooks.users == ["fred"]


async def test_a_password_from_the_environment(
    tmp_path: Path, mail: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--user", "fred", "--cafile", "ca.pem", "mail.eml"]
    async with intake(authority.server()) as (hooks, server):
        monkeypatch.setenv("SMTP_TRIO_PASSWORD", "secret")
        assert await_code(await send(server, *options, cwd=tmp_path)) == 0
        monkeypatch.setenv("SMTP_TRIO_PASSWORD", "wrong")
        code, lines, err = await send(server, *options, cwd=tmp_path)

    assert hooks.users == ["fred"]
    assert code == 1
    assert lines == [f"refused  <{YOU}>  535 5.7.8 Authentication credentials invalid  mail.eml"]
    assert err == (
        "smtp-trio: error: AUTH was refused: 535 5.7.8 Authentication credentials invalid; see to --user and its password\n"
    )


async def test_a_password_from_the_terminal(tmp_path: Path, mail: Path, authority: Authority) -> None:
    """And progress on it."""
    ours, theirs = os.openpty()
    with open(theirs, "r+b", buffering=0) as terminal:
        async with intake(authority.server()) as (hooks, server), trio.open_nursery() as nursery:
            command = [sys.executable, "-m", "smtp_trio", "send", server, "--user=fred", "--cafile=ca.pem", "mail.eml"]
            under = ["setsid", "--wait", *command]  # so that it has no other terminal to ask at

            async def ask() -> None:
                with trio.fail_after(60):
                    screen = Output(trio.lowlevel.FdStream(os.dup(ours)))
                    await screen.until(f"Password of fred at {HOST}: ")
                    await screen.stream.send_all(b"secret\n")  # type: ignore[attr-defined]
                    await screen.until(r"1 of 1  mail\.eml  100 %")

            nursery.start_soon(ask)
            done = await trio.run_process(
                under, stdin=terminal, stderr=terminal, capture_stdout=True, check=False, cwd=tmp_path
            )
    os.close(ours)
    assert done.returncode == 0
    assert done.stdout.startswith(b"accepted")
    assert hooks.users == ["fred"]


async def test_a_password_in_the_clear_only_when_told(
    tmp_path: Path, mail: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_TRIO_PASSWORD", "secret")
    options = ["--user", "fred", "--tls", "opportunistic", "mail.eml"]
    async with intake(authority.server("elsewhere.example")) as (hooks, server):
        code, _, err = await send(server, *options, cwd=tmp_path)
        assert (code, hooks.users) == (1, [])
        assert "--allow-cleartext" in err
        assert await_code(await send(server, *options, "--allow-cleartext", cwd=tmp_path)) == 0
    assert hooks.users == ["fred"]


# --- mistakes ---------------------------------------------------------------------------------------------------------

SEE = " (see `smtp-trio send --help`)"
ADDRESS = "want HOST, HOST:PORT, [IPv6], [IPv6]:PORT or unix:PATH, with a port from 1 to 65535, not"

WRONG = [
    ("", "the following arguments are required: FILE|DIRECTORY|MAILDIR|-" + SEE),
    ("none", "cannot read none: No such file or directory"),
    ("mail.eml none", "cannot read none: No such file or directory"),
    ("text", "text is no message: it does not begin with a field, such as From: or Subject:"),
    ("empty", "empty is no message: it does not begin with a field, such as From: or Subject:"),
    ("- -", "there is only one standard input: give - once"),
    ("alone", "alone: the message has no sender: there is no address in Sender or From; say it with --from and --to"),
    ("alone --from=me@x", "alone: the message has no recipients: there is no address in To, Cc, Bcc; say it with --from and --to"),
    ("mail.eml --to you", "argument --to: address: 'you' is not an address" + SEE),
    ("mail.eml --to=", "argument --to: address: '' is not an address" + SEE),
    ("mail.eml --server ::1", f"argument --server: {ADDRESS} '::1'" + SEE),
    ("mail.eml --server x:", f"argument --server: {ADDRESS} 'x:'" + SEE),
    ("mail.eml --server x:0", f"argument --server: {ADDRESS} 'x:0'" + SEE),
    ("mail.eml --server x:65536", f"argument --server: {ADDRESS} 'x:65536'" + SEE),
    ("mail.eml --server unix:", f"argument --server: {ADDRESS} 'unix:'" + SEE),
    ("mail.eml --timeout -1", "argument --timeout: must be a number from 0 to 1000000000, got '-1'" + SEE),
    ("mail.eml --cafile none", "cannot read none: No such file or directory"),
    ("mail.eml --cafile text", "no certificate in text"),
    ("mail.eml --password-file text", "--password-file needs --user"),
    ("mail.eml --allow-cleartext", "--allow-cleartext needs --user"),
    ("mail.eml --user fred --password-file none", "cannot read none: No such file or directory"),
    ("mail.eml --password=secret", "unrecognized arguments: --password=secret (see `smtp-trio --help`)"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), WRONG)
def test_what_cannot_be_meant(
    tmp_path: Path,
    mail: Path,
    options: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text").write_text("hello, world\n")
    (tmp_path / "empty").touch()
    (tmp_path / "alone").write_text("Subject: hi\n\n")
    monkeypatch.chdir(tmp_path)

    code = main(["send", *options.split()])

    assert (code, *capsys.readouterr()) == (2, "", f"smtp-trio: error: {says}\n")


async def test_a_user_without_a_password(tmp_path: Path, mail: Path) -> None:
    code, lines, err = await send("--user=fred", "mail.eml", cwd=tmp_path)
    assert (code, lines) == (2, [])
    assert err == (
        "smtp-trio: error: --user needs a password: from --password-file FILE, or from SMTP_TRIO_PASSWORD in the environment\n"
    )


@pytest.mark.parametrize("options", [["--name=a b"], ["--server=a..b"]])
async def test_a_name_that_nobody_can_have(tmp_path: Path, mail: Path, options: Sequence[str]) -> None:
    async with intake() as (_, server):
        code, lines, err = await send(server, *options, "mail.eml", cwd=tmp_path)
    assert (code, lines) == (2, [])
    assert err.count("\n") == 1


def test_a_message_that_is_gone_by_its_turn(tmp_path: Path, mail: Path) -> None:
    (letter,) = letters([str(mail)], None, None)
    mail.unlink()
    with pytest.raises(FileNotFoundError):
        letter.read()


@pytest.mark.parametrize(
    ("server", "options", "port"),
    [
        ("mx", [], 25), ("mx", ["--user=x"], 587), ("mx", ["--tls=implicit"], 465), ("mx", ["--lmtp"], 24),
        ("mx:2525", ["--user=x"], 2525), ("[::1]:26", [], 26), ("[::1]", [], 25),
    ],
)  # fmt: skip
def test_ports(server: str, options: Sequence[str], port: int) -> None:
    from smtp_trio._cli.main import parser
    from smtp_trio._cli.send import port as port_of

    chosen = parser().parse_args(["send", "--server", server, *options, "x"])
    assert port_of(chosen) == port
    assert chosen.server.host == ("::1" if server.startswith("[") else "mx")
