"""The OpenAPI 3.1 description of the JSON API, generated from the operations of all modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from ._context import Context
from ._operation import Json, Operation, Parameter, Schema

ERROR: Schema = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "What is wrong"}},
    "required": ["error"],
}

SECURITY: Mapping[str, Schema] = {
    "token": {"type": "http", "scheme": "bearer"},
    "password": {"type": "http", "scheme": "basic"},
}


def openapi(operations: Iterable[Operation], schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """Return the description of operations."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smtp_trio",
            "version": __version__,
            "description": "The messages and the state of a mail server.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": {**schemas, "Error": ERROR}, "securitySchemes": SECURITY},
        # The first alternative is for servers without authentication.
        "security": [{}, *({name: []} for name in SECURITY)],
    }


def openapi_operation(description: Mapping[str, Any]) -> Operation:
    """Return the operation that returns this description."""

    async def get_description(context: Context, request: Request) -> Response:
        """Return the description."""
        return Json(description)

    return Operation(
        id="getOpenApi",
        method="GET",
        path="/api/openapi.json",
        handler=get_description,
        summary="Return this description",
        responses={200: ("The description (OpenAPI 3.1)", {"type": "object"})},
    )


def describe(operation: Operation) -> dict[str, Any]:
    """Return the description of an operation."""
    found: dict[str, Any] = {"operationId": operation.id, "summary": operation.summary}
    if operation.description:
        found["description"] = operation.description
    if operation.parameters:
        found["parameters"] = [describe_parameter(parameter) for parameter in operation.parameters]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    error = {"description": "An error", "content": json_content({"$ref": "#/components/schemas/Error"})}
    found["responses"] = {
        **{str(status): describe_response(*response) for status, response in operation.responses.items()},
        "default": error,
    }
    return found


def describe_parameter(parameter: Parameter) -> dict[str, Any]:
    """Return the description of a parameter."""
    schema = dict(parameter.schema)
    if schema["type"] == "string" and "enum" not in schema and parameter.max_length is not None:
        schema["maxLength"] = parameter.max_length
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.description,
        "schema": schema,
    }


def describe_response(description: str, content: Schema | str | None) -> dict[str, Any]:
    """Return the description of a response."""
    if content is None:
        return {"description": description}
    if isinstance(content, str):
        return {"description": description, "content": {content: {}}}
    return {"description": description, "content": json_content(content)}


def json_content(schema: Schema) -> dict[str, Any]:
    """Return the description of a JSON body."""
    return {"application/json": {"schema": dict(schema)}}
