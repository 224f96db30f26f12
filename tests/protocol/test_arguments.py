"""Checks of arguments name the argument, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import pytest

from smtp_trio.protocol import ClientProtocol, Limits, Reply, ServerProtocol, lenient_mode
from smtp_trio.protocol.arguments import (
    check_callable,
    check_choice,
    check_items,
    check_number,
    check_plain_function,
    check_type,
)
from smtp_trio.protocol.extensions import Auth, LimitsExtension, Size, StartTls, standard
from smtp_trio.protocol.hosts import check_port
from smtp_trio.protocol.sasl import ScramSecret

#: Values that are not an iterable of extensions.
BAD: tuple[Any, ...] = ("SIZE", 1, ["SIZE"], [Size], Size())


async def _coroutine_function() -> None:
    raise AssertionError("not called")


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_type(1, "x", int),
        lambda: check_type("a", "x", (int, str)),
        lambda: check_type(None, "x", int, optional=True),
        lambda: check_choice("a", "x", ("a", "b")),
        lambda: check_choice(None, "x", ("a", "b"), optional=True),
        lambda: check_number(0, "x"),
        lambda: check_number(1.5, "x", 1),
        lambda: check_number(float("inf"), "x"),
        lambda: check_number(3, "x", 3, integer=True),
        lambda: check_number(7, "x", maximum=7),
        lambda: check_number(None, "x", optional=True),
        lambda: check_callable(len, "x"),
        lambda: check_callable(None, "x", optional=True),
        lambda: check_plain_function(len, "x"),
        lambda: check_plain_function(None, "x"),
    ],
)
def test_valid_values(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("check", "error", "text"),
    [
        (lambda: check_type("1", "x", int), TypeError, "x must be int, got '1'"),
        (lambda: check_type(b"", "x", (int, str), optional=True), TypeError, "x must be int, str or None, got b''"),
        (lambda: check_type(None, "x", int), TypeError, "x must be int, got None"),
        (lambda: check_type("secret", "x", int, shown=False), TypeError, "x must be int, not str"),
        (lambda: check_choice("c", "x", ("a", "b")), ValueError, 'x must be "a" or "b", got \'c\''),
        (lambda: check_choice([], "x", ("a",), optional=True), ValueError, 'x must be "a" or None, got []'),
        (lambda: check_choice(None, "x", ("a",)), ValueError, 'x must be "a", got None'),
        (lambda: check_number("10MB", "x"), TypeError, "x must be a number, got '10MB'"),
        (lambda: check_number(True, "x"), TypeError, "x must be a number, got True"),
        (lambda: check_number(1.5, "x", integer=True), TypeError, "x must be an integer, got 1.5"),
        (lambda: check_number(None, "x"), TypeError, "x must be a number, got None"),
        (lambda: check_number(-1, "x"), ValueError, "x must be >= 0, got -1"),
        (lambda: check_number(5, "x", 2**20), ValueError, "x must be >= 1048576, got 5"),
        (
            lambda: check_number(2**31, "x", 0.5, maximum=2**31 - 1),
            ValueError,
            "x must be <= 2147483647, got 2147483648",
        ),
        (lambda: check_number(float("nan"), "x"), ValueError, "x must be >= 0, got nan"),
        (lambda: check_number(0, "x", 1, note=" (why)"), ValueError, "x must be >= 1, got 0 (why)"),
        (lambda: check_number(8, "x", maximum=7, note=" (why)"), ValueError, "x must be <= 7, got 8 (why)"),
        (lambda: check_items("SIZE", "x", str), TypeError, "x must be an iterable of str, got 'SIZE'"),
        (lambda: check_items(7, "x", str), TypeError, "x must be an iterable of str, got 7"),  # type: ignore[arg-type]
        (lambda: check_items([7], "x", str), TypeError, "each item of x must be str, got 7"),
        (lambda: check_callable(7, "x"), TypeError, "x must be callable, got 7"),
        (lambda: check_callable(7, "x", optional=True), TypeError, "x must be callable or None, got 7"),
        (lambda: check_plain_function(7, "x"), TypeError, "x must be callable or None, got 7"),
    ],
)
def test_invalid_values(check: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        check()
    assert str(caught.value) == text


def test_coroutine_function_where_a_plain_one_is_needed() -> None:
    with pytest.raises(TypeError, match=r"^x must be a plain function, since it is not awaited, got <function "):
        check_plain_function(_coroutine_function, "x")


def test_items_of_an_iterator() -> None:
    assert check_items(iter("ab"), "x", str) == ("a", "b")


def test_number_above_a_minimum() -> None:
    check_number(0.1, "x", above=True)
    check_number(10**400, "x")
    for value in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"^x must be > 0, got {value}"):
            check_number(value, "x", above=True)


def call(function: Callable[..., object], *arguments: object, **keywords: object) -> Callable[[], object]:
    return partial(function, *arguments, **keywords)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        *((call(ServerProtocol, name=value), "name") for value in (1, b"x", None)),
        *((call(ServerProtocol, size=value), "size") for value in ("1", None, True, -1, 1.5)),
        *((call(ServerProtocol, tls=value), "tls") for value in ("yes", None)),
        (call(ServerProtocol, hooks="rcpt"), "hooks"),
        (call(ServerProtocol, limits={"line": 5}), "limits"),
        (call(ServerProtocol, newlines="keep"), "newlines"),
        (call(ServerProtocol, strictness=True), "strictness"),
        *((call(make, extensions=value), "extensions") for make in (ServerProtocol, ClientProtocol) for value in BAD),
        *((call(standard, without=value), "without") for value in (1, "SIZE", ["SIZE"], [Size()])),
        (call(standard, "SIZE"), "extensions"),
        *((call(Size, value), "limit") for value in ("1", None, True, -1, 1.5)),
        *((call(StartTls, value), "required") for value in ("no", None, 1)),
        *((call(Auth, value), "required") for value in ("no", None, 1)),
        *((call(Auth, cleartext=value), "cleartext") for value in ("no", None, 1)),
        *((call(Auth, mechanisms=value), "mechanisms") for value in ("PLAIN", None, [1])),
        *((call(LimitsExtension, rcpt_max=value), "rcpt_max") for value in ("1", 1.5)),
        *((call(Reply, value), "code") for value in ("250", None, 250.0, b"250")),
        *((call(Reply, 250, value), "text") for value in (1, b"x", None, ["x"])),
        *((call(Reply, 250, "", value), "status") for value in (1, b"x", ["x"])),
        *((call(lenient_mode, value), "default_domain") for value in (1, b"x", None)),
        *((call(ScramSecret.from_password, value, b"salt"), "password") for value in (1, b"x", None)),
        *((call(ScramSecret.from_password, "x", value), "salt") for value in ("salt", 1, None)),
        *((call(ScramSecret.from_password, "x", b"salt", value), "iterations") for value in ("1", True, None, 1)),
        (call(check_port, True, "port", minimum=0), "port"),
    ],
)
def test_error_names_the_argument(made: Callable[[], object], name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        made()


def test_reply_with_values_of_subclasses() -> None:
    class Text(str):
        __slots__ = ()

    assert Reply(HTTPStatus.OK, Text("Ok"), Text("2.0.0")).encode() == b"200 2.0.0 Ok\r\n"


def test_one_class_may_be_left_out() -> None:
    assert standard(without=Size) == standard(without=[Size]) == standard(without=(Size,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"sessions": "10"}, TypeError),
        ({"per_peer": -1}, ValueError),
        ({"recipients": 99}, ValueError),
        ({"errors": None}, TypeError),
        ({"work": 1.0}, TypeError),
        ({"auth_failures": True}, TypeError),
        ({"received": -5}, ValueError),
        ({"line": "2k"}, TypeError),
        ({"strict_lengths": "yes"}, TypeError),
    ],
)
def test_limits(settings: dict[str, Any], error: type[Exception]) -> None:
    (name,) = settings
    with pytest.raises(error, match=f"^limits.{name} must be "):
        Limits(**settings)
