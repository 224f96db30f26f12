"""Connections to a PostgreSQL server: settings of a session, deadlines, and reconnection."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, final

import psycopg
from attrs import Factory, define, frozen

from ._errors import StoreError, StoreFullError, UnusableStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._outage import Outage
    from ._postgresql_schema import Connection

T = TypeVar("T")

# How a thread never waits for ever
# ---------------------------------
#
# A call of libpq waits for the server without a limit. The limits of TCP do not help when the kernel of the server's machine
# still acknowledges what its stopped process never reads, and ``statement_timeout`` is the server's: it cannot expire in a
# server that has stopped, and does not apply to the wait of a commit for its standbys. So each call has a deadline here, and
# a thread of the store (`Watchdog`) watches over them. After the deadline it asks the server to cancel the statement, which
# also ends the wait for standbys and keeps the connection; otherwise each call would leave a process of the server that
# still waits. If the call has not ended `GRACE` seconds later, the socket is shut down, and libpq reports a lost connection.
#
# The socket is a duplicate of libpq's. Its number stays valid when libpq closes its own meanwhile, so that the thread never
# shuts down a socket of another connection that was given the same number.
#
# When the wait for standbys is cancelled, by this thread or by an administrator, COMMIT succeeds with a warning: the
# transaction is durable on this server alone. `Link.call` raises an error then.
#
# A connection that the server has closed while it was idle is found before it is used, so that a restart of the server
# costs no 451. After a connection is lost during a call, its effect is unknown, and the call is not repeated.

ARRAY = struct.Struct("!5i")
BYTEA = psycopg.adapters.types["bytea"].oid
#: Seconds after the deadline of a call until its connection is shut down.
GRACE = 5.0
#: Seconds after an attempt to open a connection until `Link.ready` makes the next one, and in which a server that is stopped
#: closes all of them.
PAUSE = 1.0
#: Parameters of libpq unless the URL has them: they find a host that has disappeared, and the primary of several hosts.
DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "target_session_attrs": "read-write",
    "application_name": "smtp_trio",
}
#: Texts of errors with which a server refuses a user. In other languages they are not recognised.
REFUSED = ("password authentication failed", "no password supplied")
#: Settings of a session. They let the server find a client that has disappeared, whose locks and leases others wait for. With
#: another level of isolation, a statement would not see what was committed while it waited for a lock, such as a new group.
SESSION = {
    "TimeZone": "UTC",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


@frozen
class Bodies:
    """A parameter of the type ``bytea[]``."""

    octets: Sequence[bytes | bytearray]


class BodiesDumper(psycopg.adapt.Dumper):
    """The binary format of `Bodies`.

    The library's conversion of a list copies each element twice and calls four functions for it, which took a fifth of the
    time of the thread that commits: 4 us for a message, and 0.3 with this.
    """

    format = psycopg.pq.Format.BINARY
    oid = psycopg.adapters.types["bytea"].array_oid

    def dump(self, obj: Bodies) -> bytes:
        """Return the array: dimensions, flags, the type of an element, length, first index; then length and octets of each."""
        parts: list[bytes | bytearray] = [ARRAY.pack(1, 0, BYTEA, len(obj.octets), 1)]
        for each in obj.octets:
            parts += len(each).to_bytes(4, "big"), each
        return b"".join(parts)


@final
@define(eq=False)
class Watchdog:
    """The thread that ends calls whose deadline has passed. It runs while a connection is open."""

    timeout: float
    """The seconds that a call may take."""
    _links: set[Link] = Factory(set)
    _lock: threading.Lock = Factory(threading.Lock)
    _stopped: threading.Event = Factory(threading.Event)

    def add(self, link: Link) -> None:
        """Watch over the calls of a connection."""
        with self._lock:
            self._links.add(link)
            if len(self._links) == 1:
                self._stopped = threading.Event()
                threading.Thread(target=self._run, args=[self._stopped], name="smtp_trio", daemon=True).start()

    def remove(self, link: Link) -> None:
        """Note that a connection was closed."""
        with self._lock:
            self._links.discard(link)
            if not self._links:
                self._stopped.set()

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.wait(min(1.0, self.timeout / 4)):
            with self._lock:
                links = list(self._links)
            for link in links:
                link.check_deadline()


@final
class Link:
    """One connection to the server, which is opened when it is used and opened again when it is lost.

    ``params`` are parameters of libpq. ``outage`` records failures. ``prepare`` is called with each new connection. `call` and
    `ready` can be called in several threads, of which the others wait; the other methods but `check_deadline` in one at a time.
    """

    def __init__(
        self,
        params: dict[str, Any],
        schema: str,
        watchdog: Watchdog,
        outage: Outage | None = None,
        prepare: Callable[[Connection], None] | None = None,
    ) -> None:
        self.connection: Connection | None = None
        self._params = {**DEFAULTS, **params}
        self._session = {**SESSION, "search_path": f'"{schema}"'}
        self._watchdog = watchdog
        self._outage = outage
        self._prepare = prepare
        self._socket: socket.socket | None = None
        self._opened = 0.0  # when the connection was opened
        self._deadline: float | None = None
        self._cancelled = self._warned = False
        self._lock = threading.Lock()
        self._next_attempt = 0.0  # of `ready`

    def ready(self) -> bool:
        """Return whether there is a connection, after an attempt to open one unless another has just failed."""
        with self._lock:
            if self.connection is not None and closed_by_server(self.connection):
                self.close()
            if self.connection is None and time.monotonic() >= self._next_attempt:
                with suppress(psycopg.Error, StoreError):
                    self.attempt(lambda db: None)
                self._next_attempt = time.monotonic() + PAUSE
            return self.connection is not None

    def call(self, work: Callable[[Connection], T]) -> T:
        """Call ``work`` with the connection, and return its result. Raises `StoreError`.

        It begins an outage if the server does not respond, and ends it if it does.
        """
        with self._lock:
            return self._call(work)

    def _call(self, work: Callable[[Connection], T]) -> T:
        began = time.monotonic()
        try:
            result = self.attempt(work)
        except (psycopg.Error, UnicodeError) as error:
            failure = store_error(error)
            if self._outage and (self.connection is None or isinstance(error, psycopg.errors.QueryCanceled)):
                failure = self._outage.error(failure)
            raise failure from error
        if self._warned:
            failure = StoreError("the wait for the standbys was cancelled, so that they may not have what was written")
            raise self._outage.error(failure) if self._outage else failure
        if self._outage:
            # A server that is stopped closes one connection after the other. What is committed on another one meanwhile does not
            # mean that it responds again, unless that one was opened later.
            self._outage.end(max(began - PAUSE, self._opened))
        return result

    def attempt(self, work: Callable[[Connection], T]) -> T:
        """Call ``work`` as `call` does, without a record of an outage. Raises ``psycopg.Error``, or `StoreError`."""
        self._warned = self._cancelled = False
        self._deadline = time.monotonic() + self._watchdog.timeout
        try:
            return work(self._connected())
        except BaseException as error:
            # A server that has become a standby refuses to write; another host may have become the primary.
            lost = isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
            if self.connection is not None and (lost or self.connection.closed):
                self.close()
            raise
        finally:
            self._deadline = None

    def _connected(self) -> Connection:
        if self.connection is not None and closed_by_server(self.connection):
            self.close()
        if self.connection is None:
            self._opened = time.monotonic()
            # The error of libpq names the host, the user and the database, and not the password.
            connection: Connection = psycopg.connect(**self._params, autocommit=True, prepare_threshold=1)
            try:
                connection.add_notice_handler(self._notice)
                connection.adapters.register_dumper(Bodies, BodiesDumper)
                self._socket = socket.socket(fileno=socket.dup(connection.fileno()))
                self.connection = connection
                self._watchdog.add(self)
                self._deadline = time.monotonic() + self._watchdog.timeout
                names, values = list(self._session), list(self._session.values())
                connection.execute(
                    "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS t (name, value)",
                    [names, values],
                )
                if self._prepare is not None:
                    self._prepare(connection)
            except BaseException:
                self.close()
                raise
        return self.connection

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warned = True

    def check_deadline(self) -> None:
        """End the current call if its deadline has passed. Called by the thread of the `Watchdog`."""
        deadline, connection, duplicate = self._deadline, self.connection, self._socket
        if deadline is None or connection is None or duplicate is None:
            return
        late = time.monotonic() - deadline
        if late > 0 and not self._cancelled:
            self._cancelled = True
            with suppress(psycopg.Error, OSError):
                connection.cancel_safe(timeout=GRACE)
        elif late > GRACE:
            with suppress(OSError):  # it is closed already
                duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self.connection = self.connection, None
        duplicate, self._socket = self._socket, None
        if connection is not None:
            self._watchdog.remove(self)
            with suppress(psycopg.Error):
                connection.close()
        if duplicate is not None:
            duplicate.close()


def closed_by_server(db: Connection) -> bool:
    """Return whether the connection was closed while it was idle."""
    if db.closed:
        return True
    poll = select.poll()
    poll.register(db.fileno(), select.POLLIN)
    while poll.poll(0):  # an idle connection only receives notices, notifications, the reason for its end, and its end
        try:
            db.pgconn.consume_input()
        except psycopg.Error:
            return True
    return db.closed


def store_error(error: Exception) -> StoreError:
    """Return the StoreError that fits an error of the server: `StoreFullError` for class 53100, a full disk."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, psycopg.errors.DiskFull):
        return StoreFullError(text)
    # The library does not tell the code of an error that ends an attempt to connect, only its text.
    refused = isinstance(error, psycopg.OperationalError) and any(each in text for each in REFUSED)
    return UnusableStoreError(text) if refused else StoreError(text)
