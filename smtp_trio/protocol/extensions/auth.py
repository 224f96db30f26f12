"""AUTH, RFC 4954: the client proves its identity with a SASL mechanism.

Adds the verb AUTH, the parameter ``AUTH=`` of MAIL (section 5) and the EHLO line ``AUTH`` with the names of the
mechanisms. The mechanisms are in `smtp_trio.protocol.sasl` and exchange octets; base64, "*" and the 334 replies are
added here.

A mechanism is offered when the server has the hook that it needs. Those that send the password itself are offered only
under TLS, unless the setting ``cleartext`` is on (RFC 4954 4). AUTH is accepted once in a session, and only between
transactions.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias

from attrs import evolve, field, frozen

from .. import syntax
from ..arguments import argument, check_items, check_type
from ..commands import Command, Mail
from ..dialogue import READY, PhaseEnum, Table
from ..errors import BadCommandError
from ..extension import CommandParams, Commands, Extension
from ..params import KnownParams, Param
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value

if TYPE_CHECKING:
    from ..sasl import Authenticated, Computation, Credentials, Mechanism, MechanismContext, SecretRequest

# The mechanisms are imported by the functions that need them. They take a tenth of the time that importing the server takes,
# and a server without a hook for AUTH does not need them.

#: The longest line of an exchange that a server must accept, in octets (RFC 4954 4).
MAX_LINE = 12288


class AuthPhase(PhaseEnum):
    """The phase that AUTH adds."""

    EXCHANGE = "during an AUTH exchange"


EXCHANGE = AuthPhase.EXCHANGE

AUTHENTICATED = Reply(235, "Authentication successful", "2.7.0")
AUTH_FIRST = Reply(530, "Authentication required", "5.7.0")
TLS_FIRST = Reply(538, "Encryption required for requested authentication mechanism", "5.7.11")
TRY_LATER = Reply(454, "Temporary authentication failure", "4.7.0")
CANCELLED = Reply(501, "Authentication cancelled", "5.7.0")
CANCELLED_AFTER_FAILURE = Reply(501, "Authentication failed and was cancelled", "5.7.0")
NOT_BASE64 = Reply(501, "Invalid base64", "5.5.2")
# The text does not repeat the name: a confused client may have sent a password in its place, and replies are written to
# logs.
UNKNOWN_MECHANISM = Reply(504, "Mechanism not available", "5.5.4")
NOT_CONFIGURED = Reply(502, "AUTH is not configured", "5.5.1")
ALREADY_AUTHENTICATED = Reply(503, "Already authenticated", "5.5.1")

#: The hooks of the mechanisms (`Mechanism.hook`).
HOOKS = frozenset({"auth", "secret"})
#: Verbs that a server which requires authentication allows before it (RFC 4954 6; STARTTLS by RFC 3207 4, HELP by RFC
#: 5321).
ALLOWED_BEFORE_AUTH = frozenset(
    {"AUTH", "EHLO", "HELO", "LHLO", "NOOP", "RSET", "QUIT", "STARTTLS", "HELP", "XCLIENT", "XFORWARD"}
)

#: What `AuthCommand.exchange` yields: a reply to send, credentials to check, a request for a secret, or slow work to do.
ExchangeStep: TypeAlias = "Reply | Credentials | SecretRequest | Computation"


@frozen(eq=False, repr=False)
class AuthCommand(Command):
    """AUTH mechanism [initial-response] (RFC 4954 4). ``initial`` is None if that is absent, and b"" for "="."""

    mechanism: str
    initial: bytes | None = field(default=None, repr=False)

    verb = "AUTH"
    usage = "AUTH mechanism [initial-response]"
    codes: ClassVar[frozenset[int]] = frozenset({235, 334, 432, 454, 502, 503, 504, 525, 534, 535, 538})
    default_reply: ClassVar[Reply] = AUTHENTICATED

    @property
    def redacted(self) -> AuthCommand:
        """The command without the initial response, which may be a password."""
        return AuthCommand(self.mechanism)

    def encode(self) -> str:
        """Return the command as a line, without its CRLF."""
        if self.initial is None:
            return f"AUTH {self.mechanism}"
        return f"AUTH {self.mechanism} {base64.b64encode(self.initial).decode() or '='}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Parse the argument. Raises `BadCommandError` (501) if it is not a mechanism and at most one response."""
        words = argument.split(" ")
        if not words[0] or not words[0].isascii() or len(words) > 2:
            raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.2" if words[0] else "5.5.4"))
        # RFC 4954 4: "=" is an empty initial response. Without it, a mechanism could not tell that from an absent one.
        initial = None if len(words) == 1 else b"" if words[1] == "=" else decode_base64(words[1])
        return cls(words[0].upper(), initial)

    # AUTH is an exchange of its own: a challenge (334) and a response, as many times as the mechanism needs, then the
    # reply to AUTH. A state machine would need a state for every step of every mechanism. It is a generator instead, a
    # layer over the mechanism's own: it turns challenges into 334 replies and response lines into octets, and passes
    # the mechanism's questions to the application through unchanged. The loop is in the caller, which sends each reply
    # to the peer, awaits the next line or the hook, and sends the result to the generator. So the same code serves the
    # async server, tests without an event loop, and any other caller of the core.
    #
    # For the state table the exchange is one phase, EXCHANGE: 334 enters it or stays in it, any other reply leaves it.
    # A line that arrives in this phase is not a command but an `AuthResponse`, even if it reads "QUIT" (RFC 4954 4). If
    # the framing refuses such a line (too long, bare LF), the refusal is the reply to AUTH and the caller drops the
    # generator.
    #
    # The client's counterpart is the loop in `smtp_trio._client.handshake`, over `Mechanism.client`.

    def exchange(self, context: MechanismContext) -> Generator[ExchangeStep, Any, Authenticated]:
        """Run the server's side of the exchange. Returns the user, or raises `BadCommandError` with the reply.

        It yields a 334 reply, to be sent to the client, and is sent the client's next line; or `Credentials` to be
        checked, and is sent a `Reply`, None if they are valid; or a `SecretRequest`, and is sent a `Secret`, None for
        an unknown user; or a `Computation`, and is sent its result.
        """
        from ..sasl import MECHANISMS, AuthenticationFailedError

        known = context.mechanisms.get(self.mechanism) or MECHANISMS[self.mechanism]
        mechanism = known.server(self.initial, context)
        answer: Any = None
        try:
            while True:
                step = mechanism.send(answer)
                if isinstance(step, bytes):
                    line = yield _challenge(step)
                    if line == "*":  # RFC 4954 4: the client cancels, and the reply MUST be 501
                        raise BadCommandError(CANCELLED)
                    answer = decode_base64(line)
                else:
                    answer = yield step
        except AuthenticationFailedError as failed:
            if (yield _challenge(failed.challenge)) == "*":
                raise BadCommandError(CANCELLED_AFTER_FAILURE) from None
            raise
        except StopIteration as stop:
            authenticated: Authenticated = stop.value
            return authenticated


