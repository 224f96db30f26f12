"""`ErrorCount`: the errors of a client in one session, and the work that it has caused without sending a message."""

from __future__ import annotations

from .limits import Limits

# Errors
# ------
#
# The core counts the errors of the client, and replies 421 and closes the session when `Limits.errors` is reached. A
# command that the core refuses with 5yz is an error (`ServerProtocol._count_refusal`).
#
# Everything else that a client can repeat without sending a message is not an error, but it is work for the server, and
# some of it is an attack, such as a search for addresses with RCPT. It has costs, in the units of `Limits.work`:
#
#   10  a command that no message needs (`Command.work`): NOOP, RSET, EHLO, HELO, VRFY, EXPN, HELP, AUTH
#   10  the refusal of a command or of a message by the application (`Command.refusal_work`), in addition to the above
#    2  the refusal of a RCPT by the application
#    1  a RCPT that is one too many, so that it gets 452
#    1  a chunk of fewer octets than SMALL_CHUNK that is not the last one
#
# `Limits.work` units are free. Once they are used up, each of these events counts as an error. Such a command is
# answered as usual, until the number of errors reaches its limit. A refusal by the application is sent even then, because
# it is the result of the message or of the recipient, and the next command gets the 421.
#
# Both counts begin again when a message is accepted. A session that delivers messages can thus be of any length.
#
# After an error, when there have been more than half of `Limits.errors`, `delayed` is true. The application should wait
# a second before it takes the next event, which the core cannot do.

#: Chunks of fewer octets than this are counted: the work for one is more than that for its octets.
SMALL_CHUNK = 512


class ErrorCount:
    """The errors of one client, and the units of work, since it has sent a message that was accepted."""

    __slots__ = ("_limits", "_work", "count")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._work = 0
        #: The number of errors.
        self.count: int = 0

    def exceeds_work(self, work: int) -> bool:
        """Add units of work. Return whether there are more than are free."""
        self._work += work
        return 0 < self._limits.work < self._work

    def add(self) -> bool:
        """Add an error. Return whether the next event should be delayed."""
        self.count += 1
        return 2 * self.count > self._limits.errors

    def reset(self) -> None:
        """Begin to count again."""
        self.count = self._work = 0
