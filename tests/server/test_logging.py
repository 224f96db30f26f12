"""Log records: their loggers and contents, and what is never logged."""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from helpers import (
    MESSAGE,
    NAME,
    START,
    Client,
    RecordingHooks,
    connect_tcp,
    connected,
    listening,
    server_tls,
    sockets,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import Body, Credentials, Limits, Reply, Server, Session, Statistics, standard
from smtp_trio.protocol import Command, Mail, Rcpt
from smtp_trio.protocol.extensions import STANDARD, Auth, StartTls
from smtp_trio.protocol.extensions.auth import AuthCommand, AuthResponse

USER, PASSWORD = "fred", "correct horse battery staple"
PLAIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
ENCODED = base64.b64encode(PASSWORD.encode()).decode()
ENCODED_USER = base64.b64encode(USER.encode()).decode()
WRONG = base64.b64encode(f"\0{USER}\0hunter2".encode()).decode()


class OneUser(RecordingHooks):
    """Hooks that authenticate `USER`, and record the credentials."""

    def __init__(self, *, broken: bool = False, password: str = PASSWORD) -> None:
        super().__init__()
        self.broken = broken
        self.password = password
        self.shown: list[object] = []

    async def message(self, session: Session, command: Command) -> None:
        self.shown.append(command)

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        self.shown.append(credentials)
        if self.broken:
            raise RuntimeError("the database is down")
        return None if credentials.password == self.password else Reply(535, "No")


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
        [("AUTH LOGIN", "334"), (ENCODED_USER, "334"), (ENCODED, found)],
        [(f"AUTH LOGIN {ENCODED_USER}", "334"), (ENCODED, found)],
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
    assert 'line="AUTH PLAIN [hidden]" reply="' in text
    assert 'line="AUTH LOGIN" reply="334 ' in text
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
    assert error.name == "smtp_trio.server"
    assert error.getMessage() == f'{session.id} peer=memory rcpt hook failed: "RuntimeError: bug"'
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
    assert "incomplete: " in third
    assert third.endswith('stored=- reason="the client disconnected"')


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


# --- every session ----------------------------------------------------------------------------------------------------


def events(log: pytest.LogCaptureFixture, *names: str) -> list[dict[str, Any]]:
    """Return the fields of the records of these events, with the event's name; by default those above DEBUG."""
    return [
        {"event": record.__dict__["event"], **record.__dict__["fields"]}
        for record in log.records
        if (record.__dict__["event"] in names if names else record.levelno > logging.DEBUG)
    ]


async def only_connect(client: Client) -> None:
    """Read the greeting, and disconnect."""
    await client.expect("220")


async def only_ask(client: Client) -> None:
    await client.open()
    await client.quit()


async def fail_after_starttls(client: Client) -> None:
    await client.hello()
    await client.command("STARTTLS", "220")
    await client.send(b"garbage" * 100)
    await client.expect_end()


async def fail_in_a_handshake(client: Client) -> None:
    await client.send(b"EHLO client.test\r\n")


async def nothing(client: Client) -> None:
    """Disconnect at once."""


async def send_a_message(client: Client) -> None:
    await client.hello()
    await client.deliver()


async def be_silent(client: Client) -> None:
    await client.open()
    await client.expect("421 4.4.2")
    await client.expect_end()


async def be_refused(client: Client) -> None:
    await client.hello()
    await client.command("RCPT TO:<you@mx.test>", "503")


@pytest.mark.parametrize(
    ("scenario", "implicit_tls", "event"),
    [
        (nothing, False, "no_message"),
        (only_connect, False, "no_message"),
        (only_ask, False, "no_message"),
        (nothing, True, "tls_failed"),
        (fail_in_a_handshake, True, "tls_failed"),
        (fail_after_starttls, False, "tls_failed"),
        (send_a_message, False, "accepted"),
        (be_refused, False, "refused"),
        (be_silent, False, "timed_out"),
    ],
)
async def test_one_record_for_each_session(
    scenario: Callable[[Client], Awaitable[None]],
    implicit_tls: bool,
    event: str,
    log: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    hooks = RecordingHooks()
    async with connected(serving(hooks), implicit_tls=implicit_tls) as client:
        await scenario(client)
    (found,) = events(log)
    assert (found["event"], found["peer"]) == (event, "memory")
    assert all(found["id"].startswith(session.id) for session in hooks.sessions)


@pytest.mark.parametrize("code", [421, 450, 521, 554])
async def test_refusal_by_the_connect_hook_is_logged_and_counted(
    code: int, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def connect(session: Session) -> Reply:
        return Reply(code, "Not you")

    server = serving(RecordingHooks())
    server.on(connect=connect)
    for _ in range(2):
        async with connected(server) as client:
            await client.expect(str(code))
    found = events(log)
    assert [(each["event"], each["peer"]) for each in found] == [("connection_refused", "memory")] * 2
    assert found[0]["reply"].startswith(f"{code} ")
    refusals = Counter({f"connect {code}": 2})
    assert server.statistics() == Statistics(sessions_total=2, connections_refused=2, refusals=refusals)


async def test_error_in_the_connect_hook_is_a_refusal(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async def connect(session: Session) -> None:
        raise RuntimeError("bug")

    server = serving(RecordingHooks())
    server.on(connect=connect)
    async with connected(server) as client:
        await client.expect("421")
    assert [each["event"] for each in events(log)] == ["hook_failed", "connection_refused"]
    assert server.statistics().connections_refused == 1


async def test_timeout_is_logged_and_counted(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    server = serving(RecordingHooks())
    async with connected(server) as client:
        await client.open()
        await client.expect("421 4.4.2")
    (found,) = events(log)
    assert (found["event"], found["helo"], found["protocol"]) == ("timed_out", "client.test", "ESMTP")
    assert (found["seconds"], found["user"], server.statistics().timeouts) == (300, None, 1)


async def test_timeout_in_a_message_is_counted(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """The record about the message has the reason."""
    server = serving(RecordingHooks())
    async with connected(server) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.expect("421 4.4.2")
    (found,) = events(log)
    assert (found["event"], found["reason"]) == ("incomplete", "the client sent nothing for too long")
    assert server.statistics().timeouts == 1


async def no_secret(session: Session, user: str, mechanism: str) -> None:
    """No user is known."""


@pytest.mark.parametrize(
    ("lines", "code", "user"),
    [
        ([f"AUTH PLAIN {WRONG}"], "535", USER),
        (["AUTH PLAIN", WRONG], "535", USER),
        (["AUTH LOGIN", ENCODED_USER, ENCODED], "535", USER),
        (["AUTH CRAM-MD5", base64.b64encode(b"wilma 00").decode()], "535", "wilma"),
        (["AUTH PLAIN", "!"], "501", None),
        (["AUTH PLAIN", base64.b64encode(b"no nul").decode()], "501", None),
        (["AUTH LOGIN", "x" * 20_000], "500", None),
    ],
)
async def test_failed_login_is_logged_and_counted(
    lines: list[str], code: str, user: str | None, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    server = serving(OneUser(password="another"))
    server.on(secret=no_secret)
    async with connected(server) as client:
        await client.hello()
        for line in lines[:-1]:
            await client.command(line, "334")
        await client.command(lines[-1], code)
        await client.quit()
    (found,) = events(log, "auth_failed")
    assert (found["user"], found["mechanism"], found["peer"]) == (user, lines[0].split(" ")[1], "memory")
    assert found["reply"].startswith(code)
    assert [record.levelname for record in log.records if record.name == "smtp_trio.auth"] == ["INFO"]
    assert server.statistics().auth_failures == 1


async def test_every_failed_login_of_a_session_is_logged(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    server = serving(OneUser(password="another"))
    async with connected(server) as client:
        await client.hello()
        await client.command("AUTH PLAIN", "334")
        await client.command("*", "501 5.7.0 Authentication cancelled")
        for code in ("535", "421"):
            await client.command(f"AUTH PLAIN {PLAIN}", code)
        await client.expect_end()
    assert [each["reply"][:3] for each in events(log, "auth_failed")] == ["501", "535", "421"]
    last = events(log)[-1]
    assert (last["event"], last["limit"]) == ("ended_by_limit", "auth_failures")
    assert server.statistics().auth_failures == 3


async def test_login_that_fails_because_of_the_server_is_logged(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    server = serving(OneUser(broken=True))
    async with connected(server) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {PLAIN}", "454")
    (found,) = events(log, "auth_failed")
    assert (found["user"], found["reply"][:3]) == (USER, "454")


async def test_successful_login_is_no_failure(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    server = serving(OneUser())
    async with connected(server) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {PLAIN}", "235")
        await client.quit()
    (found,) = events(log)
    assert (found["event"], found["user"]) == ("no_message", USER)
    assert server.statistics().auth_failures == 0


async def test_fields_of_every_record_can_be_written_as_json(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    hooks = OneUser()
    async with connected(serving(hooks)) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {WRONG}", "535")
        await client.command(b"VRFY \xff\xfe", "50")
        await client.deliver()
        await client.command("MAIL FROM:<\u00fc@x.test>", "55")
        await client.command("STARTTLS", "220")
        await client.send(b"garbage" * 100)
        await client.expect_end()
    assert len(log.records) > 10
    for record in log.records:
        fields = record.__dict__["fields"]
        assert json.loads(json.dumps(fields)) == fields
        assert all(str(value) in record.getMessage() for value in fields.values() if isinstance(value, int))


async def test_every_record_about_a_session_has_the_address_of_the_peer(
    log: pytest.LogCaptureFixture, socket_clock: MockClock
) -> None:
    class Failing(RecordingHooks):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> None:
            raise RuntimeError("bug")

    server = Server(Failing(), name=NAME, tls=server_tls(), limits=Limits(sessions=1), newlines="normalize")
    async with listening(server) as port, connect_tcp(port) as client:
        address = "{}:{}".format(*client.stream.socket.getsockname())  # type: ignore[attr-defined]
        await client.hello()
        await client.send(START)
        await client.expect("250", "451")
        async with connect_tcp(port) as other:
            await other.expect("421")
            refused = "{}:{}".format(*other.stream.socket.getsockname())  # type: ignore[attr-defined]
        await client.command("RSET", "250")
        await client.command("STARTTLS", "220")
        await client.send(b"garbage" * 100)
        await client.expect_end()
    found = {
        (fields["event"], fields["peer"])
        for fields in events(log) + events(log, "command", "connected", "disconnected")
    }
    assert found == {
        ("too_many_connections", refused),
        *((name, address) for name in ("connected", "command", "hook_failed", "refused", "tls_failed", "disconnected")),
    }


async def test_timeout_during_a_handshake(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with connected(serving(RecordingHooks()), implicit_tls=True) as client:
        await client.expect_end()
    (found,) = events(log)
    assert (found["event"], found["peer"], found["error"]) == ("tls_failed", "memory", "TooSlowError")


# --- senders, recipients and refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "sender"),
    [
        (b"MAIL FROM:<me@client.test> SIZE=99999999999", "552", "me@client.test"),
        (b"MAIL FROM:<me@client.test> X=1", "555", "me@client.test"),
        (b"MAIL FROM:<a\x00b@client.test>", "501", "a\0b@client.test"),
        (b"MAIL FROM:<a\x1b[2Jb@client.test>", "501", "a\x1b[2Jb@client.test"),
        (b"MAIL FROM:<a\xff\xfeb@client.test>", "501", "a\\xff\\xfeb@client.test"),
        ("MAIL FROM:<a\u2028b@client.test>".encode(), "501", "a\u2028b@client.test"),
        ("MAIL FROM:<a\x85b@client.test> SMTPUTF8".encode(), "501", "a\x85b@client.test"),
        (b"MAIL FROM:<a b@client.test>", "501", "a b@client.test"),
        (b'MAIL FROM:<"a> to=<b"@client.test> X=1', "555", '"a> to=<b"@client.test'),
        (b"MAIL FROM:<>  X=1", "555", ""),
        (b"mail  from:<Me@client.test>\t X=1", "555", "Me@client.test"),
        (b"MAIL FROM me@client.test", "501", "FROM me@client.test"),
        (b"MAIL TO:<me@client.test>", "501", "me@client.test"),
        (b"MAIL FROM:", "501", "FROM:"),
        (b"MAIL", "501", None),
        (b"MAIL FROM:<me@client.test>\nx", "500", "me@client.test"),
        (b"MAIL FROM:<me@client.test>\rx", "500", "me@client.test"),
        (b"MAIL FROM:<" + b"x" * 3000 + b"@client.test>", "500", "x" * 2037),
    ],
)
async def test_refused_mail_has_its_argument(
    line: bytes, code: str, sender: str | None, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with connected(serving(RecordingHooks())) as client:
        await client.hello()
        await client.command(line, code)
    (found,) = events(log)
    assert (found["event"], found["sender"], found["to"]) == ("refused", sender, [])


@pytest.mark.parametrize("before", ["no HELO", "no TLS", "no AUTH", "hook"])
async def test_mail_that_is_not_allowed_yet_has_its_argument(
    before: str, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    hooks = OneUser()
    extensions = {"no AUTH": standard(Auth(required=True)), "no TLS": standard(StartTls(required=True))}
    server = Server(hooks, name=NAME, tls=server_tls(), extensions=extensions.get(before, STANDARD))
    if before == "hook":

        async def refuse(session: Session, mail: Mail) -> Reply:
            return Reply(550, "No")

        server.on(mail=refuse)
    async with connected(server) as client:
        await client.expect("220")
        if before != "no HELO":
            await client.hello()
        await client.command("MAIL FROM:<me@client.test>", {"no HELO": "503", "hook": "550"}.get(before, "530"))
        await client.command("MAIL FROM:<>", {"no HELO": "503", "hook": "550"}.get(before, "530"))
    first, second = events(log)
    assert (first["event"], first["sender"]) == ("refused", "me@client.test")
    assert (second["event"], second["sender"]) == ("refused", "")
    texts = [text for text in lines(log) if " INFO " in text]
    assert ["from=<me@client.test> to=- " in texts[0], "from=<> to=- " in texts[1]] == [True, True]


async def test_command_that_reaches_the_limit_of_errors_has_its_argument(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with connected(Server(RecordingHooks(), name=NAME, limits=Limits(errors=2))) as client:
        await client.hello()
        await client.command("MAIL FROM:<a b>", "501")
        await client.command("MAIL FROM:<c d>", "421")
    assert [(found["sender"], found["reply"][:3]) for found in events(log, "refused")] == [
        ("a b", "501"),
        ("c d", "421"),
    ]


async def test_unknown_sender_is_not_the_null_sender(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with connected(serving(RecordingHooks())) as client:
        await client.hello()
        await client.command("RCPT TO:<you@mx.test>", "503")
        await client.command("DATA", "503")
        await client.command("MAIL FROM:<>", "250")
        await client.command("RCPT TO:<a b>", "501")
        await client.command("RCPT TO:<you@mx.test>", "250")
        await client.command("MAIL FROM:<me@client.test>", "503")
        await client.command("DATA", "354")
        await client.command(".", "250")
    found = [(fields["event"], fields["sender"], fields["to"]) for fields in events(log)]
    assert found == [
        ("refused", None, ["you@mx.test"]),
        ("refused", None, []),
        ("refused", "", ["a b"]),
        ("refused", "me@client.test", []),
        ("accepted", "", ["you@mx.test"]),
    ]
    texts = [text for text in lines(log) if " INFO " in text]
    assert "from=- to=<you@mx.test> " in texts[0]
    assert "from=- to=- " in texts[1]
    assert 'from=<> to="<a b>" ' in texts[2]
    assert "from=<> to=<you@mx.test> " in texts[4]


async def test_number_of_refusals_is_that_of_their_records(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Refusals of any kind: by the core, by hooks, of commands and of messages, and of none of these."""

    class Refusing(RecordingHooks):
        async def mail(self, session: Session, mail: Mail) -> Reply | None:
            return Reply(550, "No") if mail.sender.user == "no" else None

        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            if rcpt.recipient.user == "late":
                await trio.sleep(10**6)
            return Reply(450, "Later") if rcpt.recipient.user == "later" else None

        async def data(self, session: Session, body: Body) -> Reply | None:
            if session.envelope is not None and session.envelope.sender.user == "early":
                return Reply(550, "No")
            message = await body.read()
            return Reply(554, "Spam") if b"spam" in message else None

    server = serving(Refusing())
    async with connected(server) as client:
        await client.hello()
        for line, code in [
            ("NONSENSE", "500"), ("VRFY", "501"), ("AUTH PLAIN x", "502"), ("MAIL FROM:<no@client.test>", "550"), ("MAIL", "501"),
            ("RCPT TO:<you@mx.test>", "503"), ("DATA", "503"), ("BDAT 3\r\na", "503"), ("MAIL FROM:<me@client.test>", "250"),
            ("RCPT TO:<later@mx.test>", "450"), ("RCPT TO:<late@mx.test>", "451"), ("DATA", "554"), ("RSET", "250"),
            ("MAIL FROM:<early@client.test>", "250"), ("RCPT TO:<you@mx.test>", "250"), ("DATA", "550"), ("RSET", "250"),
            ("MAIL FROM:<early@client.test>", "250"), ("RCPT TO:<you@mx.test>", "250"), ("BDAT 3\r\nx", "550"), ("RSET", "250"),
        ]:  # fmt: skip
            await client.command(line, code)
        await client.deliver(b"spam\r\n", "554")
        await client.deliver(b"bare\nline\r\n", "550")
        await client.deliver()
    refused = events(log, "refused")
    assert all(fields["reply"][0] in "45" for fields in refused)
    assert len(refused) == server.statistics().refused == 12
    accepted = events(log, "accepted")
    assert len(accepted) == server.statistics().messages == 1
    assert events(log, "incomplete", "no_message") == []


# --- messages that are cut off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
@pytest.mark.parametrize("how", ["disconnect", "silence", "grace", "cancel", "RSET"])
async def test_message_that_is_cut_off_leaves_one_record(
    command: str, how: str, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    server = Server(RecordingHooks(), name=NAME)
    async with trio.open_nursery() as nursery:
        client_end, server_end = sockets()
        nursery.start_soon(server.serve_stream, server_end)
        client = Client(client_end)
        await client.open()
        await client.send(b"DATA\r\nhalf a" if command == "DATA" else b"BDAT 5\r\nhalf ")
        await client.expect("354" if command == "DATA" else "250")
        await wait_all_tasks_blocked()
        if how == "silence":
            await client.expect("421")
        elif how == "grace":
            await server.stop(10)
        elif how == "cancel":
            nursery.cancel_scope.cancel()
        elif how == "RSET" and command == "BDAT":
            await client.command("RSET", "250")
        await trio.aclose_forcefully(client_end)
    (found,) = events(log)
    assert (found["event"], found["sender"], found["to"]) == ("incomplete", "me@client.test", ["you@mx.test"])
    assert found["size"] == (6 if command == "DATA" else 5) or (command, how) == ("DATA", "RSET")
    assert found["id"].startswith(events(log, "connected")[0]["id"] + "-")
    expected = {
        "disconnect": "the client disconnected", "silence": "the client sent nothing for too long",
        "grace": "the session was cancelled", "cancel": "the session was cancelled",
        "RSET": "RSET was received before the last chunk" if command == "BDAT" else "the client disconnected",
    }  # fmt: skip
    assert found["reason"] == expected[how]
    assert (server.statistics().messages, server.statistics().refused) == (0, 0)


async def test_refused_message_that_is_cut_off(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """The message was refused for its content, but the client did not wait for the reply."""
    async with connected(serving(RecordingHooks())) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"bare\nline\r\n")
    (found,) = events(log)
    assert (found["event"], found["reason"]) == ("incomplete", "the client disconnected")


async def test_message_during_which_a_hook_breaks_the_session(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    class Broken(RecordingHooks):
        async def data(self, session: Session, body: Body) -> None:
            await body.read()
            raise SystemExit

    with pytest.raises(BaseExceptionGroup, match="nursery"):
        async with connected(serving(Broken())) as client:
            await client.open()
            await client.command("DATA", "354")
            await client.send(b".\r\n")
            await client.expect_end()
    (found,) = events(log, "incomplete")
    assert found["reason"] == "the session was cancelled"


# --- commands and replies as they are on the wire ---------------------------------------------------------------------


async def test_commands_are_logged_as_received_and_replies_as_sent(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    dialogue: list[tuple[bytes, str]] = [
        (b"eHLo  client.test\t", "250"),
        (b'NONSENSE "x" y=z', "500"),
        (b"nonsense \xff\xfe\x1b", "500"),
        (b"Mail  FROM:<me@client.test>  BODY=8BITMIME ", "250"),
        (b"RCPT TO:<\xc3\xbc@mx.test>", "553"),
        (b"RCPT TO:<you@mx.test>", "250"),
        (b"NOOP a\nb", "500"),
        (b"VRFY " + b"x" * 3000, "500"),
        (b"DATA", "354"),
        (b"secret message\r\n.", "250"),
        (b"MAIL FROM:<>", "250"),
        (b"RCPT TO:<you@mx.test>", "250"),
        (b"BDAT 16\r\nsecret message", "250"),
        (b"noop", "250"),
        (b"BDAT 0 LAST", "250"),
        (b"quit", "221"),
    ]
    async with connected(serving(RecordingHooks())) as client:
        await client.expect("220")
        for line, code in dialogue:
            await client.command(line, code)
    found = events(log, "command")
    assert [fields["reply"] for fields in found] == [reply.replace("\n", "\r\n") for reply in client.replies]
    assert [fields["line"] for fields in found] == [
        None, "eHLo  client.test\t", 'NONSENSE "x" y=z', "nonsense \\xff\\xfe\x1b", "Mail  FROM:<me@client.test>  BODY=8BITMIME ",
        "RCPT TO:<ü@mx.test>", "RCPT TO:<you@mx.test>", "NOOP a", "VRFY " + "x" * 2043, "DATA", ".", "MAIL FROM:<>",
        "RCPT TO:<you@mx.test>", "BDAT 16", "noop", "BDAT 0 LAST", "quit",
    ]  # fmt: skip
    assert "secret" not in log.text


@pytest.mark.parametrize("how", ["timeout", "stop", "errors", "handshake"])
async def test_replies_that_end_a_session_are_logged_as_sent(
    how: str, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    server = Server(RecordingHooks(), name=NAME, limits=Limits(errors=2))
    async with connected(server) as client:
        await client.expect("220")
        if how == "stop":
            await wait_all_tasks_blocked()
            await server.stop()
        elif how == "errors":
            await client.command("X", "500")
            await client.send(b"Y\r\n")
        elif how == "handshake":
            await client.send(b"\x16\x03\x01\x02")
        last = await client.reply()
        await client.expect_end()
    found = events(log, "command")[-1]
    lines = {"errors": "Y", "handshake": "\x16\x03"}
    assert (found["line"], found["reply"]) == (lines.get(how), last)
    assert last.startswith("500" if how == "handshake" else f"421 4.{last[6:9]} {NAME} ")


HIDDEN = "swordfish"


@pytest.mark.parametrize(
    "dialogue",
    [
        [b"AUTH PLAIN swordfish"],
        [b"auth plain  swordfish"],
        [b"AUTH swordfish"],
        [b"AUTH XPLAIN swordfish"],
        [b"AUTH PLAIN swordfish swordfish"],
        [b"AUTH PLAIN \xffswordfish"],
        [b"AUTH PLAIN swordfish\nx"],
        [b"AUTHPLAIN swordfish"],
        [b" AUTH PLAIN swordfish"],
        [b"XAUTH swordfish"],
        [b"AUTH LOGIN", b"swordfish", b"swordfish"],
        [b"AUTH LOGIN", b"c3dvcmRmaXNo", b"swordfish\nx"],
        [b"AUTH LOGIN", b"MAIL swordfish\nx"],
        [b"AUTH LOGIN", b"RCPT swordfish" + b"x" * 13000],
        [b"AUTH LOGIN", b"*", b"swordfish"],
        [b"AUTH GSSAPI", b"swordfish", b"NOOP", b"swordfish"],
        [b"MAIL FROM:<me@client.test>", b"AUTH LOGIN", b"swordfish"],
        [b"DATA", b"Subject: swordfish", b"", b"swordfish", b"."],
        [b"MAIL FROM:<me@client.test>", b"DATA", b"swordfish"],
        [b"DATA x", b"swordfish"],
        [b"DATA\nx", b"swordfish"],
    ],
)
async def test_passwords_and_messages_are_hidden(
    dialogue: list[bytes], log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with connected(serving(OneUser())) as client:
        await client.hello()
        for line in dialogue:
            await client.command(line, "")
    text = "\n".join(lines(log)).lower()
    assert HIDDEN not in text
    assert base64.b64encode(HIDDEN.encode()).decode().lower() not in text
    assert "[hidden]" in text or dialogue[-1].startswith(b"RCPT")


async def test_unknown_commands_are_shown_otherwise(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with connected(serving(OneUser())) as client:
        await client.command("XFOO bar", "220", "500")
        await client.hello()
        await client.open()
        await client.command("DATA", "354")
        await client.command(".", "250")
        await client.command("XFOO baz", "500")
    found = [fields["line"] for fields in events(log, "command")]
    assert ["XFOO bar" in found, "XFOO baz" in found] == [True, True]


async def test_refusals_of_a_session_have_a_limited_number_of_records(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """50 since the last accepted message, and one record with the number of the others."""

    class Refusing(RecordingHooks):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            return None if rcpt.recipient.local == "you" else Reply(550, "No such user", "5.1.1")

    server = Server(Refusing(), name=NAME)
    async with connected(server) as client:
        await client.hello()
        for refused in (49, 50, 53, 51):
            await client.command("MAIL FROM:<me@client.test>", "250")
            for _ in range(refused):
                await client.command("RCPT TO:<nobody@mx.test>", "550")
            await client.command("RSET", "250")
            if refused != 51:
                await client.deliver()
        await client.command("QUIT", "221")
    found = [(each["event"], each.get("count")) for each in events(log)]
    refused_record, accepted_record = ("refused", None), ("accepted", None)
    assert found == [
        *[refused_record] * 49, accepted_record,
        *[refused_record] * 50, accepted_record,
        *[refused_record] * 50, ("refusals_omitted", 3), accepted_record,
        *[refused_record] * 50, ("refusals_omitted", 1),
    ]  # fmt: skip
    assert server.statistics().refused == 49 + 50 + 53 + 51
