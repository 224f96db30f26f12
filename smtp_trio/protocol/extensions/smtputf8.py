"""SMTPUTF8, RFC 6531: mailboxes and header fields in UTF-8.

Adds its EHLO keyword and the parameter ``SMTPUTF8`` of MAIL, VRFY and EXPN. A MAIL or RCPT with a mailbox outside ASCII
is refused unless the transaction began with the parameter (RFC 6531 3.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..commands import Command, Expn, Mail, Vrfy
from ..extension import CommandParams, Extension
from ..params import Param, format_flag, parse_flag
from ..replies import Reply
from ..session_state import SessionState

# One parameter object for three commands: on MAIL it covers the whole transaction, and RCPT has no parameter of its own
# (RFC 6531 3.4). On VRFY and EXPN it allows UTF-8 in the reply (RFC 6531 3.7.4.2). The server's own replies are always
# ASCII, which is allowed in both cases.

#: MAIL FROM:<...> SMTPUTF8. It has no value, and one with a value MUST NOT be accepted (RFC 6531 3.4).
SMTPUTF8: Param[bool] = Param("SMTPUTF8", parse_flag, format_flag, extra_octets=10, passed_on="if offered")

BAD_SENDER = Reply(550, "A non-ASCII sender needs the parameter SMTPUTF8", "5.6.7")
BAD_RECIPIENT = Reply(553, "A non-ASCII recipient needs the parameter SMTPUTF8 on MAIL", "5.6.7")


class SmtpUtf8(Extension):
    """Internationalized mail (RFC 6531)."""

    keyword = "SMTPUTF8"
    rfc = 6531
    params: ClassVar[CommandParams] = {Mail: (SMTPUTF8,), Vrfy: (SMTPUTF8,), Expn: (SMTPUTF8,)}
    requires: ClassVar[Sequence[str]] = ("8BITMIME",)  # RFC 6531 3.1 (8)


# A function and not `Extension.check_command`, because it applies without the extension too: a server that does not
# offer SMTPUTF8 must refuse such mailboxes all the same, and then no client can have sent the parameter.
def refuse_utf8(command: Command, state: SessionState) -> Reply | None:
    """Return the refusal of MAIL or RCPT with a non-ASCII mailbox, or None if SMTPUTF8 was given (RFC 6531 3.5)."""
    if isinstance(command, Mail):
        return None if SMTPUTF8 in command.params else BAD_SENDER
    return None if state.mail is not None and SMTPUTF8 in state.mail.params else BAD_RECIPIENT
