"""`BodyReader`: reads one message from the core, for the `data` hook and for the session that has to answer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from .._types import Envelope
from .._wire import Wire
from ..protocol import (
    CONNECTION_LOST,
    END_OF_BODY,
    END_OF_CHUNK,
    FAULT,
    NEED_DATA,
    BadCommandError,
    BodyError,
    Command,
    CountedCommand,
    Data,
    Noop,
    Reply,
    ServerProtocol,
)
from ..protocol.commands import END_OF_DATA
from ..protocol.lazy import lazy_pattern
from ..protocol.replies import LONG_HEADER, OK, START_MAIL_INPUT
from .hook_runner import HookRunner
from .memory import NO_MEMORY
from .received import begins_with_field
from .recipient_replies import RecipientReplies, check_recipient_reply, check_replies, summary
from .session_memory import SessionMemory
from .url_reader import FetchingSession, UrlReader
from .wait_limits import TIMEOUT_REASONS, WaitLimits

if TYPE_CHECKING:
    from .turns import Turns

# How a body is read
#
# Between DATA (or BDAT) and the reply to the message, only the `BodyReader` takes events from the core. Each call of
# `next` takes as many as it needs for one piece of the message. It runs in the task of the hook that reads, so there is
# no second task, no queue and no buffer: a hook that does not read stops the client through TCP's flow control, a
# cancellation of the hook cancels the read, and an error is raised where the hook can clean up.
#
# DATA and BDAT differ in three ways, which a hook does not notice:
#
# * The first read of a DATA body sends the 354 (RFC 5321 4.1.1.4). If the hook refuses the message before it, the
#   client does not begin to send. BDAT has no such step: its octets follow the command at once (RFC 3030 2).
# * Each chunk but the last gets a 250 of its own, sent by the read that reaches its end: a hook that reads slowly
#   delays it, and a client that waits for it sends no further chunk.
# * Other commands can come between two chunks. NOOP is answered, and the message goes on. A command that the core
#   refuses gets its refusal. Any other command ends the message: the read raises `BodyError`, and the command is
#   carried out when the hook has returned, as its reply depends on the state after the message.
#
# The state of the reader consists of facts that become true once and stay true:
#
# * ``started``: the client sends the message, so everything up to its end has to be read before a reply.
# * ``error``: the message cannot be accepted. Every further read raises the same exception: a hook that catches it and
#   continues to read must not see an end that looks like that of a whole message. When the hook has returned, a copy
#   takes its place, since its traceback refers to the hook's variables and to this object: a cycle, which would keep
#   what the hook has read in memory until the garbage collector finds it.
# * ``due``: all octets have been received, and the reply to the message is due.
# * ``complete``: in addition, every octet was passed to the hook. Only then may the message be accepted.
# * ``closed``: the hook has returned. A read through a `Body` that was kept would take the client's next command, and
#   answer it, so it raises RuntimeError.
# * ``_dropping``: the session reads what the hook has left. The core discards it (`ServerProtocol.discard`), only its
#   end matters.
#
# `Session.received` returns a field that goes before the message, and a message whose first line is not a field needs
# an empty line between them (see `received`). The field can be asked for before the first line has been read or after
# it, so the empty line is part of what the hook reads in the former case and of the field in the latter. Until it is
# known what the first line is, ``_start`` holds the octets so far, and the hook gets none of them.
#
# `Body.headers` reads the beginning of the message before the hook does. What it has received is kept in ``peeked`` and
# returned by the next read, so the message is not ``complete`` before that.
#
# A read may be cancelled and repeated, by a hook with a timeout of its own, for example. So nothing is taken from the
# core before a checkpoint that is not processed after it. The one event that needs a hook to process, a command between
# two chunks, is kept in ``_undecided`` until the hook has decided.

#: Seconds of a wait for the client during which the clock of the hook goes on.
SHORT_WAIT = 1
CRLF = b"\r\n"
#: The empty line after a header (RFC 5322 2.1). With ``newlines="preserve"`` lines may end in LF.
HEADER_END = lazy_pattern(rb"(?:\A|(?<=\n))\r?\n")


class BodySession(FetchingSession, Protocol):
    """The part of a session's task that a `BodyReader` uses."""

    @property
    def protocol(self) -> ServerProtocol: ...
    @property
    def wire(self) -> Wire: ...
    @property
    def hooks(self) -> HookRunner: ...
    @property
    def memory(self) -> SessionMemory: ...
    @property
    def over(self) -> bool: ...
    @property
    def block_timeout(self) -> float: ...
    @property
    def end_timeout(self) -> float: ...
    async def call_message_hook(self, command: Command) -> Reply | None: ...
    async def answer(self, reply: Reply) -> None: ...
    async def answer_recipient(self, reply: Reply) -> None: ...
    async def refuse(self, bad: BadCommandError) -> None: ...
    async def flush(self) -> None: ...
    def flush_nowait(self) -> None: ...

    processed: int

    async def yield_turn(self) -> None: ...
    @property
    def turns(self) -> Turns | None: ...
    async def time_out(self) -> None: ...
    def end_dialogue(self) -> None: ...


