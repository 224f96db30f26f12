"""Operations: the checks of parameters, and the description that is served."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Match

from smtp_trio.stores import Memory
from smtp_trio.web import app
from smtp_trio.web._app import description
from smtp_trio.web._context import Context
from smtp_trio.web._operation import ApiError, Json, Operation, Parameter, PathRoute, Schema, arguments, routes

from .helpers import client


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "integer"}, "-17", -17),
        ({"type": "number"}, "0.5", 0.5),
        ({"type": "string", "enum": ["a", "b"]}, "b", "b"),
        ({"type": "boolean"}, "True", "x: must be true or false, got 'True'"),
        ({"type": "integer", "minimum": 1}, "0", "x: must be >= 1, got 0"),
        ({"type": "integer", "maximum": 1}, "2", "x: must be <= 1, got 2"),
        ({"type": "integer"}, "1_0", "x: must be an integer, got '1_0'"),
        ({"type": "number"}, "inf", "x: must be a number, got 'inf'"),
        ({"type": "string", "enum": ["a", "b"]}, "c", "x: must be one of a, b, got 'c'"),
        ({"type": "string", "maxLength": 3}, "abcd", "x: must have at most 3 characters, got 4"),
    ],
)
def test_value_of_a_parameter(schema: Schema, text: str, expected: object) -> None:
    try:
        found = Parameter(name="x", description="", schema=schema).parse(text)
    except ApiError as error:
        found, status = error.message, error.status
    else:
        status = 200
    assert found == expected
    assert status == (400 if str(found).startswith("x: ") else 200)
    assert type(found) is type(expected)


async def test_parameter_that_is_required_and_one_with_a_default() -> None:
    async def echo(context: Context, request: Request) -> Json:
        return Json(dict(arguments(request)))

    parameters = (
        Parameter(name="a", description="", required=True),
        Parameter(name="b", description="", schema={"type": "integer", "default": 5}),
    )
    operation = Operation(
        id="x", method="GET", path="/api/x", handler=echo, summary="", parameters=parameters, responses={}
    )
    async with Memory() as store:
        found = Starlette(routes=routes(Context(server=None, store=store), [operation]))
        async with client(found) as http:
            assert (await http.get("/api/x")).json() == {"error": "a: is missing"}
            assert (await http.get("/api/x?a=1")).json() == {"a": "1", "b": 5}


async def test_parameters_of_an_operation_that_is_not_strict_may_be_unknown_and_repeated() -> None:
    async def echo(context: Context, request: Request) -> Json:
        return Json(dict(arguments(request)))

    parameter = Parameter(name="a", description="")
    operation = Operation(
        id="x",
        method="GET",
        path="/api/x",
        handler=echo,
        summary="",
        parameters=(parameter,),
        responses={},
        strict=False,
    )
    async with Memory() as store:
        found = Starlette(routes=routes(Context(server=None, store=store), [operation]))
        async with client(found) as http:
            assert (await http.get("/api/x?a=1&b=2&a=3")).json() == {"a": "1"}


def test_route_is_not_for_web_sockets() -> None:
    async def never(request: Request) -> Json:
        raise AssertionError

    assert PathRoute("/x", never).matches({"type": "websocket", "path": "/x"}) == (Match.NONE, {})


async def test_description_is_served() -> None:
    async with Memory() as store, client(app(None, store)) as http:
        served = (await http.get("/api/openapi.json")).json()
    assert served["openapi"] == "3.1.0"
    assert set(served["paths"]) == set(description()["paths"])
    assert "Message" in served["components"]["schemas"]
