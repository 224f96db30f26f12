"""8BITMIME, RFC 6152: messages may contain octets above 127.

Adds its EHLO keyword and the parameter ``BODY=7BIT | 8BITMIME | BINARYMIME`` of MAIL. The third value is accepted only
where BINARYMIME (RFC 3030) is offered too. A message with such octets and without the parameter is accepted and kept
unchanged: RFC 6152 leaves that to the server, and refusing it would lose mail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..commands import Command, Mail
from ..extension import CommandParams, Extension
from ..params import Param, PassedOn
from ..replies import Reply
from ..session_state import SessionState

# RFC 6152 2 (4), RFC 3030 3 (4)
BODIES = frozenset({"7BIT", "8BITMIME", "BINARYMIME"})

BINARYMIME_NOT_OFFERED = Reply(501, "BODY=BINARYMIME is not offered", "5.5.4")


def _parse_body(value: str | None) -> str | None:
    # isascii() first: upper() turns some other letters into ASCII ones (the dotless i, for example).
    return value.upper() if value is not None and value.isascii() and value.upper() in BODIES else None


def _passed_on(body: str) -> PassedOn:
    # A client sets BODY itself, by the octets of the message. Only BINARYMIME is kept: it shows how they were received.
    return "always" if body == "BINARYMIME" else "never"


#: MAIL FROM:<...> BODY=7BIT | 8BITMIME | BINARYMIME. RFC 3030 3 (8) has the octets of the longest value.
BODY: Param[str] = Param("BODY", _parse_body, str, extra_octets=16, passed_on=_passed_on)


class EightBitMime(Extension):
    """8-bit MIME transport (RFC 6152)."""

    keyword = "8BITMIME"
    rfc = 6152
    params: ClassVar[CommandParams] = {Mail: (BODY,)}
    checks: ClassVar[Sequence[Param[str]]] = (BODY,)

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Refuse BODY=BINARYMIME with 501 where BINARYMIME is not offered."""
        if isinstance(command, Mail) and command.params.get(BODY) == "BINARYMIME" and "BINARYMIME" not in state.offered:
            return BINARYMIME_NOT_OFFERED
        return None
