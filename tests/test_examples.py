"""The programs in examples/ work as their docstrings describe, and end on SIGINT."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import smtplib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from email import policy
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from installed_plugin import INI, installed
from processes import HOST, Program, client_context, running, serving

from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    PasswordCredentials,
    ReplyError,
    Server,
    connect,
    standard,
)
from smtp_trio.protocol.extensions import Auth
from smtp_trio.stores import read
from smtp_trio.stores.http import Webhook
from smtp_trio.testing import Inbox, open_memory_server

pytest_plugins = ["pytester"]

EXAMPLES = Path(__file__).parent.parent / "examples"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"


@asynccontextmanager
async def example(name: str, *options: str, cwd: Path, port_at: int = 0) -> AsyncIterator[Program]:
    """Run an example on a free port, an argument. It has to end with exit code 0 on SIGINT."""
    arguments = [*options[:port_at], "0", *options[port_at:]]
    async with running(str(EXAMPLES / name), *arguments, cwd=cwd) as program:
        program.port = int((await program.out.wait_for(r"listening on port (\d+)"))[1])
        yield program
        program.signal(signal.SIGINT)
        assert await program.wait() == 0
        assert program.err.text == ""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_examples_are_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == [
        "attachments.py",
        "catch_all.py",
        "consumer.py",
        "etrn.py",
        "forward.py",
        "local_users.py",
        "outbox.py",
        "sasl_mechanism.py",
        "support_desk.py",
        "test_report.py",
        "test_support_desk.py",
        "to_channel.py",
        "two_ports.py",
        "webhook.py",
        "xnote.py",
    ]


# An application as a whole, whose length with its tests is limited too.
APPLICATION = ["support_desk.py", "test_support_desk.py"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < (275 if path.name in APPLICATION else 100)


async def test_catch_all(tmp_path: Path) -> None:
    async with example("catch_all.py", cwd=tmp_path) as program:
        await program.send("me@example.net", ["you@example.org", "her@example.org"], MESSAGE)
        await program.out.wait_for("^from me@example.net to you@example.org her@example.org\nSubject: hi\n\nhello\n")


ATTACHED = [b"", b"x", b"hello\r\n" * 30_000, bytes(range(256)) * 1000, b"--outer\r\n--inner--\r\n"]


def mail(*attachments: bytes, encoding: str = "base64") -> EmailMessage:
    message = EmailMessage(policy=policy.SMTP)
    message["Subject"] = "files"
    message.set_content("hello\n")
    for octets in attachments:
        message.add_attachment(octets, "application", "octet-stream", cte=encoding, filename="../../name")
    return message


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_attachments(tmp_path: Path) -> None:
    async with example("attachments.py", str(tmp_path), cwd=tmp_path, port_at=1) as program:
        async with connect(HOST, program.port) as client:
            for message, count in ((mail(), 0), (mail(*ATTACHED), 5)):
                result = await client.send("me@example.net", ["you@example.org"], message.as_bytes())
                assert result.accepted[0].reply.text == f"Saved {count} attachments"
            broken = mail(b"x").as_bytes().replace(b"eA==", b"eA=A=")
            with pytest.raises(AllRecipientsRejectedError, match=r"554 5\.6\.0"):
                await client.send("me@example.net", ["you@example.org"], broken)
    assert contents(tmp_path) == sorted([b"", *ATTACHED])  # the empty file is that of the message that was refused


def saved_attachments(message: bytes, folder: Path) -> list[bytes]:
    names = load("attachments").save_attachments(BytesIO(message), folder)
    assert all(Path(name).parent == folder for name in names)
    return [Path(name).read_bytes() for name in names]


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_attachments_of_nested_parts(encoding: str, tmp_path: Path) -> None:
    texts = [b"--outer\r\n", b"a=3D\r\n.\r\n", b"", b"no line end"]
    inner = mail(*texts[:2], encoding=encoding)
    outer = mail()
    outer.make_mixed()
    outer.attach(inner)
    for text in texts[2:]:
        outer.add_attachment(text, "text", "x-log", cte=encoding)
    assert saved_attachments(outer.as_bytes(), tmp_path) == texts


@pytest.mark.parametrize(
    "message",
    [b"", b"\r\n", b"Subject: hi\r\n", MESSAGE, b"Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b--\r\nepilogue",
     b"Content-Type: multipart/mixed\r\n\r\n--\r\n", b"Content-Type: multipart/mixed; boundary=\xe9\r\n\r\n--\xe9\r\n"],
)  # fmt: skip
def test_messages_without_attachments(message: bytes, tmp_path: Path) -> None:
    assert saved_attachments(message, tmp_path) == []


def test_attachment_that_ends_with_the_message(tmp_path: Path) -> None:
    header = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Disposition: attachment\r\n\r\n"
    assert saved_attachments(header + b"x" * 200_000 + b"\r\n--b", tmp_path) == [b"x" * 200_000]
    assert saved_attachments(header + b"one\r\ntwo", tmp_path) == [b"one\r\ntwo"]
    assert saved_attachments(header + b"x" * 65536 + b"--b\r\n--b--\r\n", tmp_path) == [b"x" * 65536 + b"--b"]


@pytest.mark.parametrize(
    "message",
    [b"X: y\r\n" * 20_000, b"X" * 200_000,
     b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(30))],
    ids=["fields", "line", "depth"],
)  # fmt: skip
def test_attachments_of_a_message_beyond_the_limits(message: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long, or there are too many"):
        saved_attachments(message, tmp_path)


def certificate(folder: Path) -> tuple[Path, list[str]]:
    """Return the file of an authority, and the options for a server with a certificate of it."""
    ca, pem, cert, key = trustme.CA(), folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    ca.cert_pem.write_to_path(pem)
    issued = ca.issue_cert(HOST)
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    return pem, ["--cert", str(cert), "--key", str(key)]


async def test_local_users(tmp_path: Path) -> None:
    pem, options = certificate(tmp_path)

    def dialogue(client: smtplib.SMTP) -> dict[str, tuple[int, bytes]]:
        client.ehlo()
        assert client.docmd("MAIL FROM:<me@example.net>")[0] == 530
        client.starttls(context=client_context(pem))
        recipients = ["Fred+lists@Example.org", "Postmaster", "barney@example.org", "fred@elsewhere.example"]
        return client.sendmail("me@example.net", recipients, MESSAGE)

    async with example("local_users.py", *options, cwd=tmp_path) as program:
        assert await program.client(dialogue) == {
            "barney@example.org": (550, b"5.1.1 No such user here"),
            "fred@elsewhere.example": (550, b"5.7.1 Mail for this domain is not accepted here"),
        }
    assert "stopped: Drained(" in program.out.text

    (file,) = (tmp_path / "Maildir" / "new").iterdir()
    assert read(file).recipients == ("Fred+lists@Example.org", "Postmaster")


async def test_two_ports(tmp_path: Path) -> None:
    """The policies, AUTH and the recipients are those of each port; the store and the statistics are shared."""
    pem, options = certificate(tmp_path)
    async with example("two_ports.py", "0", *options, cwd=tmp_path) as program:
        public, submission = [int(port) for port in await program.out.wait_for_count(2, r"listening on port (\d+)")]
        for recipient, reply in ("fred@example.org", "450 4.7.1 Greylisted"), ("you@example.net", "550 5.1.1"):
            async with connect(HOST, public, tls="never") as client:
                assert "AUTH" not in client.offered
                await client.mail("me@example.net")
                with pytest.raises(ReplyError, match=re.escape(reply)):
                    await client.rcpt(recipient)  # a further reply would be delayed
        settings: dict[str, Any] = {"tls": "required", "ssl_context": client_context(pem)}
        async with connect(HOST, submission, **settings) as client:
            with pytest.raises(ReplyError, match=r"530 5\.7\.0"):
                await client.send("fred@example.org", ["you@example.net"], MESSAGE)
        for user, password in ("fred", "wrong"), ("barney", "secret"), ("barney", "wrong"):
            with pytest.raises(ReplyError, match=r"535 5\.7\.8"):
                async with connect(HOST, submission, **settings, auth=PasswordCredentials(user, password)):
                    raise AssertionError("logged in")
        async with connect(HOST, submission, **settings, auth=PasswordCredentials("fred", "secret")) as client:
            await client.send("fred@example.org", ["you@example.net"], MESSAGE)
    assert re.search(r"stopped: Drained\(.*Statistics\(sessions_total=7, messages=1, ", program.out.text)
    assert len(list((tmp_path / "Maildir" / "new").iterdir())) == 1


async def test_to_channel(tmp_path: Path) -> None:
    async with example("to_channel.py", cwd=tmp_path) as program:
        await program.send("me@example.net", ["you@example.org"], MESSAGE)
        await program.out.wait_for("^me@example.net: hi\n")


async def test_consumer(tmp_path: Path) -> None:
    """It gets the messages of an intake, those from before its start too, and goes on after a restart."""
    store = f"sqlite:{tmp_path / 'mail.db'}"
    async with serving("--store", store, cwd=tmp_path) as intake:
        await intake.send("me@example.net", ["you@example.org", "her@example.org"], MESSAGE)
        for number in ("one", "two"):
            async with running(str(EXAMPLES / "consumer.py"), store, cwd=tmp_path) as program:
                await intake.send("me@example.net", ["you@example.org"], b"Subject: %b\r\n\r\n" % number.encode())
                await program.out.wait_for(f"me@example.net you@example.org {number}\n")
                program.signal(signal.SIGINT)
                assert await program.wait() == 0
            assert ("hi\n" in program.out.text) == (number == "one")


async def test_forward(tmp_path: Path) -> None:
    async with serving("--accept", "example.org", cwd=tmp_path) as next_server:
        async with example("forward.py", "--to", f"{HOST}:{next_server.port}", cwd=tmp_path) as program:
            async with connect(HOST, program.port) as client:
                recipients = ["you@example.org", "you@elsewhere.example", "her@example.org"]
                result = await client.send("me@example.net", recipients, MESSAGE)
            assert [each.recipient for each in result.accepted] == ["you@example.org", "her@example.org"]
            assert [(each.recipient, each.reply.code) for each in result.rejected] == [("you@elsewhere.example", 554)]
            next_server.signal(signal.SIGTERM)
            await next_server.wait()
            async with connect(HOST, program.port) as client:
                with pytest.raises(AllRecipientsRejectedError, match=r"451 4\.4\.1 The next server"):
                    await client.send("me@example.net", ["you@example.org"], MESSAGE)
    assert len(list((tmp_path / "Maildir" / "new").iterdir())) == 2


async def test_report(tmp_path: Path) -> None:
    async with running(str(EXAMPLES / "test_report.py"), cwd=tmp_path) as program:
        assert await program.wait() == 0
    assert "Ran 1 test in" in program.err.text
    assert program.err.text.endswith("\nOK\n")


async def test_support_desk(tmp_path: Path) -> None:
    """The ports have their policies, and the reply of an agent to a ticket is sent to the relay."""
    pem, options = certificate(tmp_path)
    async with serving("--accept", "example.net", cwd=tmp_path) as relay:
        arguments = ["desk", f"{HOST}:{relay.port}", "0", *options]
        async with example("support_desk.py", *arguments, cwd=tmp_path, port_at=2) as program:
            public, submission = [int(port) for port in await program.out.wait_for_count(2, r"listening on port (\d+)")]
            for recipient, reply in ("support@example.org", "Greylisted"), ("you@example.net", "No such user here"):
                async with connect(HOST, public, tls="never") as client:
                    with pytest.raises(AllRecipientsRejectedError, match=reply):
                        await client.send("me@example.net", [recipient], MESSAGE)
            with closing(sqlite3.connect(tmp_path / "desk" / "desk.db")) as database, database:
                database.execute("INSERT INTO tickets (customer) VALUES ('me@example.net')")
            settings: dict[str, Any] = {"ssl_context": client_context(pem), "auth": ("fred", "secret")}
            async with connect(HOST, submission, **settings) as client:
                answer = MESSAGE.replace(b"hi", b"Re: [#1] hi")
                result = await client.send("support@example.org", ["me@example.net"], answer)
                assert result.accepted[0].reply.text == "Ok: ticket 1"
            await program.out.wait_for("message .* to me@example.net: sent")
    with closing(sqlite3.connect(tmp_path / "desk" / "desk.db")) as database:
        assert database.execute("SELECT recipient, state FROM outbox").fetchall() == [("me@example.net", "sent")]
    (file,) = (tmp_path / "Maildir" / "new").iterdir()
    assert read(file).message == answer


@pytest.mark.parametrize(
    "expression",
    [
        "not half_stored",
        *(pytest.param(sweep, marks=pytest.mark.exhaustive) for sweep in ("cancel", "fail", "stop", "kill")),
    ],
)
@pytest.mark.timeout(600)
def test_tests_of_the_support_desk(expression: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the application passes its tests in a project of its own."""
    monkeypatch.setenv("PYTHONPATH", installed(pytester.path))
    pytester.makeini(INI)
    for name in ("attachments.py", *APPLICATION):
        shutil.copy(EXAMPLES / name, pytester.path)
    passed = {"not half_stored": 5}.get(expression, 1)
    pytester.runpytest_subprocess("-k", expression, "-p", "no:cacheprovider").assert_outcomes(
        passed=passed, deselected=9 - passed
    )


