"""Tests of `start_everywhere`: a stop, another session or another client begins at each step of a scenario.

The scenarios are those in which a server does something between two of its states: sessions begin and end, with STARTTLS, AUTH and a
message under way, and the server stops. Two races that were found in this way are put back by hand.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
import trio
from helpers import MESSAGE, NAME, MemoryListener, client_tls, quick_or_slow, server_tls
from trio.testing import memory_stream_pair

from smtp_trio import Body, Client, Drained, Hooks, Reply, Server, Session, SMTPError, TlsInfo, standard
from smtp_trio._server.lifecycle import Lifecycle
from smtp_trio._server.session_task import SessionTask
from smtp_trio.protocol import CONNECTION_LOST, NEED_DATA
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import (
    Attempt,
    SweepError,
    connect_client,
    deterministic,
    memory_pair,
    start_everywhere,
    stop_server,
)

ME, YOU = "me@client.test", "you@mx.test"
Scenario = Callable[[Attempt], Awaitable[None]]


class CheckingHooks(Hooks):
    """Hooks with checkpoints, which record what they do, and fail when they are not called in the right order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.messages: list[bytes] = []
        self.open: set[Session] = set()
        self.started = False

    async def start(self, server: Server) -> None:
        assert not self.started
        assert not self.open
        await trio.lowlevel.checkpoint()
        self.started = True

    async def stop(self, server: Server) -> None:
        assert self.started
        assert not self.open
        await trio.sleep(1)
        assert not self.open
        self.started = False

    async def connect(self, session: Session) -> None:
        assert self.started
        await trio.lowlevel.checkpoint()
        self.open.add(session)

    async def secured(self, session: Session) -> None:
        await trio.sleep(1)
        self.calls.append("secured")

    async def auth(self, session: Session, credentials: object) -> Reply:
        await trio.sleep(1)
        self.calls.append("auth")
        return Reply(235)

    async def data(self, session: Session, body: Body) -> None:
        message = await body.read()
        await trio.sleep(1)
        self.messages.append(message)

    async def reset(self, session: Session) -> None:
        await trio.lowlevel.checkpoint()

    async def disconnect(self, session: Session) -> None:
        assert self.started
        await trio.lowlevel.checkpoint()
        self.open.discard(session)


def check(attempt: Attempt) -> None:
    hooks: CheckingHooks = attempt.context["hooks"]
    assert not hooks.started
    assert not hooks.open
    accepted = sum(bool(result.accepted) for client in attempt.clients for result in client.last_results)
    assert accepted <= len(hooks.messages)


def server_of(attempt: Attempt) -> Server:
    attempt.context["hooks"] = hooks = CheckingHooks()
    return Server(hooks, name=NAME, tls=server_tls(), extensions=standard(Auth()), **deterministic())


@asynccontextmanager
async def session(server: Server, **settings: Any) -> AsyncGenerator[Any]:
    """Connect a client; the session has ended when the block is left."""
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, server, host=NAME, **{"tls": "never", **settings}) as client:
            yield client


# --- scenarios --------------------------------------------------------------------------------------------------------


async def plain(attempt: Attempt) -> None:
    """Two sessions, one after the other."""
    server = server_of(attempt)
    for _ in range(2):
        async with session(server) as client:
            await client.noop()
            await client.mail(ME)
            await client.rset()


async def starttls(attempt: Attempt) -> None:
    async with session(server_of(attempt), tls="required", ssl_context=client_tls()) as client:
        await client.noop()


async def implicit_tls(attempt: Attempt) -> None:
    async with session(server_of(attempt), implicit_tls=True, tls="implicit", ssl_context=client_tls()) as client:
        await client.noop()


async def login(attempt: Attempt) -> None:
    settings: dict[str, Any] = {"tls": "required", "ssl_context": client_tls(), "auth": ("fred", "secret")}
    async with session(server_of(attempt), **settings) as client:
        await client.noop()


async def message(attempt: Attempt) -> None:
    """A message that arrives in three parts, by DATA and by BDAT."""

    async def pieces() -> AsyncGenerator[bytes]:
        yield MESSAGE
        for _ in range(2):
            await trio.sleep(1)
            yield b"hello\r\n"

    server = server_of(attempt)
    async with session(server) as client:
        await client.send(ME, [YOU], pieces())
    async with session(server) as client:
        await client.mail(ME)
        await client.rcpt(YOU)
        await client.data(MESSAGE)


async def stopping(attempt: Attempt) -> None:
    """The server stops while one session is idle and one is in a message."""
    server = server_of(attempt)

    async def one(pause: float) -> None:
        async def pieces() -> AsyncGenerator[bytes]:
            yield MESSAGE
            await trio.sleep(pause)

        try:
            async with session(server) as client:
                if pause:
                    await client.send(ME, [YOU], pieces())
                await trio.sleep(10)
                await client.noop()
        except* (SMTPError, trio.ClosedResourceError):  # the server was stopped
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0)
        nursery.start_soon(one, 5)
        await trio.sleep(3)
        assert (await server.stop(10)).cancelled == 0


