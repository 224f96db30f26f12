"""`RecipientStatus`: the result of a message for one recipient, and whether its sender has requested a report of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, get_args

from attrs import Attribute, field, frozen

from .._client.results import Accepted, Outcome, Rejected, Result, Unknown
from ..protocol import Connect, Reply
from ..protocol.arguments import argument, check_choice, check_type
from ..protocol.extensions.deliverby import ByTime
from ..protocol.extensions.dsn import NEVER, NOTIFY
from ..protocol.params import Params
from ._original import check_date

#: The values of the field Action (RFC 3464 2.3.3).
Action = Literal["failed", "delayed", "delivered", "relayed", "expanded"]

#: The value of NOTIFY that requests a report with an action (RFC 3461 5.2).
REQUESTED_BY: Mapping[Action, str] = {
    "failed": "FAILURE",
    "delayed": "DELAY",
    "delivered": "SUCCESS",
    "relayed": "SUCCESS",
    "expanded": "SUCCESS",
}
#: The actions that are reported if the sender has not sent NOTIFY. RFC 3461 5.2.5 (b) allows a report of a delay then.
BY_DEFAULT = frozenset({"failed", "delayed"})

# RFC 3464 2.3.4: no leading zeros.
STATUS = re.compile(r"[245]\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2})")


def _check_status(_: object, attribute: Attribute[str], value: str) -> None:
    check_type(value, attribute.name, str)
    if STATUS.fullmatch(value) is None:
        raise ValueError(f"{attribute.name} must be a status code such as 5.1.1 (RFC 3463 2), got {value!r}")


@frozen
class RecipientStatus:
    """The result of a message for one recipient, for a report (RFC 3464 2.3).

    :param recipient: the recipient, as in `Original.rcpt_params`.
    :param action: "failed", "delayed", "delivered", "relayed" (to a system that does not report successes) or "expanded"
        (delivered, and sent on to several others).
    :param status: the enhanced status code (RFC 3463), such as 5.1.1.
    :param diagnostic: the reply of a server, such as "550 5.1.1 No such user"; None without one.
    :param remote_mta: the name of the server that has sent the reply; None if it was this server.
    :param last_attempt: when the last attempt was made.
    :param will_retry_until: until when attempts will be made, with the action "delayed" only.
    :param final_recipient: the address to which the message was sent, if it is not ``recipient``.
    """

    recipient: str = field(validator=argument(check_type, str))
    action: Action = field(validator=argument(check_choice, get_args(Action)))
    status: str = field(validator=_check_status)
    diagnostic: str | None = field(default=None, validator=argument(check_type, str, optional=True))
    remote_mta: str | None = field(default=None, validator=argument(check_type, str, optional=True))
    last_attempt: datetime | None = field(default=None, validator=argument(check_date))
    will_retry_until: datetime | None = field(default=None, validator=argument(check_date))
    final_recipient: str | None = field(default=None, validator=argument(check_type, str, optional=True))

    def __attrs_post_init__(self) -> None:
        if self.will_retry_until is not None and self.action != "delayed":  # RFC 3464 2.3.9
            raise ValueError(f"will_retry_until is for the action 'delayed' only, got {self.action!r}")


def is_requested(action: Action, rcpt_params: Params, *, by: ByTime | None = None) -> bool:
    """Return whether the sender of a message wants to know of an action, by the NOTIFY of the recipient (RFC 3461 5.2).

    ``by`` is the BY of MAIL: with "N" or "T" the sender wants to know that the message was relayed, unless NOTIFY is NEVER
    (RFC 2852 4.1.4).
    """
    check_choice(action, "action", get_args(Action))
    check_type(rcpt_params, "rcpt_params", Params)
    check_type(by, "by", ByTime, optional=True)
    notify = rcpt_params.get(NOTIFY)
    if action == "relayed" and by is not None and (by.trace or by.mode == "N"):
        return notify != NEVER
    return action in BY_DEFAULT if notify is None else REQUESTED_BY[action] in notify


# What is reported of a result
#
#   Accepted                      nothing: the next server reports what happens. "relayed" if it does not report successes and
#                                 the sender wants to know them (`Result.relayed_without_dsn`).
#   Rejected, permanent           "failed"
#   Rejected, temporary           "delayed", or "failed" if no further attempt will be made
#   no outcome                    the same
#   Unknown                       nothing, as the recipient may have got it; "failed" if no further attempt will be made,
#                                 with that in the text
def report_statuses(
    result: Result,
    *,
    accepted: Literal["delivered", "expanded"] | None = None,
    give_up: bool = False,
    remote_mta: str | None = None,
    last_attempt: datetime | None = None,
    will_retry_until: datetime | None = None,
) -> tuple[RecipientStatus, ...]:
    """Return the statuses that follow from the result of sending a message.

    :param result: the result of `smtp_trio.Client.send` or another function that sends, or the ``result`` of its exception.
    :param accepted: the action for a recipient for which the server accepted the message, if it was the final delivery, by
        LMTP for example. By default such a recipient has no status, since the server is responsible now.
    :param give_up: true if no further attempt will be made, so that recipients without delivery have failed.
    :param remote_mta: the name of the server. Not needed for the result of `smtp_trio.routing.send`, which has it.
    :param last_attempt: when the attempt was made.
    :param will_retry_until: until when attempts will be made.
    """
    check_type(result, "result", Result)
    check_choice(accepted, "accepted", ("delivered", "expanded"), optional=True)
    check_type(give_up, "give_up", bool)
    check_type(remote_mta, "remote_mta", str, optional=True)
    outcomes = {outcome.recipient: outcome for outcome in result.outcomes}
    hosts = hosts_of(result)
    found = []
    for name in result.recipients:
        outcome = outcomes.get(name)
        action = _action(outcome, accepted, relayed=name in result.relayed_without_dsn, give_up=give_up)
        if action is None:
            continue
        remote = not (outcome is None or isinstance(outcome, Unknown) or _is_local(outcome))
        status, diagnostic = _explain(outcome)
        found.append(
            RecipientStatus(
                name,
                action,
                status,
                diagnostic,
                hosts.get(name, remote_mta) if remote else None,
                last_attempt,
                will_retry_until if action == "delayed" else None,
            )
        )
    return tuple(found)


def _action(
    outcome: Outcome | None, accepted: Literal["delivered", "expanded"] | None, *, relayed: bool, give_up: bool
) -> Action | None:
    if isinstance(outcome, Accepted):
        return "relayed" if relayed and accepted is None else accepted
    if isinstance(outcome, Unknown):
        return "failed" if give_up else None
    permanent = isinstance(outcome, Rejected) and outcome.permanent
    return "failed" if permanent or give_up else "delayed"


def _explain(outcome: Outcome | None) -> tuple[str, str | None]:
    """Return the status code of an outcome and the diagnostic."""
    if outcome is None:  # RFC 3463 3.5, X.4.2: the connection was lost
        return "4.4.2", None
    if isinstance(outcome, Unknown):
        return "4.4.2", f"{outcome.reason}; the message may have been delivered"
    reply = outcome.reply
    first = "2" if reply.accepted else "4" if isinstance(outcome, Rejected) and outcome.temporary else "5"
    status = reply.status if reply.status and STATUS.fullmatch(reply.status) else f"{first}.0.0"  # RFC 3461 6.3 (g)
    return first + status[1:], _diagnostic(reply)


def _diagnostic(reply: Reply) -> str:
    """Return a reply as it was received, in one line."""
    return " ".join(filter(None, (str(reply.code), reply.status, *reply.text.split())))


def _is_local(outcome: Outcome) -> bool:
    """Return whether the client has made the reply of an outcome itself, without a connection."""
    return isinstance(outcome, Rejected) and (isinstance(outcome.command, Connect) or outcome.not_offered)


def hosts_of(result: Result) -> dict[str, str]:
    """Return the server that was tried last, by recipient, if the result has it."""
    return {
        name: domain.attempts[-1].exchanger.name
        for domain in getattr(result, "domains", ())
        if domain.attempts
        for name in domain.recipients
    }
