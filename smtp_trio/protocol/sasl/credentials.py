"""What the mechanisms work with: what a user has, what a client claims, what a server must be asked, and the ways to fail."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Generator
from importlib import import_module
from types import ModuleType
from typing import Any

from attrs import Attribute, Factory, field, frozen

from .. import syntax
from ..errors import BadCommandError, LocalProtocolError, RemoteProtocolError
from ..replies import Reply

FAILED = Reply(535, "Authentication credentials invalid", "5.7.8")
MALFORMED = Reply(501, "Malformed credentials", "5.5.2")
NO_INITIAL_RESPONSE = Reply(501, "The server speaks first in this mechanism", "5.7.0")

#: RFC 6750 2.1, b64token.
BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
#: RFC 7677 4: fewer rounds of PBKDF2 are no SCRAM-SHA-256.
ITERATIONS = 4096

#: A source of chance: so many random octets.
Random = Callable[[int], bytes]


# --- what the user of a client has ------------------------------------------------------------------------------------


def _check_user(_: object, attribute: Attribute[str], value: str) -> None:
    _check_text(_, attribute, value)
    if not value or syntax.CONTROL.search(value):
        raise ValueError(f"{attribute.name} must not be empty, nor hold control characters")


def _check_authzid(_: object, attribute: Attribute[str], value: str) -> None:
    if value != "":
        _check_user(_, attribute, value)


def _check_password(_: object, attribute: Attribute[str], value: str) -> None:
    _check_text(_, attribute, value)
    if not value or "\0" in value:
        raise ValueError(f"{attribute.name} must not be empty, nor hold NUL")


def _check_token(_: object, attribute: Attribute[str], value: str) -> None:
    _check_text(_, attribute, value)
    if not BEARER.fullmatch(value):
        raise ValueError(f"{attribute.name} must be a bearer token: letters, digits and -._~+/ (RFC 6750 2.1)")


def _check_text(_: object, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{attribute.name} must be a str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{attribute.name} must be text that UTF-8 can hold") from None


@frozen
class PasswordCredentials:
    """A user name and a password, for a client to log in with. ``authzid`` is whom to act as, "" for the user (RFC 4616 2).

    Raises ValueError for what no mechanism could carry: an empty name or password, NUL, control characters in a name.
    """

    user: str = field(validator=_check_user)
    password: str = field(repr=False, validator=_check_password)
    authzid: str = field(default="", validator=_check_authzid)


@frozen
class BearerToken:
    """A user name and an OAuth 2.0 bearer token (RFC 6750), for a client to log in with.

    Raises ValueError for an empty name, control characters in it, or what is no bearer token.
    """

    user: str = field(validator=_check_user)
    token: str = field(repr=False, validator=_check_token)


# --- what a server asks, and is told ----------------------------------------------------------------------------------


@frozen
class Credentials:
    """What a client claims, and its proof. ``authzid`` is whom it wants to act as, "" when it does not say (RFC 4616 2).

    With the mechanisms OAUTHBEARER and XOAUTH2 ``password`` is the bearer token.
    """

    mechanism: str
    user: str
    password: str = field(repr=False)
    authzid: str = ""


@frozen
class SecretWanted:
    """Server: what is the secret of this user? To be answered with a `Secret`, or None when there is no such user."""

    user: str


@frozen
class ScramSecret:
    """What a server stores for SCRAM-SHA-256 in the place of a password, which cannot be had from it (RFC 5802 3, RFC 7677).

    `of` makes one. Raises ValueError for a salt of less than 12 or more than 64 octets, for fewer than 4096 iterations, and for
    keys that are not of 32 octets.
    """

    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        if not 12 <= len(self.salt) <= 64:
            raise ValueError(f"salt must be 12 to 64 octets, not {len(self.salt)}")
        if self.iterations < ITERATIONS:
            raise ValueError(f"iterations must be {ITERATIONS} or more (RFC 7677 4), not {self.iterations}")
        if len(self.stored_key) != 32 or len(self.server_key) != 32:
            raise ValueError("stored_key and server_key must be 32 octets each, which is what SHA-256 makes")

    @classmethod
    def of(cls, password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramSecret:
        """The secret that stands for a password. It takes a millisecond or so for 4096 iterations.

        Raises ValueError for a password that SASLprep (RFC 4013) does not allow.
        """
        scramp = load_scramp()
        try:
            salt, stored, server, i = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info(password, iterations, salt)
        except scramp.ScramException as error:
            raise ValueError(str(error)) from None
        return cls(salt, i, stored, server)


#: What may be stored for a user: the password itself, or what SCRAM needs of it.
Secret = str | ScramSecret


@frozen
class Authenticated:
    """The end of an exchange that succeeded: who it is, and what to say if not the usual (235)."""

    user: str
    reply: Reply | None = None


@frozen
class MechanismContext:
    """What a server's mechanisms know of the server: its name, its source of chance, and a key that stays the same.

    The key makes up what an unknown user's secret would be: always the same for the same name (RFC 5802 5.1, on the salt).
    """

    name: str
    token: Random = field(repr=False)
    key: bytes = field(repr=False, default=Factory(lambda self: self.token(32), takes_self=True))

    def made_up(self, what: str, user: str) -> bytes:
        """Thirty-two octets that only this server can know."""
        return hmac.digest(self.key, f"{what}\0{user}".encode(), "sha256")


#: A server's half of a mechanism. It yields challenges (octets) and is sent the responses, begins with the initial response or
#: None; it yields `Credentials` to be judged, and is sent the verdict: a `Reply`, or None for yes; it yields `SecretWanted`, and is
#: sent the secret. It returns `Authenticated`, or raises `BadCommandError`.
ServerExchange = Generator[bytes | Credentials | SecretWanted, Any, Authenticated]

#: A client's half. Sent None it yields its initial response, or None when it has none; sent a challenge it yields the response.
#: When the server has said yes it is sent None, and returns. Raises RemoteProtocolError for a yes or a challenge out of order.
ClientExchange = Generator[bytes | None, bytes | None, None]


class Failed(BadCommandError):
    """The client has failed, and is told so in a challenge of the mechanism's own before it gets the reply."""

    def __init__(self, reply: Reply, challenge: bytes) -> None:
        super().__init__(reply)
        self.challenge = challenge


