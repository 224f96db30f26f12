"""DELIVERBY, RFC 2852: the message is to be delivered within a given time.

Adds the EHLO line ``DELIVERBY [seconds]`` and the parameter ``BY=seconds;mode`` of MAIL. Not in `STANDARD`: the
application has to deliver in time, and to notify or return the message otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal, cast

from attrs import evolve, field, frozen

from ..arguments import argument, check_number
from ..commands import Command, Mail
from ..errors import NotOfferedError
from ..extension import CommandParams, Extension
from ..params import Param, PassedOn
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value

# RFC 2852 4: by-value
BY_VALUE = re.compile(r"([-+]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE | re.ASCII)
MINIMUM = re.compile(r"[0-9]{1,9}")
#: A by-time has nine digits at most.
MAX_SECONDS = 999999999

#: The reply for a message whose time is over: it is returned (RFC 2852 4.1.3).
EXPIRED = Reply(554, "Delivery time expired", "5.4.7")


@frozen(eq=False, repr=False)
class ByTime(Value):
    """The time by which a message is to be delivered: ``seconds`` from now.

    If that is not possible, the sender is to get the message back (``mode`` "R") or a notification ("N"); with "N" the
    time may be over already. ``trace`` requests a notification from each relay.
    """

    seconds: int
    mode: Literal["R", "N"]
    trace: bool = False

    def after(self, seconds: int) -> ByTime:
        """Return the time that is left after a relay has kept the message for ``seconds`` (RFC 2852 4.1)."""
        return evolve(self, seconds=max(self.seconds - seconds, -MAX_SECONDS))

    def reports_relay(self, *, offered: bool) -> bool:
        """Return whether a relay has to report that it has passed the message on (RFC 2852 4.1.4).

        ``offered`` is true if the next server offers the extension.
        """
        return self.trace or (self.mode == "N" and self.seconds > 0 and not offered)

    @property
    def expired(self) -> bool:
        """True if the time is over and the message has to be returned (RFC 2852 4.1.3)."""
        return self.mode == "R" and self.seconds <= 0


def _parse_by(value: str | None) -> ByTime | None:
    match = BY_VALUE.fullmatch(value) if value is not None else None
    if match is None:
        return None
    by = ByTime(int(match[1]), cast("Literal['R', 'N']", match[2].upper()), bool(match[3]))
    # RFC 2852 4: a message that is to be returned at once, or in the past, is a syntax error.
    return None if by.expired else by


def _format_by(by: ByTime) -> str:
    return f"{by.seconds};{by.mode}{'T' if by.trace else ''}"


def _passed_on(by: ByTime) -> PassedOn:
    return "always" if by.mode == "R" else "if offered"  # RFC 2852 4.1.4


#: MAIL FROM:<...> BY=seconds;mode (RFC 2852 4).
BY: Param[ByTime] = Param("BY", _parse_by, _format_by, extra_octets=17, passed_on=_passed_on, aged=ByTime.after)


@frozen(eq=False, repr=False)
class DeliverBy(Extension, Value):
    """Delivery within a given time (RFC 2852). Not in `STANDARD`: the application has to act on the parameter.

    ``minimum`` is the least number of seconds of a message that is to be returned otherwise; None for no limit.
    """

    minimum: int | None = field(
        default=None, validator=argument(check_number, maximum=MAX_SECONDS, integer=True, optional=True)
    )

    keyword = "DELIVERBY"
    rfc = 2852
    params: ClassVar[CommandParams] = {Mail: (BY,)}
    checks: ClassVar[Sequence[Param[ByTime]]] = (BY,)

    def advertise(self, state: SessionState) -> str:
        """Return the EHLO line (RFC 2852 3)."""
        return self.keyword if self.minimum is None else f"{self.keyword} {self.minimum}"

    def parse_offer(self, words: Sequence[str]) -> DeliverBy:
        """Return an extension with the server's minimum. Extensions of the parameter may follow it (RFC 2852 2 (3))."""
        minimum = "".join(words[:1]).partition(",")[0]
        return DeliverBy(int(minimum)) if MINIMUM.fullmatch(minimum) else DeliverBy()

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Refuse a time below the minimum with 555: RFC 2852 3 requires 55z."""
        if self._too_short(command):
            return Reply(555, f"BY must be at least {self.minimum} seconds with R", "5.5.4")
        return None

    def check_request(self, command: Command, *, verified: bool) -> None:
        """Refuse a time below the server's minimum. Another server may accept it (RFC 2852 4.1.4.1)."""
        if self._too_short(command):
            text = f"the server accepts BY from {self.minimum} seconds on (RFC 2852 3)"
            raise NotOfferedError(text, status="5.4.7")

    def _too_short(self, command: Command) -> bool:
        by = command.params.get(BY) if isinstance(command, Mail) else None
        return by is not None and by.mode == "R" and by.seconds < (self.minimum or 0)
