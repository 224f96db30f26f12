"""LIMITS, RFC 9422: how many messages and recipients a session may have, said before anybody runs into it.

Not in `STANDARD`: what it announces is for the application to enforce.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import Attribute, field, frozen

from ..extension import Extension
from ..session_state import SessionState

#: The limits that RFC 9422 4 begins with, and where they are kept.
NAMES = {"MAILMAX": "mail_max", "RCPTMAX": "rcpt_max", "RCPTDOMAINMAX": "rcpt_domain_max"}
# RFC 9422 4: up to six digits, and not zero.
NUMBER = re.compile(r"[1-9][0-9]{0,5}")


def _possible(_: object, attribute: Attribute[int | None], value: int | None) -> None:
    if value is not None and NUMBER.fullmatch(str(value)) is None:
        raise ValueError(f"{attribute.name} must be between 1 and 999999 (RFC 9422 4), not {value}")


@frozen
class LimitsExtension(Extension):
    """Limits of a session (RFC 9422). A client learns them, a server tells those that it was made with. None: not told.

    ``mail_max`` is how many messages may be begun in a session, ``rcpt_max`` how many recipients one may have, and
    ``rcpt_domain_max`` in how many domains they may be.
    """

    mail_max: int | None = field(default=None, validator=_possible)
    rcpt_max: int | None = field(default=None, validator=_possible)
    rcpt_domain_max: int | None = field(default=None, validator=_possible)

    keyword = "LIMITS"

    def advertise(self, state: SessionState) -> str | None:
        limits = [f"{name}={value}" for name, at in NAMES.items() if (value := getattr(self, at)) is not None]
        return " ".join(["LIMITS", *limits]) if limits else None

    def parse_offer(self, words: Sequence[str]) -> LimitsExtension:
        # RFC 9422 3: limits that are unknown, or make no sense, are ignored.
        limits = {}
        for word in words:
            name, _, value = word.partition("=")
            at = NAMES.get(name.upper())
            if at is not None and NUMBER.fullmatch(value):
                limits[at] = int(value)
        return LimitsExtension(**limits)
