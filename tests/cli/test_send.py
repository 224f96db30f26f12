"""``smtp-trio send`` in a process of its own, with servers that accept, refuse, close the connection or are missing."""

from __future__ import annotations

import os
import re
import signal
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
from ports import free_port
from processes import HOST, TIMEOUT, Output, run, running, serving

from smtp_trio import Body, Hooks, Reply, Server, Session
from smtp_trio._cli.main import main, make_parser
from smtp_trio._cli.message_files import find_message
from smtp_trio._cli.send import default_port
from smtp_trio.protocol import Mail, Rcpt
from smtp_trio.protocol.extensions import Auth, EightBitMime, SmtpUtf8, standard
from smtp_trio.protocol.sasl import Credentials

ME, YOU, HER = "me@example.net", "you@example.org", "her@example.org"
MESSAGE = f"From: {ME}\r\nTo: You <{YOU}>\r\nSubject: hi\r\n\r\n.hello\r\n".encode()


@define
class Recorder(Hooks):
    """Hooks that keep messages, envelopes and users, refuse two recipients, and count connections."""

    messages: list[bytes] = field(factory=list)
    envelopes: list[tuple[str, ...]] = field(factory=list)
    connections: int = 0
    users: list[str | None] = field(factory=list)

    async def connect(self, session: Session) -> None:
        self.connections += 1

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        correct = (credentials.user, credentials.password) == ("fred", "secret")
        return None if correct else Reply(535, "Authentication credentials invalid", "5.7.8")

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
async def recording_server(
    tls: ssl.SSLContext | None = None, *, implicit_tls: bool = False
) -> AsyncIterator[tuple[Recorder, str]]:
    """Run a server; yield its hooks and the ``--server`` option with its address."""
    hooks = Recorder()
    async with trio.open_nursery() as nursery:
        server = Server(hooks, name="mx.example.org", tls=tls, newlines="reject", extensions=standard(Auth()))
        (listener,) = await nursery.start(partial(server.serve, 0, HOST, implicit_tls=implicit_tls))
        yield hooks, f"--server={HOST}:{listener.socket.getsockname()[1]}"
        await server.stop()


async def send(*options: str, cwd: Path, stdin: bytes = b"") -> tuple[int, list[str], str]:
    """Run ``smtp-trio send``; return its exit code, the lines of its output, and its errors."""
    code, out, err = await run("-m", "smtp_trio", "send", *options, cwd=cwd, stdin=stdin)
    assert "Traceback" not in err
    return code, out.splitlines(), err


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    """A file with a message."""
    path = tmp_path / "mail.eml"
    path.write_bytes(MESSAGE)
    return path


def modification_times(directory: Path) -> list[tuple[Path, int]]:
    """Return all files and directories in a directory, with their modification times."""
    return sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*"))


# --- messages and envelopes -------------------------------------------------------------------------------------------


async def test_message_from_a_file(tmp_path: Path, mail: Path) -> None:
    async with recording_server() as (hooks, server):
        code, lines, err = await send(server, "mail.eml", cwd=tmp_path)

    assert (code, err) == (0, "")
    (line,) = lines
    assert re.fullmatch(rf"accepted  <{YOU}>  250 2\.0\.0 Ok: queued as \S+  mail\.eml", line)
    assert hooks.messages == [MESSAGE]
    assert hooks.envelopes == [(ME, YOU)]


async def test_standard_input_with_lf_and_bcc(tmp_path: Path) -> None:
    unix = f"From: {ME}\nBcc: {YOU},\n  x <{HER}>\nbcc: nobody@example.org\nSubject: Bcc:\n\nBcc: stays\n.\n".encode()
    async with recording_server() as (hooks, server):
        code, lines, err = await send(server, "-", cwd=tmp_path, stdin=unix)

    assert (code, err) == (1, "")
    assert [line.split("  ")[:2] for line in lines] == [
        ["accepted", f"<{YOU}>"],
        ["accepted", f"<{HER}>"],
        ["refused", "<nobody@example.org>"],
    ]
    assert lines[2] == "refused  <nobody@example.org>  550 5.1.1 No such user here  -"
    assert hooks.messages == [f"From: {ME}\r\nSubject: Bcc:\r\n\r\nBcc: stays\r\n.\r\n".encode()]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (f"From: {ME}\nBcc: hidden@x", f"From: {ME}\n"),
        (f"Bcc: hidden@x\nFrom: {ME}\nBcc: a@x,\n hidden@x\n", f"From: {ME}\n"),
        (f"From: {ME}\rBcc : hidden@x\rhello\rResent-Bcc: hidden@x\r\rBcc: stays", f"From: {ME}\nhello\n\nBcc: stays\n"),
    ],
)  # fmt: skip
async def test_bcc_is_removed_from_an_incomplete_header(tmp_path: Path, text: str, sent: str) -> None:
    async with recording_server() as (hooks, server):
        result = await send(server, "--from", ME, "--to", YOU, "-", cwd=tmp_path, stdin=text.encode())
    assert exit_code(result) == 0
    assert hooks.messages == [sent.replace("\n", "\r\n").encode()]


