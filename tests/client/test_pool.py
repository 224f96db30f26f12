"""CLI-19: connections that are kept, and shared by many tasks. Each answer goes to whom it belongs."""

from __future__ import annotations

import email.message
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import NAME, Pair, PoolOf, Taker, client_tls, listening, serve, server_tls, sockets
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
from smtp_trio._client.pool import PROBE_TIMEOUT, QUIT_TIMEOUT, PoolStatistics
from smtp_trio.protocol.extensions.limits import LimitsExtension

BYE = b"421 4.3.2 Going down\r\n"
NO = b"550 5.1.1 No\r\n"
#: A server's whole life: one message, or two.
ONE = (*hello(), *UNPIPELINED)
TWO = (*ONE, *UNPIPELINED)
GROUPED: tuple[Step, ...] = ("MAIL.*", "RCPT.*", "DATA")
PAIRS = pytest.mark.parametrize("pair", [memory_stream_pair, sockets], ids=["memory", "sockets"])


@asynccontextmanager
async def scripts(
    *lives: tuple[Step, ...], pair: Callable[[], Pair] = sockets, **options: Any
) -> AsyncGenerator[PoolOf]:
    """A pool whose connections lead to servers with these scripts, one after the other. All of them must be used and over at the end.

    Sockets, unless said otherwise: so nothing is said that the script does not expect, and no NOOP that it does not want.
    """
    waiting = list(lives)
    playing: list[Script] = []

    async def dial() -> Client:
        client_stream, far = pair()
        script = Script(far, client_stream, waiting.pop(0))
        playing.append(script)
        nursery.start_soon(script.run)
        return await script.client().__aenter__()

    async with trio.open_nursery() as nursery:
        async with PoolOf(dial, **options) as pool:
            yield pool
        assert pool.statistics().open == 0
        with trio.move_on_after(0):  # what is left of the scripts ends, now that the connections are closed
            await wait_all_tasks_blocked()
        if any(script.stopped_reading for script in playing):
            nursery.cancel_scope.cancel()
    assert waiting == []


async def deliver(pool: Pool, message: Any = MESSAGE) -> Result:
    """One message; and then all that the server still has to say is said."""
    result = await pool.send(ME, [YOU], message)
    assert result.complete
    await wait_all_tasks_blocked()
    return result


