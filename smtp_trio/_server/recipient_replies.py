"""The replies to a message: one in SMTP, and in LMTP one for each recipient (RFC 2033 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._types import Envelope
from ..protocol import Reply

# A `data` hook returns one reply, or in LMTP a list with one for each recipient. Nearly everything only has to know
# whether the message was accepted for anyone: whether the hook must have read it, what `Session.last_message` is, how the
# state of the dialogue changes. So one of the replies, the first positive one if any, represents the message (`summary`),
# and is handled like the one reply of SMTP. The list itself is passed by `BodyReader.replies` to the log and to the core. A
# reply that replaces the hook's, such as the 451 for a hook that was late, has no list, and the core sends it once for each
# recipient. So each recipient gets a reply in every case.
#
# A hook that delivers to one recipient after the other can send each reply at once (`Body.reply`; RFC 2033 5), as long as
# others are due. The last one ends the message, so it is kept until the hook has returned. `RecipientReplies` has these
# replies. A client acts on them at once, so what happens later concerns the recipients without a reply only: the list that
# the hook returns is for them, and so is the 451 for a hook that raises an exception.


class RecipientReplies:
    """The replies of a `data` hook for single recipients, in their order, while it runs."""

    __slots__ = ("given", "recipients")

    def __init__(self, recipients: int) -> None:
        #: How many replies the message has.
        self.recipients: int = recipients
        #: Those that the hook has given so far. All but the last of the message have been sent.
        self.given: list[Reply] = []

    @property
    def sent(self) -> list[Reply]:
        """The replies that have been sent."""
        return self.given[: self.recipients - 1]

    @property
    def missing(self) -> int:
        """The number of recipients for which the hook has given no reply."""
        return self.recipients - len(self.given)

    def rest(self, reply: Reply, replies: Sequence[Reply]) -> list[Reply]:
        """Return the replies that have to be sent, if the hook has returned ``reply`` or ``replies``."""
        return [*self.given[self.recipients - 1 :], *(replies or [reply] * self.missing)]


def check_replies(answer: Sequence[Reply | None], envelope: Envelope, *, lmtp: bool, given: int = 0) -> list[Reply]:
    """Return what a `data` hook has returned for the recipients, with the default reply in place of None.

    ``given`` is the number of recipients for which it has given a reply before.

    :raises TypeError: the server uses SMTP, which has one reply.
    :raises ValueError: there are more or fewer replies than recipients, or one is 421, which would end the session.
    """
    if not lmtp:
        raise TypeError("the data hook must return a Reply or None: only LMTP has a reply for each recipient")
    due = len(envelope.rcpts) - given
    if len(answer) != due:
        raise ValueError(f"the data hook must return one reply for each recipient: expected {due}, got {len(answer)}")
    return [check_recipient_reply(reply, envelope) for reply in answer]


def check_recipient_reply(reply: Reply | None, envelope: Envelope) -> Reply:
    """Return the reply for one recipient, the default one in place of None. Raises ValueError if it is 421."""
    if reply is not None and reply.code == 421:
        raise ValueError("421 ends the session, so it cannot be the reply for one of several recipients")
    return reply or queued(envelope)


def summary(replies: Sequence[Reply]) -> Reply:
    """Return the reply that represents the message: the first positive one, otherwise the first one."""
    return next((reply for reply in replies if reply.accepted), replies[0])


def by_reply(replies: Iterable[Reply]) -> list[tuple[Reply, list[int]]]:
    """Return the different replies, each with the numbers of the recipients that it is for, for the log."""
    found: dict[Reply, list[int]] = {}
    for number, reply in enumerate(replies):
        found.setdefault(reply, []).append(number)
    return list(found.items())


def queued(envelope: Envelope) -> Reply:
    """Return the default reply to an accepted message. Its id is the one in the log and in the stores."""
    return Reply(250, f"Ok: queued as {envelope.id}", "2.0.0")