@pytest.mark.parametrize(
    ("preface", "note"),
    [
        (b"\xef\xbb\xbf", "the byte order mark before the header is not sent"),
        (b"From me@x Sat Nov 28\n", "the line 'From me@x Sat Nov 28' before the header is not sent"),
        (b"\xef\xbb\xbf>From \xe9\x1b\n", "the byte order mark and the line '>From \ufffd\\x1b' before the header is not sent"),
    ],
)  # fmt: skip
async def test_what_precedes_the_header_is_noted(tmp_path: Path, preface: bytes, note: str) -> None:
    (tmp_path / "m").write_bytes(preface + MESSAGE)
    async with recording_server() as (hooks, server):
        result = await send(server, "m", "-", cwd=tmp_path, stdin=preface + MESSAGE)
    assert result[0] == 0
    assert hooks.messages == [MESSAGE] * 2
    assert hooks.envelopes == [(ME, YOU)] * 2
    assert result[2].splitlines() == [f"smtp-trio: note: {name}: {note}" for name in ("m", "-")]


@pytest.mark.slow
async def test_from_and_to_override_the_header(tmp_path: Path, mail: Path) -> None:
    async with recording_server() as (hooks, server):
        code, lines, _ = await send(
            server, "--from=", "--to", HER, "--to", "Postmaster", "--to", HER, mail.name, cwd=tmp_path
        )

    assert code == 0
    assert [line.split("  ")[1] for line in lines] == [f"<{HER}>", "<Postmaster>"]
    assert hooks.envelopes == [("", HER, "Postmaster")]


@pytest.mark.slow
async def test_directory_is_sent_over_one_connection(tmp_path: Path) -> None:
    box = tmp_path / "box"
    (box / "more").mkdir(parents=True)
    (box / "more" / "d").write_bytes(MESSAGE)
    for name in ("c", "a", "b", ".hidden"):
        (box / name).write_bytes(MESSAGE + name.encode() + b"\r\n")
    async with recording_server() as (hooks, server):
        code, lines, _ = await send(server, "box", cwd=tmp_path)

    assert code == 0
    assert [line.split("  ")[-1] for line in lines] == ["box/a", "box/b", "box/c"]
    assert hooks.messages == [MESSAGE + name + b"\r\n" for name in (b"a", b"b", b"c")]
    assert hooks.connections == 1


