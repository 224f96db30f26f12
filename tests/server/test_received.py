"""The ``Received:`` field (RFC 5321 4.4, RFC 3848, RFC 6531 4.3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from helpers import NAME, SECRET, Client, RecordingHooks, connected, server_tls
from trio.testing import MockClock

from smtp_trio import Body, Peer, Server, Session, standard
from smtp_trio._server import server as server_module
from smtp_trio.protocol.extensions import Auth

WHEN = datetime(2026, 11, 22, 9, 23, 26, tzinfo=timezone(timedelta(hours=5, minutes=30)))
#: from … (…) by … with … id … [for …]; date, each clause in a line of its own or not (RFC 5322 2.2.3)
FIELD = re.compile(
    r"Received: from (?P<helo>[^\s()<>;]+) \((?P<peer>[^()]*)\)"
    r"\s+by (?P<by>\S+) with (?P<with>[A-Z0-9]+) id (?P<id>[0-9a-f]+-[0-9]+)"
    r"(?:\s+for <(?P<for>[^>\s]+)>)?;\s+(?P<date>[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} [+-][0-9]{4})\r\n"
)


class FieldRecorder(RecordingHooks):
    """Hooks that keep the field of each message."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.fields: list[bytes] = []
        self.ids: list[str] = []

    async def connect(self, session: Session) -> None:
        session.peer.name = self.name

    async def auth(self, session: Session, credentials: object) -> None:
        pass

    async def data(self, session: Session, body: Body) -> None:
        self.fields.append(session.received())
        await body.read()
        assert session.received() == self.fields[-1]
        self.ids.append(body.envelope.id)


def parse(field: bytes) -> dict[str, Any]:
    """Return the clauses of a field. Its lines must end in CRLF and must not be too long."""
    assert field.endswith(b"\r\n")
    assert all(len(line) <= 998 for line in field.split(b"\r\n"))
    assert b"\r" not in field.replace(b"\r\n", b"")
    assert b"\n" not in field.replace(b"\r\n", b"")
    assert all(line[:1] in b"\t " for line in field.split(b"\r\n")[1:-1])
    match = FIELD.fullmatch(field.decode())
    assert match is not None, field
    return match.groupdict()


def serving(hooks: FieldRecorder, **settings: Any) -> Server:
    return Server(
        hooks, name=NAME, tls=server_tls(), extensions=standard(Auth(cleartext=True)), now=lambda: WHEN, **settings
    )


async def send(client: Client, hello: str = "EHLO client.test", mail: str = "", recipients: int = 1) -> None:
    if not client.replies:
        await client.expect("220")
    await client.command(hello, "250")
    await client.command(f"MAIL FROM:<me@client.test>{mail}", "250")
    for n in range(recipients):
        await client.command(f"RCPT TO:<You+{n}@MX.test>", "250")
    await client.command("DATA", "354")
    await client.send(b".\r\n")
    await client.expect("250")


async def test_grammar(autojump_clock: MockClock) -> None:
    """One field with all clauses, and none about TLS."""
    hooks = FieldRecorder()
    async with connected(serving(hooks)) as client:
        await send(client)
        reply = client.replies[-1]
    (field,) = hooks.fields
    clauses = parse(field)
    assert clauses == {
        "helo": "client.test",
        "peer": "memory",
        "by": NAME,
        "with": "ESMTP",
        "id": hooks.ids[0],
        "for": "You+0@MX.test",
        "date": "Sun, 22 Nov 2026 09:23:26 +0530",
    }
    assert parsedate_to_datetime(clauses["date"]) == WHEN
    assert reply.endswith(hooks.ids[0])


