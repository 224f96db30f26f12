"""SCRAM-SHA-256 (RFC 5802, RFC 7677), done by scramp: nobody sends the password or need store it, and both sides prove themselves."""

from __future__ import annotations

import base64
import re

from ..errors import BadCommandError, LocalProtocolError, RemoteProtocolError
from .credentials import (
    FAILED,
    MALFORMED,
    Authenticated,
    ClientExchange,
    Failed,
    MechanismContext,
    PasswordCredentials,
    Random,
    ScramSecret,
    Secret,
    SecretWanted,
    ServerExchange,
    challenge,
    end,
    load_scramp,
    refused,
    text,
)

NAME = "SCRAM-SHA-256"
#: RFC 5802 9: a hostile server can make its client work. This many rounds take about half a second.
MOST_ITERATIONS = 1_000_000
ROUNDS = re.compile(r",i=([0-9]+)")
#: Octets of a challenge, which has to fit into one line of reply (RFC 5321 4.5.3.1.5) when it is base64.
CHALLENGE = 372


def new_nonce(token: Random) -> str:
    """Printable, without a comma, and never used before (RFC 5802 5.1)."""
    return base64.b64encode(token(18)).decode()


def scram_server(initial: bytes | None, at: MechanismContext) -> ServerExchange:
    """SCRAM-SHA-256, server. A user without a secret gets as far as one with a wrong password does (RFC 5802 9)."""
    scramp = load_scramp()
    mechanism = scramp.ScramMechanism(NAME)
    first = text((yield b"") if initial is None else initial)
    nonce = new_nonce(at.token)
    # The library wants the secret the moment that it has read the name, so it reads the message twice.
    users: list[str] = []

    def note(user: str) -> tuple[bytes, bytes, bytes, int]:
        users.append(user)
        return bytes(16), b"", b"", 4096

    try:
        mechanism.make_server(note, s_nonce=nonce).set_client_first(first)
    except scramp.ScramException:
        raise BadCommandError(MALFORMED) from None
    (user,) = users
    keys = secret_keys((yield SecretWanted(user)), user, at)
    server = mechanism.make_server(
        lambda _: (keys.salt, keys.stored_key, keys.server_key, keys.iterations), s_nonce=nonce
    )
    server.set_client_first(first)
    question: bytes = server.get_server_first().encode()
    if len(question) > CHALLENGE:  # the client's nonce is part of it
        raise BadCommandError(MALFORMED)
    final = text((yield question))
    try:
        server.set_client_final(final)
    except scramp.ScramException:
        raise Failed(FAILED, server.get_server_final().encode()) from None
    yield server.get_server_final().encode()  # the client has nothing more to say, and says so
    return Authenticated(user)


def secret_keys(secret: Secret | None, user: str, at: MechanismContext) -> ScramSecret:
    """What to test the client by. It is made up for an unknown user, and made in the same time for all of them."""
    salt = at.made_up("salt", user)[:16]
    made_up = at.made_up("password", user).hex()
    try:
        made = ScramSecret.of(secret if isinstance(secret, str) and secret else made_up, salt)
    except ValueError:  # it cannot be a SCRAM password (RFC 4013), so nobody can have the right one
        made = ScramSecret.of(made_up, salt)
    return secret if isinstance(secret, ScramSecret) else made


def scram_client(credentials: PasswordCredentials, token: Random) -> ClientExchange:
    """SCRAM-SHA-256, client. It returns only when the server has proved that it knows the user's secret, too (RFC 5802 3)."""
    scramp = load_scramp()
    try:
        client = scramp.ScramClient([NAME], credentials.user, credentials.password, c_nonce=new_nonce(token))
    except scramp.ScramException as error:
        raise LocalProtocolError(f"{NAME} cannot carry this user name or password: {error}") from None
    first = challenge((yield client.get_client_first().encode()))
    if first.startswith(b"e="):
        yield from refused(b"")
    try:
        client.set_server_first(server_first(first))
        final = challenge((yield client.get_client_final().encode()))
        if final.startswith(b"e="):
            yield from refused(b"")
        client.set_server_final(final.decode())
    except (scramp.ScramException, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"the server failed to prove itself: {error}") from None
    end((yield b""))


def server_first(message: bytes) -> str:
    """The server's first message, if it does not ask for too much work. Raises RemoteProtocolError."""
    decoded = message.decode()
    rounds = ROUNDS.search(decoded)
    if rounds is not None and int(rounds[1][:12]) > MOST_ITERATIONS:
        raise RemoteProtocolError(f"the server asks for more than {MOST_ITERATIONS} iterations")
    return decoded
