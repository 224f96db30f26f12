"""The hooks: when and with which arguments they are called, their replies, their errors and their timeouts."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from contextvars import ContextVar
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import (
    MESSAGE,
    NAME,
    SECRET,
    START,
    Client,
    Event,
    Pair,
    RecordingHooks,
    connected,
    server_tls,
    sockets,
    spies,
)
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Body, BodyError, Hooks, Limits, Reply, Server, Session, Timeouts, standard
from smtp_trio._server.hooks import NAMES
from smtp_trio.protocol import Command, Data, Ehlo, Expn, Helo, Help, Mail, Noop, Quit, Rcpt, Rset, Vrfy
from smtp_trio.protocol.extensions import Auth, EtrnExtension
from smtp_trio.protocol.extensions.auth import AuthCommand
from smtp_trio.protocol.extensions.chunking import Bdat, BdatLast
from smtp_trio.protocol.extensions.starttls import StartTlsCommand
from smtp_trio.protocol.sasl import Credentials
from smtp_trio.stores import Maildir

CLEARTEXT = standard(Auth(cleartext=True))
Hook = Callable[..., Awaitable[Any]]


def answering(reply: object) -> Hook:
    """Return a hook that returns ``reply``. As `data` it reads the message first."""

    async def hook(session: Session, *args: Any) -> object:
        if args and isinstance(args[0], Body):
            await args[0].read()
        return reply

    return hook


def raising(error: Exception) -> Hook:
    async def hook(*_: Any) -> None:
        raise error

    return hook


#: Clients may send a message for hours, as in the tests of timeouts.
SLOW_CLIENTS = Limits(data_rate=0)


def build(hooks: Hooks | None = None, **on: Hook) -> Server:
    """Return a server with AUTH in the clear, STARTTLS and EXPN."""
    server = Server(hooks or RecordingHooks(), name=NAME, tls=server_tls(), extensions=CLEARTEXT, limits=SLOW_CLIENTS)
    server.on(**({"auth": answering(Reply(235)), "expn": answering(Reply(250, "<fred@mx.test>"))} | on))
    return server


# --- calls ------------------------------------------------------------------------------------------------------------


def seen(events: list[Event]) -> list[object]:
    """Return the names of the hooks, with their argument if it is a command, and its code if it is a reply."""
    result: list[object] = []
    for name, *args in events:
        match args:
            case [Command() as command]:
                result.append((name, type(command)))
            case [Reply() as reply]:
                result.append((name, reply.code))
            case _:
                result.append(name)
    return result


async def test_order_of_hooks(autojump_clock: MockClock) -> None:
    events: list[Event] = []
    server = Server(name=NAME, tls=server_tls())
    server.on(**spies(events))

    async def asked(line: str, *names: object, code: int, after: object = None) -> None:
        """Check the calls that a line leads to, and that `response` is called before the reply is sent."""
        events.clear()
        await client.command(line, str(code))
        await trio.testing.wait_all_tasks_blocked()

        assert seen(events) == [*names, ("response", code), *([after] if after else [])]

    async with connected(server) as client:
        await client.expect("220")
        assert seen(events) == ["start", "connect", ("response", 220)]

        await asked("EHLO a.test", ("message", Ehlo), ("helo", Ehlo), code=250)
        events.clear()
        await client.starttls()
        await trio.testing.wait_all_tasks_blocked()
        assert seen(events) == [("message", StartTlsCommand), ("response", 220), "secured"]

        await asked("HELO b.test", ("message", Helo), ("helo", Helo), code=250)
        await asked("EHLO c.test", ("message", Ehlo), ("helo", Ehlo), code=250)
        await asked(f"AUTH PLAIN {SECRET}", ("message", AuthCommand), "auth", code=235)
        assert events[1][1] == Credentials("PLAIN", "fred", "secret")
        await asked("VRFY fred", ("message", Vrfy), ("vrfy", Vrfy), code=252)
        await asked("EXPN list", ("message", Expn), ("expn", Expn), code=502)
        await asked("HELP", ("message", Help), ("help", Help), code=214)
        await asked("NOOP", ("message", Noop), code=250)
        await asked("RSET", ("message", Rset), code=250, after="reset")
        # For a command that the core refuses, only `response` is called.
        await asked("NONSENSE", code=500)
        await asked("RCPT TO:<a@b.test>", code=503)
        await asked("MAIL FROM:<a@b.test> X=1", code=555)

        await asked("MAIL FROM:<a@b.test>", ("message", Mail), ("mail", Mail), code=250)
        await asked("RCPT TO:<c@d.test>", ("message", Rcpt), ("rcpt", Rcpt), code=250)
        await asked("EHLO d.test", ("message", Ehlo), ("helo", Ehlo), code=250, after="reset")
        await client.send(START)
        await client.expect("250", "250")
        await asked("DATA", ("message", Data), "data", code=354)
        await asked("Hi\r\n.", code=250)
        await client.send(START)
        await client.expect("250", "250")
        await asked("BDAT 4\r\nab", ("message", Bdat), "data", code=250)
        await asked("BDAT 2 LAST\r\n", ("message", BdatLast), code=250)

        await client.command("MAIL FROM:<a@b.test>", "250")
        events.clear()
        await client.quit()
    assert seen(events) == [("message", Quit), ("response", 221), "reset", "disconnect", "stop"]


async def test_start_and_stop_get_the_server(autojump_clock: MockClock) -> None:
    calls: list[tuple[str, object]] = []

    class Paired(RecordingHooks):
        async def start(self, server: Server) -> None:
            calls.append(("start", server))

        async def stop(self, server: Server) -> None:
            calls.append(("stop", server))

    server = Server(Paired(), name=NAME)
    async with connected(server) as one, connected(server) as two:
        await one.hello()
        await two.hello()

    assert calls == [("start", server), ("stop", server)]


async def test_other_hooks_are_not_called_after_a_reply_of_message(autojump_clock: MockClock) -> None:
    events: list[Event] = []
    server = build(Hooks(), message=answering(Reply(550, "No", "5.7.1")))
    server.on(**spies(events, "helo", "mail", "rcpt", "vrfy", "expn", "help", "data", "auth"))
    async with connected(server) as client:
        await client.expect("220")
        await client.command("VRFY a", "550 5.7.1")
        await client.command("EXPN a", "550 5.7.1")
        await client.command("HELP", "451 4.3.0")  # RFC 5321 4.3.2: HELP cannot have 550
        await client.command("EHLO a", "550 No")
    assert events == []


async def test_context_variable_set_in_connect(autojump_clock: MockClock) -> None:
    who: ContextVar[str] = ContextVar("who")
    found = []

    class VariableSetter(RecordingHooks):
        async def connect(self, session: Session) -> None:
            who.set(session.id)

        async def rcpt(self, session: Session, rcpt: Rcpt) -> None:
            found.append((session.id, who.get()))

        async def disconnect(self, session: Session) -> None:
            found.append((session.id, who.get()))

    server = Server(VariableSetter(), name=NAME)
    async with connected(server) as one, connected(server) as two:
        for client in (one, two):
            await client.hello()
        for client in (one, two):
            await client.deliver()

    assert len(found) == 4
    assert all(session == value for session, value in found)
    assert len(set(found)) == 2


async def test_contexts_of_session_and_transaction(autojump_clock: MockClock) -> None:
    found = []

    class ContextCounter(RecordingHooks):
        async def mail(self, session: Session, mail: Mail) -> None:
            assert session.envelope is not None
            session.context["mails"] = session.context.get("mails", 0) + 1
            session.envelope.context["number"] = session.context["mails"]

        async def data(self, session: Session, body: Body) -> None:
            await body.read()
            assert session.envelope is not None
            assert session.envelope == body.envelope
            found.append((session.envelope.id, session.envelope.context, session.context))

    async with connected(Server(ContextCounter(), name=NAME)) as client:
        await client.hello()
        first = await client.deliver()
        second = await client.deliver()

    assert [context for _, context, _ in found] == [{"number": 1}, {"number": 2}]
    assert [first, second] == [f"250 2.0.0 Ok: queued as {envelope}" for envelope, _, _ in found]


async def test_pending_and_buffered(autojump_clock: MockClock) -> None:
    found = []

    class PendingRecorder(RecordingHooks):
        async def mail(self, session: Session, mail: Mail) -> None:
            found.append((session.pending is mail, session.buffered))

    hooks = PendingRecorder()
    async with connected(Server(hooks, name=NAME)) as client:
        await client.hello()
        await client.send(b"MAIL FROM:<>\r\nNOOP\r\nNO")
        await client.expect("250 2.1.0", "250 2.0.0")
        await trio.testing.wait_all_tasks_blocked()
        assert hooks.sessions[0].pending is None

    assert found == [(True, len("NOOP\r\nNO"))]


# --- replies ----------------------------------------------------------------------------------------------------------

#: hook, what leads to it, what it answers, what the client is expected
ANSWERS = [
    ("helo", b"EHLO a.test\r\n", Reply(550, "Go away"), "550 Go away"),
    ("helo", b"EHLO a.test\r\n", Reply(250, "at your service"), f"250-{NAME} at your service\n250-PIPELINING\n"),
    ("helo", b"HELO a.test\r\n", Reply(250, "at your service"), f"250 {NAME} at your service"),
    ("auth", f"AUTH PLAIN {SECRET}\r\n".encode(), Reply(535, "No"), "535 5.7.8 No"),
    ("auth", f"AUTH PLAIN {SECRET}\r\n".encode(), Reply(454, "Later"), "454 4.7.0 Later"),
    ("auth", f"AUTH PLAIN {SECRET}\r\n".encode(), Reply(235, "Hello fred"), "235 2.7.0 Hello fred"),
    ("auth", f"AUTH PLAIN {SECRET}\r\n".encode(), None, "235 2.7.0 Auth"),
    ("mail", b"MAIL FROM:<a@b.test>\r\n", Reply(550, "Bad\nsender", "5.1.8"), "550-5.1.8 Bad\n550 5.1.8 sender"),
    ("mail", b"MAIL FROM:<a@b.test>\r\n", Reply(451, "Later", "4.7.1"), "451 4.7.1 Later"),
    ("mail", b"MAIL FROM:<a@b.test>\r\n", Reply(250, "Fine"), "250 2.1.0 Fine"),
    ("rcpt", b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n", Reply(251, "Will forward"), "251 2.1.5 Will forward"),
    ("rcpt", b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n", Reply(250, "Fine"), "250 2.1.5 Fine"),
    ("rcpt", b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n", Reply(421, "Bye"), f"421 4.3.0 {NAME} Bye"),
    ("vrfy", b"VRFY fred\r\n", Reply(250, "<fred@mx.test>", "2.1.5"), "250 2.1.5 <fred@mx.test>"),
    ("vrfy", b"VRFY fred\r\n", Reply(550, "No such user", "5.1.1"), "550 5.1.1 No such user"),
    ("expn", b"EXPN list\r\n", Reply(250, "<a@b>\n<c@d>", "2.1.5"), "250-2.1.5 <a@b>\n250 2.1.5 <c@d>"),
    ("vrfy", b"VRFY fred\r\n", Reply(250, "<fred@mx.test>"), "250 2.1.5 <fred@mx.test>"),
    ("vrfy", b"VRFY fred\r\n", Reply(252, "Perhaps"), "252 2.5.0 Perhaps"),
    ("expn", b"EXPN list\r\n", Reply(250, "<a@b>\n<c@d>"), "250-2.1.5 <a@b>\n250 2.1.5 <c@d>"),
    ("help", b"HELP\r\n", Reply(211, "See the manual"), "211 2.0.0 See the manual"),
    ("data", START + b"DATA\r\n" + MESSAGE + b".\r\n", Reply(250, "Fine"), "250 2.0.0 Fine"),
    ("data", START + b"DATA\r\n" + MESSAGE + b".\r\n", Reply(554, "Spam", "5.7.1"), "554 5.7.1 Spam"),
    ("data", START + b"BDAT 3 LAST\r\nab\n", Reply(452, "Full"), "550 5.5.2"),
    ("data", START + b"BDAT 4 LAST\r\nab\r\n", Reply(452, "Full"), "452 4.3.1 Full"),
]


@pytest.mark.parametrize(("hook", "sent", "reply", "expected"), ANSWERS)
@pytest.mark.parametrize("how", ["return", "send", "failure"])
async def test_reply_of_a_hook(
    hook: str, sent: bytes, reply: Reply | None, expected: str, how: str, autojump_clock: MockClock
) -> None:
    """A reply may be returned, or recorded by `Session.send` or `Session.failure`."""
    if how != "return" and (reply is None or (how == "failure") != reply.refused):
        return

    async def settle(session: Session, *args: Any) -> None:
        await answering(None)(session, *args)
        assert reply is not None
        verb = session.send if how == "send" else session.failure
        verb(reply.code, reply.text, reply.status)

    hooks = RecordingHooks()
    server = build(hooks, **{hook: answering(reply) if how == "return" else settle})
    async with connected(server) as client:
        await client.expect("220")
        if hook != "helo":
            await client.hello()
        await client.send(sent)
        while not (answer := await client.reply()).startswith(expected):
            assert answer[:3] in ("250", "354"), answer
        if answer.startswith("421"):
            await client.expect_end()
        else:
            await client.quit()
    assert hooks.errors == []


@pytest.mark.parametrize(
    ("text", "expected"), [(None, "250 2.1.5 Ok"), ("You are in luck", "250 2.1.5 You are in luck")]
)
async def test_success(text: str | None, expected: str, autojump_clock: MockClock) -> None:
    async def rcpt(session: Session, rcpt: Rcpt) -> None:
        session.success(text)

    async with connected(build(rcpt=rcpt)) as client:
        await client.hello()
        await client.command("MAIL FROM:<>", "250")
        assert await client.command("RCPT TO:<a@b.test>", "250") == expected


async def test_success_in_the_data_hook(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        await body.read()
        session.success(None if b"usual" in MESSAGE else "Thank you")

    async with connected(build(data=data)) as client:
        await client.hello()
        assert await client.deliver(MESSAGE, "250") == "250 2.0.0 Thank you"


@pytest.mark.parametrize(
    ("reply", "expected", "then"),
    [
        (None, f"220 {NAME} ESMTP", "250"),
        (Reply(220, "welcome"), f"220 {NAME} ESMTP welcome", "250"),
        (Reply(554, "Go away"), "554 Go away", "503 5.5.1"),
        (Reply(450, "Not now", "4.7.1"), "450 Not now", "503 5.5.1"),
        (Reply(421, "Too busy"), f"421 {NAME} Too busy", None),
    ],
)
async def test_greeting(reply: Reply | None, expected: str, then: str | None, autojump_clock: MockClock) -> None:
    """A client that was refused by the greeting can only send QUIT (RFC 5321 3.1)."""
    async with connected(build(connect=answering(reply))) as client:
        assert await client.reply() == expected
        if then is None:
            await client.expect_end()
            return
        for line in (
            ("NOOP", "MAIL FROM:<>", "RSET") if then == "503 5.5.1" else ("NOOP", "EHLO a.test", "MAIL FROM:<>")
        ):
            await client.command(line, then)
        await client.quit()


MAY_ACCEPT = [
    "EHLO a.test",
    "HELO a.test",
    "MAIL FROM:<>",
    "RCPT TO:<a@b.test>",
    "RSET",
    "NOOP",
    "VRFY a",
    "EXPN a",
    "HELP",
]
MAY_REFUSE = [*MAY_ACCEPT, "DATA", "BDAT 4 LAST\r\nab", "QUIT", "STARTTLS", f"AUTH PLAIN {SECRET}"]
VERBS = {"HELP": 214, "QUIT": 221, "STARTTLS": 220, "AUTH": 235}


def prepare(line: str) -> bytes:
    """Return the commands that must be sent before this line."""
    if line.startswith("RCPT"):
        return b"MAIL FROM:<>\r\n"
    return START if line.startswith(("DATA", "BDAT")) else b""


async def ask(client: Client, line: str) -> str:
    """Send a line, after the commands that must come before it; return the reply."""
    await client.hello()
    before = prepare(line)
    await client.send(before + line.encode() + b"\r\n")
    await client.expect(*["250"] * before.count(b"\r\n"))
    return await client.reply()


@pytest.mark.parametrize("line", MAY_REFUSE)
async def test_message_hook_refuses_a_command(line: str, autojump_clock: MockClock) -> None:
    events: list[Event] = []
    refused = False

    async def message(session: Session, command: Command) -> Reply | None:
        nonlocal refused
        if refused or command.verb != line.split()[0] or not client.replies[1:]:
            return None
        refused = True
        return Reply(451, "Not by me", "4.7.1")

    hooks = RecordingHooks()
    server = build(hooks, message=message)
    server.on(**spies(events, "mail", "rcpt", "data", "vrfy", "expn", "help", "auth", "reset"))
    async with connected(server) as client:
        reply = await ask(client, line)
        # RFC 2034 4: the reply to HELO and EHLO has no enhanced status code
        assert reply == ("451 Not by me" if line[1:4] in ("HLO", "ELO") else "451 4.7.1 Not by me")
        assert [name for name, *_ in events if name not in ("mail", "rcpt")] == []
        if line.startswith("BDAT"):  # its octets were discarded, and it was the last chunk
            await client.deliver()
        await client.quit()
    assert hooks.errors == []


@pytest.mark.parametrize("line", MAY_ACCEPT)
async def test_message_hook_accepts_a_command(line: str, autojump_clock: MockClock) -> None:
    events: list[Event] = []
    verb = line.split()[0]

    async def message(session: Session, command: Command) -> Reply | None:
        if command.verb == verb:
            return Reply(VERBS.get(verb, 250), "As you wish")
        return None

    server = build()
    server.on(**spies(events))
    server.on(message=message)
    async with connected(server) as client:
        assert "As you wish" in await ask(client, line)
    assert verb not in [event[1].verb for event in events if event[0] in LINES]


@pytest.mark.parametrize("line", sorted(set(MAY_REFUSE) - set(MAY_ACCEPT)))
async def test_message_hook_cannot_accept_other_commands(line: str, autojump_clock: MockClock) -> None:
    verb = line.split()[0]

    async def message(session: Session, command: Command) -> Reply | None:
        return Reply(VERBS.get(verb, 250), "As you wish") if command.verb == verb else None

    hooks = RecordingHooks()
    async with connected(build(hooks, message=message)) as client:
        assert await ask(client, line) == "451 4.3.0 Local error in processing"
        assert hooks.sessions[0].user is None
        await client.command("NOOP", "250")
    assert len(hooks.errors) == 1
    assert hooks.messages == []


# --- errors -----------------------------------------------------------------------------------------------------------

LINES = {
    "helo": "EHLO b.test",
    "message": "NOOP",
    "auth": f"AUTH PLAIN {SECRET}",
    "mail": "MAIL FROM:<a@b.test>",
    "rcpt": "RCPT TO:<a@b.test>",
    "data": "DATA",
    "vrfy": "VRFY fred",
    "expn": "EXPN list",
    "help": "HELP",
}
FAILED = {"helo": "451 Local error in processing", "auth": "454 4.7.0 Temporary authentication failure"}
FAILURE = "451 4.3.0 Local error in processing"

TWICE = object()


def wrong(mistake: object) -> Hook:
    """Return a hook with this error."""

    async def hook(session: Session, *args: Any) -> object:
        if mistake is TWICE:
            session.success()
            session.failure(451, "or not")
        elif isinstance(mistake, list):
            session.success()
            return mistake[0]
        elif isinstance(mistake, int):
            session.failure(mistake, "the secret is 42")
            return None
        elif isinstance(mistake, Exception):
            session.success()  # an exception wins over a recorded reply
            raise mistake
        return mistake

    return hook


@pytest.mark.parametrize("hook", LINES)
@pytest.mark.parametrize(
    "mistake",
    [
        RuntimeError("the secret is 42"),
        ExceptionGroup("two of them", [ValueError("the secret is 42"), OSError("the secret is 42")]),
        TWICE,
        [Reply(450, "the secret is 42")],  # recorded, and returned as well
        250,  # `Session.failure` with a code that does not refuse
        Reply(229, "the secret is 42"),
        Reply(354, "the secret is 42"),
        "the secret is 42",
    ],
    ids=["raise", "group", "twice", "both", "no-refusal", "code", "intermediate", "no-reply"],
)
async def test_error_in_a_hook(hook: str, mistake: object, autojump_clock: MockClock) -> None:
    """`error` is called once, the client gets a reply without the reason, and the session goes on."""
    mistakes = wrong(mistake)

    async def once(session: Session, *args: Any) -> Any:
        return await mistakes(session, *args) if client.replies[1:] else None

    hooks = RecordingHooks()
    async with connected(build(hooks, **{hook: once})) as client:
        assert await ask(client, LINES[hook]) == FAILED.get(hook, FAILURE)
        assert client.buffer == b""
        assert len(hooks.errors) == 1
        assert not isinstance(mistake, Exception) or repr(hooks.errors) == repr([mistake])
        assert hooks.sessions[0].user is None
        await client.command("NOOP" if hook != "message" else "RSET", "250" if hook != "message" else "451")
    assert hooks.ended == hooks.sessions
    assert not any("secret" in reply for reply in client.replies)
    assert hooks.messages == []


@pytest.mark.parametrize(
    "mistake", [RuntimeError("the secret is 42"), Reply(250, "hi"), Reply(354, "hi"), "hello", TWICE]
)
async def test_error_in_connect(mistake: object, autojump_clock: MockClock) -> None:
    hooks = RecordingHooks()
    async with connected(build(hooks, connect=wrong(mistake))) as client:
        assert await client.reply() == f"421 {NAME} Local error in processing; closing the connection"
        await client.expect_end()
    assert len(hooks.errors) == len(hooks.ended) == 1


@pytest.mark.parametrize("hook", ["reset", "response", "secured", "disconnect", "timeout"])
async def test_error_in_a_hook_that_cannot_reply(hook: str, autojump_clock: MockClock) -> None:
    """The session goes on as if the hook had returned None."""
    hooks = RecordingHooks()
    error = RuntimeError("the secret is 42")
    async with connected(build(hooks, **{hook: raising(error)})) as client:
        await client.hello()
        await client.starttls()
        await client.hello()
        await client.command("MAIL FROM:<>", "250 2.1.0")
        await client.command("RSET", "250 2.0.0")
        await client.deliver()
        await client.expect("421 4.4.2")
        await client.expect_end()
    assert set(hooks.errors) == {error}
    assert len(hooks.errors) == (len(client.replies) if hook == "response" else 1)
    assert len(hooks.messages) == 1


@pytest.mark.parametrize("verb", ["success", "failure", "send"])
async def test_recording_a_reply_in_a_hook_that_cannot_reply(verb: str, autojump_clock: MockClock) -> None:
    """Hooks that run outside of a command: `response`, `reset` and `disconnect`."""
    arguments = () if verb == "success" else (451, "no")

    async def settle(session: Session, *_: Any) -> None:
        getattr(session, verb)(*arguments)

    hooks = RecordingHooks()
    async with connected(build(hooks, response=settle, reset=settle)) as client:
        await client.hello()
        await client.command("RSET", "250 2.0.0 Ok")
    assert [type(error) for error in hooks.errors] == [RuntimeError] * 4
    with pytest.raises(RuntimeError):
        getattr(hooks.sessions[0], verb)(*arguments)


async def test_message_of_a_data_hook_that_raises_is_not_accepted(autojump_clock: MockClock) -> None:
    """The reply is sent after the end of the message, and the next message can follow."""

    async def data(session: Session, body: Body) -> None:
        await anext(body)
        raise RuntimeError("the secret is 42")

    hooks = RecordingHooks()
    async with connected(build(hooks, data=data)) as client:
        await client.hello()
        await client.deliver(MESSAGE * 9999, FAILURE)
        await client.deliver(MESSAGE, FAILURE)
        await client.quit()


async def test_error_in_the_error_hook_is_only_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    async with connected(build(mail=raising(first), error=raising(second))) as client:
        await client.hello()
        await client.command("MAIL FROM:<>", FAILURE)
        await client.quit()
    logged = [(record.name, record.exc_info and record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert logged == [("smtp_trio.server", first), ("smtp_trio.server", second)]


async def test_error_hook_is_called_for_stop_and_disconnect(autojump_clock: MockClock) -> None:
    stopped, gone = RuntimeError("stop"), RuntimeError("disconnect")
    hooks = RecordingHooks()
    async with connected(build(hooks, stop=raising(stopped), disconnect=raising(gone))) as client:
        await client.hello()
    assert hooks.errors == [gone, stopped]


# --- nurseries in hooks -----------------------------------------------------------------------------------------------


async def test_body_error_in_a_group_is_not_reported(autojump_clock: MockClock) -> None:
    """A child task reads the body, so its nursery wraps the `BodyError`, alone or with another exception."""
    bug: Exception | None = None

    async def data(session: Session, body: Body) -> None:
        async def pull() -> None:
            try:
                await body.read()
            finally:
                if bug is not None:
                    raise bug

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull)

    hooks = RecordingHooks()
    async with connected(build(hooks, data=data)) as client:
        await client.hello()
        await client.deliver()
        await client.deliver(b"bare\nnewline\r\n", "550 5.5.2")
        assert hooks.errors == []
        bug = ValueError("both")
        await client.deliver(b"bare\nnewline\r\n", "550 5.5.2")
        await client.deliver(MESSAGE, FAILURE)
        await client.quit()
    assert [error.exceptions for error in hooks.errors if isinstance(error, ExceptionGroup)] == [(bug,), (bug,)]


async def test_group_of_body_errors_only(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        try:
            await body.read()
        except BodyError as error:
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [error])]) from None

    hooks = RecordingHooks()
    async with connected(build(hooks, data=data)) as client:
        await client.hello()
        await client.deliver(b"bare\rreturn\r\n", "550 5.5.2")
        await client.quit()
    assert hooks.errors == []


# --- timeouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", LINES)
async def test_late_hook_is_cancelled(hook: str, autojump_clock: MockClock) -> None:
    cancelled: list[float] = []

    async def late(session: Session, *args: Any) -> None:
        if not client.replies[1:]:
            return
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    hooks = RecordingHooks()
    async with connected(build(hooks, **{hook: late})) as client:
        began = trio.current_time()
        assert await ask(client, LINES[hook]) == FAILED.get(hook, FAILURE)
        assert [when - began for when in cancelled] == [100]
        assert trio.current_time() - began == 100
    assert [type(error) for error in hooks.errors] == [trio.TooSlowError]


@pytest.mark.parametrize("hook", ["connect", "response", "reset", "timeout", "disconnect", "error", "stop", "secured"])
async def test_every_late_hook_is_cancelled(hook: str, autojump_clock: MockClock) -> None:
    async def late(*_: Any) -> None:
        await trio.sleep_forever()

    server = Server(RecordingHooks(), name=NAME, tls=server_tls(), timeout=Timeouts(hook=10, command=20))
    server.on(**{hook: late, "vrfy": raising(RuntimeError())})
    async with connected(server) as client:
        if hook == "connect":
            await client.expect("421")
            await client.expect_end()
        else:
            await client.hello()
            await client.starttls()
            await client.hello()
            await client.command("VRFY a", "451")
            await client.command("RSET", "250")
            await client.expect("421 4.4.2")
            await client.expect_end()


async def test_waiting_for_the_client_does_not_count_for_the_hook_timeout(autojump_clock: MockClock) -> None:
    """A hook that reads a message for hours is not late."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, timeout=Timeouts(hook=1), limits=SLOW_CLIENTS)
    async with connected(server) as client:
        await client.open()
        await client.command("DATA", "354")
        for _ in range(70):
            await trio.sleep(179)
            await client.send(b"x\r\n")
        await client.send(b".\r\n")
        await client.expect("250 2.0.0")
    assert hooks.messages == [b"x\r\n" * 70]


