"""How long each side waits for the other (RFC 5321 4.5.3.2), as values that a program can pass to a server or a client."""

from __future__ import annotations

import math

from attrs import field, frozen

#: Seconds by which a deadline may differ from the intended one. Moving the deadline of a cancel scope costs about as much as parsing
#: a command, so a deadline that is already right to within this much is left alone.
DEADLINE_SLACK = 0.01


def seconds_or_infinity(value: float) -> float:
    """Convert a timeout as a user writes it, where 0 means no limit, to seconds; return infinity for 0.

    Raises ValueError for a negative number.
    """
    if value < 0:
        raise ValueError(f"a timeout must be >= 0, got {value}")
    return value or math.inf


@frozen(kw_only=True)
class Timeouts:
    """The timeouts of a server, in seconds; 0 means no limit. Raises ValueError for a negative number.

    :param command: how long the server waits for the next command (RFC 5321 4.5.3.2.7 requires at least five minutes).
    :param block: how long it waits for the next part of a message.
    :param hook: how long a hook may take; the time it waits for the peer is not counted.
    :param tls: how long a TLS handshake may take.
    :param write: how long the peer may take to accept a reply that does not fit into the send buffer.
    :param disconnect: how long the `Hooks.disconnect` and `Hooks.stop` hooks may take, which run shielded from cancellation.
    """

    command: float = field(default=300, converter=seconds_or_infinity)
    block: float = field(default=180, converter=seconds_or_infinity)
    hook: float = field(default=300, converter=seconds_or_infinity)
    tls: float = field(default=30, converter=seconds_or_infinity)
    write: float = field(default=300, converter=seconds_or_infinity)
    disconnect: float = field(default=5, converter=seconds_or_infinity)
