"""Many messages over one connection, where a message is sent before the reply to the previous one is received."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from ..protocol import ReplyError, SMTPError
from ..protocol.dialogue import READY
from .addresses import list_recipients
from .delivery import Delivery
from .exchange import Exchange
from .message import Message
from .results import PartialResult, Rejected, not_sent
from .session_limits import has_room
from .transaction import Progress, Transaction, flush

Item = tuple[str, Iterable[str], Message]
Messages = Iterable[Item] | AsyncIterable[Item]
#: The end of the messages.
END: Final[Any] = object()


# How messages overlap
#
# With one message at a time, the client waits a round trip between the end of a message and the MAIL of the next one.
# A group is what is sent before the client waits for a reply. RFC 2920 3.1 allows the end of a message to be the first
# part of a group, and RFC 3030 4.2 allows BDAT anywhere in one. So the client sends, in one write,
#
#   with DATA:  the previous message and its end, and MAIL RCPT... DATA of the next message;
#   with BDAT:  RSET, and MAIL RCPT... BDAT LAST with the next message, while the reply to the previous BDAT LAST is
#               still to come;
#
# and then receives the replies to the previous message. At most two messages are in progress: `previous`, whose group
# has been sent, and the one that is about to be sent. The source is the iterable of messages that the caller gave to
# `Client.send_many`. With DATA the content of a message is not sent before the source has yielded the next message. An
# asynchronous source is the exception: it might not yield again for hours, so the content is sent at once, and only the
# envelope of the next message follows later.
#
# Invariants:
#
# * A message overlaps the previous one only if a refusal of the previous one cannot harm it. With DATA the previous
#   envelope must have been answered by 354 (`awaiting_body`): a server that refuses DATA may keep the transaction open,
#   so that the next message's recipients would be added to it. With BDAT the group begins with RSET for the same
#   reason, and the last message whose replies were received must have been accepted (`_previous_accepted`). So a
#   server that does not handle BDAT fails at the first message, which nothing overlaps.
# * A server that nevertheless replies 503 to an overlapping MAIL gets this message again, once, after the previous one
#   has its reply: the first attempt was refused, so nothing is delivered twice.
# * Only small messages overlap (`Transaction.fits_group`). Before a larger message, before any message over LMTP, and
#   before a message that needs more than one transaction, all replies are received; then the message is sent on its own
#   by `Delivery.run`.
# * What remains of a message (recipients postponed by 452 or 552, or a message refused with 503) waits in `_remaining`
#   and is sent when no reply is outstanding.
# * The results are in the order of the messages, because each PartialResult is appended when its message is taken from
#   the source.
#
# A session may have a limit that is announced (LIMITS, RFC 9422). `run` stops before a message for which there is no room,
# and returns it, if the client can open another connection; otherwise that message is rejected (`Delivery.run`).
class Pipeline:
    """Sends messages of a `Client.send_many` call over one connection; appends a PartialResult to ``results`` for each.

    ``asynchronous`` is true if the next message may not be available for a long time, and ``stops`` if messages for which
    this session has no room can be sent over another connection.
    """

    def __init__(
        self, exchange: Exchange, results: list[PartialResult], *, asynchronous: bool = False, stops: bool = False
    ) -> None:
        self._exchange = exchange
        self._results = results
        #: The last message whose replies were received was accepted for at least one recipient.
        self._previous_accepted = False
        #: Deliveries that need a further transaction, and the recipients for that.
        self._remaining: list[tuple[Delivery, list[str]]] = []
        self._asynchronous = asynchronous
        self._stops = stops
        #: RSET must be sent before the next MAIL.
        self._needs_rset = False

    async def run(
        self, first: Item, source: AsyncIterator[Item], progress: Progress | None, params: Mapping[str, object]
    ) -> Item:
        """Send all messages: ``first``, and those of ``source``. Return one that needs another connection, or END."""
        previous: tuple[Delivery, Transaction] | None = None  # its group was sent, its last reply is still to come
        item = first
        while item is not END:
            try:
                sender, recipients, message = _checked(item)
                names = list_recipients(recipients)
                if self._stops and not self._has_room(names):
                    item = sender, names, message  # ``recipients`` may be an iterator
                    break
                delivery = await Delivery.prepare(self._exchange, sender, names, message, progress, params)
            except ReplyError as exc:
                # The message is larger than the server accepts (RFC 1870 6.1): in `send_many` a result, not an error.
                partial = PartialResult(sender, dict.fromkeys(names), self._exchange.tls)
                partial.outcomes.update({name: Rejected(name, exc.command, exc.reply) for name in names})
                self._results.append(partial)
                item = await anext(source, END)
                continue
            except Exception as exc:
                if isinstance(exc, SMTPError):
                    exc.result = not_sent(sender, names)
                await self._finish(previous)  # the messages before this one are still sent
                raise
            self._results.append(delivery.partial)
            transaction = delivery.new_transaction(delivery.rcpts)
            overlap = transaction.fits_group and delivery.within_limits and not self._exchange.lmtp
            if previous is not None and not (overlap and self._may_overlap(previous[1])):
                await self._receive(previous)
                previous = None
            if previous is None:
                await self._send_remaining()
                await self._prepare_transaction(delivery)
            if overlap:
                await self._send_overlapping(transaction, previous)
                previous = delivery, transaction
                if self._asynchronous and transaction.send_body():
                    await flush(self._exchange, transaction)
            else:
                await delivery.run()
            item = await anext(source, END)
        await self._finish(previous)
        return item

    def _has_room(self, names: list[str]) -> bool:
        """Return whether a message to these recipients can be sent in this session. A new session is always used."""
        begun = self._exchange.protocol.transactions_begun
        return begun == 0 or has_room(self._exchange, names, reserved=len(self._remaining))

    async def _send_overlapping(self, transaction: Transaction, previous: tuple[Delivery, Transaction] | None) -> None:
        """Send a small message, and with it what is still to be sent of the previous one, in one write.

        With DATA, that is the content and the end of the previous message. Then receive the replies to the previous
        message and, with DATA, those to the envelope of this one. ``previous`` is None if no reply is outstanding.
        """
        if previous is None:
            transaction.send_group()
            await flush(self._exchange, transaction)
        else:
            previous[1].send_body()
            transaction.overlapping = True
            reply_count = transaction.send_group()
            await flush(self._exchange, previous[1], transaction)
            await self._receive(previous, leave=reply_count)
        if not transaction.chunking:
            await transaction.receive_replies()

    async def _finish(self, previous: tuple[Delivery, Transaction] | None) -> None:
        """Receive all outstanding replies, and send what remains."""
        if previous is not None:
            await self._receive(previous)
        await self._send_remaining()

    async def _receive(self, previous: tuple[Delivery, Transaction], leave: int = 0) -> None:
        """Receive the replies to a message; ``leave`` is the number of replies that belong to the next one."""
        delivery, transaction = previous
        if not leave and transaction.send_body():
            await flush(self._exchange, transaction)
        await transaction.receive_replies(leave)
        self._previous_accepted = transaction.partial.accepted
        self._needs_rset = transaction.needs_rset
        if transaction.out_of_sequence:
            self._needs_rset = True
            transaction.partial.begin(delivery.rcpts)
            self._remaining.append((delivery, list(delivery.rcpts)))
        elif transaction.postponed:
            self._remaining.append((delivery, transaction.postponed))

    async def _send_remaining(self) -> None:
        """Send what remains of earlier messages. No reply is outstanding."""
        remaining, self._remaining = self._remaining, []
        for delivery, names in remaining:
            await self._prepare_transaction(delivery)
            await delivery.run(names)

    def _may_overlap(self, previous: Transaction) -> bool:
        """Return whether a message may be sent before the previous one has its reply."""
        return self._previous_accepted if previous.chunking else previous.awaiting_body

    async def _prepare_transaction(self, delivery: Delivery) -> None:
        """As `Exchange.prepare_transaction`, and send RSET if an earlier transaction may still be open on the server."""
        self._exchange.check_unsolicited(delivery.mail)
        if self._needs_rset or self._exchange.protocol.dialogue.phase is not READY:
            await self._exchange.reset(delivery.mail)
            self._needs_rset = False


@asynccontextmanager
async def open_source(messages: Messages) -> AsyncGenerator[AsyncIterator[Item]]:
    """Provide an iterator of messages, and close it at the end if it is an async generator. Raises TypeError."""
    if isinstance(messages, str | bytes) or not isinstance(messages, Iterable | AsyncIterable):
        raise TypeError(f"messages must be an iterable or an async iterable of tuples, not {type(messages).__name__}")
    source = aiter(messages if isinstance(messages, AsyncIterable) else _as_async_iterable(messages))
    try:
        yield source
    finally:
        if inspect.isasyncgen(source):  # as for a message's own iterable: its caller cannot go on with a generator
            await source.aclose()


def _checked(item: Item) -> Item:
    if not isinstance(item, tuple | list) or len(item) != 3:
        got = f"{len(item)} items" if isinstance(item, tuple | list) else type(item).__name__
        raise TypeError(f"each item of messages must be a tuple of sender, recipients and message, got {got}")
    return item


async def _as_async_iterable(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item