async def test_maildir_is_not_changed(tmp_path: Path) -> None:
    files = {"new/2": b"2", "cur/1:2,S": b"1", "tmp/3": b"3", "dovecot-uidlist": b"x"}
    for name, mark in files.items():
        (tmp_path / "Maildir" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Maildir" / name).write_bytes(MESSAGE + mark)
    before = modification_times(tmp_path)
    async with recording_server() as (hooks, server):
        code, _, _ = await send(server, "Maildir", cwd=tmp_path)

    assert code == 0
    assert hooks.messages == [MESSAGE + b"2\r\n", MESSAGE + b"1\r\n"]
    assert modification_times(tmp_path) == before


async def test_file_in_a_directory_that_is_not_a_message_is_skipped(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    for name in ("a", "z"):
        (box / name).write_bytes(MESSAGE)
    (box / "notes").write_text("hello, world\n")
    (box / "empty").touch()
    (box / "damaged").write_text(f"From: {ME}\nhello\nTo: {YOU}\n\n")
    (box / "nobody").write_text(f"From: {ME}\n\n")
    (box / "link").symlink_to("missing")
    (box / "directory").mkdir()
    os.mkfifo(box / "pipe")
    async with recording_server() as (hooks, server):
        code, lines, err = await send(server, "box", cwd=tmp_path)
        assert (code, hooks.messages) == (1, [MESSAGE] * 2)
        assert [line.split("  ")[0::3] for line in lines] == [["accepted", "box/a"], ["accepted", "box/z"]]
        begin = "it does not begin with a header field such as From: or Subject:"
        assert err.splitlines() == [
            "smtp-trio: error: box/damaged: the header is damaged: 'hello' is not a header field; use --from and --to; skipped",
            f"smtp-trio: error: box/empty is not a message: {begin}; skipped",
            "smtp-trio: error: cannot read box/link: No such file or directory; skipped",
            "smtp-trio: error: box/nobody: the message has no recipients: no address in To, Cc, Bcc; use --from and --to; skipped",
            f"smtp-trio: error: box/notes is not a message: {begin}; skipped",
        ]
        # One that is named is an error of the command line, and nothing is sent.
        code, lines, err = await send(server, "box", "box/notes", cwd=tmp_path)
    assert (code, lines, len(hooks.messages)) == (2, [], 2)
    assert err.splitlines()[-1] == f"smtp-trio: error: box/notes is not a message: {begin}"


@pytest.mark.slow
async def test_skipped_file_takes_precedence_over_a_deferred_message(tmp_path: Path) -> None:
    maildir = tmp_path / "box"
    for name in ("tmp", "new", "cur"):
        (maildir / name).mkdir(parents=True)
    (maildir / "new" / "1").write_bytes(MESSAGE)
    (maildir / "cur" / "2:2,S").write_bytes(b"\x7fELF")
    port = free_port()
    code, lines, _ = await send(f"--server={HOST}:{port}", "box", cwd=tmp_path)
    assert (code, lines) == (1, [f"deferred  <{YOU}>  not sent  box/new/1"])
    (maildir / "new" / "1").unlink()
    code, lines, err = await send(f"--server={HOST}:{port}", "box", cwd=tmp_path)
    assert (code, lines) == (1, [])
    assert err.endswith("smtp-trio: nothing to send\n")


async def test_empty_directory_is_not_an_error(tmp_path: Path) -> None:
    assert await send(".", cwd=tmp_path) == (0, [], "smtp-trio: nothing to send\n")


@pytest.mark.slow
async def test_messages_stored_by_serve_can_be_sent(tmp_path: Path, mail: Path) -> None:
    async with serving(cwd=tmp_path) as program:
        server = f"--server={HOST}:{program.port}"
        assert (await send(server, "mail.eml", cwd=tmp_path))[0] == 0
        async with recording_server() as (hooks, other):
            assert (await send(other, "Maildir", cwd=tmp_path))[0] == 0
    assert hooks.messages[0].endswith(MESSAGE)


@pytest.mark.slow
async def test_8bit_message_is_encoded_for_a_server_without_8bitmime(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(
        "From: me@example.net\nTo: you@example.org\nSubject: Grüße\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße\n".encode()
    )
    server = Server(
        hooks := Recorder(), extensions=[each for each in standard() if not isinstance(each, EightBitMime | SmtpUtf8)]
    )
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(server.serve, 0, HOST)
        code, _, err = await send(f"--server={HOST}:{listener.socket.getsockname()[1]}", "m", cwd=tmp_path)
        await server.stop()

    assert (code, err) == (0, "")
    assert hooks.messages[0].isascii()
    assert b"Subject: =?" in hooks.messages[0]


@pytest.mark.slow
async def test_unix_sockets_and_lmtp(short_path: Path, mail: Path) -> None:
    server = Server(hooks := Recorder())
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(short_path / "socket"))
    sock.listen()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [trio.SocketListener(sock)])
        assert (await send("--server", "unix:socket", str(mail), cwd=short_path))[0] == 0
        code, lines, err = await send("--server", "unix:socket", "--lmtp", str(mail), cwd=short_path)
        await server.stop()

    assert hooks.messages == [MESSAGE]
    assert (code, lines[0].split("  ")[0]) == (1, "refused")  # it is not an LMTP server
    assert err.startswith("smtp-trio: error: LHLO was refused: 500 ")


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("users", "statuses", "code"),
    [
        (["you", "her"], ["accepted", "accepted"], 0),
        (["you", "busy"], ["accepted", "deferred"], 75),
        (["you", "nobody"], ["accepted", "refused"], 1),
        (["busy", "you", "nobody"], ["deferred", "accepted", "refused"], 1),
        (["busy"], ["deferred"], 75),
        (["nobody"], ["refused"], 1),
    ],
)
@pytest.mark.slow
async def test_exit_codes(tmp_path: Path, mail: Path, users: Sequence[str], statuses: Sequence[str], code: int) -> None:
    to = [f"--to={user}@example.org" for user in users]
    async with recording_server() as (_, server):
        got, lines, err = await send(server, *to, "mail.eml", cwd=tmp_path)

    assert (got, err) == (code, "")
    assert {line.split("  ")[1]: line.split("  ")[0] for line in lines} == {
        f"<{user}@example.org>": status for user, status in zip(users, statuses, strict=True)
    }


@pytest.mark.slow
async def test_messages_after_a_refused_one_are_sent(tmp_path: Path, mail: Path) -> None:
    (tmp_path / "big").write_bytes(MESSAGE + b"x" * 2000)
    async with serving("--size", "1000", cwd=tmp_path) as program:
        code, lines, err = await send(f"--server={HOST}:{program.port}", "big", "mail.eml", cwd=tmp_path)

    assert (code, err) == (1, "")
    assert lines[0].startswith(f"refused  <{YOU}>  552 5.3.4 ")
    assert lines[1].startswith(f"accepted  <{YOU}>  250 ")


