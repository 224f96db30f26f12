"""`serve`: run the application in a nursery."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from .._server import log_events
from .._server.listeners import open_listeners
from .._server.snapshot import Snapshot
from .._types import Peer
from ..credentials import UsersFile
from ._app import App, app
from ._http import serve_http
from ._recorder import Recorder

if TYPE_CHECKING:
    from .._server.server import Server
    from ..relay import Relay
    from ..stores import Store
    from ..testing import FaultRules


async def serve(
    server: Server | None,
    store: Store[Any],
    port: int = 8025,
    host: str = "127.0.0.1",
    *,
    recorder: Recorder | None = None,
    faults: FaultRules | None = None,
    measure: Callable[[], Awaitable[Snapshot]] | None = None,
    problem: Callable[[], str | None] | None = None,
    relay: Relay | None = None,
    token: str | None = None,
    users: UsersFile | None = None,
    names: Iterable[str] = (),
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP until cancelled. ``await nursery.start(web.serve, server, store)`` returns the URL.

    If the listener fails, because of a bug or a system error, the exception is logged and this function returns, so that the
    mail server in the same nursery keeps running.

    :param port: the TCP port; 0 chooses a free one.
    :param host: a host name or address. Any other than a loopback address needs ``token`` or ``users``.

    The other parameters are those of `app`.

    :raises OSError: the address cannot be bound.
    :raises ValueError: an argument is invalid, or ``token`` or ``users`` is needed and missing.
    """
    application = app(
        server,
        store,
        recorder=recorder,
        faults=faults,
        measure=measure,
        problem=problem,
        relay=relay,
        token=token,
        users=users,
        names=names,
    )
    listeners = await open_listeners(port, host)
    await serve_listeners(application, listeners, task_status=task_status)


def url_of(listener: trio.SocketListener) -> str:
    """Return the URL at which programs on this host reach a listener."""
    host, port = listener.socket.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:  # all addresses: a client needs one of them
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://{Peer(host, port, 'tcp')}"


async def serve_listeners(
    application: App,
    listeners: Sequence[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application on open listeners, as `serve` does, and close them at the end."""
    try:
        application.check_exposure(listeners)
        task_status.started(url_of(listeners[0]))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(application.context.history.run)
                nursery.start_soon(application.context.store.maintain)
                await serve_http(application, listeners)
                nursery.cancel_scope.cancel()
        except Exception as error:  # the mail server in the same nursery must keep running
            log_events.HTTP_ENDED.log(error=repr(error), exc_info=error)
    finally:
        for listener in listeners:
            listener.socket.close()
