"""The ``Received:`` field (RFC 5321 4.4, RFC 3848, RFC 6531 4.3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from email.parser import BytesParser
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
        (Peer("mail.example", 1, "tcp"), None, "unknown [mail.example]"),
        (Peer("x]) by evil\r\nSubject: x", 1, "tcp"), None, "unknown [IPv6:x]??by?evil??Subject:?x]"),
        (Peer("192.0.2.1", 1, "tcp"), "a) by evil\r\nSubject: x", "a??by?evil??Subject:?x [192.0.2.1]"),
    ],
)
async def test_peer(
    peer: Peer, name: str | None, comment: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The name from the DNS is cleaned like the name in HELO."""
    monkeypatch.setattr(server_module, "endpoints", lambda stream, accepted: (peer, peer))
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


# --- messages that do not begin with a field ------------------------------------------------------------------------

NOT_FIELDS = [
    b" from forged.test by mx.test; Mon, 1 Jan 2024 00:00:00 +0000\r\nSubject: x\r\n\r\nx\r\n",
    b"\tfor <forged@client.test>\r\n\r\nx\r\n",
    b"From me@client.test Mon Jan  1 00:00:00 2024\r\nSubject: x\r\n\r\nx\r\n",
    b"\xef\xbb\xbfSubject: x\r\n\r\nx\r\n",
    b": x\r\nSubject: x\r\n\r\nx\r\n",
    b"plain text\r\n",
    b"plain\r\n",
    b"x" * 3000 + b":\r\n",
    b" \r\nSubject: x\r\n",
]
FIELDS = [
    b"Subject: x\r\n continued\r\n\r\nx\r\n",
    b"X:\r\n",
    b"Old-Field : x\r\n\r\nx\r\n",
    b"\r\n no header\r\n",
    b"",
]


class Prepending(RecordingHooks):
    """Hooks that put the field before the message; it is asked for before or after the message is read."""

    def __init__(self, *, field_first: bool) -> None:
        super().__init__()
        self.field_first = field_first
        self.results: list[tuple[bytes, bytes]] = []

    async def data(self, session: Session, body: Body) -> None:
        field = session.received() if self.field_first else b""
        message = await body.read()
        # A second call must not add a second empty line.
        self.results.append((session.received(), message) if not self.field_first else (field, message))
        assert self.field_first is False or session.received() == field


async def store_with_field(message: bytes, *, field_first: bool, chunk: int = 0) -> tuple[bytes, bytes]:
    hooks = Prepending(field_first=field_first)
    async with connected(Server(hooks, name=NAME, now=lambda: WHEN)) as client:
        await client.open()
        if chunk:
            for at in range(0, len(message), chunk):
                piece = message[at : at + chunk]
                await client.send(b"BDAT %d\r\n" % len(piece) + piece)
                await client.expect("250")
            await client.command("BDAT 0 LAST", "250")
        else:
            await client.command("DATA", "354")
            await client.send(message + b".\r\n")
            await client.expect("250")
    return hooks.results[0]


@pytest.mark.parametrize("field_first", [True, False])
@pytest.mark.parametrize("chunk", [0, 1, 7])
@pytest.mark.parametrize("message", NOT_FIELDS, ids=lambda message: repr(message[:8]))
async def test_message_cannot_continue_the_field(message: bytes, chunk: int, field_first: bool) -> None:
    if len(message) > 1000 and chunk == 1:
        chunk = 400
    field, body = await store_with_field(message, field_first=field_first, chunk=chunk)
    assert field + body == parsed_field(field) + b"\r\n" + message
    parsed = BytesParser().parsebytes(field + body)
    assert parsed.keys() == ["Received"]
    assert "forged" not in parsed["Received"]


@pytest.mark.parametrize("field_first", [True, False])
@pytest.mark.parametrize("chunk", [0, 1, 7])
@pytest.mark.parametrize("message", FIELDS, ids=lambda message: repr(message[:8]))
async def test_message_with_a_header_follows_the_field_directly(message: bytes, chunk: int, field_first: bool) -> None:
    field, body = await store_with_field(message, field_first=field_first, chunk=chunk)
    assert (field, body) == (parsed_field(field), message)


class PrependingLate(RecordingHooks):
    """Hooks that ask for the field after the first piece of the message."""

    async def data(self, session: Session, body: Body) -> None:
        first = await anext(body, b"")
        self.stored = (session.received(), first + await body.read())


@pytest.mark.parametrize("message", [*NOT_FIELDS, *FIELDS], ids=lambda message: repr(message[:8]))
async def test_field_after_the_first_piece(message: bytes) -> None:
    hooks = PrependingLate()
    async with connected(Server(hooks, name=NAME, now=lambda: WHEN)) as client:
        await client.open()
        for at in range(min(len(message), 20)):
            await client.send(b"BDAT 1\r\n" + message[at : at + 1])
            await client.expect("250")
        await client.send(b"BDAT %d LAST\r\n" % len(message[20:]) + message[20:])
        await client.expect("250")
    field, body = hooks.stored
    empty_line = b"\r\n" if message in NOT_FIELDS else b""
    assert (field, body) == (parsed_field(field) + empty_line, message)


@pytest.mark.parametrize("chunk", [1, 3])
async def test_message_that_ends_in_its_first_line(chunk: int) -> None:
    field, body = await store_with_field(b"Subject", field_first=True, chunk=chunk)
    assert (field, body) == (parsed_field(field), b"\r\nSubject")


def parsed_field(octets: bytes) -> bytes:
    """Return the field at the beginning of ``octets``."""
    match = FIELD.match(octets.decode())
    assert match is not None
    return match[0].encode()