async def test_full_channel_makes_the_client_wait() -> None:
    sending, receiving = trio.open_memory_channel[object](0)
    server = Server(load("to_channel").ToChannel(sending))
    client_stream, server_stream = trio.testing.memory_stream_pair()

    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, server_stream)
            await client_stream.send_all(
                b"HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n" + MESSAGE + b".\r\n"
            )
            await trio.testing.wait_all_tasks_blocked()
            received = bytes(await client_stream.receive_some())
            assert received.endswith(b"\r\n354 End data with <CR><LF>.<CR><LF>\r\n")

            await receiving.receive()

            assert (await client_stream.receive_some()).startswith(b"250 2.0.0 Ok: queued as ")
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("password", "code"), [("secret", 235), ("wrong", 535)])
async def test_mechanism_of_ones_own(password: str, code: int, autojump_clock: trio.testing.MockClock) -> None:
    example = load("sasl_mechanism")
    client_end, server_end = trio.testing.memory_stream_pair()
    server = Server(example.Users(), name="mx.test", extensions=standard(Auth(mechanisms=[example.Digest()])))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, server_end)
        settings: dict[str, Any] = {"name": "client.test", "tls": "never", "allow_cleartext": True}
        async with Client(client_end, **settings, auth_mechanisms=[example.Digest()]) as client:
            try:
                reply = await client.auth(("fred", password))
            except ReplyError as error:
                reply = error.reply
    assert reply.code == code


