"""The promises of docs/cancellation, tested by cancelling conversations at every step of their tasks."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from attrs import define
from helpers import (
    MESSAGE,
    NAME,
    SECRET,
    START,
    Client,
    MemoryListener,
    Pair,
    RecordingHooks,
    connected,
    quick_or_slow,
    serve,
    server_tls,
    sockets,
    unbuffered,
)
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import Body, Limits, MessageState, Reply, Server, Session, standard
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import Attempt, cancel_everywhere

LOST = (EOFError, trio.BrokenResourceError, trio.ClosedResourceError)
Script = Callable[[Client], Awaitable[Any]]


class SlowStore(RecordingHooks):
    """A store that commits in a shield, which takes a second. Records how each session ended."""

    def __init__(self, slow: float = 0) -> None:
        super().__init__()
        self.slow = slow
        self.states: list[MessageState | None] = []
        self.resets = 0

    async def auth(self, session: Session, credentials: object) -> None:
        await trio.sleep(self.slow)

    async def rcpt(self, session: Session, rcpt: object) -> None:
        await trio.sleep(self.slow)

    async def reset(self, session: Session) -> None:
        await trio.lowlevel.checkpoint()
        self.resets += 1

    async def data(self, session: Session, body: Body) -> None:
        message = await body.read()
        await trio.sleep(self.slow)
        with trio.CancelScope(shield=True):
            await trio.sleep(self.slow)
            self.messages.append(message)

    async def disconnect(self, session: Session) -> None:
        await trio.lowlevel.checkpoint()
        await super().disconnect(session)
        self.states.append(session.last_message)


class WaitingClient(Client):
    """A client that recognizes a 421."""

    async def reply(self) -> str:
        reply = await super().reply()
        if reply.startswith("421"):
            raise EOFError
        return reply


@define
class Scenario:
    """A conversation: what a client sends, to which server, over which streams."""

    script: Script
    slow: float = 0
    pair: Callable[[], Pair] = memory_stream_pair
    implicit_tls: bool = False
    drain: float = math.inf
    end_timeout: float = 0  # seconds that the end may take when the client does not read


async def run(scenario: Scenario, attempt: Attempt, *, all_tasks: bool) -> SlowStore:
    """Run the scenario once, and cancel the server, or with ``all_tasks`` also the client, at the point of ``attempt``."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    hooks = SlowStore(scenario.slow)
    server = Server(hooks, name=NAME, tls=server_tls(), extensions=standard(Auth(cleartext=True)))
    client_end, server_end = scenario.pair()
    client = WaitingClient(client_end)
    ended = math.inf

    async def serve_it() -> None:
        nonlocal ended
        with nullcontext() if all_tasks else attempt.here():
            await serve(server, server_end, scenario.implicit_tls)
        ended = trio.current_time()

    async def converse() -> None:
        with suppress(*LOST):
            await scenario.script(client)
        with suppress(*LOST):
            while True:
                await Client.reply(client)
        await trio.aclose_forcefully(client.stream)

    async def drain() -> None:
        await trio.sleep(scenario.drain)
        drained = await server.stop(3)
        assert drained.finished + drained.idle + drained.cancelled <= 1

    with attempt.here() if all_tasks else nullcontext():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_it)
            async with trio.open_nursery() as rest:
                if scenario.drain < math.inf:
                    rest.start_soon(drain)
                rest.start_soon(converse)

    await trio.aclose_forcefully(client_end)
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    with pytest.raises(trio.ClosedResourceError):
        await server_end.receive_some(1)
    assert hooks.ended == hooks.sessions
    assert hooks.errors == []
    assert server.statistics().sessions_open == 0
    queued = len([reply for reply in client.replies if reply.startswith("250 2.0.0 Ok: queued as ")])
    state = hooks.states[0] if hooks.states else None
    assert server.statistics().messages == len(hooks.messages)
    if not all_tasks:
        # For each committed message the client got a 250, or the session knows that it could not be sent.
        assert len(hooks.messages) == queued + (state is MessageState.UNACKNOWLEDGED)
        assert queued or state is not MessageState.ACKNOWLEDGED
        if ended < math.inf:
            assert ended - attempt.interrupted_at <= scenario.slow + scenario.end_timeout
    return hooks


def sweep(scenario: Scenario, *, all_tasks: bool) -> tuple[int, set[MessageState | None]]:
    """Run the scenario, cancelled at its first step, at its second, and so on until a run ends before that."""
    states: set[MessageState | None] = set()

    async def once(attempt: Attempt) -> None:
        states.update((await run(scenario, attempt, all_tasks=all_tasks)).states)

    return cancel_everywhere(once).points, states


# --- the scenarios ----------------------------------------------------------------------------------------------------


