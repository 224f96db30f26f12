"""`Recorder`: transcripts of recent sessions, with the replies for each recipient."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import trio
from attrs import Factory, define, frozen

from .._server.hooks import Hooks
from .._server.log_events import cut
from .._server.session_log import STORED
from ..policies import Layer
from ..protocol import Reply
from ..protocol.arguments import check_number
from ..testing import Transcript
from ..testing._transcripts.entry import MASK, ROLES, Entry, Event, Side
from ..testing._transcripts.recording import Tap
from ..testing._transcripts.text import escape, printable
from ..testing._wire_tracker import BODY, DOT, Piece, WireTracker

if TYPE_CHECKING:
    from .._server.body import Body
    from .._server.session import Session

# A recorder is called with all octets between the stream of a session and its protocol, as a transcript of
# `smtp_trio.testing` is, and uses the same tracker to divide them into commands, replies and messages. The numbers of
# sessions, of octets of a session and of each message in it, and of messages with their replies are limited. Secrets are
# masked before lines are kept, so that neither the API nor a memory dump of the recorder reveals passwords.
#
# The tracker numbers commands and replies, which assigns the replies to recipients. The id of a stored message comes from the
# `data` hook. A client may send the next transaction before that hook returns, so the message of the hook is not the last
# one that was received, but the first one that was received completely and has no reply yet.

#: The number of octets of each message in a transcript: the beginning of its header. The whole message is in the store.
MESSAGE_OCTETS = 1024
#: The maximum number of octets of a transcript, where each line counts LINE_COST more for its object. The oldest lines are
#: dropped.
SESSION_OCTETS, LINE_COST = 64 * 1024, 200
#: The maximum number of messages of a session, and of recipients of a message, whose replies are kept.
MAX_MESSAGES, MAX_RECIPIENTS = 100, 100
#: The maximum number of characters of an address or a reply.
MAX_TEXT = 512
#: The number of octets without a line ending after which the recording of a session stops.
MAX_LINE = 64 * 1024


@frozen
class RecordedLine:
    """A line of a transcript. ``side`` is "C" or "S" for what the client or the server sent, and "" for a note."""

    time: float
    side: Literal["C", "S", ""]
    text: str


@define(eq=False)
class RecordedRecipient:
    """A recipient of a transaction, with the reply to RCPT, and in LMTP the reply to the message."""

    address: str
    reply: str | None = None
    final_reply: str | None = None


@define(eq=False)
class RecordedMessage:
    """A transaction: its sender, its recipients, and its outcome."""

    sender: str
    #: The id of the message in the store, or None if it was not stored.
    id: str | None = None
    #: The reply to the message, or None if it has not been sent.
    reply: str | None = None
    recipients: list[RecordedRecipient] = Factory(list)


def text_of(octets: bytes) -> str:
    """Return a line or a reply as text of bounded length."""
    return cut(octets.removesuffix(b"\r\n").decode("utf-8", "replace").replace("\r\n", "\n"), MAX_TEXT)


@define(eq=False)
class RecordedSession:
    """A session: its client, its transcript, and the outcome for each recipient."""

    id: str
    began: datetime
    #: The duration in seconds; None while the session is open.
    seconds: float | None = None
    peer: str = ""
    helo: str | None = None
    tls: str | None = None
    user: str | None = None
    messages: deque[RecordedMessage] = Factory(lambda: deque(maxlen=MAX_MESSAGES))
    #: The numbers of octets that the two sides have sent, inside TLS.
    received_octets: int = 0
    sent_octets: int = 0
    #: The number of octets that were dropped from the beginning of the transcript because of the limit.
    dropped_octets: int = 0
    #: Whether the recording has stopped before the end of the session.
    cut: bool = False
    _lmtp: bool = False
    _entries: deque[Entry] = Factory(deque)
    _kept: int = 0
    _start: float = 0.0
    _tracker: WireTracker = Factory(lambda: WireTracker(cautious=True))
    _session: Session | None = None
    #: The recipient or message that awaits the reply with this number.
    _awaiting: dict[int, RecordedRecipient | RecordedMessage] = Factory(dict)
    #: Messages that were received completely and await their reply.
    _complete: deque[RecordedMessage] = Factory(deque)
    #: Recipients that await a reply to the message (RFC 2033 4.2).
    _final: deque[RecordedRecipient] = Factory(deque)
    #: The number of octets of the current message that are not kept.
    _elided: int = 0
    #: The numbers of missing octets of messages, by their position in the transcript.
    _notes: dict[int, int] = Factory(dict)
    _count: int = 0

    # --- reading:

    def refresh(self) -> None:
        """Copy the current information about the client from the session."""
        if (session := self._session) is None:
            return
        self.peer = str(session.peer)
        self.helo = session.hello.domain if session.hello else None
        self.tls = f"{session.tls.version} {session.tls.cipher}" if session.tls else None
        self.user = session.user

    @property
    def transcript(self) -> Transcript:
        """The transcript, for `Transcript.text`. Octets of long messages are missing in it."""
        return Transcript(self._entries)

    def lines(self) -> list[RecordedLine]:
        """Return the transcript with notes about missing octets."""
        return list(self._lines())

    def message(self, id: str) -> RecordedMessage | None:
        """Return the message with this id in the store."""
        return next((message for message in self.messages if message.id == id), None)

    def _lines(self) -> Iterator[RecordedLine]:
        if self.dropped_octets:
            yield RecordedLine(0.0, "", f"{self.dropped_octets} octets before this are not kept")
        first = self._count - len(self._entries)
        for number, entry in enumerate(self._entries, first):
            if number in self._notes:
                yield RecordedLine(entry.time, "", f"{self._notes[number]} more octets of the message are not kept")
            if entry.event:
                yield RecordedLine(entry.time, entry.side, f"[{entry.event}]")
            for octets in entry.data.splitlines(keepends=True):
                yield RecordedLine(entry.time, entry.side, self._show(octets))
        if self._elided:
            yield RecordedLine(self._now(), "", f"{self._elided} more octets of the message are not kept")
        if self.cut:
            yield RecordedLine(self._now(), "", "the rest is not recorded, because it is not lines of text")

    @staticmethod
    def _show(octets: bytes) -> str:
        line = octets.removesuffix(b"\n").removesuffix(b"\r")
        text = printable(line)
        return escape(line) if text is None else text

    # --- recording (the receiver of the entries of a `Tap`):

    def _now(self) -> float:
        return trio.current_time() - self._start if self.seconds is None else self.seconds

    def add(self, side: Side, data: bytes | bytearray | memoryview, *, session: str = "1") -> None:
        """Record octets that a side has sent now."""
        if side == "C":
            self.received_octets += len(data)
        else:
            self.sent_octets += len(data)
        if not self.cut and data:
            for piece in self._tracker.feed(ROLES[side], bytes(data)):
                self._record(side, piece)
            self.cut = self._tracker.kept(ROLES[side]) > MAX_LINE

    def note(self, side: Side, event: Event, *, session: str = "1") -> None:
        """Record another event."""
        self._keep(Entry(self._now(), side, event=event))

    def _record(self, side: Side, piece: Piece) -> None:
        octets, elided = piece.octets, 0
        if piece.at == BODY:
            octets = octets[: max(MESSAGE_OCTETS - piece.start, 0)]
            elided = len(piece.octets) - len(octets)
        elif piece.chunked and self._elided:
            octets, elided = b"", len(octets)
        elif piece.secret is not None:
            octets = octets[: piece.secret] + MASK + (b"\r\n" if octets.endswith(b"\r\n") else b"")
        if octets:
            self._keep(Entry(self._now(), side, octets))
        self._elided += elided
        if side == "C":
            self._follow_command(piece, octets)
        elif piece.at != BODY:
            self._follow_reply(piece)

    def _keep(self, entry: Entry) -> None:
        if self._elided:
            self._notes[self._count] = self._elided
            self._elided = 0
        self._entries.append(entry)
        self._count += 1
        self._kept += len(entry.data) + LINE_COST
        while self._kept > SESSION_OCTETS and len(self._entries) > 1:
            dropped = self._entries.popleft()
            self._kept -= len(dropped.data) + LINE_COST
            self.dropped_octets += len(dropped.data)
            self._notes.pop(self._count - len(self._entries) - 1, None)

    def _follow_command(self, piece: Piece, octets: bytes) -> None:
        if piece.at == "MAIL":
            self.messages.append(RecordedMessage(text_of(octets).partition(":")[2].strip()))
        elif not self.messages:
            return
        message = self.messages[-1]
        if piece.at == "RCPT" and piece.number is not None and len(message.recipients) < MAX_RECIPIENTS:
            recipient = RecordedRecipient(text_of(octets).partition(":")[2].strip())
            message.recipients.append(recipient)
            self._awaiting[piece.number] = recipient
        elif piece.at == DOT and piece.number is not None:
            self._awaiting[piece.number] = message
            self._complete.append(message)

    def _follow_reply(self, piece: Piece) -> None:
        awaiting = None if piece.number is None else self._awaiting.pop(piece.number, None)
        if isinstance(awaiting, RecordedRecipient):
            awaiting.reply = text_of(piece.octets)
        elif awaiting is not None:
            awaiting.reply = text_of(piece.octets)
            if awaiting in self._complete:
                self._complete.remove(awaiting)
            if self._lmtp:
                self._final = deque(each for each in awaiting.recipients if (each.reply or "").startswith("2"))
        if self._final and (awaiting is None or isinstance(awaiting, RecordedMessage)):
            self._final.popleft().final_reply = text_of(piece.octets)

    def stored(self, id: str) -> RecordedMessage | None:
        """Record the id of the message whose `data` hook has returned."""
        if not self._complete:
            return None
        self._complete[0].id = id
        return self._complete[0]

    def end(self) -> None:
        """Record the end of the session."""
        self.refresh()
        self.seconds = self._now()
        self._session = None


class Recorder:
    """A recorder of the transcripts of the newest sessions.

    ``Server(recorder.hooks(store))`` records all sessions of a server, and ``web.serve(server, store, recorder=recorder)``
    shows them. Transcripts are kept in memory: at most 64 KiB of a session, with the first 1,024 octets of each message, and
    with passwords masked.

    :param sessions: the number of sessions to keep; the oldest ones are dropped.
    """

    def __init__(self, sessions: int = 200) -> None:
        check_number(sessions, "sessions", 1, integer=True)
        self._max = sessions
        self._sessions: OrderedDict[str, RecordedSession] = OrderedDict()
        #: The ids of the sessions by the id of a message in the store. References to the sessions would keep them in memory
        #: after they were dropped.
        self._by_message: OrderedDict[str, str] = OrderedDict()

    def hooks(self, hooks: Hooks | None = None) -> Layer:
        """Return a layer around other hooks that records each session."""
        return _Recording(self, hooks)

    def sessions(self) -> Sequence[RecordedSession]:
        """Return the sessions that are kept, the newest first, including open ones."""
        for session in self._sessions.values():
            session.refresh()
        return list(reversed(self._sessions.values()))

    def session(self, id: str) -> RecordedSession | None:
        """Return the session with this id, or None if it is not kept."""
        if (session := self._sessions.get(id)) is not None:
            session.refresh()
        return session

    def session_of(self, id: str) -> RecordedSession | None:
        """Return the session of the message with this id in the store, or None if it is not kept."""
        session = self._by_message.get(id)
        return None if session is None else self.session(session)

    def _begin(self, session: Session) -> None:
        if session.id in self._sessions:  # after XCLIENT
            return
        recorded = RecordedSession(
            session.id,
            session.server.now(),
            session=session,
            start=trio.current_time(),
            lmtp=session.server.lmtp,
        )
        self._sessions[session.id] = recorded
        Tap(session._wire, recorded, "S", "1", encrypted=False)
        while len(self._sessions) > self._max:
            self._sessions.popitem(last=False)[1].cut = True

    def _stored(self, session: Session, id: str) -> None:
        recorded = self._sessions.get(session.id)
        if recorded is not None and recorded.stored(id) is not None:
            self._by_message[id] = session.id
            if len(self._by_message) > MAX_MESSAGES * self._max:
                self._by_message.popitem(last=False)

    def _end(self, session: Session) -> None:
        if (recorded := self._sessions.get(session.id)) is not None:
            recorded.end()


class _Recording(Layer):
    """The hooks of a `Recorder`."""

    def __init__(self, recorder: Recorder, hooks: Hooks | None) -> None:
        super().__init__(hooks)
        self._recorder = recorder

    async def connect(self, session: Session) -> Reply | None:
        self._recorder._begin(session)
        return await self.under.connect(session)

    async def disconnect(self, session: Session) -> None:
        try:
            await self.under.disconnect(session)
        finally:
            self._recorder._end(session)

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        try:
            return await self.under.data(session, body)
        finally:
            if (stored := body.envelope.context.get(STORED)) is not None:
                self._recorder._stored(session, stored)
