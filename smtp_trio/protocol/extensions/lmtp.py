"""LMTP, RFC 2033: the protocol between a mail system and its delivery agent, which replies for each recipient.

LMTP is ESMTP with the verb LHLO in place of EHLO and HELO (RFC 2033 4.1), and with one reply for each accepted recipient
at the end of a message (4.2, 4.3). A client and a server know from their configuration that they use it, so this
extension has no EHLO keyword. The replies are counted in `ClientProtocol` and `ServerProtocol`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..commands import Ehlo, Helo
from ..dialogue import GREETED, READY, RECIPIENT, SENDER, Table
from ..extension import Commands, Extension
from .chunking import CHUNK_REFUSED, CHUNKS


class Lhlo(Ehlo):
    """LHLO, which is EHLO under another name (RFC 2033 4.1)."""

    __slots__ = ()

    verb = "LHLO"
    usage = "LHLO domain"


class Lmtp(Extension):
    """LMTP in place of SMTP (RFC 2033)."""

    keyword = "LMTP"
    rfc = 2033
    verbs: ClassVar[Commands] = (Lhlo,)
    replaces: ClassVar[Commands] = (Ehlo, Helo)
    requires: ClassVar[Sequence[str]] = ("PIPELINING", "ENHANCEDSTATUSCODES")  # RFC 2033 5
    #: The rows of EHLO.
    table: ClassVar[Table] = Table(
        accepted={Lhlo: dict.fromkeys((GREETED, READY, SENDER, RECIPIENT, CHUNKS, CHUNK_REFUSED), READY)}
    )

    def advertise(self, state: object) -> None:
        """Return None, because LMTP has no keyword."""
        return None
