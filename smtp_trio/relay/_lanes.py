"""`Lanes`: the messages that a relay handles at the same time, so that domains that do not answer do not hold up others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import trio

from .._client.results import Accepted, Outcome, Rejected
from ..protocol import Connect

# Domains that do not answer
# --------------------------
#
# A server that accepts connections and sends nothing keeps each attempt for five minutes (RFC 5321 4.5.3.2.1). The store
# delivers messages in their order, whatever their domains. So a few messages to such a server would hold up the mail for all
# other domains, and a few thousand of them for days. Two rules prevent that, if messages go to several servers:
#
# * An attempt that takes longer than `SLOW_AFTER` does not occupy a slot any more. So there can be more messages in flight
#   than slots: `IN_FLIGHT` times as many.
# * When half as many such attempts as there are slots wait for a domain, and none of its messages was handled in the last ten
#   minutes, further messages to the domain are deferred without an attempt, as if that had failed.

#: Seconds after which an attempt does not occupy a slot.
SLOW_AFTER = 10.0
#: How many messages can be in flight for each slot.
IN_FLIGHT = 4
#: Seconds for which a domain that has answered is known to do so, and how many such domains are remembered.
ANSWERED_FOR, MAX_ANSWERED = 600.0, 1000


class Lanes:
    """The messages that are in flight.

    ``slots`` is the number of messages that are handled at the same time, without slow ones. With ``by_domain=False`` all
    messages go to one server, and slow ones occupy a slot too.
    """

    def __init__(self, slots: int, *, by_domain: bool) -> None:
        self.in_flight: int = slots * IN_FLIGHT if by_domain else slots
        """The most messages that can be in flight."""
        self._slots = slots
        self._slow_after = SLOW_AFTER if by_domain else math.inf
        self._slow_times: dict[object, float] = {}  # when each message in flight becomes a slow one
        self._waiting: dict[object, Callable[[], Iterable[str]]] = {}  # the recipients without an outcome of each
        self._answered: dict[str, float] = {}
        self._left = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        """Wait until a slot is free."""
        while True:
            now = trio.current_time()
            occupied = [time for time in self._slow_times.values() if time > now]
            if len(occupied) < self._slots:
                return
            with trio.move_on_at(min(occupied)):
                await self._left.park()

    def enter(self, key: object) -> None:
        """Occupy a slot."""
        self._slow_times[key] = trio.current_time() + self._slow_after

    def leave(self, key: object) -> None:
        """Free the slot."""
        del self._slow_times[key]
        self._left.unpark_all()

    @contextmanager
    def sending(self, key: object, recipients: Callable[[], Iterable[str]]) -> Iterator[None]:
        """Note that a message is being sent during the block. ``recipients()`` returns those without an outcome."""
        self._waiting[key] = recipients
        try:
            yield
        finally:
            del self._waiting[key]

    def note_answers(self, outcomes: Iterable[Outcome]) -> None:
        """Note the domains whose servers have accepted or refused a message."""
        for outcome in outcomes:
            if isinstance(outcome, Accepted) or (
                isinstance(outcome, Rejected) and not isinstance(outcome.command, Connect)
            ):
                domain = domain_of(outcome.recipient)
                self._answered.pop(domain, None)  # so that the dictionary has the order of the times
                self._answered[domain] = trio.current_time()
        while len(self._answered) > MAX_ANSWERED:
            del self._answered[next(iter(self._answered))]

    def silent(self, recipients: Iterable[str]) -> list[str]:
        """Return the recipients whose domains do not answer, so that no further message is to be sent to them now."""
        now = trio.current_time()
        slow = Counter(
            domain
            for key, waiting in self._waiting.items()
            if self._slow_times[key] <= now
            for domain in set(map(domain_of, waiting()))
        )
        most = max(1, self._slots // 2)
        return [
            name
            for name in recipients
            if slow[domain := domain_of(name)] >= most and self._answered.get(domain, -math.inf) < now - ANSWERED_FOR
        ]


def domain_of(name: str) -> str:
    """Return the domain of a recipient, or its name if it has none."""
    return name.rpartition("@")[2].lower()
