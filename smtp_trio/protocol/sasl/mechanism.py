"""SASL mechanisms (RFC 4422): their type, the choice among them, and the functions that they share."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from typing import Any, ClassVar, Literal

from attrs import Factory, field, frozen

from .. import syntax
from ..errors import BadCommandError, LocalProtocolError, RemoteProtocolError
from ..replies import INVALID_CREDENTIALS as INVALID_CREDENTIALS, Reply
from ..values import Value
from .credentials import (
    Authenticated,
    ClientCredentials,
    Computation,
    Credentials,
    PasswordCredentials,
    SecretRequest,
)
from .saslprep import MAX_NAME

# A mechanism is a class with two generators, one for each role. They exchange octets only: base64, AUTH commands and 334
# replies belong to `smtp_trio.protocol.extensions.auth`, so a mechanism reads like the message sequence of its RFC.
#
# The server's generator is called with the initial response (None when the client sent none) and a `MechanismContext`.
# It yields
#
# * octets: a challenge. It is sent the client's response.
# * `Credentials`: to be checked by the application. It is sent a `Reply`, or None when they are valid.
# * `SecretRequest`: for the secret that is stored for a user. It is sent a `Secret`, or None for an unknown user.
# * `Computation`: slow work, which the caller does. It is sent the result.
#
# It returns `Authenticated`, or raises `BadCommandError` with the reply that ends the exchange.
#
# The client's generator is called with the user's credentials and a `MechanismContext`. The first ``send(None)``
# yields the initial response, or None when the mechanism has none. After that it is sent each challenge and yields the
# response, before which it may yield a `Computation` too. When the server has accepted (235) it is sent None once more
# and must return. A mechanism in which the server proves its identity (SCRAM) raises RemoteProtocolError there if the
# proof is missing, so a premature 235 does not count as success.
#
# Why generators? The application's answers come from async hooks, and the core does not await. A generator can be
# suspended at each of its questions, by any caller: the server's task awaits the hook in between, and a test sends the
# answer at once. Callbacks would have to be async, and a class per mechanism would have to store where it is.

MALFORMED_CREDENTIALS = Reply(501, "Malformed credentials", "5.5.2")
NAME_TOO_LONG = Reply(501, "User name too long", "5.5.2")
NO_INITIAL_RESPONSE = Reply(501, "This mechanism has no initial response", "5.7.0")

#: A function that returns the given number of random octets.
RandomBytes = Callable[[int], bytes]

#: The server's side of a mechanism: what it yields, is sent and returns.
ServerExchange = Generator[bytes | Credentials | SecretRequest | Computation, Any, Authenticated]

#: The client's side of a mechanism. Raises RemoteProtocolError for a challenge or a success that is out of order.
ClientExchange = Generator[bytes | Computation | None, Any, None]


@frozen(eq=False, repr=False)
class MechanismContext(Value):
    """The values that mechanisms use besides the messages: the server's name, random octets, and a secret key.

    The key is made once for each server. `placeholder` derives from it what is used in place of an unknown user's
    secret.

    The other members describe the session. ``channel_binding`` is the binding of its TLS session to the server's
    certificate (RFC 5929 4), or b"" without one, or if a client may not use it. ``offered`` are the names of the mechanisms
    that the server offers, as far as each side knows. ``client_certificate`` is the client's certificate in the form of
    `ssl.SSLSocket.getpeercert`, None without one. ``mechanisms`` are further mechanisms, by name, that a server looks for
    before those of this package.
    """

    name: str
    random_bytes: RandomBytes = field(repr=False)
    key: bytes = field(repr=False, default=Factory(lambda self: self.random_bytes(32), takes_self=True))
    channel_binding: bytes = field(repr=False, default=b"", kw_only=True)
    offered: Collection[str] = field(repr=False, default=(), kw_only=True)
    client_certificate: Mapping[str, Any] | None = field(repr=False, default=None, kw_only=True, hash=False)
    mechanisms: Mapping[str, Mechanism] = field(repr=False, factory=dict, kw_only=True, hash=False)

    def placeholder(self, purpose: str, user: str) -> bytes:
        """Return 32 octets in place of a value that is not stored for ``user``, such as the salt of an unknown user.

        They are the same each time, so that a client cannot tell unknown users from known ones by asking twice (RFC
        5802 5.1), and cannot be computed without the server's key.
        """
        return hmac.digest(self.key, f"{purpose}\0{user}".encode(), "sha256")


class Mechanism:
    """Base class of SASL mechanisms: the two sides, as generators, and the conditions for their use.

    A mechanism of another package is used by giving an instance to `Auth` and to the client's ``auth_mechanisms``.
    """

    #: The name, in upper case.
    name: str
    #: The type of credentials that the client's side takes.
    credentials: ClassVar[type[ClientCredentials]] = PasswordCredentials
    #: The hook that a server needs for it.
    hook: ClassVar[Literal["auth", "secret"]] = "auth"
    #: True if an eavesdropper could log in with what is sent.
    cleartext: ClassVar[bool] = True
    #: True if it can carry an authorization identity.
    supports_authzid: ClassVar[bool] = False
    #: False if the client's responses do not depend on the content of challenges.
    reads_challenges: ClassVar[bool] = True
    #: The member of `MechanismContext` without which it cannot be used, "" for none.
    needs: Literal["", "channel_binding", "client_certificate"] = ""

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run the server's side. ``initial`` is the client's initial response, None without one (RFC 4954 4)."""
        raise NotImplementedError

    def client(self, credentials: Any, context: MechanismContext) -> ClientExchange:  # noqa: ANN401  # one of its type
        """Run the client's side with its credentials."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def decode_challenge(text: str, mechanism: Mechanism) -> bytes:
    """Return the octets of a challenge, the text of a 334 reply, for the client's side of ``mechanism``.

    White space, line ends and missing padding are accepted, because some servers send them. Text that is not base64 (RFC
    4954 4) raises RemoteProtocolError if the mechanism reads its challenges, and is returned as it is otherwise.
    """
    encoded = "".join(text.split())
    try:
        return base64.b64decode((encoded + "=" * (-len(encoded) % 4)).encode(), validate=True)
    except binascii.Error as error:
        if not mechanism.reads_challenges:
            return text.encode()
        raise RemoteProtocolError(f"the challenge is not base64: {error}") from None


def usable_mechanisms(
    mechanisms: Iterable[Mechanism],
    offered: Collection[str],
    credentials: ClientCredentials,
    *,
    secure: bool,
    allow_cleartext: bool = False,
    channel_binding: bytes = b"",
) -> list[Mechanism]:
    """Return those of ``mechanisms`` that the server offers and that take ``credentials``, best first.

    ``mechanisms`` are in order of preference under TLS; without TLS, those that hide the password come first.
    ``offered`` are names of mechanisms from the reply to EHLO. ``secure`` is true when the connection uses TLS.
    ``allow_cleartext`` permits mechanisms that send the password or the token itself without TLS (RFC 4954 4 forbids
    that as a default). ``channel_binding`` is that of the connection, b"" if it has none.

    Raises LocalProtocolError when no mechanism is usable; the message lists what is offered and why each mechanism was
    excluded.
    """
    names = {name.upper() for name in offered}
    usable, reasons = [], []
    for mechanism in mechanisms:
        if not isinstance(credentials, mechanism.credentials):
            continue
        if mechanism.name not in names:
            reason = "is not offered"
        elif mechanism.needs == "channel_binding" and not channel_binding:
            reason = "needs TLS with a certificate to which it can be bound"
        elif mechanism.cleartext and not (secure or allow_cleartext):
            reason = "needs TLS or allow_cleartext=True"
        elif isinstance(credentials, PasswordCredentials) and credentials.authzid and not mechanism.supports_authzid:
            reason = "cannot carry an authzid"
        else:
            usable.append(mechanism)
            continue
        reasons.append(f"{mechanism.name} {reason}")
    if not usable:
        listed = ", ".join(sorted(names)) or "no mechanism"
        raise LocalProtocolError(f"no usable AUTH mechanism; the server offers {listed}: {'; '.join(reasons)}")
    # Under TLS the order of preference stands. Without it any mechanism that hides the password is better than one that
    # does not, even CRAM-MD5.
    return usable if secure else sorted(usable, key=lambda mechanism: mechanism.cleartext)


def choose_mechanism(
    mechanisms: Iterable[Mechanism],
    offered: Collection[str],
    credentials: ClientCredentials,
    *,
    secure: bool,
    allow_cleartext: bool = False,
    channel_binding: bytes = b"",
) -> Mechanism:
    """Return the best of `usable_mechanisms`, which has the same parameters. Raises LocalProtocolError for none."""
    return usable_mechanisms(
        mechanisms,
        offered,
        credentials,
        secure=secure,
        allow_cleartext=allow_cleartext,
        channel_binding=channel_binding,
    )[0]


class AuthenticationFailedError(BadCommandError):
    """A failed exchange that ends with one more challenge: it carries the mechanism's own error message to the client.

    SCRAM has ``e=invalid-proof`` (RFC 5802 7), OAUTHBEARER a JSON object (RFC 7628 3.2.2). The client must answer the
    challenge before it gets ``reply``.
    """

    def __init__(self, reply: Reply, challenge: bytes) -> None:
        """``reply`` is the final reply to AUTH, ``challenge`` the octets that are sent before it."""
        super().__init__(reply)
        self.challenge = challenge


# --- shared by the servers' sides -------------------------------------------------------------------------------------


def check_credentials(credentials: Credentials) -> ServerExchange:
    """Have the application check ``credentials``: the last step of PLAIN, LOGIN, OAUTHBEARER and XOAUTH2.

    Raises `BadCommandError` with the application's reply when that refuses them.
    """
    # RFC 4616 2 allows neither to be empty. An LDAP server takes a bind with an empty password as an anonymous one and
    # reports success (RFC 4513 5.1.2), so a hook that asks such a directory must never see one.
    if not credentials.user or not credentials.password:
        raise BadCommandError(INVALID_CREDENTIALS)
    return (yield from ask_application(credentials))


def ask_application(credentials: Credentials) -> ServerExchange:
    """Have the application check ``credentials``, in which a value may be empty."""
    reply: Reply | None = yield credentials
    if reply is not None and not reply.accepted:
        raise BadCommandError(reply)
    return Authenticated(credentials.user, reply)


def decode_text(octets: bytes) -> str:
    """Decode UTF-8 without NUL (RFC 4616 2), or raise `BadCommandError` (501)."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise BadCommandError(MALFORMED_CREDENTIALS) from None
    if "\0" in text:
        raise BadCommandError(MALFORMED_CREDENTIALS)
    return text


