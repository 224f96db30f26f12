"""`Limits.memory`: what all sessions of a server hold together, and what happens when it is too much."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import trio
from helpers import (
    MESSAGE,
    NAME,
    START,
    Client,
    MemoryListener,
    RecordingHooks,
    connected,
    listening,
    serve_memory_listener,
    server_tls,
    sockets,
    unbuffered,
)
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import Body, Hooks, Limits, Reply, Server, Session
from smtp_trio._server.memory import FREE_INPUT, RECIPIENT, RESERVE, SESSION, TLS_SESSION, MemoryBudget, with_reserve
from smtp_trio._server.session_task import COMMANDS_PER_TURN
from smtp_trio.stores import Maildir, SQLite, Store

MIB = 1 << 20
LIMIT = 4 * MIB
LINE = b"x" * 1022 + b"\r\n"


def serving(hooks: Hooks | None = None, **settings: Any) -> Server:
    return Server(hooks or RecordingHooks(), name=NAME, **{"limits": Limits(memory=LIMIT), **settings})


async def send_data(client: Client, message: bytes) -> None:
    await client.command("DATA", "354")
    await client.send(message + b".\r\n")


async def send_bdat(client: Client, message: bytes) -> None:
    await client.send(b"BDAT %d LAST\r\n%b" % (len(message), message))


async def send_chunks(client: Client, message: bytes) -> None:
    """Send a message in two chunks. A refusal of the first is the refusal of the message."""
    half = len(message) // 2
    await client.send(b"BDAT %d\r\n%b" % (half, message[:half]))
    if (await client.reply()).startswith("250 2.0.0"):
        await client.send(b"BDAT %d LAST\r\n%b" % (len(message) - half, message[half:]))
    else:
        client.buffer = (client.replies.pop() + "\r\n").encode() + client.buffer


Transfer = Callable[[Client, bytes], Awaitable[None]]


@pytest.mark.parametrize("transfer", [send_data, send_bdat, send_chunks])
async def test_message_beyond_the_memory_gets_452(transfer: Transfer, autojump_clock: MockClock) -> None:
    """The rest of the message is dropped, and the session goes on."""
    hooks = RecordingHooks()
    server = serving(hooks)
    async with connected(server) as client:
        await client.open()
        await transfer(client, LINE * (LIMIT >> 10))
        await client.expect("452 4.3.1")
        assert server.statistics().memory == SESSION
        if transfer is send_chunks:
            await client.command("RSET", "250")
        await client.deliver()
        await client.quit()
    assert hooks.messages == [MESSAGE]
    assert hooks.errors == []
    assert server.statistics().memory == 0


async def test_messages_share_the_memory(autojump_clock: MockClock) -> None:
    """What one session holds is missing in another, until it ends or its hook has returned."""
    release = trio.Event()

    class Slow(RecordingHooks):
        async def data(self, session: Session, body: Body) -> None:
            await super().data(session, body)
            if len(self.messages[-1]) > MIB:
                await release.wait()

    server = serving(Slow())
    large = LINE * (5 * MIB >> 11)
    async with connected(server) as first, connected(server) as second:
        await first.open()
        await send_data(first, large)
        await second.hello()
        await wait_all_tasks_blocked()
        # the message as it is kept, and its last piece
        assert len(large) < server.statistics().memory <= with_reserve(len(large) + 65536) + 2 * SESSION
        await second.deliver(large, "452 4.3.1")
        await second.deliver()
        release.set()
        await first.expect("250")
        await second.deliver(large)
    assert server.statistics().memory == 0


async def test_full_server_refuses_messages_and_sessions(autojump_clock: MockClock) -> None:
    """MAIL and RCPT get 452, and new connections 421, while less than `RESERVE` is left."""
    held: list[Body] = []
    release = trio.Event()

    async def data(session: Session, body: Body) -> None:
        held.append(body)
        body._reader.keep(LIMIT - server.statistics().memory - RESERVE + 1)
        await release.wait()
        await body.discard()

    server = serving()
    server.on(data=data)
    async with trio.open_nursery() as nursery:
        listener: MemoryListener = await nursery.start(serve_memory_listener, server)
        first, second = await listener.connect(), await listener.connect()
        await first.open()
        await second.hello()
        await second.command("MAIL FROM:<a@b.test>", "250")
        await first.send(b"DATA\r\n")
        await wait_all_tasks_blocked()
        assert held
        await second.command("RCPT TO:<a@b.test>", "452 4.3.1")
        await second.command("NOOP", "250")
        await second.command("RSET", "250")
        await second.command("MAIL FROM:<a@b.test>", "452 4.3.1")
        await second.command("DATA", "503")
        third = await listener.connect()
        assert await third.reply() == f"421 {NAME} Too many connections; try again later"
        await third.expect_end()
        release.set()
        await first.expect("354")
        await first.send(b".\r\n")
        await first.expect("250")
        await second.deliver()
        fourth = await listener.connect()
        await fourth.hello()
        for client in (first, second, fourth):
            await client.quit()
        await server.stop()
    assert server.statistics().memory == 0
    assert server.statistics().connections_refused == 1
    assert server.statistics().refused == 3


@pytest.mark.parametrize("limit", [None, 1 << 40])
async def test_memory_without_a_limit(limit: int | None, autojump_clock: MockClock) -> None:
    hooks = RecordingHooks()
    server = serving(hooks, limits=Limits(memory=limit))
    async with connected(server) as client:
        await client.hello()
        await client.deliver(LINE * (8 * MIB >> 10))
        await client.quit()
    assert len(hooks.messages[0]) == 8 * MIB
    assert server.statistics().memory == 0


# --- what is counted --------------------------------------------------------------------------------------------------


async def test_envelope_is_counted_until_it_is_dropped(autojump_clock: MockClock) -> None:
    server = serving()
    async with connected(server) as client:
        await client.hello()
        await client.command("MAIL FROM:<>", "250")
        for n in range(200):
            await client.command(f"RCPT TO:<{n:0100}@mx.test>", "250")
        await client.command("NOOP", "250")
        line = len(f"RCPT TO:<{0:0100}@mx.test>")
        assert server.statistics().memory == SESSION + 2 * (200 * line + len("MAIL FROM:<>")) + 200 * RECIPIENT
        await client.command("RSET", "250")
        await client.command("NOOP", "250")
        await wait_all_tasks_blocked()
        assert server.statistics().memory == SESSION
    assert server.statistics().memory == 0


async def test_buffered_input_is_counted_while_a_hook_runs(autojump_clock: MockClock) -> None:
    async def rcpt(session: Session, rcpt: object) -> None:
        memory.append(server.statistics().memory - session.buffered)
        await trio.sleep(1)

    memory: list[int] = []
    server = serving()
    server.on(rcpt=rcpt)
    async with connected(server) as client:
        await client.hello()
        lines = [b"RCPT TO:<a@mx.test>\r\n"] * 4 + [b"NOOP\r\n"] * 3000
        await client.send(b"MAIL FROM:<>\r\n" + b"".join(lines))
        await client.expect("250 2.1.0", *["250 2.1.5"] * 4, *["250 2.0.0"] * 100)
        await client.expect(*["250 2.0.0"] * 10)
    assert memory == [SESSION - FREE_INPUT] * 4
    assert server.statistics().memory == 0


async def test_replies_that_are_not_read_are_counted(autojump_clock: MockClock) -> None:
    server = serving(limits=Limits(memory=LIMIT, work=0))
    async with connected(server, pair=unbuffered) as client:
        await client.hello()
        await client.send(START + b"RSET\r\n" * 1000)
        await wait_all_tasks_blocked()
        assert server.statistics().memory > SESSION + 1000 * len("250 2.0.0 Ok")
        await client.expect("250 2.1.0", "250 2.1.5", *["250 2.0.0"] * 100)
        await client.expect(*["250 2.0.0"] * 900)
        await client.command("NOOP", "250")
        await wait_all_tasks_blocked()
        assert server.statistics().memory == SESSION
    assert server.statistics().memory == 0


@pytest.mark.parametrize("accepted", [True, False])
async def test_session_does_not_wait_with_octets_of_a_message(accepted: bool) -> None:
    """What it has received is not counted before it is processed, and a thousand sessions may wait at the same time."""
    sessions: list[Session] = []
    waiting: list[int] = []

    class Watch(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            waiting.extend(session.buffered for session in sessions)

    async def data(session: Session, body: Body) -> Reply | None:
        await body.__anext__()
        sessions.append(session)
        if not accepted:
            return Reply(452, "Try again later", "4.3.1")
        await body.discard()
        return None

    server = serving()
    server.on(data=data)
    async with listening(server) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = Client(stream)
        await client.hello()
        trio.lowlevel.add_instrument(watch := Watch())
        await client.deliver(LINE * (8 * MIB >> 10), "250" if accepted else "452")
        trio.lowlevel.remove_instrument(watch)
        sessions.clear()
        await client.quit()
    assert max(waiting) <= len(b"\r\n.\r\n")


@pytest.mark.parametrize("commands", range(COMMANDS_PER_TURN))
async def test_session_does_not_wait_with_the_first_octets_of_a_message(commands: int) -> None:
    """However many commands it has received since it waited last."""
    waiting: list[int] = []
    sessions: list[Session] = []

    class Watch(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            waiting.extend(session.buffered for session in sessions)

    async def data(session: Session, body: Body) -> None:
        sessions.append(session)
        await body.__anext__()
        sessions.clear()
        await body.discard()

    server = serving()
    server.on(data=data)
    async with connected(server, pair=sockets) as client:
        await client.open()
        trio.lowlevel.add_instrument(watch := Watch())
        await client.send(b"NOOP\r\n" * commands + b"DATA\r\n")
        await client.expect(*["250"] * commands, "354")
        await client.send(LINE * 30 + b".\r\n")
        await client.expect("250")
        trio.lowlevel.remove_instrument(watch)
    assert waiting
    assert max(waiting) == 0


async def test_tls_is_counted(autojump_clock: MockClock) -> None:
    server = serving(tls=server_tls())
    async with connected(server) as client:
        await client.hello()
        await client.starttls()
        await client.hello()
        assert server.statistics().memory == SESSION + TLS_SESSION
    async with connected(server, implicit_tls=True) as client:
        await client.handshake()
        await client.hello()
        assert server.statistics().memory == SESSION + TLS_SESSION
    assert server.statistics().memory == 0


async def test_header_is_counted_once(autojump_clock: MockClock) -> None:
    message = b"Subject: " + LINE * 50 + b"\r\n" + LINE
    memory: list[int] = []

    async def data(session: Session, body: Body) -> None:
        await body.headers()
        memory.append(server.statistics().memory)
        assert await body.read() == message
        memory.append(server.statistics().memory)

    server = serving()
    server.on(data=data)
    async with connected(server) as client:
        await client.hello()
        await client.deliver(message)
        assert server.statistics().memory == SESSION
    # twice, since the last piece is the whole message here
    assert memory == [SESSION + len(message) + with_reserve(len(message))] * 2


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [0, LIMIT // 2, LIMIT - 6 * RESERVE])
async def test_spool_uses_a_file_sooner_when_memory_is_short(used: int) -> None:
    kinds: list[bool] = []

    async def data(session: Session, body: Body) -> None:
        body._reader.keep(used)
        with await body.spool() as file:
            kinds.append(in_memory(file))
            assert len(file.read()) == 128 << 10

    server = serving(limits=Limits(memory=64 * MIB if used == 0 else LIMIT))
    server.on(data=data)
    async with connected(server) as client:
        await client.hello()
        await client.deliver(LINE * 128)
    assert kinds == [used == 0]
    assert server.statistics().memory == 0


def in_memory(file: BinaryIO) -> bool:
    try:
        file.fileno()
    except OSError:
        return True
    return False


def test_share_of_a_message() -> None:
    budget = MemoryBudget(256 * MIB)
    assert budget.share(MIB) == MIB
    assert budget.share(5 * MIB) == 4 * MIB
    budget.used = 128 * MIB
    assert budget.share(5 * MIB) == MIB
    budget.used = 192 * MIB
    assert budget.share(MIB) == MIB // 4
    budget.used = 256 * MIB
    assert budget.share(MIB) == RESERVE
    assert budget.share(1000) == 1000
    assert MemoryBudget(None).share(MIB) == MIB


@pytest.mark.parametrize("kind", [Maildir, SQLite])
async def test_store_needs_little_memory(kind: type[Store[Any]], tmp_path: Path) -> None:
    """A store moves messages to files, so many large ones fit into a small memory at a time."""
    peak = 0

    class Watching(kind):  # type: ignore[misc, valid-type]
        async def data(self, session: Session, body: Body) -> Reply | None:
            reply: Reply | None = await super().data(session, body)
            nonlocal peak
            peak = max(peak, server.statistics().memory)
            return reply

    async def deliver(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            client = Client(stream)
            await client.hello()
            await client.deliver(LINE * 2048)
            await client.quit()

    server = serving(Watching(tmp_path / "store"), limits=Limits(memory=LIMIT))
    async with listening(server) as port, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(deliver, port)
    assert server.statistics().messages == 8
    assert 0 < peak <= LIMIT
    assert server.statistics().memory == 0


@pytest.mark.parametrize("kind", [Maildir, SQLite])
async def test_message_refused_for_memory_is_not_stored(kind: type[Store[Any]], tmp_path: Path) -> None:
    class Full(kind):  # type: ignore[misc, valid-type]
        async def data(self, session: Session, body: Body) -> Reply | None:
            body._reader.keep(LIMIT - server.statistics().memory - 2 * RESERVE)
            reply: Reply | None = await super().data(session, body)
            return reply

    server = serving(Full(tmp_path / "store"), limits=Limits(memory=LIMIT))
    async with connected(server, pair=sockets) as client:
        await client.hello()
        await client.deliver(LINE * 2048, "452 4.3.1")
        await client.quit()
    assert server.statistics().messages == 0
    names = [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] if kind is Maildir else []
    assert names == []
    assert server.statistics().memory == 0


# --- the count is exact -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_is_counted_after_the_last_session(seed: int, autojump_clock: MockClock) -> None:
    """Sessions that end anywhere: the client or the server disconnects, hooks fail, are late, refuse or return early."""
    rng = random.Random(seed)

    class Erratic(RecordingHooks):
        async def mail(self, session: Session, mail: object) -> None:
            await trio.sleep(rng.choice([0, 0, 1, 400]))

        async def rcpt(self, session: Session, rcpt: object) -> None:
            if rng.random() < 0.2:
                raise ValueError("rcpt")

        async def data(self, session: Session, body: Body) -> Reply | None:
            way = rng.randrange(7)
            if way == 0:
                return Reply(451)
            if way == 1:
                await body.headers()
            if way == 2:
                (await body.spool(max_size=1000)).close()
            if way == 3:
                await anext(body)
                raise ValueError("data")
            if way == 4:
                await body.read()
                await trio.sleep(rng.choice([1, 1000]))
            if way == 5:
                await body.discard()
            return None

    server = serving(Erratic(), limits=Limits(memory=MIB, work=0), tls=server_tls())
    message = b"Subject: x\r\n\r\n" + LINE * 200
    script = b"EHLO c\r\n" + (START + b"BDAT %d LAST\r\n%b" % (len(message), message)) * 3 + b"RSET\r\n" * 2000
    script += START + b"DATA\r\n"

    async def client() -> None:
        client_end, server_end = rng.choice([memory_stream_pair, unbuffered])()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, server_end)
            try:
                with trio.move_on_after(rng.choice([1, 500])):
                    async with trio.open_nursery() as inner:
                        if rng.random() < 0.7:
                            inner.start_soon(read_all, client_end)
                        with suppress(trio.BrokenResourceError):
                            await client_end.send_all(script[: rng.randrange(len(script) + 1)])
            finally:
                await trio.aclose_forcefully(client_end)

    async def read_all(stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass

    for _ in range(4):
        with trio.move_on_after(rng.choice([3, 10000])):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(client)
        assert server.statistics().sessions_open == 0
        assert server.statistics().memory == 0