async def test_date_comes_from_now_with_a_numeric_offset(autojump_clock: MockClock) -> None:
    """A date in UTC has the offset +0000."""
    hooks = FieldRecorder()
    now = datetime(2027, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    async with connected(Server(hooks, name=NAME, now=lambda: now)) as client:
        await send(client)
    assert parse(hooks.fields[0])["date"] == "Sat, 02 Jan 2027 03:04:05 +0000"


async def test_now_is_aware() -> None:
    offset = Server().now().utcoffset()
    assert offset is not None


@pytest.mark.parametrize(
    ("tls", "auth", "hello", "mail", "with_"),
    [
        (False, False, "HELO a.test", "", "SMTP"),
        (False, False, "EHLO a.test", "", "ESMTP"),
        (True, False, "EHLO a.test", "", "ESMTPS"),
        (False, True, "EHLO a.test", "", "ESMTPA"),
        (True, True, "EHLO a.test", "", "ESMTPSA"),
        (False, False, "EHLO a.test", " SMTPUTF8", "UTF8SMTP"),
        (True, False, "EHLO a.test", " SMTPUTF8", "UTF8SMTPS"),
        (False, True, "EHLO a.test", " SMTPUTF8", "UTF8SMTPA"),
        (True, True, "EHLO a.test", " SMTPUTF8", "UTF8SMTPSA"),
    ],
)
async def test_with_type(tls: bool, auth: bool, hello: str, mail: str, with_: str, autojump_clock: MockClock) -> None:
    hooks = FieldRecorder()
    async with connected(serving(hooks), implicit_tls=tls) as client:
        if tls:
            await client.handshake()
        if auth:
            await client.hello()
            await client.command(f"AUTH PLAIN {SECRET}", "235")
        await send(client, hello, mail)
    assert parse(hooks.fields[0])["with"] == with_


async def test_with_type_after_starttls_and_by_message(autojump_clock: MockClock) -> None:
    """It describes the transaction of the message."""
    hooks = FieldRecorder()
    async with connected(serving(hooks)) as client:
        await send(client)
        await client.starttls()
        await send(client, mail=" SMTPUTF8")
        await send(client)
        await send(client, hello="HELO a.test")
    assert [parse(field)["with"] for field in hooks.fields] == ["ESMTP", "UTF8SMTPS", "ESMTPS", "SMTP"]
    assert len(set(hooks.ids)) == 4


async def test_for_clause_is_for_a_single_recipient_only(autojump_clock: MockClock) -> None:
    """Several recipients would reveal blind copies (RFC 5321 7.2)."""
    hooks = FieldRecorder()
    async with connected(serving(hooks)) as client:
        for recipients in (1, 2, 5):
            await send(client, recipients=recipients)
    assert [parse(field)["for"] for field in hooks.fields] == ["You+0@MX.test", None, None]


async def test_for_in_utf8(autojump_clock: MockClock) -> None:
    hooks = FieldRecorder()
    async with connected(serving(hooks)) as client:
        await client.hello()
        await client.send("MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<jürgen@bücher.example>\r\nDATA\r\n.\r\n".encode())
        await client.expect("250", "250", "354", "250")
    assert parse(hooks.fields[0])["for"] == "jürgen@bücher.example"


@pytest.mark.parametrize(
    ("peer", "name", "comment"),
    [
        (Peer("192.0.2.1", 4711, "tcp"), None, "unknown [192.0.2.1]"),
        (Peer("192.0.2.1", 4711, "tcp"), "client.example.net", "client.example.net [192.0.2.1]"),
        (Peer("2001:db8::1", 4711, "tcp"), None, "unknown [IPv6:2001:db8::1]"),
        (Peer("", None, "unix"), None, "unix"),
        (Peer("192.0.2.1", 1, "tcp"), "a) by evil\r\nSubject: x", "a??by?evil??Subject:?x [192.0.2.1]"),
    ],
)
async def test_peer(
    peer: Peer, name: str | None, comment: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The name from the DNS is cleaned like the name in HELO."""
    monkeypatch.setattr(server_module, "endpoints", lambda stream: (peer, peer))
    hooks = FieldRecorder(name)
    async with connected(serving(hooks)) as client:
        await send(client)
    assert parse(hooks.fields[0])["peer"] == comment


@pytest.mark.parametrize(
    ("hello", "shown"),
    [
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("(comment)", "?comment?"),
        ("a;b", "a?b"),
        ("<x>@y\\", "?x??y?"),
        ("a.test trailing words", "a.test"),
        ("x" * 300, "x" * 255),
    ],
)
async def test_name_in_hello_is_cleaned(hello: str, shown: str, autojump_clock: MockClock) -> None:
    """It has no characters that could begin another clause."""
    hooks = FieldRecorder()
    async with connected(serving(hooks)) as client:
        await send(client, f"EHLO {hello}")
    assert parse(hooks.fields[0])["helo"] == shown
