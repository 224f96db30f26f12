"""OAUTHBEARER (RFC 7628) and its predecessor XOAUTH2: the client sends an OAuth 2.0 bearer token.

The token is sent as it is, so both are marked ``cleartext``. The two differ in the form of the message and in the
client's response to an error.
"""

from __future__ import annotations

import re
from typing import ClassVar

from ..errors import BadCommandError
from .credentials import BEARER_TOKEN, BearerToken, ClientCredentials, Credentials
from .mechanism import (
    INVALID_CREDENTIALS,
    MALFORMED_CREDENTIALS,
    AuthenticationFailedError,
    ClientExchange,
    Mechanism,
    MechanismContext,
    ServerExchange,
    acknowledge_failure,
    check_credentials,
    decode_text,
    decode_user,
)

# The client's only message, with ^A for the octet 1:
#
#     OAUTHBEARER   n,a=USER,^Ahost=HOST^Aport=PORT^Aauth=Bearer TOKEN^A^A      host and port may be absent
#     XOAUTH2       user=USER^Aauth=Bearer TOKEN^A^A
#
# The application checks the token with the authorization server, or by its signature. If it is refused the server may
# not reply at once: it first sends the reason as a challenge, the client answers that with a message that has no
# content, and then comes the 535 (RFC 7628 3.2.3). `AuthenticationFailedError` does this on the server,
# `acknowledge_failure` on the client. The JSON object is a constant. It names the one scheme that is supported, and
# does not tell why a token is invalid, which could help a client that tries tokens.

#: RFC 7628 3.1: a GS2 header without channel binding, key=value pairs that each end with ^A, and a final ^A.
OAUTHBEARER_MESSAGE = re.compile(rb"[ny],(?:a=((?:[^,=\x01]|=2C|=3D)*))?,\x01((?:[A-Za-z]+=[^\x01]*\x01)*)\x01")
#: The same with the user name in front.
XOAUTH2_MESSAGE = re.compile(rb"user=([^\x01]*)\x01((?:[A-Za-z]+=[^\x01]*\x01)*)\x01")
#: RFC 7628 3.2.2.
INVALID_TOKEN = b'{"status":"invalid_token","schemes":"bearer"}'


class OAuthBearer(Mechanism):
    """OAUTHBEARER (RFC 7628)."""

    name = "OAUTHBEARER"
    credentials: ClassVar[type[ClientCredentials]] = BearerToken
    reads_challenges = False

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run OAUTHBEARER as a server. The user name in the GS2 header is optional in RFC 7628 3.1 and required here."""
        user, pairs = parse_message(OAUTHBEARER_MESSAGE, (yield b"") if initial is None else initial)
        user = user.replace(b"=2C", b",").replace(b"=3D", b"=")
        return (yield from check_token("OAUTHBEARER", decode_user(user), pairs))

    def client(self, credentials: BearerToken, context: MechanismContext) -> ClientExchange:
        """Run OAUTHBEARER as a client. An error message is answered with ^A (RFC 7628 3.2.3)."""
        user = credentials.user.replace("=", "=3D").replace(",", "=2C")
        # A challenge can only be an error message (RFC 7628 3.2.2).
        if (yield f"n,a={user},\x01auth=Bearer {credentials.token}\x01\x01".encode()) is not None:
            yield from acknowledge_failure(b"\x01")


class XOAuth2(Mechanism):
    """XOAUTH2, the predecessor of OAUTHBEARER."""

    name = "XOAUTH2"
    credentials: ClassVar[type[ClientCredentials]] = BearerToken
    reads_challenges = False

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run XOAUTH2 as a server."""
        user, pairs = parse_message(XOAUTH2_MESSAGE, (yield b"") if initial is None else initial)
        return (yield from check_token("XOAUTH2", decode_user(user), pairs))

    def client(self, credentials: BearerToken, context: MechanismContext) -> ClientExchange:
        """Run XOAUTH2 as a client. An error message is answered with an empty response."""
        if (yield f"user={credentials.user}\x01auth=Bearer {credentials.token}\x01\x01".encode()) is not None:
            yield from acknowledge_failure(b"")


def parse_message(syntax: re.Pattern[bytes], message: bytes) -> tuple[bytes, bytes]:
    """Return the user name and the pairs of a message. Raises `BadCommandError` (501) if it is malformed."""
    match = syntax.fullmatch(message)
    if match is None:
        raise BadCommandError(MALFORMED_CREDENTIALS)
    return match[1] or b"", match[2]


def check_token(mechanism: str, user: str, pairs: bytes) -> ServerExchange:
    """Have the application check the token. A refusal follows a JSON error message (RFC 7628 3.2.2)."""
    values = dict(pair.split(b"=", 1) for pair in pairs.split(b"\x01")[:-1])
    scheme, _, token = decode_text(values.get(b"auth", b"")).partition(" ")
    # RFC 7628 4.3: a client may send an empty "auth=" on purpose, to get the error message, which names the schemes.
    if scheme.lower() != "bearer" or not BEARER_TOKEN.fullmatch(token):
        raise AuthenticationFailedError(INVALID_CREDENTIALS, INVALID_TOKEN)
    try:
        return (yield from check_credentials(Credentials(mechanism, user, token)))
    except BadCommandError as error:
        if error.reply.permanent:
            raise AuthenticationFailedError(error.reply, INVALID_TOKEN) from None
        raise  # 4yz: the token was not checked, so INVALID_TOKEN would be wrong


OAUTHBEARER = OAuthBearer()
XOAUTH2 = XOAuth2()
