"""A server on a port of its own, for those whose client knows nothing but addresses."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict, Unpack

import trio
from attrs import frozen

from ..._client.client import Client
from ..._client.connect import ConnectSettings, connect
from ..._server.hooks import Hooks
from ..._server.server import Server
from ..._timeouts import Timeouts
from ...protocol import Extension, Limits
from ...protocol.body_inspector import Newlines
from .._faults.layer import Layer
from .deterministic import deterministic
from .inbox import Inbox
from .pair import NAME

if TYPE_CHECKING:
    import trustme

HOST = "127.0.0.1"


class ServerSettings(TypedDict, total=False):
    """The keywords of `Server`, but for ``tls``."""

    name: str | None
    size: int
    timeout: float | Timeouts
    extensions: Iterable[Extension]
    limits: Limits
    newlines: Newlines
    now: Callable[[], datetime]
    token: Callable[[int], bytes]


@frozen
class TestServer:
    """A server that listens at ``host`` and ``port``. ``ca`` is whom to trust, where a certificate was made for it."""

    __test__ = False  # pytest: a class, no test

    host: str
    port: int
    server: Server
    ca: trustme.CA | None
    #: For a client that trusts ``ca``; None where there is none.
    client_context: ssl.SSLContext | None
    implicit_tls: bool

    @property
    def inbox(self) -> Inbox:
        """The server's hooks, or those under a `Layer`. Raises TypeError when they are no `Inbox`."""
        return inbox_of(self.server)

    def client(self, **settings: Unpack[ConnectSettings]) -> AbstractAsyncContextManager[Client]:
        """A client of it:

        `connect`, with the right address, TLS where the server has it, and trust in its certificate.
        """
        if self.server.tls is not None:
            settings.setdefault("tls", "implicit" if self.implicit_tls else "required")
        settings.setdefault("ssl_context", self.client_context)
        return connect(self.host, self.port, **settings)


@asynccontextmanager
async def open_test_server(
    hooks: Hooks | None = None,
    *,
    tls: bool | ssl.SSLContext = False,
    implicit_tls: bool = False,
    **settings: Unpack[ServerSettings],
) -> AsyncGenerator[TestServer]:
    """A server on a free port of 127.0.0.1, for ``async with``. Without ``hooks`` it has an `Inbox`.

    ``tls=True`` makes it a certificate for "localhost" and 127.0.0.1, which takes trustme (``pip install
    smtp-trio[testing]``). ``settings`` are keywords of `Server`; without them it is called "mx.test", is not strict
    about line ends, and has the doors of `deterministic`. At the end it stops, and idle sessions are told so. What your
    code raises comes out as it is, in no group.

    Sockets are real, so this needs the real clock: under a MockClock use `memory_pair`.
    """
    server, ca, client_context = made_server(hooks, tls, settings)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
                await server.serve(0, HOST, implicit_tls=implicit_tls, task_status=task_status)

            [listener] = await nursery.start(serve)
            port: int = listener.socket.getsockname()[1]
            try:
                yield TestServer(HOST, port, server, ca, client_context, implicit_tls)
            except (trio.Cancelled, GeneratorExit):
                raise
            except BaseException as exc:  # not through the nursery, which would make a group of it
                failure = exc
            await server.stop(0)
    finally:
        if failure is not None:  # it counts for more than that we were cancelled
            raise failure


def made_server(
    hooks: Hooks | None, tls: bool | ssl.SSLContext, settings: ServerSettings
) -> tuple[Server, trustme.CA | None, ssl.SSLContext | None]:
    """A server of tests; and whom to trust, and a client's context for that, where a certificate was made for it."""
    ca, client_context = None, None
    context = tls if isinstance(tls, ssl.SSLContext) else None
    if tls is True:
        ca, context, client_context = _certified()
    filled: ServerSettings = {"name": NAME, "newlines": "normalize", **deterministic(), **settings}
    return Server(hooks if hooks is not None else Inbox(), tls=context, **filled), ca, client_context


def inbox_of(server: Server) -> Inbox:
    """The inbox among a server's hooks."""
    hooks: object = server.hooks
    while isinstance(hooks, Layer):
        hooks = hooks.under
    if not isinstance(hooks, Inbox):
        raise TypeError(f"the hooks of this server are no Inbox but {hooks!r}")
    return hooks


def _certified() -> tuple[trustme.CA, ssl.SSLContext, ssl.SSLContext]:
    try:
        import trustme
    except ImportError:
        raise RuntimeError("tls=True takes trustme, which makes certificates: pip install smtp-trio[testing]") from None
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", HOST, NAME).configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return ca, server, client
