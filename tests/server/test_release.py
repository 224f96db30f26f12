"""What a session has used is free when it ends: nothing is left to the garbage collector, which may run much later."""

from __future__ import annotations

import errno
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import MESSAGE, NAME, START, Client, RecordingHooks, server_tls
from trio.testing import (
    MockClock,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
    wait_all_threads_completed,
)

from smtp_trio import Body, Hooks, Limits, Reply, Server, Session, Timeouts
from smtp_trio._instrument import observer
from smtp_trio.stores import Maildir, SQLite

DATA = START + b"DATA\r\n"


@pytest.fixture(autouse=True)
def no_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Local:
    """An object that only a variable of a hook refers to."""

    created: list[weakref.ref[Any]]

    def __init__(self) -> None:
        self.created.append(weakref.ref(self))


@pytest.fixture(autouse=True)
def created(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Return references to what the sessions of a test have created."""
    references: list[weakref.ref[Any]] = []
    monkeypatch.setattr(Local, "created", references, raising=False)
    return references


class Watched(Hooks):
    """Hooks that keep no reference to the session."""

    async def connect(self, session: Session) -> None:
        Local.created += [weakref.ref(session), weakref.ref(session._protocol)]

    async def data(self, session: Session, body: Body) -> Reply | None:
        local = Local()
        await self._take(session, body)
        del local
        return None

    async def _take(self, session: Session, body: Body) -> None:
        await body.read()


class FailureError(Exception):
    """An exception that can be referred to weakly."""


class Failing(Watched):
    async def _take(self, session: Session, body: Body) -> None:
        await body.read()
        raise FailureError


class FailingEarly(Watched):
    async def _take(self, session: Session, body: Body) -> None:
        raise ValueError("data")


class Late(Watched):
    async def _take(self, session: Session, body: Body) -> None:
        await body.read()
        await trio.sleep(1000)


class FailingLate(Watched):
    async def _take(self, session: Session, body: Body) -> None:
        await body.read()
        try:
            await trio.sleep(1000)
        finally:
            raise ValueError("late")


class FailingRcpt(Watched):
    async def rcpt(self, session: Session, rcpt: object) -> None:
        local = Local()
        await trio.lowlevel.checkpoint()
        raise ValueError(local)


class InNursery(Watched):
    async def _take(self, session: Session, body: Body) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(body.read)


class FailingInNursery(Watched):
    async def _take(self, session: Session, body: Body) -> None:
        async def fail() -> None:
            raise ValueError("in a nursery")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(body.read)
            nursery.start_soon(fail)


class Persistent(Watched):
    async def _take(self, session: Session, body: Body) -> None:
        for _ in range(3):
            with suppress(Exception):
                await body.read()


class RefusingData(Watched):
    async def message(self, session: Session, command: Any) -> Reply | None:
        return Reply(451) if command.verb == "DATA" else None


class Background(Watched):
    """Starts a task that lasts longer than the session, and inherits its context."""

    async def _take(self, session: Session, body: Body) -> None:
        await body.read()
        trio.lowlevel.spawn_system_task(trio.sleep, 10**6)


class FailingDisconnect(Watched):
    async def disconnect(self, session: Session) -> None:
        local = Local()
        raise ValueError(local)


Step = bytes | Callable[[Server, trio.Nursery], Awaitable[object]]


async def cancel(server: Server, nursery: trio.Nursery) -> None:
    nursery.cancel_scope.cancel()


async def stop(server: Server, nursery: trio.Nursery) -> None:
    await server.stop(0)


async def wait(server: Server, nursery: trio.Nursery) -> None:
    await trio.sleep(2000)


async def talk(server: Server, steps: tuple[Step, ...], *, implicit_tls: bool = False) -> None:
    """Take these steps in a session, and disconnect."""
    client_end, server_end = memory_stream_pair()

    async def read() -> None:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            while await client_end.receive_some():
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.serve_stream, server_end, implicit_tls=implicit_tls))
        nursery.start_soon(read)
        for step in steps:
            if isinstance(step, bytes):
                with suppress(trio.BrokenResourceError):
                    await client_end.send_all(step)
            else:
                await step(server, nursery)
            await settle()
        await trio.aclose_forcefully(client_end)


async def settle() -> None:
    """Wait until all tasks are blocked and no thread is running."""
    await wait_all_tasks_blocked()
    while trio.testing.active_thread_count():
        await wait_all_threads_completed()
        await wait_all_tasks_blocked()


async def check(server: Server, steps: tuple[Step, ...], created: list[weakref.ref[Any]]) -> None:
    with suppress(trio.ClosedResourceError):
        await talk(server, (b"EHLO c\r\n", *steps))
    await wait_all_tasks_blocked()
    assert created
    assert [ref() for ref in created if ref() is not None] == []
    assert server.statistics().memory == 0


WHOLE = (DATA, MESSAGE + b".\r\n")
ENDS: dict[str, tuple[Step, ...]] = {
    "quit": (*WHOLE, b"QUIT\r\n"),
    "two messages": (*WHOLE, *WHOLE, b"QUIT\r\n"),
    "disconnected": WHOLE,
    "no message": (START,),
    "cut off": (DATA, MESSAGE),
    "chunk cut off": (START + b"BDAT 100\r\nabc",),
    "RSET after a chunk": (START + b"BDAT 3\r\nabcRSET\r\nQUIT\r\n",),
    "cancelled": (cancel,),
    "cancelled in a message": (DATA, MESSAGE, cancel),
    "stopped": (START, stop),
    "stopped in a message": (DATA, MESSAGE, stop),
    "timed out": (START, wait),
    "timed out in a message": (DATA, MESSAGE, wait),
    "bare LF": (DATA, b"a\nb\r\n.\r\n", b"QUIT\r\n"),
    "bad commands": (b"FOO\r\nMAIL FROM:<a b>\r\nRCPT TO:<a@b.test>\r\nDATA\r\n\xff\r\n", b"QUIT\r\n"),
    "too many errors": (b"FOO\r\n" * 30,),
    "long line": (b"x" * 5000, b"x\r\n" + b"x" * 5000 + b"\nx\r\n", b"QUIT\r\n"),
    "refused chunk": (b"BDAT 3\r\nabc", b"BDAT 3\r\na", b"bcQUIT\r\n"),
    "refused chunk cut off": (b"BDAT 3\r\na",),
    "data after a refused DATA": (DATA + MESSAGE,),
}
KINDS: list[type[Watched]] = [
    Watched,
    Failing,
    FailingEarly,
    Late,
    FailingLate,
    FailingRcpt,
    InNursery,
    FailingInNursery,
    Persistent,
    RefusingData,
    Background,
    FailingDisconnect,
]


QUICK = [(kind, end) for kind in KINDS for end in ENDS if kind is Watched or end in ("quit", "cancelled in a message")]


def marks(kind: type[Watched], end: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] * ((kind, end) not in QUICK)


PAIRS = [pytest.param(kind, end, marks=marks(kind, end), id=f"{kind.__name__}-{end}") for kind in KINDS for end in ENDS]


@pytest.mark.parametrize(("kind", "end"), PAIRS)
async def test_session_is_free_when_it_ends(
    kind: type[Watched],
    end: str,
    created: list[weakref.ref[Any]],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(kind(), name=NAME, timeout=Timeouts(hook=500, end=600))
    with caplog.at_level(1000, "smtp_trio"):  # records keep exceptions
        await check(server, ENDS[end], created)


async def test_session_is_free_when_memory_is_short(created: list[weakref.ref[Any]], autojump_clock: MockClock) -> None:
    server = Server(Watched(), name=NAME, limits=Limits(memory=1 << 20))
    await check(server, (DATA, b"x" * 998 + b"\r\n", (b"x" * 998 + b"\r\n") * 3000, b".\r\n", b"QUIT\r\n"), created)


def fail(*args: object, **kwargs: object) -> None:
    raise OSError(errno.EIO, "broken")


#: Functions of a store that fail: none, the commit of a group, a step for each message of it, and a write before it.
BROKEN: dict[str, dict[type[Maildir | SQLite], str]] = {
    "nothing": {},
    "group": {Maildir: "maildir.Maildir._commit", SQLite: "sqlite.SQLite._commit"},
    "message": {Maildir: "maildir.MaildirSpool.move", SQLite: "sqlite.insert"},
    "write": {Maildir: "maildir.MaildirSpool.write", SQLite: "sqlite.SQLite.write_piece"},
}


@pytest.mark.parametrize("end", ["quit", "cut off", "cancelled in a message", "bare LF"])
@pytest.mark.parametrize("kind", [Maildir, SQLite])
@pytest.mark.parametrize("broken", BROKEN)
async def test_spool_of_a_store_is_free_when_the_session_ends(
    kind: Any,
    broken: str,
    end: str,
    created: list[weakref.ref[Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class WatchedStore(kind):  # type: ignore[misc]
        connect = Watched.connect

        def _spool(self, *args: Any) -> Any:
            spool = super()._spool(*args)
            created.append(weakref.ref(spool))
            return spool

    if broken == "write":
        monkeypatch.setattr("smtp_trio.stores._spool.MEMORY", 1)
    if kind in BROKEN[broken]:
        monkeypatch.setattr(f"smtp_trio.stores.{BROKEN[broken][kind]}", fail)
    store = WatchedStore(tmp_path / "store")
    await store.open()
    with caplog.at_level(1000, "smtp_trio"):
        server = Server(store, name=NAME)
        with suppress(trio.ClosedResourceError):
            await talk(server, (b"EHLO c\r\n", *ENDS[end]))
    await store.aclose()
    assert len(created) == 3
    assert [ref() for ref in created if ref() is not None] == []


@pytest.mark.parametrize("implicit", [False, True])
async def test_session_with_tls_is_free(
    implicit: bool, created: list[weakref.ref[Any]], autojump_clock: MockClock
) -> None:
    server = Server(Watched(), name=NAME, tls=server_tls())
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.serve_stream(server_end, implicit_tls=implicit)

        nursery.start_soon(serve)
        client = Client(client_end)
        if implicit:
            await client.handshake()
        else:
            await client.hello()
            await client.starttls()
        await client.hello()
        await client.deliver()
        await client.quit()
        await trio.aclose_forcefully(client.stream)
    assert created
    assert [ref() for ref in created if ref() is not None] == []


FAILED_HANDSHAKES: dict[str, tuple[Step, ...]] = {
    "garbage": (b"EHLO c\r\n",),
    "cut off": (b"\x16\x03\x01\x02\x00\x01",),
    "nothing": (),
    "timed out": (b"\x16\x03\x01\x02\x00\x01", wait),
    "cancelled": (b"\x16\x03\x01\x02\x00\x01", cancel),
    "stopped": (b"\x16\x03\x01\x02\x00\x01", stop),
}


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("failure", FAILED_HANDSHAKES)
async def test_session_is_free_when_its_tls_handshake_fails(
    failure: str,
    implicit: bool,
    created: list[weakref.ref[Any]],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(Watched(), name=NAME, tls=server_tls())
    starttls: tuple[Step, ...] = () if implicit else (b"EHLO c\r\n", b"STARTTLS\r\n")
    token = observer.set(lambda task: created.append(weakref.ref(task)))  # no hook is called before implicit TLS
    try:
        with caplog.at_level(1000, "smtp_trio"), suppress(trio.ClosedResourceError):
            await talk(server, (*starttls, *FAILED_HANDSHAKES[failure]), implicit_tls=implicit)
    finally:
        observer.reset(token)
    assert len(created) == (1 if implicit else 3)
    assert [ref() for ref in created if ref() is not None] == []
    assert server.statistics().memory == 0


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_session_is_free_when_its_client_does_not_read(
    steps: int, created: list[weakref.ref[Any]], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The reply could not be sent in time: to the connection, to EHLO, to a message."""
    server = Server(Watched(), name=NAME)
    client_end, server_end = lockstep_stream_pair()
    lines = (b"EHLO c\r\n", b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@mx.test>\r\nDATA\r\n")
    token = observer.set(lambda task: created.append(weakref.ref(task)))

    async def talk_without_reading_the_last_reply() -> None:
        for line in lines[:steps]:
            await client_end.receive_some()
            await client_end.send_all(line)

    try:
        with caplog.at_level(1000, "smtp_trio"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve_stream, server_end)
                nursery.start_soon(talk_without_reading_the_last_reply)
    finally:
        observer.reset(token)
    assert created
    assert [ref() for ref in created if ref() is not None] == []


async def test_exceptions_of_hooks_are_free_after_the_error_hook(
    created: list[weakref.ref[Any]], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Reporting(Failing):
        async def error(self, server: Server, error: Exception) -> None:
            created.append(weakref.ref(error))
            await trio.lowlevel.checkpoint()

    with caplog.at_level(1000, "smtp_trio"):
        await check(Server(Reporting(), name=NAME), ENDS["quit"], created)
    assert len(created) == 4


def test_recording_hooks_keep_the_message_only() -> None:
    """The hooks of other tests keep sessions; a session that ended keeps no octets of its message."""

    async def main() -> None:
        hooks = RecordingHooks()
        await talk(Server(hooks, name=NAME), ENDS["cut off"])
        assert hooks.sessions[0]._transaction.body is None
        assert hooks.sessions[0].buffered == 0

    trio.run(main)
