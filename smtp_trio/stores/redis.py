"""Redis: one entry of a stream for each message.

The fields of an entry are texts in UTF-8, except ``message``: ``v`` is 1, the version of the fields; ``id`` is the id of
the envelope, as the log has it; ``received_at`` is ISO 8601 in UTC; ``sender`` is the mailbox as the client sent it, ""
being the null reverse-path; ``recipients`` is a JSON list of pairs, the mailbox and the parameters of RCPT; ``mail_params``
are the parameters of MAIL; ``peer``, ``helo``, ``protocol``, ``tls`` and ``auth`` are absent if they are not known; ``size``
is the number of octets. ``message`` has the octets that the client sent. If they are more than a chunk, it has the last
ones, and ``key`` and ``chunks`` tell where the first ones are (`_redis_scripts.py`).
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import trio
from coredis.exceptions import AuthenticationError

from ..protocol.arguments import check_items, check_number, check_type
from . import _redis_scripts as scripts
from ._consumer import Claim, DeadLetter, GroupCounts, Outcome
from ._entry import HEADER_OCTETS, Entry, Stored
from ._errors import MessageNotFoundError, StoreError, StoreFullError, UnusableStoreError
from ._group import GroupCommit
from ._outage import Outage
from ._query import Query, as_query
from ._redis_engine import (
    ENGINE_ERRORS,
    Engine,
    check_server,
    describe,
    first_error,
    hold_open,
    is_full,
    leave,
    new_client,
)
from ._redis_entries import (
    InvalidEntryError,
    body_parts,
    check_version,
    chunks_key,
    entry_fields,
    entry_number,
    format_entry,
    listed_entry,
    pairs,
)
from ._redis_url import Settings, format_url, parse_url
from ._redis_waiters import Waiters
from ._spool import TaskSpool
from ._store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from types import TracebackType

    from .._server.server import Server
    from ._redis_engine import Command, Run
    from ._store import Selected

# Why a committed message is durable
# ----------------------------------
#
# With ``appendonly yes`` and ``appendfsync always`` Redis flushes its append-only file before it sends the reply to a
# command, once for all commands that it has executed since it last looked for input. It reads a few ten KiB at a time, which
# are fewer than ten messages. So a group of messages is a transaction, which is executed, written and flushed as one, however
# many reads it takes (`Engine.run_together`). That is not for its atomicity: when the server refuses a command of it, and
# thereby all, the commands are sent again without a transaction, and each message has a reply of its own.
#
# WAIT after the transaction returns how many replicas have acknowledged all that this server has written before. A
# replica with the same two settings acknowledges what it has flushed. (WAITAOF needs Redis 7.2, and waits for a report that
# a replica sends once a second.) If they are fewer than ``replicas``, the messages are refused, and removed again. That can
# fail, so a client that sends such a message again can produce a second copy; so does a connection that is lost before the
# reply, as with every SMTP server.
#
# Large messages
# --------------
#
# One command with 25 MiB would keep the server and the event loop busy for almost half a second. So a message of more than
# ``chunk`` octets is written while it is received, into a list of its own. The list has a time to live, which every further
# chunk prolongs, so that one whose process has ended is removed. A script publishes the message: it counts the chunks, adds
# the entry and makes the list persistent, as one step. If the list has expired, because the publication was slow, or a
# failover has lost the end of it, the script refuses the message. A list that an entry may have is never deleted by the
# session: whether it was published is decided by its time to live, also in a script.

#: Seconds after which chunks that no entry has are removed.
CHUNKS_TTL = 3600
#: Chunks that are read at a time.
CHUNKS_READ = 4
#: Entries that are read at a time by an iteration. Redis looks through the octets of all of them.
PAGE = 32
#: Milliseconds for which the server blocks a read.
BLOCK = 5000
#: Seconds between attempts to wait for messages while the server does not respond.
PAUSE = 1.0
#: The longest ``wait_timeout`` in seconds: the server gets it as a whole number of milliseconds.
LONGEST_WAIT = 86400
ID = re.compile(r"\d{1,20}-\d{1,20}")
STREAM = re.compile(r"[A-Za-z0-9._:-]{1,100}")


class Redis(Store["RedisSpool"]):
    """A store that keeps every message in a stream of Redis or Valkey, which several servers and consumers can use.

    ``host``, ``port``, ``db``, ``username``, ``password`` and ``tls`` are for the connection to the server. ``stream`` is
    the key of the stream.

    A 250 is sent when the server, and ``replicas`` of its replicas, have written the message; when they have not within
    ``wait_timeout`` seconds, the reply is 451. When the store is opened, the server must have the settings that make this
    durable, unless ``durability`` is ``"memory"`` and not ``"disk"``.

    ``timeout`` is the number of seconds to wait for a connection or a reply. ``chunk`` is the number of octets of a message
    that are written at a time.

    The store has to be entered, by ``async with``, before the server that it is the hooks of is started.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 6379,
        *,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        stream: str = "mail",
        replicas: int = 0,
        wait_timeout: float = 5,
        timeout: float = 10,
        chunk: int = 1 << 20,
        durability: str = "disk",
    ) -> None:
        super().__init__()
        check_type(host, "host", str)
        check_number(port, "port", 1, integer=True)
        check_number(db, "db", 0, integer=True)
        check_type(username, "username", str, optional=True)
        check_type(password, "password", str, optional=True)
        check_type(tls, "tls", bool)
        check_type(stream, "stream", str)
        if not STREAM.fullmatch(stream):
            raise ValueError(f'stream must be 1 to 100 letters, digits, ".", "_", ":" or "-", got {stream!r}')
        check_number(replicas, "replicas", 0, integer=True)
        check_number(wait_timeout, "wait_timeout", 0.001)
        if wait_timeout > LONGEST_WAIT:
            raise ValueError(f"wait_timeout must be <= {LONGEST_WAIT}, got {wait_timeout}")
        check_number(timeout, "timeout", 0.001)
        check_number(chunk, "chunk", HEADER_OCTETS, integer=True)
        check_type(durability, "durability", str)
        if durability not in ("disk", "memory"):
            raise ValueError(f'durability must be "disk" or "memory", got {durability!r}')
        self.settings: Settings = Settings(
            host=host,
            port=port,
            db=db,
            username=username,
            password=password,
            tls=tls,
            stream=stream,
            replicas=replicas,
            wait_timeout=wait_timeout,
            timeout=timeout,
            chunk=chunk,
            durability=durability,
        )
        self.url: str = format_url(self.settings)
        self._group = GroupCommit(self._commit, commit_in_task=self._commit_group)
        self._outage = Outage(lambda: self.url)
        self._stack: AsyncExitStack | None = None
        self._writer: Engine | None = None
        self._reader: Engine | None = None
        self._waiters = Waiters()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of ``redis://[USER:PASSWORD@]HOST[:PORT][/DB][?stream=NAME&replicas=N&…]``."""
        return cls(**parse_url(url))

    def __repr__(self) -> str:
        return f"Redis({self.url!r})"

    # --- opening and closing

    async def open(self) -> None:
        """Raise RuntimeError unless the store was entered: its connections belong to one task."""
        self._engines()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Do nothing: the end of the block of ``async with`` closes the store."""
        await trio.lowlevel.checkpoint()

    def _engines(self) -> tuple[Engine, Engine]:
        if self._writer is None or self._reader is None:
            raise RuntimeError(f"{self!r} is not open: use it in the block of an `async with` statement")
        return self._writer, self._reader

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError(f"{self!r} was entered already")
        stack = AsyncExitStack()
        try:
            # The nursery is the outermost, since the waiting task uses a client of its own.
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            writer, reader = new_client(self.settings), new_client(self.settings)
            opened, released = trio.Event(), trio.Event()
            stack.callback(released.set)
            nursery.start_soon(hold_open, (writer, reader), opened, released)
            await opened.wait()
            timeout = self.settings.timeout
            self._writer, self._reader = Engine(writer, timeout, self._check), Engine(reader, timeout)
            if self.create:
                await self._writer.run((b"PING",))
            else:
                await self._check_stream(self._reader.run)
            nursery.start_soon(self._wait_for_entries)
        except BaseException as error:
            self._writer = self._reader = None
            await leave(stack, error)
            if isinstance(error, ENGINE_ERRORS):
                kind = UnusableStoreError if isinstance(error, AuthenticationError) else StoreError
                raise kind(f"{self!r}: {describe(error)}") from error
            if isinstance(error, StoreError):
                raise type(error)(f"{self!r}: {error}") from error.__cause__
            raise
        self._stack = stack
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        stack, self._stack = self._stack, None
        self._entered = False
        self._writer = self._reader = None
        if stack is not None:
            await leave(stack, error)
        return None

    async def _check(self, run: Run) -> None:
        """Check a server to which a connection was made. Raises `StoreError` if it cannot be used."""
        await check_server(run, self.settings, self.url)
        await self._check_stream(run)

    async def _check_stream(self, run: Run) -> None:
        stream = self.settings.stream
        [kind] = await run((b"TYPE", stream))
        if isinstance(kind, Exception):
            raise StoreError(f"TYPE fails: {kind}")
        if kind == b"none" and not self.create:
            raise StoreError(f"the stream {stream} does not exist")
        if kind not in (b"none", b"stream"):
            raise UnusableStoreError(f"the key {stream} has another type: {kind.decode()}")
        if kind == b"stream":
            [found] = await run((b"EVAL", scripts.LIST, 1, stream, "XREVRANGE", "+", "-", 1, 0))
            if isinstance(found, Exception):
                raise StoreError(f"the stream {stream} cannot be read: {found}")
            for uid, values in found:
                check_version(uid.decode(), pairs(values))

    async def start(self, server: Server) -> None:
        """Raise RuntimeError unless the store was entered."""
        await self.open()

    async def stop(self, server: Server) -> None:
        """Do nothing."""
        await self.aclose()

    # --- storing

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> RedisSpool:
        _, reader = self._engines()
        return RedisSpool(entry, self, reader)

    async def _commit_group(self, messages: Sequence[RedisSpool]) -> dict[RedisSpool, Exception]:
        writer, _ = self._engines()
        replicas, longest = self.settings.replicas, self.settings.wait_timeout
        wait = [(b"WAIT", replicas, round(longest * 1000))] if replicas else []
        began = time.monotonic()
        try:
            results = await writer.run_together(
                [message.command() for message in messages], wait, longer=longest if replicas else 0
            )
        except (*ENGINE_ERRORS, StoreError) as error:
            return dict.fromkeys(messages, self._outage.error(error))
        acknowledged = results.pop() if replicas else 0
        errors: dict[RedisSpool, Exception] = {}
        written: list[str] = []
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, Exception):
                errors[message] = self._refused(result)
            elif not ID.fullmatch(
                name := result.decode()
            ):  # such as QUEUED, if a transaction was neither executed nor ended
                errors[message] = self._refused(StoreError(f"the reply {name!r} is not the id of an entry"))
            else:
                message.name = name
                written.append(name)
        if written and replicas and (isinstance(acknowledged, Exception) or acknowledged < replicas):
            missing = StoreError(f"{acknowledged} replicas have acknowledged the message, and {replicas} must")
            errors.update(dict.fromkeys(messages, self._outage.error(missing)))
            await self._take_back(written)
        elif written:
            self._outage.end(began)
        return errors

    async def _take_back(self, ids: Sequence[str]) -> None:
        """Remove messages that are refused, if the server allows it."""
        writer, _ = self._engines()
        with suppress(*ENGINE_ERRORS, StoreError):
            await writer.run((b"EVAL", scripts.REMOVE, 1, self.settings.stream, *ids))

    def _refused(self, error: Exception) -> StoreError:
        """Return the error for one message that the server has refused."""
        return StoreFullError(str(error)) if is_full(error) else self._outage.error(error)

    async def _ask(self, *commands: Command) -> list[Any]:
        """Run commands, and return their replies. Raises `StoreError` if one of them fails."""
        _, reader = self._engines()
        try:
            results = await reader.run(*commands)
        except ENGINE_ERRORS as error:
            raise StoreError(f"{self!r}: {describe(error)}") from error
        if (failed := first_error(results)) is not None:
            raise StoreError(f"{self!r}: {failed}") from failed
        return results

    async def _script(self, script: str, *arguments: object) -> list[Any]:
        """Run a script, and return its result as the only item of a list. Raises `StoreError`."""
        return await self._ask((b"EVAL", script, 1, self.settings.stream, *arguments))

    # --- reading and removing

    async def _select(self, query: Query, *, reverse: bool, after: str | None, offset: int) -> AsyncGenerator[Selected]:
        # In the order in which they were stored.
        start, end = ("+", "-") if reverse else ("-", "+")
        if after is not None:
            if not await self.present([after]):
                raise MessageNotFoundError(f"{self!r}: no message {after!r}")
            start = f"({after}"
        command = "XREVRANGE" if reverse else "XRANGE"
        while found := (await self._script(scripts.LIST, command, start, end, PAGE, HEADER_OCTETS))[0]:
            for uid, values in found[offset:]:
                yield listed_entry(uid.decode(), pairs(values)), False
            offset = max(0, offset - len(found))
            start = f"({found[-1][0].decode()}"

    async def count(self, query: Query | str = "", *, limit: int | None = None) -> int:
        """Return the number of messages that fulfil a query, by default of all messages; ``limit`` if there are more."""
        if as_query(query).terms or limit is not None:
            return await super().count(query, limit=limit)
        [count] = await self._ask((b"XLEN", self.settings.stream))
        return int(count)

    async def present(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids whose messages are in the store."""
        wanted = [each for each in check_items(ids, "ids", str) if ID.fullmatch(each)]
        [found] = await self._script(scripts.PRESENT, *wanted)
        return {uid.decode() for uid in found}

    async def get(self, id: str) -> Stored:
        """Return a message. The time that this takes grows with the logarithm of their number."""
        check_type(id, "id", str)
        if ID.fullmatch(id):
            [found] = await self._ask((b"XRANGE", self.settings.stream, id, id))
            if found:
                return await self._read(id, pairs(found[0][1]))
        raise MessageNotFoundError(f"{self!r}: no message {id!r}")

    async def _read(self, uid: str, values: dict[str, bytes]) -> Stored:
        """Return the message of an entry.

        Raises `MessageNotFoundError` if it is removed meanwhile, and `InvalidEntryError` if it is not a message.
        """
        name, count, tail, size = body_parts(uid, values)
        message = bytearray()
        for n in range(0, count, CHUNKS_READ):
            [chunks] = await self._ask((b"LRANGE", chunks_key(self.settings.stream, name), n, n + CHUNKS_READ - 1))
            for chunk in chunks:
                message += chunk
        message += tail
        if len(message) != size:
            raise MessageNotFoundError(f"{self!r}: message {uid!r} was removed")
        values["message"] = bytes(message)
        return Stored(message=values["message"], **entry_fields(uid, values))

    async def remove(self, ids: Iterable[str]) -> int:
        """Remove messages, and what the groups know of them, and return how many of them the store had."""
        found = list(dict.fromkeys(each for each in ids if ID.fullmatch(each)))
        count = 0
        for n in range(0, len(found), PAGE):
            count += (await self._script(scripts.REMOVE, *found[n : n + PAGE]))[0]
        return count

    # --- consuming

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        while True:
            now, token = self.clock(), os.urandom(8).hex()
            [[uid, values, attempt, text]] = await self._script(
                scripts.CLAIM, group, name, repr(now), repr(now + lease), max_attempts, token
            )
            if not uid:
                self._waiters.last[group] = entry_number(text)
                return None
            state = text.decode()
            try:
                stored = await self._read(uid.decode(), pairs(values))
            except MessageNotFoundError as error:
                # No attempt can succeed: its chunks are lost, or it is not a message. If it was removed after the claim, this
                # does nothing.
                reason = str(error) if isinstance(error, InvalidEntryError) else "chunks of the message are missing"
                await self._record(group, uid.decode(), token, Outcome(kind="dead", reason=reason, state=state))
            else:
                return Claim(stored=stored, group=group, token=token, attempt=attempt, state=state)

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        return await self._record(claim.group, claim.stored.id, claim.token, outcome)

    async def _record(self, group: str, uid: str, token: str, outcome: Outcome) -> bool:
        [result] = await self._script(
            scripts.SETTLE,
            group,
            uid,
            token,
            outcome.kind,
            int(outcome.remove),
            repr(self.clock() + outcome.after),
            outcome.reason.encode("utf-8", "replace"),
            outcome.state.encode("utf-8", "replace"),
            int(outcome.uncounted),
        )
        return bool(result)

    async def _wait_for_message(self, group: str, longest: float) -> None:
        self._engines()
        await self._waiters.wait(group, longest)

    async def _wait_for_entries(self) -> None:
        """Wait for new entries while a consumer does, on a connection of its own."""
        waiters = self._waiters
        while True:
            await waiters.wait_for_one()
            try:
                async with new_client(self.settings) as client:
                    engine = Engine(client, self.settings.timeout)
                    while True:
                        await waiters.wait_for_one()
                        position = "{}-{}".format(*waiters.newest)
                        read = (b"XREAD", b"COUNT", 1, b"BLOCK", BLOCK, b"STREAMS", self.settings.stream, position)
                        [found] = await engine.run(read, longer=BLOCK / 1000, shield=False)
                        if isinstance(found, Exception):
                            raise found
                        for entries in (found or {}).values():
                            waiters.announce(entry_number(entries[-1][0]))
            except* ENGINE_ERRORS:
                pass  # a claim reports it
            await trio.sleep(PAUSE)

    async def dead_letters(self, group: str = "default") -> AsyncGenerator[DeadLetter]:
        """Iterate over the messages that a group has given up, from the oldest to the newest."""
        [ids] = await self._ask((b"ZRANGE", f"{{{self.settings.stream}}}:group:{group}:dead", 0, -1))
        ids.sort(key=entry_number)
        for n in range(0, len(ids), PAGE):
            [found] = await self._script(scripts.DEAD, group, HEADER_OCTETS, *ids[n : n + PAGE])
            for (uid, values), text in found:
                record = json.loads(text)
                yield DeadLetter(
                    entry=listed_entry(uid.decode(), pairs(values)),
                    group=group,
                    reason=record["reason"],
                    attempts=record["attempts"],
                    state=record["state"],
                )

    async def requeue(self, group: str, ids: Iterable[str]) -> int:
        """Deliver dead letters of a group again, with no attempts counted, and return how many of them there were."""
        found = list(dict.fromkeys(each for each in ids if ID.fullmatch(each)))
        count = 0
        for n in range(0, len(found), PAGE):
            count += (await self._script(scripts.REQUEUE, group, repr(self.clock()), *found[n : n + PAGE]))[0]
        return count

    async def groups(self) -> dict[str, GroupCounts]:
        """Return how many messages each group of consumers has not settled, by its name."""
        [found] = await self._script(scripts.COUNTS, repr(self.clock()))
        return {
            name.decode(): GroupCounts(waiting=None if waiting < 0 else waiting, in_flight=in_flight, dead=dead)
            for name, waiting, in_flight, dead in found
        }


