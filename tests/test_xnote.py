"""A third-party extension with an exchange of several lines: examples/xnote.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from test_examples import load
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Client, Hooks, LocalProtocolError, NotOfferedError, Reply, ReplyError, Server, Session, standard

example = load("xnote")
Note, NoteLine, NoteExtension, Notes = example.Note, example.NoteLine, example.NoteExtension, example.Notes


@asynccontextmanager
async def connected(hooks: Hooks) -> AsyncGenerator[Client]:
    """Return a client of a server with the extension, in memory."""
    server = Server(hooks, name="mx.test", extensions=standard(NoteExtension()))
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        async with Client(near, tls="never", extensions=[NoteExtension()]) as client:
            yield client


async def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    await example.main()
    assert capsys.readouterr().out.splitlines() == [
        *["350 Send the next line, or a dot"] * 3,
        "Your disk is full.",
        "QUIT is not a command here.",
        "250 2.0.0 Note of 2 lines taken",
    ]


async def test_two_exchanges_and_a_message_in_one_session(capsys: pytest.CaptureFixture[str]) -> None:
    async with connected(Notes()) as client:
        for text in ("one", "two"):
            await client.command(Note())
            await client.command(NoteLine(text))
            await client.command(NoteLine("."))
            await client.mail("me@client.test")
            await client.rset()
    assert capsys.readouterr().out.splitlines() == ["one", "two"]


async def test_line_that_the_core_refuses_ends_the_exchange(capsys: pytest.CaptureFixture[str]) -> None:
    async with connected(Notes()) as client:
        await client.command(Note())
        with pytest.raises(ReplyError, match="501"):
            await client.command(NoteLine("x" * 81))
        await client.noop()
        with pytest.raises(LocalProtocolError, match="XNOTE is not allowed outside a mail transaction"):
            await client.command(NoteLine("."))
    assert not capsys.readouterr().out


async def test_hook_that_refuses_a_line_ends_the_exchange(capsys: pytest.CaptureFixture[str]) -> None:
    async with connected(Notes()) as client:
        await client.command(Note())
        for _ in range(9):
            await client.command(NoteLine("x"))
        with pytest.raises(ReplyError, match="552"):
            await client.command(NoteLine("x"))
        await client.noop()
    assert not capsys.readouterr().out


async def test_hook_that_fails_ends_the_exchange() -> None:
    class Failing(Notes):  # type: ignore[misc, valid-type]
        async def note_line(self, session: Session, command: object) -> Reply:
            raise ValueError

    async with connected(Failing()) as client:
        await client.command(Note())
        with pytest.raises(ReplyError, match="451"):
            await client.command(NoteLine("x"))
        await client.noop()


async def test_no_other_command_is_sent_during_the_exchange() -> None:
    async with connected(Notes()) as client:
        await client.command(Note())
        with pytest.raises(LocalProtocolError, match="NOOP is not allowed during a note"):
            await client.noop()
        await client.command(NoteLine("."))


async def test_silent_client_is_disconnected(autojump_clock: MockClock) -> None:
    async with connected(Notes()) as client:
        await client.command(Note())
        assert (await client.stream.receive_some()).startswith(b"421 4.4.2 ")
    assert trio.current_time() == 300


async def test_without_its_hooks_the_verb_is_not_offered() -> None:
    async with connected(Hooks()) as client:
        with pytest.raises(NotOfferedError):
            await client.command(Note())


def test_hook_of_a_line_that_is_not_async_raises() -> None:
    class Plain(Notes):  # type: ignore[misc, valid-type]
        def note_line(self, session: Session, command: object) -> Reply:
            return Reply(250)

    with pytest.raises(TypeError, match="async"):
        Server(Plain(), extensions=standard(NoteExtension()))
