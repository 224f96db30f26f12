"""`Original`: the message that a report is about."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import Attribute, field, frozen

from ..protocol.arguments import argument, check_type
from ..protocol.params import NO_PARAMS, Params
from ..stores import Stored, parse_stored_params

if TYPE_CHECKING:
    from .._types import Envelope


def check_date(value: object, what: str) -> None:
    """Raise TypeError or ValueError for anything but None and a datetime with a time zone."""
    check_type(value, what, datetime, optional=True)
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(f"{what} must have a time zone, got {value!r}")


def _check_rcpt_params(_: object, attribute: Attribute[Mapping[str, Params]], value: Mapping[str, Params]) -> None:
    check_type(value, attribute.name, Mapping)
    for name, each in value.items():
        check_type(each, f"{attribute.name}[{name!r}]", Params)


@frozen(kw_only=True)
class Original:
    """The message that a report is about, as it was received.

    :param sender: the mailbox of MAIL, "" for the null reverse-path. The report is sent to it.
    :param message: the octets. The header is enough if the message is not to be returned.
    :param mail_params: the parameters of MAIL. RET and ENVID have a meaning here (RFC 3461 4.3, 4.4).
    :param rcpt_params: the parameters of RCPT, by recipient: NOTIFY and ORCPT (RFC 3461 4.1, 4.2).
    :param arrived: when it was received.
    """

    sender: str = field(validator=argument(check_type, str))
    message: bytes = field(repr=False, validator=argument(check_type, bytes))
    mail_params: Params = field(default=NO_PARAMS, validator=argument(check_type, Params))
    rcpt_params: Mapping[str, Params] = field(factory=dict, validator=_check_rcpt_params)
    arrived: datetime | None = field(default=None, validator=argument(check_date))

    @classmethod
    def from_envelope(cls, envelope: Envelope, message: bytes, arrived: datetime | None = None) -> Original:
        """Return the message that a session has received with this envelope."""
        return cls(
            sender=envelope.sender.raw,
            message=message,
            mail_params=envelope.params,
            rcpt_params={rcpt.recipient.raw: rcpt.params for rcpt in envelope.rcpts},
            arrived=arrived,
        )

    @classmethod
    def from_stored(cls, stored: Stored) -> Original:
        """Return the message that `smtp_trio.stores.read` has returned."""
        check_type(stored, "stored", Stored)
        return cls(
            sender=stored.sender,
            message=stored.message,
            mail_params=parse_stored_params(stored.mail_params),
            rcpt_params=dict(zip(stored.recipients, map(parse_stored_params, stored.rcpt_params), strict=True)),
            arrived=stored.received,
        )
