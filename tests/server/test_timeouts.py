"""Timeouts, exact to the second with a MockClock: waits for the client are bounded, and nothing else is interrupted."""

from __future__ import annotations

import base64
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from helpers import MESSAGE, NAME, START, Client, Pair, RecordingHooks, connected, server_tls, sockets, unbuffered
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import Body, BodyError, ClientTimeouts, Hooks, Limits, Reply, Server, Session, Timeouts, standard
from smtp_trio.protocol import Command, Rcpt
from smtp_trio.protocol.extensions import Auth

IDLE = f"421 4.4.2 {NAME} Timeout: closing the connection"


@pytest.fixture(params=[memory_stream_pair, sockets])
def pair(request: pytest.FixtureRequest) -> Callable[[], Pair]:
    """Streams in memory and sockets, which the server reads and writes by their descriptor."""
    make: Callable[[], Pair] = request.param
    return make


class TimeRecorder(RecordingHooks):
    """Records when `timeout` and `disconnect` are called."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float] = []
        self.gone: list[float] = []

    async def timeout(self, session: Session) -> None:
        self.timeouts.append(trio.current_time())

    async def disconnect(self, session: Session) -> None:
        await super().disconnect(session)
        self.gone.append(trio.current_time())


async def cut_off(client: Client, after: float) -> None:
    """The client sends nothing more and gets 421 after exactly this time."""
    began = trio.current_time()
    with trio.move_on_after(after - 1):
        raise AssertionError(await client.reply())
    assert trio.current_time() == began + after - 1
    assert await client.reply() == IDLE
    assert trio.current_time() == began + after
    await client.expect_end()
    assert trio.current_time() == began + after


# --- waiting for a command --------------------------------------------------------------------------------------------


async def greeted(client: Client) -> None:
    await client.expect("220")


async def sender(client: Client) -> None:
    await client.hello()
    await client.command("MAIL FROM:<a@b.test>", "250")


STATES: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "greeted": greeted,
    "ready": Client.hello,
    "sender": sender,
    "recipient": Client.open,
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
async def test_idle_client(
    state: Callable[[Client], Awaitable[Any]], pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """The client gets 421 4.4.2 after 300 s."""
    hooks = TimeRecorder()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await state(client)
        await cut_off(client, 300)
    assert hooks.timeouts == hooks.gone == [300]


@pytest.mark.parametrize("pause", [1, 100, 150, 299])
async def test_each_command_restarts_the_timeout(
    pause: float, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    hooks = TimeRecorder()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.hello()
        for line in ("NOOP", "NONSENSE", "MAIL FROM:<>", "RSET", "RCPT TO:<a@b.test>"):
            await trio.sleep(pause)
            await client.command(line, "")
        await cut_off(client, 300)
    assert hooks.timeouts == hooks.gone == [5 * pause + 300]


@pytest.mark.parametrize("pause", [0, 1, 250, 299])
async def test_octets_without_an_end_of_line_do_not_restart_the_timeout(
    pause: float, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """A whole command must arrive in time, not only its beginning, also after an earlier command."""
    hooks = TimeRecorder()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.hello()
        await trio.sleep(pause)
        await client.command("NOOP", "250")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def drip() -> None:
                while True:
                    await trio.sleep(7)
                    await client.send(b"x")

            await cut_off(client, 300)
            nursery.cancel_scope.cancel()
    assert hooks.timeouts == [pause + 300]


async def test_refused_line_restarts_the_timeout(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    """It does so once: the rest of the line after a bare LF, which is discarded, does not."""
    async with connected(Server(Hooks(), name=NAME), pair=pair) as client:
        await client.hello()
        await trio.sleep(200)
        await client.send(b"NOOP\nNOOP")
        await client.expect("500 5.5.2")
        await cut_off(client, 300)


async def test_timeouts_of_two_sessions_are_independent(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME)
    async with connected(server, pair=pair) as one:
        await one.hello()
        await trio.sleep(10)
        async with connected(server, pair=pair) as two:
            await two.hello()
            await cut_off(one, 290)
            await cut_off(two, 10)


async def test_timeout_setting(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME, timeout=7)
    assert server.timeouts.command == server.timeouts.block == 7
    async with connected(server, pair=pair) as client:
        await client.hello()
        await cut_off(client, 7)
    async with connected(server, pair=pair) as client:
        await client.open()
        await client.command("DATA", "354")
        await cut_off(client, 7)


async def test_no_timeout(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    """0 means no timeout."""
    hooks = TimeRecorder()
    async with connected(Server(hooks, name=NAME, timeout=0), pair=pair) as client:
        await client.hello()
        await trio.sleep(1e6)
        await client.send(START)
        await client.expect("250", "250")
        await trio.sleep(1e6)
        await client.command("DATA", "354")
        await trio.sleep(1e6)
        await client.send(MESSAGE + b".\r\n")
        await client.expect("250")
        await client.quit()
    assert hooks.timeouts == []


def test_negative_timeouts_are_invalid() -> None:
    with pytest.raises(ValueError, match="-1"):
        Timeouts(hook=-1)
    with pytest.raises(ValueError, match="-1"):
        Server(timeout=-1)


async def test_time_of_hooks_does_not_count_for_the_idle_timeout(
    pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """The idle timeout runs only while the session waits for the client, and starts from zero then."""

    class Slow(TimeRecorder):
        async def rcpt(self, session: Session, rcpt: object) -> None:
            await trio.sleep(99)

        async def response(self, session: Session, reply: Reply) -> None:
            await trio.sleep(90)

    hooks = Slow()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        await client.command("NONSENSE", "500")
        began = trio.current_time()
        await client.expect("421 4.4.2")
    assert hooks.timeouts == [began + 300]
    assert hooks.errors == []


async def test_slow_timeout_hook(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    async def slow(session: Session) -> None:
        await trio.sleep(50)

    server = Server(RecordingHooks(), name=NAME)
    server.on(timeout=slow)
    async with connected(server, pair=pair) as client:
        await client.hello()
        assert await client.reply() == IDLE
        assert trio.current_time() == 350


# --- in AUTH, in a message, in a handshake ----------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0, 1, 299])
async def test_timeout_in_an_auth_exchange(pause: float, pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    asked = []

    async def auth(session: Session, credentials: object) -> None:
        asked.append(credentials)

    hooks = TimeRecorder()
    server = Server(hooks, name=NAME, extensions=standard(Auth(cleartext=True)))
    server.on(auth=auth)
    async with connected(server, pair=pair) as client:
        await client.hello()
        await trio.sleep(pause)
        await client.command("AUTH LOGIN", "334 VXNlcm5hbWU6")
        await trio.sleep(pause)
        await client.command(base64.b64encode(b"fred"), "334 UGFzc3dvcmQ6")
        await client.send(b"c2Vj")
        await cut_off(client, 300)
    async with connected(server, pair=pair) as client:
        await client.hello()
        await client.command("AUTH LOGIN", "334")
    assert asked == []
    assert hooks.errors == []
    assert len(hooks.ended) == 2


@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 3\r\na\r\n", b"BDAT 100\r\nnot a hundred", b"BDAT 100 LAST\r\n"])
async def test_timeout_in_a_message(begin: bytes, pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    hooks = TimeRecorder()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        await trio.sleep(250)
        await client.send(begin)
        if b"100" not in begin:
            await client.expect("354" if begin.startswith(b"DATA") else "250")
        await cut_off(client, 180)
    assert hooks.timeouts == hooks.gone == [430]
    assert hooks.errors == []


async def test_each_part_of_a_message_restarts_the_timeout(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    hooks = TimeRecorder()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        await client.command("DATA", "354")
        for _ in range(5):
            await trio.sleep(179)
            await client.send(b"x" * 90000)  # more than ``limits.data_rate``
        await cut_off(client, 180)
    assert hooks.timeouts == [5 * 179 + 180]


@pytest.mark.parametrize("reply", [None, Reply(550, "No")])
async def test_timeout_in_a_refused_message(
    reply: Reply | None, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    async def data(session: Session, body: Body) -> Reply | None:
        await anext(body)
        return reply

    hooks = TimeRecorder()
    server = Server(hooks, name=NAME)
    server.on(data=data)
    async with connected(server, pair=pair) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"x\r\n")
        await cut_off(client, 180)
    assert hooks.timeouts == [180]


@pytest.mark.parametrize("implicit", [True, False])
async def test_timeout_in_a_handshake(implicit: bool, pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    """The server sends no reply. `disconnect` is only called if `connect` was."""
    hooks = TimeRecorder()
    server = Server(hooks, name=NAME, tls=server_tls())
    async with connected(server, implicit_tls=implicit, pair=pair) as client:
        if not implicit:
            await client.hello()
            await trio.sleep(290)
            await client.command("STARTTLS", "220")
        began = trio.current_time()
        await client.send(b"\x16\x03\x01")
        await client.expect_end()
        assert trio.current_time() == began + 30
    assert hooks.timeouts == []
    assert len(hooks.sessions) == len(hooks.ended) == (not implicit)
    assert hooks.errors == []


async def test_idle_timeout_inside_tls(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    async with connected(Server(TimeRecorder(), name=NAME, tls=server_tls()), pair=pair) as client:
        await client.hello()
        await trio.sleep(290)
        await client.starttls()
        await cut_off(client, 300)


# --- writing ----------------------------------------------------------------------------------------------------------


async def test_client_that_never_reads(autojump_clock: MockClock) -> None:
    """The session ends when it could not write for 300 s, and reads no further command."""
    events: list[str] = []

    async def message(session: Session, command: Command) -> None:
        events.append(command.verb)

    hooks = TimeRecorder()
    server = Server(hooks, name=NAME)
    server.on(message=message)
    async with connected(server, pair=unbuffered) as client:
        await client.hello()
        await trio.sleep(100)
        await client.send(b"NOOP\r\n" + START + b"DATA\r\n")
        await trio.sleep(1000)
    assert events == ["EHLO", "NOOP"]
    assert hooks.gone == [400]
    assert hooks.messages == []
    assert hooks.errors == []


async def test_server_does_not_read_from_a_client_that_does_not_read(autojump_clock: MockClock) -> None:
    """The number of replies that are queued for a client is bounded."""
    hooks = TimeRecorder()
    async with connected(Server(hooks, name=NAME), pair=unbuffered) as client:
        await client.hello()
        with trio.move_on_after(200):
            while True:
                await client.send(b"RSET\r\n" * 100)
        await wait_all_tasks_blocked()
        assert hooks.sessions[0].buffered <= 65536
        await trio.sleep(200)
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"RSET\r\n")
    assert hooks.gone == [300]


async def test_full_socket(autojump_clock: MockClock) -> None:
    """The same with a socket, whose buffer takes a part of the replies."""
    hooks = TimeRecorder()
    server = Server(hooks, name=NAME, limits=Limits(work=0, errors=10**9))
    async with connected(server, pair=sockets) as client:
        await client.hello()
        with trio.move_on_after(10):
            while True:
                await client.send(b"HELP\r\n" * 1000)
        received = 0
        for _ in range(5):
            await trio.sleep(250)
            received += len(await client.stream.receive_some(1 << 20))
            assert hooks.gone == []
        await trio.sleep(301)
        assert len(hooks.gone) == 1
    assert received > 0
    assert hooks.errors == []


@pytest.mark.parametrize("what", ["354", "250 to a chunk"])
async def test_client_that_never_reads_in_a_message(what: str, autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        await body.read()

    hooks = TimeRecorder()
    server = Server(hooks, name=NAME)
    server.on(data=data)
    async with connected(server, pair=unbuffered) as client:
        await client.open()
        await client.send(b"DATA\r\n" if "354" in what else b"BDAT 3\r\na\r\n")
        await trio.sleep(1000)
    assert hooks.gone == [300]
    assert hooks.errors == []
    assert server.statistics().messages == 0


async def test_client_that_reads_slowly(autojump_clock: MockClock) -> None:
    """A client may read slowly, as long as it reads."""
    async with connected(Server(RecordingHooks(), name=NAME), pair=unbuffered) as client:
        for line in (None, "EHLO a.test", "NOOP", "VRFY a", "QUIT"):
            if line:
                await client.send(line.encode() + b"\r\n")
            await trio.sleep(299)
            await client.expect("2")
        await client.expect_end()


async def test_reply_to_an_invalid_command_is_read_late(autojump_clock: MockClock) -> None:
    """The idle timeout does not run while a reply is being written."""
    hooks = TimeRecorder()
    async with connected(Server(hooks, name=NAME, timeout=Timeouts(command=10)), pair=unbuffered) as client:
        await client.hello()
        await trio.sleep(5)
        await client.send(b"NONSENSE\r\n")
        await trio.sleep(200)
        await client.expect("500")
        await cut_off(client, 10)
    assert hooks.timeouts == [215]


class Hanging(RecordingHooks):
    """The `rcpt` hook does not return."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        await trio.sleep_forever()
        raise AssertionError


