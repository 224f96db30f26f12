"""`make_params`: parameters from keyword arguments."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import Mail, Param, Params, Rcpt
from smtp_trio.protocol.extensions import KNOWN
from smtp_trio.protocol.extensions.auth import AUTH
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY, ORCPT, RET
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.params import NO_PARAMS, make_params

GRAMMAR = Grammar(KNOWN)
MAIL, RCPT = GRAMMAR.params(Mail), GRAMMAR.params(Rcpt)


def test_typed_values() -> None:
    params = make_params(
        {"size": 100, "body": "8BITMIME", "smtputf8": True, "auth": "fred@a b", "ret": "HDRS", "envid": "a+b"}, MAIL
    )
    assert params == {SIZE: 100, BODY: "8BITMIME", SMTPUTF8: True, AUTH: "fred@a b", RET: "HDRS", ENVID: "a+b"}
    assert params.encode() == "SIZE=100 BODY=8BITMIME SMTPUTF8 AUTH=fred@a+20b RET=HDRS ENVID=a+2Bb"
    notify = frozenset({"SUCCESS", "DELAY"})
    assert make_params({"notify": ["DELAY", "SUCCESS"]}, RCPT) == {NOTIFY: notify}
    assert make_params({"notify": notify, "orcpt": "rfc822;a@b"}, RCPT) == {NOTIFY: notify, ORCPT: "rfc822;a@b"}


@pytest.mark.parametrize("values", [{}, {"size": None}, {"smtputf8": False}, {"ret": None, "smtputf8": False}])
def test_omitted_parameters(values: dict[str, object]) -> None:
    assert make_params(values, MAIL) is NO_PARAMS


def test_zero_is_not_omitted() -> None:
    assert make_params({"size": 0}, MAIL) == Params({SIZE: 0})


def test_hyphen_becomes_underscore() -> None:
    later: Param[str] = Param("MT-PRIORITY", lambda value: value, str)
    assert make_params({"mt_priority": "3"}, [later]) == {later: "3"}


@pytest.mark.parametrize("name", ["SIZE", "siz", "", "notify", "orcpt", "size=5 BODY"])
@pytest.mark.parametrize("value", [5, None])
def test_unknown_parameter(name: str, value: object) -> None:
    """An unknown name is an error even if its value would omit it."""
    with pytest.raises(
        TypeError, match=r"unknown parameter .*, expected one of auth, body, by, envid, .*, size, smtputf8"
    ):
        make_params({name: value}, MAIL)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", -1), ("size", 1.5), ("size", "100"), ("size", 10**20), ("size", "1 BODY=7BIT"),
        ("body", "9BIT"), ("body", "8bitmime"), ("body", 8), ("body", "7BIT\r\nRSET"), ("body", ""),
        ("smtputf8", "yes"), ("smtputf8", 2),
        ("auth", 5), ("auth", "a\r\nb"), ("auth", "a\0b"),
        ("ret", "hdrs"), ("ret", "BOTH"), ("envid", ""), ("envid", "x" * 101), ("envid", "\u00e9"),
    ],
)  # fmt: skip
def test_invalid_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"invalid value for the parameter {name.upper()}: {name}="):
        make_params({name: value}, MAIL)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("notify", "NEVER"),
        ("notify", frozenset({"NEVER", "DELAY"})),
        ("notify", frozenset()),
        ("orcpt", "a@b"),
        ("orcpt", ";"),
    ],
)
def test_invalid_value_for_a_recipient(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"invalid value for the parameter {name.upper()}: {name}="):
        make_params({name: value}, RCPT)


def test_params_without_one_of_them() -> None:
    params = Params({SIZE: 5, BODY: "7BIT"})
    assert params.without(BODY) == Params({SIZE: 5})
    assert params.without(SMTPUTF8) is params
    assert params.without(BODY).without(SIZE) is NO_PARAMS
