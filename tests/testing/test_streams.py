"""Tests of the memory streams with limited buffers."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import Sequencer, check_half_closeable_stream, wait_all_tasks_blocked

from smtp_trio import Hooks, Peer, Server, Session
from smtp_trio.testing import MemoryStream, bounded_stream_pair


async def test_streams_conform_to_trio(autojump_clock: object) -> None:
    async def make() -> tuple[MemoryStream, MemoryStream]:
        return bounded_stream_pair()

    async def make_blocked() -> tuple[MemoryStream, MemoryStream]:
        client_end, server_end = bounded_stream_pair(16)
        await client_end.send_all(b"x" * 16)
        await server_end.send_all(b"y" * 16)
        return client_end, server_end

    await check_half_closeable_stream(make, make_blocked)


async def test_sender_waits_for_receiver(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair(10)
    sent: list[int] = []

    async def send() -> None:
        for _ in range(3):
            await client_end.send_all(b"12345678")
            sent.append(server_end.unread)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert sent == [8]
        assert await server_end.receive_some() == b"12345678"
        await wait_all_tasks_blocked()
        assert sent == [8, 8]
        assert await server_end.receive_some() == b"12345678"
    assert await server_end.receive_some() == b"12345678"


@pytest.mark.parametrize("size", [1, 9, 10, 11, 95, 100])
async def test_buffer_limit(autojump_clock: object, size: int) -> None:
    client_end, server_end = bounded_stream_pair(10)
    data = bytes(range(size))
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client_end.send_all, data)
        while got != data:
            await wait_all_tasks_blocked()
            assert 0 < server_end.unread <= 10
            got += await server_end.receive_some()


async def test_pieces_are_preserved(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair()
    for piece in (b"one", b"", b"two"):
        await client_end.send_all(piece)
    await client_end.send_eof()
    assert [await server_end.receive_some(size) for size in (None, 2, 2, None, None)] == [b"one", b"tw", b"o", b"", b""]


async def test_reset_discards_octets_and_wakes_waiting_tasks(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair(4)
    await client_end.send_all(b"lost")
    await server_end.send_all(b"lost")

    async def broken(what: object) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await what()  # type: ignore[operator]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(broken, partial(server_end.send_all, b"waits"))
        await wait_all_tasks_blocked()
        client_end.reset()
    with pytest.raises(trio.BrokenResourceError):
        await server_end.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await client_end.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await client_end.send_all(b"")


async def test_stream_is_usable_after_a_cancelled_send(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair(4)
    with trio.move_on_after(1) as scope:
        await client_end.send_all(b"12345678")
    assert scope.cancelled_caught
    assert await server_end.receive_some() == b"1234"
    await client_end.send_all(b"next")
    assert await server_end.receive_some() == b"next"


async def test_concurrent_use_raises_busy_resource_error(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair(4)
    step = Sequencer()

    async def end() -> None:
        async with step(0):
            await wait_all_tasks_blocked()
            for conflict in (
                client_end.send_all(b"x"),
                client_end.wait_send_all_might_not_block(),
                client_end.send_eof(),
            ):
                with pytest.raises(trio.BusyResourceError):
                    await conflict
            with pytest.raises(trio.BusyResourceError):
                await client_end.receive_some()
        await server_end.send_all(b"y")
        assert await server_end.receive_some() == b"1234"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client_end.send_all, b"12345678")
        nursery.start_soon(client_end.receive_some)
        nursery.start_soon(end)


@pytest.mark.parametrize("size", [0, -1])
def test_buffer_limit_must_be_positive(size: int) -> None:
    with pytest.raises(ValueError, match="max_octets"):
        bounded_stream_pair(size)


async def test_endpoints_of_memory_streams(autojump_clock: object) -> None:
    """A server takes them for the addresses of the peers."""
    found: list[tuple[Peer, Peer]] = []

    class Recorder(Hooks):
        async def connect(self, session: Session) -> None:
            found.append((session.peer, session.local))

    server = Server(Recorder())
    unnamed = Peer("", None, "memory")
    ends = Peer("192.0.2.1", 50000, "tcp"), Peer("192.0.2.2", 25, "tcp")
    for endpoints in (None, ends):
        client_end, server_end = bounded_stream_pair()
        if endpoints is not None:
            server_end.endpoints = endpoints
        await client_end.aclose()
        await server.serve_stream(server_end)
    assert found == [(unnamed, unnamed), ends]
