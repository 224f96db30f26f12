"""`QueuedMessage`: a message that a relay is handling, and what the outcomes of an attempt mean for it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attrs import frozen

from .._client.results import Accepted, Outcome, Rejected, Result, Unknown
from ..dsn import Original
from ..protocol.extensions.futurerelease import release_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..stores import Delivery


@frozen
class QueuedMessage:
    """A message that is being handled."""

    delivery: Delivery
    original: Original

    @classmethod
    def of(cls, delivery: Delivery) -> QueuedMessage:
        """Return the message of a delivery."""
        return cls(delivery, Original.from_stored(delivery.stored))

    @property
    def recipients(self) -> list[str]:
        """The recipients, each once."""
        return list(dict.fromkeys(self.delivery.stored.recipients))

    @property
    def begin(self) -> datetime:
        """The time from which on it may be sent: when it was received, or until when its sender has it held (RFC 4865)."""
        received = self.delivery.stored.received
        release = release_time(self.original.mail_params, int(received.timestamp()))
        return received if release is None else max(received, datetime.fromtimestamp(release, UTC))

    def numbers(self, names: Iterable[str]) -> frozenset[int]:
        """Return the numbers of recipients."""
        wanted = set(names)
        return frozenset(number for number, name in enumerate(self.recipients) if name in wanted)


def outcomes_of(result: Result) -> dict[str, Outcome | None]:
    """Return the outcome of each recipient, None for one without."""
    known: dict[str, Outcome | None] = dict.fromkeys(result.recipients)
    return known | {outcome.recipient: outcome for outcome in result.outcomes}


def is_final(outcome: Outcome | None) -> bool:
    """Return whether nothing is to be sent again for an outcome. After `Unknown` it is: twice is better than never."""
    return isinstance(outcome, Accepted) or (isinstance(outcome, Rejected) and outcome.permanent)


def text_of(outcome: Outcome | None) -> str:
    """Return an outcome as a text for the log and for dead letters."""
    if outcome is None:
        return "released"
    return outcome.reason if isinstance(outcome, Unknown) else str(outcome.reply)
