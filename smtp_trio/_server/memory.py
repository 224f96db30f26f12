"""`MemoryBudget`: the octets that all sessions of a server hold, and how many they may hold."""

from __future__ import annotations

import math
from typing import Protocol

from ..protocol import Reply

# What is counted
# ---------------
#
# A limit for each session does not limit their sum, so that many sessions, each within its limits, could use all memory
# of the machine. `Limits.memory` limits the sum. Four things are counted:
#
# * Each session counts `SESSION` octets, and with TLS `TLS_SESSION` more. That is what an idle session needs, and it
#   includes a little input and a small envelope (`FREE`), so that an ordinary command does not have to be counted.
# * When a session holds more than that, its unprocessed input, the replies that its client does not read, and its
#   envelope are counted (`SessionMemory.count`): when a command is received, and before the session waits to send.
# * The piece of a message that the data hook has read last (`BodyReader.next`).
# * What `Body.read`, `Body.headers`, `Body.spool` and a store keep of a message in memory (`BodyReader.keep`), until
#   the data hook returns.
#
# A buffer that grows reserves an eighth more than it holds, and what is freed leaves gaps that are not all used again, so
# an eighth is added to all of this (`with_reserve`).
#
# Pieces that a hook keeps by other means are not counted, since it is not known how long the hook refers to them.
#
# Input and envelopes are counted after they have been received. A session processes a block of a message without waiting,
# so that it is counted or free when other sessions run. Only one that waits for a turn of its peer (`Turns`) may hold a
# block that is not counted, of 16 KiB. What a message would add is checked before: the message is refused with 452, and
# the rest of it is read and dropped, as after any other refusal. While less than `RESERVE` octets are left, MAIL and RCPT
# get 452 and new sessions 421.
#
# Every count is a difference that is added to ``used`` and to a number of the session or the message. The end of the
# session or of the data hook subtracts that number, in a ``finally``. So ``used`` is 0 when no session is open.
#
# One client must not use up the budget with large messages that could be in a file. So `share` lets a message in memory
# have no more than a fraction of what is left, and the fraction decreases as well: the fuller the server, the sooner
# messages are moved to files. With the default limit, a message has up to a mebibyte until half of the memory is used,
# and a thousand messages at a time have 130 KiB each and leave a sixth of it.

#: What a session counts from its beginning to its end, and what TLS adds: SSL objects of OpenSSL and of Trio.
SESSION, TLS_SESSION = 16384, 65536
#: Octets of input, and of the lines of an envelope, that a session may hold besides; ``SESSION`` includes them.
FREE_INPUT, FREE_ENVELOPE = 4096, 512
#: What a recipient needs: an object for the command and the path, and the octets of its line twice.
RECIPIENT, LINE_COPIES = 512, 2
#: When less is left, no message is begun.
RESERVE = 65536
#: A message that can be moved to a file may hold this fraction of an empty server's memory, and a smaller one of what is left.
FRACTION = 64

NO_MEMORY = Reply(452, "Insufficient memory; try again later", "4.3.1")


def with_reserve(octets: int) -> int:
    """Return how much memory so many octets of a message may need."""
    return octets + octets // 8


class MemoryBudget:
    """The octets that the sessions of a server hold, ``used``, and their limit; None for no limit."""

    __slots__ = ("beginning", "limit", "used")

    def __init__(self, limit: int | None) -> None:
        self.limit: float = math.inf if limit is None else limit
        #: While more is used than this, no session and no message is begun.
        self.beginning: float = self.limit - RESERVE
        self.used: int = 0

    def share(self, most: int) -> float:
        """Return how many octets a message that can be moved to a file may keep in memory; ``most`` at most."""
        if self.limit == math.inf:
            return most
        left = max(0, self.limit - self.used)
        return min(most, max(RESERVE, left * left / self.limit / FRACTION))


class Keeper(Protocol):
    """Counts the octets that are kept of one message."""

    def keep(self, octets: int) -> None:
        """Count octets that are kept, or, if negative, not any more. Raise `BodyError` if the memory is used up."""

    def share(self, most: int) -> float:
        """Return how many octets may be kept before they are moved to a file; ``most`` at most."""


class _Uncounted:
    """The keeper of what does not belong to a session of a server."""

    def keep(self, octets: int) -> None:
        """Do nothing."""

    def share(self, most: int) -> float:
        """Return ``most``."""
        return most


UNCOUNTED: Keeper = _Uncounted()