async def listening(attempt: Attempt) -> None:
    """A server with a listener."""
    server = server_of(attempt)
    attempt.context["listener"] = listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_listeners, [listener])
        async with Client((await listener.connect()).stream, host=NAME, tls="never") as client:
            await client.noop()
        await server.stop()


SCENARIOS: dict[str, Scenario] = {
    each.__name__: each for each in (plain, starttls, implicit_tls, login, message, stopping, listening)
}
every_scenario = pytest.mark.parametrize("name", quick_or_slow(SCENARIOS, ("plain", "starttls", "stopping")))


# --- correct servers pass ---------------------------------------------------------------------------------------------


@every_scenario
def test_stop_at_each_step(name: str) -> None:
    report = start_everywhere(SCENARIOS[name], stop_server, check=check)
    assert report.points > 20


@every_scenario
def test_client_at_each_step(name: str) -> None:
    numbers: set[int] = set()

    def check_and_count(attempt: Attempt) -> None:
        check(attempt)
        numbers.add(len(attempt.sessions))

    report = start_everywhere(SCENARIOS[name], connect_client, check=check_and_count)
    assert report.points > 20
    assert len(numbers) > 1


@every_scenario
def test_second_serve_stream_at_each_step(name: str) -> None:
    """An action of the test: a session whose client disconnects without a word, or before it begins."""

    async def action(attempt: Attempt) -> None:
        for server in attempt.servers:
            for greeting in (False, True):
                client_end, server_end = memory_stream_pair()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.serve_stream, server_end)
                    if greeting:
                        await client_end.receive_some()
                    await client_end.aclose()

    assert start_everywhere(SCENARIOS[name], action, check=check).points > 20


def test_connection_at_each_step() -> None:
    """An action of the test: a client connects to the listener of the scenario, and is served or finds it closed."""
    outcomes: set[str] = set()

    async def action(attempt: Attempt) -> None:
        listener: MemoryListener = attempt.context["listener"]
        try:
            async with Client((await listener.connect()).stream, host=NAME, tls="never") as client:
                await client.noop()
        except (SMTPError, trio.BrokenResourceError) as exc:
            outcomes.add(type(exc).__name__)
            raise
        outcomes.add("served")

    assert start_everywhere(listening, action, check=check).points > 20
    assert outcomes > {"served", "BrokenResourceError"}


# --- a server with a bug does not -------------------------------------------------------------------------------------


@pytest.fixture(params=["seeded", "unseeded"])
def tries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often a sweep is repeated that should find a bug: once, and several times when the order of tasks is random."""
    if request.param == "unseeded":
        monkeypatch.setitem(sys.modules, "trio._core._run", ModuleType("trio._core._run"))
    return 1 if request.param == "seeded" else 20


def found(tries: int, scenario: Scenario, action: Scenario, reason: str, **options: Any) -> SweepError:
    """Run a sweep that must fail for ``reason``."""
    for _ in range(tries):
        try:
            start_everywhere(scenario, action, **options)
        except SweepError as exc:
            error = exc
            break
    else:
        raise AssertionError("the sweep has found nothing")
    assert any(reason in each for each in error.reasons), error.reasons
    return error


async def one_session(attempt: Attempt) -> None:
    """A session of a server whose hooks check nothing."""
    async with session(Server(Hooks(), name=NAME, tls=server_tls(), **deterministic())) as client:
        await client.noop()


async def stop_without_a_second_look(lifecycle: Lifecycle) -> None:
    """`Lifecycle._stop` as it was when it did not expect a ``serve`` to begin while it acquires the lock."""
    with trio.CancelScope(shield=True):
        async with lifecycle._lock:
            lifecycle.started = False
            await lifecycle._state.call("stop")


@pytest.mark.parametrize(
    "scenario", [one_session, *(pytest.param(each, marks=pytest.mark.slow) for each in (plain, login, message))]
)
def test_stop_hook_during_a_session(tries: int, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lifecycle, "_stop", stop_without_a_second_look)
    error = found(
        tries, scenario, connect_client, f"server {NAME}: its stop hook was called while 1 sessions were open"
    )
    assert str(error).startswith(f"action started at step {error.k}: ")
    assert f"points=[{error.k}]" in str(error)
    assert "in serve_stream\n" in error.stack


async def start_tls_without_a_second_look(session: SessionTask) -> bool:
    """`SessionTask.start_tls` as it was when it did not expect to be cancelled in the iteration in which the handshake ends."""
    assert session.server.tls is not None
    session.hooks.disarm()
    session.idle = True
    if session.state.stopping:
        session.wake()
    try:
        stream = await session.wire.start_tls(session.server.tls, session.server.timeouts.tls, server_side=True)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        return False
    session.idle = False
    session.session.tls = TlsInfo.of(stream)
    return True


@pytest.mark.parametrize(("scenario", "hook"), [(starttls, "secured"), (login, "secured"), (implicit_tls, "connect")])
def test_hook_after_a_handshake_cancelled_by_stop(
    tries: int, scenario: Scenario, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionTask, "start_tls", start_tls_without_a_second_look)
    reason = f"Server.stop cancelled its {hook} hook before the end of the grace period"
    error = found(tries, scenario, stop_server, reason)
    assert "421 " in error.transcript


async def receive_command_without_a_second_look(session: SessionTask) -> Any:
    """A read of a command that does not notice that it was cancelled in the iteration in which the command arrived."""
    while (event := session.protocol.next_event()) is NEED_DATA:
        await session.flush()
        session.idle = True
        if session.state.stopping:
            session.wake()
        await session.wire.receive()
        session.idle = False
    if event is CONNECTION_LOST:
        session.end_dialogue()
        return None
    return event


def test_command_hook_cancelled_by_stop(tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionTask, "receive_command", receive_command_without_a_second_look)
    found(tries, message, stop_server, "Server.stop cancelled its ")


def test_session_that_begins_without_a_start(tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `start` hook that a second ``serve`` does not wait for."""

    async def start(lifecycle: Lifecycle) -> None:
        if not lifecycle.begun:
            lifecycle.begun = True
            await trio.sleep(1)
            lifecycle.started = True

    monkeypatch.setattr(Lifecycle, "_start", start)
    found(tries, one_session, connect_client, "it began before the start hook of its server had returned")


