"""The HTTP listener of ``smtp-trio serve --http``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from .._server import log_events
from .._server.listeners import format_address, open_listeners
from ..credentials import UsersFile
from .http_options import TOKEN_VARIABLE
from .new_server import read_users
from .options import UsageError, describe_listen_error, missing_package, read_password

if TYPE_CHECKING:
    from .._server.server import Server
    from ..relay import Relay
    from ..stores import Store
    from ..testing import FaultRules
    from ..web import Recorder
    from ..web._app import App
    from ..web._security import Access
    from .workers import Workers

# `smtp_trio.web` needs an extra, so it is imported only if the option --http is given.


@define(eq=False)
class HttpListener:
    """The HTTP listener of ``--http``."""

    _address: tuple[str, int]
    #: A function that returns the application for a server and a store.
    _app: Callable[..., App]
    _access: Access
    _users: UsersFile | None
    #: The recorder of sessions; None if they are not recorded.
    recorder: Recorder | None
    #: The fault rules of the server; None if it has none, or worker processes serve.
    faults: FaultRules | None = field(default=None, init=False)
    _listeners: list[trio.SocketListener] = field(factory=list, init=False)

    async def open(self) -> None:
        """Open the sockets. Raises UsageError if they cannot be opened, or if an exposed address lacks a token and users."""
        host, port = self._address
        try:
            self._listeners = await open_listeners(port, None if host == "*" else host)
        except ValueError as error:
            raise UsageError(f"--http: {error}") from None
        except OSError as error:
            raise UsageError(f"--http: {describe_listen_error(host, port, error, '--http')}") from None
        try:
            self._access.check_exposure(self._listeners)
        except ValueError as error:
            for each in self._listeners:
                each.socket.close()
            raise UsageError(f"--http: {error}: add --http-token-file or --http-auth-file") from None

    async def serve(
        self,
        server: Server | None,
        store: Store[Any],
        *,
        workers: Workers | None = None,
        relay: Relay | None = None,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; ``nursery.start`` returns the URL. ``server`` is None with ``workers``."""
        from ..web._security import is_exposed
        from ..web._serve import serve_listeners

        of_workers = {} if workers is None else {"measure": workers.measure, "problem": workers.problem}
        async with trio.open_nursery() as nursery:
            app = self._app(server, store, faults=self.faults, relay=relay, **of_workers)
            url = await nursery.start(serve_listeners, app, self._listeners)
            log_events.HTTP_LISTENING.log(url=url)
            for listener in filter(is_exposed, self._listeners):
                log_events.HTTP_EXPOSED.log(address=format_address(listener.socket))
            task_status.started(url)

    def reload(self) -> None:
        """Read the file of users again. Raises UsageError if it is invalid; the previous users are kept then."""
        if self._users is not None:
            read_users(self._users)


def prepare_http(options: argparse.Namespace) -> HttpListener | None:
    """Return the listener of ``--http``, or None without it. Raises UsageError for options that cannot be used."""
    if options.http is None:
        for name in ("http_token", "http_token_file", "http_auth_file", "http_name", "http_transcripts"):
            if getattr(options, name):
                raise UsageError(f"--{name.replace('_', '-')} requires --http")
        return None
    try:
        from .. import web
        from ..web._login import check_token
        from ..web._security import Access, check_names
        from ..web._templates import environment
    except ModuleNotFoundError as error:
        raise missing_package("smtp-trio inbox" if options.inbox else "--http", str(error.name), "web") from None
    environment()  # before --user, which may not be able to read the files of Python
    token, source = options.http_token, "--http-token"
    if options.http_token_file is not None:
        if token is not None:
            raise UsageError("--http-token cannot be combined with --http-token-file")
        token, source = read_password(options.http_token_file), "the first line of --http-token-file"
    elif token is None:
        token, source = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    users = None
    if options.http_auth_file is not None:
        users = UsersFile(options.http_auth_file, interval=None)
        read_users(users)
    try:
        if token is not None:
            check_token(token, source)
        check_names(options.http_name, "--http-name")
    except ValueError as error:
        raise UsageError(str(error)) from None
    access = Access.of(token, users, options.http_name)
    if options.http_transcripts and options.workers != 1:
        raise UsageError("--http-transcripts cannot be combined with --workers: the sessions are in other processes")
    recorder = web.Recorder(options.http_transcripts) if options.http_transcripts else None
    app = partial(web.app, recorder=recorder, token=token, users=users, names=options.http_name)
    return HttpListener(options.http, app, access, users, recorder)
