"""`Pool`: connections that are kept and shared by many tasks."""

from __future__ import annotations

import email.message
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import NAME, Pair, PoolOf, RecordingHooks, client_tls, listening, serve, server_tls, sockets
from scripted import (
    CHUNKED,
    CLOSE,
    EXPECT_CLOSE,
    GO_AHEAD,
    ME,
    MESSAGE,
    NO_REPLY,
    OK,
    READ_BODY,
    UNPIPELINED,
    YOU,
    Script,
    Step,
    hello,
)
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import smtp_trio
from smtp_trio import (
    AllRecipientsRejectedError,
    Body,
    Client,
    ConnectionLostError,
    DeliveryUnknownError,
    Pool,
    Reply,
    Result,
    Server,
    Session,
    TimedOutError,
)
from smtp_trio._client.pool import QUIT_TIMEOUT, PoolStatistics
from smtp_trio._client.retry import PROBE_TIMEOUT
from smtp_trio.protocol.extensions.limits import LimitsExtension

CLOSING = b"421 4.3.2 Going down\r\n"
GOODBYE = b"221 2.0.0 Closing connection\r\n"
TRY_LATER = b"451 4.4.2 Timeout - closing connection\r\n"
REFUSAL = b"550 5.1.1 No\r\n"
#: The script of a connection with one message, and with two.
ONE_MESSAGE = (*hello(), *UNPIPELINED)
TWO_MESSAGES = (*ONE_MESSAGE, *UNPIPELINED)
GROUP: tuple[Step, ...] = ("MAIL.*", "RCPT.*", "DATA")
PAIRS = pytest.mark.parametrize("pair", [memory_stream_pair, sockets], ids=["memory", "sockets"])


@asynccontextmanager
async def scripted_pool(
    *connections: tuple[Step, ...], pair: Callable[[], Pair] = sockets, **options: Any
) -> AsyncGenerator[PoolOf]:
    """Open a pool whose connections lead to servers with these scripts, in order. All of them must be used.

    The default is a pair of sockets, because over other streams the pool sends NOOP before it reuses a connection.
    """
    remaining = list(connections)
    scripts: list[Script] = []

    async def open_client() -> Client:
        client_stream, server_stream = pair()
        script = Script(server_stream, client_stream, remaining.pop(0))
        scripts.append(script)
        nursery.start_soon(script.run)
        return await script.client().__aenter__()

    async with trio.open_nursery() as nursery:
        async with PoolOf(open_client, **options) as pool:
            yield pool
        assert pool.statistics().open == 0
        with trio.move_on_after(0):  # the scripts end, now that the connections are closed
            await wait_all_tasks_blocked()
        if any(script.stopped_reading for script in scripts):
            nursery.cancel_scope.cancel()
    assert remaining == []


async def deliver(pool: Pool, message: Any = MESSAGE) -> Result:
    """Send one message, and wait until the script has run as far as it can."""
    result = await pool.send(ME, [YOU], message)
    assert result.complete
    await wait_all_tasks_blocked()
    return result


class ReplyWithSubject(RecordingHooks):
    """Replies to each message with its subject, after a different delay for each."""

    def __init__(self, slow: float = 1) -> None:
        super().__init__()
        self.slow = slow

    async def data(self, session: Session, body: Body) -> Reply:
        message = await body.read()
        subject = message.split(b"\r\n")[0].partition(b": ")[2].decode()
        await trio.sleep(self.slow * (1 + len(self.messages) % 3))
        self.messages.append(message)
        return Reply(250, f"Taken: {subject}", "2.0.0")


