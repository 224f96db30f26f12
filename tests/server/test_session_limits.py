"""The limits on what a session may do and on how long it may take, exact to the second with a MockClock."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest
import trio
from helpers import NAME, START, RecordingHooks, connected
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Body, Limits, Reply, Server, Session, Timeouts
from smtp_trio.protocol import Rcpt

TIMEOUT = f"421 4.4.2 {NAME} Timeout: closing the connection"


async def test_errors_are_delayed_after_half_of_them(autojump_clock: MockClock) -> None:
    async with connected(Server(RecordingHooks(), name=NAME)) as client:
        await client.hello()
        for _ in range(19):
            await client.command("NONSENSE", "500 5.5.1")
        assert trio.current_time() == 8  # the 11th to the 18th; the 19th delays the next reply
        await client.command("NONSENSE", "421 4.7.0")
        assert trio.current_time() == 9
        await client.expect_end()


async def test_search_for_addresses_ends(autojump_clock: MockClock) -> None:
    async def rcpt(session: Session, rcpt: Rcpt) -> Reply:
        return Reply(550, "No such user here", "5.1.1")

    server = Server(RecordingHooks(), name=NAME)
    server.on(rcpt=rcpt)
    async with connected(server) as client:
        await client.hello()
        await client.command("MAIL FROM:<a@client.test>", "250")
        for n in range(515):
            await client.command(f"RCPT TO:<u{n}@{NAME}>", "550 5.1.1")
        await client.command("RSET", "421 4.7.0")
        await client.expect_end()
    assert server.statistics().limits_reached == {"work": 1}


async def test_stop_ends_the_delay(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME, limits=Limits(errors=3))
    async with connected(server) as client:
        await client.hello()
        await client.command("NONSENSE", "500")
        await client.command("NONSENSE", "500")
        await server.stop()
        assert trio.current_time() < 1
        await client.expect("421 4.3.2")


@pytest.mark.parametrize("lines", [["DATA"], ["BDAT 100000"]])
async def test_client_that_sends_too_slowly(lines: list[str], autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME)
    async with connected(server) as client:
        await client.open()
        await client.send(b"".join(f"{line}\r\n".encode() for line in lines))
        if lines == ["DATA"]:
            await client.expect("354")
        began = trio.current_time()
        await trio.sleep(100)
        await client.send(b"x" * 5000)  # 10 seconds more
        assert await client.reply() == TIMEOUT
        assert trio.current_time() - began == pytest.approx(190, abs=0.1)
    assert server.statistics().limits_reached == {"data_rate": 1}


async def test_slow_hook_does_not_count_for_the_data_rate(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        async for _ in body:
            await trio.sleep(90)

    server = Server(RecordingHooks(), name=NAME, limits=Limits(message_time=60))
    server.on(data=data)
    async with connected(server) as client:
        await client.open()
        await client.command("DATA", "354")
        for _ in range(5):
            await client.send(b"line\r\n")
            await trio.sleep(90)
        await client.send(b".\r\n")
        await client.expect("250 2.0.0")
    assert not server.statistics().limits_reached


async def test_message_time(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME, limits=Limits(message_time=500))
    async with connected(server) as client:
        await client.open()
        await client.command("DATA", "354")
        began = trio.current_time()
        for _ in range(4):
            await trio.sleep(100)
            await client.send(b"x" * 60000)
        assert await client.reply() == TIMEOUT
        assert trio.current_time() - began == pytest.approx(500, abs=0.1)
    assert server.statistics().limits_reached == {"message_time": 1}


async def test_session_time(autojump_clock: MockClock) -> None:
    """A message in progress is finished."""
    server = Server(RecordingHooks(), name=NAME, limits=Limits(session_time=1000))
    async with connected(server) as client:
        await client.hello()
        for _ in range(4):
            await trio.sleep(240)
            await client.deliver()
        await client.send(START)
        await client.expect("250", "250")
        await client.command("DATA", "354")
        await trio.sleep(100)
        await client.send(b"Text\r\n.\r\n")
        await client.expect("250", "421 4.4.2")
        await client.expect_end()
    assert server.statistics().limits_reached == {"session_time": 1}


async def test_nearly_full_server_does_not_wait_long(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME, limits=Limits(sessions=8), timeout=Timeouts(stress=20))
    async with trio.open_nursery() as nursery:
        clients = []
        for _ in range(7):
            near, far = memory_stream_pair()
            nursery.start_soon(server.serve_stream, far)
            clients.append(near)
            await trio.sleep(1)
            assert (await near.receive_some())[:3] == b"220"
        # The seventh session, after 6 seconds, shortens the wait of the others too.
        for near in clients:
            assert b"4.4.2" in await near.receive_some()
            assert trio.current_time() == 26
        near, far = memory_stream_pair()
        nursery.start_soon(server.serve_stream, far)
        assert (await near.receive_some())[:3] == b"220"
        began = trio.current_time()
        assert b"4.4.2" in await near.receive_some()
        assert trio.current_time() == began + 300


ENDS = [
    (Limits(errors=3), [b"NONSENSE\r\n"] * 3, "errors"),
    (Limits(work=20), [b"EHLO client.test\r\n"] * 30, "work"),
    (Limits(), [START + b"DATA\r\n", 100, b"x" * 5000, 150], "data_rate"),
    (Limits(data_rate=0, message_time=60), [START + b"DATA\r\n", 59, b"x\r\n", 59, b"x\r\n"], "message_time"),
    (Limits(session_time=100), [150], "session_time"),
    (Limits(), [b"QUIT\r\n"], None),
]


@pytest.mark.parametrize(("limits", "steps", "name"), ENDS, ids=[str(name) for _, _, name in ENDS])
async def test_log_names_the_limit_that_ended_a_session(
    limits: Limits,
    steps: list[bytes | float],
    name: str | None,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    server = Server(RecordingHooks(), name=NAME, limits=limits)
    async with connected(server) as client:
        await client.hello()
        with suppress(trio.BrokenResourceError):
            for step in steps:
                if isinstance(step, bytes):
                    await client.send(step)
                else:
                    await trio.sleep(step)
        while await client.stream.receive_some():
            pass
    found = [record.__dict__["fields"] for record in caplog.records if record.__dict__["event"] == "ended_by_limit"]
    assert [(each["limit"], each["peer"], each["helo"]) for each in found] == [(name, "memory", "client.test")] * (
        name is not None
    )
    assert server.statistics().limits_reached.keys() == {name} - {None}
