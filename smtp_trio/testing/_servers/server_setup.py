"""The common parts of the test servers in memory and on a port."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

import trio
from attrs import field, frozen

from ..._client.client import ClientSettings
from ..._groups import collapse_group
from ..._server.hooks import Hooks
from ..._server.server import Server
from ..._timeouts import Timeouts
from ...policies import Layer
from ...protocol import Extension, Limits
from ...protocol.arguments import check_type
from ...protocol.body_inspector import Newlines
from .deterministic import deterministic
from .inbox import Inbox

if TYPE_CHECKING:
    import trustme

#: The address of test servers, and their default name.
HOST = "127.0.0.1"
NAME = "mx.test"


#: What the servers of this module are made of: hooks, a server, or a function that makes one of them for an inbox.
HooksOrServer = Hooks | Server | Callable[[Inbox], Hooks | Server]
#: The text for the same in error messages.
ACCEPTED = "Hooks, a Server, or a function that is called with an inbox and returns one of them, such as Greylist"


class ServerSettings(TypedDict, total=False):
    """The keyword arguments of `open_memory_server`, `open_test_server` and `open_inbox_thread`.

    ``tls=True`` creates a certificate for "localhost", 127.0.0.1 and "mx.test", for which trustme must be installed
    (``pip install smtp-trio[testing]``); an SSLContext is used as it is. ``implicit_tls`` begins each session with TLS.
    ``raise_hook_errors`` (default: True) raises an exception of a hook again when the server has stopped, so that the
    test fails. The others are keyword arguments of `Server`. By default ``name`` is "mx.test", ``newlines`` is "normalize", and
    ``now`` and ``token`` are those of `deterministic`.
    """

    tls: bool | ssl.SSLContext
    implicit_tls: bool
    raise_hook_errors: bool
    name: str | None
    size: int
    timeout: float | Timeouts
    extensions: Iterable[Extension]
    limits: Limits
    newlines: Newlines
    lenient: bool | str
    strict: bool
    lmtp: bool
    now: Callable[[], datetime]
    token: Callable[[int], bytes]


@frozen(kw_only=True)
class ServerSetup:
    """A server for tests. ``ca`` is the authority of its certificate, if one was created for it."""

    __test__ = False  # pytest would collect the subclass TestServer

    server: Server
    ca: trustme.CA | None
    #: An SSLContext for clients that trusts ``ca``; None without ``ca``.
    client_context: ssl.SSLContext | None
    implicit_tls: bool
    raise_hook_errors: bool
    #: The inbox with which the function ``hooks`` was called; None if they are not a function.
    made_inbox: Inbox | None = field(repr=False)

    @property
    def inbox(self) -> Inbox:
        """The inbox with which the function ``hooks`` was called, or the server's hooks, or those below a `Layer`.

        Raises TypeError if none of them is an `Inbox`.
        """
        if self.made_inbox is not None:
            return self.made_inbox
        hooks: object = self.server.hooks
        while isinstance(hooks, Layer):
            hooks = hooks.under
        if not isinstance(hooks, Inbox):
            raise TypeError(f"the hooks of this server are not an Inbox: {hooks!r}")
        return hooks

    def set_client_defaults(self, settings: ClientSettings) -> None:
        """Let a client use TLS and LMTP if the server does, and trust its certificate, unless the settings contain other values."""
        if self.server.lmtp:
            settings.setdefault("lmtp", True)
        if self.server.tls is not None:
            settings.setdefault("tls", "implicit" if self.implicit_tls else "required")
        settings.setdefault("ssl_context", self.client_context)


def set_up(hooks: HooksOrServer | None, settings: ServerSettings, *, name: str = NAME) -> ServerSetup:
    """Return a server with these hooks (by default an `Inbox`) and settings, or the one that was given or made.

    ``name`` is the default name.
    """
    made_inbox = None
    if hooks is not None and not isinstance(hooks, Hooks | Server):
        if not callable(hooks):
            raise TypeError(f"hooks must be {ACCEPTED}, got {hooks!r}")
        made_inbox = Inbox()
        made = hooks(made_inbox)
        if not isinstance(made, Hooks | Server):
            raise TypeError(f"the function given as hooks must return Hooks or a Server, got {made!r}")
        hooks = made
    keywords: dict[str, Any] = {**settings}
    implicit_tls, raise_hook_errors = keywords.pop("implicit_tls", False), keywords.pop("raise_hook_errors", True)
    check_type(implicit_tls, "implicit_tls", bool)
    check_type(raise_hook_errors, "raise_hook_errors", bool)
    ca, client_context = None, None
    if isinstance(hooks, Server):
        if keywords:
            raise TypeError(f"a Server has settings of its own: {', '.join(keywords)} cannot be set for it")
        server = hooks
    else:
        tls = keywords.pop("tls", False)
        check_type(tls, "tls", (bool, ssl.SSLContext), optional=True)
        context = tls if isinstance(tls, ssl.SSLContext) else None
        if tls is True:
            ca, context, client_context = _create_certificate()
        keywords = {"name": name, "newlines": "normalize", **deterministic(), **keywords}
        server = Server(Inbox() if hooks is None else hooks, tls=context, **keywords)
    return ServerSetup(
        server=server,
        ca=ca,
        client_context=client_context,
        implicit_tls=implicit_tls,
        raise_hook_errors=raise_hook_errors,
        made_inbox=made_inbox,
    )


def _create_certificate() -> tuple[trustme.CA, ssl.SSLContext, ssl.SSLContext]:
    """Return an authority, a server's context with a certificate of it, and a client's context that trusts it."""
    try:
        import trustme
    except ImportError:
        raise RuntimeError("tls=True requires trustme: pip install smtp-trio[testing]") from None
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", HOST, NAME).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and trusts no other authority
    ca.configure_trust(client)
    return ca, server, client


@asynccontextmanager
async def stopping(*setups: ServerSetup) -> AsyncGenerator[trio.Nursery]:
    """Open a nursery for the tasks of servers, and stop the servers at the end of the block.

    What the block raises is raised as it is, and not in an exception group. It also takes precedence over a
    cancellation, so that a failed assertion is not lost in a test whose time is over. If the block raises nothing, the
    first exception of a hook is raised, unless ``raise_hook_errors`` is false; otherwise the exception gets notes of
    those of hooks, because a failed hook is often the reason.
    """
    errors: list[Exception] = []
    for setup in setups:
        if setup.raise_hook_errors:
            setup.server._state.observe_error = errors.append
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except (trio.Cancelled, GeneratorExit):
                raise
            except BaseException as exc:  # raised below, because the nursery would put it into a group
                # Of a group of a nursery in the block, the cancellations are left out: they may come from this nursery.
                failure = exc.split(trio.Cancelled)[1] if isinstance(exc, BaseExceptionGroup) else exc
                if failure is None:
                    raise
            for setup in setups:
                await setup.server.stop(0)
    except BaseExceptionGroup as group:  # a task of a server failed, for example in the start hook
        raise collapse_group(group) from None
    finally:
        if failure is not None:
            _add_notes(failure, errors)
            raise failure
    if errors:
        first, *others = errors
        first.add_note("A hook of the test's server raised this. With raise_hook_errors=False the test does not fail.")
        _add_notes(first, others)
        raise first


def _add_notes(failure: BaseException, errors: list[Exception]) -> None:
    """Add the tracebacks of exceptions of hooks to another exception."""
    for each in errors:
        if each is not failure:
            failure.add_note("A hook of the test's server raised:\n" + "".join(traceback.format_exception(each)))
