"""PIPELINING, RFC 2920: the client may send commands without waiting for the reply to each.

Adds its EHLO keyword. The server side of the core can always be sent several commands at once, because it takes
commands from a buffer, and replies in their order; the keyword only announces it. Which commands may be followed by
others in one group is in `Command.groupable` (RFC 2920 3.1).
"""

from __future__ import annotations

from ..extension import Extension


class Pipelining(Extension):
    """Commands in groups (RFC 2920)."""

    keyword = "PIPELINING"
    rfc = 2920
