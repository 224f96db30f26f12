"""Servers in lenient and strict mode: what hooks, stores, the log and trace fields get, and the settings."""

from __future__ import annotations

import logging
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers import MESSAGE, NAME, SECRET, Client, RecordingHooks, connected
from trio.testing import MockClock

from smtp_trio import Body, Envelope, Hello, Mail, Peer, Rcpt, Reply, Server, Session, standard
from smtp_trio._server import server as server_module
from smtp_trio.protocol import NORMAL, STRICT, lenient_mode
from smtp_trio.protocol.extensions import Auth
from smtp_trio.stores import Maildir, SQLite, read

#: The from clause of RFC 5321 4.4, with the TCP-info that this server writes.
FROM = re.compile(
    rb"Received: from ([A-Za-z0-9]+(?:[.-]+[A-Za-z0-9]+)*|\[[0-9.]+\]|\[IPv6:[0-9a-f:]+\])"
    rb" \((?:unknown \[[^]]+\]|memory|unix)\)\r\n\t"
)


class Office(RecordingHooks):
    """Hooks that record what they get for each message, and refuse the recipient "nobody"."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []
        self.envelopes: list[Envelope] = []
        self.fields: list[bytes] = []
        self.users: list[str | None] = []

    async def auth(self, session: Session, credentials: object) -> None:
        pass

    async def helo(self, session: Session, hello: Hello) -> None:
        self.seen.append(hello.domain)

    async def mail(self, session: Session, mail: Mail) -> None:
        assert session.envelope is not None
        assert session.envelope.sender is mail.sender
        self.seen.append(mail.sender.raw)

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        self.seen.append(rcpt.recipient.raw)
        return Reply(550, "No such user", "5.1.1") if rcpt.recipient.local == "nobody" else None

    async def data(self, session: Session, body: Body) -> None:
        self.fields.append(session.received())
        self.envelopes.append(body.envelope)
        self.users.append(session.user)
        await super().data(session, body)


def device_server(hooks: object, **settings: Any) -> Server:
    return Server(hooks, name=NAME, extensions=standard(Auth(cleartext=True)), **{"lenient": "example.org", **settings})  # type: ignore[arg-type]


async def scan(client: Client, hello: str | bytes = "HELO") -> None:
    """Send a message as a scanner does: HELO, AUTH, and mailboxes without a domain."""
    await client.expect("220")
    await client.command(hello, "250")
    await client.command(f"AUTH PLAIN {SECRET}", "235")
    await client.command("MAIL FROM:<scanner>", "250 2.1.0")
    await client.command("RCPT TO:<nobody>", "550 5.1.1")
    await client.command("RCPT TO:office@Branch.test.", "250 2.1.5")
    await client.command("DATA", "354")
    await client.send(MESSAGE + b".\r\n")
    await client.expect("250 2.0.0 Ok: queued as ")


async def test_device_delivers_a_message(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """Hooks, the envelope, the log and the trace field have the same repaired values."""
    caplog.set_level(logging.INFO, "smtp_trio.message")
    hooks = Office()
    async with connected(device_server(hooks)) as client:
        await scan(client)
        await client.quit()
    assert hooks.messages == [MESSAGE]
    assert hooks.users == ["fred"]
    assert hooks.seen == ["", "scanner@example.org", "nobody@example.org", "office@Branch.test"]
    (envelope,) = hooks.envelopes
    assert [str(path) for path in (envelope.sender, *envelope.recipients)] == [
        "scanner@example.org",
        "office@branch.test",
    ]
    assert (envelope.sender.sent, envelope.recipients[0].sent) == ("scanner", "office@Branch.test.")
    assert b"\r\n\tfor <office@Branch.test>;\r\n" in hooks.fields[0]
    refused, accepted = (record.__dict__["fields"] for record in caplog.records)
    assert (refused["sender"], refused["to"]) == ("scanner@example.org", ["nobody@example.org"])
    assert (accepted["sender"], accepted["to"], accepted["helo"]) == (
        "scanner@example.org",
        ["office@Branch.test"],
        None,
    )


@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
async def test_stores_keep_the_repaired_envelope(kind: str, tmp_path: Path) -> None:
    store = Maildir(tmp_path / "box") if kind == "maildir" else SQLite(tmp_path / "mail.db")
    async with connected(Server(store, name=NAME, lenient="example.org")) as client:
        await client.expect("220")
        for hello in ("EHLO", b"HELO \xfc"):
            await client.command(hello, "250")
            await client.command("MAIL FROM:<scanner>", "250")
            await client.command("RCPT TO:<office>", "250")
            await client.command("RCPT TO:<Postmaster>", "250")
            await client.command("DATA", "354")
            await client.send(MESSAGE + b".\r\n")
            await client.expect("250")
    if kind == "maildir":
        stored = [read(path) for path in (tmp_path / "box" / "new").iterdir()]
    else:
        with closing(sqlite3.connect(tmp_path / "mail.db")) as database:
            stored = [read(tmp_path / "mail.db", uid) for (uid,) in database.execute("SELECT uid FROM messages")]
    assert len(stored) == 2
    for message in stored:
        assert (message.sender, message.recipients) == ("scanner@example.org", ("office@example.org", "Postmaster"))


@pytest.mark.parametrize(
    "peer",
    [
        Peer("192.0.2.1", 4711, "tcp"),
        Peer("2001:db8::1", 4711, "tcp"),
        Peer("fe80::1%eth0", 4711, "tcp"),
        Peer("", None, "unix"),
        Peer("", None, "memory"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("hello", "name"),
    [
        ("HELO", None),
        ("EHLO ", None),
        ("HELO b\u00fcro.test", b"xn--bro-hoa.test"),
        ("EHLO b\u00fcro)\u202e from evil.test", None),
        (b"EHLO b\xfcro.test", None),
        (b"HELO \xff", None),
    ],
)
async def test_trace_field_and_log_are_valid(
    hello: str | bytes, name: bytes | None, peer: Peer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:  # fmt: skip
    """A client without a valid name is named by its address (RFC 5321 4.4), and its name is not recorded."""
    caplog.set_level(logging.DEBUG, "smtp_trio")
    monkeypatch.setattr(server_module, "endpoints", lambda stream, accepted: (peer, peer))
    hooks = Office()
    async with connected(device_server(hooks)) as client:
        await scan(client, hello)
    field = FROM.match(hooks.fields[0])
    assert field is not None, hooks.fields
    literal = peer.host.partition("%")[0]
    address = f"[IPv6:{literal}]" if ":" in literal else f"[{literal}]" if literal else "unknown"
    assert field[1] == (name or address.encode())
    assert hooks.fields[0].isascii()
    messages = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert all(message.isprintable() for _, message in messages)
    assert all(message.isascii() for level, message in messages if level > logging.DEBUG)  # DEBUG has the raw lines
    assert hooks.seen[0] == (name or b"").decode()


async def test_servers_of_different_modes_in_one_process(autojump_clock: MockClock) -> None:
    """What one of them has repaired is not accepted by the others, although they have the same extensions."""
    extensions = standard()
    expected = {"lenient": "250", "normal": "501", "strict": "501", "other": "250"}
    settings: dict[str, dict[str, Any]] = {
        "lenient": {"lenient": True},
        "normal": {},
        "strict": {"strict": True},
        "other": {"lenient": "other.test"},
    }
    domains: dict[str, str | None] = {}
    for _ in range(2):
        for mode, code in expected.items():
            hooks = Office()
            server = Server(hooks, name=NAME, extensions=extensions, **settings[mode])
            async with connected(server) as client:
                await client.hello()
                for line in ("MAIL FROM:<scanner>", "MAIL FROM:<scanner> SIZE=1"):
                    await client.command(line, code)
                    domains[mode] = str(hooks.seen[-1]).partition("@")[2] if code == "250" else None
                    await client.command("RSET", "250")
                await client.command("MAIL FROM: me@client.test", "501" if mode == "strict" else "250")
    assert domains == {"lenient": NAME, "normal": None, "strict": None, "other": "other.test"}


def test_settings() -> None:
    assert Server().strictness == NORMAL
    assert Server(strict=True).strictness == STRICT
    assert Server(name="MX.test", lenient=True).strictness == lenient_mode("mx.test")
    assert Server(lenient="b\u00fccher.test").strictness.default_domain == "xn--bcher-kva.test"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lenient": True, "strict": True}, ValueError, "strict cannot be combined with lenient"),
        ({"lenient": "a@b"}, ValueError, "lenient needs a domain or an address literal as default domain, got 'a@b'"),
        ({"lenient": ""}, ValueError, "lenient needs a domain"),
        ({"lenient": True, "name": "a@b"}, ValueError, "name: invalid host name: 'a@b'"),
        ({"lenient": True, "name": "mx.test."}, ValueError, "got 'mx.test.'"),
        ({"lenient": None}, TypeError, "lenient must be True, False or a domain, got None"),
        ({"lenient": 1}, TypeError, "got 1"),
    ],
)
def test_invalid_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Server(**settings)
