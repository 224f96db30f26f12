"""`app`: the ASGI application, made of the routes of the other modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

from . import _api, _mailpit
from ._context import Context

if TYPE_CHECKING:
    from .._server.server import Server
    from ..stores import Store

#: The modules with operations of the JSON API.
APIS = (_api, _mailpit)


def app(server: Server | None, store: Store[Any]) -> Starlette:
    """Return the ASGI application for a server and its store, which has to be open while the application runs."""
    context = Context(server=server, store=store)
    return Starlette(routes=[operation.route(context) for module in APIS for operation in module.OPERATIONS])
