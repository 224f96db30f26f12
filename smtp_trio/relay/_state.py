"""`State`: what a relay knows about a message after an attempt, as the text that the store keeps with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from attrs import asdict, evolve, frozen

from ..dsn import RecipientStatus

DATES = ("last_attempt", "will_retry_until")


@frozen(kw_only=True)
class State:
    """The state of a message.

    A recipient is pending until the message was accepted for it, or has failed for it. A failure is owed until it was
    reported; it is lost if a report of it must not be sent.
    """

    done: frozenset[int] = frozenset()
    """The recipients that are not pending, by their numbers."""
    attempts: int = 0
    delayed: bool = False
    """True if the delay was reported."""
    reports: int = 0
    """The number of reports that were sent."""
    owed: tuple[RecipientStatus, ...] = ()
    """The statuses that have to be reported, because their report could not be stored."""
    lost: tuple[str, ...] = ()
    """The recipients for which it has failed without a report, with the reason; and ``lost_numbers`` are their numbers."""
    lost_numbers: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> State:
        """Return the state of a text that `format` has made; "" is that of a new message. Raises ValueError."""
        if not text:
            return cls()
        try:
            values = json.loads(text)
            return cls(
                done=frozenset(values["done"]),
                attempts=int(values["attempts"]),
                delayed=bool(values["delayed"]),
                reports=int(values["reports"]),
                owed=tuple(map(_parse_status, values.get("owed", ()))),
                lost=tuple(values.get("lost", ())),
                lost_numbers=frozenset(values.get("lost_numbers", ())),
            )
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"not the state of a relay: {text[:200]!r}") from error

    def format(self) -> str:
        """Return the state as a text."""
        values: dict[str, Any] = {
            "done": sorted(self.done),
            "attempts": self.attempts,
            "delayed": self.delayed,
            "reports": self.reports,
        }
        if self.owed:
            values["owed"] = list(map(_format_status, self.owed))
        if self.lost:
            values |= {"lost": self.lost, "lost_numbers": sorted(self.lost_numbers)}
        return json.dumps(values, separators=(",", ":"))

    def pending(self, recipients: Sequence[str]) -> list[str]:
        """Return the recipients to which the message is still to be sent."""
        return [name for number, name in enumerate(recipients) if number not in self.done]

    def dead(self) -> State:
        """Return the state of a dead letter: if it is delivered again, it is sent to the recipients that were lost."""
        return evolve(self, done=self.done - self.lost_numbers, lost=(), lost_numbers=frozenset())


def _format_status(status: RecipientStatus) -> dict[str, Any]:
    values = {name: value for name, value in asdict(status).items() if value is not None}
    return values | {name: values[name].isoformat() for name in DATES if name in values}


def _parse_status(values: dict[str, Any]) -> RecipientStatus:
    dates = {name: datetime.fromisoformat(values[name]) for name in DATES if name in values}
    return RecipientStatus(**{**values, **dates})
