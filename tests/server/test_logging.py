"""Log records: their loggers and contents, and what is never logged."""

from __future__ import annotations

import base64
import logging

import pytest
from helpers import MESSAGE, NAME, START, RecordingHooks, connected, server_tls
from trio.testing import MockClock

from smtp_trio import Body, Credentials, Reply, Server, Session, standard
from smtp_trio.protocol import Command, Rcpt
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.extensions.auth import AuthCommand, AuthResponse

USER, PASSWORD = "fred", "correct horse battery staple"
PLAIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
ENCODED = base64.b64encode(PASSWORD.encode()).decode()


class OneUser(RecordingHooks):
    """Hooks that authenticate `USER`, and record the credentials."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.shown: list[object] = []

    async def message(self, session: Session, command: Command) -> None:
        self.shown.append(command)

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        self.shown.append(credentials)
        if self.broken:
            raise RuntimeError("the database is down")
        return None if credentials.password == PASSWORD else Reply(535, "No")


def serving(hooks: RecordingHooks) -> Server:
    return Server(hooks, name=NAME, tls=server_tls(), extensions=standard(Auth(cleartext=True)))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Records of all levels."""
    caplog.set_level(logging.DEBUG, "smtp_trio")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    """Return each record as a handler prints it, with its traceback."""
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    return [formatter.format(record) for record in log.records]