def decode_printable(octets: bytes) -> str:
    """Decode text that may be written to logs: as `decode_text`, and without control characters."""
    text = decode_text(octets)
    if syntax.CONTROL.search(text):
        raise BadCommandError(MALFORMED_CREDENTIALS)
    return text


def decode_user(octets: bytes) -> str:
    """Decode a user name: as `decode_text`, without control characters, and of at most 255 characters."""
    user = decode_printable(octets)
    check_length(user)
    return user


def check_length(user: str) -> None:
    """Raise `BadCommandError` (501) for a user name that is longer than any can be."""
    if len(user) > MAX_NAME:
        raise BadCommandError(NAME_TOO_LONG)


# --- shared by the clients' sides -------------------------------------------------------------------------------------


def expect_challenge(received: bytes | None) -> bytes:
    """Return the server's challenge. Raises RemoteProtocolError when the server has reported success instead."""
    if received is None:
        raise RemoteProtocolError("the server reported success before the exchange was complete")
    return received


def expect_success(received: bytes | None) -> None:
    """Check that the server has reported success. Raises RemoteProtocolError when it sent another challenge instead."""
    if received is not None:
        raise RemoteProtocolError("the server sent a challenge after the exchange was complete")


def acknowledge_failure(response: bytes) -> ClientExchange:
    """Answer a challenge that reports a failure. Only the server's 4yz or 5yz reply may follow.

    Raises RemoteProtocolError when the server reports success, or sends another challenge, after its own report of a
    failure.
    """
    yield response
    raise RemoteProtocolError("the server reported a failed authentication and then did not refuse it")
