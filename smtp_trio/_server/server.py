"""`Server`: its settings, serving, stopping, and the tasks of its sessions. `session_task` runs one session."""

from __future__ import annotations

import os
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, get_args
from weakref import ref

import trio
from attrs import asdict

from .._groups import collapse_group
from .._instrument import announce
from .._timeouts import Timeouts, server_timeouts
from .._types import Drained, Peer, Statistics
from .._wire import AcceptedSocket, as_stream, check_context
from ..protocol import Extension, Limits, ServerProtocol, Strictness
from ..protocol.arguments import check_callable, check_choice, check_items, check_number, check_type
from ..protocol.body_inspector import Newlines
from ..protocol.extensions.defaults import STANDARD, merge_extensions, with_lmtp
from ..protocol.extensions.starttls import StartTls
from ..protocol.grammar import Grammar
from ..protocol.hosts import check_hello_name
from ..protocol.strictness import select_mode
from .admission import Admission
from .auth_service import AuthService
from .guard import Guard
from .hooks import Hooks, check_function, check_server_hooks, hook_names, load_hooks
from .lifecycle import Lifecycle
from .listeners import accept_all, accept_sockets, open_listeners, tcp_ports
from .open_sessions import OpenSessions, current_session
from .peers import endpoints
from .proxies import Connection, NetworkLike, PeerNetworks, ProxyHeaders, TrustedNetworks
from .screening import Screening
from .session_task import SessionTask
from .state import HookTable, ServerState

if TYPE_CHECKING:
    from .tls_files import TlsFiles

#: The port that is for SMTP only.
LMTP_NEVER = 25
#: The ports of message submission (RFC 6409 3.1, RFC 8314 3.3), on which ETRN must not be offered (RFC 6409 7).
SUBMISSION = frozenset({465, 587})


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


