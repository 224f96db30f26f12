"""REQUIRETLS, RFC 8689: the message must be sent over TLS, to servers whose names are verified, all the way.

Adds its EHLO keyword, shown inside TLS only, and the parameter ``REQUIRETLS`` of MAIL. Not in `STANDARD`: a server that
offers it has to pass messages on only in this way, which the application does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..commands import Mail
from ..extension import CommandParams, Extension
from ..params import Param, Params, format_flag, parse_flag
from ..replies import Reply
from ..session_state import SessionState

# RFC 8689 4.2.1 has two status codes for a message that cannot be passed on: X.7.10 if TLS fails, or the name of the server
# is not verified, and X.7.30 if the server, which is known by then, does not offer the extension.

#: MAIL FROM:<...> REQUIRETLS. It has no value (RFC 8689 2 (4)).
REQUIRETLS: Param[bool] = Param(
    "REQUIRETLS", parse_flag, format_flag, extra_octets=11, unsupported="5.7.30", unverified="5.7.10"
)
#: The reply for a message that must not be sent to an exchanger because its name is not verified (RFC 8689 4.2.1).
TLS_NEEDED = Reply(550, "Encryption with a verified server name needed for REQUIRETLS", "5.7.10")


class RequireTls(Extension):
    """Messages that are sent over TLS only (RFC 8689). Not in `STANDARD`: the application has to act on the parameter."""

    keyword = "REQUIRETLS"
    rfc = 8689
    params: ClassVar[CommandParams] = {Mail: (REQUIRETLS,)}

    def advertise(self, state: SessionState) -> str | None:
        """Return the keyword inside TLS, otherwise None: only then may a client use the parameter (RFC 8689 2)."""
        return self.keyword if state.secure else None


def tls_optional(params: Params, fields: Sequence[str]) -> bool:
    """Return whether the sender of a message asks to ignore the TLS policies of its recipients' domains.

    ``params`` are those of its MAIL, and ``fields`` the values of its ``TLS-Required`` header fields (RFC 8689 3). With
    REQUIRETLS the field has no effect (RFC 8689 4.1). A message must not have two such fields; two have no effect either.
    """
    return REQUIRETLS not in params and [value.strip().lower() for value in fields] == ["no"]