async def plain(client: Client) -> None:
    await client.hello()
    await client.deliver()
    await client.deliver(b"bare\nnewline\r\n", "550")
    await client.open()
    await client.command("RSET", "250")
    await client.deliver()
    await client.quit()


async def pipelined(client: Client) -> None:
    await client.send(b"EHLO a.test\r\n" + START + b"DATA\r\n" + MESSAGE + b".\r\n" + START + b"DATA\r\n" + MESSAGE * 9)
    await client.send(MESSAGE + b".\r\nNOOP\r\nVRFY a\r\nNONSENSE\r\n" + START + b"RSET\r\nQUIT\r\n")
    await client.expect("220", *["250"] * 3, "354", *["250"] * 3, "354", "250 2.0.0 Ok: queued", "250", "252", "500")
    await client.expect("250", "250", "250", "221")


async def chunks(client: Client) -> None:
    await client.open()
    for n in range(5):
        await client.command(b"BDAT 7\r\nline%d" % n, "250")
        await client.command("NOOP", "250")
    await client.command("BDAT 0 LAST", "250 2.0.0 Ok: queued")
    await client.send(START + b"BDAT 4\r\nabcdRSET\r\n" + START + b"BDAT 5 LAST\r\na\nb\r\n")
    await client.expect("250", "250", "250", "250", "250", "250", "550")
    await client.send(START + b"BDAT 4 LAST\r\nab\r\nQUIT\r\n")
    await client.expect("250", "250", "250", "221")


async def login(client: Client) -> None:
    await client.hello()
    await client.command("AUTH LOGIN", "334")
    await client.command("*", "501")
    await client.command("AUTH LOGIN", "334")
    await client.command("ZnJlZA==", "334")
    await client.command("c2VjcmV0", "235")
    await client.command(f"AUTH PLAIN {SECRET}", "503")
    await client.hello()
    for _ in range(3):
        await client.deliver()
    await client.quit()


async def starttls(client: Client) -> None:
    await client.hello()
    await client.starttls()
    await client.hello()
    await client.deliver()
    await client.deliver(MESSAGE * 2000)
    await client.quit()


async def implicit(client: Client) -> None:
    await client.handshake()
    await client.hello()
    await client.deliver()
    await client.send(START)
    await client.expect("250", "250")
    await client.command("BDAT 7\r\nhello", "250")
    await client.quit()


async def slow_message(client: Client) -> None:
    await client.open()
    await client.command("DATA", "354")
    for n in range(20):
        await trio.sleep(1)
        await client.send(b"line %d\r\n" % n)
    await client.send(b".\r\n")
    await client.expect("250")
    await client.quit()


async def not_reading(client: Client) -> None:
    """A client that does not read the reply to its second message."""
    await client.hello()
    await client.deliver()
    await client.send(START)
    await client.expect("250", "250")
    await client.command("DATA", "354")
    await client.send(MESSAGE + b".\r\n")
    await trio.sleep(60)
    await trio.aclose_forcefully(client.stream)


async def disconnecting(client: Client) -> None:
    """A client that disconnects after the final dot."""
    await client.open()
    await client.command("DATA", "354")
    await client.send(MESSAGE + b".\r\n")
    await trio.aclose_forcefully(client.stream)


SCENARIOS = {
    "plain": Scenario(plain),
    "plain-sockets": Scenario(plain, pair=sockets),
    "pipelined": Scenario(pipelined),
    "pipelined-sockets": Scenario(pipelined, pair=sockets),
    "bdat": Scenario(chunks),
    "auth": Scenario(login),
    "starttls": Scenario(starttls),
    "implicit-tls": Scenario(implicit, implicit_tls=True),
    "drain": Scenario(slow_message, drain=18.5),
    "drain-too-late": Scenario(slow_message, drain=10.5),
    "drain-idle": Scenario(plain, drain=0, slow=1),
    "slow-hooks": Scenario(plain, slow=2),
    "not-reading": Scenario(not_reading, pair=unbuffered, end_timeout=5),
    "disconnecting": Scenario(disconnecting),
    "disconnecting-sockets": Scenario(disconnecting, pair=sockets),
}
#: The scenarios that are tried in every run; the others are marked as slow.
QUICK = ("pipelined", "disconnecting")


