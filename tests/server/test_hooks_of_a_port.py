"""Hooks of one ``serve``, in place of those of the server."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import MESSAGE, NAME, Client, RecordingHooks, connect_tcp, spies
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import smtp_trio._server.server as server_module
from smtp_trio import Credentials, Drained, Hooks, Limits, Peer, Reply, Server, Session, standard
from smtp_trio.protocol import Mail
from smtp_trio.protocol.extensions import Auth, EtrnExtension
from smtp_trio.protocol.extensions.etrn import Etrn
from smtp_trio.stores import Maildir
from smtp_trio.testing import Layer, bounded_stream_pair

CLEARTEXT = standard(Auth(cleartext=True))


class Submission(Layer):
    """A port for users that have logged in."""

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        return None if credentials.password == "secret" else Reply(535, "Wrong password", "5.7.8")

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        if session.user is None:
            return Reply(530, "Authentication required", "5.7.0")
        return await self.under.mail(session, mail)


class StartedHooks(RecordingHooks):
    """Hooks that record when the server calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def start(self, server: Server) -> None:
        self.calls.append("start")

    async def stop(self, server: Server) -> None:
        self.calls.append("stop")


async def test_two_ports_with_different_hooks() -> None:
    """They share the store, `statistics` and `stop`; each port offers the extensions that its hooks implement."""
    hooks = StartedHooks()
    server = Server(hooks, name=NAME, extensions=CLEARTEXT)
    async with trio.open_nursery() as nursery:
        [public] = await nursery.start(server.serve, 0, "127.0.0.1")
        listen = partial(server.serve, 0, "127.0.0.1", hooks=Submission(hooks))
        [submission] = await nursery.start(listen)
        ports = [each.socket.getsockname()[1] for each in (public, submission)]
        async with connect_tcp(ports[0]) as client, connect_tcp(ports[1]) as user:
            assert "AUTH" not in await client.hello()
            await client.deliver()
            assert "250-AUTH PLAIN" in await user.hello()
            await user.command("MAIL FROM:<me@client.test>", "530 5.7.0")
            await user.command("AUTH PLAIN AGZyZWQAc2VjcmV0", "235")
            await user.deliver()
            assert hooks.messages == [MESSAGE, MESSAGE]
            statistics = server.statistics()
            assert (statistics.sessions_open, statistics.messages, statistics.refused) == (2, 2, 1)
            assert hooks.calls == ["start"]
            drained = await server.stop()
            assert drained in (Drained(idle=2), Drained(idle=1, finished=1))  # the last 250 may have just been sent
            await client.expect("421 4.3.2")
            await user.expect("421 4.3.2")
    assert hooks.calls == ["start", "stop"]


async def test_limits_count_the_sessions_of_all_ports(autojump_clock: MockClock) -> None:
    server = Server(RecordingHooks(), name=NAME, limits=Limits(per_peer=1))

    async def connect(hooks: Hooks | None) -> Client:
        client_end, server_end = bounded_stream_pair()
        server_end.endpoints = Peer("192.0.2.1", 4000, "tcp"), Peer("192.0.2.25", 25, "tcp")
        nursery.start_soon(partial(server.serve_stream, server_end, hooks=hooks))
        return Client(client_end)

    async with trio.open_nursery() as nursery:
        await (await connect(None)).hello()
        await (await connect(DiscardingHooks())).expect(f"421 {NAME} Too many connections")
        await server.stop(0)


class DiscardingHooks(Hooks):
    """Hooks that accept and discard each message, and have none of the hooks of a server."""

    async def data(self, session: Session, body: Any) -> Reply | None:
        await body.discard()
        return None


async def test_hooks_of_a_stream(autojump_clock: MockClock) -> None:
    """Functions of `Server.on` are those of the server, and not of a stream with hooks of its own."""
    events: list[tuple[Any, ...]] = []
    server = Server(name=NAME)
    server.on(**spies(events, "mail", "data", "stop", "error"))
    for hooks, expected in ((DiscardingHooks(), []), (None, ["mail", "data"])):
        events.clear()
        client_end, server_end = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.serve_stream, server_end, hooks=hooks))
            client = Client(client_end)
            await client.hello()
            await client.deliver()
            await client.quit()
        assert [name for name, *_ in events] == [*expected, "stop"]