async def test_connection_refused(tmp_path: Path, mail: Path) -> None:
    port = free_port()
    code, lines, err = await send(f"--server={HOST}:{port}", "mail.eml", "mail.eml", cwd=tmp_path)

    assert code == 75
    assert len(lines) == 2
    assert lines == [f"deferred  <{YOU}>  not sent  mail.eml"] * 2
    assert err == f"smtp-trio: error: cannot connect to {HOST} port {port}: Connection refused; check --server\n"


REPLIES = {
    "EHLO": b"250 mx\r\n", "MAIL": b"250 ok\r\n", "RCPT": b"250 ok\r\n", "DATA": b"354 go on\r\n", ".": b"250 ok\r\n",
    "QUIT": b"221 bye\r\n", "RSET": b"250 ok\r\n",
}  # fmt: skip


Scripted = bytes | list[bytes | None] | None


class ScriptedServer:
    """A server that sends fixed replies, which each connection can override; for a reply of None it closes the connection.

    An empty reply means that it sends nothing and sets the event ``silent``. A list has the replies to a command that comes
    several times.
    """

    def __init__(self, *connections: dict[str, Scripted], greeting: bytes = b"220 mx\r\n") -> None:
        self.greeting = greeting
        self.connections = list(connections)
        self.silent = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        replies: dict[str, Scripted] = {**REPLIES, **self.connections.pop(0)}
        octets, in_message = b"", False
        await stream.send_all(self.greeting)
        while data := await stream.receive_some():
            octets += data
            while b"\r\n" in octets:
                line, _, octets = octets.partition(b"\r\n")
                verb = line.decode()[:4].upper()
                if in_message and line != b".":
                    continue
                found = replies[verb]
                reply = found.pop(0) if isinstance(found, list) else found
                if reply is None:
                    return
                if not reply:
                    self.silent.set()
                    continue
                await stream.send_all(reply)
                in_message = reply.startswith(b"354")


@asynccontextmanager
async def running_server(server: ScriptedServer) -> AsyncIterator[str]:
    """Run a scripted server; yield the ``--server`` option with its address."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host=HOST))
        yield f"--server={HOST}:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_connection_lost_after_the_message(tmp_path: Path, mail: Path) -> None:
    async with running_server(ScriptedServer({".": None})) as server:
        code, lines, err = await send(server, "mail.eml", cwd=tmp_path)

    assert (code, err) == (75, "")
    (line,) = lines
    assert line.startswith(f"unknown  <{YOU}>  ")
    assert "it may have been delivered" in line


@pytest.mark.slow
async def test_connection_lost_before_the_message(tmp_path: Path, mail: Path) -> None:
    async with running_server(ScriptedServer({"DATA": None})) as server:
        code, lines, err = await send(server, "mail.eml", cwd=tmp_path)

    assert (code, err) == (75, "")
    assert [line.split("  ")[0] for line in lines] == ["deferred"]


class OnePerConnection(Hooks):
    """Hooks that accept one message in each session, and answer the next MAIL with 421."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        return Reply(421, "That is enough", "4.7.0") if session.id in self.ids else None

    async def data(self, session: Session, body: Body) -> None:
        await body.read()
        self.ids.append(session.id)


@pytest.mark.slow
async def test_new_connection_after_421_to_the_second_message(tmp_path: Path, mail: Path) -> None:
    server = Server(hooks := OnePerConnection())
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(server.serve, 0, HOST)
        where = f"--server={HOST}:{listener.socket.getsockname()[1]}"
        code, lines, err = await send(where, *["mail.eml"] * 3, cwd=tmp_path)
        await server.stop()

    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in lines] == ["accepted"] * 3
    assert len(set(hooks.ids)) == 3


@pytest.mark.slow
async def test_new_connection_after_421_that_follows_a_message(tmp_path: Path, mail: Path) -> None:
    scripted = ScriptedServer({".": b"250 ok\r\n421 enough\r\n"}, {})
    async with running_server(scripted) as server:
        code, lines, err = await send(server, "mail.eml", "mail.eml", cwd=tmp_path)

    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in lines] == ["accepted", "accepted"]
    assert scripted.connections == []


@pytest.mark.parametrize(
    "reply", [b"221 bye\r\n", b"451 4.4.2 closing\r\n", b"421 bye\r\n", None], ids=["221", "451", "421", "close"]
)
async def test_new_connection_when_the_server_ends_the_session_at_mail(
    tmp_path: Path, mail: Path, reply: bytes | None
) -> None:
    scripted = ScriptedServer({"MAIL": [b"250 ok\r\n", reply], "NOOP": None}, {})
    async with running_server(scripted) as server:
        code, lines, err = await send(server, "mail.eml", "mail.eml", cwd=tmp_path)

    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in lines] == ["accepted", "accepted"]
    assert scripted.connections == []


