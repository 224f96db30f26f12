"""SCRAM (RFC 5802, RFC 7677): each side proves that it knows the user's secret; the password is not sent."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Generator
from typing import ClassVar, Final, Literal

from ..errors import BadCommandError, LocalProtocolError, RemoteProtocolError
from .channel_binding import TLS_SERVER_END_POINT
from .credentials import Authenticated, Computation, PasswordCredentials, Secret, SecretRequest
from .mechanism import (
    INVALID_CREDENTIALS,
    MALFORMED_CREDENTIALS,
    AuthenticationFailedError,
    ClientExchange,
    Mechanism,
    MechanismContext,
    RandomBytes,
    ServerExchange,
    acknowledge_failure,
    check_length,
    decode_printable,
    expect_challenge,
    expect_success,
)
from .saslprep import MAX_NAME, MAX_PASSWORD, saslprep
from .scram_secret import MIN_ITERATIONS, ScramHash, ScramSecret, derive_keys, hash_name, salt_password

# The four messages, and what each side verifies (RFC 5802 3 and 5):
#
# 1. client-first: the channel binding flag, the user name and a nonce of the client.
# 2. server-first: both nonces, the salt and the iteration count that are stored for the user. The client checks that
#    its own nonce is repeated, so the message is not a replay, and that the iteration count is neither too small (RFC
#    7677 4: at least 4096) nor so large that the server uses it to keep the client busy (RFC 5802 9).
# 3. client-final: a proof, computed from the password and the first two messages. The server checks it against the
#    StoredKey. The StoredKey alone is not enough to compute a proof, so a stolen database does not let a thief log in.
# 4. server-final: the server's signature, computed from the ServerKey, or ``e=`` and an error. The client checks the
#    signature. Without it the peer may be anything that accepts every password, so a 235 reply that comes before this
#    step, or after a wrong signature, is not taken as success.
#
# SMTP carries message 4 in a 334 reply, which the client answers with an empty response; the 235 follows (RFC 4954 4
# has no additional data with success).
#
# Channel binding: with a mechanism whose name ends in -PLUS, message 3 repeats the flag and the binding of the TLS
# session, and the proof covers both (`channel_binding`). An attacker between client and server could remove those
# mechanisms from the reply to EHLO. So a client that could have used one but did not see it sends the flag "y", and a
# server that has offered one refuses it. "n" is sent where the client itself cannot, or may not, bind (RFC 5802 6).
#
# The two sides look at different names. The client sends "y" unless it saw the -PLUS form of the mechanism that it uses:
# an attacker could also replace the name by one that ends in -PLUS and that the client does not know, and "n" would then
# hide this. The server refuses "y" if it has offered SCRAM with channel binding in any form, since a client that knows
# another hash function would have seen that. The -PLUS forms of mechanisms that are not SCRAM count on neither side.
#
# An unknown user must look like a user with a wrong password: the same steps and replies, a salt that does not change
# from one try to the next, and the same amount of work. `server_keys` sees to that (RFC 5802 9).
#
# The keys are derived from the password by thousands of iterations, on both sides, and on the client's side their number
# is the server's choice. So each derivation is a `Computation`, which the caller does not do in its event loop.

#: The largest iteration count that the client accepts (RFC 5802 9). It takes about half a second.
MAX_ITERATIONS: Final = 1_000_000
#: The most octets in a challenge: in base64 they fit into one reply line of 512 octets (RFC 5321 4.5.3.1.5).
MAX_CHALLENGE: Final = 372

# The messages (RFC 5802 7). A message with the reserved attribute "m" at its beginning must be refused, and other
# attributes that are not known, at the end, are ignored.
CLIENT_FIRST: Final = re.compile(
    r"((?:n|y|p=([A-Za-z0-9.-]+)),(?:a=((?:[^,=]|=2C|=3D)+))?,)(n=((?:[^,=]|=2C|=3D)+),r=([!-+\--~]+)(?:,.*)?)"
)
SERVER_FIRST: Final = re.compile(r"r=([!-+\--~]+),s=([A-Za-z0-9+/]+=*),i=([1-9][0-9]*)(?:,.*)?")
CLIENT_FINAL: Final = re.compile(r"(c=([A-Za-z0-9+/]+=*),r=([!-+\--~]+)(?:,.*)?),p=([A-Za-z0-9+/]+=*)")
SERVER_FINAL: Final = re.compile(r"v=([A-Za-z0-9+/]+=*)(?:,.*)?")


def make_nonce(random_bytes: RandomBytes) -> str:
    """Return a nonce: printable ASCII without a comma (RFC 5802 5.1)."""
    return _encode(random_bytes(18))


def _encode(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def decode_name(text: str) -> str:
    """Return a name as SASLprep has it (RFC 5802 5.1). Raises `BadCommandError` (501) if it is too long or forbidden."""
    name = text.replace("=2C", ",").replace("=3D", "=")
    check_length(name)
    try:
        return saslprep(name, MAX_NAME)
    except ValueError:
        raise BadCommandError(MALFORMED_CREDENTIALS) from None


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


class Scram(Mechanism):
    """SCRAM with a hash function, with channel binding (``plus``) or without."""

    hook: ClassVar[Literal["auth", "secret"]] = "secret"
    cleartext = False

    def __init__(self, hash: ScramHash, *, plus: bool) -> None:
        """Choose the hash function, "SHA-256" or "SHA-1", and whether the proofs cover the channel binding."""
        self.name = f"SCRAM-{hash}-PLUS" if plus else f"SCRAM-{hash}"
        self.needs: Literal["", "channel_binding", "client_certificate"] = "channel_binding" if plus else ""
        self._hash = hash
        self._plus = plus

    # --- the server -------------------------------------------------------------------------------------------------

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run SCRAM as a server."""
        first = CLIENT_FIRST.fullmatch(decode_printable((yield b"") if initial is None else initial))
        if first is None:
            raise BadCommandError(MALFORMED_CREDENTIALS)
        header, binding_type, authzid, client_first, name, client_nonce = first.groups()
        self._check_binding(header[0], binding_type, context)
        user = decode_name(name)
        if authzid is not None and decode_name(authzid) != user:
            # With SCRAM no hook gets `Credentials`, so none can allow a client to act as another user.
            raise AuthenticationFailedError(INVALID_CREDENTIALS, b"e=other-error")
        secret = yield from server_keys((yield SecretRequest(user)), user, self._hash, context)
        nonce = client_nonce + make_nonce(context.random_bytes)
        server_first = f"r={nonce},s={_encode(secret.salt)},i={secret.iterations}"
        if len(server_first) > MAX_CHALLENGE:  # it contains the client's nonce, whose length the client chose
            raise BadCommandError(MALFORMED_CREDENTIALS)
        response: bytes = yield server_first.encode()
        final = CLIENT_FINAL.fullmatch(response.decode("ascii", "replace"))
        if final is None:
            raise AuthenticationFailedError(INVALID_CREDENTIALS, b"e=invalid-encoding")
        without_proof, bound, repeated, proof = final.groups()
        if _decode(bound) != header.encode() + (context.channel_binding if self._plus else b""):
            raise AuthenticationFailedError(INVALID_CREDENTIALS, b"e=channel-bindings-dont-match")
        message = f"{client_first},{server_first},{without_proof}".encode()
        if repeated != nonce or not self._proves(_decode(proof), secret, message):
            raise AuthenticationFailedError(INVALID_CREDENTIALS, b"e=invalid-proof")
        # The response to this challenge is empty, or not: the client has proved its identity already.
        yield b"v=" + base64.b64encode(hmac.digest(secret.server_key, message, hash_name(self._hash)))
        return Authenticated(user)

    def _check_binding(self, flag: str, binding_type: str | None, context: MechanismContext) -> None:
        """Check the client's channel binding flag (RFC 5802 6)."""
        if flag == "y" and any(name.startswith("SCRAM-") and name.endswith("-PLUS") for name in context.offered):
            raise AuthenticationFailedError(INVALID_CREDENTIALS, b"e=server-does-support-channel-binding")
        if (flag == "p") != self._plus:
            raise BadCommandError(MALFORMED_CREDENTIALS)
        if self._plus and binding_type != TLS_SERVER_END_POINT:
            raise AuthenticationFailedError(INVALID_CREDENTIALS, b"e=unsupported-channel-binding-type")

    def _proves(self, proof: bytes | None, secret: ScramSecret, message: bytes) -> bool:
        """Return whether a ClientProof is one for ``secret`` (RFC 5802 3)."""
        signature = hmac.digest(secret.stored_key, message, hash_name(self._hash))
        if proof is None or len(proof) != len(signature):
            return False
        client_key = _xor(proof, signature)
        return hmac.compare_digest(hashlib.new(hash_name(self._hash), client_key).digest(), secret.stored_key)

    # --- the client -------------------------------------------------------------------------------------------------

    def client(self, credentials: PasswordCredentials, context: MechanismContext) -> ClientExchange:
        """Run SCRAM as a client. It returns only after the server has proved its identity (RFC 5802 3)."""
        user, password = self._prepare(credentials)
        flag = "n"
        if self._plus:
            flag = f"p={TLS_SERVER_END_POINT}"
        elif context.channel_binding and f"{self.name}-PLUS" not in context.offered:
            flag = "y"
        nonce = make_nonce(context.random_bytes)
        header = f"{flag},,"
        client_first = f"n={user},r={nonce}"
        challenge = expect_challenge((yield f"{header}{client_first}".encode()))
        if challenge.startswith(b"e="):
            yield from acknowledge_failure(b"")
        server_first = challenge.decode("ascii", "replace")
        both, salt, iterations = check_server_first(server_first, nonce)
        salted: bytes = yield Computation(lambda: salt_password(password, salt, iterations, self._hash))
        # Not a `ScramSecret`, which has a salt of at least 12 octets: the server's may have any length.
        client_key, stored_key, server_key = derive_keys(salted, self._hash)
        bound = _encode(header.encode() + (context.channel_binding if self._plus else b""))
        message = f"{client_first},{server_first},c={bound},r={both}".encode()
        name = hash_name(self._hash)
        proof = _xor(client_key, hmac.digest(stored_key, message, name))
        challenge = expect_challenge((yield f"c={bound},r={both},p={_encode(proof)}".encode()))
        if challenge.startswith(b"e="):
            yield from acknowledge_failure(b"")
        final = SERVER_FINAL.fullmatch(challenge.decode("ascii", "replace"))
        verifier = None if final is None else _decode(final[1])
        if verifier is None or not hmac.compare_digest(verifier, hmac.digest(server_key, message, name)):
            raise RemoteProtocolError("the server did not prove its identity: its signature is wrong or missing")
        expect_success((yield b""))

    def _prepare(self, credentials: PasswordCredentials) -> tuple[str, memoryview]:
        """Return the user name as it is sent, and the prepared password. Raises LocalProtocolError if they cannot be."""
        what = "user name"
        try:
            user = saslprep(credentials.user, MAX_NAME).replace("=", "=3D").replace(",", "=2C")
            what = "password"
            return user, memoryview(saslprep(credentials.password, MAX_PASSWORD).encode())
        except ValueError as error:
            problem = str(error)  # the frames of the error have the password
        raise LocalProtocolError(f"{self.name} cannot carry this {what}: it {problem}")


