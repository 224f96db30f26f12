"""8BITMIME, RFC 6152: a message may hold octets above 127, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..commands import Command, Mail
from ..extension import CommandParams, Extension
from ..params import Param
from ..replies import Reply
from ..session_state import SessionState

# RFC 6152 2 (4) and RFC 3030 3 (4): the third needs an extension of its own to be offered.
BODIES = frozenset({"7BIT", "8BITMIME", "BINARYMIME"})


def _body(value: str | None) -> str | None:
    # upper() alone would make ASCII letters of others.
    return value.upper() if value is not None and value.isascii() and value.upper() in BODIES else None


#: MAIL FROM:<…> BODY=7BIT | 8BITMIME | BINARYMIME. RFC 3030 3 (8) makes room for it.
BODY: Param[str] = Param("BODY", _body, str, extra_octets=16)


class EightBitMime(Extension):
    """8-bit MIME transport (RFC 6152). Eight-bit data without the parameter is taken and kept as it is."""

    keyword = "8BITMIME"
    params: ClassVar[CommandParams] = {Mail: (BODY,)}
    checks: ClassVar[Sequence[Param[str]]] = (BODY,)

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        if isinstance(command, Mail) and command.params.get(BODY) == "BINARYMIME" and "BINARYMIME" not in state.offered:
            return Reply(501, "BODY=BINARYMIME is not offered here", "5.5.4")
        return None