class BodyReader:
    """Reads one message for its `Body`, and for the session that has to answer it."""

    __slots__ = (
        "_dropping",
        "_headless",
        "_memory",
        "_piece",
        "_session",
        "_start",
        "_undecided",
        "_urls",
        "_waits",
        "began",
        "closed",
        "complete",
        "due",
        "early",
        "end",
        "envelope",
        "error",
        "held",
        "interrupted",
        "observing",
        "peeked",
        "refused",
        "replies",
        "separate",
        "size",
        "started",
    )

    def __init__(self, session: BodySession, command: Command, envelope: Envelope) -> None:
        #: The sender and the recipients of the message.
        self.envelope: Envelope = envelope
        #: When DATA or the first BDAT was received, by `HookRunner.now`.
        self.began: float = session.hooks.now()
        #: The number of octets read so far.
        self.size: int = 0
        #: The client sends the message: it got the 354, or it uses BDAT, which does not wait for one.
        self.started: bool = not isinstance(command, Data)
        #: The octets of the message that are counted in the server's `MemoryBudget`.
        self.held: int = 0
        #: The whole message has been read, so it may be accepted.
        self.complete: bool = False
        #: Why the message cannot be accepted any more, or None.
        self.error: BodyError | None = None
        #: Why reading ended last, for the log; None as long as nothing went wrong.
        self.end: str | None = None
        #: The command that ended the message before its last chunk. It is carried out after the hook has returned.
        self.interrupted: Command | None = None
        #: A command for a part of the message was refused, and that is the reply to the message.
        self.refused: bool = False
        #: All octets of the message have been received, so it can be answered.
        self.due: bool = False
        #: The data hook has returned, so only the session may read what is left.
        self.closed: bool = False
        #: An empty line goes before the message if it does not begin with a field.
        self.separate: bool = False
        #: The replies of the data hook, one for each recipient, if it has returned several.
        self.replies: Sequence[Reply] = ()
        #: Those that it has given while it runs (`Body.reply`), if any.
        self.early: RecipientReplies | None = None
        #: Octets that were received for `Body.headers`, and that the next read returns.
        self.peeked: bytes | bytearray = b""
        #: Something has to be done before the data hook waits.
        self.observing: bool = True
        self._start: bytes | None = b""
        self._headless = False  # the message needs such a line
        self._memory = session.memory.budget
        self._piece = 0  # what is counted of the piece that was returned last, which the hook still refers to
        self._session = session
        self._dropping = False
        self._undecided: Command | None = None
        # Made on first use: few messages have a URL, and most arrive before the session has to wait for them.
        self._urls: UrlReader | None = None
        self._waits: WaitLimits | None = None

    @property
    def waited(self) -> float:
        """The seconds for which the client was waited for."""
        return 0.0 if self._waits is None else self._waits.waited

    async def drain(self) -> None:
        """Drop the rest of a refused message, until it can be answered. Errors in it do not matter any more."""
        self.close()
        self._drop()
        while not (self.due or self.interrupted or self.refused or self._session.over):
            try:
                await self.next()
            except BodyError:
                self._drop()
            except StopAsyncIteration:
                return

    def _drop(self) -> None:
        self._dropping = True
        self._session.protocol.discard()

    async def next(self) -> bytes:
        """Return the next piece of the message.

        Raises StopAsyncIteration when all octets were received, `BodyError` when the message cannot be accepted.
        """
        session, protocol = self._session, self._session.protocol
        received = protocol.input  # read directly: `protocol.buffered` would be two calls, three times for each message
        if self.error is not None and not self._dropping:
            raise self.error
        if self.complete:
            raise StopAsyncIteration
        if not self.started:
            self.started = True
            await session.answer(START_MAIL_INPUT)
            if received.at == len(received.data) and not protocol.input_ended:  # the core would ask for octets
                received.compact()
                await self._receive()
                session.processed = 0  # as below
        while True:
            if received.at < len(received.data):  # a client that sends many tiny chunks must not delay other tasks
                await session.yield_turn()
            try:
                event = self._undecided or protocol.next_event()
            except BadCommandError as bad:  # between two chunks
                await session.refuse(bad)
                self.refused = protocol.inspector is None  # an invalid BURL: a part of the message is missing
                if self.refused or session.over:
                    raise self._fail(str(bad)) from None
                continue
            if isinstance(event, bytes):
                octets = len(event)
                self.size += octets
                octets += octets >> 3  # as in `with_reserve`
                self._count(octets - self._piece)
                self._piece = octets
                if self._start is None:
                    return event
                if start := self._begin(event):
                    return start
                continue
            if event is NEED_DATA:
                await (self._fetch() if protocol.fetching else self._receive())
                # What a session has received is not counted until it is processed. If it made another checkpoint before,
                # a thousand sessions would hold a block each.
                session.processed = 0
            elif event is END_OF_BODY or (event is END_OF_CHUNK and self._dropping and not self.replies):
                self.due, self.complete = True, not self._dropping
                self.observing = True
                if self._start is not None and (start := self._begin(b"", end=True)):
                    return start
                raise StopAsyncIteration
            elif event is END_OF_CHUNK:
                assert isinstance(protocol.pending, CountedCommand)
                await session.answer(protocol.pending.chunk_reply)
            elif event is FAULT:
                raise self._fail(str(protocol.fault), protocol.fault)
            elif event is CONNECTION_LOST:
                session.end_dialogue()
                raise self._fail("the client disconnected")
            else:
                assert isinstance(event, Command)
                await self._between_chunks(event)

    # --- memory: see memory.py

    def keep(self, octets: int) -> None:
        """Count octets of the message that are kept, or, if negative, not any more.

        Raises `BodyError` if the memory is used up.
        """
        self._count(octets)

    def share(self, most: int) -> float:
        """Return how many octets may be kept before they are moved to a file; ``most`` at most."""
        return self._memory.share(most)

    def _count(self, octets: int) -> None:
        memory = self._memory
        if octets > 0 and memory.used + octets > memory.limit:
            self._session.protocol.reach("memory")
            raise self._fail("the server has no memory left", NO_MEMORY)
        if not self.closed:
            memory.used += octets
            self.held += octets

    def close(self) -> None:
        """Refuse further reads, and count the octets of the message no more: the data hook has returned."""
        self.closed = True
        self._memory.used -= self.held
        self.held = self._piece = 0
        self.peeked = b""
        if self.error is not None:
            self.error = _copied(self.error)

    def keep_replies(self, answer: Sequence[Reply | None]) -> Reply:
        """Keep what the data hook has returned for the recipients, and return the reply that stands for the message."""
        given = [] if self.early is None else self.early.given
        lmtp = self._session.protocol.grammar.lmtp
        self.replies = check_replies(answer, self.envelope, lmtp=lmtp, given=len(given))
        return summary([*given, *self.replies])

    async def reply(self, reply: Reply | None) -> None:
        """Send the reply for the next recipient, or keep it if it is the last one."""
        session = self._session
        if not session.protocol.grammar.lmtp:
            raise RuntimeError("only LMTP has a reply for each recipient")
        if self.closed or not self.complete:
            raise RuntimeError("the message must be read to its end before the reply for a recipient, in the data hook")
        if self.early is None:
            self.early = RecipientReplies(len(self.envelope.rcpts))
        if not self.early.missing:
            raise RuntimeError(f"each of the {self.early.recipients} recipients has a reply")
        checked = check_recipient_reply(session.hooks.checked("data", END_OF_DATA, reply), self.envelope)
        await trio.lowlevel.checkpoint()
        self.early.given.append(checked)
        if self.early.missing:
            await session.answer_recipient(checked)
        session.hooks.restart_clock()
        self.observing = True

    def before_wait(self) -> None:
        """Send the replies that are held back. Let a hook that has read the message take `Timeouts.end` seconds.

        See "one message" in transaction.py.
        """
        session = self._session
        if self.started and session.protocol.outbox:  # replies to MAIL and RCPT may be held back for BDAT
            session.flush_nowait()
        if self.complete:
            session.hooks.extend(session.end_timeout)
            self.observing = False
        else:
            session.hooks.arm()

    async def peek_header(self, limit: int) -> bytes:
        """Receive octets up to the end of the header, and return the header. The next read returns all of them."""
        if self.closed or self.size > len(self.peeked) + len(self._start or b""):
            raise RuntimeError("the header can be read only in the data hook, and before the rest of the message")
        if self.error is not None:
            raise self.error
        peeked = self.peeked = bytearray(self.peeked)
        searched = 0  # each octet is searched once, since a client may send them in chunks of one octet
        while not (end := HEADER_END.search(peeked, searched)) and len(peeked) <= limit and not self.due:
            searched = max(len(peeked) - 1, 0)  # the last octet may be the CR of the empty line
            try:
                piece = await self.next()
                self.keep(len(piece))
                peeked += piece
            except StopAsyncIteration:
                self.complete = not peeked
        header = bytes(peeked if end is None else peeked[: end.start()])
        if len(header) > limit:
            raise self._fail(f"the header has more than {limit} octets", LONG_HEADER)
        return header

    async def take_peeked(self) -> bytes:
        """Return what `peek_header` has received."""
        if self.error is not None:
            raise self.error
        data, self.peeked = bytes(self.peeked), b""
        self.keep(-self._piece)
        self._piece = len(data)  # counted when it was kept
        self.complete = self.due
        return data

    def _begin(self, data: bytes, *, end: bool = False) -> bytes:
        """Take octets of the beginning of the message, and return what can be passed on.

        ``end`` is true at the end of the message.
        """
        if self._start is None:
            return data
        start = self._start = self._start + data
        field = begins_with_field(start)
        if field is None and not end:
            return b""
        self._start = None
        self._headless = not field and start != b"" and not start.startswith((b"\r\n", b"\n"))
        return CRLF + start if self.separate and self._headless else start

    def separator(self) -> bytes:
        """Return what must be between a trace field and this message: an empty line, or nothing."""
        if self._start is not None:
            self.separate = True
            return b""
        return CRLF if self._headless and not self.separate else b""

    async def _receive(self) -> None:
        """Wait for the client, in a scope of its own: a timeout reaches the hook as `BodyError`, never as Cancelled."""
        session = self._session
        if session.protocol.outbox:
            await session.flush()
        if session.over:
            raise self._fail("the client disconnected")
        paused = -1 if session.turns is None else session.turns.pause()
        if session.wire.quick and not session.wire.waits:
            self.observing = False  # nothing is due until the client has sent more, or the hook has cancelled this read
            try:
                await trio.lowlevel.checkpoint()
            finally:
                self.observing = True
            if session.wire.receive_now():
                if session.turns is not None:
                    session.turns.begin(paused)
                # A hook that goes on reading is not stuck: a large message on a busy disk may take longer than its limit.
                session.hooks.restart_clock()
                return
        session.memory.count()
        began = session.hooks.now()
        waits = self._waits = self._waits or WaitLimits(session.protocol.limits)
        limit, reason = self._next_wait(waits)
        self.observing = False
        try:
            # To stop the clock of the hook costs a change of its deadline. It is not needed for a short wait, so the
            # first scope ends before the deadline of the hook can pass.
            for wait in (min(limit, SHORT_WAIT), limit):
                session.hooks.pause_clock(began, 2 * wait)
                with trio.CancelScope(deadline=began + wait) as scope:
                    await session.wire.receive()
                if not scope.cancelled_caught:
                    if session.turns is not None:
                        session.turns.begin(paused)
                    return
        finally:
            waits.add(session.hooks.now() - began)
            session.hooks.restart_clock()
            self.observing = True
        if reason is not None:
            session.protocol.reach(reason, ends=True)
        await session.time_out()
        raise self._fail(TIMEOUT_REASONS[reason])

    async def _fetch(self) -> None:
        """Add octets of what a BURL refers to. If the rest of the message is dropped, they are not fetched."""
        session, protocol = self._session, self._session.protocol
        command, octets = protocol.pending, b""
        urls = self._urls = self._urls or UrlReader(session)
        if self._dropping:
            await urls.close(self)
        else:
            await session.flush()
            assert isinstance(command, CountedCommand)
            began = session.hooks.now()
            waits = self._waits = self._waits or WaitLimits(protocol.limits)
            limit, reason = self._next_wait(waits)
            try:
                fetched = await urls.read(command, limit, self)
            except BodyError as error:
                raise self._fail(str(error), error.reply) from None
            finally:
                waits.add(session.hooks.now() - began)
            if fetched is None:
                if reason is not None:
                    protocol.reach(reason)
                from ..protocol.extensions.burl import UNAVAILABLE

                raise self._fail("the URL of BURL took too long", UNAVAILABLE)
            octets = fetched
        protocol.add_fetched(octets)

    def _next_wait(self, waits: WaitLimits) -> tuple[float, str | None]:
        """Return how long the next wait may take, and the limit because of which it is not longer."""
        session = self._session
        inspector = session.protocol.inspector
        received = None if inspector is None else inspector.received
        return waits.next(session.block_timeout, received)

    async def _between_chunks(self, command: Command) -> None:
        """Handle a command between two chunks.

        BDAT and NOOP keep the message going, any other command ends it (RFC 3030 2).
        """
        session = self._session
        if isinstance(command, CountedCommand | Noop):
            self._undecided = command  # if this read is cancelled, the next one calls the hook again
            refusal = await session.call_message_hook(command)
            self._undecided = None
            if isinstance(command, Noop):
                await session.answer(refusal or OK)
            elif refusal is not None:
                raise self._fail(f"{command.verb} was refused", refusal)
            return
        self.interrupted = command
        raise self._fail(f"{command.verb} was received before the last chunk")

    def _fail(self, reason: str, reply: Reply | None = None) -> BodyError:
        self.end = reason
        self.error = self.error or BodyError(reason, reply)
        return _copied(self.error) if self.closed else self.error


def _copied(error: BodyError) -> BodyError:
    return BodyError(str(error), error.reply)
