"""SMTPUTF8, RFC 6531: mailboxes and header fields in UTF-8.

Adds its EHLO keyword and the parameter ``SMTPUTF8`` of MAIL, VRFY and EXPN. A MAIL or RCPT with a mailbox outside ASCII
is refused unless the transaction began with the parameter (RFC 6531 3.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attrs import evolve

from .. import replies
from ..commands import Command, Expn, Mail, Query, Rcpt, Vrfy
from ..errors import BadCommandError
from ..extension import CommandParams, Extension
from ..lazy import lazy_pattern
from ..params import Param, format_flag, parse_flag
from ..replies import Reply
from ..session_state import SessionState

# One parameter object for three commands: on MAIL it covers the whole transaction, and RCPT has no parameter of its own
# (RFC 6531 3.4). On VRFY and EXPN it allows UTF-8 in the reply (RFC 6531 3.7.4.2). The server's own replies are always
# ASCII, which is allowed in both cases; those of an application need not be, see `permitted_reply`.

#: MAIL FROM:<...> SMTPUTF8. It has no value, and one with a value MUST NOT be accepted (RFC 6531 3.4).
SMTPUTF8: Param[bool] = Param("SMTPUTF8", parse_flag, format_flag, extra_octets=10, passed_on="if offered")

#: The reply to VRFY and EXPN in place of one with a mailbox that is not ASCII (RFC 6531 3.7.4.2 and 4.2).
UTF8_NOT_PERMITTED = Reply(252, "The mailbox can be shown with the parameter SMTPUTF8 only", "2.6.8")
NOT_ASCII = lazy_pattern(r"[^\0-\x7f]")
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


# RFC 6531 3.7.4: a client gets UTF-8 only in replies that name mailboxes, and only if it has asked for it. The client that
# has not may be one that closes the connection at an octet above 127, or takes it for one of another charset.
def permitted_reply(command: Command | BadCommandError | None, reply: Reply, state: SessionState) -> Reply:
    """Return what a client gets for a reply that is not ASCII: that reply, if RFC 6531 3.7.4 permits it after ``command``.

    Otherwise a mailbox is not named (3.7.4.1 and 3.7.4.2 have the codes), and in other texts the characters that are not
    ASCII become "?".
    """
    if isinstance(command, Query):
        if SMTPUTF8 in command.params:
            return reply
        if reply.accepted:
            return UTF8_NOT_PERMITTED
    elif isinstance(command, Rcpt) and state.mail is not None and SMTPUTF8 in state.mail.params:
        return reply
    if reply.code == 251:
        return replies.RECIPIENT_OK
    if reply.code == 551:
        return Reply(550, "User not local", reply.status or "5.1.6")
    return evolve(reply, text=NOT_ASCII.sub("?", reply.text))
