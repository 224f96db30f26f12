"""RRVS, RFC 7293: a message is delivered only if the mailbox has belonged to the same owner since a given time.

Adds its EHLO keyword and the parameter ``RRVS=timestamp`` of RCPT. Not in `STANDARD`: the application has to know since
when each mailbox, or its domain, has its owner, and refuses a recipient with one of the replies below.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from attrs import field, frozen

from ..arguments import argument
from ..commands import Rcpt
from ..extension import CommandParams, Extension
from ..params import Param, PassedOn
from ..replies import Reply
from ..timestamps import check_time, format_timestamp, parse_timestamp
from ..values import Value

# RFC 7293 15.3
OWNER_CHANGED = Reply(550, "Mailbox owner has changed", "5.7.17")
DOMAIN_OWNER_CHANGED = Reply(550, "Domain owner has changed", "5.7.18")
CANNOT_TEST = Reply(550, "RRVS test cannot be completed", "5.7.19")

#: The mailboxes of RFC 2142 that belong to a role, and not to a person: their owner may change.
ROLE_ACCOUNTS = frozenset(
    {
        *("info", "marketing", "sales", "support", "abuse", "noc", "security", "postmaster", "hostmaster"),
        *("usenet", "news", "webmaster", "www", "uucp", "ftp"),
    }
)


def is_role_account(local: str) -> bool:
    """Return whether this local part is that of a role account, for which RRVS must be ignored (RFC 7293 5.1 (1)).

    A server passes the parameter to the application for these too, since a relay must preserve it (5.1.1).
    """
    name = local.lower()
    return name in ROLE_ACCOUNTS or name.endswith("-request")  # RFC 2142 6: the administrator of a mailing list


@frozen(eq=False, repr=False)
class ValidSince(Value):
    """A condition: the mailbox has belonged to the same owner ``since`` this time, in seconds since 1970.

    ``action`` decides what happens when a relay cannot pass the condition on: "R" rejects the message, "C" sends it without
    the condition.
    """

    since: int = field(validator=argument(check_time))
    action: Literal["R", "C"] = "R"


def _parse_rrvs(value: str | None) -> ValidSince | None:
    timestamp, semicolon, action = (value or "").partition(";")
    since = None if "." in timestamp else parse_timestamp(timestamp)  # RFC 7293 3.1: no fraction of a second
    if since is None or (semicolon and action not in ("C", "c", "R", "r")):
        return None
    return ValidSince(since, "C" if action in ("C", "c") else "R")


def _format_rrvs(valid: ValidSince) -> str:
    return f"{format_timestamp(valid.since)}{';C' if valid.action == 'C' else ''}"


def _passed_on(valid: ValidSince) -> PassedOn:
    return "always" if valid.action == "R" else "if offered"  # RFC 7293 5.1.1


#: RCPT TO:<...> RRVS=timestamp[;C | ;R] (RFC 7293 3.1).
RRVS: Param[ValidSince] = Param(
    "RRVS", _parse_rrvs, _format_rrvs, extra_octets=33, passed_on=_passed_on, unsupported="5.7.19"
)


class RequireRecipientValidSince(Extension):
    """Recipients that must not have changed (RFC 7293). Not in `STANDARD`: the application has to check them."""

    keyword = "RRVS"
    rfc = 7293
    params: ClassVar[CommandParams] = {Rcpt: (RRVS,)}