async def test_webhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the secret of the application messages are stored, with another one they get 451."""
    secrets = ["whsec_" + letter * 44 for letter in "ab"]
    monkeypatch.setenv("SMTP_TRIO_WEBHOOK_SECRET", secrets[0])
    async with example("webhook.py", "received", cwd=tmp_path, port_at=1) as program:
        url = f"http://{HOST}:{program.port}/mail"
        async with open_memory_server(Webhook(url, secret=secrets[0])) as server, server.client() as client:
            result = await client.send("me@example.net", ["you@example.org"], MESSAGE)
            with pytest.raises(ReplyError, match=r"550 5\.7\.1 No such user"):
                await client.send("me@example.net", ["nobody@example.org"], MESSAGE)
        async with open_memory_server(Webhook(url, secret=secrets[1])) as server, server.client() as client:
            with pytest.raises(ReplyError, match="451"):
                await client.send("me@example.net", ["you@example.org"], MESSAGE)
    [message] = (tmp_path / "received").glob("*.eml")
    assert message.read_bytes() == MESSAGE
    assert message.stem in result.accepted[0].reply.text
    assert '"sender": "me@example.net"' in message.with_suffix(".json").read_text()


async def test_outbox(tmp_path: Path) -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        smarthost = Server(inbox)
        [listener] = await nursery.start(smarthost.serve, 0, HOST)
        port = listener.socket.getsockname()[1]
        database = str(tmp_path / "mail.db")
        async with example("outbox.py", database, HOST, str(port), cwd=tmp_path, port_at=3) as program:
            await program.send("me@example.net", ["you@example.org"], MESSAGE)
            [mail] = await inbox.wait_for(1)
        assert program.out.text.endswith("relayed 1\n")
        await smarthost.stop()
    assert mail.raw.endswith(MESSAGE)
