"""`ClientProtocol`: the client's side of one connection, without I/O. It never waits and does not know the time.

    protocol.send_command(Ehlo("client.example"))     # several at once, if the server supports pipelining
    octets = protocol.data_to_send()
    protocol.receive_data(octets)                     # b"" at the end of the input
    event = protocol.next_event()                     # an `AnsweredCommand`, NEED_DATA or CONNECTION_LOST

The first answer is the greeting, which needs no command. CONNECTION_LOST means that there are no further answers,
because the input has ended or the session is over.

To send a message with DATA, send the command; when it is answered with 354, call `send_body` with each piece and then
`end_body`, whose reply is the final reply. With BDAT, send the command and then as many octets as it announced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from . import syntax
from .commands import (
    END_OF_DATA,
    VERBS,
    Command,
    Connect,
    CountedCommand,
    Data,
    EndOfData,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Rset,
)
from .dialogue import CLOSED, GREETED, MESSAGE, Dialogue
from .dot_stuffing import DotStuffer
from .errors import LocalProtocolError, NotOfferedError, RemoteProtocolError, SMTPError
from .events import CONNECTION_LOST, NEED_DATA, Signal
from .extension import Extension
from .extensions import eightbitmime
from .extensions.known import KNOWN
from .extensions.smtputf8 import SMTPUTF8
from .framing import ReceiveBuffer
from .grammar import Grammar, overrides
from .limits import COMMAND_LINE_OCTETS
from .params import NO_PARAMS, Param, Params
from .replies import Reply
from .reply_parser import ReplyParser
from .values import Value

# The queue of unanswered commands
# --------------------------------
#
# A reply does not name the command that it answers. The first reply answers the first command, and so on (RFC 2920
# 3.1), so the client needs no more than `Dialogue.unanswered`: a command is appended when it is sent and removed when a
# reply is read. The end of a message is in the queue as `EndOfData`. In LMTP, and only there, one command has several
# replies, one for each accepted recipient (RFC 2033 4.2); it is entered in the queue that many times.
#
# What may be sent is checked against the phase that is reached if all commands in the queue are accepted
# (`Dialogue.expected_phase`). If one is refused, the server refuses those that depend on it, and their replies are read
# like any other. The order of a group is checked too: a command such as EHLO, DATA or QUIT must be the last of a group,
# because the client needs its reply to know how to go on (RFC 2920 3.1).
#
# If the number of replies does not match the number of commands, each reply would be taken for that of another command,
# and a message could be reported as delivered because of the 250 to a RSET. The two sides cannot be synchronized again,
# so the connection is given up: RemoteProtocolError is raised, and the protocol is `closed`. This happens on
#
# - a reply when no command is unanswered;
# - a reply that cannot answer the oldest command: 3yz to MAIL, 2yz to DATA, 221 to anything but QUIT, or a positive
#   greeting other than 220. Such a reply shows that replies and commands do not match;
# - octets that are not a reply, since it is unknown how many replies they replace;
# - octets after the reply to STARTTLS, which an attacker may have inserted (RFC 3207 5).
#
# Two replies may come early. A 421 can come at any time; it ends the session and answers the oldest command, if there
# is one (RFC 5321 3.8). And a server may refuse a message before it has been sent completely. The client cannot stop
# in the middle of DATA and send another command, so it takes that as the final reply, and closes the connection.


@frozen(eq=False, repr=False)
class AnsweredCommand(Value):
    """A reply and the command that it answers. ``command`` is None for an unsolicited 421 (RFC 5321 3.8)."""

    command: Command | None
    reply: Reply


class ReplyError(SMTPError):
    """The server refused ``command`` with ``reply``. It may succeed later if ``temporary``."""

    def __init__(self, command: Command, reply: Reply) -> None:
        super().__init__(f"{command.verb} was refused: {reply}")
        self.command: Command = command.redacted
        self.reply = reply

    @property
    def temporary(self) -> bool:
        """True for a 4yz reply (RFC 5321 4.2.1), and for 552 to RCPT, which means too many recipients (4.5.3.1.10)."""
        return self.reply.temporary or (self.reply.code == 552 and isinstance(self.command, Rcpt))


class SessionEndedError(RemoteProtocolError):
    """The server ended the session with ``reply``, a 221 although no QUIT was sent."""

    def __init__(self, command: Command | None, reply: Reply) -> None:
        super().__init__(
            f"unexpected reply to {command.verb}: {reply}" if command else f"no reply was expected, got {reply}"
        )
        self.reply = reply


class ClientProtocol:
    """The client's side of one connection. It must be used by one task at a time."""

    __slots__ = (
        "_answered",
        "_buffer",
        "_checks",
        "_chunk_octets",
        "_dot_stuffer",
        "_grammar",
        "_input_ended",
        "_params",
        "_replies",
        "_verbs",
        "authenticated",
        "binary",
        "capabilities",
        "dialogue",
        "offered",
        "outbox",
        "transactions_begun",
        "utf8",
        "verified",
    )

    def __init__(self, extensions: Iterable[Extension] | Grammar = KNOWN) -> None:
        """``extensions`` are those that this client can use. Raises ValueError if they cannot be combined."""
        self._grammar = extensions if isinstance(extensions, Grammar) else Grammar(extensions)
        self.dialogue: Dialogue = Dialogue(self._grammar.table)
        self.dialogue.add_command(Connect())
        #: The extensions that both sides support, by keyword, with the parameters that the server announced.
        self.offered: dict[str, Extension] = {}
        #: All keywords of the reply to EHLO, known or not, with their parameters.
        self.capabilities: dict[str, tuple[str, ...]] = {}
        #: The number of MAIL commands sent, which the LIMITS extension restricts (RFC 9422 4.1).
        self.transactions_begun: int = 0
        #: True if the last MAIL had BODY=BINARYMIME, so that the message may have any octets (RFC 3030 3).
        self.binary: bool = False
        #: True if the last MAIL had SMTPUTF8, so that the header may be UTF-8 (RFC 6531 3.4).
        self.utf8: bool = False
        #: The octets that must be sent, in pieces; see `data_to_send`.
        self.outbox: list[bytes] = []
        #: True with TLS and a verified server name. The caller sets it, which does the handshake.
        self.verified: bool = False
        self._checks: list[Extension] = []  # those offered that restrict the parameters of commands
        self._params: dict[type[Command], set[Param[Any]]] = {}
        self._verbs = set(VERBS)
        self._buffer = ReceiveBuffer()
        self._replies = ReplyParser(self._buffer)
        self._input_ended = False
        self._answered: Command | None = None  # the command that the last reply answers
        self._dot_stuffer: DotStuffer | None = None  # while a message is sent after 354
        self._chunk_octets = 0  # octets announced by BDAT and not passed to `send_body` yet
        #: True after a successful AUTH.
        self.authenticated: bool = False

    @property
    def closed(self) -> bool:
        """True if the connection cannot be used any more, after QUIT, 421 or an invalid reply."""
        return self.dialogue.phase is CLOSED

    @property
    def idle(self) -> bool:
        """True if all commands are answered, no message is half sent, and there is nothing to send."""
        return not (self.dialogue.unanswered or self._dot_stuffer or self._chunk_octets or self.outbox)

    @property
    def in_sync(self) -> bool:
        """True if the protocol is `idle` and the server has sent nothing unexpected."""
        return self.idle and not self.has_unread_input

    @property
    def has_unread_input(self) -> bool:
        """True if octets have been received that `next_event` has not returned, even part of a reply."""
        return self._replies.has_unread_input

    @property
    def is_quiet(self) -> bool:
        """True if the connection is open and the server has sent nothing that `next_event` has not returned."""
        return not (self._input_ended or self._replies.has_unread_input or self.dialogue.phase is CLOSED)

    @property
    def awaiting_reply(self) -> Command | None:
        """The oldest unanswered command, which the next reply answers, or None."""
        return self.dialogue.unanswered[0] if self.dialogue.unanswered else None

    # --- sending ----------------------------------------------------------------------------------------------------

    def send_command(self, command: Command) -> None:
        """Send a command.

        Raises LocalProtocolError if it is not allowed even if all unanswered commands are accepted, NotOfferedError (a
        subclass) if the server does not offer what it needs, and ValueError if it cannot be written as a valid line. In
        these cases nothing is sent.
        """
        dialogue = self.dialogue
        if self._dot_stuffer is not None or self._chunk_octets:
            raise LocalProtocolError(f"{command.verb} is not allowed while a message is being sent")
        if dialogue.unanswered:
            last = dialogue.unanswered[-1]
            if "PIPELINING" not in self.offered:
                raise LocalProtocolError(
                    f"{command.verb} must wait for the reply to {last.verb}: the server does not offer PIPELINING"
                )
            # RFC 2920 3.1: a command that is not groupable ends a group. The end of a message may begin one.
            if not (last.groupable or (type(last) is EndOfData and isinstance(command, Mail | Rset))):
                raise LocalProtocolError(f"{command.verb} must wait for the reply to {last.verb}")
        line = self.encode_command(command)
        dialogue.add_command(command)
        if isinstance(command, Mail):
            self.transactions_begun += 1
            self.utf8 = SMTPUTF8 in command.params
            self.binary = command.params.get(eightbitmime.BODY) == "BINARYMIME"
        if isinstance(command, CountedCommand):
            self._chunk_octets = command.size
        self.outbox.append(line)

    def encode_command(self, command: Command, *, utf8: bool = False) -> bytes:
        """Return the command line as it is sent. ``utf8`` is true in a transaction begun with SMTPUTF8.

        Raises NotOfferedError and ValueError as `send_command` does (RFC 5321 4.1.2, 4.5.3.1.4; RFC 6531 3.4).
        """
        if command.verb not in self._verbs and not isinstance(command, Hello):
            raise NotOfferedError(f"the server does not offer {command.verb}")
        if self.authenticated and command.verb == "AUTH":
            raise LocalProtocolError("AUTH is not allowed after a successful AUTH (RFC 4954 4)")
        params: Params = getattr(command, "params", NO_PARAMS)
        if params is not NO_PARAMS:
            self._check_params(command, params)
        text = command.encode()
        if not text.isprintable() and syntax.CONTROL.search(text):
            raise ValueError(f"control character in {command.verb}: {text!a}")
        if not text.isascii():
            # RFC 6531 3.4: MAIL, VRFY and EXPN have the parameter themselves, RCPT depends on its MAIL, and no other
            # command may contain UTF-8.
            utf8 = (utf8 or self.utf8) if isinstance(command, Rcpt) else SMTPUTF8 in getattr(command, "params", ())
            if not utf8:
                raise ValueError(f"non-ASCII {command.verb} needs SMTPUTF8 (RFC 6531): {text!a}")
        line = text.encode() + b"\r\n"
        if len(line) > COMMAND_LINE_OCTETS and len(line) > (limit := self._line_limit(command)):
            raise ValueError(
                f"{command.verb} line too long: must be <= {limit} octets, got {len(line)} (RFC 5321 4.5.3.1.4)"
            )
        return line

    def _line_limit(self, command: Command) -> int:
        """Return the line limit in octets. Parameters that are offered increase it (RFC 5321 4.5.3.1.4)."""
        extra = sum(param.extra_octets for param in self._params.get(type(command), ()))
        return self._grammar.line_limits.get(command.verb, COMMAND_LINE_OCTETS + extra)

    def send_body(self, octets: bytes) -> None:
        """Send a piece of the message: after 354 in lines that end in CRLF, after BDAT no more than it announced."""
        if self._dot_stuffer is not None:
            octets = self._dot_stuffer.feed(octets)
        elif len(octets) <= self._chunk_octets:
            self._chunk_octets -= len(octets)
        else:
            raise LocalProtocolError(f"the server expects {self._chunk_octets} octets, got {len(octets)}")
        if octets:
            self.outbox.append(octets)

    def end_body(self, replies: int = 1) -> None:
        """End the message that was sent after 354. ``replies`` is the number of replies to expect.

        In LMTP there is one for each accepted recipient (RFC 2033 4.2).
        """
        if self._dot_stuffer is None:
            raise LocalProtocolError("no message is being sent")
        self.outbox.append(self._dot_stuffer.end())
        self._dot_stuffer = None
        self.dialogue.unanswered.extend([END_OF_DATA] * replies)

    def expect_replies(self, count: int) -> None:
        """Expect ``count`` further replies to the BDAT LAST that was sent last (RFC 2033 4.2)."""
        self.dialogue.unanswered.extend([self.dialogue.unanswered[-1]] * count)

    def data_to_send(self) -> bytes:
        """Return and remove the octets that must be sent, which may be b""."""
        data = b"".join(self.outbox)
        self.outbox.clear()
        return data

    def offers(self, kind: type[Command], param: Param[Any]) -> bool:
        """Return whether the server offers a parameter of a command."""
        return param in self._params.get(kind, ())

    def _check_params(self, command: Command, params: Params) -> None:
        """Raise NotOfferedError for parameters that the server does not offer."""
        known = self._params.get(type(command), ())
        for param in params:
            if param.unverified is not None and not self.verified:
                text = f"{param.keyword} needs TLS with a verified server name"
                raise NotOfferedError(text, status=param.unverified)
            if param not in known:
                text = f"the server does not offer the parameter {param.keyword} of {command.verb}"
                raise NotOfferedError(text, status=param.unsupported)
        for extension in self._checks:
            extension.check_request(command, verified=self.verified)
        if params.get(eightbitmime.BODY) == "BINARYMIME" and not {"BINARYMIME", "CHUNKING"} <= self.offered.keys():
            raise NotOfferedError("the server does not offer both BINARYMIME and CHUNKING (RFC 3030 3)")

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Add octets from the server; b"" at the end of the input."""
        if data:
            self._buffer.add(data)
        else:
            self._input_ended = True

    def next_event(self) -> AnsweredCommand | Signal:
        """Return the next answer; NEED_DATA; or CONNECTION_LOST if the input has ended or the session is over.

        Raises RemoteProtocolError for octets that are not a reply, and for a reply that does not answer a command.
        """
        reply = self.next_reply()
        return AnsweredCommand(self._answered, reply) if isinstance(reply, Reply) else reply

    def next_reply(self) -> Reply | Signal:
        """As `next_event`, but return the reply alone, for a caller that knows the command.

        An `AnsweredCommand` costs 4,400 instructions, as much as parsing the reply.
        """
        if self.dialogue.phase is CLOSED:
            return CONNECTION_LOST
        try:
            reply = self._replies.read_reply()
            if reply is None:
                return CONNECTION_LOST if self._input_ended else NEED_DATA
            self._answered = self._match(reply)
        except RemoteProtocolError:
            self.dialogue.enter(CLOSED)
            raise
        return reply

    def _match(self, reply: Reply) -> Command | None:
        """Match a reply to the oldest command, apply what follows from it, and return the command.

        Raises RemoteProtocolError if the reply cannot answer that command: no later reply can be matched either.
        """
        dialogue, early = self.dialogue, False
        if not dialogue.unanswered and dialogue.phase is MESSAGE and reply.refused:
            dialogue.unanswered.append(END_OF_DATA)  # the message is refused before its end
            early = True
        if reply.code == 421:  # RFC 5321 3.8
            command = self.awaiting_reply
            dialogue.enter(CLOSED)
            return command
        if reply.code == 221 and type(self.awaiting_reply) is not Quit:  # RFC 5321 4.2.3: the server closes
            raise SessionEndedError(self.awaiting_reply, reply)
        if not dialogue.unanswered:
            raise RemoteProtocolError(f"no reply was expected, got {reply}")
        command = dialogue.unanswered[0]
        kind = type(command)
        # RFC 5321 4.3.2: a positive reply has a row in the table, and the greeting is 220.
        if not reply.refused and (
            kind not in self._grammar.table.by_digit[reply.code // 100] or (kind is Connect and reply.code != 220)
        ):
            raise RemoteProtocolError(f"unexpected reply to {command.verb}: {reply}")
        dialogue.add_reply(reply)
        if early:
            dialogue.enter(CLOSED)
        elif reply.intermediate and kind is Data:
            # RFC 2920 3.1: even if no recipient was accepted. The server should have refused the DATA, but it expects a
            # message now, so one must be sent.
            dialogue.enter(MESSAGE)
            self._dot_stuffer = DotStuffer()
        elif command.starts_tls and reply.accepted:
            self._check_starttls(command, reply)
        elif command.restarts and reply.accepted:
            self._set_offer(())
            self.authenticated = False
        elif command.verb == "AUTH" and reply.accepted:
            self.authenticated = True
        elif isinstance(command, Hello) and reply.accepted:
            self._set_offer(reply.text.split("\n")[1:] if command.extended else ())
        return command

    def _check_starttls(self, command: Command, reply: Reply) -> None:
        if reply.code != 220:  # RFC 3207 4
            raise RemoteProtocolError(f"expected 220 to {command.verb}, got {reply}")
        if len(self._buffer):
            # They would be read as if they had come through TLS (RFC 3207 5, CVE-2021-38371 for example).
            raise RemoteProtocolError(f"octets between the reply to {command.verb} and the TLS handshake")

    def _set_offer(self, lines: Sequence[str]) -> None:
        """Parse the reply to EHLO (RFC 5321 4.1.1.1): a keyword and parameters on each line after the first."""
        known: Mapping[str, Extension] = {extension.keyword: extension for extension in self._grammar.extensions}
        self.capabilities, self.offered, self._params, self._verbs = {}, {}, {}, set(VERBS)
        self._checks.clear()
        for line in lines:
            # "AUTH=PLAIN" is a form from before RFC 2554 that servers still send, sometimes besides the proper one.
            first, *words = line.split() or [""]
            keyword, _, word = first.partition("=")
            keyword, words = keyword.upper(), [word, *words] if word else words
            present = self.capabilities.get(keyword, ())
            self.capabilities[keyword] = present + tuple(word for word in words if word not in present)
        self.capabilities.pop("", None)
        for keyword, parameters in self.capabilities.items():
            if keyword in known:
                extension = self.offered[keyword] = known[keyword].parse_offer(parameters)
                if overrides(extension, "check_request"):
                    self._checks.append(extension)
                self._verbs.update(verb.verb for verb in extension.verbs)
                for command, params in extension.params.items():
                    self._params.setdefault(command, set()).update(params)

    def tls_started(self) -> None:
        """Record that TLS is active. All that the server sent before is forgotten (RFC 3207 4.2)."""
        self._set_offer(())
        self.authenticated = False
        self._buffer.clear()
        self.dialogue.enter(GREETED)
