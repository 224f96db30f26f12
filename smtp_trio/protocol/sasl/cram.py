"""CRAM-MD5 (RFC 2195): the client sends a keyed digest of the server's challenge instead of the password.

An eavesdropper cannot replay the digest, so it can be offered without TLS. Against that, the server must store the
password itself, and anyone who records an exchange can guess passwords offline. SCRAM has neither fault.
"""

from __future__ import annotations

import hmac
from typing import ClassVar, Literal

from ..errors import BadCommandError
from .credentials import Authenticated, PasswordCredentials, SecretRequest
from .mechanism import (
    INVALID_CREDENTIALS,
    MALFORMED_CREDENTIALS,
    NO_INITIAL_RESPONSE,
    ClientExchange,
    Mechanism,
    MechanismContext,
    ServerExchange,
    decode_user,
    expect_challenge,
    expect_success,
)


class CramMd5(Mechanism):
    """CRAM-MD5 (RFC 2195)."""

    name = "CRAM-MD5"
    hook: ClassVar[Literal["auth", "secret"]] = "secret"
    cleartext = False

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run CRAM-MD5 as a server: send a challenge that was never used before, expect ``user SP digest`` (RFC 2195 2)."""
        if (
            initial is not None
        ):  # RFC 4954 4: 501 for an initial response in a mechanism in which the server sends first
            raise BadCommandError(NO_INITIAL_RESPONSE)
        challenge = f"<{context.random_bytes(16).hex()}@{context.name}>".encode()
        response: bytes = yield challenge
        # RFC 2195 2: a user name may contain spaces, the digest does not.
        name, _, received = response.rpartition(b" ")
        user = decode_user(name)
        if not user:
            raise BadCommandError(MALFORMED_CREDENTIALS)
        secret = yield SecretRequest(user)
        # For an unknown user, and for one whose stored secret is not a password (`ScramSecret`), the digest is compared
        # with that of a random password. The time and the reply are then those of a wrong password, so they do not reveal
        # which users exist.
        password = secret if isinstance(secret, str) and secret else context.placeholder("password", user).hex()
        if not hmac.compare_digest(compute_digest(password, challenge), received):
            raise BadCommandError(INVALID_CREDENTIALS)
        return Authenticated(user)

    def client(self, credentials: PasswordCredentials, context: MechanismContext) -> ClientExchange:
        """Run CRAM-MD5 as a client: answer the one challenge."""
        challenge = expect_challenge((yield None))
        expect_success((yield credentials.user.encode() + b" " + compute_digest(credentials.password, challenge)))


def compute_digest(password: str, challenge: bytes) -> bytes:
    """Return HMAC-MD5 of ``challenge``, keyed with ``password``, in lower-case hexadecimal (RFC 2195 2)."""
    return hmac.new(password.encode(errors="surrogatepass"), challenge, "md5").hexdigest().encode()


CRAM_MD5 = CramMd5()
