"""SCRAM-SHA-256 (RFC 5802, RFC 7677): each side proves that it knows the user's secret; the password is not sent."""

from __future__ import annotations

import base64
import re
from collections.abc import Generator

from ..errors import BadCommandError, LocalProtocolError, RemoteProtocolError
from .credentials import (
    MIN_ITERATIONS,
    Authenticated,
    Computation,
    PasswordCredentials,
    ScramSecret,
    Secret,
    SecretRequest,
    load_scramp,
)
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
    decode_text,
    expect_challenge,
    expect_success,
)

# The four messages, and what each side verifies (RFC 5802 3 and 5):
#
# 1. client-first: the user name and a nonce of the client.
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
# An unknown user must look like a user with a wrong password: the same steps and replies, a salt that does not change
# from one try to the next, and the same amount of work. `server_keys` sees to that (RFC 5802 9).
#
# The keys are derived from the password by thousands of iterations, on both sides, and on the client's side their number
# is the server's choice. So each derivation is a `Computation`, which the caller does not do in its event loop.
#
# Channel binding (SCRAM-SHA-256-PLUS) is not supported: TLS is not visible to the core. The arithmetic is done by
# scramp.

NAME = "SCRAM-SHA-256"
#: The largest iteration count that the client accepts (RFC 5802 9). It takes about half a second.
MAX_ITERATIONS = 1_000_000
ITERATION_COUNT = re.compile(r",i=([0-9]+)")
#: The most octets in a challenge: in base64 they fit into one reply line of 512 octets (RFC 5321 4.5.3.1.5).
MAX_CHALLENGE = 372


def make_nonce(random_bytes: RandomBytes) -> str:
    """Return a nonce: printable ASCII without a comma (RFC 5802 5.1)."""
    return base64.b64encode(random_bytes(18)).decode()


def scram_server(initial: bytes | None, context: MechanismContext) -> ServerExchange:
    """Run SCRAM-SHA-256 as a server."""
    scramp = load_scramp()
    mechanism = scramp.ScramMechanism(NAME)
    client_first = decode_text((yield b"") if initial is None else initial)
    nonce = make_nonce(context.random_bytes)
    # scramp asks for the keys, by a callback, while it parses the first message. They come from a hook, which only the
    # caller of this generator can await. So the message is parsed twice: once to learn the user name, and once with the
    # keys.
    users: list[str] = []

    def record_user(user: str) -> tuple[bytes, bytes, bytes, int]:
        users.append(user)
        return bytes(16), b"", b"", MIN_ITERATIONS

    try:
        mechanism.make_server(record_user, s_nonce=nonce).set_client_first(client_first)
    except scramp.ScramException:
        raise BadCommandError(MALFORMED_CREDENTIALS) from None
    (user,) = users
    keys = yield from server_keys((yield SecretRequest(user)), user, context)
    server = mechanism.make_server(
        lambda _: (keys.salt, keys.stored_key, keys.server_key, keys.iterations), s_nonce=nonce
    )
    server.set_client_first(client_first)
    server_first: bytes = server.get_server_first().encode()
    if len(server_first) > MAX_CHALLENGE:  # it contains the client's nonce, whose length the client chose
        raise BadCommandError(MALFORMED_CREDENTIALS)
    client_final = decode_text((yield server_first))
    try:
        server.set_client_final(client_final)
    except scramp.ScramException:
        raise AuthenticationFailedError(INVALID_CREDENTIALS, server.get_server_final().encode()) from None
    # The response to this challenge is empty, or not: the client has proved its identity already.
    yield server.get_server_final().encode()
    return Authenticated(user)


def server_keys(
    secret: Secret | None, user: str, context: MechanismContext
) -> Generator[Computation, ScramSecret, ScramSecret]:
    """Return the keys to check a client with: those stored, those derived from a stored password, or placeholders."""
    salt = context.placeholder("salt", user)[:16]
    placeholder = context.placeholder("password", user).hex()

    def derive() -> ScramSecret:
        try:
            return ScramSecret.from_password(secret if isinstance(secret, str) and secret else placeholder, salt)
        except ValueError:
            # The stored password is not allowed by SASLprep (RFC 4013), so no client can prove that it has it.
            return ScramSecret.from_password(placeholder, salt)

    # One derivation in every case, even where its result is not used, so that the time does not depend on what is
    # stored.
    derived = yield Computation(derive)
    return secret if isinstance(secret, ScramSecret) else derived


def scram_client(credentials: PasswordCredentials, random_bytes: RandomBytes) -> ClientExchange:
    """Run SCRAM-SHA-256 as a client. It returns only after the server has proved its identity (RFC 5802 3)."""
    scramp = load_scramp()
    try:
        nonce = make_nonce(random_bytes)
        client = scramp.ScramClient([NAME], credentials.user, credentials.password, c_nonce=nonce)
    except scramp.ScramException as error:
        raise LocalProtocolError(f"{NAME} cannot carry this user name or password: {error}") from None
    first = expect_challenge((yield client.get_client_first().encode()))
    if first.startswith(b"e="):
        yield from acknowledge_failure(b"")
    try:
        client.set_server_first(check_server_first(first))
        proof: str = yield Computation(client.get_client_final)
        final = expect_challenge((yield proof.encode()))
        if final.startswith(b"e="):
            yield from acknowledge_failure(b"")
        client.set_server_final(final.decode())
    except (scramp.ScramException, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"the server did not prove its identity: {error}") from None
    expect_success((yield b""))


def check_server_first(message: bytes) -> str:
    """Return the decoded server-first message. Raises RemoteProtocolError when its iteration count is too large."""
    text = message.decode()
    count = ITERATION_COUNT.search(text)
    # Only the first 12 digits are converted: int() of thousands of digits raises ValueError of its own.
    if count is not None and int(count[1][:12]) > MAX_ITERATIONS:
        raise RemoteProtocolError(f"the server requires more than {MAX_ITERATIONS} iterations")
    return text


SCRAM_SHA_256 = Mechanism(
    NAME, scram_client, scram_server, PasswordCredentials, "secret", cleartext=False, library="scramp"
)
