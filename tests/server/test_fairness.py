"""A client that sends many commands at once does not delay other tasks."""

from __future__ import annotations

import pytest
import trio
from helpers import NAME, START, RecordingHooks, connected

from smtp_trio import Limits, Server

COMMANDS = 800


async def turns(server: Server, flood: bytes, replies: int) -> int:
    """Return how often another task ran while the server replied to commands that it had received in one segment."""
    async with connected(server) as client:
        await client.open()
        count = 0
        done = trio.Event()

        async def other() -> None:
            nonlocal count
            while not done.is_set():
                count += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await client.send(flood)
            for _ in range(replies):
                assert (await client.reply()).startswith("250")
            done.set()
        return count


@pytest.mark.parametrize("command", [b"RCPT TO:<you@mx.test>\r\n", b"BDAT 1\r\nx"])
async def test_many_commands_in_one_segment(command: bytes) -> None:
    """Commands, and chunks that are as small as commands."""
    server = Server(RecordingHooks(), name=NAME, limits=Limits(recipients=COMMANDS + 1))
    flood = command * COMMANDS
    assert len(flood) < 65536, "it must come in one read"
    assert await turns(server, flood, COMMANDS) >= COMMANDS // 16


async def test_small_group_is_answered_without_a_checkpoint() -> None:
    """A group of ordinary size is answered in one write (RFC 2920 3.1)."""
    server = Server(RecordingHooks(), name=NAME)
    writes: list[bytes] = []

    async with connected(server) as client:
        await client.hello()
        receive = client.stream.receive_some

        async def noted(max_bytes: int | None = None) -> bytes:
            writes.append(bytes(await receive(max_bytes)))
            return writes[-1]

        client.stream.receive_some = noted  # type: ignore[method-assign]
        await client.send(START)
        await client.expect("250 2.1.0", "250 2.1.5")
    assert len(writes) == 1
