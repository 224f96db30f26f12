"""Tests of recorded streams."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from helpers import client_tls

from smtp_trio import Session
from smtp_trio.testing import Inbox, Transcript, bounded_stream_pair, open_test_server


async def test_recording_at_either_end(autojump_clock: object) -> None:
    written = Transcript()
    client_end, server_end = bounded_stream_pair()
    recorded = written.record(server_end, side="S", session="x")
    assert recorded.endpoints == server_end.endpoints
    assert recorded.transport_stream is server_end
    await recorded.wait_send_all_might_not_block()
    await recorded.send_all(bytearray(b"220 mx.test\r\n"))
    await client_end.send_all(b"NOOP")
    assert await recorded.receive_some(2) == b"NO"
    await recorded.send_eof()
    client_end.reset()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await recorded.receive_some()
    await recorded.aclose()
    assert str(written) == "S: 220 mx.test\nC> NO\nS. closes\nC. resets\n"
    assert [entry.session for entry in written] == ["x"] * len(written)


async def test_end_of_input_is_recorded_once(autojump_clock: object) -> None:
    written = Transcript()
    client_end, server_end = bounded_stream_pair()
    recorded = written.record(client_end, side="C")
    await server_end.aclose()
    assert [await recorded.receive_some() for _ in range(2)] == [b"", b""]
    assert str(written) == "S. closes\n"


async def test_send_eof_needs_a_half_closeable_stream(autojump_clock: object) -> None:
    client_end, _ = bounded_stream_pair()
    tls = trio.SSLStream(client_end, client_tls(), server_hostname="mx.test")
    with pytest.raises(TypeError, match="send_eof"):
        await Transcript().record(tls, side="C").send_eof()


async def test_reset_is_recorded(autojump_clock: object) -> None:
    written = Transcript()
    client_end, server_end = bounded_stream_pair()
    recorded = written.record(client_end, side="C")
    recorded.reset()
    with pytest.raises(trio.BrokenResourceError):
        await server_end.receive_some()
    with pytest.raises(TypeError, match="cannot be reset"):
        Transcript().record(trio.testing.memory_stream_pair()[0], side="C").reset()
    assert str(written) == "C. resets\n"


async def test_reset_of_a_socket() -> None:
    ended = trio.Event()

    class ReportsEnd(Inbox):
        async def disconnect(self, session: Session) -> None:
            ended.set()

    async with open_test_server(ReportsEnd()) as server:
        stream = Transcript().record(await trio.open_tcp_stream(server.host, server.port), side="C")
        assert await stream.receive_some() == b"220 mx.test ESMTP\r\n"
        stream.reset()
        await ended.wait()
    assert str(server.inbox.transcripts[0]).endswith("\nC. resets\n")
