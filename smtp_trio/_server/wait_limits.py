"""`WaitLimits`: how long the session may wait for a client that sends a message slowly."""

from __future__ import annotations

import math

from ..protocol import Limits

# A client that sends slowly occupies a session, so the waits for it are limited: each one, their sum, and their sum
# compared with the number of octets. The last is a token bucket as in Postfix (``smtpd_min_data_rate``): the client has
# a credit of seconds, which each wait uses up and each octet increases, and which is never more than the limit of one
# wait. It is calculated only when the session really has to wait. Nothing else counts: a hook that reads slowly, such as
# one that writes to a slow disk, finds the octets already received when it reads again.

#: Why a wait for the client was ended, for the log, by the limit (`WaitLimits.next`).
TIMEOUT_REASONS = {
    None: "the client sent nothing for too long",
    "data_rate": "the client sent too slowly",
    "message_time": "the client took too long",
}


class WaitLimits:
    """The limits of the waits for the client in one message."""

    __slots__ = ("_credit", "_credited", "_limits", "waited")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._credit = math.inf  # the seconds that the client may still wait, because of ``limits.data_rate``
        self._credited = 0  # the octets for which it got them
        #: The seconds that the session has waited for the client.
        self.waited: float = 0.0

    def next(self, timeout: float, received: int | None) -> tuple[float, str | None]:
        """Return how long the next wait for the client may take, and the limit because of which it is not longer.

        The limit is a member of `Limits`, or None for the timeout itself.

        :param timeout: the seconds for any wait.
        :param received: the octets of the message so far; None before the first one is read.
        """
        limits, wait, reason = self._limits, timeout, None
        if wait == math.inf:
            return wait, reason
        if limits.data_rate:
            received = self._credited if received is None else received
            self._credit = min(wait, self._credit + (received - self._credited) / limits.data_rate)
            self._credited = received
            if self._credit < wait:
                wait, reason = self._credit, "data_rate"
        if 0 < limits.message_time < self.waited + wait:
            wait, reason = max(0, limits.message_time - self.waited), "message_time"
        return wait, reason

    def add(self, waited: float) -> None:
        """Count the seconds of a wait."""
        self.waited += waited
        self._credit -= waited
