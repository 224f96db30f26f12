"""`Operation`: one operation of the JSON API, from which both its route and its OpenAPI description are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ._context import Context

#: A JSON Schema (draft 2020-12, as in OpenAPI 3.1).
Schema = Mapping[str, Any]
#: The schema of a parameter without one of its own.
TEXT: Schema = MappingProxyType({"type": "string"})
Handler = Callable[[Context, Request], Awaitable[Response]]


class ApiError(Exception):
    """An error that is answered with a status and ``{"error": message}``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@frozen(kw_only=True)
class Parameter:
    """A parameter of an operation, in its path or in the query string."""

    name: str
    description: str
    place: Literal["path", "query"] = "query"
    schema: Schema = TEXT
    required: bool = False


@frozen(kw_only=True)
class Operation:
    """An operation of the API.

    ``responses`` has for each status a description and the schema of the JSON, or a media type instead of a schema.
    """

    id: str
    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    handler: Handler
    summary: str
    parameters: tuple[Parameter, ...] = ()
    body: Schema | None = None
    responses: Mapping[int, tuple[str, Schema | str | None]]

    def route(self, context: Context) -> Route:
        """Return the route that calls the handler, and answers an `ApiError`."""
        return Route(self.path, partial(answer, self.handler, context), methods=[self.method], name=self.id)


async def answer(handler: Handler, context: Context, request: Request) -> Response:
    """Return the response of a handler."""
    try:
        return await handler(context, request)
    except ApiError as error:
        return JSONResponse({"error": error.message}, status_code=error.status)