@pytest.mark.parametrize("all_tasks", [False, True], ids=["server", "all_tasks"])
@pytest.mark.parametrize("name", quick_or_slow(SCENARIOS, QUICK))
def test_cancelled_at_every_step(name: str, all_tasks: bool) -> None:
    """Promises 1, 2 and 3: nothing is left running, `disconnect` follows `connect`, a message has one of three states."""
    steps, states = sweep(SCENARIOS[name], all_tasks=all_tasks)
    assert steps >= (
        20 if name in ("disconnecting", "disconnecting-sockets", "drain-idle", "pipelined", "pipelined-sockets") else 60
    )
    assert states >= {None}
    if not all_tasks and name not in ("disconnecting", "disconnecting-sockets", "drain-idle", "drain-too-late"):
        assert states >= {MessageState.ACKNOWLEDGED, MessageState.NOT_TAKEN}
    if name in ("disconnecting", "disconnecting-sockets", "not-reading"):
        assert MessageState.UNACKNOWLEDGED in states


async def many(attempt: Attempt) -> None:
    """Three sessions of one listener, in a scope around `Server.serve_listeners`."""
    hooks = SlowStore(slow=1)
    server = Server(hooks, name=NAME)
    listener = MemoryListener()

    async def serve_it() -> None:
        with attempt.here():
            await server.serve_listeners([listener])

    async def converse(script: Script) -> None:
        with suppress(*LOST):
            await script(WaitingClient((await listener.connect()).stream))
        await server.stop(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_it)
        for script in (plain, chunks, pipelined):
            nursery.start_soon(converse, script)
    assert listener.closed
    assert len(hooks.ended) == len(hooks.sessions) == len(set(hooks.ended))
    assert hooks.errors == []
    assert server.statistics().messages == len(hooks.messages)


@pytest.mark.exhaustive
def test_listener_cancelled_at_every_step() -> None:
    """Promises 1 and 2, for sessions that end together."""
    sessions = set[int]()
    report = cancel_everywhere(many, check=lambda attempt: sessions.add(len(attempt.sessions)))
    assert report.points > 60
    assert max(sessions) == 3


# --- single cases -----------------------------------------------------------------------------------------------------


async def test_shields_are_bounded(autojump_clock: MockClock) -> None:
    """Promise 1: a `disconnect` hook that does not return is cancelled after five seconds."""
    cut: list[float] = []

    class Endless(RecordingHooks):
        async def disconnect(self, session: Session) -> None:
            try:
                await trio.sleep_forever()
            finally:
                cut.append(trio.current_time())

    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, Server(Endless(), name=NAME), server_end)
        await Client(client_end).hello()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert cut == [15]


async def test_disconnect_for_a_connect_that_did_not_end(autojump_clock: MockClock) -> None:
    """Promise 2, also when `connect` was cancelled, late or raised."""

    class FailingConnect(RecordingHooks):
        async def connect(self, session: Session) -> Reply | None:
            await super().connect(session)
            if len(self.sessions) == 1:
                await trio.sleep_forever()
            if len(self.sessions) == 2:
                raise RuntimeError("wrong")
            return Reply(554, "Go away")

    hooks = FailingConnect()
    server = Server(hooks, name=NAME)
    async with connected(server) as client:
        await client.expect("421")
        assert trio.current_time() == 100
    async with connected(server) as client:
        await client.expect("421")
    async with connected(server) as client:
        await client.expect("554")
    hooks.sessions.clear()
    hooks.ended.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, server, memory_stream_pair()[1])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(hooks.sessions) == 1
    assert hooks.ended == hooks.sessions


async def test_no_disconnect_without_connect(autojump_clock: MockClock) -> None:
    hooks = RecordingHooks()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Server(hooks, name=NAME).serve_stream(memory_stream_pair()[1])
    server = Server(hooks, name=NAME, limits=Limits(sessions=0))
    async with connected(server) as client:
        await client.expect("421")
    assert hooks.ended == hooks.sessions == []


async def test_state_of_the_last_message(autojump_clock: MockClock) -> None:
    """Promise 3."""
    states: list[MessageState | None] = []

    class StateRecorder(RecordingHooks):
        async def mail(self, session: Session, mail: object) -> None:
            states.append(session.last_message)

        async def data(self, session: Session, body: Body) -> Reply | None:
            states.append(session.last_message)
            if b"no" in await body.read():
                return Reply(550, "No")
            return None

    async with connected(Server(StateRecorder(), name=NAME)) as client:
        await client.hello()
        await client.deliver()
        await client.deliver(b"no\r\n", "550")
        await client.deliver()
        await client.command("MAIL FROM:<>", "250")
    acknowledged, not_taken = MessageState.ACKNOWLEDGED, MessageState.NOT_TAKEN
    assert states == [None, not_taken, acknowledged, not_taken, not_taken, not_taken, acknowledged]


