"""A server of LMTP (RFC 2033): each recipient gets its reply to the message, whatever the data hook does."""

from __future__ import annotations

import base64
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
import trio
from helpers import MESSAGE, NAME, Client, RecordingHooks, connected, server_tls, sockets
from trio.testing import MockClock

from smtp_trio import Body, Envelope, Hooks, Limits, MessageState, Reply, Server, Session, Timeouts, standard
from smtp_trio._server.received import protocol_name
from smtp_trio.protocol import Command, Mail, Path, Rcpt
from smtp_trio.protocol.extensions import STANDARD, Auth, Lmtp, Size, StartTls
from smtp_trio.protocol.extensions.lmtp import Lhlo
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.protocol.params import Params
from smtp_trio.stores import Maildir, SQLite, read

FULL = Reply(452, "Mailbox full", "4.2.2")
GONE = Reply(550, "No such mailbox", "5.1.1")
OTHER = Reply(250, "Ok: in the other store", "2.0.0")
Data = Callable[[Session, Body], Awaitable[Any]]
#: Sends a message, up to the replies to its end.
Transfer = Callable[[Client], Awaitable[None]]


class Recorder(RecordingHooks):
    """Hooks whose `data` is a function, and that record the states of messages and the replies."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self._data = data
        self.replies: list[Reply] = []

    async def data(self, session: Session, body: Body) -> Any:
        return await self._data(session, body)

    async def response(self, session: Session, reply: Reply) -> None:
        self.replies.append(reply)


def serving(data: Data, **settings: Any) -> tuple[Server, Recorder]:
    hooks = Recorder(data)
    return Server(hooks, name=NAME, **{"lmtp": True, "limits": Limits(data_rate=0), **settings}), hooks


def returning(answer: object, *, reads: bool = True) -> Data:
    """Return a data hook that returns ``answer``."""

    async def data(session: Session, body: Body) -> object:
        if reads:
            await body.discard()
        return answer

    return data


async def begin(client: Client, *names: str, verb: str = "LHLO") -> None:
    """Send LHLO, MAIL and RCPT."""
    await client.expect(f"220 {NAME} {'LMTP' if verb == 'LHLO' else 'ESMTP'}")
    await client.command(f"{verb} client.test", f"250-{NAME}")
    await client.command("MAIL FROM:<me@client.test>", "250 2.1.0")
    for name in names:
        await client.command(f"RCPT TO:<{name}@mx.test>", "250 2.1.5")


async def by_data(client: Client) -> None:
    await client.command("DATA", "354")
    await client.send(MESSAGE + b".\r\n")


async def by_bdat(client: Client) -> None:
    await client.send(b"BDAT 5\r\n" + MESSAGE[:5])
    await client.expect("250 2.0.0 Ok")
    await client.send(b"BDAT %d LAST\r\n" % len(MESSAGE[5:]) + MESSAGE[5:])


TRANSFERS = pytest.mark.parametrize("transfer", [by_data, by_bdat])


@TRANSFERS
@pytest.mark.parametrize("kind", [list, tuple])
async def test_replies_in_the_order_of_the_recipients(
    transfer: Transfer, kind: Callable[..., Any], autojump_clock: MockClock
) -> None:
    server, hooks = serving(returning(kind([None, FULL, GONE, OTHER, FULL])))
    async with connected(server) as client:
        await begin(client, "a", "b", "c", "a", "b")
        await transfer(client)
        starts = ("250 2.0.0 Ok: queued as", "452 4.2.2", "550 5.1.1", "250 2.0.0 Ok: in the other", "452 4.2.2")
        await client.expect(*starts)
        assert hooks.sessions[0].last_message is MessageState.ACKNOWLEDGED
        assert [str(each)[:3] for each in hooks.replies[-5:]] == ["250", "452", "550", "250", "452"]
        await client.quit()
    assert hooks.errors == []


@TRANSFERS
@pytest.mark.parametrize("answer", [None, OTHER, FULL, GONE])
async def test_one_reply_is_for_all(transfer: Transfer, answer: Reply | None, autojump_clock: MockClock) -> None:
    server, hooks = serving(returning(answer))
    async with connected(server) as client:
        await begin(client, "a", "b", "a")
        await transfer(client)
        await client.expect(*[str(answer) if answer else "250 2.0.0 Ok: queued as"] * 3)
        assert len({*hooks.replies[-3:]}) == 1
        await client.quit()


async def test_recorded_reply_is_for_all(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        await body.discard()
        session.failure(452, "Mailbox full", "4.2.2")

    server, _ = serving(data)
    async with connected(server) as client:
        await begin(client, "a", "b")
        await by_data(client)
        await client.expect("452 4.2.2", "452 4.2.2")
        await client.quit()


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        ([None], ValueError, "one reply for each recipient: expected 2, got 1"),
        ([None] * 3, ValueError, "expected 2, got 3"),
        ([], ValueError, "expected 2, got 0"),
        ([None, "250 Ok"], TypeError, "the data hook must return a Reply or None, got '250 Ok'"),
        ([None, [None]], TypeError, "the data hook must return a Reply or None, got "),
        ([None, Reply(354, "Go on")], ValueError, "the data hook replied 354"),
        ([None, Reply(421, "Bye")], ValueError, "421 ends the session"),
        ("ab", TypeError, "the data hook must return a Reply or None, got 'ab'"),
    ],
)
@TRANSFERS
async def test_invalid_replies(
    transfer: Transfer, answer: object, error: type[Exception], reason: str, autojump_clock: MockClock
) -> None:
    """They are reported, and each recipient gets 451."""
    server, hooks = serving(returning(answer))
    async with connected(server) as client:
        await begin(client, "a", "b")
        await transfer(client)
        await client.expect("451 4.3.0", "451 4.3.0")
        await client.quit()
    [reported] = hooks.errors
    assert type(reported) is error
    assert re.search(reason, str(reported))


@pytest.mark.parametrize("answer", [[None], [FULL]])
async def test_several_replies_in_smtp(answer: object, autojump_clock: MockClock) -> None:
    server, hooks = serving(returning(answer), lmtp=False)
    async with connected(server) as client:
        await begin(client, "a", verb="EHLO")
        await by_data(client)
        await client.expect("451 4.3.0")
        await client.quit()
    [reported] = hooks.errors
    assert isinstance(reported, TypeError)
    assert "only LMTP has a reply for each recipient" in str(reported)


@TRANSFERS
@pytest.mark.parametrize("outcome", ["raises", "raises before reading", "late", "accepts early"])
async def test_failed_hook(transfer: Transfer, outcome: str, autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> object:
        if outcome == "raises before reading":
            raise RuntimeError("no")
        if outcome == "accepts early":
            await anext(body)
            return [None, FULL]
        await body.discard()
        if outcome == "late":
            await trio.sleep(1000)
        raise RuntimeError("no")

    server, hooks = serving(data, timeout=Timeouts(hook=10, end=20))
    async with connected(server) as client:
        await begin(client, "a", "b")
        if outcome == "raises before reading":
            # One reply: to DATA, which the message does not follow, or to a chunk that is not the last one.
            await client.send(b"DATA\r\n" if transfer is by_data else b"BDAT 1\r\nx")
            await client.expect("451 4.3.0")
        else:
            await transfer(client)
            await client.expect("451 4.3.0", "451 4.3.0")
        await client.quit()
    assert len(hooks.errors) == 1


@TRANSFERS
async def test_late_hook_that_has_read_the_message(transfer: Transfer, autojump_clock: MockClock) -> None:
    """Its replies count, as in SMTP."""

    async def data(session: Session, body: Body) -> object:
        await body.discard()
        with trio.CancelScope(shield=True):
            await trio.sleep(30)
        return [FULL, None]

    server, _ = serving(data, timeout=Timeouts(hook=10, end=20))
    async with connected(server) as client:
        await begin(client, "a", "b")
        await transfer(client)
        await client.expect("452 4.2.2", "250 2.0.0")
        await client.quit()


@TRANSFERS
@pytest.mark.parametrize("answer", [[FULL, GONE], [FULL, FULL]])
async def test_refusals_without_reading(transfer: Transfer, answer: object, autojump_clock: MockClock) -> None:
    """Replies for recipients answer the end of the message, so the client sends it."""
    server, hooks = serving(returning(answer, reads=False))
    async with connected(server) as client:
        await begin(client, "a", "b")
        await transfer(client)
        await client.expect(*map(str, answer))  # type: ignore[call-overload]
        await client.quit()
    assert hooks.errors == []


async def test_refusal_without_reading(autojump_clock: MockClock) -> None:
    """One reply refuses DATA itself."""
    server, _ = serving(returning(FULL, reads=False))
    async with connected(server) as client:
        await begin(client, "a", "b")
        await client.command("DATA", "452 4.2.2")
        await client.quit()


@pytest.mark.parametrize("reads", [True, False])
async def test_message_that_cannot_be_accepted(reads: bool, autojump_clock: MockClock) -> None:
    """The reply for it replaces those of the hook."""
    server, hooks = serving(returning([GONE, FULL], reads=reads))
    async with connected(server) as client:
        await begin(client, "a", "b")
        await client.command("DATA", "354")
        await client.send(b"bare\nLF\r\n.\r\n")
        await client.expect(*(["550 5.5.2"] * 2 if reads else ["550 5.1.1", "452 4.2.2"]))
        await client.quit()
    assert hooks.errors == []


@TRANSFERS
async def test_memory(transfer: Transfer, autojump_clock: MockClock) -> None:
    server, _ = serving(returning(None), limits=Limits(memory=1 << 20, data_rate=0))
    async with connected(server) as client:
        await begin(client, "a", "b")
        server._state.memory.limit = server.statistics().memory + 10
        await transfer(client)
        await client.expect("452 4.3.1", "452 4.3.1")


async def test_client_that_stops_in_the_message(autojump_clock: MockClock) -> None:
    """One 421: it ends the session, and no message was received that has recipients."""
    server, _ = serving(returning([None, None]), timeout=60)
    async with connected(server) as client:
        await begin(client, "a", "b")
        await client.command("DATA", "354")
        await client.expect("421 4.4.2")
        await client.expect_end()


@TRANSFERS
async def test_stop_during_the_hook(transfer: Transfer, autojump_clock: MockClock) -> None:
    """`Server.stop` lets the message be answered, for each recipient."""
    reading = trio.Event()

    async def data(session: Session, body: Body) -> object:
        await body.discard()
        reading.set()
        await trio.sleep(5)
        return [None, FULL]

    server, _ = serving(data)
    async with connected(server) as client, trio.open_nursery() as nursery:
        await begin(client, "a", "b")
        await transfer(client)
        await reading.wait()
        nursery.start_soon(server.stop, 30)
        await client.expect("250 2.0.0", "452 4.2.2", "421 4.3.2")
        await client.expect_end()


async def test_stop_that_cancels_the_hook(autojump_clock: MockClock) -> None:
    reading = trio.Event()

    async def data(session: Session, body: Body) -> object:
        await body.discard()
        reading.set()
        await trio.sleep_forever()
        return None

    server, hooks = serving(data)
    async with connected(server, pair=sockets) as client, trio.open_nursery() as nursery:
        await begin(client, "a", "b")
        await by_data(client)
        await reading.wait()
        nursery.start_soon(server.stop, 0)
        await client.expect("421 4.3.2")  # for the session: the rest are temporary failures (RFC 2033 5)
        await client.expect_end()
    assert hooks.sessions[0].last_message is MessageState.NOT_TAKEN


@TRANSFERS
async def test_no_accepted_recipient(transfer: Transfer, autojump_clock: MockClock) -> None:
    """DATA gets 503, BDAT LAST nothing (RFC 2033 4.2, 4.3). No hook is called."""
    server, hooks = serving(returning(RuntimeError()))
    async with connected(server) as client:
        await begin(client)
        if transfer is by_data:
            await client.command("DATA", "503 5.5.1")
        else:
            await client.send(b"BDAT 3 LAST\r\nabcBDAT 3\r\nabcBDAT 3 LAST\r\nabc")
            await client.expect("503 5.5.1")
        await client.quit()
    assert hooks.errors == []


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_log_and_statistics(level: int, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """One record for each different reply, with its recipients. The message counts once."""
    caplog.set_level(level, "smtp_trio")
    server, _ = serving(returning([None, FULL, GONE, OTHER, FULL, None]))
    async with connected(server) as client:
        await begin(client, "a", "b", "c", "a", "d", "e")
        await by_data(client)
        await client.expect("250", "452", "550", "250", "452", "250")
        await client.quit()
    records = [
        re.findall(r" (accepted|refused): .* to=(\S+) size=(\d+) .* reply=\"(\d+)", record.getMessage())
        for record in caplog.records
    ]
    assert [each for found in records for each in found] == [
        ("accepted", "<a@mx.test>,<e@mx.test>", str(len(MESSAGE)), "250"),
        ("refused", "<b@mx.test>,<d@mx.test>", str(len(MESSAGE)), "452"),
        ("refused", "<c@mx.test>", str(len(MESSAGE)), "550"),
        ("accepted", "<a@mx.test>", str(len(MESSAGE)), "250"),
    ]
    assert (server.statistics().messages, server.statistics().refused) == (1, 2)
    assert server.statistics().bytes == len(MESSAGE)
    dots = [record.getMessage() for record in caplog.records if "line=. " in record.getMessage()]
    assert len(dots) == (level == logging.DEBUG)
    assert all(text.count("452 4.2.2") == 2 and text.count("250 2.0.0") == 3 for text in dots)


async def test_uniform_refusal_is_one_record(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    for answer in (FULL, [FULL, FULL]):
        server, _ = serving(returning(answer))
        async with connected(server) as client:
            await begin(client, "a", "b")
            await by_data(client)
            await client.expect("452", "452")
            await client.quit()
        assert (server.statistics().messages, server.statistics().refused) == (0, 1)
    refused = [each.getMessage() for each in caplog.records if " refused: " in each.getMessage()]
    assert len(refused) == 2
    assert all("to=<a@mx.test>,<b@mx.test>" in each for each in refused)


# --- settings --------------------------------------------------------------------------------------------------------


async def test_required_tls_and_auth(autojump_clock: MockClock) -> None:
    server, _ = serving(
        returning(None), tls=server_tls(), extensions=standard(Auth(required=True), StartTls(required=True))
    )
    server.on(auth=returning_none)
    async with connected(server) as client:
        await client.expect("220")
        for refusal in "530 5.7.0 Must issue a STARTTLS command first", "530 5.7.0 Authentication required":
            await client.command("LHLO client.test", f"250-{NAME}")
            await client.command("MAIL FROM:<me@client.test>", refusal)
            if "STARTTLS" in refusal:
                await client.starttls()
        await client.command(
            f"AUTH PLAIN {base64.b64encode(bytes(1) + b'fred' + bytes(1) + b'secret').decode()}", "235"
        )
        await client.command("MAIL FROM:<me@client.test>", "250")


async def test_tls_and_auth(autojump_clock: MockClock) -> None:
    """RFC 3848: LMTPSA is LMTP with TLS and AUTH."""
    names: list[str] = []

    async def data(session: Session, body: Body) -> None:
        names.append(session.protocol_name)
        assert f"with {session.protocol_name} id".encode() in session.received()
        await body.discard()

    server, _ = serving(data, tls=server_tls(), extensions=standard(Auth(cleartext=True)))
    server.on(auth=returning_none)
    login = f"AUTH PLAIN {base64.b64encode(b'%sfred%ssecret' % (bytes(1), bytes(1))).decode()}"
    for lines in ((), ("STARTTLS",), (login,), ("STARTTLS", login)):
        async with connected(server) as client:
            await begin(client)
            for line in lines:
                if line == "STARTTLS":
                    await client.command("RSET", "250")
                    await client.starttls()
                    await client.command("LHLO client.test", f"250-{NAME}")
                else:
                    await client.command("RSET", "250")
                    await client.command(line, "235")
            if lines:
                await client.command("MAIL FROM:<me@client.test>", "250")
            await client.command("RCPT TO:<you@mx.test>", "250")
            await by_data(client)
            await client.expect("250 2.0.0")
            await client.quit()
    assert names == ["LMTP", "LMTPS", "LMTPA", "LMTPSA"]


async def returning_none(*_: object) -> None:
    """Accept everything."""


def test_protocol_names() -> None:
    path = Path("a@b.test", "a", "b.test")
    plain = Envelope("1", Mail(path))
    utf8 = Envelope("1", Mail(path, Params({SMTPUTF8: None})))
    hello = Lhlo("client.test")
    assert protocol_name(None, None, tls=True, user=False, lmtp=True) == "LMTP"
    assert protocol_name(hello, None, tls=False, user=False, lmtp=True) == "LMTP"
    assert protocol_name(hello, plain, tls=True, user=True, lmtp=True) == "LMTPSA"
    assert protocol_name(hello, utf8, tls=True, user=False, lmtp=True) == "UTF8LMTPS"


async def test_hooks_of_lhlo(autojump_clock: MockClock) -> None:
    """`helo` is called, and `connect` may add a text to the greeting."""

    class Greeting(Hooks):
        async def connect(self, session: Session) -> Reply | None:
            return Reply(220, "ready")

        async def helo(self, session: Session, hello: Command) -> Reply | None:
            assert isinstance(hello, Lhlo)
            return Reply(250, "hello")

    async with connected(Server(Greeting(), name=NAME, lmtp=True)) as client:
        await client.expect(f"220 {NAME} LMTP ready")
        await client.command("LHLO client.test", f"250-{NAME} hello\n250-PIPELINING")
        await client.command("EHLO client.test", "500 5.5.1 This is an LMTP server")


def test_extensions() -> None:
    """The extensions that RFC 2033 5 requires are offered in any case."""
    server = Server(extensions=[Size()], lmtp=True)
    assert [each.keyword for each in server.extensions] == ["LMTP", "PIPELINING", "ENHANCEDSTATUSCODES", "SIZE"]
    assert server.lmtp
    assert Server(extensions=standard(Lmtp())).lmtp
    assert not Server(extensions=STANDARD).lmtp
    with pytest.raises(TypeError, match="lmtp must be"):
        Server(lmtp="yes")  # type: ignore[arg-type]


async def test_never_on_port_25() -> None:
    """RFC 2033 5."""
    with pytest.raises(ValueError, match="LMTP must not be used on port 25"):
        await Server(lmtp=True).serve()


async def test_never_on_a_listener_on_port_25(monkeypatch: pytest.MonkeyPatch) -> None:
    sock = trio.socket.socket()
    await sock.bind(("127.0.0.1", 0))
    sock.listen()
    listener = trio.SocketListener(sock)
    monkeypatch.setattr(type(sock), "getsockname", lambda _: ("127.0.0.1", 25))
    with pytest.raises(ValueError, match="LMTP must not be used on port 25"):
        await Server(lmtp=True).serve_listeners([listener])
    assert sock.fileno() == -1


async def test_unix_socket_is_not_port_25(short_path: Any) -> None:
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(short_path / "lmtp"))
    sock.listen()
    server = Server(lmtp=True, name=NAME)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [trio.SocketListener(sock)])
        client = Client(await trio.open_unix_socket(str(short_path / "lmtp")))
        await client.expect(f"220 {NAME} LMTP")
        await client.quit()
        await client.stream.aclose()
        await server.stop()


# --- replies while the hook runs (RFC 2033 5) -------------------------------------------------------------------------


@TRANSFERS
@pytest.mark.parametrize("returned", ["nothing", "one", "list"])
async def test_replies_while_the_hook_runs(transfer: Transfer, returned: str, autojump_clock: MockClock) -> None:
    """The client gets each before the next one is known."""
    go_on = trio.Event()

    async def data(session: Session, body: Body) -> object:
        await body.discard()
        await body.reply()
        await go_on.wait()
        await body.reply(FULL)
        if returned == "nothing":
            await body.reply(GONE)
            return None
        return GONE if returned == "one" else [GONE]

    server, hooks = serving(data)
    async with connected(server) as client:
        for _ in range(2):
            if hooks.sessions and hooks.sessions[-1].last_message:
                go_on = trio.Event()
                await client.command("MAIL FROM:<me@client.test>", "250 2.1.0")
                for name in "abc":
                    await client.command(f"RCPT TO:<{name}@mx.test>", "250 2.1.5")
            else:
                await begin(client, "a", "b", "c")
            await transfer(client)
            await client.expect("250 2.0.0 Ok: queued as")
            assert hooks.sessions[0].last_message is MessageState.ACKNOWLEDGED
            go_on.set()
            await client.expect("452 4.2.2", "550 5.1.1")
        await client.quit()
    assert hooks.errors == []
    assert [each.code for each in hooks.replies[-4:]] == [250, 452, 550, 221]
    statistics = server.statistics()
    assert (statistics.messages, statistics.refused) == (2, 4)


@TRANSFERS
@pytest.mark.parametrize(
    "end", ["raises", "late", "returns nothing", "returns too few", "returns too many", "returns 421s"]
)
async def test_hook_that_fails_after_a_reply(transfer: Transfer, end: str, autojump_clock: MockClock) -> None:
    """The recipients without a reply get 451, and those that have one keep it."""

    async def data(session: Session, body: Body) -> object:
        await body.discard()
        await body.reply()
        if end == "raises":
            raise OSError("disk")
        if end == "late":
            await trio.sleep(1000)
        values = {"too few": [None], "too many": [None] * 3, "421s": [None, Reply(421, "Bye")]}
        return values.get(end.removeprefix("returns "))

    server, hooks = serving(data)
    async with connected(server) as client:
        await begin(client, "a", "b", "c")
        await transfer(client)
        await client.expect("250 2.0.0", "451 4.3.0", "451 4.3.0")
        assert hooks.sessions[0].last_message is MessageState.ACKNOWLEDGED
        await client.command("MAIL FROM:<me@client.test>", "250 2.1.0")
        await client.quit()
    assert len(hooks.errors) == 1


async def test_hook_that_fails_after_all_replies(autojump_clock: MockClock) -> None:
    """Each reply stands, also the last one, which is sent when the hook has returned."""

    async def data(session: Session, body: Body) -> object:
        await body.discard()
        for reply in (FULL, None):
            await body.reply(reply)
        raise OSError("disk")

    server, hooks = serving(data)
    async with connected(server) as client:
        await begin(client, "a", "b")
        await by_data(client)
        await client.expect("452 4.2.2", "250 2.0.0")
        assert hooks.sessions[0].last_message is MessageState.ACKNOWLEDGED
        await client.quit()
    assert len(hooks.errors) == 1


async def test_421_for_the_other_recipients(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> Reply:
        await body.discard()
        await body.reply()
        return Reply(421, "Going down", "4.3.2")

    server, _ = serving(data)
    async with connected(server) as client:
        await begin(client, "a", "b", "c")
        await by_data(client)
        await client.expect("250 2.0.0", "421 4.3.2", "421 4.3.2")
        await client.expect_end()


@pytest.mark.parametrize("cut", ["stop", "disconnect"])
async def test_session_that_ends_after_a_reply(
    cut: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The recipients with a reply are in the log."""
    waiting = trio.Event()

    async def data(session: Session, body: Body) -> object:
        await body.discard()
        await body.reply(FULL)
        await body.reply()
        waiting.set()
        await trio.sleep(5 if cut == "disconnect" else 1000)
        return [None]

    server, hooks = serving(data)
    caplog.set_level(logging.INFO, logger="smtp_trio")
    async with connected(server, pair=sockets) as client, trio.open_nursery() as nursery:
        await begin(client, "a", "b", "c")
        await by_data(client)
        await client.expect("452 4.2.2", "250 2.0.0")
        await waiting.wait()
        if cut == "stop":
            nursery.start_soon(server.stop, 0)
            await client.expect("421 4.3.2")
            await client.expect_end()
        else:
            await client.stream.aclose()
            await trio.sleep(10)
    expected = MessageState.ACKNOWLEDGED if cut == "stop" else MessageState.UNACKNOWLEDGED
    assert hooks.sessions[0].last_message in (expected, MessageState.ACKNOWLEDGED)
    text = caplog.text
    assert re.search(r"to=\S*a@mx\.test.*452", text)
    assert re.search(r"to=\S*b@mx\.test.*250", text)
    assert ("c@mx.test" in text) is (cut == "disconnect")
    assert server.statistics().messages == 1


