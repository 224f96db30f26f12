"""`Memory`: a store of the newest messages in the memory of the process, for development and tests."""

from __future__ import annotations

import math
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl

import trio
from attrs import evolve, frozen

from .._server.body import keeper_of
from .._server.log_events import MESSAGES_DROPPED
from .._server.memory import UNCOUNTED, with_reserve
from ..protocol.arguments import check_items, check_number, check_type
from ._consumer import Claim, DeadLetter, check_name
from ._entry import Entry, Stored, read_header
from ._errors import MessageNotFoundError, MessageTooBigError, StoreError
from ._memory_queue import Group
from ._query import Query, as_query, parse_size
from ._spool import Spool
from ._store import Store
from ._url_options import whole_number

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence

    from .._server.memory import Keeper
    from .._server.session import Session
    from ._consumer import GroupCounts, Outcome
    from ._store import Selected

# The limits of memory
# --------------------
#
# The limit of octets counts the messages and the strings of their envelopes, since a small message can have a thousand
# recipients. The rest of an entry has a constant size, which the limit of messages bounds. A message that is being received
# counts towards the memory budget of its server (`_server/memory.py`), as in every other store.
#
# An iteration keeps references to ids and not to messages, so that an unfinished iteration does not keep dropped messages
# in memory.

#: The minimum number of seconds between two log records of dropped messages.
LOG_INTERVAL = 60
#: The number of entries after which an iteration executes a checkpoint.
CHECKPOINT = 64


@frozen(eq=False)
class Item:
    """A message and its sequence number."""

    number: int
    entry: Entry
    message: bytes
    octets: int


