"""Many messages over one connection, with as little waiting as the server lets us."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING

from ..protocol import ReplyError, Rset
from ..protocol.dialogue import READY
from .delivery import Delivery
from .message import Message
from .results import Rejected, Result
from .transaction import Progress, Transaction, depart

if TYPE_CHECKING:
    from .client import Client

Item = tuple[str, Iterable[str], Message]
Messages = Iterable[Item] | AsyncIterable[Item]


class Batch:
    """Many messages over one connection, the next of which leaves before the last one is answered, where the server pipelines.

    RFC 2920 3.1: the end of a message may be the first in a group, and the envelope of the next one stand behind it. RFC 3030 4.2
    says so of BDAT, but not all servers know it.
    """

    def __init__(self, client: Client, deliveries: list[Delivery | Result]) -> None:
        self._client = client
        self._talk = client.talk
        #: Results, where there are any yet.
        self._deliveries = deliveries
        #: The server has been seen to take a BDAT LAST, so that MAIL may follow the next one at once.
        self._goes_on = False
        #: Deliveries that were not over with one transaction, and the recipients that are left of them.
        self._left: list[tuple[Delivery, list[str]]] = []
        #: The next message may be long in coming.
        self._dawdles = False
        #: RSET must come before them.
        self._reset = False

    async def run(self, messages: Messages, progress: Progress | None, params: Mapping[str, object]) -> None:
        """All of them."""
        self._dawdles = isinstance(messages, AsyncIterable)
        source = aiter(messages if isinstance(messages, AsyncIterable) else _asynchronously(messages))
        try:
            await self._run(source, progress, params)
        finally:
            if inspect.isasyncgen(source):  # one that is left in the middle is of no more use to anybody
                await source.aclose()

    async def _run(self, source: AsyncIterator[Item], progress: Progress | None, params: Mapping[str, object]) -> None:
        flying: Delivery | None = None  # its message has left, or is about to; its answer is to come
        async for sender, recipients, message in source:
            try:
                names = recipients if isinstance(recipients, str) else list(recipients)
                delivery = await Delivery.prepare(self._client, sender, names, message, progress, params)
            except ReplyError as exc:  # it is larger than the server takes
                outcomes = tuple(Rejected(name, exc.command, exc.reply) for name in dict.fromkeys(names))
                self._deliveries.append(
                    Result(sender, tuple(o.recipient for o in outcomes), outcomes, self._client.tls)
                )
                continue
            except Exception:  # what is on its way has nothing to do with that
                if flying is not None:
                    await self._land(flying)
                await self._catch_up()
                raise
            delivery.number = len(self._deliveries)
            self._deliveries.append(delivery)
            transaction = delivery.new_transaction(delivery.rcpts)
            light = transaction.light and delivery.batch >= len(delivery.rcpts) and not self._client.lmtp
            if flying is not None and not (light and self._may_follow(flying)):
                await self._land(flying)
                flying = None
            if flying is None:
                await self._catch_up()
                await self._ready(delivery)
            if light:
                await self._take_off(transaction, flying)
                flying = delivery
                if self._dawdles:  # the server does not wait that long
                    transaction.follow()
                    await depart(self._talk, transaction)
            else:
                await delivery.run()
                self._done(delivery)
            self._talk.disarm()  # what comes next is the caller's next message
        if flying is not None:
            await self._land(flying)
        await self._catch_up()

    async def _take_off(self, transaction: Transaction, before: Delivery | None) -> None:
        """The first flight of a transaction leaves, together with the second of the one before it, which is then answered."""
        flights = [transaction]
        if before is not None and before.transaction is not None:
            before.transaction.follow()
            flights.append(before.transaction)
            transaction.overlaps = True
        answers = transaction.embark()
        await depart(self._talk, *flights)
        if before is not None:
            await self._land(before, behind=answers)
        if not transaction.chunking:
            await transaction.hear()

    async def _land(self, delivery: Delivery, behind: int = 0) -> None:
        """Hear the answers to a message that is on its way; ``behind`` are the commands of the next one, which is too."""
        transaction = delivery.transaction
        assert transaction is not None
        if not behind:
            transaction.follow()
            await depart(self._talk, transaction)
        await transaction.hear(leave=behind)
        self._goes_on = transaction.accepted
        if transaction.overlaps and transaction.shut_out:
            # The server takes nothing behind a BDAT LAST. It goes again, once, with none ahead of it.
            self._reset, delivery.transaction = True, None
            self._left.append((delivery, list(delivery.rcpts)))
            return
        delivery.finish(transaction)
        self._reset = transaction.unclear
        if transaction.put_off:
            self._left.append((delivery, list(transaction.put_off)))
        else:
            self._done(delivery)

    async def _catch_up(self) -> None:
        """Deal with what is left of deliveries, now that nothing is on its way."""
        left, self._left = self._left, []
        for delivery, names in left:
            await self._ready(delivery)
            await delivery.run(names)
            self._done(delivery)

    def _may_follow(self, ahead: Delivery) -> bool:
        """Whether a message may leave before the one ahead of it is answered."""
        transaction = ahead.transaction
        assert transaction is not None
        # A refused DATA ends no transaction with some servers, Postfix among them: what came behind it would be a part of that one.
        return self._goes_on if transaction.chunking else transaction.waits

    async def _ready(self, delivery: Delivery) -> None:
        """As `Exchange.ready`; and where a refusal leaves some servers with the transaction open, it is ended for them too."""
        self._talk.listen(delivery.mail)
        if self._reset or self._talk.protocol.dialogue.phase is not READY:
            await self._talk.ask(Rset())
            self._reset = False

    def _done(self, delivery: Delivery) -> None:
        self._deliveries[delivery.number] = delivery.result()


async def _asynchronously(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item
