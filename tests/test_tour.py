"""The programs of docs/tour, and the server on the first page: each receives a message."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blocks
import pytest
import trio
from attrs import evolve
from helpers import NAME, authority, client_tls, server_tls
from ports import free_port
from processes import HOST, TIMEOUT

import smtp_trio
from smtp_trio import ConnectionLostError, PasswordCredentials, Result, Server
from smtp_trio.stores import Maildir, read
from smtp_trio.testing import Inbox, open_memory_server, open_test_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
RECIPIENTS = ("you@example.org", "you@elsewhere.example")

[INTAKE, FILES, TLS, UNIX, PROCESSES, SUBMISSION, FUNCTIONS, MAILBOX, SQLITE, OUTBOX] = [
    block for block in blocks.PYTHON if block.page == "tour"
]
[INDEX] = [block for block in blocks.PYTHON if block.page == "index"]


LOGIN: dict[str, Any] = {"tls": "required", "ssl_context": client_tls(), "server_hostname": NAME}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the programs in an empty directory."""
    monkeypatch.chdir(tmp_path)


async def send(
    host: str | PathLike[str], port: int, recipients: tuple[str, ...] = RECIPIENTS, **settings: Any
) -> Result:
    """Send the message as soon as the server listens."""
    with trio.fail_after(TIMEOUT):
        while True:
            try:
                async with smtp_trio.connect(host, port, **settings) as client:
                    return await client.send("me@example.net", recipients, MESSAGE)
            except ConnectionLostError:
                await trio.lowlevel.checkpoint()


async def send_to_server(server: Server, **settings: Any) -> Result:
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(server.serve, 0, HOST)
        result = await send(HOST, listener.socket.getsockname()[1], **settings)
        await server.stop()
    return result


