"""Greylisting (RFC 6647)."""

from __future__ import annotations

import hashlib

import trio

from .._server.client_memory import Memory, group_of, subnet_of
from .._server.hooks import Hooks
from .._server.session import Session
from ..protocol import Rcpt, Reply
from ..protocol.arguments import check_number
from ._layer import Layer

# Triples that are waiting and triples that have passed are kept apart. Anyone can add a waiting one with a RCPT, but
# one that has passed costs its sender the delay and a second attempt. So a flood of RCPT commands, from however many
# networks, removes waiting triples only: correspondents that are known already are not delayed again.
#
# A key is the digest of a triple, since paths have up to 320 octets each.


class Greylist(Layer):
    """Reply 450 to each new triple of client, sender and recipient until ``seconds`` after it was first seen (RFC 6647).

    The client is the /24 of its IPv4 address or the /64 of its IPv6 address, since large senders try again from another
    host. An authenticated client is not delayed.

    :param seconds: how long a new triple is refused.
    :param forget: seconds after which a triple that was not accepted is new again.
    :param remember: seconds after its last use for which an accepted triple stays accepted.
    :param max_entries: the number of triples that are remembered, of those that wait and of those that were accepted.
        When there are more, the network with the most triples loses its oldest one.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: a number is negative, or ``max_entries`` is less than 1.
    """

    def __init__(
        self,
        hooks: Hooks | None = None,
        seconds: float = 300,
        *,
        forget: float = 14400,
        remember: float = 35 * 86400,
        max_entries: int = 20000,
    ) -> None:
        super().__init__(hooks)
        check_number(seconds, "seconds")
        check_number(forget, "forget")
        check_number(remember, "remember")
        check_number(max_entries, "max_entries", 1, integer=True)
        self.seconds = seconds
        self._waiting: Memory[float] = Memory(max_entries, forget)  # with the time when the triple was first seen
        self._passed: Memory[bool] = Memory(max_entries, remember)

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        if session.user is None and (reply := self._delay(session, rcpt)) is not None:
            return reply
        return await self.under.rcpt(session, rcpt)

    def _delay(self, session: Session, rcpt: Rcpt) -> Reply | None:
        """Return the refusal of a recipient whose triple has to wait; None for one that has passed."""
        assert session.envelope is not None
        triple = subnet_of(session.peer), session.envelope.sender.raw, rcpt.recipient.raw
        key, group = hashlib.blake2b("\0".join(triple).encode(), digest_size=16).digest(), group_of(session.peer)
        if not self._passed.get(key):
            now = trio.current_time()
            first = self._waiting.get(key)
            if first is None:
                first = now
                self._waiting.put(key, group, first)
            if now - first < self.seconds:
                wait = self.seconds - (now - first)
                return Reply(450, f"Greylisted; try again in {wait:.0f} seconds", "4.7.1")
            self._waiting.discard(key)
        self._passed.put(key, group, True)
        return None
