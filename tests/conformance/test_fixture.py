"""The server for external conformance runners, over TCP: its mailboxes, its failing hooks and its profiles."""

from __future__ import annotations

import base64
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest
import trio
from helpers import NAME, Client, connect_tcp

from smtp_trio.stores import Stored, read

FIXTURE = Path(__file__).with_name("fixture.py")
PROFILES = ("mx", "submission", "smtps", "proxy", "lmtp", "xclient")
CREDENTIALS = base64.b64encode(b"\0test\0secret").decode()
WRONG_PASSWORD = base64.b64encode(b"\0test\0wrong").decode()
# The server makes its certificate when it starts and does not publish it, so that it cannot be verified.
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname = False
UNVERIFIED.verify_mode = ssl.CERT_NONE


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sink")


@pytest.fixture(scope="module")
def ports(sink: Path) -> Iterator[dict[str, int]]:
    options = [
        "--port=0",
        "--submission-port=0",
        "--smtps-port=0",
        "--proxy-port=0",
        "--lmtp-port=0",
        "--xclient-port=0",
        f"--sink={sink}",
    ]
    command = [sys.executable, str(FIXTURE), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            lines = [server.stdout.readline().split() for _ in PROFILES]
            yield {profile: int(port) for profile, _, port in lines}
        finally:
            server.terminate()
            assert server.wait(100) == 0


@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
@pytest.mark.slow
async def test_profile_with_a_store(tmp_path: Path, kind: str) -> None:
    """A message is in the store when it gets 250, and nothing is in the sink."""
    spool, content = tmp_path / "spool", b"Subject: a\r\n\r\nx"
    options = ["--port=0", "--spool-port=0", f"--spool={kind}:{spool}", f"--sink={tmp_path / 'sink'}"]
    with subprocess.Popen([sys.executable, str(FIXTURE), *options], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ports = {line.split()[0]: int(line.split()[2]) for line in (server.stdout.readline() for _ in range(2))}
            async with session(ports["spool"]) as client:
                await deliver(client, content, "250")
                (stored,) = stored_in(spool)
        finally:
            server.terminate()
            assert server.wait(100) == 0
    assert (stored.sender, stored.recipients, stored.message) == (
        "a@client.test",
        ("user@example.com",),
        content + b"\r\n",
    )
    assert files(tmp_path / "sink") == set()


def stored_in(spool: Path) -> list[Stored]:
    """Return the messages in a store."""
    if spool.is_dir():
        return [read(file) for file in (spool / "new").iterdir()]
    with closing(sqlite3.connect(spool)) as db:
        return [read(spool, uid) for (uid,) in db.execute("SELECT uid FROM messages").fetchall()]


@pytest.fixture
async def mx(ports: dict[str, int]) -> AsyncGenerator[Client]:
    async with session(ports["mx"]) as client:
        yield client


@asynccontextmanager
async def session(port: int, *, implicit_tls: bool = False) -> AsyncGenerator[Client]:
    """Connect and send EHLO; at the end send QUIT, after which the server must close the connection."""
    async with connect_tcp(port) as client:
        if implicit_tls:
            await handshake(client)
        await client.hello()
        yield client
        await client.quit()


async def handshake(client: Client) -> None:
    client.stream = trio.SSLStream(client.stream, UNVERIFIED, server_hostname=NAME)
    await client.stream.do_handshake()


async def starttls(client: Client) -> str:
    """Send STARTTLS and then EHLO; return the reply to EHLO."""
    await client.command("STARTTLS", "220 ")
    await handshake(client)
    return await client.hello()


def files(directory: Path) -> set[Path]:
    return set(directory.iterdir())


async def deliver(
    client: Client, content: bytes, reply: str, *, sender: str = "a@client.test", recipient: str = "user@example.com"
) -> str:
    """Send a message; return the reply to it, which must begin with ``reply``."""
    await client.command(f"MAIL FROM:<{sender}>", "250 2.1.0 ")
    await client.command(f"RCPT TO:<{recipient}>", "250 ")
    await client.command("DATA", "354 ")
    return await client.command(content + b"\r\n.", reply)


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("user@example.com", "250 2.1.5 "),
        ("recipient@EXAMPLE.com", "250 2.1.5 "),
        ("ok-any@example.com", "250 2.1.5 "),
        ("PostMaster", "250 2.1.5 "),
        ("pOSTmASTER@example.com", "250 2.1.5 "),
        ("@relay.test:user@example.com", "250 2.1.5 "),
        ("nobody@example.com", "550 5.1.1 "),
        ("later@example.com", "450 4.2.1 "),
        ("user@elsewhere.test", "550 5.7.1 "),
        ("postmaster@elsewhere.test", "550 5.7.1 "),
        ("crash@example.com", "451 4.3.0 "),
        ("badcode@example.com", "451 4.3.0 "),
    ],
)
async def test_reply_to_each_recipient(mx: Client, recipient: str, reply: str) -> None:
    await mx.command("MAIL FROM:<a@client.test>", "250 ")

    assert "SECRET" not in await mx.command(f"RCPT TO:<{recipient}>", reply)


async def test_line_break_in_a_reply_text_does_not_make_two_replies(mx: Client) -> None:
    await mx.command("MAIL FROM:<a@client.test>", "250 ")

    assert await mx.command("RCPT TO:<crlfreply@example.com>", "250") == "250-2.1.5 ok\n250 2.1.5 221 bye"
    await mx.command("NOOP", "250 2.0.0 ")