async def send_to_program(main: Callable[[], Any], host: str | PathLike[str], port: int) -> Result:
    """Run the main function of a program until it has received the message."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(main)
        result = await send(host, port)
        nursery.cancel_scope.cancel()
    return result


def accepted(result: Result) -> list[str]:
    return [outcome.recipient for outcome in result.accepted]


def replies(result: Result) -> set[str]:
    return {str(outcome.reply) for outcome in result.accepted}


def contents(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def stored() -> list[bytes]:
    return [read(path).message for path in contents(Path("Maildir", "new"))]


async def test_server_for_one_domain(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    result = await send_to_program(INTAKE.run(port)["main"], HOST, port)
    assert accepted(result) == ["you@example.org"]
    out = f"listening on {HOST} {port}\nme@example.net -> you@example.org 22 octets\n"
    assert capsys.readouterr().out == out


async def test_first_page(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    await send_to_program(INDEX.run(port)["main"], HOST, port)
    assert capsys.readouterr().out == MESSAGE.decode() + "\n"


async def test_files(tmp_path: Path) -> None:
    result = await send_to_server(Server(FILES.run()["Files"](tmp_path)))
    [path] = contents(tmp_path)
    assert path.read_bytes() == MESSAGE
    assert replies(result) == {f"250 2.0.0 Ok: stored as {path.name}"}


async def test_files_without_space(tmp_path: Path) -> None:
    files = FILES.run()["Files"](tmp_path)
    async with open_memory_server(files, size=0) as server, server.client() as client:
        await client.mail("me@example.net", size=1 << 60)
        await client.rcpt("you@example.org")
        with pytest.raises(smtp_trio.ReplyError, match=r"452 4\.3\.1 Insufficient system storage"):
            await client.data(MESSAGE)
    assert contents(tmp_path) == []


async def test_files_are_not_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Existing(FILES.run()["Files"]):  # type: ignore[misc]
        async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> object:
            assert session.envelope is not None
            (tmp_path / session.envelope.id).write_bytes(b"existing")
            return await super().data(session, body)

    with pytest.RaisesGroup(pytest.RaisesExc(smtp_trio.AllRecipientsRejectedError, match=r"451 4\.3\.0")):
        await send_to_server(Server(Existing(tmp_path)))
    [path] = contents(tmp_path)
    assert path.read_bytes() == b"existing"
    assert "FileExistsError" in caplog.text


async def test_tls_and_several_ports(tmp_path: Path) -> None:
    ports = {"25": free_port(), "465": free_port()}
    source, replaced = re.subn(r"(?<=server\.serve, )(25|465)\b", lambda match: str(ports[match[0]]), TLS.source)
    assert replaced == 2
    certificate = authority().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    main = evolve(TLS, source=source).run()["main"]
    hooks = Maildir("Maildir")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(main, hooks, tmp_path / "certificate", tmp_path / "key")
        for port, tls in zip(ports.values(), ("required", "implicit"), strict=True):
            await send("localhost", port, tls=tls, ssl_context=client_tls())
        nursery.cancel_scope.cancel()
    assert stored() == [MESSAGE, MESSAGE]


async def test_unix_socket(short_path: Path) -> None:
    main = UNIX.run()["main"]
    await send_to_program(lambda: main(str(short_path / "socket")), short_path / "socket", 0)
    assert stored() == [MESSAGE]


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
async def test_several_processes() -> None:
    port = free_port()
    await send_to_program(PROCESSES.run(port)["main"], HOST, port)
    assert stored() == [MESSAGE]


async def test_authentication(capsys: pytest.CaptureFixture[str]) -> None:
    server = SUBMISSION.run()["submission_server"](server_tls())
    await send_to_server(server, auth=PasswordCredentials("fred", "correct horse"), **LOGIN)
    assert capsys.readouterr().out == "fred sends 22 octets\n"


@pytest.mark.parametrize("user", ["fred", "barney"])
async def test_failed_authentication(user: str) -> None:
    server = SUBMISSION.run()["submission_server"](server_tls())
    with pytest.RaisesGroup(pytest.RaisesExc(smtp_trio.ReplyError, match=r"535 5\.7\.8 Authentication credentials")):
        await send_to_server(server, auth=PasswordCredentials(user, "wrong"), **LOGIN)


async def test_functions(capsys: pytest.CaptureFixture[str]) -> None:
    result = await send_to_server(FUNCTIONS.run()["server"])
    assert accepted(result) == ["you@example.org"]
    assert capsys.readouterr().out == MESSAGE.decode() + "\n"


async def test_store_with_recipients() -> None:
    result = await send_to_server(MAILBOX.run()["mail_server"]("Maildir"))
    assert accepted(result) == ["you@example.org"]
    assert stored() == [MESSAGE]


async def test_store_used_by_a_hook() -> None:
    intake = SQLITE.run()["Intake"]("mail.db")
    result = await send_to_server(Server(intake))
    assert len(result.accepted) == 2
    assert all(reply.startswith("250 2.0.0 Ok: stored as ") for reply in replies(result))


async def test_background_task_sends_the_rest_before_the_end() -> None:
    """The smart host accepts nothing before the server has stopped."""
    stopped, deferred = trio.Event(), Inbox()

    class SmartHost(smtp_trio.Hooks):
        async def data(
            self, session: smtp_trio.Session, body: smtp_trio.Body
        ) -> smtp_trio.Reply | Sequence[smtp_trio.Reply | None] | None:
            await stopped.wait()
            return await deferred.data(session, body)

    async with open_test_server(SmartHost()) as smart_host, trio.open_nursery() as nursery:
        port = free_port()
        nursery.start_soon(OUTBOX.run()["main"], port, smart_host.host, smart_host.port)
        for _ in range(3):
            assert (await send(HOST, port)).complete
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(TIMEOUT), pytest.raises(OSError, match="all attempts to connect"):
            while True:
                await (await trio.open_tcp_stream(HOST, port)).aclose()
        stopped.set()
    assert len(deferred) == 3
