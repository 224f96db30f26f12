"""Limits that large mailbox providers impose on senders, as layers around hooks.

The layers compose: ``Greylist(MessagesPerConnection(inbox, 20))``. Time is Trio's, so under a MockClock five minutes
pass at once. Each layer has its own memory, which all sessions share.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque

import trio

from ..._server.hooks import Hooks
from ..._server.session import Session
from ..._types import Peer
from ...protocol import Mail, Rcpt, Reply
from .layer import Layer, delay_reply


def peer_key(peer: Peer) -> str:
    """Return the key by which a client is remembered: its host, since its port changes with each connection."""
    return peer.host or peer.kind


class Greylist(Layer):
    """Reply 450 to each new triple of peer, sender and recipient until ``seconds`` after it was first seen (RFC 6647).

    A triple that is not accepted within ``forget`` seconds is new again.
    """

    def __init__(self, hooks: Hooks | None = None, seconds: float = 300, *, forget: float = 14400) -> None:
        super().__init__(hooks)
        self.seconds = seconds
        self.forget = forget
        self._seen: dict[tuple[str, str, str], float] = {}
        self._passed: set[tuple[str, str, str]] = set()

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        assert session.envelope is not None
        triple = peer_key(session.peer), session.envelope.sender.raw, rcpt.recipient.raw
        now = trio.current_time()
        if triple not in self._passed:
            if now - self._seen.get(triple, -self.forget) >= self.forget:
                self._seen[triple] = now
            waited = now - self._seen[triple]
            if waited < self.seconds:
                return Reply(450, f"Greylisted; try again in {self.seconds - waited:.0f} seconds", "4.7.1")
            self._passed.add(triple)
        return await self.under.rcpt(session, rcpt)


class MessagesPerConnection(Layer):
    """Reply 421 to each MAIL after the first ``limit`` of a connection, so that the client has to reconnect.

    Each valid MAIL counts, whether its message is accepted or not.
    """

    def __init__(self, hooks: Hooks | None = None, limit: int = 20) -> None:
        super().__init__(hooks)
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
        self.limit = limit

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        assert session.envelope is not None
        if len(session.envelope.rcpts) >= self.limit:
            return Reply(452, "Too many recipients in this message", "4.5.3")
        return await self.under.rcpt(session, rcpt)


class ConnectionsPerPeer(Layer):
    """Reply 421 instead of a greeting to a peer that has ``limit`` connections open."""

    def __init__(self, hooks: Hooks | None = None, limit: int = 10) -> None:
        super().__init__(hooks)
        self.limit = limit
        self._open: Counter[str] = Counter()

    async def connect(self, session: Session) -> Reply | None:
        self._open[peer_key(session.peer)] += 1
        if self._open[peer_key(session.peer)] > self.limit:
            return Reply(421, "Too many connections from your host; try again later", "")
        return await self.under.connect(session)

    async def disconnect(self, session: Session) -> None:
        self._open[peer_key(session.peer)] -= 1
        await self.under.disconnect(session)


class MessageRate(Layer):
    """Reply 421 to each MAIL of a peer after ``limit`` of its MAIL commands within ``seconds``, over all its
    connections.

    Each valid MAIL counts, whether its message is accepted or not, except those that this layer refuses.
    """

    def __init__(self, hooks: Hooks | None = None, limit: int = 100, seconds: float = 3600) -> None:
        super().__init__(hooks)
        self.limit = limit
        self.seconds = seconds
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        times, now = self._times[peer_key(session.peer)], trio.current_time()
        while times and now - times[0] >= self.seconds:
            times.popleft()
        if len(times) >= self.limit:
            return Reply(421, "Unusual rate of mail from your host; try again later", "4.7.28")
        times.append(now)
        return await self.under.mail(session, mail)


class Tarpit(Layer):
    """Delay each reply by ``seconds`` for each 4yz or 5yz reply that the session has had before, up to ``limit``
    seconds.

    Replies to invalid commands are included; a 421 that the server sends when it stops is not.
    """

    def __init__(self, hooks: Hooks | None = None, seconds: float = 5, *, limit: float = 60) -> None:
        super().__init__(hooks)
        self.seconds = seconds
        self.limit = limit

    async def response(self, session: Session, reply: Reply) -> None:
        errors: int = session.context.get(self, 0)
        session.context[self] = errors + reply.refused
        if errors and reply.code not in (221, 421):  # the last reply of a session is not delayed
            await delay_reply(session, min(self.limit, self.seconds * errors))
        await self.under.response(session, reply)
