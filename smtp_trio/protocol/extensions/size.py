"""SIZE, RFC 1870: the server says how much it takes, the client says how much is coming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attrs import frozen

from .. import replies, syntax
from ..commands import Command, Mail
from ..extension import CommandParams, Extension
from ..params import Param
from ..replies import Reply
from ..session_state import SessionState


def _octets(value: str | None) -> int | None:
    # size-value ::= 1*20DIGIT (RFC 1870 3). int() alone would take "+5", "1_0" and the digits of other scripts.
    return int(value) if value is not None and syntax.DIGITS.fullmatch(value) else None


#: MAIL FROM:<…> SIZE=octets: an estimate, never used to find the end of the message (RFC 1870 6).
SIZE: Param[int] = Param("SIZE", _octets, str, extra_octets=26)


@frozen
class Size(Extension):
    """Message size declaration (RFC 1870). A client learns ``limit``; a server's is its ``size``. 0: no limit known."""

    limit: int = 0

    keyword = "SIZE"
    params: ClassVar[CommandParams] = {Mail: (SIZE,)}
    checks: ClassVar[Sequence[Param[int]]] = (SIZE,)

    def advertise(self, state: SessionState) -> str:
        # RFC 1870 4: "SIZE 0" says that there is no fixed limit.
        return f"SIZE {state.size}"

    def parse_offer(self, words: Sequence[str]) -> Size:
        # RFC 1870 4: the number may be missing, when the server would not tell.
        return Size(_octets(words[0]) or 0) if words else self

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        if isinstance(command, Mail) and 0 < state.size < command.params.get(SIZE, 0):
            return replies.TOO_BIG  # RFC 1870 6.1 (2)
        return None