def server_keys(
    secret: Secret | None, user: str, hash: ScramHash, context: MechanismContext
) -> Generator[Computation, ScramSecret, ScramSecret]:
    """Return the keys to check a client with: those stored, those derived from a stored password, or placeholders."""
    salt = context.placeholder("salt", user)[:16]
    placeholder = context.placeholder("password", user).hex()

    def derive() -> ScramSecret:
        try:
            password = secret if isinstance(secret, str) and secret else placeholder
            return ScramSecret.from_password(password, salt, hash=hash)
        except ValueError:
            # The stored password is not allowed by SASLprep (RFC 4013), so no client can prove that it has it.
            return ScramSecret.from_password(placeholder, salt, hash=hash)

    # One derivation in every case, even where its result is not used, so that the time does not depend on what is
    # stored.
    derived = yield Computation(derive)
    return secret if isinstance(secret, ScramSecret) and secret.hash == hash else derived


def check_server_first(message: str, nonce: str) -> tuple[str, bytes, int]:
    """Return both nonces, the salt and the iteration count. Raises RemoteProtocolError for a message without proof."""
    match = SERVER_FIRST.fullmatch(message)
    salt = None if match is None else _decode(match[2])
    if match is None or salt is None:
        raise RemoteProtocolError("the server did not prove its identity: its first message is malformed")
    if not match[1].startswith(nonce) or match[1] == nonce:
        raise RemoteProtocolError("the server did not prove its identity: the nonce is not the client's with its own")
    # Only the first 12 digits are converted: int() of thousands of digits raises ValueError of its own.
    iterations = int(match[3][:12])
    if iterations > MAX_ITERATIONS:
        raise RemoteProtocolError(f"the server requires more than {MAX_ITERATIONS} iterations")
    if iterations < MIN_ITERATIONS:
        raise RemoteProtocolError(
            f"the server did not prove its identity: it wants less than {MIN_ITERATIONS} iterations"
        )
    return match[1], salt, iterations


SCRAM_SHA_256_PLUS = Scram("SHA-256", plus=True)
SCRAM_SHA_1_PLUS = Scram("SHA-1", plus=True)
SCRAM_SHA_256 = Scram("SHA-256", plus=False)
SCRAM_SHA_1 = Scram("SHA-1", plus=False)
