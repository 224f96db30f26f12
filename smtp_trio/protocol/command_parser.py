"""The judge of a command line: what is it, and may it be said now?

The order of the checks is the order in which a client should learn of its mistakes: the line, the verb, what must come first
(530), the argument (501, 555), the sequence (503), and what extensions object to. Only then does a hook see the command.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from . import replies, syntax
from .commands import UNSUPPORTED_VERBS, VERBS, Command, Data, Mail, Rcpt
from .dialogue import GREETED, SENDER, Dialogue
from .errors import BadCommandError
from .extension import Extension
from .extensions.smtputf8 import refuse_utf8
from .grammar import NOTHING, Grammar
from .limits import Limits
from .params import NO_PARAMS, KnownParams
from .replies import Reply
from .session_state import SessionState
from .syntax import Path

#: What other protocols begin with: a browser made to talk to a mail server (RFC 5321 says nothing; nobody may be harmed by it).
ALIEN = frozenset({"GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS", "DELETE", "PATCH", "TRACE"})


#: What is known of a verb: its command, the parameters on offer, and the extensions that look at it.
Entry = tuple[type[Command], KnownParams, Sequence[Extension]]


class CommandParser:
    """Turns lines into commands that are in order; raises `BadCommandError` for all others."""

    __slots__ = ("_dialogue", "_grammar", "_limits", "_offer", "_state", "known")

    def __init__(self, grammar: Grammar, state: SessionState, dialogue: Dialogue, limits: Limits) -> None:
        self._grammar = grammar
        self._state = state
        self._dialogue = dialogue
        self._limits = limits
        self._offer = NOTHING
        #: By phase, the verbs that were found in order there, and open to such clients. What was found once need not be looked for
        #: again, in whatever session, until the facts change; so most commands go the short way, through `recall`.
        self.known: dict[enum.Enum, dict[str, Entry]] = {}

    def state_changed(self) -> None:
        """The client said hello, logged in or turned on TLS: what it may say is not what it was."""
        state = self._state
        self._offer = self._grammar.offer(state) if state.extended else NOTHING
        state.offered = self._offer.keywords
        # Those who have not logged in are all alike to a gate. Who has may be somebody.
        self.known = self._grammar.command_cache.setdefault(state.offer_key, {}) if state.user is None else {}

    def recall(self, line: bytes, known: Mapping[str, Entry]) -> Command | None:
        """The command, when its verb is ``known`` here and its line is plain ASCII; None to go the long way: `split`, `decode`."""
        if not line.isascii():
            return None
        verb, _, argument = line.decode().partition(" ")
        entry = known.get(verb)
        if entry is None or not argument.isprintable():
            return None
        return self._parse(entry, argument)

    def decode(self, cls: type[Command], argument: str) -> Command:
        """The command, from its argument."""
        self.pass_gates(cls.verb)
        if not cls.is_implemented(self._state.hooks):
            raise BadCommandError(replies.NOT_IMPLEMENTED, verb=cls.verb)
        entry = cls, self._offer.grammar.get(cls, {}), self._grammar.checks.get(cls, ())
        return self._parse(entry, argument, new=True)

    def _parse(self, entry: Entry, argument: str, *, new: bool = False) -> Command:
        cls, params, checks = entry
        try:
            command = cls.decode(argument, params)
            if new:
                self.check_order(command)
                phase = self._dialogue.phase
                if phase is not GREETED and not cls.starts_tls:  # nothing there is ordinary
                    self.known.setdefault(phase, {})[cls.verb] = entry
            for extension in checks:
                if (reply := extension.check_command(command, self._state)) is not None:
                    raise BadCommandError(reply)
            if isinstance(command, Mail):
                self._check_path(command, command.sender)
            elif isinstance(command, Rcpt):
                self._check_path(command, command.recipient)
                if len(self._state.rcpts) >= self._limits.recipients:
                    # RFC 5321 4.5.3.1.10: 452, so that the client sends to the rest in another transaction.
                    raise BadCommandError(replies.TOO_MANY_RECIPIENTS)
        except BadCommandError as bad:
            bad.verb = cls.verb
            bad.argument = argument if cls is Mail or cls is Rcpt else ""
            raise
        return command

    def split(self, line: bytes) -> tuple[type[Command], str]:
        """The verb's command and its argument."""
        try:
            text = line.decode()  # UTF-8; whether more than ASCII was allowed is asked where it stands (RFC 6531)
        except UnicodeDecodeError:
            # 501 where it is an argument that is wrong: RFC 4954 4 wants it for what is not base64.
            verb = line.partition(b" ")[0].upper().decode("latin-1")
            known = self._grammar.verbs.get(verb)
            if known is None:
                raise BadCommandError(replies.BAD_UTF8) from None
            raise BadCommandError(replies.BAD_CHARACTER, verb=verb, close=known.counted) from None
        verb, _, argument = text.rstrip(" \t").partition(" ")
        cls = self._grammar.verbs.get(verb) or self._grammar.verbs.get(verb.upper() if verb.isascii() else "")
        if cls is not None:
            if not argument.isprintable() and syntax.CONTROL.search(argument):
                raise BadCommandError(replies.BAD_CHARACTER, verb=cls.verb, close=cls.counted)
            return cls, argument
        if not verb:
            raise BadCommandError(replies.EMPTY_LINE)
        if not (verb.isascii() and verb.isprintable()):
            raise BadCommandError(replies.BAD_VERB)
        verb = verb.upper()
        if verb in ALIEN and self._dialogue.phase is GREETED:
            raise BadCommandError(replies.NOT_SMTP, verb=verb, close=True)
        if verb not in UNSUPPORTED_VERBS:
            raise BadCommandError(replies.UNKNOWN, verb=verb)
        raise BadCommandError(replies.NOT_IMPLEMENTED, verb=verb, close=UNSUPPORTED_VERBS[verb])

    def pass_gates(self, verb: str) -> None:
        """What must come first: TLS, or AUTH (530)."""
        for extension in self._grammar.verb_checks:
            if (reply := extension.check_verb(verb, self._state)) is not None:
                raise BadCommandError(reply, verb=verb)

    def check_order(self, command: Command) -> None:
        """Whether the command is in order (RFC 5321 4.1.4)."""
        verb, state, phase = command.verb, self._state, self._dialogue.phase
        if not state.extended and verb not in VERBS:
            raise BadCommandError(Reply(503, "Send EHLO first", "5.5.1"), verb=verb)
        if not self._dialogue.allows(type(command)):
            if phase is SENDER and state.rejected_rcpts and (command.counted or type(command) is Data):
                # RFC 5321 3.3 and RFC 2920 3.1: there were recipients, and every one was refused.
                raise BadCommandError(replies.NO_RECIPIENTS, verb=verb)
            raise BadCommandError(Reply(503, f"{verb} is out of order: {phase.value}", "5.5.1"), verb=verb)

    def _check_path(self, command: Mail | Rcpt, path: Path) -> None:
        """Whether there is anything against the path or its parameters."""
        if command.params is not NO_PARAMS:
            for param in command.params:
                for extension in self._grammar.checks.get(param, ()):
                    if (reply := extension.check_command(command, self._state)) is not None:
                        raise BadCommandError(reply)
        if not path.is_ordinary:
            if self._limits.strict_lengths and path.is_too_long:
                raise BadCommandError(Reply(501, "Path too long", "5.1.7" if type(command) is Mail else "5.1.3"))
            # RFC 6531 3.5; and a server without that extension knows no such mailbox.
            if not path.is_ascii and (reply := refuse_utf8(command, self._state)) is not None:
                raise BadCommandError(reply)
