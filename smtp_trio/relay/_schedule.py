"""`Schedule`: when a message is sent again, and for how long (RFC 5321 4.5.4.1)."""

from __future__ import annotations

from random import Random

from attrs import field, frozen

from ..protocol.arguments import argument, check_number

#: The exponent from which on the interval does not grow, so that it does not overflow.
MAX_DOUBLINGS = 40


@frozen(kw_only=True)
class Schedule:
    """The times at which a message is sent again after a temporary failure. All are in seconds.

    :param first: from the first attempt to the second one. Each further interval is twice as long as the one before.
    :param longest: the longest interval.
    :param max_age: the age from which on a message that cannot be delivered is returned to its sender. RFC 5321 4.5.4.1
        recommends four or five days at least.
    :param delay_after: the age at which its sender gets a report of the delay, once; 0 means never.
    :param jitter: the greatest part by which an interval is made longer or shorter at random, so that messages that failed
        together are not sent again together.
    """

    first: float = field(default=300.0, validator=argument(check_number, 0.001))
    longest: float = field(default=4 * 3600.0, validator=argument(check_number, 0.001))
    max_age: float = field(default=5 * 86400.0, validator=argument(check_number))
    delay_after: float = field(default=4 * 3600.0, validator=argument(check_number))
    jitter: float = field(default=0.1, validator=argument(check_number))

    def __attrs_post_init__(self) -> None:
        if self.jitter >= 1:
            raise ValueError(f"jitter must be < 1, got {self.jitter}")
        if self.longest < self.first:
            raise ValueError(f"longest must be >= first, {self.first:g}, got {self.longest:g}")

    def interval(self, attempts: int, random: Random) -> float:
        """Return the seconds until the next attempt, after this number of attempts."""
        seconds = min(self.first * 2.0 ** min(attempts - 1, MAX_DOUBLINGS), self.longest)
        return seconds * random.uniform(1 - self.jitter, 1 + self.jitter)
