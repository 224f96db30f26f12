"""The base class of stores: hooks whose ``data`` answers 250 only when the message is durable, and what reads it again.

RFC 5321 6.1: with its 250 a server accepts responsibility for the message, and "MUST NOT lose the message for frivolous
reasons, such as because the host later crashes". A subclass defines how a message is spooled, how a group of
messages is committed, and how messages are found, removed and claimed by consumers.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import sqlite3
import time
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Generic, Self

import trio
from attrs import evolve

from .._server.alias_targets import expanded
from .._server.body import keep_start, keeper_of
from .._server.hooks import Hooks
from .._server.log_events import NOT_STORED, WATCHER_FAILED
from .._server.session_log import STORED
from .._server.threads import run_in_thread
from ..protocol.arguments import check_callable, check_items, check_number, check_plain_function, check_type
from ..protocol.lazy import lazy_pattern
from ._consumer import Consumer
from ._entry import HEADER_OCTETS, Entry
from ._errors import MessageNotFoundError, NotSupportedError, StoreError, StoreFullError, primary_code
from ._group import GroupCommit, SpoolT
from ._outage import StoreUnavailableError
from ._query import Content, Query, as_query

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from .._server.body import Body
    from .._server.server import Server
    from .._server.session import Session
    from .._types import Envelope
    from ..protocol import Rcpt
    from ..protocol.replies import Reply
    from ._consumer import Claim, DeadLetter, GroupCounts, Outcome
    from ._entry import Stored

#: A message that may fulfil a query, and whether it is known that it does.
Selected = tuple[Entry, bool]
#: `CONTROL` of the core and lone surrogates, which no command contains. A line break would begin another field in a Maildir.
NOT_IN_COMMANDS = lazy_pattern(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
#: Seconds that the end of an ``async with`` block waits until the store is closed.
CLOSE_TIMEOUT = 30.0
NUMBERS = itertools.count(1)
#: Octets of a message from which on it is searched in a thread.
LARGE = 1 << 16
#: The greatest number that a store is asked to leave out. The databases have 64 bits for it, and no store has more messages.
MAX_OFFSET = 2**63 - 1


class Store(Hooks, Generic[SpoolT]):
    """The base class of stores: hooks that keep every message, and methods that read them.

    A store is an asynchronous context manager: ``async with store:`` opens it, and closes it at the end of the block.
    `Maildir` and `SQLite` are also opened with the server that they serve, or by the first message, and can be used again
    after they were closed. Add other hooks in a subclass of a store, or call `put` in a ``data`` hook of your own.
    """

    url: str
    """The URL that `open` takes, without a password."""
    clock: Callable[[], float] = staticmethod(time.time)
    """The seconds since the epoch, by which leases and retries are timed. A test can set another function."""
    create: bool = True
    """True if the store is created when it does not exist. If False, opening it is an error then, and changes nothing."""
    shared: bool = True
    """True if several processes can use the store."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of a URL, which has the scheme of this kind of store. Raises ValueError if it is invalid."""
        raise NotImplementedError

    def __init__(self) -> None:
        self._group: GroupCommit[SpoolT] = GroupCommit(self._commit)
        self._entered = False
        self._watchers: tuple[Callable[[str], object], ...] = ()

    # --- implemented by each store:
    #
    # These methods begin with an underscore because they are for the stores of this package: `Hooks` has public names
    # for hooks only, and a program never calls them. A store outside of the package calls nothing here either; it
    # defines a ``data`` hook. `_commit`, `_open` and `_close` run in a thread, and never concurrently.

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> SpoolT:
        """Return an empty spool for a message.

        ``entry`` has its envelope; the size, subject and date are not known yet. ``trace()`` returns the ``Received:`` field
        for it, with the end of the line and an empty line if the message could continue the field (`Session.received`).
        """
        raise NotImplementedError

    def _commit(self, messages: Sequence[SpoolT]) -> dict[SpoolT, Exception]:
        """Make messages durable, and return the errors of those that cannot be stored, by message.

        An exception that is raised is the error of all of them. No other mapping or list may contain the errors: see
        `_group.py`. Nothing of a message with an error may be visible to
        readers; `Spool.discard` removes what is left. The store may not be open yet: `_open` is called by the server,
        but not by `put`.
        """
        raise NotImplementedError

    def _open(self) -> None:
        """Open the store, or raise OSError, `sqlite3.Error` or `StoreError`. The default does nothing."""

    def _close(self) -> None:
        """Close the store. The default does nothing."""

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        """Claim for a consumer the message that has waited longest, or return None if none is due.

        A message is due if no consumer of the group has settled it, unless a consumer holds an unexpired lease of it, or has
        asked for a later time. A group gets all messages, also those that were stored before its first claim. With its
        claim the number of attempts of the message is increased. One that would get more than ``max_attempts`` becomes a
        dead letter instead: its last lease has expired.
        """
        raise self._not_supported("be consumed")

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        """Record what has become of a claim. Return False, and change nothing, if the lease was given to another consumer."""
        raise self._not_supported("be consumed")

    async def _wait_for_message(self, group: str, longest: float) -> None:
        """Return when a message may be due for the group, after ``longest`` seconds at the latest. It may return early."""
        raise self._not_supported("be consumed")

    def _not_supported(self, what: str) -> NotSupportedError:
        return NotSupportedError(f"{self!r}: such a store cannot {what}")

    # --- the same in every store:

    async def put(self, session: Session, body: AsyncIterable[bytes], *, rcpts: Sequence[Rcpt] | None = None) -> str:
        """Store the message that a session is receiving, for all its recipients, and return the store's id of it.

        In LMTP, ``rcpts`` can be those of ``session.envelope.rcpts`` that it is stored for; the hook has to refuse it for
        the others. Raises ValueError if ``rcpts`` is empty, or has one that is not in the envelope. The targets of aliases
        are stored in their place (`smtp_trio.recipients`).

        ``body`` is the body of the session's ``data`` hook, or an iterable that yields a changed one. Returns when the
        message is durable. Raises `StoreError` when it is not stored, RuntimeError when the session is not receiving a
        message, and what iterating over ``body`` raises; then the store contains nothing of it.

        Cancellation is possible only until the body has been read.
        """
        envelope = session.envelope
        if envelope is None:
            raise RuntimeError("the session is not receiving a message: call put() in the data hook")
        if rcpts is not None:
            if not rcpts or any(rcpt not in envelope.rcpts for rcpt in rcpts):
                raise ValueError(f"rcpts must be some of the recipients of the message, got {rcpts!r}")
            envelope = evolve(envelope, rcpts=tuple(rcpts))
        if (targets := expanded(envelope)) is not envelope.rcpts:
            envelope = evolve(envelope, rcpts=targets)
        name = await self._put(session, envelope, body)
        envelope.context[STORED] = name
        self._notify(name)
        return name

    async def _put(self, session: Session, envelope: Envelope, body: AsyncIterable[bytes]) -> str:
        spool = self._spool(Entry.of(session, envelope), session.received)
        keep_start(body)  # the spool adds an empty line where it can be found again
        return await self._store(spool, body, session)

    async def add(
        self,
        message: bytes | AsyncIterable[bytes],
        sender: str,
        recipients: Sequence[str],
        *,
        mail_params: str = "",
        rcpt_params: Sequence[str] | None = None,
        received: datetime | None = None,
    ) -> str:
        """Store a message that no session receives, such as a report or one of another store; return the store's id of it.

        The parameters are texts as in `Entry`; ``received`` is now by default. Raises ValueError for a text that no command
        of SMTP can contain, such as one with a line break, and `StoreError` when the message is not stored.
        """
        check_type(sender, "sender", str)
        check_type(mail_params, "mail_params", str)
        recipients = check_items(recipients, "recipients", str)
        if not recipients:
            raise ValueError("recipients must not be empty")
        rcpt_params = ("",) * len(recipients) if rcpt_params is None else check_items(rcpt_params, "rcpt_params", str)
        if len(rcpt_params) != len(recipients):
            raise ValueError(
                f"rcpt_params must have one text for each of {len(recipients)} recipients, got {len(rcpt_params)}"
            )
        for text in (sender, *recipients, mail_params, *rcpt_params):
            if NOT_IN_COMMANDS.search(text):
                raise ValueError(f"addresses and parameters must not contain control characters, got {text!a}")
        entry = Entry(
            id=f"{os.urandom(6).hex()}-{next(NUMBERS)}",
            received=datetime.fromtimestamp(self.clock(), UTC) if received is None else received,
            sender=sender,
            recipients=recipients,
            mail_params=mail_params,
            rcpt_params=rcpt_params,
            peer="local",
            protocol="local",
        )
        date = format_datetime(entry.received)
        trace = f"Received: by {socket.gethostname()} id {entry.id};\r\n {date}\r\n".encode()
        body = once(message) if isinstance(message, bytes) else message
        name = await self._store(self._spool(entry, lambda: trace), body)
        self._notify(name)
        return name

    @contextmanager
    def watch(self, callback: Callable[[str], object]) -> Iterator[None]:
        """Call ``callback(id)`` for each message that this object stores during the block, in the task that stores it.

        The message can be read then, and its client does not have the 250 yet; so the callback must return at once. An
        exception in it is logged, and the message stays stored. Messages that other objects or processes store in the same
        place are not announced.
        """
        check_callable(callback, "callback")
        check_plain_function(callback, "callback")

        def watcher(id: str) -> None:  # another one for each block, also if the callback is the same
            callback(id)

        self._watchers += (watcher,)
        try:
            yield
        finally:
            self._watchers = tuple(each for each in self._watchers if each is not watcher)

    def _notify(self, id: str) -> None:
        """Call the watchers. The message is stored, so that their errors must not become its reply."""
        for watcher in self._watchers:
            try:
                watcher(id)
            except Exception as error:
                WATCHER_FAILED.log(id=id, error=repr(error), exc_info=error)

    async def _store(self, spool: SpoolT, body: AsyncIterable[bytes], session: Session | None = None) -> str:
        """Read a body into a spool, commit it, and return the store's id of the message."""
        try:
            if session is None:
                await spool.fill(body)
            else:
                await spool.fill(body, keeper_of(session))
        except (OSError, sqlite3.Error, StoreError) as error:
            raise self._store_error(error) from error
        failure = await self._group.submit(spool)
        if failure is not None:
            raise self._store_error(failure) from failure
        return spool.name

    async def open(self) -> None:
        """Open the store now, not with its first message. Raises `StoreError` when it cannot be used."""
        try:
            await run_in_thread(self._open, limiter=self._group.limiter)
        except (OSError, sqlite3.Error, StoreError) as error:
            raise self._store_error(error) from error

    async def aclose(self) -> None:
        """Close the store. It is opened again when it is used again."""
        await run_in_thread(self._close, limiter=self._group.limiter)

    async def __aenter__(self) -> Self:
        await self.open()
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._entered = False
        # Also when the block was cancelled: connections would stay open otherwise.
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self.aclose()
        return None

    def _store_error(self, error: Exception) -> StoreError:
        """Return the StoreError that fits an error. Each session needs its own: a group can share one error."""
        if isinstance(error, StoreError):
            kind = type(error)
        elif isinstance(error, OSError):
            kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        else:
            kind = StoreFullError if primary_code(error) == sqlite3.SQLITE_FULL else StoreError
        return kind(f"{self!r}: {str(error) or type(error).__name__}")

    # --- reading and removing:

    def entries(
        self, *, reverse: bool = False, after: str | None = None, offset: int = 0, limit: int | None = None
    ) -> AsyncGenerator[Entry]:
        """Iterate over the messages without their octets, from the oldest to the newest, or in reverse.

        ``after`` is the id of a message: the iteration begins with the one that follows it in this order. The first
        ``offset`` messages are left out, and at most ``limit`` are included.

        A message that is stored or removed meanwhile may be included or not. Raises `NotSupportedError` if the store cannot
        be read, `MessageNotFoundError` if it does not have the message ``after``, and otherwise `StoreError` when reading
        fails.
        """
        return self.search(Query(), reverse=reverse, after=after, offset=offset, limit=limit)

    def __aiter__(self) -> AsyncIterator[Entry]:
        return self.entries()

    def search(
        self,
        query: Query | str,
        *,
        reverse: bool = True,
        after: str | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> AsyncGenerator[Entry]:
        """Iterate over the messages that fulfil a query, from the newest to the oldest, or the other way round.

        ``query`` is a `Query`, or the text of one. ``after``, ``offset`` and ``limit`` are as in `entries`; the message
        ``after`` need not fulfil the query. Raises ValueError for an invalid text, and the errors of `entries`.
        """
        check_type(reverse, "reverse", bool)
        check_type(after, "after", str, optional=True)
        check_number(offset, "offset", integer=True)
        check_number(limit, "limit", integer=True, optional=True)
        query = as_query(query)
        in_store, rest = (0, offset) if query.terms else (min(offset, MAX_OFFSET), 0)
        selected = self._select(query, reverse=reverse, after=after, offset=in_store)
        return self._found(query, selected, rest, limit)

    async def _found(
        self, query: Query, selected: AsyncGenerator[Selected], offset: int, limit: int | None
    ) -> AsyncGenerator[Entry]:
        """Iterate over those of the selected messages that fulfil a query."""
        async with aclosing(selected):
            if limit == 0:
                return
            count = -offset
            async for entry, sure in selected:
                try:
                    found = sure or not query.terms or await self._fulfils(query, entry)
                except MessageNotFoundError:  # removed meanwhile
                    continue
                if not found:
                    continue
                count += 1
                if count > 0:
                    yield entry
                if count == limit:
                    return

    async def count(self, query: Query | str = "", *, limit: int | None = None) -> int:
        """Return the number of messages that fulfil a query, by default of all messages; ``limit`` if there are more.

        Raises the errors of `search`.
        """
        found = self.search(query, limit=limit)
        return sum([1 async for _ in found])

    async def present(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids whose messages are in the store. Raises the errors of `entries`."""
        wanted = frozenset(check_items(ids, "ids", str))
        return {entry.id async for entry in self.entries() if entry.id in wanted} if wanted else set()

    async def maintain(self) -> None:
        """Keep what makes searches fast up to date, until it is cancelled.

        A program that searches often runs it in a nursery, as `smtp_trio.web` does. Without it, a search does some of this
        work itself.
        """
        await trio.sleep_forever()

    async def indexed(self) -> float | None:
        """Return the share of the messages that the search index has, from 0 to 1, or None if the store has no index.

        Searches read the other messages, so they are slow until the index has all of them.
        """
        return None

    async def _fulfils(self, query: Query, entry: Entry) -> bool:
        """Read as much of a message as is needed to return whether it fulfils a query."""
        result = query.decide(entry)
        if result is None and query.needs_header:
            result = query.decide(entry, Content(await self._header(entry.id), complete=False))
        if result is None:
            stored = await self.get(entry.id)
            if stored.size <= LARGE:
                result = query.matches(stored)
            else:
                result = await run_in_thread(partial(query.matches, stored))
        return result

    def _select(self, query: Query, *, reverse: bool, after: str | None, offset: int) -> AsyncGenerator[Selected]:
        """Iterate over the messages that may fulfil a query, each with True if it is known that it does.

        A store that has an index can leave out messages. ``offset`` is 0 if the query has terms. The other parameters are
        those of `search`.
        """
        raise self._not_supported("be read")

    async def _header(self, id: str) -> bytes:
        """Return the beginning of a message with its header, or up to `HEADER_OCTETS` of it."""
        return (await self.get(id)).message[:HEADER_OCTETS]

    async def get(self, id: str) -> Stored:
        """Return a message. Raises `MessageNotFoundError` if the store does not have it."""
        raise self._not_supported("be read")

    async def remove(self, ids: Iterable[str]) -> int:
        """Remove messages, and return how many of them the store had."""
        raise self._not_supported("remove messages")

    # --- consuming:

    def consume(
        self,
        group: str = "default",
        name: str | None = None,
        *,
        max_in_flight: int = 1,
        lease: float = 300,
        max_attempts: int = 10,
        remove: bool = False,
    ) -> Consumer:
        """Iterate over the messages of a group as `Delivery` objects: each message is handled by one consumer of the group.

        A message is delivered at least once, to one consumer at a time, and again until it is settled: after ``lease``
        seconds, after `Delivery.retry`, or when its consumer was cancelled. After ``max_attempts`` attempts it becomes a dead
        letter (`dead_letters`). A consumer can recognise a repeated delivery by ``id``.

        ``name`` is the name of the consumer (default: one that no other process uses). The iteration waits while
        ``max_in_flight`` deliveries are not settled. With ``remove``, `Delivery.ack` also removes the message.
        """
        return Consumer(
            self, group, name, max_in_flight=max_in_flight, lease=lease, max_attempts=max_attempts, remove=remove
        )

    def dead_letters(self, group: str = "default") -> AsyncGenerator[DeadLetter]:
        """Iterate over the messages that a group has given up, from the oldest to the newest."""
        raise self._not_supported("be consumed")

    async def requeue(self, group: str, ids: Iterable[str]) -> int:
        """Deliver dead letters of a group again, with no attempts counted, and return how many of them there were."""
        raise self._not_supported("be consumed")

    async def groups(self) -> dict[str, GroupCounts]:
        """Return how many messages each group of consumers has not settled, by its name.

        A group exists from its first delivery on. Raises `NotSupportedError` if the store cannot count them without reading
        its messages.
        """
        raise self._not_supported("count the messages of groups")

    # --- hooks:

    async def start(self, server: Server) -> None:
        """Open the store with the server."""
        await self.open()

    async def stop(self, server: Server) -> None:
        """Close the store with the server, unless a block of ``async with`` does."""
        if not self._entered:
            await self.aclose()

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        """Store the message. On an error log it, and return its reply.

        A subclass may store it for some of its recipients, by `put`, and in LMTP return a reply for each (see `Hooks.data`).
        """
        try:
            await self.put(session, body)
        except StoreError as error:
            if not isinstance(error, StoreUnavailableError):
                NOT_STORED.log(id=body.envelope.id, peer=str(session.peer), error=str(error), exc_info=error.__cause__)
            return error.reply
        return None


async def once(message: bytes) -> AsyncGenerator[bytes]:
    """Yield a message as a body."""
    yield message
