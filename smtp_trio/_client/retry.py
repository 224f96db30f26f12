"""The rule for sending a message again over a new connection after it failed on a kept one."""

from __future__ import annotations

from contextlib import suppress

import trio

from ..protocol import Mail, SMTPError
from ..protocol.dialogue import READY
from .client import Client
from .results import AllRecipientsRejectedError, ConnectionLostError

#: Seconds in which an idle connection must reply to NOOP. If it takes longer, a new connection is likely to be faster.
PROBE_TIMEOUT = 5


# When a message is sent again
#
# A server may close an idle connection at any time, and the client cannot always see that before it uses the connection
# again. The caller should not have to handle it. So a failed message is sent again over a new connection, but only
# once, only if a kept connection was used, and only if the server cannot have accepted anything of it:
#
# * the connection was lost before MAIL was sent (no transaction was begun);
# * the connection was lost before the reply to MAIL, and the message was not sent whole. With CHUNKING the whole message
#   may be in one group with MAIL. It may have arrived then, so `Client.send` raises DeliveryUnknownError instead;
# * the reply to MAIL was 421 or 221. Either means that the server closes the connection (RFC 5321 3.8 and 4.2.3), so it
#   refused everything after it in the group too. 221 should only answer QUIT, but servers send it at a time limit;
# * the reply to MAIL was another 4yz, and the server then closed the connection. Servers that have run into a limit of
#   the session do this ("451 4.4.2 Timeout - closing connection"). The close may arrive after the reply, so a NOOP finds
#   out whether it comes. If NOOP is answered, the refusal was about the message, and is raised.
#
# Every other failure is raised. A 5yz reply is about the message (RFC 5321 4.2.1), whether the server closes or not.
# `TimedOutError` is never retried: a server that is too slow for one connection would get the load of a second one, and
# the caller would wait twice as long.


async def can_be_sent_again(client: Client, begun: int, exc: ConnectionLostError | AllRecipientsRejectedError) -> bool:
    """Return whether the server ended the session of ``client`` before it can have accepted a message.

    ``begun`` is the number of transactions that were begun for the message, which failed with ``exc``.
    """
    if begun == 0:
        return True
    if begun > 1 or not isinstance(exc.command, Mail):
        return False
    if isinstance(exc, ConnectionLostError) or exc.reply.code == 421:
        return True
    return exc.reply.temporary and not (client.usable and await is_alive(client))


async def is_alive(client: Client) -> bool:
    """Return whether the server replies to NOOP, or to RSET if a transaction was left open."""
    ready = client._exchange.protocol.dialogue.phase is READY
    with trio.move_on_after(PROBE_TIMEOUT), suppress(SMTPError):
        await (client.noop() if ready else client.rset())
        return client.usable
    return False
