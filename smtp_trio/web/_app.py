"""`app`: the ASGI application with the routes of the other modules."""

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
    """The ASGI application and the context that its handlers share."""

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

    :param server: the server in this process, or None if other processes serve.
    :param store: the store of the messages, which has to be open while the application runs.
    :param recorder: the recorder of the sessions. The server must use its hooks.
    :param faults: the list of fault rules, which can be changed through the API.
    :param measure: a function that returns the numbers for the metrics; by default those of ``server``.
    :param problem: a function that returns why other processes do not accept mail, or None if they do; for ``/readyz``
        without ``server``.
    :param relay: the relay of the store, for the metrics.
    :param token: a token that requests need, as a bearer token (RFC 6750) or as the password of any user (RFC 7617).
    :param users: a file of users whose passwords are accepted (RFC 7617); it must have been read.
    :param names: accepted host names, with or without a port, besides ``localhost`` and IP addresses.
    :raises ValueError: the token or a name cannot occur in a request.
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
    """Return the operations of all modules, and the operation that returns their description."""
    found = [operation for module in APIS for operation in module.OPERATIONS]
    return [*found, openapi_operation(description())]


def description() -> dict[str, Any]:
    """Return the OpenAPI description of the operations of all modules. Named schemas are in the ``SCHEMAS`` of each."""
    schemas = {name: schema for module in (_schemas, *APIS) for name, schema in getattr(module, "SCHEMAS", {}).items()}
    return openapi([operation for module in APIS for operation in module.OPERATIONS], schemas)
