"""PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login, never a standard): the password itself is sent.

Both are safe only under TLS, so both are marked ``cleartext``. LOGIN is here because some clients know nothing else; it
sends the user name and the password in two responses and has no authorization identity.
"""

from __future__ import annotations

from ..errors import BadCommandError
from .credentials import Credentials, PasswordCredentials
from .mechanism import (
    MALFORMED_CREDENTIALS,
    ClientExchange,
    Mechanism,
    MechanismContext,
    ServerExchange,
    check_credentials,
    decode_text,
    decode_user,
    expect_challenge,
    expect_success,
)

# Both mechanisms reduce to the same question, a user name and a password for the application to check, and share its
# answer in `check_credentials`. What differs is the framing: PLAIN sends three fields in one message, separated by NUL,
# so no field can contain NUL. LOGIN sends two messages and has no separator, but the same limits are applied, so that a
# password is valid with both or with neither. Neither normalizes name or password (RFC 4616 2 leaves SASLprep to the
# server's comparison): the hook gets what the client sent. The length of the password is limited by the line only, since
# some applications take a token in its place; the work on it is the hook's.


class Plain(Mechanism):
    """PLAIN (RFC 4616)."""

    name = "PLAIN"
    supports_authzid = True
    reads_challenges = False

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run PLAIN as a server: ``[authzid] NUL authcid NUL password`` in UTF-8 (RFC 4616 2)."""
        message = (yield b"") if initial is None else initial
        fields = message.split(b"\0")
        if len(fields) != 3:
            raise BadCommandError(MALFORMED_CREDENTIALS)
        authzid, user, password = fields
        credentials = Credentials("PLAIN", decode_user(user), decode_text(password), decode_user(authzid))
        return (yield from check_credentials(credentials))

    def client(self, credentials: PasswordCredentials, context: MechanismContext) -> ClientExchange:
        """Run PLAIN as a client: everything is in the initial response."""
        expect_success((yield f"{credentials.authzid}\0{credentials.user}\0{credentials.password}".encode()))


class Login(Mechanism):
    """LOGIN (draft-murchison-sasl-login)."""

    name = "LOGIN"
    reads_challenges = False

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run LOGIN as a server: ask for the user name, then for the password."""
        # The draft has no initial response. Clients that send one put the user name there, and servers accept it.
        user = decode_user((yield b"Username:") if initial is None else initial)
        return (yield from check_credentials(Credentials("LOGIN", user, decode_text((yield b"Password:")))))

    def client(self, credentials: PasswordCredentials, context: MechanismContext) -> ClientExchange:
        """Run LOGIN as a client: answer two challenges, whose text differs between servers and is not read."""
        expect_challenge((yield None))
        expect_challenge((yield credentials.user.encode()))
        expect_success((yield credentials.password.encode()))


PLAIN = Plain()
LOGIN = Login()