@pytest.fixture(params=[memory_stream_pair, sockets])
def pair(request: pytest.FixtureRequest) -> Callable[[], Pair]:
    """Streams in memory and sockets, which the server reads and writes by their descriptor."""
    make: Callable[[], Pair] = request.param
    return make


LATE = ["vrfy", "mail", "rcpt", "data"]


def first_time(hook: Hook) -> Hook:
    """Return a hook that calls another one the first time, and does nothing after that."""
    calls = iter([hook])

    async def once(*args: Any) -> Any:
        return await next(calls, answering(None))(*args)

    return once


async def late(session: Session, *args: Any) -> None:
    await trio.sleep_forever()


async def late_and_raising(session: Session, *args: Any) -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise ValueError("the secret is 42") from None


async def late_with_a_child_that_raises(session: Session, *args: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late_and_raising, session)
        nursery.start_soon(trio.sleep_forever)


async def late_and_shielded(session: Session, *args: Any) -> Reply | None:
    with trio.CancelScope(shield=True):
        await trio.sleep(400)
    return Reply(450, "It took its time", "4.7.1")


async def late_and_shielded_in_a_message(session: Session, *args: Any) -> Reply | None:
    if args and isinstance(args[0], Body):
        await args[0].read()
    with trio.CancelScope(shield=True):
        await trio.sleep(400)
    return Reply(450, "It took its time", "4.7.1")


