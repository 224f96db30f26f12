"""A SASL mechanism of your own, for both sides.

    python examples/sasl_mechanism.py

X-DIGEST is CRAM-MD5 with SHA-256 and a proof of the server. It is only an example:
SCRAM does more.
"""

from __future__ import annotations

import hmac
from functools import partial

import trio

from smtp_trio import Hooks, PasswordCredentials, Server, Session, connect, standard
from smtp_trio.protocol import BadCommandError, RemoteProtocolError
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.sasl import (
    INVALID_CREDENTIALS,
    Authenticated,
    ClientExchange,
    Mechanism,
    MechanismContext as Context,
    SecretRequest,
    ServerExchange,
    decode_user,
    expect_challenge,
    expect_success,
)

Login = PasswordCredentials


class Digest(Mechanism):
    name = "X-DIGEST"
    hook = "secret"
    cleartext = False

    def server(self, initial: bytes | None, context: Context) -> ServerExchange:
        user = decode_user((yield b"") if initial is None else initial)
        secret = yield SecretRequest(user)
        if not isinstance(secret, str):  # so that an unknown user takes as long
            secret = context.placeholder("password", user).hex()
        challenge = context.random_bytes(16)
        proof = yield challenge
        if not hmac.compare_digest(proof, digest(secret, b"client" + challenge)):
            raise BadCommandError(INVALID_CREDENTIALS)
        yield digest(secret, b"server" + challenge)
        return Authenticated(user)

    def client(self, credentials: Login, context: Context) -> ClientExchange:
        challenge = expect_challenge((yield credentials.user.encode()))
        answer = digest(credentials.password, b"client" + challenge)
        proof = expect_challenge((yield answer))
        expected = digest(credentials.password, b"server" + challenge)
        if not hmac.compare_digest(proof, expected):
            raise RemoteProtocolError("the server does not know the password")
        expect_success((yield b""))


def digest(password: str, message: bytes) -> bytes:
    return hmac.digest(password.encode(), message, "sha256")


class Users(Hooks):
    async def secret(self, session: Session, user: str, mechanism: str) -> str | None:
        return "secret" if user == "fred" else None


async def main() -> None:
    server = Server(Users(), extensions=standard(Auth(mechanisms=[Digest()])))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(server.serve, 0, "127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        localhost = connect("127.0.0.1", port, tls="never", allow_cleartext=True)
        async with localhost as client:
            print(await client.auth(("fred", "secret"), mechanisms=[Digest()]))
        await server.stop()


if __name__ == "__main__":
    trio.run(main)