@asynccontextmanager
async def server_pool(
    server: Server,
    *,
    pair: Callable[[], Pair] = memory_stream_pair,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncGenerator[PoolOf]:
    """Open a pool whose connections are sessions of this server."""

    async def open_client() -> Client:
        client_end, server_end = pair()
        nursery.start_soon(serve, server, server_end)
        return await Client(client_end, host=NAME, **(settings or {"tls": "never"})).__aenter__()

    async with trio.open_nursery() as nursery:
        async with PoolOf(open_client, **options) as pool:
            yield pool
    assert server.statistics().sessions_open == 0


async def send_named(pool: Pool, name: str) -> None:
    """Send a message, and check that the reply is its own."""
    result = await pool.send(ME, [YOU], f"Subject: {name}\r\n\r\nhello\r\n".encode())
    assert [outcome.reply.text for outcome in result.accepted] == [f"Taken: {name}"]


# --- connections are kept ---------------------------------------------------------------------------------------------


@PAIRS
async def test_one_connection_for_many_messages(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    hooks = ReplyWithSubject()
    async with server_pool(Server(hooks, name=NAME), pair=pair) as pool:
        for n in range(5):
            await send_named(pool, str(n))
        message = email.message.EmailMessage()
        message["Subject"], message["From"], message["To"] = "six", ME, YOU
        result = await pool.send_message(message)
        assert result.accepted[0].reply.text == "Taken: six"
        assert pool.statistics() == PoolStatistics(open=1, idle=1, waiting=0, messages=6)
    assert pool.opened == len(hooks.sessions) == 1
    assert pool.statistics() == PoolStatistics(open=0, idle=0, waiting=0, messages=6)


@PAIRS
async def test_connection_with_tls_is_reused(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    settings = {"tls": "required", "ssl_context": client_tls()}
    async with server_pool(
        Server(ReplyWithSubject(), name=NAME, tls=server_tls()), pair=pair, settings=settings
    ) as pool:
        for n in range(3):
            await send_named(pool, str(n))
    assert pool.opened == 1


async def test_pool_over_the_network() -> None:
    async with listening(Server(ReplyWithSubject(slow=0), name=NAME)) as port:
        async with Pool("127.0.0.1", port, name="client.test", tls="never", size=2) as pool:
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(send_named, pool, str(n))
            assert pool.statistics().open == 2


@pytest.mark.parametrize("count", [2, 50])
@PAIRS
async def test_many_tasks_get_their_own_replies(
    count: int, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """There are no more connections than allowed."""
    hooks = ReplyWithSubject()
    async with server_pool(Server(hooks, name=NAME), pair=pair, size=4) as pool:
        async with trio.open_nursery() as nursery:
            for n in range(count):
                nursery.start_soon(send_named, pool, str(n))
            await wait_all_tasks_blocked()
            assert pool.statistics().waiting == max(count - 4, 0)
        assert pool.statistics().messages == count
    assert pool.opened == min(count, 4)
    assert len(hooks.messages) == count


async def test_waiting_tasks_are_served_in_order(autojump_clock: MockClock) -> None:
    hooks = ReplyWithSubject()
    async with server_pool(Server(hooks, name=NAME), size=1) as pool:
        async with trio.open_nursery() as nursery:
            for n in range(9):
                nursery.start_soon(send_named, pool, str(n))
                await wait_all_tasks_blocked()
    assert [message[9:10] for message in hooks.messages] == [b"%d" % n for n in range(9)]


async def test_connection_used_last_is_used_first(autojump_clock: MockClock) -> None:
    """The others expire and are closed."""
    hooks = ReplyWithSubject()
    async with server_pool(Server(hooks, name=NAME), max_idle=30) as pool:
        async with pool.client() as first:
            async with pool.client() as second:
                assert second is not first
        for _ in range(4):
            async with pool.client() as client:
                assert client is first
            await trio.sleep(9)
        assert pool.statistics().open == 2
        async with pool.client() as client:
            assert client is first
            assert pool.statistics().open == 1
    assert not second.usable


# --- connections are closed -------------------------------------------------------------------------------------------


async def test_max_messages(autojump_clock: MockClock) -> None:
    async with scripted_pool(TWO_MESSAGES, TWO_MESSAGES, ONE_MESSAGE, max_messages=2) as pool:
        for n in range(1, 6):
            await deliver(pool)
            assert pool.statistics().idle == n % 2


async def test_max_messages_counts_those_of_a_lent_client(autojump_clock: MockClock) -> None:
    async with scripted_pool(TWO_MESSAGES, ONE_MESSAGE, max_messages=2) as pool:
        async with pool.client() as client:
            await client.send(ME, [YOU], MESSAGE)
            await client.send(ME, [YOU], MESSAGE)
        assert pool.statistics().open == 0
        await deliver(pool)


async def test_mailmax_of_the_server(autojump_clock: MockClock) -> None:
    connection = (*hello("LIMITS MAILMAX=1"), *UNPIPELINED)
    async with scripted_pool(connection, connection) as pool:
        await deliver(pool)
        assert pool.statistics().open == 0
        await deliver(pool)
    server = Server(ReplyWithSubject(), name=NAME, extensions=[*smtp_trio.standard(), LimitsExtension(mail_max=3)])
    async with server_pool(server) as pool:
        for n in range(7):
            await send_named(pool, str(n))
    assert pool.opened == 3


async def test_max_age(autojump_clock: MockClock) -> None:
    """A connection is too old when it is returned, or when it is next needed."""

    async def slow(script: Script) -> None:
        await trio.sleep(100)
        await script.send(OK)

    late = (*hello(), *UNPIPELINED[:-1], slow)
    async with scripted_pool(late, ONE_MESSAGE, ONE_MESSAGE, max_age=100, max_idle=1000) as pool:
        await deliver(pool)
        assert pool.statistics().open == 0
        await deliver(pool)
        await trio.sleep(99)
        assert pool.statistics().idle == 1
        await trio.sleep(1)
        await deliver(pool)


async def test_max_idle(autojump_clock: MockClock) -> None:
    """The next use of the pool closes it with QUIT."""
    async with scripted_pool(
        (*ONE_MESSAGE, "QUIT", b"221 2.0.0 Bye\r\n", EXPECT_CLOSE), ONE_MESSAGE, max_idle=30
    ) as pool:
        await deliver(pool)
        await trio.sleep(31)
        await deliver(pool)
        assert pool.statistics() == PoolStatistics(open=1, idle=1, waiting=0, messages=2)


async def test_expired_connections_are_closed_when_others_are_returned(autojump_clock: MockClock) -> None:
    async with server_pool(Server(ReplyWithSubject(), name=NAME), max_idle=30) as pool:
        async with pool.client():
            async with pool.client() as idle:
                pass
            await trio.sleep(31)
        assert not idle.usable
        assert pool.statistics() == PoolStatistics(open=1, idle=1, waiting=0, messages=0)


# --- connections closed by the server ---------------------------------------------------------------------------------


@PAIRS
@pytest.mark.parametrize(
    "unsolicited",
    [(), (CLOSING,), (GOODBYE,), (b"250 2.0.0 Who asked?\r\n",)],
    ids=["close", "421", "221", "nonsense"],
)
async def test_connection_closed_by_the_server_while_idle(
    unsolicited: tuple[Step, ...], pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """The end of the connection, 421 and an unsolicited reply are noticed before a command is sent."""
    async with scripted_pool((*ONE_MESSAGE, *unsolicited, CLOSE), ONE_MESSAGE, pair=pair) as pool:
        await deliver(pool)
        await deliver(pool)


async def test_probe_after(autojump_clock: MockClock) -> None:
    """Only a connection that was idle for that long is probed."""
    async with scripted_pool((*ONE_MESSAGE, *UNPIPELINED, "NOOP", OK, *UNPIPELINED), probe_after=10) as pool:
        await deliver(pool)
        await trio.sleep(9)
        await deliver(pool)
        await trio.sleep(10)
        await deliver(pool)


@PAIRS
async def test_421_to_the_probe(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    async with scripted_pool(
        (*ONE_MESSAGE, "NOOP", CLOSING, CLOSE), (*ONE_MESSAGE, "NOOP", OK + CLOSING, CLOSE), ONE_MESSAGE, pair=pair
    ) as pool:
        for _ in range(3):
            await deliver(pool)
            await trio.sleep(5)


async def test_no_reply_to_the_probe(autojump_clock: MockClock) -> None:
    async with scripted_pool((*ONE_MESSAGE, "NOOP", NO_REPLY), ONE_MESSAGE) as pool:
        await deliver(pool)
        await trio.sleep(5)
        start = trio.current_time()
        await deliver(pool)
        assert trio.current_time() == start + PROBE_TIMEOUT


async def test_cancelled_during_the_probe(autojump_clock: MockClock) -> None:
    async with scripted_pool((*ONE_MESSAGE, "NOOP", NO_REPLY), ONE_MESSAGE) as pool:
        await deliver(pool)
        await trio.sleep(5)
        with trio.move_on_after(1) as scope:
            await deliver(pool)
        assert scope.cancelled_caught
        assert pool.statistics().open == 0
        await deliver(pool)


# --- sending again ----------------------------------------------------------------------------------------------------


RETRIED: dict[str, tuple[Step, ...]] = {
    "421 to MAIL": (*ONE_MESSAGE, "MAIL.*", CLOSING, CLOSE),
    "421 to MAIL, in a group": (*hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK, *GROUP, CLOSING, CLOSE),
    "421 to MAIL, with the message": (*hello("PIPELINING", "CHUNKING"), *CHUNKED, *CHUNKED[:-1], CLOSING, CLOSE),
    "lost at MAIL": (*ONE_MESSAGE, "MAIL.*", CLOSE),
    "lost at MAIL, in a group": (*hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK, *GROUP, CLOSE),
    "221 to MAIL": (*ONE_MESSAGE, "MAIL.*", GOODBYE, CLOSE),
    "221 to MAIL, in a group": (*hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK, *GROUP, GOODBYE, CLOSE),
    "221 to MAIL, with the message": (*hello("PIPELINING", "CHUNKING"), *CHUNKED, *CHUNKED[:-1], GOODBYE, CLOSE),
    "221 of several lines": (*ONE_MESSAGE, "MAIL.*", b"221-2.0.0 Bye\r\n221 2.0.0 Closing\r\n", CLOSE),
    "451 to MAIL and the end": (*ONE_MESSAGE, "MAIL.*", TRY_LATER, CLOSE),
    "451 to MAIL, and the end at NOOP": (*ONE_MESSAGE, "MAIL.*", TRY_LATER, "NOOP", CLOSE),
    "451 to MAIL, and 421 to NOOP": (*ONE_MESSAGE, "MAIL.*", TRY_LATER, "NOOP", CLOSING, CLOSE),
    "451 to MAIL, and 221 to NOOP": (*ONE_MESSAGE, "MAIL.*", TRY_LATER, "NOOP", GOODBYE, CLOSE),
    "451 and 421 to MAIL": (*ONE_MESSAGE, "MAIL.*", TRY_LATER + CLOSING, CLOSE),
    "451 to MAIL, in a group": (
        *hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK, *GROUP, TRY_LATER, CLOSE
    ),
    "451 to all, in a group": (
        *hello("PIPELINING"), *GROUP, OK * 2 + GO_AHEAD, READ_BODY, OK, *GROUP, TRY_LATER * 3, CLOSE
    ),
    "451 to MAIL, with the message": (*hello("PIPELINING", "CHUNKING"), *CHUNKED, *CHUNKED[:-1], TRY_LATER, CLOSE),
}  # fmt: skip


@pytest.mark.parametrize("name", RETRIED)
async def test_message_is_sent_again_if_surely_not_accepted(name: str, autojump_clock: MockClock) -> None:
    """It is sent over a new connection, although another one is idle."""
    async with scripted_pool(RETRIED[name], (*hello(), "QUIT", b"221 2.0.0 Bye\r\n"), ONE_MESSAGE) as pool:
        async with pool.client() as client:
            async with pool.client() as other:
                pass
            await client.send(ME, [YOU], MESSAGE)
        await deliver(pool)
        assert pool.opened == 3
        assert other.usable


NOT_RETRIED: dict[str, tuple[tuple[Step, ...], type[Exception] | tuple[type[Exception], ...]]] = {
    "lost after the message": (
        (*hello("PIPELINING", "CHUNKING"), *CHUNKED, *CHUNKED[:-1], CLOSE),
        DeliveryUnknownError,
    ),
    "lost at RCPT": ((*ONE_MESSAGE, *UNPIPELINED[:3], CLOSE), ConnectionLostError),
    "lost in the message": ((*ONE_MESSAGE, *UNPIPELINED[:6], CLOSE), (ConnectionLostError, DeliveryUnknownError)),
    "lost after the end of the message": ((*ONE_MESSAGE, *UNPIPELINED[:7], CLOSE), DeliveryUnknownError),
    "421 to RCPT": ((*ONE_MESSAGE, *UNPIPELINED[:3], CLOSING, CLOSE), AllRecipientsRejectedError),
    "421 to DATA": ((*ONE_MESSAGE, *UNPIPELINED[:5], CLOSING, CLOSE), AllRecipientsRejectedError),
    "421 to the message": ((*ONE_MESSAGE, *UNPIPELINED[:7], CLOSING, CLOSE), AllRecipientsRejectedError),
    "221 to RCPT": ((*ONE_MESSAGE, *UNPIPELINED[:3], GOODBYE, CLOSE), ConnectionLostError),
    "221 to DATA": ((*ONE_MESSAGE, *UNPIPELINED[:5], GOODBYE, CLOSE), ConnectionLostError),
    "221 to the message": ((*ONE_MESSAGE, *UNPIPELINED[:7], GOODBYE, CLOSE), DeliveryUnknownError),
    "451 to RCPT": ((*ONE_MESSAGE, *UNPIPELINED[:3], TRY_LATER, CLOSE), AllRecipientsRejectedError),
    "451 to DATA": ((*ONE_MESSAGE, *UNPIPELINED[:5], TRY_LATER, CLOSE), AllRecipientsRejectedError),
    "451 to the message": ((*ONE_MESSAGE, *UNPIPELINED[:7], TRY_LATER, CLOSE), AllRecipientsRejectedError),
    "451 to MAIL, and no end": ((*ONE_MESSAGE, "MAIL.*", TRY_LATER, "NOOP", OK), AllRecipientsRejectedError),
    "550 to MAIL and the end": ((*ONE_MESSAGE, "MAIL.*", REFUSAL, CLOSE), AllRecipientsRejectedError),
    "MAIL refused": ((*ONE_MESSAGE, "MAIL.*", REFUSAL), AllRecipientsRejectedError),
    "no reply to MAIL": ((*ONE_MESSAGE, "MAIL.*", NO_REPLY), TimedOutError),
}

#: Those after which the connection is kept: the server has answered everything, and its end of the connection is not
#: noticed before the next use.
KEPT = {"MAIL refused", "451 to MAIL, and no end", "451 to the message", "550 to MAIL and the end"}


@pytest.mark.parametrize("name", NOT_RETRIED)
async def test_message_is_not_sent_again_if_possibly_accepted(name: str, autojump_clock: MockClock) -> None:
    """Part of it may have been accepted, or another attempt would not help."""
    connection, error = NOT_RETRIED[name]
    async with scripted_pool(connection) as pool:
        await deliver(pool)
        with pytest.raises(error):
            await pool.send(ME, [YOU], MESSAGE)
        assert pool.opened == 1
        assert pool.statistics().open == (name in KEPT)


async def test_failure_on_a_new_connection_is_not_retried(autojump_clock: MockClock) -> None:
    failing = (*hello(), "MAIL.*", CLOSING, CLOSE)
    async with scripted_pool(failing) as pool:
        with pytest.raises(AllRecipientsRejectedError):
            await pool.send(ME, [YOU], MESSAGE)
    async with scripted_pool((*ONE_MESSAGE, "MAIL.*", CLOSE), failing) as pool:
        await deliver(pool)
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await pool.send(ME, [YOU], MESSAGE)
        assert caught.value.__context__ is None


@pytest.mark.parametrize("end", [CLOSING, CLOSE])
async def test_failure_in_a_later_transaction_is_not_retried(end: Step, autojump_clock: MockClock) -> None:
    """The first recipient has received the message by then."""
    others = ["a@mx.test", "b@mx.test"]
    async with scripted_pool((*hello("LIMITS RCPTMAX=1"), *UNPIPELINED, *UNPIPELINED, "MAIL.*", end, CLOSE)) as pool:
        await deliver(pool)
        with suppress(ConnectionLostError):
            result = await pool.send(ME, others, MESSAGE)
            assert [outcome.recipient for outcome in result.accepted] == others[:1]
        assert pool.opened == 1


async def test_retry_with_iterables_that_can_be_read_once(autojump_clock: MockClock) -> None:
    """The recipients are stored, and the message is not read before the failure."""
    begun = 0

    async def pieces() -> AsyncGenerator[bytes]:
        nonlocal begun
        begun += 1
        yield MESSAGE

    async with scripted_pool((*ONE_MESSAGE, "MAIL.*", CLOSING, CLOSE), (*ONE_MESSAGE, *UNPIPELINED[:6], CLOSE)) as pool:
        await deliver(pool)
        result = await pool.send(ME, (name for name in [YOU]), pieces())
        assert [outcome.recipient for outcome in result.accepted] == [YOU]
        assert begun == 1
        await wait_all_tasks_blocked()
        with pytest.raises((ConnectionLostError, DeliveryUnknownError)):
            await pool.send(ME, [YOU], pieces())
        assert begun == 2
        assert pool.opened == 2


@pytest.mark.parametrize("keywords", [(), ("PIPELINING", "CHUNKING")])
async def test_connection_closed_after_the_check(
    keywords: tuple[str, ...], tmp_path: Path, autojump_clock: MockClock, inline_threads: None
) -> None:
    """It is closed before MAIL is sent, while the file is opened."""
    (tmp_path / "mail").write_bytes(MESSAGE)
    servers: list[trio.SocketStream] = []

    def pair() -> Pair:
        client_end, server_end = sockets()
        assert isinstance(server_end, trio.SocketStream)
        servers.append(server_end)
        return client_end, server_end

    class Late(os.PathLike[str]):
        def __fspath__(self) -> str:
            servers[0].socket.close()
            return str(tmp_path / "mail")

    async with scripted_pool((*hello(*keywords), NO_REPLY), ONE_MESSAGE, pair=pair) as pool:
        async with pool.client() as client:
            assert client.usable
        await deliver(pool, Late())
        assert pool.opened == 2


async def test_recipients_must_not_be_a_str(autojump_clock: MockClock) -> None:
    async with scripted_pool(ONE_MESSAGE) as pool:
        with pytest.raises(TypeError, match=r"^recipients must be an iterable of str, got"):
            await pool.send(ME, YOU, MESSAGE)
        await deliver(pool)


# --- connections out of step ------------------------------------------------------------------------------------------


async def test_cancelled_sends_do_not_affect_later_ones(autojump_clock: MockClock) -> None:
    """A connection with an outstanding reply is not used again."""
    hooks = ReplyWithSubject()
    async with server_pool(Server(hooks, name=NAME), size=1) as pool:
        for n in range(4):
            with trio.move_on_after(0.5):
                await send_named(pool, f"cancelled {n}")
            await send_named(pool, str(n))
            await trio.sleep(3)
    assert pool.opened > 1


async def test_open_transaction_is_ended_before_the_next_use(autojump_clock: MockClock) -> None:
    connection = (*hello(), "MAIL.*", OK, "RSET", OK, "MAIL.*", OK, "RSET", OK, *UNPIPELINED)
    async with scripted_pool(connection) as pool:
        for _ in range(2):
            async with pool.client() as client:
                await client.mail(ME)
        await deliver(pool)


async def test_lent_clients(autojump_clock: MockClock) -> None:
    """A client that was closed is not kept; one that is usable is, also after an exception."""
    async with server_pool(Server(ReplyWithSubject(), name=NAME)) as pool:
        async with pool.client() as first:
            await first.quit()
        assert pool.statistics().open == 0
        with pytest.raises(KeyError):
            async with pool.client() as second:
                raise KeyError
        async with pool.client() as third:
            assert third is second
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_named, pool, "elsewhere")
        assert pool.opened == 3


async def test_lent_client_that_lost_its_connection_is_not_kept(autojump_clock: MockClock) -> None:
    """The connection ended while no reply was outstanding."""
    async with scripted_pool((*hello(), CLOSE), ONE_MESSAGE) as pool:
        async with pool.client() as client:
            await wait_all_tasks_blocked()
            with pytest.raises(ConnectionLostError):
                await client.noop()
            assert not client.usable
        assert pool.statistics().open == 0
        await deliver(pool)


# --- settings, errors, closing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": -1},
        {"max_messages": 0},
        {"max_age": 0},
        {"max_idle": -1},
        {"probe_after": -0.1},
    ],
)
def test_numbers_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Pool(NAME, **options)


async def test_unknown_setting_raises_type_error() -> None:
    """A misspelt setting must not lead to a connection without TLS."""
    misspelt: dict[str, Any] = {"tsl": "required"}
    with pytest.raises(TypeError, match="tsl"):
        Pool("127.0.0.1", 25, **misspelt)


async def test_connect_errors_do_not_use_up_the_pool(autojump_clock: MockClock) -> None:
    """They are raised in the caller and free the slot of the connection."""

    async def open_client() -> Client:
        await trio.lowlevel.checkpoint()
        raise ConnectionLostError(smtp_trio.protocol.Connect(), "connection refused")

    async with PoolOf(open_client, size=1) as pool:
        for _ in range(3):
            with pytest.raises(ConnectionLostError, match="connection refused"):
                await pool.send(ME, [YOU], MESSAGE)
        with pytest.raises(ConnectionLostError, match="connection refused"):
            async with pool.client():
                pass
        assert pool.statistics() == PoolStatistics(open=0, idle=0, waiting=0, messages=0)


async def test_closing_while_connections_are_in_use(autojump_clock: MockClock) -> None:
    """A connection in use is closed when it is returned; waiting tasks get ClosedResourceError."""
    events: list[str] = []

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pool.send(ME, [YOU], MESSAGE)
        events.append("waiter")

    async with server_pool(Server(ReplyWithSubject(), name=NAME), size=1) as pool:
        async with trio.open_nursery() as nursery:
            async with pool.client() as client:
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                await pool.aclose()
                assert client.usable
                assert (await client.send(ME, [YOU], MESSAGE)).complete
        assert events == ["waiter"]
        assert not client.usable
        with pytest.raises(trio.ClosedResourceError):
            await pool.send(ME, [YOU], MESSAGE)


@pytest.mark.parametrize("early", [False, True])
async def test_cancelled_aclose_closes_at_once(early: bool, autojump_clock: MockClock) -> None:
    """A server that does not reply to QUIT does not delay it."""
    connection = (*hello(), NO_REPLY)
    async with scripted_pool(connection, connection) as pool:
        async with pool.client(), pool.client():
            pass
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + (not early)
            if early:
                scope.cancel()
            await pool.aclose()
        assert scope.cancelled_caught
        assert pool.statistics().open == 0


async def test_aclose_has_one_deadline_for_all_connections(autojump_clock: MockClock) -> None:
    """Servers that do not reply to QUIT delay it by five seconds together, and not by five seconds each."""
    async with scripted_pool(*[(*hello(), NO_REPLY)] * 4, size=4) as pool:
        async with pool.client(), pool.client(), pool.client(), pool.client():
            pass
        start = trio.current_time()
        await pool.aclose()
        assert trio.current_time() == start + 5
        assert pool.statistics().open == 0


async def test_result_is_returned_although_quit_is_slow(autojump_clock: MockClock) -> None:
    """An accepted message is reported, even if the connection is not kept and the server is slow to reply to QUIT."""
    async with scripted_pool((*ONE_MESSAGE, "QUIT", NO_REPLY), max_messages=1) as pool:
        start = trio.current_time()
        with trio.move_on_after(QUIT_TIMEOUT / 2):
            result = await pool.send(ME, [YOU], MESSAGE)
        assert result.complete
        assert trio.current_time() == start + QUIT_TIMEOUT


async def test_expired_connections_do_not_delay_the_next_message(autojump_clock: MockClock) -> None:
    """A firewall may have dropped the connections, so that QUIT is not answered."""
    waiting = [(*hello(), *UNPIPELINED, NO_REPLY)] * 4 + [(*hello(), *UNPIPELINED)]

    async def open_client() -> Client:
        client_stream, far = memory_stream_pair()
        script = Script(far, client_stream, waiting.pop(0))
        nursery.start_soon(script.run)
        return await script.client().__aenter__()

    async with trio.open_nursery() as nursery, PoolOf(open_client, size=4) as pool:
        async with trio.open_nursery() as tasks:
            for _ in range(4):
                tasks.start_soon(pool.send, ME, [YOU], MESSAGE)
        await trio.sleep(60)
        start = trio.current_time()
        await pool.send(ME, [YOU], MESSAGE)
        assert trio.current_time() - start <= QUIT_TIMEOUT
        assert pool.statistics().open == 1