class Server:
    """An SMTP server. It does no I/O until one of its ``serve`` methods runs, and can be used in one `trio.run` only.

    :param hooks: the application's `Hooks`. Without a `data` hook, all messages are refused.
    :param name: the server's domain, for the greeting and the ``Received`` field; the host name by default.
    :param size: the largest message in octets that is accepted (RFC 1870); 0 for no limit.
    :param timeout: seconds that a client may be silent, 0 for no limit; or a `Timeouts` value, which sets each timeout
        by itself.
    :param tls: the server's certificate: `TlsFiles`, or an SSL context. It enables STARTTLS (RFC 3207) and
        ``implicit_tls``.
    :param extensions: the ESMTP extensions to offer; see `smtp_trio.standard`.
    :param limits: what one client may use; see `Limits`.
    :param newlines: what to do with a bare CR or LF in a message: "reject" (550), "normalize" (replace it by CRLF) or
        "preserve". A NUL gets 550 except with the last.
    :param lenient: accept what printers, scanners and other devices send although the grammar forbids it; see
        `smtp_trio.protocol.Strictness`. A string is the domain that is appended to mailboxes without one, True stands
        for ``name``.
    :param strict: refuse also the deviations from the grammar that are accepted by default, for tests of clients.
    :param proxy_from: networks of load balancers, as `ipaddress` writes them, or "unix" for all unix sockets. A connection
        from one of them must begin with a PROXY header, which has the address of the client, and is closed without it.
    :param lmtp: speak LMTP (RFC 2033) and not SMTP: a message gets a reply for each recipient, and `Hooks.data` may return
        a list of them. Never on port 25 (RFC 2033 5).
    :param xclient_from: networks of proxies that may name their clients with XCLIENT.
    :param xforward_from: networks of filters that may send XFORWARD, which the log has.
    :param now: returns the current time as an aware datetime, for ``Received`` fields, stores and extensions.
    :param token: returns a number of random octets, for ids and nonces. ``now`` and ``token`` are the only sources of
        time of day and randomness, so a test can replace them.
    :raises TypeError: ``hooks`` is not an instance of `Hooks`, or has a misspelt hook or one that is not an async
        function; or an argument has a wrong type.
    :raises ValueError: a value is out of range, two settings contradict each other, or the files of ``tls`` are not
        valid.
    :raises OSError: a file of ``tls`` cannot be read.
    """

    def __init__(
        self,
        hooks: Hooks | None = None,
        *,
        name: str | None = None,
        size: int = 31457280,
        timeout: float | Timeouts = Timeouts(),
        tls: ssl.SSLContext | TlsFiles | None = None,
        extensions: Iterable[Extension] = STANDARD,
        limits: Limits = Limits(),
        newlines: Newlines = "reject",
        lenient: bool | str = False,
        strict: bool = False,
        proxy_from: Iterable[NetworkLike] = (),
        lmtp: bool = False,
        xclient_from: Iterable[NetworkLike] = (),
        xforward_from: Iterable[NetworkLike] = (),
        now: Callable[[], datetime] = _now,
        token: Callable[[int], bytes] = os.urandom,
    ) -> None:
        check_number(size, "size", integer=True, note=" (0: no limit)")
        check_type(limits, "limits", Limits)
        check_choice(newlines, "newlines", get_args(Newlines))
        check_type(strict, "strict", bool)
        check_type(lmtp, "lmtp", bool)
        check_callable(now, "now")
        check_callable(token, "token")
        #: The application's hooks; those of `Hooks` if none were given. Functions of `on` are not part of it.
        self.hooks: Hooks = Hooks() if hooks is None else hooks
        #: The extensions that are offered.
        self.extensions: tuple[Extension, ...] = check_items(extensions, "extensions", Extension)
        if lmtp:
            self.extensions = with_lmtp(self.extensions)
        self._trusted = TrustedNetworks(xclient_from, xforward_from)
        self.extensions = merge_extensions(self.extensions, self._trusted.extensions)
        functions = load_hooks(self.hooks, self.extensions)
        #: The server's domain, in ASCII (an internationalized one as A-labels).
        self.name: str = check_hello_name(name or socket.gethostname(), "name")
        #: The largest message in octets that is accepted; 0 for no limit.
        self.size: int = size
        #: The timeouts, also if one number was given for all.
        self.timeouts: Timeouts = server_timeouts(timeout)
        #: The SSL context of handshakes that begin now; None without TLS.
        self.tls: ssl.SSLContext | None = None
        self._tls_files: TlsFiles | None = None
        if tls is not None:
            self.reload_tls(tls)
        #: What one client may use.
        self.limits: Limits = limits
        #: What is done with a bare CR or LF in a message.
        self.newlines: Newlines = newlines
        #: The deviations from the grammar that are accepted, as ``lenient`` and ``strict`` select them.
        self.strictness: Strictness = select_mode(self.name, lenient=lenient, strict=strict)
        #: The protocol is LMTP and not SMTP.
        self.lmtp: bool = lmtp or any(each.keyword == "LMTP" for each in self.extensions)
        #: Returns the current time.
        self.now: Callable[[], datetime] = now
        #: Returns a number of random octets.
        self.token: Callable[[int], bytes] = token
        if tls is None and any(isinstance(e, StartTls) and e.required for e in self.extensions):
            raise ValueError("StartTls(required=True) needs a server with tls=")
        self._state = ServerState(
            self,
            Grammar(self.extensions, line=limits.line),
            functions,
            timeouts=self.timeouts,
            memory=limits.memory,
            auth_service=AuthService(self.name, token, limits),
        )
        self._admission = Admission(limits, self._state.counts, self._state.memory)
        self._sessions: OpenSessions[SessionTask] = OpenSessions(self._state, self._admission, limits.sessions)
        balancers = PeerNetworks(proxy_from, "proxy_from")
        self._proxies = ProxyHeaders(balancers, self.timeouts.proxy, self._state.counts)
        self._screening = Screening(
            self._state,
            self._admission,
            self._sessions,
            proxies=self._proxies,
            trusted=self._trusted,
            name=self.name,
            timeout=self.timeouts.disconnect,
        )
        self._guard = Guard(self._state, self.name)
        self._lifecycle = Lifecycle(self, self._state, name=self.name, last_hooks=self.timeouts.disconnect)
        self._accepting: dict[trio.CancelScope, list[Any]] = {}  # the accept loop of each ``serve``, with its sockets
        self._drained: Counter[str] = Counter()  # the sessions that ended during `stop`, by the member of `Drained`
        announce(self)

    def on(self, **hooks: Callable[..., Awaitable[Any]]) -> None:
        """Install async functions as hooks: ``server.on(rcpt=f)``.

        Their parameters are those of the method in `Hooks`, without ``self``.

        :raises TypeError: a keyword is not the name of a hook, or a value is not an async function.
        :raises RuntimeError: the server is serving, or has served.
        """
        names = hook_names(self.extensions)
        if unknown := sorted(set(hooks) - set(names)):
            raise TypeError(f"invalid hook: {', '.join(unknown)}; the hooks are {', '.join(names)}")
        if self._lifecycle.begun:
            raise RuntimeError("hooks cannot be changed while the server is serving")
        for name, hook in hooks.items():
            check_function(name, hook)
        self._state.install({**self._state.hooks, **hooks})

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        counts = asdict(self._state.counts, recurse=False)
        counts = {name: value.copy() if isinstance(value, Counter) else value for name, value in counts.items()}
        return Statistics(**counts, sessions_open=len(self._sessions), memory=self._state.memory.used)

    def reload_tls(self, tls: ssl.SSLContext | TlsFiles | None = None) -> None:
        """Use another certificate in all handshakes that begin from now on, such as one that was renewed.

        Open sessions continue with that of their handshake. If the call raises an exception, nothing changes. It reads
        files, and blocks meanwhile.

        :param tls: the new certificate; by default, the files of the `TlsFiles` that the server has are read again.
        :raises OSError: a file cannot be read.
        :raises ValueError: a file is not valid (see `TlsFiles.load`), or `TlsFiles` were not given.
        """
        # Other servers do not need them, and those with TLS need them before a session.
        from . import handshake, tls_files  # noqa: F401

        files = self._tls_files if tls is None else tls
        if isinstance(files, ssl.SSLContext):
            check_context(files, "tls", server_side=True)
            self.tls, self._tls_files = files, None
            return
        if files is None:
            raise ValueError("no files to read again: give an SSL context or TlsFiles")
        check_type(files, "tls", (ssl.SSLContext, tls_files.TlsFiles))
        self.tls, self._tls_files = files.load(), files

    # --- serving ----------------------------------------------------------------------------------------------------

    async def serve(
        self,
        port: int = 25,
        host: str | None = None,
        *,
        implicit_tls: bool = False,
        hooks: Hooks | None = None,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on TCP and serve until `stop`. ``await nursery.start(server.serve, port)`` returns the listeners.

        Several calls may run at a time, such as one for each port. All share the settings, the limits, `stop` and
        `statistics`.

        :param port: the TCP port; 0 chooses a free one, the same for all addresses.
        :param host: a host name or address; None for all interfaces, IPv4 and IPv6.
        :param implicit_tls: begin each connection with a TLS handshake (RFC 8314 3.3), instead of offering STARTTLS.
        :param hooks: the hooks of the sessions on this port; those of the server by default. `Hooks.start`,
            `Hooks.stop` and `Hooks.error` belong to the server, which calls its own: other hooks may have them only if
            they are the same ones, as in a layer of `smtp_trio.policies` around ``server.hooks``. Functions that `on`
            has installed are not used.
        :raises OSError: an address cannot be bound. In that case no hook was called and nothing listens.
        :raises TypeError: ``hooks`` are not valid; see `Server`.
        :raises ValueError: ``implicit_tls`` without ``tls``, an invalid port or host, or ``hooks`` with a `start`, a
            `stop` or an `error` that is not the server's.
        :raises trio.ClosedResourceError: the server was stopped.
        """
        self._check(hooks, implicit_tls=implicit_tls)
        self._check_port(port)
        listeners = await open_listeners(port, host)
        await self.serve_listeners(listeners, implicit_tls=implicit_tls, hooks=hooks, task_status=task_status)

    async def serve_listeners(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        implicit_tls: bool = False,
        hooks: Hooks | None = None,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the connections of these listeners until `stop`, and close the listeners.

        :param listeners: any Trio listeners: TCP or unix sockets, inherited or in-memory ones; see `open_listeners`.
        :param implicit_tls: begin each connection with a TLS handshake (RFC 8314 3.3), instead of offering STARTTLS.
        :param hooks: the hooks of these sessions; see `serve`.
        :raises TypeError: ``hooks`` are not valid.
        :raises ValueError: ``implicit_tls`` without ``tls``, or ``hooks`` that need to be the server's.
        :raises trio.ClosedResourceError: the server was stopped.
        """
        check_items(listeners, "listeners", trio.abc.Listener)  # type: ignore[type-abstract]
        try:
            ports = tcp_ports(listeners)
            for port in ports:
                self._check_port(port)
            table = self._check(hooks, implicit_tls=implicit_tls)
            if not SUBMISSION.isdisjoint(ports):
                table = self._without_etrn(table)
            session = self._proxied_session if self._proxies else self._session
            handler = partial(session, implicit_tls=implicit_tls, table=table)
            screen = partial(self._screening.screen, silent=implicit_tls)
            async with self._lifecycle.serving(table), trio.open_nursery() as nursery:
                with accept_sockets(listeners) as sockets, trio.CancelScope() as accepting:
                    if self._state.stopping:  # during `Hooks.start`
                        accepting.cancel()
                    own = [each.socket for each in listeners if isinstance(each, trio.SocketListener)]
                    self._accepting[accepting] = [*own, *sockets.values()]
                    try:
                        task_status.started(listeners)
                        async with self._admission.syn_filter.on(sockets.values()):
                            await accept_all(handler, screen, listeners, sockets, nursery)
                    finally:
                        del self._accepting[accepting]
                        self._admission.end_minute()
        except BaseExceptionGroup as group:  # the nurseries are an implementation detail of this method
            raise collapse_group(group) from None
        finally:
            # Close all listeners, also after a cancellation, and if closing one fails. `aclose_forcefully` does not wait.
            with trio.CancelScope(shield=True):
                async with AsyncExitStack() as stack:
                    for listener in listeners:
                        stack.push_async_callback(trio.aclose_forcefully, listener)

    async def serve_stream(
        self, stream: trio.abc.Stream, *, implicit_tls: bool = False, hooks: Hooks | None = None
    ) -> None:
        """Serve one session over any Trio stream, in the calling task, and close the stream.

        :param implicit_tls: begin with a TLS handshake (RFC 8314 3.3), instead of offering STARTTLS.
        :param hooks: the hooks of this session; see `serve`.
        :raises TypeError: ``hooks`` are not valid.
        :raises ValueError: ``implicit_tls`` without ``tls``, or ``hooks`` that need to be the server's.
        :raises trio.ClosedResourceError: the server was stopped.
        """
        check_type(stream, "stream", trio.abc.Stream)
        try:
            table = self._check(hooks, implicit_tls=implicit_tls)
            async with self._lifecycle.serving(table):
                session = self._proxied_session if self._proxies else self._session
                await session(stream, implicit_tls=implicit_tls, table=table)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    # --- stopping ---------------------------------------------------------------------------------------------------
    #
    # `stop` does everything before its first checkpoint, and then only waits. So it makes no difference whether the
    # call is cancelled, and two calls at a time cannot interfere with each other. It does four things:
    #
    # 1. It ends the accept loops and closes their sockets, so that connections are refused from this moment on.
    # 2. It sets the deadline of the scope around each ``serve``. This is the grace period; sessions
    #    that are still there when it ends are cancelled like any Trio task, and send what they can
    #    (`SessionTask.send_shutdown_nowait`). A second call can only make the deadline earlier.
    #    What a session does shielded from cancellation has an earlier deadline from then on, and `Hooks.stop` has a
    #    later one, so that there is an upper limit for the time until the end.
    # 3. It wakes the sessions that are idle, that is, wait for a command or for a TLS handshake. They send 421 and end.
    # 4. It sets ``stopping``, which the other sessions see when they are about to wait for the next command. Thus a
    #    session in the middle of a message finishes it, and commands that were received already are answered before the
    #    421 (RFC 5321 3.8).
    #
    # The end is reached when the last ``serve`` has ended (see `lifecycle`). `stop` is final: after it, ``serve`` raises
    # ClosedResourceError.

    async def stop(self, grace: float = 30) -> Drained:
        """Stop serving for good: end idle sessions with 421 (RFC 5321 3.8), wait for the others, return how they ended.

        A second call waits for the same end and may shorten the grace period. Cancelling a call does not undo it.

        :param grace: seconds after which the remaining sessions are cancelled. After it, the last hooks of all sessions
            may take half of ``timeouts.disconnect``, and `Hooks.stop` the rest.
        :raises RuntimeError: the caller is inside a session of this server, or inside its `Hooks.start` or
            `Hooks.stop`, and would wait for itself.
        """
        check_number(grace, "grace")
        callers = set(_ancestors(trio.lowlevel.current_task()))
        if self._sessions.runs_one(callers):
            raise RuntimeError(
                "stop() would wait for the session that calls it: call it from a task outside of the session"
            )
        if self._lifecycle.is_called_by(callers):
            raise RuntimeError("stop() would wait for the hook that calls it: call it from a task outside of the hook")
        first, self._state.stopping = not self._state.stopping, True
        self._state.stop_called.set()
        self._admission.syn_filter.end()  # a listening socket that others have too stays open
        for scope, sockets in self._accepting.items():
            scope.cancel()
            for sock in sockets:
                sock.close()
        self._proxies.stop()
        self._lifecycle.shorten(trio.current_time() + grace)
        self._state.last_deadline = self._lifecycle.deadline + self.timeouts.disconnect / 2
        self._sessions.end(self._state.last_deadline, wake=first)
        await self._lifecycle.wait_ended()
        return Drained(**self._drained)

    def _check(self, hooks: Hooks | None, *, implicit_tls: bool) -> HookTable | None:
        """Check the arguments of a ``serve``, and that the server was not stopped.

        Return the table of ``hooks``; None for the server's own, which are those at the start of each session.
        """
        check_type(implicit_tls, "implicit_tls", bool)
        if self._state.stopping:
            raise trio.ClosedResourceError("the server was stopped")
        if implicit_tls and self.tls is None:
            raise ValueError("implicit TLS needs a server with tls=")
        if hooks is None:
            return None
        functions = load_hooks(hooks, self.extensions)
        check_server_hooks(functions, self.hooks)
        return self._state.new_table(functions)

    def _without_etrn(self, table: HookTable | None) -> HookTable | None:
        """Return the table for a port of message submission: without the hook for ETRN, which is not offered then."""
        hooks = (table or self._state.table).hooks
        if "etrn" not in hooks:
            return table
        return self._state.new_table({name: hook for name, hook in hooks.items() if name != "etrn"})

    def _check_port(self, port: int) -> None:
        """Raise ValueError for port 25 in LMTP (RFC 2033 5)."""
        if self.lmtp and port == LMTP_NEVER:
            raise ValueError("LMTP must not be used on port 25 (RFC 2033 5): choose another port")

    # --- one session ------------------------------------------------------------------------------------------------

    def _new_protocol(self, table: HookTable, connection: Connection) -> ServerProtocol:
        return ServerProtocol(
            self.name,
            size=self.size,
            tls=self.tls is not None,
            hooks=table.names,
            extensions=self._state.grammar,
            limits=self.limits,
            limits_reached=self._state.counts.limits_reached,
            trusted=frozenset() if connection.unnamed else self.trusted_keywords(connection.peer),
            newlines=self.newlines,
            strictness=self.strictness,
            now=self._seconds,
        )

    def _seconds(self) -> int:
        """Return the current time for the core, in seconds since 1970."""
        return int(self.now().timestamp())

    # `_session` is the outermost function of a session. Code of others runs in it from the start: a stream may provide
    # its `endpoints`, and `token` is a function of the application. So everything is guarded, creating the `SessionTask`
    # as well. No `Exception` leaves `Guard.run`: a session that fails is reported, sends 421 if that is still possible,
    # and is closed. Other exceptions (Cancelled, KeyboardInterrupt, SystemExit) pass through it. In a group they are
    # separated from the rest, since Trio must get its Cancelled back.
    #
    # The steps that clean up are in nested ``finally`` blocks: the 421 of a session that is being cancelled, the
    # `disconnect` hook, the server's counters, closing the stream. Each of them is carried out even if an earlier one
    # fails. The counters are updated after the last hook, since a session whose `disconnect` hook still runs is open,
    # and before the stream is closed, which may take a second.

    async def _proxied_session(
        self,
        stream: trio.abc.Stream | AcceptedSocket,
        accepted: Peer | None = None,
        local: Peer | None = None,
        *,
        implicit_tls: bool,
        table: HookTable | None,
    ) -> None:
        """Run a session as `_session` does, after the PROXY header if the peer has to send one."""
        connection, stream = None, as_stream(stream)
        try:
            try:
                direct = Connection.direct(endpoints(stream, accepted))
                required = self._proxies.requires(direct.peer)
                if required and (accepted is not None or self._proxies.admits(direct.peer)):
                    connection = await self._proxies.receive(stream, direct)
            except Exception as exc:
                required = True
                await self._guard.failed(None, exc)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        if required and connection is None:
            await trio.aclose_forcefully(stream)
            return
        if required:
            accepted = None  # the client that the header names has not been screened
        await self._session(stream, accepted, local, implicit_tls=implicit_tls, table=table, connection=connection)

    async def _session(
        self,
        stream: trio.abc.Stream | AcceptedSocket,
        accepted: Peer | None = None,
        local: Peer | None = None,
        *,
        implicit_tls: bool,
        table: HookTable | None,
        connection: Connection | None = None,
    ) -> None:
        """Run a session from the connection to its end. No `Exception` leaves this method.

        :param table: the hooks of the session; None for those of the server.
        :param accepted: the peer of a connection that has passed `Screening.screen`.
        :param local: the server's end of the connection, if it is known.
        :param connection: the ends that a PROXY header has named; None without one.
        """
        table = table or self._state.table
        session, error, peer, refused = None, None, None, 0
        try:
            connection = connection or Connection.direct(
                endpoints(stream, accepted) if accepted is None or local is None else (accepted, local)
            )
            key = None if connection.health_check else self._screening.key(connection.peer)
            peer = connection.peer
            refused = self._screening.refuses(key, peer, screened=accepted is not None)
            if not refused:
                protocol = self._new_protocol(table, connection)
                session = SessionTask(self, self._state, table, protocol, stream, connection=connection)
        except Exception as exc:
            error = exc
        if session is None:
            refusal = self._screening.turn_away(
                as_stream(stream), peer, number=refused, silent=implicit_tls, error=error
            )
            error = None  # its traceback refers to this frame
            await self._guard.run(refusal)
            return
        outer = current_session.get()
        current_session.set(ref(session))
        self._sessions.enter(session, key)
        session.memory.count()
        session.log.begin()
        end = "cancelled"
        try:
            await self._guard.run(session.run(implicit_tls=implicit_tls), session)
            end = "idle" if session.woken else "finished"
        finally:
            try:
                if not session.ended:
                    await self._guard.run(session.end(), session)
            finally:
                if self._state.stopping:
                    self._drained[end] += 1
                self._sessions.leave(session)
                session.release()
                current_session.set(outer)
                session.log.end()
                if self._state.measurements is not None:
                    self._state.measurements.sessions.add(session.log.seconds)
                await self._guard.run(session.wire.close(), session)

    def trusted_keywords(self, peer: Peer) -> frozenset[str]:
        """Return the keywords of the extensions that only some peers may use, and this one may."""
        return self._trusted.keywords(peer) if self._trusted.extensions else frozenset()

    def count_as(self, session: SessionTask, peer: Peer) -> bool:
        """Count a session of a proxy as one of its client from now on. Return False if that has too many."""
        return self._sessions.count_as(session, self._screening.key(peer), peer)


def _ancestors(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """Yield a task, the task whose nursery it is in, and so on."""
    while task is not None:
        yield task
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
