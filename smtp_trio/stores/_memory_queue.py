"""The groups of consumers of `Memory`: which messages they have claimed, and what has become of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from attrs import Factory, define

from ._consumer import GroupCounts

if TYPE_CHECKING:
    from ._consumer import Outcome

# As in `_sqlite_queue.py`, a group has a record only for each message that it has claimed and not settled. Messages with a
# larger number than the last one that it has claimed wait for it. A number is not used twice.


@define
class Work:
    """The state of a message in a group that has not settled it."""

    attempts: int = 0
    due: float | None = 0
    """The time from which the message can be claimed: the end of the lease, or the time of the retry; None for a dead letter."""
    token: str | None = None
    """The token of the last claim, if it was not settled."""
    state: str = ""
    reason: str = ""


@define
class Group:
    """A group of consumers."""

    last: int = 0
    """The largest number of a message that was claimed."""
    unsettled: dict[int, Work] = Factory(dict)
    """The messages that were claimed, and those that became dead letters, by their numbers."""

    def claim(
        self, numbers: Mapping[int, object], newest: int, now: float, lease: float, max_attempts: int
    ) -> tuple[int, Work] | None:
        """Claim the message that is due first, or the oldest new one; return its number, or None without one.

        ``numbers`` are those of the messages in the store, and ``newest`` is the largest that was used.
        """
        due = (
            (work.due, number) for number, work in self.unsettled.items() if work.due is not None and work.due <= now
        )
        for _, number in sorted(due):
            work = self.unsettled[number]
            if work.attempts < max_attempts:
                break
            expired = f"the lease of attempt {work.attempts} has expired"
            work.reason = expired if work.token is not None else f"{work.attempts} attempts"
            work.due = work.token = None
        else:
            new = next((number for number in range(self.last + 1, newest + 1) if number in numbers), None)
            self.last = newest if new is None else new
            if new is None:
                return None
            number, work = new, self.unsettled.setdefault(new, Work())
        work.attempts += 1
        work.due = now + lease
        work.token = f"{number}.{os.urandom(8).hex()}"
        return number, work

    def settle(self, number: int, token: str, outcome: Outcome, now: float) -> bool:
        """Record what has become of a claim. Return False if its lease was given to another consumer."""
        work = self.unsettled.get(number)
        if work is None or work.token != token:
            return False
        if outcome.kind == "done":
            del self.unsettled[number]
            return True
        work.token = None
        work.state = outcome.state
        if outcome.kind == "dead":
            work.due, work.reason = None, outcome.reason
        else:
            work.due = 0 if outcome.uncounted else now + outcome.after
            work.attempts -= outcome.uncounted
        return True

    def counts(self, numbers: Iterable[int], now: float) -> GroupCounts:
        """Count the messages that are not settled. ``numbers`` are those of the messages in the store, in any order."""
        works = self.unsettled.values()
        dead = sum(work.due is None for work in works)
        in_flight = sum(work.token is not None and work.due is not None and work.due > now for work in works)
        waiting = sum(number > self.last for number in numbers) + len(works) - dead - in_flight
        return GroupCounts(waiting=waiting, in_flight=in_flight, dead=dead)

    def dead_letters(self) -> Iterator[tuple[int, Work]]:
        """Iterate over the dead letters with the numbers of their messages, from the oldest to the newest."""
        return (
            (number, work)
            for number, work in sorted(self.unsettled.items(), key=lambda each: each[0])
            if work.due is None
        )

    def requeue(self, numbers: Iterable[int]) -> int:
        """Make dead letters due, with no attempts counted, and return how many of them there were."""
        count = 0
        for number in numbers:
            work = self.unsettled.get(number)
            if work is not None and work.due is None:
                work.due, work.attempts, work.reason = 0, 0, ""
                count += 1
        return count
