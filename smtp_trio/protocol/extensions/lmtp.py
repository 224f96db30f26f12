"""LMTP, RFC 2033: the dialogue between a mail system and its delivery agent, which answers for each recipient."""

from __future__ import annotations

from typing import ClassVar

from ..commands import Ehlo
from ..dialogue import GREETED, READY, RECIPIENT, SENDER, Table
from ..extension import Commands, Extension


class Lhlo(Ehlo):
    """LHLO: what EHLO is in SMTP (RFC 2033 4.1)."""

    __slots__ = ()

    verb = "LHLO"
    usage = "LHLO domain"


class Lmtp(Extension):
    """LHLO, which nobody advertises: whoever connects knows what is spoken here."""

    keyword = "LMTP"
    verbs: ClassVar[Commands] = (Lhlo,)
    table: ClassVar[Table] = Table(
        accepted={Lhlo: {GREETED: READY, READY: READY, SENDER: READY, RECIPIENT: READY}}, proceed={}, refused={}
    )

    def advertise(self, state: object) -> None:
        return None
