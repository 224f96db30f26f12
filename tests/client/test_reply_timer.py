"""The deadlines of waits for replies over sockets, which one system task watches."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import Client, ClientTimeouts, TimedOutError
from smtp_trio._client.reply_timer import ReplyTimer


async def silent_server(stack: AsyncExitStack) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return the two ends of a connection. Nothing is sent on the second one."""
    ends = tuple(trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    for end in ends:
        await stack.enter_async_context(end)
    return ends[0], ends[1]


async def time_out(stream: trio.SocketStream, seconds: float) -> float:
    """Wait for a greeting, which does not come; return when the wait ended."""
    with pytest.raises(TimedOutError, match=f"CONNECT: no reply within {seconds:g} s"):
        async with Client(stream, timeout=ClientTimeouts(greeting=seconds, quit=0.5), tls="never"):
            pass
    return trio.current_time()


async def test_each_wait_ends_at_its_own_deadline(autojump_clock: MockClock) -> None:
    ends: dict[float, float] = {}

    async def wait(stream: trio.SocketStream, seconds: float) -> None:
        ends[seconds] = await time_out(stream, seconds)

    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        began = trio.current_time()
        for seconds in (30, 7, 200, 7.5):
            client, _ = await silent_server(stack)
            nursery.start_soon(wait, client, seconds)
    assert ends == {seconds: began + seconds for seconds in (30, 7, 200, 7.5)}


async def test_deadline_that_is_met_does_not_end_a_later_wait(autojump_clock: MockClock) -> None:
    async with AsyncExitStack() as stack:
        client, server = await silent_server(stack)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(time_out, client, 60)
            await wait_all_tasks_blocked()
            await trio.sleep(50)
            await server.send_all(b"220 ")  # the limit is for the whole reply, so this does not move the deadline
        assert trio.current_time() == began + 60
        other, server = await silent_server(stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greet_and_time_out, other)
            await wait_all_tasks_blocked()
            await trio.sleep(50)
            await server.send_all(b"220 mx.test\r\n")
        assert trio.current_time() == began + 60 + 50 + 300


async def greet_and_time_out(stream: trio.SocketStream) -> None:
    timeouts = ClientTimeouts(greeting=60, hello=300, quit=0.5)
    with pytest.raises(TimedOutError, match="EHLO: no reply within 300 s"):
        async with Client(stream, timeout=timeouts, tls="never"):
            pass


async def test_one_task_watches_all_waits_and_wakes_up_seldom(mock_clock: MockClock) -> None:
    timer = ReplyTimer.current()
    assert ReplyTimer.current() is timer
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with AsyncExitStack() as stack:
        wires = [Client(client)._exchange.wire for client, _ in [await silent_server(stack) for _ in range(3)]]
        async with trio.open_nursery() as nursery:
            for number, wire in enumerate(wires):
                nursery.start_soon(timer.receive, wire, trio.current_time() + 100 + number)
            await wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living == tasks + 3
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == 100
            nursery.cancel_scope.cancel()
        # The deadline of the timer is not moved when a wait has ended, and there is none any more when it has come.
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == 100
        mock_clock.jump(100)
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf
    assert not any(wire.broken for wire in wires)


async def test_reply_that_arrives_together_with_the_deadline_counts(mock_clock: MockClock) -> None:
    for _ in range(20):  # Trio schedules the two tasks in random order
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            client, server = await silent_server(stack)
            nursery.start_soon(greet_and_time_out, client)
            await wait_all_tasks_blocked()
            os.write(server.socket.fileno(), b"220 mx.test\r\n")  # `send_all` would let the client run before the jump
            mock_clock.jump(60)
            await wait_all_tasks_blocked()
            mock_clock.jump(300)


@pytest.mark.parametrize("used", [False, True])
def test_deadline_in_the_finalizer_of_a_generator(used: bool) -> None:
    """The system tasks have ended by then."""
    ends = []

    async def generate() -> AsyncIterator[None]:
        try:
            yield
        finally:
            with trio.move_on_after(100, shield=True):
                async with AsyncExitStack() as stack:
                    ends.append(await time_out((await silent_server(stack))[0], 7))

    async def main() -> None:
        if used:
            ReplyTimer.current()
        await anext(generator)

    generator = generate()
    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert ends == [7]


def test_deadline_of_a_client_that_is_used_in_another_run() -> None:
    async def greet() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.__aenter__)
            await wait_all_tasks_blocked()
            await ends[1].send_all(b"220 mx.test\r\n")
            await wait_all_tasks_blocked()
            await ends[1].send_all(b"250 mx.test\r\n")

    async def wait() -> None:
        with trio.fail_after(100), pytest.raises(TimedOutError, match="NOOP: no reply within 7 s"):
            await client.noop()
        for end in ends:
            await end.aclose()

    ends = [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair()]
    client = Client(ends[0], timeout=7, tls="never")
    for function in (greet, wait):
        trio.run(function, clock=MockClock(autojump_threshold=0))
