"""LIMITS, RFC 9422: the server announces how many messages a session and how many recipients a message may have.

Adds the EHLO line ``LIMITS`` with parameters such as ``RCPTMAX=100``. A server enforces what the line announces. Not in
`STANDARD`, because by default it has no limit to announce.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from attrs import Attribute, field, frozen

from .. import replies
from ..arguments import check_type
from ..commands import Command, Mail, Rcpt
from ..extension import Extension
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value

#: The limits that RFC 9422 4 defines, with the attributes of `LimitsExtension`.
NAMES = {"MAILMAX": "mail_max", "RCPTMAX": "rcpt_max", "RCPTDOMAINMAX": "rcpt_domain_max"}
# RFC 9422 3 lets a client ignore limits that it does not know, and RFC 9422 4 registers these three. A value that is
# malformed is ignored in the same way: a limit is advice, and a client that stopped because of it would deliver less
# mail than one that does not know the extension at all.

# What a server counts (RFC 9422 4.1 to 4.3):
#
# * MAILMAX: the MAIL commands of the session, accepted or not. A further one gets 421 and not 452, because nothing but a
#   new connection helps.
# * RCPTMAX: the accepted RCPT commands of the transaction. A further one gets 452, after which the client sends the message
#   to the other recipients in another transaction (RFC 5321 4.5.3.1.10).
# * RCPTDOMAINMAX: the domains in the RCPT commands of the session. A recipient of a further one gets 452.
#
# A client that sends no more than was announced is never refused. After HELO nothing was announced, and nothing is enforced.

# RFC 9422 4: one to six digits, not beginning with zero.
NUMBER = re.compile(r"[1-9][0-9]{0,5}")


def _check_limit(_: object, attribute: Attribute[int | None], value: int | None) -> None:
    check_type(value, attribute.name, int, optional=True)
    if value is not None and NUMBER.fullmatch(str(value)) is None:
        raise ValueError(f"{attribute.name} must be between 1 and 999999 (RFC 9422 4), got {value}")


@frozen(eq=False, repr=False)
class LimitsExtension(Extension, Value):
    """Limits of a session (RFC 9422). None means that a limit is not announced.

    ``mail_max`` is the number of transactions in a session, ``rcpt_max`` the number of recipients of a message, and
    ``rcpt_domain_max`` the number of domains of recipients in a session. Raises ValueError for limits that are not between
    1 and 999999.

    A subclass that overrides `in_state` has other limits under TLS, or for users that have authenticated.
    """

    mail_max: int | None = field(default=None, validator=_check_limit)
    rcpt_max: int | None = field(default=None, validator=_check_limit)
    rcpt_domain_max: int | None = field(default=None, validator=_check_limit)

    keyword = "LIMITS"
    rfc = 9422

    checks: ClassVar[Sequence[type[Command]]] = (Mail, Rcpt)

    def in_state(self, state: SessionState) -> LimitsExtension:
        """Server: return the limits of a session in this state: these ones. They must not become lower before the next EHLO."""
        return self

    def advertise(self, state: SessionState) -> str | None:
        """Return the EHLO line, or None when no limit is set."""
        limits_now = self.in_state(state)
        values = {name: getattr(limits_now, attribute) for name, attribute in NAMES.items()}
        limits = [f"{name}={value}" for name, value in values.items() if value is not None]
        return " ".join(["LIMITS", *limits]) if limits else None

    def parse_offer(self, words: Sequence[str]) -> LimitsExtension:
        """Return the limits that the server announces. Unknown and invalid ones are ignored (RFC 9422 3)."""
        limits = {}
        for word in words:
            name, _, value = word.partition("=")
            attribute = NAMES.get(name.upper())
            if attribute is not None and NUMBER.fullmatch(value):
                limits[attribute] = int(value)
        return LimitsExtension(**limits)

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Count a MAIL or a RCPT, and refuse it if it is one too many."""
        if self.keyword not in state.offered:
            return None
        limits = self.in_state(state)
        if isinstance(command, Mail):
            state.transactions += 1
            too_many = limits.mail_max is not None and state.transactions > limits.mail_max
            return replies.TOO_MANY_TRANSACTIONS if too_many else None
        if limits.rcpt_max is not None and len(state.rcpts) >= limits.rcpt_max:
            return replies.TOO_MANY_RECIPIENTS
        if limits.rcpt_domain_max is not None and isinstance(command, Rcpt):
            domains = state.rcpt_domains | {(command.recipient.domain or "").lower()}
            if len(domains) > limits.rcpt_domain_max:
                return replies.TOO_MANY_DOMAINS
            state.rcpt_domains = domains
        return None
