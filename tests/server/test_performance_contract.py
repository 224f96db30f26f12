"""Performance properties that can be tested without measuring time: the numbers of writes and of reads in vain."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
import trio
from helpers import MESSAGE, NAME, Client, RecordingHooks, connect_tcp, connected, listening
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Server
from smtp_trio._wire import Wire
from smtp_trio.protocol import ServerProtocol

RECIPIENTS = 50
GROUP = [b"MAIL FROM:<me@client.test>", *(b"RCPT TO:<you%d@mx.test>" % n for n in range(RECIPIENTS)), b"DATA"]
ANSWERS = ["250 2.1.0", *["250 2.1.5"] * RECIPIENTS, "354"]
#: linux/tcp.h, struct tcp_info: tcpi_data_segs_out.
DATA_SEGMENTS_OUT = 156


async def group(client: Client) -> None:
    await client.send(b"".join(line + b"\r\n" for line in GROUP))
    await client.expect(*ANSWERS)


async def one_by_one(client: Client) -> None:
    for line, answer in zip(GROUP, ANSWERS, strict=True):
        await client.command(line, answer)


#: How MAIL, RCPT fifty times and DATA are sent, and the number of writes for the replies (RFC 2920 3.2 (5)).
WAYS = {"pipelined": (group, 1), "one-by-one": (one_by_one, RECIPIENTS + 2)}


@pytest.mark.parametrize("way", WAYS)
async def test_group_of_commands_is_answered_in_one_write(way: str, autojump_clock: MockClock) -> None:
    client_end, server_end = memory_stream_pair()
    writes = 0
    deliver = server_end.send_stream.send_all_hook
    assert deliver is not None

    async def counting() -> None:
        nonlocal writes
        writes += 1
        await deliver()

    server_end.send_stream.send_all_hook = counting
    send_commands, expected = WAYS[way]
    async with connected(Server(RecordingHooks(), name=NAME), pair=lambda: (client_end, server_end)) as client:
        await client.hello()
        before = writes
        await send_commands(client)
        assert writes - before == expected
        await client.send(MESSAGE + b".\r\n")
        await client.expect("250 2.0.0 Ok: queued as ")
        await client.quit()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what went over the connection")
@pytest.mark.parametrize("way", WAYS)
async def test_group_of_commands_is_answered_in_one_segment(way: str) -> None:
    hooks = RecordingHooks()
    send_commands, expected = WAYS[way]
    async with listening(Server(hooks, name=NAME)) as port, connect_tcp(port) as client:
        await client.hello()
        stream = hooks.sessions[0].stream
        assert isinstance(stream, trio.SocketStream)
        before = segments(stream)
        await send_commands(client)
        assert segments(stream) - before == expected
        await client.send(MESSAGE + b".\r\n")
        await client.expect("250 2.0.0 Ok: queued as ")
        await client.quit()


def segments(stream: trio.SocketStream) -> int:
    """Return the number of TCP segments with data that were sent: one for each write, because of TCP_NODELAY."""
    assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    found = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, DATA_SEGMENTS_OUT + 4)
    assert isinstance(found, bytes)
    (count,) = struct.unpack_from("=I", found, DATA_SEGMENTS_OUT)
    assert isinstance(count, int)
    return count


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="only POSIX has direct access to the descriptor")
async def test_read_that_finds_nothing_is_seldom_tried_again() -> None:
    """A peer behind a network never answers before the other tasks have run."""
    near, far = trio.socket.socketpair()
    with near, far:
        wire = Wire(trio.SocketStream(near), ServerProtocol(), 1)
        tried = []
        for number in range(64):
            if not wire.waits:
                tried.append(number)
                assert not wire.receive_now()
            await far.send(b"x")
            await wire.receive()
        assert tried == [0, 1, 3, 7, 15, 31, 47, 63]

        while wire.waits:
            await far.send(b"x")
            await wire.receive()
        for _ in range(3):  # as long as it answers at once
            await far.send(b"x")
            assert attempt(wire) == (True, 0)
        assert attempt(wire) == (False, 1)


def attempt(wire: Wire) -> tuple[bool, int]:
    """Read without waiting. Return whether that has found something, and how many reads wait from then on."""
    return wire.receive_now(), wire.waits
