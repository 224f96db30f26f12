"""`app`: the ASGI application, made of the routes of the other modules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

from .._server.snapshot import Snapshot
from . import (
    _api,
    _events_api,
    _mailpit,
    _metrics,
    _pages,
    _schemas,
    _wait,
)
from ._context import Context
from ._measuring import measure_alone
from ._openapi import openapi, openapi_operation
from ._operation import Operation, routes

if TYPE_CHECKING:
    from .._server.server import Server
    from ..stores import Store

#: The modules with operations of the JSON API.
APIS = (
    _api,
    _wait,
    _events_api,
    _mailpit,
    _metrics,
)


def app(
    server: Server | None,
    store: Store[Any],
    *,
    recorder: object | None = None,
    faults: object | None = None,
    measure: Callable[[], Awaitable[Snapshot]] | None = None,
    token: str | None = None,
) -> Starlette:
    """Return the ASGI application for a server and its store, which has to be open while the application runs."""
    context = Context(
        server=server,
        store=store,
        recorder=recorder,
        faults=faults,
        measure=measure or measure_alone(server, store),
    )
    return Starlette(routes=[*routes(context, operations()), *_pages.routes(context)])


def operations() -> list[Operation]:
    """Return the operations of all modules, and the one that describes them."""
    found = [operation for module in APIS for operation in module.OPERATIONS]
    return [*found, openapi_operation(description())]


def description() -> dict[str, Any]:
    """Return the OpenAPI description of the operations of all modules. Each may have named schemas in ``SCHEMAS``."""
    schemas = {name: schema for module in (_schemas, *APIS) for name, schema in getattr(module, "SCHEMAS", {}).items()}
    return openapi([operation for module in APIS for operation in module.OPERATIONS], schemas)
