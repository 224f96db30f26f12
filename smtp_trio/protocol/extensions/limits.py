"""LIMITS, RFC 9422: the server announces how many messages a session and how many recipients a message may have.

Adds the EHLO line ``LIMITS`` with parameters such as ``RCPTMAX=100``. Not in `STANDARD`: the core does not enforce what
the line announces, so an application that offers it has to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import Attribute, field, frozen

from ..arguments import check_type
from ..extension import Extension
from ..session_state import SessionState

#: The limits that RFC 9422 4 defines, with the attributes of `LimitsExtension`.
NAMES = {"MAILMAX": "mail_max", "RCPTMAX": "rcpt_max", "RCPTDOMAINMAX": "rcpt_domain_max"}
# RFC 9422 3 lets a client ignore limits that it does not know, and RFC 9422 4 registers these three. A value that is
# malformed is ignored in the same way: a limit is advice, and a client that stopped because of it would deliver less
# mail than one that does not know the extension at all.

# RFC 9422 4: one to six digits, not beginning with zero.
NUMBER = re.compile(r"[1-9][0-9]{0,5}")


def _check_limit(_: object, attribute: Attribute[int | None], value: int | None) -> None:
    check_type(value, attribute.name, int, optional=True)
    if value is not None and NUMBER.fullmatch(str(value)) is None:
        raise ValueError(f"{attribute.name} must be between 1 and 999999 (RFC 9422 4), got {value}")


@frozen
class LimitsExtension(Extension):
    """Limits of a session (RFC 9422). None means that a limit is not announced.

    ``mail_max`` is the number of transactions in a session, ``rcpt_max`` the number of recipients of a message, and
    ``rcpt_domain_max`` the number of domains among these. Raises ValueError for limits that are not between 1 and
    999999.
    """

    mail_max: int | None = field(default=None, validator=_check_limit)
    rcpt_max: int | None = field(default=None, validator=_check_limit)
    rcpt_domain_max: int | None = field(default=None, validator=_check_limit)

    keyword = "LIMITS"
    rfc = 9422

    def advertise(self, state: SessionState) -> str | None:
        """Return the EHLO line, or None when no limit is set."""
        values = {name: getattr(self, attribute) for name, attribute in NAMES.items()}
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
