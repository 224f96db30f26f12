"""AUTH, RFC 4954: the client says who it is and proves it, by one of the mechanisms in `smtp_trio.protocol.sasl`.

They know no base64; `AuthCommand.talk` puts the server's half of one on the wire.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, Self

from attrs import field, frozen

from .. import syntax
from ..commands import Command, Mail
from ..dialogue import READY, PhaseEnum, Table
from ..errors import BadCommandError
from ..extension import CommandParams, Commands, Extension
from ..params import KnownParams, Param
from ..replies import Reply
from ..sasl import (
    FAILED,
    MALFORMED,
    MECHANISMS,
    Authenticated,
    Credentials,
    Failed,
    MechanismContext,
    PasswordCredentials,
    SecretWanted,
)
from ..session_state import SessionState

__all__ = ["AUTH", "FAILED", "MALFORMED", "Auth", "AuthCommand", "AuthPhase", "AuthResponse", "Credentials"]

LINE = 12288  # RFC 4954 4: octets that a server must take in one line of an exchange


class AuthPhase(PhaseEnum):
    """The phase that AUTH brings along."""

    EXCHANGE = "authentication exchange under way"


EXCHANGE = AuthPhase.EXCHANGE

AUTHENTICATED = Reply(235, "Authentication successful", "2.7.0")
AUTH_FIRST = Reply(530, "Authentication required", "5.7.0")
TLS_FIRST = Reply(538, "Encryption required for requested authentication mechanism", "5.7.11")
TRY_LATER = Reply(454, "Temporary authentication failure", "4.7.0")
CANCELLED = Reply(501, "Authentication cancelled", "5.7.0")
CANCELLED_TOO_LATE = Reply(501, "Authentication failed, and then cancelled", "5.7.0")
NOT_BASE64 = Reply(501, "Not base64", "5.5.2")
# It does not say which: what stands in the mechanism's place may be a password that was meant for the next line.
UNKNOWN_MECHANISM = Reply(504, "Mechanism not available", "5.5.4")
NOT_CONFIGURED = Reply(502, "AUTH is not configured here", "5.5.1")
TWICE = Reply(503, "Already authenticated", "5.5.1")

# RFC 4954 6: a server that requires authentication answers the rest with 530; RFC 3207 adds STARTTLS, RFC 5321 HELP.
ALWAYS = frozenset({"AUTH", "EHLO", "HELO", "NOOP", "RSET", "QUIT", "STARTTLS", "HELP"})


#: What an exchange asks: that a reply be sent, and the next line be given; that credentials be judged; or for a secret.
Question = Reply | Credentials | SecretWanted


@frozen
class AuthCommand(Command):
    """AUTH mechanism [initial-response] (RFC 4954 4). ``initial`` is None when there is none, b"" for "="."""

    mechanism: str
    initial: bytes | None = field(default=None, repr=False)

    verb = "AUTH"
    usage = "AUTH mechanism [initial-response]"
    codes: ClassVar[frozenset[int]] = frozenset({235, 334, 432, 454, 502, 503, 504, 525, 534, 535, 538})
    default_reply: ClassVar[Reply] = AUTHENTICATED

    @property
    def redacted(self) -> AuthCommand:
        return AuthCommand(self.mechanism)

    def encode(self) -> str:
        if self.initial is None:
            return f"AUTH {self.mechanism}"
        return f"AUTH {self.mechanism} {base64.b64encode(self.initial).decode() or '='}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        words = argument.rstrip(" \t").split(" ")
        if not words[0] or not words[0].isascii() or len(words) > 2:
            raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.2" if words[0] else "5.5.4"))
        # RFC 4954 4: "=" is the empty initial response, since nothing at all means that there is none.
        initial = None if len(words) == 1 else b"" if words[1] == "=" else decode_base64(words[1])
        return cls(words[0].upper(), initial)

    def talk(self, at: MechanismContext) -> Generator[Question, Any, Authenticated]:
        """The server's side. Returns who the client is, or raises `BadCommandError`.

        Of what it yields, a 334 reply is to be sent, and answered with the client's next line; `Credentials` are to be judged, and
        answered with a reply, or None for yes; `SecretWanted` is to be answered with a `Secret`, or None for an unknown user.
        """
        exchange = MECHANISMS[self.mechanism].server(self.initial, at)
        answer: Any = None
        try:
            while True:
                question = exchange.send(answer)
                if isinstance(question, bytes):
                    line = yield _challenge(question)
                    if line == "*":  # RFC 4954 4: the client gives up, which MUST be answered with 501
                        raise BadCommandError(CANCELLED)
                    answer = decode_base64(line)
                else:
                    answer = yield question
        except Failed as failed:
            if (yield _challenge(failed.challenge)) == "*":
                raise BadCommandError(CANCELLED_TOO_LATE) from None
            raise
        except StopIteration as done:
            proven: Authenticated = done.value
            return proven


@frozen
class AuthResponse(Command):
    """A line of the exchange: no command, but it is answered like one (RFC 4954 4)."""

    line: str = field(repr=False)

    verb = "AUTH"
    codes: ClassVar[frozenset[int]] = AuthCommand.codes
    default_reply: ClassVar[Reply] = AUTHENTICATED

    @property
    def redacted(self) -> AuthResponse:
        return AuthResponse("")

    def encode(self) -> str:
        return self.line

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        return cls(argument)


def _challenge(octets: bytes) -> Reply:
    return Reply(334, base64.b64encode(octets).decode())


def decode_base64(line: str) -> bytes:
    """Base64 without anything that is not base64. Raises `BadCommandError` (501: RFC 4954 4)."""
    try:
        return base64.b64decode(line.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadCommandError(NOT_BASE64) from None


def _mailbox(value: str | None) -> str | None:
    # RFC 4954 5: AUTH=<mailbox in xtext> or AUTH=<>; whoever does not trust the client reads it as the latter.
    mailbox = None if value is None else syntax.decode_xtext(value)
    return None if mailbox is None or syntax.CONTROL.search(mailbox) else mailbox


#: MAIL FROM:<…> AUTH=mailbox: who submitted the message first (RFC 4954 5).
AUTH: Param[str] = Param(
    "AUTH", lambda value: "<>" if value == "<>" else _mailbox(value), lambda v: v if v == "<>" else syntax.encode_xtext(v),
    extra_octets=500,
)  # fmt: skip


@frozen
class Auth(Extension):
    """Authentication (RFC 4954). ``required``: nothing of a transaction before it.

    ``mechanisms`` are those that may be offered, best first: each is if the server has the hook for it, `Hooks.auth` for PLAIN,
    LOGIN, OAUTHBEARER and XOAUTH2, `Hooks.secret` for SCRAM-SHA-256 (which needs the extra ``scram``) and CRAM-MD5. The default is
    all that take a password. ``cleartext``: offer without TLS even those that send the password or token itself.
    """

    required: bool = False
    cleartext: bool = False
    mechanisms: tuple[str, ...] = tuple(
        name for name, mechanism in MECHANISMS.items() if mechanism.takes is PasswordCredentials
    )

    keyword = "AUTH"
    params: ClassVar[CommandParams] = {Mail: (AUTH,)}
    verbs: ClassVar[Commands] = (AuthCommand,)
    checks: ClassVar[Commands] = (AuthCommand,)
    table: ClassVar[Table] = Table(
        accepted={AuthCommand: {READY: READY}, AuthResponse: {EXCHANGE: READY}},
        proceed={AuthCommand: {READY: EXCHANGE}, AuthResponse: {EXCHANGE: EXCHANGE}},
        refused={AuthResponse: {EXCHANGE: READY}},
    )
    continuations: ClassVar[Mapping[enum.Enum, type[Command]]] = {EXCHANGE: AuthResponse}
    line_limits: ClassVar[Mapping[str, int]] = {"AUTH": LINE}

    def usable(self, state: SessionState, *, secure: bool) -> list[str]:
        """Server: the mechanisms that a client can use with these hooks, with TLS or without."""
        hooks = {"auth": state.auth, "secret": state.secrets}
        return [
            name
            for name in self.mechanisms
            if (mechanism := MECHANISMS.get(name)) is not None
            and hooks[mechanism.asks]
            and not mechanism.missing
            # RFC 4954 4: passwords in clear text are offered under TLS alone, unless somebody insists.
            and (secure or self.cleartext or not mechanism.cleartext)
        ]

    def advertise(self, state: SessionState) -> str | None:
        names = self.usable(state, secure=state.secure)
        return f"AUTH {' '.join(names)}" if names else None

    def parse_offer(self, words: Sequence[str]) -> Auth:
        return Auth(self.required, self.cleartext, tuple(word.upper() for word in words))

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        if verb != "AUTH":
            return AUTH_FIRST if self.required and state.user is None and verb not in ALWAYS else None
        if not self.usable(state, secure=True):
            return NOT_CONFIGURED
        if not self.usable(state, secure=state.secure):
            return TLS_FIRST
        return TWICE if state.user is not None else None  # RFC 4954 4: only one AUTH in a session

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        assert isinstance(command, AuthCommand)
        if command.mechanism in self.usable(state, secure=state.secure):
            return None
        return TLS_FIRST if command.mechanism in self.usable(state, secure=True) else UNKNOWN_MECHANISM
