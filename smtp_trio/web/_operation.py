"""`Operation`: one operation of the JSON API, which defines its route, its parameters and its OpenAPI description."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from ..stores import MessageNotFoundError, NotSupportedError, StoreError
from ._context import Context

# An operation is a row of a table. `routes` makes one route for each path, which checks the parameters of a request with the
# schemas of the OpenAPI description, so that the two cannot differ, and passes converted values to the handler.
#
# The routes match the path before percent-decoding, and decode each segment afterwards: the id of a message may contain "/".

#: A JSON Schema (draft 2020-12, as in OpenAPI 3.1).
Schema = Mapping[str, Any]
#: The default schema of a parameter.
TEXT: Schema = MappingProxyType({"type": "string"})
Handler = Callable[[Context, Request], Awaitable[Response]]
Method = Literal["GET", "POST", "PUT", "DELETE"]

INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
NUMBER = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,15})?", re.ASCII)
#: The default maximum length of a parameter in the query string.
MAX_LENGTH = 512
#: The maximum number of octets of a JSON request body.
MAX_BODY = 1 << 20


class ApiError(Exception):
    """An error response with a status and ``{"error": message}``; ``more`` are additional members."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **more: object) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.more = more

    def response(self) -> Response:
        """Return the response."""
        return Json({"error": self.message, **self.more}, status_code=self.status, headers=self.headers)


class Json(JSONResponse):
    """A JSON response in ASCII, since texts of messages may contain lone surrogates, which UTF-8 cannot encode."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


@frozen(kw_only=True)
class Parameter:
    """A parameter of an operation, in its path or in the query string."""

    name: str
    description: str
    place: Literal["path", "query"] = "query"
    schema: Schema = TEXT
    required: bool = False

    @property
    def max_length(self) -> int | None:
        """The maximum length of a string; None for a path parameter, which the limit for URLs bounds."""
        length: int | None = self.schema.get("maxLength", MAX_LENGTH if self.place == "query" else None)
        return length

    def parse(self, text: str) -> object:
        """Parse the value of a parameter. Raises `ApiError` if it is invalid."""
        kind = self.schema["type"]
        if kind == "boolean" and text in ("true", "false"):
            return text == "true"
        if kind == "integer" and INTEGER.fullmatch(text):
            return self._within(int(text), text)
        if kind == "number" and NUMBER.fullmatch(text):
            return self._within(float(text), text)
        if kind == "string":
            return self._text(text)
        wanted = {"boolean": "true or false", "integer": "an integer", "number": "a number"}[kind]
        raise self._error(f"must be {wanted}, got {text[:100]!r}")

    def _within(self, value: float, text: str) -> float:
        low, high = self.schema.get("minimum"), self.schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            limits = (
                f"from {low} to {high}" if None not in (low, high) else f">= {low}" if high is None else f"<= {high}"
            )
            raise self._error(f"must be {limits}, got {text}")
        return value

    def _text(self, text: str) -> str:
        if "enum" in self.schema and text not in self.schema["enum"]:
            raise self._error(f"must be one of {', '.join(self.schema['enum'])}, got {text[:100]!r}")
        if len(text) < self.schema.get("minLength", 0):
            raise self._error("must not be empty")
        if self.max_length is not None and len(text) > self.max_length:
            raise self._error(f"must have at most {self.max_length} characters, got {len(text)}")
        return text

    def _error(self, text: str) -> ApiError:
        return ApiError(400, f"{self.name}: {text}")


@frozen(kw_only=True)
class Operation:
    """An operation of the API.

    ``responses`` has for each status a description and the schema of the JSON, or a media type instead of a schema.
    """

    id: str
    method: Method
    path: str
    handler: Handler
    summary: str
    #: A longer description, in reStructuredText.
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Schema | None = None
    responses: Mapping[int, tuple[str, Schema | str | None]]
    #: Whether unknown and repeated parameters are errors, rather than ignored.
    strict: bool = True

    def arguments(self, request: Request) -> dict[str, Any]:
        """Check and return the values of the parameters of a request. Raises `ApiError` if one is invalid."""
        given: dict[str, str] = dict(request.path_params)
        known = {parameter.name: parameter for parameter in self.parameters}
        query = {parameter.name for parameter in self.parameters if parameter.place == "query"}
        for name, value in parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True):
            if self.strict and name not in query:
                names = ", ".join(sorted(query))
                raise ApiError(
                    400,
                    f"{name[:100]}: unknown parameter; "
                    + (f"the parameters are {names}" if names else "this operation has no parameters"),
                )
            if self.strict and name in given:
                raise ApiError(400, f"{name}: must be given once")
            given.setdefault(name, value)
        values = {
            name: parameter.schema["default"] for name, parameter in known.items() if "default" in parameter.schema
        }
        for name, parameter in known.items():
            if name in given:
                values[name] = parameter.parse(given[name])
            elif parameter.required:
                raise ApiError(400, f"{name}: is missing")
        return values


class PathRoute(Route):
    """A route for all methods of a path, which is matched before percent-decoding."""

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__(path, endpoint)
        self.methods = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        prefix = quote(scope.get("root_path", ""))
        path = scope.get("raw_path", b"").decode("latin-1") or quote(scope["path"])
        path = f"/{path.lstrip('/')}"  # clients join a base URL that ends with "/" and a path
        match, child = super().matches({**scope, "root_path": prefix, "path": path})
        if match is not Match.NONE:
            child["path_params"] = {name: unquote(value) for name, value in child["path_params"].items()}
        return match, child


def routes(context: Context, operations: Iterable[Operation]) -> list[BaseRoute]:
    """Return the routes of operations, and one for all other paths below ``/api``."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = operation
    paths["/api/{path:path}"] = {}
    return [PathRoute(path, partial(answer, methods, context)) for path, methods in paths.items()]


async def answer(methods: Mapping[str, Operation], context: Context, request: Request) -> Response:
    """Return the response of the operation for a request, or an error response."""
    try:
        if not methods:
            raise ApiError(404, "unknown path; /api/openapi.json lists all paths")
        operation = methods.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
            raise ApiError(405, f"the method must be one of {allowed}", {"allow": allowed})
        request.scope["smtp_trio.arguments"] = operation.arguments(request)
        return await operation.handler(context, request)
    except ApiError as error:
        return error.response()
    except MessageNotFoundError:
        return Json({"error": "the store has no message with this id"}, status_code=404)
    except NotSupportedError as error:
        return Json({"error": str(error)}, status_code=501)
    except StoreError as error:
        return Json({"error": str(error)}, status_code=503)


def arguments(request: Request) -> Mapping[str, Any]:
    """Return the checked values of the parameters of a request, with the defaults of their schemas."""
    values: dict[str, Any] = request.scope["smtp_trio.arguments"]
    return values


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """Read the body of a request. Raises `ApiError` if it is too large."""
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise ApiError(413, f"the body must have at most {limit} octets")
    return bytes(body)


def parse_json(body: bytes) -> object:
    """Parse JSON. Raises `ApiError` if it is invalid."""
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body must be JSON") from None
    return found


async def json_body(request: Request) -> object:
    """Read the JSON body of a request. Raises `ApiError` if it is invalid or too large."""
    return parse_json(await read_body(request))
