"""``smtp-trio inbox`` in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import trio
from attrs import define
from processes import HOST, Program, run, running

from smtp_trio._cli.main import main, make_parser
from smtp_trio.stores import SQLite

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"


@define
class Inbox:
    """A running inbox."""

    program: Program
    url: str

    async def subjects(self) -> list[str]:
        """Return the subjects of the messages that are shown, the newest first."""
        return [message["subject"] for message in (await self.get("/api/messages"))["messages"]]

    async def get(self, path: str) -> Any:
        """Return the JSON at a path."""

        def read() -> Any:
            with urlopen(Request(self.url + path)) as response:
                return json.load(response)

        return await trio.to_thread.run_sync(read)


@asynccontextmanager
async def inbox(*options: str, cwd: Path, without: str = "") -> AsyncIterator[Inbox]:
    """Run the inbox on free ports; the block begins when it is ready."""
    async with running("-m", "smtp_trio", "inbox", "--port", "0", "--http", "0", *options, cwd=cwd) as program:
        found = await program.out.wait_for(r"mail to 127\.0\.0\.1:(\d+) is shown at (http://127\.0\.0\.1:\d+)\n")
        program.port = int(found[1])
        yield Inbox(program, found[2])


def test_default_options() -> None:
    options = make_parser(["inbox"]).parse_args(["inbox"])
    assert (options.host, options.port, options.http, options.store) == (HOST, 1025, (HOST, 8025), None)


async def test_mail_from_anybody_to_anybody_is_shown(tmp_path: Path) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def dialogue(client: smtplib.SMTP) -> None:
        client.sendmail("", ["Postmaster", "anybody@example.com"], MESSAGE)
        client.login("any user", "without TLS")
        client.starttls(context=context)
        client.login("any user", "any password")
        text = "Subject: für dich\r\n\r\nüber 8BITMIME\r\n".encode()
        client.sendmail("jürgen@bücher.example", ["用户@例子.example"], text, ["SMTPUTF8", "BODY=8BITMIME"])

    async with inbox("--starttls", cwd=tmp_path) as running_inbox:
        await running_inbox.program.client(dialogue)
        [second, first] = (await running_inbox.get("/api/messages"))["messages"]
        assert (first["sender"], first["recipients"]) == ("", ["Postmaster", "anybody@example.com"])
        assert (second["subject"], second["auth"]) == ("für dich", "any user")
        assert second["tls"].startswith("TLSv1.3")
        assert "warning" not in running_inbox.program.out.text
    assert await trio.to_thread.run_sync(lambda: list(tmp_path.iterdir())) == []


async def test_certificate_is_valid_for_this_machine(tmp_path: Path) -> None:
    def dialogue(client: smtplib.SMTP) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client.starttls(context=context)
        assert isinstance(client.sock, ssl.SSLSocket)
        certificate = client.sock.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate

    async with inbox("--starttls", cwd=tmp_path) as running_inbox:
        certificate = await running_inbox.program.client(dialogue)
    assert b"localhost" in certificate
    assert socket.inet_aton(HOST) in certificate


async def test_oldest_messages_are_dropped(tmp_path: Path) -> None:
    async with inbox("--messages", "2", "--octets", "1M", cwd=tmp_path) as running_inbox:
        for n in range(4):
            await running_inbox.program.send("me@example.net", ["you@example.org"], b"Subject: %d\r\n\r\n" % n)
        assert await running_inbox.subjects() == ["3", "2"]
        size = await running_inbox.program.client(lambda client: client.ehlo()[1])
        assert b"SIZE 1048576" in size
        with pytest.raises(smtplib.SMTPSenderRefused, match="552"):
            await running_inbox.program.send("me@example.net", ["you@example.org"], b"x" * (1 << 20 | 1))


async def test_mail_can_be_kept_in_a_store(tmp_path: Path) -> None:
    async with inbox("--store", "sqlite:mail.db", cwd=tmp_path) as running_inbox:
        await running_inbox.program.send("me@example.net", ["you@example.org"], MESSAGE)
        assert await running_inbox.subjects() == ["hi"]
    async with SQLite(tmp_path / "mail.db") as store:
        assert [entry.subject async for entry in store] == ["hi"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """Also with a session in the middle of a message, and a browser that receives events."""
    async with inbox(cwd=tmp_path) as running_inbox:
        smtp = await trio.open_tcp_stream(HOST, running_inbox.program.port)
        await smtp.receive_some()
        await smtp.send_all(b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")
        http = await trio.open_tcp_stream(HOST, int(running_inbox.url.rpartition(":")[2]))
        await http.send_all(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await http.receive_some()
        running_inbox.program.signal(number)
        with trio.fail_after(
            25
        ):  # a session has five minutes for the rest of its message, and 30 s when the server stops
            assert await running_inbox.program.wait() == 0
        assert re.search(r"stopped; messages accepted: 0", running_inbox.program.out.text)
        assert running_inbox.program.err.text == ""
        await smtp.aclose()
        await http.aclose()


@pytest.mark.parametrize("option", ["--port", "--http"])
async def test_port_in_use(tmp_path: Path, option: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        other = "--http" if option == "--port" else "--port"
        code, out, err = await run("-m", "smtp_trio", "inbox", option, str(port), other, "0", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("smtp-trio: error: ")
    assert err.endswith(
        f"cannot listen on 127.0.0.1, port {port}: Address already in use: another program is listening there; "
        f"choose another {option}\n"
    )


@pytest.mark.parametrize("missing", ["starlette", "nh3"])
async def test_missing_extra(tmp_path: Path, missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from smtp_trio._cli.main import main; sys.exit(main(['inbox']))"
    )
    code, out, err = await run("-c", program, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert re.match(rf"smtp-trio: error: smtp-trio inbox needs {missing}\S*, which is not installed: ", err)
    assert err.endswith("python -m pip install 'smtp-trio[web]'\n")


async def test_certificate_without_its_library(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['trustme'] = None; from smtp_trio._cli.main import main; "
        "sys.exit(main(['inbox', '--starttls']))"
    )
    code, out, err = await run("-c", program, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "--starttls needs trustme, which is not installed: python -m pip install 'smtp-trio[web]'" in err


async def test_starttls_is_not_offered_by_default(tmp_path: Path) -> None:
    """Clients that use it whenever it is offered would not accept the certificate."""
    async with inbox(cwd=tmp_path) as running_inbox:
        assert b"STARTTLS" not in await running_inbox.program.client(lambda client: client.ehlo()[1])
        assert await running_inbox.get("/api/sessions") is not None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("--store sqlite:mail.db --messages 5", "--messages and --octets cannot be combined with --store"),
        ("--octets 0", "--octets must be >= 1, got 0"),
        (
            "--messages 0",
            "argument --messages: must be a number from 1 to 1000000, got '0' (see `smtp-trio inbox --help`)",
        ),
    ],
)
def test_invalid_options(options: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inbox", *options.split()]) == 2
    assert capsys.readouterr().err == f"smtp-trio: error: {error}\n"


async def test_page_that_others_can_reach_needs_a_token(tmp_path: Path) -> None:
    code, _, err = await run("-m", "smtp_trio", "inbox", "--port", "0", "--http", "*:0", cwd=tmp_path)
    assert code == 2
    assert err.endswith("add --http-token-file or --http-auth-file\n")
