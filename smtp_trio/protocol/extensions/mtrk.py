"""MTRK, RFC 3885: the sender can ask later what has become of a message.

Adds its EHLO keyword and the parameter ``MTRK=certifier[:seconds]`` of MAIL, which needs the ENVID of DSN. Not in
`STANDARD`: the application has to keep the data, and answer requests for them (RFC 3887).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import ClassVar

from attrs import evolve, frozen

from ..commands import Command, Mail
from ..errors import LocalProtocolError
from ..extension import CommandParams, Extension
from ..params import Param
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value
from .dsn import ENVID

# RFC 3885 3.1. The certifier is a hash in base64, without "=" at its end, which the value of a parameter cannot have
# (RFC 5321 4.1.2): the 160 bits of SHA-1 are 27 characters (RFC 3885 3.2).
MTRK_VALUE = re.compile(r"([A-Za-z0-9+/]+)(?::([0-9]{1,9}))?", re.ASCII)
MAX_CERTIFIER = 172

NEEDS_ENVID = "MTRK requires ENVID"


@frozen(eq=False, repr=False)
class Tracking(Value):
    """A request to keep data on the delivery of a message.

    ``certifier`` is the SHA-1 of a secret by which the sender identifies itself later, and ``timeout`` the number of seconds
    for which the data are to be kept; None for the server's default.
    """

    certifier: bytes
    timeout: int | None = None

    def after(self, seconds: int) -> Tracking | None:
        """Return the value to pass on after a relay has kept the message for ``seconds``, or None if the time is over."""
        if self.timeout is None:
            return self
        return evolve(self, timeout=self.timeout - seconds) if self.timeout > seconds else None


def _parse_mtrk(value: str | None) -> Tracking | None:
    match = MTRK_VALUE.fullmatch(value) if value is not None else None
    if match is None or len(match[1]) > MAX_CERTIFIER or len(match[1]) % 4 == 1:
        return None
    certifier = base64.b64decode(f"{match[1]}==")
    return Tracking(certifier, None if match[2] is None else int(match[2]))


def _format_mtrk(tracking: Tracking) -> str:
    certifier = base64.b64encode(tracking.certifier).decode().rstrip("=")
    return certifier if tracking.timeout is None else f"{certifier}:{tracking.timeout}"


#: MAIL FROM:<...> MTRK=certifier[:seconds] (RFC 3885 3.1). Only a server with the extension is sent it (3.3).
MTRK: Param[Tracking] = Param(
    "MTRK", _parse_mtrk, _format_mtrk, extra_octets=40, passed_on="if offered", aged=Tracking.after
)


class MessageTracking(Extension):
    """Message tracking (RFC 3885). Not in `STANDARD`: the application has to keep the data."""

    keyword = "MTRK"
    rfc = 3885
    params: ClassVar[CommandParams] = {Mail: (MTRK,)}
    checks: ClassVar[Sequence[Param[Tracking]]] = (MTRK,)
    requires: ClassVar[Sequence[str]] = ("DSN",)

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Refuse MTRK without ENVID (RFC 3885 3.2)."""
        assert isinstance(command, Mail)
        return None if ENVID in command.params else Reply(501, NEEDS_ENVID, "5.5.4")

    def check_request(self, command: Command, *, verified: bool) -> None:
        """Refuse MTRK without ENVID (RFC 3885 3.2)."""
        if isinstance(command, Mail) and MTRK in command.params and ENVID not in command.params:
            raise LocalProtocolError(f"{NEEDS_ENVID} (RFC 3885 3.2)")
