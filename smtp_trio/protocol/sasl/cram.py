"""CRAM-MD5 (RFC 2195): the password stays at home, but the server must know it. Better than nothing where there is no TLS."""

from __future__ import annotations

import hmac

from ..errors import BadCommandError
from .credentials import (
    FAILED,
    MALFORMED,
    NO_INITIAL_RESPONSE,
    Authenticated,
    ClientExchange,
    MechanismContext,
    PasswordCredentials,
    Random,
    SecretWanted,
    ServerExchange,
    challenge,
    end,
    name,
)


def cram_server(initial: bytes | None, at: MechanismContext) -> ServerExchange:
    """CRAM-MD5, server: a challenge that was never used before, answered with ``user SP digest`` (RFC 2195 2)."""
    if initial is not None:  # RFC 4954 4
        raise BadCommandError(NO_INITIAL_RESPONSE)
    question = f"<{at.token(16).hex()}@{at.name}>".encode()
    response: bytes = yield question
    claimed, _, proof = response.rpartition(b" ")
    user = name(claimed)
    if not user:
        raise BadCommandError(MALFORMED)
    secret = yield SecretWanted(user)
    # An unknown user's proof is tested by a password that nobody knows. So is that of a user whose password itself is not stored.
    password = secret if isinstance(secret, str) and secret else at.made_up("password", user).hex()
    if not hmac.compare_digest(digest(password, question), proof):
        raise BadCommandError(FAILED)
    return Authenticated(user)


def cram_client(credentials: PasswordCredentials, token: Random) -> ClientExchange:
    """CRAM-MD5, client: the answer to the one question."""
    question = challenge((yield None))
    end((yield credentials.user.encode() + b" " + digest(credentials.password, question)))


def digest(password: str, question: bytes) -> bytes:
    """The proof: HMAC-MD5 of the challenge, keyed by the password, in lower-case hex (RFC 2195 2)."""
    return hmac.new(password.encode(), question, "md5").hexdigest().encode()