@pytest.mark.parametrize("reads", [True, False])
async def test_reply_to_an_accepted_message_is_shielded(reads: bool, autojump_clock: MockClock) -> None:
    """Promise 3: the shield lasts for five seconds at most, on every kind of stream."""
    hooks = SlowStore()
    client_end, server_end = unbuffered()
    client = Client(client_end)
    scope = trio.CancelScope()

    async def serve_it() -> None:
        with scope:
            await serve(Server(hooks, name=NAME), server_end)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_it)
        await client.open()
        await client.command("DATA", "354")
        await client.send(MESSAGE + b".\r\n")
        await wait_all_tasks_blocked()
        scope.cancel()
        await trio.sleep(4)
        assert hooks.messages == [MESSAGE]
        assert hooks.ended == []
        if reads:
            await client.expect("250 2.0.0 Ok: queued")
            await client.expect_end()
    assert trio.current_time() == (4 if reads else 5)
    assert hooks.states == [MessageState.ACKNOWLEDGED if reads else MessageState.UNACKNOWLEDGED]


@pytest.mark.parametrize("answer", [None, Reply(550, "No")])
async def test_reply_is_written_before_the_next_command_is_read(
    answer: Reply | None, autojump_clock: MockClock
) -> None:
    """Promise 3, although the client has pipelined commands, for DATA and BDAT."""
    order: list[str] = []

    class Order(RecordingHooks):
        async def data(self, session: Session, body: Body) -> Reply | None:
            await body.read()
            return answer

        async def message(self, session: Session, command: Any) -> None:
            order.append(command.verb)

    class Written(trio.abc.HalfCloseableStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            order.extend(line[:3].decode() for line in bytes(data).split(b"\r\n") if line[3:4] == b" ")
            await self.stream.send_all(data)

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return bytes(await self.stream.receive_some(max_bytes))

        async def wait_send_all_might_not_block(self) -> None:
            await self.stream.wait_send_all_might_not_block()

        async def send_eof(self) -> None:
            await self.stream.send_eof()

        async def aclose(self) -> None:
            await self.stream.aclose()

    def pair() -> Pair:
        client_end, server_end = memory_stream_pair()
        return client_end, Written(server_end)

    code = "550" if answer else "250"
    async with connected(Server(Order(), name=NAME), pair=pair) as client:
        await client.open()
        await client.send(b"DATA\r\n" + MESSAGE + b".\r\n" + START + b"BDAT 4 LAST\r\nab\r\nMAIL FROM:<>\r\n")
        await client.expect("354", code, "250", "250", code, "250")
    first, second = [n for n, verb in enumerate(order) if verb == "MAIL"][1:3]
    assert order[first - 1] == order[second - 1] == code


async def test_state_changes_before_the_reply_is_sent(autojump_clock: MockClock) -> None:
    """Promise 4: RSET has cleared the transaction although its reply was not read."""
    found: list[object] = []

    class StateRecorder(RecordingHooks):
        async def reset(self, session: Session) -> None:
            found.append("reset")

        async def disconnect(self, session: Session) -> None:
            found.append(session.envelope)

    client_end, server_end = unbuffered()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, Server(StateRecorder(), name=NAME), server_end)
        client = Client(client_end)
        await client.open()
        await client.send(b"RSET\r\n")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert found[-1] is None


SEGMENTS = [
    [b"EHLO a.test\r\n", START, b"DATA\r\n", MESSAGE, b".\r\n", b"VRFY a\r\nNOOP\r\nBAD\r\n", b"HELP\r\n", b"QUIT\r\n"],
    [
        b"EHLO a.te",
        b"st\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 3\r\n",
        b"a\r\n",
        b"BDAT 2 LAST\r\n\r",
        b"\nNOOP\r\nQUIT\r\n",
    ],
]


@pytest.mark.parametrize("segments", SEGMENTS)
async def test_same_input_gives_same_output(segments: list[bytes], autojump_clock: MockClock) -> None:
    """Promise 5, for different segments and every kind of stream."""

    async def converse(segments: list[bytes], pair: Callable[[], Pair] = memory_stream_pair) -> bytes:
        server = Server(
            RecordingHooks(), name=NAME, token=lambda n: bytes(range(n)), now=lambda: datetime(2026, 11, 22, tzinfo=UTC)
        )
        received = b""
        async with connected(server, pair=pair) as client:
            for segment in segments:
                await wait_all_tasks_blocked(0.0001)
                await client.send(segment)
            while data := await client.stream.receive_some():
                received += bytes(data)
        return received

    first = await converse(segments)
    assert first.endswith(b"221 2.0.0 mx.test Goodbye\r\n")
    whole = b"".join(segments)
    assert await converse(segments) == first
    assert await converse(segments, sockets) == first
    assert await converse([whole]) == first
    assert await converse([whole], sockets) == first
    assert await converse([whole[n : n + 1] for n in range(len(whole))]) == first
