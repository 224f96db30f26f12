"""The parameters with which a message is sent: those that the caller names, and those of an envelope that is passed on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from attrs import frozen

from ..protocol import Command, Mail, Rcpt
from ..protocol.arguments import check_type
from ..protocol.extensions.dsn import NOTIFY
from ..protocol.params import NO_PARAMS, Param, Params
from .exchange import Exchange

T = TypeVar("T")

# What is passed on
#
# A program that receives a message and sends it on gives the parameters of its envelope as ``mail_params`` and
# ``rcpt_params``. They were chosen by the sender, who does not know the next server. So unlike a parameter that the caller
# names, which the server must offer, each is treated as its RFC has it (`Param.passed_on`). Those of DSN are passed on
# unchanged if the server offers DSN, and otherwise left out (RFC 3461 5.2.1 and 5.2.2 (a)). The success of the delivery is
# not reported then, so the caller has to report that the message was relayed (5.2.2 (b)): `SendParams.unreported`.


@frozen
class SendParams:
    """The parameters of one message: of MAIL, and of the RCPT commands, by recipient, if they have any."""

    mail: Params
    rcpts: Mapping[str, Params]
    unreported: frozenset[str] = frozenset()
    """The recipients whose NOTIFY=SUCCESS the server does not get."""


NONE = SendParams(NO_PARAMS, {})


def read_send_params(exchange: Exchange, recipients: Collection[str], params: Mapping[str, object]) -> SendParams:
    """Return the parameters among the keyword arguments of a send call.

    Raises TypeError and ValueError for invalid ones.
    """
    if not params:
        return NONE
    values = dict(params)
    mail_params = _read(values, "mail_params", Params, NO_PARAMS)
    rcpt_params: Mapping[str, Params] = _read(values, "rcpt_params", Mapping, {})  # type: ignore[type-abstract]
    for name, each in rcpt_params.items():
        check_type(each, f"rcpt_params[{name!r}]", Params)
    rcpt_names = exchange.param_names(Rcpt)
    mail = exchange.params(Mail, {name: value for name, value in values.items() if name not in rcpt_names})
    rcpt = exchange.params(Rcpt, {name: value for name, value in values.items() if name in rcpt_names})
    passed = {name: _passed_on(exchange, Rcpt, rcpt_params.get(name, NO_PARAMS)) for name in recipients}
    unreported = {
        name
        for name in recipients
        if "SUCCESS" in rcpt_params.get(name, NO_PARAMS).get(NOTIFY, frozenset())
        and not exchange.protocol.offers(Rcpt, NOTIFY)
    }
    return SendParams(
        _merged(_passed_on(exchange, Mail, mail_params), mail),
        {name: _merged(each, rcpt) for name, each in passed.items()},
        frozenset(unreported),
    )


def _read(values: dict[str, object], name: str, kind: type[T], default: T) -> T:
    value = values.pop(name, None)
    if value is None:
        return default
    check_type(value, name, kind)
    assert isinstance(value, kind)
    return value


def _passed_on(exchange: Exchange, kind: type[Command], params: Params) -> Params:
    """Return those parameters of an envelope that are sent to this server."""
    kept: dict[Param[Any], Any] = {}
    for param, value in params.items():
        rule = param.relay(value)
        if rule == "always" or (rule == "if offered" and exchange.protocol.offers(kind, param)):
            kept[param] = value
    return Params(kept) if kept else NO_PARAMS


def _merged(passed: Params, named: Params) -> Params:
    if not passed or not named:
        return passed or named
    return Params({**passed, **named})