class Named(Taker):
    """Answers each message with its subject, after a while that is different for each."""

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
async def served(
    server: Server,
    *,
    pair: Callable[[], Pair] = memory_stream_pair,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncGenerator[PoolOf]:
    """A pool whose connections are sessions of this server."""

    async def dial() -> Client:
        ours, theirs = pair()
        nursery.start_soon(serve, server, theirs)
        return await Client(ours, host=NAME, **(settings or {"tls": "never"})).__aenter__()

    async with trio.open_nursery() as nursery:
        async with PoolOf(dial, **options) as pool:
            yield pool
    assert server.statistics().sessions_open == 0


async def named(pool: Pool, name: str) -> None:
    """A message, which must get its own answer."""
    result = await pool.send(ME, [YOU], f"Subject: {name}\r\n\r\nhello\r\n".encode())
    assert [outcome.reply.text for outcome in result.accepted] == [f"Taken: {name}"]


# --- connections are kept ---------------------------------------------------------------------------------------------


@PAIRS
async def test_one_connection_for_many_messages(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    hooks = Named()
    async with served(Server(hooks, name=NAME), pair=pair) as pool:
        for n in range(5):
            await named(pool, str(n))
        message = email.message.EmailMessage()
        message["Subject"], message["From"], message["To"] = "six", ME, YOU
        result = await pool.send_message(message)
        assert result.accepted[0].reply.text == "Taken: six"
        assert pool.statistics() == PoolStatistics(open=1, idle=1, waiting=0, messages=6)
    assert pool.dialed == len(hooks.sessions) == 1
    assert pool.statistics() == PoolStatistics(open=0, idle=0, waiting=0, messages=6)


@PAIRS
async def test_through_tls(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    settings = {"tls": "required", "ssl_context": client_tls()}
    async with served(Server(Named(), name=NAME, tls=server_tls()), pair=pair, settings=settings) as pool:
        for n in range(3):
            await named(pool, str(n))
    assert pool.dialed == 1


async def test_over_the_network() -> None:
    async with listening(Server(Named(slow=0), name=NAME)) as port:
        async with Pool("127.0.0.1", port, name="client.test", tls="never", size=2) as pool:
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(named, pool, str(n))
            assert pool.statistics().open == 2


@pytest.mark.parametrize("count", [2, 50])
@PAIRS
async def test_cli_19_many_tasks_at_once(count: int, pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    """Replies are never crossed, and there are no more connections than allowed."""
    hooks = Named()
    async with served(Server(hooks, name=NAME), pair=pair, size=4) as pool:
        async with trio.open_nursery() as nursery:
            for n in range(count):
                nursery.start_soon(named, pool, str(n))
            await wait_all_tasks_blocked()
            assert pool.statistics().waiting == max(count - 4, 0)
        assert pool.statistics().messages == count
    assert pool.dialed == min(count, 4)
    assert len(hooks.messages) == count


async def test_first_come_first_served(autojump_clock: MockClock) -> None:
    hooks = Named()
    async with served(Server(hooks, name=NAME), size=1) as pool:
        async with trio.open_nursery() as nursery:
            for n in range(9):
                nursery.start_soon(named, pool, str(n))
                await wait_all_tasks_blocked()
    assert [message[9:10] for message in hooks.messages] == [b"%d" % n for n in range(9)]


async def test_last_used_is_used_first(autojump_clock: MockClock) -> None:
    """So that those that are not needed grow old, and are closed."""
    hooks = Named()
    async with served(Server(hooks, name=NAME), max_idle=30) as pool:
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


# --- and let go -------------------------------------------------------------------------------------------------------


async def test_cli_19_max_messages(autojump_clock: MockClock) -> None:
    async with scripts(TWO, TWO, ONE, max_messages=2) as pool:
        for n in range(1, 6):
            await deliver(pool)
            assert pool.statistics().idle == n % 2


async def test_max_messages_counts_those_of_a_borrower(autojump_clock: MockClock) -> None:
    async with scripts(TWO, ONE, max_messages=2) as pool:
        async with pool.client() as client:
            await client.send(ME, [YOU], MESSAGE)
            await client.send(ME, [YOU], MESSAGE)
        assert pool.statistics().open == 0
        await deliver(pool)


async def test_rfc_9422_mailmax(autojump_clock: MockClock) -> None:
    life = (*hello("LIMITS MAILMAX=1"), *UNPIPELINED)
    async with scripts(life, life) as pool:
        await deliver(pool)
        assert pool.statistics().open == 0
        await deliver(pool)
    server = Server(Named(), name=NAME, extensions=[*smtp_trio.standard(), LimitsExtension(mail_max=3)])
    async with served(server) as pool:
        for n in range(7):
            await named(pool, str(n))
    assert pool.dialed == 3


async def test_cli_19_ttl(autojump_clock: MockClock) -> None:
    """Too old when it is returned, and too old when it is wanted."""

    async def slow(script: Script) -> None:
        await trio.sleep(100)
        await script.send(OK)

    late = (*hello(), *UNPIPELINED[:-1], slow)
    async with scripts(late, ONE, ONE, max_age=100, max_idle=1000) as pool:
        await deliver(pool)
        assert pool.statistics().open == 0
        await deliver(pool)
        await trio.sleep(99)
        assert pool.statistics().idle == 1
        await trio.sleep(1)
        await deliver(pool)


async def test_idle_for_too_long(autojump_clock: MockClock) -> None:
    """Closed by whoever comes next, with a QUIT."""
    async with scripts((*ONE, "QUIT", b"221 2.0.0 Bye\r\n", EXPECT_CLOSE), ONE, max_idle=30) as pool:
        await deliver(pool)
        await trio.sleep(31)
        await deliver(pool)
        assert pool.statistics() == PoolStatistics(open=1, idle=1, waiting=0, messages=2)


async def test_idle_ones_are_closed_when_others_return(autojump_clock: MockClock) -> None:
    async with served(Server(Named(), name=NAME), max_idle=30) as pool:
        async with pool.client():
            async with pool.client() as idle:
                pass
            await trio.sleep(31)
        assert not idle.usable
        assert pool.statistics() == PoolStatistics(open=1, idle=1, waiting=0, messages=0)


# --- a server that left meanwhile -------------------------------------------------------------------------------------


@PAIRS
@pytest.mark.parametrize("words", [(), (BYE,), (b"250 2.0.0 Who asked?\r\n",)], ids=["close", "421", "nonsense"])
async def test_cli_19_left_while_idle(
    words: tuple[Step, ...], pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """A close, a 421 and an answer to nothing that came meanwhile are seen before anything is said."""
    async with scripts((*ONE, *words, CLOSE), ONE, pair=pair) as pool:
        await deliver(pool)
        await deliver(pool)


async def test_cli_19_noop_probe(autojump_clock: MockClock) -> None:
    """Only one that was idle for a while is asked."""
    async with scripts((*ONE, *UNPIPELINED, "NOOP", OK, *UNPIPELINED), probe_after=10) as pool:
        await deliver(pool)
        await trio.sleep(9)
        await deliver(pool)
        await trio.sleep(10)
        await deliver(pool)


@PAIRS
async def test_cli_19_421_to_the_probe(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    async with scripts((*ONE, "NOOP", BYE, CLOSE), (*ONE, "NOOP", OK + BYE, CLOSE), ONE, pair=pair) as pool:
        for _ in range(3):
            await deliver(pool)
            await trio.sleep(5)


async def test_no_answer_to_the_probe(autojump_clock: MockClock) -> None:
    async with scripts((*ONE, "NOOP", NO_REPLY), ONE) as pool:
        await deliver(pool)
        await trio.sleep(5)
        start = trio.current_time()
        await deliver(pool)
        assert trio.current_time() == start + PROBE_TIMEOUT


async def test_cancelled_in_the_probe(autojump_clock: MockClock) -> None:
    async with scripts((*ONE, "NOOP", NO_REPLY), ONE) as pool:
        await deliver(pool)
        await trio.sleep(5)
        with trio.move_on_after(1) as scope:
            await deliver(pool)
        assert scope.cancelled_caught
        assert pool.statistics().open == 0
        await deliver(pool)


# --- once more, or not ------------------------------------------------------------------------------------------------


AGAIN: dict[str, tuple[Step, ...]] = {
    "421 to MAIL": (*ONE, "MAIL.*", BYE, CLOSE),
    "421 to MAIL, in a group": (*hello("PIPELINING"), *GROUPED, OK * 2 + GO_AHEAD, READ_BODY, OK, *GROUPED, BYE, CLOSE),
    "421 to MAIL, with the message": (*hello("PIPELINING", "CHUNKING"), *CHUNKED, *CHUNKED[:-1], BYE, CLOSE),
    "lost at MAIL": (*ONE, "MAIL.*", CLOSE),
}


@pytest.mark.parametrize("name", AGAIN)
async def test_cli_19_tried_again(name: str, autojump_clock: MockClock) -> None:
    """Nothing was taken: the message goes over a new connection, though there is another that is idle."""
    async with scripts(AGAIN[name], (*hello(), "QUIT", b"221 2.0.0 Bye\r\n"), ONE) as pool:
        async with pool.client() as client:
            async with pool.client() as other:
                pass
            await client.send(ME, [YOU], MESSAGE)
        await deliver(pool)
        assert pool.dialed == 3
        assert other.usable


ONCE: dict[str, tuple[tuple[Step, ...], type[Exception] | tuple[type[Exception], ...]]] = {
    "lost behind a group": (
        (*hello("PIPELINING"), *GROUPED, OK * 2 + GO_AHEAD, READ_BODY, OK, *GROUPED, CLOSE),
        ConnectionLostError,
    ),
    "lost behind the message": (
        (*hello("PIPELINING", "CHUNKING"), *CHUNKED, *CHUNKED[:-1], CLOSE),
        DeliveryUnknownError,
    ),
    "lost at RCPT": ((*ONE, *UNPIPELINED[:3], CLOSE), ConnectionLostError),
    "lost in the message": ((*ONE, *UNPIPELINED[:6], CLOSE), (ConnectionLostError, DeliveryUnknownError)),
    "lost behind the dot": ((*ONE, *UNPIPELINED[:7], CLOSE), DeliveryUnknownError),
    "421 to RCPT": ((*ONE, *UNPIPELINED[:3], BYE, CLOSE), AllRecipientsRejectedError),
    "421 to DATA": ((*ONE, *UNPIPELINED[:5], BYE, CLOSE), AllRecipientsRejectedError),
    "421 to the message": ((*ONE, *UNPIPELINED[:7], BYE, CLOSE), AllRecipientsRejectedError),
    "MAIL is refused": ((*ONE, "MAIL.*", NO), AllRecipientsRejectedError),
    "no answer to MAIL": ((*ONE, "MAIL.*", NO_REPLY), TimedOutError),
}


@pytest.mark.parametrize("name", ONCE)
async def test_cli_19_not_tried_again(name: str, autojump_clock: MockClock) -> None:
    """Something may have been taken, or is nobody's fault."""
    life, error = ONCE[name]
    async with scripts(life) as pool:
        await deliver(pool)
        with pytest.raises(error):
            await pool.send(ME, [YOU], MESSAGE)
        assert pool.dialed == 1
        assert pool.statistics().open == (name == "MAIL is refused")


async def test_new_connections_are_not_tried_again(autojump_clock: MockClock) -> None:
    failing = (*hello(), "MAIL.*", BYE, CLOSE)
    async with scripts(failing) as pool:
        with pytest.raises(AllRecipientsRejectedError):
            await pool.send(ME, [YOU], MESSAGE)
    async with scripts((*ONE, "MAIL.*", CLOSE), failing) as pool:
        await deliver(pool)
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await pool.send(ME, [YOU], MESSAGE)
        assert caught.value.__context__ is None


@pytest.mark.parametrize("end", [BYE, CLOSE])
async def test_later_transactions_are_not_tried_again(end: Step, autojump_clock: MockClock) -> None:
    """The first recipient has the message by then."""
    others = ["a@mx.test", "b@mx.test"]
    async with scripts((*hello("LIMITS RCPTMAX=1"), *UNPIPELINED, *UNPIPELINED, "MAIL.*", end, CLOSE)) as pool:
        await deliver(pool)
        with suppress(ConnectionLostError):
            result = await pool.send(ME, others, MESSAGE)
            assert [outcome.recipient for outcome in result.accepted] == others[:1]
        assert pool.dialed == 1


async def test_what_can_be_read_only_once(autojump_clock: MockClock) -> None:
    """Recipients and a message from generators: both are whole the second time, for nobody had begun with the message."""
    begun = 0

    async def pieces() -> AsyncGenerator[bytes]:
        nonlocal begun
        begun += 1
        yield MESSAGE

    async with scripts((*ONE, "MAIL.*", BYE, CLOSE), (*ONE, *UNPIPELINED[:6], CLOSE)) as pool:
        await deliver(pool)
        result = await pool.send(ME, (name for name in [YOU]), pieces())
        assert [outcome.recipient for outcome in result.accepted] == [YOU]
        assert begun == 1
        await wait_all_tasks_blocked()
        with pytest.raises((ConnectionLostError, DeliveryUnknownError)):
            await pool.send(ME, [YOU], pieces())
        assert begun == 2
        assert pool.dialed == 2


@pytest.mark.parametrize("keywords", [(), ("PIPELINING", "CHUNKING")])
async def test_left_at_the_last_moment(keywords: tuple[str, ...], tmp_path: Path, autojump_clock: MockClock) -> None:
    """Behind our look, but before anything was sent, as when a file has to be found first."""
    (tmp_path / "mail").write_bytes(MESSAGE)
    servers: list[trio.SocketStream] = []

    def pair() -> Pair:
        ours, theirs = sockets()
        assert isinstance(theirs, trio.SocketStream)
        servers.append(theirs)
        return ours, theirs

    class Late(os.PathLike[str]):
        def __fspath__(self) -> str:
            servers[0].socket.close()
            return str(tmp_path / "mail")

    async with scripts((*hello(*keywords), NO_REPLY), ONE, pair=pair) as pool:
        async with pool.client() as client:
            assert client.usable
        await deliver(pool, Late())
        assert pool.dialed == 2


async def test_recipients_are_no_str(autojump_clock: MockClock) -> None:
    async with scripts(ONE) as pool:
        with pytest.raises(TypeError, match="list of addresses"):
            await pool.send(ME, YOU, MESSAGE)
        await deliver(pool)


# --- out of step ------------------------------------------------------------------------------------------------------


async def test_cancelled_sends_leave_nothing_behind(autojump_clock: MockClock) -> None:
    """Not the connection either, where an answer is still to come."""
    hooks = Named()
    async with served(Server(hooks, name=NAME), size=1) as pool:
        for n in range(4):
            with trio.move_on_after(0.5):
                await named(pool, f"cancelled {n}")
            await named(pool, str(n))
            await trio.sleep(3)
    assert pool.dialed > 1


async def test_a_transaction_that_was_left_open(autojump_clock: MockClock) -> None:
    life = (*hello(), "MAIL.*", OK, "RSET", OK, "MAIL.*", OK, "RSET", OK, *UNPIPELINED)
    async with scripts(life) as pool:
        for _ in range(2):
            async with pool.client() as client:
                await client.mail(ME)
        await deliver(pool)


async def test_borrowers(autojump_clock: MockClock) -> None:
    """What they close is closed, what they leave in order is kept, whatever they raise."""
    async with served(Server(Named(), name=NAME)) as pool:
        async with pool.client() as first:
            await first.quit()
        assert pool.statistics().open == 0
        with pytest.raises(KeyError):
            async with pool.client() as second:
                raise KeyError
        async with pool.client() as third:
            assert third is second
            async with trio.open_nursery() as nursery:
                nursery.start_soon(named, pool, "elsewhere")
        assert pool.dialed == 3


async def test_a_borrower_finds_nobody_there(autojump_clock: MockClock) -> None:
    """The end came while nothing was asked: the connection is in step, but of no use."""
    async with scripts((*hello(), CLOSE), ONE) as pool:
        async with pool.client() as client:
            await wait_all_tasks_blocked()
            with pytest.raises(ConnectionLostError):
                await client.noop()
            assert not client.usable
        assert pool.statistics().open == 0
        await deliver(pool)


# --- beginning and end ------------------------------------------------------------------------------------------------


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
def test_numbers_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Pool(NAME, **options)


async def test_settings_that_nobody_knows() -> None:
    """A slip of the pen must not send in the clear."""
    async with listening(Server(Named(), name=NAME)) as port:
        slip: dict[str, Any] = {"tsl": "required"}
        async with Pool("127.0.0.1", port, **slip) as pool:
            with pytest.raises(TypeError, match="tsl"):
                await pool.send(ME, [YOU], MESSAGE)
        assert pool.statistics().open == 0


async def test_nobody_there(autojump_clock: MockClock) -> None:
    """Errors of dialing are the caller's, and take no place from others."""

    async def dial() -> Client:
        await trio.lowlevel.checkpoint()
        raise ConnectionLostError(smtp_trio.protocol.Connect(), "nobody there")

    async with PoolOf(dial, size=1) as pool:
        for _ in range(3):
            with pytest.raises(ConnectionLostError, match="nobody there"):
                await pool.send(ME, [YOU], MESSAGE)
        with pytest.raises(ConnectionLostError, match="nobody there"):
            async with pool.client():
                pass
        assert pool.statistics() == PoolStatistics(open=0, idle=0, waiting=0, messages=0)


async def test_closing_with_work_under_way(autojump_clock: MockClock) -> None:
    """What was begun ends, and is closed then; who waits is told."""
    told: list[str] = []

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pool.send(ME, [YOU], MESSAGE)
        told.append("waiter")

    async with served(Server(Named(), name=NAME), size=1) as pool:
        async with trio.open_nursery() as nursery:
            async with pool.client() as client:
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                await pool.aclose()
                assert client.usable
                assert (await client.send(ME, [YOU], MESSAGE)).complete
        assert told == ["waiter"]
        assert not client.usable
        with pytest.raises(trio.ClosedResourceError):
            await pool.send(ME, [YOU], MESSAGE)


@pytest.mark.parametrize("early", [False, True])
async def test_closing_is_forced_when_cancelled(early: bool, autojump_clock: MockClock) -> None:
    """A server that does not answer QUIT holds nobody up."""
    life = (*hello(), NO_REPLY)
    async with scripts(life, life) as pool:
        async with pool.client(), pool.client():
            pass
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + (not early)
            if early:
                scope.cancel()
            await pool.aclose()
        assert scope.cancelled_caught
        assert pool.statistics().open == 0


async def test_a_result_is_not_held_up(autojump_clock: MockClock) -> None:
    """A message that was taken is reported, also when the connection cannot be kept, and its server is slow to say goodbye."""
    async with scripts((*ONE, "QUIT", NO_REPLY), max_messages=1) as pool:
        start = trio.current_time()
        with trio.move_on_after(QUIT_TIMEOUT / 2):
            result = await pool.send(ME, [YOU], MESSAGE)
        assert result.complete
        assert trio.current_time() == start + QUIT_TIMEOUT
