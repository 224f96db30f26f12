"""The client's half of the core: commands in, octets out; octets in, answers out. It never waits, and knows no clock.

    protocol.send_command(Ehlo("client.example"))     # several in a row, where the server pipelines
    octets = protocol.data_to_send()
    protocol.receive_data(octets)            # b"" at the end of input
    event = protocol.next_event()            # an `Answer`, NEED_DATA or CONNECTION_LOST

The first answer is the greeting, which nobody had to ask for. Answers belong to commands by their count and by nothing else (RFC
2920 3.1), so whatever makes the count doubtful raises RemoteProtocolError, and from then on the protocol is `closed`.

A message by DATA: ask it; when the answer is 354, `send_body` piece by piece and `end_body`, which is a question of its own. By
BDAT: ask it, then `send_body` with as many octets as it announced.
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
    EndOfBody,
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
from .extensions import KNOWN, eightbitmime
from .extensions.smtputf8 import SMTPUTF8
from .framing import ReceiveBuffer
from .grammar import Grammar
from .params import NO_PARAMS, Param, Params
from .replies import Reply
from .reply_parser import ReplyParser

#: RFC 5321 4.5.3.1.4: octets of a command, with its CRLF.
LINE = 512


@frozen
class Answer:
    """A reply and the command that it belongs to; None for the 421 of a server that leaves unasked (RFC 5321 3.8)."""

    command: Command | None
    reply: Reply


class ReplyError(SMTPError):
    """The server said no. ``command`` is what it refused, ``reply`` its answer: ``reply.temporary`` tells whether to try again."""

    def __init__(self, command: Command, reply: Reply) -> None:
        super().__init__(f"{command.verb} was refused: {reply}")
        self.command: Command = command.redacted
        self.reply = reply


class ClientProtocol:
    """One connection's protocol, as the client sees it."""

    __slots__ = (
        "_buffer",
        "_dot_stuffer",
        "_grammar",
        "_input_over",
        "_owed",
        "_params",
        "_proved",
        "_replies",
        "_utf8",
        "_verbs",
        "capabilities",
        "dialogue",
        "offered",
        "outbox",
        "transactions_begun",
    )

    def __init__(self, extensions: Iterable[Extension] | Grammar = KNOWN) -> None:
        """``extensions`` are those that this client understands. Raises ValueError when they do not go together."""
        self._grammar = extensions if isinstance(extensions, Grammar) else Grammar(extensions)
        self.dialogue: Dialogue = Dialogue(self._grammar.table)
        self.dialogue.add_command(Connect())
        #: What the server offers, by keyword: the extensions that this client understands, with what the server says of them.
        self.offered: dict[str, Extension] = {}
        #: All that it says in its answer to EHLO, understood or not: words by keyword.
        self.capabilities: dict[str, tuple[str, ...]] = {}
        #: How many transactions were begun: LIMITS has a maximum for them (RFC 9422 4.1).
        self.transactions_begun: int = 0
        #: What must go to the peer, piece by piece.
        self.outbox: list[bytes] = []
        self._params: dict[type[Command], set[Param[Any]]] = {}
        self._verbs = set(VERBS)
        self._buffer = ReceiveBuffer()
        self._replies = ReplyParser(self._buffer)
        self._input_over = False
        self._dot_stuffer: DotStuffer | None = None  # while a message goes out behind DATA
        self._owed = 0  # octets of a chunk that were announced, and not yet given
        self._proved = False  # by AUTH
        self._utf8 = False  # the transaction was begun with SMTPUTF8

    @property
    def closed(self) -> bool:
        """After QUIT, a 421 or a reply that was none: nothing can be said or heard any more."""
        return self.dialogue.phase is CLOSED

    @property
    def idle(self) -> bool:
        """Every command was answered, no message is half sent, everything was taken to be sent."""
        return not (self.dialogue.unanswered or self._dot_stuffer or self._owed or self.outbox)

    @property
    def in_sync(self) -> bool:
        """All is settled, and nothing has come unasked."""
        return self.idle and not self.has_unread_input

    @property
    def has_unread_input(self) -> bool:
        """The server has said something that is not worked on yet, or only a part of something."""
        return self._replies.partial

    @property
    def awaiting_reply(self) -> Command | None:
        """The command whose answer comes next; None when there is no question open."""
        return self.dialogue.unanswered[0] if self.dialogue.unanswered else None

    # --- out --------------------------------------------------------------------------------------------------------

    def send_command(self, command: Command) -> None:
        """Say a command.

        Raises LocalProtocolError when it is out of order even if all that was asked before succeeds, NotOfferedError (which is one) when
        the server does not offer what it needs, and ValueError when its line cannot be written. Nothing is sent then.
        """
        dialogue = self.dialogue
        if self._dot_stuffer is not None or self._owed:
            raise LocalProtocolError(f"{command.verb} would be taken for a part of the message that is being sent")
        if dialogue.unanswered:
            last = dialogue.unanswered[-1]
            if "PIPELINING" not in self.offered:
                raise LocalProtocolError(
                    f"{command.verb} must wait for the answer to {last.verb}: the server does not pipeline"
                )
            # RFC 2920 3.1: these can only be the last of a group, and the end of a message only the first.
            if not (last.groupable or (type(last) is EndOfBody and isinstance(command, Mail | Rset))):
                raise LocalProtocolError(f"{command.verb} must wait for the answer to {last.verb}")
        line = self.encode_command(command)
        dialogue.add_command(command)
        if isinstance(command, Mail):
            self.transactions_begun += 1
            self._utf8 = SMTPUTF8 in command.params
        if isinstance(command, CountedCommand):
            self._owed = command.size
        self.outbox.append(line)

    def encode_command(self, command: Command, *, utf8: bool = False) -> bytes:
        """The command as it goes over the wire; ``utf8``: in a transaction that was begun with SMTPUTF8.

        Raises NotOfferedError and ValueError as `ask` does (RFC 5321 4.1.2, 4.5.3.1.4; RFC 6531 3.4).
        """
        self._check_offer(command)
        text = command.encode()
        if not text.isprintable() and syntax.CONTROL.search(text):
            raise ValueError(f"{command.verb} cannot hold a control character: {text!a}")
        if not text.isascii():
            # RFC 6531 3.4: MAIL, VRFY and EXPN say so themselves, RCPT goes by its MAIL, and nothing else may hold more than ASCII.
            utf8 = (utf8 or self._utf8) if isinstance(command, Rcpt) else SMTPUTF8 in getattr(command, "params", ())
            if not utf8:
                raise ValueError(f"{command.verb} outside ASCII needs SMTPUTF8 (RFC 6531): {text!a}")
        line = text.encode() + b"\r\n"
        if len(line) > LINE and len(line) > (limit := self._limit(command)):
            raise ValueError(f"{command.verb} line of {len(line)} octets, of {limit} at most (RFC 5321 4.5.3.1.4)")
        return line

    def _limit(self, command: Command) -> int:
        """How long its line may be, in octets: parameters that are offered make room for themselves (RFC 5321 4.1.1.11)."""
        rooms = sum(param.extra_octets for param in self._params.get(type(command), ()))
        return self._grammar.line_limits.get(command.verb, LINE + rooms)

    def send_body(self, octets: bytes) -> None:
        """Send a piece of the message: behind 354 in lines that end in CRLF, behind BDAT no more than it announced."""
        if self._dot_stuffer is not None:
            octets = self._dot_stuffer.feed(octets)
        elif len(octets) <= self._owed:
            self._owed -= len(octets)
        else:
            raise LocalProtocolError(f"{len(octets)} octets of a message, where the server expects {self._owed}")
        if octets:
            self.outbox.append(octets)

    def end_body(self, answers: int = 1) -> None:
        """The message that was sent behind 354 is whole. It gets so many ``answers``: in LMTP one a recipient (RFC 2033 4.2)."""
        if self._dot_stuffer is None:
            raise LocalProtocolError("no message is being sent")
        self.outbox.append(self._dot_stuffer.end())
        self._dot_stuffer = None
        self.dialogue.unanswered.extend([END_OF_DATA] * answers)

    def expect_replies(self, answers: int) -> None:
        """The BDAT LAST that was asked gets so many answers more (RFC 2033 4.2, RFC 3030)."""
        self.dialogue.unanswered.extend([self.dialogue.unanswered[-1]] * answers)

    def data_to_send(self) -> bytes:
        """Take what must go to the peer now; b"" when there is nothing."""
        data = b"".join(self.outbox)
        self.outbox.clear()
        return data

    def _check_offer(self, command: Command) -> None:
        if command.verb not in self._verbs and not isinstance(command, Hello):
            raise NotOfferedError(f"the server does not offer {command.verb}")
        if command.verb == "AUTH" and self._proved:
            raise LocalProtocolError("this client has proved who it is: AUTH succeeds once in a session (RFC 4954 4)")
        params: Params = getattr(command, "params", NO_PARAMS)
        if params is not NO_PARAMS:
            known = self._params.get(type(command), ())
            for param in params:
                if param not in known:
                    raise NotOfferedError(f"the server does not offer what {param.keyword} on {command.verb} needs")
            if params.get(eightbitmime.BODY) == "BINARYMIME" and not {"BINARYMIME", "CHUNKING"} <= self.offered.keys():
                raise NotOfferedError("the server does not offer BINARYMIME, and CHUNKING to send it by (RFC 3030 3)")

    # --- in ---------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Octets have come from the peer; b"" when there will be no more."""
        if data:
            self._buffer.add(data)
        else:
            self._input_over = True

    def next_event(self) -> Answer | Signal:
        """The next answer, if it is all there. Raises RemoteProtocolError when the peer does not speak SMTP, or out of turn."""
        if self.closed:
            return CONNECTION_LOST
        try:
            reply = self._replies.pull()
            if reply is None:
                return CONNECTION_LOST if self._input_over else NEED_DATA
            return self._answered(reply)
        except RemoteProtocolError:
            self.dialogue.enter(CLOSED)
            raise

    def _answered(self, reply: Reply) -> Answer:
        dialogue, early = self.dialogue, False
        if not dialogue.unanswered and dialogue.phase is MESSAGE and reply.refused:
            # The verdict, before the message was all sent. What else was to come of it nobody will take, so there is no way on.
            dialogue.unanswered.append(END_OF_DATA)
            early = True
        if reply.code == 421:  # RFC 5321 3.8: the server closes the connection, whatever was asked
            command = self.awaiting_reply
            dialogue.enter(CLOSED)
            return Answer(command, reply)
        if not dialogue.unanswered:
            raise RemoteProtocolError(f"a reply that nobody asked for: {reply}")
        command = dialogue.unanswered[0]
        self._check_kind(command, reply)
        dialogue.add_reply(reply)
        if early:
            dialogue.enter(CLOSED)
        elif reply.intermediate and type(command) is Data:
            # RFC 2920 3.1: with no recipient accepted there should have been no 354; but there was, and a message is awaited.
            dialogue.enter(MESSAGE)
            self._dot_stuffer = DotStuffer()
        elif command.starts_tls and reply.accepted:
            self._check_upgrade(command, reply)
        elif command.verb == "AUTH" and reply.accepted:
            self._proved = True
        elif isinstance(command, Hello) and reply.accepted:
            self._learn(reply.text.split("\n")[1:] if command.extended else ())
        return Answer(command, reply)

    def _check_kind(self, command: Command, reply: Reply) -> None:
        """Whether such a reply can answer this at all: 3yz to MAIL or 2yz to DATA says that we are not talking of the same thing."""
        table = self._grammar.table
        kind = type(command)
        # RFC 5321 4.3.2: there is but one greeting, and 221 is the last word of a server that was told to QUIT.
        other = reply.code != 220 if kind is Connect else reply.code == 221 and kind is not Quit
        if (reply.intermediate and kind not in table.proceed) or (
            reply.accepted and (other or kind not in table.accepted)
        ):
            raise RemoteProtocolError(f"{command.verb} was answered with {reply}")

    def _check_upgrade(self, command: Command, reply: Reply) -> None:
        if reply.code != 220:  # RFC 3207 4
            raise RemoteProtocolError(f"{command.verb} was answered with {reply}, and only 220 starts TLS")
        if len(self._buffer):
            # Whoever put them there wants them to be read as if they came from inside TLS.
            raise RemoteProtocolError(f"octets between the answer to {command.verb} and the TLS handshake")

    def _learn(self, lines: Sequence[str]) -> None:
        """Read the answer to EHLO (RFC 5321 4.1.1.1): a keyword and words on each line but the first."""
        known: Mapping[str, Extension] = {extension.keyword: extension for extension in self._grammar.extensions}
        self.capabilities, self.offered, self._params, self._verbs = {}, {}, {}, set(VERBS)
        for line in lines:
            # "AUTH=PLAIN" is how servers wrote it before there was a standard; both forms may be there, and mean the same.
            first, *words = line.split() or [""]
            keyword, _, word = first.partition("=")
            keyword, words = keyword.upper(), [word, *words] if word else words
            said = self.capabilities.get(keyword, ())
            self.capabilities[keyword] = said + tuple(word for word in words if word not in said)
        self.capabilities.pop("", None)
        for keyword, said in self.capabilities.items():
            if keyword in known:
                extension = self.offered[keyword] = known[keyword].parse_offer(said)
                self._verbs.update(verb.verb for verb in extension.verbs)
                for command, params in extension.params.items():
                    self._params.setdefault(command, set()).update(params)

    def secured(self) -> None:
        """TLS is up: what the server said before counts no more (RFC 3207 4.2)."""
        self._learn(())
        self._proved = False
        self._buffer.clear()
        self.dialogue.enter(GREETED)