# --- what the mechanisms share ----------------------------------------------------------------------------------------


def judged(credentials: Credentials) -> ServerExchange:
    """Server, the end of a mechanism whose claim somebody else must judge.

    Neither name nor password can be empty (RFC 4616 2): some directories let everybody in with an empty one.
    """
    if not credentials.user or not credentials.password:
        raise BadCommandError(FAILED)
    verdict: Reply | None = yield credentials
    if verdict is not None and not verdict.accepted:
        raise BadCommandError(verdict)
    return Authenticated(credentials.user, verdict)


def text(octets: bytes) -> str:
    """Passwords are UTF-8 without NUL, or no credentials at all (RFC 4616 2)."""
    try:
        decoded = octets.decode()
    except UnicodeDecodeError:
        raise BadCommandError(MALFORMED) from None
    if "\0" in decoded:
        raise BadCommandError(MALFORMED)
    return decoded


def name(octets: bytes) -> str:
    """User names are that without any control character: they are written to logs."""
    decoded = text(octets)
    if syntax.CONTROL.search(decoded):
        raise BadCommandError(MALFORMED)
    return decoded


def challenge(got: bytes | None) -> bytes:
    """Client: what the server asks; it cannot have said yes yet."""
    if got is None:
        raise RemoteProtocolError("the server said yes before the authentication was over")
    return got


def end(got: bytes | None) -> None:
    """Client: there is nothing left to ask."""
    if got is not None:
        raise RemoteProtocolError("the server goes on asking when the authentication is over")


def refused(response: bytes) -> Generator[bytes | None, bytes | None, None]:
    """Client: the challenge said that we have failed. It is answered, and nothing but the refusal can follow."""
    yield response
    raise RemoteProtocolError("the server said that the authentication failed, and did not refuse it")


def load_scramp() -> ModuleType:
    """The library that SCRAM is done with. Raises LocalProtocolError when it is not there."""
    try:
        return import_module("scramp")
    except ImportError:
        raise LocalProtocolError("SCRAM-SHA-256 needs scramp: install smtp-trio[scram]") from None
