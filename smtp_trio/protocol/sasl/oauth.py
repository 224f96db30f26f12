"""Mechanisms that send an OAuth 2.0 bearer token: OAUTHBEARER (RFC 7628), and XOAUTH2, which is Google's and Microsoft's."""

from __future__ import annotations

import re

from ..errors import BadCommandError
from .credentials import (
    BEARER,
    FAILED,
    MALFORMED,
    BearerToken,
    ClientExchange,
    Credentials,
    Failed,
    MechanismContext,
    Random,
    ServerExchange,
    judged,
    name,
    refused,
    text,
)

#: RFC 7628 3.1: a GS2 header without channel binding, then pairs that end with ^A, then another ^A.
OAUTHBEARER = re.compile(rb"[ny],(?:a=((?:[^,=\x01]|=2C|=3D)*))?,\x01((?:[A-Za-z]+=[^\x01]*\x01)*)\x01")
XOAUTH2 = re.compile(rb"user=([^\x01]*)\x01((?:[A-Za-z]+=[^\x01]*\x01)*)\x01")
#: RFC 7628 3.2.2.
INVALID_TOKEN = b'{"status":"invalid_token","schemes":"bearer"}'


def oauthbearer_server(initial: bytes | None, at: MechanismContext) -> ServerExchange:
    """OAUTHBEARER, server. The user name stands in the GS2 header; here it has to be there (RFC 7628 3.1)."""
    user, pairs = parts(OAUTHBEARER, (yield b"") if initial is None else initial)
    return (yield from bearer("OAUTHBEARER", user.replace("=2C", ",").replace("=3D", "="), pairs))


def xoauth2_server(initial: bytes | None, at: MechanismContext) -> ServerExchange:
    """XOAUTH2, server."""
    user, pairs = parts(XOAUTH2, (yield b"") if initial is None else initial)
    return (yield from bearer("XOAUTH2", user, pairs))


def parts(form: re.Pattern[bytes], message: bytes) -> tuple[str, bytes]:
    """The user name, and the pairs. Raises `BadCommandError` when the message is not of this form."""
    match = form.fullmatch(message)
    if match is None:
        raise BadCommandError(MALFORMED)
    return name(match[1] or b""), match[2]


def bearer(mechanism: str, user: str, pairs: bytes) -> ServerExchange:
    """The end of both: have the token judged. Before it is refused the client is told why, in JSON (RFC 7628 3.2.2)."""
    values = dict(pair.split(b"=", 1) for pair in pairs.split(b"\x01")[:-1])
    scheme, _, token = text(values.get(b"auth", b"")).partition(" ")
    if scheme.lower() != "bearer" or not BEARER.fullmatch(token):  # RFC 7628 4.3: "auth=" asks what would be needed
        raise Failed(FAILED, INVALID_TOKEN)
    try:
        return (yield from judged(Credentials(mechanism, user, token)))
    except BadCommandError as bad:
        if bad.reply.permanent:
            raise Failed(bad.reply, INVALID_TOKEN) from None
        raise  # the token may be good: 4yz says nothing about it


def oauthbearer_client(credentials: BearerToken, token: Random) -> ClientExchange:
    """OAUTHBEARER, client. An error is answered with ^A (RFC 7628 3.2.3)."""
    user = credentials.user.replace("=", "=3D").replace(",", "=2C")
    yield from present(f"n,a={user},\x01auth=Bearer {credentials.token}\x01\x01", b"\x01")


def xoauth2_client(credentials: BearerToken, token: Random) -> ClientExchange:
    """XOAUTH2, client. An error is answered with nothing."""
    yield from present(f"user={credentials.user}\x01auth=Bearer {credentials.token}\x01\x01", b"")


def present(message: str, dummy: bytes) -> ClientExchange:
    """Everything in the first response. A challenge can only be an error (RFC 7628 3.2.2)."""
    if (yield message.encode()) is not None:
        yield from refused(dummy)