async def test_hook_that_does_not_return_is_cancelled(autojump_clock: MockClock) -> None:
    hooks = Hanging()
    async with connected(Server(hooks, name=NAME, timeout=Timeouts(hook=60))) as client:
        await client.hello()
        await client.send(START)
        await client.expect("250 2.1.0", "451 4.3.0")
        assert trio.current_time() == pytest.approx(60, abs=1)
        await client.quit()
    assert [type(error) for error in hooks.errors] == [trio.TooSlowError]


def test_every_wait_has_a_timeout_by_default() -> None:
    timeouts = Timeouts()
    for timeout in (
        timeouts.command,
        timeouts.block,
        timeouts.hook,
        timeouts.end,
        timeouts.tls,
        timeouts.write,
        timeouts.disconnect,
    ):
        assert 0 < timeout < math.inf


# --- the timers of both sides -----------------------------------------------------------------------------------------


async def test_replies_are_sent_before_a_data_hook_waits(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    """With BDAT the whole message may be in one group with MAIL and RCPT, whose timers run in the client."""

    class Scanner(Hooks):
        async def data(self, session: Session, body: Body) -> None:
            await body.read()
            await trio.sleep(350)

    async with connected(Server(Scanner(), name=NAME), pair=pair) as client:
        await client.hello()
        await client.send(START + b"BDAT 3 LAST\r\na\r\n")
        await client.expect("250 2.1.0", "250 2.1.5")
        assert trio.current_time() == 0
        await client.expect("250 2.0.0")
        assert trio.current_time() == 350


class SlowRecipients(RecordingHooks):
    """Each recipient takes as many seconds as its local part states."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> None:
        await trio.sleep(float(rcpt.recipient.local))


def group(*seconds: float) -> bytes:
    return b"MAIL FROM:<a@b.test>\r\n" + b"".join(b"RCPT TO:<%g@b.test>\r\n" % each for each in seconds)


@pytest.mark.parametrize("end", [b"", b"DATA\r\n", b"BDAT 3 LAST\r\na\r\n", b"BDAT 3\r\na\r\n"])
async def test_replies_of_a_group_are_sent_before_another_slow_hook(
    end: bytes, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    hooks = SlowRecipients()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.hello()
        await client.send(group(90, 90, 0, 60, 90) + end)
        await client.expect("250 2.1.0", "250 2.1.5")
        assert trio.current_time() == 90
        await client.expect("250 2.1.5")
        assert trio.current_time() == 180
        await client.expect("250 2.1.5", "250 2.1.5")
        assert trio.current_time() == 240
        await client.expect("250 2.1.5")
        assert trio.current_time() == 330
    assert hooks.errors == []


async def test_replies_of_a_group_with_hooks_that_are_late(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    async with connected(Server(SlowRecipients(), name=NAME), pair=pair) as client:
        await client.hello()
        await client.send(group(1000, 1000, 0))
        await client.expect("250", "451")
        assert trio.current_time() == 100
        await client.expect("451", "250")
        assert trio.current_time() == 200


@pytest.mark.parametrize("seconds", [(0, 0, 0), (0.3, 0.3, 0.3), (0.9, 90), (90,)])
async def test_replies_of_a_group_with_quick_hooks_are_held_back(
    seconds: tuple[float, ...], pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """RFC 2920 3.2: they are sent together. This is also true of a group that comes long after another one."""
    async with connected(Server(SlowRecipients(), name=NAME), pair=pair) as client:
        await client.hello()
        for _ in range(2):
            began = trio.current_time()
            await client.send(b"RSET\r\n")
            await client.expect("250")
            await client.send(group(*seconds))
            for _ in range(1 + len(seconds)):
                await client.expect("250")
                assert trio.current_time() == pytest.approx(began + sum(seconds))
            await trio.sleep(50)


@pytest.mark.parametrize("hook", ["message", "response"])
async def test_replies_of_a_group_with_another_slow_hook(
    hook: str, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """`message` and `response` are called for every command, besides its own hook."""

    async def slow(session: Session, what: object) -> None:
        await trio.sleep(60)

    server = Server(SlowRecipients(), name=NAME)
    server.on(**{hook: slow})
    async with connected(server, pair=pair) as client:
        await client.hello()
        began = trio.current_time()
        await client.send(group(90, 90, 90))
        longest = 0.0
        for _ in range(4):
            await client.expect("250")
            longest = max(longest, trio.current_time() - began)
            began = trio.current_time()
        assert longest <= 90 + 60


@pytest.mark.parametrize("begin", ["DATA", "BDAT 3"])
async def test_message_and_data_hooks_share_their_time(
    begin: str, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """A client waits two minutes for the reply to DATA (RFC 5321 4.5.3.2.4)."""

    class Slow(RecordingHooks):
        async def message(self, session: Session, command: Command) -> None:
            if command.verb in ("DATA", "BDAT"):
                await trio.sleep(60)

        async def data(self, session: Session, body: Body) -> None:
            await trio.sleep(90)

    hooks = Slow()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        await client.send(begin.encode() + b"\r\n" + (b"a\r\nBDAT 0 LAST\r\n" if begin != "DATA" else b""))
        await client.expect("451 4.3.0")
        assert trio.current_time() == 100
    assert [type(error) for error in hooks.errors] == [trio.TooSlowError]


@pytest.mark.parametrize("chunked", [True, False])
async def test_data_hook_has_more_time_after_the_message(
    chunked: bool, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """``hook`` limits it before the end of the message, and ``end`` after it, counted from its last wait for the client.

    A client that sends the whole message by BDAT at once waits for the reply from then on.
    """

    class Slow(RecordingHooks):
        async def data(self, session: Session, body: Body) -> None:
            await trio.sleep(99)
            await body.read()
            await trio.sleep_forever()

    hooks = Slow()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        if chunked:
            await client.send(b"BDAT 1 LAST\r\na")
        else:
            await client.command("DATA", "354")
            await client.send(b"a\r\n.\r\n")
        await client.expect("451 4.3.0")
        assert trio.current_time() == (540 if chunked else 99 + 540)
    assert [str(error) for error in hooks.errors] == ["the data hook took more than 540 s"]


async def test_reply_to_a_chunk_restarts_the_time_of_the_data_hook(
    pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """The client waits for it, also if its next chunk then arrives before the session waits."""

    class Slow(RecordingHooks):
        async def data(self, session: Session, body: Body) -> None:
            async for _ in body:
                await trio.sleep(90)

    hooks = Slow()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        for _ in range(5):
            await client.send(b"BDAT 6\r\na: b\r\n")
            await client.expect("250")
        await client.send(b"BDAT 6 LAST\r\na: b\r\n")
        await client.expect("250")
        assert trio.current_time() == 6 * 90
    assert hooks.errors == []


@pytest.mark.parametrize("begin", ["DATA", "BDAT"])
async def test_each_read_restarts_the_time_of_the_data_hook(
    begin: str, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """Also if the octets have arrived before: a store may write a large message slowly while its client never pauses."""

    class Slow(RecordingHooks):
        async def data(self, session: Session, body: Body) -> None:
            async for _ in body:
                self.reads += 1
                await trio.sleep(90)

        reads = 0

    hooks = Slow()
    message = (b"x" * 998 + b"\r\n") * 300
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        if begin == "DATA":
            await client.command("DATA", "354")
            await client.send(message + b".\r\n")
        else:
            await client.send(b"BDAT %d LAST\r\n%b" % (len(message), message))
        await client.expect("250")
    assert hooks.errors == []
    assert hooks.reads >= 3


@pytest.mark.parametrize(("place", "earliest", "latest"), [
    ("before", 100, 100), ("after", 535, 540), ("child", 150, 150), ("nowhere", 101, 101)])  # fmt: skip
async def test_data_hook_is_late_after_other_messages(
    place: str, earliest: float, latest: float, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """The deadline of the message before is later than that of the hook, and must not be taken for it.

    The hook waits before or after it has read the message, or while another task reads it; or it blocks and does not wait.
    """

    class Slow(RecordingHooks):
        async def data(self, session: Session, body: Body) -> Reply | None:
            self.number += 1
            if self.number == 1:
                await body.read()
                await trio.sleep(1)
                return None
            if place == "before":
                await trio.sleep_forever()
            elif place == "nowhere":
                autojump_clock.jump(101)
                return Reply(550, "No")
            elif place == "child":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read_and_wait, body)
            await read_and_wait(body)
            return None

        number = 0

    async def read_and_wait(body: Body) -> None:
        await body.read()
        await trio.sleep_forever()

    hooks = Slow()
    async with connected(Server(hooks, name=NAME), pair=pair) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(MESSAGE + b".\r\n")
        await client.expect("250")
        await client.send(START)
        await client.expect("250", "250")
        began = trio.current_time()
        await client.send(b"DATA\r\n")
        if place in ("after", "child"):
            await client.expect("354")
            await trio.sleep(50 if place == "child" else 0)
            await client.send(MESSAGE + b".\r\n")
        await client.expect("451 4.3.0")
        assert earliest <= trio.current_time() - began <= latest
        await client.quit()
    assert [type(error) for error in hooks.errors] == [trio.TooSlowError]


@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 3\r\na\r\n"])
async def test_data_hook_that_has_cancelled_its_read_is_late(begin: bytes, autojump_clock: MockClock) -> None:
    """The deadline of the wait for the command is later, and must not be taken for that of the hook."""
    late: list[float] = []
    server = Server(name=NAME, timeout=Timeouts(hook=10))

    async def data(session: Session, body: Body) -> None:
        if begin.startswith(b"BDAT"):
            await body.__anext__()
        with trio.CancelScope() as scope:
            scope.cancel()
            await body.read()
        await trio.sleep_forever()

    async def error(server: Server, error: Exception) -> None:
        late.append(trio.current_time())

    server.on(data=data, error=error)
    async with connected(server, pair=sockets) as client:
        await client.open()
        await client.send(begin)
        await client.expect("354" if begin == b"DATA\r\n" else "250")
        await trio.sleep(1000)
        assert late == [10]


async def test_data_between_two_chunks_leaves_the_limit_of_the_data_hook(
    pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """The server looks for octets that the client has sent after DATA, and ends the session if there are any."""
    late: list[float] = []

    async def data(session: Session, body: Body) -> None:
        with pytest.raises(BodyError):
            await body.read()
        await trio.sleep_forever()

    async def error(server: Server, error: Exception) -> None:
        late.append(trio.current_time())

    server = Server(name=NAME, timeout=Timeouts(hook=10))
    server.on(data=data, error=error)
    async with connected(server, pair=pair) as client:
        await client.open()
        await client.send(b"BDAT 3\r\na\r\nDATA\r\nBDAT 3\r\nb\r\n")
        await client.expect("250", "554")
        await trio.sleep(1000)
        assert late == [10]


@pytest.mark.parametrize(("hook", "end", "after"), [(10, 20, 20), (20, 10, 20), (0, 10, math.inf), (10, 0, math.inf)])
async def test_later_of_the_limits_hook_and_end_applies(
    hook: float, end: float, after: float, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    class Slow(RecordingHooks):
        async def data(self, session: Session, body: Body) -> None:
            await body.read()
            await trio.sleep(1000)

    hooks = Slow()
    async with connected(Server(hooks, name=NAME, timeout=Timeouts(hook=hook, end=end)), pair=pair) as client:
        await client.hello()
        await client.send(START + b"BDAT 1 LAST\r\na")
        await client.expect("250", "250", "451" if after < 1000 else "250")
        assert trio.current_time() == min(after, 1000)
        await client.quit()


async def test_reply_to_rset_is_sent_before_the_reset_hook(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    async def reset(session: Session) -> None:
        await trio.sleep(50)

    server = Server(RecordingHooks(), name=NAME)
    server.on(reset=reset)
    async with connected(server, pair=pair) as client:
        await client.hello()
        await client.command("RSET", "250")
        assert trio.current_time() == 0


def test_hooks_have_less_time_than_clients_wait() -> None:
    """RFC 5321 4.5.3.2: the default limits of both sides fit together, and with the minimum for other clients."""
    server, client = Timeouts(), ClientTimeouts()
    waits = (client.greeting, client.hello, client.auth, client.mail, client.rcpt, client.data, client.block)
    assert server.hook < min(*waits, client.other)
    assert 2 * server.hook < min(client.mail, client.rcpt)  # the `message` hook comes before the command's own
    assert server.end < client.end
