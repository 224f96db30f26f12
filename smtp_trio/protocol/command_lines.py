"""`CommandLines`: reads the lines of commands and of exchanges such as AUTH, each with the limit of its verb."""

from __future__ import annotations

from . import replies
from .commands import Command
from .dialogue import GREETED, Dialogue
from .errors import BadCommandError
from .framing import PROXY_V1, PROXY_V2, LineReader, ReceiveBuffer
from .grammar import Grammar
from .replies import Reply
from .syntax import normalize_space

#: The beginnings of a TLS handshake, and of PROXY headers.
TLS_RECORD = b"\x16\x03"
NOT_COMMANDS = (TLS_RECORD, PROXY_V1, PROXY_V2)


class CommandLines(LineReader):
    """The `LineReader` of a server. It knows what is expected, and so how long the next line may be."""

    __slots__ = ("_dialogue", "_grammar")

    def __init__(self, buffer: ReceiveBuffer, grammar: Grammar, dialogue: Dialogue) -> None:
        super().__init__(buffer)
        self._grammar = grammar
        self._dialogue = dialogue

    def next_line(self) -> bytes | None:
        """Return the next line, or None if it is incomplete."""
        continuation = self._grammar.continuations.get(self._dialogue.phase)
        try:
            # The limit depends on the verb, so the rest of a line that was refused must have been skipped before.
            return self._read_limited(continuation) if self.finish_skipping() else None
        except BadCommandError as bad:
            if continuation is not None:
                if bad.verb in ("MAIL", "RCPT"):
                    bad.verb = ""  # the line may be a password, which must not be logged like a path
                # In an exchange such as AUTH, the refusal of a line is the reply that ends the exchange. It leads to
                # the next phase like the reply to any command, so the dialogue needs the command that it answers.
                self._dialogue.add_command(continuation.decode("", {}))
            else:
                self.refuse_part(self._grammar.verbs.get(bad.verb))
            raise

    def refuse_part(self, cls: type[Command] | None) -> None:
        """Let the refusal of an invalid BURL be that of a part of the message, which is not complete without it.

        After a BDAT that is invalid the session ends.
        """
        if cls is not None and getattr(cls, "fetched", False) and self._dialogue.allows(cls):
            self._dialogue.add_command(cls())

    def _read_limited(self, continuation: type[Command] | None) -> bytes | None:
        """Return the next line, read with the limit of its verb."""
        buffer, grammar, phase = self._buffer, self._grammar, self._dialogue.phase
        # GREETED: the greeting was sent, and no EHLO or HELO was received yet.
        if phase is GREETED and buffer.data.startswith(NOT_COMMANDS, buffer.at):
            # Neither need contain CRLF, so the line might never end. A PROXY header here comes from a balancer that the
            # server does not know, and all its clients would be taken for the balancer. Such a connection is closed without a
            # reply, as one whose header is invalid.
            tls = buffer.data.startswith(TLS_RECORD, buffer.at)
            self.line: bytes = buffer.data[buffer.at : buffer.at + 2] if tls else b""
            raise BadCommandError(replies.TLS_ON_PLAINTEXT_PORT if tls else replies.PROXY_HEADER, close=True)
        limit, too_long = grammar.line_limit, replies.LONG_LINE
        if len(buffer) >= limit and grammar.line_limits:
            # RFC 4954 4: lines of an AUTH exchange may be longer. The verb matters only if so much is buffered.
            head = normalize_space(buffer.data[buffer.at : buffer.at + 16].decode("latin-1"))
            verb = continuation.verb if continuation else head.partition(" ")[0].upper()
            if verb in grammar.line_limits:
                limit, too_long = grammar.line_limits[verb], Reply(500, f"{verb} line too long", "5.5.6")
        return self.read_line(limit, too_long)
