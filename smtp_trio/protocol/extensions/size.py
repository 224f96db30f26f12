"""SIZE, RFC 1870: the server announces its size limit, and the client the size of the message that it will send.

Adds the EHLO line ``SIZE octets`` and the parameter ``SIZE=octets`` of MAIL. The client's number is an estimate: it can
get MAIL refused early, but never marks the end of a message (RFC 1870 6). The limit itself is enforced while the
message is received.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attrs import field, frozen

from .. import replies, syntax
from ..arguments import argument, check_number
from ..commands import Command, Mail
from ..extension import CommandParams, Extension
from ..params import Param
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value


def _parse_octets(value: str | None) -> int | None:
    # size-value ::= 1*20DIGIT (RFC 1870 3). int() alone would accept "+5", "1_0" and digits outside ASCII.
    return int(value) if value is not None and syntax.DIGITS.fullmatch(value) else None


# RFC 1870 6.1 lets a server refuse MAIL when the declared size is over its limit (552), or over what it can store now
# (452). The first is checked here. The second, and the limits of single mailboxes, are for the hooks of MAIL and RCPT,
# which find the size in ``mail.params.get(SIZE)``. A message that is larger than declared is accepted up to the limit
# (RFC 1870 6.3): the client may have counted the octets before its line ends became CRLF.

#: MAIL FROM:<...> SIZE=octets (RFC 1870 6).
SIZE: Param[int] = Param("SIZE", _parse_octets, str, extra_octets=26, passed_on="never")


@frozen(eq=False, repr=False)
class Size(Extension, Value):
    """Message size declaration (RFC 1870).

    ``limit`` is what a server has announced to a client, in octets; 0 means that no limit is known. A server announces
    its own setting ``size``.
    """

    limit: int = field(default=0, validator=argument(check_number, integer=True))

    keyword = "SIZE"
    rfc = 1870
    params: ClassVar[CommandParams] = {Mail: (SIZE,)}
    checks: ClassVar[Sequence[Param[int]]] = (SIZE,)

    def advertise(self, state: SessionState) -> str:
        """Return the EHLO line. "SIZE 0" means no fixed limit (RFC 1870 4)."""
        return f"SIZE {state.size}"

    def parse_offer(self, words: Sequence[str]) -> Size:
        """Return an extension with the server's limit. RFC 1870 4 allows a server to leave the number out."""
        return Size(_parse_octets(words[0]) or 0) if words else self

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Refuse a MAIL whose declared size is over the limit (RFC 1870 6.1 (2))."""
        if isinstance(command, Mail) and 0 < state.size < command.params.get(SIZE, 0):
            return replies.TOO_BIG
        return None
