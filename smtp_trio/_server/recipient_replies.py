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


def check_replies(answer: Sequence[Reply | None], envelope: Envelope, *, lmtp: bool) -> list[Reply]:
    """Return what a `data` hook has returned for the recipients, with the default reply in place of None.

    :raises TypeError: the server uses SMTP, which has one reply.
    :raises ValueError: there are more or fewer replies than recipients, or one is 421, which would end the session.
    """
    if not lmtp:
        raise TypeError("the data hook must return a Reply or None: only LMTP has a reply for each recipient")
    due = len(envelope.rcpts)
    if len(answer) != due:
        raise ValueError(f"the data hook must return one reply for each recipient: expected {due}, got {len(answer)}")
    replies = [reply or queued(envelope) for reply in answer]
    if any(reply.code == 421 for reply in replies):
        raise ValueError("421 ends the session, so it cannot be the reply for one of several recipients")
    return replies


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