# --- the sweep itself -------------------------------------------------------------------------------------------------


async def three_steps(attempt: Attempt) -> None:
    seen: list[str] = attempt.context.setdefault("seen", [])
    for n in range(3):
        await trio.lowlevel.checkpoint()
        seen.append(str(n))


def test_action_begins_once_in_each_run() -> None:
    seen: list[tuple[int, str]] = []

    async def action(attempt: Attempt) -> None:
        assert attempt.interrupted
        attempt.context["seen"].append("a")

    def check(attempt: Attempt) -> None:
        seen.append((attempt.k, "".join(attempt.context["seen"])))
        assert attempt.interrupted == bool(attempt.k)

    report = start_everywhere(three_steps, action, check=check)
    assert report.points == 3
    assert [(place.module, place.function) for place in report.places] == [(__name__, "three_steps")]
    assert [k for k, _ in seen] == [0, 1, 2, 3]
    assert all(text.count("a") == bool(k) and text.replace("a", "") == "012" for k, text in seen)


def test_action_is_waited_for() -> None:
    async def action(attempt: Attempt) -> None:
        await trio.sleep(100)
        attempt.context["seen"].append("a")

    def check(attempt: Attempt) -> None:
        assert attempt.context["seen"][-1] == ("a" if attempt.k else "2")

    assert start_everywhere(three_steps, action, check=check).points == 3


def test_here_limits_the_points_to_a_block() -> None:
    async def scenario(attempt: Attempt) -> None:
        await three_steps(attempt)
        with attempt.here():
            await trio.lowlevel.checkpoint()
        await three_steps(attempt)

    assert start_everywhere(scenario, stop_server).points == 1


def test_exception_of_the_action() -> None:
    async def action(attempt: Attempt) -> None:
        raise KeyError("lost")

    with pytest.raises(SweepError, match="action started at step 1: the action raised KeyError: 'lost'") as error:
        start_everywhere(three_steps, action)
    assert isinstance(error.value.__cause__, KeyError)
    assert start_everywhere(three_steps, action, allow=(KeyError,)).points == 3


def test_action_that_does_not_end() -> None:
    async def action(attempt: Attempt) -> None:
        await trio.sleep_forever()

    with pytest.raises(SweepError, match="the scenario did not end within 10 s of virtual time") as error:
        start_everywhere(three_steps, action, max_seconds=10)
    assert "Stack: the scenario" in str(error.value)
    assert "the action\n" in str(error.value)


def test_consequences_of_a_stop_are_allowed_only_after_a_stop() -> None:
    """SMTPError and ClosedResourceError are, once a server of the run was stopped."""

    async def nothing(attempt: Attempt) -> None:
        pass

    async def closed(attempt: Attempt) -> None:
        server_of(attempt)
        await three_steps(attempt)
        if attempt.interrupted:
            raise trio.ClosedResourceError

    with pytest.raises(SweepError, match="the scenario raised ClosedResourceError"):
        start_everywhere(closed, nothing)
    assert start_everywhere(closed, stop_server).points == 3


def test_stop_before_the_first_session() -> None:
    """`Attempt.servers` has a server as soon as it was created."""

    async def scenario(attempt: Attempt) -> None:
        server = Server(Hooks(), name=NAME, **deterministic())
        await trio.lowlevel.checkpoint()
        attempt.context["drained"] = await server.stop()

    def check(attempt: Attempt) -> None:
        assert len(attempt.servers) == 1
        assert attempt.context["drained"] == Drained()

    assert start_everywhere(scenario, stop_server, check=check).points == 2


def test_action_for_a_run_without_a_server() -> None:
    for action in (stop_server, connect_client):
        assert start_everywhere(three_steps, action).points == 3
