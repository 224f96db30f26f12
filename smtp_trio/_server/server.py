"""A server: settings, a listener's nursery, and one task for every session.

What is here is what sessions share: the settings, the counts, and the end. How one session goes is in `_session`.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any

import trio
from attrs import asdict

from .._groups import collapse_group
from .._timeouts import Timeouts
from .._types import Counts, Drained, Peer, Statistics
from ..protocol import Command, Extension, Limits, Reply, ServerProtocol
from ..protocol.body_inspector import Newlines
from ..protocol.extensions import STANDARD, StartTls
from ..protocol.grammar import Grammar
from ..protocol.sasl import MechanismContext
from .handlers import COURSES
from .hooks import Hook, Hooks, hook_names, installed
from .listeners import accept_all, endpoints, network, open_listeners
from .session import Session

log = logging.getLogger("smtp_trio.server")

#: The session that this task is at work for. What a hook has spawned inherits it.
serving: ContextVar[Session | None] = ContextVar("smtp_trio.serving", default=None)


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


class Server:
    """An SMTP server. It does no I/O until it serves, and belongs to one ``trio.run``.

    ``name`` is the domain that it greets with. ``size`` is the largest message in octets, 0 for any (RFC 1870). ``timeout`` is
    how many seconds a client may be silent, 0 for no limit, or a `Timeouts` with all timeouts. ``tls`` makes STARTTLS and implicit TLS possible.
    ``newlines`` says what becomes of a bare CR or LF in a message: "reject" (550), "normalize" (made CRLF) or "preserve". ``now``
    gives an aware datetime and ``token`` so many random octets: the only doors for wall clock and chance.

    Raises ValueError for settings that do not go together.
    """

    def __init__(
        self,
        hooks: Hooks | None = None,
        *,
        name: str | None = None,
        size: int = 31457280,
        timeout: float | Timeouts = Timeouts(),
        tls: ssl.SSLContext | None = None,
        extensions: Iterable[Extension] = STANDARD,
        limits: Limits = Limits(),
        newlines: Newlines = "reject",
        now: Callable[[], datetime] = _now,
        token: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if hooks is not None and not isinstance(hooks, Hooks):
            raise TypeError(f"hooks must be an instance of smtp_trio.Hooks, not {hooks!r}")
        if size < 0:
            raise ValueError(f"size must be 0 (any) or more octets, not {size}")
        if newlines not in ("reject", "normalize", "preserve"):
            raise ValueError(f'newlines must be "reject", "normalize" or "preserve", not {newlines!r}')
        self.hooks: Hooks = Hooks() if hooks is None else hooks
        self.name: str = _ascii_name(name or socket.gethostname())
        self.size = size
        self.timeouts: Timeouts = timeout if isinstance(timeout, Timeouts) else Timeouts(command=timeout, block=timeout)
        self.tls = tls
        self.extensions: tuple[Extension, ...] = tuple(extensions)
        self.limits = limits
        self.newlines: Newlines = newlines
        self.now = now
        self.token = token
        self.mechanism_context: MechanismContext = MechanismContext(self.name, token)
        self._grammar = Grammar(self.extensions, line=limits.line)
        self.install(installed(self.hooks, hook_names(self.extensions)))
        self.stopping: bool = False
        if tls is None and any(isinstance(e, StartTls) and e.required for e in self.extensions):
            raise ValueError("STARTTLS is required, but there is no tls= to do it with")
        self.counts: Counts = Counts()
        self._peers: Counter[str] = Counter()
        self._sessions: dict[Session, trio.lowlevel.Task] = {}  # with the task that is at work for each
        self._scopes: set[trio.CancelScope] = set()  # around all sessions of a ``serve``: `stop` is their deadline
        self._accepting: dict[trio.CancelScope, Sequence[trio.abc.Listener[Any]]] = {}
        self._serves, self._deadline = 0, math.inf
        self._started = False  # hooks are fixed
        self._up = False  # `Hooks.start` has been, `Hooks.stop` has not
        self._starting = trio.Lock()
        self._ended = trio.Event()
        self._drained: Counter[str] = Counter()

    def on(self, **hooks: Callable[..., Awaitable[Any]]) -> None:
        """Put plain async functions in the place of hooks: ``server.on(rcpt=f)``; their arguments are those of the method less self.

        Raises TypeError for a name that is no hook, and RuntimeError once the server serves.
        """
        names = hook_names(self.extensions)
        if unknown := sorted(set(hooks) - set(names)):
            raise TypeError(f"no such hook: {', '.join(unknown)}; there are {', '.join(names)}")
        if self._started:
            raise RuntimeError("the server serves already: hooks are fixed")
        for name, hook in hooks.items():
            if not callable(hook) or (inspect.isfunction(hook) and not inspect.iscoroutinefunction(hook)):
                raise TypeError(f"the {name} hook must be an async function, not {hook!r}")
        self.install({**self.installed, **hooks})

    def install(self, hooks: Mapping[str, Hook]) -> None:
        """These are the hooks of all sessions that begin from now on."""
        self.installed: dict[str, Hook] = dict(hooks)
        #: Their names. One object for all sessions, since a set for each would add a quarter of a kilobyte to each.
        self._hook_names = frozenset(hooks)
        commands = () if "message" in hooks or "response" in hooks else self._grammar.verbs.values()
        #: Commands that are answered with their default reply, because no hook and no handler takes part in it.
        self.unhooked: frozenset[type[Command]] = frozenset(
            command for command in commands if command not in COURSES and command.hook not in hooks
        )

    def statistics(self) -> Statistics:
        """What it has done so far."""
        return Statistics(sessions_open=len(self._sessions), **asdict(self.counts))

    # --- serving ----------------------------------------------------------------------------------------------------

    async def serve(
        self,
        port: int = 25,
        host: str | None = None,
        *,
        implicit_tls: bool = False,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on TCP and serve until `stop`. ``nursery.start`` gives the listeners; with port 0 all have one and the same port.

        ``host``: None for every interface, IPv4 and IPv6. Raises OSError when it cannot bind, before anything else has happened.
        """
        self._check(implicit_tls=implicit_tls)
        listeners = await open_listeners(port, host)
        await self.serve_listeners(listeners, implicit_tls=implicit_tls, task_status=task_status)

    async def serve_listeners(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        implicit_tls: bool = False,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve what these listeners accept: TCP, unix sockets, inherited or in-memory ones. They are closed at the end."""
        handler = partial(self._session, implicit_tls=implicit_tls)
        try:
            self._check(implicit_tls=implicit_tls)
            async with self._serving(), trio.open_nursery() as nursery:
                with trio.CancelScope() as accepting:
                    if self.stopping:  # while `Hooks.start` was at work
                        accepting.cancel()
                    self._accepting[accepting] = listeners
                    try:
                        task_status.started(listeners)
                        await accept_all(handler, listeners, nursery)
                    finally:
                        del self._accepting[accepting]
        except BaseExceptionGroup as group:  # the nursery's; whoever awaits us had no part in it
            raise collapse_group(group) from None
        finally:
            with trio.CancelScope(shield=True):  # all of them, even when we are cancelled; this waits for nothing
                for listener in listeners:
                    await trio.aclose_forcefully(listener)

    async def serve_stream(self, stream: trio.abc.Stream, *, implicit_tls: bool = False) -> None:
        """Serve one session over any stream, in this task. The stream is closed at the end."""
        try:
            self._check(implicit_tls=implicit_tls)
            async with self._serving():
                await self._session(stream, implicit_tls=implicit_tls)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def stop(self, grace: float = 30) -> Drained:
        """Stop serving, for good. Idle sessions are told 421 at once, the others have ``grace`` seconds to finish what they do.

        All is set going before this waits for the first time, so cancelling it changes nothing. A second call waits for the same
        end, and may shorten the grace. Raises RuntimeError inside a session.
        """
        inside = serving.get()
        if inside in self._sessions and self._sessions[inside] in _ancestors(trio.lowlevel.current_task()):
            raise RuntimeError("a session cannot stop its own server and wait for it: use a task outside of it")
        first, self.stopping = not self.stopping, True
        for scope, listeners in self._accepting.items():
            scope.cancel()
            for listener in listeners:
                if isinstance(listener, trio.SocketListener):
                    listener.socket.close()  # connects are refused from here on
        self._deadline = min(self._deadline, trio.current_time() + grace)
        for scope in self._scopes:
            scope.deadline = self._deadline
        for session in self._sessions:
            if first and session.idle:
                session.wake()
        if self._serves:
            await self._ended.wait()
        else:
            await trio.lowlevel.checkpoint()
        return Drained(**self._drained)

    def _check(self, *, implicit_tls: bool) -> None:
        if self.stopping:
            raise trio.ClosedResourceError("this server was stopped")
        if implicit_tls and self.tls is None:
            raise ValueError("implicit TLS needs a server with tls=")

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None]:
        """Around every ``serve``: the first one in calls `Hooks.start`, the last one out `Hooks.stop`."""
        self._serves += 1
        if self._serves == 1:
            self._ended = trio.Event()
        try:
            if not self._up:
                async with self._starting:  # nobody is served before `start` is done
                    await self._start()
            with trio.CancelScope(deadline=self._deadline) as scope:
                self._scopes.add(scope)
                try:
                    yield
                finally:
                    self._scopes.remove(scope)
        finally:
            if self._serves == 1 and self._up:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self.timeouts.disconnect):
                    async with self._starting:
                        self._up = False
                        await self._tell("stop")
            self._serves -= 1
            if not self._serves:
                self._ended.set()

    async def _start(self) -> None:
        if self._up:
            return
        self._started = True
        if "data" not in self.installed:
            log.warning("%s: there is no data hook, so every message will be refused", self.name)
        if (start := self.installed.get("start")) is not None:
            await start(self)
        self._up = True

    async def _tell(self, name: str, *args: Any) -> None:
        if (hook := self.installed.get(name)) is not None:
            try:
                with trio.fail_after(self.timeouts.hook):
                    await hook(self, *args)
            except Exception as exc:
                if name == "error":
                    log.exception("the error hook failed")
                else:
                    await self.report(exc, f"the {name} hook failed")

    async def report(self, error: Exception, what: str) -> None:
        """Something failed that is not the peer's fault: log it, and tell the `error` hook. Its text goes nowhere else."""
        self.counts.errors += 1
        log.error("%s", what, exc_info=error)
        await self._tell("error", error)

    # --- one session ------------------------------------------------------------------------------------------------

    def new_protocol(self) -> ServerProtocol:
        """The core for a new session."""
        return ServerProtocol(
            self.name,
            size=self.size,
            tls=self.tls is not None,
            hooks=self._hook_names,
            extensions=self._grammar,
            limits=self.limits,
            newlines=self.newlines,
        )

    async def _session(self, stream: trio.abc.Stream, *, implicit_tls: bool) -> None:
        """A session from its first octet to its last. Whatever goes wrong in it stays in it."""
        peer, local = endpoints(stream)
        key = network(peer.host) if peer.kind == "tcp" else None
        if not self._admit(key):
            await self._turn_away(stream, peer, implicit_tls=implicit_tls)
            return
        session = Session(self, stream, peer, local)
        outer = serving.get()
        serving.set(session)
        self._sessions[session] = trio.lowlevel.current_task()
        self.counts.sessions_total += 1
        if key:
            self._peers[key] += 1
        log.debug("%s: connected from %s", session.id, peer)
        end = "cancelled"
        try:
            await self._guard(session, session.run(implicit_tls=implicit_tls))
            end = "idle" if session.woken else "finished"
        finally:
            session.last_words()
            try:
                if session.connected:
                    await self._guard(session, session.end())
            finally:
                if self.stopping:
                    self._drained[end] += 1
                del self._sessions[session]
                serving.set(outer)
                if key:
                    self._peers[key] -= 1
                    if not self._peers[key]:
                        del self._peers[key]
                log.debug("%s: disconnected", session.id)
                await self._guard(session, session.wire.close())

    async def _guard(self, session: Session, work: Awaitable[None]) -> None:
        """The boundary of a session: exceptions end it and are reported; cancellation and the like pass, and pass alone."""
        try:
            await work
        except Exception as exc:
            await self._session_failed(session, exc)
        except BaseExceptionGroup as group:
            mine, rest = group.split(Exception)
            if mine is not None:
                await self._session_failed(session, ExceptionGroup("session failed", list(mine.exceptions)))
            assert rest is not None
            raise collapse_group(rest) from None

    async def _session_failed(self, session: Session, exc: Exception) -> None:
        await self.report(exc, f"{session.id}: session failed")
        if not session.over:
            try:
                await session.leave(Reply(421, f"{self.name} Local error; closing the connection", "4.3.0"))
            except Exception:  # the stream itself is what fails
                log.exception("%s: nothing can be said any more", session.id)

    def _admit(self, key: str | None) -> bool:
        limits = self.limits
        if limits.sessions is not None and len(self._sessions) >= limits.sessions:
            return False
        return not (key and limits.per_peer is not None and self._peers[key] >= limits.per_peer)

    async def _turn_away(self, stream: trio.abc.Stream, peer: Peer, *, implicit_tls: bool) -> None:
        """RFC 5321 3.1 has no word for "too many", so it is 421 in place of the greeting; a TLS port just closes."""
        log.info("too many connections: turned away %s", peer)
        with trio.move_on_after(self.timeouts.disconnect):
            try:
                if not implicit_tls:
                    await stream.send_all(f"421 {self.name} Too many connections; try again later\r\n".encode())
                    await stream.aclose()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await trio.aclose_forcefully(stream)


def _ascii_name(name: str) -> str:
    """The server's name as it goes over the wire: with A-labels (RFC 6531 3.7.1), and not what would break a reply."""
    from ..protocol.syntax import normalize_domain

    canonical = normalize_domain(name) if not name.isascii() else name
    if not canonical or not canonical.isprintable() or " " in canonical or len(canonical) > 255:
        raise ValueError(f"{name!r} is no domain or address literal that a server could greet with")
    return canonical


def _ancestors(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """A task, the task whose nursery it is in, and so on."""
    while task is not None:
        yield task
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
