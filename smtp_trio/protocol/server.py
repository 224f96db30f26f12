"""`ServerProtocol`: the server's side of one session, without I/O. It never waits and does not know the time.

The caller takes one event at a time, replies to each command, and moves octets between the protocol and the network:

    event = protocol.next_event()
    if event is NEED_DATA:
        protocol.receive_data(octets)       # b"" at the end of the input
    elif isinstance(event, Command):
        protocol.send_reply(reply)          # the state changes here; BDAT is answered after its octets
    octets = protocol.data_to_send()

docs/blocking.py is a complete server. The events are:

* `Command` objects. Each must be answered before the next one is returned. The first is `Connect`, and the reply to it
  is the greeting. A command that the core refuses is raised as `BadCommandError`; answer it with
  ``protocol.send_reply(exc.reply)``.
* ``bytes``, a piece of the message.
* `END_OF_CHUNK` and `END_OF_BODY`: the octets of a chunk, or of the whole message, are complete; reply to them.
* `FAULT`: the message cannot be accepted. It is received to its end, and the final reply must be
  `ServerProtocol.fault`.
* `NEED_DATA`: receive more octets.
* `CONNECTION_LOST`: there are no further events, because the input has ended or the session is over.

A message sent with DATA gives the event `Data`, which is answered with 354, then pieces, then `END_OF_BODY`, which is
answered with the final reply. For BURL, the application provides the octets (`ServerProtocol.add_fetched`) where it
would receive those of BDAT. A chunk sent with BDAT gives the event `Bdat`, then pieces, then `END_OF_CHUNK` or, if it
is the last chunk, `END_OF_BODY`; this is answered with the reply to the BDAT.

In the names of this package, the body is the whole message: its header section and its content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from attrs import evolve

from . import default_replies, replies
from .arguments import check_callable, check_choice, check_number, check_type
from .body_inspector import BodyInspector, Newlines
from .body_receiver import BodyReceiver
from .command_lines import CommandLines
from .command_parser import CommandParser
from .commands import END_OF_DATA, Command, Connect, CountedCommand, Data, EndOfData, Hello, Mail, Rcpt
from .dialogue import CLOSED, CONNECTED, GREETED, Dialogue
from .error_count import SMALL_CHUNK, ErrorCount
from .errors import BadCommandError, LocalProtocolError
from .events import CONNECTION_LOST, FAULT, NEED_DATA, Event
from .extension import Extension
from .extensions.defaults import STANDARD
from .extensions.smtputf8 import permitted_reply
from .framing import CountedReader, DotTerminatedReader, ReceiveBuffer
from .grammar import Grammar
from .limits import Limits
from .params import NO_PARAMS
from .replies import Reply
from .session_state import SessionState, no_clock
from .strictness import NORMAL, Strictness
from .syntax import normalize_space

# What is being read
# ------------------
#
# `next_event` looks at these members, in this order, to decide what the next octets are:
#
#   _body      The octets of a message or chunk, if its `BodyReceiver.reader` is set: by the 354 (DATA) or by the command
#              (BDAT), until the octets are complete.
#   pending    A command that has not been answered. The next command is not parsed before it is: whether that is
#              allowed depends on the reply, and a client that pipelines must get its replies in order.
#   _refused   The octets of a BDAT that the core refuses, with the refusal. The client sends them whatever the reply
#              is, and they must not be taken for commands (RFC 3030 2), so they are dropped before the refusal is
#              raised.
#   otherwise  A line: a command, or the continuation of an exchange such as AUTH (`Grammar.continuations`).
#
# Octets that arrive too early
# ----------------------------
#
# RFC 2920 3.1: EHLO, AUTH (RFC 4954 4), STARTTLS and DATA can only be the last command of a group. A client that sends
# more before it has the reply expects that they succeed, and the question is what to do with the octets if they do not.
#
# - DATA: the octets are the text of a message, which its author has chosen and not the client. Executed as commands,
#   they send a message of the author's with an envelope of the author's, in the name of the client. So they are never
#   executed: whatever the refusal was, the reply becomes 554 and the session ends (`checked_reply`). Octets that arrive
#   after the reply are commands, because a client that has read the refusal may go on with another transaction.
# - STARTTLS: see `_next_command`. Here the octets would be executed if the command succeeded.
# - EHLO: the octets are commands of the client whatever the reply is, so they are executed as if they had come later.
#   A refused EHLO changes nothing, and a command that needed it is refused in turn. Closing would only harm scripts
#   that send a whole session at once.
# - AUTH: the octets are commands, or lines of the exchange. Both are the client's own, and the lines are base64, which
#   has no space and no colon: after a refusal none of them is taken for MAIL or RCPT. No reply repeats them.


#: The limits that lead to these replies of the core, by the names of the members of `Limits`.
LIMITS_BY_REPLY: dict[Reply, str] = {
    replies.TOO_MANY_RECIPIENTS: "recipients",
    replies.ENVELOPE_TOO_BIG: "envelope",
    replies.TOO_MANY_MESSAGES: "messages",
    replies.LONG_LINE: "line",
    replies.LOOP: "received",
    replies.LONG_HEADER: "header",
}

# Calls that a message over a kept connection does without, ten in all, where they are easy to avoid. Without them and with
# a cheaper `Reply` it takes 2 to 3 % less time on Python 3.11; on 3.13 no difference was certain. `receive_data` does what
# `ReceiveBuffer.add` does in nearly all cases, `default_reply` looks nothing up for MAIL and RCPT without parameters, and
# `send_reply` reads the encoded reply.
PATH_COMMANDS = (Mail, Rcpt)


class ServerProtocol:
    """The server's side of one session. It must be used by one task at a time."""

    __slots__ = (
        "__weakref__",
        "_answered",
        "_body",
        "_connect_returned",
        "_enhanced",
        "_errors",
        "_lines",
        "_parser",
        "_refused",
        "delayed",
        "dialogue",
        "ended_by",
        "grammar",
        "input",
        "input_ended",
        "limits",
        "limits_reached",
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
        limits_reached: Counter[str] | None = None,
        trusted: frozenset[str] = frozenset(),
        newlines: Newlines = "reject",
        strictness: Strictness = NORMAL,
        now: Callable[[], int | None] = no_clock,
    ) -> None:
        """``name`` is the server's name and ``size`` the largest message in octets, 0 for no limit.

        ``tls`` is true if the application can start TLS. ``hooks`` are the names of the hooks that it implements:
        "auth" checks credentials (for PLAIN and LOGIN), "secret" returns stored secrets (for SCRAM and CRAM-MD5), and
        the others are hooks of commands, such as "expn" (`Command.hook`).

        ``newlines`` is the treatment of a bare CR or LF in a message: refuse the message ("reject"), make it CRLF
        ("normalize") or keep it ("preserve"). ``strictness`` has the deviations from the grammar that are accepted:
        `STRICT`, `NORMAL` or `lenient_mode` of a domain. Raises ValueError for extensions that cannot be combined.

        ``trusted`` are the keywords of extensions that this client may use although others may not, such as XCLIENT.

        ``limits_reached`` counts how often each limit has taken effect; sessions can share it. ``now`` returns the time, in
        seconds since 1970, for extensions that need it (FUTURERELEASE).

        The other arguments are checked too, with TypeError and ValueError, unless ``extensions`` is a `Grammar`. That is
        what a `Server` passes, which has checked its arguments once for all sessions.
        """
        if not isinstance(extensions, Grammar):
            check_type(name, "name", str)
            check_number(size, "size", integer=True)
            check_type(tls, "tls", bool)
            check_type(limits, "limits", Limits, optional=True)
            check_choice(newlines, "newlines", get_args(Newlines))
            check_type(strictness, "strictness", Strictness)
            check_callable(now, "now")
            if isinstance(hooks, str):
                raise TypeError(f"hooks must be an iterable of str, got {hooks!r}")
        self.limits: Limits = limits or Limits()
        #: How often each limit has taken effect, by the name of the member of `Limits`.
        self.limits_reached: Counter[str] = Counter() if limits_reached is None else limits_reached
        self.grammar: Grammar = (
            extensions if isinstance(extensions, Grammar) else Grammar(extensions, line=self.limits.line)
        )
        self.state: SessionState = SessionState(name, size, tls, frozenset(hooks), strictness, trusted, now)
        self.dialogue: Dialogue = Dialogue(self.grammar.table)
        #: The command, or the refusal of one, that must be answered; None without an unanswered command.
        self.pending: Command | BadCommandError | None = Connect()
        self.dialogue.add_command(self.pending)
        #: The octets that must be sent, in pieces; see `data_to_send`.
        self.outbox: list[bytes] = []
        self._connect_returned = False
        self._answered: list[Reply] = []  # to the recipients of the message, before `send_reply` (LMTP)
        self._enhanced = self.grammar.enhanced
        self._parser = CommandParser(self.grammar, self.state, self.dialogue, self.limits)
        #: The octets that have been received and not been processed.
        self.input: ReceiveBuffer = ReceiveBuffer()
        self._lines = CommandLines(self.input, self.grammar, self.dialogue)
        self._body = BodyReceiver(self.input, self.state, self.limits, newlines)
        self._refused: tuple[CountedReader, BadCommandError] | None = None
        #: The client has ended its input.
        self.input_ended: bool = False
        self._errors = ErrorCount(self.limits)
        #: The limit that has ended the session, by the name of the member of `Limits`; None if none did.
        self.ended_by: str | None = None
        #: The last event was one error too many: wait a second before the next one. The application sets it to False.
        self.delayed: bool = False

    # --- octets -----------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """The number of octets that have been received and not been processed."""
        return len(self.input)

    @property
    def line(self) -> bytes:
        """The last command line that was received, without its CRLF, for logs. It may contain credentials.

        Of a line that was refused because it is too long or has a bare CR or LF, it is what precedes the reason.
        """
        return self._lines.line

    @property
    def fault(self) -> Reply | None:
        """The final reply that the message must get, because it cannot be accepted."""
        inspector = self._body.inspector
        return None if inspector is None else inspector.fault

    @property
    def inspector(self) -> BodyInspector | None:
        """The state of the message that is being received, from its first octet to its final reply; otherwise None."""
        return self._body.inspector

    @property
    def closed(self) -> bool:
        """True if the session is over, after QUIT, 421, or a command after which the connection must be closed."""
        return self.dialogue.phase is CLOSED

    def receive_data(self, data: bytes) -> None:
        """Add octets from the client; b"" at the end of the input."""
        received = self.input
        if not data:
            self.input_ended = True
        elif received.at == len(received.data):  # everything has been read
            received.data, received.at = data, 0
        else:
            received.add(data)

    def receive_again(self) -> bytes | None:
        """Remove and return the octets that have been received and not been processed, if more can be received.

        For a stream that is put in between in the middle of a session, and returns them again. None after the end of
        the input, since nothing is received any more.
        """
        return None if self.input_ended else self.input.take(len(self.input))

    @property
    def fetching(self) -> bool:
        """True while NEED_DATA asks for octets that the application fetches for a BURL (RFC 4468)."""
        return self._body.fetched is not None

    def add_fetched(self, octets: bytes) -> None:
        """Add octets of what the pending BURL refers to; b"" at their end. Only while `fetching` is true."""
        self._body.add_fetched(octets)

    def data_to_send(self) -> bytes:
        """Return and remove the octets that must be sent, which may be b""."""
        outbox = self.outbox
        if len(outbox) == 1:
            return outbox.pop()
        data = b"".join(outbox)
        outbox.clear()
        return data

    # --- events -----------------------------------------------------------------------------------------------------

    def next_event(self) -> Event:
        """Return the next event: CONNECTION_LOST if there are none, because the input has ended or the session is over.

        Raises `BadCommandError` for a command that the core refuses, and LocalProtocolError if the last command has not
        been answered.
        """
        buffer = self.input
        if self._body.reader is not None:
            event = self._body.next_event()
            if type(event) is bytes or (event is NEED_DATA and not self.input_ended):
                return event
            return self._body_signal(event)
        if self.pending is not None:
            if self._connect_returned or not isinstance(self.pending, Connect):
                raise LocalProtocolError(f"{self.pending} must be answered first")
            self._connect_returned = True
            return self.pending
        # After QUIT (RFC 5321 4.1.1.10) or 421 (3.8) the connection is closed, and further input is ignored.
        if buffer.at == len(buffer.data) or self.dialogue.phase is CLOSED:
            buffer.compact()
            return CONNECTION_LOST if self.input_ended or self.dialogue.phase is CLOSED else NEED_DATA
        try:
            if self._refused is not None:
                return self._next_refused(*self._refused)
            cached = self._parser.cache.get(self.dialogue.phase)
            if (
                cached is not None
                and len(buffer.data) - buffer.at < self.grammar.line_limit
                and not self._lines.skipping
            ):
                # The path of most commands: no line here can be too long, and the phase has no continuation lines,
                # since only commands are entered in the cache.
                line = self._lines.read_line(self.grammar.line_limit)
                if line is not None and (command := self._parser.parse_cached(line, cached)) is not None:
                    return self._set_pending(command)
            else:
                line = self._lines.next_line()
            if line is None:
                buffer.compact()
                return CONNECTION_LOST if self.input_ended else NEED_DATA
            return self._next_command(line)
        except BadCommandError as bad:
            self._count_refusal(bad)
            raise

    def _next_command(self, line: bytes) -> Event:
        continuation = self.grammar.continuations.get(self.dialogue.phase)
        if continuation is not None:
            try:
                command = continuation.decode(normalize_space(line.decode("latin-1")).strip(" "), {})
            except BadCommandError:
                self.dialogue.add_command(continuation.decode("", {}))  # as in `CommandLines.next_line`
                raise
            return self._set_pending(command)
        cls, argument = self._parser.split(line)
        if cls.counted:
            return self._next_counted(cls, argument)
        command = self._parser.parse(cls, argument)
        if command.starts_tls and len(self.input):
            # RFC 3207 4.2 requires that what the client sent before the handshake is discarded. Octets after STARTTLS
            # may have been injected by an attacker, to be read as if they had come through TLS, so the session ends.
            reply = Reply(554, f"Data received after {command.verb}; closing the connection", "5.5.0")
            raise BadCommandError(reply, verb=command.verb, close=True)
        return self._set_pending(command)

    def _next_counted(self, cls: type[Command], argument: str) -> Event:
        """Parse a counted command: one whose line states how many octets of the message follow it (BDAT)."""
        try:
            command = cls.decode(argument, {})
        except BadCommandError:
            self._lines.refuse_part(cls)
            raise
        assert isinstance(command, CountedCommand)
        octets = CountedReader(self.input, command.size)
        if 0 < self.state.size * 10 < command.size:  # too much to read only in order to drop it
            raise BadCommandError(replies.TOO_BIG, verb=cls.verb, close=True, last=command.last)
        try:
            self._parser.check_verb(cls.verb)
            if command.fetched and not cls.is_implemented(self.state.hooks):
                raise BadCommandError(replies.NOT_IMPLEMENTED, verb=cls.verb)
            self._parser.check_sequence(type(command))
        except BadCommandError as bad:
            bad.last = command.last
            # The traceback refers to this object. Kept with it, it would be a cycle.
            self._refused = octets, bad.with_traceback(None)
            return self._next_refused(octets, bad)
        if command.size < SMALL_CHUNK and not command.last:
            self._count_work(1, cls.verb)
        if command.fetched:
            self._body.begin_fetched(last=command.last)
        else:
            self._body.begin(octets, last=command.last)
        return self._set_pending(command)

    def _next_refused(self, octets: CountedReader, bad: BadCommandError) -> Event:
        octets.read()
        if not octets.ended:
            self.input.compact()
            return CONNECTION_LOST if self.input_ended else NEED_DATA
        self._refused = None
        try:
            raise bad
        finally:
            del bad  # its traceback refers to this frame

    def _set_pending(self, command: Command) -> Command:
        """Make ``command`` the pending one, and return it. The parser has checked that it is allowed in this phase."""
        if command.work or self._errors.count >= self.limits.errors:
            self._count_work(command.work, command.verb)
        self.dialogue.unanswered.append(command)
        self.pending = command
        return command

    def _count_refusal(self, bad: BadCommandError) -> None:
        self.pending = bad
        limit = LIMITS_BY_REPLY.get(bad.reply)
        if limit is not None:
            self.reach(limit, ends=bad.close)
        if bad.close:
            return
        if bad.reply.permanent:
            self._count_error("errors", bad.verb)
        else:
            self._count_work(1, bad.verb)

    def _count_work(self, work: int, verb: str) -> None:
        if self._errors.exceeds_work(work):
            self._count_error("work", verb)

    def _count_error(self, limit: str, verb: str) -> None:
        self.delayed = self._errors.add()
        if self._errors.count >= self.limits.errors:
            # RFC 5321 3.8: a server closes the connection only after 421. `Limits.errors` is at least 2, because
            # 3.8 does not allow closing it because of one bad command.
            self.reach(limit, ends=True)
            self.pending = BadCommandError(replies.TOO_MANY_ERRORS, verb=verb, close=True)
            raise self.pending

    # --- the message ------------------------------------------------------------------------------------------------

    def discard(self) -> None:
        """Drop the rest of the message that is being received. It gives no further events until its end."""
        if self._body.inspector is not None:
            self._body.inspector.discarding = True

    def _body_signal(self, event: Event) -> Event:
        """Return what this event of the body means for the session."""
        if event is NEED_DATA:
            return CONNECTION_LOST if self.input_ended and not self.fetching else NEED_DATA
        if event is FAULT:
            fault = self.fault
            if fault is not None and (limit := LIMITS_BY_REPLY.get(fault)) is not None:
                self.reach(limit)
        elif self.pending is None:
            self._set_pending(END_OF_DATA)
        return event

    # --- replies ----------------------------------------------------------------------------------------------------

    def default_reply(self, command: Command) -> Reply:
        """Return the reply to send if the application has no other."""
        if isinstance(command, PATH_COMMANDS) and command.params is NO_PARAMS:
            return command.default_reply
        make = default_replies.COMPUTED.get(command.verb)
        return (
            command.default_reply
            if make is None
            else make(command, self.state, self.grammar, self._parser.usable_verbs)
        )

    @property
    def replies_due(self) -> int:
        """The number of replies to the pending command: 1, or 0 if no command is pending.

        In LMTP there is one for each accepted recipient at the end of a message (RFC 2033 4.2, 4.3), after `END_OF_BODY`.
        For a BDAT that ends a message without accepted recipients this is 0. Those that `send_recipient_reply` has sent do
        not count.
        """
        if not self._one_for_each_recipient:
            return int(self.pending is not None)
        return len(self.state.rcpts) - len(self._answered)

    @property
    def _one_for_each_recipient(self) -> bool:
        """True if the pending command ends a message of LMTP."""
        command = self.pending
        return self.grammar.lmtp and (isinstance(command, EndOfData) or getattr(command, "last", False))

    def send_reply(self, reply: Reply | Sequence[Reply]) -> None:
        """Answer the pending command. The state changes here, before anything is written to the network.

        In LMTP the end of a message has several replies (`replies_due`). They can be given as a sequence, in the order of
        the recipients; a single reply is sent for each of them.

        Raises LocalProtocolError if no command is pending, if octets of a BDAT have not been read yet, or if the reply
        accepts a message that has a `fault`; for a sequence, if there is only one reply, or another number of replies,
        or if it contains 421, which ends the session.
        """
        if not isinstance(reply, Reply):
            self._send_replies(reply)
            return
        command = self.pending
        if command is None:
            raise LocalProtocolError(f"no command is waiting for a reply, got {reply}")
        copies = 1
        if self.grammar.lmtp:
            copies = self.replies_due
            if self._answered and reply.code != 421:
                self._send_replies((reply,) * copies)
                return
        if isinstance(command, BadCommandError):
            if command.verb == "RCPT" and self.state.mail is not None:
                self.state.rejected_rcpts += 1
            if self.dialogue.unanswered:  # a line of an exchange, which this reply ends, or a part of a message
                refused = self.dialogue.add_reply(reply)
                if self._body.inspector is not None:
                    self._end_message(refused, reply)
            reply = self.checked_reply(reply)
            if command.close:
                self.dialogue.enter(CLOSED)
                if reply is replies.PROXY_HEADER:
                    self.pending = None
                    return
                copies = max(copies, 1)  # the session does not end without a reply
            enhanced = getattr(self.grammar.verbs.get(command.verb), "enhanced", True)
        else:
            body = self._body
            if body.inspector is not None:
                self._check_final_reply(command, reply)
            if reply.refused and type(command) is Data:
                reply = self.checked_reply(reply)
            self.dialogue.add_reply(reply)
            self.state.update(command, reply, self.dialogue.phase, self._lines.line)
            if body.inspector is not None:
                self._end_message(command, reply)
            elif reply.intermediate and type(command) is Data:
                self._body.begin(DotTerminatedReader(self.input), last=True)
            enhanced = command.enhanced
            if reply.refused:
                if self._errors.exceeds_work(command.refusal_work):
                    self.delayed = self._errors.add()
            elif isinstance(command, Hello):
                self._parser.state_changed()
            elif self.grammar.acceptors and (extension := self.grammar.acceptors.get(type(command))) and reply.accepted:
                extension.accepted(command, self.state)
                self._parser.state_changed()
            if reply.status is None:
                reply = command.add_status(reply)
        self.pending = None
        if reply.refused:
            if reply.code == 421:
                reply = self._close_with(reply)
            elif reply is replies.OUT_OF_SYNC:
                self.dialogue.enter(CLOSED)
        octets = reply._bytes if enhanced and self._enhanced else reply.encode(enhanced=False)
        if not octets.isascii():
            octets = self._encode(command, reply, enhanced=enhanced)
        self.outbox.append(octets if copies == 1 else octets * copies)

    def send_recipient_reply(self, reply: Reply) -> None:
        """Answer the end of a message in LMTP for the next recipient, before the replies for the others are known.

        RFC 2033 5: a server should send each reply as soon as possible. The last one is left to `send_reply`, which ends
        the message.

        Raises LocalProtocolError if only one reply is due, if the octets of the message have not been read yet, or if the
        reply is 421 or accepts a message that has a `fault`.
        """
        command, due = self.pending, self.replies_due
        if not (self._one_for_each_recipient and isinstance(command, Command)) or due < 2:
            raise LocalProtocolError("a reply for one recipient is for the end of a message in LMTP that has several")
        self._check_recipient_replies((reply,))
        self._check_final_reply(command, reply)
        self._answered.append(reply)
        self.outbox.append(self._encode(command, command.add_status(reply)))

    def _send_replies(self, replies: Sequence[Reply]) -> None:
        """Answer the end of a message, one reply for each recipient (RFC 2033 4.2)."""
        command, due = self.pending, self.replies_due
        if not (self._one_for_each_recipient and isinstance(command, Command)):
            raise LocalProtocolError("several replies are for the end of a message in LMTP")
        if len(replies) != due:
            raise LocalProtocolError(f"expected {due} replies, one for each recipient, got {len(replies)}")
        self._check_recipient_replies(replies)
        # The state changes as for one reply, which is positive if the message was accepted for anyone.
        answered, self._answered = self._answered, []
        self.send_reply(next((each for each in (*answered, *replies) if each.accepted), replies[0]))
        self.outbox[-1] = b"".join(self._encode(command, command.add_status(each)) for each in replies)

    def _encode(self, command: Command | BadCommandError | None, reply: Reply, *, enhanced: bool = True) -> bytes:
        """Return the octets of a reply, or of the one that the client gets in its place because it is not ASCII."""
        reply = reply if reply.text.isascii() else permitted_reply(command, reply, self.state)
        return reply.encode(enhanced=enhanced and self._enhanced)

    def _check_recipient_replies(self, replies: Sequence[Reply]) -> None:
        if any(each.code == 421 for each in replies):
            raise LocalProtocolError("421 ends the session, so it cannot be the reply for one of several recipients")

    def checked_reply(self, reply: Reply) -> Reply:
        """Return what `send_reply` makes of this reply to the pending command.

        It is ``reply``, except when that refuses DATA and octets have already been received after the DATA: then it is
        a 554 that ends the session, so that the text of a message is not executed as commands (RFC 2920 3.1).
        """
        if self.pending is None or self.pending.verb != Data.verb or not reply.refused or reply.code == 421:
            return reply
        return replies.OUT_OF_SYNC if self._lines.has_further_line() else reply

    def _close_with(self, reply: Reply) -> Reply:
        """End the session, and return the 421 with the server's name at its beginning (RFC 5321 4.2 and 4.3.1)."""
        self.dialogue.enter(CLOSED)
        name = self.state.name
        return reply if reply.text.startswith(name) else evolve(reply, text=f"{name} {reply.text}")

    def _check_final_reply(self, command: Command, reply: Reply) -> None:
        if command.counted or type(command) is EndOfData:
            if self._body.reader is not None:
                raise LocalProtocolError(f"the octets of {command.verb} must be read before it is answered")
            if reply.accepted and self.fault is not None:
                raise LocalProtocolError(f"the message cannot be accepted: {self.fault}")

    def _end_message(self, command: Command, reply: Reply) -> None:
        """Drop the message if its transaction is over, or if a chunk of it was refused (RFC 3030 2)."""
        final = command.counted or type(command) is EndOfData
        if self.state.mail is None or (final and reply.refused):
            if final:
                self.state.messages += 1
                if reply.accepted:
                    self._errors.reset()
            self._body.inspector = None

    def set_authenticated(self, user: str) -> None:
        """Record that the client has authenticated as ``user``. Call it before the 235 is sent (RFC 4954 4)."""
        self.state.user = user
        self._parser.state_changed()

    def client_changed(self, trusted: frozenset[str]) -> None:
        """Record that a proxy has named another client (XCLIENT). Call it before the 220 is sent.

        What the session has counted is counted anew, except for the work: a proxy that names one client after another
        and sends no message is limited by that. The certificate of the proxy is not the client's.

        :param trusted: the keywords of the extensions that only some clients may use, and this one may.
        """
        state = self.state
        state.trusted = trusted
        state.channel_binding, state.client_certificate = b"", None
        state.messages, state.transactions, state.rcpt_domains = 0, 0, frozenset()
        if not self._errors.exceeds_work(0):
            self._errors.count, self.delayed = 0, False

    def reach(self, limit: str, *, ends: bool = False) -> None:
        """Count that a limit has taken effect. ``ends`` is true if it ends the session."""
        self.limits_reached[limit] += 1
        if ends:
            self.ended_by = limit

    def close(self, reply: Reply) -> None:
        """End the session with a 421 that does not answer a command (RFC 5321 3.8).

        In place of the greeting it has no enhanced status code (RFC 2034 3).
        """
        enhanced = self._enhanced and self.dialogue.phase is not CONNECTED
        self.pending = None
        self._body.drop()
        self._answered = []
        self.outbox.append(self._encode(None, self._close_with(reply), enhanced=enhanced))

    def tls_started(self) -> None:
        """Record that TLS is active: before the greeting (RFC 8314 3.3), or after STARTTLS.

        What the client sent before the handshake is discarded (RFC 3207 4.2).
        """
        self.state.reset()
        self.state.secure = True
        self._parser.state_changed()
        self.input.clear()
        if self.dialogue.phase is not CONNECTED:  # the greeting is sent only once
            self.dialogue.enter(GREETED)