@pytest.mark.slow
async def test_timeout(tmp_path: Path, mail: Path) -> None:
    silent: dict[str, Scripted] = {"MAIL": b""}
    async with running_server(ScriptedServer(*[silent] * 20)) as server:
        for _ in range(20):  # a busy machine may not send the greeting in that time either
            code, lines, err = await send(server, "--timeout", "0.2", "mail.eml", cwd=tmp_path)
            if "MAIL" in lines[0]:
                break

    assert (code, err) == (75, "")
    assert lines == [f"deferred  <{YOU}>  MAIL: no reply within 0.2 s  mail.eml"]


@pytest.mark.parametrize(
    ("greeting", "status", "code"), [(b"554 no\r\n", "refused", 1), (b"421 later\r\n", "deferred", 75)]
)
@pytest.mark.slow
async def test_rejecting_greeting(tmp_path: Path, mail: Path, greeting: bytes, status: str, code: int) -> None:
    async with running_server(ScriptedServer({}, greeting=greeting)) as server:
        got, lines, err = await send(server, "mail.eml", cwd=tmp_path)

    assert got == code
    assert [line.split("  ")[0] for line in lines] == [status]
    assert err.count("\n") == 1


async def test_implicit_tls_to_a_port_without_it(tmp_path: Path, mail: Path) -> None:
    async with recording_server() as (_, server):
        code, _, err = await send(server, "--tls=implicit", "mail.eml", cwd=tmp_path)

    assert code == 75
    assert err.endswith("; the server does not begin with TLS on this port: use --tls required for STARTTLS\n")


async def test_port_for_implicit_tls_without_it(tmp_path: Path, mail: Path, authority: Authority) -> None:
    async with recording_server(authority.server(), implicit_tls=True) as (_, server):
        code, _, err = await send(server, "--timeout=0.5", "mail.eml", cwd=tmp_path)

    assert code == 75
    assert err.endswith(
        "no reply within 0.5 s; a server that expects TLS from the first octet, as on port 465, needs --tls implicit (RFC 8314 3)\n"
    )


@pytest.mark.slow
async def test_greeting_of_another_protocol(tmp_path: Path, mail: Path) -> None:
    async with running_server(ScriptedServer({}, greeting=b"SSH-2.0-x\r\n")) as server:
        code, _, err = await send(server, "mail.eml", cwd=tmp_path)

    assert code == 75
    assert err.count("\n") == 1


@pytest.mark.slow
async def test_control_characters_of_replies_are_not_printed(tmp_path: Path, mail: Path) -> None:
    async with running_server(ScriptedServer({"RCPT": "550 no\u202e\x1b[2J\r\n".encode()})) as server:
        code, lines, _ = await send(server, "mail.eml", cwd=tmp_path)

    assert code in (1, 75)  # depending on whether the client regards it as a reply
    assert "\x1b" not in lines[0]
    assert "\u202e" not in lines[0]


async def test_sigint_reports_the_message_in_progress(tmp_path: Path, mail: Path) -> None:
    scripted = ScriptedServer({".": b""})
    async with running_server(scripted) as server:
        async with running("-m", "smtp_trio", "send", server, "mail.eml", cwd=tmp_path) as program:
            await scripted.silent.wait()
            program.signal(signal.SIGINT)
            assert await program.wait() == 130
    assert program.out.text.startswith(f"unknown  <{YOU}>  ")
    assert program.err.text == ""


@pytest.mark.slow
async def test_messages_are_sent_after_the_reader_of_the_output_has_ended(tmp_path: Path, mail: Path) -> None:
    async with recording_server() as (hooks, server):
        async with running("-m", "smtp_trio", "send", server, "mail.eml", "mail.eml", cwd=tmp_path) as program:
            await program.out.stream.aclose()
            assert await program.err.read_rest() == ""
            assert await program.process.wait() == 0
    assert hooks.messages == [MESSAGE, MESSAGE]