async def test_error_of_a_port_goes_to_the_server(autojump_clock: MockClock) -> None:
    class Failing(Layer):
        async def mail(self, session: Session, mail: Mail) -> Reply | None:
            raise ZeroDivisionError

    hooks = RecordingHooks()
    server = Server(hooks, name=NAME)
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.serve_stream, server_end, hooks=Failing(hooks)))
        client = Client(client_end)
        await client.hello()
        await client.command("MAIL FROM:<me@client.test>", "451 4.3.0")
        await client.quit()
    assert [type(error) for error in hooks.errors] == [ZeroDivisionError]


async def test_hooks_whose_start_would_not_be_called(tmp_path: Path) -> None:
    """A store that was not opened could not store. The error comes before a port is bound or a listener used."""
    store = Maildir(tmp_path)
    other = StartedHooks()
    for server, hooks, name in (
        (Server(name=NAME), store, "start"),
        (Server(store, name=NAME), Maildir(tmp_path), "start"),
        (Server(name=NAME), Layer(other), "start"),
        (Server(name=NAME), RecordingHooks(), "error"),
    ):
        with pytest.raises(ValueError, match=f"the {name} hook .* belongs to the server"):
            await server.serve(0, "127.0.0.1", hooks=hooks)
        client_end, server_end = memory_stream_pair()
        with pytest.raises(ValueError, match="belongs to the server"):
            await server.serve_stream(server_end, hooks=hooks)
        assert await client_end.receive_some() == b""  # closed
    assert other.calls == []


@pytest.mark.parametrize("layers", [(0, 1), (1, 0), (2, 1)])
async def test_layers_around_the_same_hooks_have_the_same_start(layers: tuple[int, int]) -> None:
    """Whether the server or the port has the layer."""
    hooks = StartedHooks()
    own, of_port = [
        hooks if not depth else Layer(hooks) if depth == 1 else Layer(Submission(hooks)) for depth in layers
    ]
    server = Server(own, name=NAME)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, 0, "127.0.0.1", hooks=of_port))
        await server.stop()
    assert hooks.calls == ["start", "stop"]


class Misspelt(Hooks):
    """Hooks with a mistake."""

    async def recpt(self, session: Session, rcpt: Any) -> Reply | None:
        return None


@pytest.mark.parametrize(
    "hooks", [Misspelt(), Layer, {"data": print}, "Maildir"], ids=["misspelt", "class", "dict", "str"]
)
async def test_invalid_hooks(hooks: Any) -> None:
    server = Server(name=NAME)
    with pytest.raises(TypeError, match=r"did you mean 'rcpt'|must be an instance of smtp_trio\.Hooks"):
        await server.serve(0, "127.0.0.1", hooks=hooks)


@pytest.mark.parametrize(
    ("own", "of_port", "count"),
    [
        (Hooks(), DiscardingHooks(), 0),
        (DiscardingHooks(), Hooks(), 1),
        (Hooks(), None, 1),
        (DiscardingHooks(), None, 0),
    ],
)
async def test_warning_about_a_missing_data_hook(
    own: Hooks, of_port: Hooks | None, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is about the hooks that are used, and logged once for a server."""
    caplog.set_level(logging.WARNING, "smtp_trio")
    server = Server(own, name=NAME)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            await nursery.start(partial(server.serve, 0, "127.0.0.1", hooks=of_port))
        await wait_all_tasks_blocked()
        await server.stop()
    assert sum("no data hook is installed" in record.getMessage() for record in caplog.records) == count


class Queues(Layer):
    """Hooks that can start the delivery of waiting mail."""

    async def etrn(self, session: Session, command: Etrn) -> Reply | None:
        return Reply(250, "Queuing started", "2.0.0")


@pytest.mark.parametrize("own", [False, True], ids=["hooks of the server", "hooks of the port"])
async def test_etrn_is_not_offered_for_message_submission(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """RFC 6409 7. The server offers it on its other ports."""
    recording = RecordingHooks()
    queues = Queues(recording)
    server = Server(recording if own else queues, name=NAME, extensions=standard(EtrnExtension()))
    hooks = queues if own else None
    assert frozenset({465, 587}) == server_module.SUBMISSION
    async with trio.open_nursery() as nursery:
        listeners = [(await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for _ in range(2)]
        ports = [each.socket.getsockname()[1] for each in listeners]
        monkeypatch.setattr(server_module, "SUBMISSION", frozenset({ports[1]}))
        for listener in listeners:
            await nursery.start(partial(server.serve_listeners, [listener], hooks=hooks))
        async with connect_tcp(ports[0]) as client, connect_tcp(ports[1]) as user:
            assert "ETRN" in await client.hello()
            await client.command("ETRN example.org", "250 2.0.0 Queuing")
            assert "ETRN" not in await user.hello()
            await user.command("ETRN example.org", "502 5.5.1")
        await server.stop()
