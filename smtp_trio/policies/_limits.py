"""Limits on what one connection or one client may do at a time."""

from __future__ import annotations

from collections import Counter

from .._server.client_memory import address_of
from .._server.hooks import Hooks
from .._server.session import Session
from ..protocol import Mail, Rcpt, Reply
from ..protocol.arguments import check_number
from ._layer import Layer


class MessagesPerConnection(Layer):
    """Reply 421 to each MAIL after the first ``limit`` of a connection, so that the client has to reconnect.

    Each valid MAIL counts, whether its message is accepted or not.
    """

    def __init__(self, hooks: Hooks | None = None, limit: int = 20) -> None:
        super().__init__(hooks)
        check_number(limit, "limit", 1, integer=True)
        self.limit = limit

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        begun: int = session.context.get(self, 0)
        if begun >= self.limit:
            return Reply(421, "Too many messages in this connection; closing it", "4.7.0")
        session.context[self] = begun + 1
        return await self.under.mail(session, mail)


class RecipientsPerMessage(Layer):
    """Reply 452 to each RCPT after ``limit`` recipients of a message; the client sends it again to the others (RFC 5321
    4.5.3.1.10).
    """

    def __init__(self, hooks: Hooks | None = None, limit: int = 100) -> None:
        super().__init__(hooks)
        check_number(limit, "limit", 1, integer=True)
        self.limit = limit

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        assert session.envelope is not None
        if len(session.envelope.rcpts) >= self.limit:
            return Reply(452, "Too many recipients in this message", "4.5.3")
        return await self.under.rcpt(session, rcpt)


class ConnectionsPerPeer(Layer):
    """Reply 421 instead of a greeting to a client that has ``limit`` connections open.

    The client is an IPv4 address or the /64 of an IPv6 address. Unlike `Limits.per_peer`, it applies to the ports with
    this layer, and also to local clients.
    """

    def __init__(self, hooks: Hooks | None = None, limit: int = 10) -> None:
        super().__init__(hooks)
        check_number(limit, "limit", 1, integer=True)
        self.limit = limit
        self._open: Counter[str] = Counter()  # has no more entries than there are sessions

    async def connect(self, session: Session) -> Reply | None:
        # `disconnect` needs the same key, and the hooks below may replace `session.peer`.
        key = session.context[self] = address_of(session.peer)
        self._open[key] += 1
        if self._open[key] > self.limit:
            return Reply(421, "Too many connections from your host; try again later", "")
        return await self.under.connect(session)

    async def disconnect(self, session: Session) -> None:
        if (key := session.context.pop(self, None)) is not None:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
        await self.under.disconnect(session)
