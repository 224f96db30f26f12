"""LMTP, RFC 2033: the protocol between a mail system and its delivery agent, which replies for each recipient.

Adds the verb LHLO in place of EHLO (RFC 2033 4.1). Only clients use it, by ``lmtp=True``; the replies for each
recipient are counted in `ClientProtocol`. It has no EHLO keyword, because a client knows from its configuration that it
uses LMTP.
"""

from __future__ import annotations

from typing import ClassVar

from ..commands import Ehlo
from ..dialogue import GREETED, READY, RECIPIENT, SENDER, Table
from ..extension import Commands, Extension


class Lhlo(Ehlo):
    """LHLO, which is EHLO under another name (RFC 2033 4.1)."""

    __slots__ = ()

    verb = "LHLO"
    usage = "LHLO domain"


class Lmtp(Extension):
    """LMTP's verb LHLO (RFC 2033)."""

    keyword = "LMTP"
    rfc = 2033
    verbs: ClassVar[Commands] = (Lhlo,)
    table: ClassVar[Table] = Table(accepted={Lhlo: {GREETED: READY, READY: READY, SENDER: READY, RECIPIENT: READY}})

    def advertise(self, state: object) -> None:
        """Return None, because LMTP has no keyword."""
        return None