async def test_reply_text_in_utf8_is_sent_only_after_smtputf8(mx: Client) -> None:
    """RFC 6531 3.7.4. The text of the hook has letters outside of ASCII."""
    await mx.command("MAIL FROM:<a@client.test>", "250 ")
    assert await mx.command("RCPT TO:<utf8reply@example.com>", "250 ") == "250 2.1.5 p??jemce p?ijat"
    await mx.command("RSET", "250 ")
    await mx.command("MAIL FROM:<a@client.test> SMTPUTF8", "250 ")
    text = await mx.command("RCPT TO:<utf8reply@example.com>", "250 ")
    assert text == "250 2.1.5 p\u0159\u00edjemce p\u0159ijat"


async def test_accepted_message_is_written_to_the_sink(mx: Client, sink: Path) -> None:
    before = files(sink)

    await deliver(mx, b"Subject: x\r\n\r\n..\r\n", "250 2.0.0 ", sender="")

    (file,) = files(sink) - before
    assert file.read_bytes() == b"ENV <> <user@example.com>\nSubject: x\r\n\r\n.\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "recipient", "reply"),
    [
        (b"x", "ok-crashdata@example.com", "451 4.3.0 "),
        (b"x\n.\r\ny", "user@example.com", "550 5.5.2 "),
        (b"x" * 1048575, "user@example.com", "552 5.3.4 "),
    ],
    ids=["hook raises", "bare LF", "too big"],
)
async def test_rejected_message_is_not_written_to_the_sink(
    mx: Client, sink: Path, content: bytes, recipient: str, reply: str
) -> None:
    before = files(sink)

    assert "SECRET" not in await deliver(mx, content, reply, recipient=recipient)

    assert files(sink) == before


async def test_message_may_have_100_recipients(mx: Client) -> None:
    await mx.command("MAIL FROM:<a@client.test>", "250 ")
    for number in range(100):
        await mx.command(f"RCPT TO:<ok-{number}@example.com>", "250 ")

    await mx.command("RCPT TO:<user@example.com>", "452 4.5.3 ")


async def test_submission_requires_tls_and_auth(ports: dict[str, int]) -> None:
    async with session(ports["submission"]) as client:
        await client.command("MAIL FROM:<test@example.com>", "530 5.7.0 ")
        await client.command(f"AUTH PLAIN {CREDENTIALS}", "530 5.7.0 ")
        assert "AUTH PLAIN LOGIN" in await starttls(client)
        await client.command("MAIL FROM:<test@example.com>", "530 5.7.0 ")
        await client.command(f"AUTH PLAIN {WRONG_PASSWORD}", "535 5.7.8 ")
        await client.command(f"AUTH PLAIN {CREDENTIALS}", "235 2.7.0 ")
        await deliver(client, b"x", "250 ")


async def test_too_long_auth_response_ends_the_exchange_without_a_login(ports: dict[str, int]) -> None:
    async with session(ports["submission"]) as client:
        await starttls(client)
        await client.command("AUTH PLAIN", "334 ")
        await client.command("A" * 12290, "500 5.5.6 ")  # RFC 4954 4: the limit must be at least 12288 octets
        await client.command("NOOP", "250 ")
        await client.command("MAIL FROM:<test@example.com>", "530 5.7.0 ")


async def test_smtps_has_implicit_tls(ports: dict[str, int]) -> None:
    async with session(ports["smtps"], implicit_tls=True) as client:
        await client.command(f"AUTH PLAIN {CREDENTIALS}", "235 2.7.0 ")
        await deliver(client, b"x", "250 ")


async def test_proxy_requires_a_header(ports: dict[str, int]) -> None:
    async with connect_tcp(ports["proxy"]) as client:
        await client.send(b"PROXY TCP4 192.0.2.9 192.0.2.1 4242 25\r\n")
        await client.hello()
        await deliver(client, b"x", "250 ")
        await client.quit()
    async with connect_tcp(ports["proxy"]) as client:
        await client.send(b"EHLO client.test\r\n")
        with suppress(trio.BrokenResourceError):  # what the server has not read resets the connection
            await client.expect_end()


async def test_xclient_is_offered(ports: dict[str, int]) -> None:
    async with session(ports["xclient"]) as client:
        assert {"XCLIENT", "XFORWARD"} <= {line[4:].split()[0] for line in client.replies[-1].split("\n")}
        await client.command("XFORWARD ADDR=192.0.2.9", "250 ")


async def test_lmtp(ports: dict[str, int]) -> None:
    """One reply for each accepted recipient, in order; EHLO and HELO are refused (RFC 2033 4.2)."""
    async with connect_tcp(ports["lmtp"]) as client:
        await client.expect(f"220 {NAME} LMTP")
        await client.command("LHLO client.test", f"250-{NAME}")
        await client.command("MAIL FROM:<a@client.test>", "250")
        for name, code in (
            ("user", "250"),
            ("nobody", "550"),
            ("ok-full", "250"),
            ("user2", "250"),
            ("ok-closed", "250"),
        ):
            await client.command(f"RCPT TO:<{name}@example.com>", code)
        await client.command("DATA", "354")
        await client.send(b"Subject: t\r\n\r\nbody\r\n.\r\n")
        await client.expect("250", "452 4.2.2", "250", "550 5.2.1")
        await client.command("EHLO x", "500 5.5.1")
        await client.quit()