# --- TLS and passwords ------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority, whose certificate is in the file ``ca.pem``."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(directory / "ca.pem")

    def server(self, name: str = HOST) -> ssl.SSLContext:
        """Return a server's context with a certificate for this name."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("mode", ["required", "implicit"])
async def test_tls(tmp_path: Path, mail: Path, authority: Authority, mode: str) -> None:
    async with recording_server(authority.server(), implicit_tls=mode == "implicit") as (hooks, server):
        assert exit_code(await send(server, "--tls", mode, "--cafile", "ca.pem", "mail.eml", cwd=tmp_path)) == 0
        code, lines, err = await send(server, "--tls", mode, "mail.eml", cwd=tmp_path)

    assert len(hooks.messages) == 1
    assert (code, lines[0].split("  ")[0]) == (75, "deferred")
    assert "certificate verify failed" in err
    assert err.endswith("; use --cafile FILE to trust other certificates\n")


async def test_cafile_requires_tls(tmp_path: Path, mail: Path, authority: Authority) -> None:
    async with recording_server() as (hooks, server):
        code, _, err = await send(server, "--cafile", "ca.pem", "mail.eml", cwd=tmp_path)
        assert (code, hooks.messages) == (1, [])
        assert err.startswith("smtp-trio: error: the server does not offer STARTTLS")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    async with recording_server(authority.server()) as (hooks, server):
        code, _, err = await send(server, "--cafile", "other.pem", "mail.eml", cwd=tmp_path)
        assert (code, hooks.messages) == (75, [])
        assert "certificate verify failed" in err
        assert exit_code(await send(server, "--cafile", "ca.pem", "mail.eml", cwd=tmp_path)) == 0
    assert len(hooks.messages) == 1


def exit_code(result: tuple[int, list[str], str]) -> int:
    """Return the exit code of a run without errors."""
    code, _, err = result
    assert err == ""
    return code


@pytest.mark.parametrize("options", [[], ["--tls", "opportunistic"], ["--tls", "never"]])
@pytest.mark.slow
async def test_tls_with_any_certificate(
    tmp_path: Path, mail: Path, authority: Authority, options: Sequence[str]
) -> None:
    async with recording_server(authority.server("elsewhere.example")) as (hooks, server):
        assert exit_code(await send(server, *options, "mail.eml", cwd=tmp_path)) == 0
    assert len(hooks.messages) == 1


@pytest.mark.slow
async def test_required_tls_is_not_offered(tmp_path: Path, mail: Path) -> None:
    async with recording_server() as (hooks, server):
        code, _, err = await send(server, "--tls", "required", "mail.eml", cwd=tmp_path)
    assert code == 1
    assert err.startswith("smtp-trio: error: the server does not offer STARTTLS")
    assert hooks.messages == []


async def test_password_from_a_file(tmp_path: Path, mail: Path, authority: Authority) -> None:
    (tmp_path / "password").write_text("secret\nnot this\n")
    options = ["--user", "fred", "--password-file", "password", "--cafile", "ca.pem"]
    async with recording_server(authority.server()) as (hooks, server):
        assert exit_code(await send(server, *options, "mail.eml", cwd=tmp_path)) == 0
    assert hooks.users == ["fred"]


async def test_auth_mechanism(
    tmp_path: Path, mail: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_TRIO_PASSWORD", "secret")
    options = ["--user", "fred", "--cafile", "ca.pem", "-v", "mail.eml", "--auth-mechanism"]
    async with recording_server(authority.server()) as (hooks, server):
        code, _, err = await send(server, *options, "cram-md5", "--auth-mechanism", "login", cwd=tmp_path)
        assert (code, hooks.users) == (0, ["fred"])
        assert "AUTH LOGIN" in err
        code, _, err = await send(server, *options, "CRAM-MD5", cwd=tmp_path)
    assert code != 0
    assert "CRAM-MD5 is not offered" in err


@pytest.mark.slow
async def test_password_from_the_environment(
    tmp_path: Path, mail: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--user", "fred", "--cafile", "ca.pem", "mail.eml"]
    async with recording_server(authority.server()) as (hooks, server):
        monkeypatch.setenv("SMTP_TRIO_PASSWORD", "secret")
        assert exit_code(await send(server, *options, cwd=tmp_path)) == 0
        monkeypatch.setenv("SMTP_TRIO_PASSWORD", "wrong")
        code, lines, err = await send(server, *options, cwd=tmp_path)

    assert hooks.users == ["fred"]
    assert code == 1
    assert lines == [f"refused  <{YOU}>  not sent  mail.eml"]
    assert err == (
        "smtp-trio: error: AUTH was refused: 535 5.7.8 Authentication credentials invalid; check --user and the password\n"
    )


@pytest.mark.slow
async def test_password_from_the_terminal_and_progress(tmp_path: Path, mail: Path, authority: Authority) -> None:
    controller, terminal_fd = os.openpty()
    with open(terminal_fd, "r+b", buffering=0) as terminal:
        async with recording_server(authority.server()) as (hooks, server), trio.open_nursery() as nursery:
            command = [sys.executable, "-m", "smtp_trio", "send", server, "--user=fred", "--cafile=ca.pem", "mail.eml"]
            without_terminal = ["setsid", "--wait", *command]  # getpass would open the controlling terminal

            async def enter_password() -> None:
                with trio.fail_after(TIMEOUT):
                    screen = Output(trio.lowlevel.FdStream(os.dup(controller)))
                    await screen.wait_for(f"Password of fred at {HOST}: ")
                    await screen.stream.send_all(b"secret\n")  # type: ignore[attr-defined]
                    await screen.wait_for(r"1 of 1  mail\.eml  100 %")

            nursery.start_soon(enter_password)
            done = await trio.run_process(
                without_terminal, stdin=terminal, stderr=terminal, capture_stdout=True, check=False, cwd=tmp_path
            )
    os.close(controller)
    assert done.returncode == 0
    assert done.stdout.startswith(b"accepted")
    assert hooks.users == ["fred"]


@pytest.mark.slow
async def test_password_is_sent_without_verified_tls_only_if_allowed(
    tmp_path: Path, mail: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_TRIO_PASSWORD", "secret")
    options = ["--user", "fred", "--tls", "opportunistic", "mail.eml"]
    async with recording_server(authority.server("elsewhere.example")) as (hooks, server):
        code, lines, err = await send(server, *options, cwd=tmp_path)
        assert (code, lines, hooks.users) == (2, [], [])
        assert err == (
            "smtp-trio: error: credentials are not sent without a verified certificate; --allow-cleartext permits it\n"
        )
        assert exit_code(await send(server, *options, "--allow-cleartext", cwd=tmp_path)) == 0
    assert hooks.users == ["fred"]


class LosingTls(Recorder):
    """A recorder that accepts one message in each session, and whose server offers no TLS after the first one."""

    server: Server

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        return Reply(421, "That is enough", "4.7.0") if self.messages and session.tls else None

    async def data(self, session: Session, body: Body) -> None:
        await super().data(session, body)
        self.server.tls = None


@pytest.mark.slow
async def test_later_connection_over_which_the_password_may_not_be_sent(
    tmp_path: Path, mail: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome of all messages is printed, because the first one was sent."""
    monkeypatch.setenv("SMTP_TRIO_PASSWORD", "secret")
    hooks = LosingTls()
    hooks.server = server = Server(hooks, tls=authority.server(), extensions=standard(Auth()))
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(server.serve, 0, HOST)
        where = f"--server={HOST}:{listener.socket.getsockname()[1]}"
        options = ["--user=fred", "--tls=opportunistic", "--cafile=ca.pem"]
        code, lines, err = await send(where, *options, *["mail.eml"] * 3, cwd=tmp_path)
        await server.stop()
    assert [line.split("  ")[::2] for line in lines[1:]] == [["refused", "not sent"]] * 2
    assert (code, lines[0].split("  ")[0], len(hooks.messages)) == (1, "accepted", 1)
    assert err.startswith("smtp-trio: error: credentials are not sent without a verified certificate")
    assert err.count("\n") == 1