class Memory(Store["MemorySpool"]):
    """A store that keeps the newest messages in the memory of this process. They are lost when it ends.

    It is for development and tests: a 250 does not mean that the message is on disk. The oldest messages are dropped if the
    store would have more than ``messages`` messages, or more than ``octets`` octets of messages and envelopes, even if no
    consumer has handled them. ``dropped`` and ``dropped_octets`` count them. A message that is larger than ``octets`` is
    refused with 552.

    Closing the store keeps its messages, so that they can be read after the server has stopped.
    """

    shared: bool = False

    def __init__(self, *, messages: int = 1000, octets: int = 100 << 20) -> None:
        super().__init__()
        check_number(messages, "messages", 1, integer=True)
        check_number(octets, "octets", 1, integer=True)
        self.messages: int = messages
        """The maximum number of messages."""
        self.octets: int = octets
        """The maximum number of octets of all messages."""
        self.url: str = f"memory:?messages={messages}&octets={octets}"
        self.octets_used: int = 0
        """The number of octets of the messages in the store."""
        self.dropped: int = 0
        """The number of messages that were dropped since the store was created."""
        self.dropped_octets: int = 0
        """The number of octets of these messages."""
        self._items: OrderedDict[int, Item] = OrderedDict()
        self._numbers: dict[str, int] = {}  # by the id of the message
        self._last = 0
        self._groups: dict[str, Group] = {}
        self._waiting = trio.lowlevel.ParkingLot()
        self._logged = (-math.inf, 0, 0)  # the time of the last record, and the counts in it

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store for a URL: ``memory:``, optionally with ``?messages=N&octets=SIZE``."""
        path, _, query = url.partition(":")[2].partition("?")
        if path:
            raise ValueError(f"must be memory: or memory:?messages=N&octets=SIZE, got {url!r}")
        arguments: dict[str, int] = {}
        for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
            if name not in ("messages", "octets"):
                raise ValueError(f"an option in the URL must be messages or octets, got {name!r}")
            try:
                arguments[name] = whole_number(value) if name == "messages" else int(parse_size(value, None))
            except ValueError as error:
                raise ValueError(f"{name} in the URL: {error}") from None
        return cls(**arguments)

    def __repr__(self) -> str:
        return f"Memory(messages={self.messages}, octets={self.octets})"

    async def open(self) -> None:
        """Do nothing. Raises `StoreError` for a store that has to exist, since no other process can have created it."""
        await trio.lowlevel.checkpoint()
        if not self.create:
            raise StoreError(f"{self!r}: mail in memory can be read only by the process that stores it")

    async def aclose(self) -> None:
        """Do nothing: the messages stay until the object is freed."""
        await trio.lowlevel.checkpoint()
        self._log_dropped()

    # --- storing

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> MemorySpool:
        return MemorySpool(entry, self)

    async def _store(self, spool: MemorySpool, body: AsyncIterable[bytes], session: Session | None = None) -> str:
        try:
            if not self.create:
                await self.open()
            await spool.fill(body, UNCOUNTED if session is None else keeper_of(session))
            self._insert(spool.entry, spool.message(), spool.octets)
        except StoreError as error:
            raise self._store_error(error) from error
        return spool.name

    def _insert(self, entry: Entry, message: bytes, octets: int) -> None:
        if entry.id in self._numbers:
            raise StoreError(f"the store already has a message {entry.id!r}")
        subject, date = read_header(message)
        entry = evolve(entry, size=len(message), subject=subject, date=date)
        self._last += 1
        self._items[self._last] = Item(self._last, entry, message, octets)
        self._numbers[entry.id] = self._last
        self.octets_used += octets
        if len(self._items) > self.messages or self.octets_used > self.octets:
            self._drop()
        self._waiting.unpark_all()

    def _drop(self) -> None:
        """Remove the oldest messages until the limits are met."""
        while len(self._items) > self.messages or self.octets_used > self.octets:
            item = next(iter(self._items.values()))
            self._remove(item)
            self.dropped += 1
            self.dropped_octets += item.octets
        if time.monotonic() - self._logged[0] > LOG_INTERVAL:
            self._log_dropped()

    def _log_dropped(self) -> None:
        """Log the number of messages that were dropped since the last record, unless it is 0."""
        _, messages, octets = self._logged
        if self.dropped > messages:
            MESSAGES_DROPPED.log(store=self.url, messages=self.dropped - messages, octets=self.dropped_octets - octets)
            self._logged = time.monotonic(), self.dropped, self.dropped_octets

    def _remove(self, item: Item) -> None:
        del self._items[item.number], self._numbers[item.entry.id]
        self.octets_used -= item.octets
        for group in self._groups.values():
            group.unsettled.pop(item.number, None)

    # --- reading and removing

    async def _select(self, query: Query, *, reverse: bool, after: str | None, offset: int) -> AsyncGenerator[Selected]:
        await trio.lowlevel.checkpoint()
        numbers = list(reversed(self._items) if reverse else self._items)
        if after is not None:
            # The numbers are sorted, but a binary search would depend on the direction.
            offset += numbers.index(self._number_of(after)) + 1
        for n, number in enumerate(numbers[offset:], 1):
            if (item := self._items.get(number)) is not None:
                yield item.entry, False
            if n % CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()

    async def count(self, query: Query | str = "", *, limit: int | None = None) -> int:
        """Return the number of messages that match a query, by default of all messages, and at most ``limit``."""
        if as_query(query).terms or limit is not None:
            return await super().count(query, limit=limit)
        await trio.lowlevel.checkpoint()
        return len(self._items)

    async def present(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids whose messages are in the store."""
        await trio.lowlevel.checkpoint()
        return {each for each in check_items(ids, "ids", str) if each in self._numbers}

    async def get(self, id: str) -> Stored:
        """Return a message. Raises `MessageNotFoundError` if the store does not have it."""
        check_type(id, "id", str)
        await trio.lowlevel.checkpoint()
        item = self._items[self._number_of(id)]
        return Stored.with_message(item.entry, item.message)

    async def remove(self, ids: Iterable[str]) -> int:
        """Remove messages, and return how many of them the store had."""
        await trio.lowlevel.checkpoint()
        found = self._numbers_of(ids)
        for number in found:
            self._remove(self._items[number])
        return len(found)

    def _number_of(self, id: str) -> int:
        if id not in self._numbers:
            raise MessageNotFoundError(f"{self!r}: no message {id!r}")
        return self._numbers[id]

    def _numbers_of(self, ids: Iterable[str]) -> set[int]:
        return {self._numbers[each] for each in check_items(ids, "ids", str) if each in self._numbers}

    # --- consuming

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        # No checkpoint may follow, since the consumer waits next, and would miss a message that arrived in between.
        await trio.lowlevel.checkpoint()
        found = self._groups.setdefault(group, Group()).claim(
            self._items, self._last, self.clock(), lease, max_attempts
        )
        if found is None:
            return None
        number, work = found
        item = self._items[number]
        stored = Stored.with_message(item.entry, item.message)
        assert work.token is not None
        return Claim(stored=stored, group=group, token=work.token, attempt=work.attempts, state=work.state)

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        await trio.lowlevel.checkpoint()
        number = self._numbers.get(claim.stored.id)
        if number is None:  # removed or dropped meanwhile
            return True
        settled = self._groups.setdefault(claim.group, Group()).settle(number, claim.token, outcome, self.clock())
        if settled and outcome.remove:
            self._remove(self._items[number])
        if outcome.kind == "retry":
            self._waiting.unpark_all()
        return settled

    async def _wait_for_message(self, group: str, longest: float) -> None:
        with trio.move_on_after(longest):
            await self._waiting.park()

    async def dead_letters(self, group: str = "default") -> AsyncGenerator[DeadLetter]:
        """Iterate over the dead letters of a group, from the oldest to the newest."""
        check_name(group, "group")
        await trio.lowlevel.checkpoint()
        for number, work in tuple(self._groups.get(group, Group()).dead_letters()):
            if (item := self._items.get(number)) is not None:
                yield DeadLetter(
                    entry=item.entry, group=group, reason=work.reason, attempts=work.attempts, state=work.state
                )

    async def requeue(self, group: str, ids: Iterable[str]) -> int:
        """Deliver dead letters of a group again, with their attempts reset, and return their number."""
        check_name(group, "group")
        await trio.lowlevel.checkpoint()
        count = self._groups.get(group, Group()).requeue(self._numbers_of(ids))
        self._waiting.unpark_all()
        return count

    async def groups(self) -> dict[str, GroupCounts]:
        """Return how many messages each group of consumers has not settled, by its name."""
        await trio.lowlevel.checkpoint()
        now = self.clock()
        return {name: group.counts(self._items, now) for name, group in self._groups.items()}


class MemorySpool(Spool):
    """A message that is being received."""

    def __init__(self, entry: Entry, store: Memory) -> None:
        super().__init__(entry.id)
        self.entry: Entry = entry
        self._envelope = sum(map(sys.getsizeof, strings(entry)))
        self._limit = store.octets

    @property
    def octets(self) -> int:
        """The number of octets of the message and of its envelope."""
        return self._envelope + self.buffered

    async def fill(self, body: AsyncIterable[bytes], keeper: Keeper = UNCOUNTED) -> None:
        """Read a whole body. Raises `MessageTooBigError` as soon as it exceeds the limit of the store."""
        kept = 0
        async for chunk in body:
            self._buffer += chunk
            if self.octets > self._limit:
                raise MessageTooBigError(f"the message has more than the {self._limit} octets that the store can hold")
            kept, before = with_reserve(self.buffered), kept
            keeper.keep(kept - before)
        await trio.lowlevel.checkpoint_if_cancelled()

    def message(self) -> bytes:
        """Return the octets of the message."""
        return bytes(self._buffer)


def strings(entry: Entry) -> Sequence[str]:
    """Return the strings of an envelope, whose number depends on the client."""
    return (entry.sender, entry.mail_params, *entry.recipients, *entry.rcpt_params)
