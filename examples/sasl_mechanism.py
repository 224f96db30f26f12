"""A SASL mechanism of your own, for both sides.

    python examples/sasl_mechanism.py

X-DIGEST is CRAM-MD5 with SHA-256, and with a proof of the server's too. It is an example, not a good idea: SCRAM does more.
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
    MechanismContext,
    SecretRequest,
    ServerExchange,
    decode_user,
    expect_challenge,
    expect_success,
)


class Digest(Mechanism):
    name = "X-DIGEST"
    hook = "secret"
    cleartext = False

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        user = decode_user((yield b"") if initial is None else initial)
        secret = yield SecretRequest(user)
        password = secret if isinstance(secret, str) else context.placeholder("password", user).hex()
        challenge = context.random_bytes(16)
        if not hmac.compare_digest((yield challenge), digest(password, b"client" + challenge)):
            raise BadCommandError(INVALID_CREDENTIALS)
        yield digest(password, b"server" + challenge)
        return Authenticated(user)

    def client(self, credentials: PasswordCredentials, context: MechanismContext) -> ClientExchange:
        challenge = expect_challenge((yield credentials.user.encode()))
        proof = expect_challenge((yield digest(credentials.password, b"client" + challenge)))
        if not hmac.compare_digest(proof, digest(credentials.password, b"server" + challenge)):
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
        async with connect("127.0.0.1", port, tls="never", allow_cleartext=True, auth_mechanisms=[Digest()]) as client:
            print(await client.auth(("fred", "secret")))
        await server.stop()


if __name__ == "__main__":
    trio.run(main)