class RedisSpool(TaskSpool):
    """A message before it is published: the last octets in memory, the others in chunks."""

    def __init__(self, entry: Entry, store: Redis, engine: Engine) -> None:
        super().__init__(entry.id)
        self.part: int = store.settings.chunk
        self.memory: int = store.settings.chunk
        self._store = store
        self._engine = engine
        self._key = ""
        self._chunks = 0
        self._fields = format_entry(entry)

    @property
    def chunks_key(self) -> str:
        """The key of the list of chunks."""
        return chunks_key(self._store.settings.stream, self._key)

    @property
    def written(self) -> bool:
        """True if chunks may have been written."""
        return self._key != ""

    async def send(self, data: bytearray) -> None:
        """Write a chunk."""
        if not self._key:
            self._key = os.urandom(12).hex()
        try:
            length, _ = results = await self._engine.run(
                (b"RPUSH", self.chunks_key, bytes(data)), (b"EXPIRE", self.chunks_key, CHUNKS_TTL)
            )
        except ENGINE_ERRORS as error:
            raise self._store._outage.error(error) from error
        if (failed := first_error(results)) is not None:
            raise self._store._refused(failed) from failed
        self._chunks += 1
        if length != self._chunks:
            raise StoreError("the first octets of the message are not complete any more")

    async def withdraw(self) -> None:
        """Remove the chunks, unless they were published; otherwise they expire."""
        with suppress(*ENGINE_ERRORS):
            await self._engine.run((b"EVAL", scripts.WITHDRAW, 1, self.chunks_key))

    def command(self) -> Command:
        """Return the command that stores the message."""
        stream = self._store.settings.stream
        fields = [*self._fields, "size", self.size + self.buffered, "message", bytes(self._buffer)]
        if not self._chunks:
            return (b"XADD", stream, "*", *fields)
        fields += ["key", self._key, "chunks", self._chunks]
        return (b"EVAL", scripts.PUBLISH, 2, stream, self.chunks_key, self._chunks, *fields)
