"""What large receivers do to those who send them much, as layers around hooks: limits that follow from what a client did, not dice.

Each is hooks around other hooks, so they compose: ``Greylist(MessagesPerConnection(inbox, 20))``. Time is Trio's, so under a clock of
one's own five minutes are no time at all. What they remember they remember in themselves: one layer, one memory, all sessions.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque

import trio

from ..._server.hooks import Hooks
from ..._server.session import Session
from ..._types import Peer
from ...protocol import Mail, Rcpt, Reply
from .decisions import Layer, late


def who(peer: Peer) -> str:
    """What a client is remembered by: its host, as it comes from another port each time."""
    return peer.host or peer.kind


class Greylist(Layer):
    """450 to each new triple of peer, sender and recipient, until ``seconds`` have passed since it was first seen (RFC 6647).

    A triple that came back later than ``forget`` seconds begins anew.
    """

    def __init__(self, hooks: Hooks | None = None, seconds: float = 300, *, forget: float = 14400) -> None:
        super().__init__(hooks)
        self.seconds = seconds
        self.forget = forget
        self._seen: dict[tuple[str, str, str], float] = {}
        self._passed: set[tuple[str, str, str]] = set()

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        assert session.envelope is not None
        triple = who(session.peer), session.envelope.sender.raw, rcpt.recipient.raw
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
    """421 to the MAIL behind the first ``most`` of a connection: come again over another one.

    Each MAIL that was in order counts, whatever became of its message.
    """

    def __init__(self, hooks: Hooks | None = None, most: int = 20) -> None:
        super().__init__(hooks)
        self.most = most

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        begun: int = session.context.get(self, 0)
        if begun >= self.most:
            return Reply(421, "Too many messages in this connection; closing it", "4.7.0")
        session.context[self] = begun + 1
        return await self.under.mail(session, mail)


class RecipientsPerMessage(Layer):
    """452 to every recipient beyond ``most`` of one message; the client sends them another (RFC 5321 4.5.3.1.10)."""

    def __init__(self, hooks: Hooks | None = None, most: int = 100) -> None:
        super().__init__(hooks)
        self.most = most

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        assert session.envelope is not None
        if len(session.envelope.rcpts) >= self.most:
            return Reply(452, "Too many recipients in this message", "4.5.3")
        return await self.under.rcpt(session, rcpt)


class ConnectionsPerPeer(Layer):
    """421 in the place of a greeting to a peer who has ``most`` connections open."""

    def __init__(self, hooks: Hooks | None = None, most: int = 10) -> None:
        super().__init__(hooks)
        self.most = most
        self._open: Counter[str] = Counter()

    async def connect(self, session: Session) -> Reply | None:
        self._open[who(session.peer)] += 1
        if self._open[who(session.peer)] > self.most:
            return Reply(421, "Too many connections from your host; try again later", "")
        return await self.under.connect(session)

    async def disconnect(self, session: Session) -> None:
        self._open[who(session.peer)] -= 1
        await self.under.disconnect(session)


class MessageRate(Layer):
    """421 to a peer's MAIL behind ``most`` of its own in the last ``seconds``, over all its connections.

    Each MAIL that was in order counts, whatever became of its message, but for those that this one refuses.
    """

    def __init__(self, hooks: Hooks | None = None, most: int = 100, seconds: float = 3600) -> None:
        super().__init__(hooks)
        self.most = most
        self.seconds = seconds
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        times, now = self._times[who(session.peer)], trio.current_time()
        while times and now - times[0] >= self.seconds:
            times.popleft()
        if len(times) >= self.most:
            return Reply(421, "Unusual rate of mail from your host; try again later", "4.7.28")
        times.append(now)
        return await self.under.mail(session, mail)


class Tarpit(Layer):
    """Every answer to a session comes ``seconds`` later for each error that it made, and ``most`` at most. Errors are 4yz and 5yz.

    So do answers to what is no command, or out of order. What a server says unasked, a 421 when it stops, is not late.
    """

    def __init__(self, hooks: Hooks | None = None, seconds: float = 5, *, most: float = 60) -> None:
        super().__init__(hooks)
        self.seconds = seconds
        self.most = most

    async def response(self, session: Session, reply: Reply) -> None:
        errors: int = session.context.get(self, 0)
        session.context[self] = errors + reply.refused
        if errors and reply.code not in (221, 421):  # the last reply of a session is not delayed
            await late(session, min(self.most, self.seconds * errors))
        await self.under.response(session, reply)
