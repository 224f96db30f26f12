"""The server's half of the core: octets in, commands out; replies in, octets out. It never waits, and knows no clock.

    protocol.receive_data(octets)            # b"" at the end of input
    event = protocol.next_event()            # one question at a time …
    protocol.send(reply)                     # … which must be answered before the next: the state moves here
    octets = protocol.data_to_send()

Events are `Command` values, ``bytes`` (a piece of the message) and `Signal` members. The first is `Connect`, whose answer is the
greeting. A command that the core refuses by itself is raised as `BadCommandError`, and answered with ``protocol.send(exc.reply)``.

A message by DATA: the `Data` event, answered 354; pieces; `END_OF_BODY`, answered with the verdict. By BDAT: the `Bdat` event; its
pieces; `END_OF_CHUNK` or, after LAST, `END_OF_BODY`, answered with the answer to that BDAT.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve

from . import default_replies, replies
from .body_inspector import BodyInspector, Newlines
from .command_parser import CommandParser
from .commands import END_OF_DATA, Command, Connect, CountedCommand, Data, EndOfBody
from .dialogue import CLOSED, GREETED, Dialogue
from .errors import BadCommandError, LocalProtocolError
from .events import CONNECTION_LOST, END_OF_BODY, END_OF_CHUNK, FAULT, NEED_DATA, Event, Signal
from .extension import Extension
from .extensions import STANDARD
from .extensions.eightbitmime import BODY
from .framing import CountedReader, DotTerminatedReader, LineReader, ReceiveBuffer
from .grammar import Grammar
from .limits import Limits
from .replies import Reply
from .session_state import SessionState


class ServerProtocol:
    """One session's protocol. Several tasks must not use it at once."""

    __slots__ = (
        "__weakref__",
        "_begun",
        "_buffer",
        "_dropping",
        "_enhanced",
        "_errors",
        "_input_over",
        "_inspector",
        "_judge",
        "_junk",
        "_lines",
        "_newlines",
        "_reader",
        "_refused",
        "dialogue",
        "fault",
        "grammar",
        "limits",
        "outbox",
        "pending",
        "state",
    )

    def __init__(
        self,
        name: str = "localhost",
        *,
        size: int = 31457280,
        tls: bool = False,
        hooks: Iterable[str] = (),
        extensions: Iterable[Extension] | Grammar = STANDARD,
        limits: Limits | None = None,
        newlines: Newlines = "reject",
    ) -> None:
        """``name`` is the server's own; ``size`` the largest message in octets, 0 for any; ``tls``: STARTTLS can be served.

        ``hooks`` are names of what the application implements: "auth" checks credentials (PLAIN, LOGIN), "secret" returns stored
        secrets (SCRAM, CRAM-MD5), and the others are hooks of commands (`Command.hook`), such as "expn". ``newlines`` is what
        becomes of a bare CR or LF in a message. Raises ValueError for extensions that do not go together.
        """
        self.limits: Limits = limits or Limits()
        self.grammar: Grammar = (
            extensions if isinstance(extensions, Grammar) else Grammar(extensions, line=self.limits.line)
        )
        self.state: SessionState = SessionState(name, size, tls, frozenset(hooks))
        self.dialogue: Dialogue = Dialogue(self.grammar.table)
        #: The reply that the message under way must get, once it cannot be accepted any more.
        self.fault: Reply | None = None
        #: The question that waits for `send`, if one does.
        self.pending: Command | BadCommandError | None = Connect()
        self.dialogue.add_command(self.pending)
        self._begun = False
        self._newlines = newlines
        self._enhanced = self.grammar.has("ENHANCEDSTATUSCODES")
        self._judge = CommandParser(self.grammar, self.state, self.dialogue, self.limits)
        self._buffer = ReceiveBuffer()
        self._lines = LineReader(self._buffer)
        self._reader: DotTerminatedReader | CountedReader | None = None  # of the message's octets, while they come
        self._inspector: BodyInspector | None = None  # of the message under way
        self._dropping = False  # nobody wants the rest of it
        self._refused: tuple[CountedReader, BadCommandError] | None = None  # octets of a refused BDAT, and its answer
        self._input_over = False
        #: What must go to the peer, piece by piece: truth says whether there is anything for `data_to_send` to take.
        self.outbox: list[bytes] = []
        self._errors = self._junk = 0

    # --- octets -----------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Octets received and not yet worked on."""
        return len(self._buffer)

    @property
    def body(self) -> BodyInspector | None:
        """What is known of the message under way, from its first octet to its answer; None between messages."""
        return self._inspector

    @property
    def closed(self) -> bool:
        """After QUIT, a 421, or what no connection survives: nothing that is said counts any more (RFC 5321 4.1.1.10, 3.8)."""
        return self.dialogue.phase is CLOSED

    def receive_data(self, data: bytes) -> None:
        """Octets have come from the peer; b"" when there will be no more."""
        if data:
            self._buffer.add(data)
        else:
            self._input_over = True

    def data_to_send(self) -> bytes:
        """Take what must go to the peer now; b"" when there is nothing."""
        outbox = self.outbox
        if not outbox:
            return b""
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        outbox.clear()
        return data

    # --- events -----------------------------------------------------------------------------------------------------

    def next_event(self) -> Event:
        """The next thing that happened.

        Raises `BadCommandError` for a command that is refused already, and LocalProtocolError while another waits for its answer.
        """
        buffer = self._buffer
        if self._reader is not None:
            return self._next_piece(self._reader, buffer)
        if self.pending is not None:
            if self._begun or not isinstance(self.pending, Connect):
                raise LocalProtocolError(f"{self.pending} must be answered first")
            self._begun = True
            return self.pending
        if buffer.at == len(buffer.data) or self.dialogue.phase is CLOSED:
            return CONNECTION_LOST if self._input_over or self.closed else NEED_DATA
        try:
            if self._refused is not None:
                return self._next_refused(*self._refused)
            known = self._judge.known.get(self.dialogue.phase)
            if (
                known is not None
                and len(buffer.data) - buffer.at < self.grammar.line_limit
                and not self._lines.skipping
            ):
                # The short way, of most commands: nothing here can be too long, or be anything but a command.
                line = self._lines.pull(self.grammar.line_limit)
                if line is not None and (command := self._judge.recall(line, known)) is not None:
                    return self._ask(command)
            else:
                line = self._next_line(buffer)
            if line is None:
                return CONNECTION_LOST if self._input_over else NEED_DATA
            return self._next_command(line)
        except BadCommandError as bad:
            self._blame(bad)
            raise

    def _next_line(self, buffer: ReceiveBuffer) -> bytes | None:
        """The next line, or None when it is not all there."""
        raw = self.grammar.continuations.get(self.dialogue.phase)
        try:
            # What is looked at to choose the limits must be the beginning of a line.
            return self._pull(buffer, raw) if self._lines.resume() else None
        except BadCommandError:
            if raw is not None:  # the refusal answers the exchange that this line belonged to
                self.dialogue.add_command(raw.decode("", {}))
            raise

    def _pull(self, buffer: ReceiveBuffer, raw: type[Command] | None) -> bytes | None:
        """The next line, by the limits that hold for it."""
        grammar, phase = self.grammar, self.dialogue.phase
        if phase is GREETED and buffer.data.startswith(b"\x16\x03", buffer.at):  # a ClientHello holds no line, ever
            raise BadCommandError(Reply(500, "TLS on a port that does not begin with it", "5.5.2"), close=True)
        limit, too_long = grammar.line_limit, replies.LONG_LINE
        if len(buffer) >= limit and grammar.line_limits:
            # RFC 4954 4: lines of AUTH may be longer. Only a line that is long already is worth a look at what it is.
            head = buffer.data[buffer.at : buffer.at + 16].partition(b" ")[0].upper().decode("latin-1")
            verb = raw.verb if raw else head
            if verb in grammar.line_limits:
                limit, too_long = grammar.line_limits[verb], Reply(500, f"{verb} line too long", "5.5.6")
        return self._lines.pull(limit, too_long)

    def _next_command(self, line: bytes) -> Event:
        raw = self.grammar.continuations.get(self.dialogue.phase)
        if raw is not None:
            return self._ask(raw.decode(line.decode("latin-1"), {}))
        cls, argument = self._judge.split(line)
        if cls.counted:
            return self._next_counted(cls, argument)
        command = self._judge.decode(cls, argument)
        if command.starts_tls and len(self._buffer):
            # RFC 3207 4.2 would have it thrown away. Nobody honest sends it, so the connection ends before it is answered.
            raise BadCommandError(
                Reply(554, f"Data behind {command.verb}; closing", "5.5.0"), verb=command.verb, close=True
            )
        return self._ask(command)

    def _next_counted(self, cls: type[Command], argument: str) -> Event:
        """A command with octets behind it: they are read past whatever it is told, lest they be taken for commands (RFC 3030 2)."""
        command = cls.decode(argument, {})
        assert isinstance(command, CountedCommand)
        octets = CountedReader(self._buffer, command.size)
        if 0 < self.state.size * 10 < command.size:
            raise BadCommandError(replies.TOO_BIG, verb=cls.verb, close=True)
        try:
            self._judge.pass_gates(cls.verb)
            self._judge.check_order(command)
        except BadCommandError as bad:
            self._refused = octets, bad
            return self._next_refused(octets, bad)
        self._begin_body(octets)
        return self._ask(command)

    def _next_refused(self, octets: CountedReader, bad: BadCommandError) -> Event:
        octets.pull()
        if not octets.ended:
            return CONNECTION_LOST if self._input_over else NEED_DATA
        self._refused = None
        raise bad

    def _ask(self, command: Command) -> Command:
        if command.junk:
            self._junk += 1
            if self._junk > self.limits.junk:
                self._count_error(command.verb)
        self.dialogue.unanswered.append(command)  # it was found to be in order
        self.pending = command
        return command

    def _blame(self, bad: BadCommandError) -> None:
        """A command was refused by the core: that is an error of the peer's, unless it is only too much of a good thing (4yz)."""
        self.pending = bad
        if bad.reply.permanent and not bad.close:
            self._count_error(bad.verb)

    def _count_error(self, verb: str) -> None:
        self._errors += 1
        if self._errors >= self.limits.errors:
            # RFC 5321 4.2.1 and 3.8: 421 announces the close. One such command is never enough for it.
            reply = Reply(421, "Too many errors; closing the connection", "4.7.0")
            self.pending = BadCommandError(reply, verb=verb, close=True)
            raise self.pending

    # --- the message ------------------------------------------------------------------------------------------------

    def discard(self) -> None:
        """Nobody wants the rest of the message: its octets give no more events, only its end does."""
        self._dropping = True

    def _begin_body(self, reader: DotTerminatedReader | CountedReader) -> None:
        self._reader = reader
        if self._inspector is None:
            state = self.state
            binary = state.mail is not None and state.mail.params.get(BODY) == "BINARYMIME"
            newlines: Newlines = "preserve" if binary else self._newlines
            self._inspector = BodyInspector(newlines, state.size, self.limits.received)
            self._dropping, self.fault = False, None

    def _next_piece(self, reader: DotTerminatedReader | CountedReader, buffer: ReceiveBuffer) -> Event:
        if buffer.at == len(buffer.data) and not reader.ended and self.fault is None:
            return CONNECTION_LOST if self._input_over else NEED_DATA
        inspector = self._inspector
        assert inspector is not None
        data = b"" if reader.ended else reader.pull()
        last = reader.ended and (self.pending is None or getattr(self.pending, "last", False))
        if self.fault is not None or self._dropping:
            inspector.skip(len(data))
            if inspector.far_too_big:
                self.fault = Reply(421, "Message goes on far beyond the maximum size; closing", "4.3.2")
                return self._end_body(last=True)
        elif data or (last and inspector.holding):
            data = inspector.check(data, end=last)
            if inspector.fault is not None:
                self.fault = inspector.fault
                return FAULT
            if data:
                return data
        if reader.ended:
            return self._end_body(last=last)
        return CONNECTION_LOST if self._input_over else NEED_DATA

    def _end_body(self, *, last: bool) -> Signal:
        self._reader = None
        if self.pending is None:  # DATA was answered by 354; its end is a question of its own
            self._ask(END_OF_DATA)
        return END_OF_BODY if last else END_OF_CHUNK

    # --- answers ----------------------------------------------------------------------------------------------------

    def default_reply(self, command: Command) -> Reply:
        """What this command is answered with when nobody has another idea."""
        return default_replies.default_reply(command, self.state, self.grammar)

    def send(self, reply: Reply) -> None:
        """Answer the pending question. The state moves here, before anything goes over the network.

        Raises LocalProtocolError when there is none, or the reply accepts a message that cannot be.
        """
        command = self.pending
        if command is None:
            raise LocalProtocolError(f"there is nothing that {reply} could answer")
        if isinstance(command, BadCommandError):
            self.state.rejected_rcpts += command.verb == "RCPT" and self.state.mail is not None
            if self.dialogue.unanswered:  # it was a line of an exchange, which ends with it
                self.dialogue.add_reply(reply)
            if command.close:
                self.dialogue.enter(CLOSED)
            enhanced = command.verb not in ("EHLO", "HELO")
        else:
            if self._inspector is not None:
                self._check_verdict(command, reply)
            self.dialogue.add_reply(reply)
            self.state.update(command, reply, self.dialogue.phase)
            if self._inspector is not None:
                self._end_message(command, reply)
            elif reply.intermediate and type(command) is Data:
                self._begin_body(DotTerminatedReader(self._buffer))
            enhanced = command.enhanced
            if not enhanced and reply.code == 250:  # EHLO, HELO
                self._judge.state_changed()
            if reply.status is None:
                reply = command.add_status(reply)
        self.pending = None
        if reply.code == 421:
            reply = self._parting(reply)
        self.outbox.append(reply.encode(enhanced=enhanced and self._enhanced))

    def _parting(self, reply: Reply) -> Reply:
        """A 421 ends the dialogue, and begins with the server's name as the greeting does (RFC 5321 4.2, 4.3.1)."""
        self.dialogue.enter(CLOSED)
        name = self.state.name
        return reply if reply.text.startswith(name) else evolve(reply, text=f"{name} {reply.text}")

    def _check_verdict(self, command: Command, reply: Reply) -> None:
        if command.counted or type(command) is EndOfBody:
            if self._reader is not None:
                raise LocalProtocolError(f"the octets of {command.verb} must be taken before it is answered")
            if reply.accepted and self.fault is not None:
                raise LocalProtocolError(f"the message cannot be accepted: {self.fault}")

    def _end_message(self, command: Command, reply: Reply) -> None:
        """The message under way is over when its transaction is, or when a chunk of it was refused (RFC 3030 2)."""
        verdict = command.counted or type(command) is EndOfBody
        if self.state.mail is None or (verdict and reply.refused):
            if verdict and reply.accepted:
                self._errors = self._junk = 0
            self._inspector = self.fault = None

    def authenticated(self, user: str) -> None:
        """The client has proved to be ``user``: call it before the 235 is sent (RFC 4954 4)."""
        self.state.user = user
        self._judge.state_changed()

    def close(self, reply: Reply) -> None:
        """Say 421 without having been asked, and hear nothing more (RFC 5321 3.8)."""
        self.pending = None
        self._reader = self._inspector = None
        self.outbox.append(self._parting(reply).encode(enhanced=self._enhanced))

    def secured(self) -> None:
        """TLS is up: all that the client said before is forgotten (RFC 3207 4.2)."""
        self.state.reset()
        self.state.secure = True
        self._judge.state_changed()
        self._buffer.clear()
        self.dialogue.enter(GREETED)
