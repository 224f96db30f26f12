"""`app`: the ASGI application, made of the routes of the other modules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from starlette.routing import Router

from .._server.snapshot import Snapshot
from ..credentials import UsersFile
from . import (
    _api,
    _events_api,
    _faults_api,
    _health_api,
    _mailpit,
    _metrics,
    _pages,
    _schemas,
    _sessions_api,
    _statistics_api,
    _wait,
)
from ._context import Context
from ._measuring import measure_alone
from ._openapi import openapi, openapi_operation
from ._operation import Operation, routes
from ._recorder import Recorder
from ._security import Access, Guard

if TYPE_CHECKING:
    from .._server.server import Server
    from ..relay import Relay
    from ..stores import Store
    from ..testing import FaultRules

#: The modules with operations of the JSON API.
APIS = (
    _api,
    _wait,
    _events_api,
    _faults_api,
    _health_api,
    _sessions_api,
    _mailpit,
    _metrics,
    _statistics_api,
)


class App(Guard):
    """The ASGI application, with what its handlers share."""

    def __init__(self, context: Context, access: Access) -> None:
        found = [*routes(context, operations()), *_pages.routes(context)]
        super().__init__(Router(found, default=_pages.not_found), access)
        self.context: Context = context


def app(
    server: Server | None,
    store: Store[Any],
    *,
    recorder: Recorder | None = None,
    faults: FaultRules | None = None,
    measure: Callable[[], Awaitable[Snapshot]] | None = None,
    problem: Callable[[], str | None] | None = None,
    relay: Relay | None = None,
    token: str | None = None,
    users: UsersFile | None = None,
    names: Iterable[str] = (),
) -> App:
    """Return the ASGI application for a server and its store.

    :param server: the server in this process, or None if others serve.
    :param store: the store of the messages, which has to be open while the application runs.
    :param recorder: what records the sessions, whose hooks are those of the server.
    :param faults: the list of fault rules that can be changed.
    :param measure: returns what the metrics show, if they are not those of ``server`` alone.
    :param problem: returns why other processes do not accept mail, or None if they do; for `/readyz` without ``server``.
    :param relay: the relay of the store, which the metrics show too.
    :param token: a secret that requests need, as a bearer token (RFC 6750) or as the password of any user (RFC 7617).
    :param users: users who have access with their passwords; the file must have been read.
    :param names: host names, with or without a port, that the application has besides ``localhost`` and IP addresses.
    :raises ValueError: a token or name that cannot occur in a request.
    """
    context = Context(
        server=server,
        store=store,
        recorder=recorder,
        faults=faults,
        measure=measure or measure_alone(server, store),
        problem=problem,
        relay=relay,
    )
    return App(context, Access.of(token, users, names))


def operations() -> list[Operation]:
    """Return the operations of all modules, and the one that describes them."""
    found = [operation for module in APIS for operation in module.OPERATIONS]
    return [*found, openapi_operation(description())]


def description() -> dict[str, Any]:
    """Return the OpenAPI description of the operations of all modules. Each may have named schemas in ``SCHEMAS``."""
    schemas = {name: schema for module in (_schemas, *APIS) for name, schema in getattr(module, "SCHEMAS", {}).items()}
    return openapi([operation for module in APIS for operation in module.OPERATIONS], schemas)