async def test_each_reply_begins_the_time_of_the_hook_anew(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        await body.discard()
        for _ in body.envelope.rcpts:
            await trio.sleep(15)
            await body.reply()

    server, hooks = serving(data, timeout=Timeouts(hook=10, end=20))
    async with connected(server) as client:
        await begin(client, *"abcde")
        await by_data(client)
        await client.expect(*["250 2.0.0"] * 5)
        await client.quit()
    assert hooks.errors == []


WRONG = {
    "before the end": (RuntimeError, "must be read to its end"),
    "too many": (RuntimeError, "each of the 2 recipients has a reply"),
    "421": (ValueError, "421 ends the session"),
    "354": (ValueError, "replied 354"),
    "text": (TypeError, "reply must be"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_replies_while_the_hook_runs(wrong: str, autojump_clock: MockClock) -> None:
    error, reason = WRONG[wrong]

    async def data(session: Session, body: Body) -> None:
        if wrong != "before the end":
            await body.discard()
        if wrong == "too many":
            await body.reply()
            await body.reply()
        reply: Any = {"421": Reply(421, "Bye"), "354": Reply(354, "Go on"), "text": "250 Ok"}.get(wrong)
        with pytest.raises(error, match=reason):
            await body.reply(reply)
        await body.discard()
        if wrong != "too many":
            await body.reply()
            await body.reply()

    server, hooks = serving(data)
    async with connected(server) as client:
        await begin(client, "a", "b")
        await by_data(client)
        await client.expect("250 2.0.0", "250 2.0.0")
        await client.quit()
    assert hooks.errors == []


@pytest.mark.parametrize("lmtp", [True, False])
async def test_reply_after_the_hook_or_in_smtp(lmtp: bool, autojump_clock: MockClock) -> None:
    kept: list[Body] = []

    async def data(session: Session, body: Body) -> None:
        await body.discard()
        kept.append(body)
        if not lmtp:
            with pytest.raises(RuntimeError, match="only LMTP"):
                await body.reply()

    server, hooks = serving(data, lmtp=lmtp)
    async with connected(server) as client:
        await begin(client, "a", verb="LHLO" if lmtp else "EHLO")
        await by_data(client)
        await client.expect("250 2.0.0")
        with pytest.raises(RuntimeError, match="data hook" if lmtp else "only LMTP"):
            await kept[0].reply()
        await client.quit()
    assert hooks.errors == []


# --- stores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Maildir, SQLite])
async def test_store_for_some_recipients(kind: type[Maildir | SQLite], tmp_path: Any) -> None:
    """The envelope that is stored has those recipients only."""
    store = kind(tmp_path / "store")
    uids: list[str] = []

    async def data(session: Session, body: Body) -> list[Reply | None]:
        first, _, third = body.envelope.rcpts
        for wrong in ([], [Rcpt(Path("x@mx.test", "x", "mx.test"))]):
            with pytest.raises(ValueError, match="rcpts must be some of the recipients"):
                await store.put(session, body, rcpts=wrong)
        uids.append(await store.put(session, body, rcpts=[first, third]))
        return [None, FULL, None]

    server, hooks = serving(data)
    async with aclosing(store), connected(server) as client:
        await begin(client, "a", "b", "c")
        await by_data(client)
        await client.expect("250 2.0.0", "452 4.2.2", "250 2.0.0")
        await client.quit()
    assert hooks.errors == []
    stored = read(tmp_path / "store" / "new" / uids[0]) if kind is Maildir else read(tmp_path / "store", uids[0])
    assert stored.recipients == ("a@mx.test", "c@mx.test")
    assert stored.message == MESSAGE
