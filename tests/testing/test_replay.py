"""Tests of the replay of transcripts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from helpers import MESSAGE, client_tls, server_tls

from smtp_trio import Body, Client, Reply, Server, Session
from smtp_trio.protocol import standard
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import Entry, Inbox, Transcript, bounded_stream_pair, deterministic, memory_pair

from .test_transcript import AcceptsFred, login, transcript


class Slow(Inbox):
    """An inbox with a delay."""

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        await trio.sleep(90)
        return await super().data(session, body)


async def deliver() -> Transcript:
    written = Transcript()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, Slow(), transcript=written) as client:
            await client.send("me@client.test", ["you@mx.test"], MESSAGE)
            await trio.sleep(10)
            await client.noop()
    return written


async def test_replay_client(autojump_clock: object) -> None:
    written = Transcript.parse(str(await deliver()))
    client_end, server_end = bounded_stream_pair()
    server = Server(inbox := Slow(), name="mx.test", **deterministic())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, server_end)
        again = await written.replay_client(client_end)
    assert [mail.raw for mail in inbox] == [MESSAGE]
    again.compare(str(written))


async def test_replay_server(autojump_clock: object) -> None:
    written = await deliver()
    began = trio.current_time()
    client_end, server_end = bounded_stream_pair()
    replayed: list[Transcript] = []

    async def serve() -> None:
        replayed.append(await written.replay_server(server_end))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with Client(client_end, name="client.test") as client:
            await client.send("me@client.test", ["you@mx.test"], MESSAGE)
            assert trio.current_time() == began + 90
            await trio.sleep(10)
            await client.noop()
    replayed[0].compare(str(written))


async def test_server_with_different_replies(autojump_clock: object) -> None:
    written = await deliver()
    client_end, server_end = bounded_stream_pair()
    server = Server(Inbox(), name="mx.test", size=99, **deterministic())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, server_end)
        with pytest.raises(
            AssertionError, match=r"expected b'250-SIZE 31457280\\r\\n' here, got b'250-SIZE 99.*:(.*\n)+S: 250-SIZE 99"
        ):
            await written.replay_client(client_end)


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ([(0, "S", b"220 mx.test\r\n"), (0, "S", "closes")], b"220 mx.test\r\nwhat\r\n"),
        ([(0, "S", b"220 mx.test\r\n"), (0, "C", b"QUIT\r\n"), (0, "S", b"221 Bye\r\n")], b"220 mx.test\r\n"),
        ([(0, "S", b"220 mx")], b"220 "),
    ],
)
async def test_server_with_more_or_fewer_octets(
    autojump_clock: object, then: list[tuple[float, str, bytes | str]], now: bytes
) -> None:
    client_end, server_end = bounded_stream_pair()
    await server_end.send_all(now)
    await server_end.send_eof()
    with pytest.raises(AssertionError, match=r"^expected "):
        await transcript(*then).replay_client(client_end)


async def test_secrets_of_a_parsed_transcript(autojump_clock: object) -> None:
    written = Transcript.parse(str(await login("LOGIN", 1)))
    server = Server(
        AcceptsFred(),
        name="mx.test",
        extensions=standard(Auth(mechanisms=("LOGIN",), cleartext=True)),
        **deterministic(),
    )
    client_end, server_end = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, server_end)
        again = await written.replay_client(client_end, secrets=[b"ZnJlZA==", b"c2VjcmV0LXdvcmQ="])
    assert b"c2VjcmV0LXdvcmQ=" in again.octets("C")
    again.compare(str(written))
    with pytest.raises(ValueError, match="secrets="):
        async with trio.open_nursery() as nursery:
            client_end, server_end = bounded_stream_pair()
            nursery.start_soon(server.serve_stream, server_end)
            try:
                await written.replay_client(client_end)
            except ValueError as exc:
                error = exc
            nursery.cancel_scope.cancel()
        raise error


@pytest.mark.parametrize("side", ["C", "S"])
async def test_replay_with_tls(autojump_clock: object, side: str) -> None:
    written = Transcript()
    server = Server(Inbox(), name="mx.test", tls=server_tls(), **deterministic())
    async with trio.open_nursery() as nursery:
        async with await memory_pair(
            nursery, server, transcript=written, tls="required", host="mx.test", ssl_context=client_tls()
        ):
            pass
    read = Transcript.parse(str(written))
    client_end, server_end = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        if side == "C":
            nursery.start_soon(server.serve_stream, server_end)
            again = await read.replay_client(client_end, ssl_context=client_tls(), server_hostname="mx.test")
        else:

            async def use() -> None:
                async with Client(
                    client_end, name="client.test", tls="required", host="mx.test", ssl_context=client_tls()
                ):
                    pass

            nursery.start_soon(use)
            again = await read.replay_server(server_end, ssl_context=server_tls())
    again.compare(str(written))
    with pytest.raises(ValueError, match="ssl_context"):
        client_end, server_end = bounded_stream_pair()
        await transcript((0, "C", "begins TLS")).replay_client(client_end)


async def test_replay_one_of_several_sessions(autojump_clock: object) -> None:
    both = Transcript([Entry(0, "S", b"1\r\n"), Entry(0, "S", b"2\r\n", session="2")])
    client_end, server_end = bounded_stream_pair()
    with pytest.raises(ValueError, match="must select one: 1, 2"):
        await both.replay_server(server_end)
    await both.replay_server(server_end, session="2")
    assert await client_end.receive_some() == b"2\r\n"


async def test_reset_matches_a_recorded_close(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair()
    server_end.reset()
    again = await transcript((0, "S", "closes")).replay_client(client_end)
    assert str(again) == "S. closes\n"


async def test_connection_lost_during_replay(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair()
    await server_end.send_all(b"220 mx.test\r\n")
    written = transcript((0, "S", b"220 mx.test\r\n"), (5, "C", b"NOOP\r\n"), (5, "S", b"250 Ok\r\n"))
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.sleep(1)
            await server_end.aclose()

        nursery.start_soon(leave)
        with pytest.raises(AssertionError, match=r"was lost here:\nS: 220 mx.test\n@ 5\nC: NOOP"):
            await written.replay_client(client_end)


async def test_failed_handshake(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair()
    await server_end.send_all(b"no TLS\r\n")
    with pytest.raises(AssertionError, match="was lost here"):
        await transcript((0, "C", "begins TLS")).replay_client(
            client_end, ssl_context=client_tls(), server_hostname="mx.test"
        )


async def test_reset_is_replayed(autojump_clock: object) -> None:
    client_end, server_end = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transcript((0, "S", b"220 mx.test\r\n"), (0, "S", "resets")).replay_server, server_end)
        assert await client_end.receive_some() == b"220 mx.test\r\n"
        with pytest.raises(trio.BrokenResourceError):
            await client_end.receive_some()
