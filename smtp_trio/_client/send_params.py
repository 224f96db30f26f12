"""The parameters with which a message is sent: those that the caller names, and those of an envelope that is passed on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from attrs import frozen

from ..protocol import Command, Mail, Rcpt
from ..protocol.arguments import check_callable, check_type
from ..protocol.extensions.auth import AUTH
from ..protocol.extensions.deliverby import BY
from ..protocol.extensions.dsn import ENVID, NEVER, NOTIFY
from ..protocol.extensions.mtrk import MTRK
from ..protocol.extensions.requiretls import REQUIRETLS
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
# So it has to for BY with "T", and for BY with "N" if the server does not offer DELIVERBY, unless the recipient has
# NOTIFY=NEVER; in the second case, delays are to be notified by a server with DSN (RFC 2852 4.1.4, 4.1.4.2).
#
# Some parameters depend on others, on the sender, or on time:
#
# * MTRK needs ENVID (RFC 3885 3.2), so it is left out together with that.
# * REQUIRETLS of a notification, which has the null reverse-path, is left out for a server that does not fulfil it: it
#   should not be the reason why the notification is lost (RFC 8689 5).
# * BY and MTRK have a number of seconds, from which the time is subtracted that the message was kept here (RFC 2852 4.1.4,
#   RFC 3885 3.2). It is computed for each server, as close to MAIL as possible.
# * AUTH=<> is added for a server at which this client has logged in, since the login is not that of the submitter (RFC 4954 5).
# * An ORCPT of type utf-8 that is too long in ASCII can only be sent in a transaction with SMTPUTF8 (RFC 6533 3). Whether
#   it is one depends on the message too, so `writable` is called when that is known.


@frozen
class SendParams:
    """The parameters of one message: of MAIL, and of the RCPT commands, by recipient, if they have any."""

    mail: Params
    rcpts: Mapping[str, Params]
    unreported: frozenset[str] = frozenset()
    """The recipients for which the caller has to report that the message was relayed."""


NONE = SendParams(NO_PARAMS, {})
#: Values of NOTIFY.
FAILURE, DELAY = frozenset({"FAILURE"}), frozenset({"DELAY"})


def read_send_params(
    exchange: Exchange, sender: str, recipients: Collection[str], params: Mapping[str, object]
) -> SendParams:
    """Return the parameters among the keyword arguments of a send call.

    Raises TypeError and ValueError for invalid ones.
    """
    values = dict(params)
    relayed = values.get("mail_params") is not None
    mail_params = _read(values, "mail_params", Params, NO_PARAMS)
    rcpt_params: Mapping[str, Params] = _read(values, "rcpt_params", Mapping, {})  # type: ignore[type-abstract]
    for name, each in rcpt_params.items():
        check_type(each, f"rcpt_params[{name!r}]", Params)
    kept = seconds_kept(values.pop("received", None), values.pop("now", None))
    rcpt_names = exchange.param_names(Rcpt)
    names = rcpt_names | exchange.param_names(Mail)
    for name in values.keys() - names:
        raise TypeError(f"unknown parameter {name!r}, expected one of {', '.join(sorted(names))}")
    mail = exchange.params(Mail, {name: value for name, value in values.items() if name not in rcpt_names})
    rcpt = exchange.params(Rcpt, {name: value for name, value in values.items() if name in rcpt_names})
    offers = exchange.protocol.offers
    passed = {name: _passed_on(exchange, Rcpt, rcpt_params.get(name, NO_PARAMS), kept) for name in recipients}
    notify = {name: rcpt_params.get(name, NO_PARAMS).get(NOTIFY) for name in recipients}
    unreported = set[str]()
    if not offers(Rcpt, NOTIFY):
        unreported = {name for name, wanted in notify.items() if wanted is not None and "SUCCESS" in wanted}
    if (by := mail_params.get(BY)) is not None and by.after(kept).reports_relay(offered=offers(Mail, BY)):
        tracked = [name for name, wanted in notify.items() if wanted != NEVER]
        unreported.update(tracked)
        if offers(Rcpt, NOTIFY) and not offers(Mail, BY):
            for name in tracked:
                passed[name] = passed[name].replace(NOTIFY, (notify[name] or FAILURE) | DELAY)
    if not sender and not (exchange.protocol.verified and offers(Mail, REQUIRETLS)):
        mail_params = mail_params.without(REQUIRETLS)
    mail_params = _passed_on(exchange, Mail, mail_params, kept)
    if ENVID not in mail_params and ENVID not in mail:
        mail_params = mail_params.without(MTRK)
    if relayed and exchange.protocol.authenticated and AUTH not in mail_params and offers(Mail, AUTH):
        mail_params = Params({**mail_params, AUTH: "<>"})
    return SendParams(
        _merged(mail_params, mail),
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


def seconds_kept(received: object, now: object) -> int:
    """Return how many seconds ago a message was received: 0 if that is None. Raises TypeError and ValueError.

    ``now`` returns the current time; None is the clock of the system.
    """
    check_type(received, "received", datetime, optional=True)
    check_callable(now, "now", optional=True)
    if received is None:
        return 0
    assert isinstance(received, datetime)
    if received.utcoffset() is None:
        raise ValueError(f"received must have a time zone, got {received!r}")
    time = now() if callable(now) else datetime.now(UTC)
    return max(int((time - received).total_seconds()), 0)


def _passed_on(exchange: Exchange, kind: type[Command], params: Params, kept: int) -> Params:
    """Return those parameters of an envelope that are sent to this server, ``kept`` seconds after they were received."""
    sent: dict[Param[Any], Any] = {}
    for param, value in params.items():
        rule = param.relay(value)
        if rule == "always" or (rule == "if offered" and exchange.protocol.offers(kind, param)):
            value = value if param.aged is None else param.aged(value, kept)
            if value is not None:
                sent[param] = value
    return Params(sent) if sent else NO_PARAMS


def _merged(passed: Params, named: Params) -> Params:
    if not passed or not named:
        return passed or named
    return Params({**passed, **named})


def writable(params: Params, *, utf8: bool) -> Params:
    """Leave out parameters that a command cannot have, if a message can be passed on without them.

    Those are too long or not valid, or outside ASCII in a transaction without SMTPUTF8 (``utf8``).
    """
    for param, value in params.items():
        if param.relay(value) == "if offered" and not _is_writable(param, value, utf8=utf8):
            params = params.without(param)
    return params


def _is_writable(param: Param[T], value: T, *, utf8: bool) -> bool:
    try:
        text = param.format(value)
    except ValueError:
        return False
    return utf8 or text is None or text.isascii()
