"""`CommandParser`: turns a command line into a `Command`, or raises `BadCommandError` with the reply."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from . import replies, syntax
from .commands import UNSUPPORTED_VERBS, VERBS, Command, Data, Decoder, Hello, Mail, PathCommand, Rcpt
from .dialogue import GREETED, READY, SENDER, Dialogue
from .errors import BadCommandError
from .extension import Extension
from .extensions.smtputf8 import refuse_utf8
from .framing import refuse_line
from .grammar import NO_OFFER, Grammar
from .limits import Limits
from .params import NO_PARAMS, KnownParams
from .replies import Reply
from .session_state import SessionState
from .syntax import Path

# The order of the checks
# -----------------------
#
# A command can be wrong in several ways at once, and the first check that fails decides the reply:
#
#   1. the line: UTF-8, no control characters (500, 501)
#   2. the verb: known, implemented (500, 502)
#   3. what has to come first: TLS or AUTH (530, by `Extension.check_verb`)
#   4. the argument and the parameters (501, 555)
#   5. the sequence of commands (503, RFC 5321 4.1.4)
#   6. the checks of extensions on the whole command (`Extension.check_command`), and the limits
#
# RFC 5321 4.2.4 and 4.3.2 do not prescribe an order. 3 comes before 4 because RFC 3207 4 and RFC 4954 6 require 530 for
# any command, and because a client that has not authenticated should not learn more than that. 4 comes before 5 because
# the syntax of a command does not depend on the state. Only a command that passes all checks is shown to a hook.
#
# The cache
# ---------
#
# The checks 2, 3 and 5 do not depend on the argument. They depend on the verb, the phase, and on the few members of
# `SessionState` that form its `offer_key`. So when a command has passed the checks 1 to 5, the verb is entered in a
# cache with what the remaining checks need: the command class, its parameters, and the extensions that check it. The
# next line with the same verb in the same phase goes through `parse_cached`, which parses the argument and runs the
# checks 4 and 6 only. In practice nearly every command takes this path, since the cache belongs to the `Grammar` and is
# shared by all sessions of a server. A session selects the part for its own `offer_key`, in `state_changed`, which is
# called whenever a member of the key may have changed: after EHLO and HELO, after AUTH and after STARTTLS.
#
# The `Extension.check_verb` of this package's extensions depends on nothing else. That of other extensions may, so if
# there is one, nothing is cached, and it is asked about every command (`Grammar.caches_verbs`). What EHLO offers is
# computed for each session if an extension of another package decides on it; the offered keywords are part of the key.
#
# The cache is exact, not approximate: `tests/protocol/test_segmentation.py` compares each reply with that of a parser
# whose cache is always empty. Its size is bounded by the number of keys, phases and verbs. What is not entered:
#
# - verbs in the phase GREETED and STARTTLS, which are rare and have rules of their own in `ServerProtocol`;
# - anything in an authenticated session: `check_verb` may look at the user, and there are many users. Such a session
#   has a cache of its own;
# - lines that are not printable ASCII, do not have the verb in the exact spelling of the first one, or have white space
#   that has to be normalized (`syntax.normalize_space`). They go through `split` and `parse`, and get the same result.

#: Methods of HTTP. A web browser can be made to connect to a mail server and send a request that contains SMTP
#: commands, so a session that begins with one of these is closed.
HTTP_METHODS = frozenset({"GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS", "DELETE", "PATCH", "TRACE"})

NOT_SMTP = Reply(500, "This is an LMTP server; send LHLO", "5.5.1")
#: What a client sends that speaks the other one of the two protocols (RFC 2033 4.1).
OTHER_PROTOCOL: Mapping[str, Reply] = {
    "EHLO": NOT_SMTP,
    "HELO": NOT_SMTP,
    "LHLO": Reply(500, "This is an SMTP server; send EHLO", "5.5.1"),
}

RCPT_OCTETS = len("RCPT ")
#: A cache entry: the command class of a verb, the function that parses its argument, the parameters that are recognized,
#: and the extensions that check it.
Entry = tuple[type[Command], Decoder, KnownParams, Sequence[Extension]]


C = TypeVar("C", bound=Command)


class CommandParser:
    """The command parser of one session."""

    __slots__ = ("_dialogue", "_grammar", "_limits", "_offer", "_state", "cache")

    def __init__(self, grammar: Grammar, state: SessionState, dialogue: Dialogue, limits: Limits) -> None:
        self._grammar = grammar
        self._state = state
        self._dialogue = dialogue
        self._limits = limits
        self._offer = NO_OFFER
        #: The verbs that are allowed in this state, by phase and verb.
        self.cache: dict[enum.Enum, dict[str, Entry]] = {}

    def state_changed(self) -> None:
        """Update the offer and select the cache, after EHLO, HELO, AUTH or STARTTLS."""
        state = self._state
        self._offer = self._grammar.offer(state) if state.extended else NO_OFFER
        state.offered = self._offer.keywords
        if state.user is None:
            self.cache = self._grammar.command_cache.setdefault((state.offer_key, state.offered), {})
        else:
            self.cache = {}

    def parse_cached(self, line: bytes, cached: Mapping[str, Entry]) -> Command | None:
        """Parse a line whose verb is in ``cached``. Return None if it is not; then call `split` and `parse`."""
        if not line.isascii():
            return None
        text = line.decode()
        if "  " in text or text.endswith(" "):  # and tabs are not printable
            return None
        verb, _, argument = text.partition(" ")
        entry = cached.get(verb)
        if entry is None or not argument.isprintable():
            return None
        return self._parse(entry, argument)

    def parse(self, cls: type[Command], argument: str) -> Command:
        """Parse the argument of a command."""
        self.check_verb(cls.verb)
        if not cls.is_implemented(self._state.hooks):
            raise BadCommandError(replies.NOT_IMPLEMENTED, verb=cls.verb)
        decode = cls.decoder(self._state.strictness)
        entry = cls, decode, self._offer.params.get(cls, {}), self._grammar.checks.get(cls, ())
        return self._parse(entry, argument, new=True)

    def _parse(self, entry: Entry, argument: str, *, new: bool = False) -> Command:
        cls, decode, params, checks = entry
        try:
            command = decode(argument, params)
            if new or type(command) is not cls:  # a verb may have several classes, as BDAT has
                self.check_sequence(type(command))
                phase, cacheable = self._dialogue.phase, type(command) is cls and self._grammar.caches_verbs
                if cacheable and phase is not GREETED and not cls.starts_tls:
                    self.cache.setdefault(phase, {})[cls.verb] = entry
            for extension in checks:
                command = self._checked(extension, command)
            if isinstance(command, Mail):
                if 0 < self._limits.messages <= self._state.messages:
                    raise BadCommandError(replies.TOO_MANY_MESSAGES, close=True)
                if command.params is not NO_PARAMS or not command.sender.is_ordinary:
                    command = self._check_path(command, command.sender)
            elif isinstance(command, Rcpt):
                if command.params is not NO_PARAMS or not command.recipient.is_ordinary:
                    command = self._check_path(command, command.recipient)
                state, limits = self._state, self._limits
                # RFC 5321 4.5.3.1.10: 452 makes the client send to the other recipients in another transaction.
                if len(state.rcpts) >= limits.recipients:
                    raise BadCommandError(replies.TOO_MANY_RECIPIENTS)
                octets = RCPT_OCTETS + len(argument if argument.isascii() else argument.encode())
                if state.envelope + octets > limits.envelope and state.rcpts:
                    raise BadCommandError(replies.ENVELOPE_TOO_BIG)
        except BadCommandError as bad:
            bad.verb = cls.verb
            raise
        return command

    def split(self, line: bytes) -> tuple[type[Command], str]:
        """Return the command class of a line's verb, and the argument."""
        try:
            text = line.decode()  # as UTF-8; whether it may be more than ASCII depends on the argument (RFC 6531)
        except UnicodeDecodeError:
            # 501 if the verb is valid, as RFC 4954 4 requires for an argument of AUTH that is not base64.
            verb = syntax.normalize_space(line.decode("latin-1")).partition(" ")[0].upper()
            known = self._grammar.verbs.get(verb)
            if known is None:
                raise refuse_line(replies.BAD_UTF8, line) from None
            if not (self._state.strictness.non_ascii_hello_name and issubclass(known, Hello)):
                raise BadCommandError(replies.BAD_CHARACTER, verb=verb, close=known.counted) from None
            text = line.decode(errors="replace")
        normalized = syntax.normalize_space(text)
        verb, _, argument = normalized.partition(" ")
        cls = self._grammar.verbs.get(verb) or self._grammar.verbs.get(verb.upper() if verb.isascii() else "")
        if cls is not None:
            if not argument.isprintable() and syntax.CONTROL.search(argument):
                # A BDAT whose size cannot be read is followed by an unknown number of octets: close.
                raise BadCommandError(replies.BAD_CHARACTER, verb=cls.verb, close=cls.counted)
            # White space at the end of a line is tolerated in every mode (RFC 5321 4.1.1).
            if not self._state.strictness.extra_space and normalized != text.rstrip(" \t"):
                raise BadCommandError(replies.EXTRA_SPACE, verb=cls.verb, close=cls.counted)
            return cls, argument
        if not verb:
            raise refuse_line(replies.EMPTY_LINE, line)
        if not (verb.isascii() and verb.isprintable()):
            raise refuse_line(replies.BAD_VERB, line)
        verb = verb.upper()
        if verb in HTTP_METHODS and self._dialogue.phase is GREETED:
            raise BadCommandError(replies.NOT_SMTP, verb=verb, close=True)
        if verb not in UNSUPPORTED_VERBS:
            raise refuse_line(OTHER_PROTOCOL.get(verb, replies.UNKNOWN_COMMAND), line, verb=verb)
        raise BadCommandError(replies.NOT_IMPLEMENTED, verb=verb, close=UNSUPPORTED_VERBS[verb])

    def check_verb(self, verb: str) -> None:
        """Raise BadCommandError if an extension does not allow the verb yet (530)."""
        for extension in self._grammar.verb_checks:
            if (reply := extension.check_verb(verb, self._state)) is not None:
                raise BadCommandError(reply, verb=verb)

    def usable_verbs(self) -> list[str]:
        """Return the verbs that are allowed now: those that pass all checks which do not depend on an argument."""
        return [verb for verb, cls in self._grammar.verbs.items() if self._is_usable(cls)]

    def _is_usable(self, cls: type[Command]) -> bool:
        try:
            self.check_verb(cls.verb)
            self.check_sequence(cls)
        except BadCommandError:
            return False
        return cls.is_implemented(self._state.hooks)

    def check_sequence(self, cls: type[Command]) -> None:
        """Raise BadCommandError if the command is not allowed in this phase (RFC 5321 4.1.4)."""
        verb, state, phase, lmtp = cls.verb, self._state, self._dialogue.phase, self._grammar.lmtp
        hello = "LHLO" if lmtp else "EHLO"
        after_helo = state.hello and state.strictness.extensions_after_helo
        if not (state.extended or verb in VERBS or verb == hello or not cls.after_ehlo or after_helo):
            # RFC 5321 2.2.1: after HELO, extensions must not be used.
            raise _bad_sequence(verb, f"send {hello} first")
        if self._dialogue.allows(cls):
            return
        needs_recipient = cls.counted or cls is Data
        if phase is SENDER and needs_recipient:
            if state.rejected_rcpts and not lmtp:
                # RFC 5321 3.3 and RFC 2920 3.1: 554, not 503, if there were recipients and all were refused. RFC 2033
                # 4.2 requires 503.
                raise BadCommandError(replies.NO_RECIPIENTS, verb=verb)
            raise _bad_sequence(verb, "send RCPT first")
        first = hello if phase is GREETED else "MAIL" if phase is READY else None
        raise _bad_sequence(verb, f"send {first} first" if first else f"{verb} is not allowed {phase.value}")

    def _checked(self, extension: Extension, command: C) -> C:
        """Return the command, or the one in its place, if the extension accepts it."""
        result = extension.check_command(command, self._state)
        if isinstance(result, Reply):
            raise BadCommandError(result)
        return command if result is None else cast("C", result)

    def _check_path(self, command: PathCommand, path: Path) -> PathCommand:
        """Check the parameters and the path of a MAIL or RCPT, and return the command, or the one in its place."""
        if command.params is not NO_PARAMS:
            for param in command.params:
                for extension in self._grammar.checks.get(param, ()):
                    command = self._checked(extension, command)
        if not path.is_ordinary:
            if self._limits.strict_lengths and path.is_too_long:
                raise BadCommandError(Reply(501, "Path too long", "5.1.7" if type(command) is Mail else "5.1.3"))
            # RFC 6531 3.5. Checked here and not by the extension, because a server without it must refuse the path too.
            if not path.is_ascii and (reply := refuse_utf8(command, self._state)) is not None:
                raise BadCommandError(reply)
        return command


def _bad_sequence(verb: str, hint: str) -> BadCommandError:
    return BadCommandError(Reply(503, f"Bad sequence of commands: {hint}", "5.5.1"), verb=verb)
