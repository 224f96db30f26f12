"""The programs in examples/ work as their docstrings describe, and end on SIGINT."""

from __future__ import annotations

import importlib.util
import signal
import smtplib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
import trio
import trio.testing
import trustme
from processes import HOST, Program, client_context, running, serving

from smtp_trio import AllRecipientsRejectedError, Server, connect
from smtp_trio.stores import read

EXAMPLES = Path(__file__).parent.parent / "examples"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"


@asynccontextmanager
async def example(name: str, *options: str, cwd: Path) -> AsyncIterator[Program]:
    """Run an example on a free port. It has to end with exit code 0 on SIGINT."""
    async with running(str(EXAMPLES / name), "0", *options, cwd=cwd) as program:
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
        "catch_all.py",
        "etrn.py",
        "forward.py",
        "local_users.py",
        "test_report.py",
        "to_channel.py",
    ]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 100


async def test_catch_all(tmp_path: Path) -> None:
    async with example("catch_all.py", cwd=tmp_path) as program:
        await program.send("me@example.net", ["you@example.org", "her@example.org"], MESSAGE)
        await program.out.wait_for("^from me@example.net to you@example.org her@example.org\nSubject: hi\n\nhello\n")


async def test_local_users(tmp_path: Path) -> None:
    ca, pem, cert, key = trustme.CA(), tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
    ca.cert_pem.write_to_path(pem)
    issued = ca.issue_cert(HOST)
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)

    def dialogue(client: smtplib.SMTP) -> dict[str, tuple[int, bytes]]:
        client.ehlo()
        assert client.docmd("MAIL FROM:<me@example.net>")[0] == 530
        client.starttls(context=client_context(pem))
        recipients = ["Fred+lists@Example.org", "Postmaster", "barney@example.org", "fred@elsewhere.example"]
        return client.sendmail("me@example.net", recipients, MESSAGE)

    async with example("local_users.py", "--cert", str(cert), "--key", str(key), cwd=tmp_path) as program:
        assert await program.client(dialogue) == {
            "barney@example.org": (550, b"5.1.1 No such user here"),
            "fred@elsewhere.example": (550, b"5.7.1 Mail for this domain is not accepted here"),
        }
    assert "stopped: Drained(" in program.out.text

    (file,) = (tmp_path / "Maildir" / "new").iterdir()
    assert read(file).recipients == ("Fred+lists@Example.org", "Postmaster")


async def test_to_channel(tmp_path: Path) -> None:
    async with example("to_channel.py", cwd=tmp_path) as program:
        await program.send("me@example.net", ["you@example.org"], MESSAGE)
        await program.out.wait_for("^me@example.net: hi\n")


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
