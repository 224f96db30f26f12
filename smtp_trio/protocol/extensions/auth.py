"""AUTH, RFC 4954: the client says who it is and proves it. PLAIN is RFC 4616; LOGIN was never standardized.

A mechanism is a generator for each role, which knows no base64 and no SMTP: the server's yields challenges and is sent the
responses, and returns `Credentials`; the client's is the mirror. `Auth.talk` puts them on the wire.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import ClassVar, Self

from attrs import field, frozen

from .. import syntax
from ..commands import Command, Grammar, Mail, Param
from ..dialogue import READY, PhaseEnum, Table
from ..errors import BadCommand
from ..extension import CommandParams, Commands, Extension, Facts
from ..replies import Reply

LINE = 12288  # RFC 4954 4: octets that a server must take in one line of an exchange


class AuthPhase(PhaseEnum):
    """The phase that AUTH brings along."""

    EXCHANGE = "authentication exchange under way"


EXCHANGE = AuthPhase.EXCHANGE

AUTHENTICATED = Reply(235, "Authentication successful", "2.7.0")
AUTH_FIRST = Reply(530, "Authentication required", "5.7.0")
TLS_FIRST = Reply(538, "Encryption required for requested authentication mechanism", "5.7.11")
FAILED = Reply(535, "Authentication credentials invalid", "5.7.8")
TRY_LATER = Reply(454, "Temporary authentication failure", "4.7.0")
CANCELLED = Reply(501, "Authentication cancelled", "5.7.0")
NOT_BASE64 = Reply(501, "Not base64", "5.5.2")
MALFORMED = Reply(501, "Malformed credentials", "5.5.2")
# It does not say which: what stands in the mechanism's place may be a password that was meant for the next line.
UNKNOWN_MECHANISM = Reply(504, "Mechanism not available", "5.5.4")
NOT_CONFIGURED = Reply(502, "AUTH is not configured here", "5.5.1")
TWICE = Reply(503, "Already authenticated", "5.5.1")

# RFC 4954 6: a server that requires authentication answers the rest with 530; RFC 3207 adds STARTTLS, RFC 5321 HELP.
ALWAYS = frozenset({"AUTH", "EHLO", "HELO", "NOOP", "RSET", "QUIT", "STARTTLS", "HELP"})


@frozen
class Credentials:
    """What a client claims, and its proof. ``authzid`` is whom it wants to act as, "" when it does not say (RFC 4616 2)."""

    mechanism: str
    user: str
    password: str = field(repr=False)
    authzid: str = ""


#: A server's half of a mechanism: yields challenges, is sent responses (None first, or the initial response), returns the claim.
ServerExchange = Generator[bytes, bytes, Credentials]


def plain_server(initial: bytes | None) -> ServerExchange:
    """PLAIN, server: ``[authzid] NUL authcid NUL password`` in UTF-8 (RFC 4616 2)."""
    message = (yield b"") if initial is None else initial
    parts = message.split(b"\0")
    if len(parts) != 3:
        raise BadCommand(MALFORMED)
    return claim("PLAIN", name(parts[1]), text(parts[2]), name(parts[0]))


def plain_client(user: str, password: str, authzid: str = "") -> Generator[bytes, bytes, None]:
    """PLAIN, client: everything in the first response."""
    yield f"{authzid}\0{user}\0{password}".encode()


def login_server(initial: bytes | None) -> ServerExchange:
    """LOGIN, server: asks for the user name, then for the password. An initial response is the user name, by convention."""
    user = name((yield b"Username:") if initial is None else initial)
    return claim("LOGIN", user, text((yield b"Password:")))


def login_client(user: str, password: str, authzid: str = "") -> Generator[bytes, bytes, None]:
    """LOGIN, client: the answers to two questions, whatever they say."""
    yield user.encode()
    yield password.encode()


def text(octets: bytes) -> str:
    """Passwords are UTF-8 without NUL, or no credentials at all (RFC 4616 2)."""
    try:
        decoded = octets.decode()
    except UnicodeDecodeError:
        raise BadCommand(MALFORMED) from None
    if "\0" in decoded:
        raise BadCommand(MALFORMED)
    return decoded


def name(octets: bytes) -> str:
    """User names are that without any control character: they are written to logs."""
    decoded = text(octets)
    if syntax.CONTROL.search(decoded):
        raise BadCommand(MALFORMED)
    return decoded


def claim(mechanism: str, user: str, password: str, authzid: str = "") -> Credentials:
    """The credentials. Neither name nor password can be empty (RFC 4616 2): some directories let everybody in with an empty one."""
    if not user or not password:
        raise BadCommand(FAILED)
    return Credentials(mechanism, user, password, authzid)


MECHANISMS: Mapping[str, Callable[[bytes | None], ServerExchange]] = {"PLAIN": plain_server, "LOGIN": login_server}


@frozen
class AuthCommand(Command):
    """AUTH mechanism [initial-response] (RFC 4954 4). ``initial`` is None when there is none, b"" for "="."""

    mechanism: str
    initial: bytes | None = field(default=None, repr=False)

    verb = "AUTH"
    usage = "AUTH mechanism [initial-response]"
    codes: ClassVar[frozenset[int]] = frozenset({235, 334, 432, 454, 502, 503, 504, 525, 534, 535, 538})
    usual: ClassVar[Reply] = AUTHENTICATED

    def encode(self) -> str:
        if self.initial is None:
            return f"AUTH {self.mechanism}"
        return f"AUTH {self.mechanism} {base64.b64encode(self.initial).decode() or '='}"

    @classmethod
    def decode(cls, argument: str, grammar: Grammar) -> Self:
        words = argument.rstrip(" \t").split(" ")
        if not words[0] or not words[0].isascii() or len(words) > 2:
            raise BadCommand(Reply(501, f"Syntax: {cls.usage}", "5.5.2" if words[0] else "5.5.4"))
        # RFC 4954 4: "=" is the empty initial response, since nothing at all means that there is none.
        initial = None if len(words) == 1 else b"" if words[1] == "=" else decode_base64(words[1])
        return cls(words[0].upper(), initial)

    def talk(self) -> Generator[Reply, str, Credentials]:
        """The server's side: yields 334 replies, is sent the client's lines, returns the claim. Raises `BadCommand`."""
        exchange = MECHANISMS[self.mechanism](self.initial)
        try:
            challenge = next(exchange)
            while True:
                line = yield Reply(334, base64.b64encode(challenge).decode())
                if line == "*":  # RFC 4954 4: the client gives up, which MUST be answered with 501
                    raise BadCommand(CANCELLED)
                challenge = exchange.send(decode_base64(line))
        except StopIteration as done:
            credentials: Credentials = done.value
            return credentials


@frozen
class AuthResponse(Command):
    """A line of the exchange: no command, but it is answered like one (RFC 4954 4)."""

    line: str = field(repr=False)

    verb = "AUTH"
    codes: ClassVar[frozenset[int]] = AuthCommand.codes
    usual: ClassVar[Reply] = AUTHENTICATED

    def encode(self) -> str:
        return self.line

    @classmethod
    def decode(cls, argument: str, grammar: Grammar) -> Self:
        return cls(argument)


def decode_base64(line: str) -> bytes:
    """Base64 without anything that is not base64. Raises `BadCommand` (501: RFC 4954 4)."""
    try:
        return base64.b64decode(line.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadCommand(NOT_BASE64) from None


def _mailbox(value: str | None) -> str | None:
    # RFC 4954 5: AUTH=<mailbox in xtext> or AUTH=<>; whoever does not trust the client reads it as the latter.
    mailbox = None if value is None else syntax.decode_xtext(value)
    return None if mailbox is None or syntax.CONTROL.search(mailbox) else mailbox


#: MAIL FROM:<…> AUTH=mailbox: who submitted the message first (RFC 4954 5).
AUTH: Param[str] = Param(
    "AUTH", lambda value: "<>" if value == "<>" else _mailbox(value), lambda v: v if v == "<>" else syntax.encode_xtext(v),
    room=500,
)  # fmt: skip


@frozen
class Auth(Extension):
    """Authentication (RFC 4954). ``required``: nothing of a transaction before it. ``cleartext``: allow it without TLS."""

    required: bool = False
    cleartext: bool = False
    mechanisms: tuple[str, ...] = tuple(MECHANISMS)

    keyword = "AUTH"
    params: ClassVar[CommandParams] = {Mail: (AUTH,)}
    verbs: ClassVar[Commands] = (AuthCommand,)
    reviews: ClassVar[Commands] = (AuthCommand,)
    table: ClassVar[Table] = Table(
        accepted={AuthCommand: {READY: READY}, AuthResponse: {EXCHANGE: READY}},
        proceed={AuthCommand: {READY: EXCHANGE}, AuthResponse: {EXCHANGE: EXCHANGE}},
        refused={AuthResponse: {EXCHANGE: READY}},
    )
    raw: ClassVar[Mapping[enum.Enum, type[Command]]] = {EXCHANGE: AuthResponse}
    lines: ClassVar[Mapping[str, int]] = {"AUTH": LINE}

    def advertise(self, facts: Facts) -> str | None:
        # RFC 4954 4: passwords in clear text are offered under TLS alone, unless somebody insists.
        if not facts.logins or not (facts.secure or self.cleartext):
            return None
        return f"AUTH {' '.join(self.mechanisms)}"

    def understand(self, words: Sequence[str]) -> Auth:
        return Auth(self.required, self.cleartext, tuple(word.upper() for word in words))

    def gate(self, verb: str, facts: Facts) -> Reply | None:
        if verb != "AUTH":
            return AUTH_FIRST if self.required and facts.user is None and verb not in ALWAYS else None
        if not facts.logins:
            return NOT_CONFIGURED
        if not (facts.secure or self.cleartext):
            return TLS_FIRST
        return TWICE if facts.user is not None else None  # RFC 4954 4: only one AUTH in a session

    def review(self, command: Command, facts: Facts) -> Reply | None:
        if isinstance(command, AuthCommand) and command.mechanism not in self.mechanisms:
            return UNKNOWN_MECHANISM
        return None