@pytest.mark.parametrize("broken", [False, True])
async def test_no_secret_is_logged(broken: bool, log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """Neither encoded nor decoded nor in a repr, also when the hook raises or the client makes an error."""
    hooks = OneUser(broken=broken)
    found = "454" if broken else "235"
    server = serving(hooks)
    for exchange in (
        [(f"AUTH PLAIN {PLAIN}", found)],
        [("AUTH PLAIN", "334"), (PLAIN, found)],
        [("AUTH LOGIN", "334"), (base64.b64encode(USER.encode()).decode(), "334"), (ENCODED, found)],
        [(f"AUTH LOGIN {base64.b64encode(USER.encode()).decode()}", "334"), (ENCODED, found)],
        [(f"AUTH PLAIN {PLAIN}!", "501")],
        [(f"AUTH PLAIN {PLAIN} {PLAIN}", "501")],
        [(f"AUTH XPLAIN {PLAIN}", "504")],
        [(f"AUTH {PLAIN}", "504")],
        [(f"AUTH PLAIN {base64.b64encode(PASSWORD.encode()).decode()}", "501")],
        [("AUTH LOGIN", "334"), ("*", "501"), (ENCODED, "500")],
        [("AUTH PLAIN", "334"), (PLAIN + "\n" + PLAIN, "500")],
    ):
        async with connected(server) as client:
            await client.hello()
            for line, code in exchange:
                await client.command(line, code)
    text = "\n".join([*lines(log), *map(repr, hooks.shown), *map(str, hooks.shown)])
    assert "AuthCommand(mechanism='PLAIN')" in text
    assert f"user='{USER}'" in text
    for secret in (PASSWORD, PLAIN, ENCODED, ENCODED.rstrip("=")):
        assert secret.lower() not in text.lower()  # verbs and mechanisms are logged in upper case
    # The hook gets the secret.
    assert any(isinstance(shown, Credentials) and shown.password == PASSWORD for shown in hooks.shown)


def test_no_secret_in_a_repr() -> None:
    for value in (
        Credentials("PLAIN", USER, PASSWORD),
        AuthCommand("PLAIN", f"\0{USER}\0{PASSWORD}".encode()),
        AuthResponse(ENCODED),
    ):
        for printed in (repr(value), str(value), f"{value}"):
            assert PASSWORD not in printed
            assert ENCODED not in printed


async def test_names_and_session_ids(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """Every record about a session has its id, in all loggers."""

    class Failing(RecordingHooks):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            if rcpt.recipient.user == "bug":
                raise RuntimeError("bug")
            return Reply(550, "No such user", "5.1.1") if rcpt.recipient.user == "nobody" else None

    hooks = Failing()
    async with connected(serving(hooks)) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@client.test>", "250")
        await client.command("RCPT TO:<nobody@mx.test>", "550")
        await client.command("RCPT TO:<bug@mx.test>", "451")
        await client.command("RSET", "250")
        await client.deliver()
        await client.command("NONSENSE", "500")
        await client.quit()
    (session,) = hooks.sessions
    assert {record.name for record in log.records} == {"smtp_trio.server", "smtp_trio.session", "smtp_trio.message"}
    assert all(session.id in line for line in lines(log))
    messages = [record for record in log.records if record.name == "smtp_trio.message"]
    assert [record.levelname for record in messages] == ["INFO"] * 3
    (error,) = (record for record in log.records if record.levelname == "ERROR")
    assert (error.name, error.getMessage()) == ("smtp_trio.server", f"{session.id}: rcpt hook failed")
    assert error.exc_info


async def test_one_line_for_each_message(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with connected(serving(RecordingHooks())) as client:
        await client.hello()
        reply = await client.deliver()
        await client.deliver(b"bare\nnewline\r\n", "550")
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"half a mess")
    first, second, third = (record.getMessage() for record in log.records if record.name == "smtp_trio.message")
    assert "from=<me@client.test> to=<you@mx.test>" in first
    assert f"size={len(MESSAGE)}" in first
    assert f'reply="{reply}"' in first
    assert reply.rpartition(" ")[2] in first
    assert "550 5.5.2" in second
    assert "no reply: the client disconnected" in third


async def test_clients_cause_no_warnings(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """A client cannot fill a log of warnings."""
    caplog.set_level(logging.WARNING, "smtp_trio")
    async with connected(serving(RecordingHooks())) as client:
        await client.hello()
        await client.deliver()
        for line in ("NONSENSE", "MAIL FROM:<a b>", "AUTH PLAIN ####", "\x00"):
            await client.command(line, "50")
        await client.command("STARTTLS", "220")
        await client.send(b"garbage" * 100)
    assert caplog.records == []


@pytest.mark.parametrize(
    "line", ["NOOP %s%d%n{0}", "%s%s%s", "VRFY %(name)s", "EHLO %s", "HELP %s", "MAIL FROM:<%s@%d.test>"]
)
async def test_client_data_is_not_used_as_a_format_string(
    line: str, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with connected(serving(RecordingHooks())) as client:
        await client.hello()
        await client.command(line, "")
        await client.command("RSET", "250")
        await client.deliver(b"%s\r\n")
        await client.quit()
    assert len(lines(log)) > 3  # `Formatter.format` would have raised


@pytest.mark.parametrize("octets", [b"\x1b[2J", b"\r", b"\x00", b"\x07", "\u202e".encode(), "\x85".encode(), b"\x7f"])
async def test_control_characters_are_not_logged(
    octets: bytes, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """A client cannot insert control characters or lines into the log."""
    hooks = RecordingHooks()
    async with connected(serving(hooks)) as client:
        await client.hello()
        for line in (
            b"EHLO a%sb",
            b"VRFY a%sb",
            b"NOOP a%sb",
            b"NON%sSENSE",
            b"MAIL FROM:<a%sb@c.test> SMTPUTF8",
            b'MAIL FROM:<"a%sb"@c>',
        ):
            await client.send(line % octets + b"\r\n")
            await client.reply()
        await client.command("RSET", "250")
        await client.send(START + b"DATA\r\n" + octets + b"\r\n.\r\n")
        await client.expect("250", "250", "354")
        await client.reply()
    assert [line for line in lines(log) if not line.isprintable()] == []


async def test_data_hook_may_log_the_envelope(autojump_clock: MockClock) -> None:
    shown = []

    class LogsEnvelope(RecordingHooks):
        async def data(self, session: Session, body: Body) -> None:
            shown.append(repr(session.envelope))
            await body.read()

    async with connected(serving(LogsEnvelope())) as client:
        await client.hello()
        await client.deliver()
    assert "me@client.test" in shown[0]


@pytest.mark.parametrize(("message", "lines"), [(b"a\nb\r\n", 1), (b"a\r\nb\r\n", 0)])
async def test_normalized_line_ends_are_logged(
    message: bytes, lines: int, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    hooks = RecordingHooks()
    async with connected(Server(hooks, name=NAME, newlines="normalize")) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(message + b".\r\n")
        await client.expect("250 2.0.0")
    assert hooks.messages == [b"a\r\nb\r\n"]
    found = [record for record in log.records if "was replaced by CRLF" in record.getMessage()]
    assert len(found) == lines
    assert all(hooks.sessions[0].id in record.getMessage() for record in found)