# --- errors -----------------------------------------------------------------------------------------------------------

SEE = " (see `smtp-trio send --help`)"
ADDRESS = "must be HOST, HOST:PORT, [IPv6], [IPv6]:PORT or unix:PATH, with a port from 1 to 65535, got"

INVALID_OPTIONS = [
    ("", "a message is required, or one of --subject, --body and --attach" + SEE),
    ("none", "cannot read none: No such file or directory"),
    ("mail.eml none", "cannot read none: No such file or directory"),
    ("text", "text is not a message: it does not begin with a header field such as From: or Subject:"),
    ("empty", "empty is not a message: it does not begin with a header field such as From: or Subject:"),
    ("- -", "standard input (-) can be given only once"),
    ("bare", "bare: the message has no sender: no address in Sender or From; use --from and --to"),
    ("bare --from=me@x", "bare: the message has no recipients: no address in To, Cc, Bcc; use --from and --to"),
    ("damaged", "damaged: the header is damaged: 'hello' is not a header field; use --from and --to"),
    ("damaged --to a@x", "damaged: the header is damaged: 'hello' is not a header field; use --from and --to"),
    ("unended", "unended: the header is damaged: 'hello' is not a header field; use --from and --to"),
    ("colon", "colon: the header is damaged: a line that begins with a colon is not a header field; use --from and --to"),
    ("mail.eml --to you", "argument --to: invalid address: 'you'" + SEE),
    ("mail.eml --to=", "argument --to: invalid address: ''" + SEE),
    ("mail.eml --server ::1", f"argument --server: {ADDRESS} '::1'" + SEE),
    ("mail.eml --server x:", f"argument --server: {ADDRESS} 'x:'" + SEE),
    ("mail.eml --server x:0", f"argument --server: {ADDRESS} 'x:0'" + SEE),
    ("mail.eml --server x:65536", f"argument --server: {ADDRESS} 'x:65536'" + SEE),
    ("mail.eml --server unix:", f"argument --server: {ADDRESS} 'unix:'" + SEE),
    ("mail.eml --timeout -1", "argument --timeout: must be a number of seconds from 0 to 1000000000, or a time such as "
     "500ms, 30s, 5m or 1h, got '-1'" + SEE),
    ("mail.eml --cafile none", "cannot read none: No such file or directory"),
    ("mail.eml --cafile text", "no certificate in text"),
    ("mail.eml --password-file text", "--password-file requires --user"),
    ("mail.eml --allow-cleartext", "--allow-cleartext requires --user"),
    ("mail.eml --auth-mechanism plain", "--auth-mechanism requires --user"),
    ("mail.eml --user fred --password-file none", "cannot read none: No such file or directory"),
    ("mail.eml --password=secret", "unrecognized arguments: --password=secret (see `smtp-trio send --help`)"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error"), INVALID_OPTIONS)
def test_invalid_options(
    tmp_path: Path,
    mail: Path,
    options: str,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text").write_text("hello, world\n")
    (tmp_path / "empty").touch()
    (tmp_path / "bare").write_text("Subject: hi\n\n")
    (tmp_path / "damaged").write_text("From: a@b\nTo: c@d\nhello\nCc: e@f\nBcc: g@h\n\nhi\n")
    (tmp_path / "unended").write_text("From: a@b\nTo: c@d\nBcc: g@h\nhello\n")
    (tmp_path / "colon").write_text("From: a@b\nTo: c@d\n: x\n\nhello\n")
    monkeypatch.chdir(tmp_path)

    code = main(["send", *options.split()])

    assert (code, *capsys.readouterr()) == (2, "", f"smtp-trio: error: {error}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--tls=required"], "the server does not offer STARTTLS, and TLS is required; use --tls implicit for a port that starts "
         "with TLS, or --tls never and --allow-cleartext to go without"),
        (["--user=fred", "--tls=never", "--allow-cleartext"],
         "the server does not offer AUTH, or not without TLS; check --server, or omit --user"),
    ],
)  # fmt: skip
async def test_extension_that_is_not_offered(
    tmp_path: Path, mail: Path, options: Sequence[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_TRIO_PASSWORD", "secret")
    async with running_server(ScriptedServer({})) as server:
        code, lines, err = await send(server, *options, "mail.eml", cwd=tmp_path)
    assert (code, lines) == (1, [f"refused  <{YOU}>  not sent  mail.eml"])
    assert err == f"smtp-trio: error: {error}\n"


@pytest.mark.slow
async def test_user_without_a_password(tmp_path: Path, mail: Path) -> None:
    code, lines, err = await send("--user=fred", "mail.eml", cwd=tmp_path)
    assert (code, lines) == (2, [])
    assert err == (
        "smtp-trio: error: --user requires a password, in --password-file FILE or in SMTP_TRIO_PASSWORD in the environment\n"
    )


@pytest.mark.parametrize("options", [["--name=a b"], ["--server=a..b"], [f"--server={'x' * 70}"]])
@pytest.mark.slow
async def test_invalid_name(tmp_path: Path, mail: Path, options: Sequence[str]) -> None:
    async with recording_server() as (_, server):
        code, lines, err = await send(server, *options, "mail.eml", cwd=tmp_path)
    assert (code, lines) == (2, [])
    assert err in (
        "smtp-trio: error: --name: invalid host name: 'a b' (contains ' '); must be a domain or an address literal (RFC 5321 "
        "4.1.1.1)\n",
        "smtp-trio: error: --server: invalid host name: 'a..b' (empty label)\n",
        f"smtp-trio: error: --server: invalid host name: '{'x' * 70}' (a label is longer than 63 characters)\n",
    )


async def test_message_that_may_not_be_sent_is_refused_and_the_next_one_sent(tmp_path: Path, mail: Path) -> None:
    (tmp_path / "nul").write_bytes(MESSAGE + b"\0\r\n")
    async with recording_server() as (hooks, server):
        code, lines, err = await send(server, "nul", "mail.eml", cwd=tmp_path)
    assert (code, err, hooks.messages) == (1, "", [MESSAGE])
    assert lines[0].startswith(f"refused  <{YOU}>  the message contains NUL, which may not be sent")
    assert "BINARYMIME" not in lines[0]


def test_message_removed_before_it_is_read(mail: Path) -> None:
    message = find_message(str(mail), None, None)
    mail.unlink()
    with pytest.raises(FileNotFoundError):
        message.read()


@pytest.mark.parametrize(
    ("server", "options", "port"),
    [
        ("mx", [], 25), ("mx", ["--user=x"], 587), ("mx", ["--tls=implicit"], 465), ("mx", ["--lmtp"], 24),
        ("mx:2525", ["--user=x"], 2525), ("[::1]:26", [], 26), ("[::1]", [], 25),
    ],
)  # fmt: skip
def test_ports(server: str, options: Sequence[str], port: int) -> None:
    parsed = make_parser(["send"]).parse_args(["send", "--server", server, *options, "x"])
    assert (parsed.server.port or default_port(parsed)) == port
    assert parsed.server.host == ("::1" if server.startswith("[") else "mx")
