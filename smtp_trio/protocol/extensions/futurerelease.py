"""FUTURERELEASE, RFC 4865: a submitted message is kept until a given time.

Adds the EHLO line ``FUTURERELEASE seconds timestamp`` and the parameters ``HOLDFOR`` and ``HOLDUNTIL`` of MAIL. Not in
`STANDARD`: the application has to keep the message. RFC 4865 4.2 (2) allows it in message submission only, so it is
offered after AUTH.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from attrs import Attribute, field, frozen

from ..arguments import argument, check_number, check_type
from ..commands import Command, Mail
from ..errors import LocalProtocolError
from ..extension import CommandParams, Extension
from ..params import Param, Params
from ..replies import Reply
from ..session_state import SessionState
from ..timestamps import check_time, format_timestamp, parse_timestamp
from ..values import Value
from .deliverby import BY

# RFC 4865 3 (2): future-release-integer
INTERVAL = re.compile(r"[1-9][0-9]{0,8}")
MAX_INTERVAL = 999999999


def _parse_interval(value: str | None) -> int | None:
    return int(value) if value is not None and INTERVAL.fullmatch(value) else None


def _parse_until(value: str | None) -> int | None:
    # RFC 4865 3 (4): "normalized to UTC". The message must not be released earlier, so a fraction counts as a second.
    return parse_timestamp(value, up=True) if value is not None and value[-1:] in ("Z", "z") else None


#: The reply of an application to MAIL, if a user may not keep more messages (RFC 4865 6 (4)). The codes X.7.16 and X.7.17 of
#: that RFC have been registered for something else since, and are not used.
QUOTA_EXCEEDED = Reply(552, "Too many messages for later release", "5.7.0")

# A MAIL has one of the two at most, and RFC 4865 3 (5) has the octets of the longer one. A server that has kept the
# message does not pass them on.

#: MAIL FROM:<...> HOLDFOR=seconds.
HOLDFOR: Param[int] = Param("HOLDFOR", _parse_interval, str, passed_on="never")
#: MAIL FROM:<...> HOLDUNTIL=timestamp, in seconds since 1970.
HOLDUNTIL: Param[int] = Param("HOLDUNTIL", _parse_until, format_timestamp, extra_octets=34, passed_on="never")


def release_time(params: Params, received: int) -> int | None:
    """Return the time to release a message with these parameters of MAIL, or None; ``received`` is its time of arrival.

    Both are in seconds since 1970.
    """
    interval = params.get(HOLDFOR)
    return params.get(HOLDUNTIL) if interval is None else received + interval


def _check_interval(_: object, attribute: Attribute[int], value: int) -> None:
    check_number(value, attribute.name, integer=True)
    if value > MAX_INTERVAL:
        raise ValueError(f"{attribute.name} must be <= {MAX_INTERVAL} (RFC 4865 3), got {value}")


@frozen(eq=False, repr=False)
class FutureRelease(Extension, Value):
    """Messages for later release (RFC 4865). Not in `STANDARD`: the application has to keep them until then.

    ``max_interval`` is the greatest number of seconds for which a message can be kept, and ``max_date`` (in seconds since
    1970) the latest time of release; None means ``max_interval`` seconds from now. The extension is not offered if
    ``max_interval`` is 0, or if it has neither a ``max_date`` nor a clock (``SessionState.now``), and only to authenticated
    clients unless ``authenticated`` is false.
    """

    max_interval: int = field(default=0, validator=_check_interval)
    max_date: int | None = field(default=None, validator=argument(check_time, optional=True))
    authenticated: bool = field(default=True, validator=argument(check_type, bool))

    keyword = "FUTURERELEASE"
    rfc = 4865
    params: ClassVar[CommandParams] = {Mail: (HOLDFOR, HOLDUNTIL)}
    checks: ClassVar[Sequence[Param[int]]] = (HOLDFOR, HOLDUNTIL)
    offer_varies = True

    def advertise(self, state: SessionState) -> str | None:
        """Return the EHLO line, or None to clients that may not use it."""
        latest = self._latest(state.now())
        if not self.max_interval or latest is None or (self.authenticated and state.user is None):
            return None
        return f"{self.keyword} {self.max_interval} {format_timestamp(latest)}"

    def parse_offer(self, words: Sequence[str]) -> FutureRelease:
        """Return an extension with the server's limits. Without valid ones nothing can be requested."""
        interval, date, *_ = *words, "", ""
        return FutureRelease(_parse_interval(interval) or 0, parse_timestamp(date))

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Refuse a time that is not valid with 501 (RFC 4865 4.2 (7) to (11), 5.2.2)."""
        problem = self._problem(command, state.now())
        return None if problem is None else Reply(501, problem, "5.5.4")

    def check_request(self, command: Command, *, verified: bool) -> None:
        """Refuse a time that the server does not accept (RFC 4865 4.1 (2) to (4), 5.2.1).

        Without a clock, HOLDUNTIL cannot be compared with BY. The server does that.
        """
        if (problem := self._problem(command, None)) is not None:
            raise LocalProtocolError(f"{problem} (RFC 4865 4.1)")

    def _latest(self, now: int | None) -> int | None:
        return now + self.max_interval if self.max_date is None and now is not None else self.max_date

    def _problem(self, command: Command, now: int | None) -> str | None:
        params = command.params if isinstance(command, Mail) else Params()
        interval, until, by = params.get(HOLDFOR), params.get(HOLDUNTIL), params.get(BY)
        if interval is not None and until is not None:
            return "HOLDFOR and HOLDUNTIL exclude each other"
        if interval is not None and interval > self.max_interval:
            return f"HOLDFOR must be at most {self.max_interval} seconds"
        latest = self._latest(now)
        if until is not None and latest is not None and until > latest:
            return f"HOLDUNTIL must be at most {format_timestamp(latest)}"
        seconds = interval
        if until is not None and now is not None:
            seconds = until - now
        if by is not None and seconds is not None and seconds > by.seconds:
            return "the message would be released later than BY"
        return None