@pytest.mark.parametrize(
    "manner",
    [late, late_and_raising, late_with_a_child_that_raises, late_and_shielded, late_and_shielded_in_a_message],
)
@pytest.mark.parametrize("hook", LATE)
async def test_session_goes_on_after_a_late_hook(
    hook: str, manner: Hook, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """Whatever the hook does when it is cancelled, the client gets one reply, and the next command is answered."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    server.on(**{hook: first_time(manner)})
    async with connected(server, pair=pair) as client:
        await client.hello()
        line = LINES[hook]
        before = prepare(line)
        await client.send(before + line.encode() + b"\r\n")
        await client.expect(*["250"] * before.count(b"\r\n"))
        if hook == "data" and manner is late_and_shielded_in_a_message:
            await client.expect("354")
            await client.send(b".\r\n")
        await client.expect("45")
        assert trio.current_time() in (100, 400)
        await trio.sleep(250)
        await client.command("RSET", "250")
        await client.deliver()
        await trio.sleep(250)
        await client.quit()
    assert len(hooks.errors) <= 2


async def test_late_data_hook_that_has_read_the_message(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    """A store that commits in a shield is not interrupted, and the message is accepted."""

    async def commit(session: Session, body: Body) -> None:
        await body.read()
        with trio.CancelScope(shield=True):
            await trio.sleep(600)

    async with connected(build(data=first_time(commit)), pair=pair) as client:
        await client.hello()
        await client.deliver()
        assert trio.current_time() == 600
        await trio.sleep(250)
        await client.deliver()
        await client.quit()


@pytest.mark.parametrize("nested", ["response", "message"])
async def test_hooks_that_a_read_calls_do_not_extend_the_data_hook(
    nested: str, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    async def data(session: Session, body: Body) -> None:
        await body.read()
        await trio.sleep_forever()

    server = build(data=data)
    server.on(**{nested: answering(None)})
    async with connected(server, pair=pair) as client:
        await client.open()
        await client.send(b"BDAT 4\r\nab\r\nNOOP\r\nBDAT 0 LAST\r\n")
        await client.expect("250", "250", "451 4.3.0")
        assert trio.current_time() == 540
        await client.quit()


@pytest.mark.parametrize("reply", [None, Reply(550, "No")])
async def test_rest_of_a_message_after_the_hook_has_no_hook_timeout(
    reply: Reply | None, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """The timeout of the hook does not apply after it has returned."""

    async def data(session: Session, body: Body) -> Reply | None:
        await anext(body)
        return reply

    async with connected(build(data=data), pair=pair) as client:
        await client.open()
        await client.command("DATA", "354")
        for _ in range(10):
            await client.send(b"x\r\n")
            await trio.sleep(170)
        await client.send(b".\r\n")
        await client.expect("550" if reply else "451")
        await client.quit()


# --- installing them --------------------------------------------------------------------------------------------------


async def test_on_installs_functions(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME)
    server.on(rcpt=answering(Reply(550, "One")), vrfy=answering(Reply(550, "One")))
    server.on(rcpt=answering(Reply(550, "Two")))
    async with connected(server) as client:
        await client.hello()
        await client.command("MAIL FROM:<>", "250")
        await client.command("RCPT TO:<a@b.test>", "550 5.7.1 Two")
        await client.command("VRFY a", "550 5.7.1 One")

        with pytest.raises(RuntimeError):
            server.on(rcpt=answering(None))


def test_on_refuses_a_name_that_is_not_a_hook() -> None:
    server = Server(RecordingHooks())
    with pytest.raises(TypeError, match="recpt"):
        server.on(data=answering(None), recpt=answering(None))
    with pytest.raises(TypeError):
        server.on(rcpt=Reply(550))  # type: ignore[arg-type]
    assert set(server._state.hooks) == {"connect", "disconnect", "data", "error"}  # none was installed


def test_hooks_must_be_an_instance() -> None:
    with pytest.raises(TypeError):
        Server(RecordingHooks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("recpt", "rcpt"), ("RCPT", "rcpt"), ("on_data", "data"), ("handle_DATA", "data"), ("disconect", "disconnect")],
)
def test_misspelt_hook_is_refused(name: str, suggestion: str) -> None:
    async def hook(self: Hooks, session: Session, argument: object) -> None: ...

    hooks = type("Misspelt", (Hooks,), {name: hook})()
    with pytest.raises(TypeError, match=rf"Misspelt\.{name} is not a hook: did you mean '{suggestion}'"):
        Server(hooks)
    if name != "RCPT":  # a plain function is refused as well
        with pytest.raises(TypeError, match=suggestion):
            Server(type("Misspelt", (Hooks,), {name: lambda self, value: None})())


@pytest.mark.parametrize("first", ["session", "server", "_session"])
@pytest.mark.parametrize("define", ["async def", "def"])
def test_method_with_the_parameters_of_a_hook_is_refused(define: str, first: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"{define} method(self, {first}, rcpt=None): ...", scope)
    exec(f"{define} function({first}, rcpt=None): ...", scope)
    forms: list[object] = [scope["method"], staticmethod(scope["function"]), classmethod(scope["method"])]
    for recipient in forms:
        with pytest.raises(TypeError, match=r"Store\.recipient is not a hook; the hooks are "):
            Server(type("Store", (Hooks,), {"recipient": recipient})())
    hooks = Hooks()
    setattr(hooks, "recipient", scope["function"])  # noqa: B010 - type checkers refuse the assignment, too
    with pytest.raises(TypeError, match=r"the attribute recipient of Hooks is not a hook; the hooks are "):
        Server(hooks)


def test_misspelt_hook_of_an_instance_is_refused() -> None:
    class Store(Hooks):
        async def _check(self, session: Session, rcpt: Rcpt) -> None: ...

    for hook in (answering(None), Store()._check, lambda *_: None):
        hooks = Store()
        setattr(hooks, "rctp", hook)  # noqa: B010 - type checkers refuse the assignment, too
        with pytest.raises(TypeError, match=r"rctp of .*Store is not a hook: did you mean 'rcpt'"):
            Server(hooks)


def test_hook_that_is_not_async_is_refused() -> None:
    class Plain(Hooks):
        def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:  # type: ignore[override]
            return None

    class Derived(Plain):
        pass

    for hooks in (Plain(), Derived()):
        with pytest.raises(TypeError, match=r"Plain\.rcpt must be an async function"):
            Server(hooks)
    assigned = Hooks()
    setattr(assigned, "rcpt", lambda session, rcpt: None)  # noqa: B010 - type checkers refuse the assignment, too
    with pytest.raises(TypeError, match="rcpt hook must be an async function"):
        Server(assigned)


def test_hook_with_other_parameters_is_refused() -> None:
    """It would fail with each call, and each client would get 451."""

    class Short(Hooks):
        async def secret(self, session: Session, user: str) -> None:  # type: ignore[override]
            return None

    class Long(Hooks):
        async def rcpt(self, session: Session, envelope: object, rcpt: Rcpt) -> None:  # type: ignore[override]
            return None

    class Static(Hooks):
        @staticmethod
        async def rcpt(*args: object, needed: object) -> None:  # type: ignore[override]
            return None

    with pytest.raises(TypeError, match=r"secret hook must take \(session, user, mechanism\), but its .*session"):
        Server(Short())
    for hooks in (Long(), Static()):
        with pytest.raises(TypeError, match=r"rcpt hook must take \(session, rcpt\), but its parameters are \("):
            Server(hooks)

    async def nothing() -> None: ...

    async def optional(session: Session, command: object = None, *more: object, **others: object) -> None: ...

    def with_database(hook: Callable[..., Awaitable[None]]) -> Callable[[Session, Rcpt], Awaitable[None]]:
        @wraps(hook)
        async def call(session: Session, rcpt: Rcpt) -> None:
            await hook(session, rcpt, "database")

        return call

    @with_database
    async def decorated(session: Session, rcpt: Rcpt, database: str) -> None: ...

    Server().on(rcpt=decorated)

    server = Server(extensions=standard(EtrnExtension()))
    for name, parameters in (("connect", "session"), ("etrn", "session, command"), ("error", "server, error")):
        with pytest.raises(TypeError, match=rf"{name} hook must take \({parameters}\), but its parameters are \(\)"):
            server.on(**{name: nothing})
        server.on(**{name: optional})


def test_methods_of_an_application_are_allowed(tmp_path: Path) -> None:
    class Store(Maildir):
        retries = 3

        async def put(self, session: Session, body: AsyncIterable[bytes], **_: Any) -> str:
            return await super().put(session, body)

        async def _archive(self, session: Session) -> None: ...

        async def fetch(self, key: str) -> None: ...

        def lookup(self, key: str) -> None: ...

        def _lookup(self, session: Session) -> None: ...

        @property
        def mails(self) -> list[str]:
            return []

    store = Store(tmp_path / "mail")
    setattr(store, "_filter", store._archive)  # noqa: B010 - not an attribute of the class
    setattr(store, "classify", lambda key: None)  # noqa: B010
    setattr(store, "put", store._archive)  # noqa: B010
    Server(store)


async def test_partial_of_an_async_function_is_a_hook(autojump_clock: MockClock) -> None:
    async def rcpt(reply: Reply, session: Session, rcpt: Rcpt) -> Reply:
        return reply

    server = Server(RecordingHooks(), name=NAME)
    with pytest.raises(TypeError, match="rcpt hook must be an async function"):
        server.on(rcpt=partial(lambda *args: None))  # type: ignore[arg-type]
    server.on(rcpt=partial(rcpt, Reply(550, "Partly")))
    async with connected(server) as client:
        await client.hello()
        await client.command("MAIL FROM:<>", "250")
        await client.command("RCPT TO:<a@b.test>", "550 5.7.1 Partly")
        await client.quit()


async def test_defaults(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Without hooks everything is accepted except messages and logins."""
    async with connected(Server(name=NAME, extensions=CLEARTEXT)) as client:
        offer = await client.hello()
        assert "AUTH" not in offer
        assert "EXPN" not in offer
        await client.command(f"AUTH PLAIN {SECRET}", "502 5.5.1")
        await client.command("EXPN list", "502 5.5.1")
        await client.command("MAIL FROM:<>", "250 2.1.0")
        await client.command("RCPT TO:<postmaster>", "250 2.1.5")
        await client.command("DATA", "554 5.3.0")
        await client.quit()
    assert any(record.name == "smtp_trio.server" and "no data hook" in record.getMessage() for record in caplog.records)


async def test_default_methods_reply_like_missing_hooks(autojump_clock: MockClock) -> None:
    """A subclass may call the method of its base class."""

    class CallsSuper(Hooks):
        pass

    def passing(name: str) -> Any:
        async def hook(self: CallsSuper, *args: Any) -> Any:
            return await getattr(Hooks, name)(self, *args)

        return hook

    for name in NAMES:
        setattr(CallsSuper, name, passing(name))

    async def converse(hooks: Hooks) -> list[str]:
        async with connected(Server(hooks, name=NAME, extensions=CLEARTEXT)) as client:
            await client.hello()
            for line in (
                "NOOP",
                "RSET",
                "VRFY a",
                "HELP MAIL",
                "MAIL FROM:<>",
                "RCPT TO:<a@b.test>",
                "DATA",
                "RSET",
                "QUIT",
            ):
                await client.send(line.encode() + b"\r\n")
                await client.reply()
            await client.expect_end()
        return client.replies[2:]  # without the replies to EHLO, which list EXPN and AUTH as HELP alone does

    assert await converse(CallsSuper()) == await converse(Hooks())


class Failing(RecordingHooks):
    """Hooks that raise."""

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        raise LookupError("internal detail")

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        raise LookupError("internal detail")

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        raise LookupError("internal detail")


async def test_command_of_a_hook_that_raises_is_not_accepted() -> None:
    hooks = Failing()
    async with connected(Server(hooks, name=NAME)) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@client.test>", "451 4.3.0")
        await client.command("RCPT TO:<you@mx.test>", "503 5.5.1")
        await client.command("DATA", "503 5.5.1")
        await client.quit()
        assert not [reply for reply in client.replies if "internal" in reply]
    assert len(hooks.errors) == 1
    assert hooks.messages == []


async def test_recipient_and_message_of_a_hook_that_raises_are_not_accepted() -> None:
    class FailingLate(RecordingHooks):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            raise LookupError("internal detail")

        async def data(self, session: Session, body: Body) -> Reply | None:
            await body.read()
            raise OSError("internal detail")

    server = Server(FailingLate(), name=NAME)
    async with connected(server) as client:
        await client.hello()
        await client.send(START + b"DATA\r\n")
        await client.expect("250 2.1.0", "451 4.3.0", "554 5.5.1")
    assert server.statistics().messages == 0
    server = Server(name=NAME)
    server.on(data=FailingLate().data)
    async with connected(server) as client:
        await client.hello()
        await client.deliver(MESSAGE, "451 4.3.0")
        await client.deliver(MESSAGE, "451 4.3.0")


async def test_client_is_not_authenticated_by_an_auth_hook_that_raises() -> None:
    async with connected(Server(Failing(), name=NAME, tls=server_tls())) as client:
        await client.hello()
        await client.starttls()
        await client.hello()
        await client.command(f"AUTH PLAIN {SECRET}", "454 4.7.0")
        await client.command(f"AUTH PLAIN {SECRET}", "454 4.7.0")