@frozen(eq=False, repr=False)
class AuthResponse(Command):
    """A line of the exchange: not a command, but answered with a reply as a command is (RFC 4954 4)."""

    line: str = field(repr=False)

    verb = "AUTH"
    work = 0
    codes: ClassVar[frozenset[int]] = AuthCommand.codes
    default_reply: ClassVar[Reply] = AUTHENTICATED

    @property
    def redacted(self) -> AuthResponse:
        """A response without the line, which may be a password."""
        return AuthResponse("")

    def encode(self) -> str:
        """Return the line."""
        return self.line

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Return a response with this line. `AuthCommand.exchange` parses it."""
        return cls(argument)


def _challenge(octets: bytes) -> Reply:
    return Reply(334, base64.b64encode(octets).decode())


def decode_base64(line: str) -> bytes:
    """Decode base64. Raises `BadCommandError` (501) for invalid characters and wrong padding (RFC 4954 4)."""
    try:
        return base64.b64decode(line.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadCommandError(NOT_BASE64) from None


def _decode_mailbox(value: str | None) -> str | None:
    # RFC 4954 5: a mailbox in xtext, or "<>" for an unknown submitter.
    if value is None or value == "<>":
        return value
    mailbox = syntax.decode_xtext(value)
    return None if not mailbox or syntax.CONTROL.search(mailbox) else mailbox


def _encode_mailbox(value: str) -> str:
    if not value or syntax.CONTROL.search(value):
        raise ValueError(f"AUTH cannot be {value!a} (RFC 4954 5)")
    return value if value == "<>" else syntax.encode_xtext(value)


#: MAIL FROM:<...> AUTH=mailbox: the original submitter of the message (RFC 4954 5).
AUTH: Param[str] = Param("AUTH", _decode_mailbox, _encode_mailbox, extra_octets=500, passed_on="if offered")


#: The mechanisms that are offered unless others are named: all that take a password, without those of SHA-1. Few
#: applications have two secrets for a user, and a mechanism would fail for a user without the secret for it.
DEFAULT_MECHANISMS: Final = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5")


def _mechanisms(mechanisms: Iterable[str | Mechanism]) -> tuple[str | Mechanism, ...]:
    if mechanisms is DEFAULT_MECHANISMS:
        return DEFAULT_MECHANISMS
    from ..sasl import Mechanism

    return check_items(mechanisms, "mechanisms", str, Mechanism)


def _users(users: Iterable[str]) -> tuple[str, ...]:
    return check_items(users, "trusted", str)


def find_mechanisms(mechanisms: Iterable[str | Mechanism]) -> list[Mechanism]:
    """Return the mechanisms, those that are given by name from `MECHANISMS`. Unknown names are left out."""
    from ..sasl import MECHANISMS

    found = (MECHANISMS.get(each) if isinstance(each, str) else each for each in mechanisms)
    return [mechanism for mechanism in found if mechanism is not None]


@frozen(eq=False, repr=False)
class Auth(Extension, Value):
    """Authentication (RFC 4954).

    ``required`` refuses the commands of a transaction with 530 until the client has authenticated. ``cleartext`` offers
    without TLS even the mechanisms that send the password or token itself.

    ``mechanisms`` are those that may be offered, best first: names, or instances of `Mechanism` from another package. The
    default is SCRAM-SHA-256-PLUS, SCRAM-SHA-256, PLAIN, LOGIN and CRAM-MD5. PLAIN, LOGIN, OAUTHBEARER, XOAUTH2, EXTERNAL
    and ANONYMOUS are offered when the server has a `Hooks.auth` hook, SCRAM and CRAM-MD5 when it has a `Hooks.secret`
    hook. The forms of SCRAM with channel binding (-PLUS) are offered under TLS if the server knows its own certificate,
    which it does with `TlsFiles`, and EXTERNAL to a client with a certificate.

    ``trusted`` are the users, usually other servers, who may state the submitter of a message by the parameter ``AUTH=``
    of MAIL. From others it is accepted too, but its value becomes "<>" (RFC 4954 5).
    """

    required: bool = field(default=False, validator=argument(check_type, bool))
    cleartext: bool = field(default=False, validator=argument(check_type, bool))
    mechanisms: tuple[str | Mechanism, ...] = field(default=DEFAULT_MECHANISMS, converter=_mechanisms)
    trusted: tuple[str, ...] = field(default=(), converter=_users)

    keyword = "AUTH"
    rfc = 4954
    params: ClassVar[CommandParams] = {Mail: (AUTH,)}
    verbs: ClassVar[Commands] = (AuthCommand,)
    checks: ClassVar[Sequence[type[Command] | Param[Any]]] = (AuthCommand, AUTH)
    table: ClassVar[Table] = Table(
        accepted={AuthCommand: {READY: READY}, AuthResponse: {EXCHANGE: READY}},
        proceed={AuthCommand: {READY: EXCHANGE}, AuthResponse: {EXCHANGE: EXCHANGE}},
        refused={AuthResponse: {EXCHANGE: READY}},
    )
    continuations: ClassVar[Mapping[enum.Enum, type[Command]]] = {EXCHANGE: AuthResponse}
    line_limits: ClassVar[Mapping[str, int]] = {"AUTH": MAX_LINE}

    # What is offered, and the refusals of AUTH, follow from one list, `usable`, for the session as it is and for the
    # same session under TLS. The reply codes are those of RFC 4954 4 and 6:
    #
    # * no mechanism is usable even with TLS: the application has no hook for it, so AUTH is not implemented (502);
    # * some mechanisms are usable, but only with TLS: 538. This is checked before the argument is parsed, so that the
    #   reply does not depend on it;
    # * the client named a mechanism that needs TLS, while others do not: 538;
    # * the client named a mechanism that is not offered at all: 504.
    #
    # Whether the mechanism is known is checked in `check_command` and not in ``decode``, because it depends on the
    # session.

    def usable(self, state: SessionState, *, secure: bool) -> dict[str, Mechanism]:
        """Return the mechanisms that the server can offer, by name, with TLS (``secure``) or without."""
        if not HOOKS & state.hooks:
            return {}
        return {
            mechanism.name: mechanism
            for mechanism in find_mechanisms(self.mechanisms)
            if mechanism.hook in state.hooks
            # RFC 4954 4: mechanisms that send the password itself are offered only under TLS, unless configured
            # otherwise.
            and (secure or self.cleartext or not mechanism.cleartext)
            # What TLS would provide is not known before the handshake.
            and (not mechanism.needs or getattr(state, mechanism.needs) or (secure and not state.secure))
        }

    def exchange(
        self, command: AuthCommand, state: SessionState, context: MechanismContext
    ) -> Generator[ExchangeStep, Any, Authenticated]:
        """Return `AuthCommand.exchange` for a session: with its mechanisms, and with what is known from its TLS."""
        usable = self.usable(state, secure=state.secure)
        session = evolve(
            context,
            channel_binding=state.channel_binding,
            offered=tuple(usable),
            client_certificate=state.client_certificate,
            mechanisms=usable,
        )
        return command.exchange(session)

    def advertise(self, state: SessionState) -> str | None:
        """Return the EHLO line, or None when no mechanism can be offered."""
        names = self.usable(state, secure=state.secure)
        return f"AUTH {' '.join(names)}" if names else None

    def parse_offer(self, words: Sequence[str]) -> Auth:
        """Return an extension with the mechanisms that the server offers."""
        return Auth(self.required, self.cleartext, tuple(word.upper() for word in words), self.trusted)

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        """Refuse AUTH where it cannot succeed, and, if authentication is required, most other verbs before it."""
        if verb != "AUTH":
            required = self.required and state.user is None and verb not in ALLOWED_BEFORE_AUTH
            return AUTH_FIRST if required else None
        if not self.usable(state, secure=True):
            return NOT_CONFIGURED
        if not self.usable(state, secure=state.secure):
            return TLS_FIRST
        # RFC 4954 4: after one successful AUTH, further ones are refused with 503.
        return ALREADY_AUTHENTICATED if state.user is not None else None

    def check_command(self, command: Command, state: SessionState) -> Reply | Command | None:
        """Refuse a mechanism that is not offered: 538 if it needs TLS, else 504; replace a submitter that is not trusted."""
        if isinstance(command, Mail):
            # RFC 4954 5: a server that does not trust its client MUST behave as if it had sent "<>". The value is replaced
            # here, so that neither hooks nor stores, nor a server to which the message is passed on, take it for true.
            if state.user is not None and state.user in self.trusted:
                return None
            return evolve(command, params=command.params.replace(AUTH, "<>"))
        assert isinstance(command, AuthCommand)
        if command.mechanism in self.usable(state, secure=state.secure):
            return None
        return TLS_FIRST if command.mechanism in self.usable(state, secure=True) else UNKNOWN_MECHANISM
